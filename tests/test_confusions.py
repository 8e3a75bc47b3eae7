"""Errors counted by kind, on texts whose alignment is plain to see."""

import pytest

from deepspeech2.metrics import count_errors
from tools import confusions


@pytest.mark.parametrize(("pairs", "unit", "expected"), [
    ([("A B C", "A B C")], "word", {}),
    ([("A B C", "A D C"), ("B", "D")], "word", {("B", "D"): 2}),
    ([("A B C", "A C")], "word", {("B", "-"): 1}),
    ([("A C", "A B C"), ("", "B")], "word", {("-", "B"): 2}),
    ([("CAT", "CUT"), ("A B", "AB")], "character", {("A", "U"): 1}),
])
def test_kinds_of_errors(pairs, unit, expected):
    assert confusions.count(pairs, unit) == expected


def test_the_total_is_the_number_of_errors():
    pairs = [("ENTER SIX FIVE", "ENTER FIVE NINE"), ("RUBOUT G", "ROB OUT T"), ("YES", "")]
    assert confusions.count(pairs).total() == sum(count_errors(*pair).word_errors for pair in pairs)
    assert confusions.count(pairs, "character").total() == sum(
        count_errors(*pair).char_errors for pair in pairs)


def test_a_list(tmp_path, capsys):
    table = tmp_path / "eval.csv"
    table.write_text("audio_path,reference,hypothesis\na.wav,P N,B N\nb.wav,NO P,NO B\nc.wav,NA,\n")
    assert confusions.main([str(table), "--top", "1"]) == 0
    assert capsys.readouterr().out == (
        "3 errors of 2 kinds; times, reference, hypothesis:\n    2  P  B\n")


@pytest.mark.parametrize(("content", "words"),
                         [(None, "cannot read"), ("a,b\n1,2\n", "no column 'reference'")])
def test_another_file(tmp_path, capsys, content, words):
    path = tmp_path / "eval.csv"
    if content:
        path.write_text(content)
    assert confusions.main([str(path)]) == 2
    error = capsys.readouterr().err
    assert str(path) in error and words in error
