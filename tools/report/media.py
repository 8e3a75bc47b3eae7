"""What a report shows of single utterances: the recording to hear, and a picture of the network.

Axes: F frequency bins, T spectrogram frames, T' output frames, C classes.
"""

import base64
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import soundfile

from deepspeech2.audio import AudioError, load_audio
from deepspeech2.features import spectrogram
from deepspeech2.model import Model
from deepspeech2.result import Word
from src.evaluation import ScoredUtterance, find_words

CLIP_SECONDS = 30  # of a recording
PICTURE_SECONDS = 20
SEEN_PROBABILITY = 0.1  # a class that never gets so far is not drawn
DRAWN_CLASSES = 40


@dataclass(frozen=True)
class Shown:
    """What the page shows of an utterance.

    Attributes:
        audio: data URI of the recording, or "".
        picture: data URI of the picture, or "".
        description: the picture in words.
        note: what is missing, and why.
    """

    audio: str = ""
    picture: str = ""
    description: str = ""
    note: str = ""


class Media:
    """Makes recordings and pictures until there is no room left.

    Args:
        model: its probabilities are drawn.
        room: characters of base64 in all.
    """

    def __init__(self, model: Model, room: int):
        self.model, self.room = model, room

    def of(
        self, utterance: ScoredUtterance, pairs: Sequence[tuple[str, str, str]], with_picture: bool
    ) -> Shown:
        """The recording and, if asked for, the picture of an utterance.

        Args:
            utterance: what to show.
            pairs: its aligned words, see `figures.edits`.
            with_picture: whether to draw a picture.
        """
        rate = self.model.spect.sample_rate
        try:
            samples = load_audio(utterance.audio_path, rate)
        except AudioError as error:
            return Shown(note=str(error))
        notes = []
        picture = description = ""
        if with_picture:
            content, description = self._draw(samples, pairs)
            picture = self._uri("image/png", content)
            if len(samples) > PICTURE_SECONDS * rate:
                notes.append(f"The picture ends after {PICTURE_SECONDS} s.")
        audio = self._uri("audio/flac", flac(samples[: CLIP_SECONDS * rate], rate))
        if len(samples) > CLIP_SECONDS * rate:
            notes.append(f"The recording ends here after {CLIP_SECONDS} s.")
        if not audio or (with_picture and not picture):
            notes.append("There is no room left in the page for the recording or the picture.")
        return Shown(audio, picture, description, " ".join(notes))

    def _uri(self, kind: str, content: bytes) -> str:
        uri = f"data:{kind};base64,{base64.b64encode(content).decode()}"
        if len(uri) > self.room:
            return ""
        self.room -= len(uri)
        return uri

    def _draw(
        self, samples: np.ndarray, pairs: Sequence[tuple[str, str, str]]
    ) -> tuple[bytes, str]:
        features = spectrogram(samples, self.model.spect)
        lengths = np.array([features.shape[1]], np.int32)
        probs = self.model.emissions(features[None, None], lengths)[0]
        words = find_words(self.model, probs, len(samples) / self.model.spect.sample_rate)
        wrong = [edit != "" for _, y, edit in pairs if y]
        drawn = [(word, bad) for word, bad in zip(words, wrong, strict=False)
                 if word.start < PICTURE_SECONDS]
        described = ", ".join(f"{word.word}{' (wrong)' if bad else ''} at {word.start:.1f} s"
                              for word, bad in drawn)
        return draw(self.model, features, probs, drawn), described


def flac(samples: np.ndarray, rate: int) -> bytes:
    """(n,) samples as a FLAC file of 16 bits."""
    file = io.BytesIO()
    soundfile.write(file, np.clip(samples, -1, 1), rate, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def draw(
    model: Model, features: np.ndarray, probs: np.ndarray, words: Sequence[tuple[Word, bool]]
) -> bytes:
    """Draw a spectrogram over the probability of each class, with a box for each word, as PNG.

    Args:
        model: its labels and settings.
        features: (F, T) spectrogram.
        probs: (T', C) class probabilities.
        words: the words, and whether each is wrong.
    """
    from matplotlib.figure import Figure  # imported late: takes a while

    spect, hop = model.spect, model.hop_samples / model.spect.sample_rate
    seconds = min(PICTURE_SECONDS, features.shape[1] * spect.window_stride)
    classes = drawn_classes(probs)
    heights = 1.8, 0.14 * max(5, len(classes))  # inches
    figure = Figure((min(20, max(7, 1.3 * seconds)), sum(heights) + 1), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=heights)
    upper.imshow(features, origin="lower", aspect="auto", vmin=-1, vmax=4, cmap="magma",
                 extent=(0, features.shape[1] * spect.window_stride, 0, spect.sample_rate / 2000))
    upper.set(ylabel="kHz")
    lower.imshow(probs[:, classes].T, aspect="auto", vmin=0, vmax=1, cmap="Greys",
                 extent=(-hop / 2, (len(probs) - 0.5) * hop, len(classes) - 0.5, -0.5))
    lower.set_yticks(range(len(classes)), [_class_name(model, i) for i in classes], fontsize=7,
                     parse_math=False)
    lower.set(xlim=(0, seconds), xlabel="seconds")
    for place, (word, bad) in enumerate(words):
        style = {"color": "#c0392b", "linestyle": "--"} if bad else {"color": "#1a7f5a"}
        for axes in (upper, lower):
            axes.axvspan(word.start, word.end, fill=False, linewidth=1.5, **style)
        upper.text((word.start + word.end) / 2, 1.02 + 0.1 * (place % 2),
                   f"{word.word[:20]}{' ✗' if bad else ''}", transform=upper.get_xaxis_transform(),
                   ha="center", va="bottom", fontsize=9, color=style["color"], parse_math=False)
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a script that the font lacks shows as boxes
        figure.savefig(file, format="png", dpi=80)
    return file.getvalue()


def drawn_classes(probs: np.ndarray) -> np.ndarray:
    """The classes of (T', C) probabilities that are worth a row, in class order."""
    highest = probs.max(axis=0, initial=0)
    best = np.argsort(-highest, kind="stable")[:DRAWN_CLASSES]
    return np.sort(best[highest[best] >= SEEN_PROBABILITY])


def _class_name(model: Model, index: int) -> str:
    names = {model.labels.blank_index: "blank", model.labels.space_index: "space"}
    return names.get(index, model.labels.characters[index])
