"""Train DeepSpeech2: `python train.py --help` lists the options, src/config.py the settings."""

import argparse
import signal
import sys

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the imports without a traceback

from deepspeech2 import commands
from src import cli
from src.config import load_config
from src.device import join_group, set_device


def parser() -> argparse.ArgumentParser:
    """The options of training."""
    result = argparse.ArgumentParser(prog="train.py", description="Train DeepSpeech2.")
    result.add_argument(
        "--pre_trained_model_path",
        default="",
        help="checkpoint whose weights to begin with, default is ''",
    )
    result.add_argument(
        "--is_distributed",
        type=commands.boolean,
        default=False,
        metavar="BOOL",
        help="train on several devices, default is False",
    )
    cli.add_bidirectional_argument(result)
    cli.add_device_argument(result)
    result.add_argument(
        "--resume",
        default="",
        metavar="CKPT",
        help="go on from a checkpoint, or from this run's last one (auto), default is ''",
    )
    cli.add_config_arguments(result)
    return result


def main(argv: list[str] | None = None) -> int:
    """Train as the command line says; returns the exit code."""
    args = parser().parse_intermixed_args(argv)
    return commands.run(lambda: train(args))


def train(args: argparse.Namespace) -> int:
    config = load_config(args.config, cli.config_changes(args))
    set_device(args.device_target)
    group = join_group() if args.is_distributed else None
    from src import training

    monitor = training.train(config, args.resume, args.pre_trained_model_path, group)
    if monitor.trained and monitor.writes:
        epochs, steps = monitor.trained
        # to stderr, where no full disk or closed pipe turns the end of a run into a failure
        print(
            f"Trained {epochs} epochs, {steps} steps; logs in {monitor.log_dir}, "
            f"checkpoints in {config.CheckpointConfig.ckpt_path}",
            file=sys.stderr,
        )
    return 0


if __name__ == "__main__":
    commands.leave(main())
