"""Image classification: one's own folders, honest splits, augmentation by (seed, epoch, index), clear refusals."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import Render, modules_of
from engine import UserError, checkpoint, settings
from engine.data.loaders import train_batches
from engine.data.splits import Split, hold_out
from PIL import Image

SMALL = ["--precision", "fp32", "--width", "8"]


@pytest.fixture(scope="module")
def project(render_into: Render, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rendered project."""
    return render_into(tmp_path_factory.mktemp("images"), task_type="image_classification")


@pytest.fixture
def own(project: Path) -> Iterator[Any]:
    """Its modules."""
    with modules_of(project) as modules:
        yield modules


def write_images(root: Path, splits: dict[str, dict[str, int]], size: tuple[int, int] = (24, 16)) -> Path:
    """Images in split/class folders, in the modes that photographs come in; each has a colour of its own."""
    modes = ["RGB", "L", "RGBA", "P", "CMYK"]
    for split, classes in splits.items():
        for name, count in classes.items():
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                mode = modes[number % len(modes)]
                image = Image.new("RGB", size, (number * 20 % 256, 100, 200)).convert(mode)
                image.save(root / split / name / f"{number}.{'jpg' if mode in ('RGB', 'CMYK') else 'png'}")
    return root


# ---- splits ----


def test_without_val_a_part_of_train_chooses_the_epoch_and_never_a_test_image(own: Any, tmp_path: Path) -> None:
    root = write_images(tmp_path, {"train": {"a": 20, "b": 10}, "test": {"a": 5, "b": 5}})
    data, meta = own.data.load_data(own.config.Config(data=str(root), val_fraction=0.2))
    assert {name: len(images) for name, images in data.items()} == {"train": 24, "val": 6, "test": 10}
    assert data["val"].x is data["train"].x is not data["test"].x
    assert not set(data["val"].indices.tolist()) & set(data["train"].indices.tolist())
    assert torch.bincount(data["val"].y[data["val"].indices]).tolist() == [4, 2]
    assert meta["classes"] == ["a", "b"] and meta["image_size"] == 16


def test_a_val_folder_is_used_where_there_is_one(own: Any, tmp_path: Path) -> None:
    root = write_images(tmp_path, {"train": {"a": 5, "b": 5}, "val": {"b": 3}})
    data, _ = own.data.load_data(own.config.Config(data=str(root)))
    assert {name: len(images) for name, images in data.items()} == {"train": 10, "val": 3}
    assert data["val"].y.tolist() == [1, 1, 1]


def test_the_hold_out_follows_from_the_seed_and_has_every_class() -> None:
    labels = torch.tensor([0] * 50 + [1] * 20 + [2] * 2)
    kept, held = hold_out(labels, 0.1, seed=3)
    assert sorted([*kept.tolist(), *held.tolist()]) == list(range(72))
    assert torch.bincount(labels[held]).tolist() == [5, 2, 1]
    assert torch.equal(held, hold_out(labels, 0.1, seed=3)[1])
    assert not torch.equal(held, hold_out(labels, 0.1, seed=4)[1])


# ---- images ----


def test_every_image_is_cropped_and_flipped_on_its_own(own: Any) -> None:
    x = torch.randint(256, (40, 3, 16, 16), dtype=torch.uint8)
    corners, flipped = torch.randint(5, (40, 2)), torch.rand(40) < 0.5
    found = own.augmentation.crop_and_flip(x, 2, corners, flipped)
    for image, (row, column), flip, result in zip(x, corners.tolist(), flipped.tolist(), found, strict=True):
        expected = F.pad(image.float(), [2] * 4, mode="reflect")[:, row : 16 + row, column : 16 + column].byte()
        assert torch.equal(result, expected.flip(-1) if flip else expected)
    for padding in (0, 2):
        centred = torch.full_like(corners, padding)
        assert torch.equal(own.augmentation.crop_and_flip(x, padding, centred, flipped & False), x)


def test_an_image_is_flipped_in_every_other_epoch_or_never(own: Any) -> None:
    x = torch.arange(16).expand(50, 3, 16, 16).contiguous()
    split = Split(x, torch.zeros(50), torch.arange(50))
    for flip in (True, False):
        augmented = own.augmentation.AugmentedSplit(split, augmentation(own, 16, shift_fraction=0.0, flip=flip), seed=0)
        epochs = []
        for epoch in range(1, 4):
            augmented.set_epoch(epoch)
            seen, _ = augmented.__getitems__(list(range(50)))
            epochs.append(seen[:, 0, 0, 0] == 15)
        assert torch.equal(epochs[0], epochs[2]) and torch.equal(epochs[0], epochs[1]) is not flip
        assert bool(epochs[0].any()) is flip


