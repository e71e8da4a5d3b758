"""What predict.py writes, prints and draws: probabilities, a narrow table, and what a prediction rests on."""

import csv
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from classification import class_rows
from conftest import Render, modules_of
from engine import UserError
from engine.monitor.console import columns_to_print, print_table
from PIL import Image
from scripts import run_script

# ---- probabilities ----


def test_a_row_has_the_five_most_probable_classes_and_every_probability() -> None:
    classes = ["ant", "bee", "cat", "dog", "eel", "fox"]
    logits = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    for row, p in zip(class_rows(["0", "1", "2"], logits, classes), logits.softmax(1).tolist(), strict=True):
        order = sorted(range(6), key=lambda index: -p[index])
        assert list(row) == [
            *["input", "class", "probability", "top2", "top2_probability", "top3", "top3_probability", "top4"],
            *["top4_probability", "top5", "top5_probability", *(f"p({name})" for name in classes)],
        ]
        assert [row["class"], *(row[f"top{rank}"] for rank in range(2, 6))] == [classes[index] for index in order[:5]]
        assert [row["probability"], *(row[f"top{rank}_probability"] for rank in range(2, 6))] == [
            p[index] for index in order[:5]
        ]
        assert [row[f"p({name})"] for name in classes] == p


def test_of_two_classes_there_are_two() -> None:
    [row] = class_rows(["0"], torch.tensor([[0.0, 2.0]]), ["no", "yes"])
    assert list(row) == ["input", "class", "probability", "top2", "top2_probability", "p(no)", "p(yes)"]


@pytest.mark.parametrize("name", ["input", "class", "probability", "top2", "top2_probability", "explained"])
def test_a_class_may_be_called_like_another_column(name: str) -> None:
    [row] = class_rows(["a.png"], torch.tensor([[0.0, 1.0, 2.0]]), ["other", name, "cat"])
    assert (row["input"], row["class"], row["top2"]) == ("a.png", "cat", name)
    assert row[f"p({name})"] == row["top2_probability"] != row["probability"]


@pytest.mark.parametrize(("classes", "columns"), [(1000, 1011), (1001, 11), (20_000, 11)])
def test_of_more_than_a_thousand_classes_only_five_are_in_the_table(classes: int, columns: int) -> None:
    rows = class_rows(["0", "1"], torch.randn(2, classes), [str(number) for number in range(classes)])
    assert [len(row) for row in rows] == [columns, columns]


def test_the_order_of_small_probabilities_is_that_of_logits() -> None:
    [row] = class_rows(["0"], torch.tensor([[300.0, 0.0, 20.0]]), ["a", "b", "c"])
    assert (row["top2"], row["top3"], row["top2_probability"]) == ("c", "b", 0)


# ---- what is printed ----


def test_a_wide_table_is_printed_with_its_first_three_columns(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"input": "a.png", "class": "cat", "probability": 0.5, **{f"p({n})": 1 / 7 for n in "abcdefg"}}]
    columns = columns_to_print(rows)
    assert columns == ["input", "class", "probability"]
    print_table([{name: row[name] for name in columns} for row in rows])
    assert capsys.readouterr().out == "input  class  probability\na.png  cat    0.5\n"


def test_a_table_is_printed_whole_if_it_fits_into_79_characters() -> None:
    row = {"input": "a.png", "labels": "sea", "p(sea)": 0.9}
    widest = "1" * (79 - len("a.png  labels  p(sea)  "))
    assert columns_to_print([{**row, "p(x)": widest}]) == [*row, "p(x)"]
    assert columns_to_print([{**row, "p(x)": widest + "1"}]) == [*row]


# ---- what is drawn ----


