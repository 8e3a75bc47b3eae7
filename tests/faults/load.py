"""A service under load: good, bad, slow and vanishing clients at once, for some minutes.

    python -m tests.faults.load run MINUTES FOLDER [MODEL.onnx]
    python -m tests.faults.load report FOLDER        # the same figures and picture again

The service has a process of its own on 127.0.0.1. Without a streaming model, one of random weights
is made. Ends by itself. Fails (exit code 1) for a good request without its answer, memory that
grows by more than 5 % after the warm-up, and files that are left. FOLDER gets requests.csv,
memory.csv, end.json and load.png.
"""

import io
import json
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import soundfile
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import service_process  # noqa: E402  (tests/ is no package)
from conftest import voice, write_streaming_model  # noqa: E402
from service_process import TRANSCRIPTIONS, form_body, form_head  # noqa: E402

import deepspeech2  # noqa: E402
from tests.faults.soak import sample  # noqa: E402

RATE = 16000
LENGTHS = (0.5, 1, 2, 3, 5, 8, 13, 30, 60)  # seconds of the good recordings
INTERVAL = 5.0  # seconds between samples of memory
WARM_UP = 0.25  # share of the run before memory is expected to be flat
GROWTH = 0.05
PATIENCE = 300.0  # seconds after which a good client gives up


class Trouble(Exception):
    """A good client did not get what it should."""


