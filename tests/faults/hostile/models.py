"""Models: checkpoints, whole and altered, and exported models with the JSON beside them."""

import hashlib
import json
import random
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from deepspeech2.labels import Labels
from deepspeech2.model_info import write_info
from tests.faults.hostile.mutations import mutate, mutate_message, parse_message, serialize_field
from tests.faults.hostile.target import (
    RATE,
    ROOT,
    Files,
    Target,
    as_json,
    change_first,
    from_seeds,
    noise,
    read_files,
    value,
    word,
)

# --- checkpoints --------------------------------------------------------------------------------

END = 17  # bytes of the checksum at the end, with its mark



def checkpoint_seeds(folder: Path) -> list[Files]:
    from src.checkpoint import save_checkpoint
    from src.config import Config

    info = Config().model_info(Labels("AB _"))
    arrays = {"weight": np.ones((2, 3), np.float32), "half": np.ones(3, np.float16),
              "optimizer.weight": np.ones((2, 3), np.float32), "steps": np.array(7, np.int32)}
    save_checkpoint(folder / "a.ckpt", arrays, info, {"epoch": 3, "history": [{}]})
    save_checkpoint(folder / "b.ckpt", {"weight": np.zeros((300, 2), np.float32)}, info)
    return [{"a.ckpt": (folder / name).read_bytes()} for name in ("a.ckpt", "b.ckpt")]


def read_checkpoint(folder: Path) -> list[str]:
    from deepspeech2.errors import InputError
    from src.checkpoint import load_checkpoint, read_progress
    from src.config import load_config

    try:
        checkpoint = load_checkpoint(folder / "a.ckpt")
        if checkpoint.info:
            load_config().with_model(checkpoint.info, str(checkpoint.path))
    except InputError:
        read_progress(folder / "a.ckpt")  # what it says of a damaged file is its own
        raise
    read_progress(folder / "a.ckpt")
    return []


def repair_checkpoint(content: bytes) -> bytes:
    """Put a right checksum at the end."""
    body, mark, _ = content.rpartition(b"crc_num")
    body = body if mark else content
    return body + b"crc_num" + zlib.crc32(body).to_bytes(10, "big")


def change_checkpoint(rng: random.Random, content: bytes, others) -> bytes:
    if rng.random() < 0.5:
        return mutate(rng, content, others)
    return mutate_message(rng, content[:-END], []) + content[-END:]


@st.composite
def checkpoint_file(draw) -> bytes:
    """Whole records and a right checksum, with any names, shapes, types and strings."""
    from src import checkpoint_file
    from src.config import Config

    info = json.loads(Config().model_info(Labels("AB _")).to_json())
    info |= draw(st.dictionaries(st.sampled_from(sorted(info)), value, max_size=1))
    if isinstance(info["settings"], dict) and draw(st.booleans()):
        key = draw(st.sampled_from([*info["settings"], "x"]) | word)
        info["settings"][key] = draw(value)
    text = st.sampled_from(["[" * 50_000, "{}", ""]) | value.map(lambda v: as_json(v).decode())
    strings = {"deepspeech2_info": as_json(info).decode(), "deepspeech2_progress": draw(text)}
    strings |= draw(st.dictionaries(word.filter(str.isprintable), text, max_size=1))
    parts = []
    for name, string in strings.items():
        if draw(st.integers(0, 9)):
            data = string.encode("utf-32-le", "surrogatepass")
            parts.append(checkpoint_file._header(name, (0,), "str", len(data)) + data)
    dim = st.sampled_from([0, 1, 2, 3, 2**31, 2**32, 2**63 - 1, 2**63, 2**70 - 1])
    for _ in range(draw(st.integers(0, 3))):
        kind = draw(st.sampled_from(["Float32", "Float16", "Bool", "str", "Float8", "a\0", ""]))
        shape = tuple(draw(st.lists(dim, max_size=3) | st.just([1] * 100)))
        data = draw(st.binary(max_size=40) | st.sampled_from([b"", bytes(4), bytes(24)]))
        name = draw(st.sampled_from(["weight", "weight", "fc.weight", "crc_num", "", "A" * 5000]))
        parts.append(checkpoint_file._header(name, shape, kind, len(data)) + data)
    return repair_checkpoint(b"".join(draw(st.permutations(parts))))


