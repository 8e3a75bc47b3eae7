"""What a worker does: recognise the recordings of a shard. It knows neither engine nor folder."""

import dataclasses
import functools
import hashlib
import json
import socket
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import deepspeech2
from deepspeech2 import shipped
from deepspeech2.decoding.decoders import PATH_FIELDS, LMConfig
from deepspeech2.errors import InputError, RunError
from deepspeech2.files import sha256_of, sha256_of_sources
from deepspeech2.model import Model, load_model
from deepspeech2.result import Transcript
from deepspeech2.writers import word_content

Record = dict[str, Any]  # of a recording, as it becomes a line of JSON


@dataclass(frozen=True)
class Task:
    """How to recognise.

    Attributes:
        model: name or path of the model, the same on all workers.
        decoder: settings of the decoder; its files have the same paths on all workers.
        channel, batch_size: see `Model.transcribe_many`.
        contents: what is read besides the recordings: {name: SHA-256}.
    """

    model: str
    decoder: LMConfig
    channel: int | None
    batch_size: int
    contents: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Result:
    """What became of a shard.

    Attributes:
        number: of the shard.
        records: of its recordings, in their order.
        seconds: how long it took.
        host: where it was recognised.
    """

    number: int
    records: list[Record]
    seconds: float
    host: str


def make_task(model: str, decoder: LMConfig, channel: int | None, batch_size: int) -> Task:
    """A task with this machine's files. Raises InputError for a file that cannot be read."""
    contents = tuple(_contents(model, decoder))
    return Task(model, decoder, channel, batch_size, contents)


def _contents(model: str, decoder: LMConfig) -> Iterable[tuple[str, str]]:
    """Name and SHA-256 of all that a result depends on: program, model, files of the decoder."""
    yield "deepspeech2", _program()
    path = shipped.model_path(model)
    files = {file.name: file for file in (path, path.with_suffix(".json"))}
    of_decoder = [getattr(decoder, name) for name in PATH_FIELDS if getattr(decoder, name)]
    files |= {name: Path(name) for name in of_decoder}  # of one path everywhere
    for name, file in files.items():
        try:
            yield name, sha256_of(file)
        except OSError as error:
            raise InputError(f"{file}: cannot be read: {error.strerror}") from None


@functools.cache
def _program() -> str:
    """The SHA-256 of the package's source: versions between releases have one number."""
    return sha256_of_sources(Path(deepspeech2.__file__).parent)


def fingerprint(task: Task, paths: Sequence[str]) -> str:
    """A number that changes with the names of recordings, with model, settings and program."""
    settings = dataclasses.asdict(task) | {"model": Path(task.model).name}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    digest.update(json.dumps(list(paths)).encode())
    return digest.hexdigest()[:16]


@functools.lru_cache(maxsize=1)
def load(task: Task) -> Model:
    """The model of a task.

    Raises:
        RunError: naming this machine and what differs, where files are not those of the task.
    """
    host = socket.gethostname()
    try:
        here = dict(_contents(task.model, task.decoder))
    except InputError as error:
        raise RunError(f"{host}: {error}") from None
    differing = [name for name, digest in task.contents if here.get(name) != digest]
    if differing:
        raise RunError(
            f"{host}: other contents than where the job began: {', '.join(differing)}"
        )
    return load_model(task.model, task.decoder)


def verify(task: Task) -> None:
    """Load the model where this runs. Raises RunError as `load`."""
    load(task)


def run_shard(task: Task, number: int, paths: Sequence[str]) -> Result:
    """Recognise recordings of the shard with a number.

    Raises:
        RunError: as `load`.
    """
    model = load(task)
    start = time.monotonic()
    results = model.transcribe_many(paths, task.batch_size, task.channel)
    records = [to_record(path, r) for path, r in zip(paths, results, strict=True)]
    return Result(number, records, time.monotonic() - start, socket.gethostname())


def to_record(path: str, result: Transcript | Exception) -> Record:
    """What is written about a recording."""
    if isinstance(result, Exception):
        message = str(result) or type(result).__name__
        return {"audio": path, "error": message, "is_input_error": isinstance(result, InputError)}
    words = [word_content(word) for word in result.words]
    return {
        "audio": path,
        "duration": round(result.duration, 3),
        "text": result.text,
        "words": words,
    }
