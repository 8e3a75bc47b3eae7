"""Write down what is said in audio files: `python transcribe.py --pretrain_ckpt MODEL FILE…`."""

import argparse
import logging
import sys

from src import cli
from src.config import load_config
from src.errors import InputError

logger = logging.getLogger(__name__)

DEVICE = "CPU"


def parser() -> argparse.ArgumentParser:
    """The options of transcription."""
    result = argparse.ArgumentParser(prog="transcribe.py", description="Transcribe audio files, a line of text each.")
    result.add_argument("--pretrain_ckpt", required=True, metavar="MODEL",
                        help="model to use, a .ckpt, .mindir or .onnx file, required")
    cli.add_model_device_argument(result, DEVICE)
    result.add_argument("files", nargs="+", metavar="FILE",
                        help="recordings: WAV, FLAC, OGG or MP3, of any sample rate")
    return result


def main(argv: list[str] | None = None) -> int:
    """Print one line a file, in order; returns the exit code, 2 when a file could not be read."""
    args = parser().parse_args(argv)

    def command() -> int:
        cli.set_device_for(args.pretrain_ckpt, args.device_target, DEVICE)
        from src.predictor import load_predictor
        from src.transcription import transcribe
        predict, config, labels = load_predictor(args.pretrain_ckpt, load_config())
        failures = 0
        for path in args.files:
            try:
                text = transcribe(path, predict, labels, config.DataConfig.SpectConfig)
            except InputError as error:    # the other files still get their lines
                logger.error("%s", error)
                failures += 1
                text = ""
            print(text, flush=True)
        return 2 if failures else 0

    return cli.run(command)


if __name__ == "__main__":
    sys.exit(main())
