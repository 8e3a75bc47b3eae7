"""What turns class probabilities into text: the settings, and the decoder that they ask for.

Axes: T' output frames, C classes, U symbols of a text.
"""

import copy
import dataclasses
import logging
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from deepspeech2.confidence import Decoding
from deepspeech2.decoding.alignment import ctc_align_texts, log_probabilities
from deepspeech2.decoding.greedy import greedy_path
from deepspeech2.errors import InputError
from deepspeech2.files import is_special, parse_json
from deepspeech2.labels import Labels
from deepspeech2.settings import ConfigError, make_group, setting

logger = logging.getLogger(__name__)

GROUP = "LMConfig"
PATH_FIELDS = ("lm_path", "letter_lm_path", "lexicon_path")
SETTINGS_SUFFIXES = (".json", ".yaml", ".yml")  # other files are language models


@dataclass(frozen=True)
class LMConfig:
    """How to decode. All fields but the first belong to the beam search (docs/decoding.md)."""

    decoder_type: str = setting("greedy", choices=("greedy", "beam"))
    lm_path: str = setting("")  # an ARPA file of words; '': no language model
    letter_lm_path: str = setting("")  # an ARPA file of letters, for unknown words; '': any letters
    lexicon_path: str = setting("")  # the only words that are allowed, one a line; '': any
    hotwords: str = setting("")  # words to prefer, separated by commas or spaces
    top_paths: int = setting(1, minimum=1)  # texts of an utterance
    alpha: float = setting(0.4, minimum=0)  # weight of the language model's log probabilities
    beta: float = setting(2.0)  # what a word adds to the score of its text
    unknown_cost: float = setting(5.0)  # what a word that the language model lacks costs
    hotword_bonus: float = setting(1.0, minimum=0)  # what each letter of a hotword adds
    cutoff_top_n: int = setting(40, minimum=1)  # classes of a frame that can extend a text
    cutoff_prob: float = setting(1.0, above=0, maximum=1)  # their probability together
    beam_width: int = setting(100, minimum=1)  # hypotheses that survive a frame
    # how far the score of a hypothesis may lie behind the best one
    beam_threshold: float = setting(15.0, above=0)
    lm_workers: int = setting(1, minimum=1)  # threads that decode a batch, at most one a core

    def checked(self) -> "LMConfig":
        """The settings with every value checked. Raises ConfigError, naming the field."""
        fields = dataclasses.asdict(self)
        result = make_group(type(self), GROUP, {f"{GROUP}.{k}": v for k, v in fields.items()})
        result.check_together()
        return result

    def check_together(self) -> None:
        """Raise ConfigError, naming the field, for a setting that greedy decoding does not use."""
        if self.decoder_type == "greedy":
            for field in dataclasses.fields(self)[1:]:
                value = getattr(self, field.name)
                if value != field.default:
                    raise ConfigError(
                        f"`{GROUP}.{field.name}` (={value!r}) needs the beam search: set "
                        f"{GROUP}.decoder_type=beam (--decoder beam)"
                    )

    def described(self) -> str:
        """The decoder in words: its type, and the settings that are not the defaults."""
        parts = [self.decoder_type]
        for field in dataclasses.fields(self)[1:]:
            value = getattr(self, field.name)
            if value != field.default:
                value = pathlib.Path(value).name if field.name in PATH_FIELDS else value
                parts.append(f"{field.name} {value}")
        return ", ".join(parts)

    def beside(self, path: str | pathlib.Path) -> "LMConfig":
        """The settings that stand in a file: their relative paths begin at its folder."""
        folder = pathlib.Path(path).parent
        names = [name for name in PATH_FIELDS if getattr(self, name)]
        return dataclasses.replace(self, **{n: str(folder / getattr(self, n)) for n in names})


def read_settings(path: str | pathlib.Path) -> LMConfig:
    """Read settings that `tools.tune_lm` wrote: JSON, `{"LMConfig": {"alpha": 0.5, ...}}`.

    Relative paths of the language model and of the lexicon begin at the folder of the file.

    Raises:
        InputError: naming the file, when it cannot be read or holds anything else, and ConfigError
            for a wrong value.
    """
    if is_special(path):
        raise InputError(f"{path}: cannot read the settings: a pipe or a device, not a file")
    try:
        content = parse_json(pathlib.Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path}: cannot read the settings: {error.strerror}") from None
    except ValueError as error:  # not UTF-8, or not JSON
        raise InputError(
            f"{path}: not JSON: {error}: needed are settings as python -m tools.tune_lm writes them"
        ) from None
    group = content.get(GROUP) if isinstance(content, dict) and len(content) == 1 else None
    if not isinstance(group, dict):
        raise InputError(f'{path}: needed is the group {GROUP} alone: {{"{GROUP}": {{...}}}}')
    try:
        config = make_group(LMConfig, GROUP, {f"{GROUP}.{k}": v for k, v in group.items()})
        config.check_together()
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return config.beside(path)


@dataclass(frozen=True)
class Hypothesis:
    """A text of an utterance. All values are natural logarithms.

    Attributes:
        text: the text, with single spaces between words.
        score: what the texts are ranked by.
        acoustic: the log probability of all CTC paths that spell the text.
        language: the log probability that the language model gives to the words and the end of the
            sentence; 0 without a language model.
    """

    text: str
    score: float
    acoustic: float
    language: float