class Load:
    """The clients of one run; each kind is a method that is called again and again."""

    def __init__(self, running: service_process.ServiceProcess, model: Path):
        self.running, self.name = running, model.stem
        recogniser = deepspeech2.load_model(model)
        self.recordings, self.texts = [], []
        for seconds in LENGTHS:
            content = recording(seconds)
            self.recordings.append(content)
            self.texts.append(recogniser.transcribe(io.BytesIO(content)).text)
        samples, _ = soundfile.read(io.BytesIO(self.recordings[4]), dtype="int16")
        self.stream = samples.astype("<i2").tobytes()
        session = recogniser.stream(RATE)
        session.feed(samples)
        session.finish()
        self.stream_text = session.transcript.text

    # --- good clients: each must get its answer --------------------------------------------------

    def good_file(self, rng: np.random.Generator) -> None:
        """Sends a recording; comes again when it is told to."""
        number = rng.integers(len(LENGTHS))
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            answer = httpx.post(
                self.running.url + TRANSCRIPTIONS,
                data={"model": self.name},
                files={"file": ("a.flac", self.recordings[number])},
                timeout=PATIENCE,
            )
            if answer.status_code != 503:
                break
            time.sleep(float(answer.headers["retry-after"]))
        if answer.status_code != 200 or answer.json()["text"] != self.texts[number]:
            raise Trouble(f"{LENGTHS[number]} s: {answer.status_code} {answer.text[:200]}")

    def good_stream(self, rng: np.random.Generator) -> None:
        """Speaks for five seconds, as fast as speech is."""
        with self.connect() as websocket:
            for at in range(0, len(self.stream), RATE // 5):
                websocket.send(self.stream[at : at + RATE // 5])  # 100 ms
                time.sleep(0.1)
            websocket.send('{"type": "CloseStream"}')
            messages = list(received(websocket))
        found = [m["channel"]["alternatives"][0]["transcript"] for m in messages
                 if m["type"] == "Results"]
        text = " ".join(filter(None, found))
        if websocket.close_code != 1000 or text != self.stream_text:
            raise Trouble(f"stream: {websocket.close_code} {text[:200]!r}")

    def good_metrics(self, rng: np.random.Generator) -> None:
        """A monitor asks."""
        for path in ("health", "metrics"):
            answer = httpx.get(f"{self.running.url}/{path}", timeout=PATIENCE)
            if answer.status_code != 200:
                raise Trouble(f"/{path}: {answer.status_code}")
        time.sleep(1.0)

    # --- others ----------------------------------------------------------------------------------

    def bad_file(self, rng: np.random.Generator) -> None:
        """Sends what is no recording, or cut, or another model's."""
        content = [b"", b"<html>" * 1000, self.recordings[5][:-2000], rng.bytes(100_000)]
        model = str(rng.choice([self.name, "whisper-1"]))
        answer = httpx.post(
            self.running.url + TRANSCRIPTIONS,
            data={"model": model},
            files={"file": ("a", content[rng.integers(len(content))])},
            timeout=PATIENCE,
        )
        if answer.status_code not in (400, 404, 503):
            raise Trouble(f"no recording: {answer.status_code}")
        time.sleep(0.5)

    def slow_sender(self, rng: np.random.Generator) -> None:
        """Sends a header or a body a byte at a time, until the service gives up."""
        begun = form_head(10**6) if rng.random() < 0.5 else b"POST / HTTP/1.1\r\nHost: "
        with self.running.connect() as connection:
            connection.sendall(begun)
            for _ in range(rng.integers(20, 80)):
                connection.sendall(b"a")
                time.sleep(0.5)

    def vanishing_sender(self, rng: np.random.Generator) -> None:
        """Is gone in the middle of its body."""
        body = form_body(self.recordings[-1], model=self.name)
        with self.running.connect() as connection:
            connection.sendall(form_head(len(body)) + body[: rng.integers(1, len(body))])
            time.sleep(rng.uniform(0, 1))
        time.sleep(2.0)

    def vanishing_waiter(self, rng: np.random.Generator) -> None:
        """Is gone while its recording is recognised."""
        body = form_body(self.recordings[-1], model=self.name)
        with self.running.connect() as connection:
            connection.sendall(form_head(len(body)) + body)
            time.sleep(rng.uniform(0, 2))
        time.sleep(5.0)

    def vanishing_stream(self, rng: np.random.Generator) -> None:
        """Is gone while it speaks."""
        with self.connect() as websocket:
            for _ in range(rng.integers(1, 30)):
                websocket.send(self.stream[:3201])
                time.sleep(0.05)
            websocket.socket.close()

    def connect(self):
        address = self.running.url.replace("http", "ws") + "/v1/listen"
        return connect(address, open_timeout=PATIENCE, close_timeout=PATIENCE, ping_interval=None)


# kind of client: how many of them there are at once
CLIENTS = {
    "good_file": 3, "good_stream": 2, "good_metrics": 1, "bad_file": 1, "slow_sender": 2,
    "vanishing_sender": 1, "vanishing_waiter": 1, "vanishing_stream": 1,
}


def recording(seconds: float) -> bytes:
    """A FLAC file of a voice with pauses."""
    samples = voice(round(seconds * RATE))
    samples[(np.arange(len(samples)) // RATE) % 4 == 3] *= 1e-3
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def received(websocket) -> Iterator[dict]:
    """The messages until the connection is closed."""
    try:
        while True:
            yield json.loads(websocket.recv(timeout=PATIENCE))
    except ConnectionClosed:
        return


def repeat(kind: str, client: Callable, seed: int, stop: threading.Event, rows: list) -> None:
    """Be one client until the end."""
    rng = np.random.default_rng(seed)
    while not stop.is_set():
        begin, trouble = time.time(), ""
        try:
            client(rng)
        except (Trouble, AssertionError) as error:
            trouble = str(error) or "wrong"
        except (OSError, ConnectionClosed, httpx.HTTPError, TimeoutError, KeyError, ValueError):
            # others are cut off; a good client never is
            trouble = traceback.format_exc(limit=-1) if kind.startswith("good") else ""
        rows.append((kind, begin, time.time() - begin, trouble))


def run(minutes: float, folder: Path, model: Path | None) -> None:
    """Run all clients for some minutes, and write what was seen into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    if model is None:
        model = folder / "stream.onnx"
        write_streaming_model(model)
    rows, memory, stop = [], [], threading.Event()
    with service_process.service(folder / "files", model) as running:
        load = Load(running, model)
        kinds = [kind for kind, count in CLIENTS.items() for _ in range(count)]
        with ThreadPoolExecutor(len(kinds)) as threads:
            clients = [threads.submit(repeat, kind, getattr(load, kind), seed, stop, rows)
                       for seed, kind in enumerate(kinds)]
            end = time.time() + 60 * minutes
            while time.time() < end and running.process.poll() is None:
                memory.append(sample(running.process.pid))
                time.sleep(INTERVAL)
            stop.set()
            for client in clients:
                client.result()
        idle_after = time_until(running.is_idle)
        left = [path.name for path in (folder / "files").iterdir()]
        exit_code = running.stop(signal.SIGTERM)
    pd.DataFrame(rows, columns=["kind", "seconds", "took", "trouble"]).to_csv(
        folder / "requests.csv", index=False)
    pd.DataFrame(memory).to_csv(folder / "memory.csv", index=False)
    (folder / "end.json").write_text(
        json.dumps({"left": left, "idle_after": idle_after, "exit_code": exit_code}))


def time_until(condition: Callable[[], bool]) -> float | None:
    """Seconds until something is true; None when it is never."""
    begin = time.monotonic()
    while time.monotonic() - begin < PATIENCE:
        if condition():
            return round(time.monotonic() - begin, 1)
        time.sleep(0.5)
    return None


def report(folder: Path) -> int:
    """Print the figures and draw them; returns the exit code."""
    requests = pd.read_csv(folder / "requests.csv", keep_default_na=False)
    memory = pd.read_csv(folder / "memory.csv")
    end = json.loads((folder / "end.json").read_text())
    for kind, group in requests.groupby("kind"):
        took = group.took
        print(f"{kind}: {len(group)}, {(group.trouble != '').sum()} failed; "
              f"median {took.median():.2f} s, p95 {took.quantile(0.95):.2f} s, "
              f"longest {took.max():.2f} s")
    for trouble in requests.trouble[requests.trouble != ""].unique()[:10]:
        print(f"failed: {trouble}")
    settled = memory[memory.seconds >= memory.seconds.iloc[0] + WARM_UP * np.ptp(memory.seconds)]
    hours = (settled.seconds - settled.seconds.iloc[0]) / 3600
    slope, start = np.polyfit(hours, settled.mib, 1)
    growth = slope * hours.iloc[-1] / start
    print(f"memory after the warm-up: {settled.mib.min():.1f} to {settled.mib.max():.1f} MiB, "
          f"slope {slope:+.1f} MiB an hour, {100 * growth:+.1f} % in "
          f"{60 * hours.iloc[-1]:.1f} min; "
          f"handles {settled.handles.min()} to {settled.handles.max()}, "
          f"threads {settled.threads.min()} to {settled.threads.max()}")
    print(f"files left: {len(end['left'])}; idle after {end['idle_after']} s; "
          f"exit code {end['exit_code']}")
    draw(requests, memory, folder / "load.png")
    failed = (requests.trouble != "").any() or end["left"] or end["idle_after"] is None
    return 1 if failed or growth > GROWTH or end["exit_code"] != 143 else 0


def draw(requests: pd.DataFrame, memory: pd.DataFrame, path: Path) -> None:
    """Draw memory and the times of good requests over the minutes of a run."""
    from matplotlib.figure import Figure
    figure = Figure(figsize=(8, 5), layout="constrained")
    above, below = figure.subplots(2, sharex=True)
    begin = memory.seconds.iloc[0]
    above.plot((memory.seconds - begin) / 60, memory.mib)
    above.set_ylabel("resident memory, MiB")
    above.set_ylim(bottom=0)
    labels = {"good_file": "recordings of 0.5 to 60 s", "good_stream": "streams of 5 s"}
    for kind, label in labels.items():
        group = requests[requests.kind == kind]
        below.plot((group.seconds - begin) / 60, group.took, ".", markersize=3, label=label)
    below.set_ylabel("time to the answer, s")
    below.set_ylim(bottom=0)
    below.set_xlabel("minutes")
    below.legend(loc="upper right")
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    if command == "run":
        length, *paths = arguments
        place, chosen = [*map(Path, paths), None][:2]
        run(float(length), place, chosen)
    else:
        place = Path(arguments[0])
    sys.exit(report(place))
