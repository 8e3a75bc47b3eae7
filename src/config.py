"""Every setting of the recipe, its default, its allowed values, and how YAML files and overrides change it.

The names and defaults are those of the model-zoo document. A setting is addressed as GROUP.FIELD, for example
`TrainingConfig.epochs` or `DataConfig.SpectConfig.window_size`.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from src.settings import RANGE, ConfigError, check, convert, setting


@dataclass(frozen=True)
class TrainingConfig:
    epochs: int = setting(70, minimum=1)
    seed: int = setting(0, minimum=0, below=2**32)            # NumPy's and MindSpore's generators take 32 bits
    max_steps: int = setting(0, minimum=0)                    # optimizer steps of the whole run; 0: no limit
    max_grad_norm: float = setting(400.0, above=0)            # global L2 norm
    dropout: float = setting(0.0, minimum=0, below=1)         # share of the units of each recurrent layer
    middle_loss: float = setting(0.0, minimum=0, below=1)     # share of the CTC loss that the middle layer has
    patience: int = setting(0, minimum=0)                     # evaluations without a better one; 0: never stop early
    eval_interval: int = setting(1, minimum=1)                # epochs
    save_interval: int = setting(1, minimum=1)                # epochs
    log_dir: str = setting("logs")


@dataclass(frozen=True)
class SpectConfig:
    sample_rate: int = setting(16000, minimum=1)              # Hz
    window_size: float = setting(0.02, above=0)               # seconds
    window_stride: float = setting(0.01, above=0)             # seconds
    window: str = setting("hamming", choices=("hamming", "hann", "blackman", "bartlett"))
    magnitude_scale: float = setting(1.0, above=0)             # magnitudes times this, before log1p
    normalization: str = setting("utterance", choices=("utterance", "frequency"))    # of mean and deviation

    @property
    def n_fft(self) -> int:
        """Samples per window."""
        return round(self.sample_rate * self.window_size)

    @property
    def hop_length(self) -> int:
        """Samples between the starts of two frames."""
        return round(self.sample_rate * self.window_stride)

    @property
    def num_bins(self) -> int:
        """Frequency bins of one frame."""
        return self.n_fft // 2 + 1


@dataclass(frozen=True)
class AugmentationConfig:
    speed_volume_perturb: bool = setting(False)               # another tempo and gain, drawn from these:
    tempo: tuple[float, float] = setting((0.85, 1.15), minimum=0.25, maximum=4, rule=RANGE)    # times as fast
    gain: tuple[float, float] = setting((-6.0, 8.0), minimum=-60, maximum=60, rule=RANGE)      # dB
    spec_augment: bool = setting(False)                       # bands of the spectrogram set to its mean
    frequency_masks: int = setting(1, minimum=0)
    frequency_mask_bins: int = setting(27, minimum=0)         # at most
    time_masks: int = setting(1, minimum=0)
    time_mask_frames: int = setting(70, minimum=0)            # at most, and
    time_mask_share: float = setting(0.2, minimum=0, maximum=1)    # of the utterance, each
    noise_dir: str = setting("")                              # '': no noise
    noise_prob: float = setting(0.4, minimum=0, maximum=1)
    noise_min: float = setting(0.0, minimum=0, maximum=1)     # amplitude in terms of the speech's
    noise_max: float = setting(0.5, minimum=0, maximum=1)
    shuffle_words: float = setting(0.0, minimum=0, maximum=1)    # probability of another order of the words
    shuffle_start_epoch: int = setting(10, minimum=1)         # epochs before that; then the network finds the words
    frequency_warp: float = setting(0.0, minimum=0, below=0.5)    # vocal tracts up to so much longer or shorter


@dataclass(frozen=True)
class DataConfig:
    train_manifest: str = setting("data/libri_train_manifest.csv")
    val_manifest: str = setting("data/libri_val_manifest.csv")
    test_manifest: str = setting("data/libri_test_clean_manifest.csv")
    batch_size: int = setting(8, minimum=1)                   # of all ranks together it is ranks times this
    labels_path: str = setting("./labels.json")
    num_workers: int = setting(1, minimum=1)                  # processes that load audio; 1: a thread
    SpectConfig: SpectConfig = field(default_factory=SpectConfig)
    AugmentationConfig: AugmentationConfig = field(default_factory=AugmentationConfig)


@dataclass(frozen=True)
class ModelConfig:
    rnn_type: str = setting("LSTM", choices=("LSTM",))
    hidden_size: int = setting(1024, minimum=1)
    hidden_layers: int = setting(5, minimum=1)
    lookahead_context: int = setting(20, minimum=1)           # frames; used when bidirectional is False
    bidirectional: bool = setting(True)
    conv_channels: int = setting(32, minimum=1)
    conv2_kernel: tuple[int, int] = setting(                   # (frequency, time)
        (41, 11), minimum=1, rule=(lambda k: k[0] % 2 and k[1] % 2, "be two odd numbers: the padding is half of them"))
    conv2_time_stride: int = setting(1, choices=(1, 2))        # 2: an output frame every 40 ms, not 20

    @property
    def conv_strides(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """(frequency, time) of both convolutions."""
        return (2, 2), (2, self.conv2_time_stride)

    @property
    def time_stride(self) -> int:
        """Spectrogram frames for an output frame."""
        return self.conv_strides[0][1] * self.conv_strides[1][1]


@dataclass(frozen=True)
class OptimConfig:
    optimizer: str = setting("adam", choices=("adam", "sgd"))
    learning_rate: float = setting(3e-4, above=0)
    schedule: str = setting("exponential", choices=("exponential", "cosine"))    # cosine: to 0 at the last epoch
    warmup_epochs: float = setting(0.0, minimum=0)            # with a rate that rises to its scheduled value
    learning_anneal: float = setting(1.1, above=0)            # the rate is divided by it after each epoch
    anneal_start_epoch: int = setting(0, minimum=0)           # epochs at the initial rate before that
    weight_decay: float = setting(1e-5, minimum=0)
    momentum: float = setting(0.9, minimum=0, below=1)        # sgd
    eps: float = setting(1e-8, above=0)                       # adam
    betas: tuple[float, float] = setting((0.9, 0.999), minimum=0, below=1)    # adam
    loss_scale: float = setting(1024.0, above=0)


@dataclass(frozen=True)
class CheckpointConfig:
    ckpt_file_name_prefix: str = setting(
        "DeepSpeech", rule=(lambda name: name and "/" not in name, "be the first part of a file name"))
    ckpt_path: str = setting("checkpoints")
    keep_checkpoint_max: int = setting(10, minimum=1)
    average: int = setting(0, minimum=0)                      # the last so many numbered ones make PREFIX-average.ckpt


@dataclass(frozen=True)
class LMConfig:
    decoder_type: str = setting("greedy", not_yet=True)
    lm_path: str = setting("", not_yet=True)
    top_paths: int = setting(1, not_yet=True)
    alpha: float = setting(1.818182, not_yet=True)
    beta: float = setting(0.0, not_yet=True)
    cutoff_top_n: int = setting(40, not_yet=True)
    cutoff_prob: float = setting(1.0, not_yet=True)
    beam_width: int = setting(1024, not_yet=True)
    lm_workers: int = setting(4, not_yet=True)


@dataclass(frozen=True)
class Config:
    """All groups. `explicit` holds the addresses that somebody wrote: only these may contradict a checkpoint."""

    TrainingConfig: TrainingConfig = field(default_factory=TrainingConfig)
    DataConfig: DataConfig = field(default_factory=DataConfig)
    ModelConfig: ModelConfig = field(default_factory=ModelConfig)
    OptimConfig: OptimConfig = field(default_factory=OptimConfig)
    CheckpointConfig: CheckpointConfig = field(default_factory=CheckpointConfig)
    LMConfig: LMConfig = field(default_factory=LMConfig)
    explicit: frozenset[str] = frozenset()

    def with_settings(self, settings: dict[str, Any], explicit: bool) -> "Config":
        """A copy with {address: value} changed and checked. Raises ConfigError naming the address."""
        config = self
        for address, value in settings.items():
            config = _replace(config, address.split("."), value, address)
        names = config.explicit | settings.keys() if explicit else config.explicit
        return dataclasses.replace(config, explicit=frozenset(names))


def load_config(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """The defaults, changed by a YAML file, then by `GROUP.FIELD=VALUE` strings.

    Raises:
        ConfigError: naming the file or the override, and the field, for a wrong name, type or range.
    """
    config = Config()
    if path:
        try:
            config = config.with_settings(_flatten(_read_yaml(path)), explicit=True)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
    settings = {}
    for override in overrides:
        address, separator, text = override.partition("=")
        if not separator:
            raise ConfigError(f"{override!r} is not of the form GROUP.FIELD=VALUE")
        settings[address] = _parse(address, text)
    config = config.with_settings(settings, explicit=True)
    _check_together(config)
    return config


def _check_together(config: Config) -> None:
    """Settings that are right one by one but not with each other."""
    spect = config.DataConfig.SpectConfig
    if spect.n_fft < 2 or spect.hop_length < 1:
        raise ConfigError(f"DataConfig.SpectConfig: a window of {spect.n_fft} samples every {spect.hop_length} samples "
                          "is too short: window_size and window_stride are in seconds")
    noise = config.DataConfig.AugmentationConfig
    if noise.noise_min > noise.noise_max:
        raise ConfigError(f"`DataConfig.AugmentationConfig.noise_min` (={noise.noise_min}) must not exceed noise_max "
                          f"(={noise.noise_max})")
    if config.TrainingConfig.middle_loss and config.ModelConfig.hidden_layers < 2:
        raise ConfigError(f"`TrainingConfig.middle_loss` (={config.TrainingConfig.middle_loss}) needs at least two "
                          f"recurrent layers: ModelConfig.hidden_layers is {config.ModelConfig.hidden_layers}")
    kept = config.CheckpointConfig
    if kept.average > kept.keep_checkpoint_max:
        raise ConfigError(f"`CheckpointConfig.average` (={kept.average}) needs as many checkpoints: raise "
                          f"keep_checkpoint_max (={kept.keep_checkpoint_max})")


def settings_of(group: Any, prefix: str) -> dict[str, Any]:
    """{PREFIX.FIELD: value} of one group, the form that `Config.with_settings` takes; tuples as lists for JSON."""
    return {f"{prefix}.{name}": list(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(group).items()}


def lookup(config: Config, address: str) -> Any:
    """The value at an address that exists; tuples as lists, as `settings_of` gives them."""
    value: Any = config
    for name in address.split("."):
        value = getattr(value, name)
    return list(value) if isinstance(value, tuple) else value


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML in which a group or setting written twice is an error, where PyYAML lets the last one win."""

    def construct_mapping(self, node, deep=False):
        names = [key.value for key, _ in node.value]
        for i, (key, _) in enumerate(node.value):
            if key.value in names[:i]:
                raise yaml.constructor.ConstructorError(None, None, f"`{key.value}` stands here twice", key.start_mark)
        return super().construct_mapping(node, deep)


