"""What a run shows while it trains: TensorBoard, progress bars, the line per epoch. log.txt is in logger.py."""

import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from tqdm import tqdm

from .distributed import is_main
from .sharding import whole


class NoWriter:
    """Stands in for a TensorBoard writer where nothing is to be recorded."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None


class Recorder:
    """A TensorBoard writer that gives up, and says so, where its files cannot be written: training does not end."""

    def __init__(self, path: str | Path, open_files: Callable[[], Any]) -> None:
        self.path = path
        self.writer: Any = NoWriter()
        self.writer = self.attempt(open_files) or self.writer

    def attempt(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The call's result; None where it fails."""
        try:
            return call(*args, **kwargs)
        except OSError as error:
            self.writer = NoWriter()
            print(f"TensorBoard's records end here: {self.path} cannot be written ({error.strerror or error})")
            return None

    def __getattr__(self, name: str) -> Any:
        return partial(self.attempt, getattr(self.writer, name))

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *error: object) -> None:
        self.attempt(self.writer.close)


def first_record(trainer: Any) -> int:
    """The first update whose TensorBoard records are still to be made: what is there for it and later is void."""
    # A stopped evaluation comes again, and what it records belongs to the update that was made last.
    return int(trainer.global_step + (trainer.epoch_step != trainer.updates_per_epoch()))


def open_writer(path: str | Path, first_step: int = 0) -> Any:
    """A TensorBoard writer whose records count from update `first_step` on.

    Records that an earlier process left there for these updates no longer count: a resumed run shows none twice.
    """
    if not is_main():
        return nullcontext(NoWriter())
    return Recorder(path, lambda: summary_writer(path, first_step))


def summary_writer(path: str | Path, first_step: int) -> Any:
    """torch's own, with the files of the chart that has two curves open."""
    # Imported here: a run without TensorBoard starts faster.
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog
    from torch.utils.tensorboard import FileWriter, SummaryWriter

    writer: Any = SummaryWriter(str(path), purge_step=first_step)
    for curve in ("train", "eval"):  # add_scalars would open the files of its curves without that purge
        directory = f"{path}/loss_per_epoch_{curve}"
        writer.all_writers[directory] = FileWriter(directory)
        start = Event(session_log=SessionLog(status=SessionLog.START))
        writer.all_writers[directory].add_event(start, step=first_step)
    return writer


def record_scalars(writer: Any, step: int, values: Mapping[str, float]) -> None:
    """Every value under its tag."""
    for tag, value in values.items():
        writer.add_scalar(tag, value, step)


def record_epoch(writer: Any, train_loss: float, scores: Mapping[str, float], step: int) -> None:
    """Both mean losses of an epoch on one chart, and every score by name."""
    writer.add_scalars("loss_per_epoch", {"train": train_loss, "eval": scores["loss"]}, step)
    record_scalars(writer, step, {f"eval/{name}": value for name, value in scores.items()})
    writer.flush()


def record_histograms(writer: Any, model_list: list[nn.Module], step: int) -> None:
    """The distribution of each weight and of its last gradient."""
    for part, model in enumerate(model_list):
        for name, parameter in model.named_parameters():
            tag = f"part{part}/{name.replace('.', '/')}"
            writer.add_histogram(f"weights/{tag}", whole(parameter.detach()).float(), step)
            if parameter.grad is not None:
                writer.add_histogram(f"gradients/{tag}", whole(parameter.grad).float(), step)


def rates_by_name(optimizer_list: list[Optimizer]) -> dict[str, float]:
    """The learning rate of every optimizer, lr/part0 ...; of its further groups too where theirs is another."""
    rates = {}
    for part, optimizer in enumerate(optimizer_list):
        first, *others = [float(group["lr"]) for group in optimizer.param_groups]
        rates[f"lr/part{part}"] = first
        rates |= {f"lr/part{part}_group{number}": lr for number, lr in enumerate(others, 1) if lr != first}
    return rates


def progress(what: str, total: int, done: int = 0) -> Any:
    """A bar of `total` steps, some of them done, on the terminal's stderr; none in a pipe, and never in log.txt."""
    terminal = sys.__stderr__
    quiet = terminal is None or not terminal.isatty() or not is_main()
    return tqdm(total=total, initial=done, desc=what, file=terminal, disable=quiet, leave=False, dynamic_ncols=True)


def start_line(trainer: Any) -> str:
    """Where and how a run computes, and the number of weights of each part."""
    weights = [list(model.parameters()) for model in trainer.model_list]
    filters = [p for part in weights for p in part if p.dim() == 4]
    last = any(p.is_contiguous(memory_format=torch.channels_last) and not p.is_contiguous() for p in filters)
    threads = f", threads {torch.get_num_threads()}" if trainer.device.type == "cpu" else ""
    parts = " + ".join(f"{sum(p.numel() for p in part):,}" for part in weights)
    layout = ", channels last" if last else ""
    return f"device {trainer.device}{threads}, precision {trainer.precision}{layout}, parameters {parts}"


def epoch_line(trainer: Any, train_loss: float, scores: Mapping[str, float], seconds: float) -> str:
    """What an epoch came to, in a line."""
    values = {"train loss": train_loss, "eval loss": scores["loss"]}
    values |= {name: value for name, value in scores.items() if name != "loss"}
    shown = "  ".join(f"{name} {value:.4f}" for name, value in values.items())
    lrs = ", ".join(f"{lr:.3g}" for lr in rates_by_name(trainer.optimizer_list).values())
    best = "  best" if trainer.best_epoch == trainer.epoch else ""
    return f"epoch {trainer.epoch}/{trainer.epochs}  {shown}  next lr {lrs}  {seconds:.1f} s{best}"


def smoke_line(trainer: Any, seconds: float) -> str:
    """What a smoke epoch came to, in a line."""
    losses = trainer.logged_losses
    return f"smoke epoch: loss {losses[0]:.4f} -> {losses[-1]:.4f} in {seconds:.1f} s"


def print_best(trainer: Any) -> None:
    """The scores of the best epoch, and the best value that each score reached in any."""
    if not trainer.best_metric:
        print(f"no epoch is the best: {trainer.key_metric} was no number in any, and there is no best.pth")
        return
    print(f"best epoch {trainer.best_epoch} (by {trainer.key_metric})")
    for name, value in trainer.best_metric.items():
        print(f"  {name:<12} {value:.4f}   best of all epochs {trainer.best_values.get(name, value):.4f}")


def print_members(members: Mapping[str, Any], print_model: bool) -> None:
    """What is short enough to read, the models too where asked."""
    print(f"{' trainer ':=^60}")
    long = {"train_loader", "eval_loader", "test_loader", "writer", "optimizer_list", "lr_scheduler_list", "meta"}
    for name, value in members.items():
        if not name.startswith("_") and name not in {*long, "replicas"} and (print_model or name != "model_list"):
            print(f"{name}: {value}")
