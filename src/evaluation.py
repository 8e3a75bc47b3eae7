"""Evaluate a model on a manifest: every utterance once, in manifest order."""

import itertools
import json
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
from deepspeech2.result import Word
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
        hypothesis: the transcript of the model.
        errors: errors of the hypothesis.
        seconds: duration of the recording.
        probs: (T', C) class probabilities; None unless `keep_probs` is set.
        alternatives: other transcripts, best first.
        confidences: the probability of each word of the hypothesis; None unless `keep_confidences`
            is set.
    """

    row: int
    audio_path: str
    reference: str
    hypothesis: str
    errors: ErrorCounts
    seconds: float
    probs: np.ndarray | None
    alternatives: tuple[str, ...] = ()
    confidences: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Rate:
    """An error rate and the edits behind it.

    Attributes:
        percent: errors in percent of `total`.
        interval: ends of its 95 % interval in percent; None for fewer than two speakers, and
            without reference words.
        speakers: number of speakers that the interval was found with.
        total: number of reference words, or of characters.
        substitutions, deletions, insertions: how often each edit occurs.
    """

    percent: float
    interval: tuple[float, float] | None
    speakers: int
    total: int
    substitutions: int
    deletions: int
    insertions: int

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions


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

    def rates(self, speakers: Sequence[str]) -> dict[str, Rate]:
        """The rates of words and of characters: {"WER": rate, "CER": rate}.

        Args:
            speakers: (rows,) who speaks in each row of the manifest.
        """
        spoken_by = [speakers[u.row] for u in self.utterances]
        return {"WER": find_rate(self.utterances, "word", spoken_by),
                "CER": find_rate(self.utterances, "char", spoken_by)}


def find_rate(
    utterances: Sequence[ScoredUtterance], unit: str, speakers: Sequence[str]
) -> Rate:
    """The error rate of utterances.

    Args:
        utterances: (N,) what to add up.
        unit: `word` or `char`.
        speakers: (N,) who speaks.
    """
    counts = [u.errors for u in utterances]
    errors = [getattr(c, f"{unit}_errors") for c in counts]
    totals = [getattr(c, f"{unit}s") for c in counts]
    edits = (sum(getattr(c, f"{unit}_{edit}") for c in counts)
             for edit in ("substitutions", "deletions", "insertions"))
    interval = rate_interval(errors, totals, speakers)
    rate = percent(sum(errors), sum(totals))
    return Rate(rate, interval, len(set(speakers)), sum(totals), *edits)


def details(rates: dict[str, Rate]) -> list[str]:
    """Lines with the interval of each error rate, and the edits behind it."""
    lines = []
    for (name, rate), unit in zip(rates.items(), ("words", "characters"), strict=True):
        reason = "fewer than two speakers" if rate.total else f"no {unit} in the references"
        ends = f"no interval: {reason}" if rate.interval is None else (
            f"95 % interval {rate.interval[0]:.2f} to {rate.interval[1]:.2f}, "
            f"{rate.speakers} speakers")
        lines.append(f"{name} {rate.percent:.2f} ({ends}): {rate.substitutions} substitutions, "
                     f"{rate.deletions} deletions, {rate.insertions} insertions in "
                     f"{rate.total} {unit}")
    return lines


def evaluate(
    model: Model,
    manifest: Manifest,
    config: Config,
    rows: np.ndarray | None = None,
    keep_probs: bool = False,
    keep_confidences: bool = False,
) -> Evaluation:
    """Decode utterances and count their errors.

    Args:
        model: the model to evaluate.
        manifest: the data set.
        config: batch size and number of loading threads.
        rows: (rows,) row numbers to evaluate; None for all.
        keep_probs: whether to keep the class probabilities.
        keep_confidences: whether to keep the probabilities of the words.

    Raises:
        RunError: when there are utterances but none can be read.
    """
    rows = np.arange(len(manifest)) if rows is None else rows
    utterances: list[ScoredUtterance] = []
    missing: list[int] = []
    durations = manifest.seconds
    for batch, probs in emissions(model, manifest, rows, config):
        missing += batch.missing
        for row, reference, matrix, (hypothesis, *others) in zip(
            batch.rows, batch.texts, probs, model.texts(probs), strict=True
        ):
            errors, seconds = count_errors(reference, hypothesis), float(durations[row])
            utterances.append(
                ScoredUtterance(
                    row,
                    manifest.audio_paths[row],
                    reference,
                    hypothesis,
                    errors,
                    seconds,
                    matrix.copy() if keep_probs else None,
                    tuple(others),
                    tuple(w.probability for w in find_words(model, matrix, seconds))
                    if keep_confidences else None,
                )
            )
    if missing and not utterances:
        raise RunError(f"{manifest.path}: none of its {len(missing)} utterances could be read")
    return Evaluation(utterances, missing)


def find_words(model: Model, probs: np.ndarray, seconds: float) -> tuple[Word, ...]:
    """The words of an utterance of `seconds` seconds with (T', C) class probabilities."""
    transcript = model.transcript(probs, round(seconds * model.spect.sample_rate))
    return tuple(word for segment in transcript.segments for word in segment.words)


def table_path(folder: str | Path, manifest: Manifest) -> Path:
    """Where to write the table of a manifest: a later table of it takes the place of the first.

    Manifests of one name have tables of their own: `NAME_eval.csv`, `NAME-2_eval.csv` and so on.
    """
    numbers = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
    paths = (Path(folder, f"{manifest.path.stem}{number}_eval.csv") for number in numbers)
    return next(path for path in paths if _is_free(path, manifest))


def _is_free(path: Path, manifest: Manifest) -> bool:
    """Whether `path` does not exist, or has no recordings but those of this manifest."""
    if not os.path.lexists(path):
        return True
    try:
        known = _read_csv(path, usecols=["audio_path"])
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

    Where the decoder gives several texts, `alternatives` holds the others as a JSON list.

    Args:
        speakers: (rows,) who speaks in each row of the manifest.
    """
    several = any(u.alternatives for u in evaluation.utterances)
    rows = [
        {"audio_path": u.audio_path, "speaker": speakers[u.row], "reference": u.reference,
         "hypothesis": u.hypothesis, "word_errors": u.errors.word_errors,
         "char_errors": u.errors.char_errors}
        | asdict(u.errors)
        | {"seconds": round(u.seconds, 3)}
        | ({"alternatives": json.dumps(u.alternatives, ensure_ascii=False)} if several else {})
        for u in evaluation.utterances
    ]
    with atomic_path(path) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False, errors="surrogateescape")


def _read_csv(path: str | Path, **options) -> pd.DataFrame:
    """A table as text; bytes of a file name that are not UTF-8 come back as they were."""
    return pd.read_csv(path, keep_default_na=False, dtype=str,
                       encoding_errors="surrogateescape", **options)


def read_table(path: str | Path, columns: Sequence[str]) -> pd.DataFrame:
    """Read columns of a table that `write_csv` wrote, as text.

    Raises:
        InputError: naming the file, when it cannot be read or lacks a column.
    """
    try:
        table = _read_csv(path)
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
