"""The parts of a network taken as a whole: eval mode, summary, graph, export."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .devices import to_device


def merge_stages(stages: list[nn.Module], num_parts: int) -> list[nn.Module]:
    """Merges the leading stages of a chain until `num_parts` parts are left."""
    split = len(stages) - num_parts + 1
    return [nn.Sequential(*stages[:split]), *stages[split:]]


class Network(nn.Module):
    """The parts and a trainer's `forward` as one module."""

    def __init__(self, model_list: list[nn.Module], forward: Callable[..., Any]) -> None:
        super().__init__()
        self.model_list = nn.ModuleList(model_list)
        self.run = forward

    def forward(self, x: Any) -> Any:
        return self.run(self, x)


@contextmanager
def eval_mode(model_list: list[nn.Module]) -> Iterator[None]:
    """Eval mode for every module inside; afterwards each is in the mode in which it was."""
    modes = [(module, module.training) for model in model_list for module in model.modules()]
    for model in model_list:
        model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def by_torchsummary(model: nn.Module, inp: Any) -> None:
    """For a float tensor in and tensors out; raises on LSTM, Transformer, dict outputs and integers."""
    from torchsummary import summary

    if not torch.is_floating_point(inp):
        raise TypeError("torchsummary feeds random floats")
    summary(nn.Sequential(model), tuple(inp.shape[1:]), device=inp.device.type)  # it leaves the outermost module out


def by_torchinfo(model: nn.Module, inp: Any) -> None:
    """For any input."""
    from torchinfo import summary

    print(summary(model, input_data=[inp], verbose=0))


def by_counting(model: nn.Module, inp: Any) -> None:
    """For anything at all."""
    for name, child in model.named_children():
        print(f"  {name:<30} {sum(p.numel() for p in child.parameters()):>14,} parameters")


def print_summaries(model_list: list[nn.Module], inp: Any) -> None:
    """Prints a summary of every part, each fed with the output of the one before."""
    for number, model in enumerate(model_list):
        print(f"part {number}: {type(model).__name__}")
        # A summary hooks into layers that it may not understand: whatever one raises, the next one tries.
        for attempt in (by_torchsummary, by_torchinfo, by_counting):
            try:
                attempt(model, inp)
                break
            except Exception as error:
                print(f"  ({attempt.__name__.removeprefix('by_')} cannot: {type(error).__name__})")
        inp = model(inp)


def export(network: Network, inp: torch.Tensor, path: str | Path) -> None:
    """Writes a copy of the network, on the CPU and in eval mode, as a program for batches of any size."""
    network = copy.deepcopy(network).cpu().eval()
    inp = to_device(inp, torch.device("cpu"))
    inp = torch.cat([inp, inp])[:2]  # a batch of one would be taken for a constant
    program = torch.export.export(network, (inp,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, path)
