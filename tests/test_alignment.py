"""The best CTC path against all paths, and where utterances are cut between words."""

import dataclasses
import itertools

import numpy as np
import pytest

from src.alignment import WordTimes, ctc_align, quietest, read_word_times, word_gaps, write_word_times
from src.errors import InputError
from src.manifest import read_manifest

BLANK, RATE = 2, 16000


def best_of_all_paths(log_probs: np.ndarray, targets: list[int]) -> list[tuple[int, int]]:
    """First and last frame of each label on the most probable of all paths that give `targets`."""
    frames, classes = log_probs.shape
    paths = [path for path in itertools.product(range(classes), repeat=frames)
             if [c for c, _ in itertools.groupby(path) if c != BLANK] == targets]
    best = max(paths, key=lambda path: log_probs[range(frames), path].sum())
    runs = [(c, list(group)) for c, group in itertools.groupby(range(frames), key=lambda t: best[t])]
    return [(run[0], run[-1]) for c, run in runs if c != BLANK]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("targets", [[0], [1, 0], [0, 0], [0, 1, 1], [1, 0, 1]])
def test_the_path_is_the_best_of_all(targets, seed):
    log_probs = np.log(np.random.default_rng(seed).dirichlet([0.5] * 3, 6) + 1e-9)
    assert [tuple(pair) for pair in ctc_align(log_probs, targets, BLANK)] == best_of_all_paths(log_probs, targets)


def test_labels_that_need_all_frames():
    log_probs = np.log(np.full((3, 3), 1 / 3))
    assert ctc_align(log_probs, [0, 0], BLANK).tolist() == [[0, 0], [2, 2]]
    assert ctc_align(log_probs[:1], [1], BLANK).tolist() == [[0, 0]]


@pytest.mark.parametrize(("frames", "targets"), [(2, [0, 0]), (2, [0, 1, 0]), (1, [0, 1])])
def test_too_few_frames(frames, targets):
    with pytest.raises(ValueError, match=f"{len(targets)} labels cannot be aligned with {frames} frames"):
        ctc_align(np.log(np.full((frames, 3), 1 / 3)), targets, BLANK)


def test_gaps_are_between_the_letters_around_a_space():
    """OH A TEN: from H to A and from A to T."""
    frames = np.array([[2, 3], [5, 5], [6, 8], [9, 9], [11, 12], [15, 15], [16, 17], [20, 21]])
    space = 27
    assert word_gaps(frames, [15, 8, space, 1, space, 20, 5, 14], space).tolist() == [[5, 9], [9, 15]]
    assert word_gaps(frames[:1], [15], space).shape == (0, 2)


def test_the_cut_is_at_the_quietest_place_of_the_middle_half():
    samples = np.random.default_rng(0).uniform(-1, 1, RATE).astype(np.float32)
    samples[7000:7600] *= 0.01
    samples[5200:5600] = 0      # quieter, but too close to the label before
    assert 7000 <= quietest(samples, 5000, 9000, RATE) <= 7600
    assert quietest(samples, 5000, 5000, RATE) == 5000
    assert 0 <= quietest(samples, 0, len(samples), RATE) <= len(samples)


@pytest.fixture
def manifest(demo_corpus, labels):
    return read_manifest(demo_corpus / "demo_train_manifest.csv", labels)


def test_times_come_back_as_they_were(manifest, tmp_path):
    """Also those of words that pandas would read as missing values or numbers."""
    times: list[WordTimes | None] = [None] * len(manifest)
    times[1] = WordTimes(["NULL", "NA", "1"], np.array([1 / 3, 0.7]), 1.1)
    times[3] = WordTimes(["NAN"], np.array([]), 0.5)
    write_word_times(tmp_path / "words.csv", manifest, times)
    for expected, found in zip(times, read_word_times(tmp_path / "words.csv", manifest), strict=True):
        assert (found is None) == (expected is None)
        if found is not None:
            assert found.words == expected.words and found.seconds == expected.seconds
            np.testing.assert_array_equal(found.cuts, expected.cuts)
    lines = (tmp_path / "words.csv").read_text().splitlines()
    assert lines[:2] == ["audio_path,word,start,end", f"{manifest.audio_paths[1]},NULL,0.0,{1 / 3}"]


@pytest.mark.parametrize(("content", "words"), [
    (None, "words.csv: cannot read the word times"),
    ("", "words.csv: cannot read the word times"),
    ("audio_path,word,from,to\na.wav,A,0,1\n", "words.csv: no column 'start'"),
    ("audio_path,word,start,end\na.wav,A,soon,1.0\n", "words.csv: cannot read the word times"),
])
def test_a_file_that_cannot_be_used(manifest, tmp_path, content, words):
    if content is not None:
        (tmp_path / "words.csv").write_text(content)
    with pytest.raises(InputError) as refusal:
        read_word_times(tmp_path / "words.csv", dataclasses.replace(manifest, audio_paths=["a.wav"]))
    assert words in str(refusal.value)
