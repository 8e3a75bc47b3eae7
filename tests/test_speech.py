"""Speech against silence, hum, noise, music and machines."""

import numpy as np
import pytest
from conftest import voice

from deepspeech2.speech import (
    NOISE_SECONDS,
    SPEECH_SECONDS,
    find_levels,
    noise_floor,
    speech_seconds,
)

RATE = 16000
RNG = np.random.default_rng(0)
TIME = np.arange(10 * RATE) / RATE
WHITE = RNG.normal(0, 0.1, len(TIME))


def score(samples: np.ndarray, rate: int = RATE) -> float:
    return speech_seconds(samples.astype(np.float32), rate)


def hum(frequency: float) -> np.ndarray:
    """A tone of the mains and its harmonics."""
    return sum(0.2 / k * np.sin(2 * np.pi * frequency * k * TIME + k) for k in range(1, 20))


def pink() -> np.ndarray:
    spectrum = np.fft.rfft(WHITE)
    return np.fft.irfft(spectrum / np.sqrt(np.arange(len(spectrum)) + 1)) * 100


@pytest.mark.parametrize("noise", [
    np.zeros(len(TIME)), np.full(len(TIME), 0.3), WHITE, WHITE * 1e-3, np.clip(WHITE * 20, -1, 1),
    np.round(WHITE * 10) / 32768, np.diff(WHITE), np.cumsum(WHITE) / 100, pink(), pink() * 1e-3,
    hum(50), hum(60) + WHITE * 1e-2, np.sin(2 * np.pi * 50 * TIME), np.sin(2 * np.pi * 440 * TIME),
    WHITE * (1 + 0.5 * np.sin(TIME)), np.sin(2 * np.pi * 1000 * TIME) * (TIME % 2 < 0.3),
    np.where(np.arange(len(TIME)) % 8000 < 20, 0.5, 0) + WHITE * 1e-2,
], ids=["zeros", "constant", "white", "quiet white", "clipped white", "lowest bits", "blue",
        "brown", "pink", "quiet pink", "hum", "hum and hiss", "50 Hz", "440 Hz", "waves", "beeps",
        "clicks"])
@pytest.mark.parametrize("seconds", [0.05, 0.3, 2, 10])
def test_noise(noise, seconds):
    assert score(noise[: round(seconds * RATE)]) < NOISE_SECONDS


@pytest.mark.parametrize("gain", [1, 0.1, 1e-2, 4e-3])
@pytest.mark.parametrize(("before", "seconds", "after"), [
    (0, 0.3, 0), (0, 3, 0), (0, 0.3, 2), (1, 0.3, 1), (20, 1, 5), (0, 10, 0.1)])
def test_a_voice_at_any_level_and_place(gain, before, seconds, after):
    said = np.concatenate([np.zeros(round(before * RATE)), voice(round(seconds * RATE)),
                           np.zeros(round(after * RATE))])
    assert score(gain * (said + RNG.normal(0, 1e-4, len(said)))) >= SPEECH_SECONDS


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100])
def test_rates(rate):
    assert score(voice(rate, rate), rate) >= SPEECH_SECONDS
    assert score(RNG.normal(0, 0.1, 3 * rate), rate) < NOISE_SECONDS


def test_the_floor_is_that_of_the_noise_without_digital_silence():
    noise = 1e-3 * WHITE
    levels = find_levels(np.concatenate([np.zeros(5 * RATE), noise]).astype(np.float32), RATE)
    alone = find_levels(noise.astype(np.float32), RATE)
    np.testing.assert_allclose(noise_floor(levels), noise_floor(alone), atol=0.2)


def test_levels_are_decibels_of_full_scale():
    levels = find_levels(np.sin(2 * np.pi * 1000 * TIME).astype(np.float32), RATE)
    assert levels.max(axis=1) == pytest.approx(0, abs=0.2)


def struck(frequency: float, seconds: float = 1.0, decay: float = 4.0) -> np.ndarray:
    """A note of a string."""
    time = np.arange(round(seconds * RATE)) / RATE
    return sum(np.sin(2 * np.pi * frequency * k * time) / k * np.exp(-decay * k * time)
               for k in range(1, 8))


def every(seconds: float, sounds) -> np.ndarray:
    """Ten seconds with a sound each so many seconds."""
    result = np.zeros(12 * RATE)
    for i, sound in zip(range(int(10 / seconds)), sounds, strict=False):
        start = round(i * seconds * RATE)
        result[start : start + len(sound)] += sound
    return result[: 10 * RATE]


def bursts(count: int, decay: float, seed: int) -> list[np.ndarray]:
    """Bursts of noise."""
    shape = np.exp(-np.arange(5000) / (decay * RATE))
    return [np.random.default_rng(seed + i).standard_normal(5000) * shape for i in range(count)]


NOTES = 220 * 2 ** (np.random.default_rng(3).integers(0, 17, 60) / 12)
DRUM = np.sin(np.cumsum(0.05 * np.exp(-np.arange(4000) / 800) + 0.02)) * np.exp(
    -np.arange(4000) / 1500)
BIRDS = [np.sin(2 * np.pi * np.cumsum(np.linspace(start, start + 900, 2400)) / RATE)
         * np.hanning(2400) for start in (2000, 3000, 2500, 3500) * 10]
SOUNDS = {
    "a string": every(0.25, map(struck, NOTES)),
    "chords": every(0.5, (struck(f) + struck(1.26 * f) + struck(1.5 * f) for f in NOTES)),
    "drums": every(0.55, [DRUM] * 40) + 0.3 * every(0.275, bursts(40, 0.04, 0)),
    "typing": every(0.21, bursts(50, 0.01, 50)),
    "coughs": every(1.3, bursts(10, 0.1, 100)),
    "birds": every(0.4, BIRDS),
    "a siren": np.sin(2 * np.pi * np.cumsum(700 + 250 * np.sin(2 * np.pi * 0.4 * TIME)) / RATE),
    "a telephone": (np.sin(2 * np.pi * 400 * TIME) + np.sin(2 * np.pi * 450 * TIME))
    * (TIME % 3 < 2),
    "an engine": sum(np.sin(2 * np.pi * k * (40 * TIME + np.sin(TIME))) / k for k in range(1, 25))
    + WHITE,
}


@pytest.mark.parametrize("name", SOUNDS)
def test_music_and_machines_are_no_speech(name):
    assert score(0.1 * SOUNDS[name]) < NOISE_SECONDS


def test_what_comes_after_enough_speech_is_not_looked_at():
    said = voice(10 * RATE)
    assert score(said) == pytest.approx(SPEECH_SECONDS, abs=0.032)
    assert score(np.concatenate([np.zeros(9 * RATE), said])) == score(said)


def test_real_noise_and_real_speech(shared):
    """Of noise that may be speech, the network's probabilities decide."""
    from deepspeech2.audio import load_audio
    noises = [score(load_audio(path, RATE)) for path in sorted(
        (shared / "data" / "noise").glob("*.flac"))]
    said = [load_audio(path, RATE) for path in sorted(
        (shared / "data" / "an4" / "wav").rglob("*.flac"))[::20]]
    assert len(noises) == 66 and sum(s >= NOISE_SECONDS for s in noises) <= 6
    assert max(noises) < SPEECH_SECONDS
    assert len(said) > 40 and min(map(score, said)) >= SPEECH_SECONDS
    quiet = [score(np.round(samples / 300 * 32768) / 32768) for samples in said]
    assert min(quiet) >= NOISE_SECONDS
