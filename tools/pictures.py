"""The options that name a picture to write."""

from pathlib import Path

from deepspeech2.errors import InputError
from deepspeech2.files import ensure_writable


def check_picture(option: str, path: Path) -> None:
    """Raise InputError for a name that is not in .png, and for a place that cannot be written."""
    if path.suffix.lower() != ".png":
        raise InputError(f"{option} {path}: needed is a name in .png")
    ensure_writable(path.parent)