def test_crops_reach_as_far_as_the_setting_says(own: Any) -> None:
    split = Split(torch.zeros(500, 3, 32, 32), torch.zeros(500), torch.arange(500))
    augmented = own.augmentation.AugmentedSplit(split, augmentation(own, 32, shift_fraction=0.1), seed=0)
    augmented.set_epoch(1)
    assert (augmented.padding, augmented.corners.min(), augmented.corners.max()) == (3, 0, 6)


def augmentation(own: Any, size: int, **changes: Any) -> Any:
    """The augmentation of a network from scratch, with some settings changed, for images of a size in pixels."""
    return own.augmentation.augmentation_of(own.config.Config(**changes), {"image_size": size, "crop_area": 1.0})


def predicts_an_image_and_its_flip_alike(own: Any, config: Any, size: int = 32) -> bool:
    """Whether a network with these settings gives both the same logits."""
    pixels = torch.randint(256, (9, 3, size, size), dtype=torch.uint8)
    split = Split(pixels, torch.zeros(9), torch.arange(9))
    meta = {"classes": ["a", "b"], **own.backbones.choose_backbone(replace(config, backbone="small"), size)}
    meta |= own.backbones.image_statistics(split)
    [network] = own.model.build_model_list(meta, 1)
    network.train()(pixels)  # statistics for its normalisation
    assert network.eval()(pixels).shape == (9, 2)
    return torch.allclose(network(pixels), network(pixels.flip(-1)), atol=1e-5)


@pytest.mark.parametrize("size", [32, 70])
def test_prediction_sees_an_image_and_its_flip_alike(own: Any, size: int) -> None:
    for flip in (True, False):
        assert predicts_an_image_and_its_flip_alike(own, own.config.Config(width=8, flip=flip), size) is flip


def flips_in_training(own: Any, config: Any) -> bool:
    """Whether the images of an epoch are flipped, some of them."""
    augmented = own.data.load_data(config)[0]["train"]
    augmented.set_epoch(1)
    return bool(augmented.flipped.any())


def test_the_flip_at_test_time_is_a_setting_of_its_own(own: Any) -> None:
    config = settings.parse(own.config.Config(), ["--data", "synthetic", "--width", "8", "--no_test_time_flip"])
    assert flips_in_training(own, config) and not predicts_an_image_and_its_flip_alike(own, config)


def test_without_flips_in_training_there_are_none_at_test_time(own: Any) -> None:
    config = settings.parse(own.config.Config(), ["--data", "synthetic", "--width", "8", "--no_flip"])
    assert config.test_time_flip and not flips_in_training(own, config)
    assert not predicts_an_image_and_its_flip_alike(own, config)


def test_the_first_convolution_whitens_patches(own: Any) -> None:
    smooth = F.interpolate(torch.rand(300, 3, 8, 8), (32, 32), mode="bilinear") * 255
    split = Split(smooth.byte(), torch.zeros(300), torch.arange(300))
    meta = own.backbones.image_statistics(split)
    whitening = own.backbones.Whitening(meta["covariance"], 1)
    normalised = own.backbones.Normalize(meta["mean"], meta["std"])(split.x)
    outputs = whitening(normalised)[:, :12].transpose(0, 1).flatten(1)
    strength = outputs.square().mean(1).sqrt()
    assert strength.max() < 1.05 and torch.allclose(
        outputs @ outputs.T / outputs.shape[1] / strength / strength[:, None], torch.eye(12), atol=0.02
    )
    assert not whitening.weight.requires_grad


def test_what_an_image_becomes_depends_on_seed_epoch_and_index_and_not_on_workers(own: Any, tmp_path: Path) -> None:
    root = write_images(tmp_path, {"train": {"a": 30, "b": 30}})
    in_memory = own.task.Task(own.config.Config(data=str(root), batch_size=7)).train_loader
    by_workers = own.task.Task(own.config.Config(data=str(root), batch_size=7, workers=2, cache_gb=0.0)).train_loader
    assert (in_memory.num_workers, by_workers.num_workers) == (0, 2)

    epochs = []
    for epoch in (1, 2):
        epochs.append([batch.data for batch in train_batches(in_memory, epoch, 0)])
        for first in (0, 3):
            for (x, y), batch in zip(epochs[-1][first:], train_batches(by_workers, epoch, first), strict=True):
                x2, y2 = batch.data
                assert torch.equal(x, x2) and torch.equal(y, y2)
    assert not torch.equal(epochs[0][0][0], epochs[1][0][0])


