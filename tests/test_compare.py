"""Two evaluations compared: the lines printed, and tables that cannot be compared."""

import pytest

from tools import compare

HEADER = "audio_path,speaker,reference,word_errors,words,char_errors,chars\n"


def table(path, errors, prefix="", reference="A B C D"):
    """A table of ten speakers with one utterance each, of 4 words."""
    rows = [f"{prefix}{i}.wav,s{i},{reference},{e},4,{e},4\n" for i, e in enumerate(errors)]
    path.write_text(HEADER + "".join(rows))
    return str(path)


def test_lines(tmp_path, capsys):
    first = table(tmp_path / "a.csv", [2] * 10)
    second = table(tmp_path / "b.csv", [1] * 9 + [3])
    assert compare.main([first, second]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "10 utterances, 40 words, 10 speakers"
    assert lines[2].split()[:4] == ["WER", "50.00", "30.00", "-20.00"]
    assert lines[2].endswith("fewer errors, not by chance")
    assert lines[4].endswith("9 utterances of the second, more in 1, as many in 0")


@pytest.mark.parametrize(("second", "verdict"), [
    ([2, 1] * 5, "more errors, not by chance"), ([0, 2] * 5, "which may be chance"),
    ([1] * 10, "p = 1.0000, which may be chance")])
def test_verdicts(tmp_path, capsys, second, verdict):
    tables = table(tmp_path / "a.csv", [1] * 10), table(tmp_path / "b.csv", second)
    assert compare.main(list(tables)) == 0
    assert capsys.readouterr().out.splitlines()[2].endswith(verdict)


def test_rows_in_another_order(tmp_path, capsys):
    first = table(tmp_path / "a.csv", [0, 1, 2])
    (tmp_path / "b.csv").write_text(HEADER + "".join(
        f"{i}.wav,s{i},A B C D,{i},4,0,4\n" for i in (2, 0, 1)))
    assert compare.main([first, str(tmp_path / "b.csv")]) == 0
    assert "as many in 3" in capsys.readouterr().out


@pytest.mark.parametrize(("change", "words"), [
    ({"prefix": "x"}, "6 recordings are in one table only"),
    ({"reference": "A B C E"}, "0.wav has another reference")])
def test_other_recordings_are_refused(tmp_path, capsys, change, words):
    tables = table(tmp_path / "a.csv", [1] * 3), table(tmp_path / "b.csv", [1] * 3, **change)
    assert compare.main(list(tables)) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(("content", "words"), [
    ("a,b\n1,2\n", "no column 'audio_path'"), (HEADER + "a,b,c,x,1,1,1\n", "no whole number"),
    (HEADER + "a,b,c,1,1,1,1\n" * 2, "a is in it twice"), (None, "cannot read the table")])
def test_bad_tables(tmp_path, capsys, content, words):
    path = tmp_path / "b.csv"
    if content is not None:
        path.write_text(content)
    assert compare.main([table(tmp_path / "a.csv", [1] * 3), str(path)]) == 2
    error = capsys.readouterr().err
    assert str(path) in error and words in error
