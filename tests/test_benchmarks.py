"""The benchmark: outputs are compared before ratios; formulas, networks and tables are right.

How fast something is, is not tested.
"""

import json
import os
import signal
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace

import numpy as np
import pytest
from conftest import ROOT
from reference import features, probabilities

from benchmarks import __main__ as command
from benchmarks import report
from benchmarks.sections import (
    MAX_ROUNDS,
    MIN_ROUNDS,
    QUICK,
    Bench,
    Corpus,
    compare_probabilities,
    compare_training,
    layer_flops,
    peaky_probabilities,
    speedup,
    train_flops,
)
from benchmarks.workers import MAX_REPEATS, timed, wait_until_idle, workers
from deepspeech2.errors import InputError
from deepspeech2.features import SpectConfig
from deepspeech_pytorch.decoder import GreedyDecoder
from src.config import ModelConfig, load_config
from src.manifest import read_manifest, read_transcript

PAGE = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
RESULTS = json.loads((ROOT / "docs" / "performance.json").read_text(encoding="utf-8"))


# formulas

def test_operations_by_hand():
    model = ModelConfig(hidden_size=3, hidden_layers=2, conv_channels=2, conv2_kernel=(3, 1))
    # 9 bins -> 5 -> 3, 5 frames -> 3
    lstms = 2 * (4 * 3 * (2 * 3 + 3) + 4 * 3 * (3 + 3)) * 2
    expected = {"conv 1": 2 * 41 * 11 * 2 * (5 * 3), "conv 2": 2 * 3 * 2 * 2 * (3 * 3),
                "LSTMs": lstms * 3, "projection": 2 * 3 * 4 * 3}
    assert layer_flops(model, 5, num_bins=9, classes=4) == expected
    assert train_flops(expected) == 3 * sum(expected.values()) - expected["conv 1"]
    # two utterances, and 3 frames -> 2 in conv 2 and after it; one direction
    model = replace(model, conv2_time_stride=2, bidirectional=False)
    assert layer_flops(model, [5, 5], num_bins=9, classes=4) == {
        "conv 1": 2 * expected["conv 1"], "conv 2": 2 * (2 * 3 * 2 * 2 * (3 * 2)),
        "LSTMs": 2 * lstms / 2 * 2, "projection": 2 * (2 * 3 * 4 * 2)}


# measurement

def bench(folder, manifest=None, **sizes) -> Bench:
    return Bench(folder, replace(QUICK, **sizes), [Corpus("demo", manifest)])


@pytest.mark.parametrize(("seconds", "rounds"), [(0, MIN_ROUNDS), (float("inf"), MAX_ROUNDS)])
def test_sides_take_turns(seconds, rounds, tmp_path):
    calls = []
    turns = {side: lambda side=side: calls.append(side) or len(calls) for side in "AB"}
    row = bench(tmp_path, round_seconds=seconds).compare(turns)
    assert calls == ["A", "B"] * rounds
    assert row["seconds"] == {"A": [*range(1, 2 * rounds, 2)], "B": [*range(2, 2 * rounds + 1, 2)]}
    assert "speedup" not in row  # there is no PyTorch among the sides


def test_a_ratio_is_of_the_medians_and_its_spread_of_neighbours():
    assert speedup([2.0, 9.0, 4.0], [1.0, 3.0, 4.0]) == {"value": 4 / 3, "low": 1.0, "high": 3.0}
    with pytest.raises(ValueError):
        speedup([1.0], [1.0, 2.0])


def test_short_work_is_repeated():
    assert len(timed(lambda: None, least=0.0)[0]) == 1
    assert len(timed(lambda: None, least=100.0)[0]) == MAX_REPEATS


def test_a_worker_answers_fails_and_dies(labels):
    probs, sizes = peaky_probabilities(2, 20, labels), np.array([20, 10], np.int32)
    with workers("ours") as processes:
        worker = processes["ours"]
        texts = worker.call("decode", probs=probs, sizes=sizes)
        assert texts == GreedyDecoder(labels.characters).decode(probs, sizes)[0]
        with pytest.raises(ValueError):
            worker.call("decode", probs=probs, sizes=np.array([21, 1]))
        (process,) = worker.pool._processes.values()
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(BrokenProcessPool):
            worker.call("peak_memory")


