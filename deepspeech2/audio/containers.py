"""Tell by the sizes in it whether a file is cut off that consists of chunks.

FFmpeg's libraries read what is there of such a file, often without an error.
Sources: ISO 14496-12 (MP4), RFC 8794 and 9559 (Matroska), Microsoft's ASF and RIFF specifications,
Philips's DSDIFF, Sony's DSF, Adobe's FLV, the WavPack block format.
"""

from collections.abc import Callable

from deepspeech2.audio.libsndfile import STREAMED
from deepspeech2.audio.source import AudioError, Recording

_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
_EBML_HEADER, _SEGMENT = b"\x1aE\xdf\xa3", b"\x18S\x80g"


def check_whole(recording: Recording, demuxer: str) -> None:
    """Raise AudioError for a file whose last chunk ends after the file.

    Args:
        recording: the recording, from its first chunk on.
        demuxer: FFmpeg's name of its format; some of them tell nothing of their end.
    """
    end_of_chunk, position = _CHUNKS.get(demuxer), 0
    while end_of_chunk and position < recording.size:
        end = end_of_chunk(recording.read(position, 32), position)
        if end is None:
            return
        if end > recording.size:
            raise AudioError(
                f"{recording.name}: the audio is truncated: the file has {recording.size} bytes, "
                f"and its last chunk would end at byte {end}"
            )
        position = end


def _is_name(four: bytes) -> bool:
    return len(four) == 4 and all(32 <= byte < 127 for byte in four)


def _mp4(start: bytes, position: int) -> int | None:
    size = int.from_bytes(start[:4], "big")
    if size == 1:
        size = int.from_bytes(start[8:16], "big")
    known = _is_name(start[4:8]) and size >= 8  # 0: up to the end
    return position + size if known else None


def _matroska(start: bytes, position: int) -> int | None:
    if start[:4] not in (_EBML_HEADER, _SEGMENT) or len(start) < 12 or not start[4]:
        return None
    length = 9 - start[4].bit_length()  # of the number that is the size
    ones = (1 << 7 * length) - 1
    size = int.from_bytes(start[4 : 4 + length], "big") & ones
    return position + 4 + length + size if size != ones else None  # all ones: unknown


def _asf(start: bytes, position: int) -> int | None:
    size = int.from_bytes(start[16:24], "little")
    known = start[:16] in (_ASF_HEADER, _ASF_DATA) and 50 < size < 1 << 48  # else a live stream
    return position + size if known else None


def _avi(start: bytes, position: int) -> int | None:
    if start[:4] == b"RIFF":
        return position + 12  # its chunks come one by one
    size = int.from_bytes(start[4:8], "little")
    known = _is_name(start[:4]) and 0 < size < STREAMED
    return position + 8 + size + size % 2 if known else None


def _dsdiff(start: bytes, position: int) -> int | None:
    if start[:4] == b"FRM8":
        return position + 16  # its chunks come one by one
    size = int.from_bytes(start[4:12], "big")
    return position + 12 + size + size % 2 if _is_name(start[:4]) else None


def _dsf(start: bytes, position: int) -> int | None:
    known = start[:4] in (b"DSD ", b"fmt ", b"data")
    return position + max(12, int.from_bytes(start[4:12], "little")) if known else None


def _flv(start: bytes, position: int) -> int | None:
    if start[:3] == b"FLV":
        return position + int.from_bytes(start[5:9], "big") + 4
    known = len(start) >= 4 and start[0] & 0x1F in (8, 9, 18)  # sound, pictures, script
    return position + 11 + int.from_bytes(start[1:4], "big") + 4 if known else None


def _wavpack(start: bytes, position: int) -> int | None:
    return position + 8 + int.from_bytes(start[4:8], "little") if start[:4] == b"wvpk" else None


# by FFmpeg's name of the format: the end of the chunk at a position, by its first bytes; None for
# what is no chunk, or does not say its size
_CHUNKS: dict[str, Callable[[bytes, int], int | None]] = {
    "mov": _mp4, "matroska": _matroska, "asf": _asf, "avi": _avi, "iff": _dsdiff, "dsf": _dsf,
    "flv": _flv, "wv": _wavpack,
}  # fmt: skip
