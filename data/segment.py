"""Cut long recordings with known texts into utterances for training. `python -m data.segment`

`python -m data.segment AUDIO TEXT`, or `--manifest FILE` with `audio,text` a line. The words of the
text are looked for in the recording (docs/alignment.md). Utterances are cut in pauses between
words, at the ends of lines if there are pauses. What does not fit is dropped, counted and listed:
words that nobody says or that the labels cannot write, speech that the text lacks, utterances of
low confidence, and what is too short or too long.

Writes TARGET/NAME_manifest.csv and its index, TARGET/NAME_dataset/wav/, .../txt/ and
.../dropped.csv. Recordings that are done are not worked on again.
"""

import argparse
import contextlib
import csv
import hashlib
import json
import logging
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from data.common import (
    SAMPLE_RATE,
    ensure_target,
    exclusive_lock,
    is_prepared,
    read_record,
    save_manifest,
    seconds,
    to_pcm16,
    utterance_info,
    utterance_paths,
    write_record,
    write_text,
    write_wav,
)
from data.transcripts import LANGUAGES, Normalizer
from deepspeech2 import commands
from deepspeech2.alignment import AlignedWord, Alignment
from deepspeech2.audio import STANDARD_INPUT, open_audio
from deepspeech2.errors import InputError
from deepspeech2.files import atomic_path, is_special
from deepspeech2.known_text import read_text
from deepspeech2.labels import SPACE
from deepspeech2.model import NEEDS_MINDSPORE, Model, load_model
from deepspeech2.runs import true_runs
from deepspeech2.speech import AUDIBLE, above, find_levels, frame_length, noise_floor
from src import cli
from src.manifest import Manifest

logger = logging.getLogger(__name__)

PAUSE = 0.12  # seconds of silence that are cut, at least
MARGIN = 0.3  # seconds of silence that an utterance keeps at its ends, at most
CONFIDENCE = 0.5
_STRAY = 0.2  # seconds; a single letter nearer to a word is a part of the word, misheard
_FLOOR_SECONDS = 60  # the noise floor is that of a minute
# why words are dropped
UNSPELLED, LEFT_OUT, OTHER_SPEECH = "labels cannot write", "not heard", "no pause beside a gap"
UNSURE, SHORT, LONG = "low confidence", "too short", "too long without a pause"


@dataclass(frozen=True)
class Limits:
    """What an utterance must be.

    Attributes:
        min_seconds, max_seconds: its length.
        min_confidence: the geometric mean of the probabilities of its letters.
    """

    min_seconds: float
    max_seconds: float
    min_confidence: float


@dataclass(frozen=True)
class Border:
    """What is between two words, or before the first or behind the last one.

    Attributes:
        end: second where an utterance can end here; None without a pause.
        start: second where an utterance can start here.
        is_clean: whether nothing is said between the words, so that an utterance can go on.
        pause: seconds of silence.
        ends_line: whether the next word is in another line.
    """

    end: float | None
    start: float | None
    is_clean: bool
    pause: float
    ends_line: bool


@dataclass(frozen=True)
class Utterance:
    """A stretch of words.

    Attributes:
        first, last: the words; `last` is the one behind.
        start, end: seconds from the beginning of the recording.
        text: as the labels write it; "" for one that is dropped.
        why: why it is dropped; "" for one that is kept.
        confidence: see `Limits`.
    """

    first: int
    last: int
    start: float
    end: float
    text: str
    why: str
    confidence: float


# --- where to cut --------------------------------------------------------------------------------


