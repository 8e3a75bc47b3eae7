"""Prepare corpora in the formats that they come in. `python -m data.corpus SOURCE --format NAME`

A source is a corpus's folder, a tar archive of it, or the file with its transcripts. Several
sources of one format become one corpus. docs/corpora.md shows every format.

Writes TARGET/NAME_manifest.csv and its index; with --val_speakers, TARGET/NAME_train_manifest.csv
and TARGET/NAME_val_manifest.csv. Audio is left where it is. Only a part of a recording is written,
as TARGET/NAME_dataset/wav/UTTERANCE.wav. Transcripts are written as the labels allow, to
TARGET/NAME_dataset/txt/.

What cannot be used is left out, named and counted; TARGET/NAME_dataset/problems.txt lists it all.
The exit code is 0 when everything was prepared, and 2 when anything was at fault. Utterances
outside --min_seconds and --max_seconds are not at fault.

What has been checked or cut is kept in TARGET/NAME_dataset/.prepared.json, so that running again
does no work again.
"""

import argparse
import contextlib
import hashlib
import logging
import math
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np
import soundfile

from data.common import (
    LABELS_PATH,
    SAMPLE_RATE,
    add_common_arguments,
    add_scheduler_argument,
    ensure_target,
    exclusive_lock,
    is_prepared,
    parallel,
    read_record,
    save_manifest,
    seconds,
    to_pcm16,
    utterance_paths,
    write_record,
    write_text,
    write_wav,
)
from data.download import ArchiveError, extract
from data.readers import FORMATS, Clip, find_transcripts
from data.transcripts import LANGUAGES, Normalizer
from deepspeech2 import commands
from deepspeech2.audio import AudioError, read_audio, resample
from deepspeech2.errors import InputError
from deepspeech2.files import atomic_path, is_path
from deepspeech2.labels import Labels
from src.manifest import Manifest, UtteranceInfo, count_repeats

logger = logging.getLogger(__name__)

# A segment may end that much after its recording, as in Kaldi's extract-segments.
MAX_OVERSHOOT = 0.5  # seconds
# A segment that lacks no more of its recording is the recording.
WHOLE = 0.1  # seconds
SHOWN = 20  # problems in the log; problems.txt has them all
_PART = 100_000  # recordings that are handed to the processes at once
_RECORD_SECONDS = 30.0  # between two records of what is done
_RECORD_SHARE = 0.05  # of the time, at most, goes into records
_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


@dataclass(frozen=True)
class Audio:
    """Where the audio of an utterance is, and its length."""

    path: str
    samples: int
    rate: int  # Hz


@dataclass
class Outcome:
    """What has become of a corpus."""

    manifests: dict[str, Manifest] = field(default_factory=dict)  # by split
    speakers: dict[str, int] = field(default_factory=dict)  # by split
    too_short_or_long: int = 0
    problems: list[str] = field(default_factory=list)
    text_report: list[str] = field(default_factory=list)
    texts_in_both: int = 0  # utterances of val whose text is in train, too


def is_archive(path: Path) -> bool:
    return path.name.lower().endswith(_ARCHIVES) and path.is_file()


def unpack(sources: Sequence[Path], form: str, folder: Path) -> tuple[list[Path], list[str]]:
    """The sources with archives unpacked, each into a folder of its own in `folder`; and problems.

    Raises:
        InputError: if the only archive is broken.
    """
    archives = [source for source in sources if is_archive(source)]
    found = [source for source in sources if source not in archives]
    for source in list(found) if form == "voxforge" else []:  # it comes as a folder of archives
        inside = sorted(filter(is_archive, source.iterdir())) if source.is_dir() else []
        archives += inside
        if inside and not any(source.glob("**/etc/PROMPTS")):
            found.remove(source)
    for leftover in folder.glob(".*.tmp"):  # of a run that was killed
        shutil.rmtree(leftover)
    problems: list[str] = []
    unpacked: dict[str, Path] = {}
    for archive in archives:
        suffix = next(s for s in _ARCHIVES if archive.name.lower().endswith(s))
        name = archive.name[: -len(suffix)]
        if name in unpacked:
            problems.append(f"{archive}: {unpacked[name]} has the same name; it is left out")
            continue
        unpacked[name] = archive
        try:
            found.append(extract(archive, folder / name))
        except ArchiveError as error:
            if len(archives) == 1:
                raise
            problems.append(str(error))
    return found, problems


