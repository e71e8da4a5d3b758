"""What a person sees: learning rates before a run, its lines and bars in 80 columns."""

import io
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import QUESTIONS, Render
from engine.monitor import console, lr_curve
from engine.optim.optimizers import learning_rates
from engine.schedulers import SCHEDULES, WARM_UPS, ReduceOnMetricPlateau
from PIL import Image
from scripts import run_script
from small import Small
from terminals import in_terminal, read_until

# ---- learning rates ----


def curves_of(trainer: Small) -> dict[str, tuple[lr_curve.Curve, lr_curve.Curve]]:
    """The curves of a run with this trainer, as its lr.png has them."""
    return lr_curve.lr_curves(trainer.timeline(), base_lrs(trainer))


def base_lrs(trainer: Small) -> list[list[float]]:
    """The base learning rates of each part's groups."""
    return [[float(lr) for lr in schedule.base_lrs] for schedule in trainer.lr_scheduler_list]


def rates_of(trainer: Small) -> list[float]:
    """The learning rate of every update of a run, as the trainer has it."""
    rates = []
    for _ in range(trainer.epochs):
        for _ in range(trainer.updates_per_epoch()):
            rates.append(trainer.optimizer_list[0].param_groups[0]["lr"])
            trainer.optimizer_list[0].step()
            trainer.update_lr_scheduler()
        trainer.update_lr_scheduler({"loss": 1.0, "acc": 0.5})
    return rates


@pytest.mark.parametrize("lr_scheduler_type", QUESTIONS["lr_scheduler_type"])
@pytest.mark.parametrize("warm_up_mode", WARM_UPS)
def test_the_curve_has_the_rates_of_the_run(lr_scheduler_type: str, warm_up_mode: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"lr_scheduler_type": lr_scheduler_type, "warm_up_mode": warm_up_mode}
    trainer = Small(tmp_path, **settings, warm_up_epochs=1.7, epochs=9, step_size=2, patience=1)
    [(high, low)] = curves_of(trainer).values()
    rates = rates_of(trainer)
    assert [epoch for epoch, _ in high] == [epoch for epoch, _ in low] == [update / 3 for update in range(27)]
    if lr_scheduler_type in ("metric", "loss"):
        # Scores that stay the same are no progress, but for the first.
        assert max(abs(lr - rate) for (_, lr), rate in zip(high, rates, strict=True)) > 0
        assert all(below <= rate <= above for (_, below), rate, (_, above) in zip(low, rates, high, strict=True))
    else:
        assert [lr for _, lr in high] == [lr for _, lr in low] == pytest.approx(rates, rel=1e-12)


def test_a_curve_of_many_updates_has_few_points_with_its_corners_among_them(tmp_path: Path) -> None:
    trainer = Small(tmp_path, train_loader=[0] * 10_000, epochs=4, warm_up_mode="constant", warm_up_epochs=0.33333)
    [(curve, _)] = curves_of(trainer).values()
    assert len(curve) < 1100
    assert {(3332 / 1e4, 1e-6), (3333 / 1e4, 0.1)} <= set(curve)


def test_parts_with_rates_of_their_own_have_curves_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = Small(tmp_path, parts=2, epochs=5, pictures="end")
    trainer.change_lr([0.1, 0.025])
    capsys.readouterr()
    lr_curve.print_lr(trainer.timeline(), base_lrs(trainer))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1].startswith("      0.1 |0") and sum("|1" in line for line in lines) == 1
    trainer.save_lr_curve()
    with Image.open(tmp_path / "lr.png") as picture:
        colors = {color for _, color in picture.convert("RGB").getcolors(2**20) or []}
    assert {(31, 119, 180), (255, 127, 14)} <= colors  # matplotlib's first two


def test_a_schedule_of_ones_own_that_follows_another_score_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class MaePlateau(ReduceOnMetricPlateau):
        def __init__(self, optimizer: Any, timeline: Any, slack: int) -> None:
            super().__init__(optimizer, timeline)

        def monitor(self, timeline: Any) -> tuple[str, str]:
            return "mae", "min"

    monkeypatch.setitem(SCHEDULES, "mae", partial(MaePlateau, slack=1))  # type: ignore[arg-type]
    trainer = Small(tmp_path, lr_scheduler_type="mae", epochs=9, patience=1)
    [(high, low)] = curves_of(trainer).values()
    assert high[-1][1] == 0.1 and low[-1][1] < 1e-3


