"""Cuts between the words of utterances: found by forced alignment, stored as CSV."""

import hashlib
import io
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from deepspeech2.audio import load_audio
from deepspeech2.decoding.alignment import ctc_align, log_probabilities
from deepspeech2.errors import InputError, first_line
from deepspeech2.files import atomic_path
from deepspeech2.model import Model
from src.augment import WordCuts
from src.config import Config
from src.dataset import emissions
from src.manifest import Manifest

logger = logging.getLogger(__name__)

COLUMNS = ["row", "word", "start", "end"]  # row of the manifest; times in seconds
_ENERGY_SECONDS, _STEP_SECONDS = 0.02, 0.005  # length and step of the window that measures energy
# share of a gap at both ends that is not cut, because CTC places a label anywhere in its sound
_MARGIN = 0.25


def find_word_cuts(model: Model, manifest: Manifest, config: Config) -> list[WordCuts | None]:
    """Find the cuts of all utterances of a manifest.

    Args:
        model: aligns the transcripts.
        manifest: the data set.
        config: batch size and number of loading threads.

    Returns:
        The cuts of each row; None if CTC cannot align its transcript, or its audio is unreadable.
    """
    found: list[WordCuts | None] = [None] * len(manifest)
    shortest_first = np.argsort(manifest.seconds, kind="stable")
    for batch, probs in emissions(model, manifest, shortest_first, config):
        for row, text, matrix in zip(batch.rows, batch.texts, probs, strict=True):
            try:
                found[row] = _cuts(model, matrix, text, manifest.audio_paths[row])
            except ValueError as error:
                logger.info("%s: its words keep their order: %s", manifest.where(row), error)
    return found


def _cuts(model: Model, probs: np.ndarray, text: str, audio_path: str) -> WordCuts:
    """The cuts of one utterance from its (T', C) class probabilities. Raises ValueError."""
    targets = model.labels.encode(text)
    log_probs = log_probabilities(probs)
    frames = ctc_align(log_probs, targets, model.labels.blank_index)
    rate = model.spect.sample_rate
    samples = load_audio(audio_path, rate)
    gaps = word_gaps(frames, targets, model.labels.space_index) * model.hop_samples
    cuts = [quietest_cut(samples, start, end, rate) / rate for start, end in gaps]
    return WordCuts(text.split(), np.array(cuts), len(samples) / rate)


def word_gaps(frames: np.ndarray, targets: Sequence[int], space_index: int) -> np.ndarray:
    """The gaps between words.

    Args:
        frames: (U, 2) first and last frame of each label.
        targets: (U,) class indices of the labels, with single spaces between words.
        space_index: class of the space.

    Returns:
        (words - 1, 2) last frame of a word, first frame of the next word.
    """
    spaces = np.flatnonzero(np.asarray(targets) == space_index)
    return np.stack([frames[spaces - 1, 1], frames[spaces + 1, 0]], 1)


def quietest_cut(samples: np.ndarray, start: int, end: int, sample_rate: int) -> int:
    """The sample in the middle half of a gap around which 20 ms have the least energy.

    Args:
        samples: (n,) float32.
        start: first sample of the gap.
        end: last sample of the gap.
        sample_rate: Hz.
    """
    half = round(_ENERGY_SECONDS * sample_rate) // 2
    step = max(1, round(_STEP_SECONDS * sample_rate))
    margin = round(_MARGIN * (end - start))
    centres = np.arange(start + margin, end - margin + 1, step)
    sums = np.concatenate([[0.0], np.cumsum(np.square(samples, dtype=np.float64))])
    low, high = np.clip(centres - half, 0, len(samples)), np.clip(centres + half, 0, len(samples))
    return int(centres[np.argmin((sums[high] - sums[low]) / np.maximum(1, high - low))])


def write_word_cuts(path: str | Path, manifest: Manifest, cuts: Sequence[WordCuts | None]) -> None:
    """Write the cuts of a manifest's rows as CSV with `COLUMNS`, a line for each word.

    The first line holds the checksum of the others, the second names the data set.
    """
    lines = []
    for row, found in enumerate(cuts):
        if found is not None:
            edges = [0.0, *found.cuts, found.seconds]
            rows = [row] * len(found.words)
            lines += zip(rows, found.words, edges[:-1], edges[1:], strict=True)
    table = pd.DataFrame(lines, columns=COLUMNS).to_csv(index=False).encode()
    content = _data_set_line(manifest) + table
    with atomic_path(path) as temporary:
        temporary.write_bytes(_checksum_line(content) + content)


def _checksum_line(content: bytes) -> bytes:
    return f"# sha256 of the lines below: {hashlib.sha256(content).hexdigest()}\n".encode()


def _data_set_line(manifest: Manifest) -> bytes:
    return f"# data set: {manifest.fingerprint()}\n".encode()


def read_word_cuts(path: str | Path, manifest: Manifest) -> list[WordCuts | None] | None:
    """Read what `write_word_cuts` wrote.

    Returns:
        The cuts of each row of the manifest, None for rows that the file does not name; None when
        the cuts are those of another data set. A data set may have moved to another folder.

    Raises:
        InputError: naming the file, when it cannot be read or is not whole.
    """
    try:
        first, _, content = Path(path).read_bytes().partition(b"\n")
    except OSError as error:
        raise InputError(f"{path}: cannot read the word cuts: {error.strerror}") from None
    if first + b"\n" != _checksum_line(content):
        raise InputError(
            f"{path}: cut off or changed since it was written: put it back, or remove it, and the "
            "word cuts are found anew"
        )
    data_set, _, table = content.partition(b"\n")
    if data_set + b"\n" != _data_set_line(manifest):
        return None
    try:
        # as texts, because pandas' own reader of numbers can end the process
        words = pd.read_csv(io.BytesIO(table), keep_default_na=False, dtype=str)
        words[["start", "end"]] = words[["start", "end"]].astype(float)
        known = {
            row: WordCuts(
                lines["word"].tolist(), lines["start"].to_numpy()[1:], lines["end"].iloc[-1]
            )
            for row, lines in words.groupby("row", sort=False)
        }
    # what we wrote can be read: this is a file that somebody else made
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: no word cuts: {first_line(error)}") from None
    return [known.get(str(row)) for row in range(len(manifest))]
