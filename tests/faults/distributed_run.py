"""A start of the script that trains in several processes, and what becomes of it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from conftest import ROOT

from src.checkpoint import load_checkpoint

SAVE_SECONDS = 3.0  # between the states that a run writes
SCRIPT = "scripts/run_distribute_train_cpu.sh"
SCHEDULER = "-"


class Run:
    """One start of the launch script.

    Args:
        folder: where `ckpt` is, with the states of the run; for the output.
        settings: arguments of the script.
        ranks: processes of the run.
        within: the beginning of the command.
        checkout: the folder with the script.
        variables: of the environment.
    """

    def __init__(self, folder: Path, settings: list[str], ranks: int, within: Sequence[str] = (),
                 checkout: Path = ROOT, **variables: str):
        self.folder, self.tag = folder, f"DS2_TRIAL={time.time_ns()}"
        self.output = folder / f"output-{variables.get('NODE_RANK', 0)}.txt"
        self.before = self.step()
        name, value = self.tag.split("=")
        with open(self.output, "w") as output:
            self.process = subprocess.Popen(
                [*within, "bash", checkout / SCRIPT, "--resume", "auto", *settings], stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True, env=os.environ | {
                    "RANK_SIZE": str(ranks), "DS2_PYTHON": sys.executable, "OMP_NUM_THREADS": "1",
                    name: value} | variables)

    def saved_at(self) -> float:
        """When the newest state was written; 0 without one."""
        return max((path.stat().st_mtime for path in self.folder.glob("ckpt/*.ckpt")), default=0.0)

    def step(self) -> int:
        """The step of the newest state; 0 without one."""
        return max((load_checkpoint(path).progress["step"]
                    for path in self.folder.glob("ckpt/*-last.ckpt")), default=0)

    def wait_until_it_trains(self) -> None:
        while self.step() <= self.before:
            assert self.process.poll() is None, self.output.read_text()
            time.sleep(0.2)
        time.sleep(SAVE_SECONDS)

    def processes(self) -> dict[int, dict[str, str]]:
        """The environments of all processes that belong to this start."""
        found = {}
        for path in Path("/proc").glob("[0-9]*"):
            try:
                variables = (path / "environ").read_bytes().decode(errors="replace").split("\0")
                state = (path / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if self.tag in variables and state != "Z":
                found[int(path.name)] = dict(v.split("=", 1) for v in variables if "=" in v)
        return found

    def pid(self, rank: str) -> int:
        """The process with a rank, or the scheduler."""
        (found,) = (pid for pid, variables in self.processes().items()
                    if variables.get("MS_NODE_ID", SCHEDULER if "MS_ROLE" in variables else "")
                    == rank and os.getpgid(pid) == pid)
        return found

    def last_line(self) -> str:
        *_, line = self.output.read_text().splitlines()
        return line

    def end(self) -> float:
        """Wait for the end of all processes; returns the seconds that it took."""
        start = time.monotonic()
        self.process.wait(300)
        while self.processes():
            if time.monotonic() - start > 300:
                for pid in self.processes():
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)
        return time.monotonic() - start
