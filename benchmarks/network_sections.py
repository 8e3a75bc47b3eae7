"""The sections about the network: its training step and inference against PyTorch, memory, the machine's best."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.bench import OURS, TORCH, Bench, turn
from benchmarks.flops import forward_flops, train_flops
from benchmarks.workers import Worker, WorkerError, workers
from src.config import Config

logger = logging.getLogger(__name__)

PROBABILITY_TOLERANCE = 1e-4                      # absolute
LOSS_TOLERANCE, NORM_TOLERANCE = 1e-4, 1e-3       # relative
SAME_BEST_CLASS = 0.9                             # of the frames, where the weights are rounded to int8
CHECKPOINT, MINDIR, ONNX, INT8 = "checkpoint", "MindIR", "ONNX", "ONNX int8"
EXPORTS = {MINDIR: ("model.mindir", []), ONNX: ("model.onnx", ["--file_format", "ONNX"]),
           INT8: ("int8.onnx", ["--file_format", "ONNX", "--quantize", "int8"])}


def train(bench: Bench) -> Iterator[dict]:
    """A training step, arrays to loss: forward, backward, clipping, AdamW. One row a network and batch."""
    for units in bench.sizes.units:
        config = bench.config(units)
        with workers({OURS: "side_ours", TORCH: "side_torch"}) as sides:
            build_both(bench, config, sides)
            for i, size in enumerate(bench.batches_for(units)):
                batch, row = bench.batch(size)
                first, outputs = {}, {}
                for side, worker in sides.items():
                    worker.call("set_batch", batch=batch)
                    seconds, *outputs[side] = worker.call("train", least=0.0)
                    first[side] = seconds[0]
                gradients = {side: worker.call("gradient_norms") for side, worker in sides.items()} if not i else {}
                comparison = compare_training(outputs, gradients)
                row = {"units": units} | row | {"first_call": first, "comparison": comparison,
                                                "gflop": train_flops(config.ModelConfig, batch["input_length"]) / 1e9}
                if comparison["same"]:
                    row |= bench.compare({side: turn(worker, "train") for side, worker in sides.items()}, sides)
                yield row


def inference(bench: Bench) -> Iterator[dict]:
    """A prediction, arrays to arrays, by every kind of model that we make. One row a network and batch."""
    for units in bench.sizes.units:
        config = bench.config(units)
        models, refused = make_models(bench, config)
        modules = {OURS: "side_ours", ONNX: "side_ours", TORCH: "side_torch"}
        with workers(modules) as processes:
            build_both(bench, config, {TORCH: processes[TORCH]})
            sides = {side: processes[ONNX if side in (ONNX, INT8) else OURS] for side in models} | {
                TORCH: processes[TORCH]}
            processes[OURS].call("start")
            load = {side: sides[side].call("load_model", path=str(path)) for side, path in models.items()}
            for size in bench.batches_for(units):
                batch, row = bench.batch(size)
                first, outputs = {}, {}
                for side, worker in sides.items():
                    worker.call("set_batch", batch=batch)
                    seconds, outputs[side] = worker.call("predict", path=str(models.get(side, "")), least=0.0)
                    first[side] = seconds[0]
                comparison = {side: compare_probabilities(outputs[side], outputs[TORCH], side == INT8)
                              for side in models}
                row = {"units": units} | row | {
                    "load": load, "first_call": first, "comparison": comparison, "refused": refused,
                    "gflop": forward_flops(config.ModelConfig, batch["input_length"]) / 1e9}
                same = {side: worker for side, worker in sides.items() if side == TORCH or comparison[side]["same"]}
                yield row | bench.compare({side: turn(worker, "predict", path=str(models.get(side, "")))
                                           for side, worker in same.items()}, sides)


def memory(bench: Bench) -> Iterator[dict]:
    """Peak resident memory of fresh processes: two training steps, and two predictions from a stored model."""
    units, size = bench.sizes.units[-1], bench.sizes.batches[0]
    config = bench.config(units)
    batch, row = bench.batch(size)
    models, refused = make_models(bench, config)
    row = {"units": units} | row | {"refused": refused}
    peaks = {}
    for side, module in ((OURS, "side_ours"), (TORCH, "side_torch")):
        with workers({side: module}) as processes:
            worker = processes[side]
            worker.call("start")
            worker.call("build", config=config)
            peaks[side] = _peak(worker, batch, "train")
            if side == TORCH:
                worker.call("save_model", path=str(bench.folder / "model.pt"))
    yield row | {"what": "training step", "gib": peaks}
    peaks = {}
    for side, path in (models | {TORCH: bench.folder / "model.pt"}).items():
        with workers({side: "side_torch" if side == TORCH else "side_ours"}) as processes:
            worker = processes[side]
            if side in (CHECKPOINT, MINDIR):
                worker.call("start")
            worker.call("load_model", path=str(path), **({"config": config} if side == TORCH else {}))
            peaks[side] = _peak(worker, batch, "predict", path=str(path))
    yield row | {"what": "inference", "gib": peaks}


def _peak(worker: Worker, batch: dict[str, np.ndarray], method: str, **arguments) -> float:
    worker.call("set_batch", batch=batch)
    for _ in range(2):
        worker.call(method, least=0.0, **arguments)
    return worker.call("peak_memory")


def peak(bench: Bench) -> Iterator[dict]:
    """The best float32 matrix product that any library reaches here: what the network is held against."""
    size = bench.sizes.matrix
    with workers({OURS: "side_ours", TORCH: "side_torch"}) as sides:
        for worker in sides.values():
            worker.call("start")
        best = {}
        for _ in range(5):
            for worker in sides.values():
                for library, seconds in worker.call("matrix_product", size=size).items():
                    best[library] = max(best.get(library, 0), 2 * size ** 3 / seconds / 1e9)
    yield {"size": size, "gflops": best}


def make_models(bench: Bench, config: Config) -> tuple[dict[str, Path], dict[str, str]]:
    """The same weights in every file format, {side: path}, and {side: reason} of formats that cannot be made."""
    folder = bench.folder / f"models_{config.ModelConfig.hidden_size}"
    checkpoint = folder / "model.ckpt"
    refused_file = folder / "refused.json"
    if not refused_file.exists():
        folder.mkdir(exist_ok=True)
        refused = {}
        with workers({TORCH: "side_torch", OURS: "side_ours"}) as sides:
            build_both(bench, config, sides)
            sides[OURS].call("save_checkpoint", path=str(checkpoint), weights_only=True)
            for side, (name, options) in EXPORTS.items():
                arguments = ["--pre_trained_model_path", str(checkpoint), "--device_target", "CPU",
                             "--file_name", str((folder / name).with_suffix("")), *options]
                try:
                    code = sides[OURS].call("export", arguments=arguments)
                    if code:
                        refused[side] = f"export.py ended with {code}"
                except WorkerError as error:
                    refused[side] = error.reason()
        for side, reason in refused.items():
            logger.warning("%s is not measured: %s", side, reason)
        refused_file.write_text(json.dumps(refused))
    refused = json.loads(refused_file.read_text())
    paths = {CHECKPOINT: checkpoint} | {side: folder / name for side, (name, _) in EXPORTS.items()}
    return {side: path for side, path in paths.items() if side not in refused}, refused


def build_both(bench: Bench, config: Config, sides: dict[str, Worker]) -> None:
    """The same network in the process of PyTorch, which makes the weights, and in ours if it is there."""
    weights = str(bench.folder / "weights.npz")
    batch, _ = bench.batch(bench.sizes.batches[0])
    torch = sides[TORCH]
    torch.call("build", config=config)
    torch.call("set_batch", batch=batch)
    torch.call("save_weights", path=weights)
    if OURS in sides:
        sides[OURS].call("start")
        sides[OURS].call("build", config=config, weights=weights)


def compare_training(outputs: dict[str, tuple[float, float]], gradients: dict[str, dict[str, float]]) -> dict:
    """How far loss, gradient norm and the norms of all gradients are from PyTorch's, and whether that is the same.

    A gradient that is zero but for rounding, as that of a bias before a batch norm, is held against all of them.
    """
    (loss, norm), (torch_loss, torch_norm) = outputs[OURS], outputs[TORCH]
    result = {"loss": torch_loss, "loss_difference": abs(loss / torch_loss - 1), "norm": torch_norm,
              "norm_difference": abs(norm / torch_norm - 1)}
    if gradients:
        ours, theirs = gradients[OURS], gradients[TORCH]
        total = sum(value ** 2 for value in theirs.values()) ** 0.5
        result["gradient_difference"] = max(abs(ours[name] - theirs[name]) / (theirs[name] + 0.01 * total)
                                            for name in ours.keys() | theirs.keys())
    result["same"] = (result["loss_difference"] <= LOSS_TOLERANCE and result["norm_difference"] <= NORM_TOLERANCE
                      and result.get("gradient_difference", 0) <= NORM_TOLERANCE)
    return result


def compare_probabilities(ours: tuple[np.ndarray, np.ndarray], theirs: tuple[np.ndarray, np.ndarray],
                          rounded: bool = False) -> dict:
    """The largest difference of a probability within the utterances, and whether the outputs are the same.

    With `rounded` weights it is enough that nearly all frames have the same best class.
    """
    (probs, lengths), (torch_probs, torch_lengths) = ours, theirs
    if probs.shape != torch_probs.shape or not np.array_equal(lengths, torch_lengths):
        return {"same": False, "difference": None}
    frames = np.arange(probs.shape[1]) < lengths[:, None]
    difference = float(np.abs(probs - torch_probs)[frames].max())
    agreeing = float((probs.argmax(-1) == torch_probs.argmax(-1))[frames].mean())
    return {"difference": difference, "same_best_class": agreeing,
            "same": agreeing >= SAME_BEST_CLASS if rounded else difference <= PROBABILITY_TOLERANCE}
