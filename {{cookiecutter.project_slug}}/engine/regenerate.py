"""Other answers, or a newer template, for a project that was edited: `python -m engine.regenerate NAME=ANSWER ...`.

The template is rendered twice, as it was and as it should be; what differs between the two is merged into the project's
files, three ways, by git. An edit is never lost: if both changed the same lines, both are there between conflict
markers. The answers are in .cookiecutter.yaml, the template and what it rendered in .cookiecutter.lock.
"""

import difflib
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .runtime.command_line import command_line
from .runtime.errors import UserError
from .runtime.files import atomic_write

ANSWERS, LOCK = ".cookiecutter.yaml", ".cookiecutter.lock"
USAGE = "usage: python -m engine.regenerate [NAME=ANSWER ...] [--update] [--template PLACE]"


def main(argv: list[str]) -> None:
    """Merges what other answers, or with --update the newest template, change into the project here.

    Raises:
        UserError: a name or an answer that does not exist, no git or cookiecutter, a template that is not found, or a
            project that cruft made.
    """
    changes, update, place = parse(argv)
    if Path(".cruft.json").exists():  # would still have the old answers
        words = f" --variables-to-update {shlex.quote(json.dumps(changes))}" if changes else ""
        raise UserError(f"cruft keeps the answers of this project; commit, then: cruft update{words}")
    before = read_answers(Path(ANSWERS))
    lock = read_lock(Path(LOCK))
    place = place or lock["template"]
    if update and not lock["commit"]:
        raise UserError("--update needs the commit that made this project, and none is in .cookiecutter.lock")
    with tempfile.TemporaryDirectory() as folder:
        was = render(place, lock["commit"], before, Path(folder, "was"))
        becomes = render(place, "" if update else lock["commit"], before | changes, Path(folder, "becomes"))
        names = read_answers(becomes / ANSWERS)
        for name in changes.keys() - names.keys():  # cookiecutter passes over these
            nearest = difflib.get_close_matches(name, names, n=1, cutoff=0)[0]
            raise UserError(f"there is no question {name!r}; did you mean {nearest}? There are {', '.join(names)}")
        outcome = Merge(Path(), was, becomes)
        outcome.write()
        after = read_lock(becomes / LOCK) | {"template": place}
        Path(LOCK).write_text(json.dumps(after, indent=1) + "\n", "utf-8")
    print(outcome.summary())
    if outcome.conflicts:
        sys.exit(1)


def parse(argv: list[str]) -> tuple[dict[str, str], bool, str]:
    """The answers to change, whether to update, and the template's place if it was given.

    Raises:
        UserError: a word that is no answer.
        SystemExit: help was asked for, and has been printed.
    """
    changes, update, place = dict[str, str](), False, ""
    words = iter(argv)
    for word in words:
        name, equals, answer = word.partition("=")
        if word in ("-h", "--help"):
            print(f"{USAGE}\n\n{__doc__}")
            sys.exit()
        if word == "--update":
            update = True
        elif name == "--template":
            place = answer or next(words, "")
        elif equals and name.isidentifier():
            changes[name] = answer
        else:
            print(USAGE)
            raise UserError(f"{word!r} is no answer; write NAME=ANSWER, as lr_scheduler_type=step")
    return changes, update, place


def read_answers(path: Path) -> dict[str, str]:
    """The answers that made the project; the template writes each as a JSON string.

    Raises:
        UserError: the file is not there, or holds none.
    """
    try:
        lines = re.findall(r'^  (\w+): (".*")$', path.read_text("utf-8"), re.MULTILINE)
        answers: dict[str, str] = {name: json.loads(answer) for name, answer in lines}
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); run this in the project's folder") from error
    if "project_slug" not in answers:
        raise UserError(f"{path} has no answers; bring it back from git, or from a new project")
    return answers


def read_lock(path: Path) -> dict[str, Any]:
    """The template's place, its commit and the digests of what it rendered; empty ones if there is no lock."""
    try:
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        found = {}
    return {"template": "", "commit": "", "files": {}} | found


# ---- rendering ----


def run(command: list[str], **options: Any) -> str:
    """What the command prints; a UserError with the last line of its complaint where it fails."""
    done: subprocess.CompletedProcess[str] = subprocess.run(
        command, capture_output=True, text=True, errors="replace", **options
    )
    if done.returncode:
        lines = [line for line in (done.stderr + "\n" + done.stdout).strip().splitlines() if line.strip()]
        told = [line for line in lines if line.startswith(("error: ", "fatal: "))] or lines[-1:] or ["no output"]
        raise UserError(re.sub(r"^(error|fatal|\w+Error): ", "", told[0]))
    return done.stdout


def cookiecutter() -> list[str]:
    """The command line that starts it; a UserError if it is not installed."""
    if importlib.util.find_spec("cookiecutter"):
        return [sys.executable, "-m", "cookiecutter"]
    if found := shutil.which("cookiecutter"):
        return [found]
    raise UserError("cookiecutter is not installed; python -m pip install cookiecutter")


