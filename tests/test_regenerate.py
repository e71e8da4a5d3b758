"""Other answers and newer templates for projects that were edited: what an edit and an answer change are both there."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import QUESTIONS, ROOT, files_in
from engine.regenerate import Merge

LOCK = ".cookiecutter.lock"


def git(folder: Path, *words: str) -> str:
    """What git prints, with a name for the commits of tests."""
    command = ["git", "-c", "user.name=Test", "-c", "user.email=test@localhost", *words]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template in a git repository of its own, with the tag v1."""
    folder = tmp_path_factory.mktemp("source") / "torch-template"
    for part in ("{{cookiecutter.project_slug}}", "templates", "hooks"):
        shutil.copytree(ROOT / part, folder / part)
    shutil.copy(ROOT / "cookiecutter.json", folder)
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
    """What `python -m engine.regenerate *words` prints, on both streams."""
    done = subprocess.run(
        [sys.executable, "-B", "-m", "engine.regenerate", *words],
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
    write(project, edited(contents(project)))
    before = {name: (project / name).read_bytes() for name in files_in(project)}
    assert regenerate(project) == "nothing to change: the project is what these answers give\n"
    assert before == {name: (project / name).read_bytes() for name in files_in(project)}


def test_another_task_brings_its_files_and_loses_no_edit(
    project: Path, generate: Generate, template: Path, tmp_path: Path
) -> None:
    task = (project / "task.py").read_text("utf-8")
    (project / "task.py").write_text(task.replace("(label_smoothing=config.label_smoothing)", "()  # mine"), "utf-8")
    (project / "images.py").write_text((project / "images.py").read_text("utf-8") + "MINE = 1\n")
    (project / "README.md").write_text((project / "README.md").read_text("utf-8") + "mine\n")
    (project / "metrics.py").write_text("MINE = 2\n")
    printed = regenerate(project, "task_type=regression", status=1)
    assert "no longer in the template, but edited, so kept: images.py" in printed
    assert "CONFLICTS, look for <<<<<<< in: metrics.py, task.py" in printed
    assert generate(template, "-o", "as", "task_type=regression").returncode == 0
    expected = contents(tmp_path / "as" / "demo")
    found = contents(project)
    assert found.keys() == expected.keys() | {"images.py"}
    assert found["README.md"] == expected["README.md"] + "mine\n"
    for name, mine in (("task.py", "# mine"), ("metrics.py", "MINE = 2")):
        ours, theirs = re.findall(r"<<<<<<< your edits\n(.*?)^=======\n(.*?)^>>>>>>>", found[name], re.M | re.S)[0]
        assert mine in ours and theirs
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
        (["--template", "nowhere"], "error: "),
        (["--template="], None),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(words: list[str], line: str | None, project: Path) -> None:
    before = {name: (project / name).read_bytes() for name in files_in(project)}
    printed = regenerate(project, *words, status=1 if line else 0)
    assert line is None or printed.splitlines()[-1].startswith(line), printed
    assert before == {name: (project / name).read_bytes() for name in files_in(project)}


def test_what_is_missing_is_named(project: Path, tmp_path: Path) -> None:
    bare = {"PATH": str(tmp_path)}
    assert regenerate(project, status=1, **bare).endswith("error: git is not installed; merging needs it\n")
    (project / LOCK).unlink()
    said = "error: it is not known where the template is; give --template with its path or address\n"
    assert regenerate(project, status=1).endswith(said)
    assert "--update needs the commit that made this project" in regenerate(project, "--update", status=1)
    (project / ".cookiecutter.yaml").write_text("default_context:\n")
    assert "has no answers" in regenerate(project, status=1)
    (project / ".cookiecutter.yaml").unlink()
    assert "run this in the project's folder" in regenerate(project, status=1)


def test_files_that_are_not_text_are_replaced_but_never_merged(tmp_path: Path) -> None:
    for folder, value in (("here", b"\0a"), ("was", b"\0a"), ("becomes", b"\0b")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "data.bin").write_bytes(value)
    Merge(tmp_path / "here", tmp_path / "was", tmp_path / "becomes").write()
    assert (tmp_path / "here" / "data.bin").read_bytes() == b"\0b"
    (tmp_path / "here" / "data.bin").write_bytes(b"\0mine")
    with pytest.raises(ValueError, match="git merge-file failed"):
        Merge(tmp_path / "here", tmp_path / "was", tmp_path / "becomes")


# ---- cookiecutter -f over a project ----


def test_edits_are_not_written_over(project: Path, generate: Generate, template: Path) -> None:
    assert generate(template, "-f", "lr_scheduler_type=step").returncode == 0  # nothing was edited
    write(project, {"task.py": "# mine\n", "mine.py": "MINE = 1\n"})
    before = contents(project)
    done = generate(template, "-f")
    assert done.returncode == 1
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line == (
        "error: edits in demo would be lost: task.py; to keep them run `python -m engine.regenerate NAME=ANSWER` "
        "there, or commit them first"
    )
    assert contents(project) == before
    git(project, "init", "-q")
    git(project, "add", "-A")
    assert generate(template, "-f").returncode == 1  # staged is not committed
    git(project, "commit", "-q", "-m", "mine")
    assert generate(template, "-f").returncode == 0
    assert "# mine" not in (project / "task.py").read_text("utf-8") and (project / "mine.py").exists()
    assert "mine.py" not in json.loads((project / LOCK).read_text("utf-8"))["files"]
    assert "# mine" in git(project, "show", "HEAD:task.py")


def test_a_folder_of_which_nothing_is_known_is_not_written_over(
    generate: Generate, template: Path, tmp_path: Path
) -> None:
    (tmp_path / "out" / "demo").mkdir(parents=True)
    (tmp_path / "out" / "demo" / "README.md").write_text("mine\n")
    done = generate(template, "-f")
    assert done.returncode == 1 and "edits in demo would be lost: README.md" in done.stderr
    assert (tmp_path / "out" / "demo" / "README.md").read_text() == "mine\n"


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
