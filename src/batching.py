"""Which utterances make up which batch.

Pure functions of lengths, seed and epoch, the same after any resume.
"""

import numpy as np

LENGTH_JITTER = 0.1  # share by which a length is misjudged, so that batches differ between epochs


def epoch_batches(
    lengths: np.ndarray, batch_size: int, epoch: int, seed: int, ranks: int = 1
) -> list[np.ndarray]:
    """Global batches of one training epoch, utterances of similar length together.

    The first epoch (0) goes from short to long, which steadies the start (Amodei et al. 2015,
    section 3.2: SortaGrad). In later epochs lengths are jittered before sorting and the batches
    shuffled, both by (seed, epoch): batches hold other company each time.

    Args:
        lengths: (rows,) length of each utterance in any unit.
        batch_size: utterances per rank and batch.
        epoch: number of the epoch, from 0.
        ranks: processes that share a global batch of `ranks * batch_size`.

    Returns:
        Arrays of row numbers; every row occurs once.

    Raises:
        ValueError: with fewer utterances than ranks.
    """
    if len(lengths) < ranks:
        raise ValueError(f"{len(lengths)} utterances cannot be shared by {ranks} processes")
    if epoch == 0:
        return split_batches(np.argsort(lengths, kind="stable"), batch_size, ranks)
    rng = np.random.default_rng((seed, epoch))
    jittered = lengths * rng.uniform(1 - LENGTH_JITTER, 1 + LENGTH_JITTER, len(lengths))
    batches = split_batches(np.argsort(jittered, kind="stable"), batch_size, ranks)
    return [batches[i] for i in rng.permutation(len(batches))]


def split_batches(rows: np.ndarray, batch_size: int, ranks: int = 1) -> list[np.ndarray]:
    """Consecutive global batches.

    A remainder smaller than the number of ranks joins the batch before it.
    """
    size = batch_size * ranks
    starts = list(range(0, len(rows), size))
    if len(starts) > 1 and len(rows) - starts[-1] < ranks:
        starts.pop()
    return np.split(rows, starts[1:]) if starts else []


def rank_share(batch: np.ndarray, rank: int, ranks: int) -> np.ndarray:
    """One rank's part of a global batch.

    Shares differ by one utterance at most and have similar lengths.
    """
    return batch[rank::ranks]
