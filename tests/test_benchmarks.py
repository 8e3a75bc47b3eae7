"""The benchmark's own logic: formulas, turns, comparisons and reports. How fast something is, is not tested."""

import copy
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from reference import batch as pad
from reference import features, probabilities

from benchmarks import __main__ as command
from benchmarks import machine, report, workers
from benchmarks.data_sections import peaky_probabilities
from benchmarks.flops import forward_flops, layer_flops, train_flops
from benchmarks.measure import MOST_REPEATS, Ratio, alternate, timed
from benchmarks.network_sections import compare_probabilities, compare_training
from benchmarks.speech import Speech
from deepspeech2.features import SpectConfig
from deepspeech_pytorch.decoder import GreedyDecoder
from src.config import ModelConfig, OptimConfig
from src.manifest import read_manifest, read_transcript

RATIO = {"value": 1.5, "low": 1.25, "high": 2.0}
TIMES = {"seconds": {"ours": [2.0, 2.2], "PyTorch": [3.0, 3.2]}, "median": {"ours": 2.0, "PyTorch": 3.0},
         "speedup": {"ours": RATIO}, "idle_share": 0.0}
BATCH = {"units": 256, "batch": 8, "audio_seconds": 32.0, "shortest": 3.9, "longest": 4.1}
RESULTS = {
    "machine": {"processor": "A Processor", "extensions": ["avx2"], "cores": 2, "memory_gib": 8.0, "system": "Linux",
                "python": "3.11", "versions": {"torch": "2.13.0"}, "date": "2026-01-02", "load_before": 0.1},
    "quick": False, "minutes": 14.2, "failed": {}, "network": {"layers": 5, "channels": 32, "conv2_kernel": [21, 11]},
    "speech": [{"name": "AN4", "utterances": 853, "minutes": 38.3, "shortest": 0.7, "longest": 6.4}],
    "peak": [{"size": 64, "gflops": {"NumPy": 50.0, "PyTorch": 100.0}}],
    "train": [BATCH | TIMES | {"first_call": {"ours": 9.0, "PyTorch": 3.0}, "gflop": 60.0, "comparison": {
        "same": True, "loss": 5.0, "loss_difference": 1e-7, "norm": 1.0, "norm_difference": 1e-5}}],
    "inference": [BATCH | TIMES | {
        "median": {"checkpoint": 0.5, "PyTorch": 0.05}, "speedup": {"checkpoint": RATIO}, "gflop": 5.0,
        "load": {"checkpoint": 0.1}, "first_call": {"checkpoint": 4.0}, "refused": {"ONNX": "no such format"},
        "comparison": {"checkpoint": {"same": True, "difference": 2e-6, "same_best_class": 1.0}}}],
    "epoch": [TIMES | {"corpus": "AN4", "units": 256, "layers": 3, "channels": 16, "batch": 16, "runs": {
        side: {"seconds": 50.0, "batches": 2, "utterances": 30, "frames": 10_000, "padded_frames": 12_500,
               "mean_loss": 60.0} for side in ("ours", "PyTorch")}}],
    "features": [TIMES | {"corpus": "AN4", "files": 60, "audio_seconds": 600.0,
                          "comparison": {"same": True, "difference": 1e-5}}],
    "decoding": [TIMES | {"shape": [64, 500, 29], "comparison": {"same": True}}],
    "start": [{"units": 256, "refused": {}, "seconds": {"import torch": [1.0, 2.0]}, "median": {"import torch": 1.5}}],
    "checkpoints": [TIMES | {"what": "save", "units": 1024, "mib": {"ours": 991.0, "PyTorch": 990.0}}],
    "memory": [BATCH | {"what": "inference", "gib": {"checkpoint": 1.25, "PyTorch": 1.5}, "refused": {}}],
    "profile": [BATCH | {"part": "CTC loss", "forward": None, "both": 0.0123}],
}


# formulas

def test_operations_by_hand():
    model = ModelConfig(hidden_size=3, hidden_layers=2, conv_channels=2, conv2_kernel=(3, 1))
    # 9 bins -> 5 -> 3, 5 frames -> 3
    assert layer_flops(model, 5, num_bins=9, classes=4) == {
        "conv 1": 2 * 41 * 11 * 2 * (5 * 3), "conv 2": 2 * 3 * 2 * 2 * (3 * 3),
        "LSTMs": 2 * (4 * 3 * (2 * 3 + 3) + 4 * 3 * (3 + 3)) * 2 * 3, "projection": 2 * 3 * 4 * 3}
    total = 27060 + 216 + 2160 + 72
    assert forward_flops(model, [5, 5], 9, 4) == 2 * total
    assert train_flops(model, [5], 9, 4) == 3 * total - 27060


