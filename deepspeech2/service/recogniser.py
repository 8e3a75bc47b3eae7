"""Recognise recordings and streams of many clients with one network."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np
import soundfile

from deepspeech2.audio import AudioError, open_audio
from deepspeech2.decoding.decoders import BeamDecoder
from deepspeech2.errors import RunError
from deepspeech2.features import spectrogram
from deepspeech2.model import Model
from deepspeech2.result import Segment, Transcript
from deepspeech2.segmentation import Piece
from deepspeech2.service.batching import Batcher, Work
from deepspeech2.service.errors import busy
from deepspeech2.service.limits import Limits
from deepspeech2.service.metrics import Metrics
from deepspeech2.streaming.acoustic import Chunk
from deepspeech2.streaming.session import Progress, Session
from deepspeech2.transcription import Decoder, Item, emissions, most_frames, pieces_of

_AHEAD = 2  # pieces of a recording that wait for the network
_PIECE, _STREAM = "piece", "stream"  # what can share a batch
_TURN_SECONDS = 2.0  # of a stream in one turn
# formats whose headers tell their length exactly; Ogg cut from a broadcast counts from elsewhere
_EXACT_HEADERS = ("WAV", "WAVEX", "RF64", "W64", "FLAC", "AIFF", "AU", "CAF")
_UNKNOWN = 1 << 40  # samples: from here on a header says that it does not know


@dataclass(eq=False)
class Turn:
    """A stream whose turn it is.

    Attributes:
        session: the stream.
        chunk: what comes next; None when the turn is over.
        progress: what is new.
        frames: spectrogram frames that were recognised.
        error: why the stream cannot be recognised; None if nothing went wrong.
    """

    session: Session
    chunk: Chunk | None
    progress: list[Progress] = field(default_factory=list)
    frames: int = 0
    error: Exception | None = None

    def fail(self, error: Exception) -> None:
        """End the turn; the stream cannot be recognised."""
        self.error, self.chunk = error, None

    def take(self, probs: np.ndarray, most_frames: int) -> None:
        """Decode the (T', C) probabilities of the chunk, and go on to the next one."""
        self.progress.append(self.session.take(probs, self.chunk))
        self.frames += self.chunk.features.shape[1]
        self.chunk = self.session.next_chunk() if self.frames < most_frames else None


class TooLong(AudioError):
    """A recording that is longer than allowed."""


class Stopped(Exception):
    """Nobody waits for the result any more."""


class Recogniser:
    """A model that many clients share.

    Args:
        model: the model.
        name: what clients call it.
        limits: see `Limits`.
        metrics: counts what is done.

    Attributes:
        stopping: set when the service is asked to stop: streams then end, and nothing begins.
        streams: the number of streams under way.
    """

    def __init__(self, model: Model, name: str, limits: Limits, metrics: Metrics):
        self.model, self.name, self.limits, self.metrics = model, name, limits, metrics
        self._batcher = Batcher(self._run, most_frames(model), on_batch=metrics.batches.observe)
        metrics.watch_queue(lambda: len(self._batcher))
        self._turn_frames = round(_TURN_SECONDS / model.spect.window_stride)
        self.stopping = asyncio.Event()
        self.streams = self._recordings = 0
        if isinstance(model.decoder, BeamDecoder):
            model.decoder.search.compile()  # before the first client comes

    def close(self) -> None:
        """End the network's thread."""
        self._batcher.close()

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Make room for a recording. Raises ApiError when there is none."""
        self._refuse_when_stopping()
        if self._recordings >= self.limits.requests:
            raise busy(f"{self._recordings} recordings are under way")
        self._recordings += 1
        try:
            with self.metrics.requests.track_inprogress():
                yield
        finally:
            self._recordings -= 1

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Make room for a stream. Raises ApiError when there is none."""
        self._refuse_when_stopping()
        if self.streams >= self.limits.streams:
            raise busy(f"{self.streams} streams are under way")
        self.streams += 1
        try:
            with self.metrics.streams.track_inprogress():
                yield
        finally:
            self.streams -= 1

    def _refuse_when_stopping(self) -> None:
        if self.stopping.is_set():
            raise busy("it stops")

    def _run(
        self, contents: Sequence[Item | Turn]
    ) -> list[np.ndarray | list[Progress] | Exception]:
        """The (T', C) probabilities of pieces of recordings, or what is new in streams."""
        if isinstance(contents[0], Turn):
            return self._advance(contents)
        return emissions(self.model, contents)

    # --- recordings -------------------------------------------------------------------------------

    def transcribe(
        self, file: BinaryIO, stop: threading.Event, heard: Callable[[Segment], None]
    ) -> Transcript:
        """The transcript of a recording; blocks.

        Args:
            file: the recording.
            stop: ends the work when it is set.
            heard: called with each segment.

        Raises:
            AudioError: for audio that cannot be used.
            TooLong: for a recording that is longer than allowed.
            RunError, MemoryError: when the network cannot be run.
            Stopped: after `stop`.
        """
        self._check_header(file)
        recording, client = Decoder(self.model), object()
        waiting: deque[tuple[Item, Future | None]] = deque()
        told = 0
        try:
            with open_audio(file, self.model.spect.sample_rate) as blocks:
                for item in pieces_of(recording, self.model, self._counted(blocks, stop)):
                    waiting.append((item, self._submit(client, item)))
                    if len(waiting) > _AHEAD:
                        self._collect(waiting, stop)
                    told = _tell(recording, told, heard)
            while waiting:
                self._collect(waiting, stop)
                told = _tell(recording, told, heard)
        finally:
            for _, future in waiting:
                if future:
                    future.cancel()
        recording.add(None, None)
        _tell(recording, told, heard)
        if isinstance(recording.result, Exception):
            raise recording.result
        return recording.result

    def _submit(self, client: Hashable, item: Item) -> Future | None:
        if item.features is None:
            return None
        return self._batcher.submit(client, Work(_PIECE, item.features.shape[1], item))

    def _collect(self, waiting: deque, stop: threading.Event) -> None:
        """Add the result of the first piece that waits to its recording."""
        if stop.is_set():
            raise Stopped
        item, future = waiting[0]
        probs = None
        if future:
            try:
                probs = future.result()
            except (RunError, MemoryError) as error:
                probs = error
        waiting.popleft()
        item.recording.add(item.piece, probs)
        if item.piece:
            seconds = item.piece.length / self.model.spect.sample_rate
            self.metrics.audio.labels("file").inc(seconds)

    def _check_header(self, file: BinaryIO) -> None:
        """Raise TooLong for a recording whose header says that it is too long."""
        try:
            info = soundfile.info(file)
        except (OSError, RuntimeError, TypeError, ValueError):
            return  # other libraries may read it
        finally:
            file.seek(0)
        if info.format in _EXACT_HEADERS and info.frames < _UNKNOWN and info.samplerate:
            self._check_length(info.frames / info.samplerate)

    def _check_length(self, seconds: float) -> None:
        if seconds > self.limits.audio_seconds:
            raise TooLong(
                f"the recording is longer than {self.limits.audio_seconds:g} s: send it in parts"
            )

    def _counted(
        self, blocks: Iterable[np.ndarray], stop: threading.Event
    ) -> Iterator[np.ndarray]:
        """Pass (n,) blocks on until the recording is too long, whatever its header says."""
        count = 0
        for block in blocks:
            if stop.is_set():
                raise Stopped
            count += len(block)
            self._check_length(count / self.model.spect.sample_rate)
            yield block

    def probe(self) -> Future:
        """Let the network recognise a moment of silence."""
        silence = np.zeros(self.model.spect.sample_rate // 2, np.float32)
        piece = Piece(silence, 0, len(silence), 0, 0, joined=False, speech=0.0)
        item = Item(Decoder(self.model), piece, spectrogram(silence, self.model.spect))
        return self._submit(object(), item)

    # --- streams ----------------------------------------------------------------------------------

    def submit_stream(self, session: Session, chunk: Chunk) -> Future:
        """Queue a stream, from a chunk on; the result is a list of `Progress`.

        The session must be left alone until then. A stream that has fallen behind takes several
        chunks in a turn: other clients' turns take longer than a chunk lasts.
        """
        frames = chunk.features.shape[1]
        return self._batcher.submit(session, Work(_STREAM, frames, Turn(session, chunk)))

    def _advance(self, turns: Sequence[Turn]) -> list[list[Progress] | Exception]:
        """Recognise the chunks that streams have, up to a limit; those that can share a batch."""
        while waiting := [turn for turn in turns if turn.chunk]:
            kinds: dict[Hashable, list[Turn]] = {}
            for turn in waiting:
                kinds.setdefault(turn.chunk.company(), []).append(turn)
            for together in kinds.values():
                self._advance_together(together)
        return [turn.error or turn.progress for turn in turns]

    def _advance_together(self, turns: Sequence[Turn]) -> None:
        """Recognise a chunk of each stream; where that fails, those of one after the other."""
        try:
            all_probs = self.model.streaming([turn.chunk for turn in turns])
        except (RunError, MemoryError) as error:
            if len(turns) == 1:
                turns[0].fail(error)
            else:
                for turn in turns:
                    self._advance_together([turn])
            return
        for turn, probs in zip(turns, all_probs, strict=True):
            try:
                turn.take(probs, self._turn_frames)
            except (RunError, MemoryError) as error:
                turn.fail(error)


def _tell(recording: Decoder, told: int, heard: Callable[[Segment], None]) -> int:
    """Call `heard` for the segments from number `told` on; returns how many there are."""
    segments = recording.segments
    for segment in segments[told:]:
        heard(segment)
    return len(segments)


