"""How a pretrained network is trained: epochs, batches and learning rates, and what is frozen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from config import Config
from engine.runtime.errors import UserError
from engine.schedulers import EPOCHS

FINE_TUNING_EPOCHS = 6
LEAST_BATCHES = 8  # of an epoch, unless they had fewer samples than LEAST_BATCH
LEAST_BATCH = 8


def choose_epochs(config: Config, meta: Mapping[str, Any]) -> int:
    """How many epochs to train: as `config` says, else fewer for a pretrained network."""
    return config.epochs or (FINE_TUNING_EPOCHS if meta["pretrained"] else EPOCHS)


def choose_batch_size(config: Config, meta: Mapping[str, Any], samples: int) -> int:
    """Samples per batch, `config.batch_size` at most: fine-tuning needs some updates in every epoch."""
    if not meta["pretrained"] or samples >= LEAST_BATCHES * config.batch_size:
        return config.batch_size
    size = min(config.batch_size, max(LEAST_BATCH, samples // LEAST_BATCHES))
    if size < config.batch_size:
        print(f"batches have {size} images, so that an epoch of {samples:,} has {-(-samples // size)} updates")
    return size


def freeze(stages: Mapping[str, nn.Module], config: Config, meta: Mapping[str, Any]) -> "Frozen":
    """Takes stages out of training: their weights stay, and so do the statistics of their batch normalisation.

    Those of all pretrained stages stay: a small batch of other images would give worse ones.

    Args:
        stages: by name; all but the last one are pretrained, if the network is.
        config: names those to freeze; None is the first stage of a pretrained network or, with `freeze_epochs`, all
            but the last one.
        meta: says whether the network is pretrained.

    Raises:
        UserError: an unknown name, or all stages; or `freeze_epochs` where nothing is frozen, or with a strategy that
            cannot unfreeze.
    """
    *first, _ = stages
    if config.freeze_epochs and config.strategy == "fsdp":
        raise UserError("--freeze_epochs does not go with the strategy fsdp; leave it out, or use ddp")
    names: Sequence[str] = first[: None if config.freeze_epochs else 1] if meta["pretrained"] else ()
    if config.freeze is not None:
        names = config.freeze
    if config.freeze_epochs and not names:
        raise UserError(
            f"--freeze_epochs {config.freeze_epochs}: nothing is frozen; name stages with --freeze, or leave it out"
        )
    if unknown := [name for name in names if name not in stages]:
        raise UserError(f"--freeze {unknown[0]} is unknown; choose from {', '.join(stages)}")
    if set(names) == stages.keys():
        raise UserError(f"--freeze {' '.join(names)} leaves nothing to train; leave one out")
    for name in first if meta["pretrained"] else ():
        freeze_statistics(stages[name])
    frozen = [weight for name in names for weight in stages[name].parameters() if weight.requires_grad]
    for weight in frozen:
        weight.requires_grad_(False)
    return Frozen(frozen, config.freeze_epochs)


@dataclass(frozen=True)
class Frozen:
    """Weights that are out of training."""

    weights: Sequence[nn.Parameter]
    epochs: int  # after which they are trained, too; 0: never

    def begin_epoch(self, epoch: int) -> None:
        """Before an epoch, the first one being 1: trains them from here on, once their epochs are over."""
        if 0 < self.epochs < epoch and self.weights and not self.weights[0].requires_grad:
            print(f"from epoch {epoch} on the frozen stages are trained, too")
            for weight in self.weights:
                weight.requires_grad_(True)


def lr_factors(stages: Sequence[nn.Module], config: Config, meta: Mapping[str, Any]) -> dict[Tensor, float]:
    """By which each weight's learning rate is multiplied: the stages before the last one are pretrained, and slower.

    They are not where `lr` has a rate for each part: then these are the rates.
    """
    if not meta["pretrained"] or len(config.lr) > 1:
        return {}
    pretrained = (parameter for stage in stages[:-1] for parameter in stage.parameters())
    return dict.fromkeys(pretrained, config.backbone_lr_factor)


def freeze_statistics(stage: nn.Module) -> None:
    """Keeps the batch normalisation of a pretrained stage as it is."""
    for module in stage.modules():
        if getattr(module, "track_running_stats", False):
            module.requires_grad_(False)
