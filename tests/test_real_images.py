"""Images and masks as people have them: other names, formats, modes and metadata than one would choose."""

import io
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import image_files
import images
import masks
import numpy as np
import pytest
import torch
from conftest import Render, modules_of
from engine import UserError
from PIL import ExifTags, Image
from scripts import run_script

SOAK = int(os.environ.get("SOAK", 1))  # how many times as many files are damaged
posix = pytest.mark.skipif(os.name != "posix", reason="links, names that are not UTF-8")


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines that were printed."""
    return capsys.readouterr().out.splitlines()


def write(root: Path, *names: str, mode: str = "RGB", size: tuple[int, int] = (24, 20)) -> Path:
    """A small image in each of these files, of a colour of its own."""
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (20 * number, 100, 200)).convert(mode).save(root / name)
    return root


def pixels(path: Path, value_range: list[float] | None = None) -> torch.Tensor:
    """The image in a file, (3, H, W)."""
    with images.opened(path) as image:
        return images.to_tensor(images.to_rgb(image, value_range))


@pytest.fixture(scope="module")
def classification(render_into: Render, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of image classification."""
    return render_into(tmp_path_factory.mktemp("classification"), task_type="image_classification")


@pytest.fixture(scope="module")
def segmentation(render_into: Render, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of segmentation."""
    return render_into(tmp_path_factory.mktemp("segmentation"), task_type="segmentation")


@pytest.fixture
def own(classification: Path) -> Iterator[Any]:
    """The modules of image classification."""
    with modules_of(classification) as modules:
        yield modules


@pytest.fixture
def seg(segmentation: Path) -> Iterator[Any]:
    """The modules of segmentation."""
    with modules_of(segmentation) as modules:
        yield modules


# ---- folders of splits ----


@pytest.mark.parametrize("names", [("Training", "valid", "Testing"), ("TRAIN", "Validation", "test"), ("train", "dev")])
def test_splits_are_known_by_their_usual_names(
    names: tuple[str, ...], own: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, name in enumerate(names, 1):
        write(tmp_path, *(f"{name}/{c}/{i}.png" for c in ("a", "b") for i in range(number)))
    splits, meta = own.data.load_data(own.config.Config(data=str(tmp_path)))
    assert meta["classes"] == ["a", "b"]
    assert {name: len(split) for name, split in splits.items()} == dict(
        zip(("train", "val", "test")[: len(names)], (2, 4, 6), strict=False)
    )
    counts = (
        ("train + val + test", "a 1 + 2 + 3, b 1 + 2 + 3") if len(names) == 3 else ("train + val", "a 1 + 2, b 1 + 2")
    )
    assert said(capsys)[-1] == "classes ({}): {}".format(*counts)


def test_two_folders_of_one_split_are_refused(own: Any, tmp_path: Path) -> None:
    write(tmp_path, "train/a/1.png", "train/b/1.png", "val/a/1.png", "validation/b/1.png")
    with pytest.raises(UserError) as refusal:
        own.data.load_data(own.config.Config(data=str(tmp_path)))
    assert str(refusal.value) == (
        f"{tmp_path / 'val'} and {tmp_path / 'validation'} are both there for val; remove or rename one"
    )


def test_what_is_not_used_beside_splits_is_said(own: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a test set without classes, or a copy of train."""
    write(
        tmp_path, "train/a/1.png", "train/a/2.png", "train/b/1.png", "train/b/2.png", "test/9.png", "train_old/a/1.png"
    )
    splits, _ = own.data.load_data(own.config.Config(data=str(tmp_path)))
    assert splits.keys() == {"train", "val"}
    assert said(capsys)[:2] == [
        f"note: {tmp_path / 'test'} is not used, since it has no CLASS folders; predict.py can predict for it",
        f"note: not used in {tmp_path}, beside train: train_old",
    ]


def test_a_class_may_be_called_train(own: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, *(f"{name}/{i}.png" for name in ("bus", "train", "test_car") for i in range(2)))
    _, meta = own.data.load_data(own.config.Config(data=str(tmp_path)))
    assert meta["classes"] == ["bus", "test_car", "train"]
    assert said(capsys)[0] == "note: test_car, train: taken for no split; one would be called train, val, test"


def test_a_folder_around_the_data_is_guessed(own: Any, tmp_path: Path) -> None:
    write(tmp_path, "photos/a/1.png", "photos/b/1.png")
    with pytest.raises(UserError) as refusal:
        own.data.load_data(own.config.Config(data=str(tmp_path)))
    assert str(refusal.value) == (
        f"{tmp_path} has images in 1 CLASS folders; two are the least; is --data {tmp_path / 'photos'} meant?"
    )


def test_classes_without_images_are_said(own: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, *(f"{name}/{i}.png" for name in "ab" for i in range(2)))
    (tmp_path / "c").mkdir()
    assert own.data.load_data(own.config.Config(data=str(tmp_path)))[1]["classes"] == ["a", "b"]
    assert "note: no images are in c, which are no classes therefore" in said(capsys)


# ---- which files are images ----


def test_files_of_all_formats_are_found_and_the_rest_is_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["a.avif", "b.jfif", "c.jp2", "d.JPG", "e.png", "f.tif", "g.webp"]
    formats = {".jfif": "JPEG", ".jp2": "JPEG2000"}
    picture = Image.new("RGB", (24, 20), (200, 100, 50))
    for name in names:
        picture.save(tmp_path / name, format=formats.get(Path(name).suffix))
    picture.save(tmp_path / "without_suffix", format="PNG")
    picture.save(tmp_path / "h.image", format="JPEG")
    for name, content in {"notes.txt": b"P1 of two", "Thumbs.db": b"\xd0\xcf", "i.mov": b"", ".hidden": b""}.items():
        (tmp_path / name).write_bytes(content)
    found = image_files.find_images(tmp_path)
    assert [path.name for path in found] == sorted([*names, "without_suffix", "h.image"])
    assert said(capsys) == [f"left out of {tmp_path}: 3 files that are no images (Thumbs.db, i.mov, notes.txt)"]
    for path in found:
        assert pixels(path).float().mean((1, 2)).sub(torch.tensor([200, 100, 50])).abs().max() < 4, path


def test_heic_is_read_where_it_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.HEIC").write_bytes(b"x")
    monkeypatch.setattr(image_files, "read_heif", lambda: False)
    assert image_files.find_images(tmp_path) == []
    assert said(capsys) == [
        f"left out of {tmp_path}: 1 HEIC files, since pillow-heif is not installed: pip install pillow-heif (a.HEIC)"
    ]
    monkeypatch.setattr(image_files, "read_heif", lambda: True)
    assert image_files.find_images(tmp_path) == [tmp_path / "a.HEIC"]


@posix
def test_links_in_a_circle_and_to_nothing_are_left_out_with_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, "a/1.png")
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    (tmp_path / "a" / "gone.png").symlink_to(tmp_path / "nothing.png")
    assert image_files.find_images(tmp_path) == [tmp_path / "a" / "1.png"]
    assert sorted(said(capsys)) == [
        f"left out of {tmp_path}: 1 links to a folder around them (again)",
        f"left out of {tmp_path}: 1 links to nothing (gone.png)",
    ]


