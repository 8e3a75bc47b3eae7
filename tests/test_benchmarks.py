"""The benchmark: outputs are compared before ratios; formulas, networks and tables are right.

How fast something is, is not tested.
"""

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from reference import features
from service_process import wait_for

from benchmarks import __main__ as command
from benchmarks import accuracy, report
from benchmarks.sections import Bench, compare_probabilities, compare_training, flops, speedup
from benchmarks.workers import timed, wait_until_idle, workers
from deepspeech2.errors import InputError, RunError
from deepspeech_pytorch.decoder import GreedyDecoder
from src.config import ModelConfig, load_config
from src.manifest import read_manifest, read_transcript

PAGE = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
RESULTS = json.loads((ROOT / "docs" / "performance.json").read_text(encoding="utf-8"))


def test_operations_by_hand():
    model = ModelConfig(hidden_size=3, hidden_layers=2, conv_channels=2, conv2_kernel=(3, 1))
    # 161 bins -> 81 -> 41; 5 and 3 frames -> 3 and 2
    conv1, conv2 = 41 * 11 * 2 * 81 * (3 + 2), 3 * 2 * 2 * 41 * (3 + 2)
    lstms = 2 * (4 * 3 * (2 * 41 + 3) + 4 * 3 * (3 + 3)) * (3 + 2)
    forward = conv1 + conv2 + lstms + 3 * 29 * (3 + 2)
    assert flops(model, np.array([5, 3]), training=False) == 2 * forward
    assert flops(model, np.array([5, 3]), training=True) == 2 * (3 * forward - conv1)


# measurement

@pytest.fixture
def bench(demo_corpus, labels, tmp_path) -> Bench:
    manifest = read_manifest(demo_corpus / "demo_train_manifest.csv", labels)
    return Bench(tmp_path, True, {"demo": manifest})


def test_sides_take_turns(bench):
    calls = []
    turns = {side: lambda side=side: calls.append(side) or len(calls) for side in "AB"}
    row = bench.compare(turns)
    assert calls == ["A", "B"] * bench.rounds
    assert row == {"seconds": {"A": [1, 3], "B": [2, 4]}, "median": {"A": 2, "B": 3}}


def test_a_ratio_is_of_the_medians_and_its_spread_of_neighbours():
    assert speedup([2.0, 9.0, 4.0], [1.0, 3.0, 4.0]) == {"value": 4 / 3, "low": 1.0, "high": 3.0}
    with pytest.raises(ValueError):
        speedup([1.0], [1.0, 2.0])


def test_short_work_is_repeated(monkeypatch):
    monkeypatch.setattr("time.perf_counter", iter(range(1000)).__next__)
    assert timed(lambda: "done", least=0.0) == ([1], "done")
    assert timed(lambda: "done", least=3.0) == ([1, 1, 1], "done")


def probabilities(utterances: int, frames: int) -> np.ndarray:
    return np.random.default_rng(0).random((utterances, frames, 29), np.float32)


def test_a_worker_answers_fails_and_dies(labels):
    probs, sizes = probabilities(2, 20), np.array([20, 10], np.int32)
    with workers("ours") as processes:
        worker = processes["ours"]
        texts = worker.call("decode", probs=probs, sizes=sizes)
        assert texts == GreedyDecoder(labels.characters).decode(probs, sizes)[0]
        with pytest.raises(ValueError):
            worker.call("decode", probs=probs, sizes=np.array([21, 1]))
        (process,) = worker._processes.values()
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(BrokenProcessPool):
            worker.call("peak_memory")


def test_a_worker_waits_until_its_threads_sleep(monkeypatch):
    clock, naps = iter([0.0, 0.5, 0.6, 0.6, 0.6005]), []
    monkeypatch.setattr("time.process_time", clock.__next__)
    monkeypatch.setattr("time.sleep", naps.append)
    wait_until_idle()
    assert len(naps) == 2


# comparisons

