"""The learning rate as a pure function of the epoch."""


def annealed_learning_rate(epoch: int, *, learning_rate: float, learning_anneal: float,
                           anneal_start_epoch: int = 0) -> float:
    """The rate of an epoch (from 0): divided by `learning_anneal` after each epoch.

    The first `anneal_start_epoch` epochs keep the initial rate.
    Source: deepspeech.pytorch, `learning_anneal` ("annealing applied to learning rate after each epoch").
    """
    return learning_rate * learning_anneal ** -max(0, epoch - anneal_start_epoch)
