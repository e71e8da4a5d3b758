"""Muon, an optimizer for convolutions: the update of a weight is orthogonalised."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class Muon(Optimizer):
    """Orthogonalised Nesterov momentum for convolutions, Nesterov momentum for all else (Jordan et al. 2024, Muon).

    torch.optim.Muon takes matrices alone, and older versions of torch have none. A convolution's weight counts as a
    matrix with a row per output channel. Each update shrinks it by the factor 1 - lr * weight_decay: before a
    normalisation layer only the direction of a weight matters, and its norm scales the effective learning rate. Other
    parameters do not decay.

    Args:
        params: parameters, or groups of them, as for any optimizer.
        lr: learning rate; the singular values of a convolution's update.
        momentum: 0 to 1.
        weight_decay: of convolutions, in groups that give none.
    """

    needs_whole_weights = True  # which FSDP does not have

    def __init__(self, params: Any, lr: float, momentum: float = 0.9, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update with the present gradients, or those of the closure, whose loss it returns."""
        with torch.enable_grad():
            loss = closure() if closure else None
        for group in self.param_groups:
            for parameter in (p for p in group["params"] if p.grad is not None):
                state = self.state[parameter]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
                momentum = state["momentum_buffer"].mul_(group["momentum"]).add_(parameter.grad)
                update = parameter.grad.add(momentum, alpha=group["momentum"])
                if update.dim() > 2:
                    update = orthogonalise(update)
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update, alpha=-group["lr"])
        return loss


def orthogonalise(update: Tensor) -> Tensor:
    """Approximately the nearest matrix with orthonormal rows, or columns if it has fewer of these.

    Five Newton-Schulz iterations with Jordan's coefficients, in bfloat16; singular values end between 0.7 and 1.2. A
    matrix with more rows than columns is scaled by the square root of their ratio.

    Args:
        update: shape (O, ...), two dimensions or more; a matrix of O rows.
    """
    channels_last = update.movedim(1, -1)  # no copy of channels-last weights; the order of columns does not matter
    matrix = channels_last.flatten(1).bfloat16()
    x: Tensor
    rows, columns = matrix.shape
    x = matrix.T if rows > columns else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    x = (x.T if rows > columns else x) * max(1.0, rows / columns) ** 0.5
    return x.view(channels_last.shape).movedim(-1, 1).to(update.dtype)
