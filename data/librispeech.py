"""Prepare LibriSpeech, all subsets or some.

Usage: `python -m data.librispeech`

A source is a subset's folder (SUBSET/SPEAKER/CHAPTER/*.flac and *.trans.txt), a folder of such
folders, or a tar archive of either. Audio may also be .wav, .opus or .ogg. Without --source the
chosen subsets are downloaded, and checked against their published MD5 sums.

The command writes TARGET/LibriSpeech_dataset/{train,val,test_clean,test_other}/{wav,txt}/ and
TARGET/libri_{train,val,test_clean,test_other}_manifest.csv. A manifest lists all prepared subsets
of its split: val is every `dev-clean*` and `dev-other*`, train is every `train-*`. Training
utterances outside --min_seconds and --max_seconds are counted and left out; unusable utterances are
reported, counted and left out.

TARGET/LibriSpeech_dataset/.prepared/SUBSET.json records a prepared subset, so that a second run
does no work twice. After a stop, the next run prepares the missing utterances; it unpacks an
archive again if the archive was not unpacked completely.
"""

import argparse
import contextlib
import json
import logging
import math
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
    add_scheduler_argument,
    ensure_target,
    exclusive_lock,
    is_prepared,
    parallel,
    save_manifest,
    seconds,
    to_pcm16,
    utterance_info,
    utterance_paths,
    write_text,
    write_wav,
)
from data.download import ArchiveError, FolderInTheWay, download, extract, remove_unpacked
from data.libri_source import (
    MD5,
    URL,
    Utterance,
    find_subsets,
    fingerprint,
    read_subset,
    refuse_two,
    split_of,
)
from deepspeech2 import commands
from deepspeech2.audio import AudioError, load_audio
from deepspeech2.errors import InputError, RunError
from deepspeech2.files import atomic_path, parse_json
from deepspeech2.labels import Labels
from src.manifest import Manifest, UtteranceInfo

logger = logging.getLogger(__name__)

TRAIN_SECONDS = (1, 15)  # inclusive; source: deepspeech.pytorch, data/data_opts.py
LONGEST = 1 << 40  # samples; libsndfile reports more for a streamed FLAC of unknown length


@dataclass(frozen=True)
class Record:
    """The record of a prepared subset: the content of its JSON file."""

    source: str  # `fingerprint` of its folder or archive
    together: list[str]  # all subsets in that folder or archive
    labels: str  # the alphabet
    facts: dict[str, list[int]]  # UtteranceInfo of each prepared utterance by name
    left_out: int  # number of utterances outside `limits`
    broken: list[str]  # a message for each unusable utterance
    # seconds of training utterances, both limits included
    limits: list[float] = field(default_factory=lambda: list(TRAIN_SECONDS))


def count_samples(path: Path) -> int:
    """The number of samples at `SAMPLE_RATE`, from the header of a file if possible.

    Raises:
        AudioError: as `load_audio`.
    """
    with contextlib.suppress(OSError, RuntimeError):
        info = soundfile.info(path)
        if 0 < info.frames < LONGEST:
            return math.ceil(info.frames * SAMPLE_RATE / info.samplerate)
    return len(load_audio(path, SAMPLE_RATE))  # raises AudioError if the file is damaged


def write_utterance(
    folder: Path, limits: tuple[float, float], labels: Labels, utterance: Utterance
) -> UtteranceInfo | str | None:
    """Write an utterance below `folder`, unless an earlier run has written it.

    A written recording has the mtime of its source, by which later runs recognise it.

    Args:
        folder: folder of the split.
        limits: shortest and longest duration in seconds, inclusive.
        labels: the alphabet of the transcripts.
        utterance: recording and transcript.

    Returns:
        The metadata of the utterance; None for a duration outside `limits`; or the problem with the
        recording.
    """
    audio, transcript = utterance_paths(folder, utterance.name)
    try:
        samples = count_samples(utterance.audio)
        if not limits[0] <= samples / SAMPLE_RATE <= limits[1]:
            return None
        mtime_ns = utterance.audio.stat().st_mtime_ns
        if not is_prepared(audio, samples, mtime_ns):
            write_wav(audio, to_pcm16(load_audio(utterance.audio, SAMPLE_RATE)), mtime_ns)
    except AudioError as error:
        return str(error)
    write_text(transcript, utterance.text)
    return utterance_info(samples, utterance.text, labels)


