"""Models of deepspeech.pytorch become ours: equal probabilities, and nothing in a file is run.

Where PyTorch is installed it writes and judges files, with `reference.py`; the rest is made with
NumPy alone.
"""

import contextlib
import enum
import importlib
import json
import os
import pickle
import re
import sys
import tarfile
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import ROOT, voice
from reference import batch, build, features, loss_and_gradients, probabilities

import eval as evaluation_command
import train
import transcribe
from deepspeech2.features import SpectConfig
from deepspeech2.labels import Labels
from src.checkpoint import load_checkpoint
from src.config import ModelConfig, load_config
from src.DeepSpeech import DeepSpeech
from src.stored_models import load_model, load_network, network_model
from tools.convert_torch import LEGACY, ZIP, main, our_name

pytestmark = pytest.mark.usefixtures("graph_mode")

ORIGINAL = "_'ABCDEFGHIJKLMNOPQRSTUVWXYZ "
OURS = "'ABCDEFGHIJKLMNOPQRSTUVWXYZ _"


def state(hidden=4, layers=2, gates=4, channels=2, kernel=(21, 11), classes=29, context=0, bins=161,
          seed=0):
    """Random tensors with the original's names and shapes; `context` makes it unidirectional."""
    rng = np.random.default_rng(seed)
    width = channels * (((bins + 1) // 2 + 1) // 2)
    shapes = {"conv.seq_module.0.weight": (channels, 1, 41, 11),
              "conv.seq_module.0.bias": (channels,),
              "conv.seq_module.3.weight": (channels, channels, *kernel),
              "conv.seq_module.3.bias": (channels,), "fc.0.module.1.weight": (classes, hidden)}
    norms = {"conv.seq_module.1": channels, "conv.seq_module.4": channels, "fc.0.module.0": hidden}
    for i in range(layers):
        for direction in [""] if context else ["", "_reverse"]:
            for part, size in (("ih", hidden if i else width), ("hh", hidden)):
                shapes[f"rnns.{i}.rnn.weight_{part}_l0{direction}"] = (gates * hidden, size)
                shapes[f"rnns.{i}.rnn.bias_{part}_l0{direction}"] = (gates * hidden,)
        if i:
            norms[f"rnns.{i}.batch_norm.module"] = hidden
    if context:
        shapes["lookahead.0.conv.weight"] = (hidden, 1, context)
    for name, size in norms.items():
        shapes |= {f"{name}.{leaf}": (size,)
                   for leaf in ("weight", "bias", "running_mean", "running_var")}
    tensors = {name: rng.uniform(0.1, 0.5, shape).astype(np.float32)
               for name, shape in shapes.items()}
    return tensors | {f"{name}.num_batches_tracked": np.int64(7) for name in norms}


def write_npz(path: Path, tensors) -> str:
    np.savez(path, **{f"state/{name}": value for name, value in tensors.items()})
    return str(path)


@pytest.fixture
def convert(tmp_path, capsys):
    """convert(INPUT, …): the written checkpoint, and what the command printed; it must succeed."""
    def run(source, *options):
        target = tmp_path / "converted" / "model.ckpt"
        assert main([str(source), str(target), *options]) == 0, capsys.readouterr().err
        return load_checkpoint(target), capsys.readouterr().out
    return run


@pytest.fixture
def refused(tmp_path, capsys):
    """refused(INPUT, …): the one line that the command says; it ends with 2 and writes nothing."""
    def run(source, *options):
        target = tmp_path / "refused.ckpt"
        assert main([str(source), str(target), *options]) == 2
        captured = capsys.readouterr()
        assert not target.exists() and captured.out == ""
        assert captured.err.startswith("error: ") and captured.err.count("\n") == 1, captured.err
        assert str(source) in captured.err or options
        return captured.err
    return run


# names, sizes and classes, from files that need no PyTorch

@pytest.mark.parametrize("context", [0, 7])
def test_every_parameter_of_the_network_has_one_tensor_of_the_original(context):
    network = DeepSpeech(ModelConfig(hidden_size=4, hidden_layers=3, conv_channels=2,
                                     bidirectional=not context, lookahead_context=7), 161, 29)
    names = [our_name(name) for name in state(layers=3, context=context)
             if not name.endswith("num_batches_tracked")]
    assert sorted(names) == sorted(p.name for p in network.get_parameters())


def test_the_reference_weights_give_the_reference_probabilities(shared, convert):
    reference = np.load(shared / "reference" / "deepspeech_pytorch_bilstm.npz")
    checkpoint, text = convert(shared / "reference" / "deepspeech_pytorch_bilstm.npz")
    in_mindspore = network_model(*load_network(checkpoint.path, load_config()))
    for model in (load_model(checkpoint.path), in_mindspore):
        assert str(model.labels) == OURS
        probs = model.emissions(reference["input"], reference["input_lengths"].astype(np.int32))
        assert [len(p) for p in probs] == reference["output_lengths"].tolist()
        for found, expected in zip(probs, reference["probs"], strict=True):
            expected = np.roll(expected[:len(found)], -1, axis=-1)
            np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
    assert "3 LSTM layers of 16 units, bidirectional; 32 channels, second kernel [21, 11]" in text
    assert "not in the file: sample_rate, window_size, window_stride, window" in text


@pytest.mark.parametrize(("sizes", "settings"), [
    ({},
     {"hidden_size": 4, "hidden_layers": 2, "conv_channels": 2, "conv2_kernel": [21, 11],
      "bidirectional": True}),
    ({"hidden": 3, "layers": 1, "channels": 5, "kernel": (41, 11)},
     {"hidden_size": 3, "hidden_layers": 1, "conv_channels": 5, "conv2_kernel": [41, 11],
      "bidirectional": True}),
    ({"layers": 11, "context": 9},
     {"hidden_layers": 11, "bidirectional": False, "lookahead_context": 9}),
])
def test_sizes_are_recognised(sizes, settings, tmp_path, convert):
    checkpoint, _ = convert(write_npz(tmp_path / "a.npz", state(**sizes)))
    for name, value in settings.items():
        assert checkpoint.info.settings[f"ModelConfig.{name}"] == value
    assert checkpoint.progress == {}
    assert checkpoint.network_parameters().keys() == checkpoint.parameters.keys()


def test_data_parallel_names_and_the_lookahead_of_v1(tmp_path, convert):
    tensors = state(context=5)
    expected, _ = convert(write_npz(tmp_path / "a.npz", tensors))
    expected = expected.parameters
    tensors["lookahead.0.weight"] = tensors.pop("lookahead.0.conv.weight")[:, 0]
    found, _ = convert(write_npz(tmp_path / "b.npz",
                                 {f"module.{name}": value for name, value in tensors.items()}))
    assert expected.keys() == found.parameters.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found.parameters[name], value)


def test_other_alphabets(tmp_path, convert, refused):
    source = write_npz(tmp_path / "a.npz", state(classes=5))
    labels = tmp_path / "labels.json"
    assert "5 classes, but 29 labels" in (line := refused(source)) and "--labels_path" in line
    labels.write_text(json.dumps(["_", "Č", " ", "A", "B"]))
    checkpoint, text = convert(source, "--labels_path", str(labels))
    assert str(checkpoint.info.labels) == "Č AB_" and "from --labels_path" in text
    np.testing.assert_array_equal(checkpoint.parameters["fc.weight"],
                                  state(classes=5)["fc.0.module.1.weight"][[1, 2, 3, 4, 0]])
    labels.write_text(json.dumps(["Č", " ", "A", "B", "_"]))  # our order, not the file's
    assert "the blank '_' is class 0, in --labels_path class 4" in refused(
        source, "--labels_path", str(labels))
    labels.write_text(json.dumps(["_", "Č", " ", "A"]))
    assert "5 classes, but 4 labels" in refused(source, "--labels_path", str(labels))
    assert "cannot read the labels" in refused(source, "--labels_path", str(tmp_path / "none.json"))


def test_a_converted_model_transcribes_and_is_fine_tuned(recipe, tmp_path, convert, capsys):
    checkpoint, _ = convert(write_npz(tmp_path / "a.npz", state(hidden=16, kernel=(21, 1))))
    soundfile.write(tmp_path / "a.wav", voice(32000), 16000)
    assert transcribe.main(["--pretrain_ckpt", str(checkpoint.path), str(tmp_path / "a.wav")]) == 0
    assert capsys.readouterr().out.count("\n") == 1
    # the model knows its own sizes
    begin = ["--device_target", "CPU", "TrainingConfig.max_steps=1",
             *(override for override in recipe if not override.startswith("ModelConfig."))]
    assert train.main([*begin, "--pre_trained_model_path", str(checkpoint.path)]) == 0
    tuned = load_checkpoint(tmp_path / "ckpt" / "DeepSpeech-last.ckpt").parameters
    np.testing.assert_allclose(tuned["fc.weight"],
                               checkpoint.parameters["fc.weight"], atol=1e-3)
    assert train.main([*begin, "--resume", str(checkpoint.path)]) == 2
    assert "weights only" in capsys.readouterr().err


# what cannot be converted is named

@pytest.mark.parametrize(("change", "words"), [
    ({"conv.seq_module.6.weight": (2, 2, 21, 11)},
     "no place for 1 of its tensors: conv.seq_module.6.weight"),
    ({"rnns.0.batch_norm.module.weight": (4,)},
     "no place for 1 of its tensors: rnns.0.batch_norm.module.weight"),
    ({"fc.0.module.1.bias": (29,)}, "not in the network: fc.bias"),
    ({"rnns.1.rnn.bias_hh_l0_reverse": None},
     "not in the checkpoint: rnns.1.backward_lstm.bias_hh_l0"),
    ({"rnns.1.rnn.weight_ih_l0": (16, 5)},
     "weight_ih_l0 has shape (16, 5), the network needs (16, 4)"),
    ({"rnns.0.rnn.weight_ih_l0": (16, 1)},
     "weight_ih_l0 has shape (16, 1), the network needs (16, 82)"),
    ({"conv.seq_module.0.weight": (2, 1, 21, 11)}, "conv.conv1.weight has shape (2, 1, 21, 11)"),
    ({"conv.seq_module.3.weight": (2, 2, 20, 11)},
     "`ModelConfig.conv2_kernel` (=(20, 11)) must be two odd numbers"),
    ({"conv.seq_module.3.weight": (2, 2)},
     "conv.conv2.weight has shape (2, 2), 4 dimensions are needed"),
    ({"fc.0.module.1.weight": None}, "no tensor for fc.weight"),
    ({"fc.0.module.1.weight": (28, 4)}, "28 classes, but 29 labels"),
    ({"rnns.0.rnn.weight_hh_l0": (0, 0)}, "`ModelConfig.hidden_size` (=0) must be at least 1"),
    ({"conv.0.weight": (2, 1, 41, 11)}, "an early V1 model"),
])
def test_tensors_that_do_not_fit_are_named(change, words, tmp_path, refused):
    tensors = state() | {name: np.ones(shape or 1, np.float32) for name, shape in change.items()}
    assert words in refused(write_npz(tmp_path / "a.npz",
                                      {k: v for k, v in tensors.items() if change.get(k, 1)}))


@pytest.mark.parametrize(("gates", "words"),
                         [(3, "a GRU"), (1, "a plain RNN"), (5, "of an unknown kind")])
def test_only_lstms(gates, words, tmp_path, refused):
    words = f"only LSTMs can be converted, but the recurrent layers are {words}"
    assert words in refused(write_npz(tmp_path / "a.npz", state(gates=gates)))


@pytest.mark.parametrize(("name", "content", "words"), [
    ("a.pth", b"", "not a file that PyTorch wrote"),
    ("a.pth", b"hello, this is not a model", "not a file that PyTorch wrote"),
    ("a.pth", pickle.dumps({"state_dict": {}}), "not a file that PyTorch wrote"),
    ("a.ckpt", b"\n\x10\x12 MindSpore's own", "not a file that PyTorch wrote"),
    ("a.npz", b"", "not a whole checkpoint"),
    ("a.npz", pickle.dumps([1]), "not a whole checkpoint"),
])
def test_other_files(name, content, words, tmp_path, refused):
    (tmp_path / name).write_bytes(content)
    assert words in refused(tmp_path / name)


def test_a_missing_or_truncated_npz(tmp_path, refused):
    assert "no such file" in refused(tmp_path / "none.npz")
    assert "no such file" in refused(tmp_path)
    source = Path(write_npz(tmp_path / "a.npz", state()))
    for size in (10, source.stat().st_size // 2, source.stat().st_size - 10):
        (tmp_path / "cut.npz").write_bytes(source.read_bytes()[:size])
        assert "not a whole checkpoint" in refused(tmp_path / "cut.npz")
    np.savez(tmp_path / "other.npz", a=np.ones(3))
    assert "no tensor for" in refused(tmp_path / "other.npz")


def test_an_npz_with_a_pickle_is_not_read(tmp_path, refused):
    np.savez(tmp_path / "a.npz",
             **{"state/fc.0.module.1.weight": np.array([Call(os.system, "true")], object)})
    assert "allow_pickle=False" in refused(tmp_path / "a.npz")


def test_the_output_is_a_checkpoint_and_not_the_input(tmp_path, capsys):
    source = write_npz(tmp_path / "a.npz", state())
    for target in (tmp_path / "a.pth", tmp_path / "none" / ".." / "a.npz"):
        assert main([source, str(target)]) == 2
        assert "OUTPUT must end in .ckpt and not be INPUT" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "begin"), [("a.pth", ZIP), ("a.pth", LEGACY), ("a.ckpt", ZIP)])
