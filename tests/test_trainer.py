"""The trainer: honest losses and scores, evaluation without side effects, several parts, files, records."""

import gc
import math
import os
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from classification import MacroF1, draw_confusion
from conftest import Render
from engine import UserError, checkpoint
from engine.metrics import SampleMeans
from engine.monitor import console, figures
from engine.monitor.figures import new_figure
from engine.monitor.tensorboard import open_writer
from engine.network import merge_stages
from engine.optim.gradients import Gradients
from engine.trainer import Trainer
from image_grid import draw_images
from PIL import Image
from sklearn.metrics import f1_score
from small import Small, SmallConfig, data, network, read_scalars, record, same, weights
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.optim import SGD, Adam
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

# ---- evaluation ----


def test_evaluation_changes_no_weight_buffer_mode_or_random_state(tmp_path: Path) -> None:
    trainer = Small(tmp_path)
    trainer.model_list[0].train()
    frozen = trainer.model_list[0][1][0]  # type: ignore[index]
    frozen.eval()
    before, state = weights(trainer), torch.get_rng_state()
    trainer.eval_loader = data(seed=1, shuffle=True)  # shuffling draws from the global generator
    trainer.evaluate(trainer.eval_loader)
    assert same(weights(trainer), before)
    assert torch.equal(torch.get_rng_state(), state)
    assert trainer.model_list[0].training and not frozen.training


def test_evaluation_runs_in_eval_mode_without_gradients(tmp_path: Path) -> None:
    seen: list[tuple[bool, bool]] = []
    trainer = Small(tmp_path)
    trainer.model_list[0].register_forward_hook(lambda m, i, o: seen.append((m.training, o.requires_grad)))
    trainer.evaluate(trainer.eval_loader)
    assert seen == [(False, False)] * 3


def test_evaluation_runs_the_network_once_per_batch(tmp_path: Path) -> None:
    calls: list[int] = []
    trainer = Small(tmp_path)
    trainer.model_list[0].register_forward_hook(lambda m, i, o: calls.append(len(o)))
    trainer.evaluate(trainer.eval_loader)
    assert calls == [8, 8, 4]


def test_scores_of_two_forward_passes_are_of_two_outputs(tmp_path: Path) -> None:
    class TwoViews(Small):
        def eval_scores_per_batch(self, batch: Any) -> dict[str, Tensor]:
            x, _ = batch
            return {"acc": (self.forward(x * 1) - self.forward(x * 2)).abs().mean()}

    trainer = TwoViews(tmp_path)
    scores = trainer.evaluate(trainer.eval_loader)
    assert scores["acc"] > 1e-3
    assert scores["loss"] == pytest.approx(Small(tmp_path).evaluate(trainer.eval_loader)["loss"])  # of loss_per_batch


class OwnLoss(Small):
    """Whose loss needs the whole batch."""

    def loss_per_batch(self, batch: Any) -> dict[str, Tensor]:
        x, y = batch
        return {"loss": 2 * nn.functional.cross_entropy(self.forward(x), y)}


def test_a_loss_of_ones_own_is_evaluated_beside_the_scores(tmp_path: Path) -> None:
    trainer, plain = OwnLoss(tmp_path, dataset_metrics={"f1": MacroF1(2)}), Small(tmp_path)
    scores, expected = trainer.evaluate(trainer.eval_loader), plain.evaluate(plain.eval_loader)
    assert scores["loss"] == pytest.approx(2 * expected["loss"]) and scores["acc"] == expected["acc"]
    assert scores.keys() == {"loss", "acc", "f1"}


class Autoencoder(Trainer):
    """Batches are x (B, 4) alone."""

    def __init__(self, folder: Path) -> None:
        super().__init__(SmallConfig(epochs=3))
        self.ckpt_dir = folder
        self.model_list = [nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 4))]
        self.optimizer_list = [Adam(self.model_list[0].parameters(), 0.01)]
        self.train_loader = self.eval_loader = torch.randn(40, 4).split(8)

    def loss_per_batch(self, batch: Any) -> dict[str, Tensor]:
        return {"loss": nn.functional.mse_loss(self.forward(batch), batch)}


def test_an_autoencoder_needs_no_more_than_its_loss(tmp_path: Path) -> None:
    trainer = Autoencoder(tmp_path)
    before = trainer.evaluate(trainer.eval_loader)
    trainer.fit(3)
    assert trainer.evaluate(trainer.eval_loader)["loss"] < before["loss"] and before.keys() == {"loss"}
    assert trainer.best_epoch == 3


def test_a_batch_that_is_no_pair_is_refused_with_what_to_override(tmp_path: Path) -> None:
    trainer = Small(tmp_path, train_loader=list(torch.randn(16, 4).split(8)))
    with pytest.raises(UserError, match=r"a batch is a Tensor, not a pair \(x, y\); override loss_per_batch"):
        trainer.train_loop()
    trainer = Small(tmp_path, train_loader=[(torch.randn(8, 4), torch.zeros(8), torch.zeros(8))])
    with pytest.raises(UserError, match=r"a batch is a tuple of 3, not a pair"):
        trainer.train_loop()


@pytest.mark.parametrize("samples", range(1, 18))
@pytest.mark.parametrize("batch_size", [1, 2, 4, 5])
def test_losses_and_scores_are_means_over_samples(samples: int, batch_size: int, tmp_path: Path) -> None:
    trainer = Small(tmp_path, parts=1)
    loader = data(samples, batch_size)
    trainer.dataset_metrics = {"f1": MacroF1(2)}
    scores = trainer.evaluate(loader)

    x, y = loader.dataset.tensors  # type: ignore[attr-defined]
    pred = trainer.inference(x)
    assert scores["loss"] == pytest.approx(nn.functional.cross_entropy(pred, y).item(), abs=1e-6)
    assert scores["acc"] == pytest.approx((pred.argmax(1) == y).double().mean().item(), abs=1e-7)
    assert scores["f1"] == pytest.approx(f1_score(y, pred.argmax(1), average="macro", zero_division=0), abs=1e-9)


