"""Batches of spectrograms and labels, loaded, augmented and padded ahead of their use.

Axes: N utterances, F frequency bins, T spectrogram frames, T' output frames, C classes, U labels.
"""

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from deepspeech2.audio import load_audio
from deepspeech2.features import SpectConfig, pad_spectrograms, spectrogram
from deepspeech2.labels import Labels
from deepspeech2.model import Model
from src.augment import Augmenter
from src.batching import BatchPlan, split_batches
from src.config import Config
from src.heap import keep_freed_memory
from src.manifest import Manifest, read_transcript

if TYPE_CHECKING:
    from mindspore.dataset import GeneratorDataset

logger = logging.getLogger(__name__)

COLUMNS = ["inputs", "input_length", "targets", "target_length", "rows", "texts"]
# Row number of the silence that replaces a batch without any readable utterance: N cannot be 0, and
# one frame of silence without labels adds nothing to the loss.
NO_ROW = -1
SHARED_MEMORY = "/dev/shm"
# The most seconds of a batch without training, padding included; a longer utterance is its own
# batch. One long recording among short ones would make all of them as long.
EVALUATED_SECONDS = 120.0
PREFETCHED_BATCHES = 4  # the largest batches take 20 to 40 MB each


@dataclass(frozen=True)
class Batch:
    """One padded batch; see `NO_ROW` for a batch without any readable utterance.

    Attributes:
        inputs: (N, 1, F, T) float32 spectrograms, zero past their ends.
        input_length: (N,) int32 frame counts.
        targets: (N, U) int32 class indices, zero past their ends.
        target_length: (N,) int32 label counts.
        rows: N rows of the manifest; empty for the silence.
        texts: the N transcripts of the targets; empty for the silence.
        missing: rows of the batch that could not be read.
    """

    inputs: np.ndarray
    input_length: np.ndarray
    targets: np.ndarray
    target_length: np.ndarray
    rows: list[int]
    texts: list[str]
    missing: list[int]


class BatchSource:
    """Random access to batches: item i loads, augments and pads the rows `batches[i]`.

    Args:
        manifest: the data set.
        batches: row numbers of each batch.
        labels: encode the transcripts.
        spect: settings of the spectrograms.
        augmenter: augments the utterances; None for no augmentation.
    """

    def __init__(
        self,
        manifest: Manifest,
        batches: Sequence[np.ndarray],
        labels: Labels,
        spect: SpectConfig,
        augmenter: Augmenter | None = None,
    ):
        self.manifest, self.batches = manifest, batches
        self.labels, self.spect = labels, spect
        self.augmenter = augmenter

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> tuple[np.ndarray, ...]:
        """The arrays of a batch in the order of `COLUMNS`, without rows that cannot be read."""
        loaded = [(int(row), self._load(row)) for row in self.batches[index]]
        utterances = [(row, *utterance) for row, utterance in loaded if utterance is not None]
        if not utterances:
            utterances = [(NO_ROW, np.zeros((self.spect.num_bins, 1), np.float32), "")]
        rows, spectrograms, texts = zip(*utterances, strict=True)
        targets = [self.labels.encode(text) for text in texts]
        return (
            *pad_spectrograms(spectrograms),
            *_pad_targets(targets),
            np.array(rows, np.int64),
            np.array(texts, str),
        )

    def batch(self, index: int) -> Batch:
        """Item `index` as a `Batch`."""
        return _batch(self.batches[index], self[index])

    def _load(self, row: int) -> tuple[np.ndarray, str] | None:
        """The (F, T) spectrogram and text of a row; None, with a warning, if it is unreadable."""
        try:
            samples = load_audio(self.manifest.audio_paths[row], self.spect.sample_rate)
            text = read_transcript(self.manifest.transcript_paths[row], self.labels)
        except ValueError as error:
            logger.warning("%s: passed over: %s", self.manifest.where(row), error)
            return None
        if self.augmenter is None:
            return spectrogram(samples, self.spect), text
        samples, text = self.augmenter.shuffle_words(samples, text, row)
        samples = self.augmenter.perturb_waveform(samples, row)
        features = spectrogram(samples, self.spect)
        return self.augmenter.perturb_spectrogram(features, row), text


