"""The result of recognition: words with times, segments, and the whole transcript."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Word:
    """One word with its times and the model's confidence.

    Attributes:
        start, end: seconds from the beginning of the recording.
        word: the word as the labels write it.
        probability: of the word being right, where the model has been calibrated for it as those
            of the package have; else exp of the mean log probability of the word's characters, each
            in its best frame; 0 to 1.
    """

    start: float
    end: float
    word: str
    probability: float


@dataclass(frozen=True)
class Segment:
    """A stretch of speech, from the start of its first word to the end of its last word.

    Attributes:
        start, end: seconds from the beginning of the recording.
        text: the words with single spaces between them; with none, where the alphabet has no space
            and each character is a word.
        words: the words in order; their times never overlap.
        probability: the same of all characters of the segment.
    """

    start: float
    end: float
    text: str
    words: tuple[Word, ...]
    probability: float


@dataclass(frozen=True)
class Transcript:
    """The result of recognising one recording.

    Attributes:
        text: the whole text with single spaces between words; empty if nothing was recognised.
        segments: the segments in order; none if the text is empty.
        duration: length of the recording in seconds.
        words: all words of the segments in order.
        alternatives: other texts for the whole recording, best first; greedy decoding has none.
    """

    text: str
    segments: tuple[Segment, ...]
    duration: float
    alternatives: tuple[str, ...] = field(default=())

    @property
    def words(self) -> tuple[Word, ...]:
        return tuple(word for segment in self.segments for word in segment.words)
