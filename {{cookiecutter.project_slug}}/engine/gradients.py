"""Gradients of all parts together: cleared, are they finite, and one norm to clip them by."""

import math

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .sharding import is_divided, local


def parameters_of(optimizer_list: list[Optimizer]) -> list[Tensor]:
    """All that the optimizers change."""
    return [p for optimizer in optimizer_list for group in optimizer.param_groups for p in group["params"]]


class Gradients:
    """The gradients of all that the optimizers change."""

    def __init__(self, optimizer_list: list[Optimizer]) -> None:
        self.parameters = parameters_of(optimizer_list)
        self.one = torch.ones((), device=self.parameters[0].device)
        self.plain: bool | None = None  # whether none is sparse, complex or divided, once that is known

    def clear(self) -> None:
        """Forgets them, as zero_grad of each optimizer would, without what that looks up at every call."""
        for parameter in self.parameters:
            parameter.grad = None

    def present(self) -> list[Tensor]:
        """Those that there are, as real numbers: values of sparse ones, real and imaginary parts of complex ones."""
        gradients = [g for p in self.parameters if (g := p.grad) is not None]
        if self.plain is None:
            self.plain = not any(g.is_sparse or g.is_complex() or is_divided(g) for g in gradients)
        if not self.plain:
            gradients = [g.coalesce().values() if g.is_sparse else g for g in gradients]
            gradients = [torch.view_as_real(g) if g.is_complex() else g for g in gradients]
        return gradients

    def own(self) -> list[Tensor]:
        """The same, of divided ones the pieces of this process."""
        return self.present() if self.plain else [local(g) for g in self.present()]

    def overflow(self, flag: Tensor) -> None:
        """Makes `flag`, a scalar on their device, 1 where one of them is inf or NaN; nothing waits for it."""
        if self.one.device.type in ("cpu", "cuda"):
            # torch's GradScaler does it so: one pass, a quarter of what get_total_norm takes for a small network.
            torch._amp_foreach_non_finite_check_and_unscale_(self.own(), flag, self.one)
        else:
            flag.copy_(~nn.utils.get_total_norm(self.own(), math.inf).isfinite())

    def clip(self, optimizer_list: list[Optimizer], scaler: torch.amp.GradScaler, limit: float) -> Tensor:
        """Their common norm; scales all of them by one factor, so that it becomes at most `limit`, which 0 does not.

        A part that overflowed in fp16 is not stepped by the scaler; the others then get gradients of zero.
        """
        for optimizer in optimizer_list:
            scaler.unscale_(optimizer)
        norm = nn.utils.get_total_norm(self.present())
        norm = norm.full_tensor() if is_divided(norm) else norm  # type: ignore[attr-defined]
        if limit:
            nn.utils.clip_grads_with_norm_(self.parameters, limit, torch.where(norm.isfinite(), norm, math.inf))
        return norm
