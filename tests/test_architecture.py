"""What import-linter (see pyproject.toml) cannot see: what is loaded, and when."""

import ast
import subprocess
import sys

import pytest
import soundfile
from conftest import ROOT, voice

SOURCES = sorted(
    [*ROOT.glob("*.py")]
    + [p for name in ("src", "deepspeech2", "deepspeech_pytorch", "data", "tools")
       for p in (ROOT / name).rglob("*.py")]
)
COMMANDS = ["train.py", "eval.py", "export.py", "transcribe.py", "align.py", "-m tools.build_lm",
            "-m tools.confusions", "-m tools.convert_torch", "-m tools.plot_augment",
            "-m tools.plot_log", "-m data.an4", "-m data.corpus", "-m data.demo",
            "-m data.librispeech", "-m data.segment", "-m data.verify_manifest"]
# what takes long to import, or MindSpore must not meet
SLOW = {"mindspore", "librosa", "numba", "pandas", "matplotlib", "jinja2", "onnx",
        "google.protobuf", "torch", "scipy"}


def loaded(code: str) -> set[str]:
    """The modules that a fresh process has loaded after `code`."""
    report = "\nimport sys; print(*sys.modules)"
    command = [sys.executable, "-c", code + report]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())


def test_importing_the_recogniser_loads_nothing_that_takes_long():
    heavy = {"onnxruntime", "soxr", "rapidfuzz", "src"} | SLOW
    found = loaded("import deepspeech2, deepspeech2.cli, deepspeech2.decoding.language_model")
    assert "numpy" in found and not found & heavy


def test_the_launcher_waits_for_no_framework():
    assert not loaded("import src.launch") & SLOW


def test_the_decoder_of_the_original_needs_no_framework():
    assert not loaded("import deepspeech_pytorch.decoder") & ({"six"} | SLOW)


def test_an_onnx_model_is_used_without_the_packages_of_the_recipe(tmp_path):
    soundfile.write(tmp_path / "a.wav", voice(32000), 16000)
    code = f"""
import deepspeech2
model = deepspeech2.load_model("an4")
heard, acoustic = [], model.acoustic
def predict(*arrays):
    heard.append(acoustic(*arrays))
    return heard[-1]
model.acoustic = predict
assert model.transcribe("{tmp_path}/a.wav").duration == 2 and heard"""
    assert not loaded(code) & ({"src"} | SLOW)


@pytest.mark.parametrize("model", ["deepspeech2/assets/an4.onnx", "pretrained/an4.ckpt"])
@pytest.mark.parametrize("command", ["transcribe", "eval"])
def test_the_commands_use_a_model_without_mindspore(command, model, tmp_path):
    """Nor anything else that takes long to import; the evaluation writes its table with pandas."""
    soundfile.write(tmp_path / "a.wav", voice(32000), 16000)
    (tmp_path / "a.txt").write_text("A")
    (tmp_path / "a.csv").write_text("a.wav,a.txt")
    arguments = [f"{tmp_path}/a.wav"] if command == "transcribe" else [
        "--device_target=CPU" if model.endswith("ckpt") else "--bidirectional=True",
        f"DataConfig.test_manifest={tmp_path}/a.csv", f"TrainingConfig.log_dir={tmp_path}"]
    arguments = ["--pretrain_ckpt", str(ROOT / model), *arguments]
    found = loaded(f"import {command}; assert {command}.main({arguments}) == 0")
    allowed = {"transcribe": set(), "eval": {"pandas"}}[command]
    if model.endswith(".ckpt"):
        allowed |= {"onnx", "google.protobuf"}  # a model of the weights is made
    assert not found & (SLOW - allowed)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_refuses_a_bad_option_without_waiting_for_mindspore(command):
    name = command.removeprefix("-m ")
    run = f"runpy.run_module({name!r}, run_name='__main__')" if "-m" in command else \
        f"runpy.run_path({name!r}, run_name='__main__')"
    code = f"""
import runpy, sys
sys.path.insert(0, ".")
sys.argv = [{name!r}, "--no-such-option"]
try:
    {run}
except SystemExit as error:
    assert error.code == 2, error.code
"""
    assert not loaded(code) & {"mindspore", "librosa", "matplotlib"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_onnx_is_imported_within_functions(path):
    """It loads protobuf, after which MindSpore cannot be imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {a.name for node in tree.body if isinstance(node, ast.Import) for a in node.names}
    names |= {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
    late = {"onnx", "tensorboardX"}
    assert not [n for n in names if n.split(".")[0] in late or n == "onnxruntime.quantization"]


def test_recognising_speech_leaves_nothing_in_the_home_folder(tmp_path, monkeypatch):
    """ONNX Runtime would keep a number of the device there, for its telemetry."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    loaded("import deepspeech2; deepspeech2.load_model('an4')")
    assert list(tmp_path.rglob("*")) == []
