"""Write down what is said in audio files: `python transcribe.py --pretrain_ckpt MODEL FILE…`."""

import argparse
import dataclasses

import deepspeech2.cli
from deepspeech2 import commands
from deepspeech2.model import Model
from src import cli
from src.config import load_config
from src.device import set_device_for

DEVICE = "CPU"


def parser() -> argparse.ArgumentParser:
    """The options of transcription."""
    result = argparse.ArgumentParser(
        prog="transcribe.py", description="Transcribe audio files, a line of text each."
    )
    result.add_argument(
        "--pretrain_ckpt",
        required=True,
        metavar="MODEL",
        help="model to use, a .ckpt, .mindir or .onnx file, required",
    )
    cli.add_model_device_argument(result, DEVICE)
    deepspeech2.cli.add_transcription_arguments(result)
    return result


def main(argv: list[str] | None = None) -> int:
    """Transcribe as the command line says; returns the exit code."""
    args = parser().parse_args(argv)

    def load() -> Model:
        lm_config = deepspeech2.cli.decoding_settings(args)
        config = dataclasses.replace(load_config(), LMConfig=lm_config)
        set_device_for(args.pretrain_ckpt, args.device_target, DEVICE)
        from src.stored_models import load_model

        return load_model(args.pretrain_ckpt, config)

    return commands.run(lambda: deepspeech2.cli.transcribe(args, load))


if __name__ == "__main__":
    commands.leave(main())
