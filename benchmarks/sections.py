"""What is measured: each section yields a row of figures for each case.

Outputs are compared before anything is timed: `Bench.compare` times no side whose outputs differ.
"""

import copy
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.workers import OURS, ROOT, TORCH, Worker, workers
from deepspeech2.errors import RunError
from deepspeech2.features import SpectConfig
from deepspeech2.labels import Labels
from src.config import Config, ModelConfig, load_config, strided_size
from src.dataset import Batch, BatchSource
from src.manifest import Manifest, read_manifest

CHECKPOINT, MINDIR, ONNX, INT8 = "checkpoint", "MindIR", "ONNX", "ONNX int8"
MODELS = {CHECKPOINT: "model.ckpt", MINDIR: "model.mindir", ONNX: "model.onnx", INT8: "int8.onnx",
          TORCH: "network.pt"}
PROBABILITY_TOLERANCE = 1e-4  # absolute
LOSS_TOLERANCE, NORM_TOLERANCE = 1e-4, 1e-3  # relative
SAME_BEST_CLASS = 0.9  # of the frames, for weights that are rounded to int8
FEATURE_TOLERANCE = 1e-3  # their deviation is 1; full scale is 32767 in the original, ours 32768
UTTERANCE_SECONDS = 4.0
MAX_WORK = 1024 * 8  # units times batch


def rows_near(manifest: Manifest, seconds: float, count: int) -> np.ndarray:
    """The `count` utterances nearest in length to `seconds`, from long to short."""
    nearest = np.argsort(np.abs(manifest.seconds - seconds), kind="stable")[:count]
    return nearest[np.argsort(-manifest.seconds[nearest], kind="stable")]


def prepare_corpora(folder: Path, quick: bool) -> dict[str, Manifest]:
    """{name: training set}: AN4 and LibriSpeech of DS2_SHARED or ../shared; or synthetic speech."""
    shared = Path(os.environ.get("DS2_SHARED", ROOT.parent / "shared")) / "data"
    corpora = [("AN4", "an4", "an4", ["--source", str(shared / "an4")]),
               ("LibriSpeech", "librispeech", "libri", ["--source", str(shared / "LibriSpeech")])]
    if quick or not shared.is_dir():
        small = ["--train", "48", "--val", "8", "--test", "8"] if quick else []
        corpora = [("the demo corpus (synthetic speech)", "demo", "demo", small)]
    labels, result = Labels.load(ROOT / "labels.json"), {}
    for name, module, prefix, options in corpora:
        run("-m", f"data.{module}", "--target", str(folder), *options)
        result[name] = read_manifest(folder / f"{prefix}_train_manifest.csv", labels)
    return result


def run(*arguments: str) -> float:
    """The seconds that Python takes with the arguments, in the repository. Raises RunError."""
    started = time.perf_counter()
    result = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True,
                            check=False)
    if result.returncode:
        raise RunError(f"python {' '.join(arguments)} failed:\n{result.stderr}")
    return time.perf_counter() - started


