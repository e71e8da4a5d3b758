"""What a run prints: how it starts, a bar while it trains, a row per epoch, and what came of it. log.txt: logger.py."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from .distributed import is_main
from .records import rates_by_name


def start_line(trainer: Any) -> str:
    """Where and how a run computes and, in a second line, the number of weights of each part."""
    weights = [list(model.parameters()) for model in trainer.model_list]
    filters = [p for part in weights for p in part if p.dim() == 4]
    last = any(p.is_contiguous(memory_format=torch.channels_last) and not p.is_contiguous() for p in filters)
    threads = f", threads {torch.get_num_threads()}" if trainer.device.type == "cpu" else ""
    parts = " + ".join(f"{sum(p.numel() for p in part):,}" for part in weights)
    layout = ", channels last" if last else ""
    return f"device {trainer.device}{threads}, precision {trainer.precision}{layout}\nparameters {parts}"


def progress(what: str, total: int, done: int = 0) -> Any:
    """A bar of `total` steps, some of them done, on the terminal's stderr.

    There is none in a pipe or a notebook, and never one in log.txt.
    """
    terminal = sys.__stderr__
    # In a notebook the true stderr may be the terminal of the server, but what took its place is none.
    quiet = terminal is None or not (terminal.isatty() and sys.stderr.isatty()) or not is_main()
    layout = "{desc} {percentage:3.0f}%|{bar}| {remaining} left{postfix}"
    return tqdm(
        total=total, initial=done, desc=what, file=terminal, disable=quiet, leave=False, dynamic_ncols=True,
        bar_format=layout,
    )  # fmt: skip


def state_of_bar(trainer: Any, samples_per_second: float) -> str:
    """What stands behind a bar while it goes on."""
    return f"loss {trainer.logged_losses[-1]:.4f}, lr {rates(trainer)}, {samples_per_second:,.0f} samples/s"


def rates(trainer: Any) -> str:
    """The present learning rate of the first part; dots behind it, where others have another."""
    first, *others = dict.fromkeys(f"{lr:.3g}" for lr in rates_by_name(trainer.optimizer_list).values())
    return f"{first}.." if others else first


def cell(value: float) -> str:
    """A number in seven characters, eight where it is large and negative."""
    return f"{value:.4f}" if abs(value) < 100 else f"{value:.5g}" if abs(value) < 1e5 else f"{value:.1e}"


class EpochTable:
    """A row for each epoch, with a star where it is the best so far, below a header where the columns are new."""

    def __init__(self) -> None:
        self.columns: list[str] = []

    def print_row(self, trainer: Any, train_loss: float, scores: Mapping[str, float], seconds: float) -> None:
        """What an epoch came to."""
        values = {"train loss": train_loss, "eval loss": scores["loss"]}
        values |= {name: value for name, value in scores.items() if name != "loss"}
        cells = {name: cell(v) for name, v in values.items()}
        cells = {"epoch": f"{trainer.epoch}/{trainer.epochs}"} | cells | {"next lr": rates(trainer)}
        cells |= {"seconds": f"{seconds:.1f}"}
        least = {"epoch": 2 * len(str(trainer.epochs)) + 1, "next lr": 8}
        widths = {name: max(len(name), least.get(name, 7)) for name in cells}
        if self.columns != list(cells):
            self.columns = list(cells)
            print("  ".join(name.rjust(width) for name, width in widths.items()))
        row = "  ".join(cells[name].rjust(width) for name, width in widths.items())
        print(row + (" *" if trainer.best_epoch == trainer.epoch else ""))


def print_best(trainer: Any) -> None:
    """The scores of the best epoch, and the best value that each score reached in any."""
    if not trainer.best_metric:
        print(f"no epoch is the best: {trainer.key_metric} was no number in any, and there is no best.pth")
        return
    print(f"best epoch {trainer.best_epoch} (by {trainer.key_metric})")
    for name, value in trainer.best_metric.items():
        print(f"  {name:<12} {value:.4f}   best of all epochs {trainer.best_values.get(name, value):.4f}")


def duration(seconds: float) -> str:
    """Seconds as a person would say them."""
    minutes, rest = divmod(round(seconds), 60)
    long = f"{minutes // 60} h {minutes % 60} min {rest} s".removeprefix("0 h ")
    return f"{seconds:.1f} s" if seconds < 60 else long


def end_lines(trainer: Any, seconds: float, smoke: bool) -> str:
    """How long a run took since it was started or resumed, where its files are, and how to look at them.

    Of a smoke epoch, which leaves none, its first and last loss.
    """
    if smoke:
        losses = trainer.logged_losses
        return f"smoke epoch: loss {losses[0]:.4f} -> {losses[-1]:.4f} in {seconds:.1f} s"
    run_dir = Path(trainer.ckpt_dir)
    root = run_dir.parent
    return (
        f"time {duration(seconds)}, files {run_dir}\n"
        f"curves: python -m tensorboard.main --logdir {root}\n"
        f"runs side by side: python -m engine.compare {root}"
    )


def print_table(rows: list[dict[str, str]], header: bool = True) -> None:
    """Prints rows of cells by column, each as wide as its widest cell."""
    lines = [list(rows[0])] * header + [list(row.values()) for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def print_members(members: Mapping[str, Any], print_model: bool) -> None:
    """What is short enough to read, the models too where asked."""
    print(f"{' trainer ':=^60}")
    long = {"train_loader", "eval_loader", "test_loader", "writer", "optimizer_list", "lr_scheduler_list", "meta"}
    for name, value in members.items():
        if not name.startswith("_") and name not in {*long, "replicas"} and (print_model or name != "model_list"):
            print(f"{name}: {value}")
