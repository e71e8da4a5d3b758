"""Other answers and newer templates for projects that were edited: what an edit and an answer change are both there."""

import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from conftest import QUESTIONS, ROOT, Render, files_in
from scripts import run_script

sys.path.insert(0, str(ROOT / "hooks"))
import regenerate as merging  # noqa: E402  (hooks import each other as neighbours)

LOCK = ".cookiecutter.lock"
KILLS = 300 if os.environ.get("SOAK") else 4
needs_posix = pytest.mark.skipif(os.name == "nt", reason="of POSIX")


def git(folder: Path, *words: str) -> str:
    """What git prints, with a name for the commits of tests."""
    command = ["git", "-c", "user.name=Test", "-c", "user.email=test@localhost", *words]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def copy_template(folder: Path) -> None:
    """The present template, into that folder."""
    for part in ("{{cookiecutter.project_slug}}", "templates", "hooks"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "cookiecutter.json", folder)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template in a git repository of its own, with the tag v1."""
    folder = tmp_path_factory.mktemp("source") / "torch-template"
    copy_template(folder)
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "first")
    git(folder, "tag", "v1")
    return folder


Generate = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def generate(tmp_path: Path, cookiecutter_config: Path) -> Generate:
    """generate(template, *words) runs cookiecutter there, without a smoke epoch; the project is in `out`/demo."""

    def run(place: object, *words: str, config: Path = cookiecutter_config) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "cookiecutter", str(place), "--config-file", str(config), "-o", "out"]
        answers = [] if "--replay-file" in words else ["--no-input", "project_name=Demo", "smoke_epoch=skip"]
        return subprocess.run(
            [*command, *words, *answers],
            cwd=tmp_path,
            env=os.environ | {"PWD": str(tmp_path)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )

    return run


@pytest.fixture
def project(template: Path, generate: Generate, tmp_path: Path) -> Path:
    """A new project."""
    done = generate(template)
    assert done.returncode == 0, done.stderr
    return tmp_path / "out" / "demo"


def regenerate(project: Path, *words: str, status: int = 0, **environment: str) -> str:
    """What `python scripts/regenerate.py *words` prints, on both streams."""
    done = subprocess.run(
        [sys.executable, "-B", "scripts/regenerate.py", *words],
        cwd=project,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def contents(project: Path) -> dict[str, str]:
    """Every file but the lock."""
    return {name: (project / name).read_text("utf-8") for name in files_in(project) - {LOCK}}


def everything(project: Path) -> dict[str, bytes]:
    """Every file with its bytes, without what an interrupted call has staged."""
    names = [name for name in files_in(project) if not name.startswith(".cookiecutter.merge")]
    return {name: (project / name).read_bytes() for name in names}


def edited(texts: dict[str, str]) -> dict[str, str]:
    """Every file with a line of mine before its first line and one after its last."""
    return {name: f"# mine\n{text}# mine\n" for name, text in texts.items() if not name.startswith(".")}


def write(project: Path, texts: dict[str, str]) -> None:
    for name, text in texts.items():
        (project / name).write_text(text, "utf-8")


def every_step(choices: list[str]) -> list[str]:
    """A walk from the first of the choices over every ordered pair of different ones (Hierholzer 1873)."""
    left = {here: [there for there in choices if there != here] for here in choices}
    walk, path = [], [choices[0]]
    while path:
        if left[path[-1]]:
            path.append(left[path[-1]].pop())
        else:
            walk.append(path.pop())
    return walk[-2::-1]


# ---- other answers ----


@pytest.mark.parametrize("question", ["lr_scheduler_type", "warm_up_mode", "num_parts"])
def test_every_answer_after_every_other_with_an_edit_in_every_file(
    question: str, project: Path, generate: Generate, template: Path, tmp_path: Path
) -> None:
    rendered = {}
    for choice in QUESTIONS[question]:
        assert generate(template, "-o", f"as/{choice}", f"{question}={choice}").returncode == 0
        rendered[choice] = contents(tmp_path / "as" / choice / "demo")
    write(project, edited(rendered[QUESTIONS[question][0]]) | {"mine.py": "MINE = 1\n"})
    steps = list(every_step(QUESTIONS[question]))
    assert len(steps) == len(QUESTIONS[question]) * (len(QUESTIONS[question]) - 1)
    for choice in steps:
        regenerate(project, f"{question}={choice}")
        assert contents(project) == rendered[choice] | edited(rendered[choice]) | {"mine.py": "MINE = 1\n"}, choice


def test_unchanged_answers_change_nothing(project: Path) -> None:
    assert regenerate(project) == "nothing to change: the project is what these answers give\n"
    write(project, {name: text + "# mine\n" for name, text in contents(project).items() if name[:2] in ("co", "da")})
    before = everything(project)
    assert regenerate(project) == ("nothing to change: the answers are as they were; edited here: config.py, data.py\n")
    assert before == everything(project)
    write(project, {name: text + "# mine\n" for name, text in contents(project).items() if name[:1] not in ".cd"})
    printed = regenerate(project)
    assert re.fullmatch(r"nothing to change: .*; edited here: LICENSE, README.md and \d\d more\n", printed), printed


def test_another_task_brings_its_files_and_loses_no_edit(
    project: Path, generate: Generate, template: Path, tmp_path: Path
) -> None:
    task = (project / "task.py").read_text("utf-8")
    task = task.replace("(label_smoothing=config.label_smoothing)", "()  # mine")
    task = task.replace("import draw_images\n", "import draw_images  # mine\n")
    (project / "task.py").write_text(task, "utf-8")
    (project / "images.py").write_text((project / "images.py").read_text("utf-8") + "MINE = 1\n")
    (project / "README.md").write_text((project / "README.md").read_text("utf-8") + "mine\n")
    (project / "metrics.py").write_text("MINE = 2\n")
    printed = regenerate(project, "task_type=regression", status=1)
    assert "no longer in the template, but edited, so kept: images.py" in printed
    assert (
        "still imported by task.py, so kept: fine_tuning.py, grad_cam.py, image_grid.py, linear_probe.py\n" in printed
    )
    assert "CONFLICTS, look for <<<<<<< in: metrics.py, task.py" in printed
    assert generate(template, "-o", "as", "task_type=regression").returncode == 0
    expected = contents(tmp_path / "as" / "demo")
    found = contents(project)
    assert found.keys() == expected.keys() | {
        "images.py",
        "fine_tuning.py",
        "grad_cam.py",
        "image_grid.py",
        "linear_probe.py",
        "image_files.py",
    }
    assert found["README.md"] == expected["README.md"] + "mine\n"
    for name, mine in (("task.py", "# mine"), ("metrics.py", "MINE = 2")):
        blocks = re.findall(r"<<<<<<< your edits\n(.*?)^=======\n(.*?)^>>>>>>>", found[name], re.M | re.S)
        assert any(mine in ours and theirs for ours, theirs in blocks)
    same = expected.keys() - {"README.md", "task.py", "metrics.py"}
    assert {name: found[name] for name in same} == {name: expected[name] for name in same}
    for name in ("task.py", "metrics.py"):
        shutil.copy(tmp_path / "as" / "demo" / name, project)
    call = [sys.executable, "-B", "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    assert subprocess.run(call, cwd=project, capture_output=True).returncode == 0


def test_an_edit_on_the_very_line_stands_beside_the_answer(project: Path) -> None:
    config = project / "config.py"
    line = re.search(r'^    warm_up_mode: .* = "linear".*\n', config.read_text("utf-8"), re.MULTILINE)
    assert line
    mine = line[0].replace('= "linear"', '= "constant"')
    config.write_text(config.read_text("utf-8").replace(line[0], mine), "utf-8")
    regenerate(project, "warm_up_mode=none", status=1)
    theirs = line[0].replace('= "linear"', '= "none"')
    assert f"<<<<<<< your edits\n{mine}=======\n{theirs}>>>>>>> the new answers\n" in config.read_text("utf-8")


def test_a_file_with_conflict_markers_is_not_merged_again(project: Path) -> None:
    test_an_edit_on_the_very_line_stands_beside_the_answer(project)
    text = (project / "config.py").read_text("utf-8")
    assert "config.py still has <<<<<<< of the last time" in regenerate(project, "warm_up_mode=exponential", status=1)
    assert (project / "config.py").read_text("utf-8") == text


def test_what_was_deleted_stays_so_and_windows_line_ends_stay_too(project: Path) -> None:
    (project / "README.md").unlink()
    config = project / "config.py"
    config.write_bytes(config.read_bytes().replace(b"\n", b"\r\n"))
    regenerate(project, "lr_scheduler_type=step")
    assert not (project / "README.md").exists()
    text = config.read_bytes()
    assert b'= "step"' in text and text.count(b"\n") == text.count(b"\r\n") > 50


def test_the_script_of_a_new_file_may_be_run_and_nothing_is_left_beside(project: Path) -> None:
    names = files_in(project)
    regenerate(project, "license=none")
    assert files_in(project) == names - {"LICENSE"}
    regenerate(project, "license=MIT")
    assert files_in(project) == names


# ---- a newer template ----


def test_an_update_brings_what_is_new_and_keeps_edits(project: Path, template: Path, tmp_path: Path) -> None:
    newer = tmp_path / "newer"
    git(tmp_path, "clone", "-q", str(template), str(newer))
    logger = newer / "{{cookiecutter.project_slug}}" / "engine" / "logger.py"
    logger.write_text(logger.read_text("utf-8").replace("class Logger", "NEW = 1\n\n\nclass Logger"), "utf-8")
    questions = json.loads((newer / "cookiecutter.json").read_text("utf-8"))
    del questions["author_name"], questions["__prompts__"]["author_name"]
    for path in newer.rglob("*"):
        if path.is_file() and ".git" not in path.parts and "hooks" not in path.parts:
            text = path.read_text("utf-8")
            path.write_text(text.replace("cookiecutter.author_name", "cookiecutter.organisation"), "utf-8")
    questions = {"organisation": "", **questions}
    (newer / "cookiecutter.json").write_text(json.dumps(questions), "utf-8")
    hook = newer / "hooks" / "pre_gen_project.py"
    hook.write_text(hook.read_text("utf-8").replace('("project_name", "author_name")', '("project_name",)'), "utf-8")
    git(newer, "commit", "-qam", "second")
    write(project, edited(contents(project)))
    plain = regenerate(project, "--template", str(newer), "lr_scheduler_type=step")
    assert "NEW" not in (project / "engine" / "logger.py").read_text("utf-8") and "logger" not in plain
    regenerate(project, "--update", "warm_up_mode=none", "organisation=We")
    text = (project / "engine" / "logger.py").read_text("utf-8")
    assert text.startswith("# mine\n") and "\nNEW = 1\n" in text and text.endswith("# mine\n")
    lock = json.loads((project / LOCK).read_text("utf-8"))
    assert lock["commit"] == git(newer, "rev-parse", "HEAD").strip() and lock["template"] == str(newer)
    answers = (project / ".cookiecutter.yaml").read_text("utf-8")
    assert 'organisation: "We"' in answers and 'lr_scheduler_type: "step"' in answers and "author" not in answers
    assert regenerate(project, "--update").startswith("nothing to change")


# ---- what is refused ----


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["lr_schedular_type=step"],
            "error: there is no question 'lr_schedular_type'; did you mean lr_scheduler_type?",
        ),
        (
            ["lr_scheduler_type=stepp"],
            "error: stepp provided for choice variable lr_scheduler_type, but the choices are",
        ),
        (["project_slug=a b"], "error: project_slug 'a b' cannot name a folder"),
        (["step"], "error: 'step' is no answer; write NAME=ANSWER, as lr_scheduler_type=step"),
        (
            ["--template", "nowhere"],
            'error: the template cannot be had from nowhere (A valid repository for "nowhere" could not be found',
        ),
        (["--what"], "error: '--what' is no answer; write NAME=ANSWER, as lr_scheduler_type=step"),
        (["--template="], None),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(words: list[str], line: str | None, project: Path) -> None:
    before = everything(project)
    printed = regenerate(project, *words, status=1 if line else 0)
    assert line is None or printed.splitlines()[-1].startswith(line), printed
    assert before == everything(project)


def test_what_is_missing_is_named(project: Path, template: Path, tmp_path: Path) -> None:
    bare = {"PATH": str(tmp_path)}
    assert regenerate(project, status=1, **bare).endswith("error: git is not installed; merging needs it\n")
    (project / LOCK).unlink()
    said = "error: it is not known where the template is; give --template with its path or address\n"
    assert regenerate(project, status=1) == said
    assert regenerate(project, "--update", "--template", str(template), status=1) == (
        "error: an update needs the commit that made demo, or the digests of its files, and .cookiecutter.lock has "
        "neither; run `python scripts/regenerate.py --template PLACE` there first, with the template that made it\n"
    )
    (project / ".cookiecutter.yaml").write_text("default_context:\n")
    assert "has no answers" in regenerate(project, "--template", str(template), status=1)
    (project / ".cookiecutter.yaml").unlink()
    assert "bring it back from git" in regenerate(project, "--template", str(template), status=1)


def test_a_template_that_has_moved_or_is_older_is_one_line(project: Path, template: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    git(tmp_path, "clone", "-q", str(template), str(moved))
    lock = json.loads((project / LOCK).read_text("utf-8")) | {"template": f"git+file://{tmp_path}/gone"}
    (project / LOCK).write_text(json.dumps(lock), "utf-8")
    [line] = regenerate(project, status=1).splitlines()
    assert line.startswith(f"error: the template cannot be had from git+file://{tmp_path}/gone (")
    assert line.endswith("); if it has moved, give --template PATH_OR_ADDRESS")
    assert regenerate(project, "--template", str(moved)).startswith("nothing to change")
    assert json.loads((project / LOCK).read_text("utf-8"))["template"] == str(moved)
    (moved / "hooks" / "pre_gen_project.py").unlink()
    assert regenerate(project, status=1) == (
        f"error: the template at {moved} is older than this script and cannot merge; give --template a newer one\n"
    )


def test_it_finds_the_project_from_anywhere_and_a_relative_template_from_there(
    project: Path, template: Path, tmp_path: Path
) -> None:
    os.symlink(template, tmp_path / "near")
    command = [sys.executable, "-B", "out/demo/scripts/regenerate.py", "num_parts=2", "--template", "near"]
    assert subprocess.run(command, cwd=tmp_path, env=os.environ | {"PWD": str(tmp_path)}).returncode == 0
    assert 'num_parts: "2"' in (project / ".cookiecutter.yaml").read_text("utf-8")
    assert json.loads((project / LOCK).read_text("utf-8"))["template"] == str(tmp_path / "near")


def merge_of(folder: Path) -> "merging.Merge":
    """The merge of the folders here, was and becomes."""
    here, was, becomes = (merging.read_files(folder / name) for name in ("here", "was", "becomes"))
    return merging.Merge(folder / "here", here, was, becomes)


def test_files_that_are_not_text_are_replaced_but_never_merged(tmp_path: Path) -> None:
    for folder, value in (("here", b"\0a"), ("was", b"\0a"), ("becomes", b"\0b")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "data.bin").write_bytes(value)
    result = merge_of(tmp_path).results["data.bin"]
    assert result and result.data == b"\0b"
    (tmp_path / "here" / "data.bin").write_bytes(b"\0mine")
    with pytest.raises(ValueError, match="git merge-file failed"):
        merge_of(tmp_path)


# ---- any task after any other ----


def test_every_task_after_every_other_loses_no_edit(render: Render, tmp_path: Path) -> None:
    rendered = {task: render(task_type=task, project_slug=task.replace("_", "-")) for task in QUESTIONS["task_type"]}
    for before, after in ((a, b) for a in rendered for b in rendered if a != b):
        folder = tmp_path / "pairs" / before / after
        shutil.copytree(rendered[before], folder / "here")
        for name, task in (("was", before), ("becomes", after)):
            shutil.copytree(rendered[task], folder / name)
        for path in folder.rglob("*"):  # all of these are of one project
            if path.name in ("README.md", "pyproject.toml", ".cookiecutter.yaml"):
                text = path.read_text("utf-8")
                path.write_text(re.sub("|".join(t.replace("_", "-") for t in rendered), "demo", text), "utf-8")
        mine = realistic_edits(folder / "here")
        merge = merge_of(folder)
        print(row(f"{before} -> {after}", merge, mine))
        for name, lines in mine.items():
            assert all(line in merge.final_text(name).decode() for line in lines), (before, after, name)
        for name, result in merge.results.items():
            if result and name not in (*merge.conflicts, *mine):
                assert result.data == merge.becomes[name].data
        there = {name for name in files_in(folder / "here") if merge.results.get(name, name) is not None}
        there |= merge.results.keys()
        for name in (*mine, *(name for names in merge.imported.values() for name in names)):
            wanted = merging.imports_of(name, merge.final_text(name)) & merge.was.keys()
            assert wanted <= there - {name for name, result in merge.results.items() if result is None}, name


def realistic_edits(project: Path) -> dict[str, list[str]]:
    """Edits as a person makes them: a metric, a default, a line of the README, a file; returns the lines by file."""
    mine = {"mine.py": ["from task import Task", "MINE = 1"]}
    (project / "mine.py").write_text("from task import Task\n\nMINE = 1\n", "utf-8")
    for name, pattern, line in (
        ("task.py", r"(?m)^    def (?:metric|loss)\(.*\n.*\n", '        print("my metric")'),
        ("config.py", "", None),
        ("README.md", r"\Z", "A line of mine."),
    ):
        text = (project / name).read_text("utf-8")
        if line is None:
            [old] = re.findall(r"(?m)^    batch_size: .*$", text)
            line = re.sub(r"= \d+", "= 77", old)
            text = text.replace(old, line)
        else:
            end = re.search(pattern, text)
            assert end
            text = f"{text[: end.end()]}{line}\n{text[end.end() :]}"
        assert line in text, name
        (project / name).write_text(text, "utf-8")
        mine[name] = [line]
    return mine


def row(name: str, merge: "merging.Merge", mine: dict[str, list[str]]) -> str:
    """A row of a table: which edited files are as they were, merged, or have conflicts; how many others are kept."""
    merged = [file for file in mine if file in merge.results and file not in merge.conflicts]
    untouched = [file for file in mine if file not in merge.results]
    imported = sum(len(names) for names in merge.imported.values())
    cells = (", ".join(files) or "-" for files in (untouched, merged, merge.conflicts))
    return f"| {name} | {' | '.join(cells)} | {imported} |"


def test_the_same_edits_over_every_schedule_after_every_other(render: Render, tmp_path: Path) -> None:
    choices = QUESTIONS["lr_scheduler_type"]
    rendered = {choice: render(lr_scheduler_type=choice, project_slug=f"demo-{choice}") for choice in choices}
    for before, after in ((a, b) for a in choices for b in choices if a != b):
        folder = tmp_path / "pairs" / before / after
        for name, choice in (("here", before), ("was", before), ("becomes", after)):
            shutil.copytree(rendered[choice], folder / name)
            for path in (folder / name).rglob("*.*"):
                if path.is_file():
                    text = path.read_text("utf-8")
                    path.write_text(text.replace(f"demo-{choice}", "demo"), "utf-8")
        mine = realistic_edits(folder / "here")
        merge = merge_of(folder)
        print(row(f"{before} -> {after}", merge, mine))
        for name, lines in mine.items():
            assert all(line in merge.final_text(name).decode() for line in lines), (before, after, name)
        assert not merge.conflicts


# ---- what stays since it is imported ----


def test_what_a_kept_file_imports_stays_with_all_that_that_imports(tmp_path: Path) -> None:
    texts = {
        "task.py": "from a import A\n",
        "a.py": "import b as other, d  # c\n",
        "b.py": "from engine.deep import (\n    one,\n    two,\n)\n",
        "c.py": "",
        "d.py": "",
        "engine/deep/__init__.py": "from . import one\nfrom ..up import two\n",
        "engine/deep/one.py": "",
        "engine/up.py": "",
        "engine/other.py": "",
    }
    for folder in ("here", "was", "becomes"):
        for name, text in texts.items() if folder != "becomes" else [("task.py", "NEW = 1\n")]:
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / name).write_text(text, "utf-8")
    (tmp_path / "here" / "task.py").write_text("from a import A  # mine\n", "utf-8")
    merge = merge_of(tmp_path)
    assert {name for name, result in merge.results.items() if result is None} == {"c.py", "engine/other.py"}
    assert merge.summary() == [
        "removed: c.py, engine/other.py",
        "still imported by task.py, so kept: a.py",
        "still imported by a.py, so kept: b.py, d.py",
        "still imported by b.py, so kept: engine/deep/__init__.py, engine/deep/one.py",
        "still imported by engine/deep/__init__.py, so kept: engine/up.py",
        "CONFLICTS, look for <<<<<<< in: task.py",
    ]


# ---- a template whose commit is not known ----


def newer_template(template: Path, folder: Path) -> Path:
    """A clone with one more commit, which changes engine/logger.py and train.py."""
    git(folder, "clone", "-q", str(template), "newer")
    change_template(folder / "newer")
    git(folder / "newer", "commit", "-qam", "second")
    return folder / "newer"


def change_template(template: Path) -> None:
    for name, old in (("engine/logger.py", "class Logger"), ("train.py", "def train")):
        path = template / "{{cookiecutter.project_slug}}" / name
        path.write_text(path.read_text("utf-8").replace(old, f"NEW = 1\n\n\n{old}", 1), "utf-8")


def read_lock(project: Path) -> dict[str, Any]:
    lock: dict[str, Any] = json.loads((project / LOCK).read_text("utf-8"))
    return lock


def forget_commit(project: Path, commit: str = "") -> None:
    """The lock as if the template had not been in git or, with another commit, as if its history was rewritten."""
    (project / LOCK).write_text(json.dumps(read_lock(project) | {"commit": commit}), "utf-8")


@pytest.mark.parametrize("commit", ["", "0123456789" * 4], ids=["no commit", "a commit that is gone"])
def test_a_fix_arrives_though_other_answers_came_first_and_no_commit_is_known(
    commit: str, project: Path, template: Path, tmp_path: Path, generate: Generate
) -> None:
    newer = newer_template(template, tmp_path)
    forget_commit(project, commit)
    write(project, edited({"train.py": (project / "train.py").read_text("utf-8")}))
    printed = regenerate(project, "--template", str(newer), "lr_scheduler_type=step")
    said = f"commit {commit[:9]} is not in the template at {newer}: files are compared by their digests\n"
    said *= bool(commit)
    assert printed == f"{said}changed: .cookiecutter.yaml, README.md, config.py\n"
    assert "NEW" not in (project / "engine" / "logger.py").read_text("utf-8")
    lock = read_lock(project)
    assert lock["commit"] == commit  # what lies between was not merged
    assert generate(template, "-o", "as", "lr_scheduler_type=step").returncode == 0
    assert lock["files"] == read_lock(tmp_path / "as" / "demo")["files"]
    printed = regenerate(project, "--update", status=1)
    assert f"{said}changed: engine/logger.py\nCONFLICTS, look for <<<<<<< in: train.py\n" == printed
    assert "\nNEW = 1\n" in (project / "engine" / "logger.py").read_text("utf-8")
    text = (project / "train.py").read_text("utf-8")
    assert text.count("# mine") == 2 and "NEW = 1" in text  # both versions: its base is not known
    assert read_lock(project)["commit"] == git(newer, "rev-parse", "HEAD").strip()


def test_a_proven_base_is_merged_and_a_commit_is_recorded_where_all_are(
    project: Path, template: Path, tmp_path: Path
) -> None:
    forget_commit(project)
    newer = newer_template(template, tmp_path)
    write(project, edited({"config.py": (project / "config.py").read_text("utf-8")}))
    assert regenerate(project, "num_parts=2", "--update", "--template", str(newer)) == (
        "changed: .cookiecutter.yaml, README.md, config.py, engine/logger.py, train.py\n"
    )
    forget_commit(project)
    write(project, edited({"train.py": (project / "train.py").read_text("utf-8")}))
    assert regenerate(project, "num_parts=3") == "changed: .cookiecutter.yaml, README.md, config.py\n"
    assert read_lock(project)["commit"] == git(newer, "rev-parse", "HEAD").strip()


def test_what_is_not_known_is_not_in_the_lock(project: Path, template: Path, tmp_path: Path) -> None:
    forget_commit(project)
    newer = newer_template(template, tmp_path)
    path = newer / "{{cookiecutter.project_slug}}" / "config.py"
    path.write_text(path.read_text("utf-8") + "\nNEW = 1\n", "utf-8")
    git(newer, "commit", "-qam", "third")
    write(project, edited({"config.py": (project / "config.py").read_text("utf-8")}))
    (project / "train.py").unlink()
    regenerate(project, "--template", str(newer), "lr_scheduler_type=step")
    assert "config.py" not in read_lock(project)["files"] and "train.py" in read_lock(project)["files"]
    regenerate(project, "--update", status=1)
    assert "NEW = 1" in (project / "config.py").read_text("utf-8") and not (project / "train.py").exists()


def test_answers_that_were_edited_by_hand_are_taken_up(project: Path, generate: Generate, template: Path) -> None:
    answers = project / ".cookiecutter.yaml"
    answers.write_text(answers.read_text("utf-8").replace('"annealing"', '"step"'), "utf-8")
    assert regenerate(project) == "changed: README.md, config.py\n"
    assert regenerate(project) == "nothing to change: the project is what these answers give\n"


# ---- being stopped ----


@needs_posix
def test_a_kill_leaves_the_project_as_before_or_as_after(project: Path, template: Path, tmp_path: Path) -> None:
    """The counts are printed; `SOAK=1 python -m pytest -rP -k kill_leaves tests/test_regenerate.py` has 300 kills."""
    write(project, edited(contents(project)))
    before = everything(project)
    shutil.copytree(project, tmp_path / "after")
    command = [sys.executable, "-B", "scripts/regenerate.py", "task_type=regression"]
    start = time.monotonic()
    assert subprocess.run(command, cwd=tmp_path / "after", capture_output=True).returncode == 1  # conflicts
    duration = time.monotonic() - start
    after = everything(tmp_path / "after")
    counts: Counter[str] = Counter()
    generator = random.Random(0)

    def state() -> str:
        there = everything(project)
        return "before" if there == before else "after" if there == after else "between"

    for _ in range(KILLS):
        shutil.rmtree(project)
        restore(project, before)
        process = subprocess.Popen(
            command, cwd=project, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        time.sleep(generator.uniform(0, 1.2 * duration))  # not every call is as fast as the first
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        while group_lives(process.pid):
            time.sleep(0.005)
        counts[f"at once: {state()}"] += 1
        if any(project.glob(".cookiecutter.merge*")):
            counts["something staged"] += 1
            regenerate(project)
        counts[f"after the next call: {state()}"] += 1
        assert not any(project.glob(".cookiecutter.merge*"))
    print(f"{KILLS} kills in {duration:.2f} s:", dict(sorted(counts.items())))
    assert counts["after the next call: between"] == 0


def restore(project: Path, files: dict[str, bytes]) -> None:
    """Writes exactly these files."""
    for name, data in files.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_bytes(data)


def group_lives(group: int) -> bool:
    """Whether a process of the group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


