"""Tables: every way in which they are written is read right or refused in one line; what their columns are is found.

`SOAK=10 python -m pytest -rP -k damaged tests/test_tables.py` reads ten times as many damaged files, and counts them.
"""

import bz2
import gzip
import io
import json
import lzma
import os
import random
import uuid
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cells import read_dates, read_numbers
from columns import (
    NGRAM_FEATURES,
    Column,
    describe_columns,
    encode,
    has_names,
    note_unknown_texts,
    num_features,
    numbers_among,
)
from conftest import Render, modules_of
from engine import UserError, settings
from ngrams import hashed_texts, why_codes
from tables import Table, as_table, find_tables, read_table

SOAK = int(os.environ.get("SOAK", 1))  # how many times as much is tried


def write(folder: Path, content: str | bytes, name: str = "t.csv") -> Path:
    """A file with that text, in UTF-8, or with these bytes."""
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def rows(table: Table) -> list[list[str]]:
    """The cells of a table by row, as text."""
    return [list(row) for row in zip(*map(table.column, range(len(table.names))), strict=True)]


def refusal(function: Callable[..., Any], *arguments: Any) -> str:
    """What a call is refused with."""
    with pytest.raises(UserError) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def described(*lines: str, folder: Path, target: str = "y", training: int = 0) -> tuple[list[Column], torch.Tensor]:
    """The descriptions of the columns in a table with these lines, and its features."""
    table = read_table(write(folder, "\n".join(lines)))
    columns = describe_columns(table, target, list(range(training or len(table))))
    return columns, encode(table, columns)


# ---- files ----


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_any_separator_quotes_and_line_ends_are_read_and_lines_keep_their_numbers(
    separator: str, end: str, tmp_path: Path
) -> None:
    lines = [["a", "b"], ["1", f'"x{end}y"'], [" 2 ", '"say ""hi"""'], [], ["", ""], ["é", f'"1{separator}2"']]
    path = write(tmp_path, "\ufeff" + end.join(separator.join(line) for line in lines))
    table = read_table(path)
    assert table.names == ["a", "b"]
    assert rows(table) == [["1", f"x{end}y"], ["2", 'say "hi"'], ["é", f"1{separator}2"]]
    assert [table.place(row) for row in range(3)] == [f"{path}:2", f"{path}:4", f"{path}:7"]


@pytest.mark.parametrize(
    ("text", "names", "cells"),
    [
        ("sep=;\na;b\n1,5;2\n", ["a", "b"], [["1,5", "2"]]),
        ('"sep=|"\na|b\n1|2\n', ["a", "b"], [["1", "2"]]),
        ("a,b,\n1,2,\n3,4,\n", ["a", "b"], [["1", "2"], ["3", "4"]]),
        ("a,b\n1,2,,\n3,4,,\n", ["a", "b"], [["1", "2"], ["3", "4"]]),
        ("a,,b\n1,2,3\n", ["a", "column_2", "b"], [["1", "2", "3"]]),
        ('a,b\n"say \\"hi\\", you",1\n"x",2\n', ["a", "b"], [['say "hi", you', "1"], ["x", "2"]]),
        ('a,b\n"C:\\dir\\",1\n', ["a", "b"], [["C:\\dir\\", "1"]]),
        ('a, b\n1, "x, y"\n', ["a", "b"], [["1", "x, y"]]),
        ('"a, in m";y\n1;2\n3;4\n  ;\n', ["a, in m", "y"], [["1", "2"], ["3", "4"]]),
        ("a;b\n1,5;2,5\n3,5;4,5\n", ["a", "b"], [["1,5", "2,5"], ["3,5", "4,5"]]),
        ("# by me, 2020\n# of x\na,b,c\n1,2,3\n", ["a", "b", "c"], [["1", "2", "3"]]),
        ("# a b c\n1 2 3\n4  5\t6 \n", ["a", "b", "c"], [["1", "2", "3"], ["4", "5", "6"]]),
        ("#,Name\n1,x\n2,y\n", ["#", "Name"], [["1", "x"], ["2", "y"]]),
        ("text\n#one\n#two\n", ["text"], [["#one"], ["#two"]]),
        ("  a   b\n 1.0   2\n10.5   3\n", ["a", "b"], [["1.0", "2"], ["10.5", "3"]]),
        ("text\na few words\nsome more words\n", ["text"], [["a few words"], ["some more words"]]),
        ('1 8  7 6 1\t"a car"\n5 8  7 5 2\t"a bus"\n', [*"18761", "a car"], [[*"58752", "a bus"]]),
    ],
)  # fmt: skip
def test_what_programs_write_around_their_cells_is_understood(
    text: str, names: list[str], cells: list[list[str]], tmp_path: Path
) -> None:
    table = read_table(write(tmp_path, text))
    assert (table.names, rows(table)) == (names, cells)


def test_what_is_skipped_or_assumed_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, "# by me\n# of x\na,b,c\n1,2,3\n")
    read_table(path)
    assert capsys.readouterr().out == f"{path}: 2 lines at the top begin with # and are skipped\n"
    read_table(write(tmp_path, "a b\n1 2\n3 4\n"))
    assert capsys.readouterr().out == f"{path}: spaces separate the cells\n"


def test_a_stray_quote_in_a_tsv_file_is_a_character(tmp_path: Path) -> None:
    path = write(tmp_path, 'label\ttext\nham\t"oh" he said\nspam\t"win\nham\tlate "ok"\n', "t.tsv")
    assert rows(read_table(path)) == [["ham", '"oh" he said'], ["spam", '"win'], ["ham", 'late "ok"']]
    path = write(tmp_path, 'label\ttext\nham\t"so\nspam\twin\nham\tlate"\n', "t.tsv")
    assert rows(read_table(path)) == [["ham", '"so'], ["spam", "win"], ["ham", 'late"']]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252"])
