"""Graphs that are read from the disk are those of the same cell and settings."""

import io
import os
import shutil
import sys
import zipfile

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from src import graph_cache
from src.graph_cache import compile_cell

pytestmark = pytest.mark.usefixtures("graph_mode")


class Scaled(nn.Cell):
    def __init__(self, factor: float, size: int = 3):
        super().__init__()
        self.weight = ms.Parameter(ms.ops.ones((1, size), ms.float32), name="weight")
        self.factor = factor

    def construct(self, x):
        return x * self.weight * self.factor


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder of this process's graphs."""
    monkeypatch.setattr(graph_cache._here(), "_folder", tmp_path)
    monkeypatch.delenv(graph_cache.OFF, raising=False)
    return tmp_path


def result(factor: float, size: int = 3, weight: float = 1.0) -> list[float]:
    cell = Scaled(factor, size).set_train(False)
    cell.weight.set_data(Tensor(np.full((1, size), weight, np.float32)))
    x = Tensor(np.ones((1, size), np.float32))
    compile_cell(cell, (x,), {"factor": factor, "size": size})
    return cell(x).asnumpy()[0].tolist()


def test_each_cell_has_its_own_graph(folder):
    """In any order, and with the weights of the cell, not of the one that was compiled."""
    assert result(2.0) == [2.0, 2.0, 2.0]
    assert result(3.0) == [3.0, 3.0, 3.0]
    assert result(2.0, size=4) == [2.0] * 4
    assert len(list(folder.glob("*.zip"))) == 3
    assert result(3.0, weight=5.0) == [15.0, 15.0, 15.0]
    assert result(2.0, weight=5.0) == [10.0, 10.0, 10.0]
    assert len(list(folder.glob("*.zip"))) == 3


def test_graphs_are_read(folder):
    """What lies under the name of another graph is what is computed."""
    result(2.0)
    (two,) = folder.glob("*.zip")
    result(3.0)
    (three,) = set(folder.glob("*.zip")) - {two}
    shutil.copy(three, two)
    assert result(2.0) == [3.0, 3.0, 3.0]


@pytest.mark.parametrize("damage", [
    lambda content: b"", lambda content: content[: len(content) // 2],
    lambda content: content[:200] + bytes(200) + content[400:], lambda content: b"PK" * 1000])
def test_a_damaged_graph_is_compiled_anew(folder, damage):
    result(2.0)
    (archive,) = folder.glob("*.zip")
    archive.write_bytes(damage(archive.read_bytes()))
    assert result(2.0) == [2.0, 2.0, 2.0]
    assert zipfile.ZipFile(archive).testzip() is None


def test_a_folder_that_cannot_be_written_is_no_hindrance(folder, monkeypatch):
    (folder / "file").touch()
    monkeypatch.setattr(graph_cache._here(), "_folder", folder / "file" / "below")
    assert result(2.0) == [2.0, 2.0, 2.0]
    monkeypatch.setattr(graph_cache._here(), "_folder", folder)
    assert result(3.0) == [3.0, 3.0, 3.0]


def test_what_stands_for_stderr_stays(folder, monkeypatch, tmp_path):
    """MindSpore looks up the modules of the program, and made `sys` anew on the way."""
    script = tmp_path / "train.py"
    script.write_text("import sys")
    monkeypatch.setattr(ms.common.api, "entry_script_path", str(script))
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    assert result(7.0) == [7.0, 7.0, 7.0] and len(list(folder.glob("*.zip"))) == 1
    assert sys.stderr is stream


class Failing(nn.Cell):
    def construct(self, x):
        return x.reshape(7, 7) * self.missing


def test_a_cell_that_cannot_be_compiled_disturbs_no_other(folder):
    result(2.0)
    for _ in range(3):
        with pytest.raises((RuntimeError, ValueError, AttributeError)):
            compile_cell(Failing(), (Tensor(np.ones((1, 3), np.float32)),), {})
    cell, x = Scaled(3.0).set_train(False), Tensor(np.ones((1, 3), np.float32))
    for _ in range(2):  # the second time, MindSpore has nothing to do
        compile_cell(cell, (x,), {"factor": 3.0, "size": 3})
    assert result(4.0) == [4.0, 4.0, 4.0]
    assert len(list(folder.glob("*.zip"))) == 3
    for factor in (4.0, 3.0, 2.0):
        assert result(factor, weight=5.0) == [5 * factor] * 3
    assert len(list(folder.glob("*.zip"))) == 3


def test_it_can_be_switched_off(folder, monkeypatch):
    monkeypatch.setenv(graph_cache.OFF, "0")
    assert result(2.0) == [2.0, 2.0, 2.0]
    assert not list(folder.iterdir())


def test_the_oldest_graphs_go(folder, monkeypatch):
    monkeypatch.setattr(graph_cache, "KEPT", 2)
    result(2.0)
    (two,) = folder.glob("*.zip")
    result(3.0)
    (three,) = set(folder.glob("*.zip")) - {two}
    os.utime(three, (0, 0))
    result(4.0)
    assert two in folder.glob("*.zip") and not three.exists()
