"""Convert models of deepspeech.pytorch into checkpoints of this project.

Usage: `python -m tools.convert_torch INPUT OUTPUT.ckpt`

INPUT is a `.pth` of V2, a `.pth` of V1 with the same network, a `.ckpt` of V3 (PyTorch Lightning),
or an `.npz` with arrays `state/NAME`. Weights, labels and spectrogram settings are converted; the
optimizer's state is dropped. No code from a file is executed or imported.

Sources: deepspeech.pytorch, `deepspeech_pytorch/model.py` and `configs/train_config.py`; V1,
`model.py`.
"""

import argparse
import importlib
import math
import mmap
import pickle
import re
import tarfile
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deepspeech2 import commands
from deepspeech2.errors import InputError, RunError, first_line
from deepspeech2.labels import BLANK, Labels
from src.config import Config
from src.device import set_device

ORIGINAL_LABELS = "_'ABCDEFGHIJKLMNOPQRSTUVWXYZ "  # its labels.json: the blank is class 0
SPECT_SETTINGS = ("sample_rate", "window_size", "window_stride", "window")  # that it has
# More bytes than weights have in a byte of a zip file, and than a small file may hold.
_LARGEST_RATIO, _MIN_LIMIT = 100, 1 << 26
_MOST_PARTS = 10_000  # of a tuple, and of the tuples in it
# first bytes of files of torch.save
ZIP, LEGACY = b"PK\x03\x04", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."

# names of layers in deepspeech.pytorch and here, with {} for the number of the layer
_LAYERS = (
    (r"conv\.seq_module\.0", "conv.conv1"),
    (r"conv\.seq_module\.1", "conv.norm1"),
    (r"conv\.seq_module\.3", "conv.conv2"),
    (r"conv\.seq_module\.4", "conv.norm2"),
    (r"rnns\.(\d+)\.rnn", "rnns.{}.forward_lstm"),
    (r"rnns\.([1-9]\d*)\.batch_norm\.module", "norms.{}.cell"),
    (r"lookahead\.0(?:\.conv)?", "lookahead.conv"),  # V1 has no .conv
    (r"fc\.0\.module\.0", "fc_norm.cell"),
    (r"fc\.0\.module\.1", "fc"),
)
_NORM = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}


def our_name(name: str) -> str | None:
    """Our name for a tensor of deepspeech.pytorch; None if the network has no such tensor."""
    layer, _, leaf = name.rpartition(".")
    for pattern, ours in _LAYERS:
        if match := re.fullmatch(pattern, layer):
            number = int(match[1]) if match.groups() else 0
            if "norm" in ours:
                return f"{ours.format(number - 1)}.{_NORM[leaf]}" if leaf in _NORM else None
            if leaf.endswith("_reverse"):
                ours, leaf = ours.replace("forward", "backward"), leaf.removesuffix("_reverse")
            return f"{ours.format(number)}.{leaf}"
    return None


@dataclass(frozen=True)
class Original:
    """The content of a file of deepspeech.pytorch.

    Attributes:
        tensors: float32 arrays by deepspeech.pytorch's names.
        labels: the classes in deepspeech.pytorch's order; None if the file has no labels.
        spect: settings of the spectrogram; empty if the file has none.
    """

    tensors: dict[str, np.ndarray]
    labels: list[str] | None
    spect: dict[str, Any]


def read_original(path: Path) -> Original:
    """Read a file of any supported format.

    Raises:
        InputError: when the file is missing, damaged, or of another format.
        RunError: when there is not enough memory.
    """
    if not path.is_file():
        raise InputError("no such file")
    try:
        original = _read_npz(path) if path.suffix == ".npz" else _read_torch(path)
    except InputError:
        raise
    except MemoryError:
        raise RunError(f"{path}: there is not enough memory to read it") from None
    # a damaged or hostile file can raise any error
    except Exception as error:
        raise InputError(
            f"not a whole checkpoint of deepspeech.pytorch: {first_line(error)}"
        ) from None
    # torch.nn.DataParallel puts `module.` before all names
    tensors = {
        name.removeprefix("module."): value
        for name, value in original.tensors.items()
        if not name.endswith("num_batches_tracked")
    }
    return Original(tensors, original.labels, original.spect)


