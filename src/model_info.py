"""What a stored model says of itself: network and spectrogram settings and its labels. No MindSpore here.

A checkpoint carries it as a string, an exported model as a JSON file beside it.
"""

import json
from dataclasses import dataclass
from typing import Any

from src.config import Config, ConfigError, lookup, settings_of
from src.errors import InputError
from src.labels import Labels

LABELS_ADDRESS = "DataConfig.labels_path"


@dataclass(frozen=True)
class ModelInfo:
    """`settings` maps addresses such as `ModelConfig.hidden_size` to values."""

    settings: dict[str, Any]
    labels: Labels

    @classmethod
    def of(cls, config: Config, labels: Labels) -> "ModelInfo":
        """What to store with a model that was made with `config`."""
        return cls(settings_of(config.ModelConfig, "ModelConfig")
                   | settings_of(config.DataConfig.SpectConfig, "DataConfig.SpectConfig"), labels)

    def to_json(self) -> str:
        return json.dumps({"settings": self.settings, "labels": list(self.labels.characters)}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str) -> "ModelInfo":
        """Raises InputError naming `source` for anything that `to_json` did not write."""
        try:
            content = json.loads(text)
            return cls(dict(content["settings"]), Labels(content["labels"]))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{source}: the model's settings cannot be read: {error}") from None

    def apply(self, config: Config, source: str) -> Config:
        """`config` with the model's settings; only what somebody wrote explicitly can contradict them.

        Raises:
            InputError: naming both values of every contradiction.
        """
        conflicts = [f"`{address}` is {value!r} in the model but {lookup(config, address)!r} was asked for"
                     for address, value in self.settings.items()
                     if address in config.explicit and lookup(config, address) != value]
        if LABELS_ADDRESS in config.explicit:
            asked = Labels.load(config.DataConfig.labels_path)
            if asked != self.labels:
                conflicts.append(f"the labels are {str(self.labels)!r} in the model but {str(asked)!r} in "
                                 f"{config.DataConfig.labels_path}")
        if conflicts:
            raise InputError(f"{source}: " + "; ".join(conflicts))
        try:
            return config.with_settings(self.settings, explicit=False)
        except ConfigError as error:
            raise InputError(f"{source}: written by another version of this project: {error}") from None
