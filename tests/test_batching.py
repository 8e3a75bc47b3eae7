"""Every row once, similar lengths together, the same for the same (seed, epoch)."""

import numpy as np
import pytest

from src.batching import BatchPlan, epoch_batches, rank_share, split_batches

EIGHT = BatchPlan(8)


def speech_lengths(rows: int = 2000, seed: int = 0) -> np.ndarray:
    """Frames of utterances of 1 to 16 s, most of them long, as in LibriSpeech."""
    seconds = np.random.default_rng(seed).triangular(1, 14, 16, rows)
    return np.round(seconds * 100).astype(np.int64)


def padding_share(batches: list[np.ndarray], lengths: np.ndarray) -> float:
    """Share of the padded frames that is padding."""
    padded = sum(len(batch) * lengths[batch].max() for batch in batches)
    return 1 - lengths.sum() / padded


def as_lists(batches: list[np.ndarray]) -> list[list[int]]:
    return [batch.tolist() for batch in batches]


# one epoch

@pytest.mark.parametrize("epoch", [0, 1, 2, 69])
@pytest.mark.parametrize("rows", [1, 7, 8, 9, 100])
def test_every_row_once(rows, epoch):
    batches = epoch_batches(speech_lengths(rows), EIGHT, epoch, seed=0)
    assert sorted(np.concatenate(batches)) == list(range(rows))


@pytest.mark.parametrize("epoch", [0, 1])
def test_batches_are_full_but_one(epoch):
    sizes = sorted(len(batch) for batch in epoch_batches(speech_lengths(100), EIGHT, epoch, seed=0))
    assert sizes == [4] + [8] * 12


def test_the_first_epoch_goes_from_short_to_long():
    batches = epoch_batches(np.array([50, 10, 40, 20, 30]), BatchPlan(2), epoch=0, seed=0)
    assert as_lists(batches) == [[1, 3], [4, 2], [0]]


def test_equal_lengths_keep_their_order_in_the_first_epoch():
    lengths = np.full(100, 5)
    lengths[50] = 3
    rows = np.concatenate(epoch_batches(lengths, EIGHT, epoch=0, seed=0)).tolist()
    assert rows == [50, *range(50), *range(51, 100)]


def test_the_first_epoch_does_not_depend_on_the_seed():
    lengths = speech_lengths(50)
    assert as_lists(epoch_batches(lengths, EIGHT, 0, seed=0)) == as_lists(
        epoch_batches(lengths, EIGHT, 0, seed=1))


def test_later_epochs_do_not_go_from_short_to_long():
    lengths = speech_lengths()
    longest = np.array([lengths[batch].max()
                        for batch in epoch_batches(lengths, EIGHT, epoch=1, seed=0)])
    assert abs(np.corrcoef(longest, np.arange(len(longest)))[0, 1]) < 0.2


# padding

def test_the_first_epoch_wastes_next_to_nothing():
    lengths = speech_lengths()
    assert padding_share(epoch_batches(lengths, EIGHT, 0, seed=0), lengths) < 0.01


