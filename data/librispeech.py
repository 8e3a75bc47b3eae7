"""Prepare LibriSpeech, a subset at a time or all of it. `python -m data.librispeech`

A source is a subset's folder (SUBSET/SPEAKER/CHAPTER/*.flac and *.trans.txt), a folder of such
folders, or a tar archive of either. Audio may also be .wav, .opus or .ogg. Without --source the
chosen subsets are downloaded and checked against their published MD5 sums.

Writes TARGET/LibriSpeech_dataset/{train,val,test_clean,test_other}/{wav,txt}/ and
TARGET/libri_{train,val,test_clean,test_other}_manifest.csv. A manifest names all subsets of its
split that have been prepared so far: val is every `dev-clean*` and `dev-other*`, train every
`train-*`.
Training utterances outside --min_seconds and --max_seconds are left out and counted; what is broken
is named, counted and left out.

What has been done is kept in TARGET/LibriSpeech_dataset/.prepared/SUBSET.json, so that running
again does no work again. A run that was stopped goes on with the utterances that are missing; an
archive that it had not unpacked whole is unpacked again.
"""

import argparse
import contextlib
import json
import logging
import math
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import soundfile

from data.common import (
    LABELS_PATH,
    SAMPLE_RATE,
    add_common_arguments,
    alone_in,
    parallel,
    save_manifest,
    seconds,
    to_pcm16,
    utterance_facts,
    utterance_paths,
    wav_size,
    write_text,
    write_wav,
)
from data.download import ArchiveError, download, extract
from data.libri_source import MD5, URL, Utterance, find_subsets, fingerprint, read_subset, split_of
from deepspeech2 import commands
from deepspeech2.audio import AudioError, load_audio
from deepspeech2.errors import InputError, RunError
from deepspeech2.files import atomic_path, ensure_writable
from deepspeech2.labels import Labels
from src.manifest import Manifest

logger = logging.getLogger(__name__)

TRAIN_SECONDS = (1, 15)  # both included, as in deepspeech.pytorch, data/data_opts.py
LONGEST = 1 << 40  # samples; a streamed FLAC, whose header knows no length, claims more


@dataclass(frozen=True)
class Record:
    """What has become of a subset."""

    source: str  # `fingerprint` of the folder or archive that it came from
    together: list[str]  # the subsets in that folder or archive
    labels: str  # the alphabet
    # of the prepared utterances by name, as the index of a manifest keeps them
    facts: dict[str, list[int]]
    left_out: int  # for their length
    broken: list[str]  # a message each
    limits: list[float] = field(default_factory=lambda: list(TRAIN_SECONDS))  # of training, seconds


def count_samples(path: Path) -> int:
    """Samples at `SAMPLE_RATE`, by the header of the file. Raises AudioError as `load_audio`."""
    with contextlib.suppress(OSError, RuntimeError):
        info = soundfile.info(path)
        if 0 < info.frames < LONGEST:
            return math.ceil(info.frames * SAMPLE_RATE / info.samplerate)
    return len(load_audio(path, SAMPLE_RATE))  # knows what is wrong


def is_prepared(audio: Path, samples: int, stamp: int | None = None) -> bool:
    """Whether a WAV of so many samples is there, with the time of change `stamp` if one is given."""
    try:
        status = audio.stat()
    except OSError:
        return False
    return status.st_size == wav_size(samples) and stamp in (None, status.st_mtime_ns)


def write_utterance(folder: Path, limits: tuple[float, float], labels: Labels,
                    utterance: Utterance) -> tuple[int, int, int, int] | str | None:
    """Write an utterance below `folder` unless it is there already.

    Returns its facts; None if its seconds are outside `limits`; or what is wrong with its audio. A
    written file carries the time of change of its source, by which the next run knows it.
    """
    audio, transcript = utterance_paths(folder, utterance.name)
    try:
        samples = count_samples(utterance.audio)
        if not limits[0] <= samples / SAMPLE_RATE <= limits[1]:
            return None
        stamp = utterance.audio.stat().st_mtime_ns
        if not is_prepared(audio, samples, stamp):
            write_wav(audio, to_pcm16(load_audio(utterance.audio, SAMPLE_RATE)), stamp)
    except AudioError as error:
        return str(error)
    write_text(transcript, utterance.text)
    return utterance_facts(samples, utterance.text, labels)


