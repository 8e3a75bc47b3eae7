"""Draw the effect of each augmentation on a recording.

Usage: `python -m tools.plot_augment FILE --output effects.png`
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from deepspeech2 import commands
from deepspeech2.audio import load_audio
from deepspeech2.features import SpectConfig, spectrogram
from deepspeech2.files import atomic_path
from src import augment
from src.config import AugmentationConfig
from src.word_cuts import quietest_cut
from tools.pictures import check_picture


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    result = argparse.ArgumentParser(
        prog="python -m tools.plot_augment", description="Draw the augmentations."
    )
    result.add_argument("recording", type=Path, metavar="FILE")
    result.add_argument("--output", type=Path, required=True, metavar="FILE.png")
    return result


def effects(samples: np.ndarray, spect: SpectConfig) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Apply each augmentation to a recording.

    Args:
        samples: (n,) float32.
        spect: settings of the spectrogram, and the sample rate of `samples`.

    Returns:
        {title with the strength of the effect: ((m,) samples, (F, T) spectrogram)}.
    """
    rng, rate = np.random.default_rng(4), spect.sample_rate
    noise = rng.standard_normal(len(samples)).astype(np.float32)
    changed = {
        "as it is": samples,
        "tempo 0.85": augment.change_tempo(samples, 0.85, rate),
        "tempo 1.15": augment.change_tempo(samples, 1.15, rate),
        "gain +8 dB": augment.change_gain(samples, 8.0),
        "parts in another order": augment.reorder(
            samples, _quiet_places(samples, rate), [2, 0, 3, 1], rate
        ),
        "white noise at level 0.5": augment.add_noise(samples, noise, 0.5),
    }
    result = {name: (wave, spectrogram(wave, spect)) for name, wave in changed.items()}
    _, plain = result["as it is"]
    for name, picture in {
        "frequencies × 1.12": augment.warp_frequency(plain, 1.12),
        "frequencies × 0.88": augment.warp_frequency(plain, 0.88),
        "SpecAugment": augment.mask_spectrogram(plain, AugmentationConfig(), rng),
    }.items():
        result[name] = samples, picture
    return result


def _quiet_places(samples: np.ndarray, rate: int) -> np.ndarray:
    """(3,) quietest samples, one in each of the three middle fifths of a recording.

    They stand in for the cuts between words, which training knows.
    """
    fifth = len(samples) // 5
    return np.array([quietest_cut(samples, i * fifth, (i + 1) * fifth, rate) for i in (1, 2, 3)])


def draw(
    pictures: dict[str, tuple[np.ndarray, np.ndarray]], spect: SpectConfig, path: Path
) -> None:
    """Draw the waveform and the spectrogram of each effect, all on the same scales.

    Args:
        pictures: as `effects` returns them.
        spect: settings of the spectrograms.
        path: the PNG to write.
    """
    import matplotlib

    matplotlib.use("agg")  # a file, never a window
    import matplotlib.pyplot as plt

    seconds = max(len(wave) for wave, _ in pictures.values()) / spect.sample_rate
    loudest = max(float(np.abs(wave).max()) for wave, _ in pictures.values())
    figure = plt.figure(figsize=(13, 9), layout="constrained")
    for cell, (name, (wave, picture)) in zip(
        figure.subfigures(3, 3).flat, pictures.items(), strict=True
    ):
        upper, lower = cell.subplots(2, 1, sharex=True, height_ratios=[1, 3])
        upper.plot(np.arange(len(wave)) / spect.sample_rate, wave, linewidth=0.4)
        upper.set(title=name, ylim=(-loudest, loudest), yticks=[])
        lower.imshow(
            picture,
            origin="lower",
            aspect="auto",
            vmin=-1,
            vmax=4,
            extent=(0, picture.shape[1] * spect.window_stride, 0, spect.sample_rate / 2000),
        )
        lower.set(xlim=(0, seconds), xlabel="s", ylabel="kHz")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=80)
    plt.close(figure)


def main(argv: list[str] | None = None) -> int:
    """Draw effects as the command line says; returns the exit code."""
    args = parser().parse_args(argv)
    return commands.run(lambda: plot_augment(args))


def plot_augment(args: argparse.Namespace) -> int:
    spect = SpectConfig()
    check_picture("--output", args.output)
    draw(effects(load_audio(args.recording, spect.sample_rate), spect), spect, args.output)
    print(f"Effects in {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
