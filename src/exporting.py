"""Export a trained network as MindIR or ONNX, and compare the file's outputs with the network's."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor

from deepspeech2.errors import InputError, RunError
from deepspeech2.files import atomic_path, ensure_writable
from deepspeech2.model import AcousticModel
from deepspeech2.model_info import check_info, write_info
from deepspeech2.streaming.acoustic import open_onnx
from src.config import Config
from src.DeepSpeech import PredictCell, dynamic_inputs
from src.stored_models import cell_model, load_mindir, load_network

TOLERANCE = 1e-5  # largest difference of a probability between the network and the file
INT8_TOLERANCE = 0.5  # 8-bit rounding costs far less; this finds a file of another network
CHECK_SIZES = (1, 3)  # batch sizes in the comparison
CHECK_FRAMES = 61  # spectrogram frames of the longest utterance in the comparison


@dataclass(frozen=True)
class Exported:
    """An exported model.

    Attributes:
        path: path of the model.
        info_path: path of the JSON file beside it, with settings and labels.
        num_classes: C, number of classes.
        difference: largest difference between its probabilities and the network's, for noise.
    """

    path: Path
    info_path: Path
    num_classes: int
    difference: float


def export_mindir(checkpoint: str, config: Config, path: Path, batch_size: int = 0) -> Exported:
    """Export a checkpoint as MindIR with a JSON file beside it.

    The model is in evaluation mode, ends with a softmax, and takes any number of frames.

    Args:
        checkpoint: path of the checkpoint.
        config: explicit settings must not contradict the checkpoint.
        path: path of the model to write.
        batch_size: the only batch size that the model takes; 0 for any.

    Raises:
        InputError: for a checkpoint that cannot be used, and for a name whose JSON file describes
            a model in another format with other settings.
        RunError: when the outputs of the file differ from the network's.
    """
    ensure_writable(path.parent)
    network, config, labels = load_network(checkpoint, config)
    info = replace(config.model_info(labels), batch_size=batch_size)
    check_info(path, info)
    num_bins = config.DataConfig.SpectConfig.num_bins
    cell = PredictCell(network)
    cell.set_inputs(*dynamic_inputs(num_bins))
    cell.set_train(False)  # ms.export keeps the mode of the batch norm
    inputs = dynamic_inputs(num_bins)
    if batch_size:
        inputs = (
            Tensor(shape=[batch_size, 1, num_bins, None], dtype=ms.float32),
            Tensor(shape=[batch_size], dtype=ms.int32),
        )
    with atomic_path(path) as temporary:
        _write_mindir(cell, inputs, temporary)
        exported = load_mindir(temporary)
        sizes = [batch_size] if batch_size else CHECK_SIZES
        difference = _compare(cell_model(cell), exported, num_bins, path, TOLERANCE, sizes)
    return Exported(path, write_info(path, info), len(labels), difference)


def _write_mindir(cell: ms.nn.Cell, inputs: Iterable[Tensor], path: Path) -> None:
    """`ms.export` to a path with any characters; it takes only some ASCII ones."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        name = f"/proc/self/fd/{folder}/model"
        ms.export(cell, *inputs, file_name=name, file_format="MINDIR")
    finally:
        os.close(folder)
    try:
        path.with_name("model.mindir").rename(path)
    except FileNotFoundError:  # several files
        raise InputError(
            f"{path.name}: MindSpore writes a network of more than 1 GiB as several files, which "
            "nothing here reads: export it as ONNX (--file_format ONNX)"
        ) from None


