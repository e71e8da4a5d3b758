"""Stopping in good order: a signal asks for it, and the trainer ends where nothing is half done."""

import os
import signal
import threading
from contextlib import suppress
from types import FrameType
from typing import Any


class Stopped(Exception):  # noqa: N818 (nothing is wrong)
    """A stop was asked for, by `signal`; raised between two updates, or between two batches of an evaluation."""

    def __init__(self, by: signal.Signals) -> None:
        self.signal = by
        self.status = 128 + by  # of the process, as shells have it


class StopSignals:
    """Inside, SIGTERM or SIGINT (Ctrl-C) asks for a stop in place of ending the process; a second SIGINT ends it.

    Signals reach the main thread alone: in another one all stays as it is.
    """

    def __init__(self) -> None:
        self.asked: signal.Signals | None = None
        self.interrupts = 0
        self.process = os.getpid()
        self.before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self.before[number] = signal.signal(number, self.note) or signal.SIG_DFL
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def note(self, number: int, frame: FrameType | None) -> None:
        """Handles a signal."""
        if os.getpid() != self.process:  # a worker that was forked; its parent decides
            return
        self.interrupts += number == signal.SIGINT
        if self.interrupts > 1:
            raise KeyboardInterrupt
        if not self.asked:
            self.asked = signal.Signals(number)
            # Not by print, which the signal may have interrupted.
            message = f"\n{self.asked.name}: stopping after this update, then saving; a second Ctrl-C stops at once\n"
            with suppress(OSError):
                os.write(2, message.encode())

    def check(self) -> None:
        """Raises Stopped if a stop was asked for."""
        if self.asked:
            raise Stopped(self.asked)


def leave_signals_to_parent(worker: int) -> None:
    """For processes that load data: Ctrl-C and job schedulers signal them too, while the parent needs their batches."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # macOS has none: there a SIGTERM to all processes ends them
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=end_when_parent_says, daemon=True).start()


def end_when_parent_says() -> None:
    """Waits for a SIGTERM that comes from the parent, as when that ends, and ends this process too."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
