"""The console command `deepspeech2`: `transcribe FILE…`, `align`, `bulk`, `serve MODEL`."""

import argparse
import dataclasses
import logging
import os
from collections.abc import Callable
from pathlib import Path

from deepspeech2 import commands
from deepspeech2.audio import STANDARD_INPUT
from deepspeech2.decoding.decoders import LMConfig, read_settings
from deepspeech2.errors import InputError, RunError
from deepspeech2.known_text import read_text
from deepspeech2.model import BATCH_SIZE, Model, brings_weights, decoder_settings, load_model
from deepspeech2.output import Failures, Progress, make_output
from deepspeech2.recordings import Recording, find_recordings
from deepspeech2.writers import WRITERS, Layout

logger = logging.getLogger(__name__)

FIELDS = {field.name: field for field in dataclasses.fields(LMConfig)}
DECODING_OPTIONS = {  # option: field of LMConfig, metavar, help
    "lm": ("lm_path", "LM", "language model of words: english, or an ARPA file, also .gz and .xz"),
    "letter_lm": ("letter_lm_path", "LM.arpa", "letter model of words that --lm lacks, ARPA"),
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


def _positive(text: str) -> int:
    """An argparse type: a number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number from 1 on")
    return int(text)


def _number_or(word: str) -> Callable[[str], int | None]:
    """An argparse type: a number from 1 on, or the word for the default."""
    return lambda text: None if text == word else _positive(text)


def add_transcription_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that `deepspeech2 transcribe` and transcribe.py share."""
    parser.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help="recordings: WAV, FLAC, OGG (Vorbis or Opus) or MP3, of any sample rate, also pipes; "
        "folders of recordings; - is standard input; more formats with the package's extra [media]",
    )
    _add_channel_argument(parser, "transcribe")
    _add_manifest_argument(parser)
    _add_batch_argument(parser)
    _add_output_arguments(parser)
    _add_decoding_arguments(parser)


def add_alignment_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that `deepspeech2 align` and align.py share."""
    parser.add_argument("audio", metavar="AUDIO", help="a recording, as for transcription; - too")
    parser.add_argument(
        "text",
        metavar="TEXT",
        help="what is said: a UTF-8 file, whose lines become segments; - is standard input",
    )
    _add_channel_argument(parser, "align")
    _add_batch_argument(parser)
    _add_output_arguments(parser)
    parser.set_defaults(output_format="tsv")


def _add_channel_argument(parser: argparse.ArgumentParser, verb: str) -> None:
    parser.add_argument(
        "--channel",
        type=_number_or("average"),
        default=None,
        metavar="N",
        help=f"the channel to {verb}, from 1 on; default is average: two people on two channels "
        "are a mixture there",
    )


def _add_manifest_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--manifest",
        default="",
        metavar="FILE",
        help="CSV file with more recordings in its first column, default is ''",
    )


def _add_batch_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--batch_size",
        type=_positive,
        default=BATCH_SIZE,
        metavar="N",
        help="the most pieces of recordings that are recognised at once, default is %(default)s",
    )


def _add_output_arguments(parser: argparse.ArgumentParser) -> None:
    output = parser.add_argument_group("output", "docs/transcribing.md explains these options.")
    output.add_argument(
        "--output_format",
        choices=(*WRITERS, "all"),
        default="txt",
        help="what to write, default is %(default)s",
    )
    output.add_argument(
        "--output_dir",
        default="",
        metavar="DIR",
        help="folder for one file a recording and format, in the same folders as the recordings; "
        "default is '': standard output",
    )
    output.add_argument(
        "--skip_existing",
        action="store_true",
        help="leave out recordings whose files are in --output_dir",
    )
    output.add_argument(
        "--word_timestamps",
        action="store_true",
        help="a subtitle, or a line of tsv, for each word; json has the times of words in any case",
    )
    output.add_argument(
        "--highlight_words", action="store_true", help="underline each word while it is said"
    )
    for name, text in (("max_line_width", "characters of a line"), ("max_line_count", "lines")):
        default = getattr(Layout, name)
        output.add_argument(
            f"--{name}",
            type=_positive,
            default=default,
            metavar="N",
            help=f"the most {text} of a subtitle, default is {default}",
        )


def _add_decoding_arguments(parser: argparse.ArgumentParser) -> None:
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
        InputError: as `read_settings`, and for two options that bring weights.
        ConfigError: naming the setting, for a wrong value.
    """
    written, config = dict(args.written), LMConfig()
    if brings_weights(written.get("lm_path", "")):
        if args.decoder_config:
            raise InputError(
                f"--lm {written['lm_path']} brings its own weights: leave --decoder_config out"
            )
        config = decoder_settings(written.pop("lm_path"))
    elif args.decoder_config:
        config = read_settings(args.decoder_config)
    kind = args.decoder or ("beam" if written else config.decoder_type)
    return dataclasses.replace(config, decoder_type=kind, **written).checked()


