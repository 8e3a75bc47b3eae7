"""What all sections of a run share: its folder, its speech, its sizes, and how the sides take turns."""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.machine import ForeignLoad
from benchmarks.measure import Ratio, alternate
from benchmarks.speech import Speech
from benchmarks.workers import Worker, wait_until_idle
from src.config import Config, load_config

OURS, TORCH = "ours", "PyTorch"
UTTERANCE_SECONDS = 4.0


@dataclass(frozen=True)
class Sizes:
    """How much a run measures."""

    units: tuple[int, ...] = (256, 512, 1024)
    layers: int = 5
    channels: int = 32
    batches: tuple[int, ...] = (8, 1, 20)
    most_work: int = 1024 * 8       # units times batch; the command would take too long with more
    round_seconds: float = 12.0     # no further round begins after so many
    least_rounds: int = 3
    epoch_batches: int | None = None    # None: the whole epoch
    feature_files: int = 60
    matrix: int = 2048


FULL = Sizes()
QUICK = Sizes(units=(32,), layers=2, channels=16, batches=(2, 1), round_seconds=1.0, epoch_batches=4, feature_files=8,
              matrix=512)


def turn(worker: Worker, method: str, **arguments) -> Callable[[], float]:
    """A function that calls the method and gives its seconds, which come alone or first; of several the median."""
    def seconds() -> float:
        result = worker.call(method, **arguments)
        first = result[0] if isinstance(result, tuple) else result
        return statistics.median(first) if isinstance(first, list) else first
    return seconds


class Bench:
    """One run of the benchmark.

    Args:
        folder: for models and weights; somebody else removes it.
        speech: prepared corpora by name; the first is the one that batches are from.
    """

    def __init__(self, folder: Path, speech: dict[str, Speech], sizes: Sizes):
        self.folder, self.speech, self.sizes = folder, speech, sizes
        self.main_speech = next(iter(speech.values()))

    def config(self, units: int) -> Config:
        """The network that is measured, with so many units."""
        sizes = self.sizes
        return load_config(None, [f"ModelConfig.hidden_size={units}", f"ModelConfig.hidden_layers={sizes.layers}",
                                  f"ModelConfig.conv_channels={sizes.channels}", "ModelConfig.conv2_kernel=[21, 11]"])

    def batches_for(self, units: int) -> list[int]:
        """The sizes of batches that are measured with so many units."""
        return [size for size in self.sizes.batches if size * units <= self.sizes.most_work]

    def describe(self) -> dict:
        """What all networks that are measured have in common."""
        return {"layers": self.sizes.layers, "channels": self.sizes.channels, "conv2_kernel": [21, 11]}

    def batch(self, size: int) -> tuple[dict[str, np.ndarray], dict]:
        """A batch of utterances of about 4 s, and what a report says of it."""
        rows = self.main_speech.rows_of_about(UTTERANCE_SECONDS, size)
        seconds = self.main_speech.manifest.seconds[rows]
        return self.main_speech.batch(rows), {
            "batch": size, "audio_seconds": round(float(seconds.sum()), 2),
            "shortest": round(float(seconds.min()), 2), "longest": round(float(seconds.max()), 2)}

    def compare(self, runs: Mapping[str, Callable[[], float]], processes: Mapping[str, Worker] | None = None,
                rounds: int = 0) -> dict:
        """Seconds of all sides in alternation, their medians, and how much faster each is than PyTorch.

        Args:
            runs: {side: function that returns its seconds}.
            processes: {side: its process} where they stay alive: before a turn the others fall asleep.
            rounds: so many instead of as many as the time allows.
        """
        processes = processes or {}
        busiest = 0.0

        def settle(side: str) -> None:
            nonlocal busiest
            others = {worker for worker in processes.values() if worker is not processes.get(side)}
            busiest = max(busiest, wait_until_idle(list(others)) if others else 0.0)

        limits = (rounds, rounds) if rounds else (self.sizes.least_rounds, 9)
        load = ForeignLoad()
        seconds = alternate(runs, self.sizes.round_seconds, *limits, before=settle)
        result = {"seconds": seconds, "idle_share": round(busiest, 3), "foreign_share": round(load.share(), 3),
                  "median": {side: statistics.median(values) for side, values in seconds.items()}}
        if TORCH in seconds:
            result["speedup"] = {side: asdict(Ratio.of(seconds[TORCH], values))
                                 for side, values in seconds.items() if side != TORCH}
        return result