def test_one_direction_has_half_of_the_lstms():
    both, one = (layer_flops(ModelConfig(bidirectional=flag), 401)["LSTMs"] for flag in (True, False))
    assert both == 2 * one


# measurement

def test_sides_take_turns():
    calls = []
    runs = {side: lambda s=side: calls.append(s) or len(calls) for side in "AB"}
    result = alternate(runs, seconds=0, least=3, before=lambda side: calls.append(f"before {side}"))
    assert calls == ["before A", "A", "before B", "B"] * 3
    assert result == {"A": [2, 6, 10], "B": [4, 8, 12]}


@pytest.mark.parametrize(("seconds", "rounds"), [(0, 3), (35, 4), (1000, 5)])
def test_rounds_fill_the_time_within_limits(seconds, rounds):
    now = [0.0]

    def ten_seconds() -> float:
        now[0] += 10
        return 10.0

    result = alternate({"A": ten_seconds}, seconds, least=3, most=5, clock=lambda: now[0])
    assert result == {"A": [10.0] * rounds}


def test_ratio_is_of_the_medians_and_its_spread_of_neighbours():
    assert Ratio.of([2.0, 9.0, 4.0], [1.0, 3.0, 4.0]) == Ratio(4 / 3, 1.0, 3.0)
    with pytest.raises(ValueError):
        Ratio.of([1.0], [1.0, 2.0])


def test_short_work_is_repeated():
    assert len(timed(lambda: None, least=0.0)) == 1
    assert len(timed(lambda: None, least=100.0)) == MOST_REPEATS


def test_a_worker_answers_fails_and_dies(labels):
    probs, sizes = peaky_probabilities(2, 20, labels), np.array([20, 10], np.int32)
    with workers.workers({"ours": "side_ours"}) as processes:
        worker = processes["ours"]
        seconds, texts = worker.call("decode", probs=probs, sizes=sizes)
        assert seconds > 0
        assert [[text] for text in texts] == GreedyDecoder(labels.characters).decode(probs, sizes)[0]
        with pytest.raises(workers.WorkerError, match=r"decode failed in the ours process:\n(.*\n)*ValueError"):
            worker.call("decode", probs=probs, sizes=np.array([21, 1]))
        assert worker.cpu_seconds() > 0
        assert workers.wait_until_idle([worker]) <= workers.IDLE_SHARE
        worker._process.kill()
        with pytest.raises(workers.WorkerError, match="the ours process died with exit code -9"):
            worker.call("peak_memory")


def test_a_reason_names_no_folder():
    assert workers.WorkerError("x\nInputError: /home/me/data/a.onnx: no such model\n").reason() == (
        "InputError: a.onnx: no such model")


# comparisons

def test_padding_is_not_compared():
    probs = np.zeros((1, 3, 2), np.float32)
    padded = probs.copy()
    padded[0, 2] = 9
    assert compare_probabilities((padded, np.array([2])), (probs, np.array([2]))) == {
        "difference": 0.0, "same_best_class": 1.0, "same": True}
    assert not compare_probabilities((padded, np.array([3])), (probs, np.array([3])))["same"]
    assert compare_probabilities((probs, np.array([3])), (probs, np.array([2]))) == {"same": False, "difference": None}


@pytest.mark.parametrize(("difference", "rounded", "same"), [
    (5e-5, False, True), (2e-4, False, False), (0.1, True, True)])
def test_probabilities_must_agree(difference, rounded, same):
    probs = np.tile(np.array([0.8, 0.2], np.float32), (1, 20, 1))
    other = probs + np.array([-difference, difference], np.float32)
    assert compare_probabilities((other, np.array([20])), (probs, np.array([20])), rounded)["same"] is same


def test_rounded_weights_must_still_decide_alike():
    probs = np.tile(np.array([0.8, 0.2], np.float32), (1, 20, 1))
    other = probs.copy()
    other[0, :3] = 0.2, 0.8
    assert not compare_probabilities((other, np.array([20])), (probs, np.array([20])), rounded=True)["same"]


