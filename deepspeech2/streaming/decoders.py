"""Decode a stream frame by frame: words that are complete, and what is in progress.

Axes: T' output frames, C classes, U symbols of a text.
"""

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from deepspeech2.decoding.alignment import log_probabilities, symbol_log_probs, word_slices
from deepspeech2.decoding.decoders import BeamDecoder, Decoder
from deepspeech2.labels import Labels

SETTLED = 0.3  # seconds for which the best hypothesis of a beam search keeps a word: then it stays


@dataclass
class SpokenWord:
    """A word and where it was heard.

    Attributes:
        symbols: its classes.
        log_probs: natural log of how sure the model is of each symbol; see `symbol_log_probs`.
        first, last: samples on which its first and its last frame are centred.
    """

    symbols: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    first: int = 0
    last: int = 0


class StreamDecoder(Protocol):
    """What a `Session` decodes with.

    Attributes:
        partial: (U,) classes of what is in progress: it may change, and then becomes words.
        between_words: whether nothing is in progress.
    """

    partial: list[int]
    between_words: bool

    def push(self, probs: np.ndarray, sample: int) -> list[SpokenWord]:
        """Take the (C,) class probabilities of the next frame, which is centred on a sample.

        Returns:
            The words that are complete now, and will not change.
        """

    def flush(self) -> list[SpokenWord]:
        """End what is in progress; returns its words. What comes is another text."""

    def cut(self) -> bool:
        """Let another text begin behind the words that were returned, if a word ended there.

        Returns:
            Whether it did. What is in progress belongs to the new text.
        """


def stream_decoder(decoder: Decoder, labels: Labels, sample_rate: int) -> StreamDecoder:
    """The decoder for a stream that decodes as `decoder` decodes recordings."""
    if isinstance(decoder, BeamDecoder):
        return BeamStream(decoder, labels, round(SETTLED * sample_rate))
    return GreedyStream(labels)


class GreedyStream:
    """Takes the likeliest class of each frame; the symbols are those of the whole recording."""

    def __init__(self, labels: Labels):
        self._labels = labels
        self._last = labels.blank_index  # the class of the frame before
        self._word = SpokenWord()
        self._best = 0.0  # probability of the last symbol in its best frame

    @property
    def partial(self) -> list[int]:
        return self._word.symbols

    @property
    def between_words(self) -> bool:
        return not self._word.symbols

    def push(self, probs: np.ndarray, sample: int) -> list[SpokenWord]:
        """See `StreamDecoder.push`."""
        symbol, before = int(probs.argmax()), self._last
        self._last = symbol
        if symbol == self._labels.space_index:
            return self.flush()
        if symbol == self._labels.blank_index:
            return []
        word = self._word
        if not word.symbols:
            word.first = sample
        if symbol == before and word.symbols:
            self._best = max(self._best, float(probs[symbol]))
        else:
            self._best = float(probs[symbol])
            word.symbols.append(symbol)
            word.log_probs.append(0.0)
        word.log_probs[-1] = float(log_probabilities(np.float64(self._best)))
        word.last = sample
        return []

    def flush(self) -> list[SpokenWord]:
        """See `StreamDecoder.flush`."""
        word, self._word = self._word, SpokenWord()
        return [word] if word.symbols else []

    def cut(self) -> bool:
        """See `StreamDecoder.cut`."""
        return self.between_words


