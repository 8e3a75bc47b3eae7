"""All settings of the recipe with defaults and ranges; YAML files and overrides change them.

Names and defaults are those of the model-zoo document. The key of a setting is GROUP.FIELD, for
example `TrainingConfig.epochs` or `DataConfig.SpectConfig.window_size`.
"""

import dataclasses
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from deepspeech2.decoding.decoders import LMConfig
from deepspeech2.errors import InputError
from deepspeech2.features import SpectConfig, num_frames
from deepspeech2.labels import Labels
from deepspeech2.model_info import SPECT_GROUP, ModelInfo
from deepspeech2.settings import ConfigError, check, convert, setting

OF_A_HOST = re.compile(r"_(manifest|path|dir)$|[.]num_workers$")  # settings
LABELS_KEY = "DataConfig.labels_path"
# what fine-tuning may change, beside the labels: the way from recordings to streams
FINE_TUNED_KEYS = {
    "ModelConfig.bidirectional", "ModelConfig.lookahead_context", f"{SPECT_GROUP}.normalization",
    f"{SPECT_GROUP}.prior_frames", f"{SPECT_GROUP}.prior_mean", f"{SPECT_GROUP}.prior_deviation",
}

_MOST_VALUES = 10_000  # in a YAML file; a recipe has a hundred


def _groups(pattern: str) -> int:
    """The number of groups of a regular expression; -1 for what is none."""
    try:
        return re.compile(pattern).groups
    except (re.error, RecursionError, OverflowError):
        return -1


# rules of settings: a predicate, and the end of the sentence "`KEY` must ..."
RANGE = (lambda ends: ends[0] <= ends[1], "hold the smaller number first")
SPEAKER_PATTERN = (lambda text: not text or _groups(text) == 1,
                   "be a regular expression with one group")
ODD = (lambda k: k[0] % 2 and k[1] % 2, "be two odd numbers: the padding is half of each")
FILE_NAME_PREFIX = (lambda name: name and "/" not in name, "be the first part of a file name")


@dataclass(frozen=True)
class TrainingConfig:
    epochs: int = setting(70, minimum=1)
    # below 2^32: NumPy's and MindSpore's generators take seeds of 32 bits
    seed: int = setting(0, minimum=0, below=2**32)
    max_steps: int = setting(0, minimum=0)  # optimizer steps of the whole run; 0: no limit
    max_grad_norm: float = setting(400.0, above=0)  # global L2 norm
    # probability of dropping a unit of a recurrent layer for a whole utterance
    dropout: float = setting(0.0, minimum=0, below=1)
    # weight of the CTC loss on the middle layer (Lee & Watanabe 2021)
    intermediate_ctc_weight: float = setting(0.0, minimum=0, below=1)
    patience: int = setting(0, minimum=0)  # evaluations without improvement; 0: never stop early
    eval_interval: int = setting(1, minimum=1)  # epochs
    save_interval: int = setting(1, minimum=1)  # epochs
    log_dir: str = setting("logs")


@dataclass(frozen=True)
class AugmentationConfig:
    speed_volume_perturb: bool = setting(False)  # tempo and gain, drawn from the next two ranges
    tempo: tuple[float, float] = setting((0.85, 1.15), minimum=0.25, maximum=4, rule=RANGE)
    gain: tuple[float, float] = setting((-6.0, 8.0), minimum=-60, maximum=60, rule=RANGE)  # dB
    spec_augment: bool = setting(False)  # bands of the spectrogram set to its mean
    frequency_masks: int = setting(1, minimum=0)
    frequency_mask_bins: int = setting(27, minimum=0)  # largest width of a band
    time_masks: int = setting(1, minimum=0)
    time_mask_frames: int = setting(70, minimum=0)  # largest length of a band
    time_mask_share: float = setting(0.2, minimum=0, maximum=1)  # largest share of the utterance
    noise_dir: str = setting("")  # '': no noise
    noise_prob: float = setting(0.4, minimum=0, maximum=1)
    noise_min: float = setting(0.0, minimum=0, maximum=1)  # RMS of the noise / RMS of the speech
    noise_max: float = setting(0.5, minimum=0, maximum=1)
    # probability of shuffling the words of an utterance
    shuffle_words: float = setting(0.0, minimum=0, maximum=1)
    # first epoch (from 0) with shuffled words; word cuts are aligned just before
    shuffle_start_epoch: int = setting(10, minimum=1)
    # VTLP: largest relative warp of the frequency axis
    vtlp_max_warp: float = setting(0.0, minimum=0, below=0.5)

    @property
    def slowest_tempo(self) -> float:
        """The least factor of the tempo, which makes utterances longest."""
        return self.tempo[0] if self.speed_volume_perturb else 1.0


