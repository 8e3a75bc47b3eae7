"""Error counts against counts made by hand and a plain table of edit distances."""

import jiwer
import numpy as np
import pytest

from deepspeech2.metrics import ErrorCounts, count_errors, edit_operations


def edit_distance(a, b):
    """Plain dynamic programming over one row at a time."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        above, row = row, [i]
        for j, y in enumerate(b, 1):
            row.append(min(above[j - 1] + (x != y), above[j] + 1, row[-1] + 1))
    return row[-1]


@pytest.mark.parametrize(("reference", "hypothesis", "counts", "wer", "cer"), [
    ("ONE TWO", "ONE TWO", (0, 2, 0, 6), 0.0, 0.0),
    ("ONE TWO", "ONE TO", (1, 2, 1, 6), 50.0, 100 / 6),
    ("ONE TWO", "ONETWO", (2, 2, 0, 6), 100.0, 0.0),
    ("ONE  TWO ", " ONE\tTWO", (0, 2, 0, 6), 0.0, 0.0), ("ONE TWO", "", (2, 2, 6, 6), 100.0, 100.0),
    ("A", "A B C D", (3, 1, 3, 1), 300.0, 300.0),  # insertions go above 100
    ("", "", (0, 0, 0, 0), 0.0, 0.0), (" ", "", (0, 0, 0, 0), 0.0, 0.0),
    ("", "A CAT", (2, 0, 4, 0), 100.0, 100.0),  # an empty reference: all or nothing
])
def test_counts_by_hand(reference, hypothesis, counts, wer, cer):
    result = count_errors(reference, hypothesis)
    assert result == ErrorCounts(*counts)
    assert result.wer_percent == pytest.approx(wer)
    assert result.cer_percent == pytest.approx(cer)


def test_counts_equal_dynamic_programming():
    rng = np.random.default_rng(0)
    for _ in range(50):
        reference, hypothesis = ("".join(rng.choice(list("AB  "), rng.integers(0, 25)))
                                 for _ in range(2))
        words, chars = reference.split(), reference.replace(" ", "")
        result = count_errors(reference, hypothesis)
        assert result.word_errors == edit_distance(words, hypothesis.split())
        assert result.char_errors == edit_distance(chars, hypothesis.replace(" ", ""))
        assert (result.words, result.chars) == (len(words), len(chars))


def test_counts_equal_jiwers():
    rng = np.random.default_rng(1)
    texts = [" ".join(rng.choice(list("ABC"), rng.integers(1, 9))) for _ in range(60)]
    references, hypotheses = texts[:30], texts[30:]
    result = sum(map(count_errors, references, hypotheses), ErrorCounts())
    assert result.wer_percent == pytest.approx(100 * jiwer.wer(references, hypotheses))


def test_sum_is_the_micro_average():
    pairs = [("ONE", "TWO"), ("A B C D E F G", "A B C D E F G"), ("", "X X")]
    total = sum((count_errors(*pair) for pair in pairs), ErrorCounts())
    assert total == ErrorCounts(word_errors=3, words=8, char_errors=5, chars=10)
    assert total.wer_percent == 37.5  # not (100 + 0 + 100) / 3
    assert total.cer_percent == 50.0


@pytest.mark.parametrize(("reference", "hypothesis", "edits"), [
    ("A B C", "A D C", [("replace", 1, 1)]), ("A B C", "A C", [("delete", 1, 1)]),
    ("A C", "A B C", [("insert", 1, 1)]), ("A", "A", []),
])
def test_edits_by_hand(reference, hypothesis, edits):
    assert edit_operations(reference.split(), hypothesis.split()) == edits
