"""EMA: the averaged weights follow their formula, are what is evaluated and saved as the best, and resume exactly."""

from pathlib import Path
from typing import Any

import pytest
import torch
from engine import UserError, checkpoint
from engine.checkpoint import states_in
from small import Small, data, same, weights
from torch import Tensor, nn
from torch.optim import SGD, Adam


def averages(trainer: Small) -> dict[str, Tensor]:
    """A copy of the averaged parameters, and of the buffers beside them."""
    return weights(trainer.averaged())


def parameters(trainer: Any) -> list[Tensor]:
    """A copy of those that are trained."""
    return [parameter.detach().clone() for model in trainer.model_list for parameter in model.parameters()]


# ---- what is averaged ----


@pytest.mark.parametrize(("decay", "parts"), [(0.9, 1), (0.3, 2), (0.999, 3)])
def test_after_every_update_the_average_moves_by_the_formula(decay: float, parts: int, tmp_path: Path) -> None:
    trainer = Small(tmp_path, parts, ema=decay, accumulate=2, train_loader=data(40, 4), epochs=3)
    expected = parameters(trainer)
    for number in range(5):
        trainer._update([*trainer._start_epoch()][:2])
        d = min(decay, (1 + number) / (10 + number))
        expected = [torch.lerp(a, w, 1 - d) for a, w in zip(expected, parameters(trainer), strict=True)]
        assert all(map(torch.equal, parameters(trainer.averaged()), expected))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_training_goes_on_with_the_plain_weights(precision: str, tmp_path: Path) -> None:
    with_ema, without = (Small(tmp_path / str(ema), 2, ema=ema, precision=precision, epochs=3) for ema in (0.9, 0.0))
    with_ema.fit(3)
    without.fit(3)
    assert same(weights(with_ema), weights(without))
    assert not same(weights(with_ema), averages(with_ema))
    assert with_ema.train_means == without.train_means and with_ema.best_metric != without.best_metric


def test_statistics_of_batch_normalisation_are_copied(tmp_path: Path) -> None:
    trainer = Small(tmp_path, ema=0.9)
    trainer.train_loop()
    norm, averaged = (next(t.model_list[0][1].children()) for t in (trainer, trainer.averaged()))  # type: ignore[index]
    assert all(map(torch.equal, norm.buffers(), averaged.buffers())) and norm.num_batches_tracked == 3
    assert not torch.equal(norm.weight, averaged.weight)


def test_without_ema_there_is_no_copy(tmp_path: Path) -> None:
    trainer = Small(tmp_path)
    assert trainer.averaged() is trainer and trainer.weight_average.model_list == []


# ---- what it is for ----


class Drawn(Small):
    """Keeps in a list what it predicts for its drawing."""

    predicted: list[Tensor] = []

    def draw(self, batch: Any) -> dict[str, Any]:
        self.predicted.append(self.inference(batch[0]))
        return {}


def test_the_averaged_weights_are_evaluated_tested_drawn_predicted_with_and_saved(tmp_path: Path) -> None:
    trainer = Drawn(tmp_path, 2, ema=0.9, epochs=1, test_loader=data(seed=2), pictures="epoch")
    Drawn.predicted.clear()
    trainer.fit(1)
    plain, averaged = Small(tmp_path / "plain", 2), Small(tmp_path / "averaged", 2)
    for other, values in ((plain, weights(trainer)), (averaged, averages(trainer))):
        for number, model in enumerate(other.model_list):
            of_part = {name.partition(".")[2]: value for name, value in values.items() if name[0] == str(number)}
            model.load_state_dict(of_part)
    x = next(iter(trainer.eval_loader))[0]
    assert trainer.evaluate(trainer.eval_loader) == averaged.evaluate(averaged.eval_loader) == trainer.best_metric
    assert trainer.best_metric != plain.evaluate(plain.eval_loader)
    assert torch.equal(trainer.inference(x), averaged.inference(x))
    assert torch.equal(Drawn.predicted[0], averaged.inference(x))
    best = checkpoint.load(tmp_path / "best.pth")
    assert not any(name.startswith("ema") for name in best)
    assert same(
        best["model0"] | best["model1"], averaged.model_list[0].state_dict() | averaged.model_list[1].state_dict()
    )
    trainer.save_model(tmp_path / "whole.pt2")
    program = torch.export.load(tmp_path / "whole.pt2").module()
    torch.testing.assert_close(program(x), averaged.inference(x))
    assert trainer.test() == averaged.evaluate(trainer.test_loader)
    assert same(weights(trainer), weights(averaged))  # those of best.pth, as without ema


