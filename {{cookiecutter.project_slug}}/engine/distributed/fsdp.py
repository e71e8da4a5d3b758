"""FSDP (--strategy fsdp): parts whose weights are sharded over the processes, for networks larger than one device.

Each process keeps a shard of every weight, gradient and optimizer state, and gathers a layer's weights only while it
computes with them: torch's fully_shard (Zhao et al. 2023, PyTorch FSDP). Checkpoints hold whole tensors, the same as
without FSDP.
"""

import warnings
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..runtime.errors import UserError


def shard_parts(model_list: list[nn.Module], optimizer_list: list[Optimizer], device: torch.device, world: int) -> None:
    """Shards the parts layer by layer, in place, and gives the optimizers the shards.

    Raises:
        UserError: an optimizer that needs whole weights, weights that cannot be sharded, or a torch that cannot do it.
    """
    whole = [weight for model in model_list for _, weight in model.named_parameters(remove_duplicate=False)]
    if len(set(whole)) < len(whole) or not all(weight.dim() for weight in whole):
        raise UserError("fsdp shards neither weights that two layers share nor scalar ones; set --strategy to ddp")
    for optimizer in optimizer_list:
        if getattr(optimizer, "needs_whole_weights", False):
            raise UserError(
                f"--strategy fsdp shards weights, and {type(optimizer).__name__} needs them whole; "
                "set --optimizer to sgd or adamw"
            )
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh  # here, since their import takes long
    from torch.distributed.fsdp import fully_shard

    warnings.filterwarnings("ignore", "FSDP2-wrapped module")  # about in-place operations between parts
    mean = torch.zeros(1, device=device)
    with suppress(RuntimeError):  # gloo of torch 2.6 has no reduce_scatter, later ones a sum for a mean (issue 162338)
        dist.reduce_scatter(mean, [torch.ones(1, device=device)] * world, op=dist.ReduceOp.AVG)
    if mean != 1:
        raise UserError(f"torch {torch.__version__} cannot do --strategy fsdp on this device; update torch")
    mesh = init_device_mesh(device.type, (world,))
    for parameter in whole:
        parameter.data = parameter.data.contiguous()  # channels-last weights cannot be sharded
    for layer in (layer for model in model_list for layer in (*layers_of(model), model)):
        own = [parameter for parameter in layer.parameters() if not is_sharded(parameter)]
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)  # also for a part, or it stays whole between updates
        for parameter in own:  # freed now, or the device holds all whole weights at once
            parameter.data = parameter.data.new_empty(0)
    sharded = [parameter for model in model_list for parameter in model.parameters()]
    shard_of = dict(zip(whole, sharded, strict=True))
    for group in (group for optimizer in optimizer_list for group in optimizer.param_groups):
        group["params"] = [shard_of[parameter] for parameter in group["params"]]
        if "nesterov" in group:  # SGD, whose fused step torch does not have for shards
            group["fused"] = False


def layers_of(model: nn.Module) -> list[nn.Module]:
    """What is gathered at a time: the children with weights; of lists and dicts of modules, their children."""
    layers = []
    for child in model.children():
        if isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            layers += layers_of(child)
        elif any(True for _ in child.parameters()):
            layers.append(child)
    return layers


def is_sharded(value: Any) -> bool:
    """Whether it is a DTensor; the type is not imported where there are none."""
    return hasattr(value, "full_tensor")


def has_shards(model_list: list[nn.Module]) -> bool:
    """Whether the parts are sharded."""
    return any(is_sharded(parameter) for model in model_list for parameter in model.parameters())


def local_shard(tensor: Tensor) -> Tensor:
    """This process's shard of a tensor, sharing its memory; the tensor itself if it is not sharded."""
    return tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined, no-any-return]


def full_tensor(tensor: Tensor) -> Tensor:
    """The whole tensor, gathered on every process; the tensor itself if it is not sharded."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined, no-any-return]


# ---- state dicts: whole tensors in files, shards in memory ----


def model_state(model: nn.Module) -> dict[str, Any]:
    """A part's state dict with whole tensors; of a sharded part on the CPU of rank 0 alone, and all ranks call it."""
    if not has_shards([model]):
        return model.state_dict()
    from torch.distributed.checkpoint.state_dict import get_model_state_dict

    return get_model_state_dict(model, options=_whole())


def load_model_state(model: nn.Module, state: dict[str, Any]) -> None:
    """Loads what `model_state` returned; a sharded part takes its shards of it."""
    if not has_shards([model]):
        model.load_state_dict(state)
        return
    from torch.distributed.checkpoint.state_dict import set_model_state_dict

    set_model_state_dict(model, state, options=_whole())


def optimizer_state(optimizer: Optimizer, model_list: list[nn.Module]) -> dict[str, Any]:
    """The same of an optimizer: a state dict as torch.optim has it, with whole tensors."""
    if not has_shards(model_list) or not optimizer.state:
        return optimizer.state_dict()
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    by_name: Any = get_optimizer_state_dict(nn.ModuleList(model_list), optimizer, options=_whole())
    if not by_name:  # not rank 0
        return {}
    names = [name for group in by_name["param_groups"] for name in group["params"]]
    numbers = {name: number for number, name in enumerate(names)}
    groups = [{**group, "params": [numbers[name] for name in group["params"]]} for group in by_name["param_groups"]]
    return {"state": {numbers[name]: values for name, values in by_name["state"].items()}, "param_groups": groups}


def load_optimizer_state(optimizer: Optimizer, model_list: list[nn.Module], state: dict[str, Any]) -> None:
    """Loads what `optimizer_state` returned."""
    if not has_shards(model_list):
        optimizer.load_state_dict(state)
        return
    from torch.distributed.checkpoint.state_dict import set_optimizer_state_dict

    parts = nn.ModuleList(model_list)
    name_of = {parameter: name for name, parameter in parts.named_parameters()}
    own = [[name_of[parameter] for parameter in group["params"]] for group in optimizer.param_groups]
    names = [name for group in own for name in group]
    kept = [{name: group[name] for name in group.keys() & {"fused"}} for group in optimizer.param_groups]
    groups = [
        {**saved, "params": of_group, **here}
        for saved, of_group, here in zip(state["param_groups"], own, kept, strict=True)
    ]
    by_name: Any = {
        "state": {names[number]: values for number, values in state["state"].items()},
        "param_groups": groups,
    }
    set_optimizer_state_dict(parts, optimizer, by_name, options=_whole())


def _whole() -> Any:
    from torch.distributed.checkpoint.state_dict import StateDictOptions

    return StateDictOptions(full_state_dict=True, cpu_offload=True)
