"""`deepspeech2 bulk` as a process, and what its tests run in other processes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, heed_signals

from deepspeech2.bulk.work import Result
from deepspeech2.errors import RunError

SHORT_SHARDS = """
import os, sys, time
from deepspeech2 import cli
from deepspeech2.bulk import job, shards
if __name__ == '__main__':
    shards.SHARD_SECONDS = 4.0
    written, write = [], job.Job.write
    def held(*arguments):
        while len(written) == 2 and not os.path.exists(os.environ.get("GO_ON", "/")):
            time.sleep(0.02)
        write(*arguments)
        written.append(1)
    job.Job.write = held
    sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory) -> Path:
    """The command with shards of four seconds. After two, it waits for the file GO_ON, if any."""
    path = tmp_path_factory.mktemp("script") / "bulk.py"
    path.write_text(SHORT_SHARDS)
    return path


def start(script: Path, *arguments, **variables) -> subprocess.Popen:
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen([sys.executable, script, "bulk", *map(str, arguments)], text=True,
                            cwd=ROOT, env=os.environ | {"PYTHONPATH": path} | variables,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            preexec_fn=heed_signals)


def run(script: Path, *arguments) -> tuple[int, str]:
    process = start(script, *arguments)
    output, _ = process.communicate(timeout=300)
    return process.returncode, output


def children(pid: int) -> list[int]:
    """The processes that a process began, but for multiprocessing's own."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rsplit(")", 1)[1].split()[1])
            command = (path / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == pid and b"spawn_main" in command:
            found.append(int(path.name))
    return found


def finished(folder: Path) -> int:
    return len(list(folder.glob("shards/*.jsonl")))


def fatal_shard(task, number, paths):
    """Recognises nothing; recordings of some names end the process."""
    for path in paths:
        if "fatal" in path or ("together" in path and len(paths) > 1):
            os.kill(os.getpid(), signal.SIGKILL)
    return Result(number, [{"audio": p, "text": ""} for p in paths], 1.0, "here")


def refuse(address: str, dask_worker) -> None:
    """A check that one worker fails."""
    if dask_worker.address == address:
        raise RunError("host-1: other contents than where the job began: an4.onnx")


def where() -> str:
    """The worker where this runs."""
    import distributed
    return distributed.get_worker().address


def full_disk() -> None:
    """A call that fails where this runs."""
    raise OSError(28, "No space left on device", "a.flac")


def slow_share() -> None:
    """A call that fails where this runs, with what dask calls an answer that is late."""
    raise TimeoutError(110, "Connection timed out", "a.flac")
