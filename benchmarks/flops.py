"""How many floating-point operations the network needs, by formula: a multiplication and an addition count as two.

Counted are the matrix products of convolutions, LSTMs and projection, which are nearly all of the work, for the frames
of each utterance and not for its padding.
"""

from collections.abc import Sequence

from src.config import ModelConfig

CONV1_KERNEL, CONV1_STRIDE = (41, 11), 2      # the stride of conv 1 is the same in frequency and time
BACKWARD = 2      # of every product: one for the gradient of its input, one for that of its weights


def layer_flops(model: ModelConfig, frames: int, num_bins: int = 161, classes: int = 29) -> dict[str, float]:
    """Operations of each kind of layer in a forward pass over one utterance of `frames` spectrogram frames."""
    channels, hidden = model.conv_channels, model.hidden_size
    directions = 2 if model.bidirectional else 1
    t = (frames - 1) // CONV1_STRIDE + 1
    bins1 = (num_bins - 1) // 2 + 1
    bins2 = (bins1 - 1) // 2 + 1
    widths = [channels * bins2] + [hidden] * (model.hidden_layers - 1)
    return {
        "conv 1": 2 * CONV1_KERNEL[0] * CONV1_KERNEL[1] * channels * bins1 * t,
        "conv 2": 2 * model.conv2_kernel[0] * model.conv2_kernel[1] * channels ** 2 * bins2 * t,
        "LSTMs": sum(2 * 4 * hidden * (width + hidden) * directions * t for width in widths),
        "projection": 2 * hidden * classes * t,
    }


def forward_flops(model: ModelConfig, frames: Sequence[int], num_bins: int = 161, classes: int = 29) -> float:
    """Operations of a forward pass over utterances of so many spectrogram frames each."""
    return sum(sum(layer_flops(model, t, num_bins, classes).values()) for t in frames)


def train_flops(model: ModelConfig, frames: Sequence[int], num_bins: int = 161, classes: int = 29) -> float:
    """Operations of forward and backward pass; the spectrogram, which conv 1 reads, needs no gradient."""
    conv1 = sum(layer_flops(model, t, num_bins, classes)["conv 1"] for t in frames)
    return (1 + BACKWARD) * forward_flops(model, frames, num_bins, classes) - conv1
