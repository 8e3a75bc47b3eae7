"""What tests share."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from src.labels import Labels

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real speech and reference numbers: ../shared, or DS2_SHARED."""
    folder = Path(os.environ.get("DS2_SHARED", ROOT.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"real speech is needed: {folder} is not there (set DS2_SHARED)")
    return folder


@pytest.fixture(scope="session")
def graph_mode() -> None:
    """MindSpore as the commands set it up. Modules that run cells ask for it; the others do not wait for the import."""
    from src import cli
    cli.set_device("CPU")


@pytest.fixture(scope="session")
def labels() -> Labels:
    """The alphabet of the project."""
    return Labels.load(ROOT / "labels.json")


@pytest.fixture(scope="session")
def write_wav():
    """Write a sine: `write_wav(path, seconds=0.1, frequency=440, rate=16000)`; other suffixes make other formats."""
    def write(path: Path, seconds: float = 0.1, frequency: float = 440, rate: int = 16000) -> np.ndarray:
        samples = 0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)
        soundfile.write(path, samples, rate)
        return samples
    return write