def export_onnx(
    checkpoint: str, config: Config, path: Path, quantize: str = "", streaming: bool = False
) -> Exported:
    """Export a checkpoint as ONNX for batches of any size and length, with a JSON file beside it.

    Args:
        checkpoint: path of the checkpoint.
        config: explicit settings must not contradict the checkpoint.
        path: path of the model to write.
        quantize: `int8` for LSTMs that compute in 8 bits, '' for float32.
        streaming: whether to make a model for streams, which takes a chunk of frames at a time.

    Returns:
        The exported model; for `int8`, its `difference` is that of the quantized model.

    Raises:
        InputError: for a checkpoint that cannot be used, or not for streams, and for a name whose
            JSON file describes a model in another format with other settings.
        RunError: when the outputs of the file, before or after quantization, differ from the
            network's.
    """
    import onnx

    from src.onnx_graph import fix_quantization_ranges, make_onnx, quantize_onnx
    from src.streaming_graph import first_frames, make_streaming_onnx

    ensure_writable(path.parent)
    network, config, labels = load_network(checkpoint, config)
    info, make = config.model_info(labels), make_onnx
    if streaming:
        _check_for_streams(checkpoint, config)
        make = make_streaming_onnx
        info = replace(info, first_frames=first_frames(config.ModelConfig))
    check_info(path, info)
    num_bins = config.DataConfig.SpectConfig.num_bins
    cell = PredictCell(network)
    cell.set_inputs(*dynamic_inputs(num_bins))
    predict = cell_model(cell)
    parameters = {name: p.asnumpy() for name, p in network.parameters_dict().items()}
    with atomic_path(path) as temporary:
        onnx.save(make(parameters, config.ModelConfig, num_bins), temporary)
        exported, _ = open_onnx(temporary, info)
        difference = _compare(predict, exported, num_bins, path, TOLERANCE, CHECK_SIZES)
        if quantize:
            exact = temporary.rename(temporary.with_stem("float32"))
            fix_quantization_ranges(exact)
            exported, _ = open_onnx(exact, info)
            _compare(predict, exported, num_bins, path, TOLERANCE, CHECK_SIZES)
            quantize_onnx(exact, temporary)
            exported, _ = open_onnx(temporary, info)
            difference = _compare(predict, exported, num_bins, path, INT8_TOLERANCE, CHECK_SIZES)
    return Exported(path, write_info(path, info), len(labels), difference)


def _check_for_streams(checkpoint: str, config: Config) -> None:
    """Raise InputError for a network that needs the whole utterance."""
    wrong = []
    if config.ModelConfig.bidirectional:
        wrong.append("its recurrent layers are bidirectional (ModelConfig.bidirectional)")
    if config.DataConfig.SpectConfig.normalization != "running":
        wrong.append("its normalisation is not `running` (DataConfig.SpectConfig.normalization)")
    if wrong:
        raise InputError(
            f"{checkpoint}: no model for streams: {'; '.join(wrong)}: train one with these settings"
        )


def _compare(
    network: AcousticModel,
    exported: AcousticModel,
    num_bins: int,
    path: Path,
    tolerance: float,
    sizes: Iterable[int],
) -> float:
    """The largest difference of probabilities for noise.

    Args:
        network: computes the expected probabilities.
        exported: computes the probabilities to check.
        num_bins: F.
        path: path of the model, for the message.
        tolerance: largest difference allowed.
        sizes: batch sizes.

    Raises:
        RunError: naming `path`, when the difference exceeds the tolerance.
    """
    rng = np.random.default_rng(0)
    worst = 0.0
    for size in sizes:
        lengths = np.linspace(CHECK_FRAMES, CHECK_FRAMES // 2, size).astype(np.int32)
        inputs = rng.standard_normal((size, 1, num_bins, CHECK_FRAMES), np.float32)
        inputs *= np.arange(CHECK_FRAMES) < lengths[:, None, None, None]
        expected, expected_lengths = network(inputs, lengths)
        found, found_lengths = exported(inputs, lengths)
        if not np.array_equal(expected_lengths, found_lengths) or expected.shape != found.shape:
            worst = float("inf")
            break
        valid = np.arange(expected.shape[1]) < expected_lengths[:, None]
        largest = np.abs(expected - found)[valid].max()
        worst = float(np.maximum(worst, largest))  # unlike Python's max, keeps NaN
    if not worst <= tolerance:
        raise RunError(
            f"{path}: the exported model differs from the network by {worst:.2e}, not written"
        )
    return worst
