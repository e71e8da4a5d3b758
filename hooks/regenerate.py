"""Merges other answers, or a newer template, into a project that was edited; the hooks call it, no project holds it.

The template is rendered twice, as it was (`was`) and as it should be (`becomes`); what differs between the two is
merged into the project's files (`here`), three ways, by git. An edit is never lost: if both changed the same lines,
both stand between conflict markers. The outcome is staged in a journal inside the project before any file changes, so
that a call that is killed has changed nothing, or is completed by the next call.

`python scripts/regenerate.py` in a project ends in `serve`, `cookiecutter -f` over a project in `prepare` and `finish`.
"""

import ast
import difflib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from post_gen_project import commit_of
from pre_gen_project import complaint

ANSWERS, LOCK = ".cookiecutter.yaml", ".cookiecutter.lock"
JOURNAL, UNREADY = ".cookiecutter.merge", ".cookiecutter.merge.new"
MARKERS = b"\n<<<<<<< your edits"


class MergeError(ValueError):
    """Why nothing is merged, in one line."""


class File(NamedTuple):
    """A file of a rendering or of the project."""

    data: bytes
    mode: int


Files = dict[str, File]  # by path


class Request(NamedTuple):
    """What the person wants of a project."""

    project: Path
    repository: Path  # the folder of the newest template
    place: str  # where the person has it from
    changes: dict[str, str]  # answers
    update: bool  # to the newest template
    rendered: bool = False  # cookiecutter -f: all answers are given, and it will overwrite every file


# ---- the three ways in ----


def serve(request_file: Path, repository: Path) -> None:
    """Does what scripts/regenerate.py asks for in that file; exit status and text go into reply.json beside it."""
    asked = json.loads(request_file.read_text("utf-8"))
    request = Request(Path(asked["project"]), repository, asked["place"], asked["changes"], asked["update"])
    lines: list[str] = []

    def reply(status: int) -> None:
        answer = {"status": status, "text": "\n".join(lines)}
        request_file.with_name("reply.json").write_text(json.dumps(answer), "utf-8")

    try:
        lines += recover(request.project)
        outcome, conflicts = plan(request)
        with uninterrupted():  # from here on it is done and said
            stage(request.project, outcome)
            lines += apply(request.project)
            reply(int(conflicts))
    except Exception as error:  # the launcher has no other way to hear of it
        lines.append(f"error: {one_line(error)}")
        reply(1)


def prepare(request: Request) -> list[str]:
    """Before cookiecutter -f overwrites the files: stages what they become in the end; returns lines to print.

    Raises:
        MergeError: nothing can be merged, and nothing is written.
    """
    try:
        lines = recover(request.project)
        stage(request.project, plan(request)[0])
    except Exception as error:
        raise MergeError(one_line(error)) from error
    return lines


def finish(project: Path) -> tuple[list[str], bool]:
    """After cookiecutter -f: every file gets its final state; returns lines to print, and if there are conflicts."""
    conflicts = read_journal(project)["conflicts"]
    with uninterrupted():
        return apply(project), conflicts


def one_line(error: BaseException) -> str:
    """What went wrong."""
    text = " ".join(str(error).split())
    return text if isinstance(error, (MergeError, OSError)) else f"{text} ({type(error).__name__})"


# ---- what is recorded ----


def read_answers(path: Path) -> dict[str, str]:
    """The answers that made the project.

    Raises:
        MergeError: the file is not there, or holds none.
    """
    try:
        answers = answers_in(path.read_bytes())
        answers.pop("template_version", None)  # is none
    except (OSError, ValueError) as error:
        raise MergeError(f"{path.name} cannot be read ({error}); bring it back from git") from error
    if "project_slug" not in answers:
        raise MergeError(f"{path.name} has no answers; bring it back from git, or from a new project")
    return answers


def answers_in(data: bytes) -> dict[str, str]:
    """The answers in a .cookiecutter.yaml; the template writes each as a JSON string."""
    lines = re.findall(r'^  (\w+): (".*")\r?$', data.decode(), re.MULTILINE)
    return {name: json.loads(answer) for name, answer in lines}


def read_lock(path: Path) -> dict[str, Any]:
    """The template's place and commit, the answers, the digests of what it rendered; empty ones if there is no lock."""
    try:
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        found = {}
    return {"template": "", "commit": "", "answers": {}, "files": {}} | found


