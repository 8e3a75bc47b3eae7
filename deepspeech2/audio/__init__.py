"""Read recordings as mono float32 samples at the sample rate of a model.

`open_audio` yields a recording of any length in blocks; `load_audio` and `read_audio` join them.
"""

from deepspeech2.audio.reader import (
    STANDARD_INPUT,
    Audio,
    AudioReader,
    checked_rate,
    load_audio,
    open_audio,
    read_audio,
)
from deepspeech2.audio.resampling import resample
from deepspeech2.audio.source import RATES, AudioError

__all__ = [
    "AUDIO_SUFFIXES",
    "RATES",
    "STANDARD_INPUT",
    "Audio",
    "AudioError",
    "AudioReader",
    "checked_rate",
    "load_audio",
    "open_audio",
    "read_audio",
    "resample",
]

# of the formats that are read everywhere: corpora are searched for files with these names
AUDIO_SUFFIXES = (".flac", ".mp3", ".ogg", ".opus", ".wav")
