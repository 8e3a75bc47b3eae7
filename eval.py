"""Score a model on DataConfig.test_manifest: `python eval.py --help` lists the options."""

import argparse
import logging
import sys
from pathlib import Path

from src import cli
from src.config import load_config
from src.errors import InputError

logger = logging.getLogger(__name__)

DEVICE = "GPU"


def parser() -> argparse.ArgumentParser:
    """The options of evaluation."""
    result = argparse.ArgumentParser(prog="eval.py", description="Evaluate DeepSpeech2.")
    result.add_argument("--pretrain_ckpt", default="", metavar="MODEL",
                        help="model to evaluate, a .ckpt, .mindir or .onnx file, default is ''")
    cli.add_bidirectional_argument(result)
    cli.add_model_device_argument(result, DEVICE)
    result.add_argument("--save_output", default="", metavar="FILE.npz",
                        help="file for the softmax matrix (T', classes) of every manifest row, default is ''")
    cli.add_config_arguments(result)
    return result


def main(argv: list[str] | None = None) -> int:
    """Evaluate as the command line says; returns the exit code, 1 when an utterance could not be read."""
    args = parser().parse_intermixed_args(argv)

    def command() -> int:
        config = load_config(args.config, cli.direction_override(args.bidirectional) + args.overrides)
        if not args.pretrain_ckpt:
            raise InputError("--pretrain_ckpt: name the model to evaluate")
        if args.save_output and not args.save_output.endswith(".npz"):
            raise InputError(f"--save_output {args.save_output}: must end in .npz")
        cli.set_device_for(args.pretrain_ckpt, args.device_target, DEVICE)
        from src.evaluation import evaluate, write_csv, write_outputs
        from src.files import ensure_writable
        from src.manifest import read_manifest
        from src.predictor import load_predictor
        predict, config, labels = load_predictor(args.pretrain_ckpt, config)
        manifest = read_manifest(config.DataConfig.test_manifest, labels)
        table = Path(config.TrainingConfig.log_dir) / f"{manifest.path.stem}_eval.csv"
        for path in [table, Path(args.save_output)] if args.save_output else [table]:
            ensure_writable(path.parent)
        evaluation = evaluate(predict, manifest, labels, config, keep_probs=bool(args.save_output))
        write_csv(evaluation, table)
        logger.info("%s: %d utterances scored, one line each in %s", manifest.path, len(evaluation.utterances), table)
        if args.save_output:
            write_outputs(evaluation, len(manifest), args.save_output)
            logger.info("softmax matrices in %s", args.save_output)
        if evaluation.missing:
            logger.error("%d of %d utterances could not be read and are not scored", len(evaluation.missing),
                         len(manifest))
        print(evaluation.summary())
        return 1 if evaluation.missing else 0

    return cli.run(command)


if __name__ == "__main__":
    sys.exit(main())
