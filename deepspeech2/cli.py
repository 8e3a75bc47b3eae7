"""The console command `deepspeech2`: `deepspeech2 transcribe FILE…`."""

import argparse
import logging
from collections.abc import Callable

from deepspeech2 import commands
from deepspeech2.errors import InputError
from deepspeech2.model import Model, load_model

logger = logging.getLogger(__name__)


def add_transcription_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that `deepspeech2 transcribe` and transcribe.py share."""
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="recordings: WAV, FLAC, OGG (Vorbis or Opus) or MP3, of any sample rate; "
        "channels are averaged",
    )


def transcribe(args: argparse.Namespace, load: Callable[[], Model]) -> int:
    """Print one line of text for each file, in order.

    Args:
        args: parsed options; `files` are the recordings.
        load: makes the model.

    Returns:
        The exit code: 2 when a file could not be read, whose line is then empty.
    """
    model = load()
    failures = 0
    for path in args.files:
        try:
            text = model.transcribe(path).text
        except InputError as error:  # the other files still get their lines
            logger.error("%s", error)
            failures += 1
            text = ""
        print(text, flush=True)
    return 2 if failures else 0


def parser() -> argparse.ArgumentParser:
    """The options of the console command."""
    result = argparse.ArgumentParser(prog="deepspeech2", description="Speech recognition.")
    subcommands = result.add_subparsers(dest="command", required=True)
    transcription = subcommands.add_parser(
        "transcribe", help="write down what is said in recordings, a line of text each"
    )
    transcription.add_argument(
        "--model",
        default="an4",
        help="an .onnx model that export.py wrote, or one that comes with the package "
        "(default: %(default)s)",
    )
    add_transcription_arguments(transcription)
    return result


def main(argv: list[str] | None = None) -> int:
    """Run a subcommand; returns the exit code."""
    args = parser().parse_args(argv)
    return commands.run(lambda: transcribe(args, lambda: load_model(args.model)))
