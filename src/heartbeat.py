"""Processes of one run that watch each other: none waits for ever for one that is stopped or dead.

A collective operation waits for all processes, without a limit of time. So each process has a
thread that touches a file of its own every few seconds, in the folder that all share, and looks at
the files of the others. Loading, compiling and saving do not stop this thread; SIGSTOP, an
exhausted memory or a cut network do.
"""

import contextlib
import os
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from src.distributed import Group

BEAT_SECONDS = 3.0
SILENT_BEATS = 10  # then a process counts as dead


class Heartbeat:
    """Ends this process, while its block runs, when another one of its run is silent.

    Time is counted in own beats: a computer that sleeps, and a folder that is out of reach for
    all, therefore count for nothing. A process that leaves its block with an exception goes silent;
    one that leaves it without, or after a signal, is not waited for.

    Args:
        folder: a folder that all processes share, in which no other run writes.
        group: the processes of the run.
    """

    def __init__(self, folder: Path, group: "Group"):
        self._folder, self._group = folder, group
        self._own = self._path(group.rank)
        self._seen = {self._path(rank): 0 for rank in range(group.size) if rank != group.rank}
        self._silent_beats = dict.fromkeys(self._seen, 0)
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> "Heartbeat":
        if self._group.size == 1:
            return self
        name = f"process {self._group.rank} of {self._group.size}"
        self._own.write_text(f"{name} (pid {os.getpid()} on {socket.gethostname()})")
        if self._group.is_first:
            for path in self._folder.glob(".heartbeat-*"):  # of a run with more processes
                if path != self._own and path not in self._seen:
                    path.unlink(missing_ok=True)
        self._group.wait()
        self._thread.start()
        return self

    def __exit__(self, _kind, error: BaseException | None, _traceback) -> None:
        if self._group.size == 1:
            return
        self._left.set()
        self._thread.join(BEAT_SECONDS)  # not for ever: the folder may be out of reach
        if error is None or getattr(error, "signal_number", 0):
            self._own.unlink(missing_ok=True)

    def _path(self, rank: int) -> Path:
        return self._folder / f".heartbeat-{rank}"

    def _beat(self) -> None:
        while not self._left.wait(BEAT_SECONDS):
            with contextlib.suppress(OSError):
                os.utime(self._own)  # works on a full disk too
            for path in self._seen:
                with contextlib.suppress(OSError):  # it has left, or the folder is out of reach
                    self._look_at(path)

    def _look_at(self, path: Path) -> None:
        """Count a beat for another process; end this one when the other has been silent."""
        with open(path, encoding="utf-8") as file:  # opening it has NFS ask the server
            time = os.fstat(file.fileno()).st_mtime_ns
            silent = time == self._seen[path]
            self._silent_beats[path] = self._silent_beats[path] + 1 if silent else 0
            self._seen[path] = time
            if self._silent_beats[path] >= SILENT_BEATS:
                self._end(file.read())

    def _end(self, other: str) -> None:
        """End the program: its main thread may be inside a collective operation, for ever."""
        message = (  # on a line of its own, after a progress bar
            f"\nfailed: {other} has given no sign of life for {SILENT_BEATS * BEAT_SECONDS:.0f} s: "
            "it died or was stopped, or its host hangs or is cut off. The newest state of the run "
            f"is in {self._folder}: go on with --resume auto\n"
        )
        os.write(2, message.encode())
        os._exit(1)
