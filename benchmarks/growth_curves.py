"""The curves of `benchmarks.growth`: each yields a row for each point, from small to large.

A point is measured in a process of its own, so that its peak memory is its own.
"""

import dataclasses
import os
import statistics
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from benchmarks.growth_side import REPEATS
from benchmarks.lengths import spent, write_long
from benchmarks.sections import prepare_corpora
from benchmarks.service import RATE, joined
from benchmarks.workers import GROWTH, ROOT, workers
from deepspeech2.decoding.decoders import LMConfig, read_settings
from deepspeech2.errors import RunError
from deepspeech2.files import unpacked
from deepspeech2.shipped import language_models
from src.config import Config, load_config

BATCH, SECONDS, UNITS = 4, 4.0, 256  # of a point, unless the curve changes them
LENGTHS = (1, 2, 5, 10, 20, 30)
FEW = 100  # recordings, to which all lines of a manifest point
SPOKEN = "THE LINES ARE MANY"  # the transcript of a second
NETWORK = {"cpu_s": "CPU", "peak_gib": "peak memory"}
MODELS = {"checkpoint_cpu_s": "checkpoint, CPU", "int8_cpu_s": "int8, CPU",
          "checkpoint_peak_gib": "checkpoint, peak memory", "int8_peak_gib": "int8, peak memory"}
QUICK = ["ModelConfig.hidden_layers=2", "ModelConfig.conv_channels=2",
         "ModelConfig.conv2_kernel=[21, 1]"]


def cost(method: str, **arguments: Any) -> dict:
    """What a method of `growth_side.Side` costs in a fresh process, and `peak_gib`.

    Raises:
        RunError: when the process is killed.
    """
    try:
        with workers(GROWTH) as sides:
            row = sides[GROWTH].call(method, **arguments) or {}
            return row | {"peak_gib": sides[GROWTH].call("peak_memory")}
    except BrokenProcessPool:
        raise RunError(f"{method}: its process was killed, maybe for lack of memory") from None


def run_cost(*arguments: str) -> dict:
    """CPU seconds and peak memory of Python with the arguments."""
    megabytes, seconds = spent(*arguments)
    return {"cpu_s": seconds, "peak_gib": megabytes / 1024}


class Place:
    """One run: a folder for its files, and its sizes."""

    def __init__(self, folder: Path, quick: bool):
        self.folder, self.quick = folder, quick
        self.units = 32 if quick else UNITS

    def points(self, *values: float) -> tuple[float, ...]:
        """The values of a curve; of a quick one the first two."""
        return values[:2] if self.quick else values

    def repeated(self, measure: Callable[[], dict], long: bool) -> dict:
        """The median of each cost over processes; what is `long` or quick is measured once."""
        rows = [measure() for _ in range(1 if long or self.quick else REPEATS)]
        return {name: statistics.median(row[name] for row in rows) for name in rows[0]}

    def config(self, units: int) -> Config:
        """The network of the AN4 recipe with `units` units in a layer."""
        quick = QUICK if self.quick else []
        return load_config(ROOT / "configs" / "an4.yaml",
                           [f"ModelConfig.hidden_size={units}", *quick])

    def models(self, units: int) -> dict[str, str]:
        """{kind: path} of stored random weights, which are made once."""
        found = {"checkpoint": str(self.folder / f"{units}.ckpt"),
                 "int8": str(self.folder / f"{units}.onnx")}
        if not Path(found["int8"]).exists():
            cost("write_models", config=self.config(units), **found)
        return found

    @cached_property
    def recordings(self) -> list[Path]:
        """Read speech that no model was trained on; synthetic speech where it is not there."""
        shared = Path(os.environ.get("DS2_SHARED", ROOT.parent / "shared"), "data", "speech")
        found = sorted((shared / "LibriSpeech" / "dev-clean-67").rglob("*.opus"))
        if self.quick or not found:
            (manifest,) = prepare_corpora(self.folder, quick=True).values()
            found = [Path(path) for path in manifest.audio_paths]
        return found

    @cached_property
    def probabilities(self) -> str:
        """The path of the (T', C) class probabilities of 30 s."""
        path = str(self.folder / "probabilities.npy")
        cost("write_probabilities", paths=self.recordings, seconds=30.0, target=path)
        return path

    def lines(self, text: Path) -> Iterator[str]:
        """Sentences without end: those of a text where it is there, then of random words."""
        if text.exists() and not self.quick:
            with unpacked(text, "the text") as file:
                yield from (line.decode() for line in file)
        rng, letters = np.random.default_rng(0), np.array(list("ABCDEFGHIJKLMNOPQRSTUVWXYZ"))
        words = ["".join(rng.choice(letters, size)) for size in rng.integers(2, 9, 50_000)]
        while True:
            found = np.minimum(rng.zipf(1.3, 15), len(words)) - 1
            yield " ".join(words[i] for i in found) + "\n"


