"""Options, worker processes, and output files of the preparation commands."""

import argparse
import contextlib
import ctypes
import fcntl
import io
import json
import logging
import multiprocessing
import os
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import soundfile
from tqdm import tqdm

import data
import deepspeech2
import src
from deepspeech2.bulk.engines import Cluster, WorkerDied
from deepspeech2.errors import InputError, RunError
from deepspeech2.files import (
    atomic_path,
    ensure_writable,
    parse_json,
    sha256_of_sources,
    write_bytes,
)
from deepspeech2.labels import Labels
from src.manifest import Manifest, UtteranceInfo, count_repeats, write_manifest

logger = logging.getLogger(__name__)

SAMPLE_RATE = 16000  # Hz, of every prepared file
# the default labels_path of the configuration, from any working directory
LABELS_PATH = Path(__file__).resolve().parents[1] / "labels.json"
PART = 32  # items that a worker of a cluster gets at once
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
    """Add `--target` and `--jobs`."""
    parser.add_argument(
        "--target",
        type=Path,
        default=Path("data"),
        help="folder to write to (default: %(default)s)",
    )
    add_jobs_argument(parser, "processes")


def add_jobs_argument(parser: argparse.ArgumentParser, workers: str) -> None:
    """Add `--jobs`, the number of `workers`: `processes` or `threads`."""
    parser.add_argument(
        "--jobs",
        type=whole_number(1),
        default=os.cpu_count() or 1,
        metavar="N",
        help=f"{workers} to work with (default: one a core, here %(default)s)",
    )