@pytest.mark.parametrize(("loss", "norm", "gradient", "same"), [
    (5.0, 7.0, 3.0, True), (5.001, 7.0, 3.0, False), (5.0, 7.01, 3.0, False), (5.0, 7.0, 3.1, False)])
def test_loss_and_gradients_must_agree(loss, norm, gradient, same):
    noise = {"ours": {"bias": 1e-6}, "PyTorch": {"bias": 3e-6}}      # zero but for rounding
    result = compare_training({"ours": (loss, norm), "PyTorch": (5.0, 7.0)},
                              {"ours": {"w": gradient} | noise["ours"], "PyTorch": {"w": 3.0} | noise["PyTorch"]})
    assert result["same"] is same


# speech

def test_a_batch_is_what_the_loader_gives(demo_corpus, labels):
    from src.dataset import BatchSource
    manifest = read_manifest(demo_corpus / "demo_train_manifest.csv", labels)
    rows = Speech("demo", manifest, labels).rows_of_about(2.0, 3)
    assert (np.diff(manifest.seconds[rows]) >= 0).all()
    others = np.delete(manifest.seconds, rows)
    assert abs(manifest.seconds[rows] - 2.0).max() <= abs(others - 2.0).min()
    expected = BatchSource(manifest, [rows], labels, SpectConfig())[0]
    for ours, theirs in zip(Speech("demo", manifest, labels).batch(rows).values(), expected, strict=False):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype


def test_peaky_probabilities(labels):
    probs = peaky_probabilities(4, 300, labels)
    assert probs.shape == (4, 300, len(labels)) and probs.dtype == np.float32
    np.testing.assert_allclose(probs.sum(2), 1, atol=1e-5)
    assert 0.5 < (probs.argmax(2) == labels.blank_index).mean() < 0.9
    assert np.median(probs.max(2)) > 0.95


# PyTorch's side

@pytest.fixture(scope="module")
def torch_network():
    """The network in PyTorch, small, with statistics of a batch; its settings; and inputs of different lengths."""
    torch = pytest.importorskip("torch")
    from benchmarks.torch_network import TorchDeepSpeech
    torch.manual_seed(0)
    model = ModelConfig(hidden_size=8, hidden_layers=2, conv_channels=3, conv2_kernel=(21, 11))
    network = TorchDeepSpeech(model, 161, 29)
    rng = np.random.default_rng(0)
    inputs, lengths = pad([rng.standard_normal((161, n)).astype(np.float32) for n in (60, 41, 22)])
    with torch.no_grad():
        network.fc[0].module[1].weight.normal_(0, 1)
    network.measure_statistics(torch.from_numpy(inputs), torch.from_numpy(lengths))
    return network, model, inputs, lengths


def test_the_network_is_the_reference_of_the_tests(torch_network):
    import importlib
    torch = importlib.import_module("torch")
    network, _, inputs, lengths = torch_network
    probs, found = network.predict(torch.from_numpy(inputs), torch.from_numpy(lengths))
    tree = {"conv": {"seq_module": network.conv.seq_module}, "fc": [{"module": network.fc[0].module}], "rnns": [
        {"rnn": layer.rnn} | ({"batch_norm": {"module": layer.batch_norm.module}} if layer.batch_norm else {})
        for layer in network.rnns]}
    expected, expected_lengths = probabilities(torch, tree, inputs, lengths)
    assert found.tolist() == expected_lengths
    for ours, theirs, n in zip(probs.numpy(), expected, expected_lengths, strict=True):
        np.testing.assert_allclose(ours[:n], theirs[:n], atol=1e-6)
    assert probs.max() > 0.5


@pytest.mark.usefixtures("graph_mode")
def test_its_arrays_fit_our_network(torch_network):
    from src.DeepSpeech import DeepSpeech
    network, model, *_ = torch_network
    ours = {p.name: p.shape for p in DeepSpeech(model, 161, 29).get_parameters()}
    assert {name: array.shape for name, array in network.as_ours().items()} == ours


