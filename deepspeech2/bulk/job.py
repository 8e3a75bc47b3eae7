"""A folder that fills with recognised shards, and the results that are put together from them.

    plan.json           what is recognised, and how it is divided: another job is refused
    shards/000012.jsonl a finished shard: a line for each recording, and one about the shard
    transcripts.jsonl   all recordings in order, when all shards are there
    summary.json        hours, speed, failures, slowest shards
"""

import contextlib
import json
import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from deepspeech2.bulk.engines import Engine, WorkerDied
from deepspeech2.bulk.shards import Shard, divide, make_shards
from deepspeech2.bulk.work import Record, Result, Task, fingerprint, run_shard
from deepspeech2.errors import InputError, RunError
from deepspeech2.files import atomic_path, ensure_writable, link, parse_json

logger = logging.getLogger(__name__)

TRANSCRIPTS, SUMMARY = "transcripts.jsonl", "summary.json"
_TRIES = 2  # of a shard whose process ends; then its recordings are tried one by one
_ROUNDS = 3  # of tries in which the process ends, though with none of the recordings alone
_SLOWEST = 5  # shards that the summary names
_REPORT_SECONDS = 10.0


class Outdated(RunError):
    """The result of a shard is of recordings that have changed since."""


class Job:
    """All that is to be recognised, and the folder for it.

    Args:
        folder: made where it is missing.
        task: how to recognise.
        paths: (N,) all recordings.
        sizes: (N,) their sizes in bytes.

    Attributes:
        shards: the recordings, divided as when the job began.

    Raises:
        InputError: for a folder that cannot be written to, or that belongs to another job.
    """

    def __init__(self, folder: str, task: Task, paths: Sequence[str], sizes: Sequence[int]):
        self.folder, self.task = Path(folder), task
        ensure_writable(folder)
        job, plan = fingerprint(task, paths), self.folder / "plan.json"
        if plan.exists():
            self.shards = divide(paths, sizes, self._division(plan, job, len(paths)))
            return
        division = [len(shard.paths) for shard in make_shards(paths, sizes)]
        content = {"job": job, "model": Path(task.model).name, "recordings_of_shards": division}
        with tempfile.TemporaryDirectory(dir=folder, prefix=".plan.") as name:
            with atomic_path(Path(name) / "plan.json") as temporary:
                temporary.write_text(json.dumps(content) + "\n")
            # of commands that begin at once, one makes the plan
            with contextlib.suppress(FileExistsError):
                link(Path(name) / "plan.json", plan)
        self.shards = divide(paths, sizes, self._division(plan, job, len(paths)))

    def _division(self, plan: Path, job: str, total: int) -> list[int]:
        """How many recordings each shard has by the plan, which has to be that of this job."""
        try:
            found = parse_json(plan.read_text())
            if found["job"] == job:
                counts = found["recordings_of_shards"]
                if sum(counts) != total:
                    raise ValueError(f"it divides {sum(counts)} recordings, there are {total}")
                return counts
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{plan}: not the plan of a job: {error}") from None
        raise InputError(
            f"{self.folder}: belongs to a job with other recordings, model, settings or "
            "program: choose another --output, or go on with those"
        )

    def shard_path(self, shard: Shard) -> Path:
        """Where the result of a shard is, or will be."""
        return self.folder / "shards" / f"{shard.number:06}.jsonl"

    def read(self, shard: Shard) -> Result | None:
        """The result of a shard; None where it is missing, not whole, or of other recordings.

        A recording that is not there any more has the result that it had.

        Raises:
            Outdated: where a recording has another size now.
        """
        try:
            lines = self.shard_path(shard).read_text().splitlines()
            *records, about = (json.loads(line) for line in lines)
            sizes = list(zip(shard.sizes, about["bytes"], strict=True))
            result = Result(shard.number, records, about["seconds"], about["host"])
            if [record["audio"] for record in records] != list(shard.paths):
                return None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if any(now not in (0, then) for now, then in sizes):
            raise Outdated(f"{self.shard_path(shard)}: its recordings have changed")
        return result

    def write(self, shard: Shard, result: Result) -> None:
        """Keep the result of a shard. Raises RunError for a file that cannot be written."""
        path = self.shard_path(shard)
        about = {"shard": shard.number, "seconds": round(result.seconds, 3), "host": result.host,
                 "bytes": shard.sizes}  # fmt: skip
        try:
            with atomic_path(path) as temporary:
                lines = [to_line(record) for record in [*result.records, about]]
                temporary.write_text("".join(lines))
        except OSError as error:
            raise RunError(f"{path}: cannot write: {error.strerror}") from None

    def results(self) -> Iterator[Result]:
        """The results of all shards in order.

        Raises:
            RunError: for one that is not whole; `Outdated` as `read`.
        """
        for shard in self.shards:
            result = self.read(shard)
            if result is None:
                raise RunError(
                    f"{self.shard_path(shard)}: damaged: start the command for it again"
                )
            yield result

    def unfinished(self, shards: Sequence[Shard], retry_errors: bool) -> list[Shard]:
        """Those of `shards` that have no result or, with `retry_errors`, one with failures."""

        def is_finished(shard: Shard) -> bool:
            try:
                result = self.read(shard)
            except Outdated:
                return False
            failed = result and any("error" in record for record in result.records)
            return result is not None and not (retry_errors and failed)

        return [shard for shard in shards if not is_finished(shard)]


