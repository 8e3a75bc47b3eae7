"""How the service divides a network among clients: `python -m benchmarks.service RECORDINGS`.

RECORDINGS is a folder of short recordings. Measured are the time that 3 s of them take while ten
minutes of them are recognised, and what 16 clients get done against `deepspeech2 transcribe` with
the same files, in turns.
"""

import argparse
import contextlib
import http.client
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soundfile

from benchmarks.sections import ROOT
from deepspeech2 import commands
from deepspeech2.audio import load_audio
from deepspeech2.errors import InputError, RunError

RATE = 16000
CLIENTS, ROUNDS = 16, 3
SHORT, LONG = 3.0, 600.0  # seconds
PAUSE = 1.0  # seconds between the utterances of a long recording
_FORM = "--x\r\nContent-Disposition: form-data; name="


@contextlib.contextmanager
def served(model: str) -> Iterator[tuple[str, int]]:
    """The host and port of a service in a process of its own, and its process number."""
    command = [sys.executable, "-m", "deepspeech2", "serve", model, "--port", "0"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        if not line:
            raise RunError("the service did not start")
        yield line.split("//")[-1].strip(), process.pid
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def transcribed(address: str, model: str, path: Path) -> str:
    """The text of a recording. Raises RunError when the service gives none."""
    fields = f'{_FORM}"model"\r\n\r\n{model}\r\n{_FORM}"file"; filename="a"\r\n\r\n'
    body = fields.encode() + path.read_bytes() + b"\r\n--x--\r\n"
    connection = http.client.HTTPConnection(address, timeout=3600)
    with contextlib.closing(connection):
        connection.request("POST", "/v1/audio/transcriptions", body,
                           {"Content-Type": "multipart/form-data; boundary=x"})
        answer = connection.getresponse()
        content = json.load(answer)
    if answer.status != 200:
        raise RunError(f"{path}: {answer.status} {content}")
    return content["text"]


def joined(paths: Sequence[Path], seconds: float) -> np.ndarray:
    """(n,) samples: recordings one after the other, again and again, with pauses between them."""
    parts, count = [], 0
    for path in itertools.cycle(paths):
        parts += [load_audio(path, RATE), np.zeros(round(PAUSE * RATE), np.float32)]
        count += len(parts[-2]) + len(parts[-1])
        if count >= seconds * RATE:
            return np.concatenate(parts)[: round(seconds * RATE)]


def waits(address: str, model: str, short: Path, long: Path) -> tuple[list[float], float]:
    """Seconds that a short recording takes again and again, and those of the long one meanwhile."""
    took = []
    def recognise_long() -> None:
        begin = time.perf_counter()
        transcribed(address, model, long)
        took.append(time.perf_counter() - begin)

    thread = threading.Thread(target=recognise_long)
    thread.start()
    times = []
    time.sleep(1.0)
    while thread.is_alive():
        begin = time.perf_counter()
        transcribed(address, model, short)
        times.append(time.perf_counter() - begin)
        time.sleep(0.2)
    thread.join()
    return times[:-1] or times, took[0]  # the last one may have been alone


def turns(address: str, model: str, paths: Sequence[Path]) -> Iterator[tuple[float, float]]:
    """Seconds of the command line and of many clients with the same recordings."""
    command = [sys.executable, "-m", "deepspeech2", "transcribe", "--model", model]
    command += map(str, paths)
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        middle = time.perf_counter()
        with ThreadPoolExecutor(CLIENTS) as clients:
            texts = list(clients.map(lambda path: transcribed(address, model, path), paths))
        end = time.perf_counter()
        if not all(text in result.stdout for text in texts):
            raise RunError("the service and the command line differ in their texts")
        yield middle - begin, end - middle


def measure(folder: Path, model: str, count: int) -> int:
    """Measure and print."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix in (".wav", ".flac"))
    if not paths:
        raise InputError(f"{folder}: there are no .wav or .flac files")
    paths = paths[:: max(1, len(paths) // count)][:count]
    with tempfile.TemporaryDirectory() as name, served(model) as (address, _):
        short, long = Path(name, "short.wav"), Path(name, "long.wav")
        soundfile.write(short, joined(paths, SHORT), RATE)
        soundfile.write(long, joined(paths, LONG), RATE)
        print(f"{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}", flush=True)
        alone = []
        for _ in range(5):
            begin = time.perf_counter()
            transcribed(address, model, short)
            alone.append(time.perf_counter() - begin)
        times, took = waits(address, model, short, long)
        print(f"{SHORT:g} s alone: median {statistics.median(alone):.2f} s; while {LONG:g} s are "
              f"recognised, which took {took:.1f} s: median {statistics.median(times):.2f}, "
              f"longest {max(times):.2f} s of {len(times)}", flush=True)
        seconds = sum(soundfile.info(path).duration for path in paths)
        pairs = list(turns(address, model, paths))
        ratios = [alone / shared for alone, shared in pairs]
        print(f"{len(paths)} recordings, {seconds:.0f} s; seconds of transcribe and of {CLIENTS} "
              f"clients: {'; '.join(f'{one:.1f} {other:.1f}' for one, other in pairs)}; throughput "
              f"of the clients / of transcribe: median {statistics.median(ratios):.2f}")
        print(f"load {os.getloadavg()[0]:.1f}")
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service", description=__doc__)
    parser.add_argument("recordings", type=Path, metavar="RECORDINGS")
    parser.add_argument("--model", default="an4")
    parser.add_argument("--count", type=int, default=100, help="recordings, default is 100")
    args = parser.parse_args(argv)
    return commands.run(lambda: measure(args.recordings, args.model, args.count))


if __name__ == "__main__":
    sys.exit(main())
