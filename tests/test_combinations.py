"""Every combination of answers gives a complete, clean project that trains."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import COMBINATIONS, MODULES, QUESTIONS, SOURCE, Render, ruff
from scripts import run_script

FILES = {
    ".cookiecutter.yaml", ".github/workflows/ci.yml", ".gitignore", ".pre-commit-config.yaml", "LICENSE", "README.md",
    "config.py", "lr_curve.py", "predict.py", "pyproject.toml", "task.py", "train.py", "scripts/slurm.sh",
    "tests/test_faults.py", "tests/test_project.py", "tests/test_task.py",
}  # fmt: skip
ENGINE = {path.relative_to(SOURCE).as_posix() for path in (SOURCE / "engine").glob("*.py")}
VARIES = {
    ".cookiecutter.yaml",
    "README.md",
    "config.py",
}  # within a task; all other files are the same in every project
# Every task with every number of parts, and each schedule and warm-up in turn.
COVER = [answers for number, answers in enumerate(COMBINATIONS) if number % 20 == (number // 20) * 7 % 20]


Combination = Callable[[dict[str, str]], Path]


def name_of(answers: dict[str, str]) -> str:
    """A name for a combination of answers."""
    return "-".join(answers.values())


@pytest.fixture(scope="session")
def combination(render_into: Render, tmp_path_factory: pytest.TempPathFactory) -> Combination:
    """combination(answers) is the project that they give, rendered for all tests that only look at it."""
    folder = tmp_path_factory.mktemp("combinations")
    rendered: dict[str, Path] = {}

    def render(answers: dict[str, str]) -> Path:
        name = name_of(answers)
        if name not in rendered:
            rendered[name] = render_into(folder / name, **answers)
        return rendered[name]

    return render


# The scope brings the tests of a combination together, so that it is rendered in one of the processes.
of_every_combination = pytest.mark.parametrize("answers", COMBINATIONS, ids=name_of, scope="module")


def files_in(folder: Path) -> set[str]:
    """All files below a folder, by relative path."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@of_every_combination
def test_has_exactly_its_files_and_the_engine_unchanged(answers: dict[str, str], combination: Combination) -> None:
    project = combination(answers)
    tasks_own = files_in(project) - FILES - ENGINE
    code = "".join(path.read_text("utf-8") for path in project.glob("*.py"))
    assert all(f"from {Path(name).stem} import" in code for name in tasks_own), tasks_own
    assert files_in(project) == FILES | ENGINE | {name for name in tasks_own if (MODULES / name).exists()}
    for name in ENGINE:
        assert (project / name).read_bytes() == (SOURCE / name).read_bytes(), name


@of_every_combination
def test_trains_a_small_epoch_with_its_answers_and_without_a_trace(
    answers: dict[str, str], combination: Combination, tmp_path: Path
) -> None:
    project = combination(answers)
    before = files_in(project)
    status, output = run_script(project, ["train.py", "--smoke"], tmp_path / "output")
    assert status == 0, output
    for name in ("num_parts", "lr_scheduler_type", "warm_up_mode"):
        assert f"{name}={answers[name]}" in output.split(), output
    words = output.strip().splitlines()[-1].split()
    assert words[:3] == ["smoke", "epoch:", "loss"], output
    assert float(words[5]) < 0.8 * float(words[3]), output
    assert files_in(project) == before


@pytest.mark.parametrize("name", ["engine", "images", "conftest"])
def test_a_project_imports_nothing_that_lies_only_in_the_template(name: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(f"import {name}")
    status, output = run_script(tmp_path, ["script.py"], tmp_path / "output")
    assert status == 1 and f"No module named '{name}'" in output, output


def test_every_combination_is_ruff_clean(combination: Combination) -> None:
    clean, said = ruff(map(combination, COMBINATIONS))
    assert clean, said


def test_every_task_passes_its_type_check(render_into: Render, tmp_path: Path) -> None:
    for task in QUESTIONS["task_type"]:
        project = render_into(tmp_path / task, task_type=task)
        command = [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path / "cache")]  # torch is looked at once
        done = subprocess.run(command, cwd=project, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_projects_of_a_task_differ_in_their_settings_alone_and_all_settings_pass_the_type_check(
    combination: Combination, tmp_path: Path
) -> None:
    first: dict[str, Path] = {}
    checked = tmp_path / "checked"
    for number, answers in enumerate(COMBINATIONS):
        project = combination(answers)
        same = first.setdefault(answers["task_type"], project)
        for name in files_in(project) - VARIES:
            assert (project / name).read_bytes() == (same / name).read_bytes(), name
        package = checked / f"project{number}"
        package.mkdir(parents=True)
        shutil.copy(project / "config.py", package)
    # The other files see no more of config.py than its types, and are checked with one of them by the test above.
    (checked / "engine").mkdir()
    for name in ("__init__.py", "files.py"):
        shutil.copy(SOURCE / "engine" / name, checked / "engine")
    command = [sys.executable, "-m", "mypy", "--no-incremental", "--explicit-package-bases", "."]
    done = subprocess.run(command, cwd=checked, capture_output=True, text=True)
    assert done.returncode == 0 and f"in {len(COMBINATIONS) + 2} source files" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("answers", COVER, ids=name_of)
def test_passes_its_own_tests(answers: dict[str, str], render: Render, tmp_path: Path) -> None:
    project = render(**answers)
    script = tmp_path / "run_tests.py"
    script.write_text("import sys, pytest; sys.exit(pytest.main(['-q', '-x', '-p', 'no:cacheprovider', 'tests']))")
    status, output = run_script(project, [str(script)], tmp_path / "output", seconds=300)
    assert status == 0, output


def test_the_projects_whose_own_tests_run_cover_all_choices() -> None:
    assert len(COVER) == len(QUESTIONS["task_type"]) * len(QUESTIONS["num_parts"])
    for name, choices in QUESTIONS.items():
        if name in COMBINATIONS[0]:
            assert {answers[name] for answers in COVER} == set(choices)
