"""The template itself: it parses before it is rendered, its lists agree, it stays small enough to read."""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
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
    assert max(lines(path) for path in (SOURCE / "engine").glob("*.py") if path.name != "trainer.py") <= 260
    assert lines(SOURCE / "train.py") <= 50
    for path in (ROOT / "templates" / "tasks").glob("*.py"):
        assert len(path.read_text("utf-8").split("\n\n\n# ==== ")[0].splitlines()) <= 200, path
    assert sum(map(code_lines, (SOURCE / "engine").glob("*.py"))) <= 2350


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


def outline(text: str) -> dict[str, object]:
    """What a translation keeps: headings' levels, commands and files, links and images, numbers, cells of tables."""
    lines, number = text.splitlines(), r"\d+(?:\.\d+)?"
    return {
        "headings": re.findall(r"^#+(?= )", text, re.MULTILINE),
        "code": [re.split(r"  +|#", line.strip())[0] for line in lines if line.startswith("    ")],
        "links": re.findall(r"\]\(([^)]+)\)", text),
        "numbers": sorted(re.findall(number, text)),
        "tables": [sorted(re.findall(rf"`[^`]+`|{number}", line)) for line in lines if line.startswith("|")],
    }


def test_the_chinese_readme_says_what_the_english_one_does() -> None:
    english, chinese = ((ROOT / name).read_text("utf-8") for name in ("README.md", "README.zh.md"))
    assert outline(chinese) == outline(english.replace("(README.zh.md)", "(README.md)"))


def test_every_task_is_one_file_and_one_choice() -> None:
    files = {path.stem: path.read_text("utf-8") for path in (ROOT / "templates" / "tasks").iterdir()}
    assert files.keys() == set(QUESTIONS["task_type"])
    for name, text in files.items():
        sections = re.findall(r"^# ==== (.*) ====$", text, re.MULTILINE)
        assert sections == ["config.py", "tests/test_task.py", "README.md"], name


def test_every_module_belongs_to_a_task_and_has_its_place_in_the_project() -> None:
    users = [path for folder in ("tasks", "modules") for path in (ROOT / "templates" / folder).glob("*.py")]
    tasks = "".join(path.read_text("utf-8") for path in users)
    for path in (ROOT / "templates" / "modules").iterdir():
        assert f"from {path.stem} import" in tasks, path
        [place] = SOURCE.glob(f"*module('{path.name}')*")
        assert place.read_text("utf-8") == f'{{% include "modules/{path.name}" -%}}\n'


# What only these tasks may speak of, in their files and in what they install.
WORDS = {
    r"images?|pixels?|pillow|PIL": {"image_classification", "multilabel_classification", "segmentation"},
    r"torchvision|backbones?": {"image_classification", "multilabel_classification"},
    r"labels?|labelled": {"image_classification", "multilabel_classification", "text_classification"},
    r"multilabel\w*|average.precision": {"multilabel_classification"},
    r"masks?|segment\w*|u-?net|m?iou": {"segmentation", "text_classification"},  # padding is masked, too
    r"texts|csv|tsv": {"multilabel_classification", "regression", "text_classification"},
    r"transformer|tokenizer|text_column": {"text_classification"},
    r"regress\w*|r2|rmse|mae|one-hot": {"regression"},
}


@pytest.mark.parametrize("task", QUESTIONS["task_type"])
def test_a_project_has_no_word_of_another_task(task: str, render: Render) -> None:
    project = render(task_type=task)
    texts = {
        p: p.read_text("utf-8") for p in project.rglob("*") if p.is_file() and p.name not in ("LICENSE", "predict.py")
    }
    for words, tasks in WORDS.items():
        if task not in tasks:
            for path, text in texts.items():
                found = re.search(rf"(?<![\w./-])({words})(?![\w(=])", text, re.IGNORECASE)
                assert not found, f"{path.name}: {text[max(0, found.start() - 40) : found.end() + 20]!r}"


def test_every_license_has_its_text() -> None:
    assert {path.name for path in (ROOT / "templates" / "licenses").iterdir()} | {"none"} == set(QUESTIONS["license"])


