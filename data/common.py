"""What the preparation commands share: options, workers, and writing one utterance."""

import argparse
import contextlib
import multiprocessing
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import soundfile
from tqdm import tqdm

from src.errors import RunError
from src.files import atomic_path
from src.labels import Labels
from src.manifest import Manifest, write_manifest

SAMPLE_RATE = 16000     # Hz, of every prepared file
LABELS_PATH = Path(__file__).resolve().parents[1] / "labels.json"     # the default of the configuration, from anywhere

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


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """`--target` and `--jobs`, the same in every preparation command."""
    parser.add_argument("--target", type=Path, default=Path("data"), help="folder to write to (default: %(default)s)")
    add_jobs_argument(parser, "processes")


def add_jobs_argument(parser: argparse.ArgumentParser, workers: str) -> None:
    """`--jobs`, which counts `workers`."""
    parser.add_argument("--jobs", type=whole_number(1), default=os.cpu_count() or 1, metavar="N",
                        help=f"{workers} to work with (default: one a core, here %(default)s)")


def parallel(function: Callable[[Item], Result], items: Sequence[Item], jobs: int, description: str) -> list[Result]:
    """`function` of every item, in the order of the items, by `jobs` processes and with a progress bar.

    Raises:
        RunError: if a process dies. What `function` raises ends the work and is raised here.
    """
    if jobs <= 1 or len(items) <= 1:
        return _collect(map(function, items), len(items), description)
    # Forked, not spawned: spawned workers would import librosa again for seconds each.
    pool = ProcessPoolExecutor(min(jobs, len(items)), multiprocessing.get_context("fork"))
    try:
        # The workers start here, before tqdm starts its thread.
        return _collect(pool.map(function, items, chunksize=8), len(items), description)
    except BrokenExecutor:
        raise RunError(f"{description}: a process was killed (out of memory?); try a smaller --jobs") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _collect(results: Iterable[Result], total: int, description: str) -> list[Result]:
    return list(tqdm(results, description, total, unit="file", disable=None))    # None: shown on a terminal only


def to_pcm16(samples: np.ndarray) -> np.ndarray:
    """(n,) floats in [-1, 1] -> (n,) int16, rounded, with louder peaks cut off."""
    return np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)


def write_wav(path: Path, samples: np.ndarray) -> None:
    """(n,) int16 samples as a mono WAV at `SAMPLE_RATE`."""
    with atomic_path(path) as temporary:
        soundfile.write(temporary, samples, SAMPLE_RATE, subtype="PCM_16")


def write_text(path: Path, text: str) -> None:
    """`text` and a line end as UTF-8; a file that says so already is left alone."""
    content = f"{text}\n".encode()
    with contextlib.suppress(OSError):
        if path.read_bytes() == content:
            return
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def save_manifest(path: Path, rows: Sequence[tuple[Path, Path]], labels: Labels, jobs: int) -> Manifest:
    """Write a manifest and its index. Raises RunError if what was just prepared cannot be read back."""
    manifest, problems = write_manifest(path, rows, labels, jobs)
    if problems:
        more = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
        raise RunError(f"{problems[0]}{more}")
    assert manifest is not None
    return manifest
