"""Who may import whom: the rows of the design, and what each row may know."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

COMMANDS = ("convert_torch", "plot_log", "plot_augment", "confusions")    # of src; others are at the top

# From the bottom up. A module imports from the rows below and from what stands left of it in its own row.
ROWS = (
    ("errors", "settings", "config", "files"),
    ("labels", "features", "manifest", "alignment", "augment", "batching", "metrics", "lr_generator", "model_info",
     "interruption"),
    ("fourier_conv", "DeepSpeech", "dataset", "greedydecoder", "optimizer", "checkpoint", "callback", "predictor",
     "distributed"),
    ("transcription", "onnx_graph", "exporting", "evaluation", "word_times", "training_data", "training"),
    ("cli",),                                    # what the commands share: no other module of src imports it
    COMMANDS,
)
ORDER = [name for row in ROWS for name in row]
WITHOUT_MINDSPORE = ROWS[0] + ROWS[1]
WITH_ONNX_MODEL = ("greedydecoder", "predictor", "transcription")    # what runs one: MindSpore within functions at most

SOURCES = sorted([*ROOT.glob("*.py"), *(ROOT / "src").glob("*.py"), *(ROOT / "deepspeech_pytorch").glob("*.py"),
                  *(ROOT / "data").glob("*.py")])
SRC = [path for path in SOURCES if path.parent.name == "src" and path.stem != "__init__"]


def imports(path: Path) -> set[str]:
    """Dotted names of everything that a file imports, also within functions; `from a import b` gives `a` and `a.b`."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def packages(path: Path) -> set[str]:
    """Top-level packages that a file imports."""
    return {name.partition(".")[0] for name in imports(path)}


def of_src(path: Path) -> set[str]:
    """Modules of src that a file imports."""
    modules = {name.split(".")[1] for name in imports(path) if name.startswith("src.")}
    return {name for name in modules if (ROOT / "src" / f"{name}.py").exists()}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_files_were_found():
    found = {name_of(path) for path in SOURCES}
    assert {"train.py", "eval.py", "export.py", "transcribe.py", "src/DeepSpeech.py", "deepspeech_pytorch/decoder.py",
            "data/an4.py"} <= found
    assert "mindspore" in packages(ROOT / "src" / "DeepSpeech.py")
    assert of_src(ROOT / "src" / "manifest.py") == {"errors", "features", "files", "labels"}


def test_every_module_has_its_place():
    assert len(set(ORDER)) == len(ORDER)
    assert {path.stem for path in SRC} <= set(ORDER), "give the new module a place in ROWS, as low as its imports allow"


@pytest.mark.parametrize("path", SRC, ids=name_of)
def test_imports_go_down_only(path):
    below = ORDER[:ORDER.index(path.stem)]
    assert of_src(path) <= set(below)
    assert not packages(path) & {"data", "tests", "train", "eval", "export", "transcribe"}


@pytest.mark.parametrize("path", [path for path in SOURCES if path.parent.name == "deepspeech_pytorch"], ids=name_of)
def test_the_decoder_stands_alone(path):
    assert not packages(path) & {"src", "data", "tests"}


@pytest.mark.parametrize("path", [path for path in SOURCES if path.parent.name == "data"], ids=name_of)
def test_preparation_needs_the_lower_rows_only(path):
    assert of_src(path) <= {*WITHOUT_MINDSPORE, "cli"}
    assert not packages(path) & {"mindspore", "tests", "train", "eval", "export", "transcribe"}


@pytest.mark.parametrize("path", [path for path in SRC if path.stem in WITHOUT_MINDSPORE], ids=name_of)
def test_the_lower_rows_do_not_name_mindspore(path):
    assert "mindspore" not in packages(path)


def test_importing_the_lower_rows_and_the_decoder_does_not_import_mindspore():
    lower = [f"src.{path.stem}" for path in SRC if path.stem in WITHOUT_MINDSPORE]
    others = [f"{path.parent.name}.{path.stem}" for path in SOURCES
              if path.parent.name in ("data", "deepspeech_pytorch") and path.stem != "__init__"]
    code = (f"import importlib, sys\nfor name in {[*lower, 'src.cli', *others]}: importlib.import_module(name)\n"
            "print(sorted({'mindspore', 'torch', 'src.manifest'} & sys.modules.keys()))")
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.stdout == "['src.manifest']\n", result.stderr


def test_what_runs_an_onnx_model_imports_neither_mindspore_nor_other_slow_packages():
    modules = {"src.cli", *(f"src.{name}" for name in WITH_ONNX_MODEL)}
    code = (f"import importlib, sys\nfor name in {modules}: importlib.import_module(name)\n"
            "slow = {'mindspore', 'librosa', 'numba', 'pandas', 'onnx', 'google.protobuf', 'matplotlib'}\n"
            "print(sorted(slow & sys.modules.keys()))")
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.stdout == "[]\n", result.stderr


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_onnx_is_imported_within_functions(path):
    """It loads protobuf, after which MindSpore cannot be imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
    assert not [name for name in names if name.partition(".")[0] == "onnx" or name == "onnxruntime.quantization"]


@pytest.mark.parametrize("script", ["train", "eval", "export", "transcribe", *(f"src/{name}" for name in COMMANDS)])
def test_a_command_does_not_wait_for_mindspore_to_refuse_a_bad_option(script):
    """It is imported within `main`, once the arguments are known to be good."""
    tree = ast.parse((ROOT / f"{script}.py").read_text(encoding="utf-8"))
    names = {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
    assert {name.removeprefix("src.") for name in names if name.startswith("src.")} <= {*WITHOUT_MINDSPORE, "cli"}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_neither_torch_nor_six(path):
    assert not packages(path) & {"torch", "torchaudio", "six"}


@pytest.mark.parametrize("path", [path for path in SRC if path.stem not in ("cli", *COMMANDS)], ids=name_of)
def test_only_commands_parse_arguments_or_choose_the_device(path):
    assert "argparse" not in packages(path)
    calls = {node.attr for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
             if isinstance(node, ast.Attribute)}
    assert not calls & {"set_context", "set_device"}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_modules_stay_under_300_lines(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) < 300
