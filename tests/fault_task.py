"""A small task with all that makes resuming hard: dropout, batch normalisation, augmentation, several parts."""

import os
import time
from typing import Any

import torch
from config import Config
from engine.data import Rows, choose_rows, loaders
from engine.network import merge_stages
from engine.optimizers import build_optimizers
from engine.seeding import epoch_generator, seed_everything
from engine.trainer import Trainer
from torch import Tensor, nn

SLEEP = float(os.environ.get("FAULT_SLEEP", 0))  # seconds per batch, so that there is time to send a signal


class Noisy(Rows):
    """Rows whose inputs get noise, as (seed, epoch, index) say."""

    def set_epoch(self, epoch: int) -> None:
        """Draws the noise of an epoch."""
        self.noise = torch.randn(len(self), 4, generator=epoch_generator(1, epoch))

    def __getitems__(self, indices: list[int]) -> tuple[Any, Any]:
        x, y = super().__getitems__(indices)
        return x + 0.1 * self.noise[indices], y


class Task(Trainer):
    """Says whether the sum of x (B, 4) is positive."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.configure(config)
        x = torch.randn(30, 4, generator=epoch_generator(config.seed, 0))
        y = (x.sum(1) > 0).long()
        rows = choose_rows({"train": y}, 0.3, config.seed)
        data = {name: Rows(x, y, chosen) for name, (_, chosen) in rows.items()}
        data["train"] = Noisy(x, y, rows["train"][1])
        self.train_loader, self.eval_loader, self.test_loader = loaders(
            data, config.batch_size, config.seed, config.workers, self.device
        )
        seed_everything(config.seed)
        stages = [nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8)), nn.Sequential(nn.ReLU(), nn.Dropout(0.3))]
        stages[1].append(nn.Linear(8, 8))
        self.model_list = merge_stages([*stages, nn.Linear(8, 2)], config.num_parts)
        self.optimizer_list = build_optimizers(self.model_list, config)
        self.key_metric, self.key_mode = "acc", "max"

    def loss_per_batch(self, batch: Any) -> dict[str, Tensor]:
        x, y = batch
        if SLEEP:
            print("in training" if self.model_list[0].training else "in evaluation")
            time.sleep(SLEEP)
        pred = self.forward(x)
        return {"loss": nn.functional.cross_entropy(pred, y), "size": pred.square().mean()}

    def metric(self, pred: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"acc": (pred.argmax(1) == y).float().mean()}
