"""Batches of spectrograms and labels: loaded, augmented and padded, ahead of who uses them."""

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from deepspeech2.audio import load_audio
from deepspeech2.features import SpectConfig, spectrogram
from deepspeech2.labels import Labels
from deepspeech2.model import Model
from src.augment import Augmenter
from src.batching import split_batches
from src.config import Config
from src.manifest import Manifest, read_transcript

if TYPE_CHECKING:
    from mindspore.dataset import GeneratorDataset

logger = logging.getLogger(__name__)

COLUMNS = ["inputs", "input_length", "targets", "target_length", "rows", "texts"]
NO_ROW = -1    # the only row of a batch without utterances: one frame of silence and no label
PREFETCHED_BATCHES = 4    # a batch of the largest size is 20 to 40 MB


@dataclass(frozen=True)
class Batch:
    """One padded batch.

    Without any utterance left, N is one: a frame of silence without labels, which adds nothing to
    the loss.

    Attributes:
        inputs: (N, 1, F, T) float32 spectrograms, zero past each length.
        input_length: (N,) int32 frames.
        targets: (N, U) int32 class indices, zero past each length.
        target_length: (N,) int32.
        rows: of the manifest; empty for the silence.
        texts: of the rows, as the targets say them.
        missing: planned rows whose files went bad since they were checked.
    """

    inputs: np.ndarray
    input_length: np.ndarray
    targets: np.ndarray
    target_length: np.ndarray
    rows: list[int]
    texts: list[str]
    missing: list[int]


class BatchSource:
    """Random access to batches: item i loads, augments and pads the rows of `batches[i]`."""

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
        """The arrays of a batch in the order of `COLUMNS`; rows that cannot be read are left out."""
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
        """(F, T) and text of a row; None, with a warning that names it, if it cannot be read."""
        try:
            samples = load_audio(self.manifest.audio_paths[row], self.spect.sample_rate)
            text = read_transcript(self.manifest.transcript_paths[row], self.labels)
        except ValueError as error:
            logger.warning("%s:%d: passed over: %s", self.manifest.path, row + 1, error)
            return None
        if self.augmenter is None:
            return spectrogram(samples, self.spect), text
        samples, text = self.augmenter.shuffle_words(samples, text, row)
        samples = self.augmenter.perturb_waveform(samples, row)
        features = spectrogram(samples, self.spect)
        return self.augmenter.perturb_spectrogram(features, row), text


def keep_freed_memory() -> None:
    """Let glibc keep the memory of one batch for the next; otherwise page faults take half the time.

    It returns freed memory to the system until a large block was freed, and then keeps up to twice
    as much (mallopt(3), M_MMAP_THRESHOLD). This block is freed at once and never touched.
    """
    np.empty(30 << 20, np.uint8)


def pad_spectrograms(spectrograms: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(F, T) arrays -> (N, 1, F, longest T) float32, zero past each end; (N,) int32 lengths."""
    lengths = np.array([s.shape[1] for s in spectrograms], np.int32)
    inputs = np.zeros((len(spectrograms), 1, len(spectrograms[0]), lengths.max()), np.float32)
    for i, s in enumerate(spectrograms):
        inputs[i, 0, :, : s.shape[1]] = s
    return inputs, lengths


def _pad_targets(targets: Sequence[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Lists of class indices -> (N, longest U) int32, zero past each end; (N,) int32 lengths."""
    lengths = np.array([len(t) for t in targets], np.int32)
    padded = np.zeros((len(targets), max(1, lengths.max())), np.int32)
    for i, t in enumerate(targets):
        padded[i, : len(t)] = t
    return padded, lengths


def _batch(planned: np.ndarray, columns: Sequence[np.ndarray]) -> Batch:
    *arrays, rows, texts = columns
    delivered = rows.tolist() if rows[0] != NO_ROW else []
    missing = sorted(set(planned.tolist()) - set(delivered))
    return Batch(*arrays, delivered, texts.tolist()[: len(delivered)], missing)


def create_dataset(source: BatchSource, num_workers: int = 1) -> "GeneratorDataset":
    """The batches of `source` in order; more than one worker means processes."""
    import mindspore.dataset as ds  # takes seconds, and ONNX models need no MindSpore

    ds.config.set_prefetch_size(PREFETCHED_BATCHES)
    return ds.GeneratorDataset(
        source,
        COLUMNS,
        shuffle=False,
        num_parallel_workers=num_workers,
        python_multiprocessing=num_workers > 1,
    )


def training_batches(source: BatchSource, num_workers: int = 1) -> Iterator[Batch]:
    """One pass over `source` through `mindspore.dataset`, loading ahead of the caller.

    Workers start here, so they know this epoch's batches.
    """
    if not len(source):
        return
    keep_freed_memory()
    dataset = create_dataset(source, num_workers)
    columns = dataset.create_tuple_iterator(num_epochs=1, output_numpy=True)
    for planned, arrays in zip(source.batches, columns, strict=True):
        yield _batch(planned, arrays)


def emissions(
    model: Model, manifest: Manifest, rows: np.ndarray, config: Config
) -> Iterator[tuple[Batch, list[np.ndarray]]]:
    """Each batch of rows, in their order, with the model's (T', C) probabilities of each utterance.

    Evaluation, alignment and the training's dev set all come through here. Batches are loaded ahead
    by a thread: MindSpore is not needed. A batch without any readable utterance comes with no
    probabilities.
    """
    batches = split_batches(rows, config.DataConfig.batch_size)
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
