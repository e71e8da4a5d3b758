"""From the bytes of a file to rows of cells and the line of each: CSV and the like, JSON, Excel; also compressed.

What a file is, its first bytes say, whatever it is called; only JSON is told from CSV by the ending of its name.
"""

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import math
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from cells import as_cell, as_number
from engine.runtime.errors import UserError, one_line

ENDINGS = (".csv", ".tsv", ".txt", ".data", ".json", ".jsonl", ".ndjson", ".xlsx", ".parquet")
COMPRESSED = (".gz", ".bz2", ".xz", ".zip")
SEPARATORS = "\t;|,"  # the likeliest first, where several cut all lines alike: a comma may be in any text or number
LONGEST_CELL = 2**30  # characters
SAMPLE = 2**16  # characters, at the start of a file, that decide on its separator
OLD_EXCEL = b"\xd0\xcf\x11\xe0"
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip

Rows = tuple[list[list[str]], list[int]]  # cells, those of the column names first, and the line where each row begins


# ---- bytes ----


def ending_of(path: Path) -> str:
    """The ending of a file's name in lower case, without that of its compression."""
    name = Path(path.name.lower())
    return name.with_suffix("").suffix if name.suffix in COMPRESSED else name.suffix


def read_bytes(path: Path) -> tuple[bytes, str]:
    """What is in a file, decompressed, and the ending that says what it is.

    Raises:
        UserError: it cannot be read, is damaged, or is an archive of several files.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    try:
        return decompress(path, content)
    except UserError:
        raise
    except Exception as error:  # each format has errors of its own for a damaged file
        raise UserError(f"{path} is damaged and cannot be decompressed ({one_line(error)}); get it anew") from error


def decompress(path: Path, content: bytes) -> tuple[bytes, str]:
    """Its content and ending; a UserError for an archive of several files."""
    for start, unpack in ((b"\x1f\x8b", gzip.decompress), (b"BZh", bz2.decompress), (b"\xfd7zXZ\0", lzma.decompress)):
        if content.startswith(start):
            return unpack(content), ending_of(path)
    if not content.startswith(b"PK\x03\x04"):
        return content, ending_of(path)
    archive = zipfile.ZipFile(io.BytesIO(content))
    names = [name for name in archive.namelist() if not name.endswith("/") and not name.startswith("__MACOSX")]
    if any(name.startswith("xl/") for name in names):
        return content, ".xlsx"
    if len(names) != 1:
        some = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        raise UserError(f"{path} has {len(names)} files in it ({some}); unpack it and give one of them")
    return archive.read(names[0]), ending_of(Path(names[0]))


# ---- text ----


def decode(path: Path, content: bytes) -> str:
    """The text of a file: in UTF-8, in what its byte order mark says, or surely in Windows-1252, which is printed.

    Raises:
        UserError: it is in another encoding, or no text.
    """
    if content.startswith(OLD_EXCEL):
        raise UserError(f"{path} is an old or encrypted Excel file; save it as .xlsx or CSV")
    encoding = next((name for mark, name in BYTE_ORDER_MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].decode(encoding, "ignore").count("\n") + 1
        where = f"byte 0x{content[error.start]:02x} in line {line}"
        if encoding != "utf-8" or not is_western(content):
            raise UserError(f"{path} is not {encoding.upper()} ({where}); save it as UTF-8") from error
        print(f"{path} is not UTF-8 ({where}): it is read as Windows-1252; save it as UTF-8 if letters are wrong")
        text = content.decode("cp1252")
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UserError(f"{path} is no text (a NUL character in line {line}); save it as CSV in UTF-8")
    return text


def is_western(content: bytes) -> bool:
    """Whether bytes that are not UTF-8 are surely letters of western Europe, and quotes, among those of ASCII.

    In other encodings, such as those of Russian and Chinese, all letters of a word are not ASCII; and some two bytes of
    UTF-8 tell a file of which a part is damaged.
    """
    try:
        content.decode("cp1252")
    except UnicodeDecodeError:
        return False
    return re.search(rb"\0|[\x80-\xff]{4}|[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}", content) is None


def read_text(path: Path) -> str:
    """The text in a file; a UserError if it cannot be read or is no text."""
    return decode(path, read_bytes(path)[0])


# ---- CSV and the like ----


def csv_rows(path: Path, content: bytes) -> Rows:
    """The rows of a CSV or TSV file, without empty ones.

    Comma, semicolon, tab or bar separates cells, whichever cuts the first lines into equally many; or spaces, if
    nothing else does and most cells are numbers. Quotes around a cell are taken off; inside it they are doubled, or
    have a backslash where only that gives rows of one length. In tables with tabs quotes may be meant literally: so
    they are read if they would give cells of several lines and all rows are as long without.

    Raises:
        UserError: no text, no row, one with more or fewer cells than the first, or quotes that do not match.
    """
    text, first, separator = decode(path, content), 1, "\t" if ending_of(path) == ".tsv" else ""
    if said := re.match(r'"?sep=([^\r\n])"?\r?\n', text, re.IGNORECASE):  # Excel writes this line
        first, separator, text = 2, said[1], text[said.end() :]
    separator = separator or separator_of(text)
    if separator == " ":
        print(f"{path}: spaces separate the cells")
    text, skipped = without_comments(text, separator)
    if skipped:
        print(f"{path}: {skipped} lines at the top begin with # and are skipped")
    try:
        rows, lines = parse(path, text, separator, first + skipped)
    except UserError:
        others: list[dict[str, Any]] = [{"escapechar": "\\"}] if '\\"' in text else []
        for dialect in others + ([{"quoting": csv.QUOTE_NONE}] if separator == "\t" else []):
            with suppress(UserError):
                return parse(path, text, separator, first + skipped, **dialect)
        raise
    if separator == "\t" and any("\n" in cell for row in rows for cell in row):
        with suppress(UserError):
            return parse(path, text, separator, first + skipped, quoting=csv.QUOTE_NONE)
    return rows, lines


def cells_in(text: str, separator: str, **dialect: Any) -> Any:
    """The csv.reader of a text; several spaces count as one where they separate."""
    csv.field_size_limit(LONGEST_CELL)
    source: Iterable[str] = io.StringIO(text, newline="")
    if separator == " ":
        source = (re.sub(r"[ \t]+", " ", line.strip()) for line in source)
    return csv.reader(source, delimiter=separator, skipinitialspace=True, **dialect)


def parse(path: Path, text: str, separator: str, first: int, **dialect: Any) -> Rows:
    """The rows of a text.

    Args:
        path: of the file, for messages.
        text: of the table.
        separator: between its cells.
        first: the number of its first line in the file.
        dialect: arguments of csv.reader.

    Raises:
        UserError: no row, one with more or fewer cells than the first, or quotes that do not match.
    """
    reader = cells_in(text, separator, strict=True, **dialect)
    rows: list[list[str]] = []
    lines: list[int] = []
    line = first
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells):
                rows.append(cells)
                lines.append(line)
            line = first + reader.line_num
    except csv.Error as error:
        raise UserError(f"{path}:{line}: this is no row of a table: {error}; correct its quotes") from error
    return without_empty_ends(path, rows, lines), lines


def without_empty_ends(path: Path, rows: list[list[str]], lines: list[int]) -> list[list[str]]:
    """The rows, all of one length, without columns at the end that have no name and no cell, as of lines like "1,2,".

    Raises:
        UserError: no row, or one with more or fewer cells than the first.
    """
    if not rows:
        raise UserError(f"{path} is empty; it needs column names and rows")
    named = max(number for number, name in enumerate(rows[0], 1) if name)
    lengths = {len(row) for row in rows[1:]}
    if len(lengths) == 1 and min(lengths) >= named and not any(any(row[named:]) for row in rows[1:]):
        return [row[:named] for row in rows]
    for row, line in zip(rows, lines, strict=True):
        if len(row) != len(rows[0]):
            raise UserError(
                f"{path}:{line}: {len(row)} cells where the first line has {len(rows[0])}; correct the line, or quote "
                "a cell that has the separator in it"
            )
    return rows


COMMENTS = re.compile(r"(#[^\n]*\n)+")


def separator_of(text: str) -> str:
    """What separates the cells of a text, by its first lines."""
    sample = COMMENTS.sub("", text[:SAMPLE], count=1) if text.startswith("#") else text[:SAMPLE]
    if len(text) > SAMPLE:
        sample = sample[: sample.rfind("\n") + 1]  # the last line is not whole
    lengths = {separator: Counter(map(len, first_rows(sample, separator))) for separator in ",;\t|"}
    alike = [sep for sep in SEPARATORS if len(lengths[sep]) == 1 and 1 not in lengths[sep]]
    by_spaces = first_rows(sample, " ")
    width = len(by_spaces[0]) if len({len(row) for row in by_spaces}) == 1 else 0
    numbers = [not math.isnan(as_number(cell.replace(",", "."))) for row in by_spaces[1:] for cell in row]
    # In some tables a tab comes before the last cell and spaces before all others.
    if width > 1 and sum(numbers) * 2 > len(numbers) and all(width >= 3 * max(lengths[sep]) for sep in alike):
        return " "
    most = {
        sep: max([count for length, count in found.items() if length > 1], default=0) for sep, found in lengths.items()
    }
    return alike[0] if alike else max(most, key=lambda separator: most[separator])


def first_rows(text: str, separator: str) -> list[list[str]]:
    """Up to a hundred rows of a text that are not empty; fewer where they cannot be read."""
    rows: list[list[str]] = []
    with suppress(csv.Error):
        for row in islice(cells_in(text, separator), 100):
            rows += [row] if any(map(str.strip, row)) else []
    return rows


def without_comments(text: str, separator: str) -> tuple[str, int]:
    """A text without its first lines if they begin with # and are no row, and how many these were.

    The last of them has the column names if without its # it has as many cells as the rows.
    """
    found = COMMENTS.match(text)
    below = first_rows(text[found.end() :][:SAMPLE], separator) if found else []
    if not found or not below or len(below[0]) == 1:
        return text, 0
    width, lines = len(below[0]), found[0].splitlines(keepends=True)
    for number, line in enumerate(lines):
        if len(first_rows(line, separator)[0]) == width:
            return "".join(lines[number:]) + text[found.end() :], number
    bare = lines[-1].lstrip("# ")
    names = [bare] if [len(row) for row in first_rows(bare, separator)] == [width] else []
    return "".join([*names, text[found.end() :]]), len(lines) - len(names)


# ---- JSON ----


def json_rows(path: Path, content: bytes) -> Rows:
    """The rows of a JSON file: an object on each line, or a list of objects, or an object of columns.

    The place of a row is its line, or in a list its number, from 0. Lists and objects in a cell become their JSON.

    Raises:
        UserError: no text, no JSON, or JSON of another form.
    """
    text = decode(path, content)
    records = list(json_records(path, text))
    for place, record in records:
        if not isinstance(record, dict):
            raise UserError(f"{path}:{place}: no JSON object, which has the cells by the names of their columns")
    names = list(dict.fromkeys(name for _, record in records for name in record))
    if not names:
        raise UserError(f"{path} is empty; it needs rows")
    rows = [[json_cell(record.get(name)) for name in names] for _, record in records]
    return [list(map(json_cell, names)), *rows], [0, *(place for place, _ in records)]


def json_records(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    """The values that are the rows of a JSON file, each with its place; a UserError where there is no JSON."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        if text.lstrip()[:1] == "[":
            raise UserError(f"{path} is no JSON ({one_line(error)}); correct it") from error
    else:
        if isinstance(value, list):
            yield from enumerate(value)
            return
        if isinstance(value, dict) and value and all(isinstance(column, (dict, list)) for column in value.values()):
            yield from enumerate(json_columns(path, value))
            return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path}:{number}: this line is no JSON ({one_line(error)}); correct it") from error


