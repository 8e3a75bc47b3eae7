"""Updates against steps computed by hand."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops

from src.config import OptimConfig
from src.optimizer import SGD, AdamW, TrainStep, create_optimizer

pytestmark = pytest.mark.usefixtures("graph_mode")

RATE = Tensor(0.01, ms.float32)


def parameters(seed: int = 0) -> list[Parameter]:
    rng = np.random.default_rng(seed)
    return [Parameter(Tensor(rng.standard_normal(shape).astype(np.float32)), f"p{i}")
            for i, shape in enumerate([(3, 4), (5,)])]


def some_gradients(step: int) -> list[np.ndarray]:
    rng = np.random.default_rng(100 + step)
    return [rng.standard_normal(shape).astype(np.float32) for shape in [(3, 4), (5,)]]


@pytest.mark.parametrize("eps", [1e-8, 1e-2])
def test_adamw_equals_the_published_algorithm(eps):
    optim = OptimConfig(weight_decay=0.1, betas=(0.8, 0.95), eps=eps)
    ours = parameters()
    expected = [p.asnumpy().astype(np.float64) for p in ours]
    first, second = [np.zeros(p.shape) for p in ours], [np.zeros(p.shape) for p in ours]
    optimizer = AdamW(ours, [1, 1], optim)
    for t in range(1, 6):
        gradients = some_gradients(t)
        optimizer(tuple(map(Tensor, gradients)), RATE)
        for i, g in enumerate(gradients):  # Loshchilov & Hutter 2019, algorithm 2
            first[i] = 0.8 * first[i] + 0.2 * g
            second[i] = 0.95 * second[i] + 0.05 * g.astype(np.float64) ** 2
            update = first[i] / (1 - 0.8 ** t) / (np.sqrt(second[i] / (1 - 0.95 ** t)) + eps)
            expected[i] = expected[i] - 0.01 * 0.1 * expected[i] - 0.01 * update
            np.testing.assert_allclose(ours[i].asnumpy(), expected[i], atol=1e-6)


def test_sgd_has_nesterov_momentum_and_l2_decay():
    ours = parameters()
    expected = [p.asnumpy().astype(np.float64) for p in ours]
    velocity = [np.zeros(p.shape) for p in ours]
    optimizer = SGD(ours, [1, 1], OptimConfig(optimizer="sgd", momentum=0.7, weight_decay=0.1))
    for t in range(4):
        gradients = some_gradients(t)
        optimizer(tuple(map(Tensor, gradients)), RATE)
        for i, g in enumerate(gradients):
            g = g + 0.1 * expected[i]
            velocity[i] = 0.7 * velocity[i] + g
            expected[i] = expected[i] - 0.01 * (g + 0.7 * velocity[i])
            np.testing.assert_allclose(ours[i].asnumpy(), expected[i], atol=1e-6)


class Layers(nn.Cell):
    """A cell for each of three layers, with one weight."""

    def __init__(self):
        super().__init__()
        self.dense = nn.CellList([nn.Dense(1, 1, has_bias=False) for _ in range(3)])

    def layers(self):
        return [[cell] for cell in self.dense]


@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_a_layer_has_the_rate_of_the_next_one_times_the_decay(kind):
    """The second layer is updated as by itself with half the rate, the first one not at all."""
    optim = OptimConfig(optimizer=kind, weight_decay=0.1, layer_decay=0.5, frozen_layers=1)
    ours, expected = Layers(), [Layers().layers()[0], Layers().layers()[0]]
    before = [p.asnumpy().copy() for p in ours.trainable_params()]
    for cells, weight in zip(expected, before[1:], strict=True):
        cells[0].weight.set_data(Tensor(weight))
    optimizer = create_optimizer(ours.layers(), optim)
    plain = OptimConfig(optimizer=kind, weight_decay=0.1)
    single = [create_optimizer([cells], plain) for cells in expected]
    for t in range(3):
        gradients = [Tensor(np.full((1, 1), t + k, np.float32)) for k in (1, 2)]
        optimizer(tuple(gradients), RATE)
        for update, gradient, rate in zip(single, gradients, (RATE * 0.5, RATE), strict=True):
            update((gradient,), rate)
    after = [p.asnumpy() for p in ours.trainable_params()]
    np.testing.assert_array_equal(after[0], before[0])
    for weight, (cell,) in zip(after[1:], expected, strict=True):
        np.testing.assert_allclose(weight, cell.weight.asnumpy(), rtol=1e-6)


class Line(nn.Cell):
    """In place of the loss cell: the sum of weight * input, whose gradient is the input."""

    def __init__(self, weight: np.ndarray):
        super().__init__()
        self.weight = Parameter(Tensor(weight), "weight")
        self.statistic = Parameter(Tensor([0.0], ms.float32), "statistic", requires_grad=False)

    def buffers(self):
        return [self.statistic]

    def construct(self, inputs, input_length, targets, target_length, normalizer,
                  dropout_seeds=None):
        ops.assign(self.statistic, self.statistic + inputs.sum())  # as batch norm does
        return (self.weight * inputs).sum() / normalizer


def line_step(weight: np.ndarray, max_grad_norm: float = 1e6, loss_scale: float = 1024.0):
    cell = Line(weight)
    optimizer = create_optimizer([[cell]],
                                 OptimConfig(optimizer="sgd", momentum=0.0, weight_decay=0.0))
    step = TrainStep(cell, optimizer, cell.buffers(), loss_scale, max_grad_norm).set_train(True)
    nothing = Tensor(0, ms.int32)

    def run(inputs: np.ndarray):
        return step(Tensor(inputs), nothing, nothing, nothing, Tensor(2.0, ms.float32),
                    Tensor(0.5, ms.float32))

    return cell, run


def test_loss_scale_changes_neither_loss_nor_update():
    weight, inputs = np.array([1.0, 2.0], np.float32), np.array([3.0, 4.0], np.float32)
    for scale in (1.0, 1024.0):
        cell, run = line_step(weight, loss_scale=scale)
        loss, norm, updated = run(inputs)
        assert (float(loss), float(norm), bool(updated)) == (
            pytest.approx(5.5), pytest.approx(2.5), True)
        np.testing.assert_allclose(cell.weight.asnumpy(), weight - 0.5 * inputs / 2)


def test_gradients_are_clipped_to_the_global_norm():
    # gradient (15, 20), norm 25
    weight, inputs = np.zeros(2, np.float32), np.array([30.0, 40.0], np.float32)
    cell, run = line_step(weight, max_grad_norm=5.0)
    _, norm, _ = run(inputs)
    assert float(norm) == pytest.approx(25.0)
    np.testing.assert_allclose(cell.weight.asnumpy(), [-0.5 * 3, -0.5 * 4], rtol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_step_that_is_not_finite_changes_nothing_and_the_next_one_works(bad):
    weight = np.array([1.0, 2.0], np.float32)
    cell, run = line_step(weight)
    _, _, updated = run(np.array([1.0, bad], np.float32))
    assert not bool(updated)
    np.testing.assert_array_equal(cell.weight.asnumpy(), weight)
    assert cell.statistic.asnumpy() == [0.0]
    assert bool(run(np.array([1.0, 1.0], np.float32))[2])
    assert cell.statistic.asnumpy() == [2.0]
    assert not bool(run(np.array([bad, 1.0], np.float32))[2])  # the third call too
    assert cell.statistic.asnumpy() == [2.0]
    np.testing.assert_allclose(cell.weight.asnumpy(), weight - 0.25)


def test_adam_moments_and_count_stay_when_a_step_is_skipped():
    cell = Line(np.array([1.0, 2.0], np.float32))
    optimizer = create_optimizer([[cell]], OptimConfig())
    step = TrainStep(cell, optimizer, cell.buffers(), 1024.0, 400.0).set_train(True)
    nothing, one = Tensor(0, ms.int32), Tensor(1.0, ms.float32)
    for value, updates in ((1.0, 1), (np.nan, 1), (2.0, 2)):
        step(Tensor(np.array([value, 1.0], np.float32)), nothing, nothing, nothing, one, RATE)
        assert int(optimizer.updates.asnumpy()) == updates
    np.testing.assert_allclose(optimizer.moment1[0].asnumpy(),
                               0.9 * 0.1 * np.array([1, 1]) + 0.1 * np.array([2, 1]), rtol=1e-5)