class Killed(BaseException):
    """Stands for kill -9: nothing catches it."""


@pytest.fixture
def staged(project: Path, template: Path, tmp_path: Path) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """A project with a regeneration that is ready, and not yet applied; its files before and after."""
    write(project, edited(contents(project)))
    shutil.copytree(project, tmp_path / "after")
    regenerate(tmp_path / "after", "task_type=regression", status=1)
    before = everything(project)
    request = merging.Request(project, template, str(template), {"task_type": "regression"}, False)
    merging.stage(project, merging.plan(request)[0])
    return before, everything(tmp_path / "after")


Staged = tuple[dict[str, bytes], dict[str, bytes]]


def test_a_kill_between_any_two_files_is_completed_by_the_next_call(project: Path, staged: Staged) -> None:
    before, after = staged
    shutil.copytree(project / merging.JOURNAL, project.parent / "journal")
    replace, number = os.replace, 0
    while True:
        number += 1
        left = number

        def dies(source: Path, target: Path) -> None:
            nonlocal left
            left -= 1
            if not left:
                raise Killed
            replace(source, target)

        try:
            with mock.patch.object(os, "replace", dies):
                merging.apply(project)
            break
        except Killed:
            assert merging.recover(project)[0] == "completed what an interrupted call had begun:"
            assert everything(project) == after, number
            shutil.rmtree(project)
            restore(project, before)
            shutil.copytree(project.parent / "journal", project / merging.JOURNAL)
    assert number > 10 and everything(project) == after


