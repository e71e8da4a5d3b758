"""What docs/your-own.md shows works: every block, put where its first line says, trains; and the tour's stops exist."""

import ast
import re
from pathlib import Path

import pytest
import torch
from conftest import ROOT, Render
from ranks import run_ranks
from scripts import run_script

DOCS = ROOT / "docs"
FLAGS = "--epochs 2 --warm_up_epochs 0.5 --pictures none"

PAGE = (DOCS / "your-own.md").read_text("utf-8")
SECTIONS = dict(re.findall(r"^## (.*)\n((?:(?!^## ).*\n)*)", PAGE, re.MULTILINE))
SCRIPTS = "Load and predict from Python"
# The sections that replace the task as a whole, and its test with it.
WHOLE = [name for name, text in SECTIONS.items() if "\n# tests/test_task.py" in text]
TASK_OF = {name: re.findall(r"^# .*\((\w+)\)$", text, re.MULTILINE) for name, text in SECTIONS.items()}


def blocks(section: str) -> list[tuple[str, str]]:
    """The blocks of code in a section: where each belongs, as its first line says, and its text."""
    return re.findall(r"```python\n# ([^\n]*?)(?: \(\w+\))?\n(.*?)```", SECTIONS[section], re.DOTALL)


def replaced(text: str, name: str, code: str) -> str:
    """The text of a file with a function of it, or the line that sets a name in a class, replaced."""
    for node in ast.walk(ast.parse(text)):
        named = node.name if isinstance(node, ast.FunctionDef) else ast.unparse(getattr(node, "target", node))
        if named == name and isinstance(node, (ast.FunctionDef, ast.AnnAssign)):
            lines = text.splitlines(keepends=True)
            indented = "".join(" " * node.col_offset + line for line in code.splitlines(keepends=True))
            return "".join([*lines[: node.lineno - 1], indented, *lines[node.end_lineno :]])
    raise AssertionError(name)


def apply(project: Path, place: str, code: str) -> None:
    """Puts a block where it belongs in a project."""
    name, _, where = place.partition(", ")
    text = (project / name).read_text("utf-8")
    if where == "in class Task":
        text = text.replace("\n\n\ndef to_rows", f"\n\n{code}\n\ndef to_rows", 1)
    elif where == "at the end of Task.__init__":
        start = text.index("def __init__")
        end = text.index("\n\n    def ", start)
        text = f"{text[:end]}\n{code.rstrip()}{text[end:]}"
    elif where:
        text = replaced(text, where.removeprefix("in place of "), code)
    else:
        text = code.lstrip("\n")
    (project / name).write_text(text, "utf-8")


def write_data(project: Path, section: str) -> None:
    """The data that the page names: a table of houses, and a Hugging Face data set with a sample of it."""
    torch.manual_seed(0)
    x = torch.randn(100, 3)
    names = ("rooms", "size", "floor", "price")
    rows = [(a, b, c, a - 2 * b + 0.1 * c) for a, b, c in x.tolist()]
    (project / "houses.csv").write_text("\n".join([",".join(names), *(",".join(map(str, row)) for row in rows)]) + "\n")
    lines = ["{" + ", ".join(f'"{n}": {v}' for n, v in zip(names, row, strict=True)) + "}" for row in rows]
    (project / "houses.jsonl").write_text("\n".join(lines) + "\n")
    if "datasets" in SECTIONS[section]:
        datasets = pytest.importorskip("datasets")
        features = torch.randn(400, 4, generator=torch.Generator().manual_seed(0))
        for name, part in (("my_dataset", features), ("my_sample", features[:200])):
            columns = {"features": part.tolist(), "label": (part.sum(1) > 0).long().tolist()}
            datasets.Dataset.from_dict(columns).save_to_disk(project / name)


def commands(section: str) -> list[str]:
    """What the section says to type; without anything, that the project is trained."""
    typed = re.findall(r"^    python (train\.py.*)$", SECTIONS[section], re.MULTILINE)
    return typed or ["train.py"]


def train(project: Path, command: str, output: Path) -> str:
    """Trains the project with a command of the page, for two epochs; returns what was printed."""
    data = "" if "--data" in command else "--data synthetic"
    status, printed = run_script(project, [*command.split(), *data.split(), *FLAGS.split()], output)
    assert status == 0, printed
    assert len(re.findall(r"^ +[12]/2  ", printed, re.MULTILINE)) == 2, printed
    assert "note: predict.py cannot" not in printed
    return printed


def make(section: str, render: Render) -> Path:
    """A project with all blocks of a section, and the data that the page names."""
    project = render(task_type=(TASK_OF[section] or ["regression"])[0])
    write_data(project, section)
    if imports := re.findall(r"`(from (?:torchmetrics\S*|classification) import \w+)`", SECTIONS[section]):
        task = project / "task.py"
        task.write_text(task.read_text("utf-8").replace("\nfrom torch import", f"\n{imports[0]}\nfrom torch import", 1))
    for place, code in blocks(section):
        if place.partition(", ")[2].startswith(("in class", "at the end")) and "import torch\n" not in (
            text := (project / "task.py").read_text("utf-8")
        ):
            (project / "task.py").write_text(
                text.replace("\nfrom torch import", "\nimport torch\nfrom torch import", 1)
            )
        if place != "a script or a notebook":
            apply(project, place, code)
    return project