def digest(data: bytes) -> str:
    """The SHA-256 of a file's bytes."""
    return hashlib.sha256(data).hexdigest()


def digest_of(path: Path) -> str:
    """The same of a file; empty if there is none."""
    return digest(path.read_bytes()) if path.is_file() else ""


def read_files(folder: Path) -> Files:
    """All files in a rendering but the lock."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    files = {path.relative_to(folder).as_posix(): File(path.read_bytes(), path.stat().st_mode) for path in paths}
    files.pop(LOCK, None)
    return files


# ---- rendering ----


def git(*words: str, folder: Path) -> None:
    """Runs git there; a MergeError with its complaint if it fails."""
    done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, errors="replace")
    if done.returncode:
        raise MergeError((done.stderr.strip().splitlines() or ["git failed"])[-1])


def at_commit(repository: Path, commit: str, folder: Path) -> Path | None:
    """The template as it was at that commit; None if the commit is not known or not there."""
    if not commit or commit == commit_of(str(repository)):
        return repository if commit else None
    clone = folder / "template"
    try:
        git("clone", "--quiet", "--no-checkout", str(repository.absolute()), str(clone), folder=folder)
        git("checkout", "--quiet", commit, "--", folder=clone)
    except MergeError:
        return None
    return clone


def render(template: Path, answers: dict[str, str], recorded: dict[str, str], folder: Path) -> Files:
    """What the template gives with these answers; those that are as recorded are not rendered by Jinja again.

    It renders without hooks: they only check and record, which is done here.

    Raises:
        MergeError: a question or a choice that does not exist, or whatever else cookiecutter complains of.
    """
    from cookiecutter.generate import generate_context, generate_files
    from cookiecutter.prompt import prompt_for_config

    if problem := complaint({"project_name": "", "author_name": "", **answers}):
        raise MergeError(problem)
    given = dict(answers)
    for name in answers.keys() & recorded.keys():
        if answers[name] == recorded[name] and "{" in answers[name]:
            given[name] = f"{{{{ {json.dumps(answers[name], ensure_ascii=False)} }}}}"
    folder.mkdir()
    try:
        context = generate_context(str(template / "cookiecutter.json"), extra_context=given)
        context["cookiecutter"] = prompt_for_config(context, no_input=True)
        if problem := complaint({"author_name": "", **context["cookiecutter"]}):
            raise MergeError(problem)
        return read_files(Path(generate_files(str(template), context, str(folder), accept_hooks=False)))
    except Exception as error:
        raise MergeError(str(error).strip().partition("\n")[0] or type(error).__name__) from error


def check_names(changes: dict[str, str], template: Path) -> None:
    """Cookiecutter ignores an answer to a question that does not exist; here it is a MergeError."""
    questions = json.loads((template / "cookiecutter.json").read_text("utf-8"))
    names = [name for name in questions if not name.startswith("_")]
    for name in changes.keys() - set(names):
        nearest = difflib.get_close_matches(name, names, n=1, cutoff=0)[0]
        raise MergeError(f"there is no question {name!r}; did you mean {nearest}? There are {', '.join(names)}")


# ---- what is wanted ----


def plan(request: Request) -> tuple[dict[str, Any], bool]:
    """What is to be staged, and whether it has conflicts.

    If the commit that made a project is not known, or no longer there, the digests in its lock are compared: a file of
    a rendering is the right base for a merge if its digest is the one in the lock.

    Raises:
        MergeError: no git, no record of what was rendered, answers that do not exist, or conflicts of the last time.
    """
    if not shutil.which("git"):
        raise MergeError("git is not installed; merging needs it")
    lock = read_lock(request.project / LOCK)
    asked = read_answers(request.project / ANSWERS)  # which the person may have edited
    answers = request.changes if request.rendered else asked | request.changes
    if request.update and not lock["commit"] and not lock["files"]:
        raise MergeError(
            f"an update needs the commit that made {request.project.name}, or the digests of its files, and {LOCK} has "
            "neither; run `python scripts/regenerate.py --template PLACE` there first, with the template that made it"
        )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        source = at_commit(request.repository, lock["commit"], folder)
        newest = request.update or source is None
        template = request.repository if newest or source is None else source
        if not request.rendered:
            check_names(request.changes, template)
        before = lock["answers"] or asked
        becomes = render(template, answers, answers if request.rendered else asked, folder / "becomes")
        was = render(source or template, still_asked(before, source or template), before, folder / "was")
        here = here_of(request.project, {*was, *becomes, *lock["files"]})
        notes = []
        if source is None:
            if lock["commit"]:
                notes.append(
                    f"commit {lock['commit'][:9]} is not in the template at {request.place}: files are compared by "
                    "their digests"
                )
            was, proven = bases(here, was, lock["files"], request.update)
        merge = Merge(request.project, here, was, becomes)
        digests = {name: digest(file.data) for name, file in sorted(becomes.items())}
        commit = lock["commit"]
        if request.update or (source is None and proven == was.keys() >= lock["files"].keys()):
            commit = commit_of(str(request.repository))
        if source is None and not request.update:
            digests = truthful(digests, merge, lock["files"], proven)
    after = {"template": request.place, "commit": commit, "answers": recorded(becomes), "files": digests}
    results = dict(merge.results)
    if request.rendered:  # cookiecutter writes these files, so that also what stays must be put back
        results = {name: here.get(name) for name in becomes} | results
    outcome = {
        "results": results | {LOCK: File((json.dumps(after, indent=1) + "\n").encode(), 0o644)},
        "rendered": becomes if request.rendered else {},
        "lines": [*notes, *merge.summary()],
        "conflicts": bool(merge.conflicts),
    }
    return outcome, bool(merge.conflicts)


def still_asked(answers: dict[str, str], template: Path) -> dict[str, str]:
    """The answers without choices that the template does not have, if it is not the one that was answered."""
    questions = json.loads((template / "cookiecutter.json").read_text("utf-8"))
    return {
        name: answer
        for name, answer in answers.items()
        if not isinstance(choices := questions.get(name), list) or answer in choices
    }


def here_of(project: Path, names: set[str]) -> Files:
    """Those of the files that the project has."""
    there = [name for name in names if (project / name).is_file()]
    return {name: File((project / name).read_bytes(), (project / name).stat().st_mode) for name in there}


def bases(here: Files, was: Files, locked: dict[str, str], update: bool) -> tuple[Files, set[str]]:
    """What to merge over if the template's commit is not known, and the names of the files for which that is proven.

    For other answers alone the rest is taken as it is: only the answers' difference is merged. For an update an
    unedited file is its own base, and an edited file has none: then both versions stand between conflict markers.
    """
    proven = {name for name in was if locked.get(name, digest_of_lf(here.get(name))) == digest(was[name].data)}
    if not update:
        return was, proven
    base = {name: file for name, file in was.items() if name in proven}
    for name in locked.keys() - proven:
        unedited = digest_of_lf(here.get(name)) == locked[name]
        base[name] = here[name] if unedited else File(b"", 0o644)
    return base, proven


def digest_of_lf(file: File | None) -> str:
    """The digest of a file as it was rendered, also if git gave it the line ends of Windows; empty if there is none."""
    return digest(file.data.replace(b"\r\n", b"\n")) if file else ""


def truthful(files: dict[str, str], merge: "Merge", locked: dict[str, str], proven: set[str]) -> dict[str, str]:
    """The digests for the lock after other answers of a template that is not the one that made the project.

    A file whose base was proven is as this template renders it; one that the answers do not change is as it was. Of an
    unedited one the merge is what that template would have rendered. For other files no digest is known.
    """
    found = {}
    for name, new in files.items():
        was, becomes = merge.was.get(name), merge.becomes[name]
        if name in proven or was is None:
            found[name] = new
        elif was.data == becomes.data or name not in merge.here:
            found[name] = locked.get(name, "")
        elif digest_of_lf(merge.here.get(name)) == locked.get(name) and name not in merge.conflicts:
            found[name] = digest_of_lf(merge.results.get(name, merge.here[name]))
    return {name: value for name, value in found.items() if value}


def recorded(becomes: Files) -> dict[str, str]:
    """The answers in a rendering; without the template's version, which is in the same file."""
    answers = sorted(answers_in(becomes[ANSWERS].data).items())  # as the lock of a new project has them
    return {name: answer for name, answer in answers if name != "template_version"}


