"""Divide utterances into batches: pure functions of lengths, seed and epoch."""

import numpy as np

LENGTH_JITTER = 0.1  # largest relative error put on lengths, so that batches vary between epochs


def epoch_batches(
    lengths: np.ndarray, batch_size: int, epoch: int, seed: int, ranks: int = 1
) -> list[np.ndarray]:
    """Global batches of one training epoch, with utterances of similar length in each batch.

    Epoch 0 goes from short to long, which stabilises the start. In later epochs the lengths are
    jittered before sorting, and the batches are shuffled: each epoch groups the utterances in
    another way. Source: Amodei et al. 2015, section 3.2 (SortaGrad).

    Args:
        lengths: (rows,) length of each utterance in any unit.
        batch_size: utterances per rank and batch.
        epoch: number of the epoch, from 0.
        seed: seed of the run; with the epoch it determines jitter and shuffling.
        ranks: number of processes; a global batch has `ranks * batch_size` utterances.

    Returns:
        Arrays of row numbers; every row occurs once.

    Raises:
        ValueError: when there are fewer utterances than ranks.
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
    """Divide (rows,) row numbers into consecutive global batches of `ranks * batch_size`.

    A last batch with fewer rows than ranks joins the batch before it.
    """
    size = batch_size * ranks
    starts = list(range(0, len(rows), size))
    if len(starts) > 1 and len(rows) - starts[-1] < ranks:
        starts.pop()
    return np.split(rows, starts[1:]) if starts else []


def rank_share(batch: np.ndarray, rank: int, ranks: int) -> np.ndarray:
    """The rows of a global batch that one rank gets.

    The shares of the ranks differ by at most one utterance, and have similar lengths.
    """
    return batch[rank::ranks]
