"""NaN and inf: what the trainer does about them.

Noticed in losses by SampleMeans.read (metrics.py), in gradients by Gradients.flag_non_finite (optim/gradients.py),
which Trainer._step calls; neither waits for the device. Trainer._check_finite raises the error at the next log point,
and `check_weights` keeps such weights from being saved.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .distributed.fsdp import local_shard
from .distributed.process_group import all_gather
from .metrics import BadValue
from .runtime.errors import UserError

SMALLEST_SCALE = 2.0**-8  # of fp16 gradients; GradScaler starts with 2**16 and halves it at every overflow


def non_finite_error(what: str) -> UserError:
    """The error for a number that has become NaN or inf, with what helps against it."""
    return UserError(
        f"{what}; continue from the last saved state with a lower lr (--resume auto --lr ...), or start a new run with "
        "a longer warm-up, or with --clip_grad 1"
    )


class NonFiniteWatch:
    """A flag per update, set on the device if a gradient is NaN or inf, and read at log points alone."""

    READ_AFTER = 10_000  # updates after which flags are read even without a log point

    def __init__(self) -> None:
        self.updates: list[int] = []  # those since the last check
        self.flags: list[Tensor] = []  # allocated in advance; the first len(updates) are in use

    @property
    def is_full(self) -> bool:
        """Whether `check` is due before the next flag."""
        return len(self.updates) >= self.READ_AFTER

    def flag(self, update: int, device: torch.device) -> Tensor:
        """A zero on the device, to be set to 1 there if a gradient of the update is NaN or inf."""
        if len(self.updates) == len(self.flags):
            self.flags += torch.zeros(100, device=device).unbind()
        self.updates.append(update)
        return self.flags[len(self.updates) - 1]

    def check(self, bad_losses: Sequence[BadValue]) -> None:
        """Raises a UserError that names the first update since the last check with NaN or inf, and in what."""
        # A term of the loss is named before the loss itself, and that before its gradient.
        bad = [(b.update, int(b.name == "loss"), f"{b.name} became {b.value}") for b in bad_losses]
        if self.updates:
            by_process = all_gather(torch.stack(self.flags[: len(self.updates)]).tolist())
            flags = map(max, zip(*by_process, strict=True))  # each process knows its own shards alone
            flagged = [update for update, flag in zip(self.updates, flags, strict=True) if flag]
            bad += [(update, 2, "a gradient became inf or nan") for update in flagged]
        self.updates = []  # if nothing is wrong, all flags are still 0 and are used again
        if bad:
            update, _, what = min(bad)
            raise non_finite_error(f"{what} at update {update}")


def check_weights(parameters: Sequence[Tensor], scaler: torch.amp.GradScaler, update: int) -> None:
    """Raises a UserError if a weight is NaN or inf, or fp16 overflows at every scale: it is not saved."""
    weights = [local_shard(p.detach()) for p in parameters if p.requires_grad]
    norm = nn.utils.get_total_norm([weight for weight in weights if weight.numel()], math.inf)
    if not all(all_gather(bool(norm.isfinite()))):
        raise non_finite_error(f"a weight became inf or nan by update {update}")
    if scaler.is_enabled() and scaler.get_scale() < SMALLEST_SCALE:
        raise UserError(
            f"by update {update} fp16 gradients have overflowed so often that nothing is learnt any more; "
            "set precision to bf16 or fp32, and start a new run"
        )
