"""LSTM layers that share kernels: they compute what `nn.LSTM` does, and need less memory."""

import os
import subprocess
import sys

import mindspore as ms
import numpy as np
import pytest
from conftest import ROOT
from gradients import Gradients
from mindspore import Tensor

from src.config import ModelConfig
from src.DeepSpeech import DeepSpeech, LossCell, dynamic_loss_inputs

# the peak of a process that trains a network of some layers with a short utterance, and the bytes
# of its parameters
PROGRAM = """
import sys
import mindspore as ms
import numpy as np
from src.config import load_config
from src.device import set_device
set_device("CPU")
from src.DeepSpeech import DeepSpeech, LossCell
config = load_config(None, ["ModelConfig.hidden_size=512", "ModelConfig.conv_channels=2",
                            f"ModelConfig.hidden_layers={sys.argv[1]}"])
network = DeepSpeech(config.ModelConfig, 161, 29)
network.set_train(True)
step = ms.value_and_grad(LossCell(network, 0), None, network.trainable_params())
lengths = [ms.Tensor([n], ms.int32) for n in (40, 2)]
for _ in range(2):
    loss, gradients = step(ms.Tensor(np.zeros((1, 1, 161, 40), np.float32)), lengths[0],
                           ms.Tensor([[1, 2]], ms.int32), lengths[1], ms.Tensor(1.0, ms.float32))
    loss.asnumpy()
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM:"))
print(int(peak.split()[1]) * 1024, sum(p.nbytes for p in network.trainable_params()))
"""


@pytest.mark.usefixtures("graph_mode")
@pytest.mark.parametrize("bidirectional", [True, False])
def test_loss_and_gradients_equal_those_of_mindspores_layer(bidirectional, monkeypatch):
    model = ModelConfig(hidden_size=16, hidden_layers=3, conv_channels=2,
                        bidirectional=bidirectional, lookahead_context=3)
    rng, found = np.random.default_rng(0), []
    inputs = Tensor(rng.standard_normal((3, 1, 161, 60)).astype(np.float32))
    targets = Tensor(rng.integers(1, 29, (3, 4)).astype(np.int32))
    lengths = [Tensor(np.array(n, np.int32)) for n in ([60, 51, 33], [4, 3, 4])]
    for shared in (True, False):
        monkeypatch.setattr("src.DeepSpeech.SHARED_KERNELS_FROM", 1 if shared else 17)
        ms.set_seed(0)
        np.random.seed(0)
        network = DeepSpeech(model, 161, 29)
        assert [len(rnn.kernels) for rnn in network.rnns] == 3 * [(1 + bidirectional) * shared]
        cell = Gradients(LossCell(network, 0)).set_train(True)
        cell.set_inputs(*dynamic_loss_inputs(161))
        loss, gradients = cell(inputs, lengths[0], targets, lengths[1], Tensor(3.0, ms.float32))
        found.append([loss.asnumpy(), *(gradient.asnumpy() for gradient in gradients)])
    for ours, mindspores in zip(*found, strict=True):
        np.testing.assert_allclose(ours, mindspores, rtol=1e-5, atol=1e-6)
    assert len(found[0]) > 20 and all(np.abs(values).max() > 0 for values in found[0])


@pytest.mark.skipif(sys.platform != "linux", reason="KiB are Linux's unit")
def test_more_layers_have_no_more_kernels():
    """A further layer needs room for parameters and gradients, and for little more."""
    environment = os.environ | {"OMP_NUM_THREADS": "2"}  # each has something to compute in
    found = []
    for layers in ("2", "8"):
        run = subprocess.run([sys.executable, "-c", PROGRAM, layers], capture_output=True,
                             text=True, cwd=ROOT, env=environment, check=True)
        found.append([int(number) for number in run.stdout.split()])
    (peak, size), (larger_peak, larger_size) = found
    assert larger_peak - peak < 4 * (larger_size - size)
