"""The properties of each augmentation, measured on what comes out."""

import dataclasses
import itertools
import logging

import numpy as np
import pytest
import soundfile

from deepspeech2.audio import load_audio
from deepspeech2.errors import InputError
from deepspeech2.features import SpectConfig
from src import augment
from src.augment import Augmenter, WordCuts
from src.config import AugmentationConfig
from src.dataset import BatchSource, training_batches
from src.manifest import read_manifest

RATE = 16000
ALL = AugmentationConfig(speed_volume_perturb=True, spec_augment=True, vtlp_max_warp=0.1)


def sine(frequency: float, seconds: float = 1.0, amplitude: float = 0.3) -> np.ndarray:
    t = np.arange(round(seconds * RATE)) / RATE
    return (amplitude * np.sin(2 * np.pi * frequency * t)).astype(np.float32)


def loudest_frequency(samples: np.ndarray) -> float:
    """Hz, to within a hertz or two."""
    power = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), 8 * RATE))
    return float(power.argmax()) / 8


def rms(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(samples.astype(np.float64)))))


def augmenter(config: AugmentationConfig, rows: int = 4, seed: int = 0, **others) -> Augmenter:
    return dataclasses.replace(Augmenter.create(config, RATE, seed, np.zeros(rows, int)), **others)


@pytest.fixture
def noise_dir(tmp_path):
    """Three seconds of noise whose samples are all different, in a folder of a folder."""
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, 3 * RATE).astype(np.float32)
    path = tmp_path / "noise" / "street" / "hum.FLAC"
    path.parent.mkdir(parents=True)
    soundfile.write(path, noise, RATE, format="FLAC")
    (tmp_path / "noise" / "LICENCE").write_text("not audio")
    return tmp_path / "noise"


# the order of words

PARTS = [np.full(n, value, np.float32) for n, value in ((4000, 0.1), (3000, 0.2), (5000, 0.3))]
WORDS = [WordCuts(["A", "B", "C"], np.array([0.25, 0.4375]), 0.75), None]


def test_parts_change_places_and_fade():
    """Each part is whole in its new place but for 5 ms at either end."""
    samples = np.concatenate(PARTS)
    before = samples.copy()
    changed = augment.reorder(samples, np.array([4000, 7000]), [2, 0, 1], RATE)
    np.testing.assert_array_equal(samples, before)
    assert changed.shape == samples.shape and changed.dtype == np.float32
    start = 0
    for part in (PARTS[2], PARTS[0], PARTS[1]):
        found = changed[start:start + len(part)]
        np.testing.assert_array_equal(found[80:-80], part[80:-80])
        assert found[0] == found[-1] == 0 and (np.abs(found) <= part).all()
        start += len(part)


def test_text_and_samples_get_the_same_order():
    shuffler = augmenter(AugmentationConfig(shuffle_words=1.0)).with_word_cuts(WORDS)
    loudness = dict(zip("ABC", (0.1, 0.2, 0.3), strict=True))
    seen = set()
    for epoch in range(40):
        samples, text = shuffler.for_epoch(epoch).shuffle_words(np.concatenate(PARTS), "A B C", 0)
        middles = samples[np.flatnonzero(np.diff(samples) == 0)]  # the plateaus, in their order
        order = [level for level, _ in itertools.groupby(middles[middles > 0])]
        assert order == pytest.approx([loudness[word] for word in text.split()])
        seen.add(text)
    assert len(seen) == 6


def test_words_keep_their_order_where_they_should():
    samples = np.concatenate(PARTS)
    always = augmenter(AugmentationConfig(shuffle_words=1.0))
    cut = always.with_word_cuts(WORDS)
    # no cuts yet, none of this utterance, those of another transcript
    for shuffler, text, row in ((always, "A B C", 0), (cut, "A B C", 1), (cut, "A B D", 0)):
        found, same = shuffler.shuffle_words(samples, text, row)
        assert found is samples and same is text
    half = augmenter(AugmentationConfig(shuffle_words=0.5)).with_word_cuts(WORDS)
    left = sum(half.for_epoch(epoch).shuffle_words(samples, "A B C", 0)[0] is samples
               for epoch in range(400))
    assert left == pytest.approx(200, abs=40)


# tempo and gain