def test_evaluation_images_are_as_they_are_in_their_files(own: Any, tmp_path: Path) -> None:
    root = write_images(tmp_path, {"train": {"a": 5, "b": 5}, "test": {"a": 3, "b": 2}}, size=(16, 16))
    trainer = own.task.Task(own.config.Config(data=str(root)))
    [(x, _)] = trainer.test_loader
    files = own.image_files.find_images(root / "test")
    cropping = own.crops.Cropping.of(trainer.meta)
    assert torch.equal(x, torch.stack([cropping.reader()(file) for file in files]))
    assert type(trainer.eval_loader.dataset) is Split


def test_the_network_has_one_output_per_class_and_sees_normalised_images(own: Any, tmp_path: Path) -> None:
    root = write_images(tmp_path, {"train": {"a": 9, "b": 9, "c": 9}})
    trainer = own.task.Task(own.config.Config(data=str(root), num_parts=1, width=8, precision="fp32"))
    x, _ = next(iter(trainer.train_loader))
    assert trainer.inference(x).shape == (len(x), 3)
    [normalize] = [layer for layer in trainer.model_list[0].modules() if isinstance(layer, own.backbones.Normalize)]
    normalised = normalize(trainer.train_loader.dataset.x[torch.arange(27)])
    assert normalised.mean().abs() < 0.3 and (normalised[:, 0].std() - 1).abs() < 0.3


def test_large_images_are_cut_to_their_usual_size_and_train(own: Any, tmp_path: Path) -> None:
    root = write_images(tmp_path / "data", {"train": {"a": 6, "b": 6}}, size=(300, 260))
    own.train.train(
        [*SMALL, "--data", str(root), "--epochs", "1", "--ckpt_dir", str(tmp_path / "runs"), "--warm_up_mode", "none"]
    )
    [best] = (tmp_path / "runs").glob("*/best.pth")
    assert checkpoint.load(best)["meta"]["image_size"] == 256


