"""Segmentation: pretrained encoders, what is trained of them and how fast, pairs that are augmented alike."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from conftest import Render, modules_of
from engine import UserError, checkpoint, settings
from PIL import Image

LITE0 = "tf_efficientnet_lite0"
NETWORK = {"classes": ["ground", "disc"], "width": 4, "mean": [127.5] * 3, "std": [127.5] * 3}


@pytest.fixture(scope="module")
def project(render_into: Render, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rendered project."""
    return render_into(tmp_path_factory.mktemp("pairs"), task_type="segmentation")


@pytest.fixture
def own(project: Path) -> Iterator[Any]:
    """Its modules."""
    with modules_of(project) as modules:
        yield modules


def pairs(root: Path, count: int = 6, size: tuple[int, int] = (72, 64)) -> Path:
    """Noise with a lighter rectangle, and masks of it."""
    random = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
    for number in range(count):
        mask = np.zeros(size[::-1], dtype=np.uint8)
        top, left = random.integers(20, size=2)
        mask[top : top + 30, left : left + 30] = 1
        pixels = random.integers(80, size=(*mask.shape, 3)) + 120 * mask[..., None]
        Image.fromarray(pixels.astype(np.uint8)).save(root / "images" / f"{number}.png")
        Image.fromarray(mask).save(root / "masks" / f"{number}.png")
    return root


# ---- networks ----


def test_images_of_64_pixels_start_pretrained_and_smaller_ones_from_scratch(own: Any) -> None:
    for side, name in ((64, LITE0), (63, "small")):
        meta = own.data.network_for(own.config.Config(), side)
        assert (meta["backbone"], meta["pretrained"], meta["image_size"]) == (name, side == 64, side)
    assert own.data.network_for(own.config.Config(weights="none"), 300)["backbone"] == "small"
    assert own.data.network_for(own.config.Config(), 300)["mean"] == [127.5] * 3


@pytest.mark.parametrize("name", [LITE0, "resnet18", "convnext_atto", "mobilenetv3_small_050"])
def test_weights_of_a_whole_network_are_those_of_its_feature_maps(name: str, own: Any, tmp_path: Path) -> None:
    whole: Any = timm.create_model(name).eval()
    torch.save(whole.state_dict(), tmp_path / "weights.pth")
    meta = {**NETWORK, "backbone": name}
    stem, encoder, _ = own.model.build_stages(meta, str(tmp_path / "weights.pth"))
    image, *maps = torch.nn.Sequential(stem, encoder).eval()(torch.randint(256, (1, 3, 64, 64)).byte())
    expected = whole.forward_intermediates(image, intermediates_only=True)
    torch.testing.assert_close(maps, expected[-len(maps) :], atol=1e-4, rtol=1e-4)


def test_a_network_that_is_no_chain_of_layers_is_an_encoder_without_a_stem(own: Any) -> None:
    stem, encoder, decoder = own.model.build_stages({**NETWORK, "backbone": "hrnet_w18_small"})
    assert not list(stem.parameters()) and isinstance(encoder, own.model.WholeEncoder)
    assert torch.nn.Sequential(stem, encoder, decoder)(torch.zeros(2, 3, 40, 50).byte()).shape == (2, 2, 40, 50)


@pytest.mark.parametrize("parts", [1, 2, 3])
@pytest.mark.parametrize("name", ["small", LITE0])
def test_every_number_of_parts_trains(parts: int, name: str, own: Any, tmp_path: Path) -> None:
    flags = ["--data", str(pairs(tmp_path / "data")), "--backbone", name, "--crop_size", "32", "--epochs", "1"]
    flags += ["--num_parts", str(parts), "--ckpt_dir", str(tmp_path / "runs"), "--warm_up_mode", "none"]
    trainer = own.task.Task(settings.parse(own.config.Config(), flags))
    trainer.fit(1)
    assert len(trainer.model_list) == parts and trainer.best_metric["miou"] > 0


