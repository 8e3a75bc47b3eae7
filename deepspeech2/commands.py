"""What every command shares: boolean options, logging, and exit codes."""

import argparse
import logging
import signal
import sys
from collections.abc import Callable

from deepspeech2.errors import InputError, RunError


def boolean(text: str) -> bool:
    """`True` or `False` in any case, for options that take a value."""
    values = {"true": True, "false": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"{text!r} must be True or False")
    return values[text.lower()]


def run(command: Callable[[], int]) -> int:
    """Run a command with logging set up; returns its exit code.

    The rule for all commands: 0 when everything was done, 2 when the input was at fault (an option,
    a setting, or a file that cannot be read), 1 when the run failed for another reason, and
    128 + N when signal N stopped it.
    """
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"
    )
    try:
        return command()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RunError as error:
        number = getattr(error, "signal_number", 0)  # a signal that the user sent is no failure
        print(error if number else f"failed: {error}", file=sys.stderr)
        return 128 + number if number else 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except (OSError, MemoryError) as error:
        print(f"failed: {str(error) or type(error).__name__}", file=sys.stderr)
        return 1