def transcribe(args: argparse.Namespace, load: Callable[[], Model]) -> int:
    """Transcribe what the options name, in order.

    Args:
        args: parsed options.
        load: makes the model.

    Returns:
        The exit code: 2 when a recording could not be read, whose line is then empty; 1 when
        something else failed for a recording.
    """
    recordings, problems = find_recordings(args.files, args.manifest)
    output = make_output(args, recordings)
    waiting = [(r, place) for r, place in output.places(recordings) if not output.is_done(place)]
    if len(waiting) < len(recordings):
        logger.info("%d recordings have their files already", len(recordings) - len(waiting))
    model = load()
    with Progress(len(waiting)) as progress:
        failures = Failures(progress.clear, problems)
        results = model.transcribe_many(
            (recording.path for recording, _ in waiting),
            args.batch_size,
            args.channel,
            progress.add_audio,
        )
        for (recording, place), result in zip(waiting, results, strict=True):
            progress.clear()
            if isinstance(result, Exception):
                failures.add(recording.path, result)
            try:
                output.write(place, result)
            except RunError as error:
                failures.add(recording.path, error)
            progress.add_recording()
    return failures.exit_code


def align(args: argparse.Namespace, load: Callable[[], Model]) -> int:
    """Find the words of a text in a recording.

    Args:
        args: parsed options.
        load: makes the model.

    Returns:
        The exit code.

    Raises:
        InputError: as `read_text`, `make_output` and `Model.align`.
        RunError: for a file that cannot be written.
    """
    if args.audio == args.text == STANDARD_INPUT:
        raise InputError("- -: standard input can be the recording or the text, not both")
    recording = Recording(args.audio, os.path.dirname(args.audio))
    output = make_output(args, [recording])
    ((_, place),) = output.places([recording])
    if output.is_done(place):
        logger.info("the recording has its files already")
        return 0
    if os.path.realpath(args.text) in map(os.path.realpath, output.files(place)):
        raise InputError(f"{args.text}: would be written over: choose another --output_dir")
    text = read_text(args.text)
    model = load()
    with Progress(1) as progress:
        result = model.align(args.audio, text, args.channel, args.batch_size, progress.add_audio)
        progress.clear()
        logger.info("%s", result.summary())
        output.write(place, result)
    return 0


def add_service_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `deepspeech2 serve`."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="an .onnx model that export.py wrote, or one that comes with the package",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="the address to listen on, default is %(default)s: only this machine can reach it; "
        "any other needs --key_file",
    )
    parser.add_argument(
        "--port", type=int, default=8000, metavar="N", help="default is %(default)s; 0 for any"
    )
    parser.add_argument(
        "--key_file",
        default="",
        metavar="FILE",
        help="file with the key that clients must show, default is '': none",
    )
    parser.add_argument(
        "--allow_origin",
        default="",
        metavar="URLS",
        help="web pages of other servers that may ask, as https://example.org, separated by "
        "commas; * for all; default is ''",
    )
    parser.add_argument(
        "--max_megabytes",
        type=_positive,
        default=256,
        metavar="N",
        help="the largest file, default is %(default)s",
    )
    parser.add_argument(
        "--max_minutes",
        type=_positive,
        default=240,
        metavar="N",
        help="the longest recording, and the longest stream, default is %(default)s",
    )
    _add_decoding_arguments(parser)