def test_an_edit_after_an_interruption_is_not_overwritten(project: Path, staged: Staged) -> None:
    _, after = staged
    write(project, {"task.py": "# edited after the kill\n", "engine/logger.py": "# this one, too\n"})
    printed = regenerate(project)
    assert printed.startswith("completed what an interrupted call had begun:\n  changed: .cookiecutter.yaml, ")
    assert "  task.py was edited meanwhile, so kept; the merged version is in task.py.merged beside it\n" in printed
    assert everything(project) == after | {
        "task.py": b"# edited after the kill\n",
        "task.py.merged": after["task.py"],
        "engine/logger.py": b"# this one, too\n",
    }


def test_what_was_not_staged_in_full_is_discarded(project: Path, staged: Staged) -> None:
    before, _ = staged
    (project / merging.JOURNAL).rename(project / merging.UNREADY)
    (project / merging.UNREADY / "journal.json").unlink()
    printed = regenerate(project)
    assert printed.startswith("an interrupted call had changed nothing; what it had staged is discarded\nnothing to")
    assert everything(project) == before and not list(project.glob(".cookiecutter.merge*"))


def test_a_failure_while_staging_changes_nothing_and_leaves_nothing(project: Path, template: Path) -> None:
    before = everything(project)
    request = merging.Request(project, template, str(template), {"task_type": "regression"}, False)
    full = mock.patch.object(os, "fsync", side_effect=OSError(28, "No space left on device"))
    with full, pytest.raises(OSError, match="No space"):
        merging.stage(project, merging.plan(request)[0])
    assert everything(project) == before and not list(project.glob(".cookiecutter.merge*"))