def render(place: str, commit: str, answers: dict[str, str], folder: Path) -> Path:
    """Renders the template, of that commit if one is given, into the folder; returns the project's path.

    Raises:
        UserError: no place, no git, or what git or cookiecutter complain of.
    """
    if not place:
        raise UserError("it is not known where the template is; give --template with its path or address")
    if not shutil.which("git"):
        raise UserError("git is not installed; merging needs it")
    folder.mkdir()
    settings, out = folder / "settings.yaml", folder / "out"
    settings.write_text(json.dumps({"cookiecutters_dir": str(folder), "replay_dir": str(folder)}), "utf-8")  # is YAML
    options = ["--no-input", "-o", str(out), "--config-file", str(settings)]
    if commit and Path(place).is_dir():  # of which cookiecutter would take what is there now
        clone = folder / "template"
        run(["git", "clone", "--quiet", place, str(clone)])
        run(["git", "checkout", "--quiet", commit], cwd=clone)
        place = str(clone)
    elif commit:
        options += ["--checkout", commit]
    words = [f"{name}={answer}" for name, answer in answers.items()]
    run([*cookiecutter(), place, *options, *words], env=os.environ | {"TORCH_TEMPLATE_QUIET": "1"})
    [project] = out.iterdir()
    return project


# ---- merging ----


class Merge:
    """The three-way merge of every file: `here` is the project, `was` the old rendering and `becomes` the new one."""

    def __init__(self, here: Path, was: Path, becomes: Path) -> None:
        self.here = here
        self.results: dict[str, bytes | None] = {}  # by path; None for a file that goes
        self.added: list[str] = []
        self.kept: list[str] = []  # that the template no longer has, and that were edited
        self.conflicts: list[str] = []
        for name in sorted({*files(was), *files(becomes)} - {LOCK}):
            self.decide(name, content(here / name), content(was / name), content(becomes / name))
        self.modes = {name: (becomes / name).stat().st_mode for name in self.added}

    def decide(self, name: str, here: bytes | None, was: bytes | None, becomes: bytes | None) -> None:
        """Notes what becomes of one file; None stands for no file. A UserError if it still has conflict markers."""
        if here is not None and b"\r\n" in here:  # as git makes lines end on Windows
            was, becomes = (text and text.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n") for text in (was, becomes))
        if was == becomes or here == becomes:
            return
        if becomes is None:
            if here == was:
                self.results[name] = None
            elif here is not None:
                self.kept.append(name)
        elif here == was or (here is None and was is None):
            self.results[name] = becomes
            self.added += [name] * (here is None)
        elif here is not None:  # else it was deleted here, and stays so
            if b"\n<<<<<<< your edits" in b"\n" + here:
                raise UserError(f"{name} still has <<<<<<< of the last time; decide there first")
            self.results[name], conflict = merge_lines(here, was or b"", becomes)
            self.conflicts += [name] * conflict

    def write(self) -> None:
        """Brings the results into the project, each file whole or not at all."""
        for name, result in self.results.items():
            path = self.here / name
            if result is None:
                path.unlink()
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            mode = self.modes.get(name) or path.stat().st_mode
            with atomic_write(path) as file:
                file.write(result)
            path.chmod(mode)

    def summary(self) -> str:
        """What happened, a line for each kind."""
        gone = [name for name, result in self.results.items() if result is None]
        changed = [name for name in self.results if name not in (*gone, *self.added, *self.conflicts)]
        kinds = {
            "changed": changed,
            "new": self.added,
            "removed": gone,
            "no longer in the template, but edited, so kept": self.kept,
            "CONFLICTS, look for <<<<<<< in": self.conflicts,
        }
        lines = [f"{kind}: {', '.join(names)}" for kind, names in kinds.items() if names]
        return "\n".join(lines) or "nothing to change: the project is what these answers give"


def files(folder: Path) -> Iterator[str]:
    """The paths of all files in a folder."""
    return (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def content(path: Path) -> bytes | None:
    """The bytes of a file; None if there is none."""
    return path.read_bytes() if path.is_file() else None


def merge_lines(here: bytes, was: bytes, becomes: bytes) -> tuple[bytes, bool]:
    """The lines of `here` with what changed from `was` to `becomes`, and whether both changed the same ones.

    Raises:
        UserError: git cannot merge them, for example because a file is binary.
    """
    with tempfile.TemporaryDirectory() as folder:
        names = ("here", "was", "becomes")
        for name, text in zip(names, (here, was, becomes), strict=True):
            Path(folder, name).write_bytes(text)
        titles = ("-L", "your edits", "-L", "as it was rendered", "-L", "the new answers")
        done = subprocess.run(["git", "merge-file", "-p", *titles, *names], cwd=folder, capture_output=True)
    if done.returncode > 127 or done.returncode < 0:  # its number of conflicts is at most that
        raise UserError(f"git merge-file failed: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout, done.returncode > 0


if __name__ == "__main__":
    command_line(main)
