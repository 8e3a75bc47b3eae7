"""Decode what libsndfile does not read (m4a, mp4, webm, wma, amr), with FFmpeg's libraries.

The package PyAV brings them; it comes with the extra `media`. A file is given to one demuxer, which
is chosen by its first bytes, as a file object: nothing in it can name another file or an address.
"""

import contextlib
from collections.abc import Iterator
from itertools import chain

import numpy as np

from deepspeech2.audio import tags
from deepspeech2.audio.formats import Format, ways_out
from deepspeech2.audio.mixing import as_floats
from deepspeech2.audio.source import AudioError, Part, Recording, Section

_BLOCK = 1 << 20  # samples of all channels in a block
_MISSING = 0.5  # seconds that the header may count more: edit lists, and packets without samples
_TAGGED = ("ape", "mpc", "mpc8", "tak", "tta", "wv")  # demuxers that fail at some last tags
_TIMED = ("mov", *_TAGGED)  # demuxers with a duration from the header; others guess it
_PLANES = 8  # channels from which on PyAV counts more planes than there are, and reads any memory
_PROTECTED = ("aavd", "drmi", "drms", "enca")  # what MP4 calls encrypted audio
_ASF_ENCRYPTION = bytes.fromhex("fbb3112223bdd211b4b700a0c955fc6e")  # an object in the header


def decode(recording: Recording, form: Format) -> Iterator[Part]:
    """The parts of a recording: one, or several where the sample rate or the channels change.

    Raises:
        AudioError: when PyAV is not installed, the file has no audio, or it is damaged; while the
            blocks are read, too.
    """
    try:
        import av  # imported late: an extra
    except ImportError:
        raise AudioError(
            f"{recording.name}: cannot read the audio: it is {form.name}; {ways_out(recording)}"
        ) from None
    if form.demuxer in _TAGGED:
        recording = tags.stretch(recording, 0, tags.start_of_last_tags(recording))
    file = Section(recording.file, 0, recording.size)
    with (
        _refusals(recording, form),
        av.open(file, format=form.demuxer, metadata_errors="replace") as container,
    ):
        if not container.streams.audio:
            raise AudioError(f"{recording.name}: there is no audio in it, it is {form.name}")
        yield from _parts(recording, container, form)


@contextlib.contextmanager
def _refusals(recording: Recording, form: Format) -> Iterator[None]:
    """Make an AudioError of what PyAV raises."""
    import av

    try:
        yield
    except AudioError:
        raise
    except (av.error.FFmpegError, OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise AudioError(
            f"{recording.name}: cannot read the audio, a damaged or unknown kind of {form.name}: "
            f"{reason}"
        ) from None


def _parts(recording: Recording, container, form: Format) -> Iterator[Part]:
    stream = container.streams.best("audio") or container.streams.audio[0]
    if _is_protected(recording, stream, form):
        raise AudioError(f"{recording.name}: the audio is encrypted (DRM), it is {form.name}")
    frames = container.decode(stream)
    seconds, frame = 0.0, next(frames, None)
    while frame:
        stretch = _Stretch(frame, frames)
        yield Part(stretch.rate, stretch.blocks(_refusals(recording, form)))
        seconds += stretch.samples / stretch.rate
        frame = stretch.next_frame
    if form.demuxer in _TIMED and stream.duration and stream.time_base:
        expected = float(stream.duration * stream.time_base)
        if seconds < expected - _MISSING:
            raise AudioError(
                f"{recording.name}: the audio is truncated: {seconds:.2f} s where the header says "
                f"{expected:.2f}"
            )


def _is_protected(recording: Recording, stream, form: Format) -> bool:
    if form.demuxer == "asf":
        header = int.from_bytes(recording.read(16, 8), "little")
        return _ASF_ENCRYPTION in recording.read(0, min(header, _BLOCK))
    codec = stream.codec_context
    return form.demuxer == "mov" and bool(codec) and codec.codec_tag in _PROTECTED


class _Stretch:
    """Decoded frames of one rate and one number of channels.

    Attributes:
        rate: sample rate in Hz.
        samples: samples of each channel, once the blocks are read.
        next_frame: the first frame of another rate or number of channels after them, then.
    """

    def __init__(self, first, frames):
        self._first, self._frames = first, frames
        self.rate = first.sample_rate
        self.samples, self.next_frame = 0, None
        self._packer = None

    def blocks(self, refusals: contextlib.AbstractContextManager) -> Iterator[np.ndarray]:
        """(n, channels) float32 samples; what goes wrong meanwhile is left to `refusals`."""
        kept, count, form = [], 0, _form(self._first)
        with refusals:
            for frame in chain([self._first], self._frames):
                if _form(frame) != form:
                    self.next_frame = frame
                    break
                for piece in self._safe(frame):
                    kept.append(_samples(piece))
                    count += kept[-1].size
                    self.samples += len(kept[-1])
                if count >= _BLOCK:
                    yield np.concatenate(kept)
                    kept, count = [], 0
        if kept:
            yield np.concatenate(kept)

    def _safe(self, frame) -> list:
        """Frames with the samples of `frame` that PyAV can make an array of."""
        if not frame.format.is_planar or frame.layout.nb_channels < _PLANES:
            return [frame]
        if self._packer is None:
            import av

            self._packer = av.AudioResampler(frame.format.packed)
        return self._packer.resample(frame)


def _form(frame) -> tuple[int, int]:
    return frame.sample_rate, frame.layout.nb_channels


def _samples(frame) -> np.ndarray:
    """A frame's (n, channels) float32 samples."""
    array = frame.to_ndarray()  # (channels, n), or (1, n * channels)
    channels = frame.layout.nb_channels
    array = array.T if frame.format.is_planar else array.reshape(-1, channels)
    if array.dtype.kind == "u":
        return (array.astype(np.float32) - 128) / 128
    return as_floats(array)
