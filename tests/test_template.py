"""The template itself: it parses before it is rendered, its lists agree, it stays small enough to read."""

import ast
import io
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest
from conftest import QUESTIONS, ROOT, SOURCE, TRAINING_CHOICES, Render

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SCRIPTS = [*SOURCE.rglob("*.py"), *(ROOT / "templates").rglob("*.py"), *(ROOT / "hooks").glob("*.py")]
INCLUDE = re.compile(r"\s*\{% include [^%]+ -?%\}\s*")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_script_parses_before_it_is_rendered_and_says_what_it_is_for(path: Path) -> None:
    text = path.read_text("utf-8")
    if not INCLUDE.fullmatch(text):
        assert ast.get_docstring(ast.parse(text)), path
        statements = [line for line in text.splitlines() if "{%" in line]
        assert all(INCLUDE.fullmatch(line.replace("#", "", 1)) for line in statements), statements


def test_the_engine_holds_no_jinja() -> None:
    for path in (SOURCE / "engine").glob("*.py"):
        assert not re.search(r"\{\{|\{%|\{#", path.read_text("utf-8")), path


def code_lines(path: Path) -> int:
    """Lines that are code: no blank ones, comments or docstrings."""
    text = path.read_text("utf-8")
    documented: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node):
            documented |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    tokens = [token for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type not in skipped]
    return len({line for token in tokens for line in range(token.start[0], token.end[0] + 1)} - documented)


def test_it_stays_within_what_a_person_reads() -> None:
    def lines(path: Path) -> int:
        return len(path.read_text("utf-8").splitlines())

    assert lines(SOURCE / "engine" / "trainer.py") <= 400
    assert lines(SOURCE / "train.py") <= 50
    assert all(lines(path) <= 200 for path in (ROOT / "templates" / "tasks").glob("*.py"))
    assert sum(map(code_lines, (SOURCE / "engine").glob("*.py"))) <= 1000


def test_the_engine_imports_neither_settings_nor_task() -> None:
    for path in (SOURCE / "engine").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                assert node.module and node.module.split(".")[0] not in ("config", "task", "images", "engine"), path


def test_every_question_and_choice_has_a_label_and_a_place_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    for name, choices in QUESTIONS.items():
        if name.startswith("_"):
            continue
        label = QUESTIONS["__prompts__"][name]
        assert f"`{name}`" in readme
        if isinstance(choices, list):
            assert label.keys() == {"__prompt__", *choices}
            [row] = [line for line in readme.splitlines() if line.startswith(f"| `{name}`")]
            assert re.findall(r"`([^`]+)`", row.split("|")[2]) == choices


def test_every_task_has_its_files_and_every_file_its_task() -> None:
    folder = ROOT / "templates" / "tasks"
    assert {path.name for path in folder.iterdir()} == {
        f"{task}{ending}" for task in QUESTIONS["task_type"] for ending in (".py", ".fields", ".md")
    }


def test_every_license_has_its_text() -> None:
    assert {path.name for path in (ROOT / "templates" / "licenses").iterdir()} | {"none"} == set(QUESTIONS["license"])


def test_settings_allow_what_the_questions_offer() -> None:
    text = (SOURCE / "config.py").read_text("utf-8")
    for name in ("num_parts", "lr_scheduler_type", "warm_up_mode"):
        [allowed] = re.findall(rf"    {name}: Literal\[(.*?)\]", text)
        assert [choice.strip().strip('"') for choice in allowed.split(",")] == TRAINING_CHOICES[name]


def test_the_template_installs_what_a_project_declares(render: Render) -> None:
    own = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    rendered = tomllib.loads((render() / "pyproject.toml").read_text("utf-8"))["project"]
    assert own["optional-dependencies"]["project"] == rendered["dependencies"]
    assert own["version"] == QUESTIONS["_version"]


@pytest.mark.parametrize("license", QUESTIONS["license"])
def test_a_project_has_the_license_that_was_chosen(license: str, render: Render) -> None:
    project = render(license=license, author_name="Ada")
    assert (project / "LICENSE").exists() == (license != "none")
    if license != "none":
        text = (project / "LICENSE").read_text("utf-8")
        assert license.split("-")[0] in text and "Ada" in text and "{" not in text.replace("{name", "")


def test_a_rendered_project_passes_its_type_check(render: Render) -> None:
    command = [sys.executable, "-m", "mypy", "--no-incremental"]
    done = subprocess.run(command, cwd=render(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
