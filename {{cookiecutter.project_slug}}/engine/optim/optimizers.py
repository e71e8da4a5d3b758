"""Optimizers by name, one for each part of the network.

A new one is an entry in OPTIMIZERS, and its name in config.py.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from ..runtime.errors import UserError
from ..runtime.shortcuts import lightweight
from .muon import Muon

Groups = list[dict[str, Any]]  # parameter groups, each with its weight decay


class OptimizerConfig(Protocol):
    """The settings that `build_optimizers` reads."""

    @property
    def optimizer(self) -> str: ...
    @property
    def num_parts(self) -> int: ...
    @property
    def lr(self) -> tuple[float, ...]: ...
    @property
    def momentum(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...


def sgd(groups: Groups, lr: float, config: OptimizerConfig) -> Optimizer:
    """Stochastic gradient descent with Nesterov momentum (Sutskever et al. 2013)."""
    return lightweight(SGD)(groups, lr, config.momentum, nesterov=config.momentum > 0, fused=True)


def adamw(groups: Groups, lr: float, config: OptimizerConfig) -> Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""
    return lightweight(AdamW)(groups, lr, fused=True)


def muon(groups: Groups, lr: float, config: OptimizerConfig) -> Optimizer:
    """Orthogonalised momentum for convolutions, Nesterov momentum for the rest."""
    return lightweight(Muon)(groups, lr, config.momentum)


OPTIMIZERS: dict[str, Callable[[Groups, float, OptimizerConfig], Optimizer]] = {
    "sgd": sgd,
    "adamw": adamw,
    "muon": muon,
}


def lr_per_part(config: OptimizerConfig) -> list[float]:
    """The base learning rate of each part.

    Raises:
        UserError: `lr` has neither one value nor one per part.
    """
    if len(config.lr) not in (1, config.num_parts):
        raise UserError(f"--lr has {len(config.lr)} values, --num_parts is {config.num_parts}; give 1, or 1 per part")
    return list(config.lr) * (config.num_parts // len(config.lr))


def build_optimizers(model_list: Sequence[nn.Module], config: OptimizerConfig) -> list[Optimizer]:
    """An optimizer for each part; biases and normalisation, of one dimension, have no weight decay.

    Raises:
        UserError: an unknown optimizer, or `lr` with neither one value nor one per part.
    """
    if config.optimizer not in OPTIMIZERS:
        raise UserError(f"--optimizer {config.optimizer} is unknown; choose one of {', '.join(OPTIMIZERS)}")
    optimizers = []
    for part, lr in zip(model_list, lr_per_part(config), strict=True):
        groups: dict[float, list[Tensor]] = {}  # by weight decay; each group costs a kernel of its own in every update
        for parameter in part.parameters():
            groups.setdefault(config.weight_decay if parameter.dim() > 1 else 0.0, []).append(parameter)
        listed = [{"params": parameters, "weight_decay": decay} for decay, parameters in groups.items()]
        optimizers.append(OPTIMIZERS[config.optimizer](listed, lr, config))
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