any_checkpoint = st.deferred(checkpoint_file).map(lambda content: {"a.ckpt": content})


# --- the state of a run, altered ----------------------------------------------------------------


class Unnoticed(Exception):
    """An altered checkpoint was loaded, with other content than it had."""


def state_seeds(folder: Path) -> list[Files]:
    """The state of a run that train.py wrote, with optimizer, progress and history."""
    from conftest import tiny_recipe

    make = [sys.executable, "-m", "data.demo", "--train=24", "--val=6", "--test=6", "--jobs=1"]
    train = [sys.executable, ROOT / "train.py", "--device_target=CPU"]
    for command in ([*make, f"--target={folder}"], [*train, *tiny_recipe(folder, folder)]):
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    content = (folder / "ckpt" / "DeepSpeech-last.ckpt").read_bytes()
    return [{"a.ckpt": content, "original": content}]


def alter(rng: random.Random, files: Files, seeds: list[Files]) -> Files:
    """Cut or change a checkpoint as disks, copies and transfers do, often between two records."""
    original = files["original"]
    records = [serialize_field(*record) for record in parse_message(original[:-END])]
    content, end = original, original[-END:]
    while content == original:
        match rng.randrange(8):
            case 0:
                content = original[: rng.randrange(len(original))]
            case 1:
                content = b"".join(records[: rng.randrange(len(records) + 1)])
            case 2:
                content = b"".join(records[: rng.randrange(len(records))]) + end
            case 3:
                kept = [record for record in records if rng.random() < 0.7]
                rng.shuffle(kept)
                content = b"".join(kept) + end
            case 4:
                swapped = records.copy()
                i, j = rng.sample(range(len(records)), 2)
                swapped[i], swapped[j] = records[j], records[i]
                content = b"".join(swapped) + end
            case 5:
                content = original + rng.choice((records[-1], bytes(rng.randrange(1, 9)), original))
            case 6:
                content = mutate_message(rng, original[:-END], []) + end
            case _:
                content = mutate(rng, original, [])
    return files | {"a.ckpt": content}


def read_altered(folder: Path) -> list[str]:
    """Load an altered checkpoint, and compare what was loaded with the original."""
    from src.checkpoint import load_checkpoint

    found = load_checkpoint(folder / "a.ckpt")
    (folder / "original").rename(folder / "original.ckpt")
    expected = load_checkpoint(folder / "original.ckpt")
    for one, other in ((found, expected), (expected, found)):
        for name, array in one.parameters.items():
            if name not in other.parameters or not same(array, other.parameters[name]):
                raise Unnoticed(name)
    if (found.info, found.progress) != (expected.info, expected.progress):
        raise Unnoticed("settings or progress")
    return []


def same(array: np.ndarray, other: np.ndarray) -> bool:
    """Whether two arrays are equal to the last bit."""
    kinds = (array.dtype, array.shape), (other.dtype, other.shape)
    return kinds[0] == kinds[1] and array.tobytes() == other.tobytes()


# --- models, in checkpoints and exported --------------------------------------------------------

SMALL = ["ModelConfig.hidden_size=4", "ModelConfig.hidden_layers=1", "ModelConfig.conv_channels=2",
         "ModelConfig.conv2_kernel=[21, 1]", "DataConfig.SpectConfig.sample_rate=8000"]


def small_network():
    """Configuration, labels and network of a small model, as the commands set MindSpore up."""
    from src import device
    from src.config import load_config

    device.set_device("CPU")
    from src.DeepSpeech import DeepSpeech

    config, labels = load_config(None, SMALL), Labels("AB _")
    bins = config.DataConfig.SpectConfig.num_bins
    return config, labels, DeepSpeech(config.ModelConfig, bins, len(labels))


def stored_seeds(folder: Path) -> list[Files]:
    from src.checkpoint import arrays_of, save_checkpoint

    config, labels, network = small_network()
    arrays = arrays_of(network.get_parameters())
    save_checkpoint(folder / "a.ckpt", arrays, config.model_info(labels))
    return [{"a.ckpt": (folder / "a.ckpt").read_bytes()}]


def read_stored(folder: Path) -> list[str]:
    from src.stored_models import load_model

    load_model(next(path for path in sorted(folder.iterdir()) if path.suffix != ".json"))
    return []