def serve(args: argparse.Namespace) -> int:
    """Serve a model until a signal asks to stop; returns the exit code.

    Raises:
        InputError: for a wrong option, and where the extra `serve` is not installed.
    """
    try:
        from deepspeech2.service import server
        from deepspeech2.service.limits import Limits
    except ImportError as error:
        raise InputError(
            f"the service needs more packages ({error}): pip install '.[serve]' in a checkout"
        ) from None
    key = server.read_key(args.key_file)
    limits = Limits(
        upload_bytes=args.max_megabytes * 10**6,
        audio_seconds=60.0 * args.max_minutes,
        session_seconds=60.0 * args.max_minutes,
    )
    with server.listening_socket(args.host, args.port, key) as listening:
        model = load_model(args.model, decoding_settings(args))
        origins = [origin.strip() for origin in args.allow_origin.split(",") if origin.strip()]
        return server.serve(model, Path(args.model).stem, listening, key, origins, limits)


def add_bulk_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `deepspeech2 bulk`."""
    parser.add_argument("files", nargs="*", metavar="FILE", help="recordings, and folders of them")
    _add_manifest_argument(parser)
    parser.add_argument(
        "--output",
        required=True,
        metavar="DIR",
        help="folder for the results; a stopped job goes on with what is there",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--workers",
        type=_number_or("auto"),
        default=None,
        metavar="N",
        help="processes of this machine, default is auto: one a core",
    )
    where.add_argument(
        "--scheduler",
        default="",
        metavar="ADDRESS",
        help="the workers of a dask cluster, as tcp://HOST:8786; default is '': this machine",
    )
    parser.add_argument(
        "--shard",
        type=_part,
        default="1/1",
        metavar="I/N",
        help="only part I of N, in any order and on any machine; default is %(default)s: all",
    )
    parser.add_argument(
        "--retry_errors",
        action="store_true",
        help="recognise the shards with recordings that failed once more",
    )
    _add_channel_argument(parser, "transcribe")
    _add_batch_argument(parser)
    _add_decoding_arguments(parser)


def _part(text: str) -> tuple[int, int]:
    """An argparse type: `3/8`."""
    part, _, parts = text.partition("/")
    if part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts):
        return int(part), int(parts)
    raise argparse.ArgumentTypeError(f"{text!r} must be I/N, with I from 1 to N, as 3/8")


def bulk(args: argparse.Namespace) -> int:
    """Recognise many recordings on many processes or machines; returns the exit code.

    Raises:
        InputError, RunError: as `command.run` and `find_recordings`.
    """
    from deepspeech2.bulk import command  # late: other commands do without

    recordings, problems = find_recordings(args.files, args.manifest)
    paths = [recording.path for recording in recordings]
    if STANDARD_INPUT in paths:
        raise InputError("-: bulk needs files: standard input cannot be read again")
    code = Failures(lambda: None, problems).exit_code
    return command.run(args, paths, decoding_settings(args)) or code


def parser() -> argparse.ArgumentParser:
    """The options of the console command."""
    result = argparse.ArgumentParser(prog="deepspeech2", description="Speech recognition.")
    subcommands = result.add_subparsers(dest="command", required=True)
    transcription = subcommands.add_parser(
        "transcribe", help="write down what is said in recordings, a line of text each"
    )
    _add_model_argument(transcription)
    add_transcription_arguments(transcription)
    transcription.set_defaults(
        run=lambda args: transcribe(args, lambda: load_model(args.model, decoding_settings(args)))
    )
    alignment = subcommands.add_parser(
        "align", help="find when the words of a known text are said in a recording"
    )
    _add_model_argument(alignment)
    add_alignment_arguments(alignment)
    alignment.set_defaults(run=lambda args: align(args, lambda: load_model(args.model)))
    many = subcommands.add_parser(
        "bulk", help="recognise thousands of recordings on many processes or machines"
    )
    _add_model_argument(many)
    add_bulk_arguments(many)
    many.set_defaults(run=bulk)
    service = subcommands.add_parser(
        "serve", help="recognise recordings and streams of clients on the network"
    )
    add_service_arguments(service)
    service.set_defaults(run=serve)
    return result


def _add_model_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        default="english",
        help="an .onnx model that export.py wrote, or one that comes with the package "
        "(default: %(default)s)",
    )


def main(argv: list[str] | None = None) -> int:
    """Run a subcommand; returns the exit code."""
    args = parser().parse_args(argv)
    return commands.run(lambda: args.run(args))