class Corpus:
    """The subsets prepared below `target`, and ways to add to them."""

    def __init__(
        self, target: Path, jobs: int, train_seconds: tuple[float, float] = TRAIN_SECONDS
    ):
        self.target, self.jobs, self.train_seconds = target, jobs, train_seconds
        self.folder = target / "LibriSpeech_dataset"
        self.labels = Labels.load(LABELS_PATH)
        self.records: dict[str, Record] = {}
        self.manifests: dict[str, Manifest] = {}  # by split, those of this run
        for path in sorted((self.folder / ".prepared").glob("*.json")):
            with contextlib.suppress(OSError, ValueError, TypeError):
                record = Record(**json.loads(path.read_text(encoding="utf-8")))
                if self._is_there(path.stem, record):
                    self.records[path.stem] = record
                    continue
            logger.warning(
                "%s: what was prepared is not there any more as it was; prepare it again", path.stem
            )

    def _is_there(self, subset: str, record: Record) -> bool:
        """Whether everything that was recorded can be used."""
        folder = self.folder / split_of(subset)
        paths = ((utterance_paths(folder, name), fact) for name, fact in record.facts.items())
        return record.labels == str(self.labels) and all(
            is_prepared(audio, fact[0]) and transcript.exists()
            for (audio, transcript), fact in paths
        )

    def add(self, source: Path, wanted: Sequence[str]) -> list[str]:
        """Prepare the subsets in a folder or archive, only the `wanted` ones if any.

        Returns all that it has.
        """
        if source.is_dir():
            subsets = find_subsets(source)
            marks = {subset: fingerprint(folder) for subset, folder in subsets.items()}
        else:
            mark = fingerprint(source)
            known = next(
                (record.together for record in self.records.values() if record.source == mark), []
            )
            todo = [s for s in known if (s in wanted or not wanted) and not self._is_done(s, mark)]
            subsets = (
                self._unpack(source) if todo or not known else dict.fromkeys(known, self.folder)
            )
            marks = dict.fromkeys(subsets, mark)
        for subset, folder in subsets.items():
            if subset in wanted or not wanted:
                self._add(subset, folder, marks[subset], list(subsets))
        if source.is_file():
            shutil.rmtree(self.folder / "source", ignore_errors=True)
        if not subsets:
            raise InputError(
                f"{source}: not LibriSpeech: it has no SUBSET/SPEAKER/CHAPTER/*.trans.txt"
            )
        return list(subsets)

    def add_official(self, subset: str) -> None:
        """Download and prepare a subset, unless it has been prepared before, from whatever source."""
        if subset in self.records and self._is_done(subset, self.records[subset].source):
            self._add(subset, self.folder, self.records[subset].source, [])
            return
        try:
            archive = download(
                f"{URL}{subset}.tar.gz", self.target / f"{subset}.tar.gz", MD5[subset]
            )
        except RunError as error:
            raise RunError(f"{error}. With the corpus at hand, use --source") from None
        try:
            self.add(archive, [subset])
        except ArchiveError as error:
            raise RunError(f"{error}; delete it to download it again") from None
        if subset not in self.records:
            raise RunError(f"{archive}: has no {subset}; delete it to download it again")

    def _unpack(self, archive: Path) -> dict[str, Path]:
        for leftover in self.folder.glob(".source.*.tmp"):  # of a run that was killed
            shutil.rmtree(leftover)
        return find_subsets(extract(archive, self.folder / "source"))

    def _is_done(self, subset: str, mark: str) -> bool:
        record = self.records.get(subset)
        same = split_of(subset) != "train" or record and record.limits == list(self.train_seconds)
        return record is not None and record.source == mark and bool(same)

    def _add(self, subset: str, folder: Path, mark: str, together: list[str]) -> None:
        """Prepare a subset if necessary, and write the manifest of its split."""
        split, done = split_of(subset), self._is_done(subset, mark)
        if not done:
            self.records[subset] = self._prepare(subset, folder, mark, together)
        for message in self.records[subset].broken:
            logger.warning("%s", message)
        facts = {
            name: tuple(fact)
            for record in self.of_split(split).values()
            for name, fact in record.facts.items()
        }
        if not facts:
            raise RunError(f"{subset}: none of its utterances can be used")
        names = sorted(facts)
        rows = [utterance_paths(self.folder / split, name) for name in names]
        path = self.target / f"libri_{split}_manifest.csv"
        self.manifests[split] = save_manifest(
            path, rows, [facts[name] for name in names], self.labels
        )
        if not done:
            with atomic_path(self.folder / ".prepared" / f"{subset}.json") as temporary:
                temporary.write_text(json.dumps(asdict(self.records[subset])), encoding="utf-8")

    def of_split(self, split: str) -> dict[str, Record]:
        """The records of a split's subsets."""
        return {
            subset: record
            for subset, record in sorted(self.records.items())
            if split_of(subset) == split
        }

    def _prepare(self, subset: str, folder: Path, mark: str, together: list[str]) -> Record:
        split = split_of(subset)
        for leftover in (self.folder / split).glob("*/.*.tmp"):  # of a run that was killed
            leftover.unlink()
        utterances, broken = read_subset(folder, self.labels)
        limits = self.train_seconds if split == "train" else (0, math.inf)
        outcomes = parallel(
            partial(write_utterance, self.folder / split, limits, self.labels),
            utterances,
            self.jobs,
            subset,
        )
        named = list(zip(utterances, outcomes, strict=True))
        return Record(
            mark,
            together,
            str(self.labels),
            {
                utterance.name: list(outcome)
                for utterance, outcome in named
                if isinstance(outcome, tuple)
            },
            outcomes.count(None),
            broken + [outcome for outcome in outcomes if isinstance(outcome, str)],
            list(self.train_seconds),
        )


