"""What mattered for tables: the column that decides has the largest importance, in any number of processes."""

import csv
from pathlib import Path

import pytest
import torch
from columns import Column, describe_columns, encode
from conftest import Render
from importance import (
    MOST_SHOWN,
    draw_dependences,
    draw_importance,
    features_of,
    partial_dependence,
    permutation_importance,
    select_columns,
)
from ranks import run_ranks
from tables import Table
from torch import Tensor

from engine.monitor.figures import render as render_figure  # isort: skip

ROWS = 400
CITIES = ("Rome", "Oslo", "Lima")


def cells(rows: int = ROWS) -> dict[str, list[str]]:
    """Columns of every kind, drawn independently of each other."""
    generator = torch.Generator().manual_seed(0)
    size, noise = (10 + 3 * torch.randn(2, rows, generator=generator)).tolist()
    city, is_new, day = (torch.randint(n, (rows,), generator=generator).tolist() for n in (3, 2, 28))
    return {
        "size": [f"{number:.4f}" if row % 7 else "" for row, number in enumerate(size)],
        "noise": [f"{number:.4f}" for number in noise],
        "city": [CITIES[number] for number in city],
        "new": [("no", "yes")[number] for number in is_new],
        "sold": [f"2024-02-{number + 1:02}" for number in day],
    }


@pytest.fixture(scope="module")
def rows() -> tuple[list[Column], Tensor]:
    """Their descriptions and features."""
    columns = cells()
    names = [*columns, "y"]
    table = Table(Path("t"), names, [*columns.values(), ["0"] * ROWS], range(2, ROWS + 2))
    described = describe_columns(table, "y", range(ROWS))
    return described, encode(table, described)


def feature(rows: tuple[list[Column], Tensor], name: str) -> tuple[int, int]:
    """The number of a column, and its first feature."""
    number = next(number for number, column in enumerate(rows[0]) if column["name"] == name)
    return number, features_of(rows[0])[number].start


def squared_error(pred: Tensor, y: Tensor) -> float:
    return float((pred - y).square().mean())


def as_target(pred: Tensor) -> dict[str, Tensor]:
    return {"y": pred}


def test_a_column_that_decides_matters_most_and_one_that_is_never_looked_at_not_at_all(
    rows: tuple[list[Column], Tensor],
) -> None:
    columns, x = rows
    size, city = feature(rows, "size")[1], feature(rows, "city")[1]
    y = 3 * x[:, size] + x[:, city]
    before, found = permutation_importance(
        lambda x: 3 * x[:, size] + x[:, city], squared_error, x, y, columns, range(5), 0
    )
    assert before == 0 and [i.column["name"] for i in found[:2]] == ["size", "city"]
    assert [(i.mean, i.std) for i in found[2:]] == [(0, 0)] * 3
    assert found[0].mean == pytest.approx(2 * 9 * float(x[:, size].var()), rel=0.1)  # twice the variance it explains
    assert 0 < found[0].std < 0.2 * found[0].mean


def test_the_same_seed_gives_the_same_numbers_and_another_one_others(rows: tuple[list[Column], Tensor]) -> None:
    columns, x = rows
    y = x.sum(1)
    one, same, other = (
        permutation_importance(lambda x: x.sum(1), squared_error, x, y, columns, range(5), seed) for seed in (3, 3, 4)
    )
    assert one == same and one != other


def test_features_of_a_column_are_shuffled_together(rows: tuple[list[Column], Tensor]) -> None:
    columns, x = rows
    number, _ = feature(rows, "city")
    features = features_of(columns)[number]
    seen = []

    def predict(rows: Tensor) -> Tensor:
        seen.append(rows)
        return rows[:, 0]

    permutation_importance(predict, squared_error, x, x[:, 0], columns, [number], 0)
    shuffled = seen[1][:ROWS]
    assert (shuffled[:, features].sum(1) == 1).all()  # one value in each row
    assert (shuffled[:, features].sum(0) == x[:, features].sum(0)).all()
    assert (shuffled[:, features] != x[:, features]).any(1).float().mean() > 0.5
    others = [place for place in range(x.shape[1]) if not features.start <= place < features.stop]
    assert (shuffled[:, others] == x[:, others]).all()


def test_partial_dependence_of_a_line_is_that_line_in_the_unit_of_column_and_target(
    rows: tuple[list[Column], Tensor],
) -> None:
    columns, x = rows
    number, size = feature(rows, "size")
    scale = columns[number]
    found = partial_dependence(
        lambda x: x[:, size] * scale["std"] + scale["mean"], lambda pred: {"y": 100 * pred + 5}, x, columns, number
    )
    assert found.curves["y"] == pytest.approx([100 * place + 5 for place in found.places], rel=1e-5)
    assert found.places == sorted(found.places) and len(found.places) == 21
    assert 0 < found.places[0] < 5 and 15 < found.places[-1] < 20
    assert found.missing["y"] == pytest.approx(100 * scale["mean"] + 5, rel=1e-5)


