"""The network is run for many clients in turn, in small batches."""

import threading
from concurrent.futures import CancelledError

import pytest

from deepspeech2.service.batching import Batcher, Work


class Network:
    """Takes numbers; each batch waits until it is let through.

    Attributes:
        batches: what it was given.
    """

    def __init__(self):
        self.batches = []
        self.began, self.go = threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self, contents):
        self.batches.append(list(contents))
        self.began.release()
        assert self.go.acquire(timeout=30)
        if "bad" in contents:
            raise RuntimeError("bad")
        return [ValueError("odd") if content == "odd" else content for content in contents]


@pytest.fixture
def network():
    return Network()


@pytest.fixture
def batcher(network):
    batcher = Batcher(network, most_frames=100, size=4, wait=0.0)
    # while the first batch runs, tests can fill the queues
    batcher.submit("first", Work("first", 1, "first"))
    assert network.began.acquire(timeout=30)
    yield batcher
    for _ in range(100):
        network.go.release()
    batcher.close()


def submit(batcher, client, *contents, group="g", frames=1):
    return [batcher.submit(client, Work(group, frames, content)) for content in contents]


def finish(network, futures):
    for _ in range(100):
        network.go.release()
    return [future.result(timeout=30) for future in futures]


def test_works_of_clients_share_batches_in_turn(network, batcher):
    futures = submit(batcher, "a", 1, 2, 3) + submit(batcher, "b", 4, 5) + submit(batcher, "c", 6)
    assert len(batcher) == 6
    assert finish(network, futures) == [1, 2, 3, 4, 5, 6]
    assert network.batches[1:] == [[1, 4, 6, 2], [3, 5]]


def test_a_short_recording_does_not_wait_for_the_end_of_a_long_one(network, batcher):
    futures = submit(batcher, "long", *range(20), frames=100)
    futures += submit(batcher, "short", "s", frames=10)
    finish(network, futures)
    assert network.batches[1:3] == [[0], ["s"]]


def test_a_batch_has_limited_frames_with_its_padding(network, batcher):
    futures = submit(batcher, "a", "a", frames=10) + submit(batcher, "b", "b", frames=51)
    futures += submit(batcher, "c", "c", frames=50)
    finish(network, futures)
    assert network.batches[1:] == [["a", "c"], ["b"]]


def test_only_works_of_one_group_share_a_batch(network, batcher):
    futures = submit(batcher, "a", "a", group="x") + submit(batcher, "b", "b", group="y")
    futures += submit(batcher, "c", "c", group="x")
    finish(network, futures)
    assert network.batches[1:] == [["a", "c"], ["b"]]


def test_errors_reach_the_clients_and_the_others_go_on(network, batcher):
    (odd, good) = submit(batcher, "a", "odd", "good")
    (bad,) = submit(batcher, "b", "bad", group="b")
    (last,) = submit(batcher, "c", "last", group="c")
    assert finish(network, [good, last]) == ["good", "last"]
    with pytest.raises(ValueError, match="odd"):
        odd.result()
    with pytest.raises(RuntimeError, match="bad"):
        bad.result()


def test_what_is_cancelled_is_not_recognised(network, batcher):
    kept, gone = submit(batcher, "a", "kept", "gone")
    assert gone.cancel()
    finish(network, [kept])
    assert network.batches[1:] == [["kept"]]


def test_closing_cancels_what_waits_and_what_comes(network, batcher):
    (waiting,) = submit(batcher, "a", 1)
    closing = threading.Thread(target=batcher.close)
    closing.start()
    with pytest.raises(CancelledError):
        waiting.result(timeout=30)
    network.go.release()
    closing.join(timeout=30)
    (late,) = submit(batcher, "a", 2)
    assert late.cancelled() and network.batches == [["first"]]


def test_a_work_waits_a_moment_for_others():
    batches = []
    batcher = Batcher(lambda works: batches.append(list(works)) or works, 100, size=2, wait=30.0)
    futures = submit(batcher, "a", 1) + submit(batcher, "b", 2)
    assert [future.result(timeout=20) for future in futures] == [1, 2]  # full: nobody else can come
    batcher.close()
    assert batches == [[1, 2]]
