"""Feed hostile files to everything that reads a user's file.

Usage: `python tests/faults/hostile.py [TARGET ...] [--share 1]`, and for one input again, with its
traceback: `python tests/faults/hostile.py TARGET --repeat NUMBER`

An input is made from the name of its target and its number alone. It is read in a worker process,
because it may end the process; the next input then gets a new one. A worker may use so much CPU
time, time and memory for an input, may write into the input's folder only, and may neither start a
program nor use the network. What a target says of an input is a result, or a refusal that names the
file; anything else is a failure. Files that failed are kept in the folder `--keep`.
"""

import argparse
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)]

INPUTS = 100_000  # of all targets together
# Of 100 inputs in a row, all are changed seeds; of the next 100, 25 are examples of a strategy and
# the others changes of these.
BLOCK, DRAWN = 100, 25
CPU_SECONDS, SECONDS = 10, 120  # for one input
MEMORY = 1 << 30  # bytes more than before, at most, while an input is read
ADDRESS_SPACE = 4 << 30  # bytes more than before the first input
WRITTEN = 256 << 20  # bytes that an input may leave in its folder

ACCEPTED = ("result", "refused")

Files = dict[str, bytes]  # contents by path in the folder of an input


@dataclass(frozen=True)
class Target:
    """Something that reads files.

    Attributes:
        share: number of inputs, of `INPUTS`.
        make_seeds: makes valid inputs.
        read: reads the input in a folder. Returns the problems that the user is told, or raises
            `InputError` or `RunError`; an input without problems is a result.
        change: a hostile variant of a seed.
        structured: a strategy of hypothesis for hostile inputs, None for changed seeds only.
        named: whether refusals name a file of the input.
    """

    share: int
    make_seeds: Callable[[Path], list[Files]]
    read: Callable[[Path], list[str]]
    change: Callable[[random.Random, Files, list[Files]], Files]
    structured: object = None
    named: bool = True


@dataclass
class Failure:
    target: str
    number: int
    kind: str  # `error`, `unnamed`, `hang`, `crash`, `memory`, `outside`, `disk`
    message: str


@dataclass
class Tally:
    """What became of the inputs of a target."""

    outcomes: Counter = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    seconds: float = 0.0


# --- the worker ---------------------------------------------------------------------------------


class Outside(BaseException):
    """Stops what an input may not do; no `except Exception` can hide it."""


class Watch:
    """Refuses what an input may not do, by Python's audit events, while `active`."""

    WRITES = {
        "os.mkdir": (0,), "os.rmdir": (0,), "os.remove": (0,), "os.rename": (0, 1),
        "os.link": (1,), "os.symlink": (1,), "os.truncate": (0,), "os.chmod": (0,),
        "os.chown": (0,), "os.utime": (0,), "shutil.rmtree": (0,), "shutil.chown": (0,),
    }  # fmt: skip
    PROGRAMS = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty",
                "subprocess.Popen", "pty.spawn")
    NETWORK = ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname",
               "socket.sendto", "urllib.Request")

    def __init__(self, folder: Path):
        self.folder = os.path.realpath(folder)
        self.active = False
        self.found = ""
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple) -> None:
        if not self.active:
            return
        if event == "open":
            path, _, flags = arguments
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
                self._check(event, path)
        elif event in self.WRITES:
            for i in self.WRITES[event]:
                self._check(event, arguments[i])
        elif event in self.PROGRAMS or event in self.NETWORK:
            self._refuse(f"{event} {arguments!r:.200}")

    def _check(self, event: str, path) -> None:
        if not isinstance(path, str | bytes | os.PathLike) or os.fspath(path) == os.devnull:
            return  # a descriptor: what it stands for was opened before
        path = os.fsdecode(path)
        if not os.path.isabs(path) and event in ("os.rmdir", "os.remove"):
            return  # shutil.rmtree, beside the descriptor of a folder
        parent = os.path.realpath(os.path.dirname(os.path.abspath(path)))
        place = os.path.join(parent, os.path.basename(path))
        if os.path.commonpath([place, self.folder]) != self.folder:
            self._refuse(f"{event} {path!r:.200}")

    def _refuse(self, what: str) -> None:
        self.found = self.found or what
        raise Outside(what)


