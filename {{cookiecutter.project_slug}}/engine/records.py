"""What a run leaves in TensorBoard. What it prints is in report.py, what it draws in figures.py."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

from torch import nn
from torch.optim import Optimizer

from .distributed import is_main
from .sharding import whole

T = TypeVar("T")


class NoWriter:
    """Stands in for a TensorBoard writer where nothing is to be recorded."""

    def __getattr__(self, name: str) -> Any:
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        """In place of any method."""


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

    @property
    def file_writer(self) -> Any:
        """What takes whole records; they fail in the same way."""
        return SimpleNamespace(add_summary=partial(self.attempt, self.writer.file_writer.add_summary))

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
    """Every value under its tag, all in one record: add_scalar would take 30 us for each."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
    writer.file_writer.add_summary(summary, step)


class Speed:
    """Samples per second since it was last read."""

    def __init__(self) -> None:
        self.samples = 0.0
        self.began = time.perf_counter()

    def read(self) -> float:
        """The speed; counting begins anew."""
        now = time.perf_counter()
        speed = self.samples / max(now - self.began, 1e-9)
        self.samples, self.began = 0.0, now
        return speed


def record_point(trainer: Any) -> float:
    """Records what came since the last log point; returns the samples per second.

    Mean losses, the rates and the gradient's norm of the update just made.
    """
    trainer.losses.check()
    losses = trainer.losses.close_window()
    trainer.logged_losses.append(losses["loss"])
    # The very first loss is far above all others and would flatten the curve.
    shown = {f"train/{name}": value for name, value in losses.items() if trainer.global_step > 1}
    shown |= rates_by_name(trainer.optimizer_list) | {"train/grad_norm": trainer.grad_norm.item()}
    trainer.last_point = trainer.global_step, shown
    speed = float(trainer.speed.read())
    record_scalars(trainer.writer, trainer.global_step, shown | {"speed/samples_per_second": speed})
    return speed


def record_epoch(writer: Any, train_loss: float, scores: Mapping[str, float], seconds: float, step: int) -> None:
    """Both mean losses of an epoch on one chart, every score by name, and how long it took."""
    writer.add_scalars("loss_per_epoch", {"train": train_loss, "eval": scores["loss"]}, step)
    values = {f"eval/{name}": value for name, value in scores.items()}
    record_scalars(writer, step, values | {"speed/seconds_per_epoch": seconds})
    writer.flush()


def record_result(trainer: Any, settings: Mapping[str, Any], test_scores: Mapping[str, float]) -> None:
    """The settings of a run and what came of it, for TensorBoard's table of runs (HParams): the last record.

    It is of the update after the last, so that a run that goes on makes it void.
    """
    scores = {f"result/best_{name}": value for name, value in trainer.best_metric.items()}
    scores |= {f"result/test_{name}": value for name, value in test_scores.items()}
    plain = {name: value if isinstance(value, (int, float, str)) else str(value) for name, value in settings.items()}
    trainer.writer.flush()  # the table has a file of its own, after which TensorBoard reads no more of this one
    trainer.writer.add_hparams(plain, scores, run_name=".", global_step=trainer.global_step + 1)


def record_histograms(writer: Any, model_list: list[nn.Module], step: int) -> None:
    """The distribution of each weight and of its last gradient."""
    for part, model in enumerate(model_list):
        for name, parameter in model.named_parameters():
            tag = f"part{part}/{name.replace('.', '/')}"
            writer.add_histogram(f"weights/{tag}", whole(parameter.detach()).float(), step)
            if parameter.grad is not None:
                writer.add_histogram(f"gradients/{tag}", whole(parameter.grad).float(), step)


def rates_by_name(optimizer_list: list[Optimizer]) -> dict[str, float]:
    """The present learning rates."""
    return by_part([float(group["lr"]) for group in optimizer.param_groups] for optimizer in optimizer_list)


def by_part(parts: Iterable[Sequence[T]]) -> dict[str, T]:
    """What is of each part's first group, by name, lr/part0 ...; of its further groups too where theirs is another."""
    named = {}
    for part, (first, *others) in enumerate(parts):
        named[f"lr/part{part}"] = first
        named |= {f"lr/part{part}_group{number}": other for number, other in enumerate(others, 1) if other != first}
    return named
