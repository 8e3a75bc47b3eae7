"""The picture of the augmentations."""

import matplotlib.image
import numpy as np

from deepspeech2.features import SpectConfig
from tools import plot_augment


def test_a_picture(write_wav, tmp_path, capsys):
    write_wav(tmp_path / "a.wav", seconds=1.0)
    assert plot_augment.main([str(tmp_path / "a.wav"), "--output", str(tmp_path / "a.png")]) == 0
    picture = matplotlib.image.imread(tmp_path / "a.png")
    assert min(picture.shape[:2]) > 500 and 0.2 < picture[..., :3].mean() < 1
    assert "a.png" in capsys.readouterr().out


def test_each_effect_shows():
    samples = np.sin(np.arange(16000) ** 1.5 / 500).astype(np.float32) * 0.1
    pictures = plot_augment.effects(samples, SpectConfig())
    assert len(pictures) == 9
    plain = pictures.pop("as it is")
    for name, (wave, picture) in pictures.items():
        assert wave.shape != plain[0].shape or (wave != plain[0]).any() or (picture != plain[1]).any(), name


def test_a_missing_recording(tmp_path, capsys):
    assert plot_augment.main([str(tmp_path / "a.wav"), "--output", str(tmp_path / "a.png")]) == 2
    assert "a.wav" in capsys.readouterr().err