def test_a_run_starts_from_the_stages_of_an_earlier_one(own: Any, tmp_path: Path) -> None:
    for name in ("small", LITE0):
        meta = {**NETWORK, "backbone": name}
        stages = own.model.build_stages(meta)
        checkpoint.save({"model0": torch.nn.Sequential(*stages).state_dict()}, tmp_path / f"{name}.pth")
        again = own.model.build_stages(meta, str(tmp_path / f"{name}.pth"))
        for stage, before in zip(again[:2], stages[:2], strict=True):
            torch.testing.assert_close(stage.state_dict(), before.state_dict())


# ---- training ----


def test_pretrained_stages_learn_more_slowly_than_the_decoder(own: Any, tmp_path: Path) -> None:
    config = own.config.Config(data=str(pairs(tmp_path / "data")), lr=(0.01,), num_parts=3)
    rates = [{float(group["lr"]) for group in o.param_groups} for o in own.task.Task(config).optimizer_list]
    assert sorted(rates[1]) == pytest.approx([0.01 * config.backbone_lr_factor]) and rates[2] == {0.01}


def test_what_is_frozen_stays_as_it_is(own: Any, tmp_path: Path) -> None:
    data = str(pairs(tmp_path / "data"))
    flags = ["--data", data, "--freeze", "stem", "encoder", "--crop_size", "32", "--ckpt_dir", str(tmp_path / "runs")]
    task = own.task.Task(settings.parse(own.config.Config(), [*flags, "--num_parts", "3", "--epochs", "1"]))
    before = [{name: value.clone() for name, value in part.state_dict().items()} for part in task.model_list]
    task.fit(1)
    changed = [
        any(not torch.equal(value, part.state_dict()[name]) for name, value in saved.items())
        for part, saved in zip(task.model_list, before, strict=True)
    ]
    assert changed == [False, False, True]


def test_losses_do_not_depend_on_which_images_share_a_batch(own: Any) -> None:
    task = own.task.Task(own.config.Config(data="synthetic", width=4))
    generator = torch.Generator().manual_seed(0)
    pred = torch.randn(3, 3, 8, 8, generator=generator)
    y = torch.randint(3, (3, 8, 8), generator=generator).byte()
    y[0, 2:] = 255
    whole = task.loss(pred, y)
    alone = [task.loss(pred[n : n + 1], y[n : n + 1]) for n in range(3)]
    assert whole.keys() == {"loss", "ce", "dice_loss"}
    for name, value in whole.items():
        torch.testing.assert_close(value, torch.stack([losses[name] for losses in alone]).mean())
    torch.testing.assert_close(whole["loss"], whole["ce"] + whole["dice_loss"])


def test_a_run_of_an_earlier_version_is_repeated_as_it_was(own: Any) -> None:
    former = own.config.Config.FORMER_VALUES
    assert former == {"backbone": "small", "dice_weight": 0.0, "scale_range": (1.0, 1.0)}
    assert former.keys() <= vars(own.config.Config()).keys()


# ---- augmentation ----


def test_a_crop_follows_from_seed_epoch_and_sample(own: Any) -> None:
    def crops(seed: int, epoch: int, positions: list[int]) -> Any:
        config = own.config.Config(data="synthetic", seed=seed, color_jitter=0.3)
        split = own.pairs.AugmentedPairs(train, own.pairs.augmentation_of(config, 32), seed)
        split.set_epoch(epoch)
        return torch.cat([tensor.flatten() for tensor in split.__getitems__(positions)])

    pairs = [(torch.randint(256, (3, 40, 50)).byte(), torch.randint(3, (40, 50)).byte()) for _ in range(4)]
    train = own.pairs.Pairs(pairs, [(40, 50)] * 4, torch.arange(4))
    assert torch.equal(crops(0, 1, [2]), crops(0, 1, [2]))
    assert not torch.equal(crops(0, 1, [2]), crops(0, 2, [2]))
    assert not torch.equal(crops(0, 1, [2]), crops(1, 1, [2]))
    together, alone = crops(0, 1, [0, 2]), crops(0, 1, [2])
    assert torch.equal(together[3 * 32 * 32 : 6 * 32 * 32], alone[: 3 * 32 * 32])


def test_scales_are_given_from_the_least_to_the_largest(own: Any) -> None:
    with pytest.raises(UserError, match="--scale_range 2.0 0.5 must be the least and the largest scale"):
        own.data.load_data(own.config.Config(data="synthetic", scale_range=(2.0, 0.5)))