def test_summary_graph_and_histograms_come_on_request(
    own: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--data", "synthetic", "--epochs", "1", "--warm_up_mode", "none", "--num_parts", "3"]
    own.train.train([*SMALL, *flags, "--model_info", "--histograms", "--ckpt_dir", str(tmp_path)])
    shown = capsys.readouterr().out
    assert shown.count("Total params") == 3 and "no graph" not in shown
    [log] = tmp_path.glob("*/log.txt")
    assert log.read_text("utf-8") == shown
    for again in (["--histograms", "--model_info"], []):  # the first run's command goes on with it, and a shorter one
        config = settings.resumed(own.config.Config(), again, log.parent)
        assert config.histograms and config.model_info
        assert config == settings.load(own.config.Config(), log.with_name("config.json"))


# ---- resuming ----


def test_a_resumed_run_keeps_its_settings_and_its_folder(own: Any, tmp_path: Path) -> None:
    flags = ["--data", "synthetic", "--ckpt_dir", str(tmp_path), "--batch_size", "512", "--keep_last", "0"]
    own.train.train([*SMALL, *flags, "--epochs", "2", "--lr_scheduler_type", "step"])
    [run_dir] = tmp_path.iterdir()
    own.train.train(["--resume", "auto", "--ckpt_dir", str(tmp_path), "--epochs", "3", "--lr", "0.01"])
    assert list(tmp_path.iterdir()) == [run_dir]
    log = (run_dir / "log.txt").read_text("utf-8")
    assert [log.count(f"\n  {epoch}/") for epoch in (1, 2, 3)] == [1, 1, 1]
    assert checkpoint.load(run_dir / "epoch3.pth")["lr_scheduler0"]["base_lrs"] == [0.01, 0.01]
    assert settings.resumed(own.config.Config(), [], run_dir).lr_scheduler_type == "step"
    with pytest.raises(UserError, match="epoch3.pth has 3 epochs behind it; epochs is 2"):
        own.train.train(["--resume", str(run_dir), "--epochs", "2"])
    with pytest.raises(UserError, match="epoch3.pth beside it are later"):
        own.train.train(["--resume", str(run_dir / "epoch2.pth")])
    with pytest.raises(UserError, match="--batch_size 64 differs from 512"):
        settings.resumed(own.config.Config(), ["--batch_size", "64"], run_dir)


# ---- what is refused ----


@pytest.mark.parametrize(
    ("splits", "words"),
    [
        ({}, "images in 0 CLASS folder"),
        ({"val": {"a": 2, "b": 2}}, "has val and no folder train"),
        ({"train": {"a": 2}}, "images in 1 CLASS folder"),
        ({"train": {"a": 2, "b": 0}}, "images in 1 CLASS folder"),
        ({"train": {"a": 2, "b": 2}, "val": {"a": 0}}, "val has no images"),
        ({"train": {"a": 2, "b": 2}, "test": {"c": 1}}, "the unknown class 'c'"),
    ],
)
def test_a_folder_that_is_not_as_it_should_be_is_named(
    splits: dict[str, dict[str, int]], words: str, own: Any, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=words) as caught:
        own.data.load_data(own.config.Config(data=str(write_images(tmp_path, splits))))
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("cache_gb", ["1", "0"])
def test_a_damaged_image_is_named_in_one_line(cache_gb: str, own: Any, tmp_path: Path) -> None:
    root = write_images(tmp_path / "data", {"train": {"a": 5, "b": 5}})
    broken = root / "train" / "a" / "3.png"
    broken.write_bytes(broken.read_bytes()[:40])
    with pytest.raises(UserError) as caught:
        own.train.train(
            [
                *SMALL,
                "--data",
                str(root),
                "--epochs",
                "1",
                "--image_size",
                "16",
                "--ckpt_dir",
                str(tmp_path / "runs"),
                "--cache_gb",
                cache_gb,
            ]
        )
    assert str(caught.value).startswith(f"image {broken} cannot be read")
    assert "\n" not in str(caught.value)


def test_without_network_and_data_one_line_says_what_to_do(
    own: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import urllib.error
    import urllib.request

    def no_network(*args: Any, **kwargs: Any) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    with pytest.raises(UserError, match="cannot be downloaded") as caught:
        own.data.load_data(own.config.Config(data_dir=str(tmp_path)))
    assert "--data FOLDER" in str(caught.value) and "--data synthetic" in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--lr_schedular_type", "step"], ["--lr_schedular_type", "--lr_scheduler_type"]),
        (["--lr_scheduler_type", "stepp"], ["stepp", "annealing"]),
        (["--epochs", "many"], ["--epochs", "many"]),
        (
            ["--lr", "0.1", "0.2", "--num_parts", "3", "--data", "synthetic"],
            ["--lr has 2 values, the network (--num_parts) 3 parts"],
        ),
        (["--data", "nowhere"], ["error: --data nowhere"]),
        (["--batch_size", "-1"], ["error: --batch_size -1 must be above 0"]),
        (["--lr", "-1"], ["error: --lr -1.0 must be above 0"]),
        (["--val_fraction", "1"], ["error: --val_fraction 1.0 must be 0 or more and below 1"]),
        (["--image_size", "4", "--data", "synthetic"], ["error: --image_size 4 is too small"]),
        (["--resume", "nowhere"], ["error: --resume nowhere"]),
        (["--device", "tpu9", "--data", "synthetic"], ["error: device 'tpu9' is not available"]),
    ],
)
def test_a_wrong_flag_ends_with_status_1_and_no_traceback(
    flags: list[str], words: list[str], project: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-B", "train.py", *flags, "--ckpt_dir", str(tmp_path)]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert all(word in done.stderr for word in words), done.stderr


def test_predict_says_that_a_checkpoint_is_of_another_version_of_the_task(own: Any, tmp_path: Path) -> None:
    trainer = own.task.Task(own.config.Config(data="synthetic", width=8))
    trainer.ckpt_dir = tmp_path
    trainer.check_init()
    del trainer.meta["test_time_flip"]
    trainer.save_state(tmp_path / "best.pth", optim=False)
    Image.new("RGB", (32, 32)).save(tmp_path / "image.png")
    with pytest.raises(UserError, match="lacks 'test_time_flip': another version of model.py wrote it"):
        own.predict.predict(own.predict.Arguments((tmp_path / "image.png",), tmp_path / "best.pth"))


def test_predict_refuses_a_wrong_flag_and_a_missing_checkpoint_the_same_way(project: Path) -> None:
    for flags, words in (
        (["--chekpoint", "x"], "--checkpoint"),
        (["--checkpoint", "x.pth", "README.md"], "error: checkpoint x.pth"),
    ):
        command = [sys.executable, "-B", "predict.py", *flags]
        done = subprocess.run(command, cwd=project, capture_output=True, text=True)
        assert done.returncode == 1 and words in done.stderr and "Traceback" not in done.stderr


def test_help_imports_no_torch(project: Path) -> None:
    command = [sys.executable, "-B", "-X", "importtime", "train.py", "--help"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert done.returncode == 0 and "--warm_up_mode" in done.stdout
    assert "torch" not in {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