# ---- merging ----


class Merge:
    """The three-way merge of every file; `results` holds those that change, by path, None for a file that goes."""

    def __init__(self, project: Path, here: Files, was: Files, becomes: Files) -> None:
        self.project, self.here, self.was, self.becomes = project, here, was, becomes
        self.results: dict[str, File | None] = {}
        self.kept: list[str] = []  # that the template no longer has, and that were edited
        self.conflicts: list[str] = []
        for name in sorted({*was, *becomes}):
            self.decide(name, here.get(name), was.get(name), becomes.get(name))
        self.imported = self.keep_what_is_imported()

    def decide(self, name: str, here: File | None, was: File | None, becomes: File | None) -> None:
        """Notes what becomes of one file; None stands for no file. A MergeError if it still has conflict markers."""
        mine, old, new = (file and file.data for file in (here, was, becomes))
        if mine is not None and b"\r\n" in mine:  # as git makes lines end on Windows
            old, new = (text and text.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n") for text in (old, new))
        if old == new or mine == new:
            return
        if becomes is None or new is None:
            if mine == old:
                self.results[name] = None
            elif mine is not None:
                self.kept.append(name)
            return
        mode = becomes.mode if here is None or was is None or here.mode == was.mode else here.mode
        if mine == old:
            self.results[name] = File(new, mode)
        elif mine is not None:  # else it was deleted here, and stays so
            if MARKERS in b"\n" + mine:
                raise MergeError(f"{name} still has <<<<<<< of the last time; decide there first")
            data, conflict = merge_lines(name, mine, old or b"", new)
            if name == ANSWERS and answers_in(data) != answers_in(
                new
            ):  # an edit beside an answer: a record is not torn
                data, conflict = new, False
            self.results[name] = File(data, mode)
            self.conflicts += [name] * conflict

    # ---- imports ----

    def keep_what_is_imported(self) -> dict[str, list[str]]:
        """Takes files that a file of the person's imports from those that go; returns them by the importing file."""
        going = {name for name, result in self.results.items() if result is None and name.endswith(".py")}
        found: dict[str, list[str]] = {}
        waiting = self.files_of_the_person() if going else []
        while waiting and going:
            name = waiting.pop(0)
            needed = sorted(imports_of(name, self.final_text(name)) & going)
            for path in needed:
                del self.results[path]
            if needed:
                found[name] = needed
            going -= set(needed)
            waiting += needed
        return found

    def files_of_the_person(self) -> list[str]:
        """The Python files that are not as the template renders them, edited or of one's own."""
        names = []
        for folder, folders, files in os.walk(self.project):
            folders[:] = [f for f in folders if f[0] != "." and not Path(folder, f, "pyvenv.cfg").exists()]
            paths = [Path(folder, file).relative_to(self.project).as_posix() for file in files if file.endswith(".py")]
            names += [name for name in paths if self.results.get(name, name) is not None]
        return sorted(name for name in names if name not in self.becomes or self.is_edited(name))

    def is_edited(self, name: str) -> bool:
        """Whether a file of the new rendering will differ from it."""
        return self.final_text(name).replace(b"\r\n", b"\n") != self.becomes[name].data.replace(b"\r\n", b"\n")

    def final_text(self, name: str) -> bytes:
        """The bytes of a file after the merge."""
        result = self.results.get(name)
        return result.data if result else (self.project / name).read_bytes()

    # ---- what is said ----

    def summary(self) -> list[str]:
        """What happened, a line for each kind."""
        changed = [name for name, result in self.results.items() if result and name in self.here]
        kinds = {
            "changed": [name for name in changed if name not in self.conflicts],
            "new": [name for name, result in self.results.items() if result and name not in self.here],
            "removed": [name for name, result in self.results.items() if result is None],
            "no longer in the template, but edited, so kept": self.kept,
            **{f"still imported by {name}, so kept": names for name, names in self.imported.items()},
            "CONFLICTS, look for <<<<<<< in": self.conflicts,
        }
        lines = [f"{kind}: {', '.join(names)}" for kind, names in kinds.items() if names]
        lines += [line for name in (*self.kept, *self.conflicts) if (line := self.moved(name))]
        return lines or [self.nothing()]

    def nothing(self) -> str:
        """The line for no change at all; it says what is edited here."""
        edited = [name for name in sorted(self.here.keys() & self.becomes.keys()) if self.is_edited(name)]
        if not edited:
            return "nothing to change: the project is what these answers give"
        rest = f" and {len(edited) - 2} more" if len(edited) > 2 else ""
        return f"nothing to change: the answers are as they were; edited here: {', '.join(edited[:2])}{rest}"

    def moved(self, name: str) -> str:
        """Where the definitions of a file are now that the person changed, if they are elsewhere; else empty."""
        if not name.endswith(".py") or name not in self.was:
            return ""
        mine, old = definitions(self.here[name].data), definitions(self.was[name].data)
        now = {path: definitions(file.data) for path, file in self.becomes.items() if path.endswith(".py")}
        moved, gone = [], []
        for definition in [key for key in mine if key in old and mine[key] != old[key]]:
            if definition in now.get(name, {}):
                continue  # the conflict, or the merged text, shows it
            short = definition.rpartition(".")[2]
            places = [path for path in now if definition in now[path]] or [
                path for path in now if short[:2] != "__" and short in {key.rpartition(".")[2] for key in now[path]}
            ]
            moved += [f"{definition}, which is now in {' or '.join(places[:2])}"] * bool(places)
            gone += [definition] * (not places)
        if not moved and not gone:
            return ""
        added = [key for key in mine if key not in old and key.rpartition(".")[0] not in mine.keys() - old.keys()]
        parts = [f"you changed {', and '.join(moved)}"] * bool(moved)
        parts += [f"you changed {', '.join(gone)}, which the template no longer has"] * bool(gone)
        parts += [f"you added {', '.join(added)}"] * bool(added)
        where = "from the conflict" if name in self.conflicts else "from this file"
        return f"{name}: {'; '.join(parts)}; move your version there {where}"


def merge_lines(name: str, here: bytes, was: bytes, becomes: bytes) -> tuple[bytes, bool]:
    """The lines of `here` with what changed from `was` to `becomes`, and whether both changed the same ones.

    Raises:
        MergeError: git cannot merge them, for example because a file is binary.
    """
    with tempfile.TemporaryDirectory() as folder:
        names = ("here", "was", "becomes")
        for side, text in zip(names, (here, was, becomes), strict=True):
            Path(folder, side).write_bytes(text)
        titles = ("-L", "your edits", "-L", "as it was rendered", "-L", "the new answers")
        done = subprocess.run(["git", "merge-file", "-p", *titles, *names], cwd=folder, capture_output=True)
    if done.returncode > 127 or done.returncode < 0:  # its number of conflicts is at most that
        raise MergeError(f"git merge-file failed for {name}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout, done.returncode > 0


IMPORT = re.compile(
    r"^[ \t]*(?:from[ \t]+(\.*)([\w.]*)[ \t]+import[ \t]+(\([^)]*\)|[^\n]*)|import[ \t]+([^\n]*))", re.M
)


def imports_of(name: str, data: bytes) -> set[str]:
    """The paths of files that a Python file may import; it need not be valid, since it may have conflict markers."""
    found = set()
    for dots, module, names, plain in IMPORT.findall(data.decode(errors="replace")):
        folder = Path(name).parent
        for _ in dots[1:]:
            folder = folder.parent
        roots = [folder] if dots else [Path(), folder]
        modules = re.findall(r"[\w.]+", re.sub(r"\bas\s+\w+", "", re.sub("#.*", "", names or plain)))
        if not plain:
            modules = [module, *(f"{module}.{part}".strip(".") for part in modules)]
        for root in roots:
            for path in (root.joinpath(*words.split(".")) for words in modules):
                found |= {f"{path.as_posix()}.py", (path / "__init__.py").as_posix()}
    return found


def definitions(data: bytes) -> dict[str, str]:
    """The functions, classes and methods of a Python file, by name as Class.method; none if it is not valid."""
    try:
        nodes = ast.parse(data).body
    except (SyntaxError, ValueError):
        return {}
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    found = {node.name: ast.dump(node) for node in nodes if isinstance(node, functions)}
    for node in nodes:
        if isinstance(node, ast.ClassDef):
            methods = [item for item in node.body if isinstance(item, functions)]
            found |= {f"{node.name}.{method.name}": ast.dump(method) for method in methods}
            node.body = [item for item in node.body if item not in methods]
            found[node.name] = ast.dump(node)  # what it has beside its methods
    return found


# ---- the journal ----

# It becomes valid by one rename, and from then on every file is replaced or removed by one call of the system each.
# What is staged is moved away when it is applied, so that a call after a kill sees what is left to do.


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP wait until the block ends."""
    if os.name != "posix":
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        yield
        signal.signal(signal.SIGINT, before)
        return
    signals = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def write_synced(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Writes a file that is on the disk when this returns."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    path.chmod(mode & 0o777)


def sync_folder(folder: Path) -> None:
    """Writes a folder's list of names to the disk, where the system has such a call."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        with suppress(OSError):  # some network disks cannot
            os.fsync(descriptor)
        os.close(descriptor)


def stage(project: Path, outcome: dict[str, Any]) -> None:
    """Writes the journal: the final state of every file that changes, or that cookiecutter overwrites."""
    unready = project / UNREADY
    unready.mkdir()
    try:
        write_journal(project, outcome, unready)
    except OSError:
        shutil.rmtree(unready, ignore_errors=True)
        raise
    unready.rename(project / JOURNAL)
    sync_folder(project)


def write_journal(project: Path, outcome: dict[str, Any], unready: Path) -> None:
    """Writes its files: the list of entries, and for each the new file."""
    results: dict[str, File | None] = outcome["results"]
    entries: list[dict[str, str]] = []
    for name in sorted(results, key=lambda name: (name == LOCK, name == ANSWERS, name)):  # these two come last
        result, rendered = results[name], outcome["rendered"].get(name)
        before = digest_of(project / name)
        after = digest(result.data) if result else ""
        if before == after and not rendered:
            continue
        if result:
            write_synced(unready / f"{len(entries)}", result.data, result.mode)
        if rendered:  # to tell an edit after a kill from what cookiecutter had written by then
            write_synced(unready / f"{len(entries)}.rendered", rendered.data)
        entries.append({"name": name, "before": before, "after": after})
    journal = {"entries": entries, "lines": outcome["lines"], "conflicts": outcome["conflicts"]}
    write_synced(unready / "journal.json", json.dumps(journal, indent=1).encode())
    sync_folder(unready)


def read_journal(project: Path) -> dict[str, Any]:
    """What is staged and ready."""
    journal: dict[str, Any] = json.loads((project / JOURNAL / "journal.json").read_text("utf-8"))
    return journal


def apply(project: Path) -> list[str]:
    """Brings what is staged into the project; returns the lines about it.

    A file that is neither as it was nor as it was rendered has been edited since: it stays, and what was staged for it
    is put beside it.
    """
    journal, folder = read_journal(project), project / JOURNAL
    moves, notes = [], []
    for number, entry in enumerate(journal["entries"]):
        target, staged = project / entry["name"], folder / f"{number}"
        if entry["after"] and not staged.exists():
            continue  # a call that was killed has done this
        if expected(target, entry, folder / f"{number}.rendered"):
            moves.append((staged if entry["after"] else None, Path(os.path.realpath(target))))
        elif entry["after"]:
            beside = target.with_name(f"{target.name}.merged")
            moves.append((staged, beside))
            notes.append(
                f"{entry['name']} was edited meanwhile, so kept; the merged version is in {beside.name} beside it"
            )
        else:
            notes.append(f"{entry['name']} was written meanwhile, so kept")
    for staged_file, target in moves:
        if staged_file is None:
            target.unlink(missing_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            put(staged_file, target)
    for parent in {target.parent for staged_file, target in moves if staged_file is None and target.parent != project}:
        with suppress(OSError):  # it is not empty
            parent.rmdir()
    folder.rename(project / UNREADY)
    shutil.rmtree(project / UNREADY, ignore_errors=True)
    return [*journal["lines"], *notes]


def expected(target: Path, entry: dict[str, str], rendered: Path) -> bool:
    """Whether a file is as it was, as it becomes, or as much of the rendering as cookiecutter had written of it."""
    data = target.read_bytes() if target.is_file() else b""
    there = digest(data) if target.is_file() else ""
    return there in (entry["before"], entry["after"]) or (rendered.exists() and rendered.read_bytes().startswith(data))


def put(staged: Path, target: Path) -> None:
    """Replaces a file in one step; a target on another disk, behind a link, gets a copy first."""
    try:
        os.replace(staged, target)
    except OSError:
        copy = target.with_name(f"{target.name}.unfinished")
        shutil.copy(staged, copy)
        os.replace(copy, target)


def recover(project: Path) -> list[str]:
    """Completes what a killed call had begun to apply, and discards what it had not staged in full; returns lines."""
    lines = []
    if (project / JOURNAL).exists():
        with uninterrupted():
            lines = ["completed what an interrupted call had begun:", *(f"  {line}" for line in apply(project))]
    if (project / UNREADY).exists():
        shutil.rmtree(project / UNREADY)
        lines.append("an interrupted call had changed nothing; what it had staged is discarded")
    return lines
