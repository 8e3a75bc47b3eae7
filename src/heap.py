"""What glibc does with memory that was freed: return it at once, or keep it for what comes next.

New pages cost a training step a tenth to a fifth of its time (docs/performance.md), and kept ones
cost memory: glibc cannot use a gap for an array that is larger.
"""

import ctypes

import numpy as np

from src.memory import MIB, resident_memory

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # options of `mallopt`
RETURNED_AT_ONCE = MIB  # blocks of this size
KEPT_BELOW = 32 * MIB  # size of a block; glibc takes no greater one

_libc = ctypes.CDLL(None)


def keep_freed_memory() -> None:
    """Let glibc keep what it would return, where nothing below has decided it for this process.

    glibc returns large freed blocks to the system, until a block of up to 32 MiB is freed: then it
    keeps up to twice that size (mallopt(3), M_MMAP_THRESHOLD). The block here is freed at once and
    never touched. Page faults would double the time of loading batches.
    """
    np.empty(30 * MIB, np.uint8)


def return_freed_memory() -> None:
    """Let glibc give large blocks back to the system as soon as they are freed.

    By default it keeps blocks of up to 32 MiB for itself, where those of other sizes do not fit
    into the gaps: with batches of ever other lengths, memory grows for hours.
    """
    _set(M_MMAP_THRESHOLD, RETURNED_AT_ONCE)


class KeptMemory:
    """Freed memory that is kept for the next step, up to a limit.

    Args:
        limit: bytes that the process may have after a step; with more, all that is free is given
            back.
    """

    def __init__(self, limit: float):
        self.limit = limit
        _set(M_MMAP_THRESHOLD, KEPT_BELOW)
        _set(M_TRIM_THRESHOLD, 2 * KEPT_BELOW)  # as glibc itself chooses for such a threshold

    def after_step(self) -> None:
        """Give back what is free when the process has more than its limit."""
        if resident_memory() > self.limit and hasattr(_libc, "malloc_trim"):
            _libc.malloc_trim(0)


def _set(option: int, value: int) -> None:
    if hasattr(_libc, "mallopt"):  # other C libraries have none
        _libc.mallopt(option, value)