def test_without_torch_a_message_says_what_to_install(name, begin, tmp_path, refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / name).write_bytes(begin + bytes(100))
    install = "pip install torch --index-url https://download.pytorch.org/whl/cpu"
    assert install in refused(tmp_path / name)


def test_a_torchscript_archive_is_a_program(tmp_path, refused):
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}))
        archive.writestr("a/constants.pkl", pickle.dumps(()))
    assert "TorchScript" in refused(tmp_path / "a.pth")


def npz_of_zeros(path: Path, size: int) -> Path:
    """An npz file with a float32 array of `size` bytes of zeros, which are packed."""
    np.savez_compressed(path, **{"state/fc.0.module.1.weight": np.zeros(size // 4, np.float32)})
    return path


def test_an_npz_that_would_fill_the_memory(tmp_path, refused):
    assert "no tensor for" in refused(npz_of_zeros(tmp_path / "a.npz", 1 << 20))
    bomb = refused(npz_of_zeros(tmp_path / "b.npz", 70 << 20))
    assert "bytes come out of it: these are no weights of a network" in bomb
    source = Path(write_npz(tmp_path / "c.npz", {"fc.0.module.1.weight": np.ones((29, 4))}))
    content = source.read_bytes()
    assert content.count(b"(29, 4), }         ") == 1
    source.write_bytes(content.replace(b"(29, 4), }         ", b"(29, 4000000000), }"))
    # 1 where there is no such memory, 2 where the system promises it and the file then ends
    assert main([str(source), str(tmp_path / "x.ckpt")]) in (1, 2)


# files as PyTorch writes them

class Call:
    """Unpickled without care, it calls `function(*arguments)`."""

    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@contextlib.contextmanager
def importable(*classes):
    """Within this context the classes stand in the modules they name, and can be pickled."""
    added = []
    for cls in classes:
        parts = cls.__module__.split(".")
        for name in (".".join(parts[:i + 1]) for i in range(len(parts))):
            if name not in sys.modules:
                sys.modules[name] = types.ModuleType(name)
                added.append(name)
        setattr(sys.modules[cls.__module__], cls.__name__, cls)
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]


def foreign(dotted: str, base: type = object) -> type:
    """A class whose instances are pickled with their __dict__, by that name."""
    module, _, name = dotted.rpartition(".")
    return type(name, (base,), {"__module__": module})


def make(cls: type, **attributes):
    instance = cls.__new__(cls)
    instance.__dict__.update(attributes)
    return instance


WINDOWS = enum.Enum("SpectrogramWindow", {"hamming": "hamming", "hann": "hann"},
                    module="deepspeech_pytorch.enums")
SPECT_CONFIG = foreign("deepspeech_pytorch.configs.train_config.SpectConfig")
OMEGACONF = [foreign(f"omegaconf.{name}") for name in (
    "dictconfig.DictConfig", "listconfig.ListConfig", "base.ContainerMetadata", "nodes.AnyNode",
    "nodes.EnumNode")]
MODEL_CHECKPOINT = foreign("pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint")
ATTRIBUTE_DICT = foreign("pytorch_lightning.utilities.parsing.AttributeDict", dict)
FOREIGN = [WINDOWS, SPECT_CONFIG, *OMEGACONF, MODEL_CHECKPOINT, ATTRIBUTE_DICT]


def omegaconf(value):
    """The value as OmegaConf 2.0 keeps it."""
    dict_config, list_config, metadata, any_node, enum_node = OMEGACONF
    about = make(metadata, ref_type=SPECT_CONFIG, object_type=dict, optional=True, key=None,
                 flags={})
    if isinstance(value, dict):
        return make(dict_config, _metadata=about, _parent=None, _flags_cache=None,
                    _content={key: omegaconf(item) for key, item in value.items()})
    if isinstance(value, list):
        return make(list_config, _metadata=about, _parent=None,
                    _content=[omegaconf(item) for item in value])
    return make(enum_node if isinstance(value, enum.Enum) else any_node, _metadata=about,
                _parent=None, _val=value)


def package_v1(torch, model):
    return {"version": "0.0.1", "hidden_size": 4, "hidden_layers": 2, "rnn_type": "lstm",
            "labels": ORIGINAL,
            "audio_conf": {"sample_rate": 16000, "window_size": 0.02, "window": "hamming",
                           "noise_dir": None},
            "state_dict": model.state_dict(), "bidirectional": True, "epoch": 3, "meta": None,
            "optim_dict": torch.optim.SGD(model.parameters(), 0.1, momentum=0.9).state_dict(),
            "loss_results": torch.zeros(5), "wer_results": torch.ones(5)}


def package_v2(torch, model):
    spect = make(SPECT_CONFIG, sample_rate=16000, window_size=0.02, window_stride=0.01,
                 window=WINDOWS.hamming)
    return package_v1(torch, model) | {"audio_conf": spect, "labels": list(ORIGINAL),
                                       "best_wer": np.float64(12.5)}


def package_v3(torch, model, window=WINDOWS.hamming, labels=ORIGINAL):
    spect = {"sample_rate": 16000, "window_size": 0.02, "window_stride": 0.01, "window": window}
    parameters = ATTRIBUTE_DICT(labels=omegaconf(list(labels)), precision=16,
                                spect_cfg=omegaconf(spect),
                                model_cfg=omegaconf({"rnn_type": torch.nn.LSTM, "hidden_size": 4}))
    return {"epoch": 3, "global_step": 9, "pytorch-lightning_version": "1.0.2",
            "state_dict": model.state_dict(),
            "callbacks": {MODEL_CHECKPOINT: {"best_model_score": torch.tensor(9.5),
                                             "best_model_path": Path("a/b")}},
            "optimizer_states": [torch.optim.AdamW(model.parameters()).state_dict()],
            "lr_schedulers": [{"gamma": 0.9}],
            "native_amp_scaling_state": {"scale": 65536.0}, "hparams_name": "kwargs",
            "hyper_parameters": parameters}


def save(torch, package, path: Path, legacy: bool = False) -> Path:
    with importable(*FOREIGN):
        torch.save(package, path, _use_new_zipfile_serialization=not legacy)
    assert "omegaconf" not in sys.modules and "pytorch_lightning" not in sys.modules
    return path


@pytest.fixture(scope="module")
def small(torch):
    return build(torch, hidden=4, layers=2, channels=2)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize(("package", "suffix", "defaults"), [
    (package_v1, ".pth", "not in the file: window_stride\n"), (package_v2, ".pth", ""),
    (package_v3, ".ckpt", "")])
def test_every_version_without_the_classes_it_names(torch, small, package, suffix, defaults, legacy,
                                                    tmp_path, convert):
    checkpoint, text = convert(save(torch, package(torch, small), tmp_path / f"a{suffix}", legacy))
    assert str(checkpoint.info.labels) == OURS and "labels from the file" in text
    assert defaults in text and ("by default" in text) == bool(defaults)
    assert checkpoint.info.spect() == SpectConfig()
    rows = small.state_dict()["fc.0.module.1.weight"].numpy()
    np.testing.assert_array_equal(checkpoint.parameters["fc.weight"],
                                  rows[[ORIGINAL.index(c) for c in OURS]])
    assert not {"omegaconf", "pytorch_lightning", "deepspeech_pytorch.enums"} & sys.modules.keys()


def test_labels_and_window_of_the_file(torch, small, tmp_path, convert, refused):
    labels = ORIGINAL[3:] + ORIGINAL[:3]  # V3 finds its blank anywhere
    source = save(torch, package_v3(torch, small, WINDOWS.hann, labels), tmp_path / "a.ckpt")
    checkpoint, text = convert(source)
    assert checkpoint.info.spect().window == "hann" and "hann windows" in text
    assert checkpoint.info.labels == Labels(labels.replace("_", "") + "_")
    rows = small.state_dict()["fc.0.module.1.weight"].numpy()
    np.testing.assert_array_equal(checkpoint.parameters["fc.weight"][-1],
                                  rows[labels.index("_")])
    (tmp_path / "labels.json").write_text(json.dumps(list(ORIGINAL)))
    assert repr(labels) in refused(source, "--labels_path", str(tmp_path / "labels.json"))
    (tmp_path / "labels.json").write_text(json.dumps(list(labels)))
    convert(source, "--labels_path", str(tmp_path / "labels.json"))


def test_unusable_settings_and_labels_of_a_file(torch, small, tmp_path, refused):
    source = tmp_path / "a.pth"
    for change, words in (({"labels": ["ab", "_"]}, "must be single characters"),
                          ({"labels": [1, 2]}, "found 1"),
                          ({"labels": "ABC"}, "the CTC blank"),
                          ({"labels": 7}, "not a whole checkpoint"),
                          ({"audio_conf": {"window": "boxcar"}},
                           "`DataConfig.SpectConfig.window` (='boxcar')"),
                          ({"audio_conf": {"sample_rate": 8000}}, "the network needs (16, 42)"),
                          ({"state_dict": {"a": 3}}, "not a whole checkpoint"),
                          ({"state_dict": 3}, "no state_dict")):
        assert words in refused(save(torch, package_v1(torch, small) | change, source))
    assert "no state_dict" in refused(save(torch, [1, 2], source))


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_truncated_file(torch, small, legacy, tmp_path, refused):
    content = save(torch, package_v3(torch, small), tmp_path / "a.ckpt", legacy).read_bytes()
    for size in (20, 200, len(content) // 2, len(content) - 10):
        (tmp_path / "cut.ckpt").write_bytes(content[:size])
        assert "not a whole checkpoint" in refused(tmp_path / "cut.ckpt")


def test_tensors_larger_than_their_storage(torch, small, tmp_path, refused):
    class Large:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, (torch.zeros(2)._typed_storage(), 0, (2, 2**40),
                                                     (1, 1), False, {})
    package = package_v1(torch, small)
    package["state_dict"]["fc.0.module.1.weight"] = Large()
    assert "not a whole checkpoint" in refused(save(torch, package, tmp_path / "a.pth"))


# pickles that would take all time or memory, made by hand

DICT = b"\x80\2}X\x0a\0\0\0state_dict}"  # {"state_dict": {…, to be closed with ss.
STORAGE = (b"ctorch._utils\n_rebuild_tensor_v2\n((X\7\0\0\0storagectorch\nFloatStorage\n"
           b"X\1\0\0\x000X\3\0\0\0cpu%btQK\0%b\x85K\0\x85\x89ccollections\nOrderedDict\n)RtR")
HOSTILE_PICKLES = {
    "a key of 2^60 numbers": (DICT + b"K\1" + b"2\x86" * 60 + b"K\1ss.", "a tuple of more parts"),
    "room for 2^31 objects": (DICT + b"K\1r\xff\xff\xff\x7fK\1ss.", "no attribute"),
    "2^40 bytes": (b"\x80\5\x96" + (2**40).to_bytes(8, "little") + b".", "150"),
    "a tensor of 2^60 equal numbers": (
        DICT + b"K\1" + STORAGE % (b"K\x0a", b"\x8a\x08" + (2**60).to_bytes(8, "little")) + b"ss.",
        f"a tensor of the size ({2**60},) repeats its numbers"),
    "a storage of 2^40 numbers": (
        DICT + b"K\1" + STORAGE % (b"\x8a\x06" + (2**40).to_bytes(6, "little"), b"K\1") + b"ss.",
        f"{2**40} numbers in"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_PICKLES)
def test_a_pickle_that_would_take_all_time_or_memory(torch, name, tmp_path, refused):
    code, words = HOSTILE_PICKLES[name]
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("a/data.pkl", code)
        archive.writestr("a/version", "3\n")
        archive.writestr("a/data/0", bytes(40))
    message = refused(tmp_path / "a.pth")
    assert "not a whole checkpoint of deepspeech.pytorch: " in message and words in message


@pytest.mark.parametrize("kind", [list, tuple])
def test_labels_and_settings_that_contain_the_same_list_again_and_again(torch, small, kind,
                                                                        tmp_path, refused):
    """2^60 values, were they written out."""
    doubled = kind(["A"])
    for _ in range(60):
        doubled = kind([doubled, doubled])
    for place in ("labels", "audio_conf"):
        value = doubled if place == "labels" else {"window": [doubled]}
        refused(save(torch, package_v1(torch, small) | {place: value}, tmp_path / "a.pth"))


def test_a_tar_archive_is_not_unpacked(torch, tmp_path, refused):
    """torch.load would; here it would wait for what is written to the pipe, for ever."""
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        for name, kind in (("first", tarfile.REGTYPE), ("storages", tarfile.FIFOTYPE)):
            member = tarfile.TarInfo(name)
            member.type = kind
            tar.addfile(member)
    content = bytearray((tmp_path / "a.tar").read_bytes())
    content[:len(LEGACY)] = LEGACY
    content[148:156] = b"%06o\0 " % (sum(content[:148]) + 8 * 32 + sum(content[156:512]))
    (tmp_path / "a.pth").write_bytes(content)
    assert "a tar archive" in refused(tmp_path / "a.pth")


# nothing in a file is run

def harmful(torch, marker: Path, folder: Path) -> dict:
    """Objects that make a file named `marker` when they are unpickled without care."""
    command = f"open({str(marker)!r}, 'w').close()"
    (folder / "module_with_effects.py").write_text(command)
    return {"os.system": Call(os.system, f"touch {marker}"), "exec": Call(exec, command),
            "eval": Call(eval, command),
            "import": Call(importlib.import_module, "module_with_effects"),
            "nested": Call(torch.storage._load_from_bytes,
                           pickle.dumps(Call(os.system, f"touch {marker}")))}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", ["os.system", "exec", "eval", "import", "nested"])
@pytest.mark.parametrize("place", ["epoch", "labels", "audio_conf"])
def test_a_harmful_pickle_does_nothing(torch, small, place, name, legacy, tmp_path, monkeypatch,
                                       capsys):
    monkeypatch.syspath_prepend(tmp_path)
    marker, source = tmp_path / "executed", tmp_path / "a.pth"
    package = package_v1(torch, small) | {place: harmful(torch, marker, tmp_path)[name]}
    save(torch, package, source, legacy)
    assert main([str(source),
                 str(tmp_path / "a.ckpt")]) == (2 if place == "labels"
                                                else 0), capsys.readouterr().err
    assert not marker.exists() and "module_with_effects" not in sys.modules
    if name != "nested":  # torch itself reads that one with care
        torch.load(source, weights_only=False)  # the test would notice
        assert marker.exists()
        sys.modules.pop("module_with_effects", None)


def test_a_module_that_does_not_exist_is_not_looked_for(torch, small, tmp_path, convert,
                                                        monkeypatch):
    cls = foreign("module_with_effects.Settings")
    monkeypatch.syspath_prepend(tmp_path)
    with importable(cls):
        torch.save(package_v1(torch, small) | {"meta": make(cls, a=1)}, tmp_path / "a.pth")
    (tmp_path / "module_with_effects.py").write_text("raise SystemExit('imported')")
    convert(tmp_path / "a.pth")


def test_the_legacy_reader_writes_no_patch_file(torch, tmp_path, refused, monkeypatch):
    """torch.load may write `NAME.patch` for an object whose stored source differs."""
    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return ("module", torch.nn.LSTM, "model.py",
                    "another source") if value == "here" else None

    with open(tmp_path / "a.pth", "wb") as file:
        for part in (torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION, {}):
            pickle.dump(part, file, protocol=2)
        Pickler(file, protocol=2).dump({"state_dict": {}, "model": "here"})
        pickle.dump([], file, protocol=2)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.nn.LSTM, "dump_patches", True)
    assert "no tensor for" in refused(tmp_path / "a.pth")
    assert not (tmp_path / "LSTM.patch").exists()
    with pytest.warns(torch.serialization.SourceChangeWarning):
        torch.load(tmp_path / "a.pth", weights_only=False)
    assert (tmp_path / "LSTM.patch").exists()  # the test would notice


# end to end, from audio

@pytest.fixture(scope="module")
def long_utterances(shared) -> list[tuple[Path, str]]:
    """Audio and transcript of LibriSpeech utterances of 12 to 17 s, the longest first.

    None has a DC offset, which the original leaves in.
    """
    paths = sorted((shared / "data" / "LibriSpeech").rglob("*.flac"))
    paths = [path for path in paths if 12 <= soundfile.info(path).duration <= 17][::30]
    paths = [path for path in paths if abs(soundfile.read(path)[0].mean()) < 0.001]
    paths.sort(key=lambda path: -soundfile.info(path).frames)
    texts = {}
    for path in paths:
        lines = next(path.parent.glob("*.trans.txt")).read_text().splitlines()
        texts |= dict(line.split(" ", 1) for line in lines)
    return [(path, texts[path.stem]) for path in paths]


def model_of(torch, numbers):
    """A network of reference.py with the stored weights."""
    hidden = numbers["state/fc.0.module.1.weight"].shape[1]
    layers = sum(name.startswith("state/") and name.endswith("weight_hh_l0")
                 for name in numbers.files)
    channels = len(numbers["state/conv.seq_module.0.bias"])
    model = build(torch, hidden=hidden, layers=layers, channels=channels)
    model.load_state_dict({name.removeprefix("state/"): torch.from_numpy(np.array(numbers[name]))
                           for name in numbers.files if name.startswith("state/")})
    return model


@pytest.mark.parametrize("stored", ["original", "small"])
def test_the_network_of_these_tests_is_the_original(torch, request, stored):
    """What deepspeech.pytorch wrote, and tests/data/parity.npz that this network wrote."""
    numbers = np.load(ROOT / "tests" / "data" / "parity.npz" if stored == "small" else
                      request.getfixturevalue("shared") / "reference"
                      / "deepspeech_pytorch_bilstm.npz")
    model, batch = model_of(torch, numbers), (numbers["input"], numbers["input_lengths"])
    probs, lengths = probabilities(torch, model, *batch)
    assert lengths == numbers["output_lengths"].tolist()
    for found, expected, length in zip(probs, numbers["probs"], lengths, strict=True):
        np.testing.assert_allclose(found[:length], expected[:length], atol=1e-6, rtol=0)
    loss, gradients = loss_and_gradients(torch, model, *batch, numbers["targets"],
                                         numbers["target_lengths"])
    assert loss == pytest.approx(float(numbers["train_loss_sum"]), rel=1e-5)
    assert {f"grad/{name}" for name in gradients} == {n for n in numbers.files
                                                      if n.startswith("grad/")}
    for name, gradient in gradients.items():
        expected = numbers[f"grad/{name}"]
        assert np.linalg.norm(gradient - expected) < 1e-4 * np.linalg.norm(expected), name


@pytest.mark.parametrize(("settings", "package", "name"), [
    ({"layers": 3}, package_v1, "a.pth"), ({"layers": 2, "context": 20}, package_v3, "a.ckpt")])
def test_long_utterances_from_audio_to_probabilities(torch, settings, package, name,
                                                     long_utterances, tmp_path, convert):
    model = build(torch, hidden=24, **settings)
    checkpoint, _ = convert(save(torch, package(torch, model), tmp_path / name))
    lines = []
    for i, (path, text) in enumerate(long_utterances):
        (tmp_path / f"{i}.txt").write_text(text)
        lines.append(f"{path},{i}.txt\n")
    (tmp_path / "long.csv").write_text("".join(lines))
    assert evaluation_command.main([
        "--pretrain_ckpt", str(checkpoint.path), "--device_target", "CPU",
        "--save_output", str(tmp_path / "probs.npz"), "DataConfig.batch_size=4",
        f"DataConfig.test_manifest={tmp_path}/long.csv",
        f"TrainingConfig.log_dir={tmp_path}/logs"]) == 0
    order = [ORIGINAL.index(c) for c in OURS]
    with np.load(tmp_path / "probs.npz") as archive:
        found = [archive[f"arr_{i}"] for i in range(len(long_utterances))]
    for full_scale, tolerance in ((32767, 1e-4), (32768, 2e-5)):
        spectrograms = [features(torch, path, full_scale) for path, _ in long_utterances]
        expected, lengths = probabilities(torch, model, *batch(spectrograms))
        expected = [e[:length, order] for e, length in zip(expected, lengths, strict=True)]
        assert [f.shape for f in found] == [(length, 29) for length in lengths]
        assert max(np.abs(f - e).max() for f, e in zip(found, expected, strict=True)) < tolerance
        assert min(np.ptp(e, axis=0).max() for e in expected) > 0.3  # a network that listens


def test_the_alphabet_of_this_file_is_that_of_the_project(labels):
    assert str(labels) == OURS and re.fullmatch(r"_'[A-Z]{26} ", ORIGINAL)
