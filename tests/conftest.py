"""What tests share."""

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from deepspeech2.labels import Labels
from deepspeech2.model import Model
from deepspeech2.stopping import STOP_SIGNALS
from src.config import load_config

ROOT = Path(__file__).resolve().parents[1]


def heed_signals() -> None:
    """For `preexec_fn`: set back what nohup or a background job of a script ignores."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def model_that_says(text: str, labels: Labels) -> Model:
    """A model that hears `text` in every utterance, a frame a character."""
    def predict(inputs, input_length):
        lengths = (input_length - 1) // 2 + 1
        probs = np.zeros((len(inputs), lengths.max(), len(labels)), np.float32)
        probs[:, :, labels.blank_index] = 0.4
        for position, index in enumerate(labels.encode(text)):
            probs[:, 2 * position, index] = 0.5
        return probs, lengths
    return Model(predict, load_config().model_info(labels))


def voice(count: int, rate: int = 16000) -> np.ndarray:
    """(count,) samples with what speech has: a voice of 120 Hz that changes its vowel every 50 ms.

    From 0.13 s on this is speech, whatever is around; see deepspeech2/speech.py.
    """
    time = np.arange(rate // 5) / rate  # 24 periods of the voice, then the same again
    tones = np.arange(1, 60)[:, None] * 120.0  # (harmonics, 1) Hz
    formants = np.array([[300, 2300], [700, 1200], [500, 900], [300, 3000]])
    vowels = formants[(time / 0.05).astype(int)].T
    loudness = sum(np.exp(-np.abs(tones - formant) / 100) for formant in vowels) + 1e-4
    sound = 0.1 * (loudness * np.sin(2 * np.pi * tones * time)).sum(axis=0)
    return np.resize(sound, count).astype(np.float32)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """With DS2_ALL_TESTS, as in continuous integration, a test that is skipped fails.

    pytest-xdist sends reports as UTF-8, but what a test logs can name files in any bytes.
    """
    report = yield
    report.sections = [
        (name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections
    ]
    if report.skipped and os.environ.get("DS2_ALL_TESTS"):
        report.outcome, report.longrepr = "failed", f"{item.nodeid} was skipped: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real speech and reference numbers: ../shared, or DS2_SHARED."""
    folder = Path(os.environ.get("DS2_SHARED", ROOT.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"real speech is needed: {folder} is not there (set DS2_SHARED)")
    return folder


@pytest.fixture(scope="session")
def torch():
    return pytest.importorskip("torch", reason="PyTorch is not there")


@pytest.fixture(scope="session")
def graph_mode() -> None:
    """MindSpore as the commands set it up. Modules that run no cell do without its import."""
    from src import device
    device.set_device("CPU")


@pytest.fixture(scope="session")
def browser():
    """A Chromium without a window, which asks no server for anything of its own."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if not found:
        pytest.skip("a browser is needed: apt-get install chromium")
    from playwright.sync_api import sync_playwright
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=[
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync"])
        yield started
        started.close()


@pytest.fixture(scope="session")
def labels() -> Labels:
    """The alphabet of the project."""
    return Labels.load(ROOT / "labels.json")


@pytest.fixture(scope="session")
def write_wav():
    """Write a sine: `write_wav(path, seconds=0.1, frequency=440, rate=16000)`, format by suffix."""
    def write(path: Path, seconds: float = 0.1, frequency: float = 440,
              rate: int = 16000) -> np.ndarray:
        samples = 0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)
        soundfile.write(path, samples, rate)
        return samples
    return write


@pytest.fixture(scope="session")
def demo_corpus(tmp_path_factory) -> Path:
    """A folder with a tiny demo corpus and its manifests: 24, 6 and 6 synthetic utterances."""
    from data import demo
    target = tmp_path_factory.mktemp("corpus")
    assert demo.main(["--target", str(target), "--train", "24", "--val", "6", "--test", "6",
                      "--jobs", "2"]) == 0
    return target


@pytest.fixture
def recipe(demo_corpus, tmp_path) -> list[str]:
    """Overrides for a network that trains on the tiny corpus in seconds, outputs in `tmp_path`."""
    return tiny_recipe(demo_corpus, tmp_path)


def tiny_recipe(demo_corpus: Path, folder: Path) -> list[str]:
    """The overrides of `recipe` with any folder.

    With this kernel the convolutions are MindSpore's own, which compile in half the time;
    tests/integration/test_recipe.py trains with the others.
    """
    return [f"DataConfig.train_manifest={demo_corpus}/demo_train_manifest.csv",
            f"DataConfig.val_manifest={demo_corpus}/demo_val_manifest.csv",
            f"DataConfig.test_manifest={demo_corpus}/demo_test_manifest.csv",
            f"DataConfig.labels_path={ROOT}/labels.json",
            "ModelConfig.hidden_size=16", "ModelConfig.hidden_layers=1",
            "ModelConfig.conv_channels=2",
            "ModelConfig.conv2_kernel=[21, 1]", "TrainingConfig.epochs=2",
            f"TrainingConfig.log_dir={folder}/logs", f"CheckpointConfig.ckpt_path={folder}/ckpt"]


def restless(network) -> dict[str, np.ndarray]:
    """Arrays for a network, by name, that make its likeliest classes change often."""
    from src.checkpoint import arrays_of

    rng, arrays = np.random.default_rng(35), arrays_of(network.get_parameters())
    for name, array in arrays.items():
        fan_in = np.prod(array.shape[1:]) if array.ndim > 1 else 25
        values = rng.standard_normal(array.shape) / np.sqrt(fan_in)
        if name.endswith(("moving_variance", "gamma")):
            values = rng.uniform(0.5, 1.5, array.shape)
        if name.endswith(("moving_mean", "beta")):
            values = np.zeros(array.shape)
        arrays[name] = np.float32(20 * values if name == "fc.weight" else values)
    return arrays


def write_streaming_model(path: Path) -> None:
    """Write a streaming model of random weights, and its JSON file."""
    from src.DeepSpeech import DeepSpeech
    from src.streaming_graph import first_frames, write_streaming_onnx

    config = load_config(None, [
        "ModelConfig.bidirectional=False", "ModelConfig.hidden_size=8",
        "ModelConfig.hidden_layers=1", "ModelConfig.conv_channels=2",
        "ModelConfig.conv2_kernel=[21, 1]", "DataConfig.SpectConfig.normalization=running"])
    labels = Labels.load(ROOT / "labels.json")
    parameters = restless(DeepSpeech(config.ModelConfig, 161, len(labels)))
    rows, swapped = parameters["fc.weight"], [labels.space_index, *labels.encode("U")]
    rows[swapped] = rows[swapped[::-1]]  # where it would hear a U, a word ends
    write_streaming_onnx(path, parameters, config.ModelConfig, 161)
    info = replace(config.model_info(labels), first_frames=first_frames(config.ModelConfig))
    path.with_suffix(".json").write_text(info.to_json(path))
