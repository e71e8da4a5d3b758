"""Settings: what their types allow, flags, former names, config.json, and what a resumed run may change."""

import ast
import json
import re
import subprocess
import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest
from conftest import QUESTIONS, Render
from engine import UserError, settings
from engine.settings import FormerName, Fraction, MayChange, NonNegative, Positive, Range, one_of


@dataclass(frozen=True)
class Config:
    """A few settings of every type."""

    task_type: ClassVar[str] = "test"
    SMOKE: ClassVar[dict[str, Any]] = {"data": "synthetic", "width": 4}
    data: str = "own"
    width: Positive[int] = 8
    epochs: MayChange[Positive[int]] = 20
    lr: MayChange[tuple[Positive[float], ...]] = (0.1,)
    momentum: Fraction = 0.9
    clip_grad: NonNegative[float] = 0.0
    flip: Annotated[bool, FormerName("mirror")] = True
    patience: Annotated[MayChange[NonNegative[int]], FormerName("patience_stop")] = 3
    seed: Annotated[int, Range(at_least=0, below=100)] = 0
    optimizer: Literal["sgd", "adamw"] = "sgd"
    ckpt_dir: MayChange[str] = "check_point"
    config: MayChange[str] = ""
    resume: MayChange[str] = ""
    log_per_step: int = 50
    warm_up_epochs: float = 1.0
    pictures: str = "end"
    smoke: bool = False


def saved(tmp_path: Path, **changed: Any) -> Path:
    """The config.json of a run whose settings differ so from the defaults; None: it lacks that one."""
    values = {"task_type": "test", **asdict(Config()), **changed}
    path = tmp_path / "config.json"
    path.write_text(json.dumps({name: value for name, value in values.items() if value is not None}))
    return path


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--width", "0"], "--width 0 must be above 0"),
        (["--lr", "0.1", "0"], "--lr 0.0 must be above 0"),
        (["--lr", "nan"], "--lr nan must be above 0 and finite"),
        (["--lr", "inf"], "--lr inf must be above 0 and finite"),
        (["--momentum", "1"], "--momentum 1.0 must be 0 or more and below 1"),
        (["--momentum", "-0.1"], "--momentum -0.1 must be 0 or more and below 1"),
        (["--clip_grad", "-1"], "--clip_grad -1.0 must be 0 or more"),
        (["--clip_grad=-inf"], "--clip_grad -inf must be 0 or more and finite"),
        (["--seed", "100"], "--seed 100 must be 0 or more and below 100"),
    ],
)
def test_a_number_outside_its_range_is_named_with_what_is_allowed(flags: list[str], words: str) -> None:
    with pytest.raises(UserError) as caught:
        settings.parse(Config(), flags)
    assert str(caught.value) == words


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--epoch", "3"], "--epoch"),
        (["--optimizer", "sgdd"], "sgdd"),
        (["--width", "2.5"], "2.5"),
    ],
)
def test_a_flag_or_value_that_does_not_exist_is_named(
    flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        settings.parse(Config(), flags)
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "name", "value", "line"),
    [
        (["--patience_stop", "5"], "patience", 5, "--patience_stop is now called --patience"),
        (["--patience_stop=5"], "patience", 5, "--patience_stop is now called --patience"),
        (["--no_mirror"], "flip", False, "--no_mirror is now called --no_flip"),
        (["--mirror"], "flip", True, "--mirror is now called --flip"),
    ],
)
def test_a_flag_by_its_former_name_is_taken_and_its_present_name_said(
    flags: list[str], name: str, value: Any, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert settings.parse(Config(), flags) == replace(Config(), **{name: value})
    assert capsys.readouterr().out == f"{line}\n"


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    config = replace(Config(), lr=(0.1, 0.02), flip=False, momentum=0)
    settings.save(config, tmp_path)
    assert settings.load(Config(), tmp_path / "config.json") == config


def test_a_tuple_that_may_be_none_is_loaded_as_one(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Own:
        task_type: ClassVar[str] = "test"
        freeze: tuple[str, ...] | None = None

    for config in (Own(), Own(freeze=()), Own(freeze=("stem", "body"))):
        settings.save(config, tmp_path)
        assert settings.load(Own(), tmp_path / "config.json") == config


def test_a_file_of_an_earlier_version_is_read_by_former_names_and_what_it_lacks_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved(tmp_path, patience=None, patience_stop=7, momentum=None)
    assert settings.load(Config(), path) == replace(Config(), patience=7)
    assert capsys.readouterr().out == f"{path} has no momentum: it is 0.9\n"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"task_type": "other"}, "is of a run of the task 'other' and this is 'test'"),
        ({"task_type": None}, "does not hold the settings of a run"),
        ({"epochs": "many"}, "epochs is 'many' and must be a whole number; correct it, or start anew"),
        ({"epochs": True}, "epochs is True"),
        ({"lr": 0.1}, "lr is 0.1"),
        ({"flip": 1}, "flip is 1"),
        ({"optimizer": "lion"}, "optimizer is 'lion'"),
        ({"speed": 3, "colour": 1}, "has settings that this project does not have: colour, speed"),
    ],
)
def test_a_file_that_holds_other_settings_is_refused(changed: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        settings.load(Config(), saved(tmp_path, **changed))
    assert words in str(caught.value) and str(tmp_path) in str(caught.value)


def test_a_run_is_repeated_by_its_file_and_flags_win_over_it(tmp_path: Path) -> None:
    path = saved(tmp_path, width=16, seed=5, resume="auto", smoke=True)
    again = settings.parse(Config(), ["--seed", "6", "--config", str(path)])
    assert again == replace(Config(), width=16, seed=6, config=str(path))
    with pytest.raises(UserError, match="nowhere.json cannot be read .*; give the config.json of a run"):
        settings.parse(Config(), ["--config", str(tmp_path / "nowhere.json")])
    with pytest.raises(UserError, match="--width 0 must be above 0"):
        settings.parse(Config(), ["--config", str(saved(tmp_path, width=0))])


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"lr": 0.1}, "lr is 0.1; it must be a tuple of floats"),
        ({"lr": [0.1]}, "lr is [0.1]; it must be a tuple of floats"),
        ({"width": 2.0}, "width is 2.0; it must be a whole number"),
        ({"flip": "no"}, "flip is 'no'; it must be True or False"),
        ({"optimizer": "lion"}, "optimizer is 'lion'; it must be one of 'sgd', 'adamw'"),
        ({"momentum": 1}, "--momentum 1 must be 0 or more and below 1"),
    ],
)
def test_a_value_that_is_given_in_python_is_checked_too(values: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        settings.check_values(Config(**values))
    assert str(caught.value) == words


def test_settings_of_ones_own_may_have_any_type_that_json_has() -> None:
    @dataclass(frozen=True)
    class Own:
        names: list[str]
        sizes: list[Positive[int]] = field(default_factory=lambda: [1])
        limit: Positive[int] | None = None
        margin: float = 1

    settings.check_values(Own(["a"]))
    settings.check_values(Own([], limit=3))
    for wrong in (Own([1]), Own([], limit="3"), Own([], [2, 0]), Own([], limit=0)):  # type: ignore[list-item,arg-type]
        with pytest.raises(UserError):
            settings.check_values(wrong)


def test_a_resumed_run_changes_what_may_change_and_nothing_else(tmp_path: Path) -> None:
    saved(tmp_path, width=16, epochs=3)
    flags = ["--resume", str(tmp_path), "--epochs", "5", "--patience_stop", "2", "--width", "16"]
    resumed = settings.resumed(Config(), flags, tmp_path)
    assert resumed == replace(Config(), width=16, epochs=5, patience=2, resume=str(tmp_path))
    for flag, value in (("--width", "8"), ("--data", "other"), ("--seed", "1")):
        with pytest.raises(UserError, match=f"{flag} {value} differs from"):
            settings.resumed(Config(), ["--resume", str(tmp_path), flag, value], tmp_path)


def test_smoke_settings_are_small_and_flags_win() -> None:
    config = settings.parse(Config(), ["--smoke", "--lr", "0.3"])
    assert (config.data, config.epochs, config.width, config.lr) == ("synthetic", 1, 4, (0.3,))
    config = settings.parse(Config(), ["--smoke", "--data", "mine", "--width", "8", "--epochs", "2"])
    assert (config.data, config.epochs, config.width) == ("mine", 2, 8)
    with pytest.raises(UserError, match="--smoke trains anew and leaves no trace; leave out --resume auto"):
        settings.parse(Config(), ["--smoke", "--resume", "auto"])


def test_smoke_settings_that_do_not_exist_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Config, "SMOKE", {"widht": 4})
    with pytest.raises(UserError, match="SMOKE in config.py has 'widht', which is no setting; take it out"):
        settings.parse(Config(), ["--smoke"])
    monkeypatch.delattr(Config, "SMOKE")
    with pytest.raises(UserError, match="Config in config.py has no SMOKE"):
        settings.parse(Config(), ["--smoke"])


