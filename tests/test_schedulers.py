"""The learning rate of every update: the closed form, torch's own schedulers, warm-up on its own, resuming."""

import math
import warnings
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from conftest import QUESTIONS
from engine import UserError
from engine.schedulers import SCHEDULES, WARM_UPS, Timeline, WarmUpLR, build_schedule
from small import SmallConfig
from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau, StepLR

PER_EPOCH, EPOCHS = 7, 6


def make_optimizer(*lrs: float) -> Optimizer:
    """An optimizer with one group for each rate."""
    return SGD([{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in lrs], lr=1.0)


def timeline(kind: str = "none", epochs: int = EPOCHS, key: tuple[str, str] = ("loss", "min"), **more: Any) -> Timeline:
    """A run of so many epochs of PER_EPOCH updates."""
    config = SmallConfig(lr_scheduler_type=kind, epochs=epochs, **{"step_size": 1, "patience": 10} | more)
    return Timeline(config, epochs, PER_EPOCH, *key)


def rates(settings: Timeline, losses: Iterable[float], lr: float = 0.1) -> list[float]:
    """The learning rate of every update of a run whose evaluation after each epoch gives the next of `losses`."""
    optimizer = make_optimizer(lr)
    schedule = build_schedule(optimizer, settings)
    found = []
    for loss in losses:
        for _ in range(settings.updates_per_epoch):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        schedule.after_evaluation({"loss": loss, "acc": 1 - loss})
    return found


def test_the_tables_and_the_questions_offer_the_same() -> None:
    assert list(SCHEDULES) == QUESTIONS["lr_scheduler_type"]
    assert sorted(WARM_UPS) == sorted(QUESTIONS["warm_up_mode"])


@pytest.mark.parametrize("mode", QUESTIONS["warm_up_mode"])
@pytest.mark.parametrize("kind", QUESTIONS["lr_scheduler_type"])
@pytest.mark.parametrize("warm_up_epochs", [0.5, 2])
def test_every_update_follows_the_closed_form(kind: str, mode: str, warm_up_epochs: float) -> None:
    b, i, eta_min, gamma, step_size = 0.1, 1e-4, 1e-3, 0.5, 2
    settings = timeline(
        kind, warm_up_mode=mode, warm_up_epochs=warm_up_epochs, warm_up_init_lr=i,
        eta_min=eta_min, gamma=gamma, step_size=step_size, patience=0,
    )  # fmt: skip
    w = 0 if mode == "none" else round(warm_up_epochs * PER_EPOCH)
    evaluations = [1.0, 1.0, 1.0, 0.5, 0.5, 0.4]

    expected, factor, best = [], 1.0, math.inf
    for t in range(EPOCHS * PER_EPOCH):
        if t and t % PER_EPOCH == 0 and t >= w:  # an evaluation after the warm-up
            loss = evaluations[t // PER_EPOCH - 1]
            factor, best = (factor, loss) if loss < best * (1 - 1e-4) else (factor * gamma, best)
        p, s = t / w if w else 1.0, t - w
        rising = {"linear": i + (b - i) * p, "exponential": i * (b / i) ** p, "constant": i, "none": b}[mode]
        falling = {
            "annealing": eta_min + (b - eta_min) * (1 + math.cos(math.pi * s / (EPOCHS * PER_EPOCH - w))) / 2,
            "step": b * gamma ** math.floor(s / PER_EPOCH / step_size),
            "metric": b * factor,
            "loss": b * factor,
            "none": b,
        }[kind]
        expected.append(rising if t < w else falling)
    assert rates(settings, evaluations) == pytest.approx(expected, rel=1e-12)


def test_annealing_equals_torch() -> None:
    optimizer = make_optimizer(0.1)
    reference = CosineAnnealingLR(optimizer, EPOCHS * PER_EPOCH, eta_min=1e-3)
    expected = []
    for _ in range(EPOCHS * PER_EPOCH):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()
    assert rates(timeline("annealing", eta_min=1e-3), [1.0] * EPOCHS) == pytest.approx(expected, rel=1e-9)


def test_step_equals_torch() -> None:
    optimizer = make_optimizer(0.1)
    reference = StepLR(optimizer, 2, gamma=0.3)
    expected: list[float] = []
    for _ in range(EPOCHS):
        expected += [optimizer.param_groups[0]["lr"]] * PER_EPOCH
        optimizer.step()
        reference.step()
    assert rates(timeline("step", step_size=2, gamma=0.3), [1.0] * EPOCHS) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("patience", [0, 1, 3])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("kind", "mode"), [("metric", "max"), ("metric", "min"), ("loss", "min")])
def test_plateau_equals_torch_on_random_scores_with_nan(kind: str, mode: str, seed: int, patience: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = (torch.rand(40, generator=generator) / 2 + 0.25).round(decimals=1).tolist()
    values[0] = values[7] = values[20] = math.nan
    optimizer, own = make_optimizer(0.1), make_optimizer(0.1)
    # eps=0: torch gives up on changes below 1e-8, the contract does not.
    reference = ReduceLROnPlateau(optimizer, mode, factor=0.5, patience=patience, eps=0)  # type: ignore[arg-type]
    schedule = build_schedule(own, timeline(kind, key=("acc", mode), patience=patience, gamma=0.5))
    for value in values:
        reference.step(value)
        schedule.after_evaluation({"acc": value, "loss": value})
        assert own.param_groups[0]["lr"] == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)


def test_evaluations_during_the_warm_up_do_not_count() -> None:
    settings = timeline("loss", warm_up_mode="linear", warm_up_epochs=4, patience=0)
    assert rates(settings, [0.1, 0.2, 0.3, 5.0, 4.0, 3.0])[4 * PER_EPOCH :] == [0.1] * (2 * PER_EPOCH)


@pytest.mark.parametrize("mode", ["linear", "exponential", "constant"])
def test_warm_up_on_its_own_ends_at_the_base_learning_rate_of_every_group_and_stays(mode: str) -> None:
    optimizer = make_optimizer(0.1, 0.02)
    schedule = WarmUpLR(optimizer, 5, init_lr=1e-4, mode=mode)
    assert [group["lr"] for group in optimizer.param_groups] == [1e-4, 1e-4]
    for _ in range(12):
        optimizer.step()
        schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.02]