def test_encodings_are_told_apart(encoding: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, "city,y\nGrüße “Zürich”,1\n".encode(encoding))
    assert rows(read_table(path)) == [["Grüße “Zürich”", "1"]]
    why = f"{path} is not UTF-8 (byte 0xfc in line 2)"
    guessed = f"{why}: it is read as Windows-1252; save it as UTF-8 if letters are wrong\n"
    assert capsys.readouterr().out == (guessed if encoding == "cp1252" else "")


def xlsx(cells: list[list[Any]]) -> bytes:
    """An Excel file with these cells."""
    book = pytest.importorskip("openpyxl").Workbook()
    for row in cells:
        book.active.append(row)
    content = io.BytesIO()
    book.save(content)
    return content.getvalue()


def parquet(columns: dict[str, list[Any]]) -> bytes:
    """A Parquet file with these columns."""
    pytest.importorskip("pyarrow")
    pandas = pytest.importorskip("pandas")
    return bytes(pandas.DataFrame(columns).to_parquet(index=False))


def zipped(content: bytes, *names: str) -> bytes:
    """An archive that has this content under each of these names."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, content)
    return file.getvalue()


CSV = b"a,b\n1,x\n2.5,y\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv.gz", gzip.compress(CSV, mtime=0)),
        ("t.csv.bz2", bz2.compress(CSV)),
        ("t.csv.xz", lzma.compress(CSV)),
        ("t.zip", zipped(CSV, "inside.csv")),
        ("named_wrongly.csv", gzip.compress(CSV, mtime=0)),
        ("t.jsonl", b'{"a": 1, "b": "x"}\n\n{"b": "y", "a": 2.5}\n'),
        ("t.jsonl.gz", gzip.compress(b'{"a": 1, "b": "x"}\n{"b": "y", "a": 2.5}', mtime=0)),
        ("t.json", b'[{"a": 1, "b": "x"}, {"a": 2.5, "b": "y"}]'),
        ("t.json", b'{"a": {"0": 1, "1": 2.5}, "b": {"0": "x", "1": "y"}}'),
        ("t.data", CSV),
    ],
)
def test_the_same_table_comes_from_every_kind_of_file(name: str, content: bytes, tmp_path: Path) -> None:
    table = read_table(write(tmp_path, content, name))
    assert (table.names, rows(table)) == (["a", "b"], [["1", "x"], ["2.5", "y"]])


@pytest.mark.parametrize("name", ["t.xlsx", "named_wrongly.csv"])
def test_the_same_table_comes_from_excel_and_parquet(name: str, tmp_path: Path) -> None:
    path = write(tmp_path, xlsx([[], ["a", "b"], [1, "x"], [], [2.5, "y"]]), name)
    assert rows(read_table(path)) == [["1", "x"], ["2.5", "y"]]
    assert read_table(path).place(1) == f"{path}:5"
    path = write(tmp_path, parquet({"a": [1, 2.5], "b": ["x", None]}), name.replace("xlsx", "parquet"))
    assert rows(read_table(path)) == [["1.0", "x"], ["2.5", ""]]
    assert read_table(path).place(1) == f"{path}:1"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("t.csv", b"", "{path} is empty; it needs column names and rows"),
        ("t.csv", b"\n \n", "{path} is empty; it needs column names and rows"),
        ("t.csv", b'a,b\n"x\ny",1\n\n1\n', "{path}:5: 1 cells where the first line has 2; {more}"),
        ("t.csv", b"a,b\n1,2,3\n4,5\n", "{path}:2: 3 cells where the first line has 2; {more}"),
        (
            "t.csv",
            b'a,b\n1,"open\n2,3\n',
            "{path}:2: this is no row of a table: unexpected end of data; correct its quotes",
        ),
        ("t.csv", "город,y\n".encode("cp1251"), "{path} is not UTF-8 (byte 0xe3 in line 1); save it as UTF-8"),
        ("t.csv", "a,b\n1,性别\n".encode("gbk"), "{path} is not UTF-8 (byte 0xd0 in line 2); save it as UTF-8"),
        ("t.csv", b"a,b\n1,\0\n", "{path} is no text (a NUL character in line 2); save it as CSV in UTF-8"),
        ("t.csv", "a,b\n1,2\n".encode("utf-16-le"), "{path} is no text (a NUL character in line 1); {save}"),
        ("t.csv", b"\xd0\xcf\x11\xe0\0", "{path} is an old or encrypted Excel file; save it as .xlsx or CSV"),
        ("t.xlsx", CSV, "{path} is no .xlsx file, or damaged; get it anew"),
        ("t.parquet", CSV, "{path} is no .parquet file, or damaged; get it anew"),
        ("t.zip", zipped(CSV, "a", "b"), "{path} has 2 files in it (a, b); unpack it and give one of them"),
        ("t.json", b"[1]", "{path}:0: no JSON object, which has the cells by the names of their columns"),
        ("t.json", b"[", "{path} is no JSON (Expecting value: line 1 column 2 (char 1)); correct it"),
        (
            "t.jsonl",
            b'{"a": 1}\nb\n',
            "{path}:2: this line is no JSON (Expecting value: line 1 column 1 (char 0)); correct it",
        ),
        (
            "t.json",
            b'{"a": [1, 2], "b": [1]}',
            "{path}: the column 'b' has other rows than the first; each needs a cell in every row",
        ),
    ],
)  # fmt: skip
def test_a_file_that_is_no_table_is_refused(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    path = write(tmp_path, content, name)
    more = "correct the line, or quote a cell that has the separator in it"
    assert refusal(read_table, path) == words.format(path=path, more=more, save="save it as CSV in UTF-8")


def test_a_file_that_is_not_there_or_a_folder_is_refused(tmp_path: Path) -> None:
    assert (
        refusal(read_table, tmp_path / "no.csv") == f"{tmp_path / 'no.csv'} cannot be read (No such file or directory)"
    )
    assert refusal(read_table, tmp_path) == f"{tmp_path} cannot be read (Is a directory)"


def test_what_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    excel, arrow = write(tmp_path, xlsx([["a"]]), "t.xlsx"), write(tmp_path, b"PAR1", "t.parquet")
    for package in ("openpyxl", "pyarrow.parquet"):
        monkeypatch.setitem(__import__("sys").modules, package, None)
    assert refusal(read_table, excel) == (
        f"{excel}: an Excel file needs openpyxl; python -m pip install openpyxl, or save it as CSV"
    )
    assert refusal(read_table, arrow) == (
        f"{arrow}: a Parquet file needs pandas and pyarrow; python -m pip install pandas pyarrow"
    )


def test_columns_are_found_by_name(tmp_path: Path) -> None:
    path = write(tmp_path, "a,b,a,Unit Price\n1,2,3,4\n")
    table = read_table(path)
    assert table.number("b", "") == 1
    assert refusal(table.number, "a", "") == f"{path} has 2 columns 'a'; rename all but one"
    assert refusal(table.number, "unit  price", "--target") == (
        f"{path} has no column 'unit  price'; did you mean 'Unit Price'? it has a, b, a, Unit Price; "
        "give one of them with --target"
    )


# ---- numbers ----


@pytest.mark.parametrize(
    ("cells", "numbers"),
    [
        (["1", "-2.5", "+3", "1e5", ".5", "7."], [1, -2.5, 3, 1e5, 0.5, 7]),
        (["1,234", "12", "1,234,567.5"], [1234, 12, 1234567.5]),
        (["1.234.567", "12", "1.234,5"], [1234567, 12, 1234.5]),
        (["1,5", "0,25", "3"], [1.5, 0.25, 3]),
        (["1 234", "12 345 678", "9"], [1234, 12345678, 9]),
        (["1\u00a0234,5", "1\u202f000"], [1234.5, 1000]),
        (["1'234.5", "1’000’000"], [1234.5, 1000000]),
        (["$1,234.50", "$ 7", "-$3", "$-4", "8"], [1234.5, 7, -3, -4, 8]),
        (["5 €", "1.000,5 €"], [5, 1000.5]),
        (["5%", "7.5 %", "-1%"], [5, 7.5, -1]),
        (["１２３", "−5", "１．５"], [123, -5, 1.5]),
        (["1.234", "2.5"], [1.234, 2.5]),
        (["1,234", "5,678"], [1234, 5678]),
        (["?", "-", "NA", "n/a", "#N/A", "NaN", "", "None", "NULL", "<NA>", "#DIV/0!", "1"], [np.nan] * 11 + [1]),
        (["1_000", "1"], [np.nan, 1]),
        (["1,23,4", "0,123.5", "1.2.3", "e5", "0x10", "5²", "--5", "1"], [np.nan] * 7 + [1]),
    ],
)
def test_numbers_are_read_as_all_cells_of_a_column_write_them(cells: list[str], numbers: list[float]) -> None:
    np.testing.assert_array_equal(read_numbers(cells)[0], numbers)


def test_what_may_be_a_comma_or_a_point_is_as_in_other_columns(tmp_path: Path) -> None:
    columns, features = described("a;b;y", "1.234;0,5;1", "999;1,5;2", "10.000;2,5;3", folder=tmp_path)
    assert columns[0]["mean"] == pytest.approx((1234 + 999 + 10000) / 3)
    columns, features = described("a;b;y", "1.234;0.5;1", "999;1.5;2", "10.000;2.5;3", folder=tmp_path)
    assert columns[0]["mean"] == pytest.approx((1.234 + 999 + 10) / 3)


def test_numbers_to_predict_for_may_be_written_in_another_way(tmp_path: Path) -> None:
    columns, features = described("a;y", "1,5;1", "2,5;2", "3,5;3", folder=tmp_path)
    points = read_table(write(tmp_path, "a\n1.5\n2.5\n3.5\n"))
    assert torch.equal(encode(points, columns), features)
    columns, _ = described("a,y", "5%,1", "7%,2", "9%,3", folder=tmp_path)
    path = write(tmp_path, "a\n0.05\n")
    assert refusal(encode, read_table(path), columns) == (
        f"{path}: 'a' has no percent sign, and had a one in training; write it as there"
    )


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("12a", "{path}:32: 'a' is '12a' where other rows have numbers, as '0.5'; {more}"),
        ("1,5", "{path}:32: 'a' is '1,5' where other rows have numbers, as '0.5'; {more}"),
        ("5%", "{path}:32: 'a' is '5%' where other rows have numbers, as '0.5'; {more}"),
        ("inf", "{path}:32: 'a' is infinite; correct it, or leave it empty if it is missing"),
    ],
)
def test_a_mistake_among_numbers_is_named(cell: str, words: str, tmp_path: Path) -> None:
    path = write(tmp_path, "\n".join(["a;y", *(f"{number}.5;{number}" for number in range(30)), f"{cell};1"]))
    more = "correct it, leave it empty if it is missing, or take the column out"
    assert refusal(describe_columns, read_table(path), "y", list(range(30))) == words.format(path=path, more=more)


# ---- kinds of columns ----


def test_features_are_standardised_imputed_and_marked_by_the_training_rows(tmp_path: Path) -> None:
    _, features = described("a,b,y", "1,x,1", "3,z,1", ",x,1", "100,new,1", folder=tmp_path, training=3)
    assert features.tolist() == [[-1, 0, 1, 0, 0], [1, 0, 0, 1, 0], [0, 1, 1, 0, 0], [98, 0, 0, 0, 1]]


def test_booleans_are_numbers_however_they_are_written(tmp_path: Path) -> None:
    columns, features = described("a,b,y", "yes,True,1", "no,FALSE,2", "no,TRUE,3", "yes,,4", folder=tmp_path)
    assert [column.get("boolean") for column in columns] == [True, True]
    assert features[:, 0].tolist() == [1, -1, -1, 1] and features[:, 2].tolist() == [0, 0, 0, 1]
    others = read_table(write(tmp_path, "a,b\n1,t\n0.0,f\nFalse,y\nTrue,\n"))
    assert torch.equal(encode(others, columns), features)
    path = write(tmp_path, "a,b\n2,t\n")
    assert refusal(encode, read_table(path), columns) == f"{path}:2: 'a' is '2'; it must be true or false, or empty"


@pytest.mark.parametrize(
    ("cells", "dates"),
    [
        (["2020-01-31", "2020-02-01"], ["2020-01-31", "2020-02-01"]),
        (["1949-01", "1949-02"], ["1949-01-01", "1949-02-01"]),
        (["2020-01-31T10:30:00Z", "2020-02-01 12:00:00+02:00"], ["2020-01-31T10:30", "2020-02-01T10:00"]),
        (["20141013T000000", "20150131T000000"], ["2014-10-13", "2015-01-31"]),
        (["2020/1/5", "2020/01/31"], ["2020-01-05", "2020-01-31"]),
        (["1.2.2020", "03.02.2020"], ["2020-02-01", "2020-02-03"]),
        (["1/2/2020", "13/2/2020"], ["2020-02-01", "2020-02-13"]),
        (["1/2/2020", "2/13/2020"], ["2020-01-02", "2020-02-13"]),
        (["1/2/20 3:04 PM", "2/13/20 11:00 AM"], ["2020-01-02T15:04", "2020-02-13T11:00"]),
        (["5 Jan 2020", "17 Mar 2021"], ["2020-01-05", "2021-03-17"]),
        (["January 5, 2020", "March 17, 2021"], ["2020-01-05", "2021-03-17"]),
        (["5 May 2020", "17 May 2021"], ["2020-05-05", "2021-05-17"]),
        (["2020年1月5日", "2021年3月17日"], ["2020-01-05", "2021-03-17"]),
    ],
)  # fmt: skip
def test_dates_are_read_as_all_cells_of_a_column_write_them(cells: list[str], dates: list[str], tmp_path: Path) -> None:
    [column], features = described("a;y", *(f"{cell};{y}" for y, cell in enumerate(cells)), folder=tmp_path)
    assert read_dates(cells, column["date"]).tolist() == np.array(dates, "datetime64[s]").tolist()
    assert column["first"] == min(np.array(dates, "datetime64[s]").astype(str))


def test_the_parts_of_dates_that_vary_are_features(tmp_path: Path) -> None:
    lines = ["2020-01-01;1", "2020-01-02;2", ";3", "2020-02-09;4"]  # a Wednesday, a Thursday, a Sunday
    [column], features = described("a;y", *lines, folder=tmp_path)
    assert {part: scale[0] for part, scale in column["parts"].items()} == pytest.approx(
        {"days": 40 / 3, "month": 4 / 3, "day": 4, "weekday": 11 / 3}
    )
    assert features[2].tolist() == [0, 0, 0, 0, 1] and features.shape == (4, 5)
    iso = read_table(
        write(tmp_path, "a\n2020-01-01 00:00:00\n2020-01-02T00:00\n\nNaT,\n2020-02-09\n".replace("\nNaT,", "\nNaT"))
    )
    assert torch.equal(encode(iso, [column]), features)
    path = write(tmp_path, "a\n2020-02-30\n")
    assert refusal(encode, read_table(path), [column]) == (
        f"{path}:2: 'a' is '2020-02-30'; it must be a date such as 2020-01-01, or empty"
    )


def test_numbers_of_parts_are_no_dates(tmp_path: Path) -> None:
    [column], _ = described("a;y", "1001-1;1", "1001-2;2", "1002-1;3", folder=tmp_path)
    assert column == {"name": "a", "values": ["1001-1", "1001-2", "1002-1"]}


def test_days_that_may_be_months_are_read_as_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [column], _ = described("a;y", "1/2/2020;1", "3/4/2020;2", folder=tmp_path)
    assert column == {"name": "a", "values": ["1/2/2020", "3/4/2020"]}
    assert capsys.readouterr().out.splitlines()[0] == (
        "column 'a' may have day/month or month/day: it is read as text; write dates as 2020-12-31"
    )


def test_what_was_found_and_what_was_left_out_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["id,n,zip,k,d,price,name,same,none,y"]
    for row in range(12):
        k, n, day = "NA" if row == 3 else "ab"[row % 2], "" if row in (4, 5) else row % 5 / 2, 13 + row
        lines.append(f'{90 - 7 * row},{n},0{row % 2}1,{k},1/{day}/2020,"€{row + 1},{row:03}",1_00{row},x,,{row}')
    described(*lines, folder=tmp_path)
    assert capsys.readouterr().out.splitlines() == [
        "numbers (2): n (2 missing), price (commas between thousands, in €)",
        "categories (2): zip (2 values, codes with leading zeros), k (2 values, 1",
        "    missing)",
        "dates (1): d (2020-01-13 to 2020-01-24, read as %m/%d/%Y)",
        "left out (4): id (an id: another whole number in every row), name (12 different",
        "    texts, codes that differ in digits alone), same ('x' in every row), none",
        "    (empty)",
    ]


@pytest.mark.parametrize(
    ("name", "numbers", "is_used"),
    [
        ("id", [5, 3, 9, 1], False),
        ("PassengerId", [5, 3, 9, 1], False),
        ("store_id", [5, 3, 5, 1], True),
        ("width", [5, 3, 9, 1], True),
        ("id", [0.5, 3, 9, 1], True),
        ("year", [1990, 1991, 1992, 1993], True),
        ("paid", [5, 3, 9, 1], True),
    ],
)
def test_only_what_is_surely_an_id_is_left_out(
    name: str, numbers: list[float], is_used: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [f"{name},b,y", *(f"{number},{row % 2},{row}" for row, number in enumerate(numbers))]
    columns, _ = described(*lines, folder=tmp_path)
    assert [column["name"] for column in columns] == ([name, "b"] if is_used else ["b"])
    note = "note: 'year' counts the rows, and is used; take it out of the table if it is an id"
    assert (note in capsys.readouterr().out) == (name == "year")


def test_a_table_with_nothing_to_predict_from_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "id,c,y\n3,1,1\n1,1,2\n7,1,3\n")
    assert refusal(describe_columns, read_table(path), "y", [0, 1, 2]) == (
        f"{path} has no column to predict 'y' from; left out: id (an id: another whole number in every row), "
        "c (1 in every row)"
    )


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "a,b,a,y\n1,2,3,4\n2,3,4,5\n3,4,5,7\n")
    assert refusal(describe_columns, read_table(path), "y", [0, 1, 2]) == (
        f"{path} has 2 columns 'a'; rename all but one"
    )


def test_equal_numbers_are_a_constant_however_they_are_rounded(tmp_path: Path) -> None:
    values = ["14.62"] * 70  # whose standard deviation comes out as 1e-15
    path = write(
        tmp_path, "\n".join(["a,b,y", *(f"{value},{value if row else ''},{row}" for row, value in enumerate(values))])
    )
    table = read_table(path)
    assert refusal(describe_columns, table, "y", range(1, 70)).endswith(
        "left out: a (14.62 in every row), b (14.62 in every row)"
    )
    [column] = describe_columns(table, "y", range(70))
    assert column == {"name": "b", "mean": 14.62, "std": 1.0, "missing": True}


def test_texts_that_training_never_had_are_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    columns, _ = described("a,y", "x,1", "z,2", "x,3", folder=tmp_path)
    capsys.readouterr()
    path = write(tmp_path, "a\nx\nnew\nNA\nother\nnew\n")
    note_unknown_texts(read_table(path), columns)
    assert capsys.readouterr().out == (
        f"note: {path}: 'a' is unknown in 3 rows, a text that training never had: 'new' (2), 'other' (1)\n"
    )


# ---- texts ----

CARS = [f"{make} {model}" for make in ("Ford", "Opel", "Fiat") for model in ("Estate", "Coupe", "Van", "Cabrio")]


def test_a_column_of_names_becomes_hashed_n_grams(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    columns, features = described("name,y", *(f"{car},1" for car in CARS), ",2", folder=tmp_path)
    assert columns == [{"name": "name", "ngrams": NGRAM_FEATURES, "missing": True}]
    assert capsys.readouterr().out == f"texts (1): name (12 values, {NGRAM_FEATURES} features, 1 missing)\n"
    assert features.shape == (13, NGRAM_FEATURES + 1) == (13, sum(map(num_features, columns)))
    torch.testing.assert_close(features[:12].norm(dim=1), torch.ones(12))
    assert features[12].tolist() == [0.0] * NGRAM_FEATURES + [1.0]
    assert numbers_among(columns) == []
    new = encode(read_table(write(tmp_path, "name\nFORD pickup\nFord Van\n")), columns)
    assert torch.equal(new[1], features[2]) and new[0] @ features[0] > new[0] @ features[4] + 0.1


def test_a_text_has_the_same_features_in_every_process_and_table() -> None:
    found = hashed_texts(["Ab", "", "Ab c", "?!"], 8)
    assert found[0].nonzero().flatten().tolist() == [3, 4] and float(found[0].norm()) == pytest.approx(1)
    assert found[1].tolist() == found[3].tolist() == [0.0] * 8
    assert torch.equal(hashed_texts(["Ab c"], 8)[0], found[2])


def test_many_rows_are_hashed_as_each_is_alone() -> None:
    texts = [f"row {row % 9000} of {row % 7}" for row in range(20_000)]
    found = hashed_texts(texts, 16)
    for row in (0, 8191, 8192, 19_999):
        assert torch.equal(found[row], hashed_texts([texts[row]], 16)[0])


def test_texts_without_spaces_between_words_share_characters() -> None:
    one, alike, other = hashed_texts(["北京大学", "北京的大学", "苹果手机"], 256)
    assert one @ alike > 0.4 > 0.2 > one @ other


@pytest.mark.parametrize("count", [20, 200, 2000])
@pytest.mark.parametrize(
    "code",
    [
        lambda draw, row: f"{draw.getrandbits(128):032x}",
        lambda draw, row: str(uuid.UUID(int=draw.getrandbits(128), version=4)),
        lambda draw, row: f"CUST-{row:05}",
        lambda draw, row: "".join(draw.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", k=8)),
    ],
    ids=["digest", "uuid", "counter", "letters and digits"],
)
def test_codes_are_left_out(code: Any, count: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw = random.Random(0)
    lines = [f"{code(draw, row)},{row % 3},{row}" for row in range(count)]
    columns, _ = described("key,a,y", *lines, folder=tmp_path)
    assert [column["name"] for column in columns] == ["a"]
    assert f"left out (1): key ({count:,} different texts, codes " in capsys.readouterr().out


@pytest.mark.parametrize(
    "texts",
    [
        [f"{first} {last}" for first in ("Ann", "Bob", "Eve") for last in ("Li", "Smith", "Kay", "Poe", "Lee")],
        [f"PC {row * 7919 % 90_000}" if row % 2 else f"STON/O2. {row * 31 % 997}" for row in range(60)],
        [f"{place}{end}" for place in ("Ashing", "Birming", "Clay", "Dur") for end in ("ham", "ton", "bury", "ford")],
        [f"{a}{b}{c}" for a in "北南西东" for b in "京城海山" for c in "市县"],
    ],
)
def test_names_and_tickets_are_no_codes(texts: list[str]) -> None:
    assert not why_codes(texts)


def test_a_description_of_an_earlier_version_is_still_encoded(tmp_path: Path) -> None:
    values = [f"text {row}" for row in range(50)]
    table = read_table(write(tmp_path, "a\ntext 3\nnew\n"))
    features = encode(table, [{"name": "a", "values": values}])
    assert features.shape == (2, 51) and features.argmax(1).tolist() == [3, 50]


# ---- the first line ----


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("1,2.5\n3,4.5\n", False),
        ("5.1,3.5,setosa\n4.9,3.0,setosa\n", False),
        ("?,2.5,x\n3,?,x\n4,5,y\n", False),
        ("a,b\n3,4\n", True),
        ("a,2020,2021\nx,4,5\ny,6,7\n", True),
        ("0,1,2\n7,4,6\n5,5,5\n", True),
        ("a,b\nx,y\n", True),
        ("a,b\n", True),
    ],
)
def test_a_first_line_without_names_is_told_by_its_numbers(text: str, named: bool, tmp_path: Path) -> None:
    assert has_names(read_table(write(tmp_path, text))) == named


def test_a_data_frame_gives_the_features_of_its_file(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {
            "whole": [1, 2, 3, 5] * 6,
            "real": [0.5, None, 1e-7, 1 / 3] * 6,
            "nullable": pandas.array([1, None, 3, 7] * 6, dtype="Int64"),
            "flag": [True, False, False, True] * 6,
            "maybe": pandas.array([True, None, False, True] * 6, dtype="boolean"),
            "kind": pandas.Categorical(["a", "b", None, "a"] * 6),
            "size": pandas.Categorical([4, 2, None, 4] * 6),
            "text": ["x", None, "None", "z, w"] * 6,
            "code": ["001", "010", "001", "200"] * 6,
            "day": pandas.date_range("2020-01-31", periods=24, freq="7D"),
            "time": pandas.date_range("2020-01-31 10:30", periods=24, freq="31h", tz="Asia/Tokyo"),
            "y": range(24),
        }
    )
    frame.to_csv(tmp_path / "t.csv", index=False)
    of_file, of_frame = read_table(tmp_path / "t.csv"), as_table(frame, [])
    columns = describe_columns(of_file, "y", list(range(20)))
    assert describe_columns(of_frame, "y", list(range(20))) == columns and len(columns) == 11
    assert torch.equal(encode(of_frame, columns), encode(of_file, columns))
    assert of_frame.place(3) == "DataFrame:3"
    numbers = frame[["whole", "real"]].to_numpy()
    of_array = as_table(numbers, ["whole", "real"])
    assert torch.equal(encode(of_array, columns[:2]), encode(of_file, columns[:2]))
    assert refusal(as_table, numbers[:, 0], ["whole"]) == (
        "the array has the shape (24,), not (N, 1); its columns: whole"
    )
    assert refusal(as_table, 5, []) == (
        "a int cannot be read as a table; give a file, a pandas DataFrame or an array (N, columns)"
    )


# ---- splits ----


def test_files_are_found_by_the_names_of_splits_and_others_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("Training.TSV", "dev.csv.gz", "test.parquet", "sample_submission.csv", ".hidden.csv", "read.me"):
        (tmp_path / name).touch()
    found = find_tables(str(tmp_path))
    assert {split: path.name for split, path in found.items()} == {
        "train": "Training.TSV", "val": "dev.csv.gz", "test": "test.parquet",
    }  # fmt: skip
    assert capsys.readouterr().out == f"not used in {tmp_path}: sample_submission.csv\n"
    (tmp_path / "train.json").touch()
    assert refusal(find_tables, str(tmp_path)) == (
        f"{tmp_path / 'Training.TSV'} and {tmp_path / 'train.json'} are both there for train; remove or rename one"
    )


def test_a_folder_without_train_says_what_it_has(tmp_path: Path) -> None:
    assert refusal(find_tables, str(tmp_path)) == f"--data {tmp_path}: there is no train.csv in this folder"
    (tmp_path / "houses.csv").touch()
    assert refusal(find_tables, str(tmp_path), "labels") == (
        f"--data {tmp_path}: there is no labels.csv or train.csv in this folder; it has houses.csv: rename one, or "
        "give it as --data"
    )
    assert refusal(find_tables, str(tmp_path / "x")) == (
        f"--data {tmp_path / 'x'} does not exist; give a CSV file, a folder with train.csv, or synthetic"
    )


# ---- tasks ----


@pytest.fixture(scope="module")
def regression(render_into: Render, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The modules of a project of regression."""
    with modules_of(render_into(tmp_path_factory.mktemp("rows"), task_type="regression")) as modules:
        yield modules


