"""Score a model on DataConfig.test_manifest: `python eval.py --help` lists the options."""

import argparse
import logging
from pathlib import Path

from deepspeech2 import commands
from deepspeech2.errors import InputError
from deepspeech2.files import ensure_writable
from src import cli
from src.config import load_config
from src.device import set_device_for

logger = logging.getLogger(__name__)

DEVICE = "GPU"


def parser() -> argparse.ArgumentParser:
    """The options of evaluation."""
    result = argparse.ArgumentParser(prog="eval.py", description="Evaluate DeepSpeech2.")
    result.add_argument(
        "--pretrain_ckpt",
        default="",
        metavar="MODEL",
        help="model to evaluate, a .ckpt, .mindir or .onnx file, default is ''",
    )
    cli.add_bidirectional_argument(result)
    cli.add_model_device_argument(result, DEVICE)
    result.add_argument(
        "--save_output",
        default="",
        metavar="FILE.npz",
        help="file for the softmax matrix (T', classes) of every manifest row, default is ''",
    )
    result.add_argument(
        "--report",
        default="",
        metavar="DIR",
        help="folder for report.html, which shows what the model gets wrong, default is ''",
    )
    cli.add_config_arguments(result)
    return result


def main(argv: list[str] | None = None) -> int:
    """Evaluate as the command line says; returns the exit code."""
    args = parser().parse_intermixed_args(argv)
    return commands.run(lambda: evaluate(args))


def evaluate(args: argparse.Namespace) -> int:
    """Score, write the table, print the summary; 2 when an utterance could not be read."""
    config = load_config(args.config, cli.config_changes(args))
    check_arguments(args)
    device = set_device_for(args.pretrain_ckpt, args.device_target, DEVICE)
    from src import evaluation
    from src.manifest import read_manifest
    from src.stored_models import load_model

    model = load_model(args.pretrain_ckpt, config, device)
    manifest = read_manifest(config.DataConfig.test_manifest, model.labels, allow_empty=True)
    speakers = evaluation.find_speakers(manifest, config.DataConfig.speaker_pattern)
    table = evaluation.table_path(config.TrainingConfig.log_dir, manifest)
    check_outputs(args, table)
    result = evaluation.evaluate(
        model, manifest, config,
        keep_probs=bool(args.save_output), keep_confidences=bool(args.report),
    )
    evaluation.write_csv(result, table, speakers)
    logger.info("%s: %d utterances scored, one line each in %s", manifest.path,
                len(result.utterances), table)
    if args.save_output:
        evaluation.write_outputs(result, len(manifest), args.save_output)
        logger.info("softmax matrices in %s", args.save_output)
    if result.missing:
        message = "%d of %d utterances could not be read and are not scored"
        logger.error(message, len(result.missing), len(manifest))
    rates = result.rates(speakers)
    for line in evaluation.details(rates):
        logger.info("%s", line)
    print(result.summary())
    if args.report:
        from tools import report

        decoder = config.LMConfig.described()
        report.write_report(args.report, report.Task(
            result, rates, manifest, speakers, model, args.pretrain_ckpt, decoder))
        logger.info("report in %s", Path(args.report, report.PAGE))
    return 2 if result.missing else 0


def check_arguments(args: argparse.Namespace) -> None:
    """Raises InputError for a missing model and for a wrong suffix."""
    if not args.pretrain_ckpt:
        raise InputError("--pretrain_ckpt: name the model to evaluate")
    if args.save_output and not args.save_output.endswith(".npz"):
        raise InputError(f"--save_output {args.save_output}: must end in .npz")


def check_outputs(args: argparse.Namespace, table: Path) -> None:
    """Raises InputError, before a long evaluation, for a place that cannot be written to."""
    for path in [table, Path(args.save_output)] if args.save_output else [table]:
        ensure_writable(path.parent)
    if args.report:
        from tools import report

        report.check_folder(args.report)


if __name__ == "__main__":
    commands.leave(main())
