"""Checkpoints in MindSpore's format, against MindSpore itself; damaged files are refused."""

import random
import zlib

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor

from deepspeech2.errors import InputError
from src import checkpoint_file

ARRAYS = {
    "weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "half": np.array([1.5, -2], np.float16), "updates": np.array(7, np.int32),
    "flags": np.array([True, False]), "long": np.array([2**40], np.int64),
    "empty": np.zeros((0, 3), np.float32)}
STRINGS = {"info": '{"labels": "AÄ_"}', "progress": "{}"}


@pytest.fixture
def path(tmp_path):
    checkpoint_file.write(tmp_path / "a.ckpt", ARRAYS, STRINGS)
    return tmp_path / "a.ckpt"


def assert_equal(found, expected) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_what_was_written_is_read(path):
    content = checkpoint_file.read(path)
    assert_equal(content.arrays, ARRAYS)
    assert content.strings == STRINGS
    assert checkpoint_file.read(path, only_strings=True).strings == STRINGS


def test_mindspore_reads_our_files_and_verifies_their_checksum(tmp_path):
    arrays = {name: array for name, array in ARRAYS.items() if array.size}
    path = tmp_path / "b.ckpt"
    checkpoint_file.write(path, arrays, STRINGS)
    found = ms.load_checkpoint(str(path), crc_check=True)
    assert {name: found.pop(name) for name in STRINGS} == STRINGS
    assert_equal({name: p.asnumpy() for name, p in found.items()}, arrays)
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError):
        ms.load_checkpoint(str(path), crc_check=True)


@pytest.mark.parametrize("checksum", [True, False])
def test_we_read_the_files_of_mindspore(tmp_path, checksum):
    path = tmp_path / "m.ckpt"
    arrays = {name: array for name, array in ARRAYS.items() if array.size}
    arrays["large"] = np.random.default_rng(0).random((300, 1000)).astype(np.float32)
    parameters = [{"name": name, "data": Parameter(Tensor(array), name)}
                  for name, array in arrays.items()]
    ms.save_checkpoint(parameters, str(path), append_dict=STRINGS, crc_check=checksum)
    content = checkpoint_file.read(path)
    assert_equal(content.arrays, arrays)
    assert content.strings == STRINGS


def test_a_large_array_is_written_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_file, "LARGEST_RECORD", 1000)
    path = tmp_path / "l.ckpt"
    array = np.random.default_rng(0).random((40, 25)).astype(np.float32)
    checkpoint_file.write(path, {"w": array, "v": array}, STRINGS)
    assert_equal(checkpoint_file.read(path).arrays, {"w": array, "v": array})
    found = ms.load_checkpoint(str(path), crc_check=True)
    np.testing.assert_array_equal(found["w"].asnumpy(), array)


def test_arrays_can_be_left_out(path):
    content = checkpoint_file.read(path, without="w")
    assert_equal(content.arrays, {n: a for n, a in ARRAYS.items() if not n.startswith("w")})
    assert len(content.arrays) < len(ARRAYS) and content.strings == STRINGS


@pytest.mark.parametrize("without", [None, "", "w"])
def test_every_cut_and_every_change_is_noticed(path, without):
    """All places, so those between two records too, and those in what is not kept."""
    content = path.read_bytes()
    for stop in range(len(content)):
        path.write_bytes(content[:stop])
        with pytest.raises(InputError, match=r"a\.ckpt: not a whole MindSpore checkpoint"):
            checkpoint_file.read(path, without=without)
    rng = random.Random(0)
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= rng.randrange(1, 256)
        path.write_bytes(changed)
        with pytest.raises(InputError, match=r"a\.ckpt: not a whole MindSpore checkpoint"):
            checkpoint_file.read(path, without=without)


def test_random_bytes_are_no_checkpoint(path):
    rng = np.random.default_rng(0)
    for size in rng.integers(0, 200, 500):
        path.write_bytes(b"\x0a" + rng.bytes(size))
        with pytest.raises(InputError, match=r"a\.ckpt: not a whole MindSpore checkpoint"):
            checkpoint_file.read(path)


@pytest.mark.parametrize("shape", [
    (2**32, 2**32), (2**63,), (2**63, 0), (2**69, 2), (1,) * 100, (3,)])
def test_shapes_that_no_array_has(path, shape):
    """Products and numbers of dimensions that overflow; the checksum is right."""
    record = checkpoint_file._header("weight", shape, "Float32", 0)
    path.write_bytes(record + b"crc_num" + zlib.crc32(record).to_bytes(10, "big"))
    with pytest.raises(InputError, match=r"a\.ckpt: not a whole MindSpore checkpoint"):
        checkpoint_file.read(path)


def test_a_folder_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="cannot read the checkpoint: Is a directory"):
        checkpoint_file.read(tmp_path)
