"""Atomic writes: a file is there whole or not at all, and on the disk when the write returns. And locks of files."""

import csv
import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import StringIO
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from .errors import UserError


@contextmanager
def atomic_write(path: str | Path) -> Iterator[BinaryIO]:
    """A binary file that replaces `path` when the block ends without an exception; it is then on the disk.

    Raises:
        UserError: the disk is full or cannot be written; what was at `path` is still there.
    """
    path = Path(path)
    # One name for all files of a folder: what a killed process leaves is overwritten by the next write there.
    unfinished = path.with_name(".unfinished.tmp")
    try:
        with open(unfinished, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
        sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise UserError(
                f"cannot write {path} ({error.strerror or error}); free space or allow writing there, "
                "then continue with --resume auto"
            ) from error
        raise


def write_csv(rows: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Writes rows of values by column, below a header; NaN is an empty cell.

    Raises:
        UserError: the file cannot be written.
    """
    text = StringIO(newline="")
    writer = csv.DictWriter(text, rows[0].keys())
    writer.writeheader()
    writer.writerows({name: "" if value != value else value for name, value in row.items()} for row in rows)
    with atomic_write(path) as file:
        file.write(text.getvalue().encode("utf-8", "surrogateescape"))


def read_csv(path: str | Path) -> list[dict[str, str]]:
    """The rows of a file that `write_csv` has written, as texts by column."""
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def sync_folder(folder: Path) -> None:
    """Writes the folder's list of file names to the disk: without it a new name may be lost in a power cut."""
    if os.name != "posix":  # Windows cannot open a folder, and journals its names
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP):  # some network disks cannot
            raise
    finally:
        os.close(descriptor)


def lock_file(file: TextIO) -> None:
    """Locks an open file until it is closed or the process ends; forked processes do not inherit the lock.

    Raises:
        BlockingIOError: another process has locked it.
        OSError: it is on a file system without locks.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        locking: Any = msvcrt
        file.seek(2**20)  # a byte behind the text, which others may read meanwhile
        try:
            locking.locking(file.fileno(), locking.LK_NBLCK, 1)
        except PermissionError as error:
            raise BlockingIOError(error.errno, error.strerror) from error
        return
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except PermissionError as error:  # as some systems call it
        raise BlockingIOError(error.errno, error.strerror) from error
