"""Whatever is missing or broken where a project is made, it is complete; cookiecutter runs as a person runs it.

The torch of these tests is a file that does what is tested when the smoke epoch imports it.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import ROOT, Render, files_in
from terminals import read_until

SMOKE = "smoke epoch: loss 2.0000 -> 1.0000 in 0.1 s"
GOOD = f"import os\nprint({SMOKE!r}, flush=True)\nos._exit(0)\n"
HIDDEN = "import sys\nsys.modules[{!r}] = None\n"  # as if it were not installed
SLEEPS = "import time\ntime.sleep(600)\n"
# Has started a process that writes for two minutes, or until it is stopped.
BEATS = """
import os, subprocess, sys, time
beat = "import os, time\\nfor _ in range(6000):\\n    open(os.environ['BEAT'], 'a').write('.')\\n    time.sleep(0.02)"
subprocess.Popen([sys.executable, "-c", beat])
while not os.path.exists(os.environ["BEAT"]):
    time.sleep(0.01)
"""
NO_NETWORK = {"PIP_INDEX_URL": "http://127.0.0.1:9/", "PIP_RETRIES": "0", "PIP_CONFIG_FILE": os.devnull}
NO_NETWORK |= {"PIP_FIND_LINKS": "", "PIP_EXTRA_INDEX_URL": ""}
VENV_PYTHON = Path(".venv", "Scripts" if os.name == "nt" else "bin", "python")
VERIFY = "python -m pip install . && python train.py --smoke"
VERIFY_IN_VENV = f"python -m venv .venv && {VENV_PYTHON} -m pip install . && {VENV_PYTHON} train.py --smoke"

with_and_without_strict = pytest.mark.parametrize("strict", [False, True], ids=["", "strict"])
needs_posix = pytest.mark.skipif(os.name == "nt", reason="of POSIX")


class Place:
    """A folder to make a project in, `out`/demo, with modules that every Python there finds before all others."""

    def __init__(self, folder: Path, config: Path) -> None:
        self.folder, self.config, self.template = folder, config, ROOT
        self.modules, self.project, self.beat = folder / "modules", folder / "out" / "demo", folder / "beat"
        self.modules.mkdir()
        bin_folder = str(Path(sys.executable).parent)
        self.python = shutil.which("python", path=bin_folder) or sys.executable
        self.environment = {
            **{name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "CONDA_PREFIX")},
            "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(self.modules),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PWD": str(folder),
            "BEAT": str(self.beat),
        }

    def add(self, module: str, source: str) -> None:
        """Such a module."""
        (self.modules / f"{module}.py").write_text(source, "utf-8")

    def hurry(self) -> None:
        """From here on a smoke epoch has three seconds."""
        self.template = self.folder / "template"
        for part in ("hooks", "templates", "{{cookiecutter.project_slug}}"):
            shutil.copytree(ROOT / part, self.template / part)
        shutil.copy(ROOT / "cookiecutter.json", self.template)
        hook = self.template / "hooks" / "post_gen_project.py"
        hook.write_text(re.sub(r"(?m)^TIME_LIMIT = \d+", "TIME_LIMIT = 3", hook.read_text("utf-8")), "utf-8")

    def command(self, *answers: str) -> list[str]:
        """The words that make a project."""
        options = ["--no-input", "-o", "out", "--config-file", str(self.config)]
        return [self.python, "-m", "cookiecutter", str(self.template), *options, "project_name=Demo", *answers]

    def run(self, command: list[str], **environment: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            command, env=self.environment | environment, cwd=self.folder, capture_output=True, encoding="utf-8"
        )

    def beats(self) -> bool:
        """Whether a process that BEATS has started still runs."""
        size = self.beat.stat().st_size if self.beat.exists() else 0
        time.sleep(0.3)
        return self.beat.exists() and self.beat.stat().st_size > size


@pytest.fixture
def place(tmp_path: Path, cookiecutter_config: Path) -> Place:
    """A place of the test's own, the path of which has spaces and letters that are not ASCII."""
    (tmp_path / "Über uns 空").mkdir()
    return Place(tmp_path / "Über uns 空", cookiecutter_config)