def test_a_step_at_rate_zero_keeps_the_weights(torch_network):
    import importlib
    torch = importlib.import_module("torch")
    from benchmarks.torch_network import TorchTrainStep
    network, _, inputs, lengths = torch_network
    network = copy.deepcopy(network)
    step = TorchTrainStep(network, OptimConfig(), 400.0, 28)
    arguments = [torch.from_numpy(inputs), torch.from_numpy(lengths),
                 torch.tensor([1, 2, 3, 4]), torch.tensor([2, 1, 1])]
    weights = [p.detach().clone() for p in network.parameters()]
    first, second = step(*arguments, 0.0), step(*arguments, 0.0)
    assert first == pytest.approx(second, rel=1e-5)
    assert all(torch.equal(before, after) for before, after in zip(weights, network.parameters(), strict=True))
    total = sum(norm ** 2 for norm in step.gradient_norms().values()) ** 0.5
    assert total == pytest.approx(min(first[1], 400.0), rel=1e-4)
    step(*arguments, 1e-3)
    assert step(*arguments, 0.0)[0] < first[0]


def test_the_loop_over_characters_decodes_the_same(labels):
    torch = pytest.importorskip("torch")
    from benchmarks.original import CharacterLoop
    probs, sizes = peaky_probabilities(3, 80, labels), np.array([80, 33, 0])
    texts, offsets = CharacterLoop(labels).decode(torch.from_numpy(probs), torch.from_numpy(sizes))
    expected, expected_offsets = GreedyDecoder(labels.characters).decode(probs, sizes)
    assert texts == expected and texts[0][0]
    assert all(np.array_equal(a[0].numpy(), b[0]) for a, b in zip(offsets, expected_offsets, strict=True))


def test_the_original_loader(demo_corpus, labels):
    torch = pytest.importorskip("torch")
    from benchmarks.original import random_batches
    manifest = read_manifest(demo_corpus / "demo_train_manifest.csv", labels)
    batches = list(random_batches(manifest, labels, SpectConfig(), 5, limit=2))
    inputs, lengths, targets, counts = batches[0]
    assert len(batches) == 2 and inputs.shape == (5, 1, 161, lengths[0]) and (lengths.diff() <= 0).all()
    assert targets.shape == (counts.sum(),)
    row = next(i for i, path in enumerate(manifest.audio_paths)
               if features(torch, path).shape[1] == lengths[0])
    np.testing.assert_allclose(inputs[0, 0], features(torch, manifest.audio_paths[row]), atol=1e-6)
    assert targets[:counts[0]].tolist() == read_transcript(manifest.transcript_paths[row], labels)[1]


# reports

def test_tables():
    assert report.table(["name", "n"], [["a", "1"], ["b", "–"]]) == "| name | n |\n| --- | ---: |\n| a | 1 |\n| b | – |"


@pytest.mark.parametrize(("value", "text"), [
    (None, "–"), (12.345, "12.3 s"), (1.0, "1.00 s"), (0.0123, "12.3 ms"), (123.4, "123 s"), (0.5, "0.500 s")])
def test_seconds(value, text):
    assert report.seconds(value) == text


def test_every_section_is_reported():
    text = report.markdown(RESULTS)
    assert re.findall(r"^### (.*)", text, re.M) == [title for title, _ in report.RENDERED.values()]
    assert set(command.SECTIONS) | {"profile"} == report.RENDERED.keys()
    assert "| 256 | 8 | 3.9–4.1 s | 2.00 s | 3.00 s | 1.50 (1.25–2.00) | 30% | 20% | 9.00 s | 1e-07 | 1e-05 |" in text
    assert "| 256 | 8 | 3.9–4.1 s | 0.500 s | 50.0 ms | 10% |" in text
    assert "Not measured: ONNX (no such format)." in text
    assert "| ours | 50.0 s | 2 | 2.0 | 25% | 60.0 |" in text
    assert "| AN4 | 60 | 600 s | 300 | 200 | 1.50 (1.25–2.00) | 1e-05 |" in text
    assert "| `import torch` | 1.50 s | 1.00 s to 2.00 s |" in text
    assert "| CTC loss | – | 12.3 ms |" in text


def test_what_was_not_measured_is_not_reported():
    assert "###" not in report.markdown({key: RESULTS[key] for key in ("machine", "quick", "network", "speech")})


def test_no_ratio_where_outputs_differ():
    results = copy.deepcopy(RESULTS)
    row = results["train"][0]
    row["comparison"] |= {"same": False, "loss_difference": 0.5}
    for key in TIMES:
        del row[key]
    assert report.differing(RESULTS) == []
    assert len(report.differing(results)) == 1 and "loss_difference 0.5" in report.differing(results)[0]
    assert "| 256 | 8 | 3.9–4.1 s | – | – | – | – | – |" in report.markdown(results)


