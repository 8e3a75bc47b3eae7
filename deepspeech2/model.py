"""Recognise speech: from a recording to features, emissions, symbols, and a Transcript.

Axes: N utterances, F frequency bins, T spectrogram frames, T' output frames, C classes, U symbols.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deepspeech2 import shipped
from deepspeech2.audio import Audio, checked_rate
from deepspeech2.confidence import mean_probability
from deepspeech2.decoding.alignment import symbol_log_probs, words_in
from deepspeech2.decoding.decoders import (
    SETTINGS_SUFFIXES,
    Decoder,
    GreedyDecoder,
    LMConfig,
    make_decoder,
    read_settings,
)
from deepspeech2.errors import InputError
from deepspeech2.model_info import ModelInfo, read_info
from deepspeech2.result import Segment, Transcript, Word

if TYPE_CHECKING:
    from deepspeech2.alignment import Alignment
    from deepspeech2.streaming.acoustic import StreamingAcoustic
    from deepspeech2.streaming.session import Session

# (N, 1, F, T) float32 spectrograms, zero past their ends, and (N,) int32 frame counts
# -> (N, T', C) float32 class probabilities, (N,) int32 output frame counts
AcousticModel = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]

BATCH_SIZE = 8
NEEDS_MINDSPORE = (".ckpt", ".mindir")


class Model:
    """An acoustic model with its labels and spectrogram settings: recordings in, text out.

    Args:
        acoustic: see `AcousticModel`.
        info: settings and labels that the model was trained with.
        decoder: makes text of class probabilities; None for the greedy decoder.
        streaming: the network for streams; None for a model that needs whole utterances.

    Attributes:
        labels: the classes in their order.
        spect: settings of the spectrograms that the acoustic model reads.
        hop_samples: samples between two output frames, at `spect.sample_rate`.
        confidence: makes the probability that a word is right of the one that the network gives its
            letters; None to leave it as it is.
    """

    def __init__(
        self,
        acoustic: AcousticModel,
        info: ModelInfo,
        decoder: Decoder | None = None,
        streaming: "StreamingAcoustic | None" = None,
    ):
        self.acoustic, self.streaming = acoustic, streaming
        self.labels = info.labels
        self.decoder = decoder or GreedyDecoder(info.labels)
        self.spect = info.spect()
        self.hop_samples = info.time_stride * self.spect.hop_length
        self.confidence = info.confidence.get(self.decoder.decoding)

    def transcribe(self, audio: Audio, channel: int | None = None) -> Transcript:
        """The transcript of a recording of any length.

        Args:
            audio: a path, a binary file object, or a pair of (n,) or (n, channels) samples and
                their rate in Hz.
            channel: the channel to take, from 1 on; None for the average of all.

        Raises:
            AudioError: for audio that cannot be used.
            RunError: when the network cannot be run, as with too little memory.
        """
        (result,) = self.transcribe_many([audio], channel=channel)
        if isinstance(result, Exception):
            raise result
        return result

    def transcribe_many(
        self,
        audios: Iterable[Audio],
        batch_size: int = BATCH_SIZE,
        channel: int | None = None,
        progress: Callable[[float], None] = lambda seconds: None,
    ) -> Iterator[Transcript | Exception]:
        """The transcripts of recordings, in their order; pieces of several go through in a batch.

        Args:
            audios: see `transcribe`.
            batch_size: the most pieces in a batch.
            channel: see `transcribe`.
            progress: called now and then with the seconds of audio that were recognised meanwhile.

        Yields:
            For each recording its transcript, or what `transcribe` would raise.
        """
        from deepspeech2.transcription import transcribe_all

        return transcribe_all(self, audios, batch_size, channel, progress)

    def align(
        self,
        audio: Audio,
        text: str,
        channel: int | None = None,
        batch_size: int = BATCH_SIZE,
        progress: Callable[[float], None] = lambda seconds: None,
    ) -> "Alignment":
        """When the words of a known text are said in a recording of any length.

        Args:
            audio: see `transcribe`.
            text: what is said; its lines become the segments.
            channel: see `transcribe`.
            batch_size: the most pieces in a batch.
            progress: see `transcribe_many`.

        Returns:
            A `Transcript` with the words as the text writes them, and more. A word that is not
            heard has probability 0 and a time between its neighbours.

        Raises:
            InputError: for audio that cannot be used or has no speech, and for a text without words
                that the labels can write, or of which no word is heard.
            RunError: when the network cannot be run, as with too little memory.
        """
        from deepspeech2.alignment import align

        return align(self, audio, text, channel, batch_size, progress)

    def stream(self, sample_rate: int | None = None) -> "Session":
        """Begin a stream of speech, whose words come while it is spoken.

        Args:
            sample_rate: rate of the samples that will come, in Hz; None for that of the model.

        Raises:
            InputError: for a model that needs whole utterances, and for a rate out of its range.
        """
        from deepspeech2.streaming.decoders import stream_decoder
        from deepspeech2.streaming.session import Session

        if self.streaming is None:
            raise InputError(
                "this model needs whole utterances: for streams train one with "
                "ModelConfig.bidirectional=False and DataConfig.SpectConfig.normalization=running, "
                "and export it with --streaming True"
            )
        rate = checked_rate(self.spect.sample_rate if sample_rate is None else sample_rate)
        decoder = stream_decoder(self.decoder, self.labels, self.spect.sample_rate)
        return Session(
            self.streaming, self.spect, self.labels, decoder, rate, self.word_probability
        )

    def emissions(self, inputs: np.ndarray, input_length: np.ndarray) -> list[np.ndarray]:
        """The class probabilities of each utterance of a batch, without padding.

        Args:
            inputs: (N, 1, F, T) float32 spectrograms, zero past their ends.
            input_length: (N,) int32 frame counts.

        Returns:
            N float32 arrays (T', C).
        """
        probs, lengths = self.acoustic(inputs, input_length)
        return [utterance[:length] for utterance, length in zip(probs, lengths, strict=True)]

    def texts(self, batch: Sequence[np.ndarray]) -> list[list[str]]:
        """(T', C) class probabilities of each utterance -> its texts, best first, at least one.

        Words have single spaces between them.
        """
        return self.decoder.texts(batch)

    def transcript(self, probs: np.ndarray, num_samples: int) -> Transcript:
        """The transcript of a recording of `num_samples` with (T', C) class probabilities."""
        segment, alternatives = self.segment(probs, 0, num_samples)
        segments = (segment,) if segment else ()
        text = segment.text if segment else ""
        return Transcript(text, segments, num_samples / self.spect.sample_rate, alternatives)

    def segment(
        self, probs: np.ndarray, start: int, num_samples: int
    ) -> tuple[Segment | None, tuple[str, ...]]:
        """What is said in a stretch of a recording.

        Args:
            probs: (T', C) class probabilities of the stretch.
            start: where the stretch begins in the recording, in samples.
            num_samples: its length.

        Returns:
            The segment, None where nothing was recognised; and other texts, best first.
        """
        symbols, spans, alternatives = self.decoder.path(probs)
        log_probs = symbol_log_probs(probs, symbols, spans)
        words, spoken = [], []
        for part in words_in(symbols, self.labels):
            first, last = self._seconds(spans[part], start, num_samples)
            text = self.labels.decode(symbols[part])
            words.append(Word(first, last, text, self.word_probability(log_probs[part])))
            spoken += log_probs[part].tolist()
        if not words:
            return None, alternatives
        text = self.labels.separator.join(word.word for word in words)
        segment = Segment(
            words[0].start, words[-1].end, text, tuple(words), mean_probability(spoken)
        )
        return segment, alternatives

    def word_probability(self, log_probs: Sequence[float]) -> float:
        """How probable it is that a word is right, of the log probabilities of its letters."""
        probability = mean_probability(log_probs)
        return self.confidence(probability) if self.confidence else probability

    def _seconds(self, spans: np.ndarray, start: int, num_samples: int) -> tuple[float, float]:
        """When a word begins and ends, in seconds from the beginning of the recording.

        Output frame i is centred on sample start + i * `hop_samples`.

        Args:
            spans: (U, 2) first and last frames of the word's symbols.
            start: first sample of the stretch.
            num_samples: length of the stretch.
        """
        half = self.hop_samples // 2
        first = max(0, int(spans[0, 0]) * self.hop_samples - half)
        last = min(num_samples, int(spans[-1, 1]) * self.hop_samples + self.hop_samples - half)
        return (start + first) / self.spect.sample_rate, (start + last) / self.spect.sample_rate


def load_model(name: str | Path, lm: str | Path | LMConfig | None = None) -> Model:
    """Load a model.

    Args:
        name: `english`, `an4`, or the path of an ONNX model.
        lm: the language model with which a beam search decodes: `english`, or an ARPA file; or all
            settings of the decoder, also as a .json or .yaml file that `tools.tune_lm` wrote. None:
            greedy decoding.

    Raises:
        InputError: for an unknown name, for a file that is missing, damaged, or needs MindSpore,
            and as `read_settings` and `make_decoder`.
    """
    config = decoder_settings(lm)
    path = shipped.model_path(name)
    if path.suffix in NEEDS_MINDSPORE:
        if not path.is_file():
            raise InputError(f"{path}: no such model")
        raise InputError(
            f"{path}: a {path.suffix} model needs MindSpore: use transcribe.py of the repository, "
            "or export the checkpoint there: python export.py --file_format ONNX "
            "--pre_trained_model_path CKPT"
        )
    if path.suffix != ".onnx":
        names = ", ".join(sorted(shipped.models()))
        names = names or "none (the package is not whole: install it again)"
        raise InputError(
            f"{name}: not a model: name an .onnx file, or a model of the package: {names}"
        )
    from deepspeech2.streaming.acoustic import open_onnx  # late: ONNX Runtime takes a while

    info = read_info(path)
    decoder = make_decoder(config, info.labels)
    acoustic, streaming = open_onnx(path, info)
    return Model(acoustic, info, decoder, streaming)


def decoder_settings(lm: str | Path | LMConfig | None) -> LMConfig:
    """What `lm` stands for; see `load_model`."""
    if isinstance(lm, LMConfig):
        return lm
    if not lm:
        return LMConfig()
    if brings_weights(lm):
        return read_settings(shipped.language_models().get(str(lm), lm))
    return LMConfig(decoder_type="beam", lm_path=str(lm))


def brings_weights(lm: str | Path) -> bool:
    """Whether `lm` is a language model of the package, or a file with settings."""
    return str(lm) in shipped.language_models() or Path(lm).suffix.lower() in SETTINGS_SUFFIXES
