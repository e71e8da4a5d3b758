"""The engine: trainer, schedules, checkpoints, logger, data loading. It knows nothing of the task."""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn


class UserError(ValueError):
    """A mistake that the person can put right. On the command line it becomes one line, without a traceback."""

    def __str__(self) -> str:
        # A process that loads data hands an error on with its traceback around it: the message is the last line.
        return super().__str__().strip().splitlines()[-1].removeprefix("engine.UserError: ")


def command_line(main: Callable[[list[str]], None]) -> None:
    """Runs a script's `main`; a UserError or a wrong flag (status 1) or Ctrl-C (status 130) ends it with a message."""
    for stream in (sys.stdout, sys.stderr):  # a name that the console cannot show ends nothing
        getattr(stream, "reconfigure", dict)(errors="backslashreplace")
    if os.environ.get("NO_COLOR"):
        os.environ["TERM"] = "dumb"  # which is all that tyro knows of
    status: int | str | None = 0
    one_of_several = "RANK" in os.environ  # started by torchrun
    try:
        main(sys.argv[1:])
        print(end="", flush=True)
    except UserError as error:
        status = f"error: {error}"
    except SystemExit as stop:
        status = 1 if stop.code == 2 else stop.code  # 2 is what tyro gives for a wrong flag
    except KeyboardInterrupt:
        print("stopped; a run goes on from its last saved state with --resume auto", file=sys.stderr)
        status = 130
    except BrokenPipeError:  # as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would fail with it at its end
        status = "stopped: what it prints is no longer read"
    except Exception as error:
        if not one_of_several:
            raise
        sys.excepthook(type(error), error, error.__traceback__)
        status = 1
    if one_of_several:
        leave(status)
    sys.exit(status)


def leave(status: int | str | None) -> NoReturn:
    """Ends one of several processes as sys.exit would, but at once.

    gloo's threads may still have to let go of a tensor, for which they need Python: when it has ended they abort
    (pytorch pull request 179291), and a process group that is destroyed can wait for them for ever.
    """
    if isinstance(status, str):
        print(status, file=sys.stderr)
        status = 1
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # no stream, a full disk, a closed one
            stream.flush()
    os._exit(status or 0)
