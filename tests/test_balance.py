"""Classes of unequal sizes: weights in the loss, and epochs that have every class equally often."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import classification
import numpy
import pytest
import torch
from classification import WeightedCrossEntropy, balanced_weights
from conftest import Render, modules_of
from engine import UserError
from engine.data import loaders as loaders_module
from engine.data.loaders import make_loaders, train_batches
from engine.data.splits import BalancedSplit, Split
from engine.distributed import batches
from sklearn.utils.class_weight import compute_class_weight
from small import Small, same, weights
from torch import Tensor, nn
from torch.optim import Adam

SIZES = [70, 3, 20, 7]
Y = torch.arange(4).repeat_interleave(torch.tensor(SIZES))


def settings(**given: str) -> Any:
    """What the functions of classification.py read."""
    return SimpleNamespace(**{"class_weights": "none", "sampler": "shuffle", "seed": 0, **given})


def split() -> Split:
    """A hundred numbers in four classes."""
    return Split(torch.arange(100), Y, torch.arange(100))


# ---- weights ----


def test_balanced_weights_are_scikit_learns() -> None:
    expected = compute_class_weight("balanced", classes=numpy.arange(4), y=Y.numpy())
    assert balanced_weights(torch.tensor(SIZES)).tolist() == pytest.approx(expected)


def test_a_class_without_a_training_sample_changes_no_other_weight() -> None:
    found = balanced_weights(torch.tensor([70, 0, 3, 20, 7])).tolist()
    assert found == pytest.approx([*(100 / (4 * n) for n in (70,)), 1.0, *(100 / (4 * n) for n in (3, 20, 7))])


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_the_weighted_loss_is_a_mean_over_samples(label_smoothing: float) -> None:
    generator = torch.Generator().manual_seed(0)
    pred, of_class = torch.randn(100, 4, generator=generator), balanced_weights(torch.tensor(SIZES))
    loss = WeightedCrossEntropy(of_class, label_smoothing)
    each = nn.functional.cross_entropy(pred, Y, reduction="none", label_smoothing=label_smoothing)
    torch.testing.assert_close(loss(pred, Y), (of_class[Y] * each).mean())
    order = torch.randperm(100, generator=generator)
    of_batches = [loss(pred[part], Y[part]) * len(part) for part in order.split(30)]
    torch.testing.assert_close(sum(of_batches) / 100, loss(pred, Y))
    per_class = torch.stack([each[number == Y].mean() for number in range(4)])
    torch.testing.assert_close(loss(pred, Y), per_class.mean())  # each class counts alike


def test_weights_that_are_used_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    loss = classification.class_loss(settings(class_weights="balanced"), split(), ["cat", "emu", "dog", "cow"], 0.1)
    assert isinstance(loss, WeightedCrossEntropy) and loss.label_smoothing == 0.1
    assert capsys.readouterr().out == "class weights: 0.357 (cat) to 8.33 (emu)\n"
    assert isinstance(classification.class_loss(settings(), split(), ["cat"]), nn.CrossEntropyLoss)


@pytest.mark.parametrize("task_type", ["image_classification", "tabular_classification", "text_classification"])
def test_weights_and_sampler_together_are_refused_before_any_data_is_read(task_type: str, render: Render) -> None:
    with modules_of(render(task_type=task_type)) as own:
        config = own.config.Config(data="nowhere", class_weights="balanced", sampler="balanced")
        with pytest.raises(UserError, match="each make up for classes of unequal size; give one of them"):
            own.data.load_data(config)


# ---- sampling ----


@pytest.mark.parametrize("epoch", range(3))
def test_an_epoch_has_every_class_equally_often_and_every_sample_of_a_class_equally_often(epoch: int) -> None:
    balanced = BalancedSplit(split(), Y, seed=3)
    balanced.set_epoch(epoch)
    x, y = balanced.__getitems__(list(range(len(balanced))))
    assert len(balanced) == 100 and y.bincount().tolist() == [25] * 4
    for number, size in enumerate(SIZES):
        times = Counter(x[y == number].tolist())
        assert max(times.values()) - min(times.values()) <= 1 and len(times) == min(size, 25)


def test_what_is_left_over_goes_to_other_classes_in_other_epochs() -> None:
    groups = torch.tensor([0, 0, 0, 0, 1, 5, 5])  # there is no 2, 3 and 4
    balanced, seen = BalancedSplit(Split(torch.arange(7), groups, torch.arange(7)), groups, seed=0), set()
    for epoch in range(20):
        balanced.set_epoch(epoch)
        counts = groups[balanced.indices].bincount()[[0, 1, 5]].tolist()
        assert sorted(counts) == [2, 2, 3]
        seen.add(tuple(counts))
    assert len(seen) == 3


def test_what_is_drawn_follows_from_seed_and_epoch_alone() -> None:
    def drawn(seed: int, *epochs: int) -> list[int]:
        balanced = BalancedSplit(split(), Y, seed)
        for epoch in epochs:
            balanced.set_epoch(epoch)
        numbers: list[int] = balanced.indices.tolist()
        return numbers

    assert drawn(1, 2) == drawn(1, 5, 2) != drawn(1, 3)
    assert drawn(1, 2) != drawn(2, 2)


def loaders(sampler: str) -> Any:
    """Of x (B, 4) and y (B,), of which the rarer class is one in twenty."""
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    y = (torch.arange(60) % 20 == 0).long()
    train = Split(x + y[:, None], y, torch.arange(60))
    return make_loaders(
        {"train": classification.sampled(train, settings(sampler=sampler)), "val": train}, 8, 0, torch.device("cpu")
    )


def test_batches_are_the_same_for_any_number_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    def epoch(world: int) -> list[Tensor]:
        for module in (batches, loaders_module):
            monkeypatch.setattr(module, "world_size", lambda: world)
        of_ranks = []
        for rank in range(world):
            monkeypatch.setattr(batches, "rank", lambda rank=rank: rank)
            local = train_batches(loaders("balanced").train, 2, 0)
            of_ranks.append([batch.data[0][: batch.local_size] for batch in local])
        return [torch.cat(parts) for parts in zip(*of_ranks, strict=True)]

    alone = epoch(1)
    assert sum(map(len, alone)) == 60
    for world in (2, 3):
        assert all(map(torch.equal, epoch(world), alone))


class Unbalanced(Small):
    """A trainer on these samples."""

    def __init__(self, folder: Path, sampler: str = "shuffle", class_weights: str = "none", **options: Any) -> None:
        train, val, _ = loaders(sampler)
        torch.manual_seed(0)
        model = nn.Linear(4, 2)
        options |= {"model_list": [model], "optimizer_list": [Adam(model.parameters(), 0.02)]}
        options |= {"train_loader": train, "eval_loader": val}
        loss = classification.class_loss(settings(class_weights=class_weights), train.dataset, ["a", "b"])
        super().__init__(folder, **options, criterion=loss)

    def found(self) -> float:
        """The part of the rarer class that is recognised."""
        x, y = self.eval_loader.dataset.x, self.eval_loader.dataset.y
        return self.inference(x[y == 1]).argmax(1).float().mean().item()


def test_a_run_inside_a_balanced_epoch_resumes_with_the_same_bits(tmp_path: Path) -> None:
    options: dict[str, Any] = {"sampler": "balanced", "epochs": 2, "save_per_steps": 3, "keep_last": 0}
    whole = Unbalanced(tmp_path, **options)
    whole.fit(2)
    resumed = Unbalanced(tmp_path, **options)
    resumed.load_state(tmp_path / "epoch2_step12.pth")
    resumed.fit(2)
    assert same(weights(resumed), weights(whole))


@pytest.mark.parametrize("options", [{"sampler": "balanced"}, {"class_weights": "balanced"}])
def test_a_rare_class_is_learnt(options: dict[str, str], tmp_path: Path) -> None:
    plain, balanced = Unbalanced(tmp_path / "plain", epochs=5), Unbalanced(tmp_path / "balanced", **options, epochs=5)
    for trainer in (plain, balanced):
        trainer.fit(5)
    assert plain.found() < 0.5 < balanced.found()
