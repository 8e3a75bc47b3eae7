"""Freed memory: returned at once, or kept up to a limit. Each case has a process of its own."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="glibc's options")
# 40 blocks of 8 MiB, of which the last stays: what is freed is not the heap's top
PROGRAM = """
import ctypes
from src.heap import KeptMemory, keep_freed_memory, return_freed_memory
from src.memory import MIB, resident_memory

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes, libc.free.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]
{mode}
before = resident_memory()
blocks = [libc.malloc(8 * MIB) for _ in range(40)]
for block in blocks:
    ctypes.memset(block, 1, 8 * MIB)
for block in blocks[:-1]:
    libc.free(block)
{then}
print((resident_memory() - before) // MIB)
"""


@pytest.mark.parametrize(("mode", "then", "least", "most"), [
    ("return_freed_memory()", "", -20, 20),
    ("return_freed_memory(); keep_freed_memory()", "", -20, 20),
    ("keep_freed_memory()", "", 300, 340),
    ("return_freed_memory(); kept = KeptMemory(2**40)", "kept.after_step()", 300, 340),
    ("return_freed_memory(); kept = KeptMemory(0)", "kept.after_step()", -20, 20),
    ("return_freed_memory(); kept = KeptMemory(0)", "", 300, 340),
], ids=["returned at once", "decided already", "nothing decided", "below the limit",
        "above the limit", "before the end of a step"])
def test_what_is_kept(mode, then, least, most):
    program = PROGRAM.format(mode=mode, then=then)
    # dask's Nanny sets MALLOC_TRIM_THRESHOLD_ for its workers, and for the process that it runs in
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True,
                          cwd=ROOT, env=clean, check=True)
    assert least <= int(done.stdout) <= most
