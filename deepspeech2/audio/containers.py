"""Tell by the sizes in it whether a file is cut off that consists of chunks.

The libraries that decode such a file read what is there, often without an error.
Sources: ISO 14496-12 (MP4), RFC 8794 and 9559 (Matroska), EBU 3306 (RF64), Apple's AIFF and CAF,
Microsoft's ASF and RIFF, Sony's Wave64 and DSF, Philips's DSDIFF, Adobe's FLV, Sun's AU, Creative's
VOC, the WavPack block format, MathWorks's MAT 4, Audio Visual Research's AVR, Akai's MPC 2000,
Psion's WVE.
"""

from collections.abc import Callable

from deepspeech2.audio.source import STREAMED, AudioError, Recording

_SEEN = 36  # bytes at the beginning of a chunk
_MOST_CHUNKS = 1_000_000  # that are looked at; a hostile file may have any number
_UNFILLED = 1 << 48  # sizes of 64 bits from here on are placeholders
_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
_EBML_HEADER, _SEGMENT = b"\x1aE\xdf\xa3", b"\x18S\x80g"
_MAT4_BYTES = {0: 8, 1: 4, 2: 4, 3: 2, 4: 2, 5: 1}  # of a number, by the digit for its type
_RF64_SIZE = 28  # position of the bytes of samples


def check_whole(recording: Recording) -> None:
    """Raise AudioError for a file whose last chunk ends after the file.

    WAV is left to libsndfile, which tells.
    """
    start = recording.read(0, _SEEN)
    for at, magic, end_of_chunk, alignment in _CONTAINERS:
        if start[at : at + len(magic)] == magic:
            _check_chunks(recording, end_of_chunk, alignment)
            return


def _check_chunks(
    recording: Recording, end_of_chunk: Callable[[bytes, int], int | None], alignment: int
) -> None:
    """Raise AudioError for a chunk that ends after the file."""
    position = 0
    for _ in range(_MOST_CHUNKS):
        if position >= recording.size:
            return
        start = recording.read(position, _SEEN)
        end = end_of_chunk(start, position)
        if start[:8] == b"data\xff\xff\xff\xff" and recording.read(0, 4) == b"RF64":
            size = int.from_bytes(recording.read(_RF64_SIZE, 8), "little")
            end = position + 8 + size if size < _UNFILLED else None
        if end is None:
            return
        if end > recording.size:
            raise AudioError(
                f"{recording.name}: the audio is truncated: the file has {recording.size} bytes, "
                f"and its last chunk would end at byte {end}"
            )
        position = -(-end // alignment) * alignment


def _is_name(four: bytes) -> bool:
    return len(four) == 4 and all(32 <= byte < 127 for byte in four)


def _riff(start: bytes, position: int) -> int | None:
    if not position:
        return 12  # its chunks come one by one
    size = int.from_bytes(start[4:8], "little")
    if start[:4] == b"RIFF":  # an AVI of several
        return position + 12
    return position + 8 + size if _is_name(start[:4]) and 0 < size < STREAMED else None


def _aiff(start: bytes, position: int) -> int | None:
    if not position:
        return 12
    size = int.from_bytes(start[4:8], "big")
    return position + 8 + size if _is_name(start[:4]) and 0 < size < STREAMED else None


def _dsdiff(start: bytes, position: int) -> int | None:
    if not position:
        return 16
    size = int.from_bytes(start[4:12], "big")
    return position + 12 + size if _is_name(start[:4]) and size < _UNFILLED else None


def _caf(start: bytes, position: int) -> int | None:
    return _dsdiff(start, position) if position else 8  # the size -1: up to the end


def _wave64(start: bytes, position: int) -> int | None:
    size = int.from_bytes(start[16:24], "little")
    if not position:
        return 40
    return position + size if 24 <= size < _UNFILLED else None


def _au(start: bytes, position: int) -> int | None:
    offset, size = int.from_bytes(start[4:8], "big"), int.from_bytes(start[8:12], "big")
    return offset + size if not position and offset and size < STREAMED else None


def _voc(start: bytes, position: int) -> int | None:
    if not position:
        return max(1, int.from_bytes(start[20:22], "little"))
    size = int.from_bytes(start[1:4], "little")
    return position + 4 + size if 1 <= start[0] <= 9 and size < 0xFFFFFF else None


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
    known = start[:16] in (_ASF_HEADER, _ASF_DATA) and 50 < size < _UNFILLED  # else a live stream
    return position + size if known else None


def _dsf(start: bytes, position: int) -> int | None:
    known = start[:4] in (b"DSD ", b"fmt ", b"data")
    return position + max(12, int.from_bytes(start[4:12], "little")) if known else None


def _flv(start: bytes, position: int) -> int | None:
    if not position:
        return int.from_bytes(start[5:9], "big") + 4
    known = len(start) >= 4 and start[0] & 0x1F in (8, 9, 18)  # sound, pictures, script
    return position + 11 + int.from_bytes(start[1:4], "big") + 4 if known else None


def _wavpack(start: bytes, position: int) -> int | None:
    return position + 8 + int.from_bytes(start[4:8], "little") if start[:4] == b"wvpk" else None


def _mat4(start: bytes, position: int) -> int | None:
    order = "big" if start.startswith((b"\0\0\3", b"\0\0\4")) else "little"  # 1000 and more
    kind, rows, columns, imaginary, name = (
        int.from_bytes(start[at : at + 4], order) for at in range(0, 20, 4)
    )
    size = _MAT4_BYTES.get(kind // 10 % 10)
    if size is None or imaginary:
        return None
    return position + 20 + name + rows * columns * size


def _avr(start: bytes, position: int) -> int | None:
    channels = 1 if start[12:14] == b"\0\0" else 2
    bits, frames = int.from_bytes(start[14:16], "big"), int.from_bytes(start[26:30], "big")
    return None if position else 128 + frames * channels * bits // 8


def _mpc2k(start: bytes, position: int) -> int | None:
    frames = int.from_bytes(start[30:34], "little")
    if position or len(start) < 34:
        return None
    return 42 + frames * (2 if start[21] else 1) * 2


def _wve(start: bytes, position: int) -> int | None:
    return None if position else 32 + int.from_bytes(start[18:22], "big")


# position and bytes that tell the format; the end of the chunk at a position, by its first bytes,
# None for what is no chunk or does not say its size; the bytes to whose multiples chunks are filled
_CONTAINERS = (
    (8, b"AVI ", _riff, 2),
    (0, b"RF64", _riff, 2),
    (0, b"FORM", _aiff, 2),
    (0, b"FRM8", _dsdiff, 2),
    (0, b"caff", _caf, 1),
    (0, b"riff", _wave64, 8),
    (0, b".snd", _au, 1),
    (0, b"Creative Voice File", _voc, 1),
    (4, b"ftyp", _mp4, 1),
    (4, b"moov", _mp4, 1),
    (4, b"mdat", _mp4, 1),
    (0, _EBML_HEADER, _matroska, 1),
    (0, _ASF_HEADER, _asf, 1),
    (0, b"DSD ", _dsf, 1),
    (0, b"FLV\1", _flv, 1),
    (0, b"wvpk", _wavpack, 1),
    (0, b"\0\0\0\0\1\0\0\0\1\0\0\0", _mat4, 1),
    (0, b"\0\0\3\xe8\0\0\0\1\0\0\0\1", _mat4, 1),
    (0, b"2BIT", _avr, 1),
    (0, b"\1\4", _mpc2k, 1),
    (0, b"ALawSoundFile", _wve, 1),
)