def read_clips(sources: Sequence[Path], form: str) -> tuple[list[Clip], list[str]]:
    """All clips of the sources, and what is wrong with the others.

    Names from several corpora get the folder of their corpus in front.
    """
    # by where links lead: of several paths to one file the first counts
    found = {}
    for source in sources:
        for path in find_transcripts(source, form):
            found.setdefault(path.resolve(), Path(os.path.abspath(path)))
    paths = list(found.values())
    labels = [""] * len(paths)
    if len(paths) > 1 and not FORMATS[form].names_are_unique:
        labels = _corpus_names(paths)
    clips, problems = [], []
    for path, label in zip(paths, labels, strict=True):
        found, wrong = FORMATS[form].read(path)
        clips += [replace(clip, name=os.path.join(label, clip.name)) for clip in found]
        problems += wrong
    return clips, problems


def _corpus_names(paths: Sequence[Path]) -> list[str]:
    """A folder name for the corpus of each file with transcripts."""
    roots = []
    for path in paths:
        if path.parent.name == "etc":
            roots.append(path.parent.parent)
        elif path.name in ("metadata.csv", "text", "txt.done.data"):
            roots.append(path.parent)
        else:
            roots.append(path.with_suffix("") if path.is_file() else path)
    common = os.path.commonpath([root.parent for root in roots])
    # an archive often holds one folder of its own name
    parts = [root.relative_to(common).parts for root in roots]
    return [os.path.join(*(name for name, _ in groupby(names))) for names in parts]


def usable_clips(clips: Iterable[Clip], normalizer: Normalizer) -> tuple[list[Clip], list[str]]:
    """Clips with transcripts as the labels write them, sorted by name, and what is wrong.

    A name that stands for two different utterances is left out, because nobody knows which of them
    is right. Of two equal ones the first is taken.
    """
    by_name: dict[str, list[Clip]] = {}
    for clip in clips:
        by_name.setdefault(clip.name, []).append(clip)
    usable, problems = [], []
    for name, (first, *others) in sorted(by_name.items()):
        same = all(replace(other, where=first.where) == first for other in others)
        problems += [
            f"{other.where}: {name} is there twice, first in {first.where}; "
            f"{'the first is taken' if same else 'both are left out'}"
            for other in others
        ]
        if not same:
            continue
        text, problem = normalizer.normalize(first.text)
        if not _can_be_a_file(name):
            problem = f"{name[:80]!r} cannot be the name of a file"
        elif not _can_be_in_a_manifest(first.audio):
            problem = f"{str(first.audio)!r} is no UTF-8 or has line breaks: rename the file"
        if problem:
            problems.append(f"{first.where}: {name}: {problem}")
        else:
            usable.append(replace(first, text=text))
    return usable, problems


def _can_be_a_file(name: str) -> bool:
    """Whether the files of an utterance can have a name, which may have folders in it."""
    parts = name.split("/")
    return (
        is_path(name)
        and len(os.fsencode(name)) < 1000
        and all(part not in ("", ".", "..") and len(os.fsencode(part)) < 200 for part in parts)
    )


def _can_be_in_a_manifest(path: Path) -> bool:
    """Whether a path can be a cell of a manifest: a UTF-8 file with a line for each utterance."""
    try:
        return len(str(path).encode().splitlines()) == 1
    except UnicodeEncodeError:
        return False


def prepare_recording(folder: Path, clips: Sequence[Clip]) -> list[Audio | str]:
    """Check a recording, and write those of its clips that are parts of it below `folder`.

    For each clip: its audio, or what is wrong.
    """
    path = clips[0].audio
    try:
        stamp = path.stat().st_mtime_ns
        samples, rate = read_audio(path)
        # libsndfile does not know all formats, but those that have a channel for each speaker
        channels = soundfile.info(path).channels if any(clip.channel for clip in clips) else 1
    except OSError as error:
        return [f"{clip.where}: {path}: cannot read the audio: {error.strerror}" for clip in clips]
    except (AudioError, RuntimeError) as error:
        return [f"{clip.where}: {error}" for clip in clips]
    length = len(samples) / rate
    resampled: dict[int, np.ndarray] = {}  # by channel, at SAMPLE_RATE
    outcomes: list[Audio | str] = []
    for clip in clips:
        end = min(length if clip.end is None else clip.end, length)
        channel = clip.channel if channels > 1 else 0
        fault = find_fault(clip, length, channels)
        if fault:
            outcomes.append(f"{clip.where}: {fault}")
        elif clip.start + length - end <= WHOLE and not channel:
            outcomes.append(Audio(str(path), len(samples), rate))
        else:
            if channel not in resampled:
                one = read_channel(path, channel) if channel else samples
                resampled[channel] = resample(one, rate, SAMPLE_RATE)
            part = slice(round(clip.start * SAMPLE_RATE), round(end * SAMPLE_RATE))
            pcm, wav = to_pcm16(resampled[channel][part]), utterance_paths(folder, clip.name)[0]
            write_wav(wav, pcm, stamp)
            outcomes.append(Audio(str(wav), len(pcm), SAMPLE_RATE))
    return outcomes


