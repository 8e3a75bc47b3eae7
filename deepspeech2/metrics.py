"""Word and character error rates: align each utterance, add the counts, take the rates."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from itertools import zip_longest

from rapidfuzz.distance import Levenshtein


@dataclass(frozen=True)
class ErrorCounts:
    """Errors and reference lengths of one utterance, or of several utterances added up.

    The rates of a sum are micro-averages: long utterances weigh more than short ones.
    `ErrorCounts()` is the sum over no utterance. Insertions against an empty reference count as
    errors. Characters exclude spaces.

    Attributes:
        words: number of reference words.
        word_substitutions: reference words with another word in their place.
        word_deletions: reference words with nothing in their place.
        word_insertions: words of the hypothesis with nothing in their place.
        chars: number of reference characters; the other fields of characters are as those of words.
    """

    words: int = 0
    word_substitutions: int = 0
    word_deletions: int = 0
    word_insertions: int = 0
    chars: int = 0
    char_substitutions: int = 0
    char_deletions: int = 0
    char_insertions: int = 0

    def __add__(self, other):
        if not isinstance(other, ErrorCounts):
            return NotImplemented
        return ErrorCounts(*map(sum, zip(astuple(self), astuple(other), strict=True)))

    @property
    def word_errors(self) -> int:
        return self.word_substitutions + self.word_deletions + self.word_insertions

    @property
    def char_errors(self) -> int:
        return self.char_substitutions + self.char_deletions + self.char_insertions

    @property
    def wer_percent(self) -> float:
        """Word error rate in percent; without reference words, 0 or (with errors) 100."""
        return percent(self.word_errors, self.words)

    @property
    def cer_percent(self) -> float:
        """Character error rate in percent; without reference characters, 0 or (with errors) 100."""
        return percent(self.char_errors, self.chars)


def align(reference: Sequence, hypothesis: Sequence) -> list[tuple]:
    """One shortest alignment.

    Args:
        reference: (R,) hashable items, words for example.
        hypothesis: (H,) hashable items.

    Returns:
        Pairs of a reference item and the hypothesis item in its place, in order. None stands for
        the reference item of an insertion and for the hypothesis item of a deletion.
    """
    # rapidfuzz compares hashes, which can collide; the numbers of the items cannot
    number = {item: i for i, item in enumerate(dict.fromkeys([*reference, *hypothesis]))}
    pairs: list[tuple] = []
    for _, a, b, c, d in Levenshtein.opcodes(
        [number[x] for x in reference], [number[x] for x in hypothesis]
    ):
        pairs += zip_longest(reference[a:b], hypothesis[c:d])
    return pairs


def units(text: str, unit: str) -> list[str]:
    """The words of a text (`word`), or its characters without spaces (`character`)."""
    return text.split() if unit == "word" else list("".join(text.split()))


def count_errors(reference: str, hypothesis: str) -> ErrorCounts:
    """The errors of a hypothesis: words are separated by white space, characters exclude it."""
    counts: list[int] = []
    for unit in ("word", "character"):
        expected = units(reference, unit)
        edits = [(x, y) for x, y in align(expected, units(hypothesis, unit)) if x != y]
        deletions, insertions = sum(y is None for _, y in edits), sum(x is None for x, _ in edits)
        counts += [len(expected), len(edits) - deletions - insertions, deletions, insertions]
    return ErrorCounts(*counts)


def percent(errors: float, total: float) -> float:
    """100 * errors / total. Insertions can raise the rate above 100.

    A total of 0 has no ratio; the rate is then 100 with errors and 0 without.
    """
    if total == 0:
        return 100.0 if errors else 0.0
    return 100.0 * errors / total