def test_a_setting_of_a_table_is_one_of_its_keys(capsys: pytest.CaptureFixture[str]) -> None:
    @dataclass(frozen=True)
    class Chosen(Config):
        optimizer: Annotated[str, one_of({"sgd": 1, "adam": 2})] = "sgd"  # type: ignore[assignment]

    assert settings.parse(Chosen(), ["--optimizer", "adam"]).optimizer == "adam"
    with pytest.raises(SystemExit):
        settings.parse(Chosen(), ["--optimizer", "adma"])
    assert "sgd" in capsys.readouterr().err
    with pytest.raises(UserError, match="--optimizer adma is unknown; choose one of sgd, adam"):
        settings.check_values(Chosen(optimizer="adma"))


def test_the_lines_that_describe_a_run_name_all_settings_in_79_columns() -> None:
    lines = settings.describe(Config()).splitlines()
    assert max(map(len, lines)) <= 79
    assert all(f"{name}={value}" in " ".join(lines) for name, value in asdict(Config()).items())


def test_help_answers_without_torch(render: Render) -> None:
    code = (
        "import runpy, sys; sys.argv = ['train.py', '--help']\n"
        "try: runpy.run_path('train.py', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-B", "-c", code], cwd=render(), capture_output=True, text=True)
    assert done.returncode == 0 and "--lr_scheduler_type" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("task", QUESTIONS["task_type"])
def test_every_setting_is_explained(task: str, render: Render) -> None:
    source = (render(task_type=task) / "config.py").read_text("utf-8")
    [body] = [node.body for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    lines = source.splitlines()
    for node, following in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign):
            below = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            assert below or re.search(r"  # \w", lines[node.lineno - 1]), ast.unparse(node.target)