def _check_size(path: Path) -> None:
    """Refuse a zip file that would fill the memory. Raises InputError."""
    with zipfile.ZipFile(path) as archive:
        size = sum(member.file_size for member in archive.infolist())
    if size > max(_MIN_LIMIT, _LARGEST_RATIO * path.stat().st_size):
        raise InputError(f"{size} bytes come out of it: these are no weights of a network")


def _read_npz(path: Path) -> Original:
    _check_size(path)
    with np.load(path, allow_pickle=False) as arrays:
        tensors = {
            name.removeprefix("state/"): arrays[name].astype(np.float32)
            for name in arrays.files
            if name.startswith("state/")
        }
    return Original(tensors, None, {})


def _read_torch(path: Path) -> Original:
    package = _load_package(path)
    if not isinstance(package, dict) or not isinstance(package.get("state_dict"), dict):
        raise InputError("not a checkpoint of deepspeech.pytorch: no state_dict in it")
    # V3 has hyper_parameters; V1 and V2 have labels and settings at the top level
    parameters = _plain(package.get("hyper_parameters", {}))
    labels = parameters.get("labels", _plain(package.get("labels")))
    if any(isinstance(label, list | dict) for label in labels or ()):
        raise InputError("its labels are not characters")
    spect = parameters.get("spect_cfg", _plain(package.get("audio_conf")))
    return Original(
        {
            str(name): value.detach().float().numpy()
            for name, value in package["state_dict"].items()
        },
        None if labels is None else list(labels),
        spect if isinstance(spect, dict) else {},
    )


def _load_package(path: Path) -> Any:
    """Read a file of torch.save; `_Foreign` replaces all objects but tensors and plain values."""
    with open(path, "rb") as file:
        start = file.read(len(LEGACY))
        if not start.startswith((ZIP, LEGACY)):
            raise InputError("not a file that PyTorch wrote")
        # torch.load would unpack it, whatever is in it
        if start.startswith(LEGACY) and tarfile.is_tarfile(path):
            raise InputError("a tar archive, as PyTorch wrote before 2017")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if content.find(b"constants.pkl") >= 0:  # torch.load would run torch.jit.load
                raise InputError(
                    "a TorchScript archive, which is a program: convert the checkpoint that it is "
                    "from"
                )
        try:
            torch = importlib.import_module("torch")  # on purpose not in requirements.txt
        except (ImportError, OSError):
            raise InputError(
                "reading it needs PyTorch, which nothing else here does; install the CPU build: "
                "pip install torch --index-url https://download.pytorch.org/whl/cpu"
            ) from None
        if start.startswith(ZIP):
            _check_size(path)
        file.seek(0)
        restricted = _restricted_pickle(torch, path.stat().st_size)
        return torch.load(file, "cpu", restricted, weights_only=False, mmap=False)


class _Foreign:
    """Replaces any class, object or function that a file names: it stores arguments and state."""

    def __new__(cls, *args, **_):
        self = super().__new__(cls)
        self.args, self.state = args, {}
        return self

    def __init__(self, *_, **__):
        pass

    append = extend = add = __init__  # other methods that pickle calls on objects

    def __call__(self, *_, **__):
        return self

    def __setitem__(self, key, value):
        self.state[key] = value

    def __setstate__(self, state):
        self.state |= state if isinstance(state, dict) else {}