def read_channel(path: Path, channel: int) -> np.ndarray:
    """(n,) float32 samples of a channel, counted from 1, at the file's own rate."""
    return np.ascontiguousarray(soundfile.read(path, dtype="float32")[0][:, channel - 1])


def find_fault(clip: Clip, length: float, channels: int) -> str:
    """What is wrong with a clip of a recording of `length` seconds, or ""."""
    if not 0 <= clip.start < (math.inf if clip.end is None else clip.end):
        return f"{clip.name} starts at {clip.start} s and ends at {clip.end} s"
    last = clip.start if clip.end is None else clip.end
    if clip.start >= length or last > length + MAX_OVERSHOOT:
        return (
            f"{clip.name} is longer than its file: it goes to {last} s, "
            f"{clip.audio} to {length:.2f} s"
        )
    if clip.channel > channels:
        return f"{clip.name} is on channel {clip.channel}, {clip.audio} has {channels}"
    return ""


class Prepared:
    """What earlier runs have checked or cut, kept in a file."""

    def __init__(self, path: Path):
        self.path = path
        self._audio: dict[str, list] = read_record(path)
        self._due = time.monotonic() + _RECORD_SECONDS

    def find(self, clip: Clip, folder: Path) -> Audio | None:
        """The audio of a clip, if neither its recording nor what was cut has changed since."""
        with contextlib.suppress(OSError, ValueError, TypeError):
            key, entry = self._audio.get(clip.name) or ([], [])
            if key == self._key(clip):
                audio = Audio(*entry)
                cut = utterance_paths(folder, clip.name)[0]
                if audio.path == str(clip.audio) or (
                    audio.path == str(cut) and is_prepared(cut, audio.samples, key[2])
                ):
                    return audio
        return None

    def add(self, clip: Clip, audio: Audio) -> None:
        self._audio[clip.name] = [self._key(clip), [audio.path, audio.samples, audio.rate]]

    def save(self) -> None:
        begin = time.monotonic()
        write_record(self.path, self._audio)
        now = time.monotonic()
        self._due = now + max(_RECORD_SECONDS, (now - begin) / _RECORD_SHARE)

    def save_when_due(self) -> None:
        if time.monotonic() >= self._due:
            self.save()

    @staticmethod
    def _key(clip: Clip) -> list:
        status = clip.audio.stat()
        return [
            str(clip.audio),
            status.st_size,
            status.st_mtime_ns,
            clip.start,
            clip.end,
            clip.channel,
        ]


def prepare_audio(
    clips: Sequence[Clip], folder: Path, limits: tuple[float, float], jobs: int | str, name: str
) -> list[Audio | str | None]:
    """As `prepare_recording`, for clips of many recordings. Nothing is done twice.

    None stands for a clip whose seconds are outside `limits`.
    """
    for leftover in folder.glob("wav/**/.*.tmp"):  # of a run that was killed
        leftover.unlink()
    prepared = Prepared(folder / ".prepared.json")
    outcomes: list[Audio | str | None] = [prepared.find(clip, folder) for clip in clips]
    recordings: dict[Path, list[int]] = {}
    for i, clip in enumerate(clips):
        span = 0.0 if clip.end is None else clip.end - clip.start  # 0: known when it is decoded
        if outcomes[i] is None and (span <= 0 or is_within(span, limits)):
            recordings.setdefault(clip.audio, []).append(i)
    groups = list(recordings.values())
    for start in range(0, len(groups), _PART):
        part = groups[start : start + _PART]
        work = [[clips[i] for i in group] for group in part]
        results = parallel(partial(prepare_recording, folder), work, jobs, name, folder)
        try:
            for group, found in zip(part, results, strict=True):
                for i, outcome in zip(group, found, strict=True):
                    outcomes[i] = outcome
                    if isinstance(outcome, Audio):
                        prepared.add(clips[i], outcome)
                prepared.save_when_due()
        finally:
            prepared.save()
    return [
        None
        if isinstance(outcome, Audio) and not is_within(outcome.samples / outcome.rate, limits)
        else outcome
        for outcome in outcomes
    ]


