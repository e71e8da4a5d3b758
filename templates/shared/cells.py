"""What the cells of a column say: missing values, numbers, booleans, dates.

A column is a list of texts, as in a CSV file, or a NumPy array of numbers, booleans or dates, as in a DataFrame. How
its texts write numbers or dates is found from all of them together, so that one way fits every cell.
"""

import math
import re
from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np

Cells = Any  # of a column: a list of texts, or an array (N,) of numbers, booleans or datetime64

# Cells without a value, in lower case: those of pandas, of Excel's failed formulas, and two more.
MISSING = {"", "#n/a", "#n/a n/a", "#na", "<na>", "n/a", "na", "nan", "-nan", "none", "null", "nat", "?", "-"}
MISSING |= {"-1.#ind", "-1.#qnan", "1.#ind", "1.#qnan"}
MISSING |= {"#div/0!", "#value!", "#ref!", "#name?", "#num!", "#null!"}
MISSING_STARTS = {start for cell in MISSING for start in (cell[:1], cell[:1].upper())}  # most cells have no such start

TRUE, FALSE = {"true", "yes", "t", "y"}, {"false", "no", "f", "n"}
PAIRS = ({"true", "false"}, {"yes", "no"}, {"t", "f"}, {"y", "n"})

UNITS = "%$€£¥₹₽₩₺₫₪฿元円"  # signs before or after a number
# Full-width characters, the minus sign, and all kinds of spaces.
PLAIN = str.maketrans("＋－−．，％＄￥\u00a0\u2007\u2009\u202f", "+--.,%$¥    ")
# A number with a decimal point, then one with a decimal comma; both may have groups of three digits.
NUMBERS = {
    ".": re.compile(r"[+-]?(\d+|[1-9]\d{0,2}(?P<group>[, '’])\d{3}((?P=group)\d{3})*)?(\.\d*)?(e[+-]?\d+)?", re.I),
    ",": re.compile(r"[+-]?(\d+|[1-9]\d{0,2}(?P<group>[. '’])\d{3}((?P=group)\d{3})*)?(,\d*)?(e[+-]?\d+)?", re.I),
}


def as_cell(value: Any) -> str:
    """A value as text; empty for None, NaN and what pandas has for missing ones."""
    if isinstance(value, str):
        return value.strip()
    missing = value is None or type(value).__name__ in ("NAType", "NaTType") or value is not value
    if missing or isinstance(value, float) and math.isnan(value):
        return ""
    return str(value).strip()


def as_number(cell: str) -> float:
    """The number in a cell as programs write it, such as -1.5e3; NaN if it is none. "1_000" is none either."""
    try:
        return math.nan if "_" in cell else float(cell)
    except ValueError:
        return math.nan


def missing_cells(cells: Cells) -> np.ndarray:
    """Which cells have no value, booleans (N,)."""
    if isinstance(cells, np.ndarray):
        empty: np.ndarray = cells != cells  # NaN and NaT
        return empty
    return np.array([cell[:1] in MISSING_STARTS and cell.lower() in MISSING for cell in cells], bool)


def as_texts(cells: Cells) -> list[str]:
    """The cells as text, empty for NaN."""
    return cells if isinstance(cells, list) else [as_cell(value) for value in cells.tolist()]


# ---- numbers ----


class Style(NamedTuple):
    """How the cells of a column write numbers."""

    decimal: str = "."  # or ","
    unit: str = ""  # a sign before or after the numbers, such as $ or %


def number_in(cell: str, style: Style) -> float:
    """The number in a cell that is written in this style; NaN if it is not.

    A currency sign may be left out; a percent sign may not, since 0.1 and 10% would be taken for different numbers.
    """
    if style == Style() and not math.isnan(number := as_number(cell)):
        return number
    cell = cell.translate(PLAIN).strip()
    if style.unit:
        sign = re.escape(style.unit)
        bare = re.sub(rf"^([+-]?) ?{sign} ?|(?<=.) ?{sign}$", r"\1", cell, count=1)
        if bare == cell and style.unit == "%":
            return math.nan
        cell = bare
    if not (found := NUMBERS[style.decimal].fullmatch(cell)):
        return math.nan
    cell = cell.replace(found["group"], "") if found["group"] else cell
    return as_number(cell.replace(",", "."))


