"""What one client may ask for, so that it cannot take the service from the others."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """The limits of a service.

    Attributes:
        upload_bytes: the longest body of a request.
        audio_seconds: the longest recording.
        requests: recordings that are received or recognised at once; more are told to come later.
        streams: streams at once.
        connections: connections at once; more are closed.
        header_seconds: for the header of a request.
        body_seconds: for a body, on top of what it takes at `body_rate`.
        body_rate: the slowest body, in bytes per second.
        write_seconds: for a client to take what was sent to it.
        message_bytes: the longest message of a stream.
        session_seconds: the longest stream.
        idle_seconds: for a stream to send audio or `KeepAlive`.
        stop_seconds: for what is under way when the service is asked to stop.
    """

    upload_bytes: int = 256 * 10**6
    audio_seconds: float = 4 * 3600.0
    requests: int = 32
    streams: int = 100
    connections: int = 500
    header_seconds: float = 10.0
    body_seconds: float = 20.0
    body_rate: float = 16000.0
    write_seconds: float = 30.0
    message_bytes: int = 1 << 20
    session_seconds: float = 4 * 3600.0
    idle_seconds: float = 30.0
    stop_seconds: float = 30.0