class Bench:
    """One run: its sizes, its corpora (batches come from the first one), and a folder for files."""

    def __init__(self, folder: Path, quick: bool, corpora: dict[str, Manifest]):
        self.folder, self.corpora = folder, corpora
        self.corpus, self.manifest = next(iter(corpora.items()))
        self.labels = Labels.load(ROOT / "labels.json")
        self.units = (32,) if quick else (256, 512, 1024)
        self.batches = (2, 1) if quick else (8, 1, 20)
        self.layers, self.rounds = (2, 2) if quick else (5, 5)
        # quick: compiles in half the time
        self.kernel, self.time_stride = ([21, 1], 2) if quick else ([21, 11], 1)

    def config(self, units: int) -> Config:
        """The network that is measured, with `units` units in a layer."""
        return load_config(None, [
            f"ModelConfig.hidden_size={units}", f"ModelConfig.hidden_layers={self.layers}",
            f"ModelConfig.conv2_kernel={self.kernel}",
            f"ModelConfig.conv2_time_stride={self.time_stride}"])

    def batch(self, size: int) -> tuple[Batch, dict]:
        """A batch of utterances of about 4 s, and what a report says about the batch."""
        rows = rows_near(self.manifest, UTTERANCE_SECONDS, size)
        lengths = self.manifest.seconds[rows]
        batch = BatchSource(self.manifest, [rows], self.labels, SpectConfig()).batch(0)
        return batch, {"batch": size, "shortest": lengths[-1], "longest": lengths[0]}

    def build(self, config: Config, sides: Mapping[str, Worker], folder: Path | None = None,
              ) -> None:
        """The same network in both workers; PyTorch makes the weights and writes them."""
        sides[TORCH].call("build", config=config)
        sides[TORCH].call("set_batch", batch=self.batch(self.batches[0])[0])
        sides[TORCH].call("save_weights", folder=folder or self.folder)
        sides[OURS].call("build", config=config, folder=folder or self.folder)

    def models(self, units: int) -> dict[str, str]:
        """{side: path}: the same weights in every format; the files are made once."""
        folder = self.folder / f"models_{units}"
        if not folder.exists():
            folder.mkdir()
            with workers(OURS, TORCH) as sides:
                self.build(self.config(units), sides, folder)
                sides[OURS].call("export", folder=folder)
        return {side: str(folder / name) for side, name in MODELS.items()}

    def compare(self, turns: Mapping[str, Callable[[], float]],
                comparison: Mapping[str, dict] | None = None) -> dict:
        """The seconds that {side: turn} return, A B A B, medians, and speedups against PyTorch.

        A side that differs by its comparison is not timed, nor is PyTorch alone.
        """
        row = {"comparison": comparison} if comparison else {}
        differing = {side for side, found in (comparison or {}).items() if not found["same"]}
        seconds = {side: [] for side in turns if side not in differing}
        if seconds.keys() == {TORCH}:
            return row
        for _ in range(self.rounds):
            for side, runs in seconds.items():
                runs.append(turns[side]())
        row |= {"seconds": seconds, "median": {
            side: statistics.median(runs) for side, runs in seconds.items()}}
        if theirs := seconds.get(TORCH):
            row["speedup"] = {side: speedup(theirs, ours) for side, ours in seconds.items()
                              if side != TORCH}
        return row


def speedup(theirs: list[float], ours: list[float]) -> dict[str, float]:
    """How many times as fast we are: by the medians, and the extremes of adjacent runs."""
    pairs = [a / b for a, b in zip(theirs, ours, strict=True)]
    return {"value": statistics.median(theirs) / statistics.median(ours),
            "low": min(pairs), "high": max(pairs)}


def compare_training(ours: tuple[float, float], theirs: tuple[float, float]) -> dict:
    """How far loss and gradient norm are from PyTorch's."""
    loss, norm = (abs(a / b - 1) for a, b in zip(ours, theirs, strict=True))
    return {"loss": theirs[0], "loss_difference": loss, "norm": theirs[1], "norm_difference": norm,
            "same": loss <= LOSS_TOLERANCE and norm <= NORM_TOLERANCE}


def compare_probabilities(ours: tuple[np.ndarray, np.ndarray],
                          theirs: tuple[np.ndarray, np.ndarray], rounded: bool = False) -> dict:
    """The largest difference between (N, T', C) probabilities within the (N,) lengths.

    For weights that are `rounded`, the same best class in nearly all frames is enough.
    """
    (probs, lengths), (torch_probs, torch_lengths) = ours, theirs
    frames = np.arange(probs.shape[1]) < lengths[:, None]
    difference = float(np.abs(probs - torch_probs)[frames].max())
    agreeing = float((probs.argmax(-1) == torch_probs.argmax(-1))[frames].mean())
    same = agreeing >= SAME_BEST_CLASS if rounded else difference <= PROBABILITY_TOLERANCE
    return {"difference": difference, "same_best_class": agreeing,
            "same": same and np.array_equal(lengths, torch_lengths)}