def is_within(duration: float, limits: tuple[float, float]) -> bool:
    return limits[0] <= round(duration, 6) <= limits[1]  # 0.7 - 0.1 is less than 0.6


def choose_speakers(clips: Sequence[Clip], wanted: str) -> set[str]:
    """The speakers of val: those that a file names, or so many, always the same of a corpus.

    Raises:
        InputError: if the corpus does not name its speakers, or has not the wanted ones or no
            others.
    """
    speakers = {clip.speaker for clip in clips}
    if "" in speakers:
        without = next(clip for clip in clips if not clip.speaker)
        raise InputError(
            f"--val_speakers {wanted}: the corpus does not say who speaks "
            f"{without.name} ({without.where})"
        )
    if wanted.isdecimal():
        # by a hash: corpora sort speakers by sex, place or date
        ordered = sorted(speakers, key=lambda s: hashlib.sha256(s.encode()).digest())
        chosen = set(ordered[: int(wanted)])
    else:
        try:
            lines = Path(wanted).read_text(encoding="utf-8-sig").splitlines()
            chosen = {line.strip() for line in lines} - {""}
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"--val_speakers {wanted}: neither a number nor a readable file: {error}"
            ) from None
        if not chosen & speakers:
            raise InputError(
                f"--val_speakers {wanted}: none of them is among the {len(speakers)} "
                f"speakers, {', '.join(sorted(speakers)[:5])} for example"
            )
        for speaker in sorted(chosen - speakers):
            logger.warning("--val_speakers %s: nothing of %s is in the corpus", wanted, speaker)
    if not chosen or not speakers - chosen:
        raise InputError(
            f"--val_speakers {wanted}: {len(chosen & speakers)} of the corpus's "
            f"{len(speakers)} speakers; train and val need at least one each"
        )
    return chosen


def prepare(sources: Sequence[Path], args: argparse.Namespace) -> Outcome:
    """Prepare a corpus as the options in `args` say.

    Raises:
        InputError: if a source cannot be used, nothing in it can, or an option does not fit.
    """
    labels = Labels.load(args.labels_path)
    normalizer = Normalizer(labels, args.spell_out)
    for source in sources:
        if not source.exists():
            raise InputError(f"{source}: no such file or folder")
    ensure_target(args.target)
    folder = Path(os.path.abspath(args.target / f"{args.name}_dataset"))
    with exclusive_lock(folder):
        sources, problems = unpack(sources, args.format, folder / "source")
        found, wrong = read_clips(sources, args.format)
        clips, unusable = usable_clips(found, normalizer)
        problems += wrong + unusable
        limits = (args.min_seconds, args.max_seconds)
        audio = prepare_audio(clips, folder, limits, args.jobs, args.name)
        problems += [outcome for outcome in audio if isinstance(outcome, str)]
        save_problems(folder / "problems.txt", problems)
        outcome = Outcome(
            problems=problems, text_report=normalizer.report(), too_short_or_long=audio.count(None)
        )
        rows = [(c, a) for c, a in zip(clips, audio, strict=True) if isinstance(a, Audio)]
        if not rows:
            raise InputError(
                f"{', '.join(map(str, sources))}: none of the {len(found)} utterances can be "
                f"used: {len(problems)} problems, {outcome.too_short_or_long} utterances outside "
                "--min_seconds and --max_seconds"
            )
        splits = {"": rows}
        if args.val_speakers:
            val = choose_speakers([clip for clip, _ in rows], args.val_speakers)
            splits = {
                "train": [row for row in rows if row[0].speaker not in val],
                "val": [row for row in rows if row[0].speaker in val],
            }
            texts = {clip.text for clip, _ in splits["train"]}
            outcome.texts_in_both = sum(clip.text in texts for clip, _ in splits["val"])
        for split, chosen in splits.items():
            path = args.target / f"{'_'.join(filter(None, (args.name, split)))}_manifest.csv"
            outcome.manifests[split] = write_split(path, chosen, folder, labels)
            outcome.speakers[split] = len({clip.speaker for clip, _ in chosen} - {""})
    return outcome


