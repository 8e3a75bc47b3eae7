"""Convert a checkpoint to a model for inference: `python export.py --help` lists the options."""

import argparse
from pathlib import Path

from deepspeech2 import commands
from deepspeech2.errors import InputError
from src import cli
from src.config import load_config


def parser() -> argparse.ArgumentParser:
    """The options of export."""
    result = argparse.ArgumentParser(
        prog="export.py", description="Export DeepSpeech2 for inference."
    )
    result.add_argument(
        "--pre_trained_model_path",
        required=True,
        metavar="CKPT",
        help="checkpoint to export, required",
    )
    cli.add_device_argument(result)
    result.add_argument(
        "--batch_size",
        type=int,
        default=0,
        help="0: any batch size; N: the MindIR has batches of N utterances, default is 0",
    )
    result.add_argument(
        "--file_name",
        default="deepspeech2",
        help="model to write, its suffix may be left out; a folder gets a file deepspeech2, "
        "default is deepspeech2",
    )
    result.add_argument(
        "--file_format",
        default="MINDIR",
        choices=("MINDIR", "ONNX", "AIR"),
        help="MINDIR for MindSpore, ONNX for ONNX Runtime (AIR is refused), default is MINDIR",
    )
    result.add_argument(
        "--quantize",
        default="",
        choices=("", "int8"),
        help="int8: an ONNX model whose LSTMs compute in 8 bits, default is ''",
    )
    result.add_argument(
        "--streaming",
        type=commands.boolean,
        default=False,
        metavar="BOOL",
        help="an ONNX model for streams, of a network that is not bidirectional, default is False",
    )
    return result


def check(args: argparse.Namespace) -> None:
    """Refuse options that do not go together. Raises InputError."""
    if args.file_format == "AIR":
        raise InputError(
            "--file_format AIR: AIR is for Ascend devices only, which this recipe does not "
            "support; export MINDIR"
        )
    if args.batch_size < 0:
        raise InputError(f"--batch_size (={args.batch_size}) must be 0 (any) or more")
    if args.file_format == "ONNX" and args.batch_size:
        raise InputError(
            f"--batch_size {args.batch_size}: an ONNX model takes any batch; leave the option out"
        )
    if args.file_format != "ONNX" and args.quantize:
        raise InputError(
            f"--quantize {args.quantize}: only ONNX models can be quantized; add --file_format ONNX"
        )


    if args.file_format != "ONNX" and args.streaming:
        raise InputError(
            "--streaming True: only ONNX models take streams; add --file_format ONNX"
        )


def output_path(file_name: str, file_format: str) -> Path:
    """The path of the model with its suffix. Raises InputError for a suffix of another format."""
    path, suffix = Path(file_name), f".{file_format.lower()}"
    if path.is_dir() or file_name.endswith(("/", "/.")):
        path /= "deepspeech2"
    if path.suffix in (".mindir", ".onnx", ".ckpt", ".json") and path.suffix != suffix:
        raise InputError(
            f"--file_name {file_name}: a model in {file_format} format ends in {suffix}; leave the "
            "suffix out, or choose another --file_format"
        )
    return path if path.suffix == suffix else path.with_name(path.name + suffix)


def main(argv: list[str] | None = None) -> int:
    """Export as the command line says; returns the exit code."""
    args = parser().parse_args(argv)
    return commands.run(lambda: export(args))


def export(args: argparse.Namespace) -> int:
    check(args)
    path = output_path(args.file_name, args.file_format)
    from src.device import set_device

    set_device(args.device_target)
    from src.exporting import export_mindir, export_onnx

    checkpoint = args.pre_trained_model_path
    if args.file_format == "ONNX":
        exported = export_onnx(checkpoint, load_config(), path, args.quantize, args.streaming)
    else:
        exported = export_mindir(checkpoint, load_config(), path, args.batch_size)
    size = path.stat().st_size / 2**20
    speech = "; it is larger for speech, so compare the error rates of eval.py"
    print(
        f"{path}: {size:.1f} MiB, {exported.num_classes} classes, settings in "
        f"{exported.info_path}; largest difference from the network {exported.difference:.1e} "
        f"(of a probability, for noise{speech if args.quantize else ''})"
    )
    return 0


if __name__ == "__main__":
    commands.leave(main())