def change_stored(rng: random.Random, content: bytes, others) -> bytes:
    """Change the settings or the records, and make the checksum right."""
    from src import checkpoint_file

    if rng.random() < 0.5:
        return repair_checkpoint(mutate_message(rng, content[:-END], []))
    fields = parse_message(content[:-END])
    start, stop = (content.index(mark.encode("utf-32-le")) for mark in ("{", "}\n"))
    text = content[start : stop + 8].decode("utf-32-le")
    changed = mutate(rng, text.encode(), []).decode("utf-8", "replace").encode("utf-32-le")
    settings = checkpoint_file._header("deepspeech2_info", (0,), "str", len(changed)) + changed
    return repair_checkpoint(settings + b"".join(serialize_field(*field) for field in fields[1:]))


def onnx_seeds(folder: Path) -> list[Files]:
    config, labels, network = small_network()
    from src.onnx_graph import make_onnx

    parameters = {name: p.asnumpy() for name, p in network.parameters_dict().items()}
    model = make_onnx(parameters, config.ModelConfig, config.DataConfig.SpectConfig.num_bins)
    (folder / "a.onnx").write_bytes(model.SerializeToString())
    write_info(folder / "a.onnx", config.model_info(labels))
    files = read_files(folder)
    return [{"a.onnx": files["a.onnx"], "a.json": files["a.json"]}]


def read_onnx(folder: Path) -> list[str]:
    """Load a model and, with it, transcribe a short recording."""
    import deepspeech2

    model = deepspeech2.load_model(folder / "a.onnx")
    model.transcribe((noise()[:, 0], RATE))
    return []


def change_model(rng: random.Random, files: Files, seeds: list[Files]) -> Files:
    """Change the model; its checksum is right, wrong, or missing."""
    name, info = list(files)
    content = (mutate_message if rng.random() < 0.6 else mutate)(rng, files[name], [])
    described = json.loads(files[info])
    match rng.randrange(4):
        case 0:
            del described["sha256"]
        case 1:
            pass
        case _:
            described["sha256"] = hashlib.sha256(content).hexdigest()
    return {name: content, info: json.dumps(described).encode()}


def sidecar_seeds(folder: Path) -> list[Files]:
    (files,) = onnx_seeds(folder)
    return [{"a.json": files["a.json"], "a.onnx": files["a.onnx"]}]


@st.composite
def any_sidecar(draw, seeds: list[Files]) -> Files:
    """A description whose values are of any kind."""
    content = json.loads(seeds[0]["a.json"])
    if draw(st.booleans()):
        del content["sha256"]
    for _ in range(draw(st.integers(1, 2))):
        if draw(st.booleans()):
            content[draw(st.sampled_from([*content, "sha256"]))] = draw(value)
        elif isinstance(content["settings"], dict):
            keys = [key for key in content["settings"] if "SpectConfig" in key]
            key = draw(st.sampled_from([*keys, "ModelConfig.hidden_size", "x"]) | word)
            content["settings"] = content["settings"] | {key: draw(value)}
    return seeds[0] | {"a.json": as_json(content)}


def mindir_seeds(folder: Path) -> list[Files]:
    from src.config import load_config
    from src.exporting import export_mindir

    (files,) = stored_seeds(folder)
    export_mindir(str(folder / "a.ckpt"), load_config(), folder / "out" / "a.mindir")
    files = read_files(folder / "out")
    return [{"a.mindir": files["a.mindir"], "a.json": files["a.json"]}]


TARGETS = {
    "checkpoint": Target(12_000, checkpoint_seeds, read_checkpoint,
                         change_first(change_checkpoint, repair_checkpoint), any_checkpoint),
    "altered state": Target(4_000, state_seeds, read_altered, alter),
    "stored checkpoint": Target(600, stored_seeds, read_stored, change_first(change_stored)),
    "onnx": Target(3_000, onnx_seeds, read_onnx, change_model),
    "sidecar": Target(4_000, sidecar_seeds, read_onnx, change_first(),
                      from_seeds(any_sidecar, sidecar_seeds)),
    "mindir": Target(400, mindir_seeds, read_stored, change_model),
}  # fmt: skip