class Corpus:
    """The prepared subsets below a folder; prepares more.

    Args:
        target: the folder.
        jobs: number of processes, or the address of a dask scheduler.
        train_seconds: shortest and longest training utterance.

    Attributes:
        records: records of all prepared subsets by name.
        manifests: manifests that this run has written, by split.
    """

    def __init__(
        self,
        target: Path,
        jobs: int | str,
        train_seconds: tuple[float, float] = TRAIN_SECONDS,
    ):
        self.target, self.jobs, self.train_seconds = target, jobs, train_seconds
        self.folder = target / "LibriSpeech_dataset"
        self.labels = Labels.load(LABELS_PATH)
        self.records: dict[str, Record] = {}
        self.manifests: dict[str, Manifest] = {}
        self._places: dict[str, Path] = {}  # where the subsets of this run come from
        for path in sorted((self.folder / ".prepared").glob("*.json")):
            with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
                record = Record(**parse_json(path.read_text(encoding="utf-8")))
                if self._is_there(path.stem, record):
                    self.records[path.stem] = record
                    continue
            logger.warning(
                "%s: what was prepared is not there any more as it was; prepare it again", path.stem
            )

    def _is_there(self, subset: str, record: Record) -> bool:
        """Whether all files of a record exist, and were made with the present alphabet."""
        if record.labels != str(self.labels):
            return False
        folder = self.folder / split_of(subset)
        for name, numbers in record.facts.items():
            audio, transcript = utterance_paths(folder, name)
            if not is_prepared(audio, UtteranceInfo(*numbers).samples) or not transcript.exists():
                return False
        return True

    def add(self, source: Path, wanted: Sequence[str]) -> list[str]:
        """Prepare subsets of a folder or archive.

        Args:
            source: the folder or archive.
            wanted: names of the subsets to prepare; empty for all.

        Returns:
            The names of all subsets in the source.

        Raises:
            InputError: when the source has no subset, or one that another source has too.
        """
        if source.is_dir():
            subsets = find_subsets(source)
            marks = {subset: fingerprint(folder) for subset, folder in subsets.items()}
        else:
            mark = fingerprint(source)
            same_source = (r.together for r in self.records.values() if r.source == mark)
            known = next(same_source, [])
            todo = [s for s in known if (s in wanted or not wanted) and not self._is_done(s, mark)]
            if todo or not known:
                subsets = self._unpack(source)
            else:  # nothing will be read from these folders
                subsets = dict.fromkeys(known, self.folder)
            marks = dict.fromkeys(subsets, mark)
        for subset, folder in subsets.items():
            if subset in wanted or not wanted:
                place = folder if source.is_dir() else source
                refuse_two(subset, self._places.setdefault(subset, place), place)
                self._add(subset, folder, marks[subset], list(subsets))
        if source.is_file():
            remove_unpacked(self.folder / "source")
        if not subsets:
            raise InputError(
                f"{source}: not LibriSpeech: it has no SUBSET/SPEAKER/CHAPTER/*.trans.txt"
            )
        return list(subsets)

    def add_official(self, subset: str) -> None:
        """Download and prepare a subset, unless it was prepared before from any source.

        Raises:
            RunError: when the archive cannot be downloaded or used.
        """
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
        except FolderInTheWay:
            raise
        except ArchiveError as error:
            raise RunError(f"{error}; delete it to download it again") from None
        if subset not in self.records:
            raise RunError(f"{archive}: has no {subset}; delete it to download it again")

    def _unpack(self, archive: Path) -> dict[str, Path]:
        """Unpack an archive; returns the folders of its subsets by name."""
        return find_subsets(extract(archive, self.folder / "source"))

    def _is_done(self, subset: str, mark: str) -> bool:
        record = self.records.get(subset)
        if record is None or record.source != mark:
            return False
        return split_of(subset) != "train" or record.limits == list(self.train_seconds)

    def _add(self, subset: str, folder: Path, mark: str, together: list[str]) -> None:
        """Prepare a subset if necessary, and write the manifest of its split.

        Args:
            subset: name of the subset.
            folder: folder of the subset; not read if the subset is prepared.
            mark: `fingerprint` of the source.
            together: all subsets in the source.

        Raises:
            RunError: when no utterance can be used.
        """
        split, done = split_of(subset), self._is_done(subset, mark)
        kept = self.folder / ".prepared" / f"{subset}.json"
        if not done:
            # what an earlier source had is overwritten from here on, also by a run that is killed
            kept.unlink(missing_ok=True)
            self.records[subset] = self._prepare(subset, folder, mark, together)
        for message in self.records[subset].broken:
            logger.warning("%s", message)
        infos = {
            name: UtteranceInfo(*numbers)
            for record in self.of_split(split).values()
            for name, numbers in record.facts.items()
        }
        if not infos:
            raise RunError(f"{subset}: none of its utterances can be used")
        names = sorted(infos)
        rows = [utterance_paths(self.folder / split, name) for name in names]
        metadata = [infos[name] for name in names]
        path = self.target / f"libri_{split}_manifest.csv"
        self.manifests[split] = save_manifest(path, rows, metadata, self.labels)
        if not done:
            with atomic_path(kept) as temporary:
                temporary.write_text(json.dumps(asdict(self.records[subset])), encoding="utf-8")

    def of_split(self, split: str) -> dict[str, Record]:
        """The records of a split's subsets by name."""
        return {
            subset: record
            for subset, record in sorted(self.records.items())
            if split_of(subset) == split
        }

    def _without_taken(
        self, subset: str, utterances: Sequence[Utterance]
    ) -> tuple[list[Utterance], list[str]]:
        """The utterances of a subset whose names no other one has; and a message for the rest.

        Official subsets have utterances in common: the same ones are no problem.
        """
        taken = {
            name: (other, UtteranceInfo(*numbers))
            for other, record in self.of_split(split_of(subset)).items()
            if other != subset
            for name, numbers in record.facts.items()
        }
        kept, problems = [], []
        for utterance in utterances:
            other, theirs = taken.get(utterance.name, ("", None))
            if theirs is None or theirs == self._info(utterance):
                kept.append(utterance)
            else:
                problems.append(
                    f"{utterance.audio}: {other} has another utterance of this name; it is left out"
                )
        return kept, problems

    def _info(self, utterance: Utterance) -> UtteranceInfo | None:
        """The metadata of an utterance of a source; None for a recording that cannot be read."""
        try:
            samples = count_samples(utterance.audio)
        except AudioError:
            return None
        return utterance_info(samples, utterance.text, self.labels)

    def _prepare(self, subset: str, folder: Path, mark: str, together: list[str]) -> Record:
        """Write the utterances of a subset."""
        split = split_of(subset)
        for leftover in (self.folder / split).glob("*/.*.tmp"):  # of a run that was killed
            leftover.unlink()
        utterances, broken = read_subset(folder, self.labels)
        utterances, taken = self._without_taken(subset, utterances)
        limits = self.train_seconds if split == "train" else (0, math.inf)
        write = partial(write_utterance, self.folder / split, limits, self.labels)
        outcomes = list(parallel(write, utterances, self.jobs, subset, self.folder))
        return Record(
            source=mark,
            together=together,
            labels=str(self.labels),
            facts={
                utterance.name: list(outcome)
                for utterance, outcome in zip(utterances, outcomes, strict=True)
                if isinstance(outcome, UtteranceInfo)
            },
            left_out=outcomes.count(None),
            broken=broken + taken + [outcome for outcome in outcomes if isinstance(outcome, str)],
            limits=list(self.train_seconds),
        )


