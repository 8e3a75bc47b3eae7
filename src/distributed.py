"""The processes of one run and what they agree on. One process alone communicates nothing."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops


@dataclass(frozen=True)
class Group:
    """This process is `rank` of `size` processes that call each method below in the same order."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes files."""
        return self.rank == 0

    def sum(self, values: Iterable[float]) -> list[float]:
        """The sums of `values` over the processes.

        MindSpore adds in float32 on CPU, whatever it is given: counts are exact up to 2^24.
        """
        values = np.array(list(values), np.float64)
        if self.size > 1:
            values = _only(_AllReduce)(Tensor(values)).asnumpy()
        return values.tolist()

    def wait(self) -> None:
        """Return when all processes have come here."""
        self.sum([0.0])

    def broadcast(self, parameters: Iterable[Parameter]) -> None:
        """Give all processes the first one's values of the float parameters."""
        if self.size > 1:
            for p in parameters:
                if p.dtype == ms.float32:
                    p.set_data(_only(_Broadcast)(p.value()))

    def average(self, parameters: Iterable[Parameter]) -> None:
        """Replace float parameters by their means over the processes."""
        if self.size > 1:
            for p in parameters:
                p.set_data(_only(_AllReduce)(p.value()) / self.size)


class _AllReduce(nn.Cell):
    def __init__(self):
        super().__init__()
        self.all_reduce = ops.AllReduce()    # sums; on CPU nothing else works

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
    """The one instance of a cell: MindSpore compiles anew for each, which took 200 ms a step."""
    return cell()
