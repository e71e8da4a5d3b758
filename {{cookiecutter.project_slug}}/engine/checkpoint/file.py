"""A checkpoint's file: written atomically, sealed with a SHA-256 of itself, checked when it is read."""

import hashlib
import os
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from ..distributed.process_group import world_size
from ..runtime.errors import UserError
from ..runtime.files import atomic_write

SEAL = b"sha256:"


def save(state: Mapping[str, Any], path: str | Path) -> None:
    """Writes `state` to `path`: whole or not at all, and on the disk when this returns.

    Raises:
        UserError: the disk is full or cannot be written; what was at `path` is still there.
    """
    with atomic_write(path) as file:
        try:
            torch.save(dict(state), file)
        except RuntimeError as error:
            # torch reports a full disk as a failed assertion of its own.
            raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None
        seal(file)


def load(path: str | Path) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU, without executing code from it.

    Raises:
        UserError: no such file, or a file that is damaged or is no checkpoint.
    """
    if not Path(path).is_file():
        what = "is a folder; give a file in it, such as best.pth" if Path(path).is_dir() else "does not exist"
        raise UserError(f"checkpoint {path} {what}")
    if not is_intact(path):
        raise UserError(f"checkpoint {path} is damaged or is no checkpoint; use an older one")
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=world_size() > 1)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"checkpoint {path} was not loaded: it holds an object that is no plain value, which could run code"
        ) from error
    except RuntimeError as error:
        raise UserError(f"{path} is a zip file, but no checkpoint") from error
    if not isinstance(state, dict):
        raise UserError(f"{path} holds a {type(state).__name__}, not the dict of a checkpoint")
    return state


def seal(file: BinaryIO) -> None:
    """Appends to a zip archive, which torch writes, a comment with the digest of all bytes before it."""
    file.seek(-2, os.SEEK_END)
    file.write(struct.pack("<H", len(SEAL) + 64))  # the length of the comment, which was 0
    length = file.tell()
    file.write(SEAL + digest(file, length))


def digest(file: BinaryIO, length: int) -> bytes:
    """SHA-256 of the first `length` bytes, as 64 hexadecimal digits; leaves the file there."""
    file.seek(0)
    sha = hashlib.sha256()
    while block := file.read(min(2**20, length - file.tell())):
        sha.update(block)
    return sha.hexdigest().encode()


def is_intact(path: str | Path) -> bool:
    """Whether every bit is as it was written. A file of torch.save alone has no digest, but checksums of its parts."""
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            if not archive.comment:
                return archive.testzip() is None
            length = file.seek(-len(archive.comment), os.SEEK_END)
            return archive.comment == SEAL + digest(file, length)
    except Exception:  # a flipped bit in a length or an offset can raise almost anything
        return False
