"""Boolean options, logging, signals and exit codes, the same for every command."""

import argparse
import contextlib
import io
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from deepspeech2.errors import InputError, RunError
from deepspeech2.stopping import StopRequests, describe, interrupt


def boolean(text: str) -> bool:
    """An argparse type: `True` or `False`, in upper or lower case."""
    values = {"true": True, "false": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"{text!r} must be True or False")
    return values[text.lower()]


def run(command: Callable[[], int]) -> int:
    """Set up logging and signals, and run a command.

    Returns:
        The exit code: 0 on success; 2 for wrong input, such as an option, a setting or a file that
        cannot be read; 1 for any other failure; 128 + N when signal N stopped the command.
    """
    _open_streams()
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"
    )
    with StopRequests(interrupt) as stop:
        try:
            code = command()
            sys.stdout.flush()
            return code
        except InputError as error:
            return _report(f"error: {error}", 2)
        except RunError as error:
            number = getattr(error, "signal_number", 0)  # a stop that the user asked for
            return _report(str(error), 128 + number) if number else _report(f"failed: {error}", 1)
        except (OSError, MemoryError) as error:
            _close_failed_stdout()
            return _report(f"failed: {str(error) or type(error).__name__}", 1)
        except KeyboardInterrupt:
            number = stop.number or signal.SIGINT
            return _report(describe(number), 128 + number)
        except Exception:
            if not stop.number:
                raise
            # what became of the KeyboardInterrupt: an import, for example, ends in an ImportError
            return _report(describe(stop.number), 128 + stop.number)


def leave(code: int) -> NoReturn:
    """End the program with an exit code of `run`.

    After a signal nothing is unwound any more: where an import of MindSpore was interrupted, the
    program would end in a crash (exit code 134) instead.
    """
    if code > 128:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _report(message: str, code: int) -> int:
    print(message, file=sys.stderr)
    return code


def _close_failed_stdout() -> None:
    """Throw away output that cannot be written; Python would try again at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _open_streams() -> None:
    """Make the standard streams safe to write to.

    A character that the terminal's encoding lacks is escaped. What is written to stderr is lost
    where stderr is closed, full, or a pipe that nobody reads: no message is worth a long run.
    """
    for name in "stdout", "stderr":
        stream = getattr(sys, name)
        if stream is None:  # closed by `>&-`
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if not isinstance(sys.stderr, _Dispensable):
        sys.stderr = _Dispensable(sys.stderr)


class _Dispensable:
    """A text stream whose failures are passed over."""

    def __init__(self, stream):
        self._stream = stream

    def __getattr__(self, name: str):
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()
