"""Network namespaces as hosts, connected by a virtual switch; needs root and ip(8).

As a program: `virtual_network.py SWITCH HOST DELAY LOSS` carries packets between two namespaces, by
network devices of its own, as a slow line does.
"""

import contextlib
import ctypes
import fcntl
import heapq
import itertools
import os
import random
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

ADDRESSES = "10.77.0"  # .1 and so on, on the virtual network only
TUNSETIFF = 0x400454CA  # of Linux's if_tun.h
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
CLONE_NEWNET = 0x40000000  # of setns(2)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def is_possible() -> bool:
    """Whether this user can make network namespaces here."""
    name = f"ds2-probe-{os.getpid()}"
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        ip("netns", "add", name)
        ip("netns", "del", name)
        return True
    return False


class Network:
    """Hosts 0, 1 and so on, which reach each other and nothing else.

    Args:
        count: number of hosts.
        delay: seconds that a packet takes between a host and the switch, in each direction, once
            the lines are slow.
        loss: share of packets that are lost there then.
    """

    def __init__(self, count: int, delay: float = 0.0, loss: float = 0.0):
        self._names = [f"ds2-{os.getpid()}-{name}" for name in ("switch", *range(count))]
        self._carriers: list[subprocess.Popen] = []
        try:
            for name in self._names:
                ip("netns", "add", name)
                ip("-n", name, "link", "set", "lo", "up")
            switch, *hosts = self._names
            ip("-n", switch, "link", "add", "bridge", "type", "bridge")
            ip("-n", switch, "link", "set", "bridge", "up")
            for host, name in enumerate(hosts):
                if delay or loss:
                    self._carry(switch, name, delay, loss)
                else:
                    ip("-n", name, "link", "add", "eth0", "type", "veth", "peer", "name",
                       name, "netns", switch)
                ip("-n", switch, "link", "set", name, "master", "bridge", "up")
                ip("-n", name, "address", "add", f"{self.address(host)}/24", "dev", "eth0")
                ip("-n", name, "link", "set", "eth0", "up")
        except BaseException:
            self.close()
            raise

    def address(self, host: int) -> str:
        return f"{ADDRESSES}.{host + 1}"

    def within(self, host: int) -> list[str]:
        """The beginning of a command that runs on a host."""
        return ["ip", "netns", "exec", self._names[1 + host]]

    def unplug(self, host: int) -> None:
        ip("-n", self._names[0], "link", "set", self._names[1 + host], "down")

    def plug_in(self, host: int) -> None:
        ip("-n", self._names[0], "link", "set", self._names[1 + host], "up")

    def slow_down(self) -> None:
        for carrier in self._carriers:
            carrier.send_signal(signal.SIGUSR1)

    def close(self) -> None:
        for carrier in self._carriers:
            carrier.kill()
            carrier.wait()
        for name in self._names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)

    def _carry(self, switch: str, host: str, delay: float, loss: float) -> None:
        carrier = subprocess.Popen([sys.executable, __file__, switch, host, str(delay), str(loss)],
                                   stdout=subprocess.PIPE, text=True)
        self._carriers.append(carrier)
        assert carrier.stdout.readline() == "ready\n"


def _tap(namespace: str, device: str) -> int:
    """A new network device in a namespace; what is read from it was sent through it there."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(Path("/run/netns") / namespace) as file:
        if libc.setns(file.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", device.encode(), IFF_TAP | IFF_NO_PI))
    return descriptor


def carry(switch: str, host: str, delay: float, loss: float) -> None:
    """Carry packets until killed; from SIGUSR1 on late, and not all: single ones are lost."""
    ends = [_tap(switch, host), _tap(host, "eth0")]
    rng, order, waiting, is_slow = random.Random(0), itertools.count(), [], threading.Event()
    signal.signal(signal.SIGUSR1, lambda *_: is_slow.set())
    print("ready", flush=True)
    while True:
        timeout = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        for end in select.select(ends, [], [], timeout)[0]:
            with contextlib.suppress(BlockingIOError):
                packet = os.read(end, 65536)
                if not is_slow.is_set() or rng.random() >= loss:
                    seconds = delay if is_slow.is_set() else 0.0
                    other = ends[1 - ends.index(end)]
                    heapq.heappush(waiting,
                                   (time.monotonic() + seconds, next(order), other, packet))
        while waiting and waiting[0][0] <= time.monotonic():
            *_, end, packet = heapq.heappop(waiting)
            with contextlib.suppress(OSError):  # a device that is down takes nothing
                os.write(end, packet)


if __name__ == "__main__":
    carry(sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4]))
