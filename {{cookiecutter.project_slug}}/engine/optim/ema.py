"""EMA: the moving average of the weights, which is evaluated, predicted with and saved as the best in their place."""

import copy
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from ..distributed.fsdp import has_shards, local_shard
from ..runtime.errors import UserError
from ..runtime.shortcuts import lerp_all


class HasParts(Protocol):
    """A trainer, of which `model_list` is averaged."""

    model_list: list[nn.Module]


T = TypeVar("T", bound=HasParts)


class NoAverage:
    """What a trainer without EMA has in the place of `WeightAverage`."""

    def __init__(self) -> None:
        self.model_list: list[nn.Module] = []

    def update(self, number: int) -> None:
        """Does nothing."""

    def twin_of(self, trainer: T) -> T:
        """The trainer itself."""
        return trainer


class WeightAverage(NoAverage):
    """The exponential moving average of a trainer's weights, in copies of its parts: `model_list`.

    After update number t, from 0 on, a := d a + (1 - d) w with d = min(decay, (1 + t) / (10 + t)), so that the initial
    weights are soon forgotten: the rule of TensorFlow's ExponentialMovingAverage with `num_updates`. Buffers, such as
    the statistics of batch normalisation, are copied. An update that fp16 skips moves the average to the same weights.

    Args:
        trainer: all of its attributes that hold weights of its parts are copied.
        decay: above 0 and below 1.

    Raises:
        UserError: a part that cannot be copied, or trained weights whose precision is too low for an average.
    """

    def __init__(self, trainer: HasParts, decay: float) -> None:
        self.decay = decay
        self.averaged = trainer.model_list
        weights = set(weights_of(self.averaged))
        for weight in weights:
            if weight.requires_grad and torch.finfo(weight.dtype).eps > 1e-4:
                raise UserError(f"ema cannot average weights in {weight.dtype}; keep them in fp32, or set ema to 0")
        held = {name: value for name, value in vars(trainer).items() if weights & set(weights_of(modules_in(value)))}
        self.twin: Any = copy.copy(trainer)
        try:
            # At once, so that copies share what their originals share; a hook of the trainer's becomes the twin's.
            self.copies = copy.deepcopy(held, {id(trainer): self.twin})
        except (RuntimeError, TypeError) as error:
            raise UserError(
                f"ema needs a copy of each part, and one cannot be copied ({error}); set it to 0"
            ) from error
        self.model_list = self.copies["model_list"]
        for model in self.model_list:
            model.requires_grad_(False)

    def update(self, number: int) -> None:
        """Moves the average towards the weights after update `number`, of which the first is 0."""
        averages, weights = self._tensors
        if self._has_shards:
            averages, weights = ([local_shard(tensor) for tensor in tensors] for tensors in self._tensors)
        lerp_all(averages, weights, 1 - min(self.decay, (1 + number) / (10 + number)))

    @cached_property
    def _tensors(self) -> tuple[list[Tensor], list[Tensor]]:
        """All averages and the weights that they are of, in the same order; collected once, at the first update."""
        averages, weights = (
            [weight for weight in weights_of(models) if weight.is_floating_point() or weight.is_complex()]
            for models in (self.model_list, self.averaged)
        )
        return averages, weights

    @cached_property
    def _has_shards(self) -> bool:
        return has_shards(self.averaged)

    def twin_of(self, trainer: T) -> T:
        """What is evaluated: a copy of the trainer as it is now, but with the averages in the place of the weights."""
        copy_buffers(self.averaged, self.model_list)
        vars(self.twin).update(vars(trainer) | self.copies | {"weight_average": NoAverage()})
        twin: T = self.twin
        return twin


def modules_in(value: Any) -> Iterator[nn.Module]:
    """The modules that an attribute is, or has in a list, tuple or dict."""
    values = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else [value]
    yield from (module for module in values if isinstance(module, nn.Module))


def weights_of(modules: Iterable[nn.Module]) -> list[Tensor]:
    """Their parameters, each once, in the order of the modules."""
    return list(nn.ModuleList(modules).parameters())


@torch.no_grad()
def copy_buffers(modules: Iterable[nn.Module], copies: Iterable[nn.Module]) -> None:
    """Copies the buffers of modules to those of their copies.

    One that is new or has another size is left out: such a cache every module makes for itself.
    """
    for module, of_copy in zip(nn.ModuleList(modules).modules(), nn.ModuleList(copies).modules(), strict=True):
        own = dict(of_copy.named_buffers(recurse=False))
        for name, buffer in module.named_buffers(recurse=False):
            if name in own and own[name].shape == buffer.shape:
                own[name].copy_(buffer)
