"""Signals that ask a command to stop: answered within seconds, whatever the command is doing."""

import ctypes
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
GRACE_SECONDS = 5.0  # for the main thread to end by itself
POLL_SECONDS = 0.05  # between looks at the handler of Ctrl-C


class StopRequests:
    """Answers signals while its block runs.

    Python runs signal handlers in the main thread, between two byte codes. A library that compiles
    for a minute therefore delays them, and one that imports modules turns a KeyboardInterrupt into
    other errors. So a thread watches, and ends the program where the main thread does not: after
    `GRACE_SECONDS`, or when the same signal arrives once more. A signal that was ignored when the
    program started (`nohup`, a background job) stays ignored. Whenever it starts a graph, MindSpore
    takes Ctrl-C for itself and makes SIGTERM of it; the thread puts Python's handler back.

    Args:
        on_request: called in the main thread with the number of the first signal.
        may_end: whether the program may end now without a loss; called in the thread.

    Attributes:
        number: the first signal that was received; 0 for none.
    """

    def __init__(self, on_request: Callable[[int], None],
                 may_end: Callable[[], bool] = lambda: True):
        self.number = 0
        self._on_request, self._may_end = on_request, may_end
        self._previous = {}

    def __enter__(self) -> "StopRequests":
        if threading.current_thread() is not threading.main_thread():
            return self  # signals arrive in the main thread only
        for number in STOP_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._note)
        self._interrupt_handler = _InterruptHandler()
        self._receiver, self._sender = socket.socketpair()
        self._sender.setblocking(False)
        self._previous_fd = signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, name="stop requests", daemon=True)
        self._thread.start()
        _active.append(self)
        return self

    def __exit__(self, *_) -> None:
        if self not in _active:
            return
        _active.remove(self)
        self._restore(self._previous_fd)
        self._sender.send(b"\0")
        self._thread.join()
        self._sender.close()
        self._receiver.close()

    def _restore(self, wakeup_fd: int) -> None:
        signal.set_wakeup_fd(wakeup_fd)
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame) -> None:
        if not self.number:
            self.number = number
            self._on_request(number)

    def _watch(self) -> None:
        received, deadline = set(), float("inf")
        while True:
            self._interrupt_handler.put_back()
            if select.select([self._receiver], [], [], POLL_SECONDS)[0]:
                number = self._receiver.recv(1)[0]
                if number == 0:
                    return
                if number not in self._previous:
                    continue
                if number in received:
                    self._end(number)
                received.add(number)
                deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
            if time.monotonic() > deadline and self._may_end():
                self._end(next(iter(received)))

    def _end(self, number: int) -> None:
        """End the program without unwinding it."""
        os.write(2, f"stopped at once by {signal.Signals(number).name}\n".encode())
        os._exit(128 + number)


class _InterruptHandler:
    """The system's handler of SIGINT, which a library may replace behind Python's back."""

    def __init__(self):
        self._sigaction = ctypes.CDLL(None).sigaction
        self._action = self._current()

    def _current(self) -> bytes:
        """The `struct sigaction`, larger than in any C library; its unused end is zero."""
        action = ctypes.create_string_buffer(256)
        self._sigaction(signal.SIGINT, None, action)
        return action.raw

    def put_back(self) -> None:
        """Set the handler again that was there when this object was made."""
        if self._current() != self._action:
            self._sigaction(signal.SIGINT, self._action, None)


_active: list[StopRequests] = []
_masks: list[set[int]] = []


def _hold_signals() -> None:
    """Before a fork: a signal that the new process gets at once must wait for its handlers."""
    if _active:
        _masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS))


def _release_signals() -> None:
    if _masks:
        signal.pthread_sigmask(signal.SIG_SETMASK, _masks.pop())


def _leave_to_the_parent() -> None:
    """In a forked process: answer signals as before, and do not wake the parent's thread."""
    while _active:
        _active.pop()._restore(-1)
    _release_signals()


os.register_at_fork(before=_hold_signals, after_in_parent=_release_signals,
                    after_in_child=_leave_to_the_parent)


def describe(number: int) -> str:
    """What to say when a signal stopped a command."""
    return "interrupted" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}"


def interrupt(number: int) -> None:
    """Unwind the main thread, as Ctrl-C does."""
    raise KeyboardInterrupt(describe(number))

