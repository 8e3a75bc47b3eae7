"""DeepSpeech2 speech recognition: `load_model("an4").transcribe("a.wav").text`."""

from deepspeech2.model import Model, load_model
from deepspeech2.result import Segment, Transcript, Word

__all__ = ["Model", "Segment", "Transcript", "Word", "load_model"]
