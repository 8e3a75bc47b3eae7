"""Select MindSpore's device, and join the group of processes that train together."""

import logging
import os
import signal
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING

from deepspeech2.errors import InputError, RunError, first_line
from deepspeech2.stopping import STOP_SIGNALS
from src.heap import return_freed_memory

if TYPE_CHECKING:
    from src.distributed import Group

ORPHAN_SECONDS = 50.0


def set_device(target: str) -> None:
    """Select graph mode and the device.

    Raises:
        InputError: when MindSpore cannot use the device on this machine.
        RunError: when there is too little memory.
    """
    # log level 3: errors only, because the compiler warns about harmless things
    os.environ.setdefault("GLOG_v", "3")
    return_freed_memory()
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


def set_device_for(model: str, target: str | None, default: str) -> str:
    """Select the device for a stored model, which is returned.

    An ONNX model, and a checkpoint on the CPU, need no MindSpore.

    Args:
        model: path of the model.
        target: value of `--device_target`; None without the option.
        default: the device when `target` is None.

    Raises:
        InputError: for an ONNX model with target GPU; for other models as `set_device`.
    """
    if model.endswith(".onnx") and target == "GPU":
        raise InputError(
            f"--device_target GPU: {model} is an ONNX model, which runs on the CPU here; leave the "
            "option out, or use the checkpoint or its MindIR"
        )
    device = "CPU" if model.endswith(".onnx") else target or default
    if device == "GPU" or model.endswith(".mindir"):
        set_device(device)
    return device


def schedule(descriptor: int) -> int:
    """Introduce the processes of a distributed run to each other, until the run ends.

    Args:
        descriptor: of the socket that keeps MS_SCHED_PORT for this process.

    Returns:
        The exit code.
    """
    os.environ.setdefault("GLOG_v", "3")
    from mindspore import communication

    port = int(os.environ["MS_SCHED_PORT"])
    os.close(descriptor)
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("", port))
    except OSError:
        message = "was taken by another program meanwhile: choose another"
        print(f"failed: MASTER_PORT={port} {message}", file=sys.stderr)
        return 1
    try:
        communication.init()
    except RuntimeError as error:
        message = "the processes of the run did not meet, or lost each other"
        print(f"failed: {message}: {first_line(error)}", file=sys.stderr)
        return 1
    return 0


def _outlive_launcher() -> None:
    """End this process some time after its launcher, whose death has sent it SIGTERM.

    Then it saves and ends by itself, unless it waits in a collective operation for a dead process.
    """
    launcher = os.getppid()
    while os.getppid() == launcher:
        time.sleep(1)
    time.sleep(ORPHAN_SECONDS)
    os.write(2, b"\nfailed: the launcher has died; go on with --resume auto\n")
    os._exit(1)


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
    threading.Thread(target=_outlive_launcher, name="orphan", daemon=True).start()
    # until all have met, no Python code runs here, not even what answers signals
    answers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    answers = {n: answer for n, answer in answers.items() if answer not in (signal.SIG_IGN, None)}
    for number in answers:
        signal.signal(number, signal.SIG_DFL)
    try:
        communication.init()
    except RuntimeError as error:
        raise RunError(f"the processes of the run did not meet: {first_line(error)}") from None
    finally:
        for number, answer in answers.items():
            signal.signal(number, answer)
    return Group(communication.get_rank(), communication.get_group_size())
