"""Curves of a run, from what training writes."""

import numpy as np
import pandas as pd
import pytest

from tools import plot_log

TABLE = pd.DataFrame({"epoch": [1, 2, 3], "step": [3, 6, 9], "learning_rate": [1e-3, 5e-4, 2e-4],
                      "train_loss": [90.0, 40.0, 20.0], "gradient_norm": [9.0, 8.0, 7.0],
                      "val_wer": [100.0, None, 50.0], "val_cer": [80.0, None, 30.0],
                      "minutes": [0.5, 0.25, 0.25]})


@pytest.fixture
def metrics(tmp_path):
    path = tmp_path / "run" / "metrics.csv"
    path.parent.mkdir()
    TABLE.to_csv(path, index=False)
    return path


@pytest.mark.parametrize("by", ["epoch", "minutes"])
def test_a_picture(metrics, tmp_path, capsys, by):
    output = tmp_path / "new" / "curves.png"
    assert plot_log.main([str(metrics), "--output", str(output), "--by", by]) == 0
    assert output.read_bytes().startswith(b"\x89PNG")
    assert str(output) in capsys.readouterr().out


@pytest.mark.parametrize("name", ["curves", "curves.foo", "curves.svg"])
def test_another_kind_of_picture(metrics, tmp_path, capsys, name):
    assert plot_log.main([str(metrics), "--output", str(tmp_path / name)]) == 2
    assert f"--output {tmp_path / name}: needed is a name in .png" in capsys.readouterr().err


def test_what_is_drawn(monkeypatch, tmp_path):
    import matplotlib.pyplot as plt
    kept = []
    monkeypatch.setattr(plt, "close", kept.append)
    monkeypatch.setattr("matplotlib.figure.Figure.savefig",
                        lambda figure, path, **_: path.write_bytes(b""))
    plot_log.draw({"a": TABLE.assign(minutes=TABLE["minutes"].cumsum())}, "minutes",
                  tmp_path / "a.png")
    losses, rates, errors = kept[0].axes
    np.testing.assert_allclose(losses.lines[0].get_xydata(), [(0.5, 90), (0.75, 40), (1.0, 20)])
    np.testing.assert_allclose(rates.lines[0].get_ydata(), TABLE["learning_rate"])
    assert [line.get_label() for line in errors.lines] == ["a, WER", "a, CER"]
    # the second epoch has none
    np.testing.assert_allclose(errors.lines[0].get_xydata(), [(0.5, 100), (1.0, 50)])


def test_runs_have_different_names(tmp_path):
    paths = [tmp_path / name / "metrics.csv" for name in ("a", "b")]
    assert plot_log.names(paths) == ["a", "b"]
    repeated = [tmp_path / name / "logs" / "metrics.csv" for name in ("a", "b")]
    assert plot_log.names(repeated) == [str(path) for path in repeated]


@pytest.mark.parametrize(("content", "words"), [
    (None, "cannot read the metrics"), ("", "not a table"),
    ("a,b\n1,2\n", "no column epoch, train_loss"),
    ("epoch,train_loss,learning_rate,val_wer,val_cer,minutes\n", "no epoch"),
    ("epoch,train_loss,learning_rate,val_wer,val_cer,minutes\n1,2,x,4,5,6\n",
     "column learning_rate holds"),
    ("epoch,train_loss,learning_rate,val_wer,val_cer,minutes\n1,2,8e999857708833e-180,4,5,6\n",
     "column learning_rate holds"),
])
def test_a_file_that_is_something_else(tmp_path, capsys, content, words):
    path = tmp_path / "metrics.csv"
    if content is not None:
        path.write_text(content)
    assert plot_log.main([str(path), "--output", str(tmp_path / "x.png")]) == 2
    error = capsys.readouterr().err
    assert str(path) in error and words in error and not (tmp_path / "x.png").exists()