def test_a_process_whose_threads_never_sleep_is_refused(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr("time.process_time", lambda: next(clock))
    monkeypatch.setattr("benchmarks.workers.IDLE_PATIENCE", 0.2)
    with pytest.raises(Exception, match="threads still use"):
        wait_until_idle()


# comparisons

def test_a_side_that_differs_is_not_timed(tmp_path):
    turns = {"a": lambda: 2.0, "b": lambda: pytest.fail("timed"), "PyTorch": lambda: 3.0}
    same, differs = {"same": True}, {"same": False}
    row = bench(tmp_path).compare(turns, {"a": same, "b": differs}, rounds=2)
    assert row == {"seconds": {"a": [2.0, 2.0], "PyTorch": [3.0, 3.0]},
                   "median": {"a": 2.0, "PyTorch": 3.0},
                   "speedup": {"a": {"value": 1.5, "low": 1.5, "high": 1.5}}}
    assert bench(tmp_path).compare(turns, {"a": differs, "b": differs}) == {}


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


@pytest.mark.parametrize(("loss", "norm", "gradient", "same"), [
    (5.0, 7.0, 3.0, True), (5.001, 7.0, 3.0, False), (5.0, 7.01, 3.0, False),
    (5.0, 7.0, 3.1, False), (np.nan, 7.0, 3.0, False)])
def test_loss_and_gradients_must_agree(loss, norm, gradient, same):
    gradients = {"w": gradient, "bias": 1e-6}, {"w": 3.0, "bias": 3e-6}  # zero but for rounding
    assert compare_training((loss, norm), (5.0, 7.0), gradients)["same"] is same


# PyTorch's side

@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def side(torch, demo_corpus, labels, tmp_path):
    """PyTorch's side with a tiny network and a batch."""
    from benchmarks.pytorch import Side
    side = Side()
    side.build(load_config(None, [
        "ModelConfig.hidden_size=8", "ModelConfig.hidden_layers=2", "ModelConfig.conv_channels=3",
        "ModelConfig.conv2_kernel=[21, 11]"]))
    manifest = read_manifest(demo_corpus / "demo_train_manifest.csv", labels)
    side.set_batch(bench(tmp_path, manifest).batch(3)[0])
    return side


def test_the_network_is_the_reference_of_the_tests(torch, side, tmp_path):
    side.save_weights(str(tmp_path / "weights.npz"))
    path = str(tmp_path / "weights.pt")
    side.load_model(path)
    probs, lengths = side.predict(path)
    network = side.models[path]
    tree = {"conv": {"seq_module": network.conv.seq_module},
            "fc": [{"module": network.fc[0].module}],
            "rnns": [{"rnn": layer.rnn} | (
                {"batch_norm": {"module": layer.batch_norm.module}} if layer.batch_norm else {})
                for layer in network.rnns]}
    # as `set_batch` sorted them: longest first
    inputs, input_length = side.batch.inputs, side.batch.input_length
    expected, expected_lengths = probabilities(torch, tree, inputs, input_length)
    for row, theirs, n in zip(side.order, expected, expected_lengths, strict=True):
        assert lengths[row] == n
        np.testing.assert_allclose(probs[row, :n], theirs[:n], atol=1e-6)
    assert probs.max() > 0.5


def test_a_step_at_rate_zero_keeps_the_weights(torch, side):
    weights = [p.detach().clone() for p in side.network.parameters()]
    first, second = side.train(), side.train()
    assert first == pytest.approx(second, rel=1e-5)
    assert all(map(torch.equal, weights, side.network.parameters()))
    side.step(side.batch, 1e-3)
    assert side.train()[0] < first[0]


def test_the_loop_over_frames_decodes_the_same(torch, labels):
    from benchmarks.pytorch import greedy_decode
    probs, sizes = peaky_probabilities(3, 80, labels), np.array([80, 33, 0])
    texts, offsets = greedy_decode(torch.from_numpy(probs), torch.from_numpy(sizes), labels)
    expected, expected_offsets = GreedyDecoder(labels.characters).decode(probs, sizes)
    assert texts == expected and texts[0][0]
    for (ours,), (theirs,) in zip(offsets, expected_offsets, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_original_loader(torch, demo_corpus, labels):
    from benchmarks.pytorch import random_batches
    manifest = read_manifest(demo_corpus / "demo_train_manifest.csv", labels)
    batches = list(random_batches(manifest, labels, SpectConfig(), 5, limit=2))
    inputs, lengths, targets, counts = batches[0]
    assert len(batches) == 2 and inputs.shape == (5, 1, 161, lengths[0])
    assert (lengths.diff() <= 0).all() and targets.shape == (counts.sum(),)
    row = next(i for i, path in enumerate(manifest.audio_paths)
               if features(torch, path).shape[1] == lengths[0])
    expected = features(torch, manifest.audio_paths[row])
    np.testing.assert_allclose(inputs[0, 0], expected, atol=1e-6)
    text = read_transcript(manifest.transcript_paths[row], labels)
    assert targets[:counts[0]].tolist() == labels.encode(text)


# reports

@pytest.mark.parametrize(("value", "text"), [
    (None, "–"), (12.345, "12.3 s"), (0.0123, "12.3 ms"), (123.4, "123 s"), (0.5, "0.500 s")])
def test_seconds(value, text):
    assert report.seconds(value) == text


def test_the_page_in_docs_shows_the_figures_in_docs(tmp_path):
    """Rendering docs/performance.json again gives docs/performance.md; text by hand stays."""
    (tmp_path / "performance.md").write_text(PAGE, encoding="utf-8")
    report.write(RESULTS, tmp_path)
    assert (tmp_path / "performance.md").read_text(encoding="utf-8") == PAGE
    assert json.loads((tmp_path / "performance.json").read_text()) == RESULTS
    with pytest.raises(InputError, match="once each"):
        report.updated(PAGE.replace(report.END, ""), "new")


def test_no_ratio_where_outputs_differ():
    row = RESULTS["train"][0]
    row = {key: value for key, value in row.items() if key not in ("seconds", "median", "speedup")}
    row |= {"comparison": row["comparison"] | {"same": False, "loss_difference": 0.5}}
    results = RESULTS | {"train": [row]}
    assert report.differing(RESULTS) == []
    (line,) = report.differing(results)
    assert line.startswith("train, ours, units 256, batch 8") and "loss_difference 0.5" in line
    assert "| 256 | 8 | 4.0–4.0 s | – | – | – | – | – | 8.13 s |" in report.markdown(results)


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
    (lambda bench: [{"shape": [1], "comparison": {"same": False}}], 1, "differs from PyTorch"),
    (lambda bench: [{"shape": [1], "comparison": {"same": True}}], 0, ""),
    (lambda bench: 1 / 0, 1, ""),
], ids=["differs", "same", "fails"])
def test_exit_codes(section, code, said, demo_corpus, labels, monkeypatch, capsys):
    manifest = read_manifest(demo_corpus / "demo_train_manifest.csv", labels)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)  # torch is not needed here
    monkeypatch.setattr(command, "prepare_corpora", lambda *args: [Corpus("demo", manifest)])
    monkeypatch.setattr(command, "describe_machine", lambda: RESULTS["machine"])
    monkeypatch.setitem(command.SECTIONS, "decoding", section)
    assert command.main(["--quick", "--only", "decoding"]) == code
    assert said in capsys.readouterr().err


def test_a_quick_run(torch, tmp_path, monkeypatch):
    """Two sections from start to end on synthetic speech, one of them with both networks."""
    monkeypatch.setenv("DS2_SHARED", str(tmp_path / "nothing"))
    assert command.main(["--quick", "--only", "train,decoding", "--output", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "performance.json").read_text())
    assert results["speech"][0]["name"].startswith("the demo corpus")
    assert [row["batch"] for row in results["train"]] == [2, 1] and not results["failed"]
    assert all(row["comparison"]["same"] and "ours" in row["speedup"] for row in results["train"])
    for text in ((tmp_path / name).read_text() for name in ("performance.json", "performance.md")):
        assert str(tmp_path) not in text and str(ROOT) not in text and "/tmp" not in text
