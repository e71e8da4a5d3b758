"""Classes in a column of a table: which there are, and the rows without one or with one that training does not have."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

from engine.runtime.errors import UserError
from tables import Table, shortened


def find_classes(names: Mapping[str, Sequence[str]], tables: Mapping[str, Table], flags: str) -> set[str]:
    """The classes of train, once every row is known to have one of them.

    Args:
        names: by split, the class of each row; empty if it has none.
        tables: by split, where they are from.
        flags: that choose the columns, for the message.

    Raises:
        UserError: a row without class, one class only or nearly as many as rows, a class that train does not have.
    """
    classes = set(names["train"]) - {""}
    count = len(names["train"])
    if len(classes) < 2 or len(classes) > max(20, count / 2):
        raise UserError(
            f"{tables['train'].path} has {len(classes)} classes in {count} rows "
            f"({listed(map(shortened, sorted(classes)))}); {flags} right? Two classes with several rows each are the "
            "least"
        )
    for split, table in tables.items():
        check_classes(table, names[split], classes)
    return classes


def check_classes(table: Table, names: Sequence[str], known: set[str]) -> None:
    """Raises a UserError that counts and names the classes of a table's rows that train does not have."""
    unknown = Counter(name for name in names if name not in known)
    if not unknown:
        return
    first = next(row for row, name in enumerate(names) if name in unknown)
    if unknown[""]:
        raise UserError(f"{table.place(first)}: a row has no class ({unknown['']:,} in all); give each one a class")
    counted = listed(f"{shortened(name)} ({count:,})" for name, count in unknown.most_common())
    raise UserError(
        f"{table.place(first)}: train has no class {shortened(names[first])}; rows with classes that it does not have: "
        f"{counted}; it has {listed(map(shortened, sorted(known)))}"
    )


def note_single_rows(names: Sequence[str]) -> None:
    """Prints which classes of the training table have one row alone."""
    if rare := [shortened(name) for name, count in Counter(names).items() if count == 1]:
        print(f"note: classes of one row, which is in train: {listed(rare)}")


def listed(names: Iterable[str]) -> str:
    """Up to five of these, for a message."""
    first = list(islice(names, 6))
    return ", ".join([*first[:5], "..."] if len(first) > 5 else first)
