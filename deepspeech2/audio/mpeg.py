"""Read MPEG audio (MP3, and layers I and II) frame by frame, and decode it whole.

libsndfile believes the length that it guesses of an MP3 without a Xing or VBRI header, and stops
there; its decoder, libmpg123, complains on stderr about whatever is not a frame. So the frames are
found here, and given to libsndfile through a socket: nothing but frames, and no length to guess.
Sources: ISO 11172-3 and 13818-3; the headers of Xing, Fraunhofer (VBRI) and LAME.
"""

import contextlib
import re
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import BinaryIO

import numpy as np
import soundfile

from deepspeech2.audio import libsndfile, tags
from deepspeech2.audio.source import AudioError, Part, Recording

_BITRATES = {  # kbit/s, by version 1 or not, and layer
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}  # Hz
_SYNC = re.compile(rb"\xff[\xe2-\xff]")
_SURE = 3  # frames in a row that are no coincidence
_WINDOW = 1 << 16  # bytes that are searched at once; the first frame must be within them
_GAP = 1 << 12  # bytes without frames that are no damage: less than three of the largest frames
_DECODER_DELAY = 529  # samples
_SENT = 1 << 16  # bytes that go through the socket at once


@dataclass(frozen=True)
class Header:
    """What a frame of no sound says of the frames that follow it; None for what it leaves out."""

    frames: int | None
    size: int | None  # bytes, of this frame too
    delay: int | None  # samples that the encoder put in front
    padding: int  # samples that the encoder added at the end


@dataclass(frozen=True)
class Frame:
    """A frame: what its first four bytes say, and its bytes."""

    form: tuple[int, int, int, bool]  # version, layer, rate in Hz, mono: equal in one stream
    samples: int
    size: int  # bytes
    content: bytes = b""

    def header(self) -> Header | None:
        """The header of Xing, LAME or VBRI that is in this frame instead of sound."""
        version, layer, _, mono = self.form
        if layer != 3:
            return None
        if self.content[36:40] == b"VBRI" and len(self.content) >= 54:
            size, frames = struct.unpack(">II", self.content[46:54])
            return Header(frames or None, size or None, None, 0)
        at = {(True, False): 36, (True, True): 21, (False, False): 21, (False, True): 13}[
            version == 3, mono
        ]
        if self.content[at : at + 4] in (b"Xing", b"Info"):
            return _xing(self.content[at:])
        return None


def _xing(content: bytes) -> Header:
    flags = int.from_bytes(content[4:8], "big")
    position = 8
    values = []
    for flag, length in ((1, 4), (2, 4), (4, 100), (8, 4)):  # frames, bytes, seek table, quality
        given = flags & flag
        values.append(int.from_bytes(content[position : position + 4], "big") if given else 0)
        position += length if given else 0
    encoder = content[position : position + 24]
    delay = padding = None
    if encoder[:4] in (b"LAME", b"Lavf", b"Lavc") and len(encoder) == 24:
        both = int.from_bytes(encoder[21:24], "big")  # 12 bits each
        delay, padding = both >> 12, both & 0xFFF
    return Header(values[0] or None, values[1] or None, delay, padding or 0)


