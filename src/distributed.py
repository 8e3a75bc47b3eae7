"""Collective operations of the processes of one run; a single process communicates nothing."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar
from zlib import crc32

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from deepspeech2.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """This process and the others of its run; all must call the methods in the same order.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    def sum(self, values: Iterable[float]) -> list[float]:
        """The sum of each value over the processes.

        MindSpore adds in float32 on CPU, also for float64 inputs: counts are exact up to 2^24.
        """
        values = np.array(list(values), np.float64)
        if self.size > 1:
            values = _only(_AllReduce)(Tensor(values)).asnumpy()
        return values.tolist()

    def wait(self) -> None:
        """Wait until all processes call this method."""
        self.sum([0.0])

    def ensure_equal(self, values: Mapping[str, str]) -> None:
        """Make sure that all processes have the same values.

        Args:
            values: by names for messages.

        Raises:
            InputError: in every process, naming what differs.
        """
        # with other names, the processes could not even add up their values
        for part in ({"the settings that there are": ",".join(values)}, values):
            own = np.array([crc32(text.encode()) % 2**24 for text in part.values()], np.float64)
            first = np.array(self.sum(own if self.is_first else np.zeros_like(own)))
            differing = self.sum(own != first)
            found = [f"{name} (in {count:.0f})" for name, count in zip(part, differing, strict=True)
                     if count]
            if found:
                raise InputError(
                    f"not the same in all {self.size} processes: {', '.join(found)}: start all "
                    "hosts with the same program, settings and data"
                )

    def ensure_shared(self, folder: Path, name: str) -> None:
        """Make sure that all processes see the files that the first one writes to a folder.

        Args:
            folder: that every process has.
            name: of the setting, for messages.

        Raises:
            InputError: in every process, when any process does not see them.
        """
        own = np.random.default_rng().integers(2**24) if self.is_first else 0
        (token,) = self.sum([own])
        marker = folder / f".shared-{token:.0f}"
        if self.is_first:
            marker.touch()
        self.wait()
        unseen = int(not marker.exists())
        (hidden,) = self.sum([unseen])
        if self.is_first:
            marker.unlink()
        if hidden:
            raise InputError(
                f"{name} (={str(folder)!r}): {hidden:.0f} of {self.size} processes do not see the "
                "first one's files there: hosts must share this folder (NFS, for example)"
            )

    def in_first(self, action: Callable[[], T]) -> T | None:
        """What `action` returns in the first process; None in the others.

        Raises:
            InputError: in every process, when `action` raises it.
        """
        result, error = None, None
        if self.is_first:
            try:
                result = action()
            except InputError as found:
                error = found
        failed = self.sum([error is not None])[0]
        if error:
            raise error
        if failed:
            raise InputError("another process of this run cannot go on: its message says why")
        return result

    def broadcast(self, parameters: Iterable[Parameter]) -> None:
        """Copy the float32 parameters of the first process to all processes."""
        if self.size > 1:
            for p in parameters:
                if p.dtype == ms.float32:
                    p.set_data(_only(_Broadcast)(p.value()))

    def average(self, parameters: Iterable[Parameter]) -> None:
        """Replace float32 parameters by their means over the processes."""
        if self.size > 1:
            for p in parameters:
                p.set_data(_only(_AllReduce)(p.value()) / self.size)


class _AllReduce(nn.Cell):
    def __init__(self):
        super().__init__()
        self.all_reduce = ops.AllReduce()  # a sum, the only reduction that works on CPU

    def construct(self, x):
        return self.all_reduce(x)


class _Broadcast(nn.Cell):
    def __init__(self):
        super().__init__()
        self.broadcast = ops.Broadcast(0)

    def construct(self, x):
        return self.broadcast((x,))[0]


@cache
def _only(cell: type[nn.Cell]) -> nn.Cell:
    """The only instance of a cell: MindSpore compiles each instance anew, in about 200 ms."""
    return cell()
