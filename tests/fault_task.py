"""A small task with all that makes resuming hard: dropout, batch normalisation, augmentation, several parts."""

import os
import time
from dataclasses import replace
from typing import Any

import torch
from config import Config
from engine.data.loaders import make_loaders
from engine.data.splits import Split, make_splits
from engine.network import merge_stages
from engine.optim.optimizers import build_optimizers
from engine.runtime.seeding import epoch_generator
from engine.trainer import Trainer
from torch import Tensor, nn

SLEEP = float(os.environ.get("FAULT_SLEEP", 0))  # seconds per batch, so that there is time to send a signal
# "rank:updates:signal", which that process sends itself in the batch after so many updates; of signal 0 it raises.
SEND = os.environ.get("FAULT_SEND", "")
PLAIN = "FAULT_PLAIN" in os.environ  # without what depends on the number of processes


class Loaded(Split):
    """A split that worker processes load, where there are some."""

    in_memory = False


class Noisy(Loaded):
    """One whose inputs get noise, as (seed, epoch, index) say."""

    def set_epoch(self, epoch: int) -> None:
        """Draws the noise of an epoch."""
        self.noise = torch.randn(len(self), 4, generator=epoch_generator(1, epoch))

    def __getitems__(self, positions: list[int]) -> tuple[Any, Any]:
        x, y = super().__getitems__(positions)
        return x + 0.1 * self.noise[positions], y


class Task(Trainer):
    """Says whether the sum of x (B, 4) is positive."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        x = torch.randn(30, 4, generator=epoch_generator(config.seed, 0))
        y = (x.sum(1) > 0).long()
        train, val = make_splits(replace(config, val_fraction=0.3), {"train": (x, y)}, {"train": y}).values()
        splits = {"train": Noisy(x, y, train.indices), "val": Loaded(x, y, val.indices)}
        self.train_loader, self.eval_loader, self.test_loader = make_loaders(
            splits, config.batch_size, config.seed, self.device, config.workers
        )
        normalisation = nn.LayerNorm(8) if PLAIN else nn.BatchNorm1d(8)
        dropout = nn.Dropout(0.0 if PLAIN else 0.3)
        stages = [nn.Sequential(nn.Linear(4, 8), normalisation), nn.Sequential(nn.ReLU(), dropout)]
        stages[1].append(nn.Linear(8, 8))
        self.model_list = merge_stages([*stages, nn.Linear(8, 2)], config.num_parts)
        self.optimizer_list = build_optimizers(self.model_list, config)
        self.key_metric, self.key_mode = "acc", "max"

    def loss_per_batch(self, batch: Any) -> dict[str, Tensor]:
        x, y = batch
        rank, updates, number = SEND.split(":") if SEND else ("", "", "")
        here = os.environ.get("RANK", "0"), str(self.global_step), os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        if here == (rank, updates, "0"):
            if number == "0":
                raise RuntimeError(f"rank {rank} fails")
            os.kill(os.getpid(), int(number))
        if SLEEP:
            tried = not self.model_list[0].training and not self.global_step  # before the first epoch
            print("tried" if tried else "in training" if self.model_list[0].training else "in evaluation")
            time.sleep(SLEEP)
        pred = self.forward(x)
        return {"loss": nn.functional.cross_entropy(pred, y), "size": pred.square().mean()}

    def metric(self, pred: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"acc": (pred.argmax(1) == y).float().mean()}
