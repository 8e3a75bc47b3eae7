"""Odd recordings and long noise: losses and weights stay finite."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import tiny_recipe

from deepspeech2.errors import InputError
from src.checkpoint import load_checkpoint
from src.config import load_config
from src.training import train

RATE = 16000
pytestmark = pytest.mark.usefixtures("graph_mode")


def manifest(folder: Path, recordings: dict[str, np.ndarray], text: str = "AB") -> Path:
    """A manifest of float32 WAV files that all have the same transcript."""
    lines = []
    for name, samples in recordings.items():
        soundfile.write(folder / f"{name}.wav", samples.astype(np.float32), RATE, subtype="FLOAT")
        (folder / f"{name}.txt").write_text(text)
        lines.append(f"{name}.wav,{name}.txt\n")
    path = folder / "set.csv"
    path.write_text("".join(lines))
    return path


def odd_recordings() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    noise = rng.uniform(-1, 1, RATE // 2)
    return {
        "silence": np.zeros(RATE // 2), "constant": np.full(RATE // 2, 0.5),
        "full_scale": np.ones(RATE // 2), "clipped": np.sign(noise), "click": np.eye(1, RATE)[0],
        "tiny": 1e-30 * noise, "denormal": 1e-42 * noise, "unscaled": 30000 * noise,
        "huge": 1e9 * noise, "just_enough_frames": noise[:1280], "noise": noise,
        "offset_noise": 0.1 * noise + 0.9}


@pytest.mark.parametrize("batch_size", [1, 8])
def test_odd_recordings_give_finite_losses(demo_corpus, tmp_path, batch_size):
    recordings = odd_recordings()
    settings = [*tiny_recipe(demo_corpus, tmp_path), f"DataConfig.batch_size={batch_size}",
                f"DataConfig.train_manifest={manifest(tmp_path, recordings)}",
                "DataConfig.val_manifest=", "TrainingConfig.epochs=3",
                "DataConfig.AugmentationConfig.spec_augment=True",
                "DataConfig.AugmentationConfig.speed_volume_perturb=True",
                "DataConfig.AugmentationConfig.vtlp_max_warp=0.1"]
    history = train(load_config(None, settings)).history
    assert [m.skipped_steps for m in history] == [0, 0, 0]
    assert [m.missing_utterances for m in history] == [0, 0, 0]
    assert all(np.isfinite(m.train_loss) for m in history)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e20])
def test_recordings_that_are_no_audio_are_refused(demo_corpus, tmp_path, value):
    samples = np.zeros(RATE)
    samples[100] = value
    settings = [*tiny_recipe(demo_corpus, tmp_path), "DataConfig.val_manifest=",
                f"DataConfig.train_manifest={manifest(tmp_path, {'bad': samples})}"]
    with pytest.raises(InputError, match=r"set\.csv:1: .*bad\.wav"):
        train(load_config(None, settings))


def test_a_thousand_steps_on_noise(demo_corpus, tmp_path):
    rng = np.random.default_rng(1)
    recordings = {f"n{i}": rng.standard_normal(rng.integers(3000, 20000)) for i in range(40)}
    settings = [*tiny_recipe(demo_corpus, tmp_path), "DataConfig.val_manifest=",
                f"DataConfig.train_manifest={manifest(tmp_path, recordings)}",
                "OptimConfig.learning_rate=3e-3", "OptimConfig.learning_anneal=1",
                "TrainingConfig.epochs=200",
                "CheckpointConfig.keep_checkpoint_max=1"]
    history = train(load_config(None, settings)).history
    assert history[-1].step == 1000 and sum(m.skipped_steps for m in history) == 0
    last = load_checkpoint(tmp_path / "ckpt" / "DeepSpeech-last.ckpt").parameters
    assert all(np.isfinite(array).all() for array in last.values())