# ---- cookiecutter -f over a project ----


def test_edits_are_merged_where_a_project_is_there(project: Path, generate: Generate, tmp_path: Path) -> None:
    template = newer_template(Path(read_lock(project)["template"]), tmp_path)
    write(project, edited(contents(project)) | {"mine.py": "MINE = 1\n"})
    (project / "predict.py").unlink()
    (project / "scripts" / "slurm.sh").chmod(0o700)
    done = generate(template, "-f", "lr_scheduler_type=step")
    assert done.returncode == 0, done.stderr
    changed = "changed: .cookiecutter.yaml, README.md, config.py, engine/logger.py, train.py\n"
    assert f"{changed}demo is ready:\n" in done.stdout
    assert generate(template, "-o", "as", "lr_scheduler_type=step").returncode == 0
    rendered = contents(tmp_path / "as" / "demo")
    expected = rendered | edited(rendered) | {"mine.py": "MINE = 1\n"}
    del expected["predict.py"]
    assert contents(project) == expected
    assert os.name == "nt" or (project / "scripts" / "slurm.sh").stat().st_mode & 0o777 == 0o700
    assert read_lock(project) == read_lock(tmp_path / "as" / "demo")
    git(project, "init", "-q")
    git(project, "add", "-A")
    git(project, "commit", "-q", "-m", "mine")  # makes no difference
    done = generate(template, "-f", "lr_scheduler_type=step")
    assert "nothing to change: the answers are as they were; edited here: LICENSE, README.md and" in done.stdout
    assert git(project, "status", "--porcelain") == ""


