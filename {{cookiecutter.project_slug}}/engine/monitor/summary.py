"""A summary of each part of a network, layer by layer, and its graph; neither fails nor changes anything."""

import copy
import warnings
from typing import Any

from torch import nn

from ..distributed.fsdp import has_shards
from ..network import Network
from .tensorboard import Writer


def by_torchsummary(model: nn.Module, x: Any) -> None:
    """For one tensor in and one out, fed with random floats; raises on LSTM, attention, dict outputs, embeddings."""
    from torchsummary import summary

    summary(nn.Sequential(model), tuple(x.shape[1:]), device=x.device.type)  # it leaves the outermost module out


def by_torchinfo(model: nn.Module, x: Any) -> None:
    """For any input."""
    from torchinfo import summary

    print(summary(model, input_data=[x], verbose=0))


def by_counting(model: nn.Module, x: Any) -> None:
    """For any module."""
    for name, child in model.named_children():
        print(f"  {name:<30} {sum(p.numel() for p in child.parameters()):>14,} parameters")


def show_network(network: Network, x: Any, writer: Writer) -> None:
    """Prints a summary of every part, each fed with the output of the one before, and records the graph."""
    # Summaries and tracing hook into layers that they may not understand. Whatever they raise, training continues; the
    # hooks that they then leave behind are on a copy.
    try:
        output = x
        for number, model in enumerate(network.model_list):
            print(f"part {number}: {type(model).__name__}")
            sharded = has_shards([model])
            for attempt in [by_counting] if sharded else [by_torchsummary, by_torchinfo, by_counting]:
                try:
                    attempt(model if sharded else copy.deepcopy(model), output)
                    break
                except Exception as error:
                    print(f"  ({attempt.__name__.removeprefix('by_')} cannot: {type(error).__name__})")
            output = model(output)
        if has_shards([network]):  # one process alone cannot trace it
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tracing is deprecated, but all that TensorBoard understands
            writer.add_graph(network, x)
    except Exception as error:
        print(f"no summary or no graph: {str(error).strip().splitlines()[0]}")
