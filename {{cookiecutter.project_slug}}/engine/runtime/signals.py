"""Signals: Ctrl-C and SIGTERM are noted, and the trainer stops at the next point where nothing is half done."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, TypeVar

from .command_line import started_by_torchrun

T = TypeVar("T")
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(Exception):  # noqa: N818 (it is no error)
    """A signal asked for a stop; raised between two updates, or between two batches of an evaluation."""

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)
        self.exit_status = 128 + number  # of the process, as shells have it


class StopSignals:
    """Inside, SIGTERM and SIGINT (Ctrl-C) only set `received`; a second SIGINT raises KeyboardInterrupt.

    Python delivers signals to the main thread alone: entered in another thread this changes nothing.
    """

    def __init__(self) -> None:
        self.received = 0  # number of the first signal inside; 0 before one comes, and outside
        self.interrupts = 0
        self.waiting = False  # for a batch of worker processes, with nothing half done
        self.process = os.getpid()
        self.handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self.handlers[number] = signal.signal(number, self.handle) or signal.SIG_DFL
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        if self.received:
            kill_workers()
        self.received = self.interrupts = 0

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Notes a signal. Raises KeyboardInterrupt for a second SIGINT, and Stopped inside `awaited`."""
        if os.getpid() != self.process:  # a forked DataLoader worker; its parent decides
            return
        self.interrupts += number == signal.SIGINT
        # torchrun passes on the SIGINT that a terminal has already sent to all processes.
        if self.interrupts > (2 if started_by_torchrun() else 1):
            raise KeyboardInterrupt
        if not self.received:
            self.received = number
            name = signal.Signals(number).name
            message = f"\n{name}: finishing the present batch, then saving; a second Ctrl-C stops at once\n"
            with suppress(OSError):  # written directly, since the signal may have interrupted a print
                os.write(2, message.encode() if os.environ.get("RANK", "0") == "0" else b"")
        if self.waiting:
            raise Stopped(number)

    def awaited(self, batches: Iterator[T]) -> Iterator[T]:
        """The batches; a signal that comes while the next one is waited for raises Stopped at once.

        For batches of worker processes: to draw one in this process moves its random generators, and is not broken off.
        """
        while True:
            self.waiting = True
            try:
                batch = next(batches)
            except StopIteration:
                return
            finally:
                self.waiting = False
            yield batch


def ignore_signals(worker: int) -> None:
    """For DataLoader workers: Ctrl-C and job schedulers reach them too, while the trainer still needs their batches."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def block_signals() -> Iterator[None]:
    """Inside, SIGTERM and SIGINT are blocked: a worker that starts here is not hit before it can ignore them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # starting with the first worker, it would unblock the signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def kill_workers() -> None:
    """Kills the DataLoader workers. At its end Python sends them SIGTERM, which they ignore, and waits."""
    # torch's SIGCHLD handler raises for each worker that is killed.
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL) if hasattr(signal, "SIGCHLD") else None
    for worker in multiprocessing.active_children():
        if worker.daemon:
            worker.kill()
            worker.join()
    if before is not None:
        signal.signal(signal.SIGCHLD, before)
