"""Archives of arrays, as NumPy writes them."""

import io
import struct
import zipfile
import zlib
from functools import lru_cache

import numpy as np
from hypothesis import strategies as st


@st.composite
def any_array(draw) -> np.ndarray:
    kind = draw(st.sampled_from(["i8", "i4", "f8", "f4", "U5", "S3", "b1", "c8", "M8[s]", "V4"]))
    shape = tuple(draw(st.lists(st.integers(0, 5), max_size=3)))
    return np.zeros(shape, kind)


@st.composite
def npz_file(draw, arrays: dict[str, np.ndarray]) -> bytes:
    """An npz file with a right zip; its arrays are changed in type, shape, value or header."""
    content = io.BytesIO()
    method = draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
    with zipfile.ZipFile(content, "w", method) as archive:
        for name, array in arrays.items():
            action = draw(st.integers(0, 5 + 2 * len(arrays)))
            if action == 0:
                continue
            if action == 1:
                array = draw(any_array())
            elif action == 2 and array.dtype.kind in "if":
                number = draw(st.sampled_from([-1, 0, 1, 2**31, 2**62]))
                array = np.full(array.shape, number, array.dtype)
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, array, allow_pickle=False)
            data = buffer.getvalue()
            if action == 3:  # a header of the same length that says something else
                text = draw(st.sampled_from([
                    (b"(", b"(9999999999,"), (b"<i8", b"|O8"), (b"False", b"True "), (b"{", b"["),
                    (b"'descr'", b"1" * 7)]))  # fmt: skip
                data = data[:10] + data[10:128].replace(*text, 1)[:118] + data[128:]
            elif action == 4:
                data = data[: draw(st.integers(0, len(data)))]
            archive.writestr(f"{name}.npy", data)
    return content.getvalue()


@lru_cache
def npz_bomb(name: str) -> bytes:
    """An npz file of a float32 array of 1.25 GiB of zeros, in 1.3 MB."""
    begin = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        begin, {"descr": "<f4", "fortran_order": False, "shape": (20 << 24,)}
    )
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(begin.getvalue()) + packer.flush(zlib.Z_FULL_FLUSH)
    zeros = packer.compress(bytes(1 << 26)) + packer.flush(zlib.Z_FULL_FLUSH)
    packed += zeros * 20 + packer.flush()  # a full flush makes blocks that can be repeated
    crc = zlib.crc32(begin.getvalue())
    for _ in range(20):
        crc = zlib.crc32(bytes(1 << 26), crc)
    size = len(begin.getvalue()) + (20 << 26)
    fields = struct.pack("<HHHHHIIIHH", 20, 0, 8, 0, 33, crc, len(packed), size, len(name), 0)
    local = b"PK\3\4" + fields + name.encode() + packed
    central = b"PK\1\2\x14\0" + fields + bytes(14) + name.encode()
    end = struct.pack("<HHHHIIH", 0, 0, 1, 1, len(central), len(local), 0)
    return local + central + b"PK\5\6" + end