def read_numbers(cells: Cells, likely: str = ".") -> tuple[np.ndarray, Style]:
    """The numbers in a column, float64 (N,), and how they are written: in the one way that reads most cells.

    NaN is a missing cell or one that is no number, or not written in that way; inf is read as such.

    Args:
        cells: the column.
        likely: the decimal point or comma, if both read as many cells: 1,234 may be either.
    """
    if isinstance(cells, np.ndarray):
        is_number = cells.dtype.kind in "biuf"
        return (cells.astype(np.float64) if is_number else np.full(len(cells), np.nan)), Style()
    is_missing = missing_cells(cells)
    numbers = np.where(is_missing, np.nan, [as_number(cell) for cell in cells])
    if likely == "." and (is_missing | ~np.isnan(numbers)).all():
        return numbers, Style()
    distinct = {cell for cell, missing in zip(cells, is_missing, strict=True) if not missing}
    used = set("".join(distinct).translate(PLAIN))
    best: dict[str, float] = {}
    for unit in ("", *(sign for sign in UNITS if sign in used)):
        for decimal in (likely, "," if likely == "." else "."):
            read = {cell: number_in(cell, Style(decimal, unit)) for cell in distinct}
            read = {cell: number for cell, number in read.items() if not math.isnan(number)}
            if len(read) > len(best) or not best:
                best, style = read, Style(decimal, unit)
    return np.array([best.get(cell, math.nan) for cell in cells], np.float64), style


def has_decimal_commas(cells: Cells) -> bool:
    """Whether a column surely has decimal commas: all its cells are numbers with them, and not all are with points."""
    if not isinstance(cells, list) or not any("," in cell for cell in cells):
        return False
    numbers, style = read_numbers(cells)
    return style.decimal == "," and not (np.isnan(numbers) & ~missing_cells(cells)).any()


def likely_decimal(columns: Iterable[Cells]) -> str:
    """The decimal point or comma of numbers that may have either, such as 1,234: a comma if a column surely has it."""
    return "," if any(map(has_decimal_commas, columns)) else "."


def are_codes(cells: Cells) -> bool:
    """Whether whole numbers are names, such as zip codes: some begin with zeros that a number does not have."""
    return (
        isinstance(cells, list)
        and any(len(cell) > 1 and cell[0] == "0" and cell.isdigit() for cell in cells)
        and all(cell.isdigit() or cell.lower() in MISSING for cell in cells)
    )


# ---- booleans ----


def read_booleans(cells: Cells) -> np.ndarray:
    """1 for true and yes, 0 for false and no, NaN for anything else, float64 (N,); numbers may be 0 or 1 only."""
    if isinstance(cells, np.ndarray):
        numbers, _ = read_numbers(cells)
        return np.where((numbers == 0) | (numbers == 1), numbers, np.nan)
    found = {cell: boolean_of(cell) for cell in set(cells)}
    return np.array([found[cell] for cell in cells], np.float64)


def boolean_of(cell: str) -> float:
    """1 for true, yes and 1, 0 for false, no and 0, NaN for anything else."""
    if cell.lower() in TRUE | FALSE:
        return float(cell.lower() in TRUE)
    number = as_number(cell)
    return number if number in (0, 1) else math.nan


def are_booleans(cells: Cells) -> bool:
    """Whether a column has booleans: True and False, yes and no, or their first letters, both of them."""
    if isinstance(cells, np.ndarray):
        return bool(cells.dtype.kind == "b")
    distinct = set(cells)
    return len(distinct) < 100 and {cell.lower() for cell in distinct} - MISSING in PAIRS


# ---- dates ----

