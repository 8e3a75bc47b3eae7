"""src/greedydecoder.py: tensors give what arrays give to the decoder that tests/test_decoder.py checks."""

import numpy as np
import pytest
from mindspore import Tensor

from deepspeech_pytorch.decoder import GreedyDecoder
from src.greedydecoder import MSGreedyDecoder

LABELS = "'ABCDEFGHIJKLMNOPQRSTUVWXYZ _"
RNG = np.random.default_rng(0)
PROBS = RNG.random((4, 30, 29), dtype=np.float32)
SIZES = np.array([30, 0, 17, 1], dtype=np.int32)


def unpack(decoded):
    """([[str]], [[offsets]]) -> [(str, list)], with the type of the offsets checked."""
    strings, offsets = decoded
    assert all(isinstance(row[0], np.ndarray) and row[0].dtype == np.int32 for row in offsets)
    return [(text[0], row[0].tolist()) for text, row in zip(strings, offsets, strict=True)]


@pytest.mark.parametrize("sizes", [
    None, SIZES, SIZES.tolist(), Tensor(SIZES), [Tensor(int(size)) for size in SIZES],
], ids=["none", "array", "list", "tensor", "tensors"])
@pytest.mark.parametrize("probs", [PROBS, Tensor(PROBS)], ids=["array", "tensor"])
def test_decode(probs, sizes):
    expected = GreedyDecoder(LABELS).decode(PROBS, None if sizes is None else SIZES)
    assert unpack(MSGreedyDecoder(LABELS).decode(probs, sizes)) == unpack(expected)


def test_convert_to_strings():
    decoder = MSGreedyDecoder("BOK_")
    classes = np.array([[0, 1, 1, 3, 1, 2], [2, 2, 3, 3, 0, 0]], dtype=np.int32)
    assert decoder.convert_to_strings(Tensor(classes)) == [["BOOOK"], ["KKBB"]]
    assert decoder.convert_to_strings([Tensor(classes[0]), Tensor(classes[1, :3])]) == [["BOOOK"], ["KK"]]
    decoded = decoder.convert_to_strings(Tensor(classes), Tensor([6, 5]), remove_repetitions=True, return_offsets=True)
    assert unpack(decoded) == [("BOOK", [0, 1, 4, 5]), ("KB", [0, 4])]


@pytest.mark.parametrize("size", [3, Tensor(3)], ids=["int", "tensor"])
def test_process_string(size):
    text, offsets = MSGreedyDecoder("BOK_").process_string(Tensor([0, 1, 1, 2]), size, remove_repetitions=True)
    assert (text, offsets.tolist()) == ("BO", [0, 1])


def test_interface_of_the_base():
    decoder = MSGreedyDecoder(LABELS)
    assert (decoder.blank_index, decoder.space_index) == (28, 27)
    assert MSGreedyDecoder(LABELS, blank_index=0).blank_index == 0
    assert (decoder.wer("ONE TWO", "ONE TO"), decoder.cer("ONE TWO", "ONE TO")) == (1, 1)
    with pytest.raises(ValueError, match=r"`probs` has shape \(4, 30\), needed is \(N, T, 29\)"):
        decoder.decode(Tensor(PROBS[:, :, 0]))
    with pytest.raises(ValueError, match=r"`sizes\[0\]` \(=31\)"):
        decoder.decode(Tensor(PROBS), Tensor([31, 0, 0, 0]))
