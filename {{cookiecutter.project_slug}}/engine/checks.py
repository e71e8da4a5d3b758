"""What the trainer refuses, each in a line that says what to set."""

import math
from collections.abc import Mapping, Sized
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from . import UserError
from .distributed import gather
from .gradients import parameters_of
from .metrics import WORST
from .sharding import local

SMALLEST_SCALE = 2.0**-8  # of fp16 gradients; GradScaler starts with 2**16 and halves at every overflow
AT_LEAST_1 = ("epochs", "accumulate", "log_per_step", "save_per_epochs")
AT_LEAST_0 = ("clip_grad", "keep_last", "warm_up_epochs", "seed", "patience", "patience_stop", "save_per_steps")


def check_settings(trainer: Any) -> None:
    """Raises a UserError where a list or loader is missing or a number is outside its range."""
    for name in ("model_list", "optimizer_list", "train_loader", "eval_loader"):
        value = getattr(trainer, name)
        if not isinstance(value, Sized) or len(value) == 0:
            raise UserError(f"{name} is empty or has no length; set it before check_init()")
    for least, names in ((1, AT_LEAST_1), (0, AT_LEAST_0)):
        for name in names:
            if getattr(trainer, name) < least:
                raise UserError(f"{name} is {getattr(trainer, name)}; it must be {least} or more")
    if trainer.strategy not in ("ddp", "fsdp"):
        raise UserError(f"strategy {trainer.strategy!r} is unknown; choose one of ddp, fsdp")
    if trainer.strategy == "fsdp" and trainer.precision == "fp16":
        raise UserError("fp16 does not go with the strategy fsdp; set precision to bf16 or fp32")
    if trainer.key_mode not in WORST:
        raise UserError(f"key_mode {trainer.key_mode!r} is unknown; choose one of {', '.join(WORST)}")


def check_parameters(model_list: list[nn.Module], optimizer_list: list[Optimizer]) -> None:
    """Raises a UserError unless each trainable parameter has exactly one optimizer.

    The numbers of models and optimizers may differ.
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


def gone_bad(what: str) -> UserError:
    """The error for a number that is no longer one, with what can be done about it."""
    return UserError(
        f"{what}; lower lr, warm up longer or set clip_grad, and go on from the last saved state with --resume auto"
    )


def check_healthy(trainer: Any) -> None:
    """Raises a UserError for a state that must not take the place of a good one."""
    weights = [local(p.detach()) for p in parameters_of(trainer.optimizer_list) if p.requires_grad]
    norm = nn.utils.get_total_norm([piece for piece in weights if piece.numel()], math.inf)
    if not all(gather(bool(norm.isfinite()))):
        raise gone_bad(f"a weight became inf or nan by update {trainer.global_step}")
    if trainer.scaler.is_enabled() and trainer.scaler.get_scale() < SMALLEST_SCALE:
        raise UserError(
            f"by update {trainer.global_step} fp16 gradients have overflowed so often that nothing is learnt any more; "
            "set precision to bf16 or fp32, and start a new run"
        )


def check_has(values: Mapping[str, Any], name: str, what: str) -> None:
    """Raises a UserError where `name` is not among the values."""
    if name not in values:
        raise UserError(f"{name!r}, {what}, is missing; there are {', '.join(map(repr, sorted(values))) or 'none'}")