def write_split(
    path: Path, rows: Sequence[tuple[Clip, Audio]], folder: Path, labels: Labels
) -> Manifest:
    """Write the transcripts, the manifest and its index."""
    paths, metadata = [], []
    for clip, audio in rows:
        transcript = utterance_paths(folder, clip.name)[1]
        write_text(transcript, clip.text)
        indices = labels.encode(clip.text)
        paths.append((Path(audio.path), transcript))
        repeats = count_repeats(indices)
        metadata.append(UtteranceInfo(audio.samples, audio.rate, len(indices), repeats))
    return save_manifest(path, paths, metadata, labels)


def save_problems(path: Path, problems: Sequence[str]) -> None:
    """Log the first problems, and write all to a file, which is removed when there are none."""
    for problem in problems[:SHOWN]:
        logger.warning("%s", problem)
    if not problems:
        path.unlink(missing_ok=True)
        return
    if len(problems) > SHOWN:
        logger.warning("and %d more problems, all in %s", len(problems) - SHOWN, path)
    with atomic_path(path) as temporary:
        # names of files may be no UTF-8
        content = "\n".join(problems) + "\n"
        temporary.write_text(content, encoding="utf-8", errors="backslashreplace")


def report(name: str, outcome: Outcome) -> None:
    """Print what was prepared and what was not."""
    for split, manifest in outcome.manifests.items():
        speakers = outcome.speakers[split]
        print(
            f"{name}: {split}{' ' * bool(split)}{len(manifest)} utterances, "
            f"{manifest.seconds.sum() / 3600:.2f} h, "
            f"{speakers or 'unknown'} speaker{'s' * (speakers != 1)} -> {manifest.path}"
        )
    for line in outcome.text_report:
        print(f"{name}: {line}")
    if outcome.texts_in_both:
        print(f"{name}: {outcome.texts_in_both} utterances of val have a text that is in train")
    print(
        f"{name}: left out: {outcome.too_short_or_long} for their length; "
        f"{len(outcome.problems)} problems"
    )


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    result = argparse.ArgumentParser(
        prog="python -m data.corpus", description="Prepare corpora in the formats they come in."
    )
    result.add_argument(
        "sources",
        type=Path,
        nargs="+",
        metavar="SOURCE",
        help="folder, tar archive, or file with the transcripts",
    )
    result.add_argument(
        "--format", required=True, choices=FORMATS, help="docs/corpora.md describes each"
    )
    result.add_argument("--name", help="of the manifests (default: the first SOURCE's folder)")
    result.add_argument(
        "--min_seconds",
        type=seconds,
        default=0,
        metavar="S",
        help="leave out shorter utterances (default: keep all)",
    )
    result.add_argument(
        "--max_seconds",
        type=seconds,
        default=math.inf,
        metavar="S",
        help="leave out longer utterances (default: keep all)",
    )
    result.add_argument(
        "--val_speakers",
        metavar="N|FILE",
        help="how many speakers make the val set, or a file with one a line",
    )
    result.add_argument(
        "--spell_out",
        choices=LANGUAGES,
        metavar="LANGUAGE",
        help="write numbers, abbreviations and foreign letters as words, in "
        + " or ".join(LANGUAGES),
    )
    result.add_argument(
        "--labels_path",
        type=Path,
        default=LABELS_PATH,
        metavar="FILE",
        help="JSON list of the characters (default: the project's labels.json)",
    )
    add_common_arguments(result)
    add_scheduler_argument(result)
    return result


def default_name(source: Path) -> str:
    """A name for a corpus: that of its folder or archive."""
    source = Path(os.path.abspath(source))
    name = source.parent.name if source.is_file() else source.name
    if is_archive(source):
        name = re.sub(r"\.(tar|tgz)\b.*", "", source.name)
    return re.sub(r"[^\w.-]+", "_", name) or "corpus"


def main(argv: list[str] | None = None) -> int:
    """Prepare a corpus as the command line says; returns the exit code."""
    args = parser().parse_args(argv)
    return commands.run(lambda: corpus(args))


def corpus(args: argparse.Namespace) -> int:
    """Returns 0 if everything was prepared, 2 if something was at fault."""
    args.name = args.name or default_name(args.sources[0])
    if not re.fullmatch(r"\w[\w.-]*", args.name):
        raise InputError(f"--name {args.name}: allowed are letters, digits, `_`, `-` and `.`")
    if args.min_seconds > args.max_seconds:
        raise InputError(
            f"--min_seconds {args.min_seconds} is more than --max_seconds {args.max_seconds}"
        )
    outcome = prepare(args.sources, args)
    report(args.name, outcome)
    return 2 if outcome.problems else 0


if __name__ == "__main__":
    from data import corpus  # what workers of a cluster get must not be in `__main__`

    sys.exit(corpus.main())
