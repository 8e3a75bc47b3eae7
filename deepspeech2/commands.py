"""Boolean options, logging and exit codes, the same for every command."""

import argparse
import logging
import signal
import sys
from collections.abc import Callable

from deepspeech2.errors import InputError, RunError


def boolean(text: str) -> bool:
    """An argparse type: `True` or `False`, in upper or lower case."""
    values = {"true": True, "false": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"{text!r} must be True or False")
    return values[text.lower()]


def run(command: Callable[[], int]) -> int:
    """Set up logging and run a command.

    Returns:
        The exit code: 0 on success; 2 for wrong input, such as an option, a setting or a file that
        cannot be read; 1 for any other failure; 128 + N when signal N stopped the command.
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
        number = getattr(error, "signal_number", 0)  # a stop that the user asked for
        print(error if number else f"failed: {error}", file=sys.stderr)
        return 128 + number if number else 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except (OSError, MemoryError) as error:
        print(f"failed: {str(error) or type(error).__name__}", file=sys.stderr)
        return 1
