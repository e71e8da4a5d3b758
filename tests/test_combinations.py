"""Every combination of answers gives a complete, clean project that trains."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import COMBINATIONS, SOURCE, Render
from scripts import run_script

FILES = {
    ".cookiecutter.yaml", ".gitignore", "LICENSE", "README.md", "config.py", "images.py", "predict.py",
    "pyproject.toml", "task.py", "train.py", "tests/test_project.py",
}  # fmt: skip
ENGINE = {path.relative_to(SOURCE).as_posix() for path in (SOURCE / "engine").glob("*.py")}


@pytest.fixture(scope="module", params=COMBINATIONS, ids=lambda answers: "-".join(answers.values()))
def answers(request: pytest.FixtureRequest) -> dict[str, str]:
    """One combination."""
    combination: dict[str, str] = request.param
    return combination


@pytest.fixture(scope="module")
def project(answers: dict[str, str], render_into: Render, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project that it gives."""
    return render_into(tmp_path_factory.mktemp("combination"), **answers)


def files_in(folder: Path) -> set[str]:
    """All files below a folder, by relative path."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_has_exactly_its_files_and_the_engine_unchanged(project: Path) -> None:
    assert files_in(project) == FILES | ENGINE
    for name in ENGINE:
        assert (project / name).read_bytes() == (SOURCE / name).read_bytes(), name


def test_compiles_and_is_ruff_clean(project: Path) -> None:
    for path in project.rglob("*.py"):
        ast.parse(path.read_text("utf-8"), str(path))
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--no-cache", "."], cwd=project, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_has_its_answers_in_its_settings(project: Path, answers: dict[str, str], tmp_path: Path) -> None:
    script = tmp_path / "show.py"
    script.write_text("import dataclasses, json, config; print(json.dumps(dataclasses.asdict(config.Config())))")
    status, output = run_script(project, [str(script)], tmp_path / "output")
    assert status == 0, output
    settings = json.loads(output)
    for name in ("num_parts", "lr_scheduler_type", "warm_up_mode"):
        assert str(settings[name]) == answers[name]


def test_trains_a_small_epoch_without_a_trace(project: Path, tmp_path: Path) -> None:
    before = files_in(project)
    status, output = run_script(project, ["train.py", "--smoke"], tmp_path / "output")
    assert status == 0, output
    words = output.strip().splitlines()[-1].split()
    assert words[:3] == ["smoke", "epoch:", "loss"], output
    assert float(words[5]) < 0.9 * float(words[3]), output
    assert files_in(project) == before


def test_passes_its_own_tests(project: Path, tmp_path: Path) -> None:
    script = tmp_path / "run_tests.py"
    script.write_text("import sys, pytest; sys.exit(pytest.main(['-q', '-x', '-p', 'no:cacheprovider', 'tests']))")
    status, output = run_script(project, [str(script)], tmp_path / "output", seconds=300)
    assert status == 0, output
