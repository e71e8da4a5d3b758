"""Records how the project was rendered, trains its smoke epoch and says what comes next. The project always stays.

With TORCH_TEMPLATE_STRICT=1 the hook fails if something goes wrong; cookiecutter then removes the project, without
--keep-project-on-failure. With TORCH_TEMPLATE_QUIET=1 it only records: projects of version 0.3 and before render so.
"""

import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from importlib import import_module
from pathlib import Path

TIME_LIMIT = 120  # seconds for the smoke epoch
BIN = "Scripts" if os.name == "nt" else "bin"
VENV_PYTHON = Path(".venv", BIN, "python")
# What a project imports to train an epoch; a test compares it with what the project declares.
NEEDED = ("torch", "numpy", "tensorboard", "torchinfo", "torchsummary", "tqdm", "tyro")
PROBE = f"import importlib.util; print('lacks', *[name for name in {NEEDED} if not importlib.util.find_spec(name)])"


# ---- how it was rendered ----


def template_of(answers: dict) -> str:
    """Where the template is, as cookiecutter understands it from any folder."""
    source = answers.get("_template", "")
    for base in (os.environ.get("PWD", ""), answers.get("_output_dir", "")):
        if (place := Path(base, source)).exists() and source:
            return str(place.absolute())
    return source


def commit_of(repository: str) -> str:
    """The commit of the template that was rendered; empty if it is not in git, or has uncommitted changes."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=repository, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        as_committed = Path(git("rev-parse", "--show-toplevel")) == Path(repository).resolve()
        return git("rev-parse", "HEAD") if as_committed and not git("status", "--porcelain") else ""
    except (OSError, subprocess.SubprocessError):
        return ""


def write_lock(answers: dict) -> None:
    """Writes .cookiecutter.lock: the template, its commit, the answers, and the SHA-256 of every rendered file."""
    lock = Path(".cookiecutter.lock")
    since = lock.stat().st_mtime_ns if lock.exists() else 0  # pre_gen_project.py has touched it
    there = (path for path in Path().rglob("*") if path.is_file() and path != lock)
    files = sorted(path for path in there if path.stat().st_mtime_ns >= since)
    digests = {path.as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    repository = str(Path(os.environ.get("PWD", ""), answers.get("_repo_dir", "")).absolute())
    given = {name: answer for name, answer in sorted(answers.items()) if not name.startswith("_")}
    content = {"template": template_of(answers), "commit": commit_of(repository), "answers": given, "files": digests}
    lock.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


# ---- what the person sees and presses ----

STOP_SIGNALS = [known for known in signal.Signals if known.name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")]


def say(text: str) -> None:
    """Prints; a closed pipe ends nothing."""
    try:
        print(text, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python fails when it flushes at its end


def interrupt(number: int, frame: object) -> None:
    """Ends the smoke epoch; a second signal must not end the lines that follow."""
    for stop_signal in STOP_SIGNALS:
        signal.signal(stop_signal, signal.SIG_IGN)
    raise KeyboardInterrupt


def quoted(word: str) -> str:
    """A word as a shell takes it for one."""
    return subprocess.list2cmdline([word]) if os.name == "nt" else shlex.quote(word)


# ---- the smoke epoch ----


class NotVerifiedError(Exception):
    """Why there was no successful smoke epoch, in one line."""


def candidates(environment: dict) -> list:
    """The Pythons that a person may mean, in order: of the active environment, on PATH, cookiecutter's."""
    found = [
        Path(environment[name], folder, "python")
        for name, folder in (("VIRTUAL_ENV", BIN), ("CONDA_PREFIX", "" if os.name == "nt" else BIN))
        if environment.get(name)
    ]
    on_path = [shutil.which(name, path=environment.get("PATH")) for name in ("python", "python3")]
    return list(dict.fromkeys(str(python) for python in [*found, *on_path, sys.executable] if python))