def test_for_inference_a_state_gives_the_averaged_weights(tmp_path: Path) -> None:
    trainer = Small(tmp_path, ema=0.9, epochs=1)
    trainer.fit(1)
    for name in ("best.pth", "epoch1.pth"):
        other = Small(tmp_path / "other")
        other.load_state(tmp_path / name, optim=False)
        assert same(weights(other), averages(trainer)), name


class Structured(Small):
    """A task that keeps its network as a whole, too, of which the parts are layers, and watches the last one."""

    def check_init(self) -> None:
        [self.net] = self.model_list
        self.model_list = [*self.net.children()]
        self.model_list[-1].register_forward_hook(self.watch)
        super().check_init()

    def watch(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.watched = output

    def forward(self, x: Tensor) -> Tensor:
        self.net(x)
        return self.watched


def test_parts_are_averaged_wherever_a_task_keeps_them(tmp_path: Path) -> None:
    trainer, alike = Structured(tmp_path / "one", ema=0.9, epochs=2), Small(tmp_path / "other", 3, ema=0.9, epochs=2)
    alike.optimizer_list, alike.lr_scheduler_list = [SGD(nn.ModuleList(alike.model_list).parameters(), 0.1)], []
    alike.check_init()
    for one in (trainer, alike):
        one.fit(2)
    assert trainer.best_metric == alike.best_metric
    assert all(map(torch.equal, averages(trainer).values(), averages(alike).values()))


class OwnEvaluation(Small):
    """Which evaluates by itself, and remembers a tensor for its drawing."""

    def evaluate(self, loader: Any) -> dict[str, float]:
        x, y = next(iter(loader))
        self.pred = self.model_list[0].eval()(x)
        return {"loss": nn.functional.cross_entropy(self.pred, y).item(), "acc": 0.5}

    def draw(self, batch: Any) -> dict[str, Any]:
        assert torch.equal(self.pred, self.inference(next(iter(self.eval_loader))[0]))
        return {}


def test_an_evaluation_of_ones_own_is_of_the_averaged_weights(tmp_path: Path) -> None:
    trainer = OwnEvaluation(tmp_path, ema=0.9, epochs=1, pictures="epoch")
    trainer.fit(1)
    x, y = next(iter(trainer.eval_loader))
    assert trainer.best_metric["loss"] == nn.functional.cross_entropy(trainer.inference(x), y).item()


# ---- resuming ----


@pytest.mark.parametrize("parts", [1, 2, 3])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_run_resumed_from_any_of_its_states_ends_with_the_same_bits(
    precision: str, parts: int, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"ema": 0.9, "epochs": 3, "precision": precision, "accumulate": 2, "keep_last": 0}
    settings |= {"save_per_steps": 1, "clip_grad": 1.0, "lr_scheduler_type": "metric", "patience": 0}
    whole = Small(tmp_path / "whole", parts, **settings)
    whole.fit(3)
    end = checkpoint.load(tmp_path / "whole" / "best.pth")
    for state in states_in(tmp_path / "whole")[1:]:
        resumed = Small(tmp_path / "whole", parts, **settings)
        resumed.load_state(state)
        resumed.fit(3)
        assert same(weights(resumed), weights(whole)) and same(averages(resumed), averages(whole)), state
        assert resumed.best_metric == whole.best_metric
        best = checkpoint.load(tmp_path / "whole" / "best.pth")
        assert all(same(best[f"model{number}"], end[f"model{number}"]) for number in range(parts))


class TwoUpdates(Small):
    """Which updates its two parts one after the other."""

    def train_step(self, batch: Any) -> dict[str, Tensor]:
        for optimizer in self.optimizer_list:
            losses = self.loss_per_batch(batch)
            self.minimize(losses["loss"], optimizer)
        return losses


def test_updates_of_ones_own_move_the_average_once_and_resume(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"ema": 0.9, "epochs": 2, "keep_last": 0, "save_per_steps": 1}
    whole = TwoUpdates(tmp_path, 2, **settings)
    numbers: list[int] = []
    update = whole.weight_average.update
    whole.weight_average.update = lambda number: numbers.append(number) or update(number)  # type: ignore
    whole.fit(2)
    assert numbers == list(range(6)) and whole.global_step == 6
    resumed = TwoUpdates(tmp_path, 2, **settings)
    resumed.load_state(tmp_path / "epoch1_step2.pth")
    resumed.fit(2)
    assert same(weights(resumed), weights(whole)) and same(averages(resumed), averages(whole))


def test_states_from_before_there_was_ema_continue_without_it_alone(tmp_path: Path) -> None:
    Small(tmp_path, epochs=2).fit(1)
    state = checkpoint.load(tmp_path / "epoch1.pth")
    del state["config"]["ema"]
    checkpoint.save(state, tmp_path / "epoch1.pth")
    without = Small(tmp_path, epochs=2)
    without.load_state(tmp_path / "epoch1.pth")
    without.fit(2)
    with pytest.raises(UserError, match=r"epoch1\.pth holds no averaged weights; set ema to 0, or start a new run"):
        Small(tmp_path, epochs=2, ema=0.9).load_state(tmp_path / "epoch1.pth")


def test_a_run_with_ema_does_not_go_on_without_it(tmp_path: Path) -> None:
    Small(tmp_path, epochs=2, ema=0.9).fit(1)
    with pytest.raises(UserError, match="--ema 0.0 differs from 0.9"):
        Small(tmp_path, epochs=2).load_state(tmp_path / "epoch1.pth")
    state = checkpoint.load(tmp_path / "epoch1.pth")
    del state["config"]["ema"]
    checkpoint.save(state, tmp_path / "epoch1.pth")
    with pytest.raises(UserError, match=r"epoch1\.pth holds averaged weights; set ema as it was"):
        Small(tmp_path, epochs=2).load_state(tmp_path / "epoch1.pth")


# ---- what is refused ----


def test_weights_of_low_precision_are_refused_since_their_average_would_stand_still(tmp_path: Path) -> None:
    model = nn.Linear(4, 2).bfloat16()
    with pytest.raises(UserError, match="ema cannot average weights in torch.bfloat16; keep them in fp32, or set ema"):
        Small(tmp_path, model_list=[model], optimizer_list=[Adam(model.parameters())], ema=0.9)


def test_a_part_that_cannot_be_copied_is_refused_in_a_line(tmp_path: Path) -> None:
    model = nn.Linear(4, 2)
    model.cache = model.weight * 2  # type: ignore[assignment]
    with pytest.raises(UserError, match=r"^ema needs a copy of each part, and one cannot be copied \(.*set it to 0$"):
        Small(tmp_path, model_list=[model], optimizer_list=[Adam(model.parameters())], ema=0.9)


def test_weights_that_are_no_real_numbers_stay_as_they_are(tmp_path: Path) -> None:
    model = nn.Linear(4, 2)
    model.codes = nn.Parameter(torch.arange(3), requires_grad=False)
    trainer = Small(tmp_path, model_list=[model], optimizer_list=[Adam(model.parameters())], ema=0.9, epochs=1)
    trainer.fit(1)
    assert trainer.averaged().model_list[0].state_dict()["codes"].tolist() == [0, 1, 2]
