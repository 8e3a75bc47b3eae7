"""What a streaming model is like to speak to: `python -m benchmarks.streams MODEL MANIFEST`.

MANIFEST lists utterances with their transcripts. Measured are how late words come in one stream,
and, as `--only` asks for: what many streams of one service wait for (`clients`), and whether a
long stream is recognised as well as its utterances (`long`).
"""

import argparse
import json
import os
import sys
import threading
import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path
from statistics import median

import numpy as np
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from benchmarks.service import RATE, served
from deepspeech2 import Model, commands, load_model
from deepspeech2.audio import load_audio
from deepspeech2.errors import InputError
from deepspeech2.metrics import ErrorCounts, align, count_errors
from deepspeech2.result import Word
from src.manifest import read_manifest, read_transcript

CHUNK = RATE // 10  # samples that come at once
PAUSE = 2.0  # seconds between two utterances
SECTIONS = ("delays", "clients", "long")


class Utterance:
    """A recording and what is said.

    Attributes:
        samples: (n,) float32 at `RATE`, with `PAUSE` seconds of faint hiss behind it.
        text: what is said.
    """

    def __init__(self, path: Path, text: str, rng: np.random.Generator):
        spoken = load_audio(path, RATE)
        pause = rng.normal(0, 1e-4, round(PAUSE * RATE))
        self.spoken = spoken
        self.samples = np.concatenate([spoken, pause]).astype(np.float32)
        self.text = text

    def chunks(self) -> Iterator[np.ndarray]:
        """The samples as they come, `CHUNK` at once."""
        for start in range(0, len(self.samples), CHUNK):
            yield self.samples[start : start + CHUNK]


def quantiles(values: Sequence[float]) -> str:
    """Median and 95th percentile of seconds, in milliseconds."""
    return f"median {1000 * median(values):.0f} ms, p95 {1000 * np.percentile(values, 95):.0f} ms"


def equal_words(reference: Sequence[Word], found: Sequence[Word]) -> Iterator[tuple[int, int]]:
    """Positions of the words that both have in common, one after the other."""
    pairs = align([word.word for word in reference], [word.word for word in found])
    first = second = 0
    for one, other in pairs:
        if one is not None and one == other:
            yield first, second
        first += one is not None
        second += other is not None


def delays(model: Model, reader: Model, utterances: Sequence[Utterance]) -> None:
    """How long after its end a word is known to be complete, and is first shown in full.

    Where a word ends is what `reader` finds for the reference in the whole recording.
    """
    complete, shown, computing, chunk_times, words = [], [], [], [], 0
    for utterance in utterances:
        truth = reader.align((utterance.spoken, RATE), utterance.text).words
        words += len(truth)
        session, heard, found, known, partials = model.stream(RATE), 0, [], [], []
        for chunk in utterance.chunks():
            begin = time.perf_counter()
            progress = session.feed(chunk)
            took = time.perf_counter() - begin
            chunk_times.append(took)
            heard += len(chunk)
            now = heard / RATE + took
            found += progress.words
            known += [(now, took)] * len(progress.words)
            partials.append((now, len(found), progress.partial))
        progress = session.finish()  # few words are complete only then
        found += progress.words
        known += [(now, took)] * len(progress.words)
        for i, j in equal_words(truth, found):
            end, (at, took) = truth[i].end, known[j]
            complete.append(at - end)
            computing.append(took)
            # the first time that its letters were all there
            first = next((now for now, count, partial in partials
                          if count == j and partial == found[j].word), at)
            shown.append(min(first, at) - end)
    print(f"{len(complete)} of {words} words are right; one stream in chunks of "
          f"{1000 * CHUNK // RATE} ms; from the end of a word until it is complete "
          f"{quantiles(complete)}, of which computing {quantiles(computing)}; until all its "
          f"letters are shown {quantiles(shown)}; computing of a chunk {quantiles(chunk_times)}")


def speak(address: str, utterances: Sequence[Utterance], seconds: float) -> list[float]:
    """Be a client that speaks as fast as speech is; returns how late each word came."""
    late, sent_at, starts = [], [], []  # when a chunk was sent, and the sample that it begins at
    listen = f"ws://{address}/v1/listen?sample_rate={RATE}"
    with connect(listen, ping_interval=None, close_timeout=60) as websocket:
        def receive() -> None:
            try:
                for message in websocket:
                    now, content = time.perf_counter(), json.loads(message)
                    if content["type"] == "Results" and content["is_final"]:
                        for word in content["channel"]["alternatives"][0]["words"]:
                            chunk = bisect_right(starts, word["end"] * RATE) - 1
                            late.append(now - sent_at[chunk])
            except ConnectionClosed:
                pass
        receiver = threading.Thread(target=receive)
        receiver.start()
        begin, sent = time.perf_counter(), 0
        for chunk in (chunk for utterance in cycle(utterances) for chunk in utterance.chunks()):
            time.sleep(max(0.0, begin + sent / RATE - time.perf_counter()))
            sent_at.append(time.perf_counter())
            starts.append(sent)
            websocket.send((chunk * 32767).astype("<i2").tobytes())
            sent += len(chunk)
            if sent > seconds * RATE:
                break
        websocket.send('{"type": "CloseStream"}')
        receiver.join()
    return late


