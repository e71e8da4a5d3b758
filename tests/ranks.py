"""Processes that train together, as torchrun starts them; and, as a script, small runs whose ends tests compare."""

import itertools
import json
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
if __name__ == "__main__":
    ROOT = HERE.parent
    sys.path[:0] = [str(HERE), str(ROOT / "{{cookiecutter.project_slug}}"), str(ROOT / "templates" / "shared")]

import torch  # noqa: E402
from classification import MacroF1  # noqa: E402
from engine.checkpoint.state import collect  # noqa: E402
from engine.data.loaders import make_loaders  # noqa: E402
from engine.data.splits import Split  # noqa: E402
from engine.distributed.process_group import all_gather, process_group, rank, world_size  # noqa: E402
from engine.runtime.command_line import command_line  # noqa: E402
from engine.trainer import Trainer  # noqa: E402
from scripts import start_script  # noqa: E402
from small import SmallConfig  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.optim import SGD, Adam  # noqa: E402
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

CASES = list(itertools.product(range(1, 18), (1, 2, 4, 5)))  # samples, batch size
FREEZING = [(17, 2), (17, 5)]  # in which the first part is frozen for an epoch; fsdp, which cannot do that, skips them


def cases_of(strategy: str) -> list[tuple[int, int]]:
    """Which of them are tried: pieces of weights take longer."""
    return CASES[:: 3 if strategy == "fsdp" else 1]


def free_port() -> int:
    """A port of this host that nothing listens to."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def start_ranks(folder: Path, argv: Sequence[str], output: Path, world: int, **environment: str) -> list[Any]:
    """Starts `python *argv` in `folder` as `world` processes; each prints into a file rank<N>.txt in `output`."""
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(world)}
    output.mkdir(parents=True, exist_ok=True)
    places = [{"RANK": str(number), "LOCAL_RANK": str(number)} for number in range(world)]
    files = [output / f"rank{number}.txt" for number in range(world)]
    pairs = zip(files, places, strict=True)
    return [start_script(folder, argv, file, **environment, **place) for file, place in pairs]


def said(output: Path, world: int) -> list[str]:
    """What each of them printed."""
    return [(output / f"rank{number}.txt").read_text("utf-8") for number in range(world)]


def end_ranks(processes: list[Any], output: Path, seconds: float = 120) -> list[int]:
    """Waits for them; their exit statuses."""
    for process in processes:
        process.join(seconds)
    if hung := [process for process in processes if process.is_alive()]:
        for process in hung:
            process.kill()
            process.join()
        raise TimeoutError(f"{len(hung)} of {len(processes)} hung\n" + "\n".join(said(output, len(processes))))
    return [process.exitcode for process in processes]


def run_ranks(folder: Path, argv: Sequence[str], output: Path, world: int, **environment: str) -> list[str]:
    """Runs `python *argv` in `folder` as `world` processes, all to a good end; what each printed."""
    statuses = end_ranks(start_ranks(folder, argv, output, world, **environment), output)
    assert not any(statuses), f"exit statuses {statuses}\n" + "\n".join(said(output, world))
    return said(output, world)


class Uneven(Trainer):
    """Three classes of rows (N, 4) in two parts, each with an optimizer of its own; and all kinds of scores."""

    def __init__(self, folder: Path, samples: int, batch_size: int, plain: bool, **settings: Any) -> None:
        super().__init__(SmallConfig(**settings))
        self.ckpt_dir = folder
        generator = torch.Generator().manual_seed(samples)
        x = torch.randn(samples, 4, generator=generator)
        y = torch.randint(3, (samples,), generator=generator)
        split = Split(x, y, torch.arange(samples))
        self.train_loader, self.eval_loader, _ = make_loaders(
            {"train": split, "val": split}, batch_size, 0, self.device
        )
        if plain:  # batches from elsewhere, of which every process gets all
            self.eval_loader = list(zip(x.split(batch_size), y.split(batch_size), strict=True))
            self.train_loader = DataLoader(TensorDataset(x, y), batch_size, shuffle=True)
        torch.manual_seed(0)
        self.model_list = [nn.Sequential(nn.Linear(4, 8), nn.Tanh()), nn.Linear(8, 3)]
        self.optimizer_list = [SGD(self.model_list[0].parameters(), 0.1, 0.9), Adam(self.model_list[1].parameters())]
        self.dataset_metrics = {"f1": MacroF1(3)}
        self.frozen_epochs = int((samples, batch_size) in FREEZING)
        self.key_metric, self.key_mode = "acc", "max"
        self.check_init()

    def begin_epoch(self) -> None:
        self.model_list[0].requires_grad_(self.epoch > self.frozen_epochs)

    def eval_scores_per_batch(self, batch: Any) -> dict[str, Tensor]:
        x, y = batch
        pred = self.forward(x)
        self.dataset_metrics["f1"].update(pred, y)
        return {"acc": (pred.argmax(1) == y).float().mean(), "largest": pred.max(1).values.mean()}


def end_of_run(samples: int, batch_size: int, folder: Path, strategy: str) -> dict[str, Any]:
    """What a run of two epochs comes to, as plain numbers."""
    settings = {"accumulate": 1 + samples % 2, "lr_scheduler_type": "loss", "patience": 0, "clip_grad": samples % 3}
    settings |= {"save_per_epochs": 9, "log_per_step": 2, "strategy": strategy, "ema": 0.9 * (samples % 2)}
    trainer = Uneven(folder, samples, batch_size, samples % 5 == 0, **settings)
    trainer.fit(2)
    end = collect(trainer, optim=True)
    end = all_gather(end)[0] if strategy == "fsdp" else end  # rank 0 alone has whole tensors
    best = torch.load(folder / "best.pth")
    return {
        "weights": [
            value.flatten().tolist()
            for name in ("model0", "model1", "ema0", "ema1")
            for value in end.get(name, {}).values()
        ],
        "momentum": [state["momentum_buffer"].flatten().tolist() for state in end["optimizer0"]["state"].values()],
        "best weights": [value.flatten().tolist() for value in best["model0"].values()],
        "rates": [group["lr"] for optimizer in trainer.optimizer_list for group in optimizer.param_groups],
        "updates": trainer.global_step,
        "train": trainer.train_means,
        "scores": trainer.evaluate(trainer.eval_loader),
        "best": [trainer.best_metric, trainer.best_values, trainer.best_epoch],
        "logged": trainer.logged_losses,
    }


def main(argv: list[str]) -> None:
    """Writes the ends of all runs to a file of this process, with what every process has that must be the same."""
    output, strategy = argv
    with process_group(SmallConfig()):
        cases = cases_of(strategy)
        ends = [end_of_run(*case, Path(output, "runs", str(number)), strategy) for number, case in enumerate(cases)]
        place = [rank(), world_size(), all_gather(rank())]
        Path(output, f"ends{rank()}.json").write_text(json.dumps({"place": place, "ends": ends}))


if __name__ == "__main__":
    command_line(main)
