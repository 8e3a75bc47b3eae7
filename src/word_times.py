"""Find the times of the words of a data set with a network that has learned enough to tell them."""

import logging

import numpy as np

from src.alignment import WordTimes, ctc_align, quietest, word_gaps
from src.batching import split_batches
from src.config import Config
from src.dataset import BatchSource, iterate_batches
from src.features import AudioError, load_audio
from src.labels import Labels
from src.manifest import Manifest
from src.predictor import Predict

logger = logging.getLogger(__name__)


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
            except (AudioError, ValueError) as error:
                logger.info("%s:%d: its words keep their order: %s", manifest.path, row + 1, error)
                continue
            cuts = [quietest(samples, start * hop, end * hop, spect.sample_rate) / spect.sample_rate
                    for start, end in word_gaps(frames, targets, labels.space_index)]
            found[row] = WordTimes(labels.decode(targets).split(), np.array(cuts), len(samples) / spect.sample_rate)
    return found
