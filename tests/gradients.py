"""The gradients of a network, for tests that compare them."""

import mindspore as ms
from mindspore import ParameterTuple, nn

from src.DeepSpeech import LossCell


class Gradients(nn.Cell):
    """The loss and its gradients for all trainable parameters, as training compiles them."""

    def __init__(self, loss: LossCell):
        super().__init__(auto_prefix=False)
        self.loss = loss
        self.parameters = ParameterTuple(loss.trainable_params())
        self.value_and_grad = ms.value_and_grad(loss, None, self.parameters)

    def construct(self, *inputs):
        return self.value_and_grad(*inputs)