def test_a_perfect_model_has_an_accuracy_of_one_on_a_short_last_batch(tmp_path: Path) -> None:
    class Oracle(Small):
        def forward(self, x: Tensor) -> Tensor:
            right = (x.sum(1) > 0).long()
            return nn.functional.one_hot(right, 2).float() + 0 * self.model_list[0](x)

    assert Oracle(tmp_path, eval_loader=data(10_000, 128)).evaluate(data(10_000, 128))["acc"] == 1.0


def test_a_torchmetrics_metric_is_a_score_of_the_whole_set(tmp_path: Path) -> None:
    from torchmetrics.classification import MulticlassF1Score

    trainer = Small(tmp_path, dataset_metrics={"own": MacroF1(2), "theirs": MulticlassF1Score(2, average="macro")})
    for _ in range(2):  # the second evaluation must not remember the first
        scores = trainer.evaluate(trainer.eval_loader)
        assert scores["own"] == pytest.approx(scores["theirs"], abs=1e-6)


# ---- training losses ----


class Constant(Small):
    """Whose loss of a batch is the mean of its values, whatever the network says."""

    def loss_per_batch(self, batch: Sequence[Tensor]) -> dict[str, Any]:
        x, *_ = batch
        nothing = 0 * sum(parameter.sum() for parameter in self.model_list[0].parameters())
        self.returned: dict[str, Any] = {"loss": x.mean() + nothing, "second": 2 * x.mean(), "third": 3.0}
        return self.returned


@pytest.mark.parametrize("log_per_step", [1, 2, 3, 100])
@pytest.mark.parametrize("per_batch", [2, 3])
@pytest.mark.parametrize("samples", [1, 5, 8, 17])
def test_the_reported_training_loss_is_the_mean_over_all_samples(
    samples: int, per_batch: int, log_per_step: int, tmp_path: Path
) -> None:
    x = torch.arange(samples * 4.0).view(samples, 4)
    batches = [tuple(part for _ in range(per_batch)) for part in x.split(4)]
    trainer = Constant(tmp_path, train_loader=batches, log_per_step=log_per_step)
    losses = trainer.train_loop()
    assert losses["loss"] == pytest.approx(x.mean().item(), rel=1e-6)
    assert losses["second"] == pytest.approx(2 * x.mean().item(), rel=1e-6)
    assert losses["third"] == 3.0


def test_the_dictionary_that_the_task_returned_is_left_alone(tmp_path: Path) -> None:
    trainer = Constant(tmp_path, train_loader=[(torch.ones(2, 4),)])
    trainer.train_loop()
    assert trainer.returned.keys() == {"loss", "second", "third"}
    assert trainer.returned["loss"].item() == 1.0 and trainer.returned["third"] == 3.0


def test_memory_does_not_grow_with_the_number_of_batches(tmp_path: Path) -> None:
    counts: dict[str, list[int]] = {"train": [], "eval": []}

    class Counting(Small):
        calls = 0

        def loss_per_batch(self, batch: Any) -> dict[str, Tensor]:
            self.calls += 1
            if self.calls % 50 == 7:
                gc.collect()
                tensors = sum(type(thing) is Tensor for thing in gc.get_objects())
                counts["train" if self.model_list[0].training else "eval"].append(tensors)
            return super().loss_per_batch(batch)

    trainer = Counting(tmp_path, train_loader=data(600, 2), log_per_step=10)
    trainer.train_loop()
    trainer.evaluate(data(1200, 2))
    # What waits to be read, up to ten updates or a hundred batches of an evaluation, is all that comes and goes.
    assert max(counts["train"]) <= counts["train"][0] + 4
    assert max(counts["eval"]) <= min(counts["eval"]) + 2 * 100


# ---- updates ----


@pytest.mark.parametrize("samples", [8, 11, 16, 17])
@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulated_batches_give_the_update_of_one_large_batch(samples: int, accumulate: int, tmp_path: Path) -> None:
    def train(loader: Any, windows: int) -> dict[str, Tensor]:
        trainer = Small(tmp_path, train_loader=loader, accumulate=windows)
        trainer.model_list[0][1] = nn.ReLU()  # type: ignore[operator]  # batch normalisation would see single batches
        trainer.train_loop()
        return weights(trainer)

    small = train(data(samples, 2), accumulate)
    large = train(data(samples, 2 * accumulate), 1)
    for name in large:
        torch.testing.assert_close(small[name], large[name], rtol=0, atol=1e-6)


def gradients(trainer: Trainer) -> Tensor:
    """The gradients of the last update, of all parts, in one row."""
    parameters = [p for model in trainer.model_list for p in model.parameters()]
    return torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])


