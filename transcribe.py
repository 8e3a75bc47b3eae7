"""Write down what is said in audio files: `python transcribe.py --pretrain_ckpt MODEL FILE…`."""

import argparse

import deepspeech2.cli
from deepspeech2 import commands
from deepspeech2.model import Model
from src import cli


def parser() -> argparse.ArgumentParser:
    """The options of transcription."""
    result = argparse.ArgumentParser(
        prog="transcribe.py", description="Transcribe audio files, a line of text each."
    )
    cli.add_stored_model_arguments(result)
    deepspeech2.cli.add_transcription_arguments(result)
    return result


def main(argv: list[str] | None = None) -> int:
    """Transcribe as the command line says; returns the exit code."""
    args = parser().parse_args(argv)

    def load() -> Model:
        lm_config = deepspeech2.cli.decoding_settings(args)
        return cli.load_stored_model(args.pretrain_ckpt, args.device_target, lm_config)

    return commands.run(lambda: deepspeech2.cli.transcribe(args, load))


if __name__ == "__main__":
    commands.leave(main())