@pytest.fixture(scope="module")
def project(render_into: Render, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project for images with random weights in best.pth, for classes of which one is called input."""
    project = render_into(tmp_path_factory.mktemp("images"), task_type="image_classification")
    with modules_of(project) as own:
        task = own.task.Task(own.config.Config(data="synthetic", width=8, smoke=True, precision="fp32"))
        task.meta["classes"][0] = "input"
        task.save_state(project / "best.pth", optim=False)
    return project


@pytest.fixture
def own(project: Path) -> Iterator[Any]:
    """Its modules."""
    with modules_of(project) as modules:
        yield modules


def write_images(root: Path, *names: str) -> None:
    """An image of a grey of its own in each of these files."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (random.Random(name).randrange(256),) * 3).save(root / name)


def test_what_predictions_rest_on_is_drawn_beside_the_table(project: Path, tmp_path: Path) -> None:
    write_images(tmp_path, "new/a/1.png", "new/b/1.jpg", "new/b/1_2.png", "new/b/2.PNG")
    best, output = str(project / "best.pth"), str(tmp_path / "new.csv")
    argv = ["predict.py", "--checkpoint", best, "--output", output, "--explain", "--batch_size", "2"]
    status, said = run_script(project, [*argv, str(tmp_path / "new")], tmp_path / "output")
    assert status == 0, said
    assert said.splitlines()[-2:] == [
        f"4 predictions are in {output}, with 19 more columns",
        f"pictures of what each rests on are in {tmp_path / 'new_explained'}",
    ]
    with Path(output).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    pictures = {Path(row["input"]).relative_to(tmp_path).as_posix(): Path(row["explained"]) for row in rows}
    assert {name: path.relative_to(tmp_path).as_posix() for name, path in pictures.items()} == {
        "new/a/1.png": "new_explained/1.png",
        "new/b/1.jpg": "new_explained/1_2.png",
        "new/b/1_2.png": "new_explained/1_2_2.png",
        "new/b/2.PNG": "new_explained/2.png",
    }
    contents = [path.read_bytes() for path in pictures.values()]
    assert len(set(contents)) == 4 and all(content.startswith(b"\x89PNG") for content in contents)
    assert all(float(row["p(input)"]) <= float(row["probability"]) for row in rows)


def test_arrays_are_drawn_under_their_numbers(own: Any, project: Path, tmp_path: Path) -> None:
    pixels = torch.randint(256, (3, 3, 32, 32), dtype=torch.uint8)
    predictor = own.predict.load(project / "best.pth", "cpu")
    rows = predictor.predict([pixels.numpy(), pixels[:1].float()], tmp_path / "x.csv", batch_size=2, explain=True)
    assert [Path(row["explained"]).name for row in rows] == ["0.png", "1.png", "2.png", "0_2.png"]
    assert {path.name for path in (tmp_path / "x_explained").iterdir()} == {"0.png", "1.png", "2.png", "0_2.png"}
    assert not (tmp_path / "x.csv").exists()
    assert rows[0]["class"] == rows[3]["class"] and rows[0]["p(input)"] == pytest.approx(rows[3]["p(input)"])


def test_files_whose_names_differ_by_case_alone_have_pictures_of_their_own(own: Any, tmp_path: Path) -> None:
    pictures = own.predict.Pictures([], tmp_path / "x.csv")
    assert [pictures.file_name(name) for name in ("A", "a", "houses.csv:2", "a")] == [
        "A.png", "a_2.png", "houses.csv_2.png", "a_3.png",
    ]  # fmt: skip


@pytest.mark.parametrize("given", ["x_explained", "x_explained/cat.png", "."])
def test_no_picture_takes_the_place_of_an_input(given: str, own: Any, project: Path, tmp_path: Path) -> None:
    write_images(tmp_path, "x_explained/cat.png")
    before = (tmp_path / "x_explained" / "cat.png").read_bytes()
    best, output = project / "best.pth", tmp_path / "x.csv"
    with pytest.raises(UserError, match="x_explained, where pictures go, is among the inputs; remove it or give anoth"):
        own.predict.predict(own.predict.Arguments((tmp_path / given,), best, output, explain=True))
    assert (tmp_path / "x_explained" / "cat.png").read_bytes() == before


@pytest.mark.parametrize("task_type", ["regression", "segmentation", "tabular_classification", "text_classification"])
def test_a_task_that_explains_nothing_says_so_in_one_line(task_type: str, render: Render, tmp_path: Path) -> None:
    project = render(task_type=task_type)
    with modules_of(project) as own:
        task = own.task.Task(own.config.Config(data="synthetic", width=8, smoke=True))
        task.save_state(project / "best.pth", optim=False)
    (project / "new").mkdir()
    argv = ["predict.py", "--checkpoint", "best.pth", "--explain", "new"]
    status, said = run_script(project, argv, tmp_path / "output")
    assert status == 1 and said.splitlines()[-1] == (
        f"error: --explain is not for {task_type}: task.py has no explain(task, x, pred); leave the flag out"
    )
    assert not list(project.glob("predictions*"))


def test_of_several_labels_the_most_probable_is_explained(render: Render, tmp_path: Path) -> None:
    with modules_of(render(task_type="multilabel_classification")) as own:
        task = own.task.Task(own.config.Config(data="synthetic", width=8, smoke=True, precision="fp32"))
        x = task.example_input()[:3]
        pred = task.inference(x)
        titles = [figure.get_suptitle() for figure in own.task.explain(task, x, pred)]
        best = pred.sigmoid().max(1)
        labels = [task.meta["labels"][number] for number in best.indices.tolist()]
        assert titles == [f"{label}  {p:.3f}" for label, p in zip(labels, best.values.tolist(), strict=True)]
