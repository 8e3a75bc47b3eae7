"""src/lr_generator.py against schedules written out by hand."""

import pytest

from src.config import OptimConfig
from src.lr_generator import (
    annealed_learning_rate,
    cosine_learning_rate,
    scheduled_learning_rate,
    warmup_factor,
)


@pytest.mark.parametrize(("start", "rates"), [
    (0, [8.0, 4.0, 2.0, 1.0, 0.5]), (2, [8.0, 8.0, 8.0, 4.0, 2.0])])
def test_divided_after_each_epoch_from_the_start_on(start, rates):
    for epoch, rate in enumerate(rates):
        found = annealed_learning_rate(epoch, learning_rate=8.0, learning_anneal=2.0,
                                       anneal_start_epoch=start)
        assert found == rate


@pytest.mark.parametrize(("epoch", "rate"), [
    (0, 3e-4), (1, 2.727272727e-4), (2, 2.479338843e-4), (10, 1.156629868e-4),
    (69, 4.178553613e-7)])
def test_the_schedule_of_the_document(epoch, rate):
    found = annealed_learning_rate(epoch, learning_rate=3e-4, learning_anneal=1.1)
    assert found == pytest.approx(rate, rel=1e-6)


@pytest.mark.parametrize(("progress", "rate"), [
    (0, 8.0), (2.5, 6.82842712475), (5, 4.0), (7.5, 1.17157287525), (10, 0.0), (11, 0.0)])
def test_half_a_cosine(progress, rate):
    found = cosine_learning_rate(progress, learning_rate=8.0, epochs=10)
    assert found == pytest.approx(rate, abs=1e-9)


@pytest.mark.parametrize(("progress", "factor"), [
    (0, 0.01), (0.5, 0.2575), (1, 0.505), (2, 1.0), (9, 1.0)])
def test_warming_up(progress, factor):
    assert warmup_factor(progress, warmup_epochs=2.0) == pytest.approx(factor)
    assert warmup_factor(progress, warmup_epochs=0.0) == 1.0


@pytest.mark.parametrize(("schedule", "progress", "rate"), [
    ("exponential", 0.0, 0.08), ("exponential", 0.5, 4.04), ("exponential", 0.99, 7.9208),
    ("exponential", 1.0, 4.0), ("exponential", 1.99, 4.0), ("exponential", 2.0, 2.0),
    ("cosine", 0.0, 0.08), ("cosine", 2.0, 4.0), ("cosine", 4.0, 0.0)])
def test_the_schedule_of_a_run(schedule, progress, rate):
    optim = OptimConfig(learning_rate=8.0, learning_anneal=2.0, schedule=schedule,
                        warmup_epochs=1.0)
    assert scheduled_learning_rate(progress, 4, optim) == pytest.approx(rate, abs=1e-9)