def add_scheduler_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--scheduler`, whose value takes the place of that of `--jobs`."""
    parser.add_argument(
        "--scheduler",
        dest="jobs",
        default=argparse.SUPPRESS,
        metavar="ADDRESS",
        help="of a dask scheduler whose workers do the work, e.g. tcp://head:8786; they see source "
        "and target under the same paths",
    )


def ensure_target(folder: Path) -> None:
    """Make the folder of a corpus. Raises InputError when nothing, or no manifest, can be there."""
    try:
        os.path.abspath(folder).encode()
    except UnicodeEncodeError:
        message = f"{folder}: manifests are UTF-8, and the name of this folder is not"
        raise InputError(message) from None
    ensure_writable(folder)


def parallel(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    jobs: int | str,
    description: str,
    folder: Path,
) -> Iterator[Result]:
    """Apply a function to items in parallel, with a progress bar.

    Yields the results in the order of the items.

    Args:
        function: the function; an error that it raises ends the work, and is raised here.
        items: its arguments.
        jobs: number of processes, or the address of a dask scheduler.
        description: title of the progress bar.
        folder: that the function writes to.

    Raises:
        InputError: when there is no scheduler.
        RunError: when a process was killed, or no worker of the cluster can be used.
    """
    if isinstance(jobs, str):
        results = _on_cluster(function, items, jobs, folder)
    elif jobs <= 1 or len(items) <= 1:
        results = map(function, items)
    else:
        results = _in_processes(function, items, jobs, description)
    # disable=None: shown on a terminal only
    yield from tqdm(results, description, len(items), unit="file", disable=None)


def _in_processes(
    function: Callable[[Item], Result], items: Sequence[Item], jobs: int, description: str
) -> Iterator[Result]:
    """As `parallel`, by processes that are started at once."""
    # fork, because spawned workers would import all modules again
    pool = ProcessPoolExecutor(
        min(jobs, len(items)), multiprocessing.get_context("fork"), _start_worker
    )
    # starts the workers, before tqdm starts its thread: forking is not safe after that
    return _yield_from(pool, pool.map(function, items, chunksize=8), description)


def _yield_from(
    pool: ProcessPoolExecutor, results: Iterator[Result], description: str
) -> Iterator[Result]:
    """The results of a pool, which is closed then."""
    try:
        yield from results
    except BrokenExecutor:
        raise RunError(
            f"{description}: a process was killed (out of memory?); try a smaller --jobs"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _on_cluster(
    function: Callable[[Item], Result], items: Sequence[Item], address: str, folder: Path
) -> Iterator[Result]:
    """As `parallel`, by the workers of a cluster."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = [items[i : i + PART] for i in range(0, len(items), PART)]
    for leftover in folder.glob(".shared-*.tmp"):  # of a run that was killed
        leftover.unlink(missing_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".shared-", suffix=".tmp") as marker:
        engine = Cluster(address, (verify_worker, program(), Path(marker.name).resolve()))
        threads = ThreadPoolExecutor(engine.capacity)
        try:
            for results in threads.map(partial(engine.run, apply_to_all, function), parts):
                yield from results
        except WorkerDied:
            raise RunError(
                "workers of the cluster were killed again and again (out of memory?)"
            ) from None
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            engine.close()


def apply_to_all(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """What a function returns for each item."""
    return [function(item) for item in items]


def program() -> str:
    """The SHA-256 of the source of all that prepares corpora."""
    packages = (data, deepspeech2, src)
    return sha256_of_sources(*(Path(package.__file__).parent for package in packages))


def verify_worker(its_program: str, marker: Path) -> None:
    """Raises RunError where this process has another program, or does not see a file."""
    if program() != its_program:
        raise RunError(f"{socket.gethostname()} has another version of the program")
    if not marker.exists():
        raise RunError(
            f"{socket.gethostname()} does not see {marker.parent}: it must be a folder that all "
            "share"
        )


def _start_worker() -> None:
    """Ignore Ctrl-C, and end together with the parent.

    On Ctrl-C the parent lets its workers finish; when the parent is killed, the kernel kills them.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(AttributeError):  # prctl: Linux only
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def to_pcm16(samples: np.ndarray) -> np.ndarray:
    """(n,) floats in [-1, 1] -> (n,) int16, rounded; samples outside the range are clipped."""
    return np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)


def utterance_paths(folder: Path, name: str) -> tuple[Path, Path]:
    """The paths of a prepared utterance: recording, transcript."""
    return folder / "wav" / f"{name}.wav", folder / "txt" / f"{name}.txt"


def wav_size(samples: int) -> int:
    """Size in bytes of a file that `write_wav` writes: header and 16-bit samples."""
    return 44 + 2 * samples


def is_prepared(audio: Path, samples: int, mtime_ns: int | None = None) -> bool:
    """Whether a prepared WAV exists with this number of samples, and (unless None) this mtime."""
    try:
        status = audio.stat()
    except OSError:
        return False
    return status.st_size == wav_size(samples) and mtime_ns in (None, status.st_mtime_ns)


def write_wav(path: Path, samples: np.ndarray, mtime_ns: int | None = None) -> None:
    """Write (n,) int16 samples as a mono WAV at `SAMPLE_RATE`.

    Args:
        path: the file; parent folders are made.
        samples: (n,) int16.
        mtime_ns: modification time of the file in ns; None for the present.
    """
    content = io.BytesIO()
    soundfile.write(content, samples, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    write_bytes(path, content.getvalue(), mtime_ns)


def write_text(path: Path, text: str) -> None:
    """Write a line of text as UTF-8, unless the file has this content already."""
    content = f"{text}\n".encode()
    with contextlib.suppress(OSError):
        if path.read_bytes() == content:
            return
    write_bytes(path, content)


def read_record(path: Path) -> dict[str, list]:
    """What `write_record` wrote; empty for a file that is missing or holds anything else."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        return dict(parse_json(path.read_text(encoding="utf-8")))
    return {}


def write_record(path: Path, content: dict[str, list]) -> None:
    """Keep for later runs what this one has done, once all that it wrote is on disk."""
    os.sync()
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")


def utterance_info(samples: int, text: str, labels: Labels) -> UtteranceInfo:
    """The metadata of an utterance at `SAMPLE_RATE`."""
    indices = labels.encode(text)
    return UtteranceInfo(samples, SAMPLE_RATE, len(indices), count_repeats(indices))


def save_manifest(
    path: Path,
    rows: Sequence[tuple[Path, Path]],
    metadata: Sequence[UtteranceInfo],
    labels: Labels,
) -> Manifest:
    """Flush the prepared files to disk, then write a manifest and its index.

    Args:
        path: the manifest.
        rows: (recording, transcript) of each utterance.
        metadata: metadata of each utterance.
        labels: the alphabet of the transcripts.

    Raises:
        RunError: when a file of `rows` is missing.
    """
    os.sync()  # once for all files: an fsync for each would take longer than writing them
    manifest, problems = write_manifest(path, rows, labels, metadata=metadata)
    if problems:
        more = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
        raise RunError(f"{problems[0]}{more}")
    assert manifest is not None
    return manifest


@contextlib.contextmanager
def exclusive_lock(folder: Path) -> Iterator[None]:
    """Make `folder` and lock it; other commands that lock the same folder wait.

    The kernel releases the lock of a killed command.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("%s: waiting for another preparation to end", folder)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:  # NFS locks no folders
            message = "%s: cannot be locked (%s): take care that no other command prepares there"
            logger.warning(message, folder, error.strerror)
        yield
    finally:
        os.close(descriptor)