def _plain(value: Any, done: dict[int, Any] | None = None) -> Any:
    """Plain values instead of OmegaConf's containers, enumerations and dataclasses.

    Args:
        value: anything that was in a file.
        done: results by id: a list can contain another one many times, or itself.
    """
    done = {} if done is None else done
    if id(value) in done:
        return done[id(value)]
    done[id(value)] = None
    if isinstance(value, _Foreign):
        # OmegaConf's containers and its nodes; state of a dataclass, or argument of an enumeration
        state = value.state or (value.args[0] if len(value.args) == 1 else {})
        for name in ("_content", "_val"):
            state = value.state.get(name, state)
        result = _plain(state, done)
    elif isinstance(value, dict):
        result = {key: _plain(item, done) for key, item in value.items()}
    elif isinstance(value, list | tuple):
        result = [_plain(item, done) for item in value]
    else:
        result = value
    done[id(value)] = result
    return result


class _Unpickler(pickle._Unpickler):
    """Python's own unpickler without what a hostile file uses to take memory or time.

    The one in C makes room for as many objects as a file promises. Hashing a tuple takes as long as
    the tuple is when it is written out: 60 tuples of two can be 2^60 values.
    """

    dispatch = {
        code: load
        for code, load in pickle._Unpickler.dispatch.items()
        if code != pickle.BYTEARRAY8[0]  # makes an array of any size; torch writes none
    }

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self._parts: dict[int, tuple[tuple, int]] = {}  # tuples by id, with their parts

    def _count_parts(self):
        made = self.stack[-1]
        parts = 1 + sum(self._parts.get(id(item), (None, 1))[1] for item in made)
        if parts > _MOST_PARTS:
            raise pickle.UnpicklingError("a tuple of more parts than any that torch writes")
        self._parts[id(made)] = made, parts  # the tuple is kept, so that its id stays its own


def _counting(load: Callable) -> Callable:
    """A step of the unpickler that makes a tuple, with a look at the size of what it made."""

    def load_and_count(self):
        load(self)
        self._count_parts()

    return load_and_count


for _code in (pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3):
    _Unpickler.dispatch[_code[0]] = _counting(_Unpickler.dispatch[_code[0]])


def _restricted_pickle(torch: types.ModuleType, file_size: int) -> types.ModuleType:
    """A module for torch.load's `pickle_module` that builds tensors and ordered dictionaries only.

    All other objects become `_Foreign`. No storage may have more elements than the file has bytes,
    and no tensor more than its storage.
    """

    def rebuild(storage, offset, size, stride, *_):
        if math.prod(size) > storage._size():  # a stride of 0 makes any size of one number
            raise pickle.UnpicklingError(f"a tensor of the size {tuple(size)} repeats its numbers")
        return torch._utils._rebuild_tensor(storage, offset, size, stride)

    known = {
        "collections.OrderedDict": OrderedDict,
        "torch._utils._rebuild_tensor": rebuild,
        "torch._utils._rebuild_tensor_v2": rebuild,
        "torch._utils._rebuild_parameter": lambda data, *_: data,
    }

    class Unpickler(_Unpickler):
        def find_class(self, module, name):
            return known.get(f"{module}.{name}") or type(name, (_Foreign,), {})

        def __setattr__(self, name, value):
            """Restrict `persistent_load`, which torch sets, to storages.

            For other classes it may write a file that the pickle names.
            """

            def storages_only(key):
                if key[0] != "storage":
                    return _Foreign()
                if not 0 <= key[4] <= file_size:
                    raise pickle.UnpicklingError(f"{key[4]} numbers in {file_size} bytes")
                return value(key)

            super().__setattr__(name, storages_only if name == "persistent_load" else value)

    module = types.ModuleType("restricted_pickle")
    module.Unpickler = Unpickler
    module.load = lambda file, **options: Unpickler(file, **options).load()
    return module