class Worker:
    """Reads inputs of a target one after another, and reports each on a pipe."""

    def __init__(self, name: str, folder: Path):
        from hostile_targets import TARGETS

        self.name, self.target, self.folder = name, TARGETS[name], folder
        self.case = folder / "case"
        for place in ("case", "home", "cwd"):
            (folder / place).mkdir(exist_ok=True)
        os.environ |= {"HOME": str(folder / "home"), "TMPDIR": str(self.case)}
        tempfile.tempdir = str(self.case)
        os.chdir(folder / "cwd")
        shutil.copy(ROOT / "labels.json", ".")  # where the settings look for it
        # A preparation flushes all disks of the machine, once; here that would be all the time.
        os.sync = lambda: None
        self.seeds = self._seeds()
        self.watch = Watch(self.case)
        self.listing = self._listing()

    def _seeds(self) -> list[Files]:
        """The seeds, which are made once for all workers of a target."""
        import pickle

        path = self.folder / "seeds"
        if not path.exists():
            with tempfile.TemporaryDirectory() as folder:
                seeds = self.target.make_seeds(Path(folder))
            path.write_bytes(pickle.dumps(seeds))
        seeds = pickle.loads(path.read_bytes())
        for number, files in enumerate(seeds):  # this also imports all that is needed
            write_files(self.case, files)
            problems = self.target.read(self.case)
            assert not problems, f"{self.name}: seed {number} is refused: {problems}"
        return seeds

    def _listing(self) -> list[list[str]]:
        return [sorted(os.listdir(self.folder / place)) for place in (".", "home", "cwd")]

    def run(self, first: int, stop: int, keep: Path, pipe) -> None:
        size = memory("VmSize")
        resource.setrlimit(resource.RLIMIT_AS, (size + ADDRESS_SPACE,) * 2)
        for number, files in make_inputs(self.name, self.target, self.seeds, first, stop):
            report(pipe, number)
            kind, message = self._attempt(files)
            if kind not in ACCEPTED:
                keep_files(Failure(self.name, number, kind, message), files, keep)
            report(pipe, number, kind, message)
            if kind not in ACCEPTED and memory("VmRSS") - self.before > MEMORY // 4:
                return  # the next worker has all its memory again

    def _attempt(self, files: Files) -> tuple[str, str]:
        """What becomes of an input, and the message."""
        write_files(self.case, files)
        self.before = before = self._limit()
        self.watch.active, self.watch.found = True, ""
        try:
            kind, message = judge(self.target, self.case, files)
        except Outside:
            kind, message = "outside", ""
        finally:
            self.watch.active = False
            resource.setrlimit(resource.RLIMIT_CPU, (resource.RLIM_INFINITY,) * 2)
            signal.alarm(0)
        if self.watch.found:
            return "outside", self.watch.found
        if self._listing() != self.listing:
            found, self.listing = self._listing(), self.listing
            return "outside", f"files {found} where {self.listing} were"
        grown = memory("VmHWM") - before
        if grown > MEMORY:
            return "memory", f"{grown >> 20} MiB; {kind}: {message}"
        written = sum(path.lstat().st_blocks * 512 for path in self.case.rglob("*"))
        if written > WRITTEN:
            return "disk", f"{written >> 20} MiB; {kind}: {message}"
        return kind, message

    def _limit(self) -> int:
        """Let the kernel end this process where an input takes too long; the memory in use."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        used = int(usage.ru_utime + usage.ru_stime) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (used + CPU_SECONDS, resource.RLIM_INFINITY))
        signal.alarm(SECONDS)
        before = memory("VmRSS")
        if memory("VmHWM") - before > 32 << 20:
            Path("/proc/self/clear_refs").write_text("5")  # VmHWM becomes VmRSS
        return before


def memory(name: str) -> int:
    """Bytes, from /proc/self/status."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith(name))


def write_files(folder: Path, files: Files) -> None:
    """Empty a folder and write files into it, all with the same modification time."""
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, ns=(10**18, 10**18))


