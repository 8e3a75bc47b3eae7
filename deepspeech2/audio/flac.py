"""Find out how long a streamed FLAC is, whose header does not say it. Source: RFC 9639."""

import re

from deepspeech2.audio import tags
from deepspeech2.audio.source import AudioError, Recording

_TOTAL = 21  # position of the byte whose lower half begins the 36-bit count of samples
_TAIL = 1 << 18  # bytes at the end in which the last frame is searched
_SHORTEST_HEADER, _LONGEST_HEADER = 6, 16  # bytes
_SHORTEST = 10  # bytes of a frame: header 6, sample 2, checksum 2
_SYNC = re.compile(rb"\xff[\xf8\xf9]")


def mended_count(recording: Recording) -> dict[int, bytes]:
    """What to read for the count of samples in a header that lacks it.

    Returns:
        Bytes by their position; none where the header has the count.

    Raises:
        AudioError: when the file does not end with a whole frame.
    """
    start = recording.read(0, 42)
    if start[:4] != b"fLaC" or len(start) < 42 or start[_TOTAL] & 0x0F or any(start[22:26]):
        return {}
    total = _count(recording, int.from_bytes(start[10:12], "big"))
    if not total:
        raise truncated(recording)
    high = start[_TOTAL] & 0xF0 | total >> 32
    return {_TOTAL: bytes([high]) + (total & 0xFFFFFFFF).to_bytes(4, "big")}


def ends_whole(recording: Recording) -> bool:
    """Whether a file ends with a whole frame, or with a tag after one."""
    return bool(_count(recording, 1))


def truncated(recording: Recording) -> AudioError:
    """The refusal of a file that does not end with a whole frame."""
    return AudioError(
        f"{recording.name}: the audio is truncated: it does not end with a whole FLAC frame"
    )


def _count(recording: Recording, block_size: int) -> int:
    """Samples up to the end of the last frame; 0 if the file does not end with one."""
    end_of_audio = tags.start_of_last_tags(recording)
    tail = recording.read(max(0, end_of_audio - _TAIL), min(_TAIL, end_of_audio))
    checksum, end = _Checksum(0x8005, 16), len(tail)  # of what begins at `end`
    for match in reversed(list(_SYNC.finditer(tail))):
        checksum.prepend(tail[match.start() : end])
        end = match.start()
        header = _header(tail[end : end + _LONGEST_HEADER])
        if header and len(tail) - end >= _SHORTEST and not checksum.value:
            number, samples = header
            first = number if tail[end + 1] & 1 else number * block_size
            return first + samples
    return 0


def _header(frame: bytes) -> tuple[int, int] | None:
    """Number of a frame (or of its first sample), and its samples; None for what is no header."""
    if len(frame) < _SHORTEST_HEADER:
        return None
    code, rate = frame[2] >> 4, frame[2] & 15
    if code == 0 or rate == 15:
        return None
    extra = (8 - (frame[4] ^ 0xFF).bit_length()) if frame[4] & 0x80 else 1  # bytes of the number
    number = frame[4] if extra == 1 else frame[4] & (0x7F >> extra)
    for byte in frame[5 : 4 + extra]:
        number = number << 6 | byte & 0x3F
    end = 4 + extra
    if code == 1:
        samples = 192
    elif code < 6:
        samples = 576 << (code - 2)
    elif code < 8:
        width = code - 5
        samples = int.from_bytes(frame[end : end + width], "big") + 1
        end += width
    else:
        samples = 256 << (code - 8)
    end += {12: 1, 13: 2, 14: 2}.get(rate, 0)
    checksum = _Checksum(0x07, 8)
    checksum.prepend(frame[: end + 1])
    return None if checksum.value else (number, samples)


class _Checksum:
    """The CRC of bytes that are given from the last to the first.

    So the CRCs of all ends of a file take no more time than that of the whole file.

    Args:
        polynomial: without its highest power.
        bits: of the CRC.

    Attributes:
        value: of the bytes so far; 0 if they end with the CRC of those before.
    """

    def __init__(self, polynomial: int, bits: int):
        self.value = 0
        self._polynomial, self._top = polynomial, 1 << (bits - 1)
        self._power = polynomial  # what the next bit adds to the CRC

    def prepend(self, content: bytes) -> None:
        """Put `content` in front of the bytes so far."""
        top, polynomial = self._top, self._polynomial
        value, power = self.value, self._power
        for byte in reversed(content):
            for bit in range(8):
                if byte >> bit & 1:
                    value ^= power
                power = (power ^ top) << 1 ^ polynomial if power & top else power << 1
        self.value, self._power = value, power
