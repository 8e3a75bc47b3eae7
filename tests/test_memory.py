"""The memory of a training step: the estimate against a process, and what a machine has."""

import json
import os
import subprocess
import sys

import pytest

from deepspeech2.errors import InputError
from src import memory
from src.config import load_config
from src.memory import GIB, available_memory, ensure_enough, resident_memory, training_peak

NETWORK = ["ModelConfig.hidden_size=128", "ModelConfig.hidden_layers=3",
           "ModelConfig.conv_channels=16", "ModelConfig.conv2_time_stride=2"]
UTTERANCES, FRAMES = 8, 2001
LARGE = ["ModelConfig.hidden_size=512", "ModelConfig.hidden_layers=4",  # layers share kernels
         "ModelConfig.conv_channels=8", "ModelConfig.conv2_time_stride=2"]
TRAIN = """
import json, sys
from src.device import set_device
set_device("CPU")
import numpy as np
from mindspore import Tensor, float32
from src.config import load_config
from src.DeepSpeech import DeepSpeech, LossCell, dynamic_loss_inputs
from src.optimizer import TrainStep, create_optimizer

settings, utterances, frames = json.loads(sys.argv[1])
config = load_config(None, settings)
network = DeepSpeech(config.ModelConfig, 161, 29)
buffers = [p for p in network.get_parameters() if not p.requires_grad]
optimizer = create_optimizer(network.layers(), config.OptimConfig)
step = TrainStep(LossCell(network, 28), optimizer, buffers, 1.0, 400.0)
step.set_inputs(*dynamic_loss_inputs(161), Tensor(shape=[], dtype=float32), None)
step.set_train(True)
rng = np.random.default_rng(0)
inputs = rng.standard_normal((utterances, 1, 161, frames), np.float32)
targets = rng.integers(0, 28, (utterances, 20)).astype(np.int32)
for _ in range(2):
    step(Tensor(inputs), Tensor(np.full(utterances, frames, np.int32)), Tensor(targets),
         Tensor(np.full(utterances, 20, np.int32)), Tensor(utterances, float32),
         Tensor(1e-4, float32), None)[0].asnumpy()
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM:"))
print(sum(p.size for p in network.get_parameters()), int(peak.split()[1]) * 1024)
"""


@pytest.mark.parametrize(("network", "utterances", "frames"), [
    (NETWORK, UTTERANCES, FRAMES), (LARGE, 4, 401)])
def test_a_step_takes_what_was_estimated(network, utterances, frames):
    arguments = json.dumps([network, utterances, frames])
    # as many threads as where the estimate was fitted
    run = subprocess.run([sys.executable, "-c", TRAIN, arguments], capture_output=True, text=True,
                         env=os.environ | {"OMP_NUM_THREADS": "2"}, check=True)
    parameters, peak = map(int, run.stdout.split())
    model = load_config(None, network).ModelConfig
    estimate = training_peak(model, 161, parameters, utterances, frames)
    assert estimate == pytest.approx(peak, rel=0.15)


def test_the_batch_counts():
    model = load_config(None, NETWORK).ModelConfig
    whole = training_peak(model, 161, 10**6, UTTERANCES, FRAMES)
    assert training_peak(model, 161, 10**6, 1, 101) < 0.7 * whole


def machine(folder, **files: str):
    """A folder with the files of the file systems `proc` and `sys`."""
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


MEMINFO = "MemTotal: 9000 kB\nMemAvailable:    5000 kB\nSwapTotal: 0 kB\nSwapFree:  100 kB\n"


def test_available_memory_is_that_of_machine_or_container(tmp_path):
    assert available_memory(tmp_path) is None
    assert resident_memory(tmp_path) == 0
    root = machine(tmp_path, proc__meminfo=MEMINFO)
    assert available_memory(root) == 5100 * 1024
    machine(root, sys__fs__cgroup__memory_dot_max="max", sys__fs__cgroup__memory_dot_current="7")
    assert available_memory(root) == 5100 * 1024
    machine(root, sys__fs__cgroup__memory_dot_max="900000\n",
            sys__fs__cgroup__memory_dot_current="600000\n",
            sys__fs__cgroup__memory_dot_stat="anon 500000\ninactive_file 50000\nactive_file 7\n")
    assert available_memory(root) == 350_007