@pytest.fixture(scope="module")
def texts(render_into: Render, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The modules of a project of text classification."""
    with modules_of(render_into(tmp_path_factory.mktemp("texts"), task_type="text_classification")) as modules:
        return modules


def numbers_of(path: Path, names: str, count: int = 100) -> Path:
    """A table with these columns; the target y is their sum."""
    features = [name for name in names.split(",") if name != "y"]
    lines = [names] if features else []
    for row in range(count):
        values = {name: (row * (3 + number)) % (17 + number) / 2 for number, name in enumerate(features)}
        values["y"] = sum(values.values())
        lines.append(",".join(str(values[name]) for name in names.split(",")))
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_single_file_gives_train_val_and_test(
    regression: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = regression.config.Config(data=str(numbers_of(tmp_path / "t.csv", "a,b,y")), target="y")
    splits, _ = regression.data.load_data(config)
    assert {name: len(split) for name, split in splits.items()} == {"train": 80, "val": 10, "test": 10}
    assert len(set(torch.cat([split.indices for split in splits.values()]).tolist())) == 100
    assert capsys.readouterr().out.splitlines() == [
        "held out: val and test (--val_fraction 0.1 --test_fraction 0.1 --seed 0)",
        "numbers (2): a, b",
        "target 'y': 0 to 15.5, mean 7.85625, standard deviation 3.59965",
        "data: 80 train, 10 val, 10 test rows, 2 features from 2 columns",
    ]
    larger, _ = regression.data.load_data(replace(config, val_fraction=0.3))
    assert torch.equal(larger["test"].indices, splits["test"].indices) and len(larger["val"]) == 30
    without, _ = regression.data.load_data(replace(config, test_fraction=0.0))
    assert {name: len(split) for name, split in without.items()} == {"train": 90, "val": 10}
    assert refusal(regression.data.load_data, replace(config, val_fraction=0.9)) == (
        "--val_fraction 0.9 and --test_fraction 0.1 leave nothing to train on; their sum must be below 1"
    )


def test_runs_of_earlier_versions_have_no_test_split_held_out(
    regression: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings.save(regression.config.Config(), tmp_path)
    path = tmp_path / "config.json"
    saved = json.loads(path.read_text())
    del saved["test_fraction"]
    path.write_text(json.dumps(saved))
    assert settings.resumed(regression.config.Config(), [], tmp_path).test_fraction == 0.0
    assert capsys.readouterr().out == f"{path} has no test_fraction: it is 0.0\n"


def test_a_test_file_without_the_target_is_to_be_predicted_for(
    regression: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers_of(tmp_path / "train.csv", "a,b,y")
    for text in ("a,b\n1,2\n3,4\n", "a,b,y\n1,2,\n3,4,NA\n"):
        path = write(tmp_path, text, "test.csv")
        splits, meta = regression.data.load_data(regression.config.Config(data=str(tmp_path), target="y"))
        assert splits.keys() == {"train", "val"}
        assert capsys.readouterr().out.splitlines()[0] == (
            f"{path} has no y: nothing is tested with it; predict for it with python predict.py --checkpoint "
            f"check_point/<date>_<time>/best.pth {path}"
        )
        assert sum(len(x) for _, x in regression.data.read_inputs([path], meta, 1)) == 2


def test_a_table_without_column_names(regression: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [f"{row},{row * 7 % 9 + 0.5},{'xz'[row % 2]},{row % 5}" for row in range(60)]
    path = write(tmp_path, "\n".join(lines))
    config = regression.config.Config(data=str(path))
    assert refusal(regression.data.load_data, config) == (
        f"{path} has no column names: they are column_1 to column_4; give the one to predict with --target, often the "
        "last: --target column_4"
    )
    splits, meta = regression.data.load_data(replace(config, target="column_2"))
    assert sum(map(len, splits.values())) == 60
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"{path} has no column names: they are column_1 to column_4"
    assert printed[-3] == "left out (1): column_1 (it counts the rows)"
    [(names, whole)] = regression.data.read_inputs([path], meta, 100)
    assert names[0] == f"{path}:1"
    [(_, fewer)] = regression.data.read_inputs([write(tmp_path, "0,x,0\n1,z,1\n", "new.csv")], meta, 100)
    assert torch.equal(fewer, whole[:2])
    short = write(tmp_path, "0,x\n1,z\n", "short.csv")
    assert refusal(lambda: list(regression.data.read_inputs([short], meta, 100))) == (
        f"{short} has 2 columns; training had 4, without names: column_1, column_2, column_3, column_4"
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,y\n", "{path} has 0 rows below its column names; 3 are the least"),
        ("a,y\n1,2\n2,5\n", "{path} has 2 rows below its column names; 3 are the least"),
        ("a,y\n1,2\n2,\n3,5\n", "{path}:3: 'y' is ''; the target must be a number in every row"),
        ("a,y\n1,2\n2,many\n3,5\n", "{path}:3: 'y' is 'many'; the target must be a number in every row"),
        (
            "a,Y \n1,2\n2,3\n3,5\n",
            "{path} has no column 'y'; did you mean 'Y'? it has a, Y; give one of them with --target",
        ),
        (
            "a,y\n1,2\n2,3\n3,5\n",
            "{path}: 'y' does not vary, or too much, in the 1 rows of train; give more rows",
        ),
    ],
)
def test_a_target_that_cannot_be_used_is_refused(text: str, words: str, regression: Any, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    config = regression.config.Config(data=str(path), target="y")
    assert refusal(regression.data.load_data, config) == words.format(path=path)


def test_a_target_of_one_value_is_refused(regression: Any, tmp_path: Path) -> None:
    path = write(tmp_path, "\n".join(["a,y", *(f"{row},5" for row in range(50))]))
    assert refusal(regression.data.load_data, regression.config.Config(data=str(path), target="y")) == (
        f"{path}: 'y' does not vary, or too much, in the 40 rows of train; give more rows"
    )


def test_the_target_may_have_decimal_commas_and_a_unit(regression: Any, tmp_path: Path) -> None:
    lines = [f"{row % 7};€ {row % 9},5" for row in range(60)]
    path = write(tmp_path, "\n".join(["a;y", *lines]))
    _, meta = regression.data.load_data(regression.config.Config(data=str(path), target="y"))
    assert meta["target_mean"] == pytest.approx(4.4, abs=0.5)


def test_classes_are_texts_whatever_they_are_called(
    texts: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [f"a text {row},{('None', 'NA', 'null', '1.0')[row % 4]}" for row in range(40)] + ["alone,rare", ",NA"]
    path = write(tmp_path, "\n".join(["text,label", *lines]))
    splits, meta = texts.data.load_data(texts.config.Config(data=str(path)))
    assert meta["classes"] == ["1.0", "NA", "None", "null", "rare"]
    assert {name: len(split) for name, split in splits.items()} == {"train": 34, "val": 4, "test": 4}
    assert capsys.readouterr().out.splitlines() == [
        "held out: val and test (--val_fraction 0.1 --test_fraction 0.1 --seed 0)",
        "classes (train + val + test): 'NA' 9 + 1 + 1, '1.0' 8 + 1 + 1, 'None' 8 + 1 +",
        "    1, 'null' 8 + 1 + 1, 'rare' 1 + 0 + 0",
        "note: classes of one row, which is in train: 'rare'",
        "data: 34 train, 4 val, 4 test texts in 5 classes; 0.0% are cut at 512 bytes, 1 are empty",
    ]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (
            ["x,new", "x,a", "x,new", "x,other"],
            "{path}:2: train has no class 'new'; rows with classes that it does not have: 'new' (2), 'other' (1); "
            "it has 'a', 'b'",
        ),
        (["x,a", "x,", "x,"], "{path}:3: a row has no class (2 in all); give each one a class"),
    ],
)
def test_classes_that_train_does_not_have_are_counted_and_named(
    lines: list[str], words: str, texts: Any, tmp_path: Path
) -> None:
    write(tmp_path, "\n".join(["text,label", *(f"t {row},{'ab'[row % 2]}" for row in range(20))]), "train.csv")
    path = write(tmp_path, "\n".join(["text,label", *lines]), "val.csv")
    assert refusal(texts.data.load_data, texts.config.Config(data=str(tmp_path))) == words.format(path=path)


def test_texts_without_column_names_may_have_more_columns(texts: Any, tmp_path: Path) -> None:
    path = write(tmp_path, "\n".join(f"{row % 3},title {row},a text {row}" for row in range(30)))
    config = texts.config.Config(data=str(path), text_column="column_3", label_column="column_1")
    splits, meta = texts.data.load_data(config)
    assert sum(map(len, splits.values())) == 30 and meta["classes"] == ["0", "1", "2"]
    assert len(next(texts.data.read_inputs([path], meta, 100))[0]) == 30


def test_a_text_file_is_a_table_if_its_first_line_names_the_column(texts: Any, tmp_path: Path) -> None:
    meta = {"text_column": "text", "nameless": -1, "max_length": 100}
    table, lines = write(tmp_path, "id\ttext\n1\thello\n", "a.txt"), write(tmp_path, "text me\nhello, you\n", "b.txt")
    found = [names for names, _ in texts.data.read_inputs([table, lines, np.array(["one", "two"])], meta, 100)]
    assert found == [[f"{table}:2"], [f"{lines}:1", f"{lines}:2"], ["array:0", "array:1"]]


# ---- damaged files ----


def good_files() -> dict[str, bytes]:
    """A file of each kind, with the same table."""
    names = ["id", "size", "city", "day", "price"]
    cells: list[list[Any]] = [[n, n / 4, ("Rome", "Köln")[n % 2], f"2020-01-{n + 1:02}", 3 * n] for n in range(25)]
    lines = [[str(cell) for cell in row] for row in [names, *cells]]
    found = {
        "t.csv": "\n".join(",".join(line) for line in lines).encode(),
        "q.csv": "\r\n".join(";".join(f'"{cell}"' for cell in line) for line in lines).encode("utf-8-sig"),
        "w.csv": "\n".join(",".join(line) for line in lines).encode("utf-16"),
        "t.tsv": "\n".join("\t".join(line) for line in lines).encode(),
        "t.jsonl": "\n".join(json.dumps(dict(zip(names, row, strict=True))) for row in cells).encode(),
        "t.json": json.dumps([dict(zip(names, row, strict=True)) for row in cells]).encode(),
    }
    found |= {"t.csv.gz": gzip.compress(found["t.csv"], mtime=0), "t.zip": zipped(found["t.csv"], "t.csv")}
    for name, make in (
        ("t.xlsx", lambda: xlsx([names, *cells])),
        ("t.parquet", lambda: parquet(dict(zip(names, map(list, zip(*cells, strict=True)), strict=True)))),
    ):
        try:
            found[name] = make()
        except pytest.skip.Exception:
            print(f"{name} is not tried")
    return found


def damage(content: bytes, draw: random.Random) -> bytes:
    """The bytes of a file cut, changed, left out, doubled or moved."""
    damaged = bytearray(content)
    for _ in range(draw.choice([1, 1, 1, 1, 2, 5])):
        start = draw.randrange(len(damaged) + 1)
        end = min(len(damaged), start + draw.choice([1, 1, 1, 2, 10, 100]))
        piece, kind = damaged[start:end], draw.randrange(7)
        if kind == 0:
            damaged = damaged[:start]
        elif kind == 1:
            damaged[start:end] = bytes(byte ^ (1 << draw.randrange(8)) for byte in piece)
        elif kind == 2:
            damaged[start:end] = b""
        elif kind == 3:
            damaged[start:start] = piece
        elif kind == 4:
            del damaged[start:end]
            place = draw.randrange(len(damaged) + 1)
            damaged[place:place] = piece
        else:
            damaged[start:end] = draw.choice([b'"', b"\0", b",", b";", b"\n", b"\r", b"\\", b"\xff", b"#", b"\xe2\x80"])
    return bytes(damaged)


def test_a_damaged_file_gives_a_table_or_one_line_that_names_it(tmp_path: Path) -> None:
    draw, counts = random.Random(0), {"tables": 0, "refused": 0}
    for name, content in good_files().items():
        assert len(read_table(write(tmp_path, content, name))) == 25
        for _ in range(30 * SOAK):
            path = write(tmp_path, damage(content, draw), name)
            try:
                table = read_table(path)
                if "price" in table.names and len(table):
                    encode(table, describe_columns(table, "price", list(range(len(table)))))
                counts["tables"] += 1
            except UserError as error:
                assert str(path) in str(error) and "\n" not in str(error), error
                counts["refused"] += 1
    print(", ".join(f"{count} {kind}" for kind, count in counts.items()))
    assert min(counts.values()) > 20
