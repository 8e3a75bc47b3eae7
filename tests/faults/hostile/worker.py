"""A process that reads inputs of a target within limits, and reports each on standard output."""

import json
import os
import pickle
import random
import resource
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import hypothesis

from deepspeech2.errors import InputError, RunError
from tests.faults.hostile.target import ROOT, Files, Target

# Every second input is a changed seed. Of the other 50 in a block, 20 are examples of a strategy,
# and 30 are changes of these.
BLOCK, DRAWN = 100, 20
CPU_SECONDS, SECONDS = 10, 120  # for one input
MEMORY = 1 << 30  # bytes more than before, at most, while an input is read
ADDRESS_SPACE = 4 << 30  # bytes more than before the first input
WRITTEN = 256 << 20  # bytes that an input may leave in its folder

ACCEPTED = ("result", "refused")


@dataclass
class Failure:
    target: str
    number: int
    kind: str  # `error`, `unnamed`, `hang`, `crash`, `memory`, `outside`, `disk`
    message: str


def all_targets() -> dict[str, Target]:
    """The targets of all modules."""
    sys.path.insert(0, str(ROOT / "tests"))  # some seeds are made by the tests' own functions
    from tests.faults.hostile import archives, audio, corpora, models, pytorch, texts

    modules = audio, texts, models, archives, corpora, pytorch
    return {name: target for module in modules for name, target in module.TARGETS.items()}


class Outside(BaseException):
    """Stops what an input may not do; no `except Exception` can hide it."""


class Watch:
    """A context in which Python's audit events refuse what an input may not do.

    Attributes:
        found: what was refused first, or "".
    """

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
        self.active, self.found = False, ""
        sys.addaudithook(self._hear)

    def __enter__(self) -> None:
        self.active, self.found = True, ""

    def __exit__(self, *_) -> None:
        self.active = False

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
        self.name, self.target, self.folder = name, all_targets()[name], folder
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
        try:
            with self.watch:
                kind, message = judge(self.target, self.case, files)
        except Outside:
            kind, message = "outside", ""
        finally:
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
    if not any(name in text for name in names for text in problems):
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
        block, at = divmod(number // 2, BLOCK // 2)
        rng = random.Random(f"{name} {number}")
        if target.structured is None or number % 2 == 0:
            yield number, target.change(rng, rng.choice(seeds), seeds)
            continue
        if not examples or at == 0:
            examples = draw(target.structured, block)
        example = examples[at % len(examples)]
        yield number, example if at < len(examples) else target.change(rng, example, seeds)


def draw(strategy, seed: int) -> list[Files]:
    """Examples of a strategy of hypothesis: `DRAWN`, or all if there are fewer."""
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


def work(name: str, first: str, stop: str, folder: str, keep: str) -> None:
    """Read the inputs from number `first` to before `stop`."""
    pipe = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to the log
    Worker(name, Path(folder)).run(int(first), int(stop), Path(keep), pipe)


if __name__ == "__main__":
    work(*sys.argv[1:])
