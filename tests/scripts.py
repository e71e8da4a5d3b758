"""Runs scripts of rendered projects in processes of their own that start with torch loaded."""

import multiprocessing
import os
import runpy
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

HERE = Path(__file__).parent
# From which a script must import nothing, while a test does.
OF_TEMPLATE = (HERE, HERE.parent / "templates" / "shared", HERE.parent / "{{cookiecutter.project_slug}}")
SERVER = {
    "PYTHONPATH": str(HERE),  # where it looks for what it loads first; it is silent when that is not found
    # Freed memory is kept and used again: glibc would map large blocks anew at every update.
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**34),
}


@cache
def _context() -> Any:
    """How processes are started: forked from a server that has torch, since the import takes most of the time."""
    if os.name != "posix":
        return multiprocessing.get_context("spawn")
    from multiprocessing import forkserver

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["scripts_preload"])
    with mock.patch.dict(os.environ, SERVER):
        forkserver.ensure_running()
    return context


@contextmanager
def _without_main() -> Iterator[None]:
    """Inside, processes start without the file that this one runs, which each of them would execute first."""
    main, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _child(folder: Path, argv: Sequence[str], output: Path, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    multiprocessing.set_start_method(None, force=True)  # type: ignore[arg-type]  # as it is in a process of its own
    if os.name == "posix":
        os.setsid()  # a group of its own, to which signals can be sent
    with output.open("w", encoding="utf-8", buffering=1) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        os.chdir(folder)
        sys.argv = list(argv)
        sys.path[:] = [str(folder), *(path for path in sys.path if Path(path) not in OF_TEMPLATE)]
        runpy.run_path(argv[0], run_name="__main__")


def start_script(folder: Path, argv: Sequence[str], output: Path, **environment: str) -> Any:
    """Starts `python *argv` in `folder`; what it prints goes into the file `output`.

    From one thread alone: multiprocessing takes the exit status of another's process, which then reads as 255.
    """
    process = _context().Process(target=_child, args=(folder, argv, output, environment))
    with _without_main():
        process.start()
    return process


def run_script(
    folder: Path, argv: Sequence[str], output: Path, seconds: float = 120, **environment: str
) -> tuple[int, str]:
    """Runs `python *argv` in `folder`; returns the exit status and what was printed."""
    process = start_script(folder, argv, output, **environment)
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
        raise TimeoutError(f"{' '.join(argv)} in {folder} took more than {seconds} s: {output.read_text('utf-8')}")
    return process.exitcode or 0, output.read_text("utf-8")
