"""The hosts of one job: their launchers meet before anything starts, then watch each other.

A collective operation waits for all processes, without a limit of time, and MindSpore's scheduler
waits for the processes that were announced to it. So each launcher must know what others were told,
and when another one fails, dies or is cut off. The launcher of host 0 listens on MASTER_PORT until
all have met; the connections to it stay open, and carry JSON objects, one a line.
"""

import contextlib
import json
import socket
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from deepspeech2.errors import InputError, RunError

if TYPE_CHECKING:
    from src.launch import Job

MEETING_SECONDS = 600.0  # from the first host to the last
HELLO_SECONDS = 10.0  # for a connection to say which host it is
LEAVING_SECONDS = 3.0  # for the other hosts to notice
BEAT_SECONDS = 3.0
SILENT_SECONDS = 30.0  # then a host counts as lost
MAX_LINE = 10_000  # bytes
# MindSpore gives a connection between processes 30 ms, then gives it up and begins another one
ROUND_TRIP_SECONDS = 0.1


@dataclass(frozen=True)
class Failure:
    """Why another host ends the job.

    Attributes:
        name: how messages call the host.
        message: what happened there.
        code: exit code of the job there.
        goes_on: whether its processes may be alive, without a launcher: they have got SIGTERM.
    """

    name: str
    message: str
    code: int = 1
    goes_on: bool = False

    def last_words(self) -> str:
        """What happened, as of a process of this host."""
        return self.message


