"""The settings, labels and time stride that are stored with a model.

A checkpoint contains them as a string. An exported model has a JSON file beside it, which describes
the MindIR and the ONNX model of that name, and holds the checksum of each.
"""

import dataclasses
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepspeech2.confidence import Confidence, Decoding
from deepspeech2.errors import InputError
from deepspeech2.features import SpectConfig
from deepspeech2.files import atomic_path, parse_json, sha256_of
from deepspeech2.labels import Labels
from deepspeech2.settings import ConfigError, make_group

SPECT_GROUP = "DataConfig.SpectConfig"
EXPORTED = (".mindir", ".onnx")  # suffixes of the models that a JSON file describes

# settings of earlier versions, each with the only value that is still supported
_RETIRED = {f"{SPECT_GROUP}.magnitude_scale": 1.0}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelInfo:
    """Settings and labels that a model was trained with.

    Attributes:
        settings: values by key, such as `ModelConfig.hidden_size`.
        labels: the classes in their order.
        time_stride: spectrogram frames per output frame; 0 if an earlier version did not store it.
        batch_size: utterances in each batch of an exported model; 0 for any.
        first_frames: spectrogram frames that a streaming model needs at first; 0 for other models.
        confidence: the probability that a word is right, for each `Decoding` for which
            `tools.calibrate` has found it.
    """

    settings: dict[str, Any]
    labels: Labels
    time_stride: int = 0
    batch_size: int = 0
    first_frames: int = 0
    confidence: dict[Decoding, Confidence] = field(default_factory=dict)

    def spect(self) -> SpectConfig:
        """The settings of the spectrogram. Raises ConfigError for a value out of its range."""
        spect = make_group(SpectConfig, SPECT_GROUP, self.settings)
        spect.check_together()
        return spect

    def to_json(self, checksums: Mapping[str, str] | None = None) -> str:
        """The text that is stored with a model.

        Args:
            checksums: of the exported models that the text describes, by suffix.
        """
        content = {
            "settings": self.settings,
            "labels": list(self.labels.characters),
            "time_stride": self.time_stride,
            "batch_size": self.batch_size,
            "first_frames": self.first_frames,
        }
        if self.confidence:
            content["confidence"] = {k: dataclasses.asdict(v) for k, v in self.confidence.items()}
        if checksums:
            content["sha256"] = dict(checksums)
        return json.dumps(content, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str) -> "ModelInfo":
        """Read what `to_json` wrote.

        Raises:
            InputError: naming `source`, for any other text.
        """
        try:
            content = parse_json(text)
            settings = dict(content["settings"])
            labels = Labels(content["labels"])
            keys = ("time_stride", "batch_size", "first_frames")
            numbers = [int(content.get(key, 0)) for key in keys]
            if min(numbers) < 0:
                raise ValueError(f"{', '.join(keys)} ({numbers}) must be 0 or more")
            confidence = {
                decoding: Confidence(**{name: float(value) for name, value in values.items()})
                for decoding, values in content.get("confidence", {}).items()
            }
        # OverflowError: a stride of infinity
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise InputError(f"{source}: the model's settings cannot be read: {error}") from None
        for key, value in _RETIRED.items():
            if settings.pop(key, value) != value:
                raise InputError(
                    f"{source}: `{key}` is no longer supported with another value than {value!r}"
                )
        return cls(settings, labels, *numbers, confidence)


def read_info(model: Path) -> ModelInfo:
    """Read the JSON file beside an exported model, and verify the model's checksum.

    Raises:
        InputError: when the model or its JSON file is missing, when export.py did not write the
            JSON file, when a setting in it is out of its range, and when the model is damaged or
            another one than the JSON file describes.
    """
    if not model.is_file():
        raise InputError(f"{model}: no such model")
    path = model.with_suffix(".json")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise InputError(
            f"{model}: {path.name} is missing beside it: export.py writes both"
        ) from None
    info = ModelInfo.from_json(text, str(path))
    if info.time_stride < 1:
        raise InputError(
            f"{path}: written by an earlier version of export.py: export the model again"
        )
    try:
        info.spect()
    except ConfigError as error:
        raise InputError(f"{path}: {error}") from None
    expected = json.loads(text).get("sha256")  # earlier versions stored one for all, or none
    if isinstance(expected, dict):
        expected = expected.get(model.suffix, "none")
    if expected and expected != sha256_of(model):
        raise InputError(
            f"{model}: damaged, or another model than {path.name} describes: its checksum is wrong"
        )
    return info


def write_info(model: Path, info: ModelInfo) -> Path:
    """Write the JSON file beside an exported model, and return its path.

    Raises:
        InputError: as `check_info`.
    """
    path = model.with_suffix(".json")
    others = check_info(model, info)
    checksums = {file.suffix: sha256_of(file) for file in [model, *others]}
    for other, found in others.items():
        if found.confidence and not info.confidence:
            message = "%s: what tools.calibrate found is left out: %s may differ from %s"
            logger.warning(message, path, model.name, other.name)
    with atomic_path(path) as temporary:
        temporary.write_text(info.to_json(checksums), encoding="utf-8")
    return path


def check_info(model: Path, info: ModelInfo) -> dict[Path, ModelInfo]:
    """The models in other formats that the JSON file of a model describes too, and what it says.

    Raises:
        InputError: when the file describes a model in another format, with other settings.
    """
    others = {}
    for suffix in EXPORTED:
        other = model.with_suffix(suffix)
        if other == model:
            continue
        try:
            found = read_info(other)
        except InputError:  # not there, or of no use
            continue
        if dataclasses.replace(found, confidence=info.confidence) != info:
            raise InputError(
                f"{model.with_suffix('.json')}: describes {other.name}, which has other settings "
                f"than the new {model.name}: choose another name, or remove {other.name}"
            )
        others[other] = found
    return others
