"""Batches against spectrograms and labels computed one file at a time."""

import logging
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from deepspeech2.audio import load_audio
from deepspeech2.features import SpectConfig, spectrogram
from src import dataset
from src.augment import Augmenter
from src.config import AugmentationConfig
from src.dataset import COLUMNS, BatchSource, create_dataset, training_batches
from src.manifest import read_manifest, write_manifest

SPECT = SpectConfig()


@pytest.fixture
def manifest(demo_corpus, labels):
    return read_manifest(demo_corpus / "demo_train_manifest.csv", labels)


@pytest.fixture
def own_manifest(manifest, labels, tmp_path):
    """Three utterances in files that a test may damage."""
    rows = []
    for i in range(3):
        for path, name in ((manifest.audio_paths[i], f"{i}.wav"),
                           (manifest.transcript_paths[i], f"{i}.txt")):
            shutil.copy(path, tmp_path / name)
        rows.append((tmp_path / f"{i}.wav", tmp_path / f"{i}.txt"))
    return write_manifest(tmp_path / "own_manifest.csv", rows, labels)[0]


@pytest.mark.parametrize(("num_workers", "shared_memory"), [(1, True), (2, True), (2, False)])
def test_batches_hold_every_utterance_padded_with_zeros(
    manifest, labels, num_workers, shared_memory, monkeypatch, caplog):
    """Also where there is no shared memory, which MindSpore would wait for without an end."""
    if not shared_memory:
        monkeypatch.setattr(dataset, "SHARED_MEMORY", "/nowhere")
    planned = np.split(np.random.default_rng(0).permutation(len(manifest)), [5, 6, 17])
    batches = list(training_batches(BatchSource(manifest, planned, labels, SPECT), num_workers))
    assert [b.rows for b in batches] == [p.tolist() for p in planned]
    for batch in batches:
        n, t = len(batch.rows), batch.input_length.max()
        assert batch.inputs.shape == (n, 1, 161, t) and batch.inputs.dtype == np.float32
        assert batch.targets.shape == (n, batch.target_length.max())
        assert batch.targets.dtype == np.int32
        assert batch.input_length.dtype == batch.target_length.dtype == np.int32
        for i, row in enumerate(batch.rows):
            expected = spectrogram(load_audio(manifest.audio_paths[row], 16000), SPECT)
            length = batch.input_length[i]
            np.testing.assert_array_equal(batch.inputs[i, 0, :, :length], expected)
            assert not batch.inputs[i, 0, :, length:].any()
            text = Path(manifest.transcript_paths[row]).read_text().strip()
            targets = batch.targets[i, :batch.target_length[i]]
            assert labels.decode(targets) == text == batch.texts[i]
            assert not batch.targets[i, batch.target_length[i]:].any()
    assert ("a thread loads instead" in caplog.text) is not shared_memory


@pytest.mark.parametrize(("num_workers", "segments"), [(2, 6), (4, 6), (8, 4)])
def test_the_shared_memory_that_loaders_need(manifest, labels, num_workers, segments, monkeypatch):
    """Each has two segments more than its queue, of the size of the largest batch."""
    config = AugmentationConfig(speed_volume_perturb=True, tempo=(0.5, 1.0))
    augmenter = Augmenter.create(config, 16000, 0, np.zeros(len(manifest)))
    batches = [np.array([0]), np.arange(5)]
    source = BatchSource(manifest, batches, labels, SPECT, augmenter)
    frames = 5 * manifest.seconds[:5].max() / 0.5 / 0.01
    needed = num_workers * segments * 161 * frames * 4
    for free, suffices in (0.99 * needed, False), (1.01 * needed, True):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        assert dataset._shared_memory_suffices(source, num_workers) is suffices


def test_no_more_loaders_than_cores(caplog):
    cores = len(os.sched_getaffinity(0))
    assert dataset.usable_workers(cores) == cores and not caplog.text
    assert dataset.usable_workers(cores + 3) == cores
    assert f"num_workers is {cores + 3}, but there are {cores} cores" in caplog.text


def test_the_dataset_has_the_documented_columns(manifest, labels):
    dataset = create_dataset(BatchSource(manifest, [np.array([0, 1])], labels, SPECT))
    assert dataset.get_col_names()[:4] == COLUMNS[:4] == ["inputs", "input_length", "targets",
                                                          "target_length"]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_file_that_goes_bad_is_passed_over_and_counted(own_manifest, labels, num_workers, caplog):
    broken = own_manifest.audio_paths[1]
    with open(broken, "r+b") as file:
        file.truncate(1000)
    with caplog.at_level(logging.WARNING):
        batch, = training_batches(BatchSource(own_manifest, [np.arange(3)], labels, SPECT),
                                  num_workers)
    assert (batch.rows, batch.missing, len(batch.inputs)) == ([0, 2], [1], 2)
    if num_workers == 1:  # a worker process writes its warning to the terminal
        assert f"{own_manifest.path}:2" in caplog.text and "truncated" in caplog.text


def test_a_batch_of_bad_files_has_no_rows(own_manifest, labels, tmp_path):
    for path in own_manifest.audio_paths:
        open(path, "wb").close()
    batches = list(training_batches(BatchSource(own_manifest, [np.array([2]), np.array([0, 1])],
                                                labels, SPECT)))
    assert [(b.rows, b.texts, b.missing) for b in batches] == [([], [], [2]), ([], [], [0, 1])]


def test_no_batches_is_no_error(manifest, labels):
    assert list(training_batches(BatchSource(manifest, [], labels, SPECT))) == []
