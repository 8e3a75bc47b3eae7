"""One training step: compute gradients, check and clip them, update the weights."""

from collections.abc import Sequence

import mindspore as ms
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from src.checkpoint import STATE_PREFIX
from src.config import OptimConfig


class Updates(nn.Cell):
    """What all optimizers have.

    Args:
        parameters: the parameters of the network.
        rates: for each of them, what the learning rate is multiplied by; 0: it is never changed.

    Attributes:
        trained: the parameters that are updated.
        places: their places in `parameters`.
    """

    def __init__(self, parameters: Sequence[Parameter], rates: Sequence[float]):
        super().__init__(auto_prefix=False)
        self.parameters = ParameterTuple(parameters)
        self.rates = tuple(rates)
        self.places = tuple(i for i, rate in enumerate(rates) if rate)
        self.trained = ParameterTuple([parameters[i] for i in self.places])

    def rate_of(self, i, learning_rate):
        """() float32 learning rate of parameter `i`."""
        return learning_rate if self.rates[i] == 1 else learning_rate * self.rates[i]


class AdamW(Updates):
    """Adam with bias correction and decoupled weight decay; the updates equal PyTorch's AdamW.

    MindSpore's `nn.AdamWeightDecay` corrects no bias. The fused `ops.Adam` does, but it adds eps to
    the root of the uncorrected second moment; eps times the root of the correction makes both
    formulas equal. Source: Loshchilov & Hutter 2019.

    Args:
        parameters, rates: see `Updates`.
        optim: betas, eps and weight decay.

    Inputs:
        gradients: float32, in the order of `trained`.
        learning_rate: () float32.
    """

    def __init__(
        self, parameters: Sequence[Parameter], rates: Sequence[float], optim: OptimConfig
    ):
        super().__init__(parameters, rates)
        self.moment1 = _state(parameters, "moment1")
        self.moment2 = _state(parameters, "moment2")
        self.updates = Parameter(Tensor(0, ms.int32), STATE_PREFIX + "updates", requires_grad=False)
        self.beta1, self.beta2 = (Tensor(beta, ms.float32) for beta in optim.betas)
        self.eps, self.weight_decay = optim.eps, optim.weight_decay
        self.adam = ops.Adam()

    def construct(self, gradients, learning_rate):
        updates = self.updates + 1
        ops.assign(self.updates, updates)
        power1, power2 = ops.pow(self.beta1, updates), ops.pow(self.beta2, updates)
        eps = self.eps * ops.sqrt(1 - power2)
        for k, i in enumerate(self.places):
            parameter, rate = self.parameters[i], self.rate_of(i, learning_rate)
            if self.weight_decay > 0:
                ops.assign(parameter, parameter * (1 - rate * self.weight_decay))
            self.adam(
                parameter,
                self.moment1[i],
                self.moment2[i],
                power1,
                power2,
                rate,
                self.beta1,
                self.beta2,
                eps,
                gradients[k],
            )
        return True


class SGD(Updates):
    """Stochastic gradient descent with Nesterov momentum and L2 decay, as in deepspeech.pytorch.

    The update is written out, because `ops.ApplyMomentum` ignores `use_nesterov` on CPU (MindSpore
    2.8.0).

    Args:
        parameters, rates: see `Updates`.
        optim: momentum and weight decay.

    Inputs:
        gradients: float32, in the order of `trained`.
        learning_rate: () float32.
    """

    def __init__(
        self, parameters: Sequence[Parameter], rates: Sequence[float], optim: OptimConfig
    ):
        super().__init__(parameters, rates)
        self.velocity = _state(parameters, "velocity")
        self.momentum, self.weight_decay = optim.momentum, optim.weight_decay

    def construct(self, gradients, learning_rate):
        for k, i in enumerate(self.places):
            parameter, rate = self.parameters[i], self.rate_of(i, learning_rate)
            gradient = gradients[k] + self.weight_decay * parameter
            velocity = self.momentum * self.velocity[i] + gradient
            ops.assign(self.velocity[i], velocity)
            ops.assign(parameter, parameter - rate * (gradient + self.momentum * velocity))
        return True


