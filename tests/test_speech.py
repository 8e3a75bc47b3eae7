"""Speech against silence, hum and noise."""

import numpy as np
import pytest
from conftest import voice

from deepspeech2.speech import NOISE_SCORE, SPEECH_SCORE, find_frames, speech_score

RATE = 16000
RNG = np.random.default_rng(0)
TIME = np.arange(10 * RATE) / RATE
WHITE = RNG.normal(0, 0.1, len(TIME))


def score(samples: np.ndarray, rate: int = RATE) -> float:
    frames = find_frames(samples.astype(np.float32), rate)
    return speech_score(frames, frames.noise_floor())


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
    assert score(noise[: round(seconds * RATE)]) < NOISE_SCORE


@pytest.mark.parametrize("gain", [1, 0.1, 1e-2, 4e-3])
@pytest.mark.parametrize(("before", "seconds", "after"), [
    (0, 0.3, 0), (0, 3, 0), (0, 0.3, 2), (1, 0.3, 1), (20, 1, 5), (0, 10, 0.1)])
def test_a_voice_at_any_level_and_place(gain, before, seconds, after):
    said = np.concatenate([np.zeros(round(before * RATE)), voice(round(seconds * RATE)),
                           np.zeros(round(after * RATE))])
    assert score(gain * (said + RNG.normal(0, 1e-4, len(said)))) >= SPEECH_SCORE


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100])
def test_rates(rate):
    assert score(voice(rate, rate), rate) >= SPEECH_SCORE
    assert score(RNG.normal(0, 0.1, 3 * rate), rate) < NOISE_SCORE


def test_the_pitch_of_a_voice():
    pitch = find_frames(voice(RATE), RATE).pitch
    assert np.median(pitch) == pytest.approx(120, rel=0.02)
    assert (np.abs(pitch - 120) < 3).mean() > 0.9


def test_the_floor_is_that_of_the_noise_without_digital_silence():
    noise = 1e-3 * WHITE
    frames = find_frames(np.concatenate([np.zeros(5 * RATE), noise]).astype(np.float32), RATE)
    alone = find_frames(noise.astype(np.float32), RATE)
    np.testing.assert_allclose(frames.noise_floor(), alone.noise_floor(), atol=0.2)


def test_levels_are_decibels_of_full_scale():
    levels = find_frames(np.sin(2 * np.pi * 1000 * TIME).astype(np.float32), RATE).levels
    assert levels.max(axis=1) == pytest.approx(0, abs=0.2)


def test_real_noise_and_real_speech(shared):
    """Of noise that may be speech, the network's probabilities decide."""
    from deepspeech2.audio import load_audio
    noises = [score(load_audio(path, RATE)) for path in sorted(
        (shared / "data" / "noise").glob("*.flac"))]
    said = [score(load_audio(path, RATE)) for path in sorted(
        (shared / "data" / "an4" / "wav").rglob("*.flac"))[::20]]
    assert len(noises) == 66 and sum(s >= NOISE_SCORE for s in noises) <= 9
    assert max(noises) < SPEECH_SCORE
    assert len(said) > 40 and min(said) >= NOISE_SCORE
    assert np.mean(np.array(said) >= SPEECH_SCORE) > 0.97
