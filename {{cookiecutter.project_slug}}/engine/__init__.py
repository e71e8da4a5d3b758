"""The engine: trainer, schedules, checkpoints, logger, data loading. It knows nothing of the task."""

import sys
from collections.abc import Callable


class UserError(ValueError):
    """A mistake that the person can put right. On the command line it becomes one line, without a traceback."""

    def __str__(self) -> str:
        # A process that loads data hands an error on with its traceback around it: the message is the last line.
        return super().__str__().strip().splitlines()[-1].removeprefix("engine.UserError: ")


def command_line(main: Callable[[list[str]], None]) -> None:
    """Runs a script's `main`; a UserError or a wrong flag (status 1) or Ctrl-C (status 130) ends it with a message."""
    for stream in (sys.stdout, sys.stderr):  # a name that the console cannot show ends nothing
        getattr(stream, "reconfigure", dict)(errors="backslashreplace")
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
    except SystemExit as stop:
        sys.exit(1 if stop.code == 2 else stop.code)  # 2 is what tyro gives for a wrong flag
    except KeyboardInterrupt:
        print("stopped; a run goes on from its last saved state with --resume auto", file=sys.stderr)
        sys.exit(130)