def test_conflicts_of_f_are_said_and_nothing_is_trained(project: Path, generate: Generate, template: Path) -> None:
    config = project / "config.py"
    config.write_text(config.read_text("utf-8").replace('= "linear"', '= "constant"'), "utf-8")
    done = generate(template, "-f", "warm_up_mode=none", "smoke_epoch=active")
    assert done.returncode == 0, done.stderr
    assert "CONFLICTS, look for <<<<<<< in: config.py\n" in done.stdout
    [line] = [line for line in done.stdout.splitlines() if line.startswith("not verified")]
    assert line.startswith("not verified, since there are conflicts; decide in these files, then: cd ")
    before = everything(project)
    done = generate(template, "-f", "warm_up_mode=exponential")
    assert done.returncode == 1
    assert "error: config.py still has <<<<<<< of the last time; decide there first" in done.stderr
    assert everything(project) == before
    git(project, "init", "-q")
    config.write_text(re.sub(r"(?s)<<<<<<< .*?=======\n|>>>>>>> .*?\n", "", config.read_text("utf-8")), "utf-8")
    assert generate(template, "-f", "warm_up_mode=exponential").returncode == 0


@needs_posix
def test_f_that_is_killed_while_it_overwrites_is_completed(project: Path, template: Path, tmp_path: Path) -> None:
    write(project, edited(contents(project)))
    shutil.copytree(project, tmp_path / "after")
    regenerate(tmp_path / "after", "task_type=regression", status=1)
    answers = merging.read_answers(tmp_path / "after" / ".cookiecutter.yaml")
    request = merging.Request(project, template, str(template), answers, True, rendered=True)
    assert merging.prepare(request) == []
    for number, path in enumerate(sorted((project / merging.JOURNAL).glob("*.rendered"))):
        entry = merging.read_journal(project)["entries"][int(path.stem)]
        text = path.read_bytes()
        # As cookiecutter does. Where it is the script itself, only cookiecutter -f can go on.
        is_whole = number % 3 or entry["name"] == "scripts/regenerate.py"
        (project / entry["name"]).write_bytes(text if is_whole else text[: len(text) // 2])
    assert "completed what an interrupted call had begun:\n  changed: " in regenerate(project)
    assert everything(project) == everything(tmp_path / "after")


def test_a_folder_of_which_nothing_is_known_is_not_overwritten(
    generate: Generate, template: Path, tmp_path: Path
) -> None:
    (tmp_path / "out" / "demo").mkdir(parents=True)
    (tmp_path / "out" / "demo" / "README.md").write_text("mine\n")
    done = generate(template, "-f")
    assert done.returncode == 1
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line == (
        "error: demo holds files, but neither .cookiecutter.yaml nor .cookiecutter.lock, so that they cannot be merged "
        "and would be lost: README.md; commit them first, or choose another project_slug"
    )
    assert (tmp_path / "out" / "demo" / "README.md").read_text() == "mine\n"


# ---- from version 0.2.0, whose task was one file ----

OF_0_2 = "f9bccc5"
HELPER = "def my_helper(acc: Tensor) -> Tensor:\n    return 1 - acc\n\n\n"
MINE = {  # what a person changed, and where each is now
    'return {"acc": hits': ('return {"error": my_helper(hits[:, 0].float().mean()), "acc": hits', ""),
    '    head = Fp32Linear(features, len(meta["classes"]))\n': (
        '    head = nn.Sequential(nn.Dropout(0.1), Fp32Linear(features, len(meta["classes"])))\n',
        "model.py",
    ),
    'print(f"data: ': ('print(f"my data: ', "data.py"),
    "# ---- network ----\n": (f"{HELPER}# ---- network ----\n", ""),
}


@pytest.fixture
def old_project(tmp_path: Path, generate: Generate) -> Path:
    """A project of version 0.2.0 with edits; its template, `templates`, has that version and the present one."""
    if subprocess.run(["git", "cat-file", "-e", f"{OF_0_2}^{{commit}}"], cwd=ROOT, capture_output=True).returncode:
        pytest.skip(f"version 0.2.0, commit {OF_0_2}, is not in this clone; git fetch --unshallow brings it")
    template = tmp_path / "templates"
    template.mkdir()
    subprocess.run(["git", "archive", "-o", str(tmp_path / "old.tar"), OF_0_2], cwd=ROOT, check=True)
    shutil.unpack_archive(tmp_path / "old.tar", template)
    git(template, "init", "-q")
    git(template, "add", "-A")
    git(template, "commit", "-q", "-m", "0.2.0")
    assert generate(template).returncode == 0
    git(template, "rm", "-rqf", ".")
    copy_template(template)
    git(template, "add", "-A")
    git(template, "commit", "-q", "-m", "present")
    project = tmp_path / "out" / "demo"
    task, config = (project / name for name in ("task.py", "config.py"))
    for old, (mine, _) in MINE.items():
        assert old in task.read_text("utf-8")
        task.write_text(task.read_text("utf-8").replace(old, mine), "utf-8")
    config.write_text(config.read_text("utf-8").replace("label_smoothing: float = 0.1", "label_smoothing: float = 0.2"))
    (project / "README.md").write_text((project / "README.md").read_text("utf-8") + "\nmine\n", "utf-8")
    write(project, {"mine.py": "MINE = 1\n"})
    return project


@pytest.mark.parametrize("way", ["its own engine.regenerate", "cookiecutter -f"])
def test_a_project_of_version_0_2_is_updated_and_says_what_has_to_move(
    way: str, old_project: Path, generate: Generate, tmp_path: Path, cookiecutter_config: Path
) -> None:
    project = old_project
    if way == "cookiecutter -f":
        settings = (project / ".cookiecutter.yaml").read_text("utf-8") + cookiecutter_config.read_text("utf-8")
        (tmp_path / "answers.yaml").write_text(settings, "utf-8")
        done = generate(tmp_path / "templates", "-f", config=tmp_path / "answers.yaml")
        assert done.returncode == 0, done.stderr
        assert (
            "task.py: you changed build_model_list, which is now in model.py, and load_data, which is now in data.py; "
            "you added my_helper; move your version there from the conflict\n"
        ) in done.stdout
    else:
        command = [sys.executable, "-B", "-m", "engine.regenerate", "--update"]
        done = subprocess.run(command, cwd=project, capture_output=True, text=True)
        assert done.returncode == 1, done.stderr
    assert "CONFLICTS, look for <<<<<<< in: config.py, task.py\n" in done.stdout
    text = (project / "task.py").read_text("utf-8")
    assert all(mine in text for mine, _ in MINE.values())
    assert (project / "README.md").read_text("utf-8").endswith("\nmine\n") and (project / "mine.py").exists()
    for name in ("task.py", "config.py"):  # the person takes the new version, and moves theirs
        text = (project / name).read_text("utf-8")
        text = re.sub(r"(?ms)^<<<<<<< .*?^=======\n(.*?)^>>>>>>> [^\n]*\n", r"\1", text)
        text = re.sub(r"( label_smoothing: \w+) = 0.1", r"\1 = 0.2", text)
        (project / name).write_text(text + ("\n\n" + HELPER.rstrip() + "\n") * (name == "task.py"), "utf-8")
    for old, (mine, name) in MINE.items():
        if name:
            text = (project / name).read_text("utf-8")
            assert old in text
            (project / name).write_text(text.replace(old, mine), "utf-8")
    printed = regenerate(project)
    assert printed.startswith("nothing to change: the answers are as they were; edited here: README.md, config.py and")
    status, output = run_script(project, ["train.py", "--smoke", "--device", "cpu"], tmp_path / "output")
    assert status == 0 and "my data: " in output and "smoke epoch: loss" in output, output


# ---- answers that cookiecutter passes over ----


def test_a_misspelt_answer_on_the_command_line_is_not_passed_over(
    generate: Generate, template: Path, tmp_path: Path
) -> None:
    done = generate(template, "lr_schedular_type=step")
    assert done.returncode == 1
    assert "error: there is no question 'lr_schedular_type'; did you mean lr_scheduler_type?" in done.stderr
    assert not (tmp_path / "out" / "demo").exists()
    done = generate(template, "lr_scheduler_type=stepp")
    assert done.returncode == 1 and "the choices are ['annealing', 'step'" in done.stderr


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        ("lr_schedular_type: step", "there is no question 'lr_schedular_type'; did you mean lr_scheduler_type?"),
        ("lr_scheduler_type: stepp", "'stepp' is no choice; choose one of annealing, step, metric, loss, none"),
        ("github_username: me", ""),  # such files serve many templates
    ],
)
def test_a_misspelt_answer_in_a_file_is_not_passed_over(
    answer: str, line: str, generate: Generate, template: Path, tmp_path: Path, cookiecutter_config: Path
) -> None:
    config = tmp_path / "answers.yaml"
    config.write_text(f"{cookiecutter_config.read_text('utf-8')}default_context:\n  {answer}\n")
    done = generate(template, config=config)
    assert done.returncode == bool(line) and line in done.stderr
    assert (tmp_path / "out" / "demo").exists() == (not line)


