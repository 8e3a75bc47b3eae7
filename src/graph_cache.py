"""Keep compiled graphs on the disk: MindSpore compiles for 5 to 20 s, and reads in half a second.

MindSpore's own compile cache (`MS_COMPILER_CACHE_ENABLE`) numbers the graphs of a process in the
order in which they are compiled, and takes what has the number, also where it belongs to a network
of another size. So it gets a new folder in each process here, into which each graph is laid under
the number that it will look for, when it is the graph of the very same code and settings.
"""

import contextlib
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import mindspore as ms
from mindspore import nn

from deepspeech2.files import atomic_path, sha256_of_sources

KEPT = 40  # graphs; those that were not used for longest go
GRAPH = "graph.mindir"  # in an archive
PROCESS = "process-"  # begins the name of a process's own folder
SECONDS_A_DAY = 86_400
OFF = "DS2_GRAPH_CACHE"  # an environment variable; 0: compile everything anew


def cached(cell: nn.Cell, settings: dict[str, Any]) -> Callable:
    """Calls a cell; the first call compiles it as `compile_cell` does."""
    is_compiled = False

    def call(*inputs):
        nonlocal is_compiled
        if not is_compiled:
            compile_cell(cell, inputs, settings)
            is_compiled = True
        return cell(*inputs)

    return call


def compile_cell(cell: nn.Cell, inputs: tuple, settings: dict[str, Any]) -> None:
    """Compile a cell for inputs, or read its graph, when one of the same settings was compiled.

    Whatever is wrong with the cache, the graph is compiled, at the first call at the latest.

    Args:
        cell: in the mode, training or evaluation, in which it is called.
        inputs: of a call.
        settings: all that the graph depends on, beside the code: values for JSON.
    """
    if os.environ.get(OFF) == "0" or ms.get_context("device_target") != "CPU":
        return
    with contextlib.suppress(OSError):
        _here().compile(cell, inputs, _key(type(cell).__name__, cell.training, settings))


def _key(*depends_on: Any) -> str:
    """The name of a graph, from all that it depends on."""
    content = json.dumps([*depends_on, _code(), os.environ.get("RANK_ID", "")], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:32]


@cache
def _code() -> list[str]:
    """The versions of what makes graphs."""
    return [ms.__version__, sys.version, own_code()]


@cache
def own_code() -> str:
    """The SHA-256 of the modules of `src`."""
    return sha256_of_sources(Path(__file__).parent)


@cache
def _here() -> "_GraphCache":
    folder = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if not os.path.isabs(folder):
        raise OSError(f"no home for {folder}")
    return _GraphCache(Path(folder) / "deepspeech2" / "graphs")


class _GraphCache:
    """The graphs of this process, and those on the disk.

    Args:
        folder: with an archive for each graph, `KEY.zip`; a damaged one is written anew.

    Raises:
        OSError: when the folder cannot be made.
    """

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._number = folder, 0
        for left in folder.glob(f"{PROCESS}*"):  # by a process that was killed
            if time.time() - left.stat().st_mtime > SECONDS_A_DAY:
                shutil.rmtree(left, ignore_errors=True)
        self._temporary = tempfile.TemporaryDirectory(prefix=PROCESS, dir=folder)
        os.environ["MS_COMPILER_CACHE_PATH"] = self._temporary.name  # is looked at once
        rank = os.environ.get("RANK_ID", "0")
        self._place = Path(self._temporary.name) / f"rank_{rank}" / "graph_cache"
        os.environ["MS_DEV_FORCE_USE_COMPILE_CACHE"] = "1"  # without comparing
        # MindSpore would look up all modules of the program to compare them. That loads `sys` once
        # more, which takes back whatever was set in it: our `sys.stderr`, for example.
        ms.common.api._get_compile_cache_dep_files = list

    def compile(self, cell: nn.Cell, inputs: tuple, key: str) -> None:
        """Compile a cell, or read its graph.

        Raises:
            OSError: when a graph cannot be kept; the cell is compiled then.
        """
        self._place.mkdir(parents=True, exist_ok=True)
        laid = self._place / f"compile_cache_{self._number}.mindir"
        archive = self._folder / f"{key}.zip"
        known = self._lay(archive, laid)
        self._number += 1
        os.environ["MS_COMPILER_CACHE_ENABLE"] = "1"
        try:
            cell.compile(*inputs)
            for graph in self._place.glob("compile_cache_*.mindir"):
                if graph != laid or graph.read_bytes() != known:  # MindSpore wrote it
                    # a compilation before that failed may have got a number, or not
                    self._number = int(graph.stem.rpartition("_")[2]) + 1
                    self._keep(archive, graph)
        finally:
            del os.environ["MS_COMPILER_CACHE_ENABLE"]
            for graph in self._place.glob("compile_cache_*.mindir"):
                graph.unlink()

    def _lay(self, archive: Path, graph: Path) -> bytes:
        """Lay a graph where MindSpore looks for it; returns the graph, or nothing without one."""
        try:
            with zipfile.ZipFile(archive) as file:  # which compares checksums
                content = file.read(GRAPH)
            graph.write_bytes(content)
            os.utime(archive)
            return content
        except (OSError, KeyError, ValueError, zipfile.BadZipFile):
            graph.unlink(missing_ok=True)
            return b""

    def _keep(self, archive: Path, graph: Path) -> None:
        with atomic_path(archive) as path, zipfile.ZipFile(path, "w") as file:
            file.write(graph, GRAPH)
        found = sorted(self._folder.glob("*.zip"), key=lambda path: path.stat().st_mtime)
        for path in found[:-KEPT]:
            path.unlink(missing_ok=True)
