"""The greedy decoder for MindSpore tensors: objects with `asnumpy`. Needs no MindSpore itself."""

from deepspeech_pytorch.decoder import GreedyDecoder


class MSGreedyDecoder(GreedyDecoder):
    """`GreedyDecoder` whose array arguments may be MindSpore tensors.

    Each tensor is converted once, as a whole. Offsets are int32 NumPy arrays. Shapes and errors are
    those of `deepspeech_pytorch.decoder.GreedyDecoder`.
    """

    def convert_to_strings(
        self, sequences, sizes=None, remove_repetitions=False, return_offsets=False
    ):
        """(N, T) classes or N sequences, (N,) frame counts -> [[str]], on request [[offsets]]."""
        return super().convert_to_strings(
            _to_numpy(sequences), _to_numpy(sizes), remove_repetitions, return_offsets
        )

    def decode(self, probs, sizes=None):
        """(N, T, C) probabilities, (N,) frame counts (None: T) -> [[str]], [[offsets]]."""
        return super().decode(_to_numpy(probs), _to_numpy(sizes))


def _to_numpy(value):
    """A tensor, or a list of tensors, as NumPy; anything else unchanged."""
    if hasattr(value, "asnumpy"):
        return value.asnumpy()
    if isinstance(value, (list, tuple)):
        return [item.asnumpy() if hasattr(item, "asnumpy") else item for item in value]
    return value