def test_a_side_that_differs_is_not_timed(bench):
    turns = {"a": lambda: 2.0, "b": lambda: pytest.fail("timed"), "PyTorch": lambda: 3.0}
    found = {"a": {"same": True}, "b": {"same": False}}
    row = bench.compare(turns, found)
    assert row == {"comparison": found, "seconds": {"a": [2.0, 2.0], "PyTorch": [3.0, 3.0]},
                   "median": {"a": 2.0, "PyTorch": 3.0},
                   "speedup": {"a": {"value": 1.5, "low": 1.5, "high": 1.5}}}
    found = {"a": {"same": False}, "b": {"same": False}}
    assert bench.compare(turns, found) == {"comparison": found}


def test_padding_is_not_compared():
    probs = np.zeros((1, 3, 2), np.float32)
    padded = probs.copy()
    padded[0, 2] = 9
    assert compare_probabilities((padded, np.array([2])), (probs, np.array([2])))["same"]
    assert not compare_probabilities((padded, np.array([3])), (probs, np.array([3])))["same"]
    assert not compare_probabilities((probs, np.array([3])), (probs, np.array([2])))["same"]


@pytest.mark.parametrize(("difference", "rounded", "same"), [
    (5e-5, False, True), (2e-4, False, False), (0.1, True, True), (np.nan, False, False)])
def test_probabilities_must_agree(difference, rounded, same):
    probs = np.tile(np.array([0.8, 0.2], np.float32), (1, 20, 1))
    other = probs + np.array([-difference, difference], np.float32)
    result = compare_probabilities((other, np.array([20])), (probs, np.array([20])), rounded)
    assert result["same"] is same


def test_rounded_weights_must_still_decide_alike():
    probs = np.tile(np.array([0.8, 0.2], np.float32), (1, 20, 1))
    other = probs.copy()
    other[0, :3] = 0.2, 0.8
    result = compare_probabilities((other, np.array([20])), (probs, np.array([20])), rounded=True)
    assert not result["same"] and result["same_best_class"] == pytest.approx(0.85)


@pytest.mark.parametrize(("loss", "norm", "same"), [
    (5.0, 7.0, True), (5.001, 7.0, False), (5.0, 7.01, False), (np.nan, 7.0, False)])
def test_loss_and_gradient_must_agree(loss, norm, same):
    assert compare_training((loss, norm), (5.0, 7.0))["same"] is same


# PyTorch's side

@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def side(torch, bench):
    """PyTorch's side with a tiny network and a batch."""
    from benchmarks.pytorch import Side
    side = Side()
    side.build(load_config(None, [
        f"DataConfig.train_manifest={bench.manifest.path}", "DataConfig.batch_size=5",
        "ModelConfig.hidden_size=8", "ModelConfig.hidden_layers=2", "ModelConfig.conv_channels=3"]))
    side.set_batch(bench.batch(3)[0])
    return side


def test_a_step_at_rate_zero_keeps_the_weights(torch, side):
    weights = [p.detach().clone() for p in side.network.parameters()]
    first, second = side.train(), side.train()
    assert first == pytest.approx(second, rel=1e-5)
    assert all(map(torch.equal, weights, side.network.parameters()))
    side.step(side.batch, 1e-3)
    assert side.train()[0] < first[0]


def test_the_loop_over_frames_decodes_the_same(side, labels):
    probs, sizes = probabilities(3, 80), np.array([80, 33, 0])
    texts = side.decode(probs, sizes)
    assert texts == GreedyDecoder(labels.characters).decode(probs, sizes)[0] and texts[0][0]


def test_the_original_loader(torch, side, bench, labels):
    manifest = bench.manifest
    batches = list(side.epoch_batches())
    assert sum(len(batch.inputs) for batch in batches) == len(manifest)
    batch = batches[0]
    inputs, lengths, counts = batch.inputs, batch.input_length, batch.target_length
    assert inputs.shape == (5, 1, 161, lengths[0]) and (lengths.diff() <= 0).all()
    assert batch.targets.shape == (counts.sum(),)
    row = next(i for i, path in enumerate(manifest.audio_paths)
               if features(torch, path).shape[1] == lengths[0])
    expected = features(torch, manifest.audio_paths[row])
    np.testing.assert_allclose(inputs[0, 0], expected, atol=1e-6)
    text = read_transcript(manifest.transcript_paths[row], labels)
    assert batch.targets[:counts[0]].tolist() == labels.encode(text)


