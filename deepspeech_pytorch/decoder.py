"""CTC decoding with the interface and semantics of deepspeech.pytorch V2.1, `decoder.py`.

These classes, with methods such as `process_string`, `convert_to_strings` and `Decoder.wer`, are
kept for programs that were written for deepspeech.pytorch; this project itself decodes with
`deepspeech2.decoding` and counts errors with `deepspeech2.metrics`. The implementation is ours,
needs no torch, and decodes a whole batch at once.

Axes: N utterances, T frames, C classes (one per label, blank included).
"""

import operator

import Levenshtein
import numpy as np

from deepspeech2.decoding.decoders import BeamDecoder, LMConfig
from deepspeech2.decoding.greedy import symbol_starts
from deepspeech2.labels import BLANK, SPACE, Labels


class Decoder:
    """Base class of decoders: the alphabet and the two error measures.

    Args:
        labels: string or list of C different labels; class i of the network is `labels[i]`.
        blank_index: class of the CTC blank; None for the class of the label `_`.

    Attributes:
        labels: the argument `labels`.
        int_to_char: dict from class to label.
        blank_index: class of the CTC blank.
        space_index: class of the space, or C if the alphabet has no space.

    Raises:
        ValueError: for repeated labels, for a missing `_` without `blank_index`, and for a
            `blank_index` outside 0 … C-1.
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
                    f"`labels` (={symbols}) lack the CTC blank {BLANK!r}: add it or give "
                    "`blank_index`"
                )
            blank_index = symbols.index(BLANK)
        blank_index = operator.index(blank_index)
        if not 0 <= blank_index < len(symbols):
            raise ValueError(
                f"`blank_index` (={blank_index}) must be the index of one of the {len(symbols)} "
                "labels, counted from 0"
            )
        self.labels = labels
        self.int_to_char = dict(enumerate(symbols))
        self.blank_index = blank_index
        # as in the original: without a space, an index that no class has
        self.space_index = symbols.index(SPACE) if SPACE in symbols else len(symbols)

    def wer(self, s1, s2):
        """Number of word errors between two texts: an integer edit distance, not a rate.

        Kept for users of deepspeech.pytorch; this project uses `deepspeech2.metrics`.
        """
        a, b = s1.split(), s2.split()
        # Levenshtein compares hashes, which can collide; the numbers of the words cannot
        number = {word: i for i, word in enumerate(dict.fromkeys(a + b))}
        return Levenshtein.distance([number[word] for word in a], [number[word] for word in b])

    def cer(self, s1, s2):
        """Number of character errors between two texts without spaces: an integer, not a rate."""
        return Levenshtein.distance("".join(s1.split()), "".join(s2.split()))

    def decode(self, probs, sizes=None):
        """Texts and offsets of a batch; see `GreedyDecoder.decode`. Subclasses implement it."""
        raise NotImplementedError(f"{type(self).__name__} does not implement decode()")

    def _check_batch(self, probs, sizes):
        """(N, T, C) `probs` as an array, (N,) `sizes`. Raises ValueError as `decode`."""
        probs = np.asarray(probs)
        c = len(self.int_to_char)
        if probs.ndim != 3 or probs.shape[2] != c:
            raise ValueError(
                f"`probs` has shape {probs.shape}, needed is (N, T, {c}): a class per label"
            )
        n, t, _ = probs.shape
        return probs, _check_sizes(sizes, np.full(n, t))


class GreedyDecoder(Decoder):
    """Takes the likeliest class of every frame, merges repetitions and removes blanks.

    Args:
        labels: see `Decoder`.
        blank_index: see `Decoder`.
    """

    def __init__(self, labels, blank_index=None):
        super().__init__(labels, blank_index)
        # dtype object: NumPy would pad strings to the longest label
        self._symbols = np.array(list(labels), dtype=object)

    def convert_to_strings(
        self, sequences, sizes=None, remove_repetitions=False, return_offsets=False
    ):
        """Turn sequences of classes into texts. Kept for users of deepspeech.pytorch.

        Args:
            sequences: (N, T) integer array, or N integer sequences of any lengths.
            sizes: (N,) number of frames to use of each sequence; None for all.
            remove_repetitions: skip a class that equals the class of the frame before.
            return_offsets: also return the frame of each symbol.

        Returns:
            [[str]]: for each utterance a list with its only text. With `return_offsets` a pair:
            [[str]] and [[offsets]], int32 frame numbers of the symbols in the same nesting.

        Raises:
            ValueError: for a wrong shape or type, a size that exceeds its sequence, and a class
                without a label.
        """
        classes, lengths = _stack(sequences, fill=self.blank_index)
        strings, offsets = self._collapse(classes, _check_sizes(sizes, lengths), remove_repetitions)
        return (strings, offsets) if return_offsets else strings

    def process_string(self, sequence, size, remove_repetitions=False):
        """Turn one sequence of classes into a text. Kept for users of deepspeech.pytorch.

        Args:
            sequence: (T,) integers.
            size: number of frames to use.
            remove_repetitions: skip a class that equals the class of the frame before.

        Returns:
            The text, and the int32 frame numbers of its symbols.
        """
        strings, offsets = self.convert_to_strings(
            [sequence], [size], remove_repetitions, return_offsets=True
        )
        return strings[0][0], offsets[0][0]

    def decode(self, probs, sizes=None):
        """The likeliest class of every frame, repetitions merged, blanks removed.

        Args:
            probs: (N, T, C) probabilities or logits.
            sizes: (N,) number of frames to use of each utterance; None for T.

        Returns:
            [[str]], [[offsets]]: for each utterance one text, and the int32 frame numbers of its
            symbols.

        Raises:
            ValueError: for a wrong shape, and for a size outside 0 … T.
        """
        probs, sizes = self._check_batch(probs, sizes)
        return self._collapse(probs.argmax(axis=2), sizes, remove_repetitions=True)

    def _collapse(self, classes, sizes, remove_repetitions):
        """(N, T) classes, (N,) sizes -> [[str]], [[offsets]], without a loop over frames."""
        keep = symbol_starts(classes, sizes, self.blank_index, remove_repetitions)
        kept = classes[keep]  # the symbols of all utterances in one array
        unknown = kept[(kept < 0) | (kept >= len(self._symbols))]
        if unknown.size:
            raise ValueError(
                f"class {unknown[0]} in `sequences` has no label, needed is 0 … "
                f"{len(self._symbols) - 1}"
            )
        symbols = self._symbols[kept].tolist()
        frames = np.nonzero(keep)[1].astype(np.int32)
        ends = keep.sum(axis=1).cumsum().tolist()
        spans = list(zip([0, *ends], ends, strict=False))
        return [["".join(symbols[i:j])] for i, j in spans], [[frames[i:j]] for i, j in spans]


class BeamCTCDecoder(Decoder):
    """Searches for the likeliest texts, with a language model if there is one.

    The beam search is `deepspeech2.decoding.beam`, which needs numba. Words have single spaces
    between them. Other weights than deepspeech.pytorch's suit it: see docs/decoding.md.

    Args:
        labels: see `Decoder`; single characters.
        lm_path: ARPA file of a word n-gram model; None for no language model.
        alpha: weight of the language model's natural log probabilities.
        beta: what each word adds to the score of its text.
        cutoff_top_n: classes of a frame that can extend a text.
        cutoff_prob: their probability together.
        beam_width: hypotheses that survive a frame, and the most texts of an utterance.
        num_processes: threads that decode a batch; at most one a core is used.
        blank_index: see `Decoder`.

    Raises:
        ValueError: as `Decoder`, for a wrong value, and for a language model that cannot be used.
    """

    def __init__(
        self,
        labels,
        lm_path=None,
        alpha=0,
        beta=0,
        cutoff_top_n=40,
        cutoff_prob=1.0,
        beam_width=100,
        num_processes=4,
        blank_index=0,
    ):
        super().__init__(labels, blank_index)
        characters = list(labels)
        if BLANK in characters and characters[self.blank_index] != BLANK:
            raise ValueError(
                f"`labels` have {BLANK!r} as class {characters.index(BLANK)}, but `blank_index` "
                f"is {self.blank_index}: {BLANK!r} can only be the blank"
            )
        characters[self.blank_index] = BLANK
        config = LMConfig(
            decoder_type="beam",
            lm_path=str(lm_path or ""),
            top_paths=beam_width,
            alpha=alpha,
            beta=beta,
            cutoff_top_n=cutoff_top_n,
            cutoff_prob=cutoff_prob,
            beam_width=beam_width,
            lm_workers=num_processes,
        )
        self._decoder = BeamDecoder(Labels(characters), config)

    def decode(self, probs, sizes=None):
        """The texts with the highest scores, best first.

        Args:
            probs: (N, T, C) probabilities.
            sizes: (N,) number of frames to use of each utterance; None for T.

        Returns:
            [[str]], [[offsets]]: for each utterance its texts, at least one, and for each text the
            int32 frames in which its symbols begin on the text's most probable path.

        Raises:
            ValueError: for a wrong shape, a size outside 0 … T, and values that are no
                probabilities.
        """
        probs, sizes = self._check_batch(probs, sizes)
        batch = [matrix[:size] for matrix, size in zip(probs, sizes, strict=True)]
        strings = self._decoder.texts(batch)
        offsets = [
            [spans[:, 0].astype(np.int32) for _, spans in self._decoder.align(matrix, texts)]
            for matrix, texts in zip(batch, strings, strict=True)
        ]
        return strings, offsets


def _stack(sequences, fill):
    """(N, T) array or N sequences -> (N, T) classes, padded with `fill`, and (N,) lengths."""
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
        classes[i, : len(row)] = row
    return classes, lengths


def _check_integers(name, array, shape, ndim):
    """Refuse an array with another number of axes or another type than integers.

    An empty array may have any type, because NumPy makes `[]` an array of floats.
    """
    if array.ndim != ndim:
        raise ValueError(f"`{name}` has shape {array.shape}, needed is {shape}")
    if array.size and array.dtype.kind not in "iu":
        raise ValueError(f"`{name}` has dtype {array.dtype}, needed are integers")


def _check_sizes(sizes, lengths):
    """`sizes` as an (N,) integer array, each at most its length; None gives (N,) `lengths`."""
    if sizes is None:
        return lengths
    sizes = np.asarray(sizes)
    if sizes.shape != lengths.shape:
        raise ValueError(
            f"`sizes` has shape {sizes.shape}, needed is {lengths.shape}: a frame count per "
            "utterance"
        )
    _check_integers("sizes", sizes, "(N,)", ndim=1)
    wrong = np.flatnonzero((sizes < 0) | (sizes > lengths))
    if wrong.size:
        i = wrong[0]
        raise ValueError(
            f"`sizes[{i}]` (={sizes[i]}) must lie between 0 and the {lengths[i]} frames of its "
            "sequence"
        )
    return sizes