def flops(model: ModelConfig, frames: np.ndarray, training: bool) -> float:
    """Operations of a prediction or a training step, for (N,) `frames` of 161 bins, 29 classes.

    The multiplications and additions of the products in convolutions, LSTMs and projection are
    counted, for the frames of each utterance and not for its padding.
    """
    frames, channels, hidden = frames.astype(float), model.conv_channels, model.hidden_size
    (first, second), (bins1, bins2) = map(math.prod, model.conv_kernels), model.conv_bins(161)
    conv1 = first * channels * bins1 * strided_size(frames, model.time_strides[0]).sum()
    inputs = channels * bins2 + hidden * (model.hidden_layers - 1)
    lstms = 2 * 4 * hidden * (inputs + hidden * model.hidden_layers)  # both directions
    steps = model.output_lengths(frames).sum()
    total = conv1 + (second * channels**2 * bins2 + lstms + 29 * hidden) * steps
    # a product has two gradients, that of conv 1 has only one
    return 2 * (3 * total - conv1 if training else total)


def peak(bench: Bench) -> Iterator[dict]:
    """The best float32 matrix product that any library reaches here, in GFLOP/s."""
    size, best = 2048, {}
    with workers(OURS, TORCH) as sides:
        for _ in range(bench.rounds):
            for library, side in (("MindSpore", OURS), ("PyTorch", TORCH), ("NumPy", TORCH)):
                seconds = sides[side].call("multiply", size=size, library=library)
                best[library] = max(best.get(library, 0.0), 2e-9 * size ** 3 / seconds)
    yield {"size": size, "gflops": best}


def measured_batches(bench: Bench, units: int, sides: Mapping[str, Worker], method: str,
                     compare: Mapping[str, Callable]) -> Iterator[dict]:
    """A row for each size of a batch: training steps (`train`) or predictions (`predict`).

    The first call of a side may compile. Its output is compared by {side: function of our and
    PyTorch's output}.
    """
    model = bench.config(units).ModelConfig
    for size in (size for size in bench.batches if size * units <= MAX_WORK):
        batch, row = bench.batch(size)
        first, outputs = {}, {}
        for side, worker in sides.items():
            worker.call("set_batch", batch=batch)
            first[side], outputs[side] = worker.time(method)
        comparison = {side: function(outputs[side], outputs[TORCH])
                      for side, function in compare.items()}
        turns = {side: worker.turn(method) for side, worker in sides.items()}
        gflop = flops(model, batch.input_length, training=method == "train") / 1e9
        row |= {"units": units, "first_call": first, "gflop": gflop} | bench.compare(
            turns, comparison)
        yield row | {"gib": {side: worker.call("peak_memory") for side, worker in sides.items()}}


def train(bench: Bench) -> Iterator[dict]:
    """A training step, from arrays to the loss as a number. One row a network and batch."""
    for units in bench.units:
        with workers(OURS, TORCH) as sides:
            bench.build(bench.config(units), sides)
            yield from measured_batches(bench, units, sides, "train", {OURS: compare_training})


def inference(bench: Bench) -> Iterator[dict]:
    """A prediction, from arrays to arrays, by each stored format. One row a network and batch."""
    for units in bench.units:
        models = bench.models(units)
        with workers(*models) as sides:
            sides[MINDIR].call("start")  # a checkpoint needs no MindSpore on the CPU
            load = {side: worker.time("load_model", path=models[side])[0]
                    for side, worker in sides.items()}
            compare = {side: partial(compare_probabilities, rounded=side == INT8)
                       for side in models if side != TORCH}
            for row in measured_batches(bench, units, sides, "predict", compare):
                yield row | {"load": load}


def epoch(bench: Bench) -> Iterator[dict]:
    """An epoch of the AN4 recipe with its loading: batches of similar lengths, or random ones."""
    config = load_config(ROOT / "configs" / "an4.yaml", [
        f"DataConfig.train_manifest={bench.manifest.path}", "DataConfig.batch_size=16",
        f"ModelConfig.hidden_size={bench.units[0]}",
        "ModelConfig.conv2_time_stride=1"])  # the original's
    with workers(OURS, TORCH) as sides:
        bench.build(config, sides)
        sides[OURS].call("set_batch", batch=bench.batch(bench.batches[0])[0])
        for worker in sides.values():
            worker.call("train")  # compiles
        runs = {side: worker.call("epoch") for side, worker in sides.items()}
    ours, theirs = ([runs[side]["seconds"]] for side in sides)
    model = config.ModelConfig
    yield {"corpus": bench.corpus, "units": model.hidden_size, "layers": model.hidden_layers,
           "channels": model.conv_channels, "batch": config.DataConfig.batch_size,
           "runs": runs, "speedup": {OURS: speedup(theirs, ours)}}


