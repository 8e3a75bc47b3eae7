"""Find when the words of a text are said: `python align.py --pretrain_ckpt MODEL AUDIO TEXT`."""

import argparse

import deepspeech2.cli
from deepspeech2 import commands
from src import cli


def parser() -> argparse.ArgumentParser:
    """The options of alignment."""
    result = argparse.ArgumentParser(
        prog="align.py", description="Find when the words of a known text are said in a recording."
    )
    cli.add_stored_model_arguments(result)
    deepspeech2.cli.add_alignment_arguments(result)
    return result


def main(argv: list[str] | None = None) -> int:
    """Align as the command line says; returns the exit code."""
    args = parser().parse_args(argv)
    return commands.run(
        lambda: deepspeech2.cli.align(
            args, lambda: cli.load_stored_model(args.pretrain_ckpt, args.device_target)
        )
    )


if __name__ == "__main__":
    commands.leave(main())