def judge(target: Target, folder: Path, files: Files) -> tuple[str, str]:
    """`result`, `refused`, or how the target fails on the input in `folder`; and the message."""
    from deepspeech2.errors import InputError, RunError

    try:
        problems = target.read(folder)
    except (InputError, RunError) as error:
        problems = [str(error)]
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{os.path.basename(place.filename)}:{place.lineno} {place.name}"
        return "error", f"{type(error).__name__} in {where}: {str(error)[:300]}"
    if not problems:
        return "result", ""
    names = {os.path.basename(name) for name in files} | {str(folder)}
    if target.named and not any(name in text for name in names for text in problems):
        return "unnamed", problems[0][:300]
    return "refused", problems[0][:300]


def report(pipe, *fields) -> None:
    pipe.write(json.dumps(fields) + "\n")
    pipe.flush()


def make_inputs(
    name: str, target: Target, seeds: list[Files], first: int, stop: int
) -> Iterator[tuple[int, Files]]:
    """The inputs of a target from number `first` to before `stop`."""
    examples: list[Files] = []
    for number in range(first, stop):
        block, at = divmod(number, BLOCK)
        rng = random.Random(f"{name} {number}")
        seed = rng.choice(seeds)
        if target.structured is not None and block % 2:
            if number == first or not at:
                examples = draw(target.structured, block)
            seed = examples[at % len(examples)]
            if at < len(examples):
                yield number, seed
                continue
        yield number, target.change(rng, seed, seeds)


def draw(strategy, seed: int) -> list[Files]:
    """Examples of a strategy of hypothesis: `DRAWN`, or all if there are fewer."""
    import hypothesis

    examples: list[Files] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=DRAWN, database=None, deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
    @hypothesis.given(strategy)
    def collect(example: Files) -> None:
        examples.append(example)

    collect()
    return examples


def keep_files(failure: Failure, files: Files, keep: Path) -> None:
    """Keep an input that failed, and how it failed."""
    place = keep / f"{failure.target}-{failure.number}"
    (place / "files").mkdir(parents=True, exist_ok=True)
    write_files(place / "files", files)
    (place / "failure.json").write_text(json.dumps(asdict(failure), indent=2) + "\n")


def work(name: str, first: int, stop: int, folder: Path, keep: Path) -> None:
    """The main function of a worker."""
    pipe = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to the log
    Worker(name, folder).run(first, stop, keep, pipe)


# --- the parent ---------------------------------------------------------------------------------


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
    command = [sys.executable, __file__, "--worker", name, str(first), str(stop), str(folder)]
    with open(folder / "log", "w+b") as log:
        process = subprocess.Popen([*command, "--keep", str(keep)], stdin=subprocess.DEVNULL,
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
    """Read one input in this process, without limits, and say what becomes of it."""
    with tempfile.TemporaryDirectory() as folder:
        worker = Worker(name, Path(folder))
        _, files = next(make_inputs(name, worker.target, worker.seeds, number, number + 1))
        write_files(worker.case, files)
        for path, content in files.items():
            print(f"{path}: {len(content)} bytes: {content[:200]!r}")
        print(worker.target.read(worker.case) or "result")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    parser.add_argument("--share", type=float, default=1.0, help=f"of {INPUTS} inputs (default: 1)")
    parser.add_argument("--inputs", type=int, help="of each target, instead of --share")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir(), "ds2-failures"))
    parser.add_argument("--repeat", type=int, metavar="NUMBER")
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        name, first, stop, folder = args.worker
        work(name, int(first), int(stop), Path(folder), args.keep)
        return 0
    if args.repeat is not None:
        repeat(args.targets[0], args.repeat)
        return 0
    from hostile_targets import TARGETS

    print("| target | inputs | result | refused | failed | seconds |")
    print("| --- | --- | --- | --- | --- | --- |")
    failed = 0
    for name in args.targets or TARGETS:
        count = args.inputs or max(1, round(args.share * TARGETS[name].share))
        tally = run(name, args.first, count, args.keep)
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
