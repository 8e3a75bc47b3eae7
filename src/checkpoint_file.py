"""MindSpore's checkpoint format, read and written without MindSpore.

A file is a Protocol Buffers message with one record for each array or string, then `crc_num` and
the CRC-32 of all records (mindspore/train/serialization.py, `_exec_save` and `_parse_ckpt_proto`).
MindSpore reads what this module writes, and the other way round. Two differences: strings come
first, so that they are read without the arrays; and a file of ours without its checksum is damaged.
"""

import math
import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from isal.isal_zlib import crc32  # 13 times as fast as zlib's

from deepspeech2.errors import InputError

CHECKSUM = b"crc_num"  # followed by ten bytes, big-endian
CHECKSUM_SIZE = len(CHECKSUM) + 10
DTYPES = {
    "Bool": np.bool_,
    **{f"{kind}{bits}": np.dtype(f"{kind.lower()}{bits}")
       for kind in ("Int", "UInt") for bits in (8, 16, 32, 64)},
    **{f"Float{bits}": np.dtype(f"float{bits}") for bits in (16, 32, 64)},
}
TYPE_NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
STRING = "str"  # stored as UTF-32
CHUNK = 2**18  # bytes that are read at a time, which a processor's cache holds
LARGEST_RECORD = 2**29  # bytes; a message must stay below 2 GB


class _Damaged(ValueError):
    """The bytes are not a whole checkpoint."""


@dataclass
class Content:
    """What a checkpoint file holds, by name: arrays and strings."""

    arrays: dict[str, np.ndarray]
    strings: dict[str, str]


def write(path: str | Path, arrays: Mapping[str, np.ndarray], strings: Mapping[str, str]) -> None:
    """Write a checkpoint file; raises OSError."""
    checksum = 0
    with open(path, "wb") as file:
        for part in _records(arrays, strings):
            checksum = crc32(part, checksum)
            file.write(part)
        file.write(CHECKSUM + checksum.to_bytes(10, "big"))


def read(path: str | Path, only_strings: bool = False, without: str | None = None) -> Content:
    """Read a checkpoint file, and verify its checksum.

    Args:
        path: the file.
        only_strings: whether to read no further than the strings at its beginning; then nothing is
            verified.
        without: arrays whose names begin so are verified and not kept.

    Raises:
        InputError: naming the file, when it cannot be read or is damaged.
    """
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _parse_strings(data) if only_strings else _parse(data, without)
    except OSError as error:
        raise InputError(f"{path}: cannot read the checkpoint: {error.strerror}") from None
    # _Damaged, an empty file, text that is not UTF-8; or a dimension above 2^63
    except (ValueError, OverflowError) as error:
        raise InputError(f"{path}: not a whole MindSpore checkpoint: {error}") from None


def _records(arrays: Mapping[str, np.ndarray], strings: Mapping[str, str]) -> Iterator[bytes]:
    """The file in parts that need no copy of the arrays."""
    for name, text in strings.items():
        content = np.array(text).tobytes()
        yield _header(name, (0,), STRING, len(content))
        yield content
    for name, array in arrays.items():
        content = memoryview(np.ascontiguousarray(array)).cast("B") if array.size else b""
        for start in range(0, max(1, len(content)), LARGEST_RECORD):
            part = content[start : start + LARGEST_RECORD]
            yield _header(name, array.shape, TYPE_NAMES[array.dtype], len(part))
            yield part


def _header(name: str, shape: tuple[int, ...], type_name: str, size: int) -> bytes:
    """The bytes of a record before its content of `size` bytes."""
    dims = b"".join(b"\x08" + _varint(dim) for dim in shape)
    tensor = dims + _field(2, type_name.encode()) + b"\x1a" + _varint(size)
    value = _field(1, name.encode()) + b"\x12" + _varint(len(tensor) + size) + tensor
    return b"\x0a" + _varint(len(value) + size) + value


