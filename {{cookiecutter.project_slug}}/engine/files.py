"""Files that are there whole or not at all: written beside their place, put onto the disk, then renamed."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from . import UserError


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when the block ends well; it is then on the disk, whatever happens next.

    Raises:
        UserError: the disk is full or cannot be written; what was at `path` is still there.
    """
    path = Path(path)
    # One name for all: what a killed process leaves is overwritten by the next save in that folder.
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
                f"cannot write {path} ({error.strerror or error}); make room or allow writing there, "
                "then go on with --resume auto"
            ) from error
        raise


def sync_folder(folder: Path) -> None:
    """Puts the folder's list of files onto the disk: a file's new name is not there before."""
    if os.name != "posix":  # Windows cannot open a folder, and keeps its list in a journal
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP):  # some network disks cannot
            raise
    finally:
        os.close(number)
