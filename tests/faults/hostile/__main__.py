"""Feed hostile files to everything that reads a user's file.

Usage: `python -m tests.faults.hostile [TARGET ...] [--share 1]`, and for one input again, with its
traceback: `python -m tests.faults.hostile TARGET --repeat NUMBER`

An input is made from the name of its target and its number alone. It is read in a worker process,
because it may end the process; the next input then gets a new one. A worker may use so much CPU
time, time and memory for an input, may write into the input's folder only, and may neither start a
program nor use the network. An input that takes too long is read once more. What a target says of
an input is a result, or a refusal that names the file; anything else is a failure. Files that
failed are kept in the folder `--keep`.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.hostile.target import ROOT
from tests.faults.hostile.worker import (
    ACCEPTED,
    Failure,
    Worker,
    all_targets,
    keep_files,
    make_inputs,
    write_files,
)


@dataclass
class Tally:
    """What became of the inputs of a target."""

    outcomes: Counter = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    slow: set[int] = field(default_factory=set)  # inputs that took too long once
    seconds: float = 0.0


def run(name: str, first: int, count: int, keep: Path) -> Tally:
    """Feed inputs to a target; those that fail are kept in `keep`."""
    tally, begin, stop = Tally(), time.monotonic(), first + count
    place = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=place, prefix="ds2-hostile-") as folder:
        while first < stop:
            first = 1 + _run_worker(name, first, stop, Path(folder), keep, tally)
    tally.seconds = time.monotonic() - begin
    return tally


def _run_worker(name: str, first: int, stop: int, folder: Path, keep: Path, tally: Tally) -> int:
    """Start a worker, and listen to it until it ends; the number of the last input it read."""
    environment = os.environ | {
        "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2", "GLOG_v": "3", "MPLBACKEND": "agg",
    }  # fmt: skip
    command = [sys.executable, "-m", "tests.faults.hostile.worker", name, *map(str, (first, stop))]
    with open(folder / "log", "w+b") as log:
        process = subprocess.Popen([*command, folder, keep], cwd=ROOT, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
        last, unfinished = first - 1, True
        for line in process.stdout:
            last, *outcome = json.loads(line)
            unfinished = not outcome
            if outcome:
                kind, message = outcome
                tally.outcomes[kind] += 1
                if kind not in ACCEPTED:
                    tally.failures.append(Failure(name, last, kind, message))
        process.stdout.close()
        code = process.wait()
        log.seek(max(0, log.seek(0, 2) - 2000))
        words = log.read().decode(errors="replace").strip()
    if last < first or code and not unfinished:
        raise RuntimeError(f"a worker of {name} ended with {code} between inputs: {words}")
    if unfinished:
        kind = "hang" if -code in (signal.SIGXCPU, signal.SIGALRM) else "crash"
        if kind == "hang" and last not in tally.slow:
            tally.slow.add(last)  # once more: virtual machines stand still now and then
            return last - 1
        reason = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        tally.outcomes[kind] += 1
        tally.failures.append(Failure(name, last, kind, f"{reason}: {words[-300:]}"))
        case = folder / "case"
        files = {str(path.relative_to(case)): path.read_bytes()
                 for path in case.rglob("*") if path.is_file() and not path.is_symlink()}
        keep_files(tally.failures[-1], files, keep)
    return last


def group(failures: list[Failure]) -> list[list[Failure]]:
    """Failures of a target, those together whose messages differ in numbers and values only."""
    groups: dict[tuple[str, str], list[Failure]] = {}
    for failure in failures:
        place = re.sub(r"\d+|'.*'", "#", failure.message.partition(": ")[0])
        groups.setdefault((failure.kind, place), []).append(failure)
    return list(groups.values())


def repeat(name: str, number: int) -> None:
    """Read one input in this process, without limits of time and memory; say what becomes of it."""
    with tempfile.TemporaryDirectory() as folder:
        worker = Worker(name, Path(folder))
        _, files = next(make_inputs(name, worker.target, worker.seeds, number, number + 1))
        write_files(worker.case, files)
        for path, content in files.items():
            print(f"{path}: {len(content)} bytes: {content[:200]!r}")
        with worker.watch:
            problems = worker.target.read(worker.case)
        print(problems or "result")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    parser.add_argument("--share", type=float, default=1.0, help="of 100,000 inputs (default: 1)")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir(), "ds2-failures"))
    parser.add_argument("--repeat", type=int, metavar="NUMBER")
    args = parser.parse_args(argv)
    if args.repeat is not None:
        repeat(args.targets[0], args.repeat)
        return 0
    targets = all_targets()
    print("| target | inputs | result | refused | failed | seconds |")
    print("| --- | --- | --- | --- | --- | --- |")
    failed = 0
    for name in args.targets or targets:
        count = max(1, round(args.share * targets[name].share))
        tally = run(name, args.first, count, args.keep.absolute())
        failed += len(tally.failures)
        read, refused = tally.outcomes["result"], tally.outcomes["refused"]
        print(f"| {name} | {count} | {read} | {refused} | {len(tally.failures)} | "
              f"{tally.seconds:.0f} |", flush=True)
        for same in group(tally.failures):
            print(f"{name} {same[0].number} ({len(same)} like this): {same[0].kind}: "
                  f"{same[0].message}", file=sys.stderr, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
