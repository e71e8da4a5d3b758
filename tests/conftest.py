"""Rendering the template in tests: all combinations of answers, taken from cookiecutter.json."""

import itertools
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from cookiecutter.main import cookiecutter

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "{{cookiecutter.project_slug}}"

MODULES = ROOT / "templates" / "modules"

# The engine and modules are tested as they lie in the template; a cache there would be rendered into projects.
sys.dont_write_bytecode = True
sys.path[:0] = [str(SOURCE), str(MODULES)]

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


@pytest.fixture(scope="session")
def cookiecutter_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Settings that keep cookiecutter out of the home folder."""
    folder = tmp_path_factory.mktemp("cookiecutter")
    path = folder / "config.yaml"
    path.write_text(
        yaml.safe_dump({"replay_dir": str(folder / "replay"), "cookiecutters_dir": str(folder / "templates")})
    )
    return path


@pytest.fixture(scope="session")
def render_into(cookiecutter_config: Path) -> Render:
    """render_into(folder, **answers) renders there without hooks and returns the project's path."""

    def render(folder: Path, **answers: str) -> Path:
        return Path(
            cookiecutter(
                str(ROOT),
                no_input=True,
                extra_context=answers,
                output_dir=str(folder),
                accept_hooks=False,
                config_file=str(cookiecutter_config),
            )
        )

    return render


@pytest.fixture
def render(render_into: Render, tmp_path: Path) -> Render:
    """render(**answers) renders into a temporary folder of the test."""
    return lambda **answers: render_into(tmp_path, **answers)


@contextmanager
def modules_of(project: Path) -> Iterator[Any]:
    """The Python files in the folder of a rendered project, imported, as attributes by name; the engine is ours."""
    names = [path.stem for path in project.glob("*.py")]

    def forget() -> None:
        for name in names:
            sys.modules.pop(name, None)

    forget()
    sys.path.insert(0, str(project))
    try:
        yield SimpleNamespace(**{name: import_module(name) for name in names})
    finally:
        sys.path.remove(str(project))
        forget()
