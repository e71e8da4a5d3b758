"""The losses of an epoch as it goes: their means over samples, and the first update at which a number went bad."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .checks import gone_bad
from .distributed import gather
from .metrics import SampleMeans, Sums

READ_AFTER = 10_000  # batches after which losses are read even where no log point comes: memory stays bounded


class EpochLosses:
    """Sums over the windows between log points that are closed, and the losses of the present one.

    Args:
        state: what `state_dict` gave, to go on within an epoch.
    """

    def __init__(self, state: Mapping[str, Sums] | None = None) -> None:
        self.closed: Sums = dict(state["closed"]) if state else {}
        self.window = SampleMeans(state["window"] if state else {}, READ_AFTER)
        self.watched: list[int] = []  # updates since the last check
        self.flags: list[Tensor] = []  # of each of them, and some more: not 0 where a gradient was inf or NaN

    def state_dict(self) -> dict[str, Sums]:
        """Plain numbers."""
        return {"closed": self.closed, "window": self.window.read()}

    def add(self, losses: Mapping[str, Any], samples: int, update: int) -> None:
        """Takes in the mean losses of a batch, scalars by name, and the number of the update that it belongs to."""
        self.window.add(losses, samples, update)

    def flag(self, update: int, device: torch.device) -> Tensor:
        """A zero on the device, to be made 1 there if a gradient of the update is inf or NaN."""
        if len(self.watched) == READ_AFTER:
            self.check()
        if len(self.watched) == len(self.flags):
            self.flags += torch.zeros(100, device=device).unbind()
        self.watched.append(update)
        return self.flags[len(self.watched) - 1]

    def check(self) -> None:
        """Raises a UserError that names the first update since the last check that went wrong, and what did."""
        self.window.read()
        # A term of the loss is to blame before the loss itself, and that before its gradient.
        bad = [(update, int(name == "loss"), f"{name} became {value}") for update, name, value in self.window.bad]
        if self.watched:
            by_process = gather(torch.stack(self.flags[: len(self.watched)]).tolist())
            flags = map(max, zip(*by_process, strict=True))  # of divided gradients each knows its pieces alone
            updates = [update for update, flag in zip(self.watched, flags, strict=True) if flag]
            bad += [(update, 2, "a gradient became inf or nan") for update in updates]
        self.watched = []  # their flags, all 0 where training goes on, serve again
        if bad:
            update, _, what = min(bad)
            raise gone_bad(f"{what} at update {update}")

    def close_window(self) -> dict[str, float]:
        """The means since the last log point; a new window begins."""
        means, self.closed = self.window.means(), self._all()
        self.window = SampleMeans(read_after=READ_AFTER)
        return means

    def means(self) -> dict[str, float]:
        """The means over the epoch so far."""
        return {name: total / count for name, (total, count) in self._all().items()}

    def _all(self) -> Sums:
        together = dict(self.closed)
        for name, (total, count) in self.window.read().items():
            before, counted = together.get(name, (0.0, 0))
            together[name] = (before + total, counted + count)
        return together