def features(place: Place) -> Iterator[dict]:
    """From a WAV file to its spectrogram."""
    for seconds in place.points(1, 2, 5, 10, 20, 30, 60):
        path = place.folder / "features.wav"
        write_long(path, joined(place.recordings, 60.0), seconds / 60)
        yield {"x": seconds} | cost("recording", path=str(path))


def training(place: Place, units: int, batch: int, seconds: float) -> dict:
    """The costs of a training step."""
    return cost("training_step", config=place.config(units), utterances=batch, seconds=seconds)


def inference(place: Place, units: int, batch: int, seconds: float) -> dict:
    """The costs of a checkpoint and of the int8 model."""
    row = {}
    for kind, path in place.models(units).items():
        found = cost("prediction", path=path, utterances=batch, seconds=seconds)
        row |= {f"{kind}_{name}": value for name, value in found.items()}
    return row


def by_length(place: Place, measure: Callable, batch: int, lengths: tuple) -> Iterator[dict]:
    """What `measure`, `training` or `inference`, finds for utterances of each length."""
    for seconds in place.points(*lengths):
        yield {"x": seconds} | measure(place, place.units, batch, seconds)


def by_batch(place: Place, measure: Callable) -> Iterator[dict]:
    """As `by_length`, for batches of each size."""
    for batch in place.points(1, 2, 4, 8, 16):
        yield {"x": batch} | measure(place, place.units, batch, SECONDS)


def by_units(place: Place, measure: Callable) -> Iterator[dict]:
    """As `by_length`, for networks of each width."""
    for units in place.points(64, 128, 256, 512, 1024):
        yield {"x": units} | measure(place, units, BATCH, SECONDS)


def manifest(place: Place) -> Iterator[dict]:
    """The lines name a few files again and again, whose index says that they last 1 to 15 s."""
    names = [f"recordings/utterance-of-a-speaker-{i:07d}" for i in range(FEW)]
    (place.folder / "recordings").mkdir(exist_ok=True)
    for name in names:
        for suffix in ".wav", ".txt":
            (place.folder / f"{name}{suffix}").write_text("A")
    for lines in place.points(10_000, 100_000, 1_000_000, 10_000_000):
        path = place.folder / f"lines_{lines}.csv"
        with open(path, "w", encoding="utf-8") as file:
            for i in range(lines):
                name = names[i % FEW]
                file.write(f"{name}.wav,{name}.txt\n")
        seconds = np.random.default_rng(0).uniform(1, 15, lines)
        cost("write_index", path=str(path), seconds=seconds)
        yield {"x": lines} | place.repeated(partial(cost, "manifest", path=str(path)),
                                            long=lines >= 1_000_000)
        for written in place.folder.glob(f"{path.stem}*"):
            written.unlink()


def evaluation(place: Place) -> Iterator[dict]:
    """Every line has a path of its own, and so a speaker of its own, but few recordings."""
    folder = place.folder / "evaluation"
    folder.mkdir(exist_ok=True)
    (folder / "spoken.txt").write_text(SPOKEN)
    for i, path in enumerate(place.recordings[:8]):
        soundfile.write(folder / f"source_{i}.wav", joined([path], 2.0)[RATE:], RATE)
    sources = sorted(folder.glob("source_*"))
    for lines in place.points(10, 100, 1000, 10_000, 100_000):
        path = folder / f"lines_{lines}.csv"
        for i in range(lines):
            recording = folder / f"{i:07d}.wav"
            if not recording.exists():
                recording.symlink_to(sources[i % len(sources)])
        path.write_text("".join(f"{i:07d}.wav,spoken.txt\n" for i in range(lines)))
        cost("write_index", path=str(path), seconds=np.ones(lines))
        command = ("eval.py", "--pretrain_ckpt", "pretrained/an4.ckpt", "--device_target", "CPU",
                   f"DataConfig.test_manifest={path}", f"TrainingConfig.log_dir={folder}")
        yield {"x": lines} | place.repeated(partial(run_cost, *command), long=lines >= 10_000)


