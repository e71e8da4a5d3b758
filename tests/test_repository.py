"""What belongs to the repositories, the template's and a project's: versions, bounds, hooks, changelog, forms."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import QUESTIONS, ROOT, Render
from example_project import EXAMPLE, rendered

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def metadata(folder: Path) -> dict[str, Any]:
    """The [project] table of pyproject.toml."""
    table: dict[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]
    return table


# ---- the tests ----


SIGNALS_OF_A_CHILD = """
import signal, subprocess, sys

for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
    signal.signal(number, signal.SIG_IGN)
import conftest

child = "import signal; print([signal.getsignal(n).name for n in (signal.SIGHUP, signal.SIGQUIT)])"
subprocess.run([sys.executable, "-c", child])
"""


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_what_tests_start_has_the_default_signals_also_under_nohup() -> None:
    call = [sys.executable, "-B", "-c", SIGNALS_OF_A_CHILD]
    assert subprocess.run(call, cwd=ROOT / "tests", capture_output=True, text=True).stdout == "['SIG_DFL', 'SIG_DFL']\n"


def test_a_demo_installs_what_a_project_needs_and_no_more() -> None:
    call = ["make", "--dry-run", "--always-make", "demo"]
    commands = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert '".[project]"' in commands and "test" not in commands.replace("torch-template", "")


# ---- a project's ----


@pytest.mark.parametrize("task", QUESTIONS["task_type"])
def test_every_dependency_of_a_project_has_a_lower_bound(task: str, render: Render) -> None:
    project = metadata(render(task_type=task))
    for requirement in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        assert re.fullmatch(r"[a-z0-9-]+>=[\d.]+", requirement)


def test_the_hooks_of_a_project_check_and_format_with_the_ruff_that_is_its_lower_bound(render: Render) -> None:
    project = render()
    hooks = yaml.safe_load((project / ".pre-commit-config.yaml").read_text("utf-8"))["repos"]
    [ruff] = [repository for repository in hooks if repository["repo"].endswith("/ruff-pre-commit")]
    assert [hook["id"] for hook in ruff["hooks"]] == ["ruff-check", "ruff-format"]
    [bound] = [r for r in metadata(project)["optional-dependencies"]["dev"] if r.startswith("ruff>=")]
    assert ruff["rev"] == f"v{bound.removeprefix('ruff>=')}.0"


@pytest.mark.parametrize(
    ("question", "answer"), [(name, answer) for name in ("task_type", "license") for answer in QUESTIONS[name]]
)
def test_the_hooks_find_no_space_at_an_end_of_line_or_file_of_a_new_project(
    question: str, answer: str, render: Render
) -> None:
    for path in render(**{question: answer}).rglob("*"):
        if path.is_file():
            text = path.read_text("utf-8")
            assert text == "".join(f"{line.rstrip()}\n" for line in text.rstrip().split("\n")), path


# ---- the template's ----


def test_the_example_is_what_is_rendered(tmp_path: Path) -> None:
    there = {p.relative_to(EXAMPLE).as_posix(): p.read_text("utf-8") for p in EXAMPLE.rglob("*") if p.is_file()}
    assert there == rendered(tmp_path), "make example"


@pytest.mark.parametrize("path", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda path: path.name)
def test_every_workflow_and_form_is_valid_yaml(path: Path) -> None:
    assert yaml.safe_load(path.read_text("utf-8"))


@pytest.mark.parametrize("form", ["bug.yml", "feature.yml"])
def test_the_form_of_an_issue_has_what_github_needs(form: str) -> None:
    content = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / form).read_text("utf-8"))
    assert content.keys() >= {"name", "description", "body"}
    for field in content["body"]:
        assert field["type"] in ("textarea", "input") and field["id"] and field["attributes"]["label"]


notes = runpy.run_path(str(ROOT / ".ci" / "release_notes.py"))["notes"]


def test_the_changelog_has_a_section_on_the_present_version() -> None:
    assert notes(f"v{metadata(ROOT)['version']}")


def test_a_tag_of_another_version_is_not_released() -> None:
    with pytest.raises(SystemExit, match="correct one of them"):
        notes("v999.0.0")
