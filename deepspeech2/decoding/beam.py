"""Beam search: the texts that acoustic model, language model and known words together prefer.

Axes: T' output frames, C classes, W words of the vocabulary, P positions of its trie.
"""

import dataclasses
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from deepspeech2.decoding.alignment import log_probabilities
from deepspeech2.decoding.decoders import Hypothesis, LMConfig
from deepspeech2.decoding.language_model import LanguageModel
from deepspeech2.decoding.lexicon import best_below, build_trie
from deepspeech2.decoding.search import (
    LetterModel,
    Rules,
    Vocabulary,
    begin,
    end,
    in_progress,
    settled,
    take,
)
from deepspeech2.errors import InputError
from deepspeech2.labels import Labels, UnknownCharacters

SUM_TOLERANCE = 0.01  # of the probabilities of a frame; float16 and int8 models round


class BeamSearch:
    """Finds the texts with the highest scores.

    The score of a text is a sum of natural logarithms: the log probability of all its CTC paths,
    `hotword_bonus` for each letter of a hotword, and with a language model `alpha` times its log
    probability of the words and of the end, `beta` for each word, minus `unknown_cost` for each
    word that it does not know. A hotword costs no `unknown_cost`. With a letter model, each word
    that is neither known nor a hotword gets `alpha` times the log probability of letters and end.

    Args:
        labels: the classes in their order.
        config: weights and widths. `decoder_type`, paths and hotwords are for `make_decoder`.
        language_model: a word n-gram model.
        lexicon: the only words that are allowed; None for any.
        hotwords: words to prefer. With a lexicon they are allowed too.
        letter_model: an n-gram model whose words are letters, for words that the language model
            does not know.

    Raises:
        InputError: for a wrong setting, for a word of the lexicon or a hotword that the labels
            cannot spell, for a language model of whose words they can spell none, for words
            although the labels have no space, and for a letter model whose words are no letters, or
            that has no use: without a language model or with a lexicon.
    """

    def __init__(
        self,
        labels: Labels,
        config: LMConfig,
        language_model: LanguageModel | None = None,
        lexicon: Sequence[str] | None = None,
        hotwords: Sequence[str] = (),
        letter_model: LanguageModel | None = None,
    ):
        self.labels = labels
        self._classes = {character: i for i, character in enumerate(labels.characters)}
        self.config = dataclasses.replace(config, decoder_type="beam").checked()
        if labels.space_index == len(labels) and (language_model or lexicon or hotwords):
            raise InputError(
                "the labels have no space, so a text has no words: language model, lexicon and "
                "hotwords need one"
            )
        known = language_model.spellings(labels) if language_model else {}
        preferred = dict.fromkeys(_spelled(word, labels, "hotword") for word in hotwords)
        allowed = known if lexicon is None else [_spelled(w, labels, "lexicon") for w in lexicon]
        words = list(dict.fromkeys([*allowed, *preferred]))
        hot = np.array([word in preferred for word in words], bool)
        closed = lexicon is not None
        self._tables = language_model.tables if language_model else None
        self._letters = _letters(letter_model, labels) if letter_model else None
        if letter_model and (closed or not language_model):
            raise InputError(
                f"{letter_model.name}: the letter model is for words that a language model does "
                "not know: it needs one, and no lexicon"
            )
        self._vocabulary, self._rules = self._compile(words, known, hot, closed, language_model)

    def _compile(
        self,
        words: list[str],
        known: dict[str, int],
        hot: np.ndarray,
        closed: bool,
        lm: LanguageModel | None,
    ) -> tuple[Vocabulary, Rules]:
        """What the compiled search needs.

        Args:
            words: the vocabulary.
            known: {word: id} of the words that the language model knows.
            hot: (W,) which words are hotwords.
            closed: whether other words are forbidden.
            lm: the language model.
        """
        config = self.config
        unknown = lm.unknown if lm else 0
        ids = np.array([known.get(word, unknown) for word in words], np.int32)
        unigrams = lm.tables.log_prob[1:].astype(float) if lm else np.zeros(1)
        beta, cost = (config.beta, config.unknown_cost) if lm else (0.0, 0.0)
        unknown_gain = beta - cost
        unknown_ahead = config.alpha * float(unigrams[unknown]) + unknown_gain
        lacking = np.array([word not in known for word in words], bool)
        gains = beta - cost * (lacking & ~hot)
        letter_bonus = config.hotword_bonus * hot
        trie = build_trie([[self._classes[letter] for letter in word] for word in words])
        ahead = best_below(trie, config.alpha * unigrams[ids] + gains, letter_bonus)
        gains = gains + letter_bonus * np.array([len(word) for word in words])
        ends = np.flatnonzero(trie.word >= 0)
        vocabulary = Vocabulary(
            first=trie.first,
            symbol=trie.symbol,
            word=np.full(len(trie.word), -1, np.int32),
            gain=np.zeros(len(trie.word)),
            # with a letter model the search itself compares with what the letters say
            ahead=ahead if closed or self._letters else np.maximum(ahead, unknown_ahead),
        )
        vocabulary.word[ends] = ids[trie.word[ends]]
        vocabulary.gain[ends] = gains[trie.word[ends]]
        rules = Rules(
            blank=np.int32(self.labels.blank_index),
            space=np.int32(self.labels.space_index),
            closed=closed,
            width=config.beam_width,
            margin=config.beam_threshold,
            alpha=config.alpha,
            begin=lm.begin if lm else 0,
            end=lm.end if lm else 0,
            unknown=unknown,
            unknown_gain=unknown_gain,
            unknown_ahead=unknown_ahead,
            letter_bonus=float(letter_bonus.max(initial=0)),
            most_gain=float(max(gains.max(initial=-np.inf), unknown_gain)),
        )
        return vocabulary, rules

    def decode(self, probs: np.ndarray) -> list[Hypothesis]:
        """The best texts of an utterance, at most `top_paths`, best first; at least one.

        Args:
            probs: (T', C) class probabilities.

        Raises:
            InputError: for another shape, and for values that are no probabilities.
        """
        return self.end(self.take(self.begin(), probs))

    def compile(self) -> None:
        """Let numba compile all parts of the search, or load them, so that no user waits for it."""
        state = self.take(self.begin(), np.full((2, len(self.labels)), 1 / len(self.labels)))
        self.texts_in_progress(state)
        self.end(self.settle(state, 0))

    def begin(self) -> tuple:
        """The state of a search before the first frame."""
        return begin(len(self.labels), self._letters, self._rules)

    def take(self, search: tuple, probs: np.ndarray) -> tuple:
        """The state after more frames of an utterance; the old one must not be used any more.

        Args:
            search: the state before.
            probs: (T', C) class probabilities.

        Raises:
            InputError: as `decode`.
        """
        config = self.config
        probs = self._checked(probs)
        log_probs = log_probabilities(probs.astype(np.float64))
        classes = np.argsort(-log_probs, axis=1, kind="stable")[:, : config.cutoff_top_n]
        classes = np.ascontiguousarray(classes, np.int32)
        num_classes = np.full(len(probs), classes.shape[1])
        if config.cutoff_prob < 1:
            before = np.take_along_axis(probs, classes, 1).cumsum(1)[:, :-1]
            num_classes = 1 + (before < config.cutoff_prob).sum(1)
        rest = self._vocabulary, self._tables, self._letters, self._rules
        return take(search, log_probs, classes, num_classes, *rest)

    def texts_in_progress(self, search: tuple) -> tuple[np.ndarray, np.ndarray]:
        """The (U,) symbols of the best hypothesis so far, and those that all have in common.

        What all have in common will never change.
        """
        best, common = in_progress(search)
        return best, best[:common]

    def settle(self, search: tuple, count: int) -> tuple:
        """The state without the hypotheses that lack the best one's first `count` symbols.

        The old state must not be used any more.
        """
        return settled(search, count)

    def end(self, search: tuple) -> list[Hypothesis]:
        """The best texts after all frames, as `decode` gives them; the state stays as it is."""
        rest = self._vocabulary, self._tables, self._letters, self._rules
        texts, values = end(search, *rest)
        order = np.argsort(-values[:, 2], kind="stable")[: self.config.top_paths]
        return [
            Hypothesis(self.labels.decode(text[text >= 0]), score, acoustic, language)
            for text, (acoustic, language, score) in zip(
                texts[order], values[order].tolist(), strict=True
            )
            if score > -np.inf
        ]

    def decode_batch(self, batch: Sequence[np.ndarray]) -> list[list[Hypothesis]]:
        """The best texts of each utterance of a batch, found in `lm_workers` threads; see `decode`.

        Args:
            batch: (T', C) class probabilities of each utterance, without padding.
        """
        workers = min(self.config.lm_workers, len(batch), os.cpu_count() or 1)
        if workers < 2:
            return [self.decode(probs) for probs in batch]
        with ThreadPoolExecutor(workers) as threads:
            return list(threads.map(self.decode, batch))

    def _checked(self, probs: np.ndarray) -> np.ndarray:
        """`probs` as an array. Raises as `decode`."""
        probs = np.asarray(probs)
        if probs.ndim != 2 or probs.shape[1] != len(self.labels):
            raise InputError(
                f"the probabilities have shape {probs.shape}, needed is (T', {len(self.labels)}): "
                "frames and classes"
            )
        for wrong, what in [(~np.isfinite(probs), "which is not a finite number"),
                            (probs < 0, "needed are probabilities, not logits or logarithms")]:
            if wrong.any():
                frame, symbol = np.argwhere(wrong)[0]
                raise InputError(
                    f"frame {frame} has {probs[frame, symbol]} for class {symbol}, {what}"
                )
        sums = probs.sum(axis=1, dtype=np.float64)
        wrong = np.flatnonzero(abs(sums - 1) > SUM_TOLERANCE)
        if len(wrong):
            raise InputError(
                f"the probabilities of frame {wrong[0]} add up to {sums[wrong[0]]:.6g}, needed is "
                "1: a softmax, not logits"
            )
        return probs


def _letters(model: LanguageModel, labels: Labels) -> LetterModel:
    """What the compiled search needs of a letter model. Raises as `BeamSearch`."""
    ids = model.spellings(labels)
    longer = next((word for word in ids if len(word) > 1), None)
    if longer:
        raise InputError(
            f"{model.name}: {longer!r} is not a letter: needed is a model of letters, as python -m "
            "tools.build_lm --letters True makes it"
        )
    classes = [ids.get(character, model.unknown) for character in labels.characters]
    return LetterModel(model.tables, np.array(classes, np.int32), model.begin, model.end)


def _spelled(word: str, labels: Labels, kind: str) -> str:
    """A word as the labels spell it. Raises InputError naming it and its unknown characters."""
    try:
        spelled = labels.normalize(word)
    except UnknownCharacters as error:
        raise InputError(f"{kind}: {error}: the labels cannot spell it") from None
    if not spelled or " " in spelled:
        raise InputError(f"{kind}: {word!r} is not one word")
    return spelled
