"""Rendering the template in tests: all combinations of answers, taken from cookiecutter.json."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import jinja2
import pytest
import yaml
from cookiecutter.main import cookiecutter

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "{{cookiecutter.project_slug}}"

SHARED = ROOT / "templates" / "shared"
TASKS = ROOT / "templates" / "tasks"

# Signals that are ignored here, as under nohup or behind a shell's &, get a handler that does nothing: unlike an
# ignored signal it is not inherited, and the programs that tests start, and stop, begin with the defaults.
for name in ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM"):
    if hasattr(signal, name) and signal.getsignal(number := getattr(signal, name)) == signal.SIG_IGN:
        signal.signal(number, lambda number, frame: None)

# As engine/__init__.py says, which many tests import after torch.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

# The engine is tested as it lies in the template; a cache there would be rendered into projects.
sys.dont_write_bytecode = True
sys.path[:0] = [str(SOURCE), str(SHARED)]

QUESTIONS = json.loads((ROOT / "cookiecutter.json").read_text("utf-8"))
# What decides how a project trains; a new question with choices, or a new choice, is tested without being named here.
TRAINING_CHOICES = {
    name: choices
    for name, choices in QUESTIONS.items()
    if isinstance(choices, list) and name not in ("smoke_epoch", "license")
}
COMBINATIONS = [
    dict(zip(TRAINING_CHOICES, values, strict=True)) for values in itertools.product(*TRAINING_CHOICES.values())
]

Render = Callable[..., Path]

compile_template = jinja2.Environment.compile
compiled: dict[tuple[Any, ...], Any] = {}


def compile_once(environment: jinja2.Environment, *source: Any) -> Any:
    """What Jinja makes of a template's source, which is the same in all of cookiecutter's environments."""
    if source not in compiled:
        compiled[source] = compile_template(environment, *source)
    return compiled[source]


def render_plainly(folder: Path, config: Path, hooks: bool = False, /, **answers: str) -> Path:
    """Renders there as a person does, without being asked, and returns the project's path."""
    return Path(
        cookiecutter(
            str(ROOT),
            no_input=True,
            extra_context=answers,
            output_dir=str(folder),
            accept_hooks=hooks,
            config_file=str(config),
        )
    )


def render_project(folder: Path, config: Path, **answers: str) -> Path:
    """The same without hooks, faster from the second project on.

    Cookiecutter makes an environment for every project, and most of its time would go into compiling the same again.
    """
    with mock.patch.object(jinja2.Environment, "compile", compile_once):
        return render_plainly(folder, config, **answers)


def ruff(projects: Iterable[Path]) -> tuple[bool, str]:
    """Whether all that lies in the projects is clean, and what ruff said.

    Ruff judges a file by its name and text, by the settings in its project and, where imports are sorted, by the names
    of the modules there. Of files in which all of these are equal it is given one, where it lies.
    """
    files: dict[tuple[object, ...], Path] = {}
    for project in projects:
        names = sorted(path.relative_to(project) for path in project.rglob("*.py"))
        around = (project / "pyproject.toml").read_bytes(), *names
        for name in names:
            files.setdefault((name, (project / name).read_bytes(), around), project / name)
    said = ""
    for command in (["check"], ["format", "--check"]):
        call = [sys.executable, "-m", "ruff", *command, "--no-cache", "--force-exclude", *map(str, files.values())]
        done = subprocess.run(call, capture_output=True, text=True)
        said += done.stdout + done.stderr
        if done.returncode:
            return False, said
    return f"{len(files)} files already formatted" in said, said


def write_config(folder: Path) -> Path:
    """Settings that keep cookiecutter out of the home folder."""
    path = folder / "config.yaml"
    path.write_text(
        yaml.safe_dump({"replay_dir": str(folder / "replay"), "cookiecutters_dir": str(folder / "templates")})
    )
    return path


@pytest.fixture(scope="session")
def cookiecutter_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Such settings for all tests."""
    return write_config(tmp_path_factory.mktemp("cookiecutter"))


@pytest.fixture(scope="session")
def render_into(cookiecutter_config: Path) -> Render:
    """render_into(folder, **answers) renders there without hooks and returns the project's path."""
    return lambda folder, **answers: render_project(folder, cookiecutter_config, **answers)


@pytest.fixture(scope="module")
def project(render_into: Render, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rendered project whose task is fault_task.py: small, and it fails, or is slow, where it is told to."""
    folder = render_into(tmp_path_factory.mktemp("faults"), task_type="image_classification")
    shutil.copy(ROOT / "tests" / "fault_task.py", folder / "task.py")
    return folder


@pytest.fixture
def render(render_into: Render, tmp_path: Path) -> Render:
    """render(**answers) renders into a temporary folder of the test."""
    return lambda **answers: render_into(tmp_path, **answers)


def files_in(folder: Path) -> set[str]:
    """All files below a folder, by relative path."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@contextmanager
def modules_of(project: Path) -> Iterator[Any]:
    """The Python files in the folder of a rendered project, imported, as attributes by name; the engine is ours."""
    names = [path.stem for path in project.glob("*.py")]
    network = import_module("engine.network")

    def forget() -> None:
        for name in names:
            sys.modules.pop(name, None)
            vars(network).pop(f"__import_{name}", None)  # where the export of torch 2.6 keeps the first of that name

    forget()
    sys.path.insert(0, str(project))
    try:
        yield SimpleNamespace(**{name: import_module(name) for name in names})
    finally:
        sys.path.remove(str(project))
        forget()
