"""Parts whose weights are divided among the processes (--strategy fsdp), for networks that one device cannot hold.

Each process keeps a piece of every weight, gradient and optimizer state, and has a layer's weights whole only while it
computes with them: torch's fully_shard (Zhao et al. 2023, PyTorch FSDP). Files hold whole tensors, the same as without.
"""

import copy
import warnings
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from . import UserError
from .muon import Muon


def shard(model_list: list[nn.Module], optimizer_list: list[Optimizer], device: torch.device, world: int) -> None:
    """Divides the parts, each in layers that are gathered one by one, and gives the optimizers the pieces.

    Raises:
        UserError: an optimizer that needs whole weights, weights that cannot be divided, or a torch that cannot do it.
    """
    before = [weight for model in model_list for _, weight in model.named_parameters(remove_duplicate=False)]
    if len(set(before)) < len(before) or not all(weight.dim() for weight in before):
        raise UserError("fsdp divides neither weights that two layers share nor single numbers; set --strategy to ddp")
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh  # here, since their import takes long
    from torch.distributed.fsdp import fully_shard

    if any(isinstance(optimizer, Muon) for optimizer in optimizer_list):
        raise UserError("--strategy fsdp divides weights, and muon needs them whole; set --optimizer to sgd or adamw")
    warnings.filterwarnings("ignore", "FSDP2-wrapped module")  # of what only operations in place, between parts, change
    mean = torch.zeros(1, device=device)
    with suppress(RuntimeError):  # gloo had none of this in torch 2.6, and a sum for a mean later (issue 162338)
        dist.reduce_scatter(mean, [torch.ones(1, device=device)] * world, op=dist.ReduceOp.AVG)
    if mean != 1:
        raise UserError(f"torch {torch.__version__} cannot do --strategy fsdp on this device; update torch")
    mesh = init_device_mesh(device.type, (world,))
    for parameter in before:
        parameter.data = parameter.data.contiguous()  # channels last cannot be divided
    for layer in (layer for model in model_list for layer in (*layers_of(model), model)):
        own = [parameter for parameter in layer.parameters() if not is_divided(parameter)]
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)  # also a part, which would stay whole between updates
        for parameter in own:  # or the device would hold all of them whole at once
            parameter.data = parameter.data.new_empty(0)
    after = [parameter for model in model_list for parameter in model.parameters()]
    pieces = dict(zip(before, after, strict=True))
    for group in (group for optimizer in optimizer_list for group in optimizer.param_groups):
        group["params"] = [pieces[parameter] for parameter in group["params"]]
        if "nesterov" in group:  # SGD, whose fused step torch does not have for pieces
            group["fused"] = False


def layers_of(model: nn.Module) -> list[nn.Module]:
    """What is gathered at a time: the children that have weights, in place of lists and dicts of modules theirs."""
    layers = []
    for child in model.children():
        if isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            layers += layers_of(child)
        elif any(True for _ in child.parameters()):
            layers.append(child)
    return layers


def is_divided(value: Any) -> bool:
    """Whether it is one of torch's DTensors, whose type is not imported where there are none."""
    return hasattr(value, "full_tensor")


def has_divided(model_list: list[nn.Module]) -> bool:
    """Whether the parts have been divided."""
    return any(is_divided(parameter) for model in model_list for parameter in model.parameters())


def local(tensor: Tensor) -> Tensor:
    """This process's piece of a tensor, which shares its memory; the tensor itself where it is not divided."""
    return tensor.to_local() if is_divided(tensor) else tensor  # type: ignore[attr-defined, no-any-return]


def whole(state: Any) -> Any:
    """The state, of dicts, with every divided tensor put together in rank 0's memory; all processes must ask for it.

    The others get empty tensors, so that a machine holds what a file holds once, and not once per GPU.
    """
    if isinstance(state, dict):
        state = copy.copy(state)  # with the attributes that torch hangs on a part's state
        state.update({name: whole(value) for name, value in state.items()})
        return state
    if not is_divided(state):
        return state
    full = state.full_tensor()
    return full.cpu() if state.device_mesh.get_rank() == 0 else full.new_empty(0)


def divided(value: Any, like: Any) -> Any:
    """This process's piece of a tensor where `like`, of the same shape, is divided; else the value."""
    if not is_divided(like) or not torch.is_tensor(value) or value.shape != like.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)


def divided_model(state: dict[str, Any], model: nn.Module) -> dict[str, Any]:
    """What `whole` made of a part's state, as that part is divided here."""
    own = model.state_dict()
    return {name: divided(value, own[name]) for name, value in state.items()} if has_divided([model]) else state


def divided_optimizer(state: dict[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """What `whole` made of an optimizer's state, as its parameters are divided, and its updates computed, here."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    states = {
        number: {name: divided(value, parameters[number]) for name, value in values.items()}
        for number, values in state["state"].items()
    }
    pairs = zip(state["param_groups"], optimizer.param_groups, strict=True)
    groups = [saved | {name: own[name] for name in own.keys() & {"fused"}} for saved, own in pairs]
    return {**state, "state": states, "param_groups": groups}