ISO = re.compile(
    r"\d{4}-\d{1,2}(-\d{1,2}([T ]\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?( ?(Z|[+-]\d{2}(:?\d{2})?))?)?)?|\d{8}T\d{4,6}"
)
DAYS = ["%Y/%m/%d", "%Y.%m.%d", "%d.%m.%Y", "%d.%m.%y", "%Y年%m月%d日", "%d %b %Y", "%d %B %Y", "%d-%b-%Y", "%d-%b-%y"]
DAYS += ["%b %d, %Y", "%B %d, %Y", "%b %d %Y", "%B %d %Y", "%b %Y", "%B %Y", "%a, %d %b %Y", "%Y/%m"]
DAYS += [f"{start}{sep}%{year}" for sep in "/-" for year in "Yy" for start in (f"%d{sep}%m", f"%m{sep}%d")]
FORMATS = [day + time for day in DAYS for time in ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")]


def formats_of(cells: Iterable[str]) -> list[str]:
    """The formats, as of strptime or "ISO8601", in which at least one of these texts is a date."""
    found = []
    for cell in cells:
        if ISO.fullmatch(cell):
            found.append("ISO8601")
        elif cell[:1].isalnum() and any(map(str.isdigit, cell)) and len(cell) < 40:
            found += [format for format in FORMATS if is_date(cell, format)]
    return list(dict.fromkeys(found))


def is_date(cell: str, format: str) -> bool:
    """Whether a text is a date in that format of strptime."""
    try:
        return datetime.strptime(cell, format) is not None
    except ValueError:
        return False


def read_dates(cells: Cells, format: str) -> np.ndarray:
    """The dates in a column, in UTC if they have a time zone, datetime64 in seconds (N,).

    NaT is a missing cell, or one that is neither in that format nor in ISO 8601.
    """
    if isinstance(cells, np.ndarray):
        return cells.astype("datetime64[s]") if cells.dtype.kind == "M" else np.full(len(cells), "NaT", "datetime64[s]")
    import pandas  # here, since only columns with dates need it, and its import takes half a second

    texts = pandas.Series([cell if cell.lower() not in MISSING else None for cell in cells], dtype=object)
    dates = pandas.to_datetime(texts, format=format, errors="coerce", utc=True)
    if format != "ISO8601" and (others := dates.isna() & texts.notna()).any():
        iso = texts[others].where([ISO.fullmatch(cell) is not None for cell in texts[others]])
        dates[others] = pandas.to_datetime(iso, format="ISO8601", errors="coerce", utc=True)
    return np.asarray(dates.dt.tz_localize(None).to_numpy(), "datetime64[s]")


def date_formats(cells: Cells) -> list[str]:
    """The formats in which a column is dates: none, one, or two, if days cannot be told from months.

    A format counts if most cells are dates in it, of the years 1600 to 2299, since 1001-1 is rather a number of a part;
    the few cells that are none are mistakes.
    """
    if isinstance(cells, np.ndarray):
        return ["ISO8601"] if cells.dtype.kind == "M" else []
    distinct = [cell for cell in dict.fromkeys(cells) if cell.lower() not in MISSING]
    found: dict[bytes, tuple[str, int]] = {}  # by dates: in May, %b and %B are the same
    for format in formats_of(distinct[:5]):
        dates = read_dates(distinct, format)
        likely = (dates >= np.datetime64("1600")) & (dates < np.datetime64("2300"))
        found.setdefault(dates.tobytes(), (format, int(likely.sum())))
    most = max((count for _, count in found.values()), default=0)
    return [format for format, count in found.values() if count == most > len(distinct) / 2]


def date_parts(dates: np.ndarray, first: str) -> dict[str, np.ndarray]:
    """What a date is as numbers, each float64 (N,): days since the first one, year, month, day, weekday, hour.

    Args:
        dates: datetime64 in seconds (N,), without NaT.
        first: a date in ISO 8601.
    """
    day, month, year = (dates.astype(f"datetime64[{unit}]") for unit in "DMY")
    return {
        "days": (dates - np.datetime64(first, "s")) / np.timedelta64(1, "D"),
        "year": year.astype(np.int64) + 1970.0,
        "month": month.astype(np.int64) % 12 + 1.0,
        "day": (day - month.astype("datetime64[D]")).astype(np.int64) + 1.0,
        "weekday": (day.astype(np.int64) + 3) % 7 + 0.0,  # the first day of 1970 was a Thursday; 0 is Monday
        "hour": (dates - day.astype("datetime64[s]")) / np.timedelta64(1, "h"),
    }
