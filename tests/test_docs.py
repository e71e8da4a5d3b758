"""The documentation: it is built without a warning, leaves no module out, and what its pages show works."""

import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, SHARED, SOURCE, ruff
from cookiecutter.main import cookiecutter
from engine import schedulers
from engine.schedulers import Timeline
from scripts import run_script
from small import SmallConfig

DOCS = ROOT / "docs"


def test_it_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocstrings_handlers.python", reason="needs the extra docs")
    command = [sys.executable, "-B", "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_module_is_in_the_reference_once() -> None:
    pages = "".join(path.read_text("utf-8") for path in (DOCS / "reference").iterdir())
    files = [*SOURCE.glob("engine/__init__.py"), *SOURCE.glob("engine/**/[!_]*.py")]
    engine = [".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__") for path in files]
    assert sorted(re.findall("^::: (.*)", pages, re.MULTILINE)) == sorted(
        engine + [p.stem for p in SHARED.glob("*.py")]
    )


@pytest.fixture
def wave(tmp_path: Path, cookiecutter_config: Path) -> Path:
    """A project of a template that has the task of docs/add-a-task.md."""
    template = tmp_path / "template"
    for part in (SOURCE.name, "templates"):
        shutil.copytree(ROOT / part, template / part)
    shutil.copytree(DOCS / "forecasting", template / "templates" / "tasks" / "forecasting")
    questions = json.loads((ROOT / "cookiecutter.json").read_text("utf-8"))
    questions["task_type"].append("forecasting")
    (template / "cookiecutter.json").write_text(json.dumps(questions), "utf-8")
    answers = {"project_name": "Wave", "task_type": "forecasting"}
    folder, config = str(tmp_path / "out"), str(cookiecutter_config)
    return Path(cookiecutter(str(template), None, True, answers, output_dir=folder, config_file=config))


def test_the_task_that_it_adds_is_clean(wave: Path) -> None:
    clean, said = ruff([wave])
    assert clean, said


def test_the_task_that_it_adds_learns(wave: Path, tmp_path: Path) -> None:
    status, output = run_script(wave, ["train.py", "--smoke"], tmp_path / "output")
    before, after = re.findall(r"[\d.]+", output.splitlines()[-1])[:2]
    assert status == 0 and float(after) < 0.8 * float(before), output


def test_the_task_that_it_adds_passes_its_own_tests(wave: Path, tmp_path: Path) -> None:
    script = tmp_path / "run_tests.py"
    script.write_text("import sys, pytest; sys.exit(pytest.main(['-p', 'no:cacheprovider', 'tests/test_task.py']))")
    status, output = run_script(wave, [str(script)], tmp_path / "output")
    assert status == 0, output


def test_the_schedule_and_the_warm_up_that_it_adds_follow_their_formulas(monkeypatch: pytest.MonkeyPatch) -> None:
    schedules, warm_ups = dict(schedulers.SCHEDULES), dict(schedulers.WARM_UPS)
    monkeypatch.setattr(schedulers, "SCHEDULES", schedules)
    monkeypatch.setattr(schedulers, "WARM_UPS", warm_ups)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.5)
    names = {**vars(schedulers), "optimizer": optimizer}
    for block in re.findall(r"```python\n(.*?)```", (DOCS / "add-a-schedule.md").read_text("utf-8"), re.DOTALL):
        exec(block, names)
    assert names["scheduler"].total == 100
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.5)
    config = SmallConfig(lr_scheduler_type="inverse_root", warm_up_mode="quadratic", warm_up_epochs=1.0)
    schedule = schedulers.build_schedule(optimizer, Timeline(config, 4, 10, "loss", "min"))
    for update in range(40):
        p, since = update / 10, update - 10
        expected = 1e-6 + (0.5 - 1e-6) * p**2 if since < 0 else 0.5 / math.sqrt(1 + since / 10)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected), update
        optimizer.step()
        schedule.step()
