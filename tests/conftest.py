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
from deepspeech2.model_info import write_info
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

    From a quarter of a second on this is speech for the detector of deepspeech2/speech.py.
    """
    time = np.arange(rate // 5) / rate  # 24 periods of the voice, then the same again
    tones = np.arange(1, 60)[:, None] * 120.0  # (harmonics, 1) Hz
    formants = np.array([[300, 2300], [700, 1200], [500, 900], [300, 3000]])
    vowels = formants[(time / 0.05).astype(int)].T
    loudness = sum(np.exp(-np.abs(tones - formant) / 100) for formant in vowels) + 1e-4
    sound = 0.1 * (loudness * np.sin(2 * np.pi * tones * time)).sum(axis=0)
    return np.resize(sound, count).astype(np.float32)


TONES = {letter: 5000 + 100 * i for i, letter in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZ'")}  # Hz


def say_in_tones(text: str, pause: float = 0.2, rate: int = 16000) -> np.ndarray:
    """(n,) samples of a voice with a tone for each letter; words have pauses between them.

    A letter takes 100 ms: 60 ms of tone and 40 ms without. A word begins with its first tone.
    """
    on, letter = round(0.06 * rate), round(0.1 * rate)
    parts = []
    for word in text.split():
        sound = voice(len(word) * letter, rate)
        for i, character in enumerate(word):
            tone = 0.02 * np.sin(2 * np.pi * TONES[character] * np.arange(on) / rate)
            sound[i * letter : i * letter + on] += tone
        parts += [sound, np.zeros(round(pause * rate), np.float32)]
    parts.append(np.zeros(0, np.float32))
    return np.concatenate(parts).astype(np.float32)


def model_that_hears_tones(labels: Labels) -> Model:
    """A model that reads what `say_in_tones` says off the spectrogram."""
    bins = np.array([frequency // 50 for frequency in TONES.values()])
    classes = np.array(labels.encode("".join(TONES)))

    def predict(inputs, input_length):
        spectra = inputs[:, 0, :, ::2]  # (N, F, T) -> (N, F, T')
        loudest = spectra[:, bins].argmax(axis=1)  # (N, T')
        above = spectra[:, bins].max(axis=1) - np.median(spectra[:, 100:], axis=1)
        heard = np.where(above > 1.5, classes[loudest], labels.blank_index)
        probs = 0.98 * np.eye(len(labels), dtype=np.float32)[heard] + 0.02 / len(labels)
        return probs.astype(np.float32), (input_length - 1) // 2 + 1

    return Model(predict, load_config().model_info(labels))


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


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory, worker_id) -> None:
    """A folder for compiled graphs and language models, of this run and all its processes."""
    folder = tmp_path_factory.getbasetemp()
    os.environ["XDG_CACHE_HOME"] = str(folder if worker_id == "master" else folder.parent)


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
    from mindspore.common import api

    from src import device
    device.set_device("CPU")
    # without a program's file, as in the processes of pytest-xdist, MindSpore keeps no graphs
    api.entry_script_path = str(ROOT / "src" / "__init__.py")


@pytest.fixture(scope="session")
def launch_browser():
    """Starts a Chromium without a window, which asks no server for anything of its own."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if not found:
        pytest.skip("a browser is needed: apt-get install chromium")
    from playwright.sync_api import sync_playwright
    with sync_playwright() as playwright:
        def launch(*args: str):
            return playwright.chromium.launch(executable_path=found, args=[
                "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                "--disable-background-networking", "--disable-component-update", "--disable-sync",
                *args])
        yield launch


@pytest.fixture(scope="session")
def browser(launch_browser):
    with launch_browser() as started:
        yield started


@pytest.fixture(scope="module")
def cluster():
    """Two processes of dask on this machine; tests may kill them."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True,
                                  dashboard_address=None, host="127.0.0.1") as result:
        yield result


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


def random_weights(network, seed: int, gain: float, centred: bool = False) -> dict:
    """{name: float32 array}: no two weights or statistics alike, and probabilities far apart.

    Args:
        network: a `DeepSpeech`, for names and shapes.
        seed: of the random numbers.
        gain: of the projection.
        centred: whether the batch norms shift nothing.
    """
    rng, result = np.random.default_rng(seed), {}
    for name, parameter in network.parameters_dict().items():
        shape = parameter.shape
        fan_in = np.prod(shape[1:]) if len(shape) > 1 else 25
        values = rng.standard_normal(shape) / np.sqrt(fan_in)
        if name.endswith(("moving_variance", "gamma")):
            values = rng.uniform(0.5, 1.5, shape)
        if centred and name.endswith(("moving_mean", "beta")):
            values = np.zeros(shape)
        result[name] = np.float32(gain * values if name == "fc.weight" else values)
    return result


@pytest.fixture(scope="session")
def streaming_model(tmp_path_factory) -> Path:
    """A streaming model of random weights, with its JSON file."""
    path = tmp_path_factory.mktemp("model") / "stream.onnx"
    write_streaming_model(path)
    return path


def write_streaming_model(path: Path) -> None:
    """Write a streaming model of random weights, and its JSON file."""
    from src.DeepSpeech import DeepSpeech
    from src.streaming_graph import first_frames, make_streaming_onnx

    config = load_config(None, [
        "ModelConfig.bidirectional=False", "ModelConfig.hidden_size=8",
        "ModelConfig.hidden_layers=1", "ModelConfig.conv_channels=2",
        "ModelConfig.conv2_kernel=[21, 1]", "DataConfig.SpectConfig.normalization=running"])
    labels = Labels.load(ROOT / "labels.json")
    network = DeepSpeech(config.ModelConfig, 161, len(labels))
    parameters = random_weights(network, seed=35, gain=20, centred=True)
    rows, swapped = parameters["fc.weight"], [labels.space_index, *labels.encode("U")]
    rows[swapped] = rows[swapped[::-1]]  # where it would hear a U, a word ends
    model = make_streaming_onnx(parameters, config.ModelConfig, 161)
    path.write_bytes(model.SerializeToString())
    info = replace(config.model_info(labels), first_frames=first_frames(config.ModelConfig))
    write_info(path, info)
