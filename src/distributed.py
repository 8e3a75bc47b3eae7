"""The processes of one run and what they agree on. A group of one needs no launcher and communicates nothing."""

from collections.abc import Iterable
from dataclasses import dataclass

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
        """The sums of `values` over the processes, in float64."""
        values = np.array(list(values), np.float64)
        return (_AllReduce()(Tensor(values)).asnumpy() if self.size > 1 else values).tolist()

    def wait(self) -> None:
        """Return when all processes have come here."""
        self.sum([0.0])

    def broadcast(self, parameters: Iterable[Parameter]) -> None:
        """Give all processes the first one's values of the float parameters."""
        if self.size > 1:
            cell = _Broadcast()
            for p in parameters:
                if p.dtype == ms.float32:
                    p.set_data(cell(p.value()))

    def average(self, parameters: Iterable[Parameter]) -> None:
        """Replace float parameters by their means over the processes."""
        if self.size > 1:
            cell = _AllReduce()
            for p in parameters:
                p.set_data(cell(p.value()) / self.size)


class _AllReduce(nn.Cell):
    def __init__(self):
        super().__init__()
        self.all_reduce = ops.AllReduce()

    def construct(self, x):
        return self.all_reduce(x)


class _Broadcast(nn.Cell):
    def __init__(self):
        super().__init__()
        self.broadcast = ops.Broadcast(0)

    def construct(self, x):
        return self.broadcast((x,))[0]