@pytest.mark.parametrize("samples", [2, 3, 5, 7, 8])
@pytest.mark.parametrize("parts", [1, 2])
def test_accumulated_gradients_are_those_of_all_samples_at_once(samples: int, parts: int, tmp_path: Path) -> None:
    def train(batch_size: int) -> Tensor:
        torch.manual_seed(0)
        models = merge_stages([nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)], parts)  # none that looks at whole batches
        optimizers = [SGD(model.parameters(), 0.1) for model in models]
        settings: dict[str, Any] = {"model_list": models, "optimizer_list": optimizers, "accumulate": 4}
        trainer = Small(tmp_path, train_loader=data(samples, batch_size), **settings)
        trainer.train_loop()
        assert trainer.global_step == 1
        return gradients(trainer)

    torch.testing.assert_close(train(2), train(samples), rtol=0, atol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_clipping_has_one_norm_over_all_parts_after_unscaling(precision: str, tmp_path: Path) -> None:
    trainer = Small(tmp_path, parts=3, clip_grad=1e-3, precision=precision, train_loader=data(8, 8))
    trainer.train_loop()
    assert gradients(trainer).norm().item() == pytest.approx(1e-3, rel=1e-3)


def test_an_overflow_in_one_part_spoils_no_other_part_when_clipping(tmp_path: Path) -> None:
    trainer = Small(tmp_path, parts=2, precision="fp16", clip_grad=1.0, train_loader=data(8, 8))
    [first, *_] = trainer.model_list[0].parameters()
    first.register_hook(lambda gradient: gradient * math.nan)
    before = weights(trainer)
    trainer.train_loop()
    assert all(value.isfinite().all() for value in weights(trainer).values())
    assert torch.equal(weights(trainer)["0.0.weight"], before["0.0.weight"])


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 5e-3), ("fp16", 1e-3)])
def test_low_precision_trains_several_parts_as_fp32_does(precision: str, tolerance: float, tmp_path: Path) -> None:
    def train(name: str) -> dict[str, Tensor]:
        trainer = Small(tmp_path, parts=3, precision=name, clip_grad=1.0, epochs=2)
        trainer.fit(2)
        return weights(trainer)

    exact, coarse = train("fp32"), train(precision)
    assert not same(exact, coarse)
    for name in exact:
        torch.testing.assert_close(coarse[name], exact[name], rtol=0, atol=tolerance)  # weights moved by up to 0.05


def test_parts_and_optimizers_may_differ_in_number(tmp_path: Path) -> None:
    models = network(3)
    trainer = Small(tmp_path / "one", model_list=models, optimizer_list=[SGD(nn.ModuleList(models).parameters(), 0.1)])
    trainer.fit(2)
    trainer.load_state(tmp_path / "one" / "epoch2.pth")

    model = network()[0]
    halves = [Adam(model[0].parameters(), 0.01), SGD([*model[1].parameters(), *model[2].parameters()], 0.1)]  # type: ignore[index]
    trainer = Small(tmp_path / "two", model_list=[model], optimizer_list=halves)
    trainer.fit(2)
    state = checkpoint.load(tmp_path / "two" / "epoch2.pth")
    assert state["optimizer0"]["state"] and "optimizer1" in state and "lr_scheduler1" in state


def test_change_lr_reaches_every_group_of_every_optimizer_and_lasts(tmp_path: Path) -> None:
    model = network()[0]
    groups = [{"params": [p], "lr": 0.1} for p in model.parameters()]
    trainer = Small(tmp_path, model_list=[model], optimizer_list=[SGD(groups, 0.1)], lr_scheduler_type="none")
    trainer.train_loop()
    trainer.change_lr([0.02])
    trainer.train_loop()
    assert {group["lr"] for group in trainer.optimizer_list[0].param_groups} == {0.02}
    with pytest.raises(UserError, match="2 rates for 1 optimizer"):
        trainer.change_lr([0.1, 0.2])


# ---- another update ----


