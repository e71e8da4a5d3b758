"""What a run records in TensorBoard."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from ..distributed.fsdp import full_tensor
from ..distributed.process_group import is_rank_0


class Writer(Protocol):
    """What the trainer records with. `open_writer` gives one that has the other methods of SummaryWriter, too."""

    def __enter__(self) -> "Writer": ...
    def __exit__(self, *error: object) -> None: ...

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """A scalar, by its tag."""

    def add_scalars(self, tag: str, values: Mapping[str, float], step: int) -> None:
        """Several curves in one chart."""

    def add_image(self, tag: str, picture: Any, step: int, dataformats: str = "CHW") -> None:
        """A picture, uint8, whose axes are those that `dataformats` names."""

    def add_histogram(self, tag: str, values: Tensor, step: int) -> None:
        """The distribution of values."""

    def add_graph(self, network: nn.Module, x: Any) -> None:
        """The graph of a network for an input."""

    def add_result(self, settings: Mapping[str, Any], scores: Mapping[str, float], step: int) -> None:
        """The settings of a run beside its final scores: the last record of a run."""

    def flush(self) -> None:
        """Writes what was recorded to the disk."""


class NullWriter:
    """Records nothing: it has every method of a writer, and none does anything."""

    def __enter__(self) -> "NullWriter":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def __getattr__(self, name: str) -> Callable[..., None]:
        return _nothing


def _nothing(*args: Any, **kwargs: Any) -> None:
    pass


class TensorBoardWriter:
    """torch's SummaryWriter; if its files cannot be written, it says so once and training continues.

    Args:
        path: folder of the files.
        first_step: the first update whose records are still to come. What an earlier process has recorded for it and
            later updates no longer counts, so that a resumed run shows none twice.
    """

    def __init__(self, path: str | Path, first_step: int) -> None:
        self.path = path
        self.writer: Any = NullWriter()
        self.writer = self._attempt(_summary_writer, path, first_step) or self.writer

    def _attempt(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The result of the call; None if it fails."""
        try:
            return call(*args, **kwargs)
        except OSError as error:
            self.writer = NullWriter()
            print(f"TensorBoard's records end here: {self.path} cannot be written ({error.strerror or error})")
            return None

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return partial(self._attempt, getattr(self.writer, name))

    def __enter__(self) -> "TensorBoardWriter":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def add_result(self, settings: Mapping[str, Any], scores: Mapping[str, float], step: int) -> None:
        """A row of TensorBoard's table of runs, HPARAMS."""
        self.flush()  # the table has a file of its own, after which TensorBoard reads no more of this one
        plain = {name: v if isinstance(v, (int, float, str)) else str(v) for name, v in settings.items()}
        self.add_hparams(plain, dict(scores), run_name=".", global_step=step)


def open_writer(path: str | Path, first_step: int = 0) -> Writer:
    """A writer whose records count from update `first_step` on; on other ranks than 0 one that records nothing."""
    writer: Any = TensorBoardWriter(path, first_step) if is_rank_0() else NullWriter()
    return writer  # type: ignore[no-any-return]


def _summary_writer(path: str | Path, first_step: int) -> Any:
    """torch's SummaryWriter, with the files of the two curves of loss_per_epoch already open."""
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


def record_scalars(writer: Writer, values: Mapping[str, float], step: int) -> None:
    """Scalars by tag, all of the same step."""
    for tag, value in values.items():
        writer.add_scalar(tag, value, step)


def record_epoch(writer: Writer, train_loss: float, scores: Mapping[str, float], seconds: float, step: int) -> None:
    """Both mean losses of an epoch in one chart, every score by name, and how long the epoch took."""
    writer.add_scalars("loss_per_epoch", {"train": train_loss, "eval": scores["loss"]}, step)
    values = {f"eval/{name}": value for name, value in scores.items()}
    record_scalars(writer, values | {"speed/seconds_per_epoch": seconds}, step)
    writer.flush()


def record_histograms(writer: Writer, model_list: list[nn.Module], step: int) -> None:
    """The distribution of each weight and of its last gradient."""
    for part, model in enumerate(model_list):
        for name, parameter in model.named_parameters():
            tag = f"part{part}/{name.replace('.', '/')}"
            writer.add_histogram(f"weights/{tag}", full_tensor(parameter.detach()).float(), step)
            if parameter.grad is not None:
                writer.add_histogram(f"gradients/{tag}", full_tensor(parameter.grad).float(), step)