@pytest.fixture(scope="module")
def complete(render_into: Render, tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The files of a complete project."""
    return files_in(render_into(tmp_path_factory.mktemp("complete"), project_name="Demo")) | {".cookiecutter.lock"}


def without_venv(project: Path) -> set[str]:
    """The files of a project that are not in its .venv."""
    return {name for name in files_in(project) if not name.startswith(".venv/")}


# ---- what cannot be verified ----


class Case(NamedTuple):
    torch: str  # what it does when it is imported; there is none where it is ""
    reason: str  # the start of what is said
    verify: str = VERIFY  # the command that is said
    answer: str = "smoke_epoch=active"
    slow: bool = False  # ends with the time limit
    environment: dict[str, str] = {}


UNVERIFIED = {
    "no torch": Case("", "no Python with torch is active", VERIFY_IN_VENV),
    "torch cannot be imported": Case(
        "raise ImportError('libcudart.so.12: cannot open shared object file')",
        "the smoke epoch failed (ImportError: libcudart.so.12: cannot open shared object file)",
    ),
    "it crashes": Case("import sys\nsys.exit('error: one line')", "the smoke epoch failed (error: one line)"),
    "it crashes without a word": Case("import os\nos._exit(3)", "the smoke epoch failed (exit status 3)"),
    "it is killed": Case("import os\nos.kill(os.getpid(), 9)", "the smoke epoch failed ("),
    "it leaves a process behind": Case(BEATS + "sys.exit('gone')", "the smoke epoch failed (gone)"),
    "it hangs": Case(SLEEPS, "the smoke epoch took more than 3 s and was stopped", slow=True),
    "its processes hang": Case(BEATS + SLEEPS, "the smoke epoch took more than 3 s and was stopped", slow=True),
    "no network": Case("", "'-m pip install .' failed", VERIFY_IN_VENV, "smoke_epoch=venv", environment=NO_NETWORK),
}


@with_and_without_strict
@pytest.mark.parametrize("case", UNVERIFIED.values(), ids=UNVERIFIED)
def test_what_cannot_be_verified_is_complete_and_one_line_says_why_and_how(
    case: Case, strict: bool, place: Place, complete: set[str]
) -> None:
    place.add("torch" if case.torch else "sitecustomize", case.torch or HIDDEN.format("torch"))
    if case.slow:
        place.hurry()
    command = place.command("--keep-project-on-failure", case.answer)
    done = place.run(command, TORCH_TEMPLATE_STRICT=str(int(strict)), **case.environment)
    assert done.returncode == strict, done.stdout + done.stderr
    [line] = [line for line in done.stdout.splitlines() if "not verified" in line]
    assert line.startswith(f"not verified, since {case.reason}")
    assert line.endswith(f"; to finish: cd {Path('out', 'demo')} && {case.verify}")
    assert without_venv(place.project) == complete
    assert not place.beats()


def test_the_small_packages_that_a_python_with_torch_lacks_are_named(place: Place, complete: set[str]) -> None:
    place.add("torch", GOOD)
    place.add("sitecustomize", HIDDEN.format("tqdm") + HIDDEN.format("tyro"))
    done = place.run(place.command())
    assert done.returncode == 0 and files_in(place.project) == complete
    assert re.search(rf"not verified, .* has torch, but not tqdm, tyro; to finish: .*{VERIFY}$", done.stdout, re.M)


@pytest.mark.parametrize("answer", ["smoke_epoch=active", "smoke_epoch=venv"])
def test_the_command_that_is_said_verifies_the_project(answer: str, place: Place) -> None:
    place.add("torch", "raise ImportError")
    place.add("pip", "raise SystemExit('error: no network')")
    done = place.run(place.command(answer))
    command = done.stdout.strip().splitlines()[-1].partition("to finish: ")[2]
    place.add("torch", GOOD)
    place.add("pip", "")
    installed = os.pathsep.join([str(place.modules), *(path for path in sys.path if "site-packages" in path)])
    again = subprocess.run(
        command, shell=True, env=place.environment | {"PYTHONPATH": installed}, cwd=place.folder, capture_output=True
    )
    assert again.returncode == 0 and SMOKE in again.stdout.decode(), again.stderr


def test_strictness_removes_what_it_has_made(place: Place) -> None:
    place.add("torch", "raise ImportError")
    assert place.run(place.command(), TORCH_TEMPLATE_STRICT="1").returncode == 1
    assert not place.project.exists()


def test_torch_is_not_imported_to_look_for_it(place: Place) -> None:
    place.add("torch", "import os\nopen(os.environ['BEAT'], 'a').write(str(os.getpid()) + ' ')\n" + GOOD)
    assert SMOKE in place.run(place.command()).stdout
    assert len(place.beat.read_text().split()) == 1  # by the smoke epoch


# ---- what changes nothing ----

MISSING = "{folder}/missing"
HARMLESS = {
    "as it comes": ('exec "$@"', {}),
    "stdin is closed": ('exec "$@" <&-', {}),
    "stdin and stdout are closed": ('exec "$@" <&- >&-', {}),
    "no git, and no other python": ('exec "$@"', {"PATH": MISSING}),
    "the temporary folder is missing": ('exec "$@"', {"TMPDIR": MISSING}),
    "the temporary folder is a file": ('exec "$@"', {"TMPDIR": "{folder}/modules/torch.py"}),
    "the temporary folder is read-only": ('chmod u-w "$TMPDIR"; exec "$@"', {"TMPDIR": "{folder}/modules"}),
    "a terminal of ASCII alone": ('exec "$@"', {"PYTHONIOENCODING": "ascii"}),
    "an environment that is gone": ('exec "$@"', {"VIRTUAL_ENV": MISSING, "CONDA_PREFIX": MISSING}),
}


@needs_posix
@with_and_without_strict
@pytest.mark.parametrize(("shell", "environment"), HARMLESS.values(), ids=HARMLESS)
def test_what_does_not_matter_is_passed_over(
    shell: str, environment: dict[str, str], strict: bool, place: Place, complete: set[str]
) -> None:
    place.add("torch", GOOD)
    changed = {name: value.format(folder=place.folder) for name, value in environment.items()}
    command = [shutil.which("sh") or "sh", "-c", shell, "sh", *place.command()]
    done = place.run(command, TORCH_TEMPLATE_STRICT=str(int(strict)), **changed)
    assert done.returncode == 0, done.stdout + done.stderr
    assert SMOKE in done.stdout or ">&-" in shell
    assert done.stderr == ""
    assert files_in(place.project) == complete


@needs_posix
def test_a_pipe_that_nobody_reads_ends_nothing(place: Place, complete: set[str]) -> None:
    place.add("torch", GOOD)
    read, write = os.pipe()
    os.close(read)
    environment = place.environment | {"TORCH_TEMPLATE_STRICT": "1"}
    with os.fdopen(write):
        done = subprocess.run(place.command(), env=environment, cwd=place.folder, stdout=write, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, b"")
    assert files_in(place.project) == complete


@needs_posix
def test_without_torchvision_git_stdin_and_temporary_folder_it_trains_for_real(place: Place) -> None:
    place.add("sitecustomize", HIDDEN.format("torchvision"))
    command = ["/bin/sh", "-c", 'exec "$@" <&-', "sh", *place.command()]
    missing = str(place.folder / "missing")
    done = place.run(command, TORCH_TEMPLATE_STRICT="1", PATH=missing, TMPDIR=missing)
    assert done.returncode == 0 and "smoke epoch: loss" in done.stdout, done.stdout + done.stderr


# ---- being stopped ----


def until_it_trains(place: Place) -> None:
    """Waits until the smoke epoch has started a process."""
    for _ in range(600):
        if place.beat.exists():
            return
        time.sleep(0.05)
    raise TimeoutError("no smoke epoch after 30 s")


def on_a_terminal(place: Place, keys: str, **environment: str) -> tuple[int, str]:
    """The status and the output of cookiecutter on a terminal where keys are pressed while the smoke epoch trains."""
    import fcntl
    import pty
    import termios

    person, terminal = pty.openpty()
    process = subprocess.Popen(
        place.command("--keep-project-on-failure"),
        env=place.environment | environment,
        cwd=place.folder,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(terminal)
    until_it_trains(place)
    for key in keys:
        os.write(person, key.encode())
        time.sleep(0.05)
    shown = read_until(person)
    os.close(person)
    return process.wait(60), shown


KEYS = {"Ctrl-C": "\3", "Ctrl-C in anger": "\3\3\3\3\3", "Ctrl-Z, then Ctrl-C": "\x1a\3", "Ctrl-backslash": "\x1c"}


@needs_posix
@with_and_without_strict
@pytest.mark.parametrize("keys", KEYS.values(), ids=KEYS)
def test_keys_that_stop_generation_leave_a_complete_project_and_no_process(
    keys: str, strict: bool, place: Place, complete: set[str]
) -> None:
    place.add("torch", BEATS + SLEEPS)
    status, shown = on_a_terminal(place, keys, TORCH_TEMPLATE_STRICT=str(int(strict)))
    assert status in (1, -signal.SIGINT, -signal.SIGQUIT), shown  # as cookiecutter ends by itself
    [line] = [line for line in shown.splitlines() if "not verified" in line]
    assert line.endswith(f"not verified, since you stopped it; to finish: cd {Path('out', 'demo')} && {VERIFY}")
    assert files_in(place.project) == complete
    assert not place.beats()


@needs_posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_to_cookiecutter_and_its_hook_leaves_a_complete_project(
    number: signal.Signals, place: Place, complete: set[str]
) -> None:
    place.add("torch", BEATS + SLEEPS)
    process = subprocess.Popen(
        place.command(),
        env=place.environment,
        cwd=place.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    until_it_trains(place)
    os.killpg(process.pid, number)
    shown, _ = process.communicate(timeout=60)
    assert b"not verified, since you stopped it" in shown
    assert files_in(place.project) == complete
    assert not place.beats()