def quiet_frames(samples: np.ndarray, rate: int) -> np.ndarray:
    """(n,) int16 samples -> (T,) whether each `frame_length` of samples is silent."""
    step = _FLOOR_SECONDS * rate
    hop = frame_length(rate)
    quiet = []
    for start in range(0, len(samples), step):
        block = samples[start : start + step + hop].astype(np.float32) / 32768
        levels = find_levels(np.concatenate([block, np.zeros(hop, np.float32)]), rate)
        quiet.append((above(levels, noise_floor(levels)) <= AUDIBLE)[: step // hop])
    return np.concatenate(quiet) if quiet else np.zeros(0, bool)


def borders(alignment: Alignment, quiet: np.ndarray) -> list[Border]:
    """What is before each word, and behind the last one."""
    words = alignment.words
    # the times of words that nobody says are no times of speech
    ends, starts = [0.0], [alignment.duration]
    for word, behind in zip(words, reversed(words), strict=True):
        ends.append(word.end if word.is_heard else ends[-1])
        starts.append(behind.start if behind.is_heard else starts[-1])
    starts.reverse()
    result = []
    for i, (end, start) in enumerate(zip(ends, starts, strict=True)):
        others = alignment.other[(alignment.other[:, 0] >= end) & (alignment.other[:, 1] <= start)]
        if len(others) == 1 and min(others[0, 0] - end, start - others[0, 1]) < _STRAY:
            near = others[0, 0] - end < start - others[0, 1]
            end, start = (others[0, 1], start) if near else (end, others[0, 0])
            others = others[:0]
        neighbours = all(words[j].is_heard for j in (i - 1, i) if 0 <= j < len(words))
        first, last = (others[0, 0], others[-1, 1]) if len(others) else (start, end)
        before, behind = _longest_pause(quiet, end, first), _longest_pause(quiet, last, start)
        cut_end = before and min(before[0] + MARGIN, sum(before) / 2)
        cut_start = behind and max(behind[1] - MARGIN, sum(behind) / 2)
        if not len(others):  # a recording may begin and end with a word
            cut_start = 0.0 if ends[i] == 0 and cut_start is None else cut_start
            last = starts[i] == alignment.duration
            cut_end = alignment.duration if last and cut_end is None else cut_end
        clean = neighbours and not len(others)
        ends_line = 0 < i < len(words) and words[i - 1].token.line != words[i].token.line
        pause = before[1] - before[0] if before else 0.0
        result.append(Border(cut_end, cut_start, clean, pause, ends_line))
    return result


def _longest_pause(quiet: np.ndarray, start: float, end: float) -> tuple[float, float] | None:
    """The longest silence between two times, in seconds; None if it is shorter than `PAUSE`."""
    rate = SAMPLE_RATE / frame_length(SAMPLE_RATE)  # frames per second
    # a frame overlaps the next one
    first, last = max(0, round(start * rate)), min(len(quiet), round(end * rate))
    runs = true_runs(quiet[first:last])
    if not len(runs):
        return None
    a, b = runs[(runs[:, 1] - runs[:, 0]).argmax()]
    found = ((first + a) / rate, (first + b) / rate)
    return found if found[1] - found[0] >= PAUSE - 1e-9 else None


def divide(alignment: Alignment, edges: Sequence[Border], limits: Limits) -> list[Utterance]:
    """All words as utterances, kept and dropped, in order."""
    words = alignment.words
    result: list[Utterance] = []
    first = 0
    for i in range(1, len(words) + 1):
        if i == len(words) or not edges[i].is_clean:
            result += _divide_run(words, edges, first, i, limits)
            first = i
    return result


def _divide_run(
    words: Sequence[AlignedWord], edges: Sequence[Border], first: int, last: int, limits: Limits
) -> Iterator[Utterance]:
    """The utterances of words between which nothing else is said."""
    if not words[first].is_heard:  # a run of one word: borders beside such words are never clean
        why = LEFT_OUT if words[first].token.words else UNSPELLED
        yield _dropped(words, first, last, why)
        return
    begin = next((i for i in range(first, last) if edges[i].start is not None), last)
    finish = next((i for i in range(last, begin, -1) if edges[i].end is not None), begin)
    if begin > first:
        yield _dropped(words, first, begin, OTHER_SPEECH)
    if finish > begin:
        parts = _split_lines(edges, begin, finish)
        parts = [part for whole in parts for part in _split(edges, *whole, limits)]
        for part in _joined(edges, parts, limits):
            yield _utterance(words, edges, *part, limits)
    if last > finish:
        yield _dropped(words, finish, last, OTHER_SPEECH)


def _split_lines(edges: Sequence[Border], first: int, last: int) -> list[tuple[int, int]]:
    """Words divided at the ends of lines that have a pause."""
    cuts = [i for i in range(first + 1, last) if edges[i].ends_line and edges[i].pause]
    return list(zip([first, *cuts], [*cuts, last], strict=True))


def _length(edges: Sequence[Border], first: int, last: int) -> float:
    """Seconds of an utterance."""
    return edges[last].end - edges[first].start


def _split(
    edges: Sequence[Border], first: int, last: int, limits: Limits
) -> Iterator[tuple[int, int]]:
    """Words divided at their longest pauses, until no part is too long that has a pause."""
    waiting = [(first, last)]
    while waiting:
        first, last = waiting.pop()
        cuts = [i for i in range(first + 1, last) if edges[i].pause]
        if _length(edges, first, last) <= limits.max_seconds or not cuts:
            yield first, last
            continue
        good = [
            i
            for i in cuts
            if min(_length(edges, first, i), _length(edges, i, last)) >= limits.min_seconds
        ]
        cut = max(good or cuts, key=lambda i: edges[i].pause)
        waiting += [(cut, last), (first, cut)]


def _joined(
    edges: Sequence[Border], parts: Sequence[tuple[int, int]], limits: Limits
) -> list[tuple[int, int]]:
    """Parts that are too short joined with the part before or behind."""
    result: list[tuple[int, int]] = []
    for first, last in parts:
        if result:
            before = result[-1]
            short = min(_length(edges, *before), _length(edges, first, last)) < limits.min_seconds
            if short and _length(edges, before[0], last) <= limits.max_seconds:
                result[-1] = (before[0], last)
                continue
        result.append((first, last))
    return result


def _utterance(
    words: Sequence[AlignedWord], edges: Sequence[Border], first: int, last: int, limits: Limits
) -> Utterance:
    """Words with their text, or with the reason why they are dropped."""
    chosen = words[first:last]
    letters = np.array([sum(map(len, word.token.words)) for word in chosen])
    log_probs = np.log([max(word.probability, 1e-30) for word in chosen])
    confidence = float(np.exp((letters * log_probs).sum() / letters.sum()))
    length = _length(edges, first, last)
    why = ""
    if length < limits.min_seconds:
        why = SHORT
    elif length > limits.max_seconds:
        why = LONG
    elif confidence < limits.min_confidence:
        why = UNSURE
    text = SPACE.join(part for word in chosen for part in word.token.words)
    start, end = edges[first].start, edges[last].end
    return Utterance(first, last, start, end, "" if why else text, why, confidence)


def _dropped(words: Sequence[AlignedWord], first: int, last: int, why: str) -> Utterance:
    return Utterance(first, last, words[first].start, words[last - 1].end, "", why, 0.0)


# --- recordings ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Done:
    """What has become of a recording.

    Attributes:
        seconds: its length.
        words: words of its text.
        kept: (name, samples, transcript) of each utterance.
        dropped: (start, end, words of the text, reason) of what was dropped.
    """

    seconds: float
    words: int
    kept: list[tuple[str, int, str]]
    dropped: list[tuple[float, float, str, str]]


def segment_recording(
    model: Model, audio: str, text: str, name: str, folder: Path, limits: Limits
) -> Done:
    """Cut a recording, and write its utterances below `folder`.

    Raises:
        InputError: as `Model.align`.
    """
    alignment = model.align(audio, text)
    logger.info("%s: %s", audio, alignment.summary())
    with open_audio(audio, SAMPLE_RATE) as blocks:
        samples = np.concatenate([to_pcm16(block) for block in blocks])
    edges = borders(alignment, quiet_frames(samples, SAMPLE_RATE))
    kept, dropped = [], []
    for utterance in divide(alignment, edges, limits):
        if utterance.why:
            part = alignment.words[utterance.first : utterance.last]
            said = " ".join(word.word for word in part)
            dropped.append((utterance.start, utterance.end, said, utterance.why))
            continue
        own = f"{name}-{len(kept) + 1:05}"
        cut = slice(round(utterance.start * SAMPLE_RATE), round(utterance.end * SAMPLE_RATE))
        wav, txt = utterance_paths(folder, own)
        write_wav(wav, samples[cut])
        write_text(txt, utterance.text)
        kept.append((own, len(samples[cut]), utterance.text))
    return Done(alignment.duration, len(alignment.words), kept, dropped)


class Record:
    """What earlier runs have done, kept in a file."""

    def __init__(self, path: Path, settings: str):
        self._path, self._settings = path, settings
        self._done: dict[str, list] = read_record(path)

    def find(self, name: str, audio: str, text: str, folder: Path) -> Done | None:
        """What was done for a recording and its text, if nothing has changed since."""
        with contextlib.suppress(TypeError, ValueError):  # noted by another version
            key, noted = self._done.get(name) or ([], {})
            if key == self._key(audio, text):
                done = Done(**noted)
                kept = ((utterance_paths(folder, own), count) for own, count, _ in done.kept)
                if all(txt.is_file() and is_prepared(wav, count) for (wav, txt), count in kept):
                    return done
        return None

    def add(self, name: str, audio: str, text: str, done: Done) -> None:
        """Keep what was done."""
        self._done[name] = [self._key(audio, text), asdict(done)]
        write_record(self._path, self._done)

    def _key(self, audio: str, text: str) -> list:
        status = os.stat(audio)
        digest = hashlib.sha256(text.encode()).hexdigest()
        path = os.path.abspath(audio).encode(errors="surrogateescape").hex()
        return [path, status.st_size, status.st_mtime_ns, digest, self._settings]


def find_pairs(args: argparse.Namespace) -> list[tuple[str, str]]:
    """The recordings and texts that the options name.

    Raises:
        InputError: for a manifest that cannot be read, and options that do not fit together.
    """
    if bool(args.manifest) == bool(args.pair) or len(args.pair) not in (0, 2):
        raise InputError("name AUDIO and TEXT, or a --manifest with `audio,text` a line")
    if args.pair:
        return [tuple(args.pair)]
    folder = os.path.dirname(args.manifest)
    try:
        with open(args.manifest, encoding="utf-8-sig", errors="surrogateescape", newline="") as f:
            rows = [(i, row) for i, row in enumerate(csv.reader(f), 1) if row]
    except OSError as error:
        raise InputError(f"{args.manifest}: cannot read: {error.strerror}") from None
    except csv.Error as error:
        raise InputError(f"{args.manifest}: not a manifest: {error}") from None
    wrong = next((i for i, row in rows if len(row) != 2), None)
    if wrong or not rows:
        where = f"{args.manifest}:{wrong}" if wrong else args.manifest
        raise InputError(f"{where}: needed are lines `audio,text`")
    return [(os.path.join(folder, row[0]), os.path.join(folder, row[1])) for _, row in rows]


def names_of(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """A name for each recording, for files and manifests; no two are equal."""
    names: list[str] = []
    for audio, _ in pairs:
        stem = os.path.splitext(os.path.basename(audio))[0]
        name = re.sub(r"[^\w.-]+", "_", os.fsencode(stem).decode(errors="replace"))[:80]
        name = re.sub(r"^\W+", "", name) or "recording"
        again = 2
        unique = name
        while unique in names:
            unique, again = f"{name}_{again}", again + 1
        names.append(unique)
    return names


def load(args: argparse.Namespace) -> Model:
    """The model that the options name. Raises InputError."""
    stored = Path(args.model).suffix in NEEDS_MINDSPORE
    return cli.load_stored_model(args.model) if stored else load_model(args.model)


def written(text: str, normalizer: Normalizer) -> str:
    """A text whose lines are written as the labels do, where the labels can."""
    lines = []
    for line in text.splitlines():
        found, problem = normalizer.normalize(line)
        lines.append(line if problem else found)
    return "\n".join(lines)


def segment(args: argparse.Namespace) -> int:
    """Returns 0 if every recording was cut, 2 if something was at fault."""
    if not re.fullmatch(r"\w[\w.-]*", args.name):
        raise InputError(f"--name {args.name}: allowed are letters, digits, `_`, `-` and `.`")
    if args.min_seconds > args.max_seconds:
        raise InputError(
            f"--min_seconds {args.min_seconds} is more than --max_seconds {args.max_seconds}"
        )
    pairs = find_pairs(args)
    ensure_target(args.target)
    model = load(args)
    limits = Limits(args.min_seconds, args.max_seconds, args.min_confidence)
    normalizer = Normalizer(model.labels, args.spell_out)
    folder = Path(os.path.abspath(args.target / f"{args.name}_dataset"))
    settings = json.dumps([asdict(limits), args.spell_out, _fingerprint(args.model)])
    done: dict[str, Done] = {}
    problems = 0
    with exclusive_lock(folder):
        record = Record(folder / ".segmented.json", settings)
        for (audio, path), name in zip(pairs, names_of(pairs), strict=True):
            try:
                if is_special(audio) or audio == STANDARD_INPUT:
                    raise InputError(f"{audio}: not a file; it is read twice")
                text = written(read_text(path), normalizer)
                found = os.path.isfile(audio) and record.find(name, audio, text, folder)
                if not found:
                    found = segment_recording(model, audio, text, name, folder, limits)
                    record.add(name, audio, text, found)
                done[name] = found
            except InputError as error:
                problems += 1
                logger.error("%s, %s: %s", audio, path, error)
        manifest = _save(args, model, folder, done)
    _report(args.name, manifest, done, normalizer, problems)
    return 2 if problems else 0


def _fingerprint(model: str) -> list:
    """What tells a model file from another."""
    path = Path(model)
    return [str(path.resolve()), path.stat().st_mtime_ns] if path.is_file() else [model]


def _save(args: argparse.Namespace, model: Model, folder: Path, done: dict[str, Done]) -> Manifest:
    """Write the manifest, its index, and the list of what was dropped."""
    if not done:
        raise InputError("none of the recordings can be used")
    kept = [utterance for found in done.values() for utterance in found.kept]
    with atomic_path(folder / "dropped.csv") as temporary, temporary.open(
        "w", encoding="utf-8", newline=""
    ) as file:
        table = csv.writer(file)
        table.writerow(["recording", "start", "end", "reason", "text"])
        for name, found in done.items():
            for start, end, text, why in found.dropped:
                table.writerow([name, f"{start:.2f}", f"{end:.2f}", why, text])
    if not kept:
        raise InputError(
            f"no utterances: {folder / 'dropped.csv'} says why words were dropped; the model must "
            "know the language of the recordings, and --min_confidence can be lower"
        )
    rows = [utterance_paths(folder, own) for own, _, _ in kept]
    infos = [utterance_info(samples, text, model.labels) for _, samples, text in kept]
    path = args.target / f"{args.name}_manifest.csv"
    return save_manifest(path, rows, infos, model.labels)


def _report(
    name: str, manifest: Manifest, done: dict[str, Done], normalizer: Normalizer, problems: int
) -> None:
    """Print what was kept and what was not."""
    total = sum(found.seconds for found in done.values())
    print(
        f"{name}: {len(manifest)} utterances, {manifest.seconds.sum() / 3600:.2f} h of "
        f"{total / 3600:.2f} h in {len(done)} recordings -> {manifest.path}"
    )
    reasons: Counter[str] = Counter()
    for found in done.values():
        for _, _, text, why in found.dropped:
            reasons[why] += len(text.split())
    words = sum(found.words for found in done.values())
    listed = ", ".join(f"{count} {why}" for why, count in reasons.most_common()) or "none"
    print(f"{name}: dropped of {words} words: {listed}")
    for line in normalizer.report():
        print(f"{name}: {line}")
    if problems:
        print(f"{name}: {problems} recordings left out")


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    result = argparse.ArgumentParser(
        prog="python -m data.segment",
        description="Cut long recordings with known texts into utterances for training.",
    )
    result.add_argument("pair", nargs="*", metavar="AUDIO TEXT", help="a recording and its text")
    result.add_argument(
        "--manifest", default="", metavar="FILE", help="CSV file with `audio,text` a line"
    )
    result.add_argument(
        "--model",
        default="english",
        help="an .onnx, .ckpt or .mindir model of the language, or one of the package "
        "(default: %(default)s)",
    )
    result.add_argument(
        "--name", default="segmented", help="of the manifest (default: %(default)s)"
    )
    result.add_argument(
        "--target",
        type=Path,
        default=Path("data"),
        help="folder to write to (default: %(default)s)",
    )
    for option, default, text in (("min", 1.0, "shorter"), ("max", 15.0, "longer")):
        result.add_argument(
            f"--{option}_seconds",
            type=seconds,
            default=default,
            metavar="S",
            help=f"drop {text} utterances (default: %(default)s)",
        )
    result.add_argument(
        "--min_confidence",
        type=float,
        default=CONFIDENCE,
        metavar="P",
        help="drop utterances whose letters have a lower mean probability, 0 to 1 "
        "(default: %(default)s)",
    )
    result.add_argument(
        "--spell_out",
        choices=LANGUAGES,
        metavar="LANGUAGE",
        help="look for numbers and abbreviations as words, in " + " or ".join(LANGUAGES),
    )
    return result


def main(argv: list[str] | None = None) -> int:
    """Cut recordings as the command line says; returns the exit code."""
    args = parser().parse_args(argv)
    return commands.run(lambda: segment(args))


if __name__ == "__main__":
    sys.exit(main())