class Gan(Trainer):
    """A generator of points (B, 2) and a discriminator, updated in turn; the data lies around (2, -1)."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        defaults: dict[str, Any] = {"lr_scheduler_type": "none", "epochs": 6}
        super().__init__(SmallConfig(**defaults | settings))
        self.ckpt_dir = folder
        generator = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 2))
        discriminator = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 1))
        self.model_list = [generator, discriminator]
        self.optimizer_list = [Adam(model.parameters(), 0.01, betas=(0.5, 0.9)) for model in self.model_list]
        points = 0.2 * torch.randn(160, 2) + torch.tensor([2.0, -1.0])
        self.train_loader = DataLoader(TensorDataset(points), 8, shuffle=True)
        self.eval_loader = DataLoader(TensorDataset(points), 80)
        self.key_metric, self.key_mode = "distance", "min"

    def train_step(self, batch: Any) -> dict[str, Tensor]:
        [real], (generator, discriminator) = batch, self.model_list
        generator_optimizer, discriminator_optimizer = self.optimizer_list
        loss = nn.functional.binary_cross_entropy_with_logits
        with self.autocast():
            fake = generator(torch.randn_like(real))
            on_real, on_fake = discriminator(real), discriminator(fake.detach())
            d_loss = loss(on_real, torch.ones_like(on_real)) + loss(on_fake, torch.zeros_like(on_fake))
        self.minimize(d_loss, discriminator_optimizer)
        with self.autocast():
            on_fake = discriminator(fake)
            g_loss = loss(on_fake, torch.ones_like(on_fake))
        self.minimize(g_loss, generator_optimizer)
        return {"loss": g_loss, "d_loss": d_loss}

    def eval_scores_per_batch(self, batch: Any) -> dict[str, Tensor]:
        [real] = batch
        fake = self.model_list[0](torch.randn_like(real))
        distance = (fake.mean(0) - real.mean(0)).norm()
        return {"loss": distance, "distance": distance}


def test_a_gan_learns_by_one_step_of_each_optimizer_per_update(tmp_path: Path) -> None:
    trainer = Gan(tmp_path, epochs=10)
    before = trainer.evaluate(trainer.eval_loader)["distance"]
    trainer.fit(10)
    assert trainer.best_metric["distance"] < 0.5 * before
    for optimizer in trainer.optimizer_list:
        assert {int(state["step"]) for state in optimizer.state.values()} == {trainer.global_step} == {200}
    assert trainer.train_means.keys() == {"loss", "d_loss"}


@pytest.mark.parametrize("save_per_steps", [0, 7])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_gan_that_resumes_ends_like_one_that_never_stopped(
    precision: str, save_per_steps: int, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"epochs": 3, "save_per_steps": save_per_steps, "keep_last": 0, "precision": precision}
    whole = Gan(tmp_path / "whole", **settings)
    whole.fit(3)
    for state in checkpoint.states_in(tmp_path / "whole")[1:]:
        resumed = Gan(tmp_path / "resumed", **settings)
        resumed.check_init()
        resumed.load_state(state)
        resumed.fit(3)
        assert same(weights(resumed), weights(whole)), state
        assert resumed.best_metric == whole.best_metric


def test_the_updates_of_a_gan_are_clipped_and_watched(tmp_path: Path) -> None:
    trainer = Gan(tmp_path / "clipped", clip_grad=1e-6, log_per_step=1)
    trainer.check_init()
    trainer.train_loop()
    norm = nn.utils.get_total_norm([p.grad for p in trainer.model_list[0].parameters() if p.grad is not None])
    assert norm.item() == pytest.approx(1e-6, rel=1e-3)
    trainer = Gan(tmp_path / "bad", log_per_step=1)
    trainer.check_init()
    [first, *_] = trainer.model_list[1].parameters()
    first.register_hook(lambda gradient: gradient * (math.nan if trainer.global_step == 4 else 1))
    with pytest.raises(UserError, match="became nan at update 5"):
        trainer.train_loop()


def test_batches_are_not_accumulated_for_an_update_of_ones_own(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="accumulate is 2, but Gan has a train_step of its own"):
        Gan(tmp_path, accumulate=2).check_init()


# ---- the best epoch ----


class Scripted(Small):
    """Whose evaluations give the scores of a list."""

    def __init__(self, folder: Path, scores: list[float], **settings: Any) -> None:
        self.scores = iter(scores)
        super().__init__(folder, **{"key_metric": "key", **settings})

    def evaluate(self, loader: Any) -> dict[str, float]:
        return {"loss": 1.0, "key": next(self.scores)}


@pytest.mark.parametrize(
    ("mode", "scores", "best"),
    [
        ("max", [0.5, 0.7, 0.7, 0.6], 2),
        ("min", [0.5, 0.3, 0.3, 0.6], 2),
        ("max", [math.nan, 0.2, math.nan, 0.1], 2),
        ("min", [math.nan, -0.2, 0.1, math.nan], 2),
        ("max", [-3.0, -2.0, -5.0, math.inf], 2),
    ],
)
def test_ties_keep_the_earlier_epoch_and_nan_and_inf_are_never_best(
    mode: str, scores: list[float], best: int, tmp_path: Path
) -> None:
    trainer = Scripted(tmp_path, scores, key_mode=mode, epochs=4)
    trainer.fit(4)
    assert trainer.best_epoch == checkpoint.load(tmp_path / "best.pth")["epoch"] == best
    assert trainer.best_metric == {"loss": 1.0, "key": scores[best - 1]}


def test_the_best_value_of_every_score_is_kept_apart_from_the_best_epoch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Two(Scripted):
        def evaluate(self, loader: Any) -> dict[str, float]:
            value = next(self.scores)
            return dict.fromkeys(("loss", "key", "mae", "kl", "train_acc", "distance", "score"), value)

        def loss(self, pred: Tensor, y: Tensor) -> dict[str, Tensor]:
            extra = {"kl": torch.ones(()), "train_acc": torch.ones(())}  # a loss and a score, both recorded in training
            return super().loss(pred, y) | extra

    trainer = Two(tmp_path, [0.3, 0.9, 0.5], score_modes={"distance": "min"}, epochs=3)
    trainer.fit(3)
    assert set(trainer.best_metric.values()) == {0.9}
    higher, lower = {"key", "train_acc", "score"}, {"loss", "mae", "kl", "distance"}
    assert trainer.best_values == dict.fromkeys(higher, 0.9) | dict.fromkeys(lower, 0.3)
    trainer.print_best_metrics()
    assert "best epoch 2" in capsys.readouterr().out


# ---- files ----


@pytest.mark.parametrize("parts", [1, 2, 3])
@pytest.mark.parametrize("kind", ["annealing", "step", "metric", "loss", "none"])
@pytest.mark.parametrize("mode", ["linear", "none"])
def test_resuming_equals_never_stopping(kind: str, mode: str, parts: int, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "parts": parts, "lr_scheduler_type": kind, "warm_up_mode": mode, "warm_up_epochs": 1.5, "epochs": 4,
        "patience": 0, "step_size": 1, "keep_last": 0,
    }  # fmt: skip
    whole = Small(tmp_path / "whole", **settings)
    whole.fit(4)
    for stop in (1, 3):
        resumed = Small(tmp_path / "resumed", **settings)
        resumed.load_state(tmp_path / "whole" / f"epoch{stop}.pth")
        assert resumed.epoch == stop
        resumed.fit(4)
        assert resumed.epoch == 4 and resumed.global_step == whole.global_step
        assert same(weights(resumed), weights(whole))
        assert resumed.best_metric == whole.best_metric and resumed.best_epoch == whole.best_epoch
        assert [s.state_dict() for s in resumed.lr_scheduler_list] == [s.state_dict() for s in whole.lr_scheduler_list]


def test_resuming_takes_base_learning_rates_from_the_config_and_leaves_the_state_as_it_is(tmp_path: Path) -> None:
    def trainer(lr: float) -> Small:
        models = network()
        return Small(tmp_path, model_list=models, optimizer_list=[SGD(models[0].parameters(), lr)], epochs=4)

    first = trainer(0.1)
    first.fit(2)
    state = (tmp_path / "epoch2.pth").read_bytes()
    resumed = trainer(0.03)
    resumed.load_state(tmp_path / "epoch2.pth")
    assert resumed.optimizer_list[0].param_groups[0]["lr"] == pytest.approx(0.015)  # in the middle of the cosine
    assert (tmp_path / "epoch2.pth").read_bytes() == state


def test_more_epochs_than_at_first_continue_on_the_longer_curve(tmp_path: Path) -> None:
    trainer = Small(tmp_path, epochs=2)
    trainer.fit(2)
    trainer.fit(4)
    assert trainer.epoch == 4 and trainer.global_step == 4 * 3
    longer = Small(tmp_path, epochs=4)
    longer.fit(4)
    assert trainer.lr_scheduler_list[0].state_dict() == longer.lr_scheduler_list[0].state_dict()


def test_best_holds_weights_without_optimizer_and_loads_for_inference_only(tmp_path: Path) -> None:
    trainer = Small(tmp_path)
    trainer.fit(1)
    assert not any(name.startswith("optimizer") for name in checkpoint.load(tmp_path / "best.pth"))
    other = Small(tmp_path / "other")
    with pytest.raises(UserError, match="weights only"):
        other.load_state(tmp_path / "best.pth")
    other.load_state(tmp_path / "best.pth", optim=False)
    assert same(weights(other), weights(trainer))


def test_a_checkpoint_of_another_network_is_refused_with_the_difference(tmp_path: Path) -> None:
    Small(tmp_path, parts=2).save_state(tmp_path / "two.pth")
    with pytest.raises(UserError, match="holds 2 parts and the network has 3; set num_parts to 2"):
        Small(tmp_path, parts=3).load_state(tmp_path / "two.pth")
    wider = network(2)
    wider[1] = nn.Linear(8, 5)
    trainer = Small(tmp_path, model_list=wider, optimizer_list=[SGD(nn.ModuleList(wider).parameters(), 0.1)])
    before = weights(trainer)
    with pytest.raises(UserError, match=r"'bias' of part 1 has shape \(2,\) there and \(5,\) here"):
        trainer.load_state(tmp_path / "two.pth")
    assert same(weights(trainer), before)


def test_the_saved_model_runs_without_the_project_for_any_batch_size(tmp_path: Path) -> None:
    trainer = Small(tmp_path, parts=2)
    trainer.fit(1)
    trainer.save_model(tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    for samples in (1, 3, 17):
        x = torch.randn(samples, 4)
        torch.testing.assert_close(loaded(x), trainer.inference(x))


def test_file_names_are_legal_on_windows(tmp_path: Path) -> None:
    trainer = Small(tmp_path)
    trainer.fit(1)
    assert not set('<>:"|?*\\') & set("".join(path.name for path in tmp_path.rglob("*")))
    assert not set('<>:"|?*\\') & set(Trainer(SmallConfig()).ckpt_dir.as_posix())


# ---- records ----


def test_tensorboard_has_every_loss_and_score_and_a_learning_rate_per_part(tmp_path: Path) -> None:
    trainer = Small(tmp_path, parts=3, log_per_step=1, epochs=2)
    scalars = record(trainer, tmp_path / "runs", 2)
    named = {"train/loss", "eval/loss", "eval/acc", "lr/part0", "lr/part1", "lr/part2", "train/grad_norm"}
    assert named | {"speed/samples_per_second", "speed/seconds_per_epoch"} == scalars.keys()
    assert [step for step, _ in scalars["train/loss"]] == [2, 3, 4, 5, 6]  # not the very first
    assert [step for step, _ in scalars["lr/part0"]] == [1, 2, 3, 4, 5, 6]
    for curve in ("train", "eval"):
        one_chart = read_scalars(tmp_path / "runs" / f"loss_per_epoch_{curve}")
        assert [step for step, _ in one_chart["loss_per_epoch"]] == [3, 6]


@pytest.mark.parametrize("clip_grad", [0.0, 1e-3])
def test_the_norm_of_the_gradient_is_that_before_it_is_clipped(clip_grad: float, tmp_path: Path) -> None:
    norms: list[float] = []

    class Observed(Small):
        def loss_per_batch(self, batch: Any) -> dict[str, Tensor]:
            losses = super().loss_per_batch(batch)
            if self.model_list[0].training:
                parameters = [p for model in self.model_list for p in model.parameters()]
                gradients = torch.autograd.grad(losses["loss"], parameters, retain_graph=True)
                norms.append(torch.cat([g.flatten() for g in gradients]).norm().item())
            return losses

    trainer = Observed(tmp_path, parts=2, log_per_step=2, epochs=2, clip_grad=clip_grad)
    scalars = record(trainer, tmp_path / "runs", 2)
    assert scalars["train/grad_norm"] == [(step, pytest.approx(norms[step - 1], rel=1e-5)) for step in (2, 4, 6)]


def test_the_norm_of_sparse_gradients_is_that_of_their_values() -> None:
    layer = nn.Embedding(10, 4, sparse=True)
    layer(torch.tensor([1, 2, 2])).sum().backward()
    optimizer = SGD(layer.parameters(), 0.1)
    norm = Gradients([optimizer]).clip(torch.amp.GradScaler("cpu", enabled=False), 0)
    assert norm.item() == pytest.approx(math.sqrt(4 * 1 + 4 * 4))


def test_the_speed_counts_each_sample_once_and_no_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(console.time, "perf_counter", lambda: now[0])

    class Timed(Small):
        def loss_per_batch(self, batch: Any) -> dict[str, Tensor]:
            now[0] += 2.0 if self.model_list[0].training else 100.0
            return super().loss_per_batch(batch)

    trainer = Timed(tmp_path, log_per_step=3, epochs=2)  # 20 samples in three updates
    scalars = record(trainer, tmp_path / "runs", 2)
    assert scalars["speed/samples_per_second"] == [(3, pytest.approx(20 / 6)), (6, pytest.approx(20 / 6))]


def test_the_table_of_runs_has_the_settings_and_the_final_scores(tmp_path: Path) -> None:
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    trainer = Small(tmp_path, epochs=1)
    with open_writer(tmp_path / "runs") as trainer.writer:
        trainer.fit(1)
        trainer.record_result({"lr": (0.1, 0.2), "epochs": 1, "compile": False}, {"acc": 0.25})
    events = EventAccumulator(str(tmp_path / "runs")).Reload()
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    settings = HParamsPluginData.FromString(content).session_start_info.hparams
    assert settings["lr"].string_value == "(0.1, 0.2)" and settings["epochs"].number_value == 1
    scalars = read_scalars(tmp_path / "runs")
    assert scalars["result/test_acc"] == [(4, 0.25)]
    assert scalars["result/best_acc"] == [(4, pytest.approx(trainer.best_metric["acc"]))]
    assert [step for step, _ in scalars["eval/acc"]] == [3]  # what was recorded before is still there


class Drawn(Small):
    """Draws the first batch of an evaluation."""

    def draw(self, batch: Any) -> dict[str, Any]:
        figure, axes = new_figure()
        axes[0, 0].plot(batch[1], self.inference(batch[0]).argmax(1), ".")
        return {"points": figure}


@pytest.mark.parametrize(
    ("pictures", "steps", "files"),
    [
        ("none", {}, set()),
        ("end", {"test/points": [7]}, {"test_points.png"}),
        ("epoch", {"eval/points": [3, 6], "test/points": [7]}, {"eval_points.png", "test_points.png"}),
    ],
)
def test_predictions_are_drawn_when_they_are_wanted(
    pictures: str, steps: dict[str, list[int]], files: set[str], tmp_path: Path
) -> None:
    trainer = Drawn(tmp_path, pictures=pictures, epochs=2, test_loader=data(seed=2))
    with open_writer(tmp_path / "runs") as trainer.writer:
        trainer.fit(2)
        trainer.test()
    events = EventAccumulator(str(tmp_path / "runs")).Reload()
    assert {tag: [e.step for e in events.Images(tag)] for tag in events.Tags()["images"]} == steps
    assert {path.name for path in tmp_path.glob("*.png")} == files
    for name in files:
        with Image.open(tmp_path / name) as picture:
            assert len(picture.convert("L").getcolors() or []) > 2  # it is not blank


def test_without_a_test_set_nothing_is_said_of_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = Drawn(tmp_path, pictures="end", epochs=1)
    trainer.fit(1)
    assert trainer.test() == {}
    assert "test of" not in capsys.readouterr().out
    assert (tmp_path / "eval_points.png").exists()


def test_a_task_that_draws_nothing_may_have_batches_of_any_kind(tmp_path: Path) -> None:
    class Named(Small):
        def loss_per_batch(self, batch: Any) -> dict[str, Tensor]:
            return super().loss_per_batch((batch["x"], batch["y"]))

        def eval_scores_per_batch(self, batch: Any) -> dict[str, Tensor]:
            return super().eval_scores_per_batch((batch["x"], batch["y"]))

    batches = [{"x": x, "y": y} for x, y in data()]
    trainer = Named(tmp_path, train_loader=batches, eval_loader=batches, pictures="epoch", epochs=1)
    trainer.fit(1)
    assert trainer.test() == {} and trainer.epoch == 1


def test_a_mistake_in_a_drawing_costs_no_epoch(tmp_path: Path) -> None:
    class Wrong(Small):
        def draw(self, batch: Any) -> dict[str, Any]:
            raise ZeroDivisionError

    trainer = Wrong(tmp_path, pictures="epoch", epochs=1)
    with pytest.raises(ZeroDivisionError):
        trainer.fit(1)
    assert checkpoint.is_intact(tmp_path / "epoch1.pth")


@pytest.mark.parametrize("name", ["$a_$", "cost_$_per_$m^2", "less than $5", "\u732b\u72d7", "x" * 300, r"\frac{"])
def test_names_of_any_kind_can_be_drawn(name: str) -> None:
    figure = draw_images(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), [name], [False])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert figures.render(figure).shape == (800, 800, 4)
        figures.render(draw_confusion(torch.eye(2, dtype=torch.long), [name, "b"]))


def test_a_backend_that_is_not_installed_is_not_asked_for(render: Render, tmp_path: Path) -> None:
    code = "from engine.monitor.figures import new_figure, render; render(new_figure()[0])"
    environment = os.environ | {"MPLBACKEND": "module://not.installed", "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([sys.executable, "-c", code], cwd=render(), env=environment, check=True)


def test_drawing_changes_no_weight_mode_or_random_state(tmp_path: Path) -> None:
    with_pictures, without = Drawn(tmp_path, pictures="epoch", epochs=3), Small(tmp_path, epochs=3)
    with_pictures.fit(3)
    without.fit(3)
    assert same(weights(with_pictures), weights(without))


def test_a_picture_that_cannot_be_written_ends_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = Drawn(tmp_path, pictures="epoch", epochs=1)
    (tmp_path / "eval_points.png").mkdir()
    trainer.fit(1)
    assert "no picture: cannot write" in capsys.readouterr().out
    assert trainer.epoch == 1


def test_groups_with_rates_of_their_own_have_curves_of_their_own(tmp_path: Path) -> None:
    model = network()[0]
    first, *others = model.parameters()
    optimizer = SGD([{"params": [first], "lr": 0.1}, {"params": others, "lr": 0.01}], 0.1)
    trainer = Small(tmp_path, model_list=[model], optimizer_list=[optimizer], log_per_step=1, epochs=1)
    scalars = record(trainer, tmp_path / "runs", 1)
    assert scalars["lr/part0"][0] == (1, pytest.approx(0.1))
    assert scalars["lr/part0_group1"][0] == (1, pytest.approx(0.01))


@pytest.mark.parametrize(
    ("log_per_step", "steps"), [(50, [3, 6, 9]), (3, [3, 6, 9]), (2, [2, 4, 6, 8]), (4, [3, 4, 8])]
)
def test_every_epoch_has_a_log_point(log_per_step: int, steps: list[int], tmp_path: Path) -> None:
    """Of three updates each: the last one, if no other is."""
    scalars = record(Small(tmp_path, epochs=3, log_per_step=log_per_step), tmp_path, 3)
    for name in ("train/loss", "train/grad_norm", "lr/part0"):
        assert [step for step, _ in scalars[name]] == steps
    assert all(value > 0 for _, value in scalars["train/grad_norm"])


def test_epochs_of_one_update_have_a_log_point_each(tmp_path: Path) -> None:
    scalars = record(Small(tmp_path, train_loader=data(8), epochs=2), tmp_path, 2)
    for name in ("train/loss", "lr/part0"):
        assert [step for step, _ in scalars[name]] == [1, 2]


def test_a_resumed_run_records_no_update_twice(tmp_path: Path) -> None:
    record(Small(tmp_path, log_per_step=1, epochs=3), tmp_path / "runs", 3)
    resumed = Small(tmp_path, log_per_step=1, epochs=3)
    resumed.load_state(tmp_path / "epoch2.pth")
    scalars = record(resumed, tmp_path / "runs", 3)
    assert [step for step, _ in scalars["train/loss"]] == [2, 3, 4, 5, 6, 7, 8, 9]
    assert [step for step, _ in scalars["eval/acc"]] == [3, 6, 9]
    one_chart = read_scalars(tmp_path / "runs" / "loss_per_epoch_train")
    assert [step for step, _ in one_chart["loss_per_epoch"]] == [3, 6, 9]


def test_histograms_are_recorded_on_request(tmp_path: Path) -> None:
    record(Small(tmp_path, histograms=True, epochs=1), tmp_path / "runs", 1)
    events = EventAccumulator(str(tmp_path / "runs"))
    events.Reload()
    assert {"weights/part0/0/weight", "gradients/part0/0/weight"} <= set(events.Tags()["histograms"])


class DictOut(nn.Module):
    """A network that torchsummary cannot cope with."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.LSTM(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"out": self.recurrent(x)[0]}


