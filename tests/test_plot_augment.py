"""The picture of the augmentations."""

import numpy as np

from deepspeech2.features import SpectConfig
from tools import plot_augment


def test_a_picture(write_wav, tmp_path, capsys):
    write_wav(tmp_path / "a.wav", seconds=1.0)
    arguments = ["--output", str(tmp_path / "a.png")]
    assert plot_augment.main([str(tmp_path / "a.wav"), *arguments]) == 0
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert "a.png" in capsys.readouterr().out
    assert plot_augment.main([str(tmp_path / "missing.wav"), *arguments]) == 2
    assert "missing.wav" in capsys.readouterr().err


def test_each_effect_shows():
    samples = np.sin(np.arange(16000) ** 1.5 / 500).astype(np.float32) * 0.1
    pictures = plot_augment.effects(samples, SpectConfig())
    assert len(pictures) == 9
    plain = pictures.pop("as it is")
    for name, effect in pictures.items():
        assert any(a.shape != b.shape or (a != b).any()
                   for a, b in zip(effect, plain, strict=True)), name
