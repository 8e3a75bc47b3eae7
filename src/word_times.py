"""The times of the words of a data set: found with a network that has learned enough to tell them, kept as CSV."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from src.alignment import WordTimes, ctc_align, quietest, word_gaps
from src.batching import split_batches
from src.config import Config
from src.dataset import BatchSource, iterate_batches
from src.errors import InputError
from src.features import load_audio
from src.files import atomic_path
from src.labels import Labels
from src.manifest import Manifest
from src.predictor import Predict

logger = logging.getLogger(__name__)

COLUMNS = ["audio_path", "word", "start", "end"]    # seconds


def align_words(predict: Predict, manifest: Manifest, labels: Labels, config: Config) -> list[WordTimes | None]:
    """The word times of each row; None where CTC cannot align the transcript, or the audio cannot be read."""
    spect, found = config.DataConfig.SpectConfig, [None] * len(manifest)
    hop = config.ModelConfig.time_stride * spect.hop_length    # samples between output frames; the first is at 0
    batches = split_batches(np.argsort(manifest.seconds, kind="stable"), config.DataConfig.batch_size)
    for batch in iterate_batches(BatchSource(manifest, batches, labels, spect), config.DataConfig.num_workers):
        if not batch.rows:
            continue
        probs, lengths = predict(batch.inputs, batch.input_length)
        log_probs = np.log(np.maximum(probs, np.finfo(np.float32).tiny))
        for i, row in enumerate(batch.rows):
            targets = batch.targets[i, :batch.target_length[i]]
            try:
                frames = ctc_align(log_probs[i, :lengths[i]], targets, labels.blank_index)
                samples = load_audio(manifest.audio_paths[row], spect.sample_rate)
            except ValueError as error:
                logger.info("%s:%d: its words keep their order: %s", manifest.path, row + 1, error)
                continue
            cuts = [quietest(samples, start * hop, end * hop, spect.sample_rate) / spect.sample_rate
                    for start, end in word_gaps(frames, targets, labels.space_index)]
            found[row] = WordTimes(labels.decode(targets).split(), np.array(cuts), len(samples) / spect.sample_rate)
    return found


def write_word_times(path: str | Path, manifest: Manifest, times: Sequence[WordTimes | None]) -> None:
    """Write the word times of the rows of a manifest as a CSV file, one line a word: `COLUMNS`."""
    lines = []
    for audio_path, found in zip(manifest.audio_paths, times, strict=True):
        if found is not None:
            edges = [0.0, *found.cuts, found.seconds]
            lines += zip([audio_path] * len(found.words), found.words, edges[:-1], edges[1:], strict=True)
    with atomic_path(path) as temporary:
        pd.DataFrame(lines, columns=COLUMNS).to_csv(temporary, index=False)


def read_word_times(path: str | Path, manifest: Manifest) -> list[WordTimes | None]:
    """What `write_word_times` wrote for the rows of a manifest, None for those that the file does not have.

    Raises:
        InputError: naming the file when it cannot be read.
    """
    try:
        table = pd.read_csv(path, keep_default_na=False, dtype={"audio_path": str, "word": str})
        known = {name: WordTimes(lines["word"].tolist(), lines["start"].to_numpy(float)[1:], lines["end"].iloc[-1])
                 for name, lines in table.groupby("audio_path", sort=False)}
    except KeyError as error:
        raise InputError(f"{path}: no column {error}: word times have the columns {', '.join(COLUMNS)}") from None
    except (OSError, ValueError) as error:    # pandas' own errors are ValueErrors
        raise InputError(f"{path}: cannot read the word times: {' '.join(str(error).split())}") from None
    return [known.get(name) for name in manifest.audio_paths]
