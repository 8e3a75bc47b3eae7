"""A process of the tests in test_distributed.py: `distributed_worker.py HOW FOLDER OVERRIDE…`.

HOW is `alone` for one step, or `job` for the same step in several processes, runs whose processes
do not share a folder or were started with other settings, and a whole run. Results go to FOLDER
as `TASK_SIZE_RANK.npz`.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from deepspeech2 import commands
from deepspeech2.errors import InputError
from deepspeech2.labels import Labels
from src.batching import rank_share
from src.config import Config, load_config
from src.dataset import BatchSource, training_batches
from src.DeepSpeech import DeepSpeech, LossCell
from src.device import join_group, set_device
from src.distributed import Group
from src.manifest import read_manifest
from src.optimizer import TrainStep, create_optimizer
from src.training import train

SUMS = []  # the collective operations that were made


def values(parameters) -> dict[str, np.ndarray]:
    return {p.name: p.asnumpy().copy() for p in parameters}


def one_step(config: Config, group: Group) -> dict[str, np.ndarray]:
    """How one step on eight utterances changes the weights, with batch norm as in evaluation."""
    labels = Labels.load(config.DataConfig.labels_path)
    # Rounding decides about the gradient of a unit on a kink of Hardtanh, where the recordings are
    # digital silence: of five seeds two have errors of 3e-5 to 4e-5, the others of 1e-6.
    ms.set_seed(2)
    network = DeepSpeech(config.ModelConfig, 161, len(labels))
    buffers = [p for p in network.get_parameters() if not p.requires_grad]
    optimizer = create_optimizer(network.layers(), config.OptimConfig)
    step = TrainStep(LossCell(network, labels.blank_index), optimizer, buffers, 1024.0, 400.0,
                     distributed=group.size > 1).set_train(False)
    group.broadcast(step.stored_parameters())
    before = values(network.get_parameters())
    manifest = read_manifest(config.DataConfig.train_manifest, labels)
    share = rank_share(np.arange(8), group.rank, group.size)
    batch, = training_batches(BatchSource(manifest, [share], labels, config.DataConfig.SpectConfig))
    columns = batch.inputs, batch.input_length, batch.targets, batch.target_length
    loss, norm, _ = step(*map(Tensor, columns), Tensor(8.0, ms.float32), Tensor(1.0, ms.float32),
                         None)
    after = values(network.get_parameters())
    change = {name: value - before[name] for name, value in after.items()}
    return change | {"loss": loss.asnumpy(), "norm": norm.asnumpy()}


def unshared_folder(config: Config, group: Group) -> dict[str, np.ndarray]:
    """What a run says whose first process is on another disk than the others."""
    folder = f"{config.CheckpointConfig.ckpt_path}-{min(group.rank, 1)}"
    config = config.with_settings({"CheckpointConfig.ckpt_path": folder}, explicit=True)
    try:
        train(config, group=group)
    except InputError as error:
        return {"message": np.array(str(error))}
    return {}


def other_settings(config: Config, group: Group) -> dict[str, np.ndarray]:
    """What a run says whose last process was started with another batch size and val set."""
    if group.rank == group.size - 1:
        config = config.with_settings({
            "DataConfig.val_manifest": config.DataConfig.test_manifest,
            "DataConfig.batch_size": 4, "DataConfig.num_workers": 2}, explicit=True)
    try:
        train(config, group=group)
    except InputError as error:
        return {"message": np.array(str(error))}
    return {}


def group_values(config: Config, group: Group) -> dict[str, np.ndarray]:
    """What becomes of values that are different in each process."""
    mean, first = (ms.Parameter(Tensor([group.rank, 10.0 * group.rank], ms.float32), name=name)
                   for name in ("mean", "first"))
    group.average([mean])
    group.broadcast([first])
    return {"mean": mean.asnumpy(), "first": first.asnumpy(),
            "sum": np.array(group.sum([group.rank, 1.0]))}


def whole_run(config: Config, group: Group) -> dict[str, np.ndarray]:
    """The weights of this process at the end of a training."""
    shared = []

    class Watched(Group):
        """Remembers the parameters that all processes begin with."""

        def broadcast(self, parameters):
            shared[:] = parameters
            super().broadcast(shared)

    train(config, group=Watched(group.rank, group.size))
    return values(shared) | {"sums": np.array(len(SUMS))}


def main() -> int:
    how, folder, *overrides = sys.argv[1:]
    make = ops.AllReduce

    def counted(*arguments):
        SUMS.append(make(*arguments))
        return SUMS[-1]

    def command() -> int:
        ops.AllReduce = counted
        config = load_config(None, overrides)
        plain = config.with_settings({
            "OptimConfig.optimizer": "sgd", "OptimConfig.momentum": 0.0,
            "OptimConfig.weight_decay": 0.0}, explicit=True)
        set_device("CPU")
        group = join_group() if how == "job" else Group()
        tasks = {one_step: plain}
        if how == "job":
            tasks |= {unshared_folder: config, other_settings: config, whole_run: config,
                      group_values: config}
        for task, settings in tasks.items():
            name = f"{task.__name__}_{group.size}_{group.rank}.npz"
            np.savez(Path(folder) / name, **task(settings, group))
        return 0

    return commands.run(command)


if __name__ == "__main__":
    sys.exit(main())
