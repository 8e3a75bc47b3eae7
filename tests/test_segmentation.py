"""Recordings cut into pieces: nothing is lost, whatever the length, the blocks and the pauses."""

import numpy as np
import pytest
from conftest import voice

from deepspeech2.segmentation import CONTEXT, LONGEST, MARGIN, SILENCE, cut_recording

RATE, HOP = 16000, 640
RNG = np.random.default_rng(0)


def room(seconds: float) -> np.ndarray:
    """The noise of a quiet room."""
    return RNG.normal(0, 1e-4, round(seconds * RATE)).astype(np.float32)


def talk(*seconds: float) -> np.ndarray:
    """A voice in a quiet room; it speaks for the first time, pauses for the second, and so on."""
    parts = [voice(round(length * RATE)) if i % 2 == 0 else np.zeros(round(length * RATE))
             for i, length in enumerate(seconds)]
    whole = np.concatenate(parts).astype(np.float32)
    return whole + room(len(whole) / RATE)


def pieces(samples: np.ndarray, block: int = 1 << 20) -> list:
    blocks = [samples[i : i + block] for i in range(0, len(samples), block)]
    return list(cut_recording(blocks, RATE, HOP))


def check(samples: np.ndarray, found: list) -> None:
    """The pieces are parts of the recording, in order; only silence is missing."""
    end = 0
    for piece in found:
        assert piece.start >= end and (piece.start == end or not piece.joined)
        assert np.abs(samples[end : piece.start]).max(initial=0) < 1e-3
        first, end = piece.start - piece.before, piece.start + piece.length
        assert np.array_equal(piece.samples, samples[first : end + piece.after])
        assert piece.length <= LONGEST * RATE and piece.before % HOP == 0
    assert np.abs(samples[end:]).max(initial=0) < 1e-3
    for piece, later in zip(found, found[1:], strict=False):
        assert piece.length % HOP == 0 or not later.joined
        assert (piece.after > 0) == later.joined == (later.before > 0)


@pytest.mark.parametrize("seconds", [0.01, 0.5, 7.3, 29.99, 30.0])
def test_a_recording_of_at_most_one_piece_is_not_touched(seconds):
    samples = voice(round(seconds * RATE))
    (piece,) = pieces(samples)
    assert (piece.start, piece.length, piece.before, piece.joined) == (0, len(samples), 0, False)
    assert np.array_equal(piece.samples, samples)


def test_nothing_is_no_piece():
    assert pieces(np.zeros(0, np.float32)) == []


@pytest.mark.parametrize("more", [1, 2, 319, 320, 321, 639, 640, 641, 3200, 16000, 32000, 32001,
                                  64000, 64001, 79999, 160000])
@pytest.mark.parametrize("pause", [0.0, 0.5])
def test_every_length_around_a_border(more, pause):
    """Those of the first cut, the context behind it, and what is loaded at once (34 s)."""
    samples = talk(12, pause, 18 - pause + more / RATE)[: 30 * RATE + more]
    found = pieces(samples)
    check(samples, found)
    assert found[-1].start + found[-1].length == len(samples) and len(found) == 2
    assert found[1].joined == (not pause)
    if pause:
        assert 12 * RATE < found[1].start < 12.5 * RATE


@pytest.mark.parametrize("seconds, cuts", [
    ((5, 0.4, 5, 0.8, 25), [10.8]),  # the longer one
    ((14, 0.4, 8, 0.8, 12), [14.2]),  # the one that makes a piece of at most 15 s
    ((18, 0.4, 8, 0.8, 12), [26.8]),  # of longer pieces again that of the longest pause
    ((2, 0.8, 20, 0.2, 5, 0.4, 8), [28.2]),  # no piece of less than 3 s, nor a pause of 0.2 s
    ((10, 0.4, 10, 0.4, 25), [10.2, 20.6]),
])
def test_where_a_long_recording_is_cut(seconds, cuts):
    samples = talk(*seconds)
    found = pieces(samples)
    np.testing.assert_allclose([piece.start / RATE for piece in found], [0, *cuts], atol=0.05)
    assert not any(piece.joined for piece in found)
    check(samples, found)


@pytest.mark.parametrize("block", [7, 160, 16000, 250001])
def test_blocks_do_not_matter(block):
    samples = talk(3, 2.5, 4) if block < 100 else talk(20, 0.5, 40, 5, 2, 70, 2.5)
    expected = [(p.start, p.length, p.before, p.after, p.joined, p.speech) for p in pieces(samples)]
    found = [(p.start, p.length, p.before, p.after, p.joined, p.speech)
             for p in pieces(samples, block)]
    assert found == expected


def test_without_a_pause_it_is_cut_at_the_quietest_moment_and_both_sides_hear_more():
    samples = voice(40 * RATE)
    samples[24 * RATE : 24 * RATE + RATE // 8] *= 0.1
    first, second = pieces(samples)
    assert 24 * RATE <= second.start <= 24.125 * RATE and second.joined
    assert first.after == second.before == CONTEXT * RATE
    check(samples, [first, second])


@pytest.mark.parametrize("silence", [SILENCE + 0.1, 10, 31, 34, 100])
def test_long_silence_is_left_out(silence):
    samples = talk(3, silence, 4, silence)
    first, second = pieces(samples)
    check(samples, [first, second])
    assert abs(first.length / RATE - (3 + MARGIN)) < 0.05
    assert abs(second.start / RATE - (3 + silence - MARGIN)) < 0.05
    assert abs(second.length / RATE - (4 + 2 * MARGIN)) < 0.1


@pytest.mark.parametrize("silence", [10, 33.5, 100])
def test_digital_silence_around_a_recording_is_cut_off_exactly(silence):
    """The piece is the recording itself, so that its emissions are the same bit for bit."""
    recording = np.concatenate([room(0.2), talk(3, 0.3, 4), room(0.3)])
    nothing = np.zeros(round(silence * RATE), np.float32)
    whole = pieces(recording)[0]
    (piece,) = pieces(np.concatenate([nothing, recording, nothing]))
    assert piece.start == len(nothing) and np.array_equal(piece.samples, recording)
    assert piece.speech == pytest.approx(whole.speech)


@pytest.mark.parametrize("silence", [0.5, 1.98, 2.0, 2.02, 2.5, 30, 32, 34, 34.5, 68, 70])
def test_silence_of_any_length_alone(silence):
    samples = np.zeros(round(silence * RATE), np.float32)
    found = pieces(samples) + pieces(samples + room(silence)[: len(samples)])
    assert len(found) <= 2 and all(piece.speech == 0 for piece in found)


def test_memory_does_not_grow():
    """Ten minutes in blocks, of which none is kept for long."""
    import weakref
    alive: list[weakref.ref] = []

    def blocks():
        for _ in range(10):
            block = talk(9, 0.7, 50.3)
            alive.append(weakref.ref(block))
            yield block
            assert sum(ref() is not None for ref in alive) <= 3

    end = 0
    for piece in cut_recording(blocks(), RATE, HOP):
        end = piece.start + piece.length
    assert end == 600 * RATE
