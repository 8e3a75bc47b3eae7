"""Select MindSpore's device, and join the group of processes that train together."""

import logging
import os
from typing import TYPE_CHECKING

from deepspeech2.errors import InputError, RunError, first_line

if TYPE_CHECKING:
    from src.distributed import Group


def set_device(target: str) -> None:
    """Select graph mode and the device.

    Raises:
        InputError: when MindSpore cannot use the device on this machine.
        RunError: when there is too little memory.
    """
    # log level 3: errors only, because the compiler warns about harmless things
    os.environ.setdefault("GLOG_v", "3")
    import mindspore as ms

    ms.set_context(mode=ms.GRAPH_MODE)
    logging.disable()  # the message below replaces MindSpore's many lines about missing CUDA
    try:
        ms.set_device(target)
        ms.ops.ones(1, ms.float32).asnumpy()  # a missing driver fails only when a kernel runs
    except (RuntimeError, ValueError, AttributeError) as error:
        if "memory" in str(error).lower():
            reason = first_line(error)
            raise RunError(f"MindSpore has too little memory to start: {reason}") from None
        advice = "use --device_target CPU, or see docs/setup.md for what a GPU needs"
        raise InputError(
            f"--device_target {target}: MindSpore {ms.__version__} finds no usable {target} here; "
            + (advice if target == "GPU" else "see docs/setup.md")
        ) from None
    finally:
        logging.disable(logging.NOTSET)


def set_device_for(model: str, target: str | None, default: str) -> None:
    """Select the device for a stored model; an ONNX model needs no MindSpore.

    Args:
        model: path of the model.
        target: value of `--device_target`; None without the option.
        default: the device when `target` is None.

    Raises:
        InputError: for an ONNX model with target GPU; for other models as `set_device`.
    """
    if not model.endswith(".onnx"):
        set_device(target or default)
    elif target == "GPU":
        raise InputError(
            f"--device_target GPU: {model} is an ONNX model, which runs on the CPU here; leave the "
            "option out, or use the checkpoint or its MindIR"
        )


def join_group() -> "Group":
    """Connect to the other processes of a distributed run.

    Raises:
        InputError: when no launcher started this process.
        RunError: when the processes cannot connect.
    """
    from mindspore import communication

    from src.distributed import Group

    if "MS_ROLE" not in os.environ:
        raise InputError(
            "--is_distributed True: start the processes with scripts/run_distribute_train_gpu.sh "
            "or scripts/run_distribute_train_cpu.sh"
        )
    try:
        communication.init()
    except RuntimeError as error:
        raise RunError(f"the processes of the run did not meet: {error}") from None
    return Group(communication.get_rank(), communication.get_group_size())