@pytest.mark.parametrize(("batch_size", "ranks"), [(8, 1), (20, 1), (8, 2)])
@pytest.mark.parametrize("epoch", [1, 5])
def test_later_epochs_waste_little(epoch, batch_size, ranks):
    lengths = speech_lengths()
    plan = BatchPlan(batch_size, ranks=ranks)
    wasted = padding_share(epoch_batches(lengths, plan, epoch, seed=0), lengths)
    assert wasted < 0.15
    rng = np.random.default_rng(0)
    at_random = padding_share(np.array_split(rng.permutation(len(lengths)),
                                             len(lengths) // batch_size), lengths)
    assert at_random > 0.25  # so the bound says something


# a budget of seconds

@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("epoch", [0, 1])
def test_no_process_gets_more_seconds_than_its_budget(epoch, ranks):
    seconds = speech_lengths() / 100
    seconds[7] = 200.0  # longer than the budget: alone in its process
    plan = BatchPlan(32, batch_seconds=100.0, ranks=ranks)
    batches = epoch_batches(seconds, plan, epoch, seed=0)
    assert sorted(np.concatenate(batches)) == list(range(len(seconds)))
    for batch in batches:
        for rank in range(ranks):
            share = rank_share(batch, rank, ranks)
            assert 1 <= len(share) <= 32
            assert len(share) * seconds[share].max() <= 100 or len(share) == 1
    sizes = [len(batch) for batch in batches]
    assert max(sizes) > 20 * ranks  # short utterances
    padded = sum(len(batch) * seconds[batch].max() for batch in batches)
    assert padded > 0.75 * 100 * ranks * len(batches)  # the budget is used


# the same after a resume, other company in every epoch

@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_same_seed_and_epoch_same_batches(epoch):
    lengths = speech_lengths(100)
    before = as_lists(epoch_batches(lengths, EIGHT, epoch, seed=3))
    np.random.random(5)  # whoever else draws numbers does not matter
    assert as_lists(epoch_batches(lengths.copy(), EIGHT, epoch, seed=3)) == before


@pytest.mark.parametrize(("one", "other"), [
    ({"epoch": 1, "seed": 0}, {"epoch": 2, "seed": 0}),
    ({"epoch": 1, "seed": 0}, {"epoch": 1, "seed": 1}),
    ({"epoch": 1, "seed": 2}, {"epoch": 2, "seed": 1}),
])
def test_company_differs_between_epochs_and_seeds(one, other):
    lengths = speech_lengths()
    first, second = ({frozenset(batch.tolist()) for batch in epoch_batches(lengths, EIGHT, **which)}
                     for which in (one, other))
    assert len(first & second) < len(first) / 100


def test_the_global_random_state_is_left_alone():
    np.random.seed(0)
    expected = np.random.random()
    np.random.seed(0)
    epoch_batches(speech_lengths(50), EIGHT, 1, seed=5)
    assert np.random.random() == expected


# ranks

@pytest.mark.parametrize(("rows", "batch_size", "ranks", "sizes"), [
    (10, 4, 1, [4, 4, 2]),
    (9, 4, 1, [4, 4, 1]),
    (16, 4, 2, [8, 8]),
    (17, 4, 2, [8, 7, 2]),  # one utterance cannot be shared by two
    (18, 4, 2, [8, 8, 2]),
    (11, 2, 4, [7, 4]),  # 8 and 3 that cannot be shared by four
    (5, 1, 4, [5]),  # 4 and 1: none to spare
    (12, 2, 4, [8, 4]),
    (3, 4, 2, [3]),
    (0, 4, 1, []),
])
def test_no_batch_has_fewer_rows_than_ranks(rows, batch_size, ranks, sizes):
    batches = split_batches(np.arange(rows), BatchPlan(batch_size, ranks=ranks), np.ones(rows))
    assert [len(batch) for batch in batches] == sizes
    assert [row for batch in batches for row in batch] == list(range(rows))


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("epoch", [0, 1])
def test_shares_are_disjoint_cover_the_batch_and_differ_by_one_at_most(ranks, epoch):
    lengths = speech_lengths(101)
    for batch in epoch_batches(lengths, BatchPlan(4, ranks=ranks), epoch, seed=0):
        shares = [rank_share(batch, rank, ranks) for rank in range(ranks)]
        assert sorted(np.concatenate(shares)) == sorted(batch)
        sizes = [len(share) for share in shares]
        assert min(sizes) >= 1 and max(sizes) - min(sizes) <= 1


def test_ranks_see_the_global_batches_of_one_process():
    lengths = speech_lengths(96)
    one, two = (epoch_batches(lengths, BatchPlan(size, ranks=ranks), 3, seed=0)
                for size, ranks in ((8, 1), (4, 2)))
    assert as_lists(one) == as_lists(two)


@pytest.mark.parametrize("epoch", [0, 1])
def test_fewer_rows_than_ranks(epoch):
    with pytest.raises(ValueError, match="3 utterances cannot be shared by 4 processes"):
        epoch_batches(speech_lengths(3), BatchPlan(8, ranks=4), epoch, seed=0)
