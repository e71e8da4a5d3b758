"""Optimizers by name, one for each part of the network. A new one is an entry in OPTIMIZERS.

config.py takes the names from there; torch, whose import takes seconds, is imported where an optimizer is built.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ..runtime.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    Kind = tuple[Any, dict[str, Any]]  # an optimizer's class, and its arguments beside groups and lr


class OptimizerConfig(Protocol):
    """The settings that `build_optimizers` reads."""

    @property
    def optimizer(self) -> str: ...
    @property
    def lr(self) -> tuple[float, ...]: ...
    @property
    def momentum(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...


def sgd(config: OptimizerConfig) -> Kind:
    """Stochastic gradient descent with Nesterov momentum (Sutskever et al. 2013)."""
    from torch.optim import SGD

    return SGD, {"momentum": config.momentum, "nesterov": config.momentum > 0, "fused": True}


def adam(config: OptimizerConfig) -> Kind:
    """Adam (Kingma and Ba 2015), with weight decay as an L2 penalty."""
    from torch.optim import Adam

    return Adam, {"fused": True}


def adamw(config: OptimizerConfig) -> Kind:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""
    from torch.optim import AdamW

    return AdamW, {"fused": True}


def muon(config: OptimizerConfig) -> Kind:
    """Orthogonalised momentum for convolutions, Nesterov momentum for the rest (Jordan et al. 2024)."""
    from .muon import Muon

    return Muon, {"momentum": config.momentum}


OPTIMIZERS: dict[str, Callable[[OptimizerConfig], Kind]] = {"sgd": sgd, "adam": adam, "adamw": adamw, "muon": muon}


def lr_per_part(lr: Sequence[float], parts: int) -> list[float]:
    """The base learning rate of each of so many parts.

    Raises:
        UserError: `lr` has neither one value nor one per part.
    """
    if len(lr) not in (1, parts):
        raise UserError(f"--lr has {len(lr)} values, the network (--num_parts) {parts} parts; give 1, or 1 per part")
    return list(lr) * (parts // len(lr))


def build_optimizers(
    model_list: Sequence[nn.Module], config: OptimizerConfig, lr_factors: Mapping[Tensor, float] | None = None
) -> list[Optimizer]:
    """An optimizer for each part; biases and normalisation, of one dimension, have no weight decay.

    Args:
        model_list: the parts.
        config: the settings.
        lr_factors: by which the learning rate of some weights is multiplied, such as pretrained ones.

    Raises:
        UserError: an unknown optimizer, or `lr` with neither one value nor one per part.
    """
    from ..runtime.shortcuts import lightweight

    if config.optimizer not in OPTIMIZERS:
        raise UserError(f"--optimizer {config.optimizer} is unknown; choose one of {', '.join(OPTIMIZERS)}")
    kind, options = OPTIMIZERS[config.optimizer](config)
    optimizers: list[Optimizer] = []
    factors = lr_factors or {}
    for part, lr in zip(model_list, lr_per_part(config.lr, len(model_list)), strict=True):
        # By factor and weight decay; each group costs a kernel of its own in every update.
        groups: dict[tuple[float, float], list[Tensor]] = {}
        for parameter in part.parameters():
            factor, decay = factors.get(parameter, 1.0), config.weight_decay if parameter.dim() > 1 else 0.0
            groups.setdefault((factor, decay), []).append(parameter)
        if not groups:
            number, parts = len(optimizers), len(model_list)
            raise UserError(f"part {number} of the network has no weights; set --num_parts to {parts - 1}")
        listed = [{"params": same, "lr": factor * lr, "weight_decay": d} for (factor, d), same in groups.items()]
        optimizers.append(lightweight(kind)(listed, lr=lr, **options))
    return optimizers


def learning_rates(optimizer_list: Sequence[Optimizer]) -> dict[str, float]:
    """The present learning rate of each part, as "lr/part0", and of each of its groups that has another."""
    return name_by_part([[float(group["lr"]) for group in optimizer.param_groups] for optimizer in optimizer_list])


def name_by_part(parts: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """An entry for each part, lr/part0 ..., and for each of its further groups that differs, lr/part0_group1 ..."""
    named = {}
    for part, (first, *others) in enumerate(parts):
        named[f"lr/part{part}"] = first
        named |= {f"lr/part{part}_group{number}": other for number, other in enumerate(others, 1) if other != first}
    return named


def check_parameters(model_list: Sequence[nn.Module], optimizer_list: Sequence[Optimizer]) -> None:
    """Raises a UserError unless each trainable parameter has exactly one optimizer, and all are in `model_list`.

    There may be more optimizers than parts.
    """
    owners: dict[Tensor, int] = {}
    for number, optimizer in enumerate(optimizer_list):
        for parameter in (p for group in optimizer.param_groups for p in group["params"]):
            if parameter in owners:
                raise UserError(
                    f"optimizer_list[{owners[parameter]}] and [{number}] share a parameter of shape "
                    f"{tuple(parameter.shape)}; give each parameter to one optimizer"
                )
            owners[parameter] = number
    for number, model in enumerate(model_list):
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and parameter not in owners:
                raise UserError(
                    f"{name!r} of model_list[{number}] is in no optimizer; "
                    "add it to optimizer_list, or freeze it with requires_grad_(False)"
                )
    strangers = owners.keys() - {parameter for model in model_list for parameter in model.parameters()}
    for parameter in strangers:
        raise UserError(
            f"optimizer_list[{owners[parameter]}] has a parameter of shape {tuple(parameter.shape)} that is in no part "
            "of model_list and so would not be saved; add its module there, as a part that `forward` leaves out"
        )


def check_attributes(attributes: Mapping[str, Any], model_list: Sequence[nn.Module]) -> None:
    """Raises a UserError for a module among a task's attributes that has trainable weights which are in no part.

    They would be neither trained nor saved.
    """
    from torch import nn

    in_parts = {parameter for model in model_list for parameter in model.parameters()}
    for name, value in attributes.items():
        for module in value if isinstance(value, (list, tuple)) else [value]:
            if not isinstance(module, nn.Module):
                continue
            if any(parameter.requires_grad and parameter not in in_parts for parameter in module.parameters()):
                raise UserError(
                    f"{name}, a {type(module).__name__}, has trainable weights that are in no part of model_list, so "
                    "they would be neither trained nor saved; append it to model_list (`forward` may leave it out) and "
                    "give it an optimizer, or freeze it with requires_grad_(False)"
                )