# reports

@pytest.mark.parametrize(("value", "text"), [
    (12.345, "12.3 s"), (0.0123, "12.3 ms"), (123.4, "123 s"), (0.5, "0.500 s")])
def test_seconds(value, text):
    assert report.seconds(value) == text


def test_the_page_in_docs_shows_the_figures_in_docs(tmp_path):
    """Rendering docs/performance.json again gives docs/performance.md; text by hand stays."""
    (tmp_path / "performance.md").write_text(PAGE, encoding="utf-8")
    report.write(RESULTS, tmp_path)
    assert (tmp_path / "performance.md").read_text(encoding="utf-8") == PAGE
    assert json.loads((tmp_path / "performance.json").read_text()) == RESULTS
    (tmp_path / "performance.md").write_text(PAGE.replace(report.END, ""), encoding="utf-8")
    with pytest.raises(InputError, match="once each"):
        report.write(RESULTS, tmp_path)


def test_no_ratio_where_outputs_differ():
    row = RESULTS["train"][0]
    row = {key: value for key, value in row.items() if key not in ("seconds", "median", "speedup")}
    differs = {"same": False, "loss_difference": 0.5}
    row |= {"comparison": {"ours": row["comparison"]["ours"] | differs}}
    results = RESULTS | {"train": [row]}
    assert report.differing(RESULTS) == []
    (line,) = report.differing(results)
    assert line.startswith("train, units 256, batch 8, ours: ") and "0.5" in line
    first = report.seconds(row["first_call"]["ours"])
    assert f"| 256 | 8 | 4.0–4.0 s | – | – | – | – | – | {first} |" in report.markdown(results)


def test_a_busy_machine_is_mentioned():
    busy = RESULTS | {"machine": RESULTS["machine"] | {"load_before": 1.5}}
    assert "Other programs" not in report.markdown(RESULTS)
    assert "Other programs were running" in report.markdown(busy)


# the command

def test_without_torch_the_command_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert command.main([]) == 2
    assert "python -m pip install -r requirements-benchmark.txt" in capsys.readouterr().err


def test_an_unknown_section_is_refused(capsys):
    assert command.main(["--only", "train,magic"]) == 2
    assert "--only magic: the sections are peak, train" in capsys.readouterr().err


@pytest.mark.parametrize(("section", "code", "said"), [
    (lambda bench: [{"shape": [1, 1, 1], "comparison": {"ours": {"same": False}}}], 1, "differs"),
    (lambda bench: [{"shape": [1, 1, 1], "comparison": {"ours": {"same": True}}}], 0, ""),
], ids=["differs", "same"])
def test_exit_codes(section, code, said, bench, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)  # torch is not needed here
    monkeypatch.setattr(command, "prepare_corpora", lambda *args: bench.corpora)
    monkeypatch.setattr(command, "describe_machine", lambda: RESULTS["machine"])
    monkeypatch.setitem(command.SECTIONS, "decoding", section)
    assert command.main(["--quick", "--only", "decoding"]) == code
    assert said in capsys.readouterr().err


def test_a_quick_run(torch, tmp_path):
    """Two sections from start to end on synthetic speech, one of them with both networks."""
    assert command.main(["--quick", "--only", "train,decoding", "--output", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "performance.json").read_text())
    assert results["speech"][0]["name"].startswith("the demo corpus")
    assert [row["batch"] for row in results["train"]] == [2, 1]
    for row in results["train"]:
        assert row["comparison"]["ours"]["same"] and "ours" in row["speedup"]
    for text in ((tmp_path / name).read_text() for name in ("performance.json", "performance.md")):
        assert str(tmp_path) not in text and str(ROOT) not in text and "/tmp" not in text


