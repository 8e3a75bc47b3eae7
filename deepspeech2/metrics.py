"""Word and character error rates: count each utterance's errors, add the counts, take the rates."""

from collections.abc import Sequence
from dataclasses import dataclass

from rapidfuzz.distance import Levenshtein


@dataclass(frozen=True)
class ErrorCounts:
    """Errors and reference lengths of one utterance, or of several utterances added up.

    The rates of a sum are micro-averages: long utterances weigh more than short ones.
    `ErrorCounts()` is the sum over no utterance. Insertions against an empty reference count as
    errors.

    Attributes:
        word_errors: substitutions + insertions + deletions of words.
        words: number of reference words.
        char_errors: substitutions + insertions + deletions of characters, without spaces.
        chars: number of reference characters, without spaces.
    """

    word_errors: int = 0
    words: int = 0
    char_errors: int = 0
    chars: int = 0

    def __add__(self, other):
        if not isinstance(other, ErrorCounts):
            return NotImplemented
        return ErrorCounts(
            self.word_errors + other.word_errors,
            self.words + other.words,
            self.char_errors + other.char_errors,
            self.chars + other.chars,
        )

    @property
    def wer_percent(self):
        """Word error rate in percent; without reference words, 0 or (with errors) 100."""
        return _percent(self.word_errors, self.words)

    @property
    def cer_percent(self):
        """Character error rate in percent; without reference characters, 0 or (with errors) 100."""
        return _percent(self.char_errors, self.chars)


def edit_operations(reference: Sequence, hypothesis: Sequence) -> list[tuple[str, int, int]]:
    """The edits of one shortest alignment.

    Args:
        reference: (R,) hashable items, words for example.
        hypothesis: (H,) hashable items.

    Returns:
        For each edit: `replace`, `delete` or `insert`; index in the reference; index in the
        hypothesis.
    """
    # rapidfuzz compares hashes, which can collide; the numbers of the items cannot
    number = {item: i for i, item in enumerate(dict.fromkeys([*reference, *hypothesis]))}
    edits = Levenshtein.editops([number[x] for x in reference], [number[x] for x in hypothesis])
    return [(edit.tag, edit.src_pos, edit.dest_pos) for edit in edits]


def units(text: str, unit: str) -> list[str]:
    """The words of a text (`word`), or its characters without spaces (`character`)."""
    return text.split() if unit == "word" else list("".join(text.split()))


def count_errors(reference: str, hypothesis: str) -> ErrorCounts:
    """The errors of a hypothesis: words are separated by white space, characters exclude it."""
    counts = []
    for unit in ("word", "character"):
        expected = units(reference, unit)
        counts += [len(edit_operations(expected, units(hypothesis, unit))), len(expected)]
    return ErrorCounts(*counts)


def _percent(errors, total):
    """100 * errors / total. Insertions can raise the rate above 100.

    A total of 0 has no ratio; the rate is then 100 with errors and 0 without.
    """
    if total == 0:
        return 100.0 if errors else 0.0
    return 100.0 * errors / total
