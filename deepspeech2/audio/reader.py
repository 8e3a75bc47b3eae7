"""Recordings as blocks of mono samples at one sample rate: the way that all audio is read.

Axes: n samples.
"""

import numbers
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np

from deepspeech2.audio.decoding import parts_of
from deepspeech2.audio.mixing import Mixer, as_floats
from deepspeech2.audio.resampling import Resampler
from deepspeech2.audio.source import (
    RATES,
    AudioError,
    Part,
    name_of,
    opened,
    standard_input,
)
from deepspeech2.files import is_special

# a path, a binary file object, or (n,) or (n, channels) samples and their rate in Hz
Audio = str | Path | BinaryIO | tuple[np.ndarray, int]

STANDARD_INPUT = "-"  # a path that stands for what is piped into the program
_BLOCK = 1 << 20  # samples of an array that are taken at once
# More samples per byte than silence has in FLAC or Opus (300), and what a short file may have. A
# hostile file can have 60 times as many, and would fill the memory.
_SAMPLES_PER_BYTE, _MIN_LIMIT = 500, 1 << 25
_MAX_CHANNELS = 64  # more are samples and channels in the wrong order


class AudioReader:
    """A recording as (n,) float32 blocks, which are read once, in their order.

    Iteration raises AudioError, in mid-recording too: what is cut or damaged shows where it is.

    Attributes:
        name: what messages call the recording.
    """

    def __init__(self, name: str, blocks: Iterator[np.ndarray]):
        self.name = name
        self._blocks = blocks

    def __iter__(self) -> Iterator[np.ndarray]:
        return self._blocks

    def __enter__(self) -> "AudioReader":
        return self

    def __exit__(self, *exception) -> None:
        self._blocks.close()


def open_audio(source: Audio, sample_rate: int, channel: int | None = None) -> AudioReader:
    """A recording in blocks of about a minute, in bounded memory whatever its length.

    The file is opened when the first block is read, and closed after the last one or at the end of
    the `with` statement.

    Args:
        source: a path, also of a pipe, or `-` for standard input; a binary file object; or a pair
            of samples and their rate in Hz.
        sample_rate: sample rate of the blocks in Hz.
        channel: the channel to take, from 1 on; None for the average of all.

    Raises:
        AudioError: for what is none of these, for an array of another shape, dtype or rate; and
            while the blocks are read, for a file that is missing, empty, truncated, damaged or not
            audio, that has another sample rate than recordings have, more samples than its size
            allows, or values that are not finite.
    """
    if isinstance(source, tuple) and len(source) == 2:
        samples, rate = _checked(*source), int(source[1])
        part = Part(rate, _array_blocks(samples), floats=samples.dtype.kind == "f")
        name = name_of(source)
        blocks = _mono_blocks(name, samples.nbytes, [part], sample_rate, channel)
        return AudioReader(name, blocks)
    if isinstance(source, str) and source == STANDARD_INPUT:
        source = standard_input()
    if isinstance(source, str | Path) or hasattr(source, "read"):
        return AudioReader(name_of(source), _file_blocks(source, sample_rate, channel))
    raise AudioError(
        f"audio is a {type(source).__name__}, needed is a path, a binary file object, or a pair "
        "of samples and their rate in Hz"
    )


def load_audio(audio: Audio, sample_rate: int, channel: int | None = None) -> np.ndarray:
    """A whole recording as (n,) float32 samples at `sample_rate` Hz; see `open_audio`."""
    with open_audio(audio, sample_rate, channel) as blocks:
        return _joined(blocks)


def read_audio(source: str | Path | BinaryIO) -> tuple[np.ndarray, int]:
    """All samples of a file of a corpus, and their rate in Hz.

    Returns:
        (n,) float32 samples in [-1, 1], channels averaged, and the sample rate.

    Raises:
        AudioError: as `open_audio`, and for a pipe or a device, whose reading may never end.
    """
    if isinstance(source, str | Path) and is_special(source):
        raise AudioError(f"{source}: cannot read the audio: a pipe or a device, not a file")
    with opened(source) as recording:
        parts = parts_of(recording)
        first = next(parts, None)
        if first is None:
            raise AudioError(f"{recording.name}: the audio has no samples")
        blocks = _mono_blocks(
            recording.name, recording.size, chain([first], parts), first.rate, None
        )
        return _joined(blocks), first.rate


def _file_blocks(
    source: str | Path | BinaryIO, sample_rate: int, channel: int | None
) -> Iterator[np.ndarray]:
    with opened(source) as recording:
        yield from _mono_blocks(
            recording.name, recording.size, parts_of(recording), sample_rate, channel
        )


def _mono_blocks(
    name: str, size: int, parts: Iterable[Part], sample_rate: int, channel: int | None
) -> Iterator[np.ndarray]:
    """The parts of a recording of `size` bytes as (n,) float32 blocks, none of them empty."""
    length, limit = 0, max(_MIN_LIMIT, _SAMPLES_PER_BYTE * size)
    for part in parts:
        if not RATES[0] <= part.rate <= RATES[1]:
            raise AudioError(
                f"{name}: the sample rate is {part.rate} Hz, needed are {RATES[0]} to {RATES[1]} Hz"
            )
        mixer = Mixer(name, part.rate, channel, part.floats)
        resampler = Resampler(part.rate, sample_rate)
        for block in part.blocks:
            length += len(block)
            if length > limit:
                raise AudioError(
                    f"{name}: more than {limit} samples in a file of {size} bytes: not a recording"
                )
            yield from _unless_empty(resampler.process(mixer(block)))
        yield from _unless_empty(resampler.finish())
    if not length:
        raise AudioError(f"{name}: the audio has no samples")


def _unless_empty(block: np.ndarray) -> Iterator[np.ndarray]:
    if len(block):
        yield block


def _joined(blocks: Iterable[np.ndarray]) -> np.ndarray:
    blocks = list(blocks)
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def _checked(samples: np.ndarray, rate: int) -> np.ndarray:
    """The samples of a pair as (n, channels), of any float or signed integer type.

    Raises:
        AudioError: for another shape, dtype or rate.
    """
    samples = np.asarray(samples)
    if samples.ndim not in (1, 2) or not samples.size:
        raise AudioError(f"samples have shape {samples.shape}, needed is (n,) or (n, channels)")
    if samples.ndim == 2 and samples.shape[1] > _MAX_CHANNELS:
        raise AudioError(
            f"samples have shape {samples.shape}, needed is (n, channels): {samples.shape[1]} "
            "channels are too many; transpose the array"
        )
    checked_rate(rate)
    if samples.dtype.kind not in "if":
        raise AudioError(
            f"samples have dtype {samples.dtype}, needed are floats or signed integers"
        )
    return samples.reshape(len(samples), -1)  # (n,) -> (n, 1)


def checked_rate(rate: float) -> int:
    """A sample rate in Hz. Raises AudioError for one that no recording has."""
    if not isinstance(rate, numbers.Real) or not RATES[0] <= rate <= RATES[1]:
        raise AudioError(
            f"the sample rate (={rate!r}) must be a number from {RATES[0]} to {RATES[1]} Hz"
        )
    return int(rate)


def _array_blocks(samples: np.ndarray) -> Iterator[np.ndarray]:
    """(n, channels) integers or floats -> (n, channels) float32 with full scale 1."""
    step = max(1, _BLOCK // samples.shape[1])
    for start in range(0, len(samples), step):
        yield as_floats(samples[start : start + step])
