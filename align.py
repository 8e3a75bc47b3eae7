"""Find when the words of a text are said: `python align.py --pretrain_ckpt MODEL AUDIO TEXT`."""

import argparse

import deepspeech2.cli
from deepspeech2 import commands
from deepspeech2.model import Model
from src import cli
from src.device import set_device_for

DEVICE = "CPU"


def parser() -> argparse.ArgumentParser:
    """The options of alignment."""
    result = argparse.ArgumentParser(
        prog="align.py", description="Find when the words of a known text are said in a recording."
    )
    result.add_argument(
        "--pretrain_ckpt",
        required=True,
        metavar="MODEL",
        help="model to use, a .ckpt, .mindir or .onnx file, required",
    )
    cli.add_model_device_argument(result, DEVICE)
    deepspeech2.cli.add_alignment_arguments(result)
    return result


def main(argv: list[str] | None = None) -> int:
    """Align as the command line says; returns the exit code."""
    args = parser().parse_args(argv)

    def load() -> Model:
        set_device_for(args.pretrain_ckpt, args.device_target, DEVICE)
        from src.stored_models import load_model

        return load_model(args.pretrain_ckpt)

    return commands.run(lambda: deepspeech2.cli.align(args, load))


if __name__ == "__main__":
    commands.leave(main())
