"""The error for what the person who runs the program can correct."""


class UserError(ValueError):
    """A mistake that the person who runs the program can correct; a script prints it as one line, without a traceback.

    The message names the value, what is allowed and what to do.
    """

    def __str__(self) -> str:
        # A DataLoader worker hands an error on with its whole traceback as the text: the message is the last line.
        name = f"{type(self).__module__}.{type(self).__qualname__}: "
        return super().__str__().strip().splitlines()[-1].removeprefix(name)


def one_line(error: Exception) -> str:
    """What any error says, or its kind if it says nothing, in one line for a message."""
    return " ".join(str(error).split()) or type(error).__name__
