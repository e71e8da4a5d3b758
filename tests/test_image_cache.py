"""Decoded images on the disk: as they were read, found again, bounded, and whole or not there."""

import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import image_cache
import images
import numpy as np
import pytest
import torch
from conftest import SHARED, SOURCE
from engine import UserError
from image_cache import CachedImages, ScaledReader, cached_images
from PIL import ExifTags, Image
from scripts import start_script
from torch import Tensor
from torch.utils.data import DataLoader

posix = pytest.mark.skipif(os.name != "posix", reason="signals, links")
SIZES = [(40, 30), (30, 40), (32, 32), (61, 30), (30, 95), (64, 48)]


@pytest.fixture(autouse=True)
def same_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pickle finds the classes of this file's modules, whatever other tests have imported under these names."""
    for name, module in {"image_cache": image_cache, "images": images, __name__: sys.modules[__name__]}.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(image_cache, "IN_USE", set())


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Files of images of several sizes, half of them JPEG."""
    return write(tmp_path / "photographs", len(SIZES))


def write(folder: Path, count: int) -> list[Path]:
    """So many images in a folder."""
    folder.mkdir()
    noise = np.random.default_rng(0)
    files = [folder / f"{number}.{'jpg' if number % 2 else 'png'}" for number in range(count)]
    for number, file in enumerate(files):
        width, height = SIZES[number % len(SIZES)]
        Image.fromarray(noise.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(file)
    return files


READ = ScaledReader(16)


def keep(paths: list[Path], folder: Path, limit_gb: float = 1, workers: int = 0, read: Any = READ) -> Any:
    """The images by way of the cache."""
    return cached_images(paths, read, asdict(read), folder, limit_gb, workers)


def files_of(folder: Path) -> list[str]:
    """Names of the files in the cache, without the lock."""
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock") if folder.exists() else []


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed, in one line."""
    return " ".join(capsys.readouterr().out.split())


def assert_as_read(found: Any, paths: list[Path], read: Callable[[Path], Tensor] = READ) -> None:
    """Each image is what the reader makes of its file."""
    assert len(found) == len(paths)
    for number, path in enumerate(paths):
        assert torch.equal(found[number], read(path)), path


# ---- what is kept ----


@pytest.mark.parametrize("workers", [0, 2])
def test_kept_images_are_what_the_reader_makes_of_their_files(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_cache, "LEAST_PER_WORKER", 1)
    paths = write(tmp_path / "photographs", 21)
    found = keep(paths, tmp_path / "cache", workers=workers)
    assert_as_read(found, paths)
    assert found.sizes.tolist() == [list(READ(path).shape[1:]) for path in paths]


def test_an_image_is_a_view_of_the_file_with_channels_last(paths: list[Path], tmp_path: Path) -> None:
    found = keep(paths, tmp_path / "cache")
    assert found[3].untyped_storage().data_ptr() == found[4].untyped_storage().data_ptr()
    assert found[3].movedim(0, 2).is_contiguous() and not found[3].is_contiguous()


