"""Refuses, before anything is written, answers that would give a broken project; merges where a project is there.

The merging is in regenerate.py beside this file: for `cookiecutter -f`, and for scripts/regenerate.py of a project,
which runs cookiecutter with TORCH_TEMPLATE_REQUEST naming a file with what it wants.
"""

import difflib
import json
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path, PureWindowsPath
from types import ModuleType

RESERVED_ON_WINDOWS = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
NOT_IN_A_LINE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")
WITH_VALUE = ("-c", "--checkout", "--directory", "-o", "--output-dir", "--config-file", "--replay-file", "--debug-file")


def complaint(answers: dict) -> str:
    """A line about the first free-text answer that cannot be used; empty if all can."""
    slug = answers["project_slug"]
    # The rule of package names (PEP 508), since the slug is one in pyproject.toml.
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", slug) or RESERVED_ON_WINDOWS.fullmatch(slug):
        return (
            f"project_slug {slug!r} cannot name a folder and a package: use letters, digits, '-', '_' and '.', "
            "begin and end with a letter or digit, and avoid names that Windows reserves"
        )
    for name in ("project_name", "author_name"):
        if found := NOT_IN_A_LINE.search(answers[name]):
            return f"{name} {answers[name]!r} has the line break or control character {found[0]!r}: leave it out"
    return ""


# ---- answers that cookiecutter ignored ----

# cookiecutter ignores a misspelt NAME=ANSWER without a word, and hands none of it to hooks: the command line of its
# process is the only place where it can be seen, and a project with another answer than was typed is worse than this.


def command_line_of(process: int) -> list:
    """The words with which a process was started; none if the system does not tell."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        pass
    ask = ["ps", "-o", "args=", "-p", str(process)]
    if os.name == "nt":
        query = f"(Get-CimInstance Win32_Process -Filter 'ProcessId={process}').CommandLine"
        ask = ["powershell", "-NoProfile", "-NonInteractive", "-Command", query]
    try:
        line = subprocess.run(ask, capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return words_of(line)


def words_of(line: str) -> list:
    """The words of a command line, in which Windows puts those with spaces into quotes; ps shows none."""
    return [word.replace('"', "") for word in re.findall(r'(?:"[^"]*"|[^\s"])+', line)]


def given_answers(words: list) -> tuple:
    """The answers on a command line of cookiecutter, and those in the file that it names; none for other programs."""
    start = [number for number, word in enumerate(words[:4]) if PureWindowsPath(word).stem.lower() == "cookiecutter"]
    typed, in_file, before = {}, {}, ""
    for word in words[start[0] + 1 :] if start else []:
        name, equals, value = word.partition("=")
        if "--config-file" in (before, name if equals else ""):
            in_file = answers_in(word if before == "--config-file" else value)
        elif equals and name.isidentifier() and before not in WITH_VALUE:
            typed[name] = value
        before = word
    return typed, in_file


def answers_in(file: str) -> dict:
    """The `default_context` of a settings file of cookiecutter; none if it cannot be read."""
    try:
        import yaml  # which cookiecutter itself needs

        path = Path(os.environ.get("PWD", "."), file)
        context = yaml.safe_load(path.read_text("utf-8"))["default_context"]
        return {str(name): str(value) for name, value in context.items()}
    except Exception:  # cookiecutter has read it, so this is a place or a form that is not known here
        return {}


def ignored(given: dict, answers: dict, questions: dict, similarity: float) -> str:
    """A line about the first answer that cookiecutter did not use; empty if it used all.

    A name that is no question is considered misspelt if it is at least that similar, 0 to 1, to one.
    """
    names = [name for name in answers if not name.startswith("_")]
    for name, value in given.items():
        choices = questions.get(name)
        if isinstance(choices, list) and value not in choices:
            return f"{name} {value!r} is no choice; choose one of {', '.join(choices)}"
        if name not in answers and (nearest := difflib.get_close_matches(name, names, n=1, cutoff=similarity)):
            return f"there is no question {name!r}; did you mean {nearest[0]}? The questions are {', '.join(names)}"
    return ""


# ---- files that would be overwritten ----


def files_in(folder: Path) -> list:
    """The paths of all files in a folder but those of git."""
    everything = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in everything if ".git" not in path.parts)


def not_in_git(folder: Path, names: list) -> list:
    """Those of the files that git could not restore as they are now."""

    def listed(*words: str) -> set:
        done = subprocess.run(["git", *words, "-z"], cwd=folder, capture_output=True, text=True, check=True)
        return set(done.stdout.split("\0"))

    try:
        safe = listed("ls-files") - listed("diff", "--name-only", "--relative", "HEAD")
    except (OSError, subprocess.SubprocessError):
        return names
    return [name for name in names if name not in safe]


def lost_edits(folder: Path) -> str:
    """A line about the files in a folder that is no project and would be overwritten; empty if there are none."""
    names = not_in_git(folder, files_in(folder))
    if not names:
        return ""
    shown = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
    return (
        f"{folder.name} holds files, but neither .cookiecutter.yaml nor .cookiecutter.lock, so that they cannot be "
        f"merged and would be lost: {shown}; commit them first, or choose another project_slug"
    )


# ---- a project that is there ----


def merging(answers: dict) -> ModuleType:
    """The module regenerate.py; an ImportError if the template's folder is not found from here."""
    sys.dont_write_bytecode = True  # the folder is the template's
    sys.path.insert(0, str(Path(os.environ.get("PWD", ""), answers.get("_repo_dir", ""), "hooks").absolute()))
    return import_module("regenerate")


