"""Speech to measure with: a corpus prepared into a folder, and batches of it."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.workers import ROOT
from deepspeech2.errors import RunError
from deepspeech2.features import SpectConfig
from deepspeech2.labels import Labels
from src.dataset import COLUMNS, BatchSource
from src.manifest import Manifest, read_manifest


@dataclass(frozen=True)
class Speech:
    """The training split of a prepared corpus, as WAV files, and what to call it."""

    name: str
    manifest: Manifest
    labels: Labels

    def describe(self) -> dict:
        """What a report says of it."""
        seconds = self.manifest.seconds
        return {"name": self.name, "utterances": len(seconds), "minutes": round(float(seconds.sum()) / 60, 1),
                "shortest": round(float(seconds.min()), 1), "longest": round(float(seconds.max()), 1)}

    def rows_of_about(self, seconds: float, count: int) -> np.ndarray:
        """The `count` rows nearest in length to `seconds`, from short to long as in our batches."""
        lengths = self.manifest.seconds
        nearest = np.argsort(np.abs(lengths - seconds), kind="stable")[:count]
        return nearest[np.argsort(lengths[nearest], kind="stable")]

    def batch(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The arrays of a batch by the names of their columns: inputs (N, 1, F, T), targets (N, U), lengths."""
        *arrays, _ = BatchSource(self.manifest, [rows], self.labels, SpectConfig())[0]
        return dict(zip(COLUMNS, arrays, strict=False))


def shared_data() -> Path:
    """Where real speech may lie: `data` in ../shared beside the repository, or in DS2_SHARED."""
    return Path(os.environ.get("DS2_SHARED", ROOT.parent / "shared")) / "data"


def prepare(target: Path, quick: bool = False) -> dict[str, Speech]:
    """Prepare what there is into `target`: `{"an4": …, "librispeech": …}`, or `{"demo": …}` without real speech.

    Raises:
        RunError: when a preparation command fails.
    """
    labels = Labels.load(ROOT / "labels.json")
    sources = {"an4": ("AN4", shared_data() / "an4", "an4_train"),
               "librispeech": ("LibriSpeech", shared_data() / "LibriSpeech", "libri_train")}
    found = {key: value for key, value in sources.items() if value[1].is_dir() and not (quick and key != "an4")}
    if not found:
        found = {"demo": ("the demo corpus (synthetic speech)", None, "demo_train")}
    speech = {}
    for key, (name, source, manifest) in found.items():
        _prepare(key, target, *(["--source", str(source)] if source else []),
                 *(["--train", "48", "--val", "8", "--test", "8"] if quick and not source else []))
        speech[key] = Speech(name, read_manifest(target / f"{manifest}_manifest.csv", labels), labels)
    return speech


def _prepare(corpus: str, target: Path, *options: str) -> None:
    command = [sys.executable, "-m", f"data.{corpus}", "--target", str(target), *options]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RunError(f"python -m data.{corpus} failed:\n{result.stderr}")