def test_available_memory_is_that_of_the_own_control_group_and_those_around_it(tmp_path):
    """As on a machine with systemd, where a user or a job of Slurm has a group of its own."""
    root = machine(tmp_path, proc__meminfo=MEMINFO, proc__self__cgroup="0::/jobs/of a user\n",
                   sys__fs__cgroup__jobs__memory_dot_max="3000000",
                   sys__fs__cgroup__jobs__memory_dot_current="1000000",
                   sys__fs__cgroup__other__memory_dot_max="1",
                   sys__fs__cgroup__other__memory_dot_current="1")
    assert available_memory(root) == 2_000_000
    own = "sys__fs__cgroup__jobs__of a user__memory_dot_"
    machine(root, **{f"{own}max": "900000", f"{own}current": "400000"})
    assert available_memory(root) == 500_000
    machine(root, proc__self__cgroup="0::/../..\n")  # a container that does not see its group
    assert available_memory(root) == 5100 * 1024


def test_available_memory_of_the_first_version_of_control_groups(tmp_path):
    root = machine(tmp_path, proc__meminfo=MEMINFO,
                   sys__fs__cgroup__memory__memory_dot_limit_in_bytes=str(2**63 - 4096),
                   sys__fs__cgroup__memory__memory_dot_usage_in_bytes="1")
    assert available_memory(root) == 5100 * 1024
    machine(root, sys__fs__cgroup__memory__memory_dot_limit_in_bytes="4000000",
            sys__fs__cgroup__memory__memory_dot_usage_in_bytes="1000000",
            sys__fs__cgroup__memory__memory_dot_stat="cache 5\ntotal_inactive_file 200\n")
    assert available_memory(root) == 3_000_200
    machine(root, proc__self__cgroup="9:cpu:/\n4:hugetlb,memory:/job\n0::/else\n",
            sys__fs__cgroup__memory__job__memory_dot_limit_in_bytes="70",
            sys__fs__cgroup__memory__job__memory_dot_usage_in_bytes="10")
    assert available_memory(root) == 60


@pytest.mark.skipif(not os.path.exists("/proc/meminfo"), reason="needs Linux")
def test_memory_of_this_machine():
    assert 0 < available_memory() < 2**50
    block = bytearray(300 * 2**20)
    before = resident_memory()
    del block
    assert before - resident_memory() > 250 * 2**20


def test_a_batch_that_does_not_fit_is_refused_with_the_ways_out(monkeypatch, caplog):
    caplog.set_level("INFO")
    config = load_config(None, [])  # full size
    monkeypatch.setattr(memory, "available_memory", lambda: 16 * GIB)
    monkeypatch.setattr(memory, "resident_memory", lambda: GIB)
    assert ensure_enough(config, 87_000_000, 8, 15.0) == pytest.approx(1.25 * 9.3 * GIB, rel=0.01)
    assert "memory: about 9.3 GiB for 8 utterances of up to 15.0 s; 16.0 GiB are free" \
        in caplog.text
    with pytest.raises(InputError, match=r"8 utterances of up to 60.0 s needs about .* GiB") as no:
        ensure_enough(config, 87_000_000, 8, 60.0)
    longest = int(str(no.value).split("DataConfig.max_seconds=")[1].split(")")[0])
    assert ensure_enough(config, 87_000_000, 8, longest) == 0  # nothing to keep between steps
    with pytest.raises(InputError):
        ensure_enough(config, 87_000_000, 8, 1.2 * longest)
    assert "DataConfig.batch_size" in str(no.value)
    with pytest.raises(InputError, match="in each of 2 processes"):
        ensure_enough(config, 87_000_000, 8, 18.0, processes=2)
    with pytest.raises(InputError, match="has 16.0 free: leave out .*, or train a smaller"):
        ensure_enough(config, 87_000_000, 1, 600.0)


def test_a_tempo_that_is_slower_needs_more(monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr(memory, "available_memory", lambda: None)
    augmented = "DataConfig.AugmentationConfig.speed_volume_perturb=True"
    for settings in ([], [augmented]):
        ensure_enough(load_config(None, settings), 87_000_000, 8, 15.0)
    plain, slow = [float(r.message.split()[2]) for r in caplog.records]
    assert 1.05 * plain < slow < 1.2 * plain
    assert "free" not in caplog.text
