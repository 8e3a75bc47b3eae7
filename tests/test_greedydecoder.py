"""src/greedydecoder.py: tensors give what arrays give to deepspeech_pytorch.decoder."""

import numpy as np
import pytest
from mindspore import Tensor

from deepspeech_pytorch.decoder import GreedyDecoder
from src.greedydecoder import MSGreedyDecoder

PROBS = np.random.default_rng(0).random((3, 30, 4), dtype=np.float32)
SIZES = np.array([30, 0, 17], dtype=np.int32)
CLASSES = np.array([[0, 1, 1, 3, 1, 2], [2, 2, 3, 3, 0, 0]], dtype=np.int32)


def plain(decoded):
    """The same nested lists, with offsets as lists."""
    return [[x.tolist() if isinstance(x, np.ndarray) else x for x in row]
            for rows in decoded for row in rows]


@pytest.mark.parametrize("sizes", [Tensor(SIZES), [Tensor(int(size)) for size in SIZES]],
                         ids=["tensor", "tensors"])
def test_decode(sizes):
    expected = GreedyDecoder("BOK_").decode(PROBS, SIZES)
    assert plain(MSGreedyDecoder("BOK_").decode(Tensor(PROBS), sizes)) == plain(expected)


@pytest.mark.parametrize("sequences", [Tensor(CLASSES), [Tensor(row) for row in CLASSES]],
                         ids=["tensor", "tensors"])
def test_convert_to_strings(sequences):
    found = MSGreedyDecoder("BOK_").convert_to_strings(
        sequences, Tensor([6, 5]), remove_repetitions=True, return_offsets=True)
    assert plain(found) == [["BOOK"], ["KB"], [[0, 1, 4, 5]], [[0, 4]]]


def test_process_string():
    text, offsets = MSGreedyDecoder("BOK_").process_string(
        Tensor([0, 1, 1, 2]), Tensor(3), remove_repetitions=True)
    assert (text, offsets.tolist()) == ("BO", [0, 1])
