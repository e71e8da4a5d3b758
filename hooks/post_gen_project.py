"""Notes how the project was rendered, trains its smoke epoch and says what comes next. The project always stays.

With TORCH_TEMPLATE_STRICT=1 it fails where something goes wrong; cookiecutter then removes the project unless
--keep-project-on-failure. With TORCH_TEMPLATE_QUIET=1 it trains and says nothing: engine/regenerate.py renders so.
"""

import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

TIME_LIMIT = 120  # seconds for the smoke epoch
BIN = "Scripts" if os.name == "nt" else "bin"
PROBE = "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is None)"


# ---- how it was rendered ----


def template_of(answers: dict) -> str:
    """Where the template is, as cookiecutter can be told it again from another folder."""
    source = answers.get("_template", "")
    for base in (os.environ.get("PWD", ""), answers.get("_output_dir", "")):
        if (place := Path(base, source)).exists() and source:
            return str(place.absolute())
    return source


def commit_of(repository: str) -> str:
    """The commit of the template that was rendered; nothing where it is not in git, or has been changed since."""

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
    """Writes .cookiecutter.lock: the template, its commit, and what every file looked like, by SHA-256."""
    lock = Path(".cookiecutter.lock")
    since = lock.stat().st_mtime_ns if lock.exists() else 0  # pre_gen_project.py has touched it
    there = (path for path in Path().rglob("*") if path.is_file() and path != lock)
    files = sorted(path for path in there if path.stat().st_mtime_ns >= since)
    digests = {path.as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    repository = str(Path(os.environ.get("PWD", ""), answers.get("_repo_dir", "")).absolute())
    content = {"template": template_of(answers), "commit": commit_of(repository), "files": digests}
    lock.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


# ---- the smoke epoch ----


class NotVerifiedError(Exception):
    """Why the smoke epoch did not end well, in one line."""


def candidates(environment: dict) -> list:
    """The Pythons that a person may mean, the likeliest first: of the active environment, on PATH, cookiecutter's."""
    found = [
        Path(environment[name], folder, "python")
        for name, folder in (("VIRTUAL_ENV", BIN), ("CONDA_PREFIX", "" if os.name == "nt" else BIN))
        if environment.get(name)
    ]
    on_path = [shutil.which(name, path=environment.get("PATH")) for name in ("python", "python3")]
    return list(dict.fromkeys(str(python) for python in [*found, *on_path, sys.executable] if python))


def has_torch(python: str) -> bool:
    """Whether that Python runs and finds torch; torch is not imported, which would take seconds."""
    try:
        return subprocess.run([python, "-c", PROBE], capture_output=True, timeout=20).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


def active_python(environment: dict) -> str:
    """The first candidate that has torch."""
    for python in candidates(environment):
        if has_torch(python):
            return python
    raise NotVerifiedError("no Python with torch is active")


def new_venv() -> str:
    """The Python of a new .venv in the project, with all that the project needs; pip shows its progress."""
    python = str(Path(".venv", BIN, "python").absolute())
    for command in ([sys.executable, "-m", "venv", ".venv"], [python, "-m", "pip", "install", "."]):
        print("$", " ".join(command), flush=True)
        try:
            subprocess.run(command, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise NotVerifiedError(f"'{' '.join(command[1:])}' failed") from error
    return python


def smoke_epoch(python: str) -> str:
    """Trains one small epoch; returns the line with the losses and the seconds."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        process = subprocess.Popen(
            [python, "train.py", "--smoke"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,  # so that what it has started can be stopped with it
        )
    except OSError as error:
        raise NotVerifiedError(f"{python} cannot be started ({error})") from error
    try:
        printed, errors = process.communicate(timeout=TIME_LIMIT)
    except subprocess.TimeoutExpired as error:
        raise NotVerifiedError(f"the smoke epoch took more than {TIME_LIMIT} s and was stopped") from error
    finally:
        stop(process)
    lines = (errors if process.returncode else printed).strip().splitlines() or ["no output"]
    if process.returncode:
        raise NotVerifiedError(f"the smoke epoch failed ({lines[-1].strip()})")
    return lines[-1]


def stop(process: subprocess.Popen) -> None:
    """Ends a process that still runs, and all that it has started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL) if os.name == "posix" else process.kill()
        process.wait()


def way_to_project() -> str:
    """The path of the project, which is the working directory, from where the person typed the command."""
    typed_in = os.environ.get("PWD", os.path.dirname(os.getcwd()))
    return shlex.quote(min(os.path.relpath(os.getcwd(), typed_in), os.getcwd(), key=len))


def next_steps(answers: dict, python: str) -> str:
    """The commands for the person, with `python` as they would type it."""
    where = shutil.which("python")
    name = "python" if where and Path(where) == Path(python) else python
    if answers["smoke_epoch"] == "venv":
        name = str(Path(".venv", BIN, "python"))
    commands = [f"cd {way_to_project()}", f"{name} train.py", f"{name} -m tensorboard.main --logdir check_point"]
    again = f"other answers later, without losing an edit: {name} -m engine.regenerate lr_scheduler_type=step"
    return "\n".join(["next:", *(f"  {command}" for command in commands), again])


def main(answers: dict) -> int:
    """Verifies the project as the answer smoke_epoch says; the exit status is 0 unless strictness was asked for."""
    slug = answers["project_slug"]
    try:
        write_lock(answers)
    except OSError as error:
        print(f".cookiecutter.lock was not written ({error}): engine.regenerate will ask for --template")
    if os.environ.get("TORCH_TEMPLATE_QUIET") == "1":
        return 0
    chosen = ("task_type", "num_parts", "lr_scheduler_type", "warm_up_mode")
    print(f"{slug} is ready: " + ", ".join(f"{name}={answers[name]}" for name in chosen), flush=True)
    finish = f"cd {way_to_project()} && python -m pip install . && python train.py --smoke"
    if answers["smoke_epoch"] == "skip":
        print(f"not verified, as you asked; to do so: {finish}")
        return 0
    try:
        python = new_venv() if answers["smoke_epoch"] == "venv" else active_python(dict(os.environ))
        print(f"training a small epoch with {python} ...", flush=True)
        print(smoke_epoch(python))
        print(next_steps(answers, python))
        return 0
    except NotVerifiedError as reason:
        print(f"not verified, since {reason}; to finish: {finish}")
    except KeyboardInterrupt:
        print(f"not verified, since you stopped it; to finish: {finish}")
    return 1 if os.environ.get("TORCH_TEMPLATE_STRICT") == "1" else 0


if __name__ == "__main__":
    sys.exit(main(json.loads(r"""{{ cookiecutter | tojson }}""")))