def _pad_targets(targets: Sequence[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """N lists of class indices -> (N, longest U) int32, zero-padded; (N,) int32 lengths."""
    lengths = np.array([len(t) for t in targets], np.int32)
    padded = np.zeros((len(targets), max(1, lengths.max())), np.int32)
    for i, t in enumerate(targets):
        padded[i, : len(t)] = t
    return padded, lengths


def _batch(planned: np.ndarray, columns: Sequence[np.ndarray]) -> Batch:
    """A `Batch` from the planned rows and the arrays of `COLUMNS`."""
    *arrays, rows, texts = columns
    loaded = rows.tolist() if rows[0] != NO_ROW else []
    missing = sorted(set(planned.tolist()) - set(loaded))
    return Batch(*arrays, loaded, texts.tolist()[: len(loaded)], missing)


def create_dataset(source: BatchSource, num_workers: int = 1) -> "GeneratorDataset":
    """A MindSpore dataset of the batches in order.

    Args:
        source: the batches.
        num_workers: 1 loads in a thread, more in as many processes.
    """
    import mindspore.dataset as ds  # imported late: ONNX models are evaluated without MindSpore

    ds.config.set_prefetch_size(PREFETCHED_BATCHES)
    if num_workers > 1 and not _shared_memory_suffices(source, num_workers):
        num_workers = 1
    return ds.GeneratorDataset(
        source,
        COLUMNS,
        shuffle=False,
        num_parallel_workers=num_workers,
        python_multiprocessing=num_workers > 1,
    )


def usable_workers(num_workers: int) -> int:
    """`num_workers`, or the number of cores if that is smaller, with a warning."""
    cores = len(os.sched_getaffinity(0))
    if num_workers > cores:
        message = "DataConfig.num_workers is %d, but there are %d cores: %d load audio"
        logger.warning(message, num_workers, cores, cores)
    return min(num_workers, cores)


def _shared_memory_suffices(source: BatchSource, num_workers: int) -> bool:
    """Whether the loaders can hand over their batches in shared memory; MindSpore hangs if not.

    Each loader has some segments, which grow to the largest batch that they held (queue.py and
    datasets_user_defined.py of mindspore.dataset.engine, 2.8.0).
    """
    lengths = source.manifest.seconds
    seconds = max(lengths[rows].max(initial=0) * len(rows) for rows in source.batches)
    if source.augmenter:
        seconds /= source.augmenter.config.slowest_tempo
    waiting = max(2, min(PREFETCHED_BATCHES, 4 * PREFETCHED_BATCHES // num_workers))
    largest = 4 * source.spect.num_bins * seconds / source.spect.window_stride
    needed = largest * num_workers * (waiting + 2)
    free = shutil.disk_usage(SHARED_MEMORY).free if os.path.isdir(SHARED_MEMORY) else 0
    if free < needed:
        logger.warning(
            "%s has %.0f MB free, %d loading processes need about %.0f MB: a thread loads instead",
            SHARED_MEMORY,
            free / 1e6,
            num_workers,
            needed / 1e6,
        )
    return bool(free >= needed)


def training_batches(source: BatchSource, num_workers: int = 1) -> Iterator[Batch]:
    """One pass over `source`; `mindspore.dataset` loads the batches ahead of their use.

    The workers are forked here, once for each pass, because they see no later change of `source`.
    """
    if not len(source):
        return
    dataset = create_dataset(source, num_workers)
    columns = dataset.create_tuple_iterator(num_epochs=1, output_numpy=True)
    for planned, arrays in zip(source.batches, columns, strict=True):
        yield _batch(planned, arrays)


def emissions(
    model: Model, manifest: Manifest, rows: np.ndarray, config: Config
) -> Iterator[tuple[Batch, list[np.ndarray]]]:
    """Run a model over utterances: the one loop of evaluation, alignment and validation.

    Threads load the batches ahead of their use, without MindSpore.

    Args:
        model: computes the probabilities.
        manifest: the data set.
        rows: (rows,) row numbers in the order to visit them.
        config: batch size and number of threads.

    Yields:
        Each batch with one (T', C) array of class probabilities for each of its utterances; the
        list is empty if none of them can be read.
    """
    plan = BatchPlan(config.DataConfig.batch_size, EVALUATED_SECONDS)
    batches = split_batches(rows, plan, manifest.seconds)
    source = BatchSource(manifest, batches, model.labels, model.spect)
    workers = config.DataConfig.num_workers
    keep_freed_memory()
    with ThreadPoolExecutor(workers) as pool:
        indices = iter(range(len(source)))
        pending = [pool.submit(source.batch, i) for i in islice(indices, workers + 1)]
        while pending:
            batch = pending.pop(0).result()
            pending += [pool.submit(source.batch, i) for i in islice(indices, 1)]
            probs = model.emissions(batch.inputs, batch.input_length) if batch.rows else []
            yield batch, probs
