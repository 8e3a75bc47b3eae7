"""What comes with the package, by name: models, and language models with their weights."""

from importlib import resources
from pathlib import Path

_ASSETS = Path(str(resources.files("deepspeech2") / "assets"))


def models() -> dict[str, Path]:
    """The ONNX files of the models."""
    return {path.stem: path for path in _ASSETS.glob("*.onnx")}


def model_path(name: str | Path) -> Path:
    """Where the model lies that `load_model` calls `name`."""
    return models().get(str(name), Path(name))


def language_models() -> dict[str, Path]:
    """The settings with which a beam search uses each language model."""
    return {path.stem: path for path in (_ASSETS / "lm").glob("*.json")}
