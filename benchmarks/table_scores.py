"""Rows of tables: the rendered projects' default answers beside scikit-learn's models with their default settings.

    python benchmarks/table_scores.py FILE.csv FILE.csv:TARGET sklearn:wine statsmodels:fair:affairs ...
    python benchmarks/table_scores.py FILE.csv --also "--backbone nca" "--backbone tabm" "--backbone mlp"

TARGET is the last column unless it is named. One that is text or has at most ten values is a class, else a number. A
fifth of the rows tests, drawn by each of three seeds; all others are the training table, of which the project holds out
its own validation rows. Of missing values and texts trees get medians and numbers, and linear models a feature for each
text. Scores are R2, or accuracy and then the area under the ROC curve, of the test rows. --also trains with other
flags, too.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from time import perf_counter
from typing import Any

import numpy
import pandas
from sklearn import datasets
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import accuracy_score, r2_score, roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from conftest import render_plainly, write_config  # noqa: E402

NUMBERS, TEXTS = make_column_selector(dtype_include="number"), make_column_selector(dtype_exclude="number")
MODELS: dict[str, list[tuple[str, Any]]] = {
    "regression": [
        ("HGB", HistGradientBoostingRegressor), ("forest", RandomForestRegressor), ("linear", RidgeCV)
    ],
    "tabular_classification": [
        ("HGB", HistGradientBoostingClassifier), ("forest", RandomForestClassifier), ("linear", LogisticRegression)
    ],
}  # fmt: skip
SCORES = {"regression": ["r2"], "tabular_classification": ["acc", "auc"]}
MOST_CLASSES = 10  # values of a target of numbers that are classes


def read(given: str) -> tuple[str, pandas.DataFrame, str]:
    """The name of a table, the table, and its target."""
    kind, _, rest = given.partition(":")
    if kind == "sklearn":
        found = getattr(datasets, f"load_{rest}")(as_frame=True)
        return rest, found.frame, "target"
    if kind == "statsmodels":
        from statsmodels import datasets as others

        name, _, target = rest.partition(":")
        frame = getattr(others, name).load_pandas().data
        return name, frame, target or str(frame.columns[-1])
    path, _, target = given.partition(":")
    frame = pandas.read_csv(path, na_values="?")
    if any(re.fullmatch(r"-?\d+\.?\d*", str(name)) for name in frame.columns):  # its first line is a row
        frame = pandas.read_csv(path, na_values="?", header=None)
        frame.columns = [f"column_{number}" for number in range(1, frame.shape[1] + 1)]
    return Path(path).stem, frame, target or str(frame.columns[-1])


def prepared(name: str, model: Any) -> Any:
    """A pipeline from DataFrames to one of scikit-learn's models with its default settings."""
    ordinal = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-1)
    if name == "HGB":
        return make_pipeline(make_column_transformer((ordinal, TEXTS), remainder="passthrough"), model())
    if name == "forest":
        columns = make_column_transformer((ordinal, TEXTS), (SimpleImputer(strategy="median"), NUMBERS))
        return make_pipeline(columns, model(n_jobs=-1))
    one_hot = OneHotEncoder(handle_unknown="ignore", max_categories=50)
    imputed = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    limits = {"max_iter": 1000} if model is LogisticRegression else {}
    return make_pipeline(make_column_transformer((one_hot, TEXTS), (imputed, NUMBERS)), model(**limits))


def theirs(task: str, model: Any, train: pandas.DataFrame, test: pandas.DataFrame, target: str) -> dict[str, float]:
    """The scores of one of scikit-learn's models on the test rows."""
    model.fit(train.drop(columns=target), train[target])
    x, y = test.drop(columns=target), test[target]
    if task == "regression":
        return {"r2": r2_score(y, model.predict(x))}
    p = model.predict_proba(x)
    areas = [roc_auc_score(y == name, p[:, number]) for number, name in enumerate(model.classes_) if sum(y == name) > 0]
    return {"acc": accuracy_score(y, model.predict(x)), "auc": float(numpy.mean(areas))}


