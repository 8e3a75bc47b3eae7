"""What Prometheus can read about a service."""

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)


class Metrics:
    """Counters of one service, in a registry of their own.

    Attributes:
        answers: requests by path and HTTP status; 499 stands for a client that was gone.
        seconds: time that requests took, by path.
        audio: seconds of audio that were recognised, by kind: `file` or `stream`.
        batches: sizes of batches.
        requests, streams: recordings and streams under way.
    """

    def __init__(self):
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.answers = Counter(
            "deepspeech2_requests", "Requests that ended", ["path", "status"], registry=registry
        )
        self.seconds = Histogram(
            "deepspeech2_request_seconds",
            "Time that requests took",
            ["path"],
            buckets=(0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300, 1800),
            registry=registry,
        )
        self.audio = Counter(
            "deepspeech2_audio_seconds", "Audio that was recognised", ["kind"], registry=registry
        )
        self.batches = Histogram(
            "deepspeech2_batch_size",
            "Pieces or chunks in a batch",
            buckets=range(1, 9),
            registry=registry,
        )
        self.requests = Gauge(
            "deepspeech2_requests_in_progress", "Recordings under way", registry=registry
        )
        self.streams = Gauge(
            "deepspeech2_streams_in_progress", "Streams under way", registry=registry
        )
        self._queue = Gauge(
            "deepspeech2_queue_length", "Pieces and chunks that wait", registry=registry
        )

    def watch_queue(self, length: Callable[[], int]) -> None:
        """Report what a function returns as the length of the queue."""
        self._queue.set_function(length)

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self._registry)