def search(place: Place, lm: LMConfig, seconds: float) -> dict:
    """A beam search through `seconds` of speech, an output frame every 40 ms."""
    return cost("search", lm=lm, probs=place.probabilities, frames=round(25 * seconds))


def beam_width(place: Place) -> Iterator[dict]:
    """With the language model of the package and its settings, as `beam_length`."""
    settings = read_settings(language_models()["english"])
    for width in place.points(1, 4, 16, 64, 256):
        yield {"x": width} | search(place, dataclasses.replace(settings, beam_width=width), 30.0)


def beam_length(place: Place) -> Iterator[dict]:
    """30 s of speech are cut, or said again and again."""
    settings = read_settings(language_models()["english"])
    for seconds in place.points(1, 2, 5, 10, 20, 30, 60, 300, 600):
        yield {"x": seconds} | search(place, settings, seconds)


def language_model(place: Place) -> Iterator[dict]:
    """Building a model of a text, reading the model, and a search through 30 s of speech."""
    shared = Path(os.environ.get("DS2_SHARED", ROOT.parent / "shared"), "data", "lm")
    for words in place.points(10_000, 100_000, 1_000_000, 6_000_000):
        text, model = place.folder / "text.txt", place.folder / f"words_{words}.arpa.gz"
        with open(text, "w", encoding="utf-8") as file:
            left = words
            for line in place.lines(shared / "books.txt.xz"):
                file.write(line)
                left -= len(line.split())
                if left <= 0:
                    break
        built = run_cost("-m", "tools.build_lm", str(text), "--output", str(model))
        settings = LMConfig(decoder_type="beam", lm_path=str(model))
        yield {"x": words, "megabytes": model.stat().st_size / 1e6} | {
            f"build_{name}": value for name, value in built.items()} | search(
            place, settings, 30.0)


@dataclass(frozen=True)
class Curve:
    """How costs grow with one size.

    Attributes:
        title: what is measured.
        size: what grows, a heading.
        costs: {name in a row: heading}; a name ends in its unit, `_s` or `_gib`.
        measure: yields a row with `x` and the costs for each point.
    """

    title: str
    size: str
    costs: dict[str, str]
    measure: Callable[[Place], Iterator[dict]]


def _network_curves() -> dict[str, Curve]:
    """The curves of training and inference."""
    result = {}
    for name, title, costs, measure in (
            ("training", "Training step", NETWORK, training),
            ("inference", "Inference", MODELS, inference)):
        result |= {
            f"{name}_length": Curve(
                f"{title}, {BATCH} utterances", "seconds of each", costs,
                partial(by_length, measure=measure, batch=BATCH, lengths=LENGTHS)),
            f"{name}_long": Curve(
                f"{title}, one utterance", "seconds", costs,
                partial(by_length, measure=measure, batch=1, lengths=(5, 10, 20, 30, 60))),
            f"{name}_batch": Curve(
                f"{title}, utterances of {SECONDS:g} s", "utterances", costs,
                partial(by_batch, measure=measure)),
            f"{name}_units": Curve(
                f"{title}, {BATCH} utterances of {SECONDS:g} s", "units of a layer", costs,
                partial(by_units, measure=measure))}
    return result


CURVES = {
    "features": Curve("Features of a recording", "seconds", {"cpu_s": "CPU"}, features),
    **_network_curves(),
    "manifest": Curve("A manifest with its index", "lines", {
        "cpu_s": "reading, CPU", "wall_s": "reading, wall", "peak_gib": "peak memory",
        "plan_s": "planning an epoch, CPU"}, manifest),
    "evaluation": Curve("eval.py, utterances of 1 s", "utterances", NETWORK, evaluation),
    "beam_width": Curve("Beam search through 30 s of speech", "beam width", {"cpu_s": "CPU"},
                        beam_width),
    "beam_length": Curve("Beam search", "seconds of speech", {"cpu_s": "CPU"}, beam_length),
    "language_model": Curve("A language model of 3-grams", "words of the text", {
        "build_cpu_s": "building, CPU", "build_peak_gib": "building, peak memory",
        "load_s": "reading, CPU", "cpu_s": "beam search through 30 s, CPU",
        "peak_gib": "reading and search, peak memory"}, language_model)}