@dataclass(frozen=True)
class DataConfig:
    train_manifest: str = setting("data/libri_train_manifest.csv")
    val_manifest: str = setting("data/libri_val_manifest.csv")
    test_manifest: str = setting("data/libri_test_clean_manifest.csv")
    batch_size: int = setting(8, minimum=1)  # utterances per process and step
    # with padding, per process and step; 0: batch_size utterances, however long
    batch_seconds: float = setting(0.0, minimum=0)
    labels_path: str = setting("./labels.json")
    # finds the speaker in the path of a recording, by its group; '': all speakers are different
    speaker_pattern: str = setting("", rule=SPEAKER_PATTERN)
    num_workers: int = setting(1, minimum=1)  # processes that load audio; 1: a thread
    max_seconds: float = setting(0.0, minimum=0)  # longer utterances are not trained on; 0: all are
    SpectConfig: SpectConfig = field(default_factory=SpectConfig)
    AugmentationConfig: AugmentationConfig = field(default_factory=AugmentationConfig)


HARDTANH_MAX = 20  # of the convolutions and the lookahead
# Units from which layers share kernels in training on the CPU. Kernels hold copies of weights, but
# what shared ones are given and return is held until a step ends: that is more in small networks.
SHARED_KERNELS_FROM = 512


@dataclass(frozen=True)
class ModelConfig:
    rnn_type: str = setting("LSTM", choices=("LSTM",))
    hidden_size: int = setting(1024, minimum=1)
    hidden_layers: int = setting(5, minimum=1)
    lookahead_context: int = setting(20, minimum=1)  # frames; used when bidirectional is False
    bidirectional: bool = setting(True)
    conv_channels: int = setting(32, minimum=1)
    # (frequency, time)
    conv2_kernel: tuple[int, int] = setting((41, 11), minimum=1, rule=ODD)
    conv2_time_stride: int = setting(1, choices=(1, 2))  # 1: an output frame every 20 ms; 2: 40 ms

    @property
    def conv_kernels(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """(frequency, time) kernel sizes of both convolutions."""
        return (41, 11), self.conv2_kernel

    @property
    def conv_strides(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """(frequency, time) strides of both convolutions."""
        return (2, 2), (2, self.conv2_time_stride)

    @property
    def time_strides(self) -> tuple[int, int]:
        """Spectrogram frames per output frame of the first and the second convolution."""
        (_, first), (_, second) = self.conv_strides
        return first, first * second

    @property
    def time_stride(self) -> int:
        """Spectrogram frames per output frame of the network."""
        return self.time_strides[1]

    def conv_bins(self, num_bins: int) -> tuple[int, int]:
        """Output frequency bins of both convolutions for spectrograms with `num_bins` bins."""
        (first, _), (second, _) = self.conv_strides
        bins = strided_size(num_bins, first)
        return bins, strided_size(bins, second)

    def output_lengths(self, input_length):
        """Spectrogram frames -> output frames, for integers, arrays and tensors."""
        return strided_size(input_length, self.time_stride)


def strided_size(size, stride: int):
    """Output size of a convolution along one axis, for an odd kernel and half-kernel padding."""
    return (size - 1) // stride + 1


@dataclass(frozen=True)
class OptimConfig:
    optimizer: str = setting("adam", choices=("adam", "sgd"))
    learning_rate: float = setting(3e-4, above=0)
    # cosine: falls to 0 at the last epoch
    schedule: str = setting("exponential", choices=("exponential", "cosine"))
    warmup_epochs: float = setting(0.0, minimum=0)  # linear rise to the scheduled rate
    learning_anneal: float = setting(1.1, above=0)  # divides the rate after each epoch
    anneal_start_epoch: int = setting(0, minimum=0)  # number of epochs at the initial rate
    weight_decay: float = setting(1e-5, minimum=0)
    momentum: float = setting(0.9, minimum=0, below=1)  # sgd
    eps: float = setting(1e-8, above=0)  # adam
    betas: tuple[float, float] = setting((0.9, 0.999), minimum=0, below=1)  # adam
    loss_scale: float = setting(1024.0, above=0)
    # fine-tuning: the first N layers keep their weights; 1: the convolutions
    frozen_layers: int = setting(0, minimum=0)
    layer_decay: float = setting(1.0, above=0, maximum=1)  # rate of a layer / that of the next one


@dataclass(frozen=True)
class CheckpointConfig:
    ckpt_file_name_prefix: str = setting("DeepSpeech", rule=FILE_NAME_PREFIX)
    ckpt_path: str = setting("checkpoints")
    keep_checkpoint_max: int = setting(10, minimum=1)
    # PREFIX-last.ckpt is written at least so often; 0: after whole epochs only
    save_minutes: float = setting(10.0, minimum=0)
    # PREFIX-average.ckpt is the mean of the last N epoch checkpoints; 0: off
    average_last: int = setting(0, minimum=0)


@dataclass(frozen=True)
class Config:
    """All groups of settings.

    Attributes:
        explicit: keys that a file or an override set; only these can contradict a stored model.
    """

    TrainingConfig: TrainingConfig = field(default_factory=TrainingConfig)
    DataConfig: DataConfig = field(default_factory=DataConfig)
    ModelConfig: ModelConfig = field(default_factory=ModelConfig)
    OptimConfig: OptimConfig = field(default_factory=OptimConfig)
    CheckpointConfig: CheckpointConfig = field(default_factory=CheckpointConfig)
    LMConfig: LMConfig = field(default_factory=LMConfig)
    explicit: frozenset[str] = frozenset()

    def with_settings(self, settings: dict[str, Any], explicit: bool) -> "Config":
        """A copy with other values.

        Args:
            settings: {key: value}.
            explicit: whether to add the keys to `explicit`.

        Raises:
            ConfigError: naming the key, for an unknown key and for a wrong value.
        """
        config = self
        for key, value in settings.items():
            config = _replace(config, key.split("."), value, key)
        names = config.explicit | settings.keys() if explicit else config.explicit
        return dataclasses.replace(config, explicit=frozenset(names))

    def model_info(self, labels: Labels) -> ModelInfo:
        """The settings, labels and time stride to store with a model."""
        settings = _group_settings(self.ModelConfig, "ModelConfig")
        settings |= _group_settings(self.DataConfig.SpectConfig, SPECT_GROUP)
        return ModelInfo(settings, labels, self.ModelConfig.time_stride)

    def common_settings(self) -> dict[str, str]:
        """What the processes of a run must have in common: all settings but those of a host."""
        groups = dataclasses.asdict(self)
        del groups["explicit"]
        return {key: repr(value) for key, value in _flat(groups) if not OF_A_HOST.search(key)}

    def output_frames(self, samples, sample_rate):
        """Output frames of recordings that have not been read, for integers and integer arrays.

        Args:
            samples: samples in each file.
            sample_rate: sample rate of each file in Hz.
        """
        frames = num_frames(samples, sample_rate, self.DataConfig.SpectConfig)
        return self.ModelConfig.output_lengths(frames)

    def explicit_labels(self) -> Labels | None:
        """The labels that somebody asked for, None for those of a model or the default."""
        return Labels.load(self.DataConfig.labels_path) if LABELS_KEY in self.explicit else None

    def with_model(self, info: ModelInfo, source: str, fine_tuning: bool = False) -> "Config":
        """A copy with the settings of a stored model.

        Args:
            info: settings and labels of the model.
            source: the model's file, for messages.
            fine_tuning: whether explicit labels and `FINE_TUNED_KEYS` replace those of the model.

        Raises:
            InputError: naming both values, when an explicit setting contradicts the model.
        """
        kept = self.explicit & FINE_TUNED_KEYS if fine_tuning else frozenset()
        # a setting that is younger than the model had its default then
        stored = Config().model_info(info.labels).settings | info.settings
        settings = {key: value for key, value in stored.items() if key not in kept}
        conflicts = [
            f"`{key}` is {value!r} in the model but {_lookup(self, key)!r} was asked for"
            for key, value in settings.items()
            if key in self.explicit and _lookup(self, key) != value
        ]
        asked = self.explicit_labels()
        if asked and asked != info.labels and not fine_tuning:
            conflicts.append(
                f"the labels are {str(info.labels)!r} in the model but {str(asked)!r} in "
                f"{self.DataConfig.labels_path}"
            )
        if conflicts:
            raise InputError(f"{source}: " + "; ".join(conflicts))
        try:
            config = self.with_settings(settings, explicit=False)
            config.DataConfig.SpectConfig.check_together()
            return config
        except ConfigError as error:
            raise InputError(
                f"{source}: written by another version of this project: {error}"
            ) from None


def load_config(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """The defaults, changed by a YAML file and then by overrides.

    Relative paths in the file's `LMConfig` begin at its folder, so that a folder with a language
    model and its settings can be moved; all other paths begin at the current folder.

    Args:
        path: YAML file with groups of settings; None or '' for no file.
        overrides: `GROUP.FIELD=VALUE` strings.

    Raises:
        ConfigError: naming the file or the override, and the field, for a wrong name, type or
            range.
    """
    config = Config()
    if path:
        try:
            config = config.with_settings(_flatten(_read_yaml(path)), explicit=True)
            config = dataclasses.replace(config, LMConfig=config.LMConfig.beside(path))
            if not overrides:  # they may mend what does not fit together
                check_together(config)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
    settings = {}
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise ConfigError(f"{override!r} is not of the form GROUP.FIELD=VALUE")
        settings[key] = _parse(key, text)
    config = config.with_settings(settings, explicit=True)
    check_together(config)
    return config


def check_together(config: Config) -> None:
    """Check the settings that depend on each other. Raises ConfigError naming them."""
    config.DataConfig.SpectConfig.check_together()
    config.LMConfig.check_together()
    noise = config.DataConfig.AugmentationConfig
    if noise.noise_min > noise.noise_max:
        raise ConfigError(
            f"`DataConfig.AugmentationConfig.noise_min` (={noise.noise_min}) must not exceed "
            f"noise_max (={noise.noise_max})"
        )
    weight, layers = config.TrainingConfig.intermediate_ctc_weight, config.ModelConfig.hidden_layers
    if weight and layers < 2:
        raise ConfigError(
            f"`TrainingConfig.intermediate_ctc_weight` (={weight}) needs at least two recurrent "
            f"layers: ModelConfig.hidden_layers is {layers}"
        )
    kept = config.CheckpointConfig
    if kept.average_last > kept.keep_checkpoint_max:
        raise ConfigError(
            f"`CheckpointConfig.average_last` (={kept.average_last}) needs as many checkpoints: "
            f"raise keep_checkpoint_max (={kept.keep_checkpoint_max})"
        )


def _group_settings(group: Any, prefix: str) -> dict[str, Any]:
    """{PREFIX.FIELD: value} of one group, with tuples as lists because JSON has no tuples."""
    return {
        f"{prefix}.{name}": list(value) if isinstance(value, tuple) else value
        for name, value in dataclasses.asdict(group).items()
    }


def _flat(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _lookup(config: Config, key: str) -> Any:
    """The value of an existing key, with tuples as lists as in `_group_settings`."""
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name)
    return list(value) if isinstance(value, tuple) else value


class _StrictLoader(yaml.SafeLoader):
    """A YAML loader that refuses duplicate keys, of which PyYAML would use the last one.

    It also refuses aliases that contain themselves, or that stand for very many values: a few
    lines can stand for 2^60.
    """

    def construct_document(self, node):
        if _count_values(node, {}) > _MOST_VALUES:
            raise yaml.constructor.ConstructorError(
                None, None, f"its aliases stand for more than {_MOST_VALUES} values"
            )
        return super().construct_document(node)

    def construct_mapping(self, node, deep=False):
        names = [key.value for key, _ in node.value]
        for i, (key, _) in enumerate(node.value):
            if key.value in names[:i]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"`{key.value}` stands here twice", key.start_mark
                )
        return super().construct_mapping(node, deep)


def _count_values(node: yaml.Node, counts: dict[int, float]) -> float:
    """The values that a node holds, those of an alias each time; infinity if it holds itself.

    Args:
        node: a node of a YAML document.
        counts: numbers of the nodes that were counted, by id.
    """
    if id(node) not in counts:
        counts[id(node)] = math.inf  # until it is known
        parts = [] if isinstance(node, yaml.ScalarNode) else node.value
        if isinstance(node, yaml.MappingNode):
            parts = [part for pair in parts for part in pair]
        counts[id(node)] = 1 + sum(_count_values(part, counts) for part in parts)
    return counts[id(node)]


def _read_yaml(path: str | Path) -> dict:
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8"), _StrictLoader)
    except OSError as error:
        raise ConfigError(f"cannot read the configuration: {error.strerror}") from None
    # ValueError: not UTF-8, or a date such as 2024-13-45; RecursionError: lists in lists in lists
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"not YAML: {' '.join(str(error).split())}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError("expected groups of settings at the top level")
    return content


def _flatten(tree: dict, prefix: str = "") -> dict[str, Any]:
    """{'A': {'b': 1}} -> {'A.b': 1}."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        key = f"{prefix}{name}"
        # an empty group stays a value, and is then refused like any other value for a group
        flat.update(
            _flatten(value, key + ".") if isinstance(value, dict) and value else {key: value}
        )
    return flat


def _parse(key: str, text: str) -> Any:
    """The value of an override: the text itself for a text field, else parsed as YAML."""
    if _field_type(key) is str:
        return text
    try:
        return yaml.load(text, _StrictLoader)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text


def _field_type(key: str) -> type:
    """The type of a setting, or the class of a group. Raises ConfigError for an unknown key."""
    group: Any = Config
    path = key.split(".")
    for depth, name in enumerate(path):
        if not dataclasses.is_dataclass(group):
            raise ConfigError(f"unknown setting `{key}`: `{'.'.join(path[:depth])}` is not a group")
        names = {f.name: f for f in dataclasses.fields(group) if f.name != "explicit"}
        if name not in names:
            raise ConfigError(f"unknown setting `{key}`: `{name}` is none of {', '.join(names)}")
        # a field for a group has the name of its class, which hides the class in annotations
        group = (
            globals()[name] if dataclasses.is_dataclass(globals().get(name)) else names[name].type
        )
    return group


def _replace(group: Any, names: list[str], value: Any, key: str) -> Any:
    """A copy of `group` with the field at the path `names` set to `value`."""
    kind = _field_type(key)
    if dataclasses.is_dataclass(kind):
        raise ConfigError(f"`{key}` is a group: set its fields")
    if len(names) > 1:
        value = _replace(getattr(group, names[0]), names[1:], value, key)
    else:
        found = next(f for f in dataclasses.fields(group) if f.name == names[0])
        value = convert(key, value, kind)
        if kind is str and value.startswith("~"):  # a path: shells expand it only after a space
            value = os.path.expanduser(value)
        check(key, value, found)
    return dataclasses.replace(group, **{names[0]: value})
