"""Every task: scores that equal scikit-learn's, whole networks that export, splits and refusals of bad data."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import image_files
import images
import pytest
import torch
from classification import MacroF1
from conftest import QUESTIONS, Render, modules_of
from engine import UserError, checkpoint, settings
from engine.data.loaders import EpochSampler
from PIL import ExifTags, Image
from sklearn import metrics
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_calibration_error

SMALL = ["--data", "synthetic", "--precision", "fp32", "--width", "8", "--batch_size", "48", "--lr", "0.02"]


@pytest.fixture(scope="module", params=QUESTIONS["task_type"])
def project(request: pytest.FixtureRequest, render_into: Render, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of each task."""
    return render_into(tmp_path_factory.mktemp("task"), task_type=request.param, num_parts="3")


@pytest.fixture
def own(project: Path) -> Iterator[Any]:
    """Its modules."""
    with modules_of(project) as modules:
        yield modules


@pytest.fixture(scope="module")
def of_labels(render_into: Render, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The modules of a project of multilabel classification."""
    with modules_of(render_into(tmp_path_factory.mktemp("labels"), task_type="multilabel_classification")) as modules:
        return modules


@pytest.fixture
def trainer(own: Any, tmp_path: Path) -> Any:
    """Its trainer after an epoch on synthetic data; the last batch of an evaluation is short."""
    smoke = settings.parse(own.config.Config(), ["--smoke", *SMALL, "--warm_up_mode", "none"])
    trainer = own.task.Task(replace(smoke, batch_size=48))
    trainer.ckpt_dir = tmp_path
    trainer.check_init()
    trainer.train_loop()
    sizes = [len(x) for x, _ in trainer.test_loader or trainer.eval_loader]
    assert sizes[-1] < sizes[0]
    return trainer


# ---- scores ----


def multiclass(pred: Tensor, y: Tensor, meta: dict[str, Any]) -> dict[str, float]:
    """Of logits (N, C) and class numbers (N,)."""
    found = pred.argmax(1)
    f1 = metrics.f1_score(y, found, average="macro")
    balanced = metrics.balanced_accuracy_score(y, found)
    return {"acc": metrics.accuracy_score(y, found), "f1": f1, "balanced_acc": balanced}


def of_rows(pred: Tensor, y: Tensor, meta: dict[str, Any]) -> dict[str, float]:
    """The same, and of probabilities: scikit-learn has no calibration error, torchmetrics has."""
    p = pred.double().softmax(1)
    auc = metrics.roc_auc_score(y, p, multi_class="ovr", average="macro")
    ece = multiclass_calibration_error(p, y, num_classes=p.shape[1], n_bins=15, norm="l1")
    return {**multiclass(pred, y, meta), "auc": auc, "log_loss": metrics.log_loss(y, p), "ece": float(ece)}


def top_five(pred: Tensor, y: Tensor, meta: dict[str, Any]) -> dict[str, float]:
    """The same, with the first five classes."""
    top5 = metrics.top_k_accuracy_score(y, pred, k=5, labels=range(pred.shape[1]))
    return {"acc_top5": top5, **multiclass(pred, y, meta)}


def multilabel(pred: Tensor, y: Tensor, meta: dict[str, Any]) -> dict[str, float]:
    """Of logits and labels (N, L)."""
    f1 = {f"f1_{average}": metrics.f1_score(y, pred > 0, average=average) for average in ("micro", "macro")}
    return {"map": metrics.average_precision_score(y, pred, average="macro"), **f1}


def regression(pred: Tensor, y: Tensor, meta: dict[str, Any]) -> dict[str, float]:
    """Of standardised numbers (N,), in the target's own unit."""
    pred, y = (v.double() * meta["target_std"] + meta["target_mean"] for v in (pred, y))
    rmse = metrics.mean_squared_error(y, pred) ** 0.5
    return {"r2": metrics.r2_score(y, pred), "mae": metrics.mean_absolute_error(y, pred), "rmse": rmse}


def pixels(pred: Tensor, y: Tensor, meta: dict[str, Any]) -> dict[str, float]:
    """Of logits (N, C, H, W) and class numbers (N, H, W)."""
    found, true = pred.argmax(1).flatten(), y.flatten()
    iou = metrics.jaccard_score(true, found, average="macro")
    return {"miou": iou, "pixel_acc": metrics.accuracy_score(true, found)}


REFERENCES: dict[str, Callable[[Tensor, Tensor, dict[str, Any]], dict[str, float]]] = {
    "image_classification": top_five,
    "multilabel_classification": multilabel,
    "regression": regression,
    "segmentation": pixels,
    "tabular_classification": of_rows,
    "text_classification": multiclass,
}


def test_scores_of_the_whole_set_equal_scikit_learns(trainer: Any, request: pytest.FixtureRequest) -> None:
    loader = trainer.test_loader or trainer.eval_loader
    scores = trainer.evaluate(loader)
    batches = [(trainer.inference(x), y) for x, y in loader]
    pred, y = (torch.cat(parts).cpu() for parts in zip(*batches, strict=True))
    expected = REFERENCES[request.node.callspec.params["project"]](pred, y, trainer.meta)
    assert next(iter(expected)) in scores and trainer.key_metric in scores
    assert scores.keys() == {"loss", *expected}
    for name, value in expected.items():
        assert scores[name] == pytest.approx(value, abs=1e-6), name


def test_macro_f1_equals_scikit_learn_with_absent_classes() -> None:
    y, pred = torch.tensor([0, 0, 1, 1, 4]), torch.tensor([0, 1, 1, 1, 0])
    score = MacroF1(6)
    for part in (slice(0, 3), slice(3, 5)):
        score.update(nn.functional.one_hot(pred[part], 6).float(), y[part])
    assert float(score.compute()) == pytest.approx(metrics.f1_score(y, pred, average="macro"), abs=1e-12)


@pytest.mark.filterwarnings("ignore:No positive class:UserWarning")
@pytest.mark.parametrize("seed", range(5))
def test_scores_of_labels_equal_scikit_learn_with_ties_and_a_label_that_never_occurs(seed: int, of_labels: Any) -> None:
    generator = torch.Generator().manual_seed(seed)
    pred = torch.randint(-3, 4, (37, 4), generator=generator) / 2
    y = (torch.rand(37, 4, generator=generator) < torch.tensor([0.5, 0.1, 0.9, 0.0])).float()
    average_precision = metrics.average_precision_score(y, pred, average="macro")
    for score, expected in (
        (of_labels.metrics.MeanAveragePrecision(), average_precision),
        (of_labels.metrics.F1(micro=True), metrics.f1_score(y, pred > 0, average="micro")),
        (of_labels.metrics.F1(micro=False), metrics.f1_score(y, pred > 0, average="macro", zero_division=0)),
    ):
        for part in torch.arange(37).split(10):
            score.update(pred[part], y[part])
        assert float(score.compute()) == pytest.approx(expected, abs=1e-9)


# ---- what every task can do ----


def test_the_whole_network_runs_without_the_project(trainer: Any, tmp_path: Path) -> None:
    trainer.save_model(tmp_path / "whole.pt2")
    x, _ = next(iter(trainer.eval_loader))
    program = torch.export.load(str(tmp_path / "whole.pt2")).module()
    for batch in (x[:5], x[:2], x):
        torch.testing.assert_close(program(batch), trainer.inference(batch), rtol=1e-3, atol=1e-4)


def test_a_summary_of_every_part_is_shown(trainer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    trainer.get_model_info(trainer.example_input())
    shown = capsys.readouterr().out
    assert all(f"part {part}" in shown for part in range(3)) and "no summary" not in shown, shown


def test_what_is_held_out_follows_from_the_seed_alone(own: Any) -> None:
    first, again, other = (
        own.data.load_data(settings.parse(own.config.Config(), [*SMALL, "--seed", seed]))[0] for seed in ("3", "3", "4")
    )
    assert torch.equal(first["val"].indices, again["val"].indices)
    assert not torch.equal(first["val"].indices, other["val"].indices)
    assert not set(first["val"].indices.tolist()) & set(first["train"].indices.tolist())


def test_weights_know_all_that_prediction_needs(own: Any, trainer: Any, tmp_path: Path) -> None:
    trainer.save_state(tmp_path / "best.pth", optim=False)
    meta = checkpoint.load(tmp_path / "best.pth")["meta"]
    assert meta == trainer.meta
    parts = own.model.build_model_list(meta, 3)
    for part, trained in zip(parts, trainer.model_list, strict=True):
        part.load_state_dict(trained.state_dict())


def test_data_that_is_not_there_is_named(own: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "nowhere"):
        with pytest.raises(UserError, match=path.name) as caught:
            own.data.load_data(own.config.Config(data=str(path)))
        assert "\n" not in str(caught.value)


def test_a_run_does_not_go_on_with_other_data(own: Any, tmp_path: Path) -> None:
    flags = ["--ckpt_dir", str(tmp_path), "--epochs", "1", "--warm_up_mode", "none"]
    own.train.train([*SMALL, *flags])
    [state] = tmp_path.glob("*/epoch1.pth")
    whole = checkpoint.load(state)
    name = sorted(whole["meta"])[0]
    checkpoint.save({**whole, "meta": {**whole["meta"], name: ["other"]}}, state)
    with pytest.raises(UserError, match=f"trained on other data: ('{name}' differs|{name}: .* new and 'other' gone)"):
        own.train.train(["--resume", "auto", "--ckpt_dir", str(tmp_path), "--epochs", "2"])


def test_predict_refuses_an_output_or_checkpoint_that_cannot_be(own: Any, trainer: Any, tmp_path: Path) -> None:
    best, given, before = tmp_path / "best.pth", tmp_path / "given", tmp_path / "before.csv"
    given.mkdir()
    before.write_text("of another run")
    trainer.save_state(best, optim=False)
    for output in (given, tmp_path / "none" / "x.csv", best):
        with pytest.raises(UserError, match="--output"):
            own.predict.predict(own.predict.Arguments((best,), best, output))
    with pytest.raises(UserError, match="nothing to predict for" if hasattr(own, "images") else "cannot be read"):
        own.predict.predict(own.predict.Arguments((given,), best, before))
    assert before.read_text() == "of another run"
    with pytest.raises(UserError, match="give something to predict for"):
        own.predict.predict(own.predict.Arguments((), best, before))
    checkpoint.save({**checkpoint.load(best), "task_type": "other"}, best)
    with pytest.raises(UserError, match=f"is of the task 'other' and this is '{own.config.Config.task_type}'"):
        own.predict.predict(own.predict.Arguments((given,), best, tmp_path / "x.csv"))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 16])
