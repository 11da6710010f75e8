"""One training run in several processes, by Lightning's DistributedDataParallel.

Every process has the whole network and takes its share of each batch: the images rank,
rank + count, rank + 2*count, ... The loss of a share is weighted so that the average over the
processes, which is what DDP makes of the gradients, is the gradient of the whole batch, also where
a batch does not divide evenly. So the weights are those of one process up to rounding, for a
network without batch norm (whose statistics are of the share) and dropout (whose masks are the
process's own).

Lightning starts the other processes of a machine by running the same command again with LOCAL_RANK
set. They compute, and write nothing.
"""

import os
import socket
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn

from qpc_qiskit.options.records import TrainConfig

_LOOPBACKS = ("lo", "lo0")


def is_main_process(config: TrainConfig) -> bool:
    """Whether this process is the one that writes files and talks.

    Args:
        config: where it asks for one process, this is it, whatever the environment says.
    """
    if config.devices * config.num_nodes == 1:
        return True
    node = os.environ.get("NODE_RANK", os.environ.get("GROUP_RANK", "0"))
    return os.environ.get("LOCAL_RANK", "0") == node == "0"


def prepare_environment(config: TrainConfig) -> None:
    """Keep processes that share a machine off its network, unless the user chose an interface."""
    if config.num_nodes == 1:
        names = [name for _, name in socket.if_nameindex() if name in _LOOPBACKS]
        if names:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", names[0])


@dataclass(frozen=True)
class Team:
    """The processes of a run, seen from one of them."""

    rank: int = 0
    """Of this process, from 0."""
    count: int = 1
    """Of all processes."""
    device: torch.device | None = None
    """Of this process; sums over the processes are made there. None: the CPU."""

    @property
    def is_alone(self) -> bool:
        """Whether there is one process."""
        return self.count == 1

    def share(self, size: int) -> slice:
        """Which of `size` things are this process's; without effect where it is alone."""
        return slice(None) if self.is_alone else slice(self.rank, size, self.count)

    def share_of_batch(self, batch: Tensor) -> Tensor:
        """This process's images of a batch; the first one where there are fewer than processes.

        DDP needs every process to take part in every step; the weight of that image is 0.
        """
        mine = batch[self.share(len(batch))]
        return mine if len(mine) else batch[:1]

    def weight(self, batch_size: int) -> float:
        """What to multiply the mean loss of a share with, before DDP averages the processes."""
        own = len(range(*self.share(batch_size).indices(batch_size)))
        return own * self.count / batch_size

    def sum(self, values: list[float]) -> list[float]:
        """Each value summed over the processes, float64."""
        if self.is_alone:
            return values
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(total)
        return [float(value) for value in total]

    def any(self, flag: bool) -> bool:
        """Whether it is true in any process; all processes must ask together."""
        return self.sum([float(flag)])[0] > 0

    def share_buffers(self, model: nn.Module) -> None:
        """Give all processes the first one's buffers (batch norm's running statistics)."""
        if not self.is_alone:
            for buffer in model.buffers():
                distributed.broadcast(buffer, 0)
