"""Images that are decoded once and kept, scaled, in a file on the disk, which later epochs and runs map into memory.

The file of a set of images has the pixels of one after the other, then their shapes, then a seal: what it is, how many
there are, and a checksum of the shapes. It gets its name when it is whole and on the disk. Its name follows from the
files and settings; whoever changes how images are read raises VERSION, so that none is found that was read before.
"""

import hashlib
import json
import math
import mmap
import os
import platform
import re
import shutil
import struct
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from engine.data.workers import Loader
from engine.monitor.console import progress, wrapped
from engine.runtime.errors import UserError
from engine.runtime.files import lock_file, sync_folder
from images import LOOKED_AT, ValueRange, in_threads, opened, pixels_of, resized, to_rgb, upright_size

VERSION = 1  # of how images are read, and of the file
GB = 10**9  # bytes
RESERVE = 2 * GB  # of the free disk space, for checkpoints and everything else
MOST_ELONGATED = 2  # longer side divided by the shorter one; of a longer image the central part is kept
BATCH = 8  # images that a worker process hands over at once
LEAST_PER_WORKER = 64  # images; with fewer, a process takes longer to start than it saves
SECONDS_BETWEEN_TRIES = 0.2  # to lock the folder
SECONDS_UNTIL_ABANDONED = 24 * 3600  # after the last write to an unfinished file
SEAL = struct.Struct("<8sQ32s")  # MAGIC, number of images, SHA-256 of their shapes
MAGIC = b"images\0\1"
SHAPE = np.dtype("<i4")  # of channels, height and width of an image
NO_RESERVE = 0x4000 if sys.platform == "linux" else 0  # mmap's flag that counts no page as memory until it is written

IN_USE: set[Path] = set()  # files that this process reads, which make no room for others


# ---- reading ----


class Reader(Protocol):
    """Reads image files, also in worker processes, for which pickle must be able to write it."""

    def __call__(self, path: Path) -> Tensor:
        """The image in a file, uint8 (C, H, W), or a UserError that names it."""
        ...

    def shape_of(self, path: Path) -> tuple[int, int, int]:
        """Channels, height and width that it will have, or nearly, without decoding it."""
        ...


@dataclass(frozen=True)
class ScaledReader:
    """Reads images upright, in RGB, and resized, up or down, so that the shorter side has `side` pixels.

    Of an image that is longer than 2:1 the central part of 2:1 is kept.

    Args:
        side: in pixels.
        value_range: what becomes 0 and 255 in an image with more than 8 bits.
        interpolation: bilinear or bicubic.
    """

    side: int
    value_range: ValueRange | None = None
    interpolation: str = "bilinear"

    def __call__(self, path: Path) -> Tensor:
        """The image in a file, uint8 (3, H, W), channels last.

        Raises:
            UserError: not an image, or a damaged one.
        """
        with opened(path) as image:
            image.draft("RGB", (self.side, self.side))  # JPEG files are decoded at no more than what is needed
            upright = to_rgb(image, self.value_range)
            width, height = central_part(*upright.size)
            left, top = (upright.width - width) // 2, (upright.height - height) // 2
            part = pixels_of(upright)[top : top + height, left : left + width].permute(2, 0, 1)
            return resized(part, *self._scaled(width, height), self.interpolation)

    def shape_of(self, path: Path) -> tuple[int, int, int]:
        """Channels, height and width of the image in a file, to about a pixel, without decoding it.

        Raises:
            UserError: not an image.
        """
        with opened(path) as image:
            return 3, *self._scaled(*central_part(*upright_size(image)))

    def _scaled(self, width: int, height: int) -> tuple[int, int]:
        """Height and width of an image when its shorter side has `side` pixels."""
        scale = self.side / min(width, height)
        return round(scale * height), round(scale * width)


def central_part(width: int, height: int) -> tuple[int, int]:
    """Width and height of what is kept of an image."""
    longest = MOST_ELONGATED * min(width, height)
    return min(width, longest), min(height, longest)


