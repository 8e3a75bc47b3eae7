"""What the preparation commands share: options, workers, and writing one utterance."""

import argparse
import contextlib
import ctypes
import fcntl
import io
import logging
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import soundfile
from tqdm import tqdm

from deepspeech2.errors import RunError
from deepspeech2.files import write_bytes
from deepspeech2.labels import Labels
from src.manifest import Manifest, count_repeats, write_manifest

logger = logging.getLogger(__name__)

SAMPLE_RATE = 16000  # Hz, of every prepared file
# the default of the configuration, from anywhere
LABELS_PATH = Path(__file__).resolve().parents[1] / "labels.json"
_PR_SET_PDEATHSIG = 1  # from linux/prctl.h

Item = TypeVar("Item")
Result = TypeVar("Result")


def whole_number(minimum: int, maximum: int | None = None) -> Callable[[str], int]:
    """An argparse type for integers from `minimum` to `maximum`."""
    def parse(text: str) -> int:
        with contextlib.suppress(ValueError):
            if int(text) >= minimum and (maximum is None or int(text) <= maximum):
                return int(text)
        limit = f"at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number {limit}")
    return parse


def seconds(text: str) -> float:
    """An argparse type for durations; `inf` is allowed."""
    with contextlib.suppress(ValueError):
        if float(text) >= 0:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds, 0 or more")


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """`--target` and `--jobs`, the same in every preparation command."""
    parser.add_argument(
        "--target",
        type=Path,
        default=Path("data"),
        help="folder to write to (default: %(default)s)",
    )
    add_jobs_argument(parser, "processes")


def add_jobs_argument(parser: argparse.ArgumentParser, workers: str) -> None:
    """`--jobs`, which counts `workers`."""
    parser.add_argument("--jobs", type=whole_number(1), default=os.cpu_count() or 1, metavar="N",
                        help=f"{workers} to work with (default: one a core, here %(default)s)")


def parallel(
    function: Callable[[Item], Result], items: Sequence[Item], jobs: int, description: str
) -> list[Result]:
    """`function` of every item, in the order of the items, by `jobs` processes and with a progress bar.

    Raises:
        RunError: if a process dies. What `function` raises ends the work and is raised here.
    """
    if jobs <= 1 or len(items) <= 1:
        return _collect(map(function, items), len(items), description)
    # Forked, not spawned: spawned workers would import everything again.
    pool = ProcessPoolExecutor(
        min(jobs, len(items)), multiprocessing.get_context("fork"), _start_worker
    )
    try:
        # The workers start here, before tqdm starts its thread.
        return _collect(pool.map(function, items, chunksize=8), len(items), description)
    except BrokenExecutor:
        raise RunError(
            f"{description}: a process was killed (out of memory?); try a smaller --jobs"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """Ctrl-C is for the parent, which lets its workers finish.

    When it is killed the kernel ends them, too.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(AttributeError):  # prctl: Linux only
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _collect(results: Iterable[Result], total: int, description: str) -> list[Result]:
    # None: shown on a terminal only
    return list(tqdm(results, description, total, unit="file", disable=None))


def to_pcm16(samples: np.ndarray) -> np.ndarray:
    """(n,) floats in [-1, 1] -> (n,) int16, rounded, with louder peaks cut off."""
    return np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)


def utterance_paths(folder: Path, name: str) -> tuple[Path, Path]:
    """The audio and transcript of a prepared utterance."""
    return folder / "wav" / f"{name}.wav", folder / "txt" / f"{name}.txt"


def wav_size(samples: int) -> int:
    """Bytes of a file that `write_wav` writes: header and 16-bit samples."""
    return 44 + 2 * samples


def write_wav(path: Path, samples: np.ndarray, mtime_ns: int | None = None) -> None:
    """(n,) int16 samples as a mono WAV at `SAMPLE_RATE`, with the time of change `mtime_ns` if one is given."""
    content = io.BytesIO()
    soundfile.write(content, samples, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    write_bytes(path, content.getvalue(), mtime_ns)


def write_text(path: Path, text: str) -> None:
    """`text` and a line end as UTF-8; a file that says so already is left alone."""
    content = f"{text}\n".encode()
    with contextlib.suppress(OSError):
        if path.read_bytes() == content:
            return
    write_bytes(path, content)


def utterance_facts(samples: int, text: str, labels: Labels) -> tuple[int, int, int, int]:
    """What the index of a manifest keeps of an utterance with so many samples at `SAMPLE_RATE`."""
    indices = labels.encode(text)
    return samples, SAMPLE_RATE, len(indices), count_repeats(indices)


def save_manifest(
    path: Path,
    rows: Sequence[tuple[Path, Path]],
    facts: Sequence[tuple[int, int, int, int]],
    labels: Labels,
) -> Manifest:
    """Write a manifest and its index, once the prepared files that they name are on disk.

    Raises:
        RunError: if a file of `rows` is not there.
    """
    os.sync()  # one for all files, where one for each would take longer than writing them
    manifest, problems = write_manifest(path, rows, labels, facts=facts)
    if problems:
        more = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
        raise RunError(f"{problems[0]}{more}")
    assert manifest is not None
    return manifest


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Make `folder`, and hold it while other commands that ask for it wait.

    A killed command lets go of it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("%s: waiting for another preparation to end", folder)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