def test_a_folder_that_may_not_be_read_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, "a/1.png", "b/1.png")
    scan = os.scandir

    def refuse(path: str) -> Any:
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert image_files.find_images(tmp_path) == [tmp_path / "a" / "1.png"]
    assert said(capsys) == [f"left out of {tmp_path}: 1 folders that may not be read (b)"]


# ---- modes ----


def transparent(mode: str) -> Image.Image:
    """Black, and in its left half fully transparent."""
    picture = Image.new("RGBA", (8, 4), (0, 0, 0, 255))
    picture.paste((0, 0, 0, 0), (0, 0, 4, 4))
    if mode == "P":
        palette = Image.new("P", (8, 4), 1)
        palette.putpalette([0, 0, 0] * 2)
        palette.paste(0, (0, 0, 4, 4))
        palette.info["transparency"] = 0
        return palette
    return picture.convert(mode)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(mode: str, tmp_path: Path) -> None:
    transparent(mode).save(tmp_path / "a.png")
    left, right = pixels(tmp_path / "a.png").split(4, 2)
    assert left.unique().tolist() == [255] and right.unique().tolist() == [0]


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_every_mode_shows_what_is_in_it(mode: str, tmp_path: Path) -> None:
    picture = Image.new("RGB", (8, 4), "white")
    picture.paste("black", (0, 0, 4, 4))
    picture.convert(mode).save(tmp_path / "a.tif")
    left, right = pixels(tmp_path / "a.tif").split(4, 2)
    assert left.max() < 8 and right.min() > 247


