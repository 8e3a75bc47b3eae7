"""The console command `deepspeech2`: `deepspeech2 transcribe FILE…`."""

import argparse
import dataclasses
import logging
from collections.abc import Callable

from deepspeech2 import commands
from deepspeech2.audio import Audio, load_audio
from deepspeech2.decoding.decoders import LMConfig, read_settings
from deepspeech2.errors import InputError
from deepspeech2.model import Model, load_model

logger = logging.getLogger(__name__)

FIELDS = {field.name: field for field in dataclasses.fields(LMConfig)}
DECODING_OPTIONS = {  # option: field of LMConfig, metavar, help
    "lm": ("lm_path", "LM.arpa", "language model of words, an ARPA file, also .gz and .xz"),
    "lexicon": ("lexicon_path", "FILE", "the only words that are allowed, one a line"),
    "hotwords": ("hotwords", "WORDS", "words to prefer, separated by commas"),
    "alpha": ("alpha", "NUMBER", "weight of the language model"),
    "beta": ("beta", "NUMBER", "what each word adds to the score of its text"),
    "unknown_cost": ("unknown_cost", "NUMBER", "what a word costs that the language model lacks"),
    "hotword_bonus": ("hotword_bonus", "NUMBER", "what each letter of a hotword adds"),
    "beam_width": ("beam_width", "N", "hypotheses that survive a frame"),
}


class _Written(argparse.Action):
    """Keeps a field of LMConfig in `args.written`, which has no fields that nobody wrote."""

    def __call__(self, parser, namespace, values, option_string=None):
        namespace.written = {**namespace.written, self.dest: values}


def _channel(text: str) -> int:
    """An argparse type: the number of a channel."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number from 1 on")
    return int(text)


def add_transcription_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that `deepspeech2 transcribe` and transcribe.py share."""
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="recordings: WAV, FLAC, OGG (Vorbis or Opus) or MP3, of any sample rate, also pipes; "
        "- is standard input; more formats with the package's extra [media]",
    )
    parser.add_argument(
        "--channel",
        type=_channel,
        default=None,
        metavar="N",
        help="the channel to transcribe, from 1 on; default is average: two people on two channels "
        "are a mixture there",
    )
    decoding = parser.add_argument_group("decoding", "docs/decoding.md explains these options.")
    decoding.add_argument(
        "--decoder",
        choices=FIELDS["decoder_type"].metadata["choices"],
        default=None,
        help="how to decode, default is greedy, or beam with --lm and the options after it",
    )
    decoding.add_argument(
        "--decoder_config",
        default="",
        metavar="FILE",
        help="settings that python -m tools.tune_lm wrote; the other options come on top, "
        "default is ''",
    )
    parser.set_defaults(written={})
    for option, (name, metavar, text) in DECODING_OPTIONS.items():
        field = FIELDS[name]
        decoding.add_argument(
            f"--{option}",
            dest=name,
            action=_Written,
            type=field.type,
            default=field.default,
            metavar=metavar,
            help=f"{text}, default is {field.default!r}",
        )


def decoding_settings(args: argparse.Namespace) -> LMConfig:
    """The settings of the decoder that the options ask for.

    Raises:
        InputError: as `read_settings`.
        ConfigError: naming the setting, for a wrong value.
    """
    config = read_settings(args.decoder_config) if args.decoder_config else LMConfig()
    kind = args.decoder or ("beam" if args.written else config.decoder_type)
    return dataclasses.replace(config, decoder_type=kind, **args.written).checked()


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
            text = model.transcribe(_audio(path, model, args.channel)).text
        except InputError as error:  # the other files still get their lines
            logger.error("%s", error)
            failures += 1
            text = ""
        print(text, flush=True)
    return 2 if failures else 0


def _audio(path: str, model: Model, channel: int | None) -> Audio:
    """What to transcribe: a file, or one channel of a file."""
    if channel is None:
        return path
    rate = model.spect.sample_rate
    return load_audio(path, rate, channel), rate


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
    return commands.run(
        lambda: transcribe(args, lambda: load_model(args.model, decoding_settings(args)))
    )
