"""Gradients of several optimizers together: cleared, checked for NaN and inf, clipped by one norm."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..distributed.fsdp import full_tensor, is_sharded, local_shard
from ..distributed.parallel import all_reduce_gradients
from ..runtime import shortcuts
from ..runtime.errors import UserError

UPDATES_BELONG = (
    "train_step does that with the loss it returns, for all optimizers; put updates of your own into "
    "train_step(batch), each as self.minimize(loss, optimizer) (gradients of inputs: torch.autograd.grad)"
)


def parameters_of(optimizers: Sequence[Optimizer]) -> list[Tensor]:
    """All that the optimizers update."""
    return [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]


@contextmanager
def refuse_steps(optimizers: Sequence[Optimizer]) -> Iterator[None]:
    """Inside, where a loss is computed, a step of one of the optimizers raises a UserError."""

    def refuse(*step: Any) -> NoReturn:
        raise UserError(f"loss_per_batch has called step() of an optimizer, but {UPDATES_BELONG}")

    hooks = [optimizer.register_step_pre_hook(refuse) for optimizer in optimizers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class Gradients:
    """The gradients of all that these optimizers update.

    Args:
        optimizers: some or all of a trainer's, after `place_parts`, which may give them shards.
    """

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self.optimizers = optimizers
        self.parameters = parameters_of(optimizers)
        self.plain: bool | None = None  # whether none is sparse, complex or sharded, once that is known

    def zero(self) -> None:
        """Sets all of them to None."""
        for parameter in self.parameters:
            parameter.grad = None

    def any(self) -> bool:
        """Whether one of them is not None."""
        return any(parameter.grad is not None for parameter in self.parameters)

    def all_reduce(self) -> None:
        """Makes each the mean over the processes."""
        all_reduce_gradients(self.parameters)

    def flag_non_finite(self, flag: Tensor) -> None:
        """Sets `flag`, a scalar on their device, to 1 if one of this process is NaN or inf; does not synchronise."""
        gradients = self._present()
        shortcuts.flag_non_finite(gradients if self.plain else [local_shard(g) for g in gradients], flag)

    def clip(self, scaler: torch.amp.GradScaler, max_norm: float) -> Tensor:
        """Clips them by their norm over all parts, and returns that norm before clipping; `max_norm` 0: no clipping.

        The scaler skips the step of a part that overflows in fp16; the others then get gradients of zero.
        """
        for optimizer in self.optimizers:
            scaler.unscale_(optimizer)
        norm = nn.utils.get_total_norm(self._present())
        norm = norm if self.plain else full_tensor(norm)
        if max_norm:
            nn.utils.clip_grads_with_norm_(self.parameters, max_norm, torch.where(norm.isfinite(), norm, torch.inf))
        return norm

    def _present(self) -> list[Tensor]:
        """Those that are not None, as real tensors: of sparse ones the values, of complex ones both components."""
        gradients = [g for p in self.parameters if (g := p.grad) is not None]
        if self.plain is None:
            self.plain = not any(g.is_sparse or g.is_complex() or is_sharded(g) for g in gradients)
        if not self.plain:
            gradients = [g.coalesce().values() if g.is_sparse else g for g in gradients]
            gradients = [torch.view_as_real(g) if g.is_complex() else g for g in gradients]
        return gradients