def test_warm_up_leaves_the_rate_to_another_scheduler_afterwards() -> None:
    optimizer = make_optimizer(0.1)
    plateau = ReduceLROnPlateau(optimizer, patience=0)
    warm_up = WarmUpLR(optimizer, 3)
    for update in range(8):
        optimizer.step()
        warm_up.step()
        if update in (4, 5):
            plateau.step(1.0)
    assert not warm_up.warming_up
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01)


@pytest.mark.parametrize("kind", QUESTIONS["lr_scheduler_type"])
@pytest.mark.parametrize("stop", [0, 1, 5, 10, 11, 30])
def test_a_schedule_that_is_saved_and_loaded_goes_on_as_if_never_stopped(kind: str, stop: int) -> None:
    settings = timeline(kind, warm_up_mode="exponential", warm_up_epochs=1.5, patience=0)

    def train(schedule_state: dict[str, object] | None, updates: range) -> tuple[list[float], dict[str, object]]:
        optimizer = make_optimizer(0.1)
        schedule = build_schedule(optimizer, settings)
        if schedule_state:
            schedule.load_state_dict(schedule_state)
        found = []
        for update in updates:
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
            if (update + 1) % PER_EPOCH == 0:
                schedule.after_evaluation({"loss": 1.0})
        return found, schedule.state_dict()

    whole, _ = train(None, range(EPOCHS * PER_EPOCH))
    first, state = train(None, range(stop))
    second, _ = train(state, range(stop, EPOCHS * PER_EPOCH))
    assert first + second == whole


def test_annealing_never_rises_and_ends_at_its_minimum_for_any_number_of_epochs() -> None:
    for epochs in (1, 21, 36, 66, 100):
        found = rates(timeline("annealing", epochs), [1.0] * epochs)
        assert all(later <= earlier for earlier, later in zip(found, found[1:], strict=False))
        assert found[-1] < 0.1 * (math.pi / 2 / (epochs * PER_EPOCH)) ** 2 * 1.01


def test_nothing_warns_on_the_installed_torch() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in SCHEDULES:
            rates(timeline(kind, warm_up_mode="linear", warm_up_epochs=1), [1.0] * EPOCHS)


def test_a_warm_up_may_start_at_zero() -> None:
    optimizer = SGD([torch.zeros(1)], 0.4)
    schedule, lrs = WarmUpLR(optimizer, 4, init_lr=0.0), []
    for _ in range(5):
        lrs.append(optimizer.param_groups[0]["lr"])
        schedule.step()
    assert lrs == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda o: WarmUpLR(o, 5, mode="cubic"), ["cubic", "linear, exponential, constant, none"]),
        (lambda o: WarmUpLR(o, 5, init_lr=0.1), ["0.1", "below"]),
        (lambda o: WarmUpLR(o, 5, init_lr=0.0, mode="exponential"), ["above 0"]),
        (lambda o: WarmUpLR(o, 5, init_lr=-1e-3), ["0 or more"]),
        (lambda o: WarmUpLR(o, -1), ["-1"]),
        (lambda o: build_schedule(o, timeline("steps")), ["steps", "annealing, step, metric, loss, none"]),
        (lambda o: build_schedule(o, timeline("step", step_size=0)), ["step_size 0"]),
        (
            lambda o: build_schedule(o, timeline(warm_up_mode="linear", warm_up_epochs=6)),
            ["warm_up_epochs 6", "epochs 6"],
        ),
    ],
)
def test_bad_settings_are_refused_in_one_line(make, words: list[str]) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError) as caught:
        make(make_optimizer(0.1))
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words)


# ---- base learning rates ----


def test_change_lr_keeps_the_ratio_of_groups() -> None:
    optimizer = make_optimizer(1e-3, 1e-4)
    build_schedule(optimizer, timeline()).change_lr(0.01)
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, pytest.approx(1e-3)]


@pytest.mark.parametrize(("configured", "expected"), [(0.1, 0.03), (0.2, 0.2)])
def test_base_learning_rates_are_those_of_the_config_and_what_change_lr_made_of_the_same(
    configured: float, expected: float
) -> None:
    before = build_schedule(make_optimizer(0.1), timeline())
    before.change_lr(0.03)
    optimizer = make_optimizer(configured)
    build_schedule(optimizer, timeline()).load_state_dict(before.state_dict())
    assert optimizer.param_groups[0]["lr"] == optimizer.param_groups[0]["initial_lr"] == expected


def test_a_run_that_becomes_longer_continues_on_the_longer_curve() -> None:
    optimizer, longer = make_optimizer(0.1), make_optimizer(0.1)
    schedule = build_schedule(optimizer, timeline("annealing"))
    expected = build_schedule(longer, timeline("annealing", 2 * EPOCHS))
    for update in (10, 11, 30):
        schedule.step(update)
        expected.step(update)
    schedule.set_timeline(timeline("annealing", 2 * EPOCHS))
    assert optimizer.param_groups[0]["lr"] == longer.param_groups[0]["lr"]