# ---- images in a file ----


class DamagedError(Exception):
    """A file of decoded images is not whole."""


class CachedImages:
    """Decoded images in a file that is mapped into memory: `images[number]` is uint8 (C, H, W), channels last.

    It is a view of the file, whose pages are read from the disk when they are first needed. A process that gets this by
    pickle maps the file itself; if the file is gone by then, it decodes images when they are asked for.

    Args:
        path: the file.
        paths: of the images that it has.
        read: what has read them.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedError: it is not whole.
    """

    def __init__(self, path: Path, paths: Sequence[Path], read: Reader) -> None:
        self.path = path
        self.paths = paths
        self.read = read
        shapes = read_shapes(path)
        lengths = shapes.prod(1)
        self.index = torch.cat([(lengths.cumsum(0) - lengths)[:, None], shapes], 1)  # first byte, shape of each
        self.num_bytes = int(lengths.sum())
        self.pixels: Tensor | None = mapped(path)

    @property
    def sizes(self) -> Tensor:
        """Height and width of every image, (N, 2)."""
        return self.index[:, 2:]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, number: int) -> Tensor:
        if self.pixels is None:
            return self.read(self.paths[number])
        start, channels, height, width = self.index[number].tolist()
        return self.pixels.as_strided((channels, height, width), (1, channels * width, channels), start)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"pixels": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        with suppress(OSError, DamagedError):
            if torch.equal(read_shapes(self.path), self.index[:, 1:]):
                self.pixels = mapped(self.path)
        if self.pixels is None:
            note_gone(self.path)


@cache
def note_gone(path: Path) -> None:
    """Says, once in a process, that a file is gone, or damaged, that a run reads."""
    print(wrapped(f"note: {path} is gone; its images are decoded again in every epoch"), flush=True)


def read_shapes(path: Path) -> Tensor:
    """Channels, height and width of the images in a file, int64 (N, 3).

    Raises:
        FileNotFoundError: there is no such file.
        DamagedError: it is shorter or longer than it was, or the shapes have changed.
    """
    with path.open("rb") as file:
        length = file.seek(0, os.SEEK_END)
        file.seek(max(0, length - SEAL.size))
        seal = file.read()
        magic, count, checksum = SEAL.unpack(seal) if len(seal) == SEAL.size else (b"", 0, b"")
        end_of_pixels = length - SEAL.size - 3 * SHAPE.itemsize * count
        if magic != MAGIC or end_of_pixels < 0:
            raise DamagedError(path)
        file.seek(end_of_pixels)
        written = file.read(3 * SHAPE.itemsize * count)
    shapes = torch.from_numpy(np.frombuffer(written, SHAPE).astype(np.int64)).view(-1, 3)
    if hashlib.sha256(written).digest() != checksum or shapes.prod(1).sum() != end_of_pixels:
        raise DamagedError(path)
    return shapes


def mapped(path: Path) -> Tensor:
    """The bytes of a file, uint8 (length,), read from the disk when they are first needed.

    What is written to them stays in this process. Windows would count the whole file as memory for that: writing to
    them ends the process there.
    """
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given buffer is not writable")
        if sys.platform == "win32":
            pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        else:
            pages = mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE | NO_RESERVE, mmap.PROT_READ | mmap.PROT_WRITE)
        return torch.frombuffer(pages, dtype=torch.uint8)


# ---- the cache ----


