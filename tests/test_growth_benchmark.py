"""`benchmarks.growth` fits known curves, keeps other curves, and measures from start to end."""

import json
import os
from concurrent.futures.process import BrokenProcessPool
from functools import partial

import numpy as np
import pytest

from benchmarks import growth, growth_curves
from benchmarks.growth_curves import CURVES, Place
from benchmarks.workers import GROWTH, Worker, workers
from deepspeech2.errors import RunError
from src.manifest import read_manifest


def test_an_exact_line_gives_its_fixed_cost_and_its_rate():
    x = np.array([1, 10, 100, 1000, 1e7])
    found = growth.fit(x, 3 + 0.5 * x)
    assert (found.fixed, found.rate) == pytest.approx((3, 0.5))
    assert found.worst == pytest.approx(0, abs=1e-9)


def test_the_exponent_of_the_upper_half():
    """Below, where a fixed cost rules, it would be smaller."""
    x = np.array([1, 2, 4, 8, 16, 32, 64])
    assert growth.fit(x, 7.0 * x**2).exponent == pytest.approx(2)
    assert growth.fit(x, np.maximum(5.0 * x, 40)).exponent == pytest.approx(1)
    assert growth.fit([10, 1000], [5, 50]).exponent == pytest.approx(0.5)


def test_errors_of_the_line_are_relative():
    """By hand, for points at 1 and 2 with costs 1 and 3 and a third one at 1 with cost 1.5."""
    found = growth.fit([1, 1, 2], [1, 1.5, 3])
    # at 1 the value v minimises (v - 1)^2 + (v / 1.5 - 1)^2: v = (1 + 1 / 1.5) / (1 + 1 / 2.25)
    value = (1 + 1 / 1.5) / (1 + 1 / 2.25)
    assert found.fixed + found.rate == pytest.approx(value)
    assert found.fixed + 2 * found.rate == pytest.approx(3)
    assert found.worst == pytest.approx(1 - value / 1.5)


@pytest.mark.parametrize(("cost", "value", "text"), [
    ("cpu_s", 0.0021, "2.1 ms"), ("cpu_s", 7.2e-6, "7.2 µs"), ("cpu_s", 2.5, "2.5 s"),
    ("cpu_s", 0.0, "0 s"), ("cpu_s", -3e-12, "-0.003 ns"), ("peak_gib", 3 / 2**20, "3 KiB"),
    ("peak_gib", 1.5, "1.5 GiB"), ("peak_gib", 100 / 2**30, "100 bytes")])
def test_rates_have_a_unit_that_fits(cost, value, text):
    assert growth.small_amount(cost, value) == text


def test_one_core_and_one_thread_for_a_while(monkeypatch):
    cores = os.sched_getaffinity(0)
    for before in None, "7":
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        if before:
            monkeypatch.setenv("OMP_NUM_THREADS", before)
        with growth.one_core():
            assert len(os.sched_getaffinity(0)) == 1 and os.environ["OMP_NUM_THREADS"] == "1"
        assert os.sched_getaffinity(0) == cores and os.environ.get("OMP_NUM_THREADS") == before


def test_unknown_curves_and_other_files_are_refused(tmp_path, capsys):
    assert growth.main(["--only", "features,magic"]) == 2
    assert "--only magic: the curves are features, training_length" in capsys.readouterr().err
    for content in "no JSON", "[]", '{"train": []}':
        (tmp_path / "growth.json").write_text(content)
        assert growth.main(["--only", "features", "--output", str(tmp_path)]) == 2
        assert "choose another --output" in capsys.readouterr().err
        assert (tmp_path / "growth.json").read_text() == content


def test_the_lines_of_a_text_of_random_words(tmp_path):
    lines = Place(tmp_path, quick=True).lines(tmp_path / "none")
    found = [next(lines).split() for _ in range(100)]
    assert all(len(words) == 15 for words in found)
    assert 100 < len(set(sum(found, []))) < 1500


