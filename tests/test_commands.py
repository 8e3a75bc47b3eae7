"""deepspeech2/commands.py: boolean options, exit codes and messages."""

import argparse
import logging
import signal

import pytest

from deepspeech2 import commands
from deepspeech2.errors import InputError, RunError
from deepspeech2.settings import ConfigError


@pytest.mark.parametrize(("text", "value"), [
    ("True", True), ("true", True), ("TRUE", True), ("False", False), ("false", False)])
def test_boolean(text, value):
    assert commands.boolean(text) is value


@pytest.mark.parametrize("text", ["", "1", "0", "yes", "no", "None", "Tru"])
def test_not_a_boolean(text):
    with pytest.raises(argparse.ArgumentTypeError, match="must be True or False"):
        commands.boolean(text)


@pytest.mark.parametrize("code", [0, 1, 2])
def test_the_code_of_the_command(code):
    assert commands.run(lambda: code) == code


def raising(error: BaseException):
    def command() -> int:
        raise error
    return command


def interrupted(number: int) -> RunError:
    """As src/training.py raises it, which needs MindSpore."""
    error = RunError("stopped")
    error.signal_number = number
    return error


@pytest.mark.parametrize(("error", "code", "begin"), [
    (InputError("bad"), 2, "error: bad"), (ConfigError("bad"), 2, "error: bad"),
    (RunError("bad"), 1, "failed: bad"), (interrupted(signal.SIGINT), 130, "stopped"),
    (interrupted(signal.SIGTERM), 143, "stopped"),
    (OSError(28, "No space left", "a.ckpt"), 1, "failed: [Errno 28] No space left: 'a.ckpt'"),
    (MemoryError("Unable to allocate"), 1, "failed: Unable to allocate"),
    (MemoryError(), 1, "failed: MemoryError"), (KeyboardInterrupt(), 130, "interrupted"),
])
def test_errors_become_one_message_and_a_code(error, code, begin, capsys):
    assert commands.run(raising(error)) == code
    captured = capsys.readouterr()
    assert captured.err == f"{begin}\n" and captured.out == ""


@pytest.mark.parametrize("error", [KeyError("a defect"), ValueError("a defect"), AssertionError()])
def test_a_defect_keeps_its_traceback(error):
    with pytest.raises(type(error)):
        commands.run(raising(error))


def test_run_switches_logging_on(monkeypatch):
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(logging.root, "level", logging.WARNING)
    assert commands.run(lambda: 0) == 0
    assert logging.getLogger("src").isEnabledFor(logging.INFO) and logging.root.handlers