def cached_images(
    paths: Sequence[Path], read: Reader, settings: Mapping[str, Any], folder: str | Path, limit_gb: float, workers: int
) -> CachedImages | None:
    """The images of these files, decoded now unless they were before; None if they cannot be kept, which a line says.

    They are found again while the paths, sizes and modification times of all files, the kind of reader and its settings
    are the same. Of several runs that need them at the same time one decodes, and the others wait.

    Args:
        paths: the image files.
        read: reads one of them.
        settings: plain values on which it depends.
        folder: where decoded images are kept.
        limit_gb: the most that the folder may hold, in 10^9 bytes; what was used least recently is removed. 0: nothing.
        workers: processes that decode; 0: this process.

    Raises:
        UserError: an image that is gone or cannot be read.
    """
    if not limit_gb:
        return None
    folder = Path(folder)
    path = folder.absolute() / f"{key_of(paths, read, settings)}.images"
    try:
        images, how = _found(path, paths, read), "found in"
        if images is None:
            folder.mkdir(parents=True, exist_ok=True)
            with _locked(folder):
                images = _found(path, paths, read)  # where another run has been waited for
                if images is None and _make_room(path, paths, read, limit_gb):
                    _decode(path, paths, read, workers)
                    images, how = CachedImages(path, paths, read), "decoded once into"
    except OSError as error:
        reason = f"{folder}: {error.strerror or error}"
        print(wrapped(f"note: images cannot be kept ({reason}); they are decoded again in every epoch"))
        return None
    if images is not None:
        IN_USE.add(path)
        with suppress(OSError):
            os.utime(path)  # so that it is the last to be removed
        print(f"cache: {len(images):,} images {how} {folder}{os.sep} ({in_words(images.num_bytes)})")
    return images


def key_of(paths: Sequence[Path], read: Reader, settings: Mapping[str, Any]) -> str:
    """A name for the decoded images of these files, another one after any change of a file or setting.

    Raises:
        UserError: a file that is gone.
    """
    kind = f"{type(read).__module__}.{type(read).__qualname__}"
    digest = hashlib.sha256(json.dumps([VERSION, kind, dict(settings)], sort_keys=True).encode())
    for path in paths:
        try:
            status = os.stat(path)
        except OSError as error:
            raise UserError(f"image {path} cannot be read ({error.strerror}); repair or remove it") from error
        digest.update(os.fsencode(f"\0{os.path.abspath(path)}\0{status.st_size} {status.st_mtime_ns}"))
    return digest.hexdigest()[:24]


def in_words(size: float) -> str:
    """A number of bytes for a message."""
    return f"{size / GB:.2f} GB" if size >= GB / 100 else f"{size / 1e6:.2f} MB"


def _found(path: Path, paths: Sequence[Path], read: Reader) -> CachedImages | None:
    """The images in a file; None if there is none, or a damaged one."""
    try:
        return CachedImages(path, paths, read)
    except (FileNotFoundError, DamagedError):
        return None


class _Files(Dataset[Tensor]):
    """The images of files, for a loader."""

    def __init__(self, paths: Sequence[Path], read: Reader) -> None:
        self.paths = paths
        self.read = read

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> Tensor:
        return self.read(self.paths[number])


