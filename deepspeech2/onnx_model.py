"""Run an exported model with ONNX Runtime."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from deepspeech2.cores import usable_cores
from deepspeech2.errors import InputError, RunError, first_line
from deepspeech2.model_info import ModelInfo

# ONNX Runtime reads this when it is imported: otherwise it writes a device number and a database
# into the home folder, and asks the network for the address of a server for its telemetry
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime

ONNX_INPUTS, ONNX_OUTPUTS = ["inputs", "input_length"], ["probs", "output_lengths"]


class OnnxModel:
    """An `AcousticModel` that runs on all CPU cores that the process may use.

    Args:
        path: an ONNX file that export.py wrote.
        info: content of the JSON file beside the model.
        content: the model, where it is in no ONNX file; `path` is then that of its weights.

    Raises:
        InputError: for a file that ONNX Runtime cannot load, and for a model that `info` does not
            describe.
        RunError: by a call, when ONNX Runtime cannot run the model.
    """

    def __init__(self, path: Path, info: ModelInfo, content: bytes = b""):
        self.path = path
        self.session = make_session(path, content)
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        names = [value.name for value in inputs], [value.name for value in outputs]
        if names != (ONNX_INPUTS, ONNX_OUTPUTS):
            raise InputError(f"{path}: an ONNX model, but not one that export.py wrote")
        check_sizes(path, info, self.session)

    def __call__(
        self, inputs: np.ndarray, input_length: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        feeds = dict(zip(ONNX_INPUTS, (inputs, input_length), strict=True))
        return tuple(run_session(self.session, self.path, ONNX_OUTPUTS, feeds))


def check_sizes(path: Path, info: ModelInfo, session: onnxruntime.InferenceSession) -> None:
    """Raise InputError for a model with other bins or classes than `info` describes."""
    inputs = {value.name: value.shape for value in session.get_inputs()}
    outputs = {value.name: value.shape for value in session.get_outputs()}
    found = inputs[ONNX_INPUTS[0]][2], outputs[ONNX_OUTPUTS[0]][2]
    described = info.spect().num_bins, len(info.labels)
    if found != described:
        raise InputError(
            f"{path}: made for {found[0]} frequency bins and {found[1]} classes, but its JSON "
            f"file says {described[0]} and {described[1]}: it belongs to another model"
        )


def make_session(path: Path, content: bytes = b"") -> onnxruntime.InferenceSession:
    """A session of a file, or of its `content`, on all CPU cores.

    Raises:
        InputError: naming `path`, when ONNX Runtime cannot load the model.
    """
    options = onnxruntime.SessionOptions()
    # patterns are kept for each shape, and the arena keeps what the largest one took: with
    # recordings of any length, memory would grow (onnxruntime's issue 11627)
    options.enable_mem_pattern = options.enable_cpu_mem_arena = False
    options.intra_op_num_threads = usable_cores()  # by default as many as the machine has
    providers = ["CPUExecutionProvider"]
    try:
        return onnxruntime.InferenceSession(content or path, options, providers=providers)
    except Exception as error:  # ONNX Runtime's errors have no closer base class
        reason = first_line(error)
        raise InputError(f"{path}: not a whole ONNX model: {reason}") from None


def run_session(
    session: onnxruntime.InferenceSession,
    path: Path,
    outputs: Sequence[str],
    feeds: dict[str, np.ndarray],
) -> list[np.ndarray]:
    """The outputs of a model. Raises RunError, naming `path`, when it cannot be run."""
    try:
        return session.run(outputs, feeds)
    except Exception as error:  # of a model that was changed, or for lack of memory
        raise RunError(f"{path}: the model cannot be run: {first_line(error)}") from None