def _read_yaml(path: str | Path) -> dict:
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8"), _UniqueKeyLoader)
    except OSError as error:
        raise ConfigError(f"cannot read the configuration: {error.strerror}") from None
    except (yaml.YAMLError, ValueError) as error:    # ValueError: not UTF-8, or a date such as 2024-13-45
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
        address = f"{prefix}{name}"
        # an empty group stays a value, so that it is refused like any other value of a group
        flat.update(_flatten(value, address + ".") if isinstance(value, dict) and value else {address: value})
    return flat


def _parse(address: str, text: str) -> Any:
    """The value of an override: text for text fields, YAML for all others."""
    if _field_type(address) is str:
        return text
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        return text


def _field_type(address: str) -> type:
    group: Any = Config
    path = address.split(".")
    for depth, name in enumerate(path):
        if not dataclasses.is_dataclass(group):
            raise ConfigError(f"unknown setting `{address}`: `{'.'.join(path[:depth])}` is not a group")
        names = {f.name: f for f in dataclasses.fields(group) if f.name != "explicit"}
        if name not in names:
            raise ConfigError(f"unknown setting `{address}`: `{name}` is none of {', '.join(names)}")
        # a group's field has the group's own name, so its class is found in this module
        group = globals()[name] if dataclasses.is_dataclass(globals().get(name)) else names[name].type
    return group


def _replace(group: Any, names: list[str], value: Any, address: str) -> Any:
    kind = _field_type(address)
    if dataclasses.is_dataclass(kind):
        raise ConfigError(f"`{address}` is a group: set its fields")
    if len(names) > 1:
        value = _replace(getattr(group, names[0]), names[1:], value, address)
    else:
        found = next(f for f in dataclasses.fields(group) if f.name == names[0])
        value = convert(address, value, kind)
        check(address, value, found)
    return dataclasses.replace(group, **{names[0]: value})
