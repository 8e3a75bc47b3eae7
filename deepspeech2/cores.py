"""How many CPU cores this process uses."""

import os

_THREADS = "OMP_NUM_THREADS"  # a variable that most libraries for numbers follow


def usable_cores() -> int:
    """The cores that this process may use: those it is bound to, or fewer by OMP_NUM_THREADS."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        cores = os.cpu_count() or 1
    asked = os.environ.get(_THREADS, "")
    return min(cores, int(asked)) if asked.isdecimal() and int(asked) else cores


def use_one_core() -> None:
    """Let models that are loaded from now on compute in one thread."""
    os.environ[_THREADS] = "1"
