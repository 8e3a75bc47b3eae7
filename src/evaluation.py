"""One evaluation for eval.py, for training and for tests: every utterance once, in the order of the manifest."""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from src.batching import split_batches
from src.config import Config
from src.dataset import BatchSource, iterate_batches
from src.errors import RunError
from src.files import atomic_path
from src.greedydecoder import MSGreedyDecoder
from src.labels import Labels
from src.manifest import Manifest
from src.metrics import ErrorCounts, count_errors
from src.predictor import Predict

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoredUtterance:
    """One row of the result; `probs` is (T', C) where it was asked for."""

    audio_path: str
    reference: str
    hypothesis: str
    errors: ErrorCounts
    seconds: float
    probs: np.ndarray | None


@dataclass(frozen=True)
class Evaluation:
    """`utterances` follow the manifest; `missing` are the rows of those whose files went bad in the meantime."""

    utterances: list[ScoredUtterance]
    missing: list[int]

    @property
    def errors(self) -> ErrorCounts:
        """The counts of all utterances together: their `wer` and `cer` are micro-averages in percent."""
        return sum((u.errors for u in self.utterances), ErrorCounts())

    def summary(self) -> str:
        return f"Test Summary \tAverage WER {self.errors.wer:.3f}\tAverage CER {self.errors.cer:.3f}\t"


def evaluate(predict: Predict, manifest: Manifest, labels: Labels, config: Config, rows: np.ndarray | None = None,
             keep_probs: bool = False) -> Evaluation:
    """Decode every utterance, or those of `rows`, greedily and count its errors.

    Raises:
        RunError: when there are utterances but none can be read.
    """
    rows = np.arange(len(manifest)) if rows is None else rows
    decoder = MSGreedyDecoder(labels.characters)
    batches = split_batches(rows, config.DataConfig.batch_size)
    source = BatchSource(manifest, batches, labels, config.DataConfig.SpectConfig)
    utterances: list[ScoredUtterance] = []
    missing: list[int] = []
    for batch in iterate_batches(source, config.DataConfig.num_workers):
        missing += batch.missing
        if not batch.rows:
            continue
        probs, lengths = predict(batch.inputs, batch.input_length)
        hypotheses, _ = decoder.decode(probs, lengths)
        for i, row in enumerate(batch.rows):
            reference = labels.decode(batch.targets[i, :batch.target_length[i]])
            hypothesis = hypotheses[i][0]
            utterances.append(ScoredUtterance(
                manifest.audio_paths[row], reference, hypothesis, count_errors(reference, hypothesis),
                float(manifest.seconds[row]), probs[i, :lengths[i]].copy() if keep_probs else None))
    if missing and not utterances:
        raise RunError(f"{manifest.path}: none of its {len(missing)} utterances could be read")
    return Evaluation(utterances, missing)


def write_csv(evaluation: Evaluation, path: str | Path) -> None:
    """One line an utterance with a header: path, texts, word and character errors and their totals, seconds."""
    rows = [{"audio_path": u.audio_path, "reference": u.reference, "hypothesis": u.hypothesis, **asdict(u.errors),
             "seconds": round(u.seconds, 3)} for u in evaluation.utterances]
    with atomic_path(path) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)


def write_outputs(evaluation: Evaluation, manifest_rows: int, path: str | Path) -> None:
    """The (T', C) softmax matrix of manifest row i as `arr_i` of a NumPy archive; (0, 0) for a missing row."""
    found = iter(evaluation.utterances)
    matrices = [np.zeros((0, 0), np.float32) if row in evaluation.missing else next(found).probs
                for row in range(manifest_rows)]
    with atomic_path(path) as temporary:
        np.savez(temporary, *matrices)
