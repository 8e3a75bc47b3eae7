"""What a process of the tests in test_distributed.py does: `python distributed_worker.py TASK FOLDER OVERRIDE…`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from deepspeech2 import commands
from src.config import load_config
from src.device import join_group, set_device


def weights(cell) -> dict[str, np.ndarray]:
    return {p.name: p.asnumpy() for p in cell.get_parameters()}


def one_step(config, group, folder: Path) -> None:
    """The weights after one plain step on the first eight utterances, batch norm as in evaluation."""
    import mindspore as ms
    from mindspore import Tensor

    from deepspeech2.labels import Labels
    from src.batching import rank_share
    from src.checkpoint import CheckpointFolder
    from src.dataset import BatchSource, training_batches
    from src.training import _Run

    labels = Labels.load(config.DataConfig.labels_path)
    run = _Run(config, labels, CheckpointFolder(config.CheckpointConfig), group)
    run.step_cell.set_train(False)
    group.broadcast(run.step_cell.stored_parameters())
    before = weights(run.network)
    source = BatchSource(run.train_set, [rank_share(np.arange(8), group.rank, group.size)], labels,
                         config.DataConfig.SpectConfig)
    batch, = training_batches(source)
    loss, norm, _ = run.step_cell(*map(Tensor, (batch.inputs, batch.input_length, batch.targets, batch.target_length)),
                                  Tensor(8.0, ms.float32), Tensor(1.0, ms.float32), None)
    change = {name: value - before[name] for name, value in weights(run.network).items()}
    np.savez(folder / f"step_{group.size}_{group.rank}.npz", loss=loss.asnumpy(), norm=norm.asnumpy(), **change)


def whole_run(config, group, folder: Path) -> None:
    """The weights of each process at the end of a training."""
    from src import training

    runs = []

    class Run(training._Run):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            runs.append(self)

    training._Run = Run
    training.train(config, group=group)
    np.savez(folder / f"run_{group.size}_{group.rank}.npz", **weights(runs[0].network))


def main() -> int:
    task, folder, *overrides = sys.argv[1:]

    def command() -> int:
        from src.distributed import Group
        config = load_config(None, overrides)
        set_device("CPU")
        group = join_group() if "--alone" not in task else Group()
        {"one_step": one_step, "whole_run": whole_run}[task.removesuffix("--alone")](config, group, Path(folder))
        return 0

    return commands.run(command)


if __name__ == "__main__":
    sys.exit(main())
