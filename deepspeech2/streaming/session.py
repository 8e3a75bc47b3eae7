"""One stream of speech: samples in, words out while they are spoken.

What comes out does not depend on how the samples are divided: they are always worked on in blocks
of the same length. Words that were given out never change.

Axes: n samples, F frequency bins, T spectrogram frames, T' output frames, C classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from deepspeech2.audio.mixing import as_floats
from deepspeech2.audio.resampling import Resampler
from deepspeech2.confidence import mean_probability
from deepspeech2.errors import InputError
from deepspeech2.features import SpectConfig, SpectrogramStream
from deepspeech2.labels import Labels
from deepspeech2.result import Segment, Transcript, Word
from deepspeech2.streaming.acoustic import Chunk, StreamingAcoustic
from deepspeech2.streaming.decoders import SpokenWord, StreamDecoder

BLOCK_STEPS = 2  # of the network's smallest chunks make a block
# seconds without a letter
PAUSE = 1.2  # ends a segment
SILENCE = 2.4  # lets the network begin anew, with nothing to remember
LONGEST = 20.0  # seconds of a segment: then it ends between two words; a word ends then too


@dataclass(frozen=True)
class Progress:
    """What is new.

    Attributes:
        words: words that are complete, and will not change.
        partial: what is in progress. With greedy decoding it is one word, and only letters can come
            to it; a beam search may change it.
        ended: whether a segment has ended: nothing was said for a while, or it was long.
    """

    words: tuple[Word, ...] = ()
    partial: str = ""
    ended: bool = False


class Session:
    """A stream of speech.

    `feed` and `finish` run the network themselves. A server that runs it for many streams at once
    uses `add`, `end`, `next_chunk` and `take` instead.

    Args:
        acoustic: the network.
        spect: settings of its spectrograms, with `running` normalisation.
        labels: its classes.
        decoder: makes words of what the network says.
        sample_rate: rate of the samples that come, in Hz.
        word_probability: makes a word's probability of the log probabilities of its letters.
    """

    def __init__(
        self,
        acoustic: StreamingAcoustic,
        spect: SpectConfig,
        labels: Labels,
        decoder: StreamDecoder,
        sample_rate: int,
        word_probability: Callable[[Sequence[float]], float] = mean_probability,
    ):
        self._acoustic, self._spect, self._labels = acoustic, spect, labels
        self._hop = acoustic.step * spect.hop_length  # samples between two output frames
        self._resampler = Resampler(sample_rate, spect.sample_rate)
        self._decoder, self._word_probability = decoder, word_probability
        self._silent = 0  # output frames since the last letter
        self._samples = np.zeros(0, np.float32)  # those that may be needed again, and new ones
        self._kept = 0  # where they begin in the stream
        self._ended = self._done = False  # no more samples, no more chunks
        self._segments: list[Segment] = []
        self._words: list[Word] = []  # of the segment in progress
        self._log_probs: list[float] = []  # of their letters
        self._last_end = 0  # sample where the last word ends
        self._waiting_since = 0  # the sample since when a word has been in progress
        self._begin_at(0)

    def _begin_at(self, sample: int) -> None:
        """Let the network begin at a sample of the stream, with nothing to remember."""
        self._origin = self._position = sample  # the first sample, and the next one to work on
        self._spectrogram = SpectrogramStream(self._spect)
        self._features = np.zeros((self._spect.num_bins, 0), np.float32)
        self._states, self._first = self._acoustic.first_states(), True
        self._outputs, self._heard = 0, False  # frames of output, and whether one had a letter

    @property
    def transcript(self) -> Transcript:
        """What was said so far, without the word in progress."""
        segments = [*self._segments, *self._segment()]
        text = self._labels.separator.join(segment.text for segment in segments)
        duration = (self._kept + len(self._samples)) / self._spect.sample_rate
        return Transcript(text, tuple(segments), duration)

    def feed(self, samples: np.ndarray) -> Progress:
        """Take more samples.

        Args:
            samples: (n,) or (n, channels), floats in [-1, 1] or integers of full scale.

        Raises:
            InputError: for another shape or type, and after `finish`.
            RunError: when the network cannot be run.
        """
        self.add(samples)
        return self._run()

    def finish(self) -> Progress:
        """Take the end of the stream. Raises as `feed`."""
        self.end()
        return self._run()

    def _run(self) -> Progress:
        words, ended = [], False
        while chunk := self.next_chunk():
            (probs,) = self._acoustic([chunk])
            new = self.take(probs, chunk)
            words += new.words
            ended |= new.ended
        return Progress(tuple(words), self._partial(), ended)

    # --- for callers that run the network themselves ---------------------------------------------

    def add(self, samples: np.ndarray) -> None:
        """Keep more samples for `next_chunk`; see `feed`."""
        self._refuse_after_the_end()
        self._append(self._resampler.process(_mono(samples)))

    def end(self) -> None:
        """There are no more samples; see `finish`."""
        self._refuse_after_the_end()
        self._append(self._resampler.finish())
        self._ended = True

    def next_chunk(self) -> Chunk | None:
        """What the network has to recognise next; None until there are more samples.

        Its result must be given to `take` before the next call.
        """
        size, fewest = BLOCK_STEPS * self._hop, self._acoustic.first_frames if self._first else 1
        while not self._done:
            step = self._acoustic.step
            count = self._features.shape[1] // step * step
            if count >= fewest:
                return self._chunk(count)
            start = self._position - self._kept
            block = self._samples[start : start + size]
            if len(block) < size and not self._ended:
                return None
            self._position += len(block)
            self._add_features(self._spectrogram.feed(block))
            if len(block) < size:
                self._done = True
                if self._position > self._origin:
                    self._add_features(self._spectrogram.finish())
                    return self._chunk(self._features.shape[1], final=True)
        return None

    def take(self, probs: np.ndarray, chunk: Chunk) -> Progress:
        """Decode what the network made of a chunk: (T', C) class probabilities."""
        self._states = chunk.states
        words, ended = [], False
        for row in probs:
            words += self._keep(self._decoder.push(row, self._sample_of(self._outputs)))
            self._outputs += 1
            self._hear(row)
            anew = self._is_silent() and not chunk.final
            if anew or self._pauses() or self._is_long_word():
                words += self._keep(self._decoder.flush())
                ended |= self._end_segment()
            elif self._is_long() and self._decoder.cut():
                ended |= self._end_segment()
            if anew:
                self._begin_at(self._sample_of(self._outputs))
                break
        if chunk.final:
            words += self._keep(self._decoder.flush())
            ended |= self._end_segment()
        self._forget()
        return Progress(tuple(words), self._partial(), ended)

    # --- samples and features --------------------------------------------------------------------

    def _refuse_after_the_end(self) -> None:
        if self._ended:
            raise InputError("the stream has ended: begin another one")

    def _append(self, samples: np.ndarray) -> None:
        self._samples = np.concatenate([self._samples, samples])

    def _add_features(self, features: np.ndarray) -> None:
        self._features = np.concatenate([self._features, features], axis=1)

    def _chunk(self, count: int, final: bool = False) -> Chunk:
        chunk = Chunk(self._features[:, :count], self._states, self._first, final)
        self._features = self._features[:, count:]
        self._first = False
        return chunk

    def _sample_of(self, output: int) -> int:
        """The sample of the stream on which an output frame is centred."""
        return self._origin + output * self._hop

    def _forget(self) -> None:
        """Drop the samples that will not be needed even if the network begins anew."""
        needed = min(self._position, self._sample_of(self._outputs))
        self._samples = self._samples[max(0, needed - self._kept) :]
        self._kept = max(self._kept, needed)

    # --- words and segments ----------------------------------------------------------------------

    def _seconds(self, frames: int) -> float:
        return frames * self._hop / self._spect.sample_rate

    def _partial(self) -> str:
        return self._labels.decode(np.array(self._decoder.partial, int))

    def _hear(self, row: np.ndarray) -> None:
        """Note whether a frame with (C,) class probabilities is a letter."""
        letter = row.argmax() not in (self._labels.blank_index, self._labels.space_index)
        self._silent = 0 if letter else self._silent + 1
        self._heard |= letter
        if self._decoder.between_words:
            self._waiting_since = self._sample_of(self._outputs)

    def _pauses(self) -> bool:
        """Whether a segment ends because nothing is said."""
        if self._seconds(self._silent) < PAUSE:
            return False
        return bool(self._words) or not self._decoder.between_words

    def _is_long(self) -> bool:
        """Whether the segment in progress should end as soon as it can."""
        now = self._sample_of(self._outputs) / self._spect.sample_rate
        return bool(self._words) and now - self._words[0].start >= LONGEST

    def _is_long_word(self) -> bool:
        """Whether a word should end without a space, which an alphabet may not have."""
        waiting = self._sample_of(self._outputs) - self._waiting_since
        return self._silent > 0 and waiting >= LONGEST * self._spect.sample_rate

    def _is_silent(self) -> bool:
        """Whether the network should begin anew."""
        enough = self._heard or self._seconds(self._outputs) >= LONGEST
        return enough and self._seconds(self._silent) >= SILENCE

    def _keep(self, spoken: list[SpokenWord]) -> list[Word]:
        """Add complete words to the segment."""
        rate, half = self._spect.sample_rate, self._hop // 2
        words = []
        for one in spoken:
            start = max(self._last_end, one.first - half)
            end = min(self._kept + len(self._samples), one.last + self._hop - half)
            self._last_end = max(start, end)
            text = self._labels.decode(np.array(one.symbols, int))
            probability = self._word_probability(one.log_probs)
            words.append(Word(start / rate, self._last_end / rate, text, probability))
            self._log_probs += one.log_probs
            self._waiting_since = self._sample_of(self._outputs)
        self._words += words
        return words

    def _segment(self) -> list[Segment]:
        """The segment in progress, if it has words."""
        if not self._words:
            return []
        words = tuple(self._words)
        text = self._labels.separator.join(word.word for word in words)
        probability = mean_probability(self._log_probs)
        return [Segment(words[0].start, words[-1].end, text, words, probability)]

    def _end_segment(self) -> bool:
        """End the segment in progress; returns whether there was one."""
        segments = self._segment()
        self._segments += segments
        self._words, self._log_probs = [], []
        return bool(segments)


def _mono(samples: np.ndarray) -> np.ndarray:
    """(n,) or (n, channels) floats or integers -> (n,) float32 with full scale 1.

    Raises:
        InputError: for another shape or type, and for values that are not finite.
    """
    samples = np.asarray(samples)
    if samples.ndim not in (1, 2) or samples.dtype.kind not in "if":
        raise InputError(
            f"samples have shape {samples.shape} and dtype {samples.dtype}, needed are floats or "
            "signed integers of shape (n,) or (n, channels)"
        )
    samples = as_floats(samples)
    mono = samples if samples.ndim == 1 else samples.mean(axis=1)
    if not np.isfinite(mono).all():
        raise InputError("samples hold values that are not finite numbers")
    return mono
