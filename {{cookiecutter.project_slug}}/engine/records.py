"""What a run shows while it trains: TensorBoard, progress bars, the line per epoch. log.txt is in logger.py."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer
from tqdm import tqdm


class NoWriter:
    """Stands in for a TensorBoard writer where nothing is to be recorded."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None


def open_writer(path: str | Path, first_step: int = 0) -> Any:
    """A TensorBoard writer whose records count from update `first_step` on.

    Records that an earlier process left there for these updates no longer count: a resumed run shows none twice.
    """
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


def record_epoch(writer: Any, train_loss: float, scores: Mapping[str, float], step: int) -> None:
    """Both mean losses of an epoch on one chart, and every score by name; on the disk when this returns."""
    writer.add_scalars("loss_per_epoch", {"train": train_loss, "eval": scores["loss"]}, step)
    for name, value in scores.items():
        writer.add_scalar(f"eval/{name}", value, step)
    writer.flush()


def record_histograms(writer: Any, model_list: list[nn.Module], step: int) -> None:
    """The distribution of each weight and of its last gradient."""
    for part, model in enumerate(model_list):
        for name, parameter in model.named_parameters():
            tag = f"part{part}/{name.replace('.', '/')}"
            writer.add_histogram(f"weights/{tag}", parameter.detach().float(), step)
            if parameter.grad is not None:
                writer.add_histogram(f"gradients/{tag}", parameter.grad.float(), step)


def rates_by_name(optimizer_list: list[Optimizer]) -> dict[str, float]:
    """The learning rate of every optimizer, lr/part0 ...; of its further groups too where theirs is another."""
    rates = {}
    for part, optimizer in enumerate(optimizer_list):
        first, *others = [float(group["lr"]) for group in optimizer.param_groups]
        rates[f"lr/part{part}"] = first
        rates |= {f"lr/part{part}_group{number}": lr for number, lr in enumerate(others, 1) if lr != first}
    return rates


def progress(what: str, total: int) -> Any:
    """A bar of `total` steps on the terminal's stderr; none in a pipe, and never in log.txt."""
    terminal = sys.__stderr__
    quiet = terminal is None or not terminal.isatty()
    return tqdm(total=total, desc=what, file=terminal, disable=quiet, leave=False, dynamic_ncols=True)


def epoch_line(epoch: str, train_loss: float, scores: Mapping[str, float], rates: Mapping[str, float]) -> str:
    """What an epoch came to, in a line."""
    values = {"train loss": train_loss, "eval loss": scores["loss"]}
    values |= {name: value for name, value in scores.items() if name != "loss"}
    shown = "  ".join(f"{name} {value:.4f}" for name, value in values.items())
    lrs = ", ".join(f"{lr:.3g}" for lr in rates.values())
    return f"epoch {epoch}  {shown}  next lr {lrs}"