@pytest.mark.parametrize("samples", range(1, 18))
def test_every_sample_is_in_one_batch_and_none_is_alone(samples: int, batch_size: int) -> None:
    batches = list(EpochSampler(samples, batch_size, seed=0))
    assert len(batches) == len(EpochSampler(samples, batch_size, seed=0))
    assert sorted(sum(batches, [])) == list(range(samples))
    assert max(map(len, batches)) <= max(batch_size, 3 if batch_size == 2 else 0)
    assert samples == 1 or batch_size == 1 or min(map(len, batches)) > 1


# ---- images ----


def test_images_are_seen_upright_and_in_8_bits_and_hidden_files_are_left_out(tmp_path: Path) -> None:
    picture = Image.new("RGB", (8, 4), "black")
    picture.paste("white", (0, 0, 4, 4))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be turned clockwise
    picture.save(tmp_path / "photo.JPG", exif=exif, quality=100, subsampling=0)
    with images.opened(tmp_path / "photo.JPG") as photo:
        assert images.upright_size(photo) == (4, 8)
        upright = images.to_tensor(images.to_rgb(photo))
    assert upright.shape == (3, 8, 4) and upright[:, :4].min() > 240 and upright[:, 4:].max() < 15

    depth = Image.new("I;16", (4, 4), 128 * 256)
    depth.save(tmp_path / "deep.png")
    with images.opened(tmp_path / "deep.png") as deep:
        assert images.to_tensor(images.to_rgb(deep, [0, 65535])).unique().tolist() == [128]

    (tmp_path / ".ipynb_checkpoints").mkdir()
    for name in (".ipynb_checkpoints/0.png", "._0.png"):
        depth.save(tmp_path / name)
    assert [path.name for path in image_files.find_images(tmp_path)] == ["deep.png", "photo.JPG"]


@pytest.mark.skipif(os.name != "posix", reason="makes a link")
def test_linked_folders_are_followed(tmp_path: Path) -> None:
    for folder in ("real", "data"):
        (tmp_path / folder).mkdir()
    Image.new("L", (2, 2)).save(tmp_path / "real" / "1.png")
    (tmp_path / "data" / "cat").symlink_to(tmp_path / "real")
    assert image_files.find_images(tmp_path / "data") == [tmp_path / "data" / "cat" / "1.png"]