def _joined(images: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The bytes of some images, one after the other and each channels last, and their shapes, (B, 3)."""
    pixels = torch.cat([image.permute(1, 2, 0).flatten() for image in images])
    return pixels, torch.tensor([image.shape for image in images])


def _decode(path: Path, paths: Sequence[Path], read: Reader, workers: int) -> None:
    """Decodes the images and writes their file; nothing is left of it if that fails."""
    unfinished = path.with_name(f"{path.stem}.{_host()}.{os.getpid()}.tmp")
    workers = min(workers, len(paths) // LEAST_PER_WORKER)
    # A generator of its own: loaders draw a number, and runs that find decoded images must draw the same from torch's.
    loader = Loader(_Files(paths, read), BATCH, num_workers=workers, collate_fn=_joined, generator=torch.Generator())
    shapes = [np.empty((0, 3), SHAPE)]
    try:
        with unfinished.open("wb") as file, progress("decoding", len(paths)) as bar:
            for pixels, of_batch in loader:
                file.write(pixels.numpy())  # a full disk fails here with an error, and in mapped memory with a signal
                shapes.append(of_batch.numpy().astype(SHAPE))
                bar.update(len(of_batch))
            written = np.concatenate(shapes).tobytes()
            file.write(written + SEAL.pack(MAGIC, len(paths), hashlib.sha256(written).digest()))
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
        sync_folder(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)


# ---- the folder ----


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Inside, no other process decodes into the folder; one that does is waited for, with a line."""
    with (folder / ".lock").open("a+", encoding="utf-8") as file:
        waiting = False
        while True:
            try:
                lock_file(file)
                break
            except BlockingIOError:
                if not waiting:
                    print(wrapped(f"cache: another run is decoding images into {folder}; waiting for it"), flush=True)
                waiting = True
                time.sleep(SECONDS_BETWEEN_TRIES)
            except OSError:  # a file system without locks: two runs write files of their own, and the last one stays
                break
        yield


def _make_room(path: Path, paths: Sequence[Path], read: Reader, limit_gb: float) -> bool:
    """Whether the images find room; if that needs it, files that were used least recently are removed.

    None is removed in vain, nor one that this process reads. Where there is no room, a line says so.
    """
    folder = path.parent
    _remove_abandoned(folder)
    if path.exists():
        print(wrapped(f"cache: {path} is damaged; its images are decoded anew"))
        _remove(path)
    sample = paths[:: max(1, -(-len(paths) // LOOKED_AT))]
    needed = sum(map(math.prod, in_threads(read.shape_of, sample))) * len(paths) / max(1, len(sample))
    removable = sorted(set(folder.glob("*.images")) - IN_USE, key=lambda file: _status(file)[1])
    if needed <= min(_room(folder, removable, limit_gb)):
        while removable and needed > min(_room(folder, [], limit_gb)):
            _remove(removable.pop(0))
    by_limit, on_disk = _room(folder, removable, limit_gb)
    if needed <= min(by_limit, on_disk):
        return True
    room = in_words(max(0, min(by_limit, on_disk)))
    has = f"--cache_gb {limit_gb:g} leaves" if by_limit <= on_disk else f"the disk can spare (--cache_gb {limit_gb:g})"
    print(
        wrapped(
            f"note: {len(paths):,} images take {in_words(needed)} decoded, more than the {room} that {has}; they are "
            "decoded again in every epoch"
        )
    )
    return False


def _room(folder: Path, removable: Sequence[Path], limit_gb: float) -> tuple[float, float]:
    """Bytes that the limit and the disk have for more, once the removable files are removed."""
    sizes = {file: _status(file)[0] for file in folder.iterdir()}
    freed = sum(sizes.pop(file, 0) for file in removable)
    return limit_gb * GB - sum(sizes.values()), shutil.disk_usage(folder).free + freed - RESERVE


def _remove_abandoned(folder: Path) -> None:
    """Removes the unfinished files of runs that were killed."""
    for file in folder.glob("*.*.*.tmp"):
        _, host, process = file.stem.rsplit(".", 2)
        idle = time.time() - _status(file)[1] > SECONDS_UNTIL_ABANDONED
        if process.isdecimal() and (idle or (host == _host() and _has_ended(int(process)))):
            _remove(file)


def _remove(file: Path) -> None:
    """Removes a file, except where Windows keeps it because a process has mapped it."""
    with suppress(OSError):
        file.unlink(missing_ok=True)


def _status(file: Path) -> tuple[int, float]:
    """Size in bytes and modification time of a file; zeros if another process has just removed it."""
    try:
        status = file.stat()
    except OSError:
        return 0, 0.0
    return status.st_size, status.st_mtime


def _host() -> str:
    """The name of this machine, as a part of a file's name."""
    return re.sub(r"\W", "_", platform.node())


def _has_ended(process: int) -> bool:
    """Whether the process of that number on this machine is gone; False where that cannot be known."""
    if os.name != "posix":  # Windows has no signal 0
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return process == os.getpid()  # an earlier process of that number, since this one is not decoding now