def ours(task: str, project: Path, folder: Path, target: str, seed: int, flags: list[str]) -> dict[str, float]:
    """The scores of the best epoch on the test rows, and the seconds that all took."""
    command = [sys.executable, "-B", "train.py", "--data", str(folder), "--target", target, "--seed", str(seed)]
    command += ["--pictures", "none", "--ckpt_dir", str(folder / "runs"), *flags]
    began = perf_counter()
    done = subprocess.run(command, cwd=project, capture_output=True, text=True)
    line = re.search(r"^test of epoch .*(?:\n    .*)*", done.stdout, re.MULTILINE)
    if not line:
        raise SystemExit(done.stdout[-2000:] + done.stderr[-2000:])
    found = {name: re.search(rf"\b{name} (\S+)", line[0]) for name in SCORES[task]}
    return {name: float(match[1]) for name, match in found.items() if match} | {"seconds": perf_counter() - began}


def row(cells: list[str]) -> None:
    """Prints a row of a table."""
    print(f"| {' | '.join(cells)} |", flush=True)


def compared(
    task: str, tables: Mapping[str, tuple[pandas.DataFrame, str]], seeds: int, ways: Mapping[str, list[str]]
) -> None:
    """Prints a row for each table: scores of each way, the mean of the seeds, the gap to the best other, seconds."""
    place = Path(tempfile.mkdtemp())
    project = render_plainly(place, write_config(place), task_type=task)
    wanted = SCORES[task]
    rivals = ["HGB", "forest", "linear"][: 2 if task == "regression" else 3]
    header = ["table", "rows", *ways, "HGB", "forest", "linear", f"ours - best of {', '.join(rivals)}", "seconds"]
    row(header)
    row(["---"] * len(header))
    gaps: dict[str, list[list[float]]] = {way: [] for way in ways}
    for name, (frame, target) in tables.items():
        found: dict[str, list[dict[str, float]]] = {}
        for seed in range(seeds):
            classes = frame[target] if task != "regression" and frame[target].value_counts().min() > 1 else None
            train, test = train_test_split(frame, test_size=0.2, random_state=seed, stratify=classes)
            folder = place / name / str(seed)
            folder.mkdir(parents=True)
            train.to_csv(folder / "train.csv", index=False)
            test.to_csv(folder / "test.csv", index=False)
            for way, flags in ways.items():
                found.setdefault(way, []).append(ours(task, project, folder, target, seed, flags))
            for other, model in MODELS[task]:
                found.setdefault(other, []).append(theirs(task, prepared(other, model), train, test, target))
        means = {way: [mean(score[s] for score in scores) for s in wanted] for way, scores in found.items()}
        for way in ways:
            best = [max(means[rival][number] for rival in rivals) for number in range(len(wanted))]
            gaps[way].append([means[way][number] - best[number] for number in range(len(wanted))])
        shown = [" ".join(f"{value:.3f}" for value in values) for values in means.values()]
        gap = " ".join(f"{value:+.3f}" for value in gaps["ours"][-1])
        seconds = mean(score["seconds"] for score in found["ours"])
        row([name, f"{len(frame):,}", *shown, gap, f"{seconds:.0f}"])
    for way, values in gaps.items():
        gap = " ".join(f"{mean(value):+.3f}" for value in zip(*values, strict=True))
        print(f"{task}, {way}: mean gap {gap}, least {min(value[0] for value in values):+.3f}", flush=True)


def main() -> None:
    """Prints a table for numbers and one for classes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="+")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--most_rows", type=int, default=6000)
    parser.add_argument("--also", nargs="*", default=[], help="other flags to train with, such as '--backbone nca'")
    arguments = parser.parse_args()
    ways = {"ours": [], **{flags: flags.split() for flags in arguments.also}}
    tables: dict[str, dict[str, tuple[pandas.DataFrame, str]]] = {}
    for given in arguments.tables:
        name, frame, target = read(given)
        frame = frame[frame[target].notna()]
        frame = frame.sample(min(len(frame), arguments.most_rows), random_state=0)
        is_number = pandas.api.types.is_numeric_dtype(frame[target]) and frame[target].nunique() > MOST_CLASSES
        task = "regression" if is_number else "tabular_classification"
        tables.setdefault(task, {})[name] = frame, target
    for task, of_task in tables.items():
        compared(task, of_task, arguments.seeds, ways)


if __name__ == "__main__":
    main()
