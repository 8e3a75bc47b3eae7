"""Cut a recording of any length into pieces that a network recognises one by one.

A recording is cut at its pauses. Where it has none, it is cut at its quietest moment: both pieces
then reach over the cut, and the output frames beyond the cut are dropped, so that a word on the cut
stays whole.

Axes: n samples, T frames of `speech.find_levels`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from deepspeech2.runs import true_runs
from deepspeech2.speech import (
    AUDIBLE,
    FRAMES_PER_SECOND,
    above,
    find_levels,
    frame_length,
    noise_floor,
    speech_seconds,
)

# seconds
LONGEST = 30.0  # a piece, without context
PREFERRED = 3.0, 15.0  # a piece of what must be cut; networks learn from such lengths
PAUSE = 0.3  # of these the longest is cut
SILENCE = 2.0  # is always cut
MARGIN = 0.5  # what a piece keeps of a silence
CONTEXT = 2.0  # what a piece hears beyond a cut without a pause
_QUIETEST = 0.1
_MEMORY = 30.0  # how far back the noise floor looks
_DIGITAL_SILENCE = 0.01  # the shortest


@dataclass(frozen=True)
class Piece:
    """A piece of a recording.

    Attributes:
        samples: (n,) float32, context included.
        start: where the piece begins in the recording, without its context; in samples.
        length: samples of the piece, without its context.
        before, after: samples of context on both sides; `before` is a multiple of the output hop.
        joined: whether a word may go on from the piece before into this one: there was no pause.
            Then the piece before has a multiple of the output hop of samples.
        speech: seconds of speech in the piece; see `speech_seconds`.
    """

    samples: np.ndarray
    start: int
    length: int
    before: int
    after: int
    joined: bool
    speech: float

    def without_samples(self) -> "Piece":
        """The same piece, which takes no memory any more."""
        return replace(self, samples=self.samples[:0].copy())


class _Cut(Enum):
    SILENT = "nothing is heard before"
    PAUSE = "in a pause"
    FORCED = "without a pause"


def cut_recording(
    blocks: Iterable[np.ndarray], sample_rate: int, hop_samples: int
) -> Iterator[Piece]:
    """Cut a recording into pieces; memory does not grow with its length.

    The pieces are those of the whole recording, however it is divided into blocks. Silence between
    pieces is left out.

    Args:
        blocks: (n,) float32 samples in order.
        sample_rate: their rate in Hz.
        hop_samples: samples between two output frames of the network.
    """
    sound = _Sound(blocks, sample_rate)
    start, joined = 0, False
    while sound.load(start, round((LONGEST + CONTEXT + SILENCE) * sample_rate)):
        # what is left of a silence, after the cut
        longest_silence = MARGIN if start and not joined else SILENCE
        cut, end = _next_cut(sound, start, longest_silence, hop_samples)
        if cut is not _Cut.SILENT:
            context = int(CONTEXT * sample_rate) // hop_samples * hop_samples
            before = min(context, start) if joined else 0
            after = min(context, sound.end - end) if cut is _Cut.FORCED else 0
            samples = sound.between(start - before, end + after)
            speech = speech_seconds(samples[before : before + end - start], sample_rate)
            yield Piece(samples, start, end - start, before, after, joined, speech)
        start, joined = end, cut is _Cut.FORCED


class _Sound:
    """The part of a recording that is worked on, and what was found out about it.

    Attributes:
        rate: sample rate in Hz.
        samples: (n,) float32 samples from `origin` on.
        origin: where the samples begin in the recording; a multiple of the frame length.
        end: where they end.
        ended: whether the recording ends there.
    """

    def __init__(self, blocks: Iterable[np.ndarray], rate: int):
        self.rate = rate
        self.ended = False
        self.origin = self.end = 0
        self.samples = np.zeros(0, np.float32)
        self._blocks = iter(blocks)
        self._hop = frame_length(rate)
        self._waiting = self.samples  # read, but not asked for yet
        self._levels = find_levels(self.samples, rate)  # (T, B) dB
        self._first = 0  # number of the first of these frames

    def load(self, start: int, length: int) -> bool:
        """Make `samples` reach from `start` less the context to `length` samples behind `start`.

        Returns:
            Whether there are samples behind `start`.
        """
        wanted = start + length - self.end
        parts = []
        while not self.ended and (wanted > 0 or not len(self._waiting)):
            parts.append(self._waiting[: max(0, wanted)])
            wanted -= len(parts[-1])
            self._waiting = self._waiting[len(parts[-1]) :]
            if not len(self._waiting):  # also to know whether this is the end
                self._waiting = next(self._blocks, np.zeros(0, np.float32))
                self.ended = not len(self._waiting)
        self._keep(start, parts)
        return start < self.end

    def _keep(self, start: int, parts: list[np.ndarray]) -> None:
        """Append samples and their frames, and forget what lies too far behind."""
        analysed = (self._first + len(self._levels)) * self._hop - self.origin
        self.samples = np.concatenate([self.samples, *parts])
        self.end = self.origin + len(self.samples)
        tail = self.samples[analysed:]
        if self.ended:  # the last frame is part silence
            tail = np.concatenate([tail, np.zeros(self._hop, np.float32)])
        self._levels = np.concatenate([self._levels, find_levels(tail, self.rate)])
        past = max(0, start - round(CONTEXT * self.rate)) // self._hop * self._hop
        self.samples = self.samples[max(0, past - self.origin) :]
        self.origin = max(self.origin, past)
        old = max(0, start // self._hop - round(_MEMORY * FRAMES_PER_SECOND) - self._first)
        self._levels, self._first = self._levels[old:], self._first + old

    def loudness(self, start: int) -> np.ndarray:
        """(T,) dB above the noise of the frames that begin from a sample of the recording on.

        The noise is that of `_MEMORY` seconds before and of all that is loaded.
        """
        first = -(-start // self._hop) - self._first
        return above(self._levels[max(0, first) :], noise_floor(self._levels))

    def between(self, start: int, end: int) -> np.ndarray:
        """The samples from one sample of the recording to another."""
        return self.samples[start - self.origin : end - self.origin]


def _next_cut(
    sound: _Sound, start: int, longest_silence: float, hop_samples: int
) -> tuple[_Cut, int]:
    """Where the piece that begins at sample `start` ends.

    Args:
        sound: the recording.
        start: first sample of the piece.
        longest_silence: seconds of silence that the piece may begin with.
        hop_samples: see `cut_recording`.
    """
    loudness = sound.loudness(start)
    pauses = _pauses(loudness > AUDIBLE, sound.ended)
    hop = frame_length(sound.rate)
    margin, silence = (round(seconds * FRAMES_PER_SECOND) for seconds in (MARGIN, SILENCE))
    longest = round(LONGEST * FRAMES_PER_SECOND)
    lead = pauses[0, 1] if len(pauses) and pauses[0, 0] == 0 else 0
    if lead > longest_silence * FRAMES_PER_SECOND:
        if sound.ended and lead == len(loudness):
            return _Cut.SILENT, sound.end
        return _Cut.SILENT, _leave_digital_silence(sound, start + (lead + 1) * hop, -margin * hop)
    for first, last in pauses:
        if last - first >= silence and 0 < first <= longest:
            return _Cut.PAUSE, _leave_digital_silence(sound, start + first * hop, margin * hop)
    if sound.ended and sound.end - start <= LONGEST * sound.rate:
        return _Cut.PAUSE, sound.end
    return _choose_cut(loudness, pauses, start, sound, hop_samples)


def _pauses(audible: np.ndarray, ended: bool) -> np.ndarray:
    """(T,) whether each frame is heard -> (pauses, 2) first frame and end of each pause."""
    pauses = true_runs(~audible)
    unknown = (pauses[:, 1] == len(audible)) & (not ended)  # how long the last one is
    long = pauses[:, 1] - pauses[:, 0] >= SILENCE * FRAMES_PER_SECOND
    return pauses[~unknown | long]


def _leave_digital_silence(sound: _Sound, speech: int, margin: int) -> int:
    """Where to cut a silence: `margin` samples behind its start, or (negative) before its end.

    Equal samples are none of the recording's own silence, and are cut off whole.

    Args:
        sound: the recording.
        speech: the sample of the recording where what is heard ends, or begins.
        margin: samples of the silence to keep.
    """
    start, end = max(sound.origin, min(speech, speech + margin)), max(speech, speech + margin)
    end = min(end, sound.end)
    kept = sound.between(start, end)
    shortest = round(_DIGITAL_SILENCE * sound.rate)
    runs = true_runs(np.diff(kept) == 0)  # of equal samples
    runs = runs[runs[:, 1] - runs[:, 0] >= shortest]
    if not len(runs):
        return start if margin < 0 else end
    return start + int(runs[-1, 1]) + 1 if margin < 0 else start + int(runs[0, 0])


def _choose_cut(
    loudness: np.ndarray, pauses: np.ndarray, start: int, sound: _Sound, hop_samples: int
) -> tuple[_Cut, int]:
    """The middle of the longest pause up to the end of a preferred piece, else of the longest
    piece, or the quietest moment of the last third."""
    hop = frame_length(sound.rate)
    shortest, preferred, longest = (
        round(seconds * FRAMES_PER_SECOND) for seconds in (*PREFERRED, LONGEST)
    )
    if sound.ended:  # leave something for the last piece
        longest = min(longest, len(loudness) - shortest)
    middles = pauses.sum(axis=1) // 2
    lengths = pauses[:, 1] - pauses[:, 0]
    for end in (min(preferred, longest), longest):
        usable = lengths * (middles >= shortest) * (middles <= end)
        if usable.max(initial=0) >= PAUSE * FRAMES_PER_SECOND:
            return _Cut.PAUSE, start + int(middles[usable.argmax()]) * hop
    width = round(_QUIETEST * FRAMES_PER_SECOND)
    third = longest * 2 // 3
    smooth = np.convolve(loudness[third : longest + 1], np.ones(width), "valid")
    quietest = third + int(smooth.argmin()) + (width + 1) // 2
    return _Cut.FORCED, start + max(1, quietest * hop // hop_samples) * hop_samples