# ---- where a template comes from ----


def test_every_source_gives_the_same_project_which_can_be_regenerated(
    project: Path, template: Path, generate: Generate, tmp_path: Path
) -> None:
    shutil.make_archive(str(tmp_path / "zipped"), "zip", template.parent, template.name)
    os.symlink(template, tmp_path / "near")
    sources = {
        "zip": [str(tmp_path / "zipped.zip")],
        "url": [f"git+{template.as_uri()}"],
        "tag": [f"git+{template.as_uri()}", "--checkout", "v1"],
        "near": ["near"],
    }
    for name, (place, *options) in sources.items():
        done = generate(place, *options, "-o", f"from_{name}")
        assert done.returncode == 0, done.stderr
        made = tmp_path / f"from_{name}" / "demo"
        assert contents(made) == contents(project), name
        lock = json.loads((made / LOCK).read_text("utf-8"))
        assert bool(lock["commit"]) == (name != "zip"), name
        write(made, edited(contents(made)))
        assert regenerate(made, "lr_scheduler_type=step").startswith(
            "changed: .cookiecutter.yaml, README.md, config.py"
        )
        assert "# mine" in (made / "config.py").read_text("utf-8")


def test_a_project_without_hooks_and_its_answers_in_a_file(
    project: Path, template: Path, generate: Generate, tmp_path: Path, cookiecutter_config: Path
) -> None:
    assert generate(template, "--accept-hooks", "no", "-o", "bare").returncode == 0
    bare = tmp_path / "bare" / "demo"
    assert contents(bare) == contents(project) and not (bare / LOCK).exists()
    regenerate(bare, "--template", str(template), "num_parts=2")
    assert json.loads((bare / LOCK).read_text("utf-8"))["template"] == str(template)
    settings = (bare / ".cookiecutter.yaml").read_text("utf-8") + cookiecutter_config.read_text("utf-8")
    (tmp_path / "answers.yaml").write_text(settings, "utf-8")
    assert generate(template, "-o", "again", config=tmp_path / "answers.yaml").returncode == 0
    assert contents(tmp_path / "again" / "demo") == contents(bare)
    replay = cookiecutter_config.parent / "replay" / "torch-template.json"
    assert generate(template, "--replay-file", str(replay), "-o", "replayed").returncode == 0
    assert contents(tmp_path / "replayed" / "demo") == contents(bare)


