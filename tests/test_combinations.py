"""Every combination of answers gives a complete, clean project that trains."""

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import COMBINATIONS, QUESTIONS, SHARED, SOURCE, TASKS, Render, files_in, ruff
from scripts import run_script

FILES = {
    ".cookiecutter.yaml", ".github/workflows/ci.yml", ".gitignore", ".pre-commit-config.yaml", "LICENSE", "README.md",
    "config.py", "data.py", "model.py", "predict.py", "pyproject.toml", "task.py", "train.py", "scripts/slurm.sh",
    "scripts/regenerate.py", "tests/test_faults.py", "tests/test_project.py", "tests/test_task.py",
}  # fmt: skip
ENGINE = {path.relative_to(SOURCE).as_posix() for path in (SOURCE / "engine").rglob("*.py")}
OF_TASK = {"task.py", "data.py", "model.py", "settings.py", "README.md", "test_task.py"}  # and perhaps metrics.py
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


def imports_of(path: Path) -> set[str]:
    """The names of the modules and packages that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
    return names


def shared_modules_of(task: str) -> set[str]:
    """The files in templates/shared that a task imports, by itself or through one of them."""
    found: set[str] = set()
    to_read = [path for path in (TASKS / task).glob("*.py") if path.name != "test_task.py"]
    while to_read:
        imported = {f"{name}.py" for name in imports_of(to_read.pop())}
        new = {path for path in SHARED.glob("*.py") if path.name in imported - found}
        found |= {path.name for path in new}
        to_read += new
    return found


@of_every_combination
def test_has_exactly_its_files_and_the_engine_unchanged(answers: dict[str, str], combination: Combination) -> None:
    project, task = combination(answers), answers["task_type"]
    own = {"metrics.py"} if (TASKS / task / "metrics.py").exists() else set()
    assert files_in(project) == FILES | ENGINE | own | shared_modules_of(task)
    for name in ENGINE:
        assert (project / name).read_bytes() == (SOURCE / name).read_bytes(), name


@pytest.mark.parametrize("task", QUESTIONS["task_type"])
def test_every_module_of_a_project_is_imported_by_another_of_its_modules(task: str, combination: Combination) -> None:
    modules = {path.stem: path for path in combination({"task_type": task}).glob("*.py")}
    imported = {name for module, path in modules.items() for name in imports_of(path) - {module}}
    assert modules.keys() - imported == {"train"}  # a script, as is predict, of which it asks whether it can be used


def test_every_task_is_a_folder_with_the_same_files_and_a_choice() -> None:
    assert {path.name for path in TASKS.iterdir()} == set(QUESTIONS["task_type"])
    for folder in TASKS.iterdir():
        assert files_in(folder) - {"metrics.py"} == OF_TASK, folder.name


CONDITIONAL_FILE = re.compile(r"\{% if cookiecutter\.task_type in (\(.*\)) %\}(\w+\.py)\{% endif %\}")


def test_files_that_only_some_tasks_have_are_rendered_by_exactly_the_tasks_that_use_them() -> None:
    found = {}
    for path in SOURCE.glob("{%*"):
        if conditional := CONDITIONAL_FILE.fullmatch(path.name):
            tasks, name = ast.literal_eval(conditional[1]), conditional[2]
            place = '"tasks/" ~ cookiecutter.task_type ~ "/metrics.py"' if name == "metrics.py" else f'"shared/{name}"'
            assert path.read_text("utf-8") == f"{{% include {place} -%}}\n"
            found[name] = sorted(tasks)
    expected: dict[str, list[str]] = {name: [] for name in ("metrics.py", *(path.name for path in SHARED.glob("*.py")))}
    for task in sorted(QUESTIONS["task_type"]):
        own = {"metrics.py"} if (TASKS / task / "metrics.py").exists() else set()
        for name in shared_modules_of(task) | own:
            expected[name].append(task)
    assert found == expected and all(expected.values())


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
    seen = ["__init__.py", "settings.py", *(f"optim/{name}.py" for name in ("__init__", "optimizers", "muon"))]
    seen += [f"runtime/{name}.py" for name in ("__init__", "errors", "files", "shortcuts")]
    for name in seen:
        (checked / "engine" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(SOURCE / "engine" / name, checked / "engine" / name)
    command = [sys.executable, "-m", "mypy", "--no-incremental", "--explicit-package-bases", "."]
    done = subprocess.run(command, cwd=checked, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"in {len(COMBINATIONS) + len(seen)} source files" in done.stdout


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
