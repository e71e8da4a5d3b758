"""The parts of a network taken as a whole: eval mode, one forward pass, summary, graph, export."""

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import UserError
from .sharding import has_divided


def merge_stages(stages: list[nn.Module], num_parts: int) -> list[nn.Module]:
    """Merges the leading stages of a chain until `num_parts` parts, 1 to their number, are left."""
    split = len(stages) - num_parts + 1
    return [nn.Sequential(*stages[:split]), *stages[split:]]


class Fp32Linear(nn.Linear):
    """A last layer that computes in fp32 whatever the precision of the rest: outputs of three digits would tie."""

    def forward(self, x: Tensor) -> Tensor:
        """From (..., in_features), of any precision, to fp32 of shape (..., out_features)."""
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())


class Network(nn.Module):
    """The parts and a trainer's `forward`, which runs them, as one module."""

    def __init__(self, model_list: list[nn.Module], forward: Callable[[Any], Any]) -> None:
        super().__init__()
        self.model_list = nn.ModuleList(model_list)
        self.run = forward

    def forward(self, x: Any) -> Any:
        """What the trainer's `forward` gives for a batch's input."""
        return self.run(x)


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


@contextmanager
def evaluating(model_list: list[nn.Module]) -> Iterator[None]:
    """Eval mode, and no gradients."""
    # What is gathered in inference mode could not be trained with afterwards.
    with eval_mode(model_list), torch.no_grad() if has_divided(model_list) else torch.inference_mode():
        yield


@contextmanager
def one_forward(trainer: Any) -> Iterator[None]:
    """Inside, the trainer's `forward` runs once for the same objects: a batch's loss and scores share its output."""
    outputs: dict[tuple[int, ...], tuple[tuple[Any, ...], Any]] = {}
    forward = trainer.forward

    def remembered(*inputs: Any) -> Any:
        key = tuple(map(id, inputs))
        if key not in outputs:
            outputs[key] = inputs, forward(*inputs)  # the inputs are kept, so no later object gets their id
        return outputs[key][1]

    trainer.forward = remembered
    try:
        yield
    finally:
        del trainer.forward


def by_torchsummary(model: nn.Module, inp: Any) -> None:
    """For a tensor in, as random floats, and a tensor out; raises on LSTM, attention, dict outputs, embeddings."""
    from torchsummary import summary

    summary(nn.Sequential(model), tuple(inp.shape[1:]), device=inp.device.type)  # it leaves the outermost module out


def by_torchinfo(model: nn.Module, inp: Any) -> None:
    """For any input."""
    from torchinfo import summary

    print(summary(model, input_data=[inp], verbose=0))


def by_counting(model: nn.Module, inp: Any) -> None:
    """For anything at all."""
    for name, child in model.named_children():
        print(f"  {name:<30} {sum(p.numel() for p in child.parameters()):>14,} parameters")


def show(network: Network, inp: Any, writer: Any) -> None:
    """Prints a summary of every part, each fed with the output of the one before, and draws the graph."""
    # Summaries and tracing hook into layers that they may not understand. Whatever they raise, training goes on; the
    # hooks that they then leave behind are on a copy.
    try:
        out = inp
        for number, model in enumerate(network.model_list):
            print(f"part {number}: {type(model).__name__}")
            divided = has_divided([model])
            for attempt in (by_torchsummary, by_torchinfo, by_counting)[2 * divided :]:
                try:
                    attempt(model if divided else copy.deepcopy(model), out)
                    break
                except Exception as error:
                    print(f"  ({attempt.__name__.removeprefix('by_')} cannot: {type(error).__name__})")
            out = model(out)
        if has_divided([network]):  # which one process alone cannot trace
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tracing is deprecated, but all that TensorBoard understands
            writer.add_graph(network, inp)
    except Exception as error:
        print(f"no summary or no graph: {str(error).strip().splitlines()[0]}")


def export(trainer: Any, path: str | Path) -> None:
    """Writes a trainer's network as a program for batches of any size, in eval mode and on the CPU.

    Raises:
        UserError: the network is divided among processes.
    """
    if has_divided(trainer.model_list):
        raise UserError("this process has a piece of the network; load best.pth in one process, and save_model there")
    twin = copy.copy(trainer)
    twin.model_list = [copy.deepcopy(model).cpu().eval() for model in trainer.model_list]
    inp = trainer.example_input().cpu()
    inp = torch.cat([inp, inp])[:2]  # a batch of one would be taken for a constant
    batch = torch.export.Dim("batch", max=2**31)
    program = torch.export.export(Network(twin.model_list, twin.forward), (inp,), dynamic_shapes=({0: batch},))
    torch.export.save(program, path)
