"""Logger: what is printed also goes into a file."""

import errno
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from . import UserError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Tee:
    """A console stream whose text also goes into `log`; in all else (isatty, fileno, encoding) it is the console."""

    def __init__(self, console: TextIO, log: TextIO) -> None:
        self.console = console
        self.log = log
        self.complained = False

    def write(self, text: str) -> int:
        """Writes the text to both; returns its number of characters."""
        try:
            self.log.write(text)
        except (OSError, ValueError) as error:  # a full disk must not end what is being logged
            self.complain(self.console, f"{self.log.name} lacks lines from here on: {error}")
        try:
            self.console.write(text)
        except OSError as error:
            self.need(error)
        return len(text)

    def flush(self) -> None:
        """Brings both up to date."""
        with suppress(OSError, ValueError):
            self.log.flush()
        try:
            self.console.flush()
        except OSError as error:
            self.need(error)

    def need(self, error: OSError) -> None:
        """Goes on where the console is a file on a full disk; else, as where its reader has gone, raises the error."""
        if error.errno not in FULL:
            raise error
        self.complain(self.log, f"the console lacks lines from here on: {error}")

    def complain(self, stream: TextIO, problem: str) -> None:
        """Says once what is missing, where that can be said."""
        if not self.complained:
            self.complained = True
            with suppress(OSError, ValueError):
                stream.write(f"{problem}\n")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.console, name)


class Logger(Tee):
    """Copies stdout and stderr into a UTF-8 text file, line by line, for as long as the `with` block lasts.

    An exception that leaves the block is written into the file with its traceback; the streams are given back in
    every case. A file that exists is continued; where the disk is full, the console alone gets the text, and a line
    that says so. Progress bars write to `sys.__stderr__` and so never get here.

    Raises:
        UserError: the file cannot be opened.
    """

    def __init__(self, path: str | Path) -> None:
        try:
            # Line buffering: after a crash, even of the interpreter, the file holds every finished line.
            log = Path(path).open("a", 1, "utf-8", errors="backslashreplace")  # noqa: SIM115 (closed by __exit__)
        except OSError as error:
            raise UserError(f"cannot write {path} ({error.strerror}); allow writing there") from error
        super().__init__(sys.stdout, log)
        self.streams: tuple[TextIO, TextIO] = (sys.stdout, sys.stderr)

    def clean(self) -> None:
        """Empties the file."""
        self.log.truncate(0)

    def __enter__(self) -> "Logger":
        self.streams = (sys.stdout, sys.stderr)
        sys.stdout = self  # type: ignore[assignment]
        sys.stderr = Tee(sys.stderr, self.log)  # type: ignore[assignment]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        sys.stdout, sys.stderr = self.streams
        with suppress(OSError):
            if kind is not None and not issubclass(kind, SystemExit):  # which is an end that was meant
                self.log.write("".join(traceback.format_exception(kind, error, trace)))
            self.log.close()
