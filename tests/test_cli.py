"""Shared options, the choice of the device, exit codes and messages."""

import argparse
import logging
import signal

import pytest

from deepspeech2 import commands
from deepspeech2.errors import InputError, RunError
from deepspeech2.settings import ConfigError
from src import cli, device


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    """All shared options together."""
    result = argparse.ArgumentParser()
    cli.add_bidirectional_argument(result)
    cli.add_device_argument(result)
    cli.add_config_arguments(result)
    return result


def raising(error: BaseException):
    def command() -> int:
        raise error
    return command


# booleans mean what they say

@pytest.mark.parametrize(("text", "value"), [
    ("True", True), ("true", True), ("TRUE", True), ("False", False), ("false", False), ("FALSE", False),
])
def test_boolean(text, value):
    assert commands.boolean(text) is value


@pytest.mark.parametrize("text", ["", "1", "0", "yes", "no", "None", "Tru"])
def test_not_a_boolean(text):
    with pytest.raises(argparse.ArgumentTypeError, match="must be True or False"):
        commands.boolean(text)


@pytest.mark.parametrize(("arguments", "override"), [
    ([], []),
    (["--bidirectional", "True"], ["ModelConfig.bidirectional=True"]),
    (["--bidirectional=false"], ["ModelConfig.bidirectional=False"]),
])
def test_bidirectional_is_an_override_only_when_written(parser, arguments, override):
    assert cli.config_changes(parser.parse_args([*arguments, "A.b=1"])) == [*override, "A.b=1"]


@pytest.mark.parametrize(("arguments", "words"), [
    (["--bidirectional", "yes"], "'yes' must be True or False"),
    (["--bidirectional"], "expected one argument"),
    (["--device_target", "TPU"], "'TPU'"),
    (["--device_target", "cpu"], "'cpu'"),
])
def test_a_bad_option_ends_with_2_and_is_named(parser, arguments, words, capsys):
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(arguments)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert arguments[0] in error and words in error


def test_defaults(parser):
    args = parser.parse_args([])
    assert (args.device_target, args.bidirectional, args.config, args.overrides) == ("GPU", None, "", [])


# the device of a stored model

@pytest.fixture
def devices(monkeypatch) -> list[str]:
    """What `set_device` is asked for, in place of MindSpore."""
    asked = []
    monkeypatch.setattr(device, "set_device", asked.append)
    return asked


@pytest.mark.parametrize(("model", "arguments", "expected"), [
    ("a.ckpt", [], ["GPU"]), ("a.mindir", ["--device_target", "CPU"], ["CPU"]),
    ("a.onnx", [], []), ("a.onnx", ["--device_target", "CPU"], []),
])
def test_an_onnx_model_needs_no_device_of_mindspore(devices, model, arguments, expected):
    result = argparse.ArgumentParser()
    cli.add_model_device_argument(result, "GPU")
    device.set_device_for(model, result.parse_args(arguments).device_target, "GPU")
    assert devices == expected


def test_an_onnx_model_is_not_run_on_the_cpu_in_silence_when_a_gpu_was_asked_for(devices):
    with pytest.raises(InputError, match=r"--device_target GPU: a\.onnx is an ONNX model, which runs on the CPU here"):
        device.set_device_for("a.onnx", "GPU", "CPU")
    assert devices == []


@pytest.mark.parametrize("arguments", [
    ["--config", "a.yaml", "A.b=1", "C.d=[2, 3]"],
    ["A.b=1", "C.d=[2, 3]", "--config", "a.yaml"],
    ["A.b=1", "--config", "a.yaml", "C.d=[2, 3]"],
])
def test_overrides_stand_anywhere(parser, arguments):
    args = parser.parse_intermixed_args(arguments)
    assert (args.config, args.overrides) == ("a.yaml", ["A.b=1", "C.d=[2, 3]"])


# exit codes

@pytest.mark.parametrize("code", [0, 1, 2])
def test_the_code_of_the_command(code):
    assert commands.run(lambda: code) == code


class Interrupted(RunError):
    """As in src/training.py, which needs MindSpore."""

    def __init__(self, signal_number: int):
        super().__init__("stopped")
        self.signal_number = signal_number


@pytest.mark.parametrize(("error", "code", "begin"), [
    (InputError("bad"), 2, "error: bad"),
    (ConfigError("bad"), 2, "error: bad"),
    (RunError("bad"), 1, "failed: bad"),
    (Interrupted(signal.SIGINT), 130, "stopped"),
    (Interrupted(signal.SIGTERM), 143, "stopped"),
    (OSError(28, "No space left on device", "a.ckpt"), 1, "failed: [Errno 28] No space left on device: 'a.ckpt'"),
    (MemoryError("Unable to allocate"), 1, "failed: Unable to allocate"),
    (KeyboardInterrupt(), 130, "interrupted"),
])
def test_errors_become_one_message_and_a_code(error, code, begin, capsys):
    assert commands.run(raising(error)) == code
    captured = capsys.readouterr()
    assert captured.err.startswith(begin) and captured.err.count("\n") == 1
    assert captured.out == ""


def test_an_error_without_words_still_says_something(capsys):
    assert commands.run(raising(MemoryError())) == 1
    assert "MemoryError" in capsys.readouterr().err


@pytest.mark.parametrize("error", [KeyError("a defect"), ValueError("a defect"), AssertionError("a defect")])
def test_a_defect_keeps_its_traceback(error):
    with pytest.raises(type(error)):
        commands.run(raising(error))


def test_the_two_kinds_of_errors_are_apart():
    assert not issubclass(InputError, RunError) and not issubclass(RunError, InputError)
    assert issubclass(InputError, ValueError)


def test_run_switches_logging_on(monkeypatch):
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(logging.root, "level", logging.WARNING)
    assert commands.run(lambda: 0) == 0
    assert logging.getLogger("src").isEnabledFor(logging.INFO) and logging.root.handlers
