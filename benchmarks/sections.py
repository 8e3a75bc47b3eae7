"""What is measured: each section yields a row of figures for each case.

Outputs are compared before anything is timed: `Bench.compare` times no side whose outputs differ.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.workers import OURS, ROOT, TORCH, Worker, workers
from deepspeech2.errors import RunError
from deepspeech2.features import SpectConfig
from deepspeech2.labels import Labels
from src.config import Config, ModelConfig, load_config, strided_size
from src.dataset import Batch, BatchSource
from src.manifest import Manifest, read_manifest

CHECKPOINT, MINDIR, ONNX, INT8 = "checkpoint", "MindIR", "ONNX", "ONNX int8"
PROBABILITY_TOLERANCE = 1e-4  # absolute
LOSS_TOLERANCE, NORM_TOLERANCE = 1e-4, 1e-3  # relative
SAME_BEST_CLASS = 0.9  # of the frames, for weights that are rounded to int8
FEATURE_TOLERANCE = 1e-3  # their deviation is 1; full scale is 32767 in the original, ours 32768
UTTERANCE_SECONDS = 4.0
MAX_WORK = 1024 * 8  # units times batch
MIN_ROUNDS, MAX_ROUNDS = 3, 9


@dataclass(frozen=True)
class Sizes:
    """How much a run measures."""

    units: tuple[int, ...] = (256, 512, 1024)
    layers: int = 5
    channels: int = 32
    batches: tuple[int, ...] = (8, 1, 20)
    round_seconds: float = 12.0  # no further round begins after them
    epoch_batches: int | None = None  # None: the whole epoch
    feature_files: int = 60
    matrix: int = 2048


FULL = Sizes()
QUICK = Sizes((32,), 2, 16, (2, 1), round_seconds=1.0, epoch_batches=4, feature_files=8, matrix=512)


class Corpus(NamedTuple):
    """The training set of a prepared corpus."""

    name: str
    manifest: Manifest

    def describe(self) -> dict:
        """What a report says about the corpus."""
        lengths = self.manifest.seconds
        numbers = {"minutes": lengths.sum() / 60, "shortest": lengths.min(),
                   "longest": lengths.max()}
        return {"name": self.name, "utterances": len(lengths)} | rounded(numbers, 1)

    def rows_near(self, seconds: float, count: int) -> np.ndarray:
        """The `count` rows nearest in length to `seconds`, from short to long."""
        lengths = self.manifest.seconds
        nearest = np.argsort(np.abs(lengths - seconds), kind="stable")[:count]
        return nearest[np.argsort(lengths[nearest], kind="stable")]


def rounded(numbers: dict[str, float], digits: int) -> dict[str, float]:
    """Plain floats, for JSON."""
    return {name: round(float(number), digits) for name, number in numbers.items()}


def prepare_corpora(folder: Path, quick: bool) -> list[Corpus]:
    """AN4 and LibriSpeech from DS2_SHARED or ../shared into `folder`; the demo corpus without them.

    Raises:
        RunError: when a preparation command fails.
    """
    shared = Path(os.environ.get("DS2_SHARED", ROOT.parent / "shared")) / "data"
    real = [("AN4", "an4", "an4_train", shared / "an4"),
            ("LibriSpeech", "librispeech", "libri_train", shared / "LibriSpeech")]
    found = [(*names, ["--source", str(source)])
             for *names, source in real[:1 if quick else 2] if source.is_dir()]
    small = ["--train", "48", "--val", "8", "--test", "8"] if quick else []
    demo = "the demo corpus (synthetic speech)", "demo", "demo_train", small
    corpora = []
    for name, module, manifest, options in found or [demo]:
        run([sys.executable, "-m", f"data.{module}", "--target", str(folder), *options])
        labels = Labels.load(ROOT / "labels.json")
        corpora.append(Corpus(name, read_manifest(folder / f"{manifest}_manifest.csv", labels)))
    return corpora


def run(command: list[str]) -> float:
    """Run a command in the repository and return its seconds. Raises RunError."""
    started = time.perf_counter()
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RunError(f"{' '.join(command)} failed:\n{result.stderr}")
    return time.perf_counter() - started


class Bench:
    """One run: its sizes, its corpora (batches come from the first one), and a folder for files."""

    def __init__(self, folder: Path, sizes: Sizes, corpora: list[Corpus]):
        self.folder, self.sizes, self.corpora = folder, sizes, corpora
        self.corpus, self.labels = corpora[0], Labels.load(ROOT / "labels.json")

    def config(self, units: int) -> Config:
        """The network that is measured, with `units` units in a layer."""
        return load_config(None, [
            f"ModelConfig.hidden_size={units}", f"ModelConfig.hidden_layers={self.sizes.layers}",
            f"ModelConfig.conv_channels={self.sizes.channels}",
            "ModelConfig.conv2_kernel=[21, 11]"])

    def cases(self, units: int) -> Iterator[tuple[Batch, dict]]:
        """The batches that are measured with `units`, each with the beginning of its row."""
        for size in self.sizes.batches:
            if size * units <= MAX_WORK:
                batch, row = self.batch(size)
                yield batch, {"units": units} | row

    def batch(self, size: int) -> tuple[Batch, dict]:
        """A batch of utterances of about 4 s, and what a report says about the batch."""
        manifest, rows = self.corpus.manifest, self.corpus.rows_near(UTTERANCE_SECONDS, size)
        lengths = manifest.seconds[rows]
        row = {"audio_seconds": lengths.sum(), "shortest": lengths[0], "longest": lengths[-1]}
        batch = BatchSource(manifest, [rows], self.labels, SpectConfig()).batch(0)
        return batch, {"batch": size} | rounded(row, 2)

    def build(self, config: Config, sides: Mapping[str, Worker], folder: str = "") -> None:
        """The same network in both workers; PyTorch makes the weights and writes them."""
        weights = str(self.folder / folder / "weights.npz")
        sides[TORCH].call("build", config=config)
        sides[TORCH].call("set_batch", batch=self.batch(self.sizes.batches[0])[0])
        sides[TORCH].call("save_weights", path=weights)
        sides[OURS].call("build", config=config, weights=weights)

    def models(self, units: int) -> dict[str, str]:
        """{side: path}: the same weights in every format; the files are made once."""
        folder = self.folder / f"models_{units}"
        names = {CHECKPOINT: "model.ckpt", MINDIR: "model.mindir", ONNX: "model.onnx",
                 INT8: "int8.onnx", TORCH: "weights.pt"}
        paths = {side: str(folder / name) for side, name in names.items()}
        if not folder.exists():
            folder.mkdir()
            with workers(OURS, TORCH) as sides:
                self.build(self.config(units), sides, folder.name)
                sides[OURS].call("save_checkpoint", path=paths[CHECKPOINT], weights_only=True)
                sides[OURS].call("export", checkpoint=paths[CHECKPOINT], mindir=paths[MINDIR],
                                 onnx=paths[ONNX], int8=paths[INT8])
        return paths

    def compare(self, turns: Mapping[str, Callable[[], float]],
                comparisons: Mapping[str, dict] | None = None, rounds: int = 0) -> dict:
        """Seconds of the sides in turns A B A B, medians, and each speedup against PyTorch.

        Args:
            turns: {side: a function that returns its seconds}.
            comparisons: {side: comparison of its outputs}; a side that differs is not timed.
            rounds: 0 for what the time allows.

        Returns:
            The part of a row; empty when no side is left to compare with PyTorch.
        """
        differing = {side for side, found in (comparisons or {}).items() if not found["same"]}
        if turns.keys() - differing == {TORCH}:
            return {}
        seconds = {side: [] for side in turns if side not in differing}
        ends = time.monotonic() + self.sizes.round_seconds
        least, most = (rounds, rounds) if rounds else (MIN_ROUNDS, MAX_ROUNDS)
        for done in range(most):
            if done >= least and time.monotonic() >= ends:
                break
            for side, runs in seconds.items():
                runs.append(turns[side]())
        medians = {side: statistics.median(runs) for side, runs in seconds.items()}
        row = {"seconds": seconds, "median": medians}
        if TORCH in seconds:
            row["speedup"] = {side: speedup(seconds[TORCH], runs)
                              for side, runs in seconds.items() if side != TORCH}
        return row


def speedup(theirs: list[float], ours: list[float]) -> dict[str, float]:
    """How many times as fast we are: by the medians, and the extremes of adjacent runs."""
    pairs = [a / b for a, b in zip(theirs, ours, strict=True)]
    return {"value": statistics.median(theirs) / statistics.median(ours),
            "low": min(pairs), "high": max(pairs)}


def compare_training(ours: tuple[float, float], theirs: tuple[float, float],
                     gradients: tuple[dict[str, float], dict[str, float]] | None = None) -> dict:
    """How far loss, gradient norm and the norms of all gradients are from PyTorch's.

    A gradient that is zero but for rounding, such as that of a bias before a batch norm, is held
    against all gradients.
    """
    loss, norm = (abs(a / b - 1) for a, b in zip(ours, theirs, strict=True))
    result = {"loss": theirs[0], "loss_difference": loss,
              "norm": theirs[1], "norm_difference": norm}
    same = loss <= LOSS_TOLERANCE and norm <= NORM_TOLERANCE
    if gradients:
        own, other = gradients
        total = sum(value ** 2 for value in other.values()) ** 0.5
        result["gradient_difference"] = max(
            abs(own[name] - other[name]) / (other[name] + 0.01 * total)
            for name in own.keys() | other.keys())
        same = same and result["gradient_difference"] <= NORM_TOLERANCE
    return result | {"same": same}


def compare_probabilities(ours: tuple[np.ndarray, np.ndarray],
                          theirs: tuple[np.ndarray, np.ndarray], rounded: bool = False) -> dict:
    """The largest difference between (N, T', C) probabilities within the (N,) lengths.

    For weights that are `rounded`, the same best class in nearly all frames is enough.
    """
    (probs, lengths), (torch_probs, torch_lengths) = ours, theirs
    if probs.shape != torch_probs.shape or not np.array_equal(lengths, torch_lengths):
        return {"same": False, "difference": None}
    frames = np.arange(probs.shape[1]) < lengths[:, None]
    difference = float(np.abs(probs - torch_probs)[frames].max())
    agreeing = float((probs.argmax(-1) == torch_probs.argmax(-1))[frames].mean())
    same = agreeing >= SAME_BEST_CLASS if rounded else difference <= PROBABILITY_TOLERANCE
    return {"difference": difference, "same_best_class": agreeing, "same": same}


def layer_flops(model: ModelConfig, frames, num_bins: int = 161, classes: int = 29) -> dict:
    """Operations of each kind of layer in a forward pass over utterances of `frames` frames.

    A multiplication and an addition count as two. The matrix products of convolutions, LSTMs and
    projection are counted, for the frames of each utterance and not for its padding.
    """
    frames, flops, inputs = np.asarray(frames, float), {}, 1
    bins, hidden = model.conv_bins(num_bins), model.hidden_size
    for i, (f, t) in enumerate(model.conv_kernels):
        outputs = bins[i] * strided_size(frames, model.time_strides[i]).sum()
        flops[f"conv {i + 1}"] = 2 * f * t * inputs * model.conv_channels * outputs
        inputs = model.conv_channels
    steps = model.output_lengths(frames).sum()
    widths = [inputs * bins[1]] + [hidden] * (model.hidden_layers - 1)
    directions = 2 if model.bidirectional else 1
    flops["LSTMs"] = sum(2 * 4 * hidden * (w + hidden) * directions * steps for w in widths)
    return flops | {"projection": 2 * hidden * classes * steps}


def train_flops(layers: dict[str, float]) -> float:
    """Operations of both passes: a product has two gradients, that of conv 1 has only one."""
    return 3 * sum(layers.values()) - layers["conv 1"]


def peak(bench: Bench) -> Iterator[dict]:
    """The best float32 matrix product that any library reaches here, in GFLOP/s."""
    size, best = bench.sizes.matrix, {}
    with workers(OURS, TORCH) as sides:
        for _ in range(5):
            for library, side in (("MindSpore", OURS), ("PyTorch", TORCH), ("NumPy", TORCH)):
                seconds = sides[side].call("multiply", size=size, library=library)
                best[library] = max(best.get(library, 0.0), 2e-9 * size ** 3 / seconds)
    yield {"size": size, "gflops": best}


def train(bench: Bench) -> Iterator[dict]:
    """A training step, from arrays to the loss as a number. One row a network and batch."""
    for units in bench.sizes.units:
        config = bench.config(units)
        with workers(OURS, TORCH) as sides:
            bench.build(config, sides)
            for i, (batch, row) in enumerate(bench.cases(units)):
                first, outputs = first_call(sides, batch)
                # ours knows the norms after its very first step only
                gradients = None if i else [w.call("gradient_norms") for w in sides.values()]
                comparison = compare_training(outputs[OURS], outputs[TORCH], gradients)
                gflop = train_flops(layer_flops(config.ModelConfig, batch.input_length)) / 1e9
                row |= {"first_call": first, "comparison": comparison, "gflop": gflop}
                turns = {side: worker.turn("train") for side, worker in sides.items()}
                yield row | bench.compare(turns, {OURS: comparison})


def inference(bench: Bench) -> Iterator[dict]:
    """A prediction, from arrays to arrays, by each stored format. One row a network and batch."""
    for units in bench.sizes.units:
        config, models = bench.config(units), bench.models(units)
        with workers(OURS, ONNX, TORCH) as processes:
            processes[OURS].call("start")
            process = {CHECKPOINT: OURS, MINDIR: OURS, INT8: ONNX}
            sides = {side: processes[process.get(side, side)] for side in models}
            load = {side: worker.time("load_model", least=0.0, path=models[side])[0][0]
                    for side, worker in sides.items()}
            for batch, row in bench.cases(units):
                first, outputs = first_call(sides, batch, models)
                theirs = outputs.pop(TORCH)
                comparison = {side: compare_probabilities(output, theirs, rounded=side == INT8)
                              for side, output in outputs.items()}
                gflop = sum(layer_flops(config.ModelConfig, batch.input_length).values()) / 1e9
                row |= {"load": load, "first_call": first, "comparison": comparison,
                        "gflop": gflop}
                turns = {side: worker.turn("predict", path=models[side])
                         for side, worker in sides.items()}
                yield row | bench.compare(turns, comparison)


def first_call(sides: Mapping[str, Worker], batch: Batch, models: Mapping[str, str] | None = None,
               ) -> tuple[dict, dict]:
    """{side: seconds} and {side: outputs} of the first call with a batch, which may compile.

    Args:
        models: {side: path} to predict with; without it a training step is taken.
    """
    first, outputs = {}, {}
    for side, worker in sides.items():
        worker.call("set_batch", batch=batch)
        call = {"method": "predict", "path": models[side]} if models else {"method": "train"}
        (first[side],), outputs[side] = worker.time(least=0.0, **call)
    return first, outputs


def epoch(bench: Bench) -> Iterator[dict]:
    """An epoch of the AN4 recipe with its loading: batches of similar lengths, or random ones."""
    config = load_config(ROOT / "configs" / "an4.yaml", [
        f"DataConfig.train_manifest={bench.corpus.manifest.path}", "DataConfig.batch_size=16",
        f"ModelConfig.hidden_size={bench.sizes.units[0]}",
        "ModelConfig.conv2_time_stride=1"])  # the original's
    model, runs = config.ModelConfig, {}
    with workers(OURS, TORCH) as sides:
        bench.build(config, sides)
        first_call(sides, bench.batch(bench.sizes.batches[0])[0])

        def turn(side: str) -> float:
            runs[side] = sides[side].call("epoch", limit=bench.sizes.epoch_batches)
            return runs[side]["seconds"]

        row = bench.compare({side: partial(turn, side) for side in sides}, rounds=1)
    yield {"corpus": bench.corpus.name, "units": model.hidden_size, "layers": model.hidden_layers,
           "channels": model.conv_channels, "batch": config.DataConfig.batch_size} | row | {
               "runs": runs}


def features(bench: Bench) -> Iterator[dict]:
    """CPU seconds of one thread from WAV files to normalised spectrograms. One row a corpus."""
    for name, manifest in bench.corpora:
        order = np.argsort(manifest.seconds, kind="stable")
        rows = order[np.linspace(0, len(order) - 1, bench.sizes.feature_files).astype(int)]
        paths = [manifest.audio_paths[row] for row in rows]
        with workers(OURS, TORCH) as sides:
            found = [[worker.call("feature", path=path) for path in paths[::10]]
                     for worker in sides.values()]
            # NumPy's maximum keeps NaN, unlike Python's
            difference = np.max([np.abs(a - b).max() for a, b in zip(*found, strict=True)]).item()
            comparison = {"difference": difference, "same": difference <= FEATURE_TOLERANCE}
            turns = {side: partial(worker.call, "features", paths=paths)
                     for side, worker in sides.items()}
            yield {"corpus": name, "files": len(paths),
                   "audio_seconds": round(float(manifest.seconds[rows].sum()), 1),
                   "comparison": comparison} | bench.compare(turns, {OURS: comparison}, rounds=5)


def decoding(bench: Bench) -> Iterator[dict]:
    """Greedy decoding of 64 utterances of 500 frames, against a Python loop over the frames."""
    probs = peaky_probabilities(64, 500, bench.labels)
    sizes = np.random.default_rng(1).integers(400, 501, len(probs)).astype(np.int32)
    with workers(OURS, TORCH) as sides:
        ours, theirs = (w.call("decode", probs=probs, sizes=sizes) for w in sides.values())
        comparison = {"same": ours == theirs}
        turns = {side: worker.turn("decode", probs=probs, sizes=sizes)
                 for side, worker in sides.items()}
        row = bench.compare(turns, {OURS: comparison}, rounds=5)
    yield {"shape": list(probs.shape), "comparison": comparison} | row


def peaky_probabilities(utterances: int, frames: int, labels: Labels) -> np.ndarray:
    """(N, T, C) softmax outputs like a trained network's: characters of 1 or 2 frames, blanks."""
    rng = np.random.default_rng(0)
    best = np.full((utterances, frames), labels.blank_index)
    for row in best:
        position = 0
        while position < frames:
            length = rng.integers(1, 3)
            row[position:position + length] = rng.integers(0, len(labels))
            position += length + rng.integers(0, 8)
    logits = rng.standard_normal((utterances, frames, len(labels)))
    np.put_along_axis(logits, best[..., None], 8.0, axis=2)
    exponentials = np.exp(logits)
    return (exponentials / exponentials.sum(2, keepdims=True)).astype(np.float32)


def start(bench: Bench) -> Iterator[dict]:
    """Wall seconds of fresh processes: transcribing one short file, importing the frameworks."""
    units, (row,) = bench.sizes.units[0], bench.corpus.rows_near(2.0, 1)
    recording, models = bench.corpus.manifest.audio_paths[row], bench.models(units)
    commands = {f"transcribe.py with {side}": ["transcribe.py", "--pretrain_ckpt", models[side],
                                               recording] for side in (CHECKPOINT, ONNX)}
    commands |= {f"import {name}": ["-c", f"import {name}"] for name in ("mindspore", "torch")}
    turns = {name: partial(run, [sys.executable, *options]) for name, options in commands.items()}
    for turn in turns.values():
        turn()  # reads what the disk has to give, and writes the byte code
    yield {"units": units} | bench.compare(turns, rounds=MIN_ROUNDS)


def checkpoints(bench: Bench) -> Iterator[dict]:
    """Writing and reading the weights and the optimizer's moments of the largest network."""
    units, files = bench.sizes.units[-1], {OURS: "saved.ckpt", TORCH: "saved.pt"}
    paths = {side: bench.folder / name for side, name in files.items()}
    with workers(OURS, TORCH) as sides:
        bench.build(bench.config(units), sides)
        sides[TORCH].call("train")  # PyTorch makes the moments at the first step
        for what in ("save", "load"):
            turns = {side: worker.turn(f"{what}_checkpoint", path=str(paths[side]))
                     for side, worker in sides.items()}
            yield {"what": what, "units": units} | bench.compare(turns, rounds=MIN_ROUNDS) | {
                "mib": {side: path.stat().st_size / 2**20 for side, path in paths.items()}}


def memory(bench: Bench) -> Iterator[dict]:
    """Peak memory of fresh processes: two training steps, or two predictions, at the full size."""
    units, (batch, row) = bench.sizes.units[-1], bench.batch(bench.sizes.batches[0])
    models = bench.models(units)
    for what, sides in (("training step", (OURS, TORCH)), ("inference", models)):
        gib = {}
        for side in sides:
            with workers(side) as processes:
                worker = processes[side]
                if what == "training step":
                    worker.call("build", config=bench.config(units))
                else:
                    worker.call("load_model", path=models[side])
                for _ in range(2):
                    first_call(processes, batch, models if what == "inference" else None)
                gib[side] = worker.call("peak_memory")
        yield {"units": units} | row | {"what": what, "gib": gib}


SECTIONS = {section.__name__: section for section in (
    peak, train, inference, epoch, features, decoding, start, checkpoints, memory)}
