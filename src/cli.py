"""What the commands share: argument types, the choice of the device, messages and exit codes."""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from src.errors import InputError, RunError

if TYPE_CHECKING:
    from src.distributed import Group

DEVICES = ("GPU", "CPU")


def boolean(text: str) -> bool:
    """`True` or `False` in any case, for options that take a value."""
    values = {"true": True, "false": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"{text!r} must be True or False")
    return values[text.lower()]


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that choose settings: a file, and overrides at the end of the line."""
    parser.add_argument("--config", metavar="FILE", default="",
                        help="YAML file with settings that differ from the defaults")
    parser.add_argument("overrides", nargs="*", metavar="GROUP.FIELD=VALUE",
                        help="settings that differ from the defaults and the file, e.g. TrainingConfig.epochs=5")


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device_target", choices=DEVICES, default="GPU",
                        help="device where the code runs: GPU or CPU, default is GPU")


def add_model_device_argument(parser: argparse.ArgumentParser, default: str) -> None:
    """None stands for not written: then `default`, but the CPU for an ONNX model. See `set_device_for`."""
    parser.add_argument("--device_target", choices=DEVICES, default=None,
                        help=f"device where the code runs: GPU or CPU, default is {default}; ONNX models: CPU only")


def add_bidirectional_argument(parser: argparse.ArgumentParser) -> None:
    """None stands for not written: then the configuration, or the checkpoint, decides."""
    parser.add_argument("--bidirectional", type=boolean, default=None, metavar="BOOL",
                        help="whether to use bidirectional recurrent layers, default is True")


def direction_override(bidirectional: bool | None) -> list[str]:
    """`--bidirectional` as an override."""
    return [] if bidirectional is None else [f"ModelConfig.bidirectional={bidirectional}"]


def set_device(target: str) -> None:
    """Select graph mode and the device. Raises InputError when MindSpore cannot use it here."""
    os.environ.setdefault("GLOG_v", "3")    # MindSpore's log: errors only, its compiler warns of harmless things
    import mindspore as ms
    ms.set_context(mode=ms.GRAPH_MODE)
    logging.disable()    # MindSpore's own lines about missing CUDA libraries; the message below says it
    try:
        ms.set_device(target)
        ms.ops.ones(1, ms.float32).asnumpy()    # a missing driver shows only when something runs
    except (RuntimeError, ValueError, AttributeError):
        raise InputError(f"--device_target {target}: MindSpore {ms.__version__} finds no usable {target} here; "
                         + ("use --device_target CPU, or see Environment Requirements in README.md for what a GPU needs"
                            if target == "GPU" else "see Environment Requirements in README.md")) from None
    finally:
        logging.disable(logging.NOTSET)


def set_device_for(model: str, target: str | None, default: str) -> None:
    """The device for a stored model: an ONNX model runs on the CPU without MindSpore, for others as `set_device`.

    Args:
        target: what `--device_target` says, None if it was not written.

    Raises:
        InputError: when an ONNX model was asked to run on a GPU.
    """
    if not model.endswith(".onnx"):
        set_device(target or default)
    elif target == "GPU":
        raise InputError(f"--device_target GPU: {model} is an ONNX model, which runs on the CPU here; leave the option "
                         "out, or use the checkpoint or its MindIR")


def join_group() -> "Group":
    """Meet the other processes of a distributed run. Raises InputError when no launcher started this one."""
    from mindspore import communication

    from src.distributed import Group
    if "MS_ROLE" not in os.environ:
        raise InputError("--is_distributed True: start the processes with scripts/run_distribute_train_gpu.sh or "
                         "scripts/run_distribute_train_cpu.sh")
    try:
        communication.init()
    except RuntimeError as error:
        raise RunError(f"the processes of the run did not meet: {error}") from None
    return Group(communication.get_rank(), communication.get_group_size())


def run(command: Callable[[], int]) -> int:
    """Run a command with logging set up; its exit code, 2 for the user's mistake, 1 for a failed run."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")
    try:
        return command()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RunError as error:
        number = getattr(error, "signal_number", 0)    # of a signal that the user sent: no failure
        print(error if number else f"failed: {error}", file=sys.stderr)
        return 128 + number if number else 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except (OSError, MemoryError) as error:
        print(f"failed: {str(error) or type(error).__name__}", file=sys.stderr)
        return 1
