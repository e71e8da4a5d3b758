"""The hooks: bad answers are refused, the smoke epoch leaves no trace, and whatever goes wrong the project stays."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from conftest import QUESTIONS, ROOT, Render, files_in

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
ANSWERS |= {"project_name": "Demo", "project_slug": "demo", "_repo_dir": str(ROOT)}

# ---- before ----


@pytest.mark.parametrize("slug", ["", "-a", "a b", "a/b", "..", "a\\b", 'a"b', "con", "LPT1.x", "a.", "ä", "a\n"])
def test_a_slug_that_names_no_folder_is_refused(slug: str) -> None:
    assert repr(slug) in load_hook("pre_gen_project").complaint({**ANSWERS, "project_slug": slug})


def test_a_name_that_is_too_long_for_a_folder_has_a_shorter_one(tmp_path: Path, render: Render) -> None:
    assert render(project_name="a long name " * 100).name.startswith("a-long-name-a-long-name")


@pytest.mark.parametrize("slug", ["a", "my-project", "My.Project_2", "2fast"])
def test_a_slug_that_names_a_folder_is_accepted(slug: str) -> None:
    assert load_hook("pre_gen_project").complaint({**ANSWERS, "project_slug": slug}) == ""


def test_answers_are_found_on_a_command_line_of_windows() -> None:
    hook = load_hook("pre_gen_project")
    program = r'"C:\Program Files\Python\python.exe" C:\Scripts\cookiecutter.exe'
    line = rf'{program} gh:a/b -o "D:\my work" "project_name=A B" task_typ=x'
    assert hook.given_answers(hook.words_of(line)) == ({"project_name": "A B", "task_typ": "x"}, {})


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


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory, cookiecutter_config: Path) -> Path:
    """A folder with an unedited project, `demo`."""
    folder = tmp_path_factory.mktemp("rendered") / "out"
    assert generate(folder, cookiecutter_config, "project_name=Demo", "smoke_epoch=skip").returncode == 0
    return folder


def everything_in(folder: Path) -> dict[str, bytes]:
    """The bytes of all files below a folder, by relative path."""
    return {name: (folder / name).read_bytes() for name in files_in(folder)}


def refused_in_one_line(done: "subprocess.CompletedProcess[str]", text: str) -> bool:
    """Whether it is; broken Jinja is refused by cookiecutter itself, before the template has a say."""
    return sum(line.startswith("error: ") for line in done.stderr.splitlines()) == 1 or "{" in text


def check_project(project: Path, slug: str) -> dict[str, str]:
    """Fails where the project is not valid Python and TOML; returns the answers that it notes."""
    for script in project.rglob("*.py"):
        compile(script.read_text("utf-8"), str(script), "exec")
    given: dict[str, str] = yaml.safe_load((project / ".cookiecutter.yaml").read_text("utf-8"))["default_context"]
    settings = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))["project"]
    assert (settings["name"], settings["description"]) == (slug, given["project_name"])
    return given


@pytest.mark.parametrize("options", [[], ["-f"]], ids=["", "-f"])
@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_give_a_valid_project_or_change_nothing(
    text: str, options: list[str], tmp_path: Path, rendered: Path, cookiecutter_config: Path
) -> None:
    if options:
        shutil.copytree(rendered, tmp_path / "out")
    before = everything_in(tmp_path)
    answers = [f"project_name={text}", f"author_name={text}", "project_slug=demo", "smoke_epoch=skip"]
    done = generate(tmp_path / "out", cookiecutter_config, *options, *answers)
    assert not list(tmp_path.rglob("pwned"))
    if done.returncode:
        assert everything_in(tmp_path) == before
        assert refused_in_one_line(done, text), done.stderr
        return
    given = check_project(tmp_path / "out" / "demo", "demo")
    if not any(sign in text for sign in ("{{", "{%", "{#")):  # which cookiecutter renders in every answer
        assert given["project_name"] == given["author_name"] == text


# Without a name that is too long for the system: of that cookiecutter fails before the template has a say.
@pytest.mark.parametrize(
    "slug",
    [
        *(text for text in HOSTILE if len(text) < 255),
        "",
        ".",
        "..",
        "../out/demo",
        "demo/",
        "./demo",
        "demo/engine",
        ".git",
    ],
)
def test_hostile_folder_names_give_a_valid_project_or_change_nothing_even_with_force(
    slug: str, tmp_path: Path, rendered: Path, cookiecutter_config: Path
) -> None:
    shutil.copytree(rendered, tmp_path / "out")
    before = everything_in(tmp_path)
    done = generate(tmp_path / "out", cookiecutter_config, "-f", f"project_slug={slug}", "smoke_epoch=skip")
    assert not list(tmp_path.rglob("pwned"))
    if done.returncode:
        assert everything_in(tmp_path) == before
        assert refused_in_one_line(done, slug), done.stderr
        return
    [project] = {path for path in (tmp_path / "out").iterdir() if path.name != "demo"}
    assert check_project(project, project.name)["project_slug"] == project.name


@pytest.mark.parametrize(
    "character", ["\n", "\r", "\0", "\x1b", "\x7f", "\x85", "\u2028", "\ud800", "\ufeff", "\uffff"]
)
@pytest.mark.parametrize("name", ["project_name", "author_name"])
def test_a_character_that_ends_a_line_or_controls_is_refused_by_name(name: str, character: str) -> None:
    said = load_hook("pre_gen_project").complaint({**ANSWERS, name: f"a{character}b"})
    assert said.startswith(f"{name} {f'a{character}b'!r} has the line break or control character {character!r}")


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
    folders = {path.relative_to(project) for path in project.rglob("*") if path.is_dir()}
    assert folders == {path.relative_to(without) for path in without.rglob("*") if path.is_dir()}


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