def _field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; all bytes but the last have their highest bit set."""
    result = bytearray()
    while value > 0x7F:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*result, value])


def _parse(data: mmap.mmap, without: str | None) -> Content:
    """What a file holds. The checksum is computed where the content is copied: in one pass."""
    end = len(data)
    checked = data[end - CHECKSUM_SIZE : end - 10] == CHECKSUM
    if checked:
        end -= CHECKSUM_SIZE
    parts: dict[str, list[np.ndarray]] = {}
    kinds: dict[str, tuple[tuple[int, ...], str]] = {}
    checksum = position = 0
    for name, shape, type_name, start, stop in _walk(data, end):
        if kinds.setdefault(name, (shape, type_name)) != (shape, type_name):
            raise _Damaged(f"{name} occurs twice")
        checksum = crc32(data[position:start], checksum)
        position = stop
        data.madvise(mmap.MADV_DONTNEED)  # what was read of the file is not memory of this process
        part, checksum = _copied(data, start, stop, checksum)
        if type_name == STRING or without is None or not name.startswith(without):
            parts.setdefault(name, []).append(part)
    if checked and checksum != int.from_bytes(data[end + len(CHECKSUM) :], "big"):
        raise _Damaged("its checksum is wrong")
    content = Content({}, {})
    for name in parts:
        shape, type_name = kinds[name]
        first, *others = parts[name]
        value = np.concatenate([first, *others]) if others else first
        if type_name == STRING:
            content.strings[name] = _string(value.tobytes())
        else:
            content.arrays[name] = _array(name, value, shape, type_name)
    first_name = next(iter(kinds), "")
    if first_name in content.strings and not checked:
        raise _Damaged("its end is missing")
    return content


def _copied(
    data: mmap.mmap, start: int, stop: int, checksum: int
) -> tuple[np.ndarray, int]:
    """The bytes from `start` to `stop`, and the checksum of all up to them."""
    part = np.empty(stop - start, np.uint8)
    for i in range(0, len(part), CHUNK):
        chunk = part[i : i + CHUNK]
        chunk[:] = np.frombuffer(data, np.uint8, len(chunk), start + i)
        checksum = crc32(chunk, checksum)
    return part, checksum


def _parse_strings(data: mmap.mmap) -> Content:
    strings = {}
    for name, _, type_name, start, stop in _walk(data, len(data)):
        if type_name != STRING:
            break
        strings[name] = _string(data[start:stop])
    return Content({}, strings)


def _string(content: bytes) -> str:
    if len(content) % 4:
        raise _Damaged("a text is cut")
    return content.decode("utf-32-le")


def _array(
    name: str, content: np.ndarray, shape: tuple[int, ...], type_name: str
) -> np.ndarray:
    """The array of a shape and type with (bytes,) uint8 `content`, whose memory it shares."""
    if type_name not in DTYPES:
        raise _Damaged(f"{name} has the type {type_name!r}")
    if len(content) % np.dtype(DTYPES[type_name]).itemsize:
        raise _Damaged(f"{name} ends inside a value")
    array = content.view(DTYPES[type_name])
    shape = () if shape == (0,) and array.size == 1 else shape  # MindSpore writes scalars so
    if array.size != math.prod(shape):
        raise _Damaged(f"{name} has {array.size} values for the shape {shape}")
    return array.reshape(shape)


def _walk(
    data: mmap.mmap, end: int
) -> Iterator[tuple[str, tuple[int, ...], str, int, int]]:
    """The name, shape, type name, start and stop of the content of each record before `end`."""
    position = 0
    while position < end:
        position, stop = _enter(data, position, end, 0x0A)
        start, name_stop = _enter(data, position, stop, 0x0A)
        name = data[start:name_stop].decode()
        position, tensor_stop = _enter(data, name_stop, stop, 0x12)
        if tensor_stop != stop:
            raise _Damaged(f"{name} has an unknown part")
        shape = []
        while data[position : position + 1] == b"\x08":
            dim, position = _read_varint(data, position + 1, stop)
            shape.append(dim)
        start, type_stop = _enter(data, position, stop, 0x12)
        type_name = data[start:type_stop].decode()
        start, content_stop = _enter(data, type_stop, stop, 0x1A)
        if content_stop != stop:
            raise _Damaged(f"{name} has an unknown part")
        yield name, tuple(shape), type_name, start, stop
        position = stop


def _enter(data: mmap.mmap, position: int, end: int, tag: int) -> tuple[int, int]:
    """Start and stop of the content of the field with this tag at `position`."""
    if position >= end or data[position] != tag:
        raise _Damaged(f"byte {position} is not the beginning of a record")
    size, start = _read_varint(data, position + 1, end)
    if start + size > end:
        raise _Damaged("its end is missing")
    return start, start + size


def _read_varint(data: mmap.mmap, position: int, end: int) -> tuple[int, int]:
    """The number at `position`, and the position after it."""
    value = 0
    for shift in range(0, 64, 7):
        if position >= end:
            raise _Damaged("its end is missing")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise _Damaged(f"byte {position} belongs to no record")