def json_columns(path: Path, columns: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of columns that are lists, or objects with the same keys; a UserError for other lengths or keys."""
    keyed = {name: column if isinstance(column, dict) else dict(enumerate(column)) for name, column in columns.items()}
    keys = next(iter(keyed.values())).keys()
    for name, column in keyed.items():
        if column.keys() != keys:
            raise UserError(
                f"{path}: the column {name!r} has other rows than the first; each needs a cell in every row"
            )
    return [{name: column[key] for name, column in keyed.items()} for key in keys]


def json_cell(value: Any) -> str:
    """A value of JSON as a cell."""
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else as_cell(value)
    return text.encode(errors="replace").decode()  # half a pair of surrogates is no text


# ---- Excel and Parquet ----


def excel_rows(path: Path, content: bytes) -> Rows:
    """The rows of the first sheet of an Excel file (.xlsx) that are not empty.

    Raises:
        UserError: openpyxl is not installed, or the file is damaged.
    """
    try:
        import openpyxl
    except ImportError as error:
        raise UserError(
            f"{path}: an Excel file needs openpyxl; python -m pip install openpyxl, or save it as CSV"
        ) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what it does not read, such as styles
            book = openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=True)
            sheets = book.worksheets
            sheets[0].reset_dimensions()  # which a file may have wrong
            found = [[as_cell(value) for value in row] for row in sheets[0].iter_rows(values_only=True)]
    except Exception as error:  # it has none of its own for a damaged file
        raise UserError(f"{path} is no Excel file that can be read ({one_line(error)}); save it anew") from error
    if len(sheets) > 1:
        print(f"{path}: the sheet {sheets[0].title!r} is read, and not the {len(sheets) - 1} after it")
    lines = [number for number, row in enumerate(found, 1) if any(row)]
    width = max(map(len, found), default=0)
    rows = [found[line - 1] + [""] * (width - len(found[line - 1])) for line in lines]
    return without_empty_ends(path, rows, lines), lines


def parquet_frame(path: Path, content: bytes) -> Any:
    """The pandas DataFrame in a Parquet file.

    Raises:
        UserError: pyarrow is not installed, or the file is damaged.
    """
    try:
        import pandas  # noqa: F401  pyarrow needs it
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(
            f"{path}: a Parquet file needs pandas and pyarrow; python -m pip install pandas pyarrow"
        ) from error
    try:
        frame = pyarrow.parquet.read_table(io.BytesIO(content)).to_pandas()
        return frame if frame.index.names == [None] else frame.reset_index()  # an index with a name is a column
    except Exception as error:  # pyarrow has many for a damaged file
        raise UserError(f"{path} is no Parquet file that can be read ({one_line(error)}); get it anew") from error
