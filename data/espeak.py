"""Synthesize speech with espeak-ng, through the C library in the `espeakng-loader` wheel.

espeak-ng keeps state between utterances: the phase of its pitch flutter, echo buffers, noise.
Neither new parameters nor a new initialisation clears this state, so equal words would give
slightly different samples each time. Every utterance is therefore synthesized in a process of its
own, forked before the library is initialised.
"""

import ctypes
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deepspeech2.errors import InputError, RunError

SAMPLE_RATE = 22050  # Hz, of all formant voices

# constants of speak_lib.h and espeak_ng.h
_OUTPUT_SYNCHRONOUS = 2
_DO_NOT_EXIT = 0x8000  # return an error for missing voice data instead of ending the process
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4
_TEXT_FLAGS = 0x001 | 0x100  # UTF-8; phoneme names in [[double brackets]]
_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)

# espeak-ng reads a single A as the article
_SPOKEN = {"A": "[['eI]]"}


@dataclass(frozen=True)
class Speech:
    """A text with the voice and the manner to speak it; equal values give equal samples."""

    text: str  # words; a single letter is read by its name
    voice: str  # language+variant, such as en-us+f2
    rate: int  # words a minute
    pitch: int  # 0 to 99; 50 is the pitch of the voice
    pitch_range: int  # 0 (monotone) to 99; 50 is the range of the voice
    volume: int  # 100 is normal, but clips in some voices
    seed: int  # of the breath noise


def find_library() -> tuple[str, str]:
    """The paths of the shared library and of its data folder.

    Raises:
        InputError: when the package is missing or cannot be used.
    """
    try:
        import espeakng_loader
    except ImportError:
        raise InputError(
            "the package espeakng-loader is missing: pip install -r requirements.txt"
        ) from None
    library = espeakng_loader.get_library_path()
    # the path that is compiled into the library is from the machine that built the wheel
    data = Path(espeakng_loader.__file__).with_name("espeak-ng-data")
    if not (data / "phontab").is_file():
        raise InputError(f"espeakng-loader has no voice data in {data}: reinstall it")
    try:
        ctypes.CDLL(library)
    except OSError as error:
        raise InputError(f"espeakng-loader's library cannot be loaded: {error}") from None
    return library, str(data)


def synthesize(speech: Speech) -> np.ndarray:
    """Synthesize (n,) int16 samples at `SAMPLE_RATE`.

    Raises:
        InputError: as `find_library`.
        RunError: when espeak-ng fails.
    """
    paths = find_library()
    return np.frombuffer(_in_own_process(lambda: _speak(speech, *paths)), np.int16)


def _in_own_process(function: Callable[[], bytes]) -> bytes:
    """Call a function in a forked child, and return its bytes.

    Raises:
        RunError: with the message of any error in the child.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            status, answer = 0, function()
        except BaseException as error:
            status, answer = 1, str(error).encode()
        try:
            with open(writer, "wb") as pipe:
                pipe.write(answer)
        finally:
            os._exit(status)  # without the exit handlers, which belong to the parent
    os.close(writer)
    with open(reader, "rb") as pipe:
        answer = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status:
        raise RunError(answer.decode() or f"espeak-ng ended its process with status {status}")
    return answer


def _speak(speech: Speech, library_path: str, data_path: str) -> bytes:
    """The 16-bit samples of `speech`; the library must not be initialised in this process yet."""
    chunks: list[bytes] = []

    def receive(samples, count, _events):
        if samples and count > 0:
            chunks.append(ctypes.string_at(samples, 2 * count))
        return 0  # go on

    library = ctypes.CDLL(library_path)
    rate = library.espeak_Initialize(_OUTPUT_SYNCHRONOUS, 0, os.fsencode(data_path), _DO_NOT_EXIT)
    if rate != SAMPLE_RATE:
        raise RunError(
            f"espeak-ng could not start with the data in {data_path}: it answered {rate}"
        )
    callback = _CALLBACK(receive)
    library.espeak_SetSynthCallback(callback)
    # the library refuses an unknown language, but ignores an unknown variant
    variant = Path(data_path, "voices", "!v", speech.voice.partition("+")[2])
    if not variant.exists() or library.espeak_SetVoiceByName(speech.voice.encode()) != 0:
        raise RunError(f"espeak-ng has no voice {speech.voice!r} in {data_path}")
    parameters = {
        _RATE: speech.rate,
        _VOLUME: speech.volume,
        _PITCH: speech.pitch,
        _RANGE: speech.pitch_range,
    }
    for parameter, value in parameters.items():
        library.espeak_SetParameter(parameter, value, 0)
    # the library draws from its own generator and from that of the C library
    library.espeak_ng_SetRandSeed(ctypes.c_long(speech.seed))
    ctypes.CDLL(None).srand(ctypes.c_uint(speech.seed))
    text = " ".join(
        _SPOKEN.get(word, word if len(word) == 1 else word.lower()) for word in speech.text.split()
    )
    encoded = text.encode() + b"\0"
    status = library.espeak_Synth(
        encoded, ctypes.c_size_t(len(encoded)), 0, 0, 0, _TEXT_FLAGS, None, None
    )
    if status != 0 or library.espeak_Synchronize() != 0 or not chunks:
        raise RunError(f"espeak-ng could not say {text!r} as {speech.voice}")
    return b"".join(chunks)