def test_images_are_decoded_once(
    paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(paths, tmp_path / "cache")
    monkeypatch.setattr(image_cache, "_decode", None)
    found = keep(paths, tmp_path / "cache")
    assert_as_read(found, paths)
    size = f"{sum(READ(path).numel() for path in paths) / 1e6:.2f} MB"
    where = f"{tmp_path / 'cache'}{os.sep} ({size})"
    assert capsys.readouterr().out.splitlines() == [
        f"cache: 6 images decoded once into {where}",
        f"cache: 6 images found in {where}",
    ]


@pytest.mark.parametrize("workers", [0, 1])
def test_decoding_draws_no_random_number(
    workers: int, paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the first run would have other weights than those that find the images decoded."""
    monkeypatch.setattr(image_cache, "LEAST_PER_WORKER", 1)
    before = torch.get_rng_state()
    keep(paths, tmp_path / "cache", workers=workers)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_lines_fit_into_80_columns(
    paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    keep(paths, Path("cache"))
    keep(paths[1:], Path("cache"), limit_gb=1e-9)
    Path("file").touch()
    keep(paths, Path("file"))
    assert max(map(len, capsys.readouterr().out.splitlines())) < 80


CHANGES: dict[str, Callable[[list[Path]], Any]] = {
    "a file has another time": lambda paths: os.utime(paths[2], (1, 1)),
    "a file has another size": lambda paths: paths[2].write_bytes(paths[2].read_bytes() + b"x"),
    "a file has another name": lambda paths: paths.append(paths.pop().rename(paths[0].with_name("other.jpg"))),
    "the order is another": lambda paths: paths.reverse(),
    "a file is left out": lambda paths: paths.pop(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_images_are_decoded_again_where(
    change: Callable[[list[Path]], Any], paths: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(paths, tmp_path / "cache")
    change(paths)
    assert_as_read(keep(paths, tmp_path / "cache"), paths)
    assert said(capsys).count("decoded once") == 2


def test_images_are_decoded_again_for_other_settings_and_versions(
    paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {image_cache.key_of(paths, READ, settings) for settings in ({}, {"side": 16}, {"side": 17})}
    monkeypatch.setattr(image_cache, "VERSION", 2)
    assert len(names | {image_cache.key_of(paths, READ, {})}) == 4


def test_a_relative_path_names_the_same_image(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    key = image_cache.key_of(paths, READ, {})
    monkeypatch.chdir(paths[0].parent)
    assert image_cache.key_of([Path(path.name) for path in paths], READ, {}) == key


def test_what_is_written_to_an_image_does_not_reach_the_file(paths: list[Path], tmp_path: Path) -> None:
    found = keep(paths, tmp_path / "cache")
    found[1].zero_()
    assert_as_read(keep(paths, tmp_path / "cache"), paths)


@pytest.mark.skipif(sys.platform != "linux", reason="holes in files, as most of its file systems have them")
def test_a_file_larger_than_the_memory_can_be_mapped(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2**42)
    assert len(image_cache.mapped(tmp_path / "large")) == 2**42


@dataclass(frozen=True)
class Grey:
    """A reader of images with one channel."""

    def __call__(self, path: Path) -> Tensor:
        with images.opened(path) as image:
            return images.to_tensor(image.convert("L"))[None]

    def shape_of(self, path: Path) -> tuple[int, int, int]:
        with images.opened(path) as image:
            return 1, image.height, image.width


def test_images_may_have_another_number_of_channels(paths: list[Path], tmp_path: Path) -> None:
    assert_as_read(keep(paths, tmp_path / "cache", read=Grey()), paths, Grey())


def test_no_images_are_kept_too(tmp_path: Path) -> None:
    assert len(keep([], tmp_path / "cache")) == len(keep([], tmp_path / "cache")) == 0


# ---- how images are read ----


@pytest.mark.parametrize(
    "size, shape",
    [
        ((600, 400), (3, 64, 96)),
        ((400, 600), (3, 96, 64)),
        ((50, 50), (3, 64, 64)),
        ((20, 30), (3, 96, 64)),
        ((1000, 200), (3, 64, 128)),
        ((3, 700), (3, 128, 64)),
    ],
)
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_the_shorter_side_is_as_long_as_was_asked_and_the_other_at_most_twice(
    size: tuple[int, int], shape: tuple[int, int, int], suffix: str, tmp_path: Path
) -> None:
    Image.new("RGB", size).save(tmp_path / f"image.{suffix}")
    read = ScaledReader(64)
    found = read(tmp_path / f"image.{suffix}")
    assert found.shape == read.shape_of(tmp_path / f"image.{suffix}") == shape
    assert found.dtype == torch.uint8


def test_of_a_long_image_the_central_part_is_kept(tmp_path: Path) -> None:
    image = Image.new("RGB", (300, 20), "red")
    image.paste((0, 0, 255), (130, 0, 170, 20))
    image.save(tmp_path / "image.png")
    assert (ScaledReader(20)(tmp_path / "image.png") == torch.tensor([0, 0, 255]).view(3, 1, 1)).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_upright(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    image = Image.effect_noise((90, 60), 90).convert("RGB")
    image.save(tmp_path / "image.jpg", exif=exif)
    read = ScaledReader(60)
    found = read(tmp_path / "image.jpg")
    assert found.shape == read.shape_of(tmp_path / "image.jpg")
    with images.opened(tmp_path / "image.jpg") as stored:
        assert torch.equal(found, images.to_tensor(images.to_rgb(stored)))


def test_large_photographs_are_as_if_they_were_decoded_whole(tmp_path: Path) -> None:
    """JPEG files are decoded at a fraction of their resolution."""
    noise = torch.rand(1, 3, 24, 30, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(255 * noise, (960, 1200), mode="bicubic").clamp(0, 255)[0].byte()
    Image.fromarray(smooth.permute(1, 2, 0).numpy()).save(tmp_path / "image.jpg", quality=95)
    read = ScaledReader(100)
    assert read.shape_of(tmp_path / "image.jpg") == (3, 100, 125)
    whole = images.resized(smooth, 100, 125)
    assert (read(tmp_path / "image.jpg").float() - whole.float()).abs().mean() < 2


def test_deep_images_are_scaled_by_the_range_of_the_data_set(tmp_path: Path) -> None:
    Image.fromarray(np.full((20, 20), 750, np.uint16)).save(tmp_path / "image.png")
    assert ScaledReader(20, [500.0, 1000.0])(tmp_path / "image.png").unique().tolist() == [128]


# ---- how much is kept ----


def size_of(paths: list[Path]) -> int:
    """Bytes of the decoded images."""
    return sum(READ(path).numel() for path in paths)


def test_images_that_are_more_than_the_limit_are_not_kept(
    paths: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limit = 0.5 * size_of(paths) / 1e9
    assert keep(paths, tmp_path / "cache", limit) is None
    assert files_of(tmp_path / "cache") == []
    assert said(capsys) == (
        f"note: 6 images take 0.01 MB decoded, more than the 0.00 MB that --cache_gb {limit:g} leaves; they are "
        "decoded again in every epoch"
    )


def test_images_that_are_more_than_the_disk_can_spare_are_not_kept(
    paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    free = image_cache.RESERVE + size_of(paths) - 1
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    assert keep(paths, tmp_path / "cache") is None
    assert files_of(tmp_path / "cache") == []
    assert "more than the 0.01 MB that the disk can spare (--cache_gb 1)" in said(capsys)


def test_a_limit_of_0_keeps_nothing_and_says_nothing(
    paths: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert keep(paths, tmp_path / "cache", 0) is None
    assert not (tmp_path / "cache").exists() and said(capsys) == ""


def test_what_was_used_least_recently_makes_room(paths: list[Path], tmp_path: Path) -> None:
    sets = [paths, paths[1:], paths[:-1]]
    limit = 2.5 * size_of(paths) / 1e9
    for number, some in enumerate(sets[:2]):
        keep(some, tmp_path / "cache")
        os.utime(tmp_path / "cache" / name_of(some), (number, number))
    keep(paths, tmp_path / "cache")  # used again, so that the second is older
    image_cache.IN_USE.clear()
    keep(sets[2], tmp_path / "cache", limit)
    assert files_of(tmp_path / "cache") == sorted([name_of(paths), name_of(sets[2])])


def name_of(paths: list[Path]) -> str:
    """Name of the file of these images."""
    return f"{image_cache.key_of(paths, READ, asdict(READ))}.images"


def test_nothing_is_removed_for_images_that_find_no_room_all_the_same(paths: list[Path], tmp_path: Path) -> None:
    keep(paths[:2], tmp_path / "cache")
    image_cache.IN_USE.clear()
    assert keep(paths, tmp_path / "cache", 0.9 * size_of(paths) / 1e9) is None
    assert files_of(tmp_path / "cache") == [name_of(paths[:2])]


def test_what_this_process_reads_is_not_removed(paths: list[Path], tmp_path: Path) -> None:
    limit = 1.5 * size_of(paths) / 1e9
    found = keep(paths, tmp_path / "cache", limit)
    assert keep(paths[::-1], tmp_path / "cache", limit) is None
    assert files_of(tmp_path / "cache") == [name_of(paths)]
    assert_as_read(found, paths)


@posix
def test_a_disk_that_is_full_meanwhile_costs_a_line(
    paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A device that is always full stands in for the unfinished file."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    open_file = Path.open
    monkeypatch.setattr(
        Path, "open", lambda path, mode: open_file(Path("/dev/full") if path.suffix == ".tmp" else path, mode)
    )
    monkeypatch.setattr(image_cache, "_locked", lambda folder: nullcontext())
    folder = tmp_path / "cache"
    assert keep(paths, folder) is None
    assert files_of(folder) == []
    assert said(capsys) == (
        f"note: images cannot be kept ({folder}: No space left on device); they are decoded again in every epoch"
    )


def test_a_folder_that_cannot_be_made_costs_a_line(
    paths: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cache").touch()
    assert keep(paths, tmp_path / "cache") is None
    assert said(capsys).startswith(f"note: images cannot be kept ({tmp_path / 'cache'}: ")


# ---- whole or not there ----


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_cannot_be_read_is_named_and_nothing_is_left(
    workers: int, paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_cache, "LEAST_PER_WORKER", 1)
    paths[4].write_bytes(paths[4].read_bytes()[:300])  # its first bytes still say what it is
    with pytest.raises(UserError) as refusal:
        keep(paths, tmp_path / "cache", workers=workers)
    assert str(refusal.value).startswith(f"image {paths[4]} cannot be read (")
    assert files_of(tmp_path / "cache") == []


def test_an_image_that_is_gone_is_named(paths: list[Path], tmp_path: Path) -> None:
    paths[1].unlink()
    with pytest.raises(UserError) as refusal:
        keep(paths, tmp_path / "cache")
    assert str(refusal.value) == f"image {paths[1]} cannot be read (No such file or directory); repair or remove it"


def flip_byte(data: bytes, position: int) -> bytes:
    """The same bytes, but for one."""
    changed = bytearray(data)
    changed[position] ^= 1
    return bytes(changed)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "a few bytes": lambda data: data[:20],
    "cut off": lambda data: data[:-1],
    "cut off in the pixels": lambda data: data[: len(data) // 2],
    "longer": lambda data: data + b"\0",
    "without its first byte": lambda data: data[1:],
    "zeros": lambda data: bytes(len(data)),
    "another kind": lambda data: flip_byte(data, -image_cache.SEAL.size),
    "another count": lambda data: flip_byte(data, -image_cache.SEAL.size + 8),
    "a huge count": lambda data: flip_byte(data, -image_cache.SEAL.size + 15),
    "another checksum": lambda data: flip_byte(data, -1),
    "another shape": lambda data: flip_byte(data, -image_cache.SEAL.size - 1),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_made_anew(
    damage: Callable[[bytes], bytes], paths: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(paths, tmp_path / "cache")
    file = tmp_path / "cache" / name_of(paths)
    whole = file.read_bytes()
    file.unlink()  # and not written over, since it is mapped
    file.write_bytes(damage(whole))
    said(capsys)
    assert_as_read(keep(paths, tmp_path / "cache"), paths)
    assert said(capsys).startswith(f"cache: {file} is damaged; its images are decoded anew cache: 6 images decoded")
    assert file.read_bytes() == whole


def test_a_file_that_is_gone_is_made_anew(paths: list[Path], tmp_path: Path) -> None:
    keep(paths, tmp_path / "cache")
    shutil.rmtree(tmp_path / "cache")
    assert_as_read(keep(paths, tmp_path / "cache"), paths)


# A program that keeps images slowly: folder of images, folder of the cache, seconds per image.
PROGRAM = f"""
import sys, time
sys.path[:0] = [{str(SOURCE)!r}, {str(SHARED)!r}]
from pathlib import Path
from image_cache import ScaledReader, cached_images

class Slow(ScaledReader):
    def __call__(self, path):
        time.sleep(float(sys.argv[3]))
        with path.with_suffix(".read").open("a") as file:
            file.write("x")
        return super().__call__(path)

if __name__ == "__main__":
    paths = sorted(p for p in Path(sys.argv[1]).iterdir() if p.suffix in (".jpg", ".png"))
    found = cached_images(paths, Slow(16), {{}}, sys.argv[2], 1, 0)
    print(sum(int(found[number].sum()) for number in range(len(paths))))
"""


def start(folder: Path, seconds: float, output: Path) -> Any:
    """Starts the program on the images in photographs/ of a folder."""
    (folder / "program.py").write_text(PROGRAM)
    return start_script(folder, ["program.py", "photographs", "cache", str(seconds)], output)


def wait_for(condition: Callable[[], bool]) -> None:
    """Waits until it holds."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@posix
@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_after_a_run_that_was_stopped_the_next_one_decodes_anew(stop: int, paths: list[Path], tmp_path: Path) -> None:
    stopped = start(tmp_path, 0.3, tmp_path / "first")
    wait_for((paths[1].with_suffix(".read")).exists)
    os.kill(stopped.pid, stop)
    stopped.join()
    assert len(files_of(tmp_path / "cache")) == (stop != signal.SIGINT)  # what it had begun
    start(tmp_path, 0, tmp_path / "second").join()
    assert (tmp_path / "second").read_text().startswith("cache: 6 images decoded once into cache/ (0.01 MB)\n")
    assert [name.split(".")[1:] for name in files_of(tmp_path / "cache")] == [["images"]]


@posix
def test_of_two_runs_at_once_one_decodes_and_the_other_waits(paths: list[Path], tmp_path: Path) -> None:
    first = start(tmp_path, 0.5, tmp_path / "first")
    wait_for((paths[0].with_suffix(".read")).exists)
    for run in (start(tmp_path, 0, tmp_path / "second"), first):
        run.join()
    decoded, waited = ((tmp_path / name).read_text().splitlines() for name in ("first", "second"))
    assert decoded == ["cache: 6 images decoded once into cache/ (0.01 MB)", decoded[-1]]
    assert waited == [
        "cache: another run is decoding images into cache; waiting for it",
        "cache: 6 images found in cache/ (0.01 MB)",
        decoded[-1],
    ]
    assert {path.with_suffix(".read").read_text() for path in paths} == {"x"}


def test_on_a_file_system_without_locks_images_are_kept(
    paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: Any) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(image_cache, "lock_file", refuse)
    assert_as_read(keep(paths, tmp_path / "cache"), paths)


@posix
def test_unfinished_files_are_removed_when_their_process_is_gone_or_a_day_has_passed(
    paths: list[Path], tmp_path: Path
) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    here, now = image_cache._host(), time.time()
    ages = {
        f"a.{here}.{ended.pid}.tmp": 0,
        f"b.{here}.{os.getpid()}.tmp": 0,  # of a process that had this number
        f"c.{here}.{os.getppid()}.tmp": 0,
        f"d.{here}.{os.getppid()}.tmp": 90_000,
        "e.elsewhere.1.tmp": 0,
        "f.elsewhere.1.tmp": 90_000,
        f"g.{here}.x.tmp": 0,
        "notes.tmp": 90_000,
    }
    for name, age in ages.items():
        (folder / name).touch()
        os.utime(folder / name, (now - age, now - age))
    keep(paths, folder)
    left = [name for name in files_of(folder) if name.endswith(".tmp")]
    assert left == sorted([f"c.{here}.{os.getppid()}.tmp", "e.elsewhere.1.tmp", f"g.{here}.x.tmp", "notes.tmp"])


@dataclass(frozen=True)
class Deadly(ScaledReader):
    """A reader whose process is killed, as where memory is short."""

    def __call__(self, path: Path) -> Tensor:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


@posix
@pytest.mark.skipif(sys.version_info >= (3, 14), reason="a new process has no path to this file")
def test_a_worker_that_is_killed_ends_the_run_and_leaves_nothing(
    paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_cache, "LEAST_PER_WORKER", 1)
    with pytest.raises(RuntimeError, match="DataLoader worker"):
        keep(paths, tmp_path / "cache", workers=1, read=Deadly(16))
    assert files_of(tmp_path / "cache") == []


# ---- in other processes ----


def test_pickled_images_are_mapped_again(paths: list[Path], tmp_path: Path) -> None:
    found = keep(paths, tmp_path / "cache")
    written = pickle.dumps(found)
    assert len(written) < 4000 and pickle.loads(written).pixels is not None
    assert_as_read(pickle.loads(written), paths)


@pytest.mark.parametrize("how", ["gone", "cut off", "another"])
def test_where_the_file_is_gone_pickled_images_are_decoded(
    how: str, paths: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = pickle.dumps(keep(paths, tmp_path / "cache"))
    file = tmp_path / "cache" / name_of(paths)
    whole = file.read_bytes()
    file.unlink()
    if how == "cut off":
        file.write_bytes(whole[:-1])
    if how == "another":
        keep(paths[::-1], tmp_path / "cache")
        (tmp_path / "cache" / name_of(paths[::-1])).rename(file)
    said(capsys)
    for _ in range(2):
        assert_as_read(pickle.loads(written), paths)
    assert said(capsys) == f"note: {file} is gone; its images are decoded again in every epoch"


@dataclass
class Sums:
    """A data set of the sums of cached images."""

    images: CachedImages

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> int:
        return int(self.images[number].sum())


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """New processes find this file."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    yield


def test_workers_that_do_not_inherit_memory_map_the_file(paths: list[Path], tmp_path: Path, importable: None) -> None:
    found = keep(paths, tmp_path / "cache")
    loader: DataLoader[Any] = DataLoader(Sums(found), num_workers=1, multiprocessing_context="spawn")  # type: ignore
    assert [int(total) for total in loader] == [int(READ(path).sum()) for path in paths]
