"""What the machine is and what is installed on it; nothing that names it or its folders."""

import importlib.metadata
import os
import platform
import re
import time
from datetime import date
from pathlib import Path

PACKAGES = ("mindspore", "torch", "onnxruntime", "numpy", "scipy", "librosa", "soundfile")
EXTENSIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile")    # what the frameworks choose kernels by

_TICKS = os.sysconf("SC_CLK_TCK")


class ForeignLoad:
    """How much of the cores other programs use, from when this is made on: they slow down one side more than another.

    PyTorch's threads wait for each other actively: with one other busy program, steps were seen to take 100 times as
    long. Time that a hypervisor takes away counts as well.
    """

    def __init__(self):
        self._before = self._now()

    @staticmethod
    def _now() -> tuple[float, float]:
        return time.monotonic(), all_cpu_seconds() - own_cpu_seconds()

    def share(self) -> float:
        """The share of all cores, from 0 to 1."""
        before, now = self._before, self._now()
        return min(max((now[1] - before[1]) / (now[0] - before[0]) / os.cpu_count(), 0.0), 1.0)


def all_cpu_seconds() -> float:
    """What all processes have used since the machine started, and what was stolen from it."""
    total = Path("/proc/stat").read_text().splitlines()[0]
    user, nice, system, _, _, irq, softirq, steal, *_ = map(int, total.split()[1:])
    return (user + nice + system + irq + softirq + steal) / _TICKS


def own_cpu_seconds() -> float:
    """What this process and its descendants have used, those that have ended included."""
    parents, ticks = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):      # it has ended meanwhile
            continue
        pid = int(path.parent.name)
        parents[pid], ticks[pid] = int(fields[1]), sum(map(int, fields[11:15]))    # own and of children waited for
    family, found = set(), {os.getpid()}
    while found:
        family |= found
        found = {pid for pid, parent in parents.items() if parent in found}
    return sum(ticks.get(pid, 0) for pid in family) / _TICKS


def describe() -> dict:
    """Processor, memory, system, versions and how busy the machine was before."""
    processor = _first(r"model name\s*: (.*)", "/proc/cpuinfo") or platform.machine()
    flags = (_first(r"flags\s*: (.*)", "/proc/cpuinfo") or "").split()
    memory = _first(r"MemTotal:\s*(\d+) kB", "/proc/meminfo")
    return {"processor": processor, "extensions": [name for name in EXTENSIONS if name in flags],
            "cores": len(os.sched_getaffinity(0)), "memory_gib": round(int(memory) / 2**20, 1) if memory else None,
            "system": f"{platform.system()} {platform.machine()}", "python": platform.python_version(),
            "versions": _versions(), "date": date.today().isoformat(), "load_before": round(os.getloadavg()[0], 2)}


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _first(pattern: str, path: str) -> str | None:
    try:
        match = re.search(pattern, Path(path).read_text(encoding="utf-8"))
    except OSError:
        return None
    return match[1].strip() if match else None