def test_text_by_hand_stays():
    text = f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n"
    once = report.updated(text, "new")
    assert once == f"before\n{report.BEGIN}\n\nnew\n\n{report.END}\nafter\n"
    assert report.updated(once, "new") == once
    with pytest.raises(ValueError, match="markers|lines"):
        report.updated("nothing", "new")


def test_the_page_in_docs_can_be_updated():
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert "new" in report.updated(page, "new")


def test_files(tmp_path):
    pytest.importorskip("matplotlib")
    report.write(RESULTS, tmp_path)
    report.write(RESULTS, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"performance.md", "performance.json", "performance.png"}
    assert json.loads((tmp_path / "performance.json").read_text()) == RESULTS
    assert (tmp_path / "performance.md").read_text().count("### Training step") == 1
    assert 5_000 < (tmp_path / "performance.png").stat().st_size < 200_000


def test_the_machine_is_described_without_names():
    import socket
    found = machine.describe()
    assert found["cores"] >= 1 and found["versions"]["numpy"] == np.__version__
    assert socket.gethostname() not in json.dumps(found) or len(socket.gethostname()) < 3
    assert str(ROOT) not in json.dumps(found)


def test_other_programs_are_mentioned():
    results = copy.deepcopy(RESULTS)
    results["train"][0]["foreign_share"], results["features"][0]["foreign_share"] = 0.31, 0.02
    assert report.disturbed(RESULTS) == [] and "Other programs" not in report.markdown(RESULTS)
    assert report.disturbed(results) == ["31% of the cores in train"]
    assert report.markdown(results).startswith("- **Other programs were running")


def test_descendants_are_not_foreign():
    """The processor time of a child counts as our own, while it runs and after its end."""
    burn = "import time, os\nwhile time.process_time() < 0.5: pass\nos.write(1, b'x')\nos.read(0, 1)"
    before = machine.own_cpu_seconds()
    with subprocess.Popen([sys.executable, "-c", burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.read(1)
        running = machine.own_cpu_seconds()
        child.stdin.write(b"x")
    assert running >= before + 0.4 and machine.own_cpu_seconds() >= before + 0.4
    assert machine.all_cpu_seconds() >= running
    assert 0 <= machine.ForeignLoad().share() <= 1


# the command

def test_without_torch_the_command_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None if name == "torch" else object())
    assert command.main([]) == 2
    assert "needs torch: python -m pip install -r requirements-benchmark.txt" in capsys.readouterr().err


def test_an_unknown_section_is_refused(capsys):
    assert command.main(["--only", "train,magic"]) == 2
    assert "magic: the sections are peak, train" in capsys.readouterr().err


def test_a_quick_run(tmp_path, monkeypatch):
    """Two sections from start to end, one of them with both networks; synthetic speech, as real speech is not there."""
    pytest.importorskip("torch")
    pytest.importorskip("matplotlib")
    monkeypatch.setenv("DS2_SHARED", str(tmp_path / "nothing"))
    assert command.main(["--quick", "--only", "train,decoding", "--output", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "performance.json").read_text())
    assert results["speech"][0]["name"].startswith("the demo corpus")
    assert [row["batch"] for row in results["train"]] == [2, 1]
    assert all(row["comparison"]["same"] for row in results["train"]) and not results["failed"]
    for text in ((tmp_path / name).read_text() for name in ("performance.json", "performance.md")):
        assert str(tmp_path) not in text and str(ROOT) not in text and "/tmp" not in text


@pytest.mark.usefixtures("graph_mode")
def test_the_profile_has_logits_in_the_place_of_the_network():
    """All classes alike in 3 frames: 6 of the 29^3 paths are a run of one label with blanks around it."""
    import mindspore as ms
    from mindspore import Tensor

    from benchmarks.side_profile import Logits
    from src.DeepSpeech import LossCell
    ones = Tensor(np.array([1], np.int32))
    loss = LossCell(Logits(), 28)(Tensor(np.zeros((3, 1, 29), np.float32)), ones * 3, ones.reshape(1, 1), ones,
                                  Tensor(1.0, ms.float32))
    assert float(loss) == pytest.approx(-np.log(6 / 29**3), rel=1e-5)
