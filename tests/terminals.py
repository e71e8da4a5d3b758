"""Programs in a terminal of their own (not on Windows)."""

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

COLUMNS = 80
END = "(?!)"  # matches nothing


@contextmanager
def in_terminal(
    command: list[str], folder: Path, **environment: str
) -> Iterator[tuple[int, "subprocess.Popen[bytes]"]]:
    """A process in a terminal of 80 columns, and the file by which it is read and typed into."""
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    env = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "TERM": "xterm-256color"} | environment
    process = subprocess.Popen(command, cwd=folder, env=env, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    yield ours, process
    process.kill()
    process.wait()
    os.close(ours)


def read_until(terminal: int, pattern: str = END) -> str:
    """What it shows until the pattern is found in it, or until the last process there has left."""
    shown = b""
    with suppress(OSError):  # how Linux says that the other end is closed
        while not re.search(pattern, shown.decode(errors="ignore")) and (piece := os.read(terminal, 2**16)):
            shown += piece
    return shown.decode()
