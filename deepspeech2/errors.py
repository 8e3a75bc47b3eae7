"""The two kinds of errors that end a command."""


class InputError(ValueError):
    """A mistake in the input: the message names the argument, file or setting. Exit code 2."""


class RunError(RuntimeError):
    """A failure that the input did not cause: a full disk, a diverged loss. Exit code 1."""
