"""What this project promises of masks: any image size, pixels that do not count, and bad files named."""

from pathlib import Path

import pytest
import torch
from PIL import Image

import predict
from config import Config
from data import load_data
from engine import UserError, checkpoint
from layers import channels_last
from metrics import DiceLoss, PixelCrossEntropy
from model import build_stages, from_timm
from pairs import Augmentation, jittered
from pretrained import DEFAULT, build_timm
from test_project import run

NETWORK = {"classes": ["a", "b", "c"], "width": 4, "mean": [127.5] * 3, "std": [127.5] * 3}


def write(root: Path, *names: str, size: tuple[int, int] = (24, 20), number: int = 1) -> Path:
    """A grey image with a mask, half of it of class 0 and half of `number`, for each of these names."""
    for name in names:
        split, stem = name.split("/")
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True, exist_ok=True)
        mask = Image.new("L", size)
        mask.paste(number, (0, 0, size[0] // 2, size[1]))
        mask.save(root / split / "masks" / f"{stem}.png")
        mask.point(lambda value: 80 + 60 * value).convert("RGB").save(root / split / "images" / f"{stem}.jpg")
    return root


def test_it_learns(tmp_path: Path) -> None:
    flags = ["--epochs", "4", "--lr_scheduler_type", "annealing", "--warm_up_mode", "linear", "--warm_up_epochs", "0.5"]
    best = checkpoint.load(run(tmp_path, *flags) / "best.pth")
    assert best["best_metric"][best["key_metric"]] > 0.6  # chance is far below


def test_images_of_any_size_are_trained_on_and_predicted(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for name, size in (("a", (40, 21)), ("b", (17, 50)), ("c", (300, 290)), ("d", (9, 9))):
        write(data, f"train/{name}", f"val/{name}", size=size)
    run_dir = run(tmp_path / "runs", "--data", str(data), "--epochs", "1", "--warm_up_mode", "none")
    output = tmp_path / "predictions.csv"
    predict.predict(predict.Arguments((data / "val" / "images",), run_dir / "best.pth", output))
    assert len(output.read_text("utf-8").splitlines()) == 5
    for name, size in (("b", (17, 50)), ("c", (300, 290))):
        with Image.open(tmp_path / "predictions_masks" / f"{name}.png") as mask:
            assert mask.size == size and set(mask.tobytes()) <= {0, 1}


def test_images_and_masks_without_a_split_are_enough(tmp_path: Path) -> None:
    data, _ = load_data(Config(data=str(write(tmp_path, *(f"./{number}" for number in range(10))))))
    assert {name: len(pairs) for name, pairs in data.items()} == {"train": 9, "val": 1}


def test_ignored_pixels_change_no_loss() -> None:
    torch.manual_seed(0)
    pred, y = torch.randn(2, 3, 4, 6), torch.randint(3, (2, 4, 6)).byte()
    y[0, :, 3:] = 255
    expected = [
        torch.nn.functional.cross_entropy(pred[:1, :, :, :3], y[:1, :, :3].long()),
        torch.nn.functional.cross_entropy(pred[1:], y[1:].long()),
    ]
    torch.testing.assert_close(PixelCrossEntropy(255)(pred, y), torch.stack(expected).mean())


def test_the_dice_loss_is_the_mean_over_the_classes_of_an_image_and_over_images() -> None:
    torch.manual_seed(0)
    pred, y = torch.randn(2, 3, 4, 6), torch.randint(2, (2, 4, 6)).byte()  # the third class is in no mask
    y[0, :, 3:] = 255
    expected = []
    for logits, mask in ((pred[0, :, :, :3], y[0, :, :3]), (pred[1], y[1])):
        for number in (0, 1):
            p, true = logits.softmax(0)[number], mask == number
            expected.append(1 - 2 * p[true].sum() / (p.sum() + true.sum()))
    torch.testing.assert_close(DiceLoss(255)(pred, y), torch.stack(expected).mean())


def test_an_image_without_pixels_that_count_has_no_loss() -> None:
    pred, y = torch.randn(1, 3, 4, 6, requires_grad=True), torch.full((1, 4, 6), 255).byte()
    loss = PixelCrossEntropy(255)(pred, y) + DiceLoss(255)(pred, y)
    loss.backward()
    assert loss == 0 and pred.grad is not None and not pred.grad.any()


@pytest.mark.parametrize("name", ["small", DEFAULT])
def test_logits_have_the_size_of_the_image_whatever_it_is(name: str) -> None:
    network = torch.nn.Sequential(*build_stages({**NETWORK, "backbone": name})).eval()
    for size in ((1, 1), (33, 7), (64, 96)):
        assert network(torch.zeros(1, 3, *size, dtype=torch.uint8)).shape == (1, 3, *size)


def test_stem_and_encoder_make_the_feature_maps_of_timm() -> None:
    torch.manual_seed(0)
    [network] = channels_last([build_timm(DEFAULT, None, features_only=True).eval()])  # else rounding differs
    torch.manual_seed(0)
    stem, encoder, _ = build_stages({**NETWORK, "backbone": DEFAULT})
    x = torch.randint(256, (2, 3, 64, 96)).byte()
    image, *maps = torch.nn.Sequential(stem, encoder).eval()(x)
    torch.testing.assert_close(maps, network(image))


def test_crops_of_image_and_mask_lie_on_each_other() -> None:
    mask = torch.zeros(60, 80).byte()
    mask[20:45, 30:70] = 1
    image = (100 * mask).expand(3, -1, -1).contiguous()
    augmentation = Augmentation(32, (0.5, 2.0), flip=True, color_jitter=0.0, ignore_index=255)
    for draws in torch.rand(50, 7, generator=torch.Generator().manual_seed(0)).tolist():
        crop, classes = augmentation((image, mask), draws)
        assert crop.shape == (3, 32, 32) and classes.shape == (32, 32)
        counted = classes != 255
        wrong = (crop[0] > 50) != (classes == 1)
        assert counted.any() and (wrong & counted).float().mean() < 0.03


def test_a_larger_scale_shows_a_smaller_part_larger() -> None:
    mask = torch.arange(64).byte().expand(64, -1).contiguous()
    image = mask.expand(3, -1, -1).contiguous()
    for scale, first, last in ((0.0, 1, 63), (0.5, 16, 47), (1.0, 24, 39)):
        augmentation = Augmentation(32, (0.5, 2.0), flip=False, color_jitter=0.0, ignore_index=255)
        _, classes = augmentation((image, mask), [0.5, 0.5, 0.9, scale, 0.5, 0.5, 0.5])
        assert classes[0, [0, -1]].tolist() == [first, last]


def test_jitter_changes_colours_by_no_more_than_its_strength() -> None:
    image = torch.full((3, 4, 4), 100).byte()
    assert torch.equal(jittered(image, 0.2, [0.5, 0.1, 0.9]), image)
    assert jittered(image, 0.2, [0.999, 0.5, 0.5]).unique().tolist() == [120]
    assert jittered(image, 0.2, [0.0, 0.5, 0.5]).unique().tolist() == [80]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("vit_tiny_patch16_224", "--backbone vit_tiny_patch16_224 takes images of one size only; choose another, as"),
        ("mobilenet_v3_small", "--backbone mobilenet_v3_small is torchvision's, of which no feature maps are known"),
    ],
)
def test_a_network_without_feature_maps_is_refused(name: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        from_timm(name, None)


def test_photographs_start_from_pretrained_weights(tmp_path: Path) -> None:
    data = write(tmp_path / "data", *(f"./{number}" for number in range(6)), size=(72, 64))
    flags = ["--epochs", "1", "--warm_up_mode", "none", "--crop_size", "32"]
    best = checkpoint.load(run(tmp_path / "runs", "--data", str(data), *flags) / "best.pth")
    assert (best["meta"]["backbone"], best["meta"]["pretrained"]) == (DEFAULT, True)


def test_a_bad_mask_is_named(tmp_path: Path) -> None:
    write(tmp_path, "train/a", "train/b", "val/c")
    masks = tmp_path / "val" / "masks"
    for content, words in (
        (Image.new("L", (24, 20), 7), "c.png has the unknown class 7; the classes are 0 to 1"),
        (Image.new("L", (20, 20)), "c.png has 20 x 20 pixels, its image .*c.jpg 24 x 20"),
        (Image.new("RGB", (24, 20)), "a.png has grey levels and mask .*c.png has colours"),
    ):
        content.save(masks / "c.png")
        with pytest.raises(UserError, match=words):
            load_data(Config(data=str(tmp_path)))
    (masks / "c.png").unlink()
    with pytest.raises(UserError, match="c.jpg has no mask"):
        load_data(Config(data=str(tmp_path)))
