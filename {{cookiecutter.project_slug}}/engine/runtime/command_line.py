"""How a script starts and ends: errors as one line, exit statuses, and the end of one of several processes."""

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from .errors import UserError

OTHERS_FIRST = 2.0  # seconds that processes other than the first of a machine wait before they name an error
OWNED = ("config", "task", "data", "model")  # files of the person who owns the project


def started_by_torchrun() -> bool:
    """Whether this process is one of those that torchrun has started."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def command_line(main: Callable[[list[str]], None]) -> None:
    """Runs a script's `main` with the words behind its name and ends the process.

    The exit status is 0, or 1 after a UserError or a wrong flag, which end in one line, or 128 plus the signal's number
    after a signal (Ctrl-C: 130). Any other exception keeps its traceback.
    """
    for name in ("stdout", "stderr"):  # there is none for a daemon, or under pythonw
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (as long as the process)
    for stream in (sys.stdout, sys.stderr):  # a character that the console cannot show must not end the program
        getattr(stream, "reconfigure", dict)(errors="backslashreplace")
    if os.environ.get("NO_COLOR"):
        os.environ["TERM"] = "dumb"  # the only way to tell tyro
    status: int | str | None = 0
    try:
        main(sys.argv[1:])
        print(end="", flush=True)
    except UserError as error:
        status = f"error: {error}"
    except SystemExit as stop:
        status = 1 if stop.code == 2 else stop.code  # 2 is what tyro gives for a wrong flag
    except KeyboardInterrupt:
        print("stopped; --resume auto continues a run from its last saved state", file=sys.stderr)
        status = 130
    except BrokenPipeError:  # the reader of the output has ended, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python fails when it flushes at the end
        status = "stopped: nothing reads the output any more"
    except ImportError as error:
        if error.name not in OWNED:
            raise
        status = f"error: {error}; README.md lists what must be in task.py, data.py and model.py"
    except Exception as error:
        if str(error).startswith("DataLoader worker (pid"):  # torch has no class of its own for it
            status = (
                f"error: {str(error).splitlines()[0].rstrip('. ')}; if memory was short, give fewer --workers or a "
                "smaller --batch_size; then continue with --resume auto"
            )
        elif not started_by_torchrun():
            raise
        else:
            sys.excepthook(type(error), error, error.__traceback__)
            status = 1
    if started_by_torchrun():
        exit_at_once(status)
    sys.exit(status)


def exit_at_once(status: int | str | None) -> NoReturn:
    """Ends the process with that status, as sys.exit does, but without the interpreter's shutdown.

    Threads of gloo may still hold tensors, and releasing one after Python has ended aborts the process (pytorch pull
    request 179291); destroying the process group first can wait for them forever.
    """
    if isinstance(status, str):
        if os.environ.get("LOCAL_RANK", "0") != "0":
            # What ails all processes is said once: torchrun ends this one as soon as the first of the machine has.
            time.sleep(OTHERS_FIRST)
        print(status, file=sys.stderr)
        status = 1
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # there is none, its disk is full, or it is closed
            stream.flush()
    os._exit(status or 0)
