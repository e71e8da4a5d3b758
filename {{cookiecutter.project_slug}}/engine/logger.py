"""Logger: what is printed is written to a file too."""

import errno
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from .runtime.errors import UserError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Tee:
    """A console stream whose text is also written to `log`; all else (isatty, fileno ...) is the console's."""

    def __init__(self, console: TextIO, log: TextIO) -> None:
        self.console = console
        self.log = log
        self.warned = False

    def write(self, text: str) -> int:
        """Writes the text to both; returns its number of characters."""
        try:
            self.log.write(text)
        except (OSError, ValueError) as error:  # a full disk must not end the program that is logged
            self._warn_once(self.console, f"{self.log.name} lacks lines from here on: {error}")
        try:
            self.console.write(text)
        except OSError as error:
            self._raise_unless_full(error)
        return len(text)

    def flush(self) -> None:
        """Flushes both."""
        with suppress(OSError, ValueError):
            self.log.flush()
        try:
            self.console.flush()
        except OSError as error:
            self._raise_unless_full(error)

    def _raise_unless_full(self, error: OSError) -> None:
        """Raises the error, for instance of a closed pipe, unless the console is a file on a full disk."""
        if error.errno not in DISK_FULL:
            raise error
        self._warn_once(self.log, f"the console lacks lines from here on: {error}")

    def _warn_once(self, stream: TextIO, problem: str) -> None:
        """Writes what is missing to the stream that still works."""
        if not self.warned:
            self.warned = True
            with suppress(OSError, ValueError):
                stream.write(f"{problem}\n")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.console, name)


class Logger(Tee):
    """Copies stdout and stderr to a UTF-8 text file, line by line, inside a `with` block.

    An exception that leaves the block is written to the file with its traceback; the streams are restored in every
    case. An existing file is continued; on a full disk only the console gets the text, and a line that says so.
    Progress bars write to `sys.__stderr__` and so never reach the file.

    Raises:
        UserError: the file cannot be opened.
    """

    def __init__(self, path: str | Path) -> None:
        try:
            # Line buffering: even after a crash of the interpreter the file has every finished line.
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
            if kind is not None and not issubclass(kind, SystemExit):  # which is no failure
                self.log.write("".join(traceback.format_exception(kind, error, trace)))
            self.log.close()
