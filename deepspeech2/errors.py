"""The two ways in which a command ends badly."""


class InputError(ValueError):
    """The user's mistake: a bad argument, file or setting, named in the message. Exit code 2."""


class RunError(RuntimeError):
    """A run that failed for a reason outside the input, such as a full disk or a diverged loss.

    Exit code 1.
    """