@pytest.mark.parametrize(
    ("model", "inp"),
    [
        (nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout()), torch.randn(3, 4)),
        (nn.TransformerEncoderLayer(4, 2, batch_first=True), torch.randn(3, 5, 4)),
        (nn.LSTM(4, 2, batch_first=True), torch.randn(3, 5, 4)),
        (nn.Embedding(10, 4), torch.randint(10, (3, 5))),
        (DictOut(), torch.randn(3, 5, 4)),
        (nn.Linear(4, 8), torch.randn(3, 7)),  # an input that does not fit
    ],
)
def test_a_summary_never_fails_or_changes_anything(
    model: nn.Module, inp: Tensor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = Small(tmp_path, model_list=[model], optimizer_list=[SGD(model.parameters(), 0.1)])
    before, state = weights(trainer), torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns of what it cannot follow
        trainer.get_model_info(inp)
    assert same(weights(trainer), before)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
    count = sum(p.numel() for p in model.parameters())
    assert trainer.num_parameters() == count and f"\n{count:,} parameters" in capsys.readouterr().out


def test_a_summary_shows_each_part_with_its_own_input_also_without_tensorboard(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Small(tmp_path, parts=3).get_model_info(torch.randn(5, 4))
    shown = capsys.readouterr().out
    assert shown.count("Total params") == 3 and "cannot" not in shown


def test_print_helpers_name_what_they_print(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = Small(tmp_path, parts=2)
    trainer.fit(1)
    trainer.print_final_lr()
    trainer.print_all_member()
    shown = capsys.readouterr().out
    assert "final lr/part0" in shown and "final lr/part1" in shown
    assert "epochs: 1" in shown and "global_step: 3" in shown and "Linear" not in shown
    trainer.print_all_member(print_model=True)
    assert "Linear" in capsys.readouterr().out


# ---- what is refused ----


class Endless(IterableDataset[Tensor]):
    """Samples without a number."""

    def __iter__(self) -> Any:
        return iter(lambda: torch.zeros(4), None)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model_list": []}, "model_list is empty"),
        ({"train_loader": []}, "train_loader is empty"),
        ({"eval_loader": iter([1])}, "eval_loader is empty or has no length"),
        ({"epochs": 0}, "--epochs 0 must be above 0"),
        ({"accumulate": 0}, "--accumulate 0 must be above 0"),
        ({"log_per_step": 0}, "--log_per_step 0 must be above 0"),
        ({"clip_grad": -1.0}, "--clip_grad -1.0 must be 0 or more"),
        ({"key_mode": "best"}, "key_mode 'best' is unknown"),
        ({"key_metric": "acc_top5", "key_mode": "min"}, "with key_mode 'min' would keep the worst epoch"),
        ({"strategy": "dp"}, "strategy 'dp' is unknown; choose one of ddp, fsdp"),
        ({"precision": "int8"}, "precision 'int8' is unknown"),
        ({"lr_scheduler_type": "cosine"}, "lr_scheduler_type 'cosine' is unknown"),
        ({"warm_up_mode": "slow"}, "warm_up_mode 'slow' is unknown"),
        ({"warm_up_mode": "linear", "warm_up_init_lr": 1.0}, "warm_up_init_lr 1 must be 0 or more and below"),
        ({"warm_up_mode": "exponential", "warm_up_init_lr": 0.0}, "warm_up_init_lr 0 must be above 0 and below"),
        ({"device": "meta"}, "device 'meta' is not available here"),
        ({"optimizer_list": [SGD([nn.Parameter(torch.zeros(1))], 0.1)]}, "'0.weight' of model_list"),
        ({"meta": {"mean": [1.0, torch.tensor(2.0)]}}, "meta['mean'][1] is a Tensor, which a checkpoint cannot hold"),
        ({"meta": {"data": Path("a")}}, "which a checkpoint cannot hold"),
        ({"train_loader": DataLoader(Endless(), 2)}, "train_loader is empty or has no length"),
    ],
)
def test_check_init_refuses_in_one_line(settings: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        Small(tmp_path, **settings)
    assert words in str(caught.value)


def test_a_parameter_with_two_optimizers_is_refused(tmp_path: Path) -> None:
    model = network()[0]
    with pytest.raises(UserError, match=r"optimizer_list\[0\] and \[1\] share a parameter"):
        Small(tmp_path, model_list=[model], optimizer_list=[SGD(model.parameters(), 0.1), Adam(model.parameters())])


def test_a_parameter_that_no_part_holds_is_refused_since_it_would_not_be_saved(tmp_path: Path) -> None:
    model, margin = network()[0], nn.Parameter(torch.zeros(3))
    with pytest.raises(UserError, match=r"parameter of shape \(3,\) that is in no part of model_list"):
        Small(tmp_path, model_list=[model], optimizer_list=[SGD([*model.parameters(), margin], 0.1)])


@pytest.mark.parametrize(
    ("method", "returned", "words"),
    [
        ("loss_per_batch", lambda loss: loss, "loss_per_batch must return a dict of scalars by name"),
        ("loss_per_batch", lambda loss: None, "returned a NoneType"),
        ("loss_per_batch", lambda loss: {"total": loss}, "'loss', the one to minimise"),
        ("loss_per_batch", lambda loss: {"loss": 1.0}, "the loss to minimise has no gradient"),
        ("loss_per_batch", lambda loss: {"loss": loss.detach()}, "the loss to minimise has no gradient"),
        ("loss_per_batch", lambda loss: {"loss": loss, "kind": "mean"}, "'kind' of loss_per_batch is a str"),
        ("loss_per_batch", lambda loss: {"loss": loss, "all": loss.expand(3)}, r"'all' has shape \(3,\)"),
        ("train_step", lambda loss: None, "train_step must return a dict of scalars by name"),
        ("train_step", lambda loss: {"total": loss}, "'loss', in what train_step returns"),
        ("metric", lambda loss: None, "metric must return a dict of scalars by name, and returned a NoneType"),
        ("metric", lambda loss: {"acc": "good"}, "'acc' of metric is a str"),
        ("metric", lambda loss: {"loss": loss}, "loss and metric both return 'loss'"),
    ],
)
def test_what_a_task_returns_is_checked(method: str, returned: Any, words: str, tmp_path: Path) -> None:
    def replaced(self: Small, *args: Any) -> Any:
        x, y = next(iter(self.train_loader))
        return returned(nn.functional.cross_entropy(self.forward(x), y))

    with pytest.raises(UserError, match=words):
        type("Wrong", (Small,), {method: replaced})(tmp_path).fit(1)


def test_minimize_wants_an_optimizer(tmp_path: Path) -> None:
    class Nothing(Small):
        def train_step(self, batch: Any) -> dict[str, Tensor]:
            losses = self.loss_per_batch(batch)
            self.minimize(losses["loss"])
            return losses

    with pytest.raises(UserError, match="minimize has got no optimizer"):
        Nothing(tmp_path).fit(1)


def test_a_loss_that_is_not_finite_stops_the_run_and_spares_the_checkpoints(tmp_path: Path) -> None:
    class Diverges(Small):
        def loss_per_batch(self, batch: Any) -> dict[str, Tensor]:
            losses = super().loss_per_batch(batch)
            return {"loss": losses["loss"] * (math.nan if self.epoch == 2 and self.model_list[0].training else 1)}

    trainer = Diverges(tmp_path, epochs=3)
    with pytest.raises(UserError, match="loss became nan at update 4"):
        trainer.fit(3)
    assert checkpoint.states_in(tmp_path) == [tmp_path / "epoch1.pth"]


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        ({"total": torch.zeros(())}, "'loss', the one to minimise, .* is missing; there are 'total'"),
        ({"loss": torch.zeros(3)}, r"shape \(3,\)"),
    ],
)
def test_a_loss_that_cannot_be_minimised_is_refused(returned: dict[str, Tensor], words: str, tmp_path: Path) -> None:
    class Returns(Small):
        def loss_per_batch(self, batch: Any) -> dict[str, Tensor]:
            return returned

    trainer = Returns(tmp_path)
    with pytest.raises(UserError, match=words):
        trainer.train_loop()


def test_a_key_metric_that_is_no_score_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'f2', the key_metric, in the scores, is missing; there are 'acc', 'loss'"):
        Small(tmp_path, key_metric="f2").fit(1)


def test_means_of_names_that_not_every_batch_has_count_their_own_samples() -> None:
    means = SampleMeans()
    means.add({"a": 1.0, "b": 4.0}, 2)
    means.add({"a": 4.0}, 1)
    assert means.means() == {"a": 2.0, "b": 4.0}
