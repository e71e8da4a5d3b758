"""The engine: trainer, schedules, checkpoints, logger, data loading. It knows nothing of the task."""


class UserError(ValueError):
    """A mistake that the person can put right. On the command line it becomes one line, without a traceback."""

    def __str__(self) -> str:
        # A process that loads data hands an error on with its traceback around it: the message is the last line.
        return super().__str__().strip().splitlines()[-1].removeprefix("engine.UserError: ")