def test_names_booleans_and_dates_are_set_to_each_value(rows: tuple[list[Column], Tensor]) -> None:
    columns, x = rows
    city = feature(rows, "city")[0]
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0])
    found = partial_dependence(lambda x: x[:, features_of(columns)[city]] @ weights, as_target, x, columns, city)
    assert sorted(found.places) == sorted(CITIES) and found.curves["y"] == [1, 2, 3]
    new, first = feature(rows, "new")
    found = partial_dependence(lambda x: x[:, first], as_target, x, columns, new)
    assert found.places == ["false", "true"] and found.curves["y"][0] < 0 < found.curves["y"][1]
    sold, first = feature(rows, "sold")
    mean, std = columns[sold]["parts"]["days"]
    found = partial_dependence(lambda x: x[:, first] * std + mean, as_target, x, columns, sold)
    days = [int(str(place)[8:10]) - 1 for place in found.places]
    assert days == sorted(set(days)) and found.curves["y"] == pytest.approx(days, abs=1e-4)
    assert all(str(place).startswith("2024-02-") and str(place).endswith("T00:00:00") for place in found.places)


def test_a_column_that_is_always_missing_has_no_partial_dependence(rows: tuple[list[Column], Tensor]) -> None:
    columns, x = rows
    number, size = feature(rows, "size")
    gaps = x[x[:, size + 1] == 1]
    assert partial_dependence(lambda x: x[:, 0], as_target, gaps, columns, number).places == []


def test_of_very_many_columns_those_that_matter_are_measured_and_it_is_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    count = 500
    columns = [{"name": f"c{number}", "mean": 0.0, "std": 1.0, "missing": False} for number in range(count)]
    x = torch.randn(2000, count, generator=torch.Generator().manual_seed(0))
    weights = torch.zeros(count)
    weights[[7, 320, 499]] = 1.0
    chosen = select_columns(lambda x: x @ weights, squared_error, x, x @ weights, columns, 0)
    assert len(chosen) == MOST_SHOWN and {7, 320, 499} <= set(chosen)
    assert f"{MOST_SHOWN} of {count} columns" in capsys.readouterr().out


def test_pictures_take_any_name_and_several_curves(rows: tuple[list[Column], Tensor]) -> None:
    columns = [{**column, "name": f"{column['name']} $_{'x' * 80}\u4ef7"} for column in rows[0]]
    x = rows[1]
    _, found = permutation_importance(lambda x: x.sum(1), squared_error, x, x.sum(1), columns, range(5), 0)
    dependences = [
        partial_dependence(
            lambda x: x.sum(1), lambda pred: {f"${k}": (k * pred).sigmoid() for k in range(5)}, x, columns, number
        )
        for number in range(5)
    ]
    for figure in (
        draw_importance(found),
        draw_dependences(dependences[:4], "$ of $"),
        draw_dependences(dependences[4:], "y"),
    ):
        assert render_figure(figure).std() > 0


# ---- runs ----


OLD = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 14)
FSDP = pytest.param("fsdp", marks=pytest.mark.skipif(OLD, reason="fsdp on CPUs needs a newer torch"))
FLAGS = ["train.py", "--epochs", "2", "--width", "16", "--device", "cpu", "--precision", "fp32"]


@pytest.fixture(scope="module")
def finished(render_into: Render, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A project, and the folder of a finished run that --importance was not asked of."""
    project = render_into(tmp_path_factory.mktemp("importance"), task_type="regression")
    columns = cells()
    y = [
        2 * float(size or 10) + CITIES.index(city) for size, city in zip(columns["size"], columns["city"], strict=True)
    ]
    table = {**columns, "y": y}
    lines = [",".join(table), *(",".join(map(str, row)) for row in zip(*table.values(), strict=True))]
    (project / "t.csv").write_text("\n".join(lines), "utf-8")
    run_ranks(project, [*FLAGS, "--data", "t.csv", "--target", "y", "--pictures", "none"], project / "said", 1)
    [run_dir] = (project / "check_point").iterdir()
    assert not (run_dir / "importance.csv").exists()
    return project, run_dir


def asked(finished: tuple[Path, Path], world: int, *flags: str) -> tuple[str, list[dict[str, str]]]:
    """What a finished run prints and writes when it is resumed with --importance."""
    project, run_dir = finished
    (run_dir / "importance.csv").unlink(missing_ok=True)
    said = run_ranks(project, ["train.py", "--resume", "auto", "--importance", *flags], project / "said", world)[0]
    with (run_dir / "importance.csv").open(encoding="utf-8", newline="") as file:
        return said, list(csv.DictReader(file))


def test_a_finished_run_tells_what_mattered_and_draws_it(finished: tuple[Path, Path]) -> None:
    said, rows = asked(finished, 1, "--pictures", "end")
    assert [row["column"] for row in rows][:1] == ["size"] and len(rows) == 5
    noise = next(row for row in rows if row["column"] == "noise")
    assert float(noise["importance"]) < 0.1 * float(rows[0]["importance"])
    assert "importance" in said and "the same is in importance.csv" in said
    assert max(map(len, said[said.index("importance: ") :].splitlines()[:9])) <= 80
    assert {"importance.png", "partial_dependence.png"} <= {path.name for path in finished[1].iterdir()}


@pytest.mark.parametrize("strategy", ["ddp", FSDP])
def test_two_processes_give_the_table_of_one_without_pictures_too(strategy: str, finished: tuple[Path, Path]) -> None:
    one, two = (asked(finished, world, "--pictures", "none", "--strategy", strategy)[1] for world in (1, 2))
    assert [row["column"] for row in one] == [row["column"] for row in two]
    for name in ("importance", "deviation"):
        assert [float(row[name]) for row in two] == pytest.approx([float(row[name]) for row in one], abs=1e-6)
