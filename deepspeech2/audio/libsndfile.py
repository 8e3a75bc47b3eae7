"""Decode what libsndfile reads: WAV, FLAC, Ogg (Vorbis, Opus), MPEG audio and older formats."""

import contextlib
import os
import re
import wave
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import soundfile

from deepspeech2.audio import flac
from deepspeech2.audio.source import STREAMED, AudioError, Part, Recording

# libsndfile reads a truncated WAV without an error and reports the cut only in its log
_CLAMPED = re.compile(r"data : (\d+) \(should be (\d+)\)")
_BLOCK = 1 << 20  # samples of all channels that are decoded at once
_PLAIN_SIZE = 1 << 22  # bytes of a WAV file that is read at once
# what soundfile raises; TypeError: it asks for the rate of a .raw file
ERRORS = (OSError, RuntimeError, TypeError, ValueError)
_UNKNOWN = (1, 4, 18)  # libsndfile's error codes for formats and codings that it does not have
_VAGUE = (  # what it says of damage
    "Unspecified internal error.",
    "Supported file format but file is malformed.",
    "Error : flac decoder lost sync.",
    "Error : unknown error in flac decoder.",
)


class NotAudio(AudioError):
    """A file that libsndfile cannot open.

    Attributes:
        unknown: whether libsndfile knows no such format or coding: another library may.
    """

    unknown = False


def read_plain_wav(recording: Recording) -> Part | None:
    """The samples of a short 16-bit mono WAV, equal to libsndfile's bit for bit.

    Prepared corpora consist of such files, and libsndfile takes three times as long to read them.

    Returns:
        None for any other file; libsndfile then reads the file or explains what is wrong.
    """
    if recording.path is None or recording.size > _PLAIN_SIZE:
        return None
    try:
        recording.file.seek(0)
        with wave.open(recording.file) as file:
            channels, width, rate, frames = file.getparams()[:4]
            content = file.readframes(frames) if (channels, width) == (1, 2) else b""
    # RuntimeError: a chunk is longer than the file
    except (OSError, EOFError, RuntimeError, ValueError, wave.Error):
        return None
    if not frames or not rate or len(content) != 2 * frames:
        return None
    samples = np.frombuffer(content, "<i2") / np.float32(32768)
    return Part(rate, iter([samples[:, None]]))


def decode(recording: Recording, file: BinaryIO | None = None) -> Iterator[Part]:
    """The one part of a recording, or of a `file` that holds a stretch of it.

    Raises:
        NotAudio: when libsndfile cannot open it.
        AudioError: when its blocks are read, and it is truncated or damaged.
    """
    opened = file or (os.fsencode(recording.path) if recording.path else recording.file)
    try:
        recording.file.seek(0)
        audio = soundfile.SoundFile(opened)
    except ERRORS as error:
        _check_end_of_flac(recording)
        refusal = NotAudio(
            f"{recording.name}: cannot read the audio: {_reason(recording, opened, error)}"
        )
        refusal.unknown = getattr(error, "code", None) in _UNKNOWN
        raise refusal from None
    with audio:
        floats = audio.subtype in ("FLOAT", "DOUBLE")
        yield Part(audio.samplerate, _blocks(recording, audio), floats)


def _blocks(recording: Recording, audio: soundfile.SoundFile) -> Iterator[np.ndarray]:
    """The (n, channels) float32 samples of an open file: a header may promise any number."""
    log, length = audio.extra_info, 0
    for block in read_blocks(recording, audio):
        length += len(block)
        yield block
    _check_whole(recording, audio, log, length)


def read_blocks(recording: Recording, audio: soundfile.SoundFile) -> Iterator[np.ndarray]:
    """The (n, channels) float32 samples up to the end of what libsndfile can decode."""
    count = max(1, _BLOCK // audio.channels)
    while True:
        try:
            block = audio.read(count, dtype="float32", always_2d=True)
        except ERRORS as error:
            _check_end_of_flac(recording)
            reason = _reason(recording, b"", error)
            raise AudioError(f"{recording.name}: cannot read the audio: {reason}") from None
        yield block
        if len(block) < count:
            return


def _check_whole(
    recording: Recording, audio: soundfile.SoundFile, log: str, length: int
) -> None:
    """Raise AudioError for a truncated file.

    Args:
        recording: the recording.
        audio: the open file.
        log: what libsndfile noted while it opened the file.
        length: samples that were read, per channel.
    """
    name, expected = recording.name, audio.frames
    clamped = _CLAMPED.search(log)
    if clamped and int(clamped[2]) < int(clamped[1]) < STREAMED:
        raise AudioError(
            f"{name}: the audio is truncated: {clamped[2]} bytes where the header says {clamped[1]}"
        )
    if audio.format == "NIST":
        expected = max(expected, _sphere_count(recording))
    if length < expected:
        raise AudioError(
            f"{name}: the audio is truncated: {length} samples where the header says {expected}"
        )


def _check_end_of_flac(recording: Recording) -> None:
    """Raise AudioError for a FLAC file that is cut off; libFLAC says only that it is lost."""
    if recording.read(0, 4) == b"fLaC" and not flac.ends_whole(recording):
        raise flac.truncated(recording)


def _reason(recording: Recording, opened: bytes | BinaryIO, error: Exception) -> str:
    """Why soundfile could not read a file; its own message can mislead or be missing."""
    with contextlib.suppress(OSError, ValueError):
        if b"embedded-shorten" in recording.read(0, 1024):
            return "SPHERE compressed with shorten; convert it with sph2pipe"
    if isinstance(error, TypeError):  # for a .raw file soundfile asks for rate and format
        return "samples without a header; convert it to WAV or FLAC"
    if "not a regular file" in str(error):  # libsndfile's words for an MP3 without a whole frame
        return "not audio, or cut off at its beginning"
    reason = str(error).removeprefix(f"Error opening {opened!r}: ")
    return f"it is damaged (libsndfile: {reason})" if reason in _VAGUE else reason


def _sphere_count(recording: Recording) -> int:
    """The samples that a SPHERE header promises; libsndfile is silent when there are fewer."""
    count = re.search(rb"^sample_count -i (\d+)", recording.read(0, 1024), re.MULTILINE)
    return int(count[1]) if count else 0
