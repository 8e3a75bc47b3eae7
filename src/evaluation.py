"""Evaluate a model on a manifest: every utterance once, in manifest order."""

import itertools
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from deepspeech2.errors import InputError, RunError
from deepspeech2.files import atomic_path
from deepspeech2.metrics import ErrorCounts, count_errors, percent
from deepspeech2.model import Model
from src.bootstrap import rate_interval
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
        hypothesis: the greedy transcript of the model.
        errors: errors of the hypothesis.
        seconds: duration of the recording.
        probs: (T', C) class probabilities; None unless `keep_probs` is set.
    """

    row: int
    audio_path: str
    reference: str
    hypothesis: str
    errors: ErrorCounts
    seconds: float
    probs: np.ndarray | None


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

    def details(self, speakers: Sequence[str]) -> list[str]:
        """Lines with the interval of each error rate, and the edits behind it.

        Args:
            speakers: (rows,) who speaks in each row of the manifest.
        """
        counts = asdict(self.errors)
        spoken_by = [speakers[u.row] for u in self.utterances]
        lines = []
        for name, unit, plural in (("WER", "word", "words"), ("CER", "char", "characters")):
            errors = [getattr(u.errors, f"{unit}_errors") for u in self.utterances]
            totals = [getattr(u.errors, f"{unit}s") for u in self.utterances]
            interval = rate_interval(errors, totals, spoken_by)
            ends = "no interval: fewer than two speakers" if interval is None else (
                f"95 % interval {interval[0]:.2f} to {interval[1]:.2f}, "
                f"{len(set(spoken_by))} speakers")
            edits = (f"{counts[f'{unit}_{edit}']} {edit}"
                     for edit in ("substitutions", "deletions", "insertions"))
            lines.append(f"{name} {percent(sum(errors), sum(totals)):.2f} ({ends}): "
                         f"{', '.join(edits)} in {sum(totals)} {plural}")
        return lines


def evaluate(
    model: Model,
    manifest: Manifest,
    config: Config,
    rows: np.ndarray | None = None,
    keep_probs: bool = False,
) -> Evaluation:
    """Decode utterances greedily and count their errors.

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
        for row, reference, matrix in zip(batch.rows, batch.texts, probs, strict=True):
            hypothesis = model.text(matrix)
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


def find_speakers(manifest: Manifest, pattern: str) -> list[str]:
    """(rows,) who speaks in each row: what the group of `pattern` finds in the path of the audio.

    Without a pattern each recording has a speaker of its own, who is called by its path.

    Raises:
        InputError: naming the line of the manifest, when the pattern finds nothing.
    """
    if not pattern:
        return list(manifest.audio_paths)
    found = [re.search(pattern, path) for path in manifest.audio_paths]
    for row, match in enumerate(found):
        if not match or not match[1]:
            raise InputError(
                f"{manifest.where(row)}: DataConfig.speaker_pattern (={pattern!r}) finds no "
                f"speaker in {manifest.audio_paths[row]}"
            )
    return [match[1] for match in found]


def write_csv(evaluation: Evaluation, path: str | Path, speakers: Sequence[str]) -> None:
    """Write a CSV line per utterance: path, speaker, texts, counts of edits, seconds.

    Args:
        speakers: (rows,) who speaks in each row of the manifest.
    """
    rows = [
        {"audio_path": u.audio_path, "speaker": speakers[u.row], "reference": u.reference,
         "hypothesis": u.hypothesis, "word_errors": u.errors.word_errors,
         "char_errors": u.errors.char_errors}
        | asdict(u.errors)
        | {"seconds": round(u.seconds, 3)}
        for u in evaluation.utterances
    ]
    with atomic_path(path) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)


def read_table(path: str | Path, columns: Sequence[str]) -> pd.DataFrame:
    """Read columns of a table that `write_csv` wrote, as text.

    Raises:
        InputError: naming the file, when it cannot be read or lacks a column.
    """
    try:
        table = pd.read_csv(path, keep_default_na=False, dtype=str)
    except OSError as error:
        raise InputError(f"{path}: cannot read the table: {error.strerror}") from None
    except ValueError as error:  # pandas' own errors are ValueErrors
        raise InputError(f"{path}: not a table: {' '.join(str(error).split())}") from None
    for name in columns:
        if name not in table:
            raise InputError(f"{path}: no column {name!r}: not a table of eval.py")
    return table[list(columns)]


def write_outputs(evaluation: Evaluation, manifest_rows: int, path: str | Path) -> None:
    """Write a NumPy archive: `arr_i` is the (T', C) array of row i, or (0, 0) if it is missing."""
    matrices = [np.zeros((0, 0), np.float32)] * manifest_rows
    for utterance in evaluation.utterances:
        matrices[utterance.row] = utterance.probs
    with atomic_path(path) as temporary:
        np.savez(temporary, *matrices)
