"""From one recording to its text."""

from pathlib import Path

import numpy as np

from src.config import SpectConfig
from src.features import load_audio, spectrogram
from src.greedydecoder import MSGreedyDecoder
from src.labels import Labels
from src.predictor import Predict


def transcribe(path: str | Path, predict: Predict, labels: Labels, spect: SpectConfig) -> str:
    """The greedy transcript of an audio file, single spaces between words. Raises AudioError for a bad file."""
    inputs = spectrogram(load_audio(path, spect.sample_rate), spect)[None, None]    # (1, 1, F, T)
    probs, lengths = predict(inputs, np.array([inputs.shape[3]], np.int32))
    strings, _ = MSGreedyDecoder(labels.characters).decode(probs, lengths)
    return " ".join(strings[0][0].split())