def test_the_manifest_lasts_as_long_as_its_index_says(tmp_path, labels):
    """No recording of it is read: there is none."""
    for name in "a.wav", "a.txt":
        (tmp_path / name).write_text("A")
    path, seconds = tmp_path / "lines.csv", np.array([1.0, 12.5, 3.0])
    path.write_text("a.wav,a.txt\n" * 3)
    with workers(GROWTH) as sides:
        sides[GROWTH].call("write_index", path=str(path), seconds=seconds)
    found = read_manifest(path, labels)
    assert found.seconds.tolist() == seconds.tolist()
    assert found.label_counts.tolist() == [12, 150, 36]


def test_curves_are_added_to_those_that_are_there(demo_corpus, tmp_path, monkeypatch, capsys):
    """Two curves after each other; the second run keeps the first one's figures."""
    def run(name: str) -> dict:
        assert growth.main(["--quick", "--only", name, "--output", str(tmp_path)]) == 0
        return json.loads((tmp_path / "growth.json").read_text())

    monkeypatch.setattr("benchmarks.growth_curves.Place.recordings", [
        *(demo_corpus / "demo_dataset" / "val").rglob("*.wav")])
    first, second = run("manifest"), run("features")
    assert list(first) == ["manifest"] and list(second) == ["features", "manifest"]
    assert second["manifest"] == first["manifest"]
    for name, sizes in ("features", [1, 2]), ("manifest", [10_000, 100_000]):
        rows, costs = second[name]["rows"], CURVES[name].costs
        assert [row["x"] for row in rows] == sizes
        assert all(row[cost] > 0 for row in rows for cost in costs)
        assert second[name]["fits"].keys() == costs.keys() and second[name]["quick"]
    assert second["manifest"]["rows"][1]["peak_gib"] > second["manifest"]["rows"][0]["peak_gib"]
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")
    page = capsys.readouterr().out
    assert "### Features of a recording (a quick trial)" in page and "| 100,000 |" in page
    assert str(tmp_path) not in page + json.dumps(second)


def test_a_step_and_predictions_of_a_tiny_network(tmp_path):
    place = Place(tmp_path, quick=True)
    with growth.one_core():
        step = growth_curves.training(place, 16, 2, 1.0)
        found = growth_curves.inference(place, 16, 2, 1.0)
    assert step.keys() == CURVES["training_length"].costs.keys()
    assert found.keys() == CURVES["inference_units"].costs.keys()
    assert all(value > 0 for value in [*step.values(), *found.values()])
    assert step["peak_gib"] > found["int8_peak_gib"]  # which is measured without MindSpore


@pytest.mark.parametrize("name", ["length", "long", "batch", "units"])
def test_one_size_grows_and_the_others_stay(name, tmp_path):
    """Units, utterances or seconds; `x` says which value it has."""
    curve = CURVES[f"training_{name}"].measure
    measure = partial(curve, measure=lambda place, *point: {"point": point})
    rows = list(measure(Place(tmp_path, quick=False)))
    growing = [sizes for sizes in zip(*(row["point"] for row in rows), strict=True)
               if len(set(sizes)) > 1]
    assert growing == [tuple(row["x"] for row in rows)]
    assert list(growing[0]) == sorted(growing[0])


def test_a_killed_process_is_a_failure(tmp_path, monkeypatch):
    def killed(*_, **__):
        raise BrokenProcessPool

    monkeypatch.setattr(Worker, "call", killed)
    with pytest.raises(RunError, match="manifest: its process was killed, maybe for lack"):
        growth_curves.cost("manifest", path="lines.csv")


@pytest.mark.parametrize("name", ["evaluation", "language_model"])
def test_a_quick_curve(name, demo_corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.growth_curves.Place.recordings", [
        *(demo_corpus / "demo_dataset" / "val").rglob("*.wav")])
    with growth.one_core():
        result = growth.measured(name, Place(tmp_path, quick=True))
    assert len(result["rows"]) == 2
    assert growth.markdown(name, result).startswith("### ")
