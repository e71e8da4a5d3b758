"""A small trainer for tests, in a temporary folder: its settings, its data, its network."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from engine.monitor.tensorboard import open_writer
from engine.settings import Fraction, MayChange, NonNegative, Positive
from engine.trainer import Trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.data import DataLoader, TensorDataset


@dataclass(frozen=True)
class SmallConfig:
    """The settings that the engine reads, with defaults that make tests short."""

    task_type: str = ""
    epochs: MayChange[Positive[int]] = 20
    lr_scheduler_type: str = "annealing"
    eta_min: MayChange[float] = 0.0
    step_size: MayChange[int] = 8
    gamma: MayChange[float] = 0.1
    patience: MayChange[int] = 3
    warm_up_mode: str = "none"
    warm_up_epochs: float | None = 1.0
    warm_up_init_lr: float = 1e-6
    accumulate: Positive[int] = 1
    clip_grad: NonNegative[float] = 0.0
    ema: Fraction = 0.0
    ckpt_dir: MayChange[str] = "check_point"
    device: MayChange[str] = "cpu"
    precision: str = "fp32"
    compile: MayChange[bool] = False
    strategy: MayChange[str] = "ddp"
    sync_timeout: MayChange[float] = 5.0
    seed: int = 0
    log_per_step: MayChange[Positive[int]] = 50
    save_per_epochs: MayChange[Positive[int]] = 1
    save_per_steps: MayChange[int] = 0
    keep_last: MayChange[int] = 3
    early_stopping_patience: MayChange[int] = 0
    histograms: MayChange[bool] = False
    pictures: MayChange[str] = "none"


SETTINGS = {field.name for field in fields(SmallConfig)}


def data(samples: int = 20, batch_size: int = 8, seed: int = 0, shuffle: bool = False) -> DataLoader[Any]:
    """Batches of x (B, 4) and y (B,), where y says whether the sum of x is positive."""
    x = torch.randn(samples, 4, generator=torch.Generator().manual_seed(seed))
    return DataLoader(TensorDataset(x, (x.sum(1) > 0).long()), batch_size, shuffle=shuffle)


def network(parts: int = 1) -> list[nn.Module]:
    """A small chain with dropout and batch normalisation, the same at every call."""
    torch.manual_seed(0)
    stages: list[nn.Module] = [nn.Linear(4, 8), nn.Sequential(nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5))]
    stages.append(nn.Linear(8, 2))
    return [nn.Sequential(*stages[: 4 - parts]), *stages[4 - parts :]]


class Small(Trainer):
    """A complete trainer; `options` are settings, or attributes that a task sets."""

    def __init__(self, folder: Path, parts: int = 1, **options: Any) -> None:
        super().__init__(SmallConfig(**{name: value for name, value in options.items() if name in SETTINGS}))
        self.ckpt_dir = folder
        self.model_list = network(parts)
        self.optimizer_list = [SGD(model.parameters(), 0.1) for model in self.model_list]
        self.train_loader, self.eval_loader = data(shuffle=True), data(seed=1)
        self.key_metric, self.key_mode = "acc", "max"
        for name, value in options.items():
            if name not in SETTINGS:
                assert hasattr(self, name), name
                setattr(self, name, value)
        self.check_init()

    def metric(self, pred: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"acc": (pred.argmax(1) == y).float().mean()}


def weights(trainer: Trainer) -> dict[str, Tensor]:
    """A copy of all parameters and buffers."""
    return {
        f"{part}.{name}": value.clone()
        for part, model in enumerate(trainer.model_list)
        for name, value in model.state_dict().items()
    }


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether all values are equal to the last bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def read_scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every scalar in the TensorBoard files of a folder, by tag: (step, value)."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def record(trainer: Trainer, folder: Path, epochs: int) -> dict[str, list[tuple[int, float]]]:
    """Trains with TensorBoard on and returns what it recorded."""
    with open_writer(folder, trainer.first_record()) as trainer.writer:
        trainer.fit(epochs)
    return read_scalars(folder)