def recognise(tensors: dict[str, np.ndarray]) -> tuple[dict[str, Any], int]:
    """Find the network's settings in its tensors.

    Args:
        tensors: arrays by our names.

    Returns:
        {field of ModelConfig: value}, and the number of classes.

    Raises:
        InputError: naming a tensor that is missing, of the wrong rank, or not an LSTM's.
    """

    def shape(name: str, *ranks: int) -> tuple[int, ...]:
        found = tensors[name].shape if name in tensors else None
        if found is None or len(found) not in ranks:
            raise InputError(
                f"{name} has shape {found}, {ranks[-1]} dimensions are needed"
                if found
                else f"no tensor for {name} in it"
            )
        return found

    gates, hidden = shape("rnns.0.forward_lstm.weight_hh_l0", 2)
    if gates != 4 * hidden:
        kinds = {3 * hidden: "a GRU", hidden: "a plain RNN"}
        kind = kinds.get(gates, "of an unknown kind")
        raise InputError(
            f"only LSTMs can be converted, but the recurrent layers are {kind}: weight_hh_l0 has "
            f"shape {gates, hidden}, an LSTM's is {4 * hidden, hidden}"
        )
    channels, _, *kernel = shape("conv.conv2.weight", 4)
    bidirectional = "rnns.0.backward_lstm.weight_hh_l0" in tensors
    layers = {name.split(".")[1] for name in tensors if name.startswith("rnns.")}
    model = {
        "hidden_size": hidden,
        "hidden_layers": len(layers),
        "bidirectional": bidirectional,
        "conv_channels": channels,
        "conv2_kernel": kernel,
    }
    if not bidirectional:
        model["lookahead_context"] = shape("lookahead.conv.weight", 2, 3)[-1]
    return model, shape("fc.weight", 2)[0]


def choose_labels(
    stored: list[str] | None, asked: Labels | None, classes: int
) -> tuple[Labels, str]:
    """Choose the labels in the original's class order.

    Args:
        stored: labels in the file, None if it has none.
        asked: labels of `--labels_path`, None without the option.
        classes: C.

    Returns:
        The labels, and a phrase that says where they come from.

    Raises:
        InputError: when `stored` and `asked` differ, and when the labels do not fit the classes.
    """
    labels = Labels(stored) if stored is not None else asked or Labels(ORIGINAL_LABELS)
    if asked and asked != labels:
        raise InputError(f"its labels are {str(labels)!r}, those of --labels_path {str(asked)!r}")
    if len(labels) != classes:
        raise InputError(
            f"{classes} classes, but {len(labels)} labels: {str(labels)!r}"
            + ("" if stored or asked else "; name its own with --labels_path")
        )
    # only V3 can have another blank, and V3 stores its labels
    if not stored and labels.blank_index != 0:
        raise InputError(
            f"in deepspeech.pytorch the blank {BLANK!r} is class 0, in --labels_path class "
            f"{labels.blank_index}: give the labels in the class order of the file"
        )
    if stored:
        return labels, "from the file"
    return labels, "from --labels_path" if asked else "deepspeech.pytorch's own"


def convert(
    path: Path, asked: Labels | None
) -> tuple[dict[str, np.ndarray], Config, Labels, list[str]]:
    """Convert a file.

    Args:
        path: the file of deepspeech.pytorch.
        asked: labels of `--labels_path`, None without the option.

    Returns:
        The tensors by our names and in our class order, the settings, the labels, and lines for the
        user that describe them.

    Raises:
        InputError: for a file that cannot be converted.
    """
    original = read_original(path)
    if "conv.0.weight" in original.tensors:
        raise InputError(
            "an early V1 model, whose network was another: no masks, no biases, other padding"
        )
    if unknown := sorted(name for name in original.tensors if our_name(name) is None):
        raise InputError(
            f"the network has no place for {len(unknown)} of its tensors: {', '.join(unknown[:8])}"
        )
    tensors = {our_name(name): value for name, value in original.tensors.items()}
    model, classes = recognise(tensors)
    labels, source = choose_labels(original.labels, asked, classes)
    order = [i for i in range(classes) if i != labels.blank_index] + [labels.blank_index]
    labels = Labels([labels.characters[i] for i in order])
    tensors["fc.weight"] = tensors["fc.weight"][order]
    if not model["bidirectional"]:
        weight = tensors["lookahead.conv.weight"]  # (H, 1, context), in V1 (H, context)
        weight = weight[:, None] if weight.ndim == 3 else weight[:, None, None]
        tensors["lookahead.conv.weight"] = weight  # (H, 1, 1, context)
    names = SPECT_SETTINGS
    spect = {name: original.spect[name] for name in names if original.spect.get(name) is not None}
    config = Config().with_settings(
        {f"ModelConfig.{name}": value for name, value in model.items()}
        | {f"DataConfig.SpectConfig.{name}": value for name, value in spect.items()},
        False,
    )
    defaults = [name for name in names if name not in spect]
    return tensors, config, labels, report(config, labels, source, defaults)


