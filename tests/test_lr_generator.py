"""src/lr_generator.py against schedules written out by hand."""

import pytest

from src.config import load_config
from src.lr_generator import annealed_learning_rate


@pytest.mark.parametrize(("epoch", "rate"), [(0, 8.0), (1, 4.0), (2, 2.0), (3, 1.0), (4, 0.5)])
def test_divided_after_each_epoch(epoch, rate):
    assert annealed_learning_rate(epoch, learning_rate=8.0, learning_anneal=2.0) == rate


@pytest.mark.parametrize(("epoch", "rate"), [(0, 8.0), (1, 8.0), (2, 8.0), (3, 4.0), (4, 2.0), (5, 1.0)])
def test_constant_before_the_annealing_starts(epoch, rate):
    found = annealed_learning_rate(epoch, learning_rate=8.0, learning_anneal=2.0, anneal_start_epoch=2)
    assert found == rate


@pytest.mark.parametrize("epoch", [0, 1, 69])
def test_an_anneal_of_1_keeps_the_rate(epoch):
    assert annealed_learning_rate(epoch, learning_rate=3e-4, learning_anneal=1.0) == 3e-4


@pytest.mark.parametrize(("epoch", "rate"), [
    (0, 3e-4),
    (1, 2.727272727e-4),
    (2, 2.479338843e-4),
    (3, 2.253944402e-4),
    (10, 1.156629868e-4),
    (69, 4.178553613e-7),
])
def test_the_schedule_of_the_defaults(epoch, rate):
    optim = load_config().OptimConfig
    found = annealed_learning_rate(epoch, learning_rate=optim.learning_rate, learning_anneal=optim.learning_anneal,
                                   anneal_start_epoch=optim.anneal_start_epoch)
    assert found == pytest.approx(rate, rel=1e-6)
