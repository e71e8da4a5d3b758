"""What this project promises of texts: tables with and without names, padding without effect, bad rows named."""

from pathlib import Path

import pytest
import torch

import predict
from config import Config
from data import Texts, load_data, read_inputs
from engine import UserError, checkpoint, settings
from engine.network import eval_mode
from task import Task
from test_project import SMALL, run

GOOD = [f"{('a dull', 'a fine')[number % 2]} day {number},{('bad', 'good')[number % 2]}" for number in range(12)]


def table(path: Path, *lines: str) -> Path:
    """A file with these lines."""
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_it_learns(tmp_path: Path) -> None:
    flags = ["--epochs", "4", "--lr_scheduler_type", "annealing", "--warm_up_mode", "linear", "--warm_up_epochs", "0.5"]
    best = checkpoint.load(run(tmp_path, *flags) / "best.pth")
    assert best["best_metric"][best["key_metric"]] > 0.6  # chance is far below


def test_texts_that_training_never_saw_are_predicted(tmp_path: Path) -> None:
    data = table(tmp_path / "data.csv", "text,label", *GOOD)
    run_dir = run(tmp_path / "runs", "--data", str(data), "--epochs", "1", "--warm_up_mode", "none")
    new = [table(tmp_path / "a.txt", "fine", "", "Größe \N{SNOWMAN}"), table(tmp_path / "b.csv", "id,text", "1,dull")]
    output = tmp_path / "predictions.csv"
    predict.predict(predict.Arguments(tuple(new), run_dir / "best.pth", output))
    header, *rows = (line.split(",") for line in output.read_text("utf-8").splitlines())
    assert header == ["input", "class", "probability", "top2", "top2_probability", "p(bad)", "p(good)"]
    assert [place for place, *_ in rows] == [f"{new[0]}:1", f"{new[0]}:3", f"{new[1]}:2"]
    assert {name for _, name, *_ in rows} <= {"bad", "good"}


def test_column_names_are_not_needed(tmp_path: Path) -> None:
    data, meta = load_data(Config(data=str(table(tmp_path / "data.csv", *GOOD))))
    assert meta["classes"] == ["bad", "good"] and sum(map(len, data.values())) == len(GOOD)
    names, _ = next(iter(read_inputs([tmp_path / "data.csv"], meta, 100)))
    assert len(names) == len(GOOD)


def test_other_column_names_are_not_taken_for_a_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no column 'text'; it has Review, Sentiment"):
        load_data(Config(data=str(table(tmp_path / "data.csv", "Review,Sentiment", *GOOD))))


def test_padding_changes_nothing() -> None:
    trainer = Task(settings.parse(Config(), [*SMALL, "--width", "32"]))
    texts = Texts(["short", "a text that is a good deal longer than the other"], 512)
    with eval_mode(trainer.model_list), torch.no_grad():
        alone, padded = (trainer.forward(texts[torch.tensor(rows)])[0] for rows in ([0], [0, 1]))
    torch.testing.assert_close(alone, padded)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["text,label", *GOOD, "x,"], r"data.csv:14: a row has no class \(1 in all\)"),
        (["text,label", *GOOD, "x"], "data.csv:14: 1 cells where the first line has 2"),
        (["text,label", *GOOD[::2]], "has 1 classes in 6 rows"),
        (["texts,label", *GOOD], "no column 'text'; did you mean 'texts'"),
    ],
)
def test_a_bad_table_is_named_with_its_line(lines: list[str], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        load_data(Config(data=str(table(tmp_path / "data.csv", *lines))))


def test_a_file_in_another_encoding_is_named(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_bytes("text,label\nпривет,a\n".encode("cp1251"))
    with pytest.raises(UserError, match=r"data\.csv is not UTF-8 \(byte 0xef in line 2\)"):
        load_data(Config(data=str(tmp_path / "data.csv")))
