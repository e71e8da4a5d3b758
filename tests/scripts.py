"""Runs scripts of rendered projects in processes of their own that start with torch loaded."""

import multiprocessing
import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

HERE = Path(__file__).parent


def _context() -> Any:
    """How processes are started: forked from a server that has torch, since the import takes most of the time."""
    if os.name != "posix":
        return multiprocessing.get_context("spawn")
    from multiprocessing import forkserver

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["scripts_preload"])
    # The server looks for that module on the path with which it starts, and is silent when there is none.
    with mock.patch.dict(os.environ, {"PYTHONPATH": str(HERE)}):
        forkserver.ensure_running()
    return context


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
        sys.path.insert(0, str(folder))
        runpy.run_path(argv[0], run_name="__main__")


def start_script(folder: Path, argv: Sequence[str], output: Path, **environment: str) -> Any:
    """Starts `python *argv` in `folder`; what it prints goes into the file `output`."""
    process = _context().Process(target=_child, args=(folder, argv, output, environment))
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