def lacks(python: str) -> list:
    """What that Python does not have, torch first; nothing is imported, which would take seconds."""
    # Into a file: a pipe stays open as long as any process that was started holds it.
    with tempfile.TemporaryFile() as printed:
        try:
            nothing = subprocess.DEVNULL
            subprocess.run([python, "-c", PROBE], stdin=nothing, stdout=printed, stderr=nothing, timeout=20)
        except (OSError, subprocess.SubprocessError):
            return list(NEEDED)
        printed.seek(0)
        said = printed.read().decode(errors="replace").split()
    return said[1:] if said[:1] == ["lacks"] else list(NEEDED)


def active_python(environment: dict) -> tuple:
    """The candidate with torch that lacks the fewest packages, and what it lacks."""
    found = [(python, missing) for python in candidates(environment) if "torch" not in (missing := lacks(python))]
    if not found:
        raise NotVerifiedError("no Python with torch is active")
    return min(found, key=lambda pair: len(pair[1]))


def new_venv() -> str:
    """The Python of a new .venv in the project, with all that the project needs; pip shows its progress."""
    python = str(VENV_PYTHON.absolute())
    for command in ([sys.executable, "-m", "venv", ".venv"], [python, "-m", "pip", "install", "."]):
        say(f"$ {' '.join(map(quoted, command))}")
        try:
            subprocess.run(command, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise NotVerifiedError(f"'{' '.join(command[1:])}' failed") from error
    return python


def smoke_epoch(python: str) -> str:
    """Trains one small epoch; returns the line with the losses and the seconds."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONIOENCODING": "utf-8"}
    # Into files: a pipe stays open as long as any process that was started holds it.
    with tempfile.TemporaryFile() as printed, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [python, "train.py", "--smoke"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=errors,
            start_new_session=True,  # so that all its processes can be stopped together
        )
        try:
            status = process.wait(timeout=TIME_LIMIT)
        except subprocess.TimeoutExpired as error:
            raise NotVerifiedError(f"the smoke epoch took more than {TIME_LIMIT} s and was stopped") from error
        finally:
            stop(process)
        last = errors if status else printed
        last.seek(0)
        ended = f"signal {-status}" if status < 0 else f"exit status {status}"
        lines = last.read().decode(errors="replace").strip().splitlines() or [ended]
    if status:
        raise NotVerifiedError(f"the smoke epoch failed ({lines[-1].strip()})")
    return lines[-1]


def stop(process: subprocess.Popen) -> None:
    """Ends a process, if it still runs, and all that it has started."""
    if os.name == "posix":
        with suppress(ProcessLookupError, PermissionError):  # nothing is left, which macOS reports as the second
            os.killpg(process.pid, signal.SIGKILL)
    elif process.poll() is None:
        subprocess.run(["taskkill", "/F", "/T", "/PID", str(process.pid)], capture_output=True)
    process.wait()


# ---- what comes next ----


def way_to_project() -> str:
    """The path of the project, which is the working directory, from the folder in which the command was typed."""
    typed_in = os.environ.get("PWD", os.path.dirname(os.getcwd()))
    return quoted(min(os.path.relpath(os.getcwd(), typed_in), os.getcwd(), key=len))


def typed(python: str) -> str:
    """How that Python is called in the project's folder."""
    if Path(python) == VENV_PYTHON.absolute():
        return str(VENV_PYTHON)
    found = {Path(shutil.which(name) or ""): name for name in ("python3", "python")}
    return found.get(Path(python)) or quoted(python)


def next_steps(python: str) -> str:
    """The commands that come next."""
    name = typed(python)
    commands = [f"cd {way_to_project()}", f"{name} train.py", f"{name} -m tensorboard.main --logdir check_point"]
    again = ["other answers later, without losing an edit:", f"  {name} scripts/regenerate.py lr_scheduler_type=step"]
    return "\n".join(["next:", *(f"  {command}" for command in commands), *again])


def way_to_verify(python: str) -> str:
    """The command that trains the smoke epoch with that Python or, if it is empty, with a new .venv."""
    name = typed(python) if python else str(VENV_PYTHON)
    commands = [f"cd {way_to_project()}", f"{name} -m pip install .", f"{name} train.py --smoke"]
    if not python:
        commands.insert(1, f"{typed(sys.executable)} -m venv .venv")
    return " && ".join(commands)


def only_compared(answers: dict) -> bool:
    """Whether `cruft update` or `cruft diff` renders this, to compare it and throw it away."""
    return "_repo_dir" not in answers and Path(tempfile.gettempdir()).resolve() in Path.cwd().resolve().parents


def verify(answers: dict) -> int:
    """Trains the smoke epoch and says how it went; returns 1 if it failed."""
    for stop_signal in STOP_SIGNALS:
        if signal.getsignal(stop_signal) != signal.SIG_IGN:  # as nohup sets it
            signal.signal(stop_signal, interrupt)
    python, missing = "", []
    try:
        if answers["smoke_epoch"] != "venv":
            python, missing = active_python(dict(os.environ))
        if missing:
            raise NotVerifiedError(f"{python} has torch, but not {', '.join(missing)}")
        trained_by = python or new_venv()
        say(f"training a small epoch with {trained_by} ...")
        say(smoke_epoch(trained_by))
        say(next_steps(trained_by))
        return 0
    except (NotVerifiedError, OSError) as reason:
        say(f"not verified, since {reason}; to finish: {way_to_verify(python)}")
    except KeyboardInterrupt:
        say(f"not verified, since you stopped it; to finish: {way_to_verify(python)}")
    return 1


def record(answers: dict) -> bool:
    """Writes the lock or, over a project, ends the merge that was staged; returns whether there are conflicts.

    Raises:
        OSError: it cannot write.
    """
    if not Path(".cookiecutter.merge").exists():
        write_lock(answers)
        return False
    sys.dont_write_bytecode = True  # the folder is the template's
    sys.path.insert(0, str(Path(os.environ.get("PWD", ""), answers["_repo_dir"], "hooks").absolute()))
    lines, conflicts = import_module("regenerate").finish(Path.cwd())
    say("\n".join(lines))
    return conflicts


def main(answers: dict) -> int:
    """Does what the answer smoke_epoch says; returns the exit status, 0 unless TORCH_TEMPLATE_STRICT is set."""
    getattr(sys.stdout, "reconfigure", dict)(errors="backslashreplace")  # for names that the console cannot show
    conflicts = False
    if "_repo_dir" in answers:  # else cruft renders, which keeps a record of its own
        try:
            conflicts = record(answers)
        except OSError as error:
            if Path(".cookiecutter.merge").exists():
                say(f"error: the merge is not complete ({error}); when that is mended, run the same command again")
                return 1
            say(f".cookiecutter.lock was not written ({error}): scripts/regenerate.py will ask for --template")
    if os.environ.get("TORCH_TEMPLATE_QUIET") == "1" or only_compared(answers):
        return 0
    say(f"{answers['project_slug']} is ready:")
    for chosen in (("task_type", "num_parts"), ("lr_scheduler_type", "warm_up_mode")):
        say("  " + ", ".join(f"{name}={answers[name]}" for name in chosen))
    if conflicts:
        verifying = way_to_verify(shutil.which("python") or "")
        say(f"not verified, since there are conflicts; decide in these files, then: {verifying}")
        return 1 if os.environ.get("TORCH_TEMPLATE_STRICT") == "1" else 0
    if answers["smoke_epoch"] == "skip":
        say(f"not verified, as you asked; to do so: {way_to_verify(shutil.which('python') or '')}")
        return 0
    failed = verify(answers)
    return failed if os.environ.get("TORCH_TEMPLATE_STRICT") == "1" else 0


if __name__ == "__main__":
    sys.exit(main(json.loads(r"""{{ cookiecutter | tojson }}""")))
