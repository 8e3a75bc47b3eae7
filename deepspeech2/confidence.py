"""How probable it is that a recognised word is right."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

LIMIT = 1e-4  # probabilities of letters nearer to 0 or 1 say nothing more

# what chooses the words, and so how often they are right: the network, or a language model too
Decoding = Literal["network", "language_model"]


def mean_probability(log_probs: Sequence[float]) -> float:
    """The geometric mean of the probabilities of symbols, of their natural logs."""
    return math.exp(np.mean(log_probs))


@dataclass(frozen=True)
class Confidence:
    """A word's probability of being right, from how sure the network is of its letters.

    It is sigmoid(`bias` + `slope` * logit(p)), with the geometric mean p of the probabilities of
    the letters (Platt 1999). It grows with p, so it ranks words as p does.

    Attributes:
        bias: any number.
        slope: above 0.
    """

    bias: float
    slope: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.bias) and 0 < self.slope < math.inf):
            raise ValueError(f"bias {self.bias}, slope {self.slope}: needed are a number, and one "
                             "above 0")

    def __call__(self, probability: float) -> float:
        """The probability that a word is right."""
        return float(1 / (1 + np.exp(-self.bias - self.slope * logit(probability))))


def logit(probabilities: np.ndarray | float) -> np.ndarray:
    """ln(p / (1 - p)) of probabilities of any shape, which are first brought inside `LIMIT`."""
    inside = np.clip(probabilities, LIMIT, 1 - LIMIT)
    return np.log(inside) - np.log1p(-inside)
