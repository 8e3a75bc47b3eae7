"""Error counts against counts made by hand, a plain table of edit distances, and jiwer."""

import jiwer
import numpy as np
import pytest

from deepspeech2.metrics import ErrorCounts, align, count_errors


def edit_distance(a, b):
    """Plain dynamic programming over one row at a time."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        above, row = row, [i]
        for j, y in enumerate(b, 1):
            row.append(min(above[j - 1] + (x != y), above[j] + 1, row[-1] + 1))
    return row[-1]


@pytest.mark.parametrize(("reference", "hypothesis", "words", "chars", "wer", "cer"), [
    ("ONE TWO", "ONE TWO", (2, 0, 0, 0), (6, 0, 0, 0), 0.0, 0.0),
    ("ONE TWO", "ONE TO", (2, 1, 0, 0), (6, 0, 1, 0), 50.0, 100 / 6),
    ("ONE TWO", "ONETWO", (2, 1, 1, 0), (6, 0, 0, 0), 100.0, 0.0),
    ("ONE  TWO ", " ONE\tTWO", (2, 0, 0, 0), (6, 0, 0, 0), 0.0, 0.0),
    ("ONE TWO", "", (2, 0, 2, 0), (6, 0, 6, 0), 100.0, 100.0),
    ("A", "A B C D", (1, 0, 0, 3), (1, 0, 0, 3), 300.0, 300.0),  # insertions go above 100
    ("", "", (0, 0, 0, 0), (0, 0, 0, 0), 0.0, 0.0),
    (" ", "", (0, 0, 0, 0), (0, 0, 0, 0), 0.0, 0.0),
    ("", "A CAT", (0, 0, 0, 2), (0, 0, 0, 4), 100.0, 100.0),  # an empty reference: all or nothing
])
def test_counts_by_hand(reference, hypothesis, words, chars, wer, cer):
    result = count_errors(reference, hypothesis)
    assert result == ErrorCounts(*words, *chars)
    assert result.wer_percent == pytest.approx(wer)
    assert result.cer_percent == pytest.approx(cer)


def random_texts(rng: np.random.Generator) -> list[str]:
    return ["".join(rng.choice(list("AB  "), rng.integers(0, 25))) for _ in range(2)]


def test_counts_equal_jiwer():
    rng, compared = np.random.default_rng(1), 0
    for _ in range(200):
        reference, hypothesis = random_texts(rng)
        if not reference.split():  # jiwer refuses empty references
            continue
        compared += 1
        found = count_errors(reference, hypothesis)
        for result, unit in ((jiwer.process_words(reference, hypothesis), "word"),
                             (jiwer.process_characters(*("".join(text.split()) for text in (
                                 reference, hypothesis))), "char")):
            edits = ("substitutions", "deletions", "insertions")
            assert sum(getattr(found, f"{unit}_{edit}") for edit in edits) == sum(
                getattr(result, edit) for edit in edits)
        assert found.wer_percent == pytest.approx(100 * jiwer.wer(reference, hypothesis))
    assert compared > 150


def test_counts_equal_dynamic_programming():
    rng = np.random.default_rng(0)
    for _ in range(50):
        reference, hypothesis = random_texts(rng)
        words, chars = reference.split(), reference.replace(" ", "")
        result = count_errors(reference, hypothesis)
        assert result.word_errors == edit_distance(words, hypothesis.split())
        assert result.char_errors == edit_distance(chars, hypothesis.replace(" ", ""))
        assert (result.words, result.chars) == (len(words), len(chars))


def test_sum_is_the_micro_average():
    pairs = [("ONE", "TWO"), ("A B C D E F G", "A B C D E F G"), ("", "X X")]
    total = sum((count_errors(*pair) for pair in pairs), ErrorCounts())
    assert (total.word_errors, total.words, total.char_errors, total.chars) == (3, 8, 5, 10)
    assert (total.word_substitutions, total.word_insertions) == (1, 2)
    assert total.wer_percent == 37.5  # not (100 + 0 + 100) / 3
    assert total.cer_percent == 50.0


@pytest.mark.parametrize(("reference", "hypothesis", "pairs"), [
    ("A B C", "A D C", ["AA", "BD", "CC"]), ("A B C", "A C", ["AA", "B-", "CC"]),
    ("A C", "A B C", ["AA", "-B", "CC"]), ("A", "A", ["AA"]), ("", "A", ["-A"]), ("", "", []),
])
def test_alignments_by_hand(reference, hypothesis, pairs):
    found = align(reference.split(), hypothesis.split())
    assert ["".join(x or "-" for x in pair) for pair in found] == pairs


def test_an_alignment_holds_both_texts():
    rng = np.random.default_rng(2)
    for _ in range(50):
        texts = [text.split() for text in random_texts(rng)]
        pairs = align(*texts)
        for side in (0, 1):
            assert [pair[side] for pair in pairs if pair[side] is not None] == texts[side]
