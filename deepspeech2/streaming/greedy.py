"""Greedy CTC decoding, a frame at a time: the symbols are those of the whole utterance."""

from dataclasses import dataclass, field

import numpy as np

from deepspeech2.decoding.alignment import log_probabilities
from deepspeech2.labels import Labels


@dataclass
class SpokenWord:
    """A word and where it was heard.

    Attributes:
        symbols: its classes.
        best: of each symbol the highest probability in its frames.
        first, last: samples on which its first and its last frame are centred.
    """

    symbols: list[int] = field(default_factory=list)
    best: list[float] = field(default_factory=list)
    first: int = 0
    last: int = 0

    def log_probs(self) -> list[float]:
        """Natural log of how sure the model is of each symbol; see `symbol_log_probs`."""
        return log_probabilities(np.array(self.best, np.float64)).tolist()


class GreedyStream:
    """Takes the likeliest class of each frame.

    Attributes:
        word: the word in progress; without symbols if there is none.
        silent: frames since the last letter.
    """

    def __init__(self, labels: Labels):
        self._labels = labels
        self._last = labels.blank_index  # the class of the frame before
        self.word = SpokenWord()
        self.silent = 0

    def push(self, probs: np.ndarray, sample: int) -> SpokenWord | None:
        """Take the (C,) class probabilities of the next frame, which is centred on a sample.

        Returns:
            The word that a space ends here.
        """
        symbol, before = int(probs.argmax()), self._last
        self._last = symbol
        if symbol in (self._labels.blank_index, self._labels.space_index):
            self.silent += 1
            return self.flush() if symbol == self._labels.space_index else None
        self.silent = 0
        word = self.word
        if not word.symbols:
            word.first = sample
        if symbol == before and word.symbols:
            word.best[-1] = max(word.best[-1], float(probs[symbol]))
        else:
            word.symbols.append(symbol)
            word.best.append(float(probs[symbol]))
        word.last = sample
        return None

    def flush(self) -> SpokenWord | None:
        """End the word in progress, and return it if there is one."""
        word, self.word = self.word, SpokenWord()
        return word if word.symbols else None
