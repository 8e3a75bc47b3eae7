"""Evaluate a model on a manifest: every utterance once, in manifest order."""

import itertools
import json
import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from deepspeech2.errors import RunError
from deepspeech2.files import atomic_path
from deepspeech2.metrics import ErrorCounts, count_errors
from deepspeech2.model import Model
from src.config import Config
from src.dataset import emissions
from src.manifest import Manifest

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoredUtterance:
    """One evaluated utterance.

    Attributes:
        row: row of the manifest.
        audio_path: path of the recording.
        reference: the transcript in the manifest.
        hypothesis: the transcript of the model.
        errors: errors of the hypothesis.
        seconds: duration of the recording.
        probs: (T', C) class probabilities; None unless `keep_probs` is set.
        alternatives: other transcripts, best first.
    """

    row: int
    audio_path: str
    reference: str
    hypothesis: str
    errors: ErrorCounts
    seconds: float
    probs: np.ndarray | None
    alternatives: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        utterances: the evaluated utterances in manifest order.
        missing: rows that could not be read.
    """

    utterances: list[ScoredUtterance]
    missing: list[int]

    @property
    def errors(self) -> ErrorCounts:
        """The summed errors of all utterances; their rates are micro-averages in percent."""
        return sum((u.errors for u in self.utterances), ErrorCounts())

    def summary(self) -> str:
        """The document's line with both error rates in percent."""
        wer, cer = self.errors.wer_percent, self.errors.cer_percent
        return f"Test Summary \tAverage WER {wer:.3f}\tAverage CER {cer:.3f}\t"


def evaluate(
    model: Model,
    manifest: Manifest,
    config: Config,
    rows: np.ndarray | None = None,
    keep_probs: bool = False,
) -> Evaluation:
    """Decode utterances and count their errors.

    Args:
        model: the model to evaluate.
        manifest: the data set.
        config: batch size and number of loading threads.
        rows: (rows,) row numbers to evaluate; None for all.
        keep_probs: whether to keep the class probabilities.

    Raises:
        RunError: when there are utterances but none can be read.
    """
    rows = np.arange(len(manifest)) if rows is None else rows
    utterances: list[ScoredUtterance] = []
    missing: list[int] = []
    for batch, probs in emissions(model, manifest, rows, config):
        missing += batch.missing
        for row, reference, matrix, (hypothesis, *others) in zip(
            batch.rows, batch.texts, probs, model.texts(probs), strict=True
        ):
            errors = count_errors(reference, hypothesis)
            utterances.append(
                ScoredUtterance(
                    row,
                    manifest.audio_paths[row],
                    reference,
                    hypothesis,
                    errors,
                    float(manifest.seconds[row]),
                    matrix.copy() if keep_probs else None,
                    tuple(others),
                )
            )
    if missing and not utterances:
        raise RunError(f"{manifest.path}: none of its {len(missing)} utterances could be read")
    return Evaluation(utterances, missing)


def table_path(folder: str | Path, manifest: Manifest) -> Path:
    """Where to write the table of a manifest: a later table of it takes the place of the first.

    Manifests of one name have tables of their own: `NAME_eval.csv`, `NAME-2_eval.csv` and so on.
    """
    numbers = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
    paths = (Path(folder, f"{manifest.path.stem}{number}_eval.csv") for number in numbers)
    return next(path for path in paths if _is_free(path, manifest))


def _is_free(path: Path, manifest: Manifest) -> bool:
    """Whether `path` does not exist, or is a table of this manifest."""
    if not os.path.lexists(path):
        return True
    try:
        known = pd.read_csv(path, usecols=["audio_path"], dtype=str, keep_default_na=False)
    except (OSError, ValueError):  # pandas' own errors are ValueErrors
        return False
    return set(known["audio_path"]) <= set(manifest.audio_paths)


def write_csv(evaluation: Evaluation, path: str | Path) -> None:
    """Write a CSV line per utterance: path, texts, word and character counts, seconds.

    Where the decoder gives several texts, `alternatives` holds the others as a JSON list.
    """
    several = any(u.alternatives for u in evaluation.utterances)
    rows = [
        {"audio_path": u.audio_path, "reference": u.reference, "hypothesis": u.hypothesis}
        | asdict(u.errors)
        | {"seconds": round(u.seconds, 3)}
        | ({"alternatives": json.dumps(u.alternatives, ensure_ascii=False)} if several else {})
        for u in evaluation.utterances
    ]
    with atomic_path(path) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)


def write_outputs(evaluation: Evaluation, manifest_rows: int, path: str | Path) -> None:
    """Write a NumPy archive: `arr_i` is the (T', C) array of row i, or (0, 0) if it is missing."""
    matrices = [np.zeros((0, 0), np.float32)] * manifest_rows
    for utterance in evaluation.utterances:
        matrices[utterance.row] = utterance.probs
    with atomic_path(path) as temporary:
        np.savez(temporary, *matrices)