def prepare(
    sources: Sequence[Path],
    subsets: Sequence[str],
    target: Path,
    jobs: int,
    train_seconds: tuple[float, float] = TRAIN_SECONDS,
) -> Corpus:
    """Prepare the chosen subsets (none: all) of `sources` (none: of the official site).

    Raises:
        InputError: if a source cannot be used, lacks a chosen subset, or `target` cannot be written
            to.
        RunError: if a subset cannot be had, or nothing of it be used.
    """
    for source in sources:
        if not source.exists():
            raise InputError(f"--source {source}: no such file or folder")
    unofficial = [subset for subset in subsets if subset not in MD5]
    if unofficial and not sources:
        raise InputError(
            f"--subsets {' '.join(unofficial)}: only {', '.join(MD5)} can be downloaded; use --source"
        )
    ensure_writable(target)
    with alone_in(target / "LibriSpeech_dataset"):
        corpus = Corpus(target, jobs, train_seconds)
        for subset in () if sources else subsets or MD5:
            corpus.add_official(subset)
        found = [subset for source in sources for subset in corpus.add(source, subsets)]
    missing = [subset for subset in subsets if sources and subset not in found]
    if missing:
        raise InputError(
            f"--subsets {' '.join(missing)}: not in --source, which has {', '.join(found)}"
        )
    return corpus


def subset_name(text: str) -> str:
    """An argparse type: the name of a subset."""
    if not split_of(text):
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(MD5)}, and no part of them or of train")
    return text


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m data.librispeech", description="Prepare the LibriSpeech corpus."
    )
    parser.add_argument(
        "--source",
        type=Path,
        nargs="+",
        default=[],
        metavar="PATH",
        help="folders or tar archives with subsets (default: download from openslr.org)",
    )
    parser.add_argument("--subsets", type=subset_name, nargs="+", default=[], metavar="NAME",
                        help="what to prepare, dev-clean for example (default: all)")
    for name, default in zip(("min", "max"), TRAIN_SECONDS, strict=True):
        parser.add_argument(f"--{name}_seconds", type=seconds, default=default, metavar="S",
                            help="limit for training utterances (default: %(default)s)")
    add_common_arguments(parser)
    args = parser.parse_args(argv)
    limits = (args.min_seconds, args.max_seconds)
    if limits[0] > limits[1]:
        parser.error(f"--min_seconds {limits[0]} is more than --max_seconds {limits[1]}")

    def command() -> int:
        corpus = prepare(args.source, args.subsets, args.target, args.jobs, limits)
        for split, manifest in corpus.manifests.items():
            records = corpus.of_split(split)
            print(
                f"libri: {split:10s} {len(manifest)} utterances, {manifest.seconds.sum() / 3600:.2f} h of "
                f"{', '.join(records)} -> {manifest.path}; "
                f"left out: {sum(r.left_out for r in records.values())} for their length, "
                f"{sum(len(r.broken) for r in records.values())} broken"
            )
        return 0

    return commands.run(command)


if __name__ == "__main__":
    sys.exit(main())
