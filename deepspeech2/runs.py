"""Stretches of an array in which something holds."""

import numpy as np


def true_runs(mask: np.ndarray) -> np.ndarray:
    """(n,) bool -> (runs, 2) the first place of each run of True, and the place behind it."""
    return np.flatnonzero(np.diff(mask, prepend=False, append=False)).reshape(-1, 2)
