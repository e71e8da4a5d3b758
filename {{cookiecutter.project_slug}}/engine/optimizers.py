"""Optimizers by name, one for each part of the network. A new one is one entry in the table."""

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

Groups = list[dict[str, Any]]  # of parameters, each with its weight decay


def sgd(groups: Groups, lr: float, momentum: float) -> Optimizer:
    """Stochastic gradient descent with Nesterov momentum (Sutskever et al. 2013)."""
    return SGD(groups, lr, momentum, nesterov=momentum > 0)


def adamw(groups: Groups, lr: float, momentum: float) -> Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), whose momentum is its own."""
    return AdamW(groups, lr)


OPTIMIZERS: dict[str, Callable[[Groups, float, float], Optimizer]] = {"sgd": sgd, "adamw": adamw}


def build_optimizers(model_list: list[nn.Module], settings: Any) -> list[Optimizer]:
    """An optimizer for each part; biases and normalisation, of one dimension, do not decay.

    Args:
        model_list: the parts.
        settings: what config.py has: optimizer, momentum, weight_decay and lr_per_part().
    """
    optimizers = []
    for part, lr in zip(model_list, settings.lr_per_part(), strict=True):
        parameters = list(part.parameters())
        groups = [
            {"params": [p for p in parameters if p.dim() > 1], "weight_decay": settings.weight_decay},
            {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
        ]
        optimizers.append(OPTIMIZERS[settings.optimizer](groups, lr, settings.momentum))
    return optimizers