class BeamStream:
    """A beam search whose words are given out when they are settled.

    A word is settled when all hypotheses agree on it, or when it has been part of the best one for
    a while: then the hypotheses without it are dropped. Times and probabilities of words come from
    forced alignment of the best text, as in recordings.

    Args:
        decoder: the beam search.
        labels: its classes.
        patience: samples for which the best hypothesis keeps a word until it is settled.
    """

    def __init__(self, decoder: BeamDecoder, labels: Labels, patience: int):
        self._decoder, self._labels, self._patience = decoder, labels, patience
        self._begin()

    def _begin(self) -> None:
        self._state = self._decoder.search.begin()
        self._given = 0  # symbols of the text that were given out
        self._given_words = 0
        # of what is in progress, behind the last word that was given out:
        self._probs: list[np.ndarray] = []  # (C,) of each frame
        self._samples: list[int] = []  # on which they are centred
        self._best = np.zeros(0, np.int32)  # symbols of the best hypothesis
        self._since: list[int] = []  # the sample since when it has had each of its complete words

    @property
    def partial(self) -> list[int]:
        parts = word_slices(self._best, self._labels.space_index)
        return self._best[parts[0].start : parts[-1].stop].tolist() if parts else []

    @property
    def between_words(self) -> bool:
        return not self.partial

    def push(self, probs: np.ndarray, sample: int) -> list[SpokenWord]:
        """See `StreamDecoder.push`."""
        self._probs.append(probs)
        self._samples.append(sample)
        search = self._decoder.search
        self._state = search.take(self._state, probs[None])
        best, common = search.texts_in_progress(self._state)
        stops = self._complete(best[self._given :], sample)
        agreed = sum(self._given + stop <= len(common) for stop in stops)
        count = max(agreed, bisect_right(self._since, sample - self._patience))
        if count > agreed:
            self._state = search.settle(self._state, self._given + stops[count - 1])
        return self._give(count, stops[count - 1]) if count else []

    def _complete(self, best: np.ndarray, sample: int) -> list[int]:
        """Where the words end that have a space behind them, with the space; notes since when.

        Args:
            best: (U,) symbols of the best hypothesis that were not given out.
            sample: the present one.
        """
        stops = [part.stop + 1 for part in word_slices(best, self._labels.space_index)
                 if part.stop < len(best)]
        size = min(len(best), len(self._best))
        different = np.flatnonzero(best[:size] != self._best[:size])
        same = different[0] if len(different) else size
        self._since = self._since[: sum(stop <= same for stop in stops)]
        self._since += [sample] * (len(stops) - len(self._since))
        self._best = best
        return stops

    def _give(self, count: int, stop: int) -> list[SpokenWord]:
        """The first `count` words in progress, whose last one ends with symbol `stop`."""
        text = self._labels.decode(self._best).split()
        words, frames = self._aligned(text, count)
        frames = min(frames, len(self._probs) - 1)  # `_aligned` needs one
        del self._probs[:frames], self._samples[:frames], self._since[:count]
        self._best = self._best[stop:]
        self._given += stop
        self._given_words += count
        return words

    def _aligned(self, text: list[str], count: int) -> tuple[list[SpokenWord], int]:
        """The first `count` words of the text in progress, and the frames up to their end."""
        probs, symbols = np.stack(self._probs), np.array(self._labels.spelled(" ".join(text)), int)
        needed = len(symbols) + np.count_nonzero(symbols[1:] == symbols[:-1])
        # too few, if an earlier text gave the last word frames of these: each counts as several
        copies = -(-needed // len(probs))
        ((symbols, spans),) = self._decoder.align(probs.repeat(copies, axis=0), [" ".join(text)])
        spans = spans // copies
        log_probs = symbol_log_probs(probs, symbols, spans)
        parts = word_slices(symbols, self._labels.space_index)[:count]
        words = [
            SpokenWord(
                symbols[part].tolist(), log_probs[part].tolist(),
                self._samples[spans[part][0, 0]], self._samples[spans[part][-1, 1]],
            )
            for part in parts
        ]  # fmt: skip
        return words, spans[parts[-1]][-1, 1] + 1

    def flush(self) -> list[SpokenWord]:
        """See `StreamDecoder.flush`."""
        words = []
        if self._probs:
            text = self._decoder.search.end(self._state)[0].text.split()[self._given_words :]
            words, _ = self._aligned(text, len(text)) if text else ([], 0)
        self._begin()
        return words

    def cut(self) -> bool:
        """See `StreamDecoder.cut`."""
        probs, samples = self._probs, self._samples
        self._begin()
        self._probs, self._samples = probs, samples
        if probs:
            self._state = self._decoder.search.take(self._state, np.stack(probs))
        return True
