"""What the commands of the repository share: options, and the way to load a model."""

import argparse
import dataclasses

from deepspeech2.commands import boolean
from deepspeech2.decoding.decoders import LMConfig
from deepspeech2.model import Model
from src.config import load_config
from src.device import set_device_for

DEVICES = ("GPU", "CPU")


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--config` and the overrides at the end of the command line."""
    parser.add_argument(
        "--config",
        metavar="FILE",
        default="",
        help="YAML file with settings that differ from the defaults",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],  # or argparse counts them among what is required
        metavar="GROUP.FIELD=VALUE",
        help="settings that differ from the defaults and the file, e.g. TrainingConfig.epochs=5",
    )


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--device_target` with the document's default."""
    parser.add_argument(
        "--device_target",
        choices=DEVICES,
        default="GPU",
        help="device where the code runs: GPU or CPU, default is GPU",
    )


def add_stored_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--pretrain_ckpt` and its `--device_target` for commands that run on the CPU."""
    parser.add_argument(
        "--pretrain_ckpt",
        required=True,
        metavar="MODEL",
        help="model to use, a .ckpt, .mindir or .onnx file, required",
    )
    add_model_device_argument(parser, "CPU")


def load_stored_model(
    path: str, device_target: str | None = None, lm_config: LMConfig | None = None
) -> Model:
    """Load a model on a device, without one on the CPU.

    Args:
        path: a `.ckpt`, `.mindir` or `.onnx` file.
        device_target: value of `--device_target`.
        lm_config: how the model decodes; None for the defaults.

    Raises:
        InputError: as `set_device_for` and `stored_models.load_model`.
    """
    config = dataclasses.replace(load_config(), LMConfig=lm_config or LMConfig())
    device = set_device_for(path, device_target, "CPU")
    from src.stored_models import load_model

    return load_model(path, config, device)


def add_model_device_argument(parser: argparse.ArgumentParser, default: str) -> None:
    """Add `--device_target` for commands that take a stored model.

    Without the option its value is None: the device is then `default`, or the CPU for an ONNX
    model.
    """
    parser.add_argument(
        "--device_target",
        choices=DEVICES,
        default=None,
        help=f"device where the code runs: GPU or CPU, default is {default}; ONNX models: CPU only",
    )


def add_bidirectional_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--bidirectional`.

    Without the option its value is None: the configuration or the checkpoint then decides.
    """
    parser.add_argument(
        "--bidirectional",
        type=boolean,
        default=None,
        metavar="BOOL",
        help="whether to use bidirectional recurrent layers, default is True",
    )


def config_changes(args: argparse.Namespace) -> list[str]:
    """`--bidirectional` and the overrides as `GROUP.FIELD=VALUE` strings for `load_config`."""
    if args.bidirectional is None:
        return args.overrides
    return [f"ModelConfig.bidirectional={args.bidirectional}", *args.overrides]