def create_optimizer(layers: Sequence[Sequence[nn.Cell]], optim: OptimConfig) -> Updates:
    """Make the configured optimizer.

    Args:
        layers: the cells of each layer, from the input on. The rate of a layer is `layer_decay`
            times that of the next one; the first `frozen_layers` have none.
        optim: the settings.
    """
    parameters, rates = [], []
    for i, cells in enumerate(layers):
        rate = optim.layer_decay ** (len(layers) - 1 - i) if i >= optim.frozen_layers else 0.0
        own = [parameter for cell in cells for parameter in cell.trainable_params()]
        parameters += own
        rates += [rate] * len(own)
    return {"adam": AdamW, "sgd": SGD}[optim.optimizer](parameters, rates, optim)


class TrainStep(nn.Cell):
    """Forward pass, backward pass and update in one graph.

    The loss is multiplied by `loss_scale` before the backward pass, and the gradients are divided
    by it; then their global norm is clipped. A step with a loss or a gradient that is not finite
    changes nothing: it updates no weight, and restores the statistics that its forward pass
    changed.

    Args:
        loss_cell: computes the loss, see `LossCell`.
        optimizer: updates the weights.
        buffers: parameters that the forward pass changes, the batch-norm statistics.
        loss_scale: factor of the loss in the backward pass.
        max_grad_norm: largest global L2 norm of the gradients.
        distributed: whether to sum loss and gradients over the processes before they are checked,
            so that all processes make the same update.

    Inputs:
        inputs, input_length, targets, target_length, normalizer: as `LossCell`.
        learning_rate: () float32.
        dropout_seeds: as `LossCell`.

    Outputs:
        () float32 loss; () float32 global gradient norm before clipping; () bool, whether the
        weights were updated.
    """

    def __init__(
        self,
        loss_cell: nn.Cell,
        optimizer: Updates,
        buffers: Sequence[Parameter],
        loss_scale: float,
        max_grad_norm: float,
        distributed: bool = False,
    ):
        super().__init__(auto_prefix=False)
        self.loss_cell, self.optimizer = loss_cell, optimizer
        self.buffers = ParameterTuple(buffers)
        self.before = _state(buffers, "before")
        self.loss_scale, self.max_grad_norm = loss_scale, max_grad_norm
        self.all_reduce = ops.AllReduce() if distributed else None
        self.value_and_grad = ms.value_and_grad(self._scaled_loss, None, optimizer.trained)

    def stored_parameters(self) -> list[Parameter]:
        """The parameters that a checkpoint stores: network and optimizer state."""
        temporary = {p.name for p in self.before}
        return [p for p in self.get_parameters() if p.name not in temporary]

    def _scaled_loss(self, *inputs):
        return self.loss_cell(*inputs) * self.loss_scale

    def construct(
        self,
        inputs,
        input_length,
        targets,
        target_length,
        normalizer,
        learning_rate,
        dropout_seeds=None,
    ):
        for i, buffer in enumerate(self.buffers):
            ops.assign(self.before[i], buffer)
        loss, gradients = self.value_and_grad(
            inputs, input_length, targets, target_length, normalizer, dropout_seeds
        )
        if self.all_reduce is not None:
            loss = self.all_reduce(loss)
            summed = ()
            for gradient in gradients:
                summed += (self.all_reduce(gradient),)
            gradients = summed
        squares = ops.zeros((), ms.float32)
        for gradient in gradients:
            # in two sums: a sum over all axes at once uses no vector instructions on CPU
            squares = squares + ops.square(gradient).sum(-1).sum()
        norm = ops.sqrt(squares) / self.loss_scale
        finite = ops.logical_and(ops.isfinite(loss), ops.isfinite(norm))
        if finite:
            one = Tensor(1.0, ms.float32)
            factor = ops.minimum(self.max_grad_norm / (norm + 1e-6), one) / self.loss_scale
            clipped = ()
            for gradient in gradients:
                clipped += (gradient * factor,)
            self.optimizer(clipped, learning_rate)
        else:
            for i, buffer in enumerate(self.buffers):
                ops.assign(buffer, self.before[i])
        return loss / self.loss_scale, norm, finite


def _state(parameters: Sequence[Parameter], kind: str) -> ParameterTuple:
    """Zeros in the shapes of `parameters`, named after these and `kind`."""
    names = [f"{STATE_PREFIX}{kind}.{p.name}" for p in parameters]
    return ParameterTuple(
        [
            Parameter(ops.zeros_like(p), name, requires_grad=False)
            for p, name in zip(parameters, names, strict=True)
        ]
    )
