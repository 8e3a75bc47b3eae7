"""CTC decoding with the interface and semantics of deepspeech.pytorch V2.1, `decoder.py`.

For programs that were written for deepspeech.pytorch. The implementation is ours, needs no torch,
and treats a whole batch at once. Axes: N utterances, T frames, C classes (one per label, blank
included).
"""

import operator

import Levenshtein
import numpy as np

from deepspeech2.decoding.greedy import symbol_starts
from deepspeech2.labels import BLANK, SPACE


class Decoder:
    """What every decoder shares: the alphabet and the two error measures.

    Args:
        labels: string or list of C different labels; class i of the network means `labels[i]`.
        blank_index: class of the CTC blank; None means that of the label `_`.

    Attributes:
        labels: as given.
        int_to_char: dict from class to label.
        blank_index: class of the CTC blank.
        space_index: class of the space, or C if the alphabet has none.

    Raises:
        ValueError: repeated labels, no `_` to take as the blank, or a `blank_index` outside 0 …
            C-1.
    """

    def __init__(self, labels, blank_index=None):
        symbols = list(labels)
        repeated = sorted({symbol for symbol in symbols if symbols.count(symbol) > 1})
        if repeated:
            raise ValueError(
                f"`labels` must differ from each other, these are repeated: {repeated}"
            )
        if blank_index is None:
            if BLANK not in symbols:
                raise ValueError(
                    f"`labels` (={symbols}) lack the CTC blank {BLANK!r}: add it or give `blank_index`"
                )
            blank_index = symbols.index(BLANK)
        blank_index = operator.index(blank_index)
        if not 0 <= blank_index < len(symbols):
            raise ValueError(
                f"`blank_index` (={blank_index}) must be the index of one of the {len(symbols)} labels, counted from 0"
            )
        self.labels = labels
        self.int_to_char = dict(enumerate(symbols))
        self.blank_index = blank_index
        # As in the original, an alphabet without a space gets an index that no class has.
        self.space_index = symbols.index(SPACE) if SPACE in symbols else len(symbols)

    def wer(self, s1, s2):
        """Number of word errors between two texts: an integer edit distance, not a rate."""
        a, b = s1.split(), s2.split()
        # Levenshtein compares the hashes of list items; numbers in place of words cannot collide
        number = {word: i for i, word in enumerate(dict.fromkeys(a + b))}
        return Levenshtein.distance([number[word] for word in a], [number[word] for word in b])

    def cer(self, s1, s2):
        """Number of character errors between two texts, spaces left out.

        An integer edit distance, not a rate.
        """
        return Levenshtein.distance("".join(s1.split()), "".join(s2.split()))

    def decode(self, probs, sizes=None):
        """(N, T, C) probabilities, (N,) frame counts or None for T each -> texts and offsets of each utterance."""
        raise NotImplementedError(f"{type(self).__name__} does not implement decode()")