@pytest.mark.parametrize(("dtype", "top"), [(np.uint16, 900), (np.int32, 100_000), (np.float32, 0.25)])
def test_deep_images_are_scaled_by_the_values_of_the_data_set(
    dtype: Any, top: float, own: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not each by its own: the images of b are half as bright as those of a, in training and in prediction."""
    for name, factor in (("a", 1.0), ("b", 0.5)):
        (tmp_path / name).mkdir()
        for number in range(3):
            ramp = np.linspace(0, factor * top, 32 * 32).reshape(32, 32).astype(dtype)
            Image.fromarray(ramp).save(tmp_path / name / f"{number}.tif")
    splits, meta = own.data.load_data(own.config.Config(data=str(tmp_path)))
    low, high = meta["value_range"]
    assert 0 <= low < 0.01 * top and 0.98 * top < high <= top
    assert any(
        line.startswith("note: 6 of 6 images that were looked at have more than 8 bits") for line in said(capsys)
    )
    x, y = splits["train"].x[torch.arange(6)], splits["train"].y
    assert x[y == 0].amax().item() == 255 and abs(x[y == 1].amax().item() - 128) <= 3
    [(_, batch)] = own.data.read_inputs([tmp_path / "b"], meta, 3)
    assert torch.equal(batch, x[y == 1])


def test_a_deep_image_among_others_is_named(own: Any, tmp_path: Path) -> None:
    write(tmp_path, "train/a/1.png", "train/b/1.png", "test/a/1.png")
    deep = tmp_path / "test" / "b" / "2.png"
    deep.parent.mkdir()
    Image.fromarray(np.full((20, 20), 300, np.uint16)).save(deep)
    with pytest.raises(UserError) as refusal:
        own.data.load_data(own.config.Config(data=str(tmp_path)))
    assert str(refusal.value) == (
        f"the image {deep} has more than 8 bits per pixel, unlike the others; convert it, or all of them, to the same "
        "mode"
    )


def test_values_that_are_no_numbers_are_black_and_count_in_no_range(tmp_path: Path) -> None:
    values = np.full((20, 20), 2.0, np.float32)
    values[0, 0], values[0, 1], values[10:] = np.nan, np.inf, 4.0
    Image.fromarray(values).save(tmp_path / "a.tif")
    value_range = images.values_in([tmp_path / "a.tif"])
    assert value_range == [2.0, 4.0]
    assert pixels(tmp_path / "a.tif", value_range)[0, :2, :2].tolist() == [[0, 255], [0, 0]]


def test_of_several_frames_the_first_is_used_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second])
    images.survey([tmp_path / "a.gif"])
    assert said(capsys) == [
        f"note: 1 of 1 images that were looked at have several frames or pages, as {tmp_path / 'a.gif'}: "
        "the first is used"
    ]
    assert pixels(tmp_path / "a.gif")[:, 0, 0].tolist() == [255, 0, 0]


# ---- metadata, names, sizes ----


# The orientation as the text "six", which Pillow would not write.
ORIENTATION_SIX = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x04six\0\0\0\0\0"


def with_exif(path: Path, orientation: Any) -> Path:
    """A JPEG file 8 x 4 with that EXIF orientation; bytes are the whole EXIF."""
    exif: Any = Image.Exif()
    if isinstance(orientation, bytes):
        exif = orientation
    else:
        exif[ExifTags.Base.Orientation] = orientation
    Image.new("RGB", (8, 4)).save(path, exif=exif)
    return path


@pytest.mark.parametrize(
    ("orientation", "size"),
    [
        (1, (8, 4)),
        (6, (4, 8)),
        (8, (4, 8)),
        (0, (8, 4)),
        (9, (8, 4)),
        (ORIENTATION_SIX, (8, 4)),
        (b"Exif\0\0MM\0*\0\0\0", (8, 4)),
    ],
)
def test_odd_orientations_are_no_turns(orientation: Any, size: tuple[int, int], tmp_path: Path) -> None:
    path = with_exif(tmp_path / "a.jpg", orientation)
    with images.opened(path) as image:
        assert images.upright_size(image) == size
        assert images.to_rgb(image).size == size


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_every_format_is_turned_upright_once(suffix: str, tmp_path: Path) -> None:
    picture = Image.new("RGB", (80, 40), "black")
    picture.paste("white", (0, 0, 40, 40))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be turned clockwise: what was at the left is at the top
    picture.save(tmp_path / f"a.{suffix}", exif=exif)
    with images.opened(tmp_path / f"a.{suffix}") as image:
        assert images.upright_size(image) == (40, 80)
        upright = images.to_tensor(images.to_rgb(image))
    assert upright.shape == (3, 80, 40) and upright[:, :36].min() > 200 and upright[:, 44:].max() < 50


def test_a_huge_image_is_named_with_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "a.png")
    monkeypatch.setattr(images, "MOST_PIXELS", 300)
    with pytest.raises(UserError) as refusal:
        pixels(tmp_path / "a.png")
    assert str(refusal.value) == (
        f"image {tmp_path / 'a.png'} has 24 x 20 pixels, more than 300; if it is meant to, raise MOST_PIXELS in "
        "images.py, else repair or remove it"
    )


@posix
def test_names_that_are_not_utf_8_do_no_harm(classification: Path, tmp_path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9")
    write(tmp_path / "data", *(f"{name}/{odd}{i}.png" for name in (odd, "b") for i in range(3)))
    flags = ["--data", str(tmp_path / "data"), "--epochs", "1", "--width", "8", "--ckpt_dir", str(tmp_path / "runs")]
    status, shown = run_script(classification, ["train.py", *flags], tmp_path / "output")
    assert status == 0 and "b 2 + 1, caf\\udce9 2 + 1" in shown, shown
    [best] = (tmp_path / "runs").glob("*/best.pth")
    argv = [
        "predict.py",
        "--checkpoint",
        str(best),
        "--output",
        str(tmp_path / "table.csv"),
        str(tmp_path / "data" / odd),
    ]
    status, shown = run_script(classification, argv, tmp_path / "output")
    assert status == 0, shown
    assert (tmp_path / "table.csv").read_bytes().count(b"caf\xe9/caf\xe9") == 3


# ---- masks ----


def pair(root: Path, name: str, mask: Any, split: str = "train", mode: str = "") -> None:
    """An image and its mask, from an array (H, W) or (H, W, 3), or from a picture."""
    picture = mask if isinstance(mask, Image.Image) else Image.fromarray(np.asarray(mask, np.uint8))
    for folder in ("images", "masks"):
        (root / split / folder).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", picture.size, (9, 9, 9)).save(root / split / "images" / f"{name}.png")
    (picture.convert(mode) if mode else picture).save(root / split / "masks" / f"{name}.png")


def half(left: int, right: int, size: int = 20) -> Any:
    """A mask of two values."""
    values = np.full((size, size), right, np.uint8)
    values[:, : size // 2] = left
    return values


def with_palette(values: Any, *colours: int) -> Image.Image:
    """A palette mask; the palette's first colours are those, 0xRRGGBB."""
    picture = Image.fromarray(values)
    picture.putpalette([part for c in colours for part in (c >> 16, c >> 8 & 255, c & 255)])
    return picture


def masks_of(splits: Any) -> list[list[int]]:
    """The classes at the left and at the right of every mask of train, in the order of files."""
    return [[int(y[0, 0]), int(y[0, -1])] for _, y in splits["train"].x]


def test_palettes_that_differ_are_read_by_colour(seg: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair(tmp_path, "a", with_palette(half(0, 1), 0x000000, 0xFF0000))
    pair(tmp_path, "b", with_palette(half(0, 1), 0xFF0000, 0x000000))
    pair(tmp_path, "c", with_palette(half(1, 0), 0x000000, 0xFF0000))
    splits, meta = seg.data.load_data(seg.config.Config(data=str(tmp_path)))
    assert masks_of(splits) == [[0, 1], [1, 0], [1, 0]]
    assert meta["classes"] == ["#000000", "#ff0000"]
    at = tmp_path / "train" / "masks"
    assert said(capsys)[0] == (
        f"note: the palettes of {at / 'a.png'} and {at / 'b.png'} differ: each colour is a class: #000000 0, #ff0000 1"
    )


def test_palettes_that_agree_are_numbers(seg: Any, tmp_path: Path) -> None:
    pair(tmp_path, "a", with_palette(half(0, 1), 0xFF0000, 0x000000, 0x00FF00))
    pair(tmp_path, "b", with_palette(half(2, 0), 0xFF0000, 0x000000, 0x00FF00))
    splits, meta = seg.data.load_data(seg.config.Config(data=str(tmp_path)))
    assert masks_of(splits) == [[0, 1], [2, 0]] and meta["classes"] == ["0", "1", "2"]


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_masks_in_colours_are_read_by_colour(mode: str, seg: Any, tmp_path: Path) -> None:
    for name, (left, right) in {"a": (0xFF0000, 0x0000FF), "b": (0x0000FF, 0x0000FF)}.items():
        pair(tmp_path, name, with_palette(half(0, 1), left, right).convert(mode))
    splits, meta = seg.data.load_data(seg.config.Config(data=str(tmp_path)))
    assert masks_of(splits) == [[1, 0], [0, 0]] and meta["classes"] == ["#0000ff", "#ff0000"]


def test_masks_of_0_and_255_alone_have_two_classes(
    seg: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair(tmp_path, "a", half(0, 255))
    pair(tmp_path, "b", half(255, 255))
    splits, meta = seg.data.load_data(seg.config.Config(data=str(tmp_path)))
    assert masks_of(splits) == [[0, 1], [1, 1]] and meta["classes"] == ["0", "1"]
    assert said(capsys)[:2] == [
        "note: the masks hold 0 and 255 alone: 255 is taken for class 1",
        "masks of train in which a class is: 0 1, 1 2",
    ]


def test_what_lies_around_the_classes_is_ignored_as_before(seg: Any, tmp_path: Path) -> None:
    pair(tmp_path, "a", half(0, 255))
    pair(tmp_path, "b", half(1, 255))
    assert masks_of(seg.data.load_data(seg.config.Config(data=str(tmp_path)))[0]) == [[0, 255], [1, 255]]


@pytest.mark.parametrize(("mode", "top"), [("1", 255), ("I;16", 1)])
def test_black_and_white_and_16_bit_masks_are_numbers(mode: str, top: int, seg: Any, tmp_path: Path) -> None:
    for name in "ab":
        pair(tmp_path, name, half(0, top), mode=mode)
    assert masks_of(seg.data.load_data(seg.config.Config(data=str(tmp_path)))[0]) == [[0, 1], [0, 1]]


def blurred() -> Image.Image:
    """A mask whose edges are mixtures."""
    values = np.linspace(0, 255, 20 * 20 * 3).reshape(20, 20, 3)
    return Image.fromarray(values.astype(np.uint8))


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (
            half(0, 1), half(0, 255),
            "mask {a} marks classes by [0, 1] and mask {b} by [0, 255], of which 255 is ignored; save all masks in one "
            "way, or give another --ignore_index",
        ),
        (
            half(0, 1), with_palette(half(0, 1), 0, 0xFF0000),
            "mask {a} has grey levels and mask {b} has colours: whether they mean the same classes is not known; save "
            "all masks in one way",
        ),
        (
            half(0, 1), blurred(),
            "mask {b} has 400 colours, as masks with blurred edges have; save class numbers, or one colour for each "
            "class, 64 at most, as PNG",
        ),
        (
            half(0, 1), Image.fromarray(np.full((20, 20), 300, np.uint16)),
            "mask {b} has the number 300; class numbers are 0 to 255",
        ),
        (
            half(0, 1), Image.new("RGBA", (20, 20)),
            "mask {b} has transparent pixels, which say no class; save it without transparency",
        ),
        (half(0, 1), Image.fromarray(np.ones((20, 20), np.float32)), "mask {b} has mode F; save class numbers as 8 bit "
         "greyscale or palette PNG"),
    ],
)  # fmt: skip
def test_masks_that_say_classes_in_different_ways_are_refused(
    first: Any, second: Any, words: str, seg: Any, tmp_path: Path
) -> None:
    pair(tmp_path, "a", first)
    pair(tmp_path, "b", second if isinstance(second, Image.Image) and second.mode != "F" else half(0, 1))
    at = tmp_path / "train" / "masks"
    if isinstance(second, np.ndarray):
        pair(tmp_path, "b", second)
    elif second.mode == "F":
        (at / "b.png").unlink()
        second.save(at / "b.tif")
    with pytest.raises(UserError) as refusal:
        seg.data.load_data(seg.config.Config(data=str(tmp_path)))
    b = at / ("b.tif" if isinstance(second, Image.Image) and second.mode == "F" else "b.png")
    assert str(refusal.value) == words.format(a=at / "a.png", b=b)


def test_a_colour_that_train_does_not_have_is_named(seg: Any, tmp_path: Path) -> None:
    for name, colour in {"a": 0xFF0000, "b": 0x0000FF}.items():
        pair(tmp_path, name, with_palette(half(0, 1), 0, colour).convert("RGB"))
    pair(tmp_path, "c", with_palette(half(0, 1), 0, 0x00FF00).convert("RGB"), "test")
    with pytest.raises(UserError) as refusal:
        seg.data.load_data(seg.config.Config(data=str(tmp_path)))
    mask = tmp_path / "test" / "masks" / "c.png"
    assert str(refusal.value) == f"mask {mask} has the colour #00ff00, which no mask of train has"


def test_masks_may_have_an_ending_behind_the_name(seg: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in "ab":
        pair(tmp_path, name, half(0, 1))
        at = tmp_path / "train" / "masks" / f"{name}.png"
        at.rename(at.with_name(f"{name}_mask.png"))
    splits, _ = seg.data.load_data(seg.config.Config(data=str(tmp_path)))
    assert masks_of(splits) == [[0, 1], [0, 1]]
    assert said(capsys)[0] == "masks have the names of their images with _mask behind"


# ---- damaged files ----


def encoded(mode: str, kind: str) -> bytes:
    """A small picture with a pattern, in a file of that format."""
    values = np.arange(24 * 20 * 3, dtype=np.uint32).reshape(20, 24, 3) % 251
    picture = Image.fromarray(values.astype(np.uint8))
    if mode in ("I;16", "F"):
        picture = Image.fromarray(values[..., 0].astype(np.uint16 if mode == "I;16" else np.float32))
    elif mode != "RGB":
        picture = picture.convert(mode)
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()


GOOD = [
    encoded(mode, kind)
    for mode, kind in [
        ("RGB", "JPEG"), ("CMYK", "JPEG"), ("RGB", "PNG"), ("P", "PNG"), ("LA", "PNG"), ("1", "PNG"), ("I;16", "PNG"),
        ("RGB", "TIFF"), ("F", "TIFF"), ("P", "GIF"), ("RGB", "BMP"), ("RGBA", "WEBP"), ("RGB", "PPM"), ("RGB", "AVIF"),
        ("RGB", "JPEG2000"), ("RGBA", "TGA"),
    ]
]  # fmt: skip


def damaged(content: bytes, draw: random.Random) -> bytes:
    """The bytes cut off, some of them flipped, or two ranges of them exchanged."""
    i, j, k = sorted(draw.randrange(len(content)) for _ in range(3))
    how = draw.randrange(3)
    if how == 0:
        return content[:j]
    if how == 1:
        return content[:i] + content[j:k] + content[i:j] + content[k:]
    flipped = bytearray(content)
    for _ in range(draw.choice([1, 4, 30])):
        flipped[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    return bytes(flipped)


def test_a_damaged_file_is_an_image_a_mask_or_one_line(tmp_path: Path) -> None:
    draw, path, lines = random.Random(0), tmp_path / "file", 0
    for number in range(400 * SOAK):
        path.write_bytes(damaged(GOOD[number % len(GOOD)], draw))
        try:
            if image_files.reason_against(path):
                lines += 1
                continue
            look = images.look_at(path)
            if max(look.size) > 10_000:  # what a flipped bit can claim; it would only take its time
                continue
            value_range = images.values_in([path]) if look.deep else None
            assert pixels(path, value_range).shape[0] == 3
            with images.opened(path) as mask:
                coding = masks.coding_of({path: masks.look_at_mask(mask, path)}, 255)
                coding.read(mask, path)
        except UserError as error:
            lines += 1
            assert str(path) in str(error) and "\n" not in str(error)
    assert 50 * SOAK < lines < 400 * SOAK