# time to accuracy

SMALL = ["ModelConfig.hidden_size=8", "ModelConfig.hidden_layers=2", "ModelConfig.conv_channels=2"]


@pytest.fixture
def train_original(torch, demo_corpus, tmp_path, monkeypatch):
    """A function: train the original for some seconds, a step each; three steps are an epoch."""
    from benchmarks import original
    monkeypatch.setattr(time, "perf_counter", itertools.count().__next__)
    data = [f"DataConfig.{split}_manifest={demo_corpus}/demo_{split}_manifest.csv"
            for split in ("train", "val")]

    def train(seconds: int, name: str, *settings: str):
        config = load_config(None, [*original.PUBLISHED, *SMALL, *data, *settings,
                                    f"TrainingConfig.log_dir={tmp_path / name}"])
        original.train(config, seconds / 60)
        metrics = pd.read_csv(tmp_path / name / "metrics.csv")
        return metrics, torch.load(tmp_path / name / "state.pt")[:2]

    return train


def test_the_original_anneals_and_resumes(torch, train_original):
    """A stop between two epochs is not felt."""
    metrics, (weights, moments) = train_original(6, "whole")
    assert metrics["learning_rate"].tolist() == pytest.approx([1.5e-4, 1.5e-4 * 0.99])
    assert metrics["step"].tolist() == [3, 6] and (metrics["val_cer"] > 0).all()
    assert metrics["minutes"].tolist() == pytest.approx([0.05, 0.05])
    first, _ = train_original(3, "stopped")
    second, (resumed, resumed_moments) = train_original(6, "stopped")
    assert len(first) == 1 and second.equals(metrics)
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)
    assert moments["state"][0]["step"] == resumed_moments["state"][0]["step"] == 6
    assert train_original(4, "cut")[0]["step"].tolist() == [3, 4]


def test_the_original_resumes_within_an_epoch(torch, train_original, monkeypatch):
    """With a state every two seconds: killed in the last step of the second epoch."""
    from benchmarks.pytorch import Side
    metrics, (weights, _) = train_original(6, "whole")
    step, steps = Side.step, itertools.count(1)

    def stop_in_the_sixth(*args):
        if next(steps) == 6:
            raise InterruptedError
        return step(*args)

    save = f"CheckpointConfig.save_minutes={2 / 60}"
    with monkeypatch.context() as context:
        context.setattr(Side, "step", stop_in_the_sixth)
        with pytest.raises(InterruptedError):
            train_original(6, "stopped", save)
    taken = []
    monkeypatch.setattr(Side, "step", lambda *args: taken.append(1) or step(*args))
    resumed_metrics, (resumed, _) = train_original(6, "stopped", save)
    assert len(taken) == 1 and resumed_metrics.equals(metrics)
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)


def test_the_original_keeps_its_batches(side):
    first, second = ([tuple(sorted(rows)) for rows in side.epoch_batches(epoch).batch_sampler]
                     for epoch in (0, 1))
    assert first != second and sorted(first) == sorted(second)
    assert sorted(sum(first, ())) == list(range(24))


def test_the_longest_utterance_may_come_last(side):
    from benchmarks.original import probabilities
    lengths = np.array([20, 50], np.int32)
    inputs = np.random.default_rng(0).random((2, 1, 161, 50), np.float32)
    inputs[0, ..., 20:] = 0
    probs, frames = probabilities(side.network, inputs, lengths)
    assert frames.tolist() == [10, 25]
    for i, length in enumerate(lengths):
        alone, _ = probabilities(side.network, inputs[i:i + 1, ..., :length], lengths[i:i + 1])
        np.testing.assert_allclose(probs[i, :frames[i]], alone[0], atol=1e-6)


@pytest.fixture
def contest(torch, tmp_path):
    """Makes a contest of 120 minutes for 10 minutes of speech, with options."""
    def make(*options: str) -> accuracy.Contest:
        args = command.parser().parse_args(options)
        result = accuracy.Contest("an4", tmp_path, args, "a machine")
        result.speech_minutes = 10.0
        return result
    return make