class GreedyDecoder(Decoder):
    """Takes the likeliest class of every frame, merges repetitions and removes blanks. Arguments.

    See `Decoder`.
    """

    def __init__(self, labels, blank_index=None):
        super().__init__(labels, blank_index)
        # An array of objects, so that a label may have any length; numpy's own strings are padded
        # to the longest.
        self._symbols = np.array(list(labels), dtype=object)

    def convert_to_strings(
        self, sequences, sizes=None, remove_repetitions=False, return_offsets=False
    ):
        """Turn sequences of classes into texts.

        Args:
            sequences: (N, T) integer array, or N integer sequences of any lengths.
            sizes: (N,) how many frames of each sequence count; None means all.
            remove_repetitions: skip a class equal to that of the frame before.
            return_offsets: also return the frame of every symbol kept.

        Returns:
            [[str]]: one list per utterance, which holds its only text; with `return_offsets` the
            pair of that and [[offsets]], int32 frame numbers in the same nesting.

        Raises:
            ValueError: wrong shape or type, a size that exceeds its sequence, a class that no label
                has.
        """
        classes, lengths = _stack(sequences, fill=self.blank_index)
        strings, offsets = self._collapse(classes, _check_sizes(sizes, lengths), remove_repetitions)
        return (strings, offsets) if return_offsets else strings

    def process_string(self, sequence, size, remove_repetitions=False):
        """The first `size` frames of one (T,) sequence of classes -> its text and the int32 offsets of its symbols."""
        strings, offsets = self.convert_to_strings(
            [sequence], [size], remove_repetitions, return_offsets=True
        )
        return strings[0][0], offsets[0][0]

    def decode(self, probs, sizes=None):
        """Best class per frame, repetitions merged, blanks removed.

        Args:
            probs: (N, T, C) probabilities, or anything that rises with them such as logits.
            sizes: (N,) how many frames of each utterance count; None means T.

        Returns:
            [[str]], [[offsets]]: per utterance one text and the int32 frame numbers of its symbols.

        Raises:
            ValueError: wrong shape, or a size outside 0 … T.
        """
        probs = np.asarray(probs)
        c = len(self._symbols)
        if probs.ndim != 3 or probs.shape[2] != c:
            raise ValueError(
                f"`probs` has shape {probs.shape}, needed is (N, T, {c}): a class per label"
            )
        n, t, _ = probs.shape
        return self._collapse(
            probs.argmax(axis=2), _check_sizes(sizes, np.full(n, t)), remove_repetitions=True
        )

    def _collapse(self, classes, sizes, remove_repetitions):
        """(N, T) classes, (N,) sizes -> [[str]], [[offsets]].

        Loops over utterances only, never over frames.
        """
        keep = symbol_starts(classes, sizes, self.blank_index, remove_repetitions)
        kept = classes[keep]  # all utterances' symbols, one after the other
        unknown = kept[(kept < 0) | (kept >= len(self._symbols))]
        if unknown.size:
            raise ValueError(
                f"class {unknown[0]} in `sequences` has no label, needed is 0 … {len(self._symbols) - 1}"
            )
        symbols = self._symbols[kept].tolist()
        frames = np.nonzero(keep)[1].astype(np.int32)
        ends = keep.sum(axis=1).cumsum().tolist()
        spans = list(zip([0, *ends], ends, strict=False))
        return [["".join(symbols[i:j])] for i, j in spans], [[frames[i:j]] for i, j in spans]


def _stack(sequences, fill):
    """(N, T) array or N ragged sequences -> (N, T) classes filled up with `fill`, (N,) lengths."""
    if isinstance(sequences, np.ndarray) and sequences.dtype != object:
        _check_integers("sequences", sequences, "(N, T)", ndim=2)
        n, t = sequences.shape
        return sequences, np.full(n, t)
    rows = [np.asarray(row) for row in sequences]
    for i, row in enumerate(rows):
        _check_integers(f"sequences[{i}]", row, "(T,)", ndim=1)
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    classes = np.full((len(rows), lengths.max(initial=0)), fill)
    for i, row in enumerate(rows):
        classes[i, :len(row)] = row
    return classes, lengths


def _check_integers(name, array, shape, ndim):
    """Refuse an array with other than `ndim` axes or, unless empty (NumPy calls `[]` float), other than integers."""
    if array.ndim != ndim:
        raise ValueError(f"`{name}` has shape {array.shape}, needed is {shape}")
    if array.size and array.dtype.kind not in "iu":
        raise ValueError(f"`{name}` has dtype {array.dtype}, needed are integers")


def _check_sizes(sizes, lengths):
    """Frame counts as an (N,) integer array, at most `lengths` (N,); None means `lengths`."""
    if sizes is None:
        return lengths
    sizes = np.asarray(sizes)
    if sizes.shape != lengths.shape:
        raise ValueError(
            f"`sizes` has shape {sizes.shape}, needed is {lengths.shape}: a frame count per utterance"
        )
    _check_integers("sizes", sizes, "(N,)", ndim=1)
    wrong = np.flatnonzero((sizes < 0) | (sizes > lengths))
    if wrong.size:
        i = wrong[0]
        raise ValueError(
            f"`sizes[{i}]` (={sizes[i]}) must lie between 0 and the {lengths[i]} frames of its sequence"
        )
    return sizes
