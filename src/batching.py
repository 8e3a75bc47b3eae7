"""Divide utterances into batches: pure functions of lengths, seed and epoch."""

from dataclasses import dataclass

import numpy as np

LENGTH_JITTER = 0.1  # largest relative error put on lengths, so that batches vary between epochs


@dataclass(frozen=True)
class BatchPlan:
    """How the utterances of an epoch are divided into global batches.

    Attributes:
        batch_size: the most utterances per rank and batch; one more where a short last batch joins
            the one before it.
        batch_seconds: the most seconds per rank and batch, padding included; 0 for no limit. An
            utterance that is longer is a rank's batch of its own.
        ranks: number of processes.
        max_seconds: the longest utterance; infinite for no limit.
    """

    batch_size: int
    batch_seconds: float = 0.0
    ranks: int = 1
    max_seconds: float = float("inf")


def epoch_batches(
    seconds: np.ndarray, plan: BatchPlan, epoch: int, seed: int
) -> list[np.ndarray]:
    """Global batches of one training epoch, with utterances of similar length in each batch.

    Epoch 0 goes from short to long, which stabilises the start. In later epochs the lengths are
    jittered before sorting, and the batches are shuffled: each epoch groups the utterances in
    another way. Source: Amodei et al. 2015, section 3.2 (SortaGrad).

    Args:
        seconds: (rows,) length of each utterance.
        plan: how to divide them; `max_seconds` is not looked at.
        epoch: number of the epoch, from 0.
        seed: seed of the run; with the epoch it determines jitter and shuffling.

    Returns:
        Arrays of row numbers; every row occurs once.

    Raises:
        ValueError: when there are fewer utterances than ranks.
    """
    if len(seconds) < plan.ranks:
        raise ValueError(f"{len(seconds)} utterances cannot be shared by {plan.ranks} processes")
    if epoch == 0:
        return split_batches(np.argsort(seconds, kind="stable"), plan, seconds)
    rng = np.random.default_rng((seed, epoch))
    jittered = seconds * rng.uniform(1 - LENGTH_JITTER, 1 + LENGTH_JITTER, len(seconds))
    batches = split_batches(np.argsort(jittered, kind="stable"), plan, seconds)
    return [batches[i] for i in rng.permutation(len(batches))]


def split_batches(rows: np.ndarray, plan: BatchPlan, seconds: np.ndarray) -> list[np.ndarray]:
    """Divide (rows,) row numbers into consecutive global batches.

    A last batch with fewer rows than ranks gets rows of the batch before it, or joins it where that
    has none to spare.

    Args:
        rows: numbers of rows.
        plan: how to divide them.
        seconds: (all rows,) length of each utterance.
    """
    starts, longest = [0], 0.0
    for i, row in enumerate(rows):
        size = i - starts[-1] + 1  # with this row
        padded = -(-size // plan.ranks) * max(longest, seconds[row])
        if size > plan.batch_size * plan.ranks or (
            size > plan.ranks and 0 < plan.batch_seconds < padded
        ):
            starts.append(i)
            longest = 0.0
        longest = max(longest, seconds[row])
    if len(starts) > 1 and len(rows) - starts[-1] < plan.ranks:
        starts[-1] = len(rows) - plan.ranks
        if starts[-1] - starts[-2] < plan.ranks:
            starts.pop()
    return np.split(rows, starts[1:]) if len(rows) else []


def rank_share(batch: np.ndarray, rank: int, ranks: int) -> np.ndarray:
    """The rows of a global batch that one rank gets.

    The shares of the ranks differ by at most one utterance, and have similar lengths.
    """
    return batch[rank::ranks]
