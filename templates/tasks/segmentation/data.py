"""Images with a mask each, of any size: from files to data set splits, for training and prediction."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

import pretrained
from config import Config
from engine.data.arrays import array_batches
from engine.data.splits import Split, choose_splits, sizes_of
from engine.runtime.errors import UserError
from engine.runtime.seeding import epoch_generator
from image_files import find_images, image_files, note_shared_files, split_folders
from images import (
    FITS_INTO_MEMORY,
    ValueRange,
    in_threads,
    median_shorter_side,
    opened,
    survey,
    to_rgb,
    to_tensor,
    upright_size,
)
from masks import MOST_COLOURS, Coding, MaskLook, coding_of, hexadecimal, look_at_mask
from pairs import AugmentedPairs, Pair, Pairs, augmentation_of

LARGEST = {"small": 256, "pretrained": 384}  # shorter side of images, in pixels, by default
# By split, pairs, and their heights and widths; and, for prediction, the names of the classes and more.
Found = tuple[dict[str, Any], dict[str, list[tuple[int, int]]], dict[str, Any]]


def load_data(config: Config) -> tuple[dict[str, Split], dict[str, Any]]:
    """The splits train, val and, if there is one, test, and what prediction needs to know.

    Without a val split a part of train is held out; test never chooses the model.

    Raises:
        UserError: files that cannot be used.
    """
    pairs, sizes, meta = (make_synthetic if config.data == "synthetic" else read_folder)(config)
    strata = {name: torch.zeros(len(split)) for name, split in sizes.items()}
    chosen = choose_splits(config, strata)
    splits = {name: Pairs(pairs[source], sizes[source], indices) for name, (source, indices) in chosen.items()}
    train, augmentation = splits["train"], augmentation_of(config, meta["image_size"])
    meta |= image_statistics(train) if meta["backbone"] == "small" else {}
    cropped = f"cropped to {augmentation.crop_size} pixels"
    print(f"data: {sizes_of(splits)} images, {cropped}, {len(meta['classes'])} classes")
    return {**splits, "train": AugmentedPairs(train, augmentation, config.seed)}, meta


def network_for(config: Config, side: int) -> dict[str, Any]:
    """The network and the shorter side of its images, in pixels; of a pretrained one mean and deviation of channels.

    Args:
        config: whose `backbone` may be "auto": see `choose_network` in pretrained.py.
        side: the median shorter side of the training images, in pixels.
    """
    chosen = pretrained.choose_network(config.backbone, config.weights, side)
    expected = {} if chosen["backbone"] == "small" else pretrained.what_it_expects(chosen["backbone"])
    image_size = config.image_size or min(LARGEST["pretrained" if expected else "small"], side)
    chosen |= {name: expected[name] for name in ("mean", "std") if name in expected}
    return chosen | {"width": config.width, "image_size": image_size}


def image_statistics(train: Pairs) -> dict[str, list[float]]:
    """Of up to 200 of the images: mean and standard deviation of each channel."""
    sample = torch.cat([train.pair(i)[0].flatten(1) for i in range(0, len(train), len(train) // 200 + 1)], 1).float()
    return {"mean": sample.mean(1).tolist(), "std": sample.std(1).clamp(min=1).tolist()}


# ---- files ----


class PairFiles:
    """Pairs that are read when indexed by their number."""

    def __init__(self, files: Sequence[tuple[Path, Path]], reader: "PairReader") -> None:
        self.files = files
        self.reader = reader

    def __getitem__(self, number: int) -> Pair:
        return self.reader(self.files[number])


@dataclass(frozen=True)
class PairReader:
    """Reads an image and its mask, scaled down so that the shorter side is `image_size`, if it is longer."""

    image_size: int
    value_range: ValueRange | None  # of images with more than 8 bits
    coding: Coding  # of masks

    def __call__(self, files: tuple[Path, Path]) -> Pair:
        image, mask = files
        return read_image(image, self.image_size, self.value_range), read_mask(mask, self.image_size, self.coding)


def read_folder(config: Config) -> Found:
    """A folder of one's own: train/images/* and train/masks/*, and val or test or both with the same; or these alone.

    The names of the classes are the lines of classes.txt or, without it, the numbers up to the largest in train, or
    colours.

    Raises:
        UserError: a folder, image or mask is missing, has another size or an unknown class, or there is one class.
    """
    root = Path(config.data)
    folders = {"train": root} if (root / "images").is_dir() else split_folders(root, ("images", "masks"))
    if not (folders["train"] / "images").is_dir():
        raise UserError(f"--data {root}: neither {root / 'train' / 'images'} nor {root / 'images'} is a folder")
    files = {name: find_pairs(folder) for name, folder in folders.items()}
    note_shared_files({name: [image for image, _ in pairs] for name, pairs in files.items()})
    everything = [pair for pairs in files.values() for pair in pairs]
    looks = dict(zip([mask for _, mask in everything], in_threads(look_at_pair, everything), strict=True))
    coding = coding_of({mask: look for mask, (_, look) in looks.items()}, config.ignore_index)
    found = {mask: coding.classes_in(look, mask) for mask, (_, look) in looks.items()}
    by_split = {name: {mask: found[mask] for _, mask in pairs} for name, pairs in files.items()}
    classes = check_classes(root, by_split, coding, config.ignore_index)

    sizes = {name: [looks[mask][0] for _, mask in pairs] for name, pairs in files.items()}
    meta = network_for(config, median_shorter_side(sizes["train"]))
    image_size = meta["image_size"]
    value_range = survey([image for image, _ in files["train"]]).value_range
    reader = PairReader(image_size, value_range, coding)
    scaled = {name: [scaled_size(size, image_size)[::-1] for size in of] for name, of in sizes.items()}
    keep = sum(4 * height * width for of in scaled.values() for height, width in of) <= FITS_INTO_MEMORY
    pairs = {name: in_threads(reader, of) if keep else PairFiles(of, reader) for name, of in files.items()}
    return pairs, scaled, meta | {"classes": classes, "value_range": value_range}


def check_classes(root: Path, found: dict[str, dict[Path, set[int]]], coding: Coding, ignored: int) -> list[str]:
    """The names of the classes; prints in how many masks of train each is.

    Args:
        root: where classes.txt may be.
        found: by split, the classes in each mask.
        coding: what the masks say classes by.
        ignored: what is no class.

    Raises:
        UserError: fewer than two classes, numbers with a gap, or a class in val or test that train does not have.
    """
    present = {name: set().union(*masks.values()) - {ignored} for name, masks in found.items()}
    names, in_train = read_names(root / "classes.txt"), present["train"]
    for split, masks in found.items():
        for mask, in_mask in masks.items():
            if coding.by_colour and (unknown := in_mask - in_train):
                colour = hexadecimal(list(coding.classes)[min(unknown)])
                raise UserError(f"mask {mask} has the colour {colour}, which no mask of train has")
            if names and (unknown := in_mask - set(range(len(names))) - {ignored}):
                raise UserError(
                    f"mask {mask} has the class {min(unknown)}, and classes.txt names 0 to {len(names) - 1}"
                )
            if split != "train" and not names and (unknown := in_mask - in_train - {ignored}):
                known = f"the classes are 0 to {max(in_train, default=0)}, and {ignored} is ignored"
                raise UserError(f"mask {mask} has the unknown class {min(unknown)}; {known}")
    if len(in_train) < 2 or not (names or in_train == set(range(len(in_train)))) or not all(present.values()):
        shown = "; ".join(f"{name} {sorted(indices)[:9]}" for name, indices in present.items())
        raise UserError(
            f"the masks in {root} have the numbers {shown}, beside {ignored}, which is ignored; they must "
            "be 0, 1, 2 ... without a gap, two or more (or named in classes.txt), and every split has some"
        )
    if not names and len(in_train) > MOST_COLOURS:
        raise UserError(
            f"the masks in {root} have {len(in_train)} different numbers, as masks with blurred edges have; give each "
            "pixel the number of its class, or name the classes in classes.txt"
        )
    if not names:
        names = list(map(hexadecimal, coding.classes)) if coding.by_colour else [str(c) for c in sorted(in_train)]
    counts = [sum(number in in_mask for in_mask in found["train"].values()) for number in range(len(names))]
    shown = ", ".join(f"{name} {count:,}" for name, count in zip(names, counts, strict=True))
    print(f"masks of train in which a class is: {shown}")
    return names


def read_names(path: Path) -> list[str]:
    """The lines of classes.txt, none if there is none; a UserError for an empty line or one that is not UTF-8."""
    try:
        names = path.read_text("utf-8-sig").rstrip().split("\n") if path.exists() else []
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8; save it as UTF-8") from error
    if not all(map(str.strip, names)):
        raise UserError(f"{path} has an empty line; line N names class N - 1")
    return [name.strip() for name in names]


def by_stem(paths: Sequence[Path]) -> dict[str, Path]:
    """Files by their names without suffix; a UserError if two have the same."""
    stems: dict[str, Path] = {}
    for path in paths:
        if stems.setdefault(path.stem, path) != path:
            raise UserError(f"{stems[path.stem]} and {path} have the same stem, by which masks are named; rename one")
    return stems


def find_pairs(folder: Path) -> list[tuple[Path, Path]]:
    """The files in images/ and the masks of the same stems in masks/; or of these stems with one ending, as _mask.

    Raises:
        UserError: no images, two of the same stem, one without a mask, or a mask in JPEG, which blurs class indices.
    """
    images, masks = (by_stem(find_images(folder / name)) for name in ("images", "masks"))
    if not images:
        raise UserError(f"{folder / 'images'} has no images")
    ending = ending_of(masks, images)
    for stem, image in images.items():
        if stem + ending not in masks:
            raise UserError(f"{image} has no mask {folder / 'masks' / (stem + ending)}.png")
        if masks[stem + ending].suffix.lower() in (".jpg", ".jpeg", ".jfif"):
            raise UserError(f"mask {masks[stem + ending]} is JPEG, which blurs class numbers; save masks as PNG")
    if unused := len(masks) - len(images):
        print(f"note: {unused:,} masks in {folder / 'masks'} belong to no image")
    return [(image, masks[stem + ending]) for stem, image in images.items()]


def ending_of(masks: dict[str, Path], images: dict[str, Path]) -> str:
    """What the stems of masks have behind those of their images: nothing, or something like _mask."""
    first = min(images)
    endings = [stem.removeprefix(first) for stem in masks if stem.startswith(first)]
    if first in masks or not endings:
        return ""
    print(f"masks have the names of their images with {min(endings)} behind")
    return min(endings)


def look_at_pair(files: tuple[Path, Path]) -> tuple[tuple[int, int], MaskLook]:
    """Width and height of a pair, and what its mask is; a UserError if image and mask differ in size."""
    image_path, mask_path = files
    with opened(image_path) as image, opened(mask_path) as mask:
        size = upright_size(image)
        if size != mask.size:
            sizes = "{} x {} pixels, its image {} {} x {}".format(*mask.size, image_path, *size)
            raise UserError(f"mask {mask_path} has {sizes}")
        return size, look_at_mask(mask, mask_path)


def scaled_size(size: tuple[int, int], image_size: int) -> tuple[int, int]:
    """Width and height scaled down so that the shorter side is `image_size`, if it is longer."""
    scale = min(1, image_size / min(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def read_image(path: Path, image_size: int, value_range: ValueRange | None) -> Tensor:
    """An image, uint8 (3, H, W), scaled down to `image_size`; a UserError if it cannot be read."""
    with opened(path) as image:
        upright = to_rgb(image, value_range)
        return to_tensor(upright.resize(scaled_size(upright.size, image_size), Image.Resampling.BILINEAR))


def read_mask(path: Path, image_size: int, coding: Coding) -> Tensor:
    """A mask, uint8 class indices (H, W), scaled down in the same way; a UserError if it cannot be read."""
    with opened(path) as mask:
        classes = coding.read(mask, path)
        return to_tensor(classes.resize(scaled_size(classes.size, image_size), Image.Resampling.NEAREST))


def make_synthetic(config: Config) -> Found:
    """Discs and bars of two brightnesses, some of them cut off, with noise: seeded, and learnt in seconds."""
    generator = epoch_generator(config.seed, 0)
    side = config.image_size or 32
    down, right = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    pairs: dict[str, Any] = {}
    for name, count in {"train": 320 if config.smoke else 768, "test": 64}.items():
        pairs[name] = []
        for draws in torch.rand(count, 4, generator=generator):
            y, x, u, v = (draws * side).tolist()
            disc = (down - y) ** 2 + (right - x) ** 2 < (side / 4) ** 2
            bar = ((right - u).abs() < side / 10) & ((down - v).abs() < side / 3) & ~disc
            mask = disc.byte() + 2 * bar.byte()
            image = 100 + 60 * disc - 60 * bar + 30 * torch.randn(3, side, side, generator=generator)
            pairs[name].append((image.clamp(0, 255).byte(), mask))
    sizes = {name: [(side, side)] * len(of_split) for name, of_split in pairs.items()}
    return pairs, sizes, network_for(config, side) | {"classes": ["ground", "disc", "bar"]}


def read_inputs(inputs: Sequence[Any], meta: dict[str, Any], batch_size: int) -> Iterator[tuple[list[str], Tensor]]:
    """For predict.py: batches of file names and images of one size (B, 3, H, W).

    Args:
        inputs: files, folders with all below them, or arrays of such images, uint8, whose names are their numbers.
        meta: what `load_data` returned.
        batch_size: images per batch.
    """
    yield from array_batches(inputs, batch_size)
    files = image_files(inputs)
    by_stem(files)
    batch: list[Tensor] = []
    for number, file in enumerate(files):
        image = read_image(file, meta["image_size"], meta.get("value_range"))
        if batch and (len(batch) == batch_size or image.shape != batch[0].shape):
            yield [str(f) for f in files[number - len(batch) : number]], torch.stack(batch)
            batch = []
        batch.append(image)
    if batch:
        yield [str(f) for f in files[-len(batch) :]], torch.stack(batch)