def test_the_curve_of_a_million_epochs_does_not_keep_anyone_waiting(tmp_path: Path) -> None:
    trainer = Small(tmp_path, epochs=1_000_000)
    [(curve, _)] = curves_of(trainer).values()
    assert len(curve) < 5000 and curve[0][1] == 0.1 and curve[-1][1] < 1e-4


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--resume", "auto"], "--resume: the curve of a run that has begun is lr.png in its folder"),
        (["--lr", "0"], "--lr 0.0 must be above 0"),
        (["--lr", "0.1", "0.2"], "--lr"),
        (["--warm_up_epochs", "30"], "warm_up_epochs 30 must be below epochs 20"),
    ],
)
def test_a_curve_that_cannot_be_drawn_is_said_in_a_line(
    flags: list[str], words: str, render: Render, tmp_path: Path
) -> None:
    project = render(task_type="regression")
    status, output = run_script(project, ["train.py", "--show_lr", *flags], tmp_path / "output")
    assert status == 1 and "Traceback" not in output and words in output.splitlines()[-1]


def test_a_curve_that_rises_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = Small(tmp_path, lr_scheduler_type="loss", gamma=2.0, patience=0, epochs=9)
    capsys.readouterr()
    lr_curve.print_lr(trainer.timeline(), base_lrs(trainer))
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_the_command_draws_without_training_and_without_data(render: Render, tmp_path: Path) -> None:
    project = render(task_type="regression", num_parts="2")
    flags = ["train.py", "--show_lr", "--data", "nowhere.csv", "--lr_scheduler_type", "step", "--lr", "0.01", "0.002"]
    status, output = run_script(project, flags, tmp_path / "output")
    assert status == 0 and "step, linear warm-up, 20 epochs of" in output
    assert re.search(r"^ +0.01 \|.*00000", output, re.M)
    assert "the same is in lr.png; drawn for 100 updates per epoch, since the data was not read" in output
    assert (project / "lr.png").stat().st_size > 5000
    assert not (project / "check_point").exists()


@pytest.mark.skipif(os.name != "posix", reason="what cannot be written there is another matter")
def test_a_curve_that_cannot_be_written_is_said_in_a_line(render: Render, tmp_path: Path) -> None:
    project = render(task_type="regression")
    (project / "lr.png").mkdir()
    status, output = run_script(project, ["train.py", "--show_lr"], tmp_path / "output")
    assert status == 1 and "Traceback" not in output and "cannot write lr.png" in output.splitlines()[-1]


# ---- the terminal ----


def shown_by(project: Path, argv: list[str], **environment: str) -> str:
    """All that a script shows in a terminal of 80 columns."""
    with in_terminal([sys.executable, *argv], project, **environment) as (terminal, process):
        shown = read_until(terminal)
        process.wait()
    return shown


in_a_terminal = pytest.mark.skipif(os.name != "posix", reason="Windows has no pseudo-terminals")


@in_a_terminal
@pytest.mark.parametrize("task_type", QUESTIONS["task_type"])
def test_a_run_fits_into_80_columns_and_its_log_has_no_bar(task_type: str, render: Render, tmp_path: Path) -> None:
    project = render(task_type=task_type)
    root = tmp_path / "r"
    flags = ["--data", "synthetic", "--width", "8", "--epochs", "2", "--log_per_step", "4", "--batch_size", "64"]
    flags += ["--warm_up_epochs", "0.5", "--num_parts", "3", "--ckpt_dir", "../r"]
    shown = shown_by(project, ["train.py", *flags])
    bars = [line for line in re.split(r"[\r\n]+", shown) if re.match(r"epoch \d/2", line)]
    assert any(re.search(r"left, loss \d\.\d{4}, lr [\d.e-]+, [\d,]+ samples/s", bar) for bar in bars), shown
    assert max(map(len, bars)) <= 80
    [log] = root.glob("*/log.txt")
    lines = log.read_text("utf-8").splitlines()
    assert max(map(len, lines)) <= 80, max(lines, key=len)
    assert not any("left" in line or "\r" in line for line in lines)
    for line in lines:  # what is in the log was on the terminal
        assert line in shown
    rows = [line for line in lines if re.match(r" +\d/2  ", line)]
    header = next(line for line in lines if line.startswith("epoch  train loss  eval loss  "))
    assert len(rows) == 2 and {len(row.removesuffix(" *")) for row in rows} == {len(header)}


