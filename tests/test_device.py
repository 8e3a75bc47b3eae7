"""What `set_device` does beside selecting a device."""

import subprocess
import sys

FREE = """
import ctypes, sys
from src.device import set_device

M_MMAP_THRESHOLD = -3
libc = ctypes.CDLL(None)
# where glibc's own rule goes, unless MALLOC_… variables stop it
libc.mallopt(M_MMAP_THRESHOLD, 30 << 20)
if sys.argv[1:]:
    set_device(sys.argv[1])
libc.malloc.restype = ctypes.c_void_p

def block(mib):
    address = ctypes.c_void_p(libc.malloc(mib << 20))
    libc.memset(address, 1, mib << 20)
    return address

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20

blocks = [block(8) for _ in range(20)]
before = resident()
for one in blocks[:-1]:  # the last one stays behind them
    libc.free(one)
print(before - resident())
"""


def returned(*device: str) -> float:
    """MiB that a process has less after it has freed 152 MiB."""
    command = [sys.executable, "-c", FREE, *device]
    return float(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


def test_freed_memory_goes_back_to_the_system_at_once():
    assert returned() < 10
    assert returned("CPU") > 140
