"""The figures of a run, from single steps to metrics.csv, and what a resume takes over."""

import csv

import pytest

from deepspeech2.metrics import ErrorCounts
from src.callback import EpochSums, TrainingMonitor


def test_means_leave_out_skipped_steps_and_missing_utterances():
    sums = EpochSums()
    sums.add(6.0, 2.0, True, utterances=3, audio_seconds=9.0)
    sums.add(float("nan"), float("inf"), False, utterances=4, audio_seconds=8.0)
    sums.add(1.0, 4.0, True, utterances=1, audio_seconds=1.0)
    assert (sums.loss, sums.utterances, sums.updates, sums.skipped) == (7.0, 4, 2, 1)
    assert (sums.gradient_norm, sums.audio_seconds) == (6.0, 18.0)


@pytest.fixture
def monitor(tmp_path):
    return TrainingMonitor(tmp_path / "logs", epochs=3)


def test_an_epoch_becomes_a_line_of_metrics(monitor):
    monitor.begin(0, "a1")
    monitor.begin_epoch(0, batches=1, done=0)
    monitor.sums.add(8.0, 2.0, True, utterances=4, audio_seconds=6.0)
    monitor.end_step(1, 2.0, 2.0, True, learning_rate=0.5)
    monitor.end_training(1)
    monitor.end_epoch(ErrorCounts(words=4, word_deletions=1, chars=8, char_deletions=1))
    monitor.close()
    (row,) = csv.DictReader((monitor.log_dir / "metrics.csv").read_text().splitlines())
    assert row.pop("run") == "a1"
    found = {name: float(row[name]) for name in row}
    expected = {"epoch": 1, "step": 1, "learning_rate": 0.5, "train_loss": 2.0,
                "gradient_norm": 2.0, "val_wer": 25.0, "val_cer": 12.5, "skipped_steps": 0}
    assert found.items() >= expected.items()
    assert monitor.sums == EpochSums()


def test_an_epoch_whose_last_step_came_before_the_resume_is_recorded(monitor):
    """The run was stopped between the last step of an epoch and its evaluation."""
    monitor.begin(5, "a1")
    monitor.begin_epoch(0, batches=5, done=4)
    monitor.sums.add(8.0, 2.0, True, utterances=4, audio_seconds=6.0)
    monitor.end_step(5, 2.0, 2.0, True, learning_rate=0.5)
    progress = monitor.progress()
    monitor.close()
    resumed = TrainingMonitor(monitor.log_dir, epochs=3)
    resumed.restore(progress)
    resumed.begin(5, "a1")
    resumed.begin_epoch(0, batches=5, done=5)
    resumed.end_training(5)
    metrics = resumed.end_epoch(None)
    resumed.close()
    assert (metrics.learning_rate, metrics.train_loss, metrics.step) == (0.5, 2.0, 5)