class Path(NamedTuple):
    """The best text of an utterance on the frames, and the other texts.

    Attributes:
        symbols: (U,) classes of the symbols.
        spans: (U, 2) first and last frame of each symbol.
        alternatives: other texts, best first.
    """

    symbols: np.ndarray
    spans: np.ndarray
    alternatives: tuple[str, ...] = ()


class Decoder(Protocol):
    """What a `Model` decodes with.

    Attributes:
        decoding: what chooses the words.
    """

    decoding: Decoding

    def texts(self, batch: Sequence[np.ndarray]) -> list[list[str]]:
        """(T', C) class probabilities of each utterance -> its texts, best first, at least one.

        Words have single spaces between them.
        """

    def path(self, probs: np.ndarray) -> Path:
        """(T', C) class probabilities of an utterance -> where its best text is said."""


class GreedyDecoder:
    """Takes the likeliest class of every frame."""

    decoding: Decoding = "network"

    def __init__(self, labels: Labels):
        self._labels = labels

    def texts(self, batch: Sequence[np.ndarray]) -> list[list[str]]:
        """See `Decoder.texts`; there is one text."""
        paths = (greedy_path(probs, self._labels.blank_index) for probs in batch)
        return [[" ".join(self._labels.decode(symbols).split())] for symbols, _ in paths]

    def path(self, probs: np.ndarray) -> Path:
        """The best path; see `Decoder.path`."""
        return Path(*greedy_path(probs, self._labels.blank_index))


class BeamDecoder:
    """Searches for the texts with the highest scores.

    Attributes:
        decoding: see `Decoder`.
        search: the `beam.BeamSearch`.
    """

    def __init__(self, labels: Labels, config: LMConfig):
        search = _import_beam().BeamSearch
        from deepspeech2.decoding.language_model import LanguageModel
        from deepspeech2.decoding.lexicon import read_lexicon

        language_model = LanguageModel.read(config.lm_path) if config.lm_path else None
        self.decoding: Decoding = "language_model" if language_model else "network"
        if language_model:
            logger.info(
                "%s: the labels can spell %.1f %% of the words",
                config.lm_path,
                100 * language_model.coverage(labels),
            )
        lexicon = read_lexicon(config.lexicon_path, labels) if config.lexicon_path else None
        self._labels = labels
        hotwords = config.hotwords.replace(",", " ").split()
        letters = LanguageModel.read(config.letter_lm_path) if config.letter_lm_path else None
        self._words = (language_model, lexicon, hotwords, letters)
        self.search = search(labels, config, *self._words)

    def with_weights(self, config: LMConfig) -> "BeamDecoder":
        """A decoder with the numbers of `config`; its files and hotwords are not read again."""
        result = copy.copy(self)
        result.search = type(self.search)(self._labels, config, *self._words)
        return result

    def texts(self, batch: Sequence[np.ndarray]) -> list[list[str]]:
        """See `Decoder.texts`; there are at most `top_paths` texts."""
        return [[h.text for h in hypotheses] for hypotheses in self.search.decode_batch(batch)]

    def path(self, probs: np.ndarray) -> Path:
        """The best path of the best text, found by forced alignment; see `Decoder.path`."""
        text, *others = self.texts([probs])[0]
        ((symbols, spans),) = self.align(probs, [text])
        return Path(symbols, spans, tuple(others))

    def align(
        self, probs: np.ndarray, texts: Sequence[str]
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Where the symbols of each text are said.

        Args:
            probs: (T', C) class probabilities.
            texts: texts of the search.

        Returns:
            For each text its (U,) classes, and their (U, 2) first and last frames.
        """
        labels = self._labels
        log_probs = log_probabilities(probs)
        if labels.space_index < len(labels):
            # a text lacks the spaces at its ends and second spaces: they count as blanks
            log_probs[:, labels.blank_index] = np.maximum(
                log_probs[:, labels.blank_index], log_probs[:, labels.space_index]
            )
        symbols = [np.array(labels.spelled(text), int) for text in texts]
        spoken = [classes for classes in symbols if len(classes)]
        spans = iter(ctc_align_texts(log_probs, spoken, labels.blank_index) if spoken else ())
        nowhere = np.empty((0, 2), int)
        return [(classes, next(spans) if len(classes) else nowhere) for classes in symbols]


def make_decoder(config: LMConfig, labels: Labels) -> Decoder:
    """The decoder that the settings ask for.

    Raises:
        InputError: for settings that contradict each other, files that cannot be used (see
            `LanguageModel.read` and `read_lexicon`), words that the labels cannot spell, and for a
            beam search without numba.
    """
    config = config.checked()
    if config.decoder_type == "beam":
        return BeamDecoder(labels, config)
    return GreedyDecoder(labels)


def _import_beam():
    """The module of the beam search, imported late: greedy decoding does without numba."""
    try:
        from deepspeech2.decoding import beam
    except ModuleNotFoundError as error:
        if error.name != "numba":
            raise
        raise InputError(
            "the beam search needs numba: python -m pip install numba, or install the package with "
            "its extra: pip install '.[lm]'"
        ) from None
    return beam
