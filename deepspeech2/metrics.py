"""Word and character error rates.

Count the errors of each utterance, add the counts up, read off the rates.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rapidfuzz.distance import Levenshtein


@dataclass(frozen=True)
class ErrorCounts:
    """Errors, and what they are counted against, of one utterance or of many; `ErrorCounts()` is the neutral start.

    Adding counts gives the micro-average: long utterances weigh more than short ones. Insertions
    against an empty reference count as errors.

    Attributes:
        word_errors: substitutions + insertions + deletions of words.
        words: words of the reference.
        char_errors: the same in characters, spaces left out.
        chars: characters of the reference, spaces left out.
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
        """Word error rate in percent.

        Without any reference word 0.0 if there are no errors, else 100.0.
        """
        return _percent(self.word_errors, self.words)

    @property
    def cer_percent(self):
        """Character error rate in percent.

        Without any reference character 0.0 if there are no errors, else 100.0.
        """
        return _percent(self.char_errors, self.chars)


def edit_operations(reference: Sequence, hypothesis: Sequence) -> list[tuple[str, int, int]]:
    """The edits of one shortest alignment.

    (`replace`, `delete` or `insert`, place in each text).
    """
    # rapidfuzz compares the hashes of items; numbers in their place cannot collide
    number = {item: i for i, item in enumerate(dict.fromkeys([*reference, *hypothesis]))}
    edits = Levenshtein.editops([number[x] for x in reference], [number[x] for x in hypothesis])
    return [(edit.tag, edit.src_pos, edit.dest_pos) for edit in edits]


def units(text: str, unit: str) -> list[str]:
    """The words of a text (`word`), or its characters without spaces (`character`)."""
    return text.split() if unit == "word" else list("".join(text.split()))


def count_errors(reference: str, hypothesis: str) -> ErrorCounts:
    """Compare two texts. Words are separated by white space; characters exclude it."""
    counts = []
    for unit in ("word", "character"):
        expected = units(reference, unit)
        counts += [len(edit_operations(expected, units(hypothesis, unit))), len(expected)]
    return ErrorCounts(*counts)


def _percent(errors, total):
    """Errors per hundred. Insertions can raise it above 100.

    A total of 0 has no ratio, so all or nothing counts.
    """
    if total == 0:
        return 100.0 if errors else 0.0
    return 100.0 * errors / total