def features(bench: Bench) -> Iterator[dict]:
    """CPU seconds of one thread from WAV files to normalised spectrograms. One row a corpus."""
    for name, manifest in bench.corpora.items():
        rows = np.linspace(0, len(manifest) - 1, 60).astype(int)
        paths = [manifest.audio_paths[row] for row in rows]
        with workers(OURS, TORCH) as sides:
            ours, theirs = (np.hstack([worker.call("feature", path=path) for path in paths[::10]])
                            for worker in sides.values())
            difference = np.abs(ours - theirs).max().item()
            comparison = {OURS: {"difference": difference, "same": difference <= FEATURE_TOLERANCE}}
            turns = {side: partial(worker.call, "features", paths=paths)
                     for side, worker in sides.items()}
            yield {"corpus": name, "files": len(paths),
                   "audio_seconds": manifest.seconds[rows].sum()} | bench.compare(turns, comparison)


def decoding(bench: Bench) -> Iterator[dict]:
    """Greedy decoding of 64 utterances of 500 frames, against a Python loop over the frames."""
    rng, characters = np.random.default_rng(0), len(bench.labels)
    classes = rng.integers(0, characters, (64, 250))
    classes[rng.random(classes.shape) < 0.6] = bench.labels.blank_index
    probs = np.eye(characters, dtype=np.float32)[classes.repeat(2, axis=1)]
    sizes = rng.integers(400, 501, len(probs)).astype(np.int32)
    with workers(OURS, TORCH) as sides:
        ours, theirs = (w.call("decode", probs=probs, sizes=sizes) for w in sides.values())
        turns = {side: worker.turn("decode", probs=probs, sizes=sizes)
                 for side, worker in sides.items()}
        yield {"shape": probs.shape} | bench.compare(turns, {OURS: {"same": ours == theirs}})


def start(bench: Bench) -> Iterator[dict]:
    """Wall seconds of fresh processes: transcribing one short file, importing the frameworks."""
    units, (row,) = bench.units[0], rows_near(bench.manifest, 2.0, 1)
    recording, models = bench.manifest.audio_paths[row], bench.models(units)
    turns = {f"transcribe.py with {side}": partial(
        run, "transcribe.py", "--pretrain_ckpt", models[side], recording)
        for side in (CHECKPOINT, ONNX)}
    turns |= {f"import {name}": partial(run, "-c", f"import {name}")
              for name in ("mindspore", "torch")}
    for turn in turns.values():
        turn()  # reads what the disk has to give, and writes the byte code
    yield {"units": units} | bench.compare(turns)


def checkpoints(bench: Bench) -> Iterator[dict]:
    """Writing and reading the weights and the optimizer's moments of the largest network."""
    units = bench.units[-1]
    paths = {OURS: bench.folder / "saved.ckpt", TORCH: bench.folder / "saved.pt"}
    with workers(OURS, TORCH) as sides:
        bench.build(bench.config(units), sides)
        sides[TORCH].call("train")  # PyTorch makes the moments at the first step
        for what in ("save", "load"):
            turns = {side: worker.turn(f"{what}_checkpoint", path=str(paths[side]))
                     for side, worker in sides.items()}
            yield {"what": what, "units": units} | bench.compare(turns) | {
                "mib": {side: path.stat().st_size / 2**20 for side, path in paths.items()}}


def memory(bench: Bench) -> Iterator[dict]:
    """Peak memory of each side's process after training steps, and after predictions."""
    largest = copy.copy(bench)
    largest.units, largest.batches, largest.rounds = bench.units[-1:], bench.batches[:1], 1
    for what, section in (("training step", train), ("inference", inference)):
        (row,) = section(largest)
        yield {"what": what} | {key: row[key] for key in ("units", "batch", "gib")}


SECTIONS = {section.__name__: section for section in (
    peak, train, inference, epoch, features, decoding, start, checkpoints, memory)}