@pytest.mark.parametrize("section", [name for name in SECTIONS if name not in (SCRIPTS, *WHOLE, "What must be there")])
def test_every_block_trains(section: str, render: Render, tmp_path: Path) -> None:
    train(make(section, render), commands(section)[0], tmp_path / "output")


@pytest.mark.parametrize("section", WHOLE)
def test_what_replaces_a_task_trains_resumes_and_predicts(section: str, render: Render, tmp_path: Path) -> None:
    project = make(section, render)
    train(project, commands(section)[0], tmp_path / "output")
    status, printed = run_script(project, ["train.py", "--smoke"], tmp_path / "output")
    assert status == 0 and "smoke epoch: loss" in printed, printed
    # Among the tests of the project is one that kills a run and resumes it, and compares all bits.
    (project / "check.py").write_text(
        "import pytest\n\nraise SystemExit(pytest.main(['-q', '-p', 'no:cacheprovider']))\n"
    )
    status, printed = run_script(project, ["check.py"], tmp_path / "output", seconds=240)
    assert status == 0, printed


@pytest.mark.parametrize("section", WHOLE)
def test_what_replaces_a_task_trains_in_two_processes(section: str, render: Render, tmp_path: Path) -> None:
    project = make(section, render)
    flags = [*commands(section)[0].split(), *FLAGS.split(), "--precision", "fp32", "--ckpt_dir"]
    ends = []
    for world in (1, 2):
        printed, *others = run_ranks(project, [*flags, str(tmp_path / str(world))], tmp_path, world)
        assert not any(others), others
        [(names, values)] = re.findall(r"^epoch  (.*)  next lr .*\n.*\n  2/2 (.*)$", printed, re.MULTILINE)
        ends.append([float(value) for value in values.split()[: len(re.split("  +", names.strip()))]])
    if "randn_like" not in SECTIONS[section] and "BatchNorm" not in SECTIONS[section]:  # each process has its own
        assert ends[0] == pytest.approx(ends[1], abs=2e-3)


def run_the_script(project: Path, number: int, section: str, output: Path) -> str:
    """Runs a script of a section, with the newest run for its placeholder; returns what it prints."""
    run = max((project / "check_point").iterdir())
    code = [code for place, code in blocks(section) if place == "a script or a notebook"][number]
    (project / "script.py").write_text(code.replace("<date>_<time>", run.name), "utf-8")
    status, printed = run_script(project, ["script.py"], output)
    assert status == 0, printed
    return printed


def test_a_data_frame_goes_in_and_comes_out(render: Render, tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    section = "A pandas DataFrame, in and out"
    project = make(section, render)
    train(project, commands(section)[0], tmp_path / "output")
    header, *rows = run_the_script(project, 0, section, tmp_path / "output").splitlines()
    assert header.split() == ["rooms", "size", "floor", "predicted", "price"] and len(rows) == 5


def test_predicting_training_and_resuming_from_python_works(render: Render, tmp_path: Path) -> None:
    project = make(SCRIPTS, render)
    train(project, "train.py --data houses.csv --target price", tmp_path / "output")
    assert run_the_script(project, 0, SCRIPTS, tmp_path / "output").count("predicted price") == 3
    assert "best epoch" in run_the_script(project, 1, SCRIPTS, tmp_path / "output")
    [first, second] = sorted((project / "check_point").iterdir())
    assert (second / "config.json").exists() and (second / "epoch3.pth").exists() and first != second
    printed = run_the_script(project, 2, SCRIPTS, tmp_path / "output")
    assert re.findall(r"^ +(\d)/6  ", printed, re.MULTILINE) == ["4", "5", "6"]
    assert (second / "epoch6.pth").exists() and len(list((project / "check_point").iterdir())) == 2
    status, printed = run_script(project, ["train.py", "--resume", "auto", "--epochs", "7"], tmp_path / "output")
    assert status == 0 and re.findall(r"^ +(\d)/7  ", printed, re.MULTILINE) == ["7"], printed


def test_training_from_a_data_frame_works(render: Render, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    project = make(SCRIPTS, render)
    (project / "check_point" / "none").mkdir(parents=True)
    *_, header, _, _, _, _, last = run_the_script(project, 3, SCRIPTS, tmp_path / "output").splitlines()
    assert header.split() == ["rooms", "size", "floor", "price", "predicted", "price"] and last.startswith("4 ")


def test_the_stops_of_the_tour_exist_and_are_seven(render: Render) -> None:
    project = render(task_type="image_classification")
    stops = re.findall(r"^\| \d \| `(\S+)` \| `(\S+)` \|$", (DOCS / "tour.md").read_text("utf-8"), re.MULTILINE)
    assert 1 <= len(stops) <= 7
    for file, name in stops:
        body: list[ast.stmt] = ast.parse((project / file).read_text("utf-8")).body
        for part in name.split("."):
            [found] = [n for n in body if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and n.name == part]
            body = found.body


def test_every_name_that_the_tour_mentions_exists(render: Render) -> None:
    project = render(task_type="image_classification")
    code = "\n".join(path.read_text("utf-8") for path in project.rglob("*.py"))
    for name in re.findall(r"`([A-Za-z_]+)(?:\(\w*\))?`", (DOCS / "tour.md").read_text("utf-8")):
        assert re.search(rf"\b{name}\b", code), name
    for path in re.findall(r"`([\w/]+\.py)`", (DOCS / "tour.md").read_text("utf-8")):
        assert (project / path).exists(), path