def parse(start: bytes) -> Frame | None:
    """What the first four bytes of a frame say; None if they begin none."""
    if len(start) < 4 or start[0] != 0xFF or start[1] & 0xE0 != 0xE0:
        return None
    version, layer = start[1] >> 3 & 3, 4 - (start[1] >> 1 & 3)
    bitrate, rate = start[2] >> 4, start[2] >> 2 & 3
    if version == 1 or layer == 4 or bitrate in (0, 15) or rate == 3:
        return None
    hertz, bits = _RATES[version][rate], _BITRATES[version == 3, layer][bitrate] * 1000
    samples = {1: 384, 2: 1152, 3: 1152 if version == 3 else 576}[layer]
    slot = 4 if layer == 1 else 1  # bytes
    size = (samples // 8 * bits // hertz // slot + (start[2] >> 1 & 1)) * slot
    return Frame((version, layer, hertz, start[3] >> 6 == 3), samples, size)


class Frames:
    """The whole frames of a file, in their order, without what lies between them.

    Args:
        file: the file; can seek.
        size: its size in bytes.

    Attributes:
        gap: position and bytes of the longest stretch that lacks frames between others.
    """

    def __init__(self, file: BinaryIO, size: int):
        self._file, self._size = file, size
        self._position, self._form = 0, None
        self.gap = (0, 0)

    def __iter__(self) -> "Frames":
        return self

    def __next__(self) -> Frame:
        frame = parse(self._read(self._position, 4))
        if frame is None or frame.form != self._form:
            self._position = self._next_stream(self._position)
            frame = parse(self._read(self._position, 4))
        content = self._read(self._position, frame.size) if frame else b""
        if frame is None or len(content) < frame.size:
            self._position = self._size
            raise StopIteration
        self._form = frame.form
        self._position += frame.size
        return Frame(frame.form, frame.samples, frame.size, content)

    def _read(self, position: int, count: int) -> bytes:
        self._file.seek(position)
        return self._file.read(count)

    def _next_stream(self, position: int) -> int:
        """Where the next frames in a row begin; the size of the file if there are none."""
        start = position = tags.end_of_tags(self._file, position)
        while window := self._read(position, _WINDOW):
            for match in _SYNC.finditer(window):
                found = position + match.start()
                if self._are_frames(found):
                    if self._form:
                        self.gap = max(self.gap, (start, found - start), key=lambda gap: gap[1])
                    return found
            if self._form is None:
                break
            position += max(1, len(window) - 1)  # a sync word may be on the border
        return self._size

    def _are_frames(self, position: int) -> bool:
        """Whether frames of one form are at a position: several, or all up to the end."""
        first = frame = parse(self._read(position, 4))
        for _ in range(_SURE):
            if frame is None or frame.form != first.form:
                return False
            position += frame.size
            if position >= self._size or self._read(position, 3) in (b"TAG", b"ID3", b"APE"):
                return position <= self._size
            frame = parse(self._read(position, 4))
        return True


def has_frames(file: BinaryIO, size: int) -> bool:
    """Whether a file begins with frames, after tags and a little junk."""
    return next(Frames(file, size), None) is not None


def decode(recording: Recording, file: BinaryIO, size: int) -> Iterator[Part]:
    """The parts of a file of frames: one, or several where files were joined.

    Args:
        recording: the recording, for messages.
        file: its bytes, or the stretch of it that holds the frames; can seek.
        size: bytes of `file`.

    Raises:
        AudioError: while the blocks are read, when they are truncated or damaged.
    """
    frames = Frames(file, size)
    first = next(frames, None)
    while first:
        stream = _Stream(recording, first, frames)
        yield Part(first.form[2], stream.blocks())
        first = stream.next_frame
    position, count = frames.gap
    if count > _GAP:
        raise AudioError(
            f"{recording.name}: the audio is damaged: {count} bytes from byte {position} on hold "
            "no audio frames, and others follow"
        )


class _Stream:
    """Frames of one form, up to the next header or the last frame that their header counts.

    Attributes:
        next_frame: the frame after them, once the blocks are read.
    """

    def __init__(self, recording: Recording, first: Frame, frames: Frames):
        self._recording, self._frames = recording, frames
        self._form = first.form
        self._header = first.header()
        self._first = [] if self._header else [first]
        self._size = first.size if self._header else 0
        self._frame_samples = first.samples
        self._count = self._decoded_samples = 0
        self._error: Exception | None = None
        self.next_frame: Frame | None = None

    def blocks(self) -> Iterator[np.ndarray]:
        """The (n, channels) float32 samples, without the encoder's delay and padding."""
        ours, theirs = socket.socketpair()
        feeder = threading.Thread(target=self._feed, args=(ours,), daemon=True)
        feeder.start()
        try:
            yield from self._trimmed(self._decoded(theirs))
        finally:
            with contextlib.suppress(OSError):
                theirs.shutdown(socket.SHUT_RDWR)  # the feeder stops, if it has not
            feeder.join()
            ours.close()
            theirs.close()
        self._check_whole()

    def _feed(self, ours: socket.socket) -> None:
        """Send the frames."""
        batch = bytearray()
        try:
            for frame in chain(self._first, self._frames):
                if self._ends_before(frame):
                    self.next_frame = frame
                    break
                self._count += 1
                self._size += frame.size
                batch += frame.content
                if len(batch) >= _SENT:
                    ours.sendall(batch)
                    batch.clear()
            ours.sendall(batch)
        except (OSError, ValueError) as error:
            self._error = error
        with contextlib.suppress(OSError):
            ours.shutdown(socket.SHUT_WR)

    def _ends_before(self, frame: Frame) -> bool:
        """Whether a frame belongs to the file that was joined to this one."""
        begun = self._count or self._header
        counted = self._header and self._header.frames
        other = frame.form != self._form or self._count == counted
        return other or bool(begun and frame.header())

    def _decoded(self, theirs: socket.socket) -> Iterator[np.ndarray]:
        try:
            audio = soundfile.SoundFile(theirs.fileno(), closefd=False)
        except libsndfile.ERRORS as error:
            if not self._count and self._header:
                return  # a header alone
            raise AudioError(
                f"{self._recording.name}: cannot read the audio: {error}"
            ) from None
        with audio:
            for block in libsndfile.read_blocks(self._recording, audio):
                self._decoded_samples += len(block)
                yield block

    def _trimmed(self, blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """The blocks without what encoder and decoder put before and after the sound."""
        header = self._header
        skipped, left = 0, None
        if header and header.delay is not None:
            skipped = header.delay + _DECODER_DELAY
            if header.frames:
                samples = header.frames * self._frame_samples
                left = max(0, samples - header.delay - header.padding)
        for block in blocks:
            kept = block[skipped:]
            skipped = max(0, skipped - len(block))
            if left is not None:
                kept = kept[:left]
                left -= len(kept)
            yield kept

    def _check_whole(self) -> None:
        """Raise AudioError when frames are missing or were not decoded."""
        name, header = self._recording.name, self._header
        if self._error:
            raise AudioError(f"{name}: cannot read the audio: {self._error}")
        samples = self._count * self._frame_samples
        counted = header and header.frames or 0
        if self._count < counted and self._size < (header.size or self._size + 1):
            raise AudioError(
                f"{name}: the audio is truncated: {samples} samples where the header says "
                f"{counted * self._frame_samples}"
            )
        if self._decoded_samples < samples - 2 * self._frame_samples:
            raise AudioError(
                f"{name}: the audio is damaged: {self._decoded_samples} of {samples} samples could "
                "be decoded"
            )