def cpu_seconds(pid: int) -> float:
    """What a process has used of the cores."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def clients(model: str, utterances: Sequence[Utterance], count: int, seconds: float) -> None:
    """How late words come in streams of one service, all at once, and what that costs."""
    with served(model) as (address, service):
        speak(address, utterances, 3.0)  # the first one waits for more than others
        used, begin = cpu_seconds(service), time.perf_counter()
        with ThreadPoolExecutor(count) as threads:
            waiting = [threads.submit(speak, address, [*utterances[i:], *utterances[:i]], seconds)
                       for i in (number % len(utterances) for number in range(count))]
            late = [one for client in waiting for one in client.result()]
        cores = (cpu_seconds(service) - used) / (time.perf_counter() - begin)
    print(f"{count} streams of {seconds:g} s at once, {len(late)} words: a word comes "
          f"{quantiles(late)} after its end was sent; the service used {cores:.2f} cores; "
          f"{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}")


def errors_of(pairs: Sequence[tuple[str, str]]) -> ErrorCounts:
    """The errors of pairs of reference and hypothesis."""
    return sum((count_errors(*pair) for pair in pairs[1:]), count_errors(*pairs[0]))


def long(model: Model, utterances: Sequence[Utterance], minutes: float) -> None:
    """Whether a long stream is recognised as its utterances are, and whether times drift."""
    alone, rows, seconds = {}, [], 0.0
    while seconds < 60 * minutes:
        utterance = utterances[len(rows) % len(utterances)]
        rows.append((seconds, utterance))
        seconds += len(utterance.samples) / RATE
    session, used = model.stream(RATE), time.process_time()
    for _, utterance in rows:
        for chunk in utterance.chunks():
            session.feed(chunk)
    session.finish()
    used = time.process_time() - used
    found = session.transcript.words
    pairs, single, differences = [], [], []
    for number, (start, utterance) in enumerate(rows):
        end = rows[number + 1][0] if number + 1 < len(rows) else seconds
        words = [word for word in found if start <= word.start < end]
        pairs.append((utterance.text, " ".join(word.word for word in words)))
        if id(utterance) not in alone:
            alone[id(utterance)] = model.transcribe((utterance.spoken, RATE))
        own = alone[id(utterance)]
        single.append((utterance.text, own.text))
        differences += [(start, words[j].start - start - own.words[i].start)
                        for i, j in equal_words(own.words, words)]
    starts, offsets = np.array(differences or [(0.0, 0.0)]).T
    drift = np.polyfit(starts / 3600, offsets, 1)[0] if np.ptp(starts) else 0.0
    row, cut = errors_of(pairs), errors_of(single)
    print(f"{seconds / 60:.1f} minutes in one stream: WER {row.wer_percent:.2f}, of the utterances "
          f"cut {cut.wer_percent:.2f}; times of equal words differ by {quantiles(abs(offsets))}, "
          f"and drift by {1000 * drift:.2f} ms an hour; {seconds / used:.0f} seconds of audio in a "
          "CPU second")


def measure(args: argparse.Namespace) -> int:
    """Measure and print."""
    model, rng = load_model(args.model), np.random.default_rng(0)
    manifest = read_manifest(args.manifest, model.labels)
    paths = list(zip(manifest.audio_paths, manifest.transcript_paths, strict=True))
    utterances = [Utterance(Path(path), read_transcript(text, model.labels), rng)
                  for path, text in paths[: args.utterances]]
    sections = args.only.split(",")
    if not set(sections) <= set(SECTIONS):
        raise InputError(f"--only {args.only}: sections are {', '.join(SECTIONS)}")
    if "delays" in sections:
        delays(model, load_model(args.reader), utterances)
    if "long" in sections:
        long(model, utterances, args.minutes)
    if "clients" in sections:
        clients(args.model, utterances, args.count, args.seconds)
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streams", description=__doc__)
    parser.add_argument("model", metavar="MODEL", help="a streaming model")
    parser.add_argument("manifest", metavar="MANIFEST")
    parser.add_argument("--only", default="delays", metavar="SECTION,…",
                        help=f"of {', '.join(SECTIONS)}; default is delays")
    parser.add_argument("--reader", default="english", metavar="MODEL",
                        help="finds where words end, default is english")
    parser.add_argument("--utterances", type=int, default=None, metavar="N",
                        help="the first N of the manifest, default is all")
    parser.add_argument("--count", type=int, default=40, help="streams at once, default is 40")
    parser.add_argument("--seconds", type=float, default=60.0,
                        help="how long each speaks, default is 60")
    parser.add_argument("--minutes", type=float, default=30.0,
                        help="length of the long stream, default is 30")
    args = parser.parse_args(argv)
    return commands.run(lambda: measure(args))


if __name__ == "__main__":
    sys.exit(main())
