"""Convert a checkpoint to a model for inference: `python export.py --help` lists the options."""

import argparse
import json
import sys
from pathlib import Path

from src import cli
from src.config import load_config
from src.errors import InputError


def parser() -> argparse.ArgumentParser:
    """The options of export."""
    result = argparse.ArgumentParser(prog="export.py", description="Export DeepSpeech2 for inference.")
    result.add_argument("--pre_trained_model_path", required=True, metavar="CKPT",
                        help="checkpoint to export, required")
    cli.add_device_argument(result)
    result.add_argument("--batch_size", type=int, default=0,
                        help="0: any batch size; N: only batches of N utterances, default is 0")
    result.add_argument("--file_name", default="deepspeech2",
                        help="output path without suffix, default is deepspeech2")
    result.add_argument("--file_format", default="MINDIR", choices=("MINDIR", "ONNX", "AIR"),
                        help="MINDIR for MindSpore, ONNX for ONNX Runtime (AIR is refused), default is MINDIR")
    result.add_argument("--quantize", default="", choices=("", "int8"),
                        help="int8: an ONNX model whose LSTMs compute in 8 bits, default is ''")
    return result


def main(argv: list[str] | None = None) -> int:
    """Export as the command line says; returns the exit code."""
    args = parser().parse_args(argv)

    def command() -> int:
        if args.file_format == "AIR":
            raise InputError("--file_format AIR: AIR is for Ascend devices only, which this recipe does not support; "
                             "export MINDIR")
        if args.batch_size < 0:
            raise InputError(f"--batch_size (={args.batch_size}) must be 0 (any) or more")
        if args.file_format == "ONNX" and args.batch_size:
            raise InputError(f"--batch_size {args.batch_size}: an ONNX model takes any batch; leave the option out")
        if args.file_format != "ONNX" and args.quantize:
            raise InputError(f"--quantize {args.quantize}: only ONNX models can be quantized; add --file_format ONNX")
        cli.set_device(args.device_target)
        from src.exporting import export_mindir, export_onnx
        suffix = f".{args.file_format.lower()}"
        path = Path(args.file_name.removesuffix(suffix) + suffix)
        if args.file_format == "ONNX":
            path, difference = export_onnx(args.pre_trained_model_path, load_config(), path, args.quantize)
        else:
            path, difference = export_mindir(args.pre_trained_model_path, load_config(), path, args.batch_size)
        sidecar = path.with_suffix(".json")
        classes = len(json.loads(sidecar.read_text(encoding="utf-8"))["labels"])
        print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB, {classes} classes, settings in {sidecar}; "
              f"largest difference from the network {difference:.1e} (of a probability, for noise"
              + ("; it is larger for speech, so compare the error rates of eval.py)" if args.quantize else ")"))
        return 0

    return cli.run(command)


if __name__ == "__main__":
    sys.exit(main())
