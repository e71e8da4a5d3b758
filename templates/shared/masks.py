"""Masks: files whose pixels say classes by numbers, palettes or colours, read as class numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from engine.runtime.errors import UserError

MOST_COLOURS = 64  # that classes can have; more are those of blurred edges
LARGEST = 255  # class number


@dataclass(frozen=True)
class MaskLook:
    """What the pixels of one mask are."""

    kind: str  # "grey", "palette" or "colour"
    colours: Mapping[int, int]  # by the numbers that occur, their colours; of "colour" the colours themselves


@dataclass(frozen=True)
class Coding:
    """How the masks of a data set say classes.

    Args:
        by_colour: whether colours say it, and not numbers.
        classes: by number or colour, the class; empty if the numbers are the classes.
    """

    by_colour: bool
    classes: Mapping[int, int]

    def class_of(self, value: int, path: Path) -> int:
        """The class of a number or colour; a UserError for a colour that is none, or a number that is too large."""
        if self.by_colour and value not in self.classes:
            known = ", ".join(map(hexadecimal, self.classes))
            raise UserError(f"mask {path} has the colour {hexadecimal(value)}, and the classes are {known}")
        if not self.by_colour and value > LARGEST:
            raise UserError(f"mask {path} has the number {value}; class numbers are 0 to {LARGEST}")
        return self.classes.get(value, value)

    def classes_in(self, look: MaskLook, path: Path) -> set[int]:
        """The classes that occur in a mask."""
        return {self.class_of(value, path) for value in (look.colours.values() if self.by_colour else look.colours)}

    def read(self, mask: Image.Image, path: Path) -> Image.Image:
        """The mask as an image of class numbers, of mode L."""
        values = colours_of(mask) if self.by_colour else numbers_of(mask)
        if self.by_colour or self.classes or values.dtype != np.uint8:
            found, where = np.unique(values, return_inverse=True)
            numbers = [self.class_of(value, path) for value in found.tolist()]
            values = np.array(numbers, dtype=np.uint8)[where].reshape(values.shape)
        return Image.fromarray(values)


def hexadecimal(colour: int) -> str:
    """A colour as in HTML: #ff0000 for red."""
    return f"#{colour:06x}"


def numbers_of(mask: Image.Image) -> Any:
    """The pixels as numbers (H, W): grey levels, indices of a palette, or 0 and 1 of a mask in black and white."""
    values = np.asarray(mask)
    return values.astype(np.uint8) if values.dtype == bool else values


def colours_of(mask: Image.Image) -> Any:
    """The pixels as colours (H, W), 0xRRGGBB."""
    red, green, blue = np.moveaxis(np.asarray(mask.convert("RGB")).astype(np.int32), 2, 0)
    return red << 16 | green << 8 | blue


def look_at_mask(mask: Image.Image, path: Path) -> MaskLook:
    """What the pixels of a mask are.

    Raises:
        UserError: a mode that says no classes, transparency, or more colours than there can be classes.
    """
    if mask.mode in ("RGBA", "LA", "PA") and min(np.asarray(mask.getchannel("A")).flat) < 255:
        raise UserError(f"mask {path} has transparent pixels, which say no class; save it without transparency")
    if mask.mode in ("RGB", "RGBA", "PA"):
        found = np.unique(colours_of(mask)).tolist()
        if len(found) > MOST_COLOURS:
            raise UserError(
                f"mask {path} has {len(found)} colours, as masks with blurred edges have; save class numbers, or one "
                f"colour for each class, {MOST_COLOURS} at most, as PNG"
            )
        return MaskLook("colour", {colour: colour for colour in found})
    if mask.mode == "LA":
        mask = mask.getchannel("L")
    if mask.mode == "P":
        numbers, first = np.unique(np.asarray(mask), return_index=True)
        colours = dict(zip(numbers.tolist(), colours_of(mask).flat[first].tolist(), strict=True))
        grey = all(colour == number * 0x010101 for number, colour in colours.items())
        return MaskLook("grey" if grey else "palette", colours)
    if mask.mode in ("1", "L", "I") or mask.mode.startswith("I;16"):
        return MaskLook("grey", {number: 0 for number in np.unique(numbers_of(mask)).tolist()})
    raise UserError(f"mask {path} has mode {mask.mode}; save class numbers as 8 bit greyscale or palette PNG")


def coding_of(looks: Mapping[Path, MaskLook], ignore_index: int) -> Coding:
    """How these masks say classes; prints what is assumed.

    Raises:
        UserError: some say it by numbers and others by colours, or some mark a class by 1 and others by 255.
    """
    first_of: dict[str, Path] = {}
    for path, look in looks.items():
        first_of.setdefault(look.kind, path)
    if "grey" in first_of and len(first_of) > 1:
        other = next(path for kind, path in first_of.items() if kind != "grey")
        raise UserError(
            f"mask {first_of['grey']} has grey levels and mask {other} has colours: whether they mean the same classes "
            "is not known; save all masks in one way"
        )
    if "grey" in first_of:
        return grey_coding(looks, ignore_index)
    differing = differing_palettes(looks)
    if "colour" not in first_of and not differing:
        return Coding(False, {})
    colours = sorted({colour for look in looks.values() for colour in look.colours.values()})
    shown = ", ".join(f"{hexadecimal(colour)} {number}" for number, colour in enumerate(colours[:MOST_COLOURS]))
    why = f"the palettes of {differing[0]} and {differing[1]} differ" if differing else "masks have colours"
    print(f"note: {why}: each colour is a class: {shown}")
    return Coding(True, {colour: number for number, colour in enumerate(colours)})


def grey_coding(looks: Mapping[Path, MaskLook], ignore_index: int) -> Coding:
    """The same for masks of grey levels, of which 0 and 255 alone are two classes; a UserError if they are mixed."""
    levels = {level for look in looks.values() for level in look.colours}
    if levels == {0, 255}:
        print("note: the masks hold 0 and 255 alone: 255 is taken for class 1")
        return Coding(False, {0: 0, 255: 1})
    # Where 255 is ignored it lies around the classes; a mask with nothing but 0 and 255 marks a class by 255.
    ignored = {path: look for path, look in looks.items() if ignore_index in look.colours}
    classes = {path: look for path, look in looks.items() if look.colours.keys() - {0, ignore_index}}
    if ignored and classes and not ignored.keys() & classes.keys():
        one, other = next(iter(classes)), next(iter(ignored))
        raise UserError(
            f"mask {one} marks classes by {sorted(classes[one].colours)[:9]} and mask {other} by "
            f"{sorted(ignored[other].colours)}, of which {ignore_index} is ignored; save all masks in one way, or give "
            "another --ignore_index"
        )
    return Coding(False, {})


def differing_palettes(looks: Mapping[Path, MaskLook]) -> tuple[Path, Path] | None:
    """Two masks in whose palettes a number has different colours; None if there are none."""
    known: dict[int, tuple[int, Path]] = {}
    for path, look in looks.items():
        if look.kind == "palette":
            for number, colour in look.colours.items():
                before, where = known.setdefault(number, (colour, path))
                if before != colour:
                    return where, path
    return None