def to_line(record: Record) -> str:
    """A line of JSON. Names of files can have any bytes: those that are no text are escaped."""
    return json.dumps(record, ensure_ascii=True) + "\n"


def recognise(job: Job, shards: Sequence[Shard], engine: Engine) -> float:
    """Recognise shards and keep their results, in any order; returns the seconds of audio.

    Raises:
        RunError: when a result cannot be written, or the engine cannot go on.
    """
    progress = _Progress(len(shards))
    with ThreadPoolExecutor(min(engine.capacity, len(shards)), "shard") as threads:
        futures = {threads.submit(_complete, engine, job.task, shard): shard for shard in shards}
        try:
            for future in as_completed(list(futures)):
                shard, result = futures.pop(future), future.result()
                job.write(shard, result)
                progress.add(result)
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            engine.close()
    return progress.audio


def _complete(engine: Engine, task: Task, shard: Shard) -> Result:
    """The result of a shard. A recording that ends the process is found, and left out."""
    fatal: dict[str, str] = {}
    rounds = _ROUNDS
    while rounds:
        rest = [path for path in shard.paths if path not in fatal]
        result = _try(engine, task, shard.number, rest)
        if result:
            return _with_fatal(shard, result, fatal)
        found = [path for path in rest if not _try(engine, task, shard.number, [path])]
        rounds -= not found
        fatal |= dict.fromkeys(found, f"ended the process that read it, in {_TRIES} tries")
    message = f"a recording of its shard ended the process, in {_TRIES} tries, but none alone"
    others = {path: message for path in shard.paths if path not in fatal}
    return _with_fatal(shard, Result(shard.number, [], 0.0, ""), fatal | others)


def _try(engine: Engine, task: Task, number: int, paths: Sequence[str]) -> Result | None:
    """The result of recordings of a shard; None when their process ended in each try."""
    for _ in range(_TRIES):
        try:
            return engine.run(run_shard, task, number, paths)
        except WorkerDied as error:
            named = paths[0] if len(paths) == 1 else f"{len(paths)} recordings"
            logger.warning("shard %d, %s: the process ended (%s)", number, named, error)
    return None


def _with_fatal(shard: Shard, result: Result, fatal: dict[str, str]) -> Result:
    """The result with records of the recordings that were left out."""
    rest = iter(result.records)
    records = [
        {"audio": path, "error": f"{path}: {fatal[path]}", "is_input_error": False}
        if path in fatal else next(rest)
        for path in shard.paths
    ]  # fmt: skip
    return Result(shard.number, records, result.seconds, result.host)