def prepare(
    sources: Sequence[Path],
    subsets: Sequence[str],
    target: Path,
    jobs: int | str,
    train_seconds: tuple[float, float] = TRAIN_SECONDS,
) -> Corpus:
    """Prepare subsets.

    Args:
        sources: folders or archives; empty to download the official archives.
        subsets: names of the subsets to prepare; empty for all.
        target: folder to write to.
        jobs: number of processes, or the address of a dask scheduler.
        train_seconds: shortest and longest training utterance.

    Raises:
        InputError: when a source cannot be used, no source has a chosen subset, or `target` cannot
            be written to.
        RunError: when a subset cannot be downloaded, or has no usable utterance.
    """
    for source in sources:
        if not source.exists():
            raise InputError(f"--source {source}: no such file or folder")
    unofficial = [subset for subset in subsets if subset not in MD5]
    if unofficial and not sources:
        raise InputError(
            f"--subsets {' '.join(unofficial)}: only {', '.join(MD5)} can be downloaded; use "
            "--source"
        )
    ensure_target(target)
    with exclusive_lock(target / "LibriSpeech_dataset"):
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
    """An argparse type for the name of a subset."""
    if not split_of(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is none of {', '.join(MD5)}, no part of one, and no train-*"
        )
    return text


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    result = argparse.ArgumentParser(
        prog="python -m data.librispeech", description="Prepare the LibriSpeech corpus."
    )
    result.add_argument(
        "--source",
        type=Path,
        nargs="+",
        default=[],
        metavar="PATH",
        help="folders or tar archives with subsets (default: download from openslr.org)",
    )
    result.add_argument(
        "--subsets",
        type=subset_name,
        nargs="+",
        default=[],
        metavar="NAME",
        help="what to prepare, dev-clean for example (default: all)",
    )
    for name, default in zip(("min", "max"), TRAIN_SECONDS, strict=True):
        result.add_argument(
            f"--{name}_seconds",
            type=seconds,
            default=default,
            metavar="S",
            help="limit for training utterances (default: %(default)s)",
        )
    add_common_arguments(result)
    add_scheduler_argument(result)
    return result


def main(argv: list[str] | None = None) -> int:
    """Prepare LibriSpeech as the command line says; returns the exit code."""
    args = parser().parse_args(argv)
    return commands.run(lambda: librispeech(args))


def librispeech(args: argparse.Namespace) -> int:
    limits = (args.min_seconds, args.max_seconds)
    if limits[0] > limits[1]:
        raise InputError(f"--min_seconds {limits[0]} is more than --max_seconds {limits[1]}")
    sources, target = args.source, args.target
    if isinstance(args.jobs, str):  # workers of a cluster have another working directory
        sources, target = [source.absolute() for source in sources], target.absolute()
    corpus = prepare(sources, args.subsets, target, args.jobs, limits)
    for split, manifest in corpus.manifests.items():
        records = corpus.of_split(split)
        print(
            f"libri: {split:10s} {len(manifest)} utterances, "
            f"{manifest.seconds.sum() / 3600:.2f} h of {', '.join(records)} -> {manifest.path}; "
            f"left out: {sum(r.left_out for r in records.values())} for their length, "
            f"{sum(len(r.broken) for r in records.values())} broken"
        )
    return 0


if __name__ == "__main__":
    from data import librispeech  # what workers of a cluster get must not be in `__main__`

    sys.exit(librispeech.main())