class _Link:
    """A connection to the launcher of another host, which never waits for it."""

    def __init__(self, connection: socket.socket):
        connection.setblocking(False)
        self._connection, self._received = connection, b""
        self.is_open, self.since = True, time.monotonic()
        self.name = ""  # of the other host
        self.has_left = False  # whether it said that its end is no failure
        self.silent_seconds = 0.0

    def send(self, **message: Any) -> None:
        with contextlib.suppress(OSError):  # whoever does not read is noticed by silence
            self._connection.send(json.dumps(message).encode() + b"\n")

    def send_failure(self, failure: Failure) -> None:
        self.send(failed=asdict(failure))

    def receive(self) -> list[dict]:
        """The messages that have come; `is_open` is False after the end, and after nonsense."""
        try:
            while data := self._connection.recv(4096):
                self._received += data
                if len(self._received) > MAX_LINE:
                    break
            self.is_open = False
        except BlockingIOError:
            pass
        except OSError:
            self.is_open = False
        *lines, self._received = self._received.split(b"\n")
        try:
            messages = [json.loads(line) for line in lines]
        except ValueError:
            messages = [None]
        if all(isinstance(message, dict) for message in messages):
            return messages
        self.is_open = False
        return []

    def finish(self) -> None:
        """Send no more; the other side learns it when it has read all."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._connection.close()


class Hosts:
    """The other hosts of a job; a job on one host has none.

    Args:
        job: where the processes are.
        port: the bound socket of MASTER_PORT on host 0; None elsewhere.
    """

    def __init__(self, job: "Job", port: socket.socket | None):
        self._job, self._port = job, port
        self._own = {"host": job.host, "hosts": job.hosts, "size": job.size,
                     "name": f"host {job.host} ({socket.gethostname()})"}
        self._links: list[_Link] = []
        self._next_beat = 0.0

    @property
    def are_there(self) -> bool:
        """Whether a host whose launcher is connected to this one has not left."""
        return bool(self._links)

    def meet(self) -> None:
        """Wait until the launchers of all hosts are there, with settings that fit.

        Raises:
            InputError: on all hosts, when one was started with other settings.
            RunError: when a host does not come within `MEETING_SECONDS`.
        """
        if self._job.hosts == 1:
            return
        try:
            if self._port:
                self._receive_guests(self._port)
            else:
                self._visit()
        except BaseException:
            self.close()
            raise

    def poll(self, seconds: float) -> Failure | None:
        """What has ended the job elsewhere, or None.

        Time is counted in calls: a batch system may stop all launchers for a while.

        Args:
            seconds: since the last call.
        """
        if time.monotonic() >= self._next_beat:
            self._next_beat = time.monotonic() + BEAT_SECONDS
            self._tell()
        for link in list(self._links):
            if failure := self._look_at(link, seconds):
                for other in self._links:  # host 0 is the only one that knows all
                    if other is not link:
                        other.send_failure(failure)
                return failure
        return None

    def _look_at(self, link: _Link, seconds: float) -> Failure | None:
        """What has ended the job at the other end of a connection; None while all is well."""
        messages = link.receive()
        link.silent_seconds = 0.0 if messages else link.silent_seconds + seconds
        link.has_left |= any("left" in message for message in messages)
        for message in messages:
            if "failed" in message:
                return Failure(**message["failed"])
        is_silent = link.silent_seconds >= SILENT_SECONDS
        if link.is_open and not is_silent and not link.has_left:
            return None
        self._links.remove(link)
        link.close()
        if link.has_left:
            return None
        if is_silent:
            return Failure(link.name, f"failed: no sign of life for {SILENT_SECONDS:.0f} s: the "
                           "host hangs or is cut off; go on with --resume auto")
        return Failure(link.name, "failed: the launcher there has died; go on with --resume auto",
                       goes_on=True)

    def tell_failure(self, message: str, code: int) -> None:
        """Tell the others that something on this host has ended the job."""
        for link in self._links:
            link.send_failure(Failure(self._own["name"], message, code))

    def close(self) -> None:
        """Leave the others; the end of this launcher is no failure for them."""
        self._tell(left=True)
        for link in self._links:
            link.finish()
        # to close a connection before all is read would take back what was sent last
        deadline = time.monotonic() + LEAVING_SECONDS
        while any(link.is_open for link in self._links) and time.monotonic() < deadline:
            for link in self._links:
                link.receive()
            time.sleep(0.02)
        for link in self._links:
            link.close()
        self._links.clear()

    def _tell(self, **message: Any) -> None:
        for link in self._links:
            link.send(**message)

    def _visit(self) -> None:
        """Connect to host 0 and wait for its word."""
        where = f"host 0 at {self._job.address}:{self._job.port}"
        link: _Link | None = None
        waiting = _Waiting(lambda: "other hosts" if link else where)
        while True:
            if link is None:
                with contextlib.suppress(OSError):
                    connection, seconds = self._connect()
                    link = _Link(connection)
                    link.name = where
                    link.send(**self._own, round_trip=seconds)
            for message in link.receive() if link else ():
                if "refused" in message:
                    link.close()
                    raise InputError(str(message["refused"]))
                if "go" in message:
                    link.name = str(message["go"])
                    self._links = [link]
                    return
            if link and not link.is_open:  # by a host 0 that was started anew, or something else
                link.close()
                link = None
            waiting.go_on()

    def _connect(self) -> tuple[socket.socket, float]:
        """A connection to host 0, and the shortest of three times that it took."""
        address, shortest = (self._job.address, self._job.port), float("inf")
        for _ in range(3):
            start = time.monotonic()
            connection = socket.create_connection(address, HELLO_SECONDS)
            shortest = min(shortest, time.monotonic() - start)
            if shortest <= ROUND_TRIP_SECONDS:
                break
            connection.close()
        else:
            connection = socket.create_connection(address, HELLO_SECONDS)
        return connection, shortest

    def _receive_guests(self, port: socket.socket) -> None:
        """Wait for the launchers of all other hosts; then tell them to begin."""
        port.listen()
        port.setblocking(False)
        arrivals: list[_Link] = []
        guests: dict[int, _Link] = {}

        def missing() -> str:
            return ", ".join(f"host {host}" for host in range(1, self._job.hosts)
                             if host not in guests)

        waiting = _Waiting(missing)
        while missing():
            with contextlib.suppress(OSError):
                arrivals.append(_Link(port.accept()[0]))
            for link in list(arrivals):
                if self._is_guest(link, guests):
                    arrivals.remove(link)
                elif not link.is_open or time.monotonic() - link.since > HELLO_SECONDS:
                    arrivals.remove(link)
                    link.close()
            for host, link in list(guests.items()):
                link.receive()
                if not link.is_open:  # it was stopped, and may be started again
                    del guests[host]
                    self._links.remove(link)
                    link.close()
            waiting.go_on()
        for link in arrivals:
            link.close()
        self._tell(go=self._own["name"])

    def _is_guest(self, link: _Link, guests: dict[int, _Link]) -> bool:
        """Whether a connection has said which host it is; it is a guest then.

        Raises:
            InputError: after telling all, when the host was started with other settings.
        """
        hello = next(iter(link.receive()), {})
        if not hello.keys() >= self._own.keys():
            return False
        link.name = str(hello["name"])
        self._links.append(link)
        if reason := self._misfit(hello, guests):
            self._tell(refused=reason)
            raise InputError(reason)
        guests[hello["host"]] = link
        return True

    def _misfit(self, hello: dict, guests: dict[int, _Link]) -> str:
        """Why a host cannot take part; '' when it can."""
        own, name = self._own, hello.get("name")
        if (seconds := hello.get("round_trip", 0.0)) > ROUND_TRIP_SECONDS:
            return (f"{name} is {1000 * seconds:.0f} ms away from {own['name']}, there and back: "
                    "too far for MindSpore, whose processes must connect within 30 ms")
        for key, variable in (("hosts", "NODE_COUNT"), ("size", "RANK_SIZE")):
            if hello.get(key) != own[key]:
                return (f"{name} was started with {variable}={hello.get(key)}, {own['name']} with "
                        f"{variable}={own[key]}: start all hosts with the same")
        host = hello.get("host")
        if host not in range(1, self._job.hosts) or host in guests:
            other = guests[host].name if host else own["name"]
            return f"{name} and {other} were started with the same NODE_RANK: give each its own"
        return ""


class _Waiting:
    """Says after a while who is waited for, and ends what lasts too long."""

    def __init__(self, missing: Callable[[], str]):
        self._missing = missing
        self._start, self._said = time.monotonic(), False

    def go_on(self) -> None:
        """Wait a moment.

        Raises:
            RunError: after `MEETING_SECONDS`.
        """
        time.sleep(0.1)
        seconds = time.monotonic() - self._start
        if seconds > MEETING_SECONDS:
            raise RunError(f"{self._missing()} did not come within {MEETING_SECONDS / 60:.0f} "
                           "minutes")
        if seconds > HELLO_SECONDS and not self._said:
            print(f"== waiting for {self._missing()}", flush=True)
            self._said = True
