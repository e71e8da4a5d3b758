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
# "rank:updates:signal", which that process sends itself in the batch after so many updates; of signal 0 it raises.
SEND = os.environ.get("FAULT_SEND", "")
PLAIN = "FAULT_PLAIN" in os.environ  # without what depends on the number of processes


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
            print("in training" if self.model_list[0].training else "in evaluation")
            time.sleep(SLEEP)
        pred = self.forward(x)
        return {"loss": nn.functional.cross_entropy(pred, y), "size": pred.square().mean()}

    def metric(self, pred: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"acc": (pred.argmax(1) == y).float().mean()}
