"""Gradients of all parts together: are they finite, and one norm to clip them by."""

import math

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


def parameters_of(optimizer_list: list[Optimizer]) -> list[Tensor]:
    """All that the optimizers change."""
    return [p for optimizer in optimizer_list for group in optimizer.param_groups for p in group["params"]]


def overflow(optimizer_list: list[Optimizer]) -> Tensor:
    """1 where a gradient is inf or NaN, else 0, as a scalar that stays on the device: nothing waits for it."""
    gradients = [p.grad for p in parameters_of(optimizer_list) if p.grad is not None]
    gradients = [g.coalesce().values() if g.is_sparse else g for g in gradients]
    gradients = [torch.view_as_real(g) if g.is_complex() else g for g in gradients]
    found = torch.zeros((), device=gradients[0].device if gradients else "cpu")
    if found.device.type in ("cpu", "cuda"):
        # torch's GradScaler does it with this: one pass, a quarter of what get_total_norm takes for a small network.
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, found, torch.ones_like(found))
        return found
    return found + ~nn.utils.get_total_norm(gradients, math.inf).isfinite()


def clip(optimizer_list: list[Optimizer], scaler: torch.amp.GradScaler, limit: float) -> None:
    """Scales the gradients of all parts by one factor, so that their common norm is at most `limit`.

    A part that overflowed in fp16 is not stepped by the scaler; the others then get gradients of zero.
    """
    for optimizer in optimizer_list:
        scaler.unscale_(optimizer)
    parameters = parameters_of(optimizer_list)
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    nn.utils.clip_grads_with_norm_(parameters, limit, torch.where(norm.isfinite(), norm, math.inf))
