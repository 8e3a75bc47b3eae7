"""How much memory a training step takes on the CPU, before it takes it, and how much there is."""

import logging
from pathlib import Path, PurePosixPath

from deepspeech2.errors import InputError
from deepspeech2.features import num_frames
from src.config import SHARED_KERNELS_FROM, Config, ModelConfig, strided_size

logger = logging.getLogger(__name__)

MIB, GIB = 2**20, 2**30
# Bytes per value, fitted to the peaks of 15 networks of 0.3 to 87 M parameters with batches of 2 to
# 192 s, which they meet within 10 % (docs/scale.md). Per parameter: value, gradient, two moments,
# and the copies of MindSpore and oneDNN. Per output value: all that is kept for the backward pass.
PROCESS = 717 * MIB
PARAMETER, PARAMETER_OF_SHARED = 31, 23  # where layers share their kernels
LSTM_UNIT, LSTM_UNIT_OF_SHARED = 100, 90  # of each frame and direction
CONV1_VALUE, CONV2_VALUE = 72, 68
KEPT, ROOM = 1.25, 1.5  # of the estimate: what a process keeps at most, and has to find free for it
SURE = 0.9  # what this share of an estimate does not fit into is too little
UNLIMITED = 2**60  # a limit of version 1 is a number that no machine reaches
# of control groups of version 2 and 1: how /proc names their controller; their folder; a group's
# limit, its use, and what of its use is pages of files, which the kernel gives back
CGROUPS = (
    ("", "sys/fs/cgroup", "memory.max", "memory.current", ("inactive_file", "active_file")),
    ("memory", "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
     ("total_inactive_file", "total_active_file")),
)  # fmt: skip


def ensure_enough(
    config: Config, parameters: int, utterances: int, seconds: float, processes: int = 1
) -> float:
    """Say how much memory the largest step of a run needs, and refuse what this machine has not.

    Returns the bytes that a process may keep from step to step: 0 where there is little room.

    Args:
        config: all settings of the run.
        parameters: of the network.
        utterances: a process's share of the largest batch.
        seconds: length of its longest utterance.
        processes: that train on this machine.

    Raises:
        InputError: naming the settings that need less.
    """
    peak = _peak(config, parameters, utterances, seconds)
    need = processes * peak
    free = available_memory()
    there = "" if free is None else f"; {free / GIB:.1f} GiB are free"
    batch = f"{utterances} utterances of up to {seconds:.1f} s"
    batch += f" in each of {processes} processes" if processes > 1 else ""
    logger.info("memory: about %.1f GiB for %s%s", need / GIB, batch, there)
    if free is None:
        return 0.0
    limit = free / processes + resident_memory()  # of each process
    if peak * ROOM <= limit:
        return peak * KEPT
    if peak * SURE <= limit:
        return 0.0
    whole = range(int(seconds), 0, -1)
    fitting = next((s for s in whole if _peak(config, parameters, utterances, s) <= limit), 0)
    ways = [f"leave out what is longer (DataConfig.max_seconds={fitting})"] if fitting else []
    if utterances > 1 and _peak(config, parameters, 1, seconds) <= limit:
        ways.append("make batches smaller (DataConfig.batch_size, DataConfig.batch_seconds)")
    ways.append("train a smaller network (ModelConfig)")
    raise InputError(
        f"a step with {batch} needs about {need / GIB:.1f} GiB of memory, and this machine "
        f"has {free / GIB:.1f} free: {', or '.join(ways)}"
    )


def _peak(config: Config, parameters: int, utterances: int, seconds: float) -> int:
    """As `training_peak`, with the slowest tempo of the augmentation."""
    augmentation, spect = config.DataConfig.AugmentationConfig, config.DataConfig.SpectConfig
    samples = round(seconds / augmentation.slowest_tempo * spect.sample_rate)
    frames = num_frames(samples, spect.sample_rate, spect)
    return training_peak(config.ModelConfig, spect.num_bins, parameters, utterances, frames)


def training_peak(
    model: ModelConfig, num_bins: int, parameters: int, utterances: int, frames: int
) -> int:
    """About how many bytes a process needs for its largest training step.

    Args:
        model: sizes of the network.
        num_bins: frequency bins of the spectrograms.
        parameters: the network's parameters.
        utterances: of the batch.
        frames: spectrogram frames of its longest utterance.
    """
    first, second = (utterances * strided_size(frames, stride) for stride in model.time_strides)
    bins1, bins2 = model.conv_bins(num_bins)
    lstms = model.hidden_layers * (1 + model.bidirectional)
    shared = model.hidden_size >= SHARED_KERNELS_FROM
    return (
        PROCESS
        + (PARAMETER_OF_SHARED if shared else PARAMETER) * parameters
        + (LSTM_UNIT_OF_SHARED if shared else LSTM_UNIT) * second * model.hidden_size * lstms
        + CONV1_VALUE * first * model.conv_channels * bins1
        + CONV2_VALUE * second * model.conv_channels * bins2
    )


def available_memory(root: Path = Path("/")) -> int | None:
    """The bytes that this process can have on top of what it has; None where Linux does not say.

    Args:
        root: of the file systems `proc` and `sys`.
    """
    kib = []
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith(("MemAvailable:", "SwapFree:")):
            kib.append(int(line.split()[1]))
    found = [sum(kib) * 1024] if kib else []
    for controller, folder, limit, used, files in CGROUPS:
        for group in _control_groups(root, controller):
            inside = root / folder / group
            values = [_read(inside / name).strip() for name in (limit, used)]
            if not all(map(str.isdecimal, values)) or int(values[0]) > UNLIMITED:
                continue
            stat = [line.split() for line in _read(inside / "memory.stat").splitlines()]
            cached = [int(count) for name, count in stat if name in files]
            found.append(max(0, int(values[0]) - int(values[1]) + sum(cached)))
    return min(found, default=None)


def _control_groups(root: Path, controller: str) -> list[PurePosixPath]:
    """The groups that this process is in, as paths inside their file system, up to its root."""
    own = PurePosixPath()
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            own = PurePosixPath(path.lstrip("/"))
    if ".." in own.parts:  # outside of what this container sees
        own = PurePosixPath()
    return [own, *own.parents]


def resident_memory(root: Path = Path("/")) -> int:
    """The bytes that this process has; 0 where Linux does not say."""
    for line in _read(root / "proc/self/status").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
