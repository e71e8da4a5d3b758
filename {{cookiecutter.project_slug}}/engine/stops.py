"""Stopping in good order: a signal asks for it, and the trainer ends where nothing is half done."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from .distributed import Vote, is_main, world_size

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(Exception):  # noqa: N818 (nothing is wrong)
    """A stop was asked for, by `signal`; raised between two updates, or between two batches of an evaluation."""

    def __init__(self, by: signal.Signals) -> None:
        self.signal = by
        self.status = 128 + by  # of the process, as shells have it


class StopSignals:
    """Inside, SIGTERM or SIGINT (Ctrl-C) asks for a stop in place of ending the process; a second SIGINT ends it.

    Processes that train together stop together, after an update or two more, whichever of them was asked.
    Signals reach the main thread alone: in another one all stays as it is.
    """

    def __init__(self) -> None:
        self.asked: signal.Signals | None = None
        self.interrupts = 0
        self.vote = Vote()
        self.process = os.getpid()
        self.before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self.before[number] = signal.signal(number, self.note) or signal.SIG_DFL
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        if self.asked:
            end_workers()
        if error[0] is None:
            self.vote.close()
        self.asked = None

    def note(self, number: int, frame: FrameType | None) -> None:
        """Handles a signal."""
        if os.getpid() != self.process:  # a worker that was forked; its parent decides
            return
        self.interrupts += number == signal.SIGINT
        if self.interrupts > (1 if world_size() == 1 else 2):  # torchrun passes on what the terminal has sent already
            raise KeyboardInterrupt
        if not self.asked:
            self.asked = signal.Signals(number)
            # Not by print, which the signal may have interrupted.
            message = f"\n{self.asked.name}: stopping after this update, then saving; a second Ctrl-C stops at once\n"
            with suppress(OSError):
                os.write(2, message.encode() if is_main() else b"")

    def check(self) -> None:
        """Raises Stopped if a stop was asked for."""
        if number := self.vote(self.asked or 0):
            self.asked = signal.Signals(number)
            raise Stopped(self.asked)


def leave_signals_to_parent(worker: int) -> None:
    """For processes that load data: Ctrl-C and job schedulers signal them too, while the parent needs their batches."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def held_back() -> Iterator[None]:
    """Inside, the signals wait: a process that is started is not hit before it can leave them to its parent."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # which would let them through again where the first worker starts it
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_workers() -> None:
    """Ends the processes that load data, at once. Python would ask them by SIGTERM, which they ignore, and wait."""
    # torch's handler would raise for each of them that is killed.
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL) if hasattr(signal, "SIGCHLD") else None
    for worker in multiprocessing.active_children():
        if worker.daemon:
            worker.kill()
            worker.join()
    if before is not None:
        signal.signal(signal.SIGCHLD, before)
