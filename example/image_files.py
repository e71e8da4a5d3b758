"""Which image files there are: folders of splits, files in them, and a line about what is left out."""

import filecmp
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image

from engine.data.arrays import file_inputs
from engine.data.splits import SPLIT_NAMES, by_split
from engine.runtime.errors import UserError

# Known by their names; a file of any other name is looked into, for one of FORMATS.
IMAGE_TYPES = {
    ".apng", ".avif", ".bmp", ".dib", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".mpo", ".pbm", ".pgm",
    ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp",
}  # fmt: skip
FORMATS = ("AVIF", "GIF", "JPEG", "JPEG2000", "PNG", "TIFF", "WEBP")  # whose first bytes no text has
HEIF_TYPES = {".heic", ".heics", ".heif", ".hif"}  # read by pillow-heif, if that is installed
MOST_NAMED = 5  # of the files that are left out
COMPARED = 1000  # files of val and of test that are looked for in train
# What systems and editors put beside images; hidden are also all names that begin with a point.
NOT_OURS = ("@eaDir", "__MACOSX", "$RECYCLE.BIN", "#recycle", "lost+found")


def find_images(path: Path) -> list[Path]:
    """The image files in a folder and below, without hidden ones, or the file itself; prints what else is left out.

    Raises:
        UserError: there is no such file or folder.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist")
    if path.is_file():
        return [path]
    images: list[Path] = []
    others: dict[str, list[str]] = {}  # by why they are left out
    for file, reason in files_below(path):
        reason = reason or reason_against(file)
        if reason:
            others.setdefault(reason, []).append(file.name)
        else:
            images.append(file)
    for reason, names in others.items():
        shown = ", ".join(sorted(names)[:MOST_NAMED]) + (", ..." if len(names) > MOST_NAMED else "")
        print(f"left out of {path}: {len(names):,} {reason} ({shown})")
    return sorted(images)


def is_hidden(name: str) -> bool:
    """Whether a file or folder of that name is none of the person's."""
    return name.startswith(".") or name in NOT_OURS


def files_below(path: Path) -> Iterator[tuple[Path, str]]:
    """Every file in a folder and below that is not hidden, and why it cannot be read, if that is clear from here."""
    unreadable: list[Path] = []
    for folder, folders, names in os.walk(
        path, onerror=lambda e: unreadable.append(Path(e.filename)), followlinks=True
    ):
        here = os.path.realpath(folder)
        for name in sorted(folders):
            below = Path(folder, name)
            if is_hidden(name):
                folders.remove(name)
            elif below.is_symlink() and Path(here).is_relative_to(os.path.realpath(below)):
                folders.remove(name)
                yield below, "links to a folder around them"
        for name in names:
            if not is_hidden(name):
                file = Path(folder, name)
                yield file, "" if file.is_file() else "links to nothing" if file.is_symlink() else "that are no files"
    yield from ((below, "folders that may not be read") for below in unreadable)


def reason_against(file: Path) -> str:
    """Why a file is no image that can be read; empty if it is one."""
    suffix = file.suffix.lower()
    if suffix in IMAGE_TYPES:
        return ""
    if suffix in HEIF_TYPES:
        return "" if read_heif() else "HEIC files, since pillow-heif is not installed: pip install pillow-heif"
    Image.init()
    try:
        with Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN]):
            return ""
    except Exception:  # whatever Pillow raises for what is no image
        return "files that are no images"


@cache
def read_heif() -> bool:
    """Makes Pillow read HEIC files; whether it can."""
    if find_spec("pillow_heif") is None:
        return False
    from pillow_heif import register_heif_opener

    register_heif_opener()
    return True


def image_files(inputs: Sequence[Any]) -> list[Path]:
    """The image files among inputs of a prediction: those that are named, and those in folders."""
    return [file for path in file_inputs(inputs) for file in find_images(path)]


# ---- folders ----


def visible_folders(root: Path) -> list[Path]:
    """The folders in a folder, without hidden ones."""
    return sorted(path for path in root.iterdir() if path.is_dir() and not is_hidden(path.name))


def split_folders(root: Path, inside: Sequence[str] = ()) -> dict[str, Path]:
    """The folder of each split in a folder: train, and val or test or both; or the folder itself as train.

    What else lies in it, or is only called like a split, is said in a line.

    Args:
        root: where the folders are; see SPLIT_NAMES for how they may be called.
        inside: names of the folders that a split has in it; without any it has folders of any name.

    Raises:
        UserError: no such folder, two folders for a split, or val or test without train.
    """
    if not root.is_dir():
        raise UserError(f"--data {root} is no folder")

    def can_be_a_split(folder: Path) -> bool:
        return any((folder / name).is_dir() for name in inside) if inside else bool(visible_folders(folder))

    below = visible_folders(root)
    found = by_split(filter(can_be_a_split, below))
    if not found:
        note_like_splits(below)
        return {"train": root}
    if "train" not in found:
        names = ", ".join(path.name for path in found.values())
        raise UserError(f"{root} has {names} and no folder train; name the folder of the training images so")
    unused = [path for path in below if path not in found.values()]
    called_so = [path for path in unused if by_split([path])]
    for path in called_so:
        wanted = " and ".join(f"{name}/" for name in inside) or "CLASS folders"
        print(f"note: {path} is not used, since it has no {wanted}; predict.py can predict for it")
    if others := [path.name for path in unused if path not in called_so]:
        print(f"note: not used in {root}, beside {', '.join(p.name for p in found.values())}: {', '.join(others)}")
    return found


def note_like_splits(folders: Sequence[Path]) -> None:
    """Says which folders are taken for something else though they are called like splits; a UserError for all."""
    words = tuple(name for names in SPLIT_NAMES.values() for name in names)
    alike = [path.name for path in folders if path.name.lower().startswith(words)]
    if len(alike) > 1 and len(alike) == len(folders):
        raise UserError(
            f"{folders[0].parent} has the folders {', '.join(alike)}, which are called like splits; call them "
            f"{', '.join(SPLIT_NAMES)}, with a folder for each class in them"
        )
    if alike:
        print(f"note: {', '.join(alike)}: taken for no split; one would be called {', '.join(SPLIT_NAMES)}")


def note_shared_files(files: Mapping[str, Sequence[Path]]) -> None:
    """Says how many files of val and of test are in train, too, byte for byte: scores on them say too much."""
    by_size: dict[int, list[Path]] = {}
    for path in files["train"] if len(files) > 1 else []:
        by_size.setdefault(path.stat().st_size, []).append(path)
    for name in files.keys() - {"train"}:
        looked_for = files[name][:: -(-len(files[name]) // COMPARED)]
        shared = [(path, twin) for path in looked_for if (twin := twin_of(path, by_size.get(path.stat().st_size, [])))]
        if shared:
            how_many = f"{len(shared):,} of {len(looked_for):,} images of {name} that were looked for"
            print(f"note: {how_many} are in train, too, as {shared[0][0]} and {shared[0][1]}")


def twin_of(path: Path, others: Sequence[Path]) -> Path | None:
    """The first of the other files that has the same bytes; None without any."""
    return next((other for other in others if filecmp.cmp(path, other, shallow=False)), None)
