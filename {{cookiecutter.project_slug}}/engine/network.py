"""The parts of a network: made by merging stages, in eval mode, as one module, exported."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .distributed.fsdp import has_shards
from .runtime.errors import UserError


def merge_stages(stages: list[nn.Module], num_parts: int) -> list[nn.Module]:
    """Merges the first stages of a network until `num_parts` parts, 1 to the number of stages, are left."""
    split = len(stages) - num_parts + 1
    return [nn.Sequential(*stages[:split]), *stages[split:]]


class Fp32Linear(nn.Linear):
    """A last layer that computes in fp32 whatever the precision of the rest: bf16 logits have three digits, and tie."""

    def forward(self, x: Tensor) -> Tensor:
        """From (..., in_features), of any precision, to fp32 of shape (..., out_features)."""
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())


class Network(nn.Module):
    """The parts, and the `forward` that runs them, as one module."""

    def __init__(self, model_list: list[nn.Module], forward: Callable[[Any], Any]) -> None:
        super().__init__()
        self.model_list = nn.ModuleList(model_list)
        self.run = forward

    def forward(self, x: Any) -> Any:
        """The network's output for a batch's input."""
        return self.run(x)


def train_mode(model: nn.Module) -> None:
    """Train mode; but normalisation whose weights are frozen, as `requires_grad_(False)` does, keeps its statistics."""
    model.train()
    keep_frozen_statistics(model)


def keep_frozen_statistics(module: nn.Module, frozen: bool = False) -> None:
    """Puts normalisation with frozen weights into eval mode.

    Args:
        module: a part of the network.
        frozen: whether the module around it is frozen, which decides for normalisation without weights.
    """
    parameters = list(module.parameters())
    if parameters:
        frozen = not any(parameter.requires_grad for parameter in parameters)
    if frozen and getattr(module, "track_running_stats", False):
        module.eval()
    for child in module.children():
        keep_frozen_statistics(child, frozen)


@contextmanager
def eval_mode(model_list: list[nn.Module]) -> Iterator[None]:
    """Inside, every module is in eval mode; afterwards each is in the mode in which it was."""
    modes = [(module, module.training) for model in model_list for module in model.modules()]
    for model in model_list:
        model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def evaluating(model_list: list[nn.Module]) -> Iterator[None]:
    """Eval mode without gradients."""
    # Weights that FSDP gathers in inference mode could not be trained with afterwards.
    with eval_mode(model_list), torch.no_grad() if has_shards(model_list) else torch.inference_mode():
        yield


def export(network: Network, x: Tensor, path: str | Path) -> None:
    """Writes a network as a program for batches of any size, for `torch.export.load(path).module()`.

    Args:
        network: on the CPU, in eval mode.
        x: a batch of inputs, two samples or more: a batch of one would be taken for a constant.
        path: a file, by convention *.pt2.

    Raises:
        UserError: the network is sharded.
    """
    if has_shards([network]):
        raise UserError("this process has a shard of the network; load best.pth in one process, and save_model there")
    batch = torch.export.Dim("batch", max=2**31)
    torch.export.save(torch.export.export(network, (x,), dynamic_shapes=({0: batch},)), path)


def on_cpu(model_list: list[nn.Module]) -> list[nn.Module]:
    """Copies of the parts on the CPU, in eval mode."""
    return [copy.deepcopy(model).cpu().eval() for model in model_list]
