"""Rows of tables: the rendered project's default answers beside scikit-learn's forest, boosted trees and ridge.

    python benchmarks/table_scores.py FILE.csv FILE.csv:TARGET ...

TARGET is the last column unless it is named. A fifth of the rows tests, drawn by each of three seeds; all others are
the training table, of which the project holds out its own validation rows. Of missing values and texts trees get
medians and numbers, and ridge a feature for each text. The score is R2 of the test rows.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean
from time import perf_counter
from typing import Any

import pandas
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from conftest import render_plainly, write_config  # noqa: E402

NUMBERS, TEXTS = make_column_selector(dtype_include="number"), make_column_selector(dtype_exclude="number")


def baselines() -> dict[str, Any]:
    """Scikit-learn's models with their default settings, from DataFrames."""
    ordinal = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-1)
    one_hot = OneHotEncoder(handle_unknown="ignore", max_categories=50)
    imputed = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    return {
        "HGB": make_pipeline(
            make_column_transformer((ordinal, TEXTS), remainder="passthrough"), HistGradientBoostingRegressor()
        ),
        "forest": make_pipeline(
            make_column_transformer((ordinal, TEXTS), (SimpleImputer(strategy="median"), NUMBERS)),
            RandomForestRegressor(n_jobs=-1),
        ),
        "ridge": make_pipeline(make_column_transformer((one_hot, TEXTS), (imputed, NUMBERS)), RidgeCV()),
    }


def ours(project: Path, folder: Path, target: str, seed: int, flags: list[str]) -> float:
    """R2 of the test rows, of the best epoch."""
    command = [sys.executable, "-B", "train.py", "--data", str(folder), "--target", target, "--seed", str(seed)]
    command += ["--pictures", "none", "--ckpt_dir", str(folder / "runs"), *flags]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True)
    found = re.findall(r"^test of epoch .* r2 (\S+)", done.stdout, re.MULTILINE)
    if not found:
        raise SystemExit(done.stdout[-2000:] + done.stderr[-2000:])
    return float(found[0])


def main() -> None:
    """Prints a row for each table: R2 of each way, the mean of the seeds, and our seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="+")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--most_rows", type=int, default=6000)
    parser.add_argument("--flags", default="", help="of train.py, such as '--backbone nca'")
    arguments = parser.parse_args()
    place = Path(tempfile.mkdtemp())
    project = render_plainly(place, write_config(place), task_type="regression")
    print("| table | rows | ours | HGB | forest | ridge | ours - better of HGB and forest | seconds |", flush=True)
    print("|---|---|---|---|---|---|---|---|", flush=True)
    gains = []
    for number, given in enumerate(arguments.tables):
        path, _, target = given.partition(":")
        frame = pandas.read_csv(path, na_values="?")
        target = target or str(frame.columns[-1])
        frame = frame[frame[target].notna()]
        frame = frame.sample(min(len(frame), arguments.most_rows), random_state=0)
        scores: dict[str, list[float]] = {}
        seconds = []
        for seed in range(arguments.seeds):
            train, test = train_test_split(frame, test_size=0.2, random_state=seed)
            folder = place / f"{number} {seed}"
            folder.mkdir()
            train.to_csv(folder / "train.csv", index=False)
            test.to_csv(folder / "test.csv", index=False)
            began = perf_counter()
            scores.setdefault("ours", []).append(ours(project, folder, target, seed, arguments.flags.split()))
            seconds.append(perf_counter() - began)
            for name, model in baselines().items():
                model.fit(train.drop(columns=target), train[target])
                scores.setdefault(name, []).append(model.score(test.drop(columns=target), test[target]))
        means = {name: mean(found) for name, found in scores.items()}
        gains.append(means["ours"] - max(means["HGB"], means["forest"]))
        shown = " | ".join(f"{value:.3f}" for value in means.values())
        print(f"| {Path(path).stem} | {len(frame):,} | {shown} | {gains[-1]:+.3f} | {mean(seconds):.0f} |", flush=True)
    print(f"| mean | | | | | | {mean(gains):+.3f} | |")


if __name__ == "__main__":
    main()
