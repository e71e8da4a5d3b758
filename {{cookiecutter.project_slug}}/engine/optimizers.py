"""Optimizers by name, one for each part of the network. A new one is one entry in the table."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import profiler
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from .muon import Muon

GLOBAL_HOOKS = (_global_optimizer_pre_hooks, _global_optimizer_post_hooks)
Groups = list[dict[str, Any]]  # of parameters, each with its weight decay


def light(kind: type[Optimizer]) -> type[Any]:
    """torch's optimizer without two costs that most runs have for nothing.

    The marks for torch.compile on its methods import the compiler at their first use, which takes nearly as long as
    importing torch. The record that `step` makes for the profiler takes a tenth of a small network's update: it is
    left out unless a profiler or a hook is there to see it.
    """
    marked = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
    methods = {name: inspect.unwrap(getattr(kind, name)) for name in marked}
    plain = inspect.unwrap(kind.step)
    observed = Optimizer.profile_hook_step(torch.no_grad()(plain))

    def step(self: Optimizer, closure: Callable[[], float] | None = None) -> float | None:
        hooked = self._optimizer_step_pre_hooks or self._optimizer_step_post_hooks or any(GLOBAL_HOOKS)
        if hooked or profiler._is_profiler_enabled:
            return observed(self, closure)  # type: ignore[no-any-return]
        with torch.no_grad():
            return plain(self, closure)  # type: ignore[no-any-return]

    step.hooked = True  # type: ignore[attr-defined]  # else torch would wrap it in that record after all
    return type(kind.__name__, (kind,), methods | {"step": step})


def sgd(groups: Groups, lr: float, momentum: float) -> Optimizer:
    """Stochastic gradient descent with Nesterov momentum (Sutskever et al. 2013)."""
    return light(SGD)(groups, lr, momentum, nesterov=momentum > 0, fused=True)


def adamw(groups: Groups, lr: float, momentum: float) -> Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), whose momentum is its own."""
    return light(AdamW)(groups, lr, fused=True)


def muon(groups: Groups, lr: float, momentum: float) -> Optimizer:
    """Orthogonalised momentum for convolutions, Nesterov momentum for the rest."""
    return light(Muon)(groups, lr, momentum)  # type: ignore[no-any-return]


OPTIMIZERS: dict[str, Callable[[Groups, float, float], Optimizer]] = {"sgd": sgd, "adamw": adamw, "muon": muon}


def build_optimizers(model_list: list[nn.Module], settings: Any) -> list[Optimizer]:
    """An optimizer for each part; biases and normalisation, of one dimension, do not decay.

    Args:
        model_list: the parts.
        settings: what config.py has: optimizer, momentum, weight_decay and lr_per_part().
    """
    optimizers = []
    for part, lr in zip(model_list, settings.lr_per_part(), strict=True):
        groups: dict[float, list[Tensor]] = {}  # by weight decay: every group costs a kernel of its own in each update
        for parameter in part.parameters():
            groups.setdefault(settings.weight_decay if parameter.dim() > 1 else 0.0, []).append(parameter)
        listed = [{"params": parameters, "weight_decay": decay} for decay, parameters in groups.items()]
        optimizers.append(OPTIMIZERS[settings.optimizer](listed, lr, settings.momentum))
    return optimizers