def report(config: Config, labels: Labels, source: str, defaults: list[str]) -> list[str]:
    """Lines about a converted model.

    Args:
        config: settings of the model.
        labels: the classes.
        source: a phrase that says where the labels come from.
        defaults: settings of its spectrograms that are not in the file.
    """
    model, spect = config.ModelConfig, config.DataConfig.SpectConfig
    direction = (
        "bidirectional"
        if model.bidirectional
        else f"forward, lookahead over {model.lookahead_context} frames"
    )
    return [
        f"network: {model.hidden_layers} LSTM layers of {model.hidden_size} units, {direction}; "
        f"{model.conv_channels} channels, second kernel {list(model.conv2_kernel)}; "
        f"{len(labels)} classes",
        f"spectrogram: {spect.sample_rate} Hz, {spect.window} windows of {spect.window_size} s "
        f"every {spect.window_stride} s"
        + (f"; by default, not in the file: {', '.join(defaults)}" if defaults else ""),
        f"labels {source}: {str(labels)!r}, the blank last",
    ]


def write(
    target: Path, tensors: dict[str, np.ndarray], config: Config, labels: Labels, source: Path
) -> None:
    """Write tensors as a checkpoint.

    Args:
        target: the checkpoint to write.
        tensors: arrays by our names.
        config: settings of the network.
        labels: the classes.
        source: the file of deepspeech.pytorch, for messages.

    Raises:
        InputError: naming the tensors that do not fit the network.
        RunError: when the checkpoint could not be written.
    """
    from src.checkpoint import arrays_of, check_sizes, load_parameters, save_checkpoint
    from src.DeepSpeech import DeepSpeech

    check_sizes(config, tensors, source)
    network = DeepSpeech(config.ModelConfig, config.DataConfig.SpectConfig.num_bins, len(labels))
    own = list(network.get_parameters())
    load_parameters(own, tensors, source)
    save_checkpoint(target, arrays_of(own), config.model_info(labels))


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    result = argparse.ArgumentParser(prog="python -m tools.convert_torch")
    result.add_argument(
        "input", type=Path, metavar="INPUT", help=".pth (V1, V2), .ckpt (V3) or .npz file"
    )
    result.add_argument("output", type=Path, metavar="OUTPUT.ckpt", help="checkpoint to write")
    result.add_argument(
        "--labels_path",
        metavar="FILE",
        help="JSON list of the characters in the class order of INPUT "
        "if that does not hold them, default is deepspeech.pytorch's own",
    )
    return result


def main(argv: list[str] | None = None) -> int:
    """Convert as the command line says; returns the exit code."""
    args = parser().parse_args(argv)
    return commands.run(lambda: convert_torch(args))


def convert_torch(args: argparse.Namespace) -> int:
    if args.output.suffix != ".ckpt" or args.output.resolve() == args.input.resolve():
        raise InputError(f"{args.output}: OUTPUT must end in .ckpt and not be INPUT")
    asked = Labels.load(args.labels_path) if args.labels_path else None
    try:
        tensors, config, labels, lines = convert(args.input, asked)
    except InputError as error:
        raise InputError(f"{args.input}: {error}") from None
    set_device("CPU")
    write(args.output, tensors, config, labels, args.input)
    print(f"{args.output}: {args.output.stat().st_size / 2**20:.1f} MiB, weights only")
    print(*lines, sep="\n")
    return 0


if __name__ == "__main__":
    commands.leave(main())
