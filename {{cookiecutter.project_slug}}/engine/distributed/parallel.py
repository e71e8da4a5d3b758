"""Gradients that are the mean over all processes: DDP for one loss, an all-reduce for a train_step of one's own."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from ..runtime.devices import NO_CONTEXT
from ..runtime.errors import UserError
from .fsdp import is_sharded, shard_parts
from .process_group import broadcast, world_size

LossPerBatch = Callable[[Any], dict[str, Any]]
STRATEGIES = ("ddp", "fsdp")


def place_parts(
    model_list: list[nn.Module], optimizer_list: list[Optimizer], device: torch.device, strategy: str
) -> None:
    """Moves the parts to the device, in place; all processes then have the weights of rank 0, or shards of them.

    On GPUs batch normalisation takes its statistics over all processes; on CPUs, where torch cannot, over each one's.

    Raises:
        UserError: an unknown strategy, or a device that all processes would share.
    """
    if strategy not in STRATEGIES:
        raise UserError(f"strategy {strategy!r} is unknown; choose one of {', '.join(STRATEGIES)}")
    several = world_size() > 1
    if several and device.index is not None:
        raise UserError(f"device {device} is one for all processes; set device to auto, cuda or cpu under torchrun")
    if not several or strategy == "ddp":  # fsdp shards before it moves: the whole may not fit on the device
        for model in model_list:
            model.to(device)
    if several and device.type == "cuda":
        model_list[:] = [nn.SyncBatchNorm.convert_sync_batchnorm(model) for model in model_list]
    if several and strategy == "fsdp":
        shard_parts(model_list, optimizer_list, device, world_size())
    elif several:
        broadcast([parameter.data for model in model_list for parameter in model.parameters()])


class Parts(nn.Module):
    """All parts as one module, for DDP to wrap; its forward calls the loss function, which runs them."""

    def __init__(self, model_list: list[nn.Module]) -> None:
        super().__init__()
        self.model_list = nn.ModuleList(model_list)

    def forward(self, loss_per_batch: LossPerBatch, batch: Any) -> dict[str, Any]:
        """The losses of a batch, by name."""
        return loss_per_batch(batch)


class DataParallel:
    """Runs a loss so that its backward pass averages gradients over the processes, if there are several.

    Args:
        model_list: the parts, as `place_parts` has left them.
        strategy: "ddp", or "fsdp", of which the sharded parts average their gradients by themselves.
    """

    def __init__(self, model_list: list[nn.Module], strategy: str) -> None:
        wrapped = world_size() > 1 and strategy == "ddp"
        self.ddp = DistributedDataParallel(Parts(model_list)) if wrapped else None

    def __call__(self, loss_per_batch: LossPerBatch, batch: Any) -> dict[str, Any]:
        """The losses of a batch, by name."""
        if not self.ddp:
            return loss_per_batch(batch)
        losses: dict[str, Any] = self.ddp(loss_per_batch, batch)
        return losses

    def sync(self, wanted: bool) -> AbstractContextManager[None]:
        """Inside, the backward pass of a loss averages gradients if `wanted`; else they are only accumulated.

        Sharded parts average always: each process would hold whole gradients until then.
        """
        return NO_CONTEXT if wanted or not self.ddp else self.ddp.no_sync()


def all_reduce_gradients(parameters: list[Tensor]) -> None:
    """Makes each gradient its mean over the processes, by one all-reduce; sharded ones are means already."""
    gradients = [p.grad for p in parameters if p.grad is not None and not is_sharded(p.grad)]
    if world_size() == 1 or not gradients:
        return
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= world_size()
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))