def test_settings_allow_what_the_questions_offer() -> None:
    text = (SOURCE / "config.py").read_text("utf-8")
    for name in ("num_parts", "lr_scheduler_type", "warm_up_mode"):
        [allowed] = re.findall(rf"    {name}: Literal\[(.*?)\]", text)
        assert [choice.strip().strip('"') for choice in allowed.split(",")] == TRAINING_CHOICES[name]


def test_the_template_installs_what_projects_declare_and_they_declare_what_they_import(render: Render) -> None:
    own = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert own["version"] == QUESTIONS["_version"]
    declared = set()
    for task in QUESTIONS["task_type"]:
        project = render(task_type=task, project_slug=task.replace("_", "-"))
        dependencies = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]
        declared |= set(dependencies)
        code = "".join(path.read_text("utf-8") for path in project.rglob("*.py"))
        for package, name in (("pillow", "PIL"), ("torchvision", "torchvision"), ("tyro", "tyro"), ("tqdm", "tqdm")):
            uses = re.search(rf"^ *(from|import) {name}\b", code, re.MULTILINE) is not None
            assert uses == any(d.startswith(package) for d in dependencies), (task, package)
    assert set(own["optional-dependencies"]["project"]) == declared
    hook = (ROOT / "hooks" / "post_gen_project.py").read_text("utf-8")
    [needed] = re.findall(r"^NEEDED = (.*)$", hook, re.MULTILINE)
    names = {re.split(r"[>=<\[]", dependency)[0] for dependency in declared}
    later = {"matplotlib", "pillow", "torchvision"}  # or installed with these
    assert set(ast.literal_eval(needed)) == names - later


@pytest.mark.parametrize("license", QUESTIONS["license"])
def test_a_project_has_the_license_that_was_chosen(license: str, render: Render) -> None:
    project = render(license=license, author_name="Ada")
    assert (project / "LICENSE").exists() == (license != "none")
    if license != "none":
        text = (project / "LICENSE").read_text("utf-8")
        assert license.split("-")[0] in text and "Ada" in text and "{" not in text.replace("{name", "")


# ---- docstrings ----

DOCUMENTED = [
    *(SOURCE / "engine").glob("*.py"),
    *(SOURCE / name for name in ("config.py", "predict.py", "train.py")),
    *(ROOT / "templates").rglob("*.py"),
]


def public(path: Path) -> Iterator[tuple[str, ast.FunctionDef | ast.ClassDef, str]]:
    """Each public class, function and method of a file: its name, node and docstring, of __init__ the class's."""
    text = path.read_text("utf-8").split("\n\n\n# ==== ")[0]  # of a task what becomes task.py
    for node in ast.parse(text).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            yield node.name, node, ast.get_docstring(node) or ""
            for method in node.body if isinstance(node, ast.ClassDef) else []:
                if isinstance(method, ast.FunctionDef) and (method.name == "__init__" or method.name[0] != "_"):
                    documented = node if method.name == "__init__" else method
                    yield f"{node.name}.{method.name}", method, ast.get_docstring(documented) or ""


def raised(node: ast.FunctionDef) -> set[str]:
    """The names of the errors that a function raises by itself, not by what it calls."""
    calls = (n.exc.func for n in ast.walk(node) if isinstance(n, ast.Raise) and isinstance(n.exc, ast.Call))
    return {call.id for call in calls if isinstance(call, ast.Name)}


@pytest.mark.parametrize("path", DOCUMENTED, ids=lambda path: path.stem)
def test_every_public_name_has_a_docstring(path: Path) -> None:
    assert [name for name, _, text in public(path) if not text] == []


@pytest.mark.parametrize("path", DOCUMENTED, ids=lambda path: path.stem)
def test_every_public_function_names_the_errors_that_it_raises_for_a_mistake(path: Path) -> None:
    for name, node, text in public(path):
        if isinstance(node, ast.FunctionDef) and raised(node) & {"UserError", "ValueError", "gone_bad"}:
            assert "UserError" in text or "ValueError" in text, name