def test_the_original_is_as_large_as_its_epochs_allow(contest, monkeypatch):
    """In 120 minutes, 70 epochs of 10 minutes take 5.83 seconds of speech a second."""
    speeds = {"128": 9.0, "192": 8.0, "256": 5.9, "384": 5.8, "512": 4.0, "768": 3.0, "1024": 2.0}
    monkeypatch.setattr(accuracy.Contest, "trial", lambda self, name, core, setting: pd.DataFrame(
        {"audio_seconds_per_second": [speeds[setting.removeprefix("ModelConfig.hidden_size=")]]}))
    for epochs, units in (70, 256), (20, 1024), (1000, 128):
        record = contest("--original", f"TrainingConfig.epochs={epochs}").plan("original", 0)
        assert record["settings"] == [f"ModelConfig.hidden_size={units}"]
    given = contest("--original", "ModelConfig.hidden_size=8").plan("original", 0)
    assert given["settings"] == [] and given["network"]["hidden_size"] == 8


def test_our_epochs_fill_the_minutes(contest, monkeypatch):
    """The first of them go to compilation, 1.5 by the trial; then an epoch takes one."""
    trial = pd.DataFrame({"minutes": [2.0, 2.5], "audio_seconds_per_second": [1.0, 10.0]})
    monkeypatch.setattr(accuracy.Contest, "trial", lambda *_: trial)
    assert contest().plan("ours", 0)["settings"] == ["TrainingConfig.epochs=118"]
    assert contest().plan("ours_quarter", 0)["settings"] == ["TrainingConfig.epochs=28"]
    short = contest("--epochs", "9").plan("ours_quarter", 0)
    assert short["settings"] == ["TrainingConfig.epochs=2"]


def test_parameters_by_hand(contest):
    """Ours: 16 channels; 41 x 16 inputs of the first of three layers, 256 of the others."""
    record = contest().plan("original_our_network", 0)
    assert record["network"] == {"hidden_size": 256, "hidden_layers": 3, "conv_channels": 16,
                                 "conv2_kernel": (21, 11), "conv2_time_stride": 2}
    convolutions = 16 * (41 * 11 + 1) + 16 * (16 * 21 * 11 + 1) + 2 * 2 * 16
    lstms = sum(2 * 4 * 256 * (inputs + 256 + 2) for inputs in (41 * 16, 256, 256))
    assert record["parameters"] == convolutions + lstms + 3 * 2 * 256 + 29 * 256


CURVES = [
    {"name": "original", "val_wer": [90, 40, 50], "val_cer": [60, 20, 20], "minutes": [10, 20, 30]},
    {"name": "original_our_network", "val_wer": [70], "val_cer": [50], "minutes": [10]},
    {"name": "ours", "val_wer": [50, 40, 30], "val_cer": [9, 8, 7], "minutes": [1.2, 2.4, 3.6]},
    {"name": "ours_quarter", "val_wer": [41], "val_cer": [8], "minutes": [1]}]


def test_minutes_to_the_best_of_the_original():
    network = {"hidden_size": 8, "hidden_layers": 2, "conv_channels": 3, "conv2_time_stride": 1}
    contestants = [curve | {
        "title": curve["name"], "finished": curve["name"] != "ours", "network": network,
        "parameters": 1_200_000, "epoch": [*range(1, len(curve["minutes"]) + 1)]}
        for curve in CURVES]
    heading, _, *lines = accuracy.contestants_table(contestants).splitlines()
    assert heading.endswith(" | minutes to WER 40.00 | of the original's |")
    assert [line.split(" | ")[-5:] for line in lines] == [
        ["30.0", "40.00 / 20.00", "50.00 / 20.00", "20.0", "1.00 |"],
        ["10.0", "70.00 / 50.00", "70.00 / 50.00", "–", "– |"],
        ["3.6", "30.00 / 7.00", "30.00 / 7.00", "2.4", "0.12 |"],
        ["1.0", "41.00 / 8.00", "41.00 / 8.00", "–", "– |"]]
    assert lines[2].startswith("| ours (unfinished) | 8 × 2 | 3 | 1 | 1.2 M | 3 |")


