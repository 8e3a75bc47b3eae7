"""The sections about what stands around the network: an epoch with its data, features, decoding, start, checkpoints."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np

from benchmarks.bench import OURS, TORCH, Bench, turn
from benchmarks.network_sections import CHECKPOINT, ONNX, build_both, make_models
from benchmarks.workers import ROOT, WorkerError, workers
from deepspeech2.labels import Labels
from src.config import load_config

FEATURE_TOLERANCE = 1e-3     # of features with deviation 1; the original's full scale is 32767, ours 32768
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def epoch(bench: Bench) -> Iterator[dict]:
    """One epoch of the AN4 recipe with its loading: batches of similar lengths, against the original's random ones."""
    manifest = bench.main_speech.manifest
    units = 32 if bench.sizes.epoch_batches else 256     # a few batches: a tiny network
    config = load_config(ROOT / "configs" / "an4.yaml", [
        f"DataConfig.train_manifest={manifest.path}", "DataConfig.batch_size=16", f"ModelConfig.hidden_size={units}",
        "ModelConfig.conv2_time_stride=1"])     # the original's stride
    row = {"corpus": bench.main_speech.name, "units": config.ModelConfig.hidden_size,
           "layers": config.ModelConfig.hidden_layers, "channels": config.ModelConfig.conv_channels,
           "batch": config.DataConfig.batch_size}
    with workers({OURS: "side_ours", TORCH: "side_torch"}) as sides:
        build_both(bench, config, sides)
        results = {}

        def run(side: str) -> float:
            results[side] = sides[side].call("epoch", limit=bench.sizes.epoch_batches)
            return results[side]["seconds"]

        for worker in sides.values():
            worker.call("set_batch", batch=bench.batch(bench.sizes.batches[0])[0])
            worker.call("train", least=0.0)        # compiles
        row |= bench.compare({side: lambda s=side: run(s) for side in sides}, sides, rounds=1)
    yield row | {"runs": results}


def features(bench: Bench) -> Iterator[dict]:
    """Audio seconds per CPU second of one thread, from WAV file to normalised spectrogram. One row a corpus."""
    for speech in bench.speech.values():
        order = np.argsort(speech.manifest.seconds, kind="stable")
        rows = order[np.linspace(0, len(order) - 1, bench.sizes.feature_files).astype(int)]
        paths = [speech.manifest.audio_paths[row] for row in rows]
        with workers({OURS: "side_ours", TORCH: "side_torch"}, ONE_THREAD) as sides:
            outputs = {side: worker.call("features", paths=paths[::10])[1] for side, worker in sides.items()}
            difference = max(float(np.abs(a - b).max()) for a, b in zip(*outputs.values(), strict=True))
            row = {"corpus": speech.name, "files": len(paths),
                   "audio_seconds": round(float(speech.manifest.seconds[rows].sum()), 1),
                   "comparison": {"difference": difference, "same": difference <= FEATURE_TOLERANCE}}
            if row["comparison"]["same"]:
                row |= bench.compare({side: turn(worker, "features", paths=paths) for side, worker in sides.items()},
                                     sides, rounds=5)
        yield row


def decoding(bench: Bench) -> Iterator[dict]:
    """Greedy decoding of 64 utterances of 500 frames, against a Python loop over characters."""
    labels = bench.main_speech.labels
    probs = peaky_probabilities(64, 500, labels)
    sizes = np.random.default_rng(1).integers(400, 501, len(probs)).astype(np.int32)
    with workers({OURS: "side_ours", TORCH: "side_torch"}) as sides:
        texts = {side: worker.call("decode", probs=probs, sizes=sizes)[1] for side, worker in sides.items()}
        row = {"shape": list(probs.shape), "comparison": {"same": texts[OURS] == texts[TORCH]}}
        if row["comparison"]["same"]:
            row |= bench.compare({side: turn(worker, "decode", probs=probs, sizes=sizes)
                                  for side, worker in sides.items()}, sides, rounds=5)
    yield row


def peaky_probabilities(utterances: int, frames: int, labels: Labels) -> np.ndarray:
    """(N, T, C) softmax outputs like a trained network's: mostly blanks, characters for a frame or two, all decided."""
    rng = np.random.default_rng(0)
    classes = len(labels)
    best = np.full((utterances, frames), labels.blank_index)
    for row in best:
        position = 0
        while position < frames:
            length = rng.integers(1, 3)
            row[position:position + length] = rng.integers(0, classes)
            position += length + rng.integers(0, 8)
    logits = rng.standard_normal((utterances, frames, classes))
    np.put_along_axis(logits, best[..., None], 8.0, axis=2)
    exponentials = np.exp(logits)
    return (exponentials / exponentials.sum(2, keepdims=True)).astype(np.float32)


def start(bench: Bench) -> Iterator[dict]:
    """Wall seconds of fresh processes: transcribing one short file, and importing the frameworks."""
    speech = bench.main_speech
    recording = speech.manifest.audio_paths[speech.rows_of_about(2.0, 1)[0]]
    units = bench.sizes.units[0]
    models, refused = make_models(bench, bench.config(units))
    transcribe = [sys.executable, "transcribe.py", "--pretrain_ckpt"]
    commands = {f"transcribe.py with {side}": [*transcribe, str(models[side]), recording]
                for side in (CHECKPOINT, ONNX) if side in models}
    commands |= {f"import {name}": [sys.executable, "-c", f"import {name}"] for name in ("mindspore", "torch")}

    def run(command: list[str]) -> float:
        started = time.perf_counter()
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if result.returncode:
            raise WorkerError(f"{' '.join(command)} failed:\n{result.stderr}")
        return time.perf_counter() - started

    for command in commands.values():
        run(command)      # reads what the disk has to give, and writes the byte code
    yield {"units": units, "refused": refused} | bench.compare(
        {name: lambda c=command: run(c) for name, command in commands.items()}, rounds=bench.sizes.least_rounds)


def checkpoints(bench: Bench) -> Iterator[dict]:
    """Writing and reading weights and the optimizer's moments of the largest network."""
    config = bench.config(bench.sizes.units[-1])
    with workers({OURS: "side_ours", TORCH: "side_torch"}) as sides:
        build_both(bench, config, sides)
        paths = {OURS: str(bench.folder / "saved.ckpt"), TORCH: str(bench.folder / "saved.pt")}
        for what in ("save", "load"):
            row = {"what": what, "units": config.ModelConfig.hidden_size}
            row |= bench.compare({side: turn(worker, f"{what}_checkpoint", path=paths[side])
                                  for side, worker in sides.items()}, sides, rounds=bench.sizes.least_rounds)
            yield row | {"mib": {side: os.path.getsize(path) / 2**20 for side, path in paths.items()}}
    for path in paths.values():
        os.unlink(path)
