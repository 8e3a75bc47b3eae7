"""When the words of a known text are said in a recording of any length.

The network hears the recording piece by piece, as for transcription; the path through the text is
searched in the probabilities of the whole recording.

Axes: T' output frames, C classes, N words of the text, U letters of a word.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from deepspeech2.audio import Audio
from deepspeech2.audio.source import name_of
from deepspeech2.confidence import mean_probability
from deepspeech2.decoding.alignment import log_probabilities, symbol_log_probs
from deepspeech2.decoding.text_alignment import align_words
from deepspeech2.errors import InputError
from deepspeech2.known_text import Token, describe_unspelled, tokens_of
from deepspeech2.labels import Labels
from deepspeech2.result import Segment, Transcript, Word
from deepspeech2.runs import true_runs
from deepspeech2.segmentation import Piece
from deepspeech2.transcription import Collector, recognise_all

if TYPE_CHECKING:
    from deepspeech2.model import Model

logger = logging.getLogger(__name__)

UNCLEAR = 0.2  # words below this probability may not be the words that are said
_LONGEST = 0.5  # seconds of a word that nobody says
_BORROWED = 0.1  # seconds that words which nobody says may take from the words around them
_SHORTEST = 0.001  # seconds of such a word where many are crowded


@dataclass(frozen=True)
class AlignedWord(Word):
    """A word of the text.

    Attributes:
        token: the word in the text. `word` is its spelling there.
        is_heard: whether the model found it. Other words have probability 0 and a time between
            their neighbours.
    """

    token: Token
    is_heard: bool


@dataclass(frozen=True)
class Alignment(Transcript):
    """A transcript whose segments are the lines of the text.

    Attributes:
        words: all words of the text in order.
        other: (n, 2) start and end in seconds of each letter that is heard beside the words.
    """

    words: tuple[AlignedWord, ...] = ()
    other: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))

    @property
    def num_clear(self) -> int:
        """Number of words that are heard, and not unclear."""
        return sum(word.probability >= UNCLEAR for word in self.words)

    def summary(self) -> str:
        """What became of the words, for people."""
        heard = sum(word.is_heard for word in self.words)
        unspelled = sum(not word.token.words for word in self.words)
        return (
            f"{heard} of {len(self.words)} words aligned, {heard - self.num_clear} of them "
            f"unclear, {len(self.words) - heard - unspelled} left out, {unspelled} that the "
            "labels cannot write"
        )


@dataclass(frozen=True)
class Emissions:
    """What the network says about a recording.

    Attributes:
        probs: (T', C) float32 class probabilities. Between pieces that no word joins stands a
            frame that says space.
        begin, end: (T',) sample of the recording where each frame begins and ends.
        num_samples: length of the recording.
    """

    probs: np.ndarray
    begin: np.ndarray
    end: np.ndarray
    num_samples: int


class _Frames(Collector):
    """Keeps all frames of a recording, and where they are."""

    def __init__(self, hop_samples: int, border: np.ndarray):
        super().__init__()
        self._hop = hop_samples
        self._border = border[None]  # (1, C) between pieces
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def add(self, piece: Piece | None, probs: np.ndarray | Exception | None) -> None:
        """See `Collector.add`."""
        if isinstance(probs, Exception):
            self.fail(probs)
        elif isinstance(probs, np.ndarray):
            self._extend(piece, probs)
        if not piece:
            self.result = self.error or self._emissions()

    def _extend(self, piece: Piece, probs: np.ndarray) -> None:
        end = piece.start + piece.length
        if not piece.joined:
            edge = np.array([piece.start])
            self._parts.append((self._border, edge, edge))
        # frame i is centred on sample start + i * hop
        begin = piece.start + np.arange(len(probs)) * self._hop - self._hop // 2
        first = 0 if piece.joined else piece.start
        self._parts.append(
            (probs, np.maximum(begin, first), np.minimum(begin + self._hop, end))
        )

    def _emissions(self) -> Emissions:
        if not self._parts:
            nothing = np.zeros(0, int)
            return Emissions(self._border[:0], nothing, nothing, self.num_samples)
        arrays = (np.concatenate(arrays) for arrays in zip(*self._parts, strict=True))
        self._parts = []
        return Emissions(*arrays, self.num_samples)


def align(
    model: "Model",
    audio: Audio,
    text: str,
    channel: int | None,
    batch_size: int,
    progress: Callable[[float], None],
) -> Alignment:
    """See `Model.align`."""
    tokens = tokens_of(text, model.labels)
    border = np.zeros(len(model.labels), np.float32)
    blank, space = model.labels.blank_index, model.labels.space_index
    border[space if space < len(border) else blank] = 1
    (emissions,) = recognise_all(
        model, [audio], lambda: _Frames(model.hop_samples, border), batch_size, channel, progress
    )
    if isinstance(emissions, Exception):
        raise emissions
    name = name_of(audio)
    if not len(emissions.probs):
        raise InputError(f"{name}: no speech is heard in the recording")
    result = _alignment(emissions, tokens, model.labels, model.spect.sample_rate)
    if unspelled := describe_unspelled(tokens):
        logger.warning("%s", unspelled)
    _check(name, result)
    return result


def _check(name: str, result: Alignment) -> None:
    """Refuse or doubt a text that belongs to another recording."""
    spelled = sum(bool(word.token.words) for word in result.words)
    said = f"{name}: only {result.num_clear} of {spelled} words are heard clearly"
    if not result.num_clear:
        raise InputError(f"{said}: is it the text of this recording, in the model's language?")
    if result.num_clear < spelled / 2:
        logger.warning("%s: is it the text of this recording, in the model's language?", said)


def _alignment(
    emissions: Emissions, tokens: Sequence[Token], labels: Labels, sample_rate: int
) -> Alignment:
    encoded = [[np.array(labels.encode(word)) for word in token.words] for token in tokens]
    words = [word for token in encoded for word in token]
    log_probs = log_probabilities(emissions.probs)
    spans = align_words(log_probs, words, labels.blank_index, labels.space_index)
    found = iter(zip(words, spans, strict=True))
    edges = np.full((len(tokens), 2), np.nan)  # seconds
    letters: list[np.ndarray] = []  # of each token: the log probabilities of the letters
    for i, token in enumerate(encoded):
        parts = [part for part in (next(found) for _ in token) if part[1] is not None]
        letters.append(
            np.concatenate(
                [np.zeros(0), *(symbol_log_probs(emissions.probs, *part) for part in parts)]
            )
        )
        if parts:
            first, last = parts[0][1][0, 0], parts[-1][1][-1, 1]
            edges[i] = emissions.begin[first], emissions.end[last]
    edges /= sample_rate
    duration = emissions.num_samples / sample_rate
    frame = (emissions.end - emissions.begin).max() / sample_rate
    lines = np.array([token.line for token in tokens])
    times = _in_order(_filled(edges, lines, duration), np.isnan(edges[:, 0]), frame, duration)
    aligned = tuple(
        AlignedWord(*time, token.text, _probability(own), token, len(own) > 0)
        for time, token, own in zip(times.tolist(), tokens, letters, strict=True)
    )
    segments = _segments(aligned, letters)
    text = " ".join(segment.text for segment in segments)
    other = _other_letters(emissions, spans, labels) / sample_rate
    return Alignment(text, segments, duration, words=aligned, other=other)


def _probability(log_probs: np.ndarray) -> float:
    """The geometric mean of the probabilities of letters; 0 for none."""
    return mean_probability(log_probs) if len(log_probs) else 0.0


def _segments(
    words: Sequence[AlignedWord], letters: Sequence[np.ndarray]
) -> tuple[Segment, ...]:
    """A segment for each line; its probability is that of the letters that are heard."""
    segments = []
    lines = np.array([word.token.line for word in words])
    starts = np.flatnonzero(np.diff(lines, prepend=-1))
    for first, end in zip(starts, [*starts[1:], len(words)], strict=True):
        part = tuple(words[first:end])
        text = " ".join(word.word for word in part)
        probability = _probability(np.concatenate(letters[first:end]))
        segments.append(Segment(part[0].start, part[-1].end, text, part, probability))
    return tuple(segments)


def _filled(edges: np.ndarray, lines: np.ndarray, duration: float) -> np.ndarray:
    """Times for words that nobody says, between the words around them.

    They follow the word before, as far as they are in its line; the others precede the word behind.

    Args:
        edges: (N, 2) start and end of each word in seconds, NaN for those without.
        lines: (N,) the line of each word.
        duration: length of the recording in seconds.
    """
    times = edges.copy()
    missing = np.isnan(edges[:, 0])
    for first, end in true_runs(missing):
        before = edges[first - 1, 1] if first else 0.0
        behind = edges[end, 0] if end < len(edges) else duration
        count = end - first
        length = min(_LONGEST, max(0.0, behind - before) / count)
        following = int((lines[first:end] == lines[first - 1]).sum()) if first else 0
        if end == len(edges):
            following = count
        steps = length * np.arange(count + 1)
        starts = np.where(np.arange(count) < following, before + steps[:-1], behind - steps[:0:-1])
        times[first:end] = np.stack([starts, starts + length], axis=1)
    return times


def _in_order(
    times: np.ndarray, left_out: np.ndarray, frame: float, duration: float
) -> np.ndarray:
    """The nearest times in which words follow each other and last at least a frame.

    Where more words were left out than there is room for, they are shorter than a frame, and move
    the words around them a little only.

    Args:
        times: (N, 2) start and end of each word in seconds.
        left_out: (N,) whether nobody says the word.
        frame: seconds.
        duration: length of the recording in seconds.
    """
    shortest = np.full(len(times), frame)
    for first, end in true_runs(left_out):
        before = times[first - 1, 1] if first else 0.0
        behind = times[end, 0] if end < len(times) else duration
        room = (max(0.0, behind - before) + _BORROWED) / (end - first)
        shortest[first:end] = np.clip(room, _SHORTEST, frame)
    shortest *= min(1.0, duration / shortest.sum())
    # the time that the words before take at least; without it, order is all that is asked for
    taken = np.stack([shortest.cumsum() - shortest, shortest.cumsum()], axis=1).ravel()
    weights = np.repeat(np.where(left_out, 1e-3, 1.0), 2)
    level = _isotonic(times.ravel() - taken, weights)
    return (np.clip(level, 0.0, duration - taken[-1]) + taken).reshape(-1, 2)


def _isotonic(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The nearest values that never decrease, by weighted squares: pool adjacent violators."""
    pools: list[tuple[float, float, int]] = []  # mean, weight, number of values
    for mean, weight in zip(values.tolist(), weights.tolist(), strict=True):
        count = 1
        while pools and pools[-1][0] > mean:
            other, heavy, more = pools.pop()
            mean = (mean * weight + other * heavy) / (weight + heavy)
            weight, count = weight + heavy, count + more
        pools.append((mean, weight, count))
    return np.repeat([mean for mean, _, _ in pools], [count for _, _, count in pools])


def _other_letters(
    emissions: Emissions, spans: Sequence[np.ndarray | None], labels: Labels
) -> np.ndarray:
    """(n, 2) first sample and end of each letter that is heard where no word of the text is."""
    best = emissions.probs.argmax(axis=1)
    best[np.isin(best, (labels.blank_index, labels.space_index))] = -1
    starts = np.flatnonzero(np.diff(best, prepend=-2))
    ends = np.append(starts[1:], len(best))
    inside = np.zeros(len(best) + 1, int)
    for span in spans:
        if span is not None:
            inside[span[0, 0]] += 1
            inside[span[-1, 1] + 1] -= 1
    covered = np.append(0, np.cumsum(inside[:-1]).cumsum())  # frames of words before each frame
    kept = (best[starts] >= 0) & (covered[starts] == covered[ends])
    return np.stack([emissions.begin[starts[kept]], emissions.end[ends[kept] - 1]], axis=1)