def test_accuracy_refuses_what_it_cannot_do(torch, tmp_path, capsys):
    start = ["--only", "accuracy", "--output", str(tmp_path)]
    for options, said in [
            (["--epochs", "3"], "need --corpus"), (["--minutes", "0"], "must be above 0"),
            (["--corpus", "an4", "--config", "no.yaml"], "no.yaml: cannot read the configuration"),
            (["--corpus", "an4", "--original", "OptimConfig.rate=1"], "OptimConfig.rate")]:
        assert command.main([*start, *options]) == 2
        assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def processes_naming(folder: Path) -> list[str]:
    """The command lines of living processes that contain a path."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended
            found.append(path.read_text())
    return [line for line in found if str(folder) in line]


def test_accuracy_goes_on_after_a_kill(torch, demo_corpus, tmp_path, monkeypatch, capsys):
    """A killed run leaves no process and loses no whole epoch; what is finished stays as it is."""
    folder, config = tmp_path / "runs", tmp_path / "tiny.yaml"
    shutil.copytree(demo_corpus, folder / "demo" / "data")  # so that it need not be made
    config.write_text("ModelConfig: {hidden_size: 16, hidden_layers: 1, conv_channels: 2,\n"
                      "              conv2_kernel: [21, 1], conv2_time_stride: 2}\n")
    arguments = ["--only", "accuracy", "--corpus", "demo", "--minutes", "0.05", "--epochs", "3",
                 "--config", str(config), "--output", str(folder), "--original", *SMALL]
    process = subprocess.Popen([sys.executable, "-m", "benchmarks", *arguments], cwd=ROOT)
    while not (folder / "demo" / "original" / "state.pt").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    wait_for(lambda: not processes_naming(folder))
    curve = folder / "demo" / "original" / "metrics.csv"
    first_epoch = curve.read_text().splitlines()[1]

    monkeypatch.setattr(accuracy, "TITLES", {"original": "the original", "ours": "ours"})
    assert command.main(arguments) == 0
    assert curve.read_text().splitlines()[1] == first_epoch
    theirs, ours = json.loads((folder / "accuracy.json").read_text())["corpora"][0]["contestants"]
    assert theirs["minutes"][-1] >= 0.05 and theirs["finished"] and ours["finished"]
    assert ours["epoch"] == [1, 2, 3] and min(ours["val_cer"]) > 0
    page = (folder / "accuracy.md").read_text()
    assert capsys.readouterr().out.strip() == page.strip()
    assert "| ours | 16 × 1 | 2 | 2 | 0.0 M | 3 |" in page
    for text in page, (folder / "accuracy.json").read_text():
        assert str(tmp_path) not in text and str(ROOT) not in text

    logs = [folder / "demo" / name / "log.txt" for name in ("original", "ours")]
    before = [path.stat() for path in logs]
    assert command.main(arguments) == 0 and [path.stat() for path in logs] == before
    assert command.main([*arguments, "--minutes", "1"]) == 2
    assert "choose another --output" in capsys.readouterr().err


def test_a_trial_measures_the_original(torch, demo_corpus, tmp_path, monkeypatch):
    shutil.copytree(demo_corpus, tmp_path / "data")
    args = command.parser().parse_args(["--original", *SMALL])
    contest = accuracy.Contest("demo", tmp_path, args, "a machine")
    contest.prepare()
    monkeypatch.setattr(accuracy, "TRIAL_MINUTES", 1e-6)
    metrics = contest.trial("original", min(os.sched_getaffinity(0)))
    assert metrics["step"].tolist() == [1] and metrics["audio_seconds_per_second"][0] > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "speech.json"]
    with pytest.raises(RunError, match="(?s)benchmarks.original.* failed:.*Invalid argument"):
        contest.trial("original", 1_000_000)  # there is no such core
