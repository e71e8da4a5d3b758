"""The hooks: bad answers are refused, the smoke epoch leaves no trace, and whatever goes wrong the project stays."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from conftest import QUESTIONS, ROOT, Render
from test_combinations import files_in

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def load_hook(name: str) -> ModuleType:
    """A hook as it lies in the template, imported as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "hooks" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def post_gen() -> ModuleType:
    """The hook that trains the smoke epoch."""
    return load_hook("post_gen_project")


def generate(folder: Path, config: Path, *answers: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Runs cookiecutter on the command line, hooks included."""
    command = [sys.executable, "-m", "cookiecutter", str(ROOT), "--no-input", "-o", str(folder)]
    return subprocess.run(
        [*command, "--config-file", str(config), *answers],
        env={**os.environ, "PWD": str(folder.parent), **environment},
        cwd=folder.parent,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


ANSWERS = {name: value[0] if isinstance(value, list) else value for name, value in QUESTIONS.items()}
ANSWERS |= {"project_name": "Demo", "project_slug": "demo"}

# ---- before ----


@pytest.mark.parametrize("slug", ["", "-a", "a b", "a/b", "..", "a\\b", 'a"b', "con", "LPT1.x", "a.", "ä", "a\n"])
def test_a_slug_that_names_no_folder_is_refused(slug: str) -> None:
    assert repr(slug) in load_hook("pre_gen_project").complaint({**ANSWERS, "project_slug": slug})


@pytest.mark.parametrize("slug", ["a", "my-project", "My.Project_2", "2fast"])
def test_a_slug_that_names_a_folder_is_accepted(slug: str) -> None:
    assert load_hook("pre_gen_project").complaint({**ANSWERS, "project_slug": slug}) == ""


def test_a_bad_slug_stops_cookiecutter_in_one_line_and_leaves_nothing(
    tmp_path: Path, cookiecutter_config: Path
) -> None:
    done = generate(tmp_path, cookiecutter_config, "project_slug=my project")
    assert done.returncode == 1
    assert sum("project_slug 'my project' cannot" in line for line in done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stderr
    assert files_in(tmp_path) == set()


@pytest.mark.parametrize("name", ['Tim "the tool" O\'Hara', "back\\slash", "émoji 🎉", "{braces}", "# hash: colon"])
def test_free_text_is_written_as_it_is(name: str, tmp_path: Path, render: Render) -> None:
    project = render(project_name=name, project_slug="demo", author_name=name)
    answers = yaml.safe_load((project / ".cookiecutter.yaml").read_text("utf-8"))["default_context"]
    assert answers["project_name"] == answers["author_name"] == name
    text = (project / "pyproject.toml").read_text("utf-8")
    [line] = [line for line in text.splitlines() if line.startswith("description")]
    assert json.loads(line.split("=", 1)[1]) == name  # the escapes that were used mean the same in JSON and TOML
    assert name in (project / "LICENSE").read_text("utf-8")


HOSTILE = [
    '"', "'", '"""', "\'\'\'", "a\\", '\\"', "\\N{bell}", "%s", "#", "]", "- a: b", "&anchor", "!!python/object",
    "a" * 300, "{", "}}", "{{ 7 * 7 }}", '{{ "{{" }}', "{{", "{% raw %}", "{% if %}", "{#", "#}",
    "{{ cookiecutter.nothing }}", "a\nb", "a\rb", "\x1b[31m", "\u2028", "\u202egnp.exe", "🎉", "👨\u200d👩\u200d👧",
    "</script>", "$(touch pwned)", "`touch pwned`", "; touch pwned",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_answers_give_a_valid_project_or_none(text: str, tmp_path: Path, cookiecutter_config: Path) -> None:
    answers = [f"project_name={text}", f"author_name={text}", "project_slug=demo", "smoke_epoch=skip"]
    done = generate(tmp_path / "out", cookiecutter_config, *answers)
    project = tmp_path / "out" / "demo"
    if done.returncode:
        assert not project.exists()
        reasons = [line for line in done.stderr.splitlines() if line.startswith("error: project_name")]
        # Broken Jinja is refused by cookiecutter itself, before the template has a say.
        assert len(reasons) == 1 or "{" in text, done.stderr
        return
    for script in project.rglob("*.py"):
        compile(script.read_text("utf-8"), str(script), "exec")
    given = yaml.safe_load((project / ".cookiecutter.yaml").read_text("utf-8"))["default_context"]["project_name"]
    if not any(sign in text for sign in ("{{", "{%", "{#")):  # which cookiecutter renders in every answer
        assert given == text
    settings = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))["project"]
    assert settings["description"] == given and settings["name"] == "demo"
    assert not list(tmp_path.rglob("pwned"))


