"""Word and character error rates: count the errors of each utterance, add the counts up, read off the rates."""

from dataclasses import dataclass

from deepspeech_pytorch.decoder import char_distance, word_distance


@dataclass(frozen=True)
class ErrorCounts:
    """Errors, and what they are counted against, of one utterance or of many; `ErrorCounts()` is the neutral start.

    Adding counts gives the micro-average: long utterances weigh more than short ones, and the words that somebody
    recognised in an utterance without any (an empty reference) are errors of the whole.

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
    def wer(self):
        """Word error rate in percent; without any reference word 0.0 if there are no errors, else 100.0."""
        return _percent(self.word_errors, self.words)

    @property
    def cer(self):
        """Character error rate in percent; without any reference character 0.0 if there are no errors, else 100.0."""
        return _percent(self.char_errors, self.chars)


def count_errors(reference: str, hypothesis: str) -> ErrorCounts:
    """Compare a transcript with what was recognised. Words are separated by whitespace; characters exclude it.

    An empty reference has no words, and every word of the hypothesis is an inserted one.
    """
    words = reference.split()
    return ErrorCounts(
        word_errors=word_distance(reference, hypothesis),
        words=len(words),
        char_errors=char_distance(reference, hypothesis),
        chars=sum(map(len, words)),
    )


def _percent(errors, total):
    """Errors per hundred. Insertions can raise it above 100; a total of 0 has no ratio, so all or nothing counts."""
    if total == 0:
        return 100.0 if errors else 0.0
    return 100.0 * errors / total