def test_a_pipe_gets_no_bar_and_no_colours(render: Render, tmp_path: Path) -> None:
    project = render(task_type="regression")
    flags = ["--data", "synthetic", "--width", "8", "--epochs", "1", "--warm_up_mode", "none"]
    status, output = run_script(
        project, ["train.py", *flags, "--ckpt_dir", str(tmp_path / "runs")], tmp_path / "output"
    )
    assert status == 0
    assert "\r" not in output and "\x1b" not in output and "left" not in output
    words = [
        "device cpu",
        "data: ",
        "parameters",
        "best epoch 1",
        "final lr/part0",
        "time ",
        "files ",
        "tensorboard.main",
    ]
    assert [word for word in words if word not in output] == []


def test_a_notebook_gets_no_bar_though_its_server_has_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    server = io.StringIO()
    monkeypatch.setattr(server, "isatty", lambda: True)
    monkeypatch.setattr(sys, "__stderr__", server)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with console.progress("epoch 1/2", 3) as bar:
        bar.update()
    assert server.getvalue() == ""
    monkeypatch.setattr(sys, "stderr", server)
    with console.progress("epoch 1/2", 3) as bar:
        bar.update()
    assert server.getvalue() != ""


def test_the_table_keeps_its_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = Small(tmp_path, parts=3, epochs=200)
    trainer.change_lr([0.0123, 0.00456, 0.000789])
    table = console.EpochTable()
    capsys.readouterr()
    for epoch, r2 in ((1, -0.01), (99, 0.5), (200, -12345.678)):
        lrs = learning_rates(trainer.optimizer_list)
        table.print_row(epoch, 200, 1.5, {"loss": 123456.0, "r2": r2}, "r2", lrs, 1234.5, best=False)
    header, *rows = capsys.readouterr().out.splitlines()
    assert {len(row) for row in rows} == {len(header)}
    assert "0.0123.." in rows[0]


@pytest.mark.parametrize(
    ("names", "key_metric", "shown"),
    [
        (["acc", "f1", "balanced_acc"], "acc", ["acc", "f1", "balanced"]),
        (["acc", "acc_top5", "f1", "balanced_acc"], "acc", ["acc", "acc_top5", "f1"]),
        (["acc", "acc_top5", "f1", "balanced_acc"], "balanced_acc", ["acc", "acc_top5", "balanced"]),
        ([f"score{number}" for number in range(20)], "score19", ["score0", "score1", "score19"]),
    ],
)
def test_scores_that_find_no_room_in_80_columns_are_left_out_but_not_the_key_metric(
    names: list[str], key_metric: str, shown: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    scores = {"loss": 0.5, **{name: 0.1 for name in names}}
    console.EpochTable().print_row(1, 20, 0.5, scores, key_metric, {"lr/part0": 0.1}, 1.0, best=True)
    header, row = capsys.readouterr().out.splitlines()
    assert header.split() == ["epoch", "train", "loss", "eval", "loss", *shown, "next", "lr", "seconds"]
    assert len(row) <= 80 and row == f"{row[: len(header)]} *"


@in_a_terminal
def test_no_color_is_heeded(render: Render) -> None:
    shown = shown_by(render(task_type="regression"), ["train.py", "--help"], NO_COLOR="1")
    assert not re.search("\x1b\\[[0-9;]*3[0-7]", shown)
    assert "--lr_scheduler_type" in shown


def test_a_reader_that_goes_away_costs_a_line_and_no_traceback(render: Render) -> None:
    command = [sys.executable, "-B", "train.py", "--show_lr"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, cwd=render(task_type="regression"), text=True, **pipes)  # type: ignore[call-overload]
    process.stdout.close()
    assert process.stderr.read() == "stopped: nothing reads the output any more\n"
    assert process.wait() == 1


@pytest.mark.parametrize(
    ("seconds", "words"), [(3.21, "3.2 s"), (250, "4 min 10 s"), (3600, "1 h 0 min 0 s"), (90061, "25 h 1 min 1 s")]
)
def test_a_duration_is_said_as_a_person_would(seconds: float, words: str) -> None:
    assert console.duration(seconds) == words
