"""The costs of one point of `benchmarks.growth`, measured in a process that does nothing else."""

import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import ours
from benchmarks.service import RATE, joined
from benchmarks.workers import TURN_SECONDS, timed
from deepspeech2 import load_model
from deepspeech2.decoding.decoders import LMConfig, make_decoder
from deepspeech2.features import num_frames, spectrogram
from src.batching import BatchPlan, epoch_batches
from src.config import Config, load_config
from src.dataset import Batch
from src.heap import keep_freed_memory
from src.manifest import inspect_manifest, read_manifest

REPEATS, LONG_SECONDS = 3, 20.0  # a call that takes longer is not repeated
LETTERS_A_SECOND = 12


def cpu_seconds(function: Callable[[], object]) -> float:
    """The median CPU seconds of calls: `REPEATS` and more of short ones, one of a long one."""
    seconds: list[float] = []
    while sum(seconds) < TURN_SECONDS or (
            len(seconds) < REPEATS and sum(seconds) < LONG_SECONDS):
        seconds.append(cpu_seconds_of_one(function))
    return statistics.median(seconds)


def cpu_seconds_of_one(function: Callable[[], object]) -> float:
    """The CPU seconds of one call, of all threads of this process."""
    started = time.process_time()
    function()
    return time.process_time() - started


class Side(ours.Side):
    """Adds to our side what a point costs: {name of the cost: value}."""

    def recording(self, path: str) -> dict:
        """From a file to its spectrogram, with freed memory kept, as batches are loaded."""
        keep_freed_memory()
        self.feature(path)
        return {"cpu_s": cpu_seconds(partial(self.feature, path))}

    def noise(self, utterances: int, seconds: float) -> None:
        """Make a batch of noise with random transcripts."""
        rng, letters = np.random.default_rng(0), round(LETTERS_A_SECOND * seconds)
        frames = num_frames(round(seconds * RATE), RATE, self.spect)
        inputs = rng.standard_normal((utterances, 1, self.spect.num_bins, frames), np.float32)
        targets = rng.integers(self.labels.blank_index, size=(utterances, letters), dtype=np.int32)
        input_length = np.full(utterances, frames, np.int32)
        target_length = np.full(utterances, letters, np.int32)
        self.set_batch(Batch(inputs, input_length, targets, target_length, [], [], []))

    def training_step(self, config: Config, utterances: int, seconds: float) -> dict:
        """A step with random weights; it is compiled before."""
        self.build(config)
        self.noise(utterances, seconds)
        self.train()
        return {"cpu_s": cpu_seconds(self.train)}

    def prediction(self, path: str, utterances: int, seconds: float) -> dict:
        """A prediction by a stored model."""
        self.load_model(path)
        self.noise(utterances, seconds)
        self.predict()
        return {"cpu_s": cpu_seconds(self.predict)}

    def write_models(self, config: Config, checkpoint: str, int8: str) -> None:
        """Write random weights as a checkpoint and as an int8 ONNX model."""
        from src.exporting import export_onnx
        self.build(config)
        self.save_network(checkpoint)
        export_onnx(checkpoint, load_config(), Path(int8), "int8")

    def write_index(self, path: str, seconds: np.ndarray) -> None:
        """Write the index of a manifest whose utterances have (rows,) `seconds`."""
        letters = (LETTERS_A_SECOND * seconds).astype(np.int64)
        samples, rates = (RATE * seconds).astype(np.int64), np.full(len(seconds), RATE)
        metadata = np.stack([samples, rates, letters, np.zeros_like(letters)], axis=1)
        inspect_manifest(path, self.labels, metadata=metadata)

    def manifest(self, path: str) -> dict:
        """Reading a manifest with its index, and planning a shuffled epoch."""
        cpu = time.process_time()
        (wall,), manifest = timed(partial(read_manifest, path, self.labels), least=0.0)
        cpu = time.process_time() - cpu
        plan = partial(epoch_batches, manifest.seconds, BatchPlan(batch_size=8), epoch=1, seed=0)
        return {"cpu_s": cpu, "wall_s": wall, "plan_s": cpu_seconds_of_one(plan)}

    def write_probabilities(self, paths: list[Path], seconds: float, target: str) -> None:
        """Write the (T', C) class probabilities of recordings, one after the other."""
        model = load_model("english")
        features = spectrogram(joined(paths, seconds), model.spect)
        (probs,) = model.emissions(features[None, None], np.array([features.shape[1]], np.int32))
        np.save(target, probs)

    def search(self, lm: LMConfig, probs: str, frames: int) -> dict:
        """A beam search through probabilities, again and again up to `frames`.

        `load_s` is what it takes to read the language model, from its text or from a cache.
        """
        made = []
        load = cpu_seconds_of_one(lambda: made.append(make_decoder(lm, self.labels)))
        (decoder,), found = made, np.load(probs)
        decoder.texts([found[:2]])  # compiles
        batch = [np.resize(found, (frames, found.shape[1]))]
        return {"load_s": load, "cpu_s": cpu_seconds(lambda: decoder.texts(batch))}