# ---- after ----


def test_the_smoke_epoch_is_reported_and_leaves_no_trace(
    tmp_path: Path, render: Render, cookiecutter_config: Path
) -> None:
    without = render(project_name="Demo")
    done = generate(tmp_path / "hooks", cookiecutter_config, "project_name=Demo", TORCH_TEMPLATE_STRICT="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "smoke epoch: loss" in done.stdout
    assert len(done.stdout.splitlines()) <= 12
    for command in (f"cd {Path('hooks', 'demo')}\n", "train.py", "tensorboard"):
        assert command in done.stdout
    project = tmp_path / "hooks" / "demo"
    assert files_in(project) == files_in(without) | {".cookiecutter.lock"}
    for name in files_in(without):
        assert (project / name).read_bytes() == (without / name).read_bytes(), name
    folders = {path.relative_to(project).as_posix() for path in project.rglob("*") if path.is_dir()}
    assert folders == {".github", ".github/workflows", "engine", "scripts", "tests"}


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("raise ValueError('no such thing')", "ValueError: no such thing"),
        ("import sys; sys.exit('error: one line')", "error: one line"),
        ("import time; time.sleep(60)", "took more than 1 s"),
        ("import os; os._exit(3)", "no output"),
    ],
)
def test_a_smoke_epoch_that_fails_is_explained_with_the_command_that_repeats_it(
    script: str, reason: str, strict: bool, tmp_path: Path, post_gen: ModuleType, monkeypatch: Any, capsys: Any
) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "train.py").write_text(script)
    monkeypatch.chdir(tmp_path / "demo")
    monkeypatch.setenv("PWD", str(tmp_path))
    if "sleep" in script:  # a busy machine may take longer than that to start Python
        monkeypatch.setattr(post_gen, "TIME_LIMIT", 1)
    monkeypatch.setattr(post_gen, "active_python", lambda environment: sys.executable)
    monkeypatch.setenv("TORCH_TEMPLATE_STRICT", str(int(strict)))
    assert post_gen.main(ANSWERS) == int(strict)
    [line] = [line for line in capsys.readouterr().out.splitlines() if "not verified" in line]
    assert reason in line and "cd demo && python -m pip install . && python train.py --smoke" in line


def test_without_torch_the_project_stays_and_one_line_says_how_to_finish(
    tmp_path: Path, post_gen: ModuleType, monkeypatch: Any, capsys: Any
) -> None:
    # A Python without site-packages, as cookiecutter's own is under pipx.
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "$@"\n')
    bare.chmod(0o755)
    for name in ("VIRTUAL_ENV", "CONDA_PREFIX", "TORCH_TEMPLATE_STRICT"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "demo").mkdir()
    monkeypatch.chdir(tmp_path / "demo")
    monkeypatch.setenv("PWD", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(bare))
    assert post_gen.main(ANSWERS) == 0
    [_, line] = capsys.readouterr().out.splitlines()
    assert line == (
        "not verified, since no Python with torch is active; "
        "to finish: cd demo && python -m pip install . && python train.py --smoke"
    )


def test_the_active_environment_comes_first(post_gen: ModuleType) -> None:
    found = post_gen.candidates({"VIRTUAL_ENV": "/venv", "CONDA_PREFIX": "/conda", "PATH": ""})
    assert [Path(python).parts[1] for python in found[:2]] == ["venv", "conda"]
    assert found[-1] == sys.executable


def test_skipping_says_how_to_verify(tmp_path: Path, post_gen: ModuleType, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert post_gen.main({**ANSWERS, "smoke_epoch": "skip"}) == 0
    assert "not verified, as you asked" in capsys.readouterr().out


def test_a_lock_that_cannot_be_written_ends_nothing(
    tmp_path: Path, post_gen: ModuleType, monkeypatch: Any, capsys: Any
) -> None:
    (tmp_path / ".cookiecutter.lock").mkdir()
    monkeypatch.chdir(tmp_path)
    assert post_gen.main({**ANSWERS, "smoke_epoch": "skip"}) == 0
    assert ".cookiecutter.lock was not written" in capsys.readouterr().out


def test_a_venv_that_cannot_be_made_is_explained(
    tmp_path: Path, post_gen: ModuleType, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    assert post_gen.main({**ANSWERS, "smoke_epoch": "venv"}) == 0
    assert "'-m venv .venv' failed" in capsys.readouterr().out