def prepare_merge(answers: dict) -> str:
    """Stages the merge of the project in the working directory; returns a line about why not, or nothing."""
    if Path(".cruft.json").exists() or "_repo_dir" not in answers:
        return "cruft keeps the answers of this project; commit, then: cruft update"
    try:
        regenerate = merging(answers)
    except ImportError:
        return f"the template's folder {answers['_repo_dir']} is not found from here; give its absolute path"
    repository = Path(os.environ.get("PWD", ""), answers["_repo_dir"]).absolute()
    given = {name: answer for name, answer in answers.items() if not name.startswith("_")}
    place = import_module("post_gen_project").template_of(answers)
    try:
        lines = regenerate.prepare(regenerate.Request(Path.cwd(), repository, place, given, True, rendered=True))
    except regenerate.MergeError as error:
        return str(error)
    print("\n".join(lines), end="\n" * bool(lines), flush=True)
    return ""


def main(answers: dict) -> int:
    """The exit status: 1 stops cookiecutter."""
    typed_in = os.environ.get("PWD", "")
    if request := os.environ.get("TORCH_TEMPLATE_REQUEST"):
        merging(answers).serve(Path(request), Path(typed_in, answers["_repo_dir"]).absolute())
        return 1  # what would be rendered now is of no use
    try:
        questions = json.loads(Path(typed_in, answers["_repo_dir"], "cookiecutter.json").read_text("utf-8"))
    except (OSError, KeyError):  # not found from here, or rendered by another program than cookiecutter
        questions = {}
    regenerating = os.environ.get("TORCH_TEMPLATE_QUIET") == "1"  # with answers to questions that may be gone
    typed, in_file = given_answers([] if regenerating else command_line_of(os.getppid()))
    problem = (
        complaint(answers)
        or ignored(typed, answers, questions, 0)
        or ignored(in_file, answers, questions, 0.8)  # the file may be for many templates
    )
    a_project = Path(".cookiecutter.yaml").exists() or Path(".cookiecutter.lock").exists()
    problem = problem or (prepare_merge(answers) if a_project else lost_edits(Path.cwd()))
    if problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    if not a_project and any(Path.cwd().iterdir()):  # files newer than this one are those that are rendered now
        Path(".cookiecutter.lock").touch()
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(r"""{{ cookiecutter | tojson }}""")))
