"""The learning rate as a pure function of a run's progress."""

import math

from src.config import OptimConfig


def scheduled_learning_rate(progress: float, epochs: int, optim: OptimConfig) -> float:
    """The learning rate of a step.

    Args:
        progress: epochs before the step, as a fraction inside an epoch: 1.5 is half-way through the
            second epoch.
        epochs: epochs of the whole run.
        optim: the schedule and its settings.
    """
    if optim.schedule == "cosine":
        rate = cosine_learning_rate(progress, learning_rate=optim.learning_rate, epochs=epochs)
    else:
        rate = annealed_learning_rate(
            int(progress),
            learning_rate=optim.learning_rate,
            learning_anneal=optim.learning_anneal,
            anneal_start_epoch=optim.anneal_start_epoch,
        )
    return rate * warmup_factor(progress, warmup_epochs=optim.warmup_epochs)


def annealed_learning_rate(
    epoch: int, *, learning_rate: float, learning_anneal: float, anneal_start_epoch: int = 0
) -> float:
    """The rate of an epoch (from 0): divided by `learning_anneal` after each epoch.

    The first `anneal_start_epoch` epochs keep the initial rate. Source: deepspeech.pytorch,
    `learning_anneal` ("annealing applied to learning rate after each epoch").
    """
    return learning_rate * learning_anneal ** -max(0, epoch - anneal_start_epoch)


def cosine_learning_rate(progress: float, *, learning_rate: float, epochs: int) -> float:
    """Half a cosine from `learning_rate` to 0 over all epochs.

    Source: Loshchilov & Hutter 2017 (SGDR), without restarts.
    """
    return learning_rate * (1 + math.cos(math.pi * min(1.0, progress / epochs))) / 2


def warmup_factor(progress: float, *, warmup_epochs: float) -> float:
    """A factor that rises linearly from 0.01 to 1 over `warmup_epochs`."""
    return 0.01 + 0.99 * progress / warmup_epochs if progress < warmup_epochs else 1.0