# ---- cruft ----


@pytest.fixture
def cruft(tmp_path: Path, cookiecutter_config: Path) -> Callable[..., str]:
    """cruft(folder, *words) is what cruft prints there, on both streams."""
    (tmp_path / "temporary").mkdir()
    environment = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(tmp_path / "temporary"))  # else this test is in it
    environment["COOKIECUTTER_CONFIG"] = str(cookiecutter_config)

    def run(folder: Path, *words: str, status: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "cruft", *words],
            cwd=folder,
            env=os.environ | environment | {"PWD": str(folder)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


@pytest.fixture
def cruft_project(template: Path, cruft: Callable[..., str], tmp_path: Path) -> Path:
    """A new project that cruft has made, with edits, committed."""
    answers = {"project_name": "Demo", "smoke_epoch": "skip"}
    assert "demo is ready" in cruft(
        tmp_path, "create", str(template), "--no-input", "--extra-context", json.dumps(answers)
    )
    made = tmp_path / "demo"
    for name in ("task.py", "README.md", "config.py"):
        write(made, {name: f"# mine\n{(made / name).read_text('utf-8')}"})
    git(made, "init", "-q")
    git(made, "add", "-A")
    git(made, "commit", "-q", "-m", "mine")
    return made


def test_cruft_brings_other_answers_and_newer_templates_and_keeps_edits(
    cruft_project: Path, template: Path, cruft: Callable[..., str], tmp_path: Path, generate: Generate
) -> None:
    newer = tmp_path / "newer"
    git(tmp_path, "clone", "-q", str(template), str(newer))
    logger = newer / "{{cookiecutter.project_slug}}" / "engine" / "logger.py"
    logger.write_text(logger.read_text("utf-8") + "NEW = 1\n", "utf-8")
    git(newer, "commit", "-qam", "second")
    state = cruft_project / ".cruft.json"
    state.write_text(state.read_text("utf-8").replace(str(template), str(newer)), "utf-8")
    git(cruft_project, "commit", "-qam", "the template is elsewhere")
    assert "FAILURE" in cruft(cruft_project, "check", status=1)
    changes = json.dumps({"lr_scheduler_type": "step"})
    said = cruft(cruft_project, "update", "--skip-apply-ask", "--variables-to-update", changes)
    assert "as clean as possible" in said and "is ready" not in said
    assert generate(newer, "-o", "as", "lr_scheduler_type=step").returncode == 0
    expected = contents(tmp_path / "as" / "demo")
    mine = {name: f"# mine\n{expected[name]}" for name in ("task.py", "README.md", "config.py")}
    shutil.rmtree(cruft_project / ".git")
    assert contents(cruft_project) == expected | mine | {".cruft.json": state.read_text("utf-8")}
    assert "SUCCESS" in cruft(cruft_project, "check")
    assert json.loads(state.read_text("utf-8"))["context"]["cookiecutter"]["lr_scheduler_type"] == "step"


def test_in_a_project_of_cruft_the_command_that_does_it_is_said_and_does_it(
    cruft_project: Path, cruft: Callable[..., str]
) -> None:
    said = regenerate(cruft_project, "lr_scheduler_type=step", "warm_up_mode=none", status=1)
    [line] = said.splitlines()
    assert line.startswith("error: cruft keeps the answers of this project; commit, then: cruft update ")
    assert regenerate(cruft_project, "--update", status=1).endswith("then: cruft update\n")
    cruft(cruft_project, *shlex.split(line.partition("then: cruft ")[2]), "--skip-apply-ask")
    config = (cruft_project / "config.py").read_text("utf-8")
    assert '= "step"' in config and '= "none"' in config and config.startswith("# mine\n")
    assert not (cruft_project / LOCK).exists()
