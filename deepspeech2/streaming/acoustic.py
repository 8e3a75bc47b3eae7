"""Run a streaming ONNX model: chunks of frames in, probabilities out, and states between them.

Axes: N streams, F frequency bins, T spectrogram frames, T' output frames, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deepspeech2.errors import InputError
from deepspeech2.model_info import ModelInfo
from deepspeech2.onnx_model import (
    ONNX_INPUTS,
    ONNX_OUTPUTS,
    OnnxModel,
    check_sizes,
    make_session,
    run_session,
)

if TYPE_CHECKING:
    from deepspeech2.model import AcousticModel

FIRST, FINAL = "first", "final"  # inputs that say whether a chunk is the first, and the last
NEXT = ".next"
BATCH = "N"


@dataclass
class Chunk:
    """What one stream gives to the network at once.

    Attributes:
        features: (F, T) float32 frames.
        states: arrays by name, for one stream; those of `StreamingAcoustic.first_states` at first.
        first, final: whether the stream begins and ends with the chunk.
    """

    features: np.ndarray
    states: dict[str, np.ndarray]
    first: bool = False
    final: bool = False

    def company(self) -> tuple:
        """Chunks whose values of this are equal can share a batch."""
        sizes = tuple(array.shape for array in self.states.values())
        return self.features.shape, sizes, self.first, self.final


class StreamingAcoustic:
    """The network of a streaming model, which keeps no state itself.

    Args:
        path: an ONNX file that export.py wrote with `--streaming True`.
        info: content of the JSON file beside it.

    Attributes:
        first_frames: the fewest frames of a first chunk that is not the last one too.
        step: the number of frames in later chunks is a multiple of it.

    Raises:
        InputError: for a file that ONNX Runtime cannot load, for one that is no streaming model,
            and for one that `info` does not describe.
    """

    def __init__(self, path: Path, info: ModelInfo):
        self.path = path
        self.first_frames, self.step = info.first_frames, info.time_stride
        self._session = make_session(path)
        inputs = {value.name: value for value in self._session.get_inputs()}
        if not info.first_frames or not {ONNX_INPUTS[0], FIRST, FINAL} <= inputs.keys():
            raise InputError(
                f"{path}: not a streaming model: export one with python export.py --file_format "
                "ONNX --streaming True"
            )
        check_sizes(path, info, self._session)
        self._shapes = {
            name: value.shape
            for name, value in inputs.items()
            if name not in (ONNX_INPUTS[0], FIRST, FINAL)
        }
        self._outputs = [ONNX_OUTPUTS[0], *(name + NEXT for name in self._shapes)]

    def first_states(self) -> dict[str, np.ndarray]:
        """The states of a stream before its first chunk."""
        return {
            name: np.zeros([_first_size(size) for size in shape], np.float32)
            for name, shape in self._shapes.items()
        }

    def __call__(self, chunks: Sequence[Chunk]) -> list[np.ndarray]:
        """Recognise a chunk of each of N streams, and replace the states in them.

        Args:
            chunks: N chunks with the same `company`.

        Returns:
            N arrays (T', C) of class probabilities; T' may be 0.

        Raises:
            RunError: when ONNX Runtime cannot run the model.
        """
        feeds = {
            ONNX_INPUTS[0]: np.stack([chunk.features[None] for chunk in chunks]),
            FIRST: np.array([chunks[0].first], np.int64),
            FINAL: np.array([chunks[0].final], np.int64),
        }
        for name, shape in self._shapes.items():
            axis = shape.index(BATCH)
            feeds[name] = np.concatenate([chunk.states[name] for chunk in chunks], axis)
        probs, *states = run_session(self._session, self.path, self._outputs, feeds)
        for (name, shape), array in zip(self._shapes.items(), states, strict=True):
            parts = np.split(array, len(chunks), shape.index(BATCH))
            for chunk, part in zip(chunks, parts, strict=True):
                chunk.states[name] = part
        return list(probs)


def open_onnx(path: Path, info: ModelInfo) -> "tuple[AcousticModel, StreamingAcoustic | None]":
    """An ONNX model for whole utterances, and for streams where it is one for streams.

    Raises:
        InputError: as `OnnxModel` and `StreamingAcoustic`.
    """
    if not info.first_frames:
        return OnnxModel(path, info), None
    streaming = StreamingAcoustic(path, info)
    return _whole_utterances(streaming), streaming


def _whole_utterances(acoustic: StreamingAcoustic) -> "AcousticModel":
    """The `AcousticModel` that recognises whole utterances by a streaming model."""

    def predict(inputs: np.ndarray, input_length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        results = []
        for features, length in zip(inputs, input_length, strict=True):
            chunk = Chunk(features[0, :, :length], acoustic.first_states(), first=True, final=True)
            results += acoustic([chunk])
        lengths = np.array([len(probs) for probs in results], np.int32)
        shape = len(results), lengths.max(initial=0), results[0].shape[1]
        padded = np.zeros(shape, np.float32)
        for row, probs in zip(padded, results, strict=True):
            row[: len(probs)] = probs
        return padded, lengths

    return predict


def _first_size(size: int | str) -> int:
    """The size of an axis of a state: one stream, without frames before it."""
    if isinstance(size, int):
        return size
    return 1 if size == BATCH else 0