@pytest.mark.parametrize("rate", [0.85, 0.97, 1.15, 1.4])
@pytest.mark.parametrize("frequency", [150, 1000, 3210])
def test_tempo_changes_the_duration_and_keeps_the_pitch(rate, frequency):
    samples = sine(frequency, 1.5)
    changed = augment.change_tempo(samples, rate, RATE)
    assert abs(len(changed) - len(samples) / rate) <= 1 and changed.dtype == np.float32
    middle = changed[RATE // 4:-RATE // 4]
    assert loudest_frequency(middle) == pytest.approx(frequency, abs=2)
    assert rms(middle) == pytest.approx(rms(samples), rel=0.02)


def test_tempo_moves_events_in_time():
    """Two tone bursts: they begin `rate` times as early and last as much shorter."""
    samples = np.concatenate([np.zeros(RATE // 2), sine(500, 0.4), np.zeros(RATE), sine(900, 0.4),
                              np.zeros(RATE // 2)])
    changed = augment.change_tempo(samples.astype(np.float32), 1.25, RATE)
    loud = np.flatnonzero(np.abs(changed) > 0.1) / RATE
    assert loud[0] == pytest.approx(0.5 / 1.25, abs=0.03)
    assert loud[-1] == pytest.approx(2.3 / 1.25, abs=0.03)
    second = loud[loud > 1.0]
    assert second[0] == pytest.approx(1.9 / 1.25, abs=0.03)


def test_very_short_samples_keep_their_tempo():
    samples = sine(500, 0.01)
    np.testing.assert_array_equal(augment.change_tempo(samples, 1.3, RATE), samples)


@pytest.mark.parametrize("decibels", [-6.0, 0.0, 8.0])
def test_gain(decibels):
    samples = sine(500, amplitude=0.9)
    changed = augment.change_gain(samples, decibels)
    assert 20 * np.log10(rms(changed) / rms(samples)) == pytest.approx(decibels, abs=1e-4)
    np.testing.assert_allclose(changed / samples.max(),
                               samples * (changed.max() / samples.max()) / samples.max(),
                               atol=1e-6)  # nothing is cut off


def test_tempo_and_gain_are_drawn_from_their_ranges():
    config = AugmentationConfig(speed_volume_perturb=True, tempo=(0.8, 1.25), gain=(-3.0, 5.0))
    samples, many = sine(400), augmenter(config, rows=200)
    changed = [many.perturb_waveform(samples, row) for row in range(200)]
    tempos = np.array([len(samples) / len(c) for c in changed])
    gains = np.array([20 * np.log10(rms(c[2000:-2000]) / rms(samples)) for c in changed])
    assert 0.8 <= tempos.min() < 0.83 and 1.2 < tempos.max() <= 1.2501
    assert -3.3 <= gains.min() < -2.5 and 4.5 < gains.max() <= 5.3
    assert abs(np.corrcoef(tempos, gains)[0, 1]) < 0.25


def test_ctc_keeps_its_frames():
    """No tempo brings an utterance below `shortest`, or makes one longer that is at that length."""
    samples, config = sine(300), AugmentationConfig(speed_volume_perturb=True, tempo=(1.4, 1.5))
    limited = Augmenter.create(config, RATE, 0, np.array([0, 15000, 16000, 20000]))
    lengths = [len(limited.perturb_waveform(samples, row)) for row in range(4)]
    assert lengths[0] < 12000 and lengths[1] == pytest.approx(15000, abs=1)
    assert lengths[2:] == [16000, 16000]


# noise

@pytest.mark.parametrize("level", [0.0, 0.1, 0.5, 1.0])
def test_level_of_noise(level):
    samples, noise = sine(700), np.random.default_rng(0).standard_normal(RATE).astype(np.float32)
    added = augment.add_noise(samples, noise, level) - samples
    assert rms(added) == pytest.approx(level * rms(samples), rel=1e-4, abs=1e-7)
    if level:
        assert np.corrcoef(added, noise)[0, 1] > 0.99999


def test_silence_is_no_problem():
    silence, noise = np.zeros(RATE, np.float32), sine(100)
    np.testing.assert_array_equal(augment.add_noise(silence, noise, 0.5), silence)
    np.testing.assert_array_equal(augment.add_noise(noise, silence, 0.5), noise)
    empty = augmenter(ALL).perturb_waveform(silence, 0)
    assert np.isfinite(empty).all() and not empty.any()


def test_noise_comes_from_random_places_with_its_probability(noise_dir):
    config = AugmentationConfig(noise_dir=str(noise_dir), noise_prob=0.3, noise_min=0.2,
                                noise_max=0.4)
    noise, samples = load_audio(noise_dir / "street" / "hum.FLAC", RATE), sine(400)
    many = augmenter(config, rows=300)
    starts, levels = [], []
    for row in range(300):
        added = many.perturb_waveform(samples, row) - samples
        if added.any():
            ratio = np.correlate(noise, added[:2000], "valid")
            start = int(ratio.argmax())
            assert np.corrcoef(noise[start:start + len(added)], added)[0, 1] > 0.999
            starts.append(start / RATE)
            levels.append(rms(added) / rms(samples))
    assert 60 <= len(starts) <= 120  # 300 draws at 0.3: 90 ± 8
    assert 0 <= min(starts) < 0.3 and 1.7 < max(starts) <= 2.0
    assert 0.2 <= min(levels) < 0.23 and 0.37 < max(levels) <= 0.4001


def test_short_noise_is_repeated(noise_dir):
    config = AugmentationConfig(noise_dir=str(noise_dir), noise_prob=1.0, noise_min=0.5)
    samples = sine(400, 5.0)
    added = augmenter(config).perturb_waveform(samples, 0) - samples
    np.testing.assert_allclose(added[:2 * RATE], added[3 * RATE:], atol=1e-6)
    assert rms(added[:RATE]) > 0


def test_broken_noise_is_left_out_and_a_folder_of_it_refused(noise_dir, caplog):
    """Case 45: a run trained without noise, with a warning for each utterance."""
    config = AugmentationConfig(noise_dir=str(noise_dir), noise_prob=1.0)
    (noise_dir / "bad.flac").write_bytes(b"fLaC broken")
    assert [path.name for path in augmenter(config).noise_paths] == ["hum.FLAC"]
    assert "noise is left out" in caplog.text and "bad.flac" in caplog.text
    (noise_dir / "street" / "hum.FLAC").unlink()
    with pytest.raises(InputError, match="none of the 1 audio files there can be read"):
        augmenter(config)


def test_noise_that_goes_bad_costs_no_utterance(noise_dir, caplog):
    noisy = augmenter(AugmentationConfig(noise_dir=str(noise_dir), noise_prob=1.0))
    (noise_dir / "street" / "hum.FLAC").write_bytes(b"fLaC broken")
    samples = sine(400)
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(noisy.perturb_waveform(samples, 0), samples)
    assert "hum.FLAC" in caplog.text


def test_a_folder_without_noise_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"noise_dir .*nowhere.* is not a folder"):
        Augmenter.create(AugmentationConfig(noise_dir=str(tmp_path / "nowhere")), RATE, 0,
                         np.zeros(1))
    with pytest.raises(InputError, match=r"noise_dir .* holds no audio file \(.flac"):
        Augmenter.create(AugmentationConfig(noise_dir=str(tmp_path)), RATE, 0, np.zeros(1))


# spectrograms

@pytest.mark.parametrize("factor", [0.85, 1.0, 1.1])
@pytest.mark.parametrize("bin_", [10, 40, 70])
def test_warping_moves_a_peak(factor, bin_):
    peak = np.exp(-0.5 * ((np.arange(161) - bin_) / 3) ** 2).astype(np.float32)
    spectrogram = peak[:, None].repeat(5, 1)
    warped = augment.warp_frequency(spectrogram, factor)
    assert warped.shape == spectrogram.shape and warped.dtype == np.float32
    assert abs(warped[:, 0].argmax() - bin_ * factor) <= 0.51
    np.testing.assert_array_equal(warped[:, 0], warped[:, 4])


@pytest.mark.parametrize("factor", [0.6, 0.9, 1.1, 1.4])
def test_warping_keeps_both_ends_and_the_order(factor):
    ramp = np.arange(161, dtype=np.float32)[:, None]
    warped = augment.warp_frequency(ramp, factor)[:, 0]
    assert warped[0] == 0 and warped[-1] == 160 and (np.diff(warped) > 0).all()


def test_masks():
    config = AugmentationConfig(spec_augment=True, frequency_masks=1, frequency_mask_bins=27,
                                time_masks=1, time_mask_frames=70, time_mask_share=0.2)
    spectrogram = np.random.default_rng(0).uniform(1, 2, (161, 200)).astype(np.float32)
    before, widths, heights = spectrogram.copy(), [], []
    for row in range(300):
        masked = augment.mask_spectrogram(spectrogram, config, np.random.default_rng(row))
        frames, bins = (masked == 0).all(0), (masked == 0).all(1)
        heights.append(bins.sum())
        widths.append(frames.sum())
        inside = bins[:, None] | frames
        # nothing else is touched
        np.testing.assert_array_equal(masked, np.where(inside, 0, spectrogram))
        for band in (frames, bins):  # in one piece
            assert (np.diff(np.concatenate([[0], band, [0]]).astype(int)) == 1).sum() <= 1
    np.testing.assert_array_equal(spectrogram, before)
    assert min(heights) == 0 and max(heights) == 27
    assert np.mean(heights) == pytest.approx(13.5, abs=1.5)
    # a fifth of 200
    assert min(widths) == 0 and max(widths) == 40 and np.mean(widths) == pytest.approx(20, abs=2)


@pytest.mark.parametrize(("frames", "share"), [(1, 0.2), (3, 0.0), (40, 1.0)])
def test_masks_of_short_utterances(frames, share):
    config = AugmentationConfig(spec_augment=True, frequency_masks=0, time_masks=2,
                                time_mask_share=share)
    ones = np.ones((161, frames), np.float32)
    counts = [(augment.mask_spectrogram(ones, config, np.random.default_rng(s))[0] == 0).sum()
              for s in range(40)]
    assert max(counts) <= 2 * int(share * frames)
    assert (share == 0 or frames == 1) == (max(counts) == 0)


# who gets what

def test_equal_draws_for_equal_seed_epoch_and_row():
    samples = sine(600)
    spectrogram = np.random.default_rng(2).standard_normal((161, 90), np.float32)
    base = augmenter(ALL)

    def outcome(a: Augmenter, row: int) -> bytes:
        changed = a.perturb_waveform(samples, row), a.perturb_spectrogram(spectrogram, row)
        return b"".join(array.tobytes() for array in changed)

    others = [outcome(base, 1), outcome(base.for_epoch(1), 0), outcome(augmenter(ALL, seed=1), 0)]
    for same in (augmenter(ALL), base.for_epoch(1).for_epoch(0)):
        assert outcome(base, 0) == outcome(same, 0)
    assert len({outcome(base, 0), *others}) == 4


def test_an_effect_leaves_the_others_as_they_are(noise_dir):
    samples = sine(600)
    alone = augmenter(AugmentationConfig(speed_volume_perturb=True)).perturb_waveform(samples, 3)
    config = dataclasses.replace(ALL, noise_dir=str(noise_dir), noise_prob=1.0, noise_min=0.01,
                                 noise_max=0.01)
    together = augmenter(config).perturb_waveform(samples, 3)
    assert len(together) == len(alone)
    assert rms(together - alone) == pytest.approx(0.01 * rms(alone), rel=1e-3)


def test_nothing_is_done_unasked():
    samples, spectrogram = sine(600), np.ones((161, 50), np.float32)
    plain = augmenter(AugmentationConfig())
    assert plain.perturb_waveform(samples, 0) is samples
    assert plain.perturb_spectrogram(spectrogram, 0) is spectrogram


# in the loader

def test_batches_are_augmented_alike_by_threads_and_processes(demo_corpus, labels):
    manifest = read_manifest(demo_corpus / "demo_train_manifest.csv", labels)
    own = Augmenter.create(ALL, RATE, 0, np.zeros(len(manifest)))
    batches = [np.array([3, 5]), np.array([0])]

    def load(augmenter: Augmenter | None, workers: int = 1) -> list[np.ndarray]:
        source = BatchSource(manifest, batches, labels, SpectConfig(), augmenter)
        return [batch.inputs for batch in training_batches(source, workers)]

    plain, first = load(None), load(own)
    for other in (load(own), load(own, workers=2)):
        for a, b in zip(first, other, strict=True):
            np.testing.assert_array_equal(a, b)
    alone, = training_batches(BatchSource(manifest, [np.array([5])], labels, SpectConfig(), own))
    frames = alone.inputs.shape[3]
    # whatever it is batched with
    np.testing.assert_array_equal(first[0][1, :, :, :frames], alone.inputs[0])
    assert not first[0][1, :, :, frames:].any()
    for a, b, c in zip(plain, first, load(own.for_epoch(1)), strict=True):
        assert a.shape != b.shape or not np.array_equal(a, b)
        assert c.shape != b.shape or not np.array_equal(c, b)