class _Progress:
    """Says now and then how far the work is, and which recordings failed.

    Args:
        total: number of shards to recognise.

    Attributes:
        audio: seconds that were recognised.
    """

    def __init__(self, total: int):
        self._total, self._done = total, 0
        self.audio = 0.0
        self._start = self._said = time.monotonic()

    def add(self, result: Result) -> None:
        """A shard is finished."""
        self._done += 1
        self.audio += audio_seconds(result.records)
        for record in result.records:
            if "error" in record:
                logger.error("%s", record["error"])
        now = time.monotonic()
        if now - self._said >= _REPORT_SECONDS or self._done == self._total:
            self._said = now
            elapsed = now - self._start
            left = elapsed / self._done * (self._total - self._done) / 60
            logger.info(
                "%d of %d shards, %.2f hours of audio, %.0f times real time, %.0f minutes left",
                self._done, self._total, self.audio / 3600, self.audio / elapsed, left,
            )  # fmt: skip


def audio_seconds(records: Sequence[Record]) -> float:
    """Seconds of the recordings that were recognised."""
    return sum(record.get("duration", 0.0) for record in records)


def put_together(job: Job, wall_seconds: float, audio: float) -> dict | None:
    """Write the transcripts of all recordings in order, and the summary.

    Args:
        job: the job.
        wall_seconds, audio: how long this run took, and seconds of audio that it recognised.

    Returns:
        The summary; None while shards are missing.

    Raises:
        RunError: for a file that cannot be written.
    """
    if not all(job.shard_path(shard).exists() for shard in job.shards):
        return None
    path = job.folder / TRANSCRIPTS
    summary = _Summary()
    try:
        with atomic_path(path) as temporary, open(temporary, "w") as file:
            for result in job.results():
                file.writelines(to_line(record) for record in result.records)
                summary.add(result)
        content = summary.content(wall_seconds, audio)
        path = job.folder / SUMMARY
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n")
    except Outdated:  # whoever has that part recognises it again
        return None
    except OSError as error:
        raise RunError(f"{path}: cannot write: {error.strerror}") from None
    return content


class _Summary:
    """Adds up the results of shards."""

    def __init__(self):
        self._recordings = self._failures = self._input_errors = self._words = 0
        self._audio = self._seconds = 0.0
        self._slowest: list[tuple[float, dict]] = []

    def add(self, result: Result) -> None:
        records, audio = result.records, audio_seconds(result.records)
        self._recordings += len(records)
        self._failures += sum("error" in record for record in records)
        self._input_errors += sum(record.get("is_input_error", False) for record in records)
        self._words += sum(len(record.get("words", ())) for record in records)
        self._audio += audio
        self._seconds += result.seconds
        about = {"shard": result.number, "host": result.host, "seconds": result.seconds,
                 "times_real_time": _ratio(audio, result.seconds)}  # fmt: skip
        self._slowest.append((about["times_real_time"], about))
        self._slowest = sorted(self._slowest, key=lambda pair: pair[0])[:_SLOWEST]

    def content(self, wall_seconds: float, audio: float) -> dict:
        """What the file holds."""
        return {
            "recordings": self._recordings,
            "failures": self._failures,
            "input_errors": self._input_errors,
            "hours": round(self._audio / 3600, 3),
            "words": self._words,
            "worker_hours": round(self._seconds / 3600, 4),
            "times_real_time_per_worker": _ratio(self._audio, self._seconds),
            "last_run": {
                "minutes": round(wall_seconds / 60, 2),
                "times_real_time": _ratio(audio, wall_seconds),
            },
            "slowest_shards": [about for _, about in self._slowest],
        }


def _ratio(audio: float, seconds: float) -> float:
    return round(audio / seconds, 1) if seconds else 0.0
