"""Batches of spectrograms and labels through `mindspore.dataset`."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from src.augment import Augmenter
from src.config import SpectConfig
from src.features import load_audio, spectrogram
from src.labels import Labels
from src.manifest import Manifest, read_transcript

if TYPE_CHECKING:
    from mindspore.dataset import GeneratorDataset

logger = logging.getLogger(__name__)

COLUMNS = ["inputs", "input_length", "targets", "target_length", "rows"]
NO_ROW = -1               # the only row of a batch without utterances: one frame of silence and no label
PREFETCHED_BATCHES = 4    # a batch of the largest size is 20 to 40 MB


@dataclass(frozen=True)
class Batch:
    """One padded batch; `missing` are planned rows whose files went bad since they were checked.

    Without any utterance left, N is one: a frame of silence without labels, which adds nothing to the loss.
    """

    inputs: np.ndarray           # (N, 1, F, T) float32, zero past each length
    input_length: np.ndarray     # (N,) int32 frames
    targets: np.ndarray          # (N, U) int32 class indices, zero past each length
    target_length: np.ndarray    # (N,) int32
    rows: list[int]              # of the manifest; empty for the silence
    missing: list[int]


class BatchSource:
    """Random access to batches for `GeneratorDataset`: item i loads, augments and pads the rows of `batches[i]`."""

    def __init__(self, manifest: Manifest, batches: Sequence[np.ndarray], labels: Labels, spect: SpectConfig,
                 augmenter: Augmenter | None = None):
        self.manifest, self.batches, self.labels, self.spect = manifest, batches, labels, spect
        self.augmenter = augmenter

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> tuple[np.ndarray, ...]:
        """(N, 1, F, T), (N,), (N, U), (N,), (N,) arrays; utterances that cannot be read are named and left out."""
        utterances = [(int(row), self._load(row)) for row in self.batches[index]]
        utterances = [(row, *loaded) for row, loaded in utterances if loaded is not None]
        if not utterances:
            utterances = [(NO_ROW, np.zeros((self.spect.num_bins, 1), np.float32), [])]
        rows, spectrograms, targets = zip(*utterances, strict=True)
        return (*pad_spectrograms(spectrograms), *_pad_targets(targets), np.array(rows, np.int64))

    def _load(self, row: int) -> tuple[np.ndarray, list[int]] | None:
        try:
            samples = load_audio(self.manifest.audio_paths[row], self.spect.sample_rate)
            text, indices = read_transcript(self.manifest.transcript_paths[row], self.labels)
        except ValueError as error:
            logger.warning("%s:%d: passed over: %s", self.manifest.path, row + 1, error)
            return None
        if self.augmenter is None:
            return spectrogram(samples, self.spect), indices
        samples, text = self.augmenter.of_words(samples, text, row)
        samples = self.augmenter.of_samples(samples, row)
        return self.augmenter.of_spectrogram(spectrogram(samples, self.spect), row), self.labels.encode(text)


def pad_spectrograms(spectrograms: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(F, T) arrays -> (N, 1, F, longest T) float32 with zeros past each end, (N,) int32 lengths."""
    lengths = np.array([s.shape[1] for s in spectrograms], np.int32)
    inputs = np.zeros((len(spectrograms), 1, spectrograms[0].shape[0], lengths.max()), np.float32)
    for i, s in enumerate(spectrograms):
        inputs[i, 0, :, :s.shape[1]] = s
    return inputs, lengths


def _pad_targets(targets: Sequence[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.array([len(t) for t in targets], np.int32)
    padded = np.zeros((len(targets), max(1, lengths.max())), np.int32)
    for i, t in enumerate(targets):
        padded[i, :len(t)] = t
    return padded, lengths


def create_dataset(source: BatchSource, num_workers: int = 1) -> "GeneratorDataset":
    """The batches of `source` in order, with the columns `COLUMNS`; more than one worker means processes."""
    import mindspore.dataset as ds  # takes seconds, and the benchmarks' PyTorch must not meet it
    ds.config.set_prefetch_size(PREFETCHED_BATCHES)
    return ds.GeneratorDataset(source, COLUMNS, shuffle=False, num_parallel_workers=num_workers,
                               python_multiprocessing=num_workers > 1)


def iterate_batches(source: BatchSource, num_workers: int = 1) -> Iterator[Batch]:
    """One pass over `source`, loading ahead of the caller. Workers start here: they know this epoch's batches."""
    if not len(source):
        return
    columns = create_dataset(source, num_workers).create_tuple_iterator(num_epochs=1, output_numpy=True)
    for planned, (*arrays, rows) in zip(source.batches, columns, strict=True):
        delivered = [row for row in rows.tolist() if row != NO_ROW]
        yield Batch(*arrays, delivered, sorted(set(planned.tolist()) - set(delivered)))
