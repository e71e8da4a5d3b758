"""What docs/your-own.md shows works: every block, put where its first line says, trains; and the tour's stops exist."""

import ast
import re
from pathlib import Path

import pytest
import torch
from conftest import ROOT, Render
from scripts import run_script

DOCS = ROOT / "docs"
FLAGS = "--epochs 2 --warm_up_epochs 0.5 --pictures none"

PAGE = (DOCS / "your-own.md").read_text("utf-8")
SECTIONS = dict(re.findall(r"^## (.*)\n((?:(?!^## ).*\n)*)", PAGE, re.MULTILINE))


def blocks(section: str) -> list[tuple[str, str]]:
    """The blocks of code in a section: where each belongs, as its first line says, and its text."""
    return re.findall(r"```python\n# ([^\n]*)\n(.*?)```", SECTIONS[section], re.DOTALL)


def apply(project: Path, place: str, code: str) -> None:
    """Puts a block where it belongs in a project."""
    name, _, where = place.removesuffix(" (text_classification)").partition(", ")
    text = (project / name).read_text("utf-8")
    if where == "in class Task":
        text = text.replace("\n\n\ndef to_rows", f"\n\n{code}\n\ndef to_rows", 1)
    elif where == "at the end of Task.__init__":
        start = text.index("def __init__")
        end = text.index("\n\n    def ", start)
        text = f"{text[:end]}\n{code.rstrip()}{text[end:]}"
    else:
        text = code.lstrip("\n")
    (project / name).write_text(text, "utf-8")


def write_data(project: Path) -> None:
    """The data that the page names: a table of houses, and a Hugging Face data set."""
    torch.manual_seed(0)
    x = torch.randn(100, 3)
    rows = [f"{a:.3f},{b:.3f},{c:.3f},{a - 2 * b + 0.1 * c:.3f}" for a, b, c in x.tolist()]
    (project / "houses.csv").write_text("\n".join(["rooms,size,floor,price", *rows]) + "\n", "utf-8")


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
    return printed


TASKS = [name for name in SECTIONS if name not in ("Load and predict from Python",)]


@pytest.mark.parametrize("section", TASKS)
def test_every_block_trains(section: str, render: Render, tmp_path: Path) -> None:
    if "datasets" in SECTIONS[section]:
        datasets = pytest.importorskip("datasets")
    text = "text_classification" in SECTIONS[section]
    project = render(task_type="text_classification" if text else "regression")
    write_data(project)
    if "my_dataset" in SECTIONS[section]:
        features = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
        columns = {"features": features.tolist(), "label": (features.sum(1) > 0).long().tolist()}
        datasets.Dataset.from_dict(columns).save_to_disk(project / "my_dataset")
    whole = [block for block in blocks(section) if block[0] in ("task.py", "model.py")]
    parts = [block for block in blocks(section) if block not in whole]
    if imports := re.findall(r"`(from torchmetrics\S* import \w+)`", SECTIONS[section]):
        task = project / "task.py"
        task.write_text(task.read_text("utf-8").replace("\nfrom torch import", f"\n{imports[0]}\nfrom torch import", 1))
    if parts or not whole:
        task = project / "task.py"
        task.write_text(task.read_text("utf-8").replace("\nfrom torch import", "\nimport torch\nfrom torch import", 1))
        for place, code in parts:
            apply(project, place, code)
        train(project, commands(section)[0], tmp_path / "output")
    for place, code in whole:
        apply(project, place, code)
        train(project, commands(section)[0], tmp_path / "output")


def test_predicting_and_training_from_python_works(render: Render, tmp_path: Path) -> None:
    project = render(task_type="regression")
    write_data(project)
    train(project, "train.py --data houses.csv --target price", tmp_path / "output")
    [run] = (project / "check_point").iterdir()
    printed = []
    for place, code in blocks("Load and predict from Python"):
        assert place == "a script or a notebook"
        (project / "script.py").write_text(code.replace("<date>_<time>", run.name), "utf-8")
        status, output = run_script(project, ["script.py"], tmp_path / "output")
        assert status == 0, output
        printed.append(output)
    assert printed[0].count("predicted price") == 3
    assert "best epoch" in printed[1]


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
