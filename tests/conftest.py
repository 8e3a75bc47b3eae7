"""What tests share."""

import os
from pathlib import Path

import pytest

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
