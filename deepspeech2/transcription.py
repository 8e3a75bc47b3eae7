"""Transcribe recordings of any length and number, in bounded memory.

A thread reads recordings, cuts them into pieces and computes spectrograms, while the network
recognises the pieces that were read before.

Axes: N pieces, F frequency bins, T spectrogram frames, T' output frames, C classes.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepspeech2.audio import Audio, open_audio
from deepspeech2.decoding.alignment import words_in
from deepspeech2.errors import InputError, RunError, first_line
from deepspeech2.features import pad_spectrograms, spectrogram
from deepspeech2.result import Segment, Transcript
from deepspeech2.segmentation import Piece, cut_recording
from deepspeech2.speech import NOISE_SECONDS, SPEECH_SECONDS

if TYPE_CHECKING:
    from deepspeech2.model import Model

logger = logging.getLogger(__name__)

BATCH_SECONDS = 30.0  # the most in a batch, padding included
# Frames; pieces of long recordings are padded to multiples. MindSpore keeps memory for each length.
_FEW_LENGTHS = 128
_POOL_BATCHES = 4  # pieces of similar lengths are batched together, of so many batches
_POOL_ITEMS = 1000  # the most pieces and ends of recordings that wait
_STRETCH_SECONDS = 120.0  # the most that is decoded at once
# The probability of the text of what may be noise must be this. Noise has 0.3 to 0.7.
_SURE = 0.75


@dataclass(frozen=True)
class Item:
    """A piece of a recording or, without a piece, its end.

    Attributes:
        recording: the recording.
        piece: the piece, without its samples.
        features: (F, T) spectrogram; None for noise and for the end.
    """

    recording: "Collector"
    piece: Piece | None = None
    features: np.ndarray | None = None


def transcribe_all(
    model: "Model",
    audios: Iterable[Audio],
    batch_size: int,
    channel: int | None,
    progress: Callable[[float], None],
) -> Iterator[Transcript | Exception]:
    """See `Model.transcribe_many`."""
    return recognise_all(model, audios, lambda: Decoder(model), batch_size, channel, progress)


def recognise_all(
    model: "Model",
    audios: Iterable[Audio],
    make_collector: Callable[[], "Collector"],
    batch_size: int,
    channel: int | None,
    progress: Callable[[float], None],
) -> Iterator[Any]:
    """What a collector makes of the probabilities of each recording; see `Model.transcribe_many`.

    Args:
        make_collector: called for each recording.

    Yields:
        The result of each recording's collector.
    """
    pools = _pools(_items(model, audios, make_collector, channel), model, batch_size)
    recordings: deque[Collector] = deque()
    with ThreadPoolExecutor(1, "audio") as reader:
        waiting = reader.submit(next, pools, None)
        while pool := waiting.result():
            waiting = reader.submit(next, pools, None)
            all_probs = _recognise(model, pool, batch_size)
            for item, probs in zip(pool, all_probs, strict=True):
                if not recordings or recordings[-1] is not item.recording:
                    recordings.append(item.recording)
                _add(item, probs)
            progress(sum(i.piece.length for i in pool if i.piece) / model.spect.sample_rate)
            while recordings and recordings[0].result is not None:
                yield recordings.popleft().result


def _add(item: Item, probs: np.ndarray | Exception | None) -> None:
    """Give an item to its recording; where that fails, the other recordings go on."""
    recording = item.recording
    try:
        recording.add(item.piece, probs)
    except (RunError, MemoryError) as error:
        recording.fail(error)
        if not item.piece:
            recording.result = recording.error


def _items(
    model: "Model",
    audios: Iterable[Audio],
    make_collector: Callable[[], "Collector"],
    channel: int | None,
) -> Iterator[Item]:
    """The pieces and ends of recordings in order, read and analysed."""
    for audio in audios:
        recording = make_collector()
        try:
            with open_audio(audio, model.spect.sample_rate, channel) as blocks:
                yield from pieces_of(recording, model, blocks)
        except (InputError, MemoryError) as error:
            recording.fail(error)
        except Exception as error:  # a fault of ours must not cost the other recordings
            name = audio if isinstance(audio, str | Path) else "the recording"
            logger.error("%s: cannot be read", name, exc_info=True)
            recording.fail(RunError(f"{name}: cannot be read: {first_line(error)}"))
        yield Item(recording)


def pieces_of(
    recording: "Collector", model: "Model", blocks: Iterable[np.ndarray]
) -> Iterator[Item]:
    """The pieces of (n,) blocks of samples, analysed; without the end of the recording."""
    counted = recording.count(blocks)
    for piece in cut_recording(counted, model.spect.sample_rate, model.hop_samples):
        heard = piece.speech >= NOISE_SECONDS
        features = spectrogram(piece.samples, model.spect) if heard else None
        yield Item(recording, piece.without_samples(), features)


def _pools(items: Iterable[Item], model: "Model", batch_size: int) -> Iterator[list[Item]]:
    """Consecutive items, as many as are kept in memory at once."""
    pool: list[Item] = []
    frames = pieces = 0
    for item in items:
        pool.append(item)
        if item.features is not None:
            pieces += 1
            frames += item.features.shape[1]
        full = frames >= _POOL_BATCHES * most_frames(model) or pieces >= _POOL_BATCHES * batch_size
        nothing_waits = item.piece is None and not pieces
        if full or nothing_waits or len(pool) >= _POOL_ITEMS:
            yield pool
            pool, frames, pieces = [], 0, 0
    if pool:
        yield pool


def most_frames(model: "Model") -> int:
    """Spectrogram frames of a batch."""
    return round(BATCH_SECONDS / model.spect.window_stride)


def _recognise(
    model: "Model", pool: list[Item], batch_size: int
) -> list[np.ndarray | Exception | None]:
    """The (T', C) probabilities of each item, or why there are none; None for noise and ends."""
    result: list[np.ndarray | Exception | None] = [None] * len(pool)
    features = {i: item.features for i, item in enumerate(pool) if item.features is not None}
    lengths = {i: spectrum.shape[1] for i, spectrum in features.items()}
    batches: list[list[int]] = []
    for i in sorted(lengths, key=lengths.get):
        full = not batches or len(batches[-1]) >= batch_size
        if full or (len(batches[-1]) + 1) * lengths[i] > most_frames(model):
            batches.append([])
        batches[-1].append(i)
    for batch in batches:
        for i, probs in zip(batch, emissions(model, [pool[i] for i in batch]), strict=True):
            result[i] = probs
    return result


def emissions(model: "Model", items: list[Item]) -> list[np.ndarray | Exception]:
    """The (T', C) probabilities of N pieces without their context, or why there are none.

    Where memory does not suffice for all pieces at once, they are recognised one by one.
    """
    parts = any(item.piece.start or item.piece.after for item in items)
    multiple = _FEW_LENGTHS if parts else 1
    try:
        all_probs = model.emissions(*pad_spectrograms([item.features for item in items], multiple))
    except (RunError, MemoryError) as error:
        if len(items) == 1:
            return [error]
    else:
        pairs = zip(items, all_probs, strict=True)
        return [_without_context(item.piece, probs, model.hop_samples) for item, probs in pairs]
    return [one for item in items for one in emissions(model, [item])]


def _without_context(piece: Piece, probs: np.ndarray, hop_samples: int) -> np.ndarray:
    """The (T', C) probabilities of a piece without those of its context."""
    first = piece.before // hop_samples
    return probs[first : first + piece.length // hop_samples if piece.after else None]


class Collector:
    """Collects the probabilities of a recording, piece by piece.

    Attributes:
        num_samples: length of what was read of the recording.
        error: why there is no result; None if nothing went wrong.
        result: what was made of the recording, or an error, when all is there.
    """

    def __init__(self):
        self.num_samples = 0
        self.error: Exception | None = None
        self.result: Any = None

    def count(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Pass (n,) blocks of samples on, and keep their number."""
        for block in blocks:
            self.num_samples += len(block)
            yield block

    def fail(self, error: Exception) -> None:
        """The recording cannot be recognised; the first error is the one that counts."""
        self.error = self.error or error
        error.__traceback__ = error.__context__ = None  # they keep what was read in memory

    def add(self, piece: Piece | None, probs: np.ndarray | Exception | None) -> None:
        """Take the next piece, or the end of the recording (no piece), and set `result` there.

        Args:
            piece: the piece.
            probs: (T', C) probabilities of the piece without its context; an error; or None for
                noise and for the end.
        """
        raise NotImplementedError


class Decoder(Collector):
    """Decodes a recording.

    Pieces that a word may join make a stretch, which is decoded as a whole.
    """

    def __init__(self, model: "Model"):
        super().__init__()
        self._model = model
        self._segments: list[Segment] = []
        self._alternatives: list[tuple[str, ...]] = []
        self._probs: list[np.ndarray] = []  # (T', C) of the pieces of the stretch
        self._start = self._end = 0  # of the stretch, in samples
        self._speech = 0.0  # seconds of speech in the stretch

    @property
    def segments(self) -> tuple[Segment, ...]:
        """What was recognised so far."""
        return tuple(self._segments)

    def add(self, piece: Piece | None, probs: np.ndarray | Exception | None) -> None:
        """See `Collector.add`."""
        if isinstance(probs, Exception):
            self.fail(probs)
        if not piece or not piece.joined or not isinstance(probs, np.ndarray):
            self._decode()
        if not piece:
            self.result = self.error or self._transcript()
        elif isinstance(probs, np.ndarray):
            self._extend(piece, probs)

    def _extend(self, piece: Piece, probs: np.ndarray) -> None:
        """Make a piece the end of the stretch."""
        hop = self._model.hop_samples
        if not self._probs:
            self._start, self._speech = piece.start, 0.0
        self._end = piece.start + piece.length
        self._speech += piece.speech
        self._probs.append(probs)
        longest = _STRETCH_SECONDS * self._model.spect.sample_rate / hop
        if sum(map(len, self._probs)) > longest:
            self._decode_all_but_the_last_word()

    def _decode(self) -> None:
        """Turn the stretch into a segment, and begin another stretch."""
        if not self._probs:
            return
        probs = np.concatenate(self._probs)
        self._probs = []
        segment, alternatives = self._model.segment(probs, self._start, self._end - self._start)
        if segment and (self._speech >= SPEECH_SECONDS or segment.probability >= _SURE):
            self._segments.append(segment)
            self._alternatives.append(alternatives)

    def _decode_all_but_the_last_word(self) -> None:
        """Decode what is complete; the last word may go on."""
        probs, end = np.concatenate(self._probs), self._end
        symbols, spans, _ = self._model.decoder.path(probs)
        words = words_in(symbols, self._model.labels)
        cut = len(probs)
        if len(words) > 1:
            cut = (int(spans[words[-2]][-1, 1]) + int(spans[words[-1]][0, 0]) + 1) // 2
        self._probs, self._end = [probs[:cut]], self._start + cut * self._model.hop_samples
        self._decode()
        self._probs, self._start, self._end = [probs[cut:]], self._end, end

    def _transcript(self) -> Transcript:
        text = self._model.labels.separator.join(segment.text for segment in self._segments)
        duration = self.num_samples / self._model.spect.sample_rate
        # texts of the whole recording can only be told apart where there is one stretch
        alternatives = self._alternatives[0] if len(self._alternatives) == 1 else ()
        return Transcript(text, tuple(self._segments), duration, alternatives)
