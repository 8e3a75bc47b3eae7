"""The two kinds of errors that end a command."""


class InputError(ValueError):
    """A mistake in the input: the message names the argument, file or setting. Exit code 2."""


class RunError(RuntimeError):
    """A failure that the input did not cause: a full disk, a diverged loss. Exit code 1."""


def first_line(error: Exception) -> str:
    """The first line of an error's message that is not blank; the error's type without any."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
