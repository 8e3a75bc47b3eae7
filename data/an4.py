"""Prepare CMU AN4: names, numbers and spelled words, 948 + 130 utterances.

Usage: `python -m data.an4`

The source is the unpacked corpus with `etc/an4_{train,test}.{fileids,transcription}` and audio in
`wav/` (.sph, .raw, .wav or .flac), or a tar archive of the corpus. Without --source the official
archive is downloaded; it has no published checksum, so only the checksum inside the gzip file can
be checked.

The official train list is divided: the speakers in `data/an4_dev_speakers.txt` become val. Unusable
utterances are reported, counted and left out.

The command writes TARGET/an4_dataset/{train,val,test}/{wav,txt}/ and
TARGET/an4_{train,val,test}_manifest.csv. It keeps an unpacked archive in
TARGET/an4_dataset/source/, so that a second run does no work twice.
"""

import argparse
import logging
import re
import sys
import wave
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from data.common import (
    LABELS_PATH,
    SAMPLE_RATE,
    add_common_arguments,
    ensure_target,
    exclusive_lock,
    is_prepared,
    parallel,
    save_manifest,
    to_pcm16,
    utterance_info,
    utterance_paths,
    write_text,
    write_wav,
)
from data.download import ArchiveError, FolderInTheWay, download, extract
from deepspeech2 import commands
from deepspeech2.audio import AudioError, load_audio
from deepspeech2.errors import InputError, RunError
from deepspeech2.files import is_file
from deepspeech2.labels import Labels
from src.manifest import Manifest, UtteranceInfo

logger = logging.getLogger(__name__)

URL = "http://www.speech.cs.cmu.edu/databases/an4/an4_raw.bigendian.tar.gz"
DEV_SPEAKERS = Path(__file__).with_name("an4_dev_speakers.txt")
SPLITS = ("train", "val", "test")
SUFFIXES = (".sph", ".raw", ".wav", ".flac")
# <s>, <sil>, ++breath++, [noise]
NOT_WORDS = re.compile(r"<[^<>\s]*>|\+\+[^+\s]*\+\+|\[[^\[\]\s]*\]")
LINE = re.compile(r"(?P<text>.*)\((?P<name>[^()\s]+)\)\s*")


@dataclass(frozen=True)
class Utterance:
    """One recording of the corpus, and its transcript in upper case."""

    name: str  # an251-fash-b
    speaker: str  # fash
    audio: Path
    text: str


def read_transcription(path: Path, labels: Labels) -> tuple[dict[str, str | None], list[str]]:
    """Read a file of transcripts.

    Returns:
        The transcripts by utterance name, None for an unusable transcript; the problems, each as
        `file:line: message`.
    """
    texts: dict[str, str | None] = {}
    problems = []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        match = LINE.fullmatch(line)
        if not match:
            if line.strip():
                problems.append(
                    f"{path}:{number}: expected `WORDS (utterance)`, found {line[:80]!r}"
                )
            continue
        name, text = match["name"], labels.fold(NOT_WORDS.sub(" ", match["text"]))
        problem = ""
        if name in texts:
            problem = f"{name} is there twice"
        elif not text:
            problem = f"the transcript of {name} is empty"
        try:
            labels.encode(text)
        except ValueError as error:
            problem = problem or str(error)
        if problem:
            problems.append(f"{path}:{number}: {problem}")
        texts.setdefault(name, None if problem else text)
    return texts, problems


def read_list(
    corpus: Path, official: str, labels: Labels
) -> tuple[list[Utterance], list[str], int]:
    """Read an official list.

    Args:
        corpus: the folder with `etc` and `wav`.
        official: `train` or `test`.
        labels: the alphabet of the transcripts.

    Returns:
        The usable utterances; the problems, each as `file:line: message`; the number of utterances
        in the list.
    """
    fileids = corpus / "etc" / f"an4_{official}.fileids"
    texts, problems = read_transcription(fileids.with_suffix(".transcription"), labels)
    utterances: dict[str, Utterance] = {}
    lines = [
        line.strip() for line in fileids.read_text(encoding="utf-8", errors="replace").splitlines()
    ]
    for number, fileid in enumerate(lines, 1):
        if not fileid:
            continue
        folder, _, name = fileid.rpartition("/")
        candidates = (corpus / "wav" / f"{fileid}{suffix}" for suffix in SUFFIXES)
        audio = next(filter(is_file, candidates), None)
        text = texts.get(name, "")
        if name in utterances:
            problems.append(f"{fileids}:{number}: {name} is there twice")
        elif text == "":
            problems.append(f"{fileids}:{number}: {name} has no transcript")
        elif audio is None:
            problems.append(
                f"{fileids}:{number}: no audio file {corpus / 'wav' / fileid}"
                f"{{{','.join(SUFFIXES)}}}"
            )
        elif text is not None:
            utterances[name] = Utterance(name, folder.rpartition("/")[2], audio, text)
    return list(utterances.values()), problems, sum(map(bool, lines))


def read_source(path: Path) -> np.ndarray:
    """Read a recording of the corpus as (n,) float32 samples at `SAMPLE_RATE`.

    Raises:
        AudioError: when the file is missing, damaged or truncated.
    """
    if path.suffix == ".raw":
        return read_raw(path)
    return load_audio(path, SAMPLE_RATE)


def read_raw(path: Path) -> np.ndarray:
    """Read a headerless file of 16-bit big-endian samples at 16 kHz as (n,) float32.

    Raises:
        AudioError: when the file is empty, has half a sample, or is little-endian.
    """
    content = path.read_bytes()
    if not content or len(content) % 2:
        raise AudioError(f"{path}: {len(content)} bytes are not 16-bit samples")
    samples, swapped = np.frombuffer(content, ">i2"), np.frombuffer(content, "<i2")
    # in the wrong byte order speech is noise, with large differences between neighbouring samples
    roughness, swapped_roughness = (
        np.abs(np.diff(x.astype(np.float64))).sum() for x in (samples, swapped)
    )
    if roughness > 2 * swapped_roughness:
        raise AudioError(
            f"{path}: these samples look little-endian; AN4's .raw files are big-endian"
        )
    return samples.astype(np.float32) / 32768


def earlier_samples(wav: Path, mtime_ns: int) -> int | None:
    """The samples of a WAV that an earlier run has written whole; None where there is none."""
    try:
        with wave.open(str(wav)) as file:  # libsndfile would count those that are there
            samples = file.getnframes()
    except (OSError, EOFError, wave.Error):  # EOFError: empty, as after a power cut
        return None
    return samples if is_prepared(wav, samples, mtime_ns) else None


def write_utterance(folder: Path, labels: Labels, utterance: Utterance) -> UtteranceInfo | str:
    """Write an utterance below `folder`, unless an earlier run has written it.

    A written recording has the mtime of its source, by which later runs recognise it.

    Returns:
        The metadata of the utterance, or the problem with its recording.
    """
    audio, transcript = utterance_paths(folder, utterance.name)
    try:
        mtime_ns = utterance.audio.stat().st_mtime_ns
        count = earlier_samples(audio, mtime_ns)
        if count is None:
            samples = to_pcm16(read_source(utterance.audio))
            count = len(samples)
            write_wav(audio, samples, mtime_ns)
    except AudioError as error:
        return str(error)
    write_text(transcript, utterance.text)
    return utterance_info(count, utterance.text, labels)


def find_corpus(source: Path | None, target: Path) -> Path:
    """Find the corpus; download and unpack its archive if necessary.

    Args:
        source: the unpacked corpus or its archive; None for the official archive.
        target: folder for downloaded and unpacked files.

    Returns:
        The folder with `etc` and `wav`.

    Raises:
        InputError: when `source` is missing, damaged or not AN4.
        RunError: when the official archive cannot be downloaded.
    """
    unpacked = target / "an4_dataset" / "source"
    if source is None:
        try:
            folder = extract(download(URL, target / URL.rpartition("/")[2]), unpacked)
        except FolderInTheWay:
            raise
        except ArchiveError as error:
            raise RunError(f"{error}; delete it to download it again") from None
        except RunError as error:
            raise RunError(f"{error}. With the corpus at hand, use --source") from None
    elif source.is_file():
        folder = extract(source, unpacked)
    elif source.is_dir():
        folder = source
    else:
        raise InputError(f"--source {source}: no such file or folder")
    for corpus in (folder, folder / "an4"):
        lists = [corpus / "etc" / f"an4_{official}.fileids" for official in ("train", "test")]
        if any(path.is_file() for path in lists):
            return corpus
    raise InputError(
        f"{folder}: not AN4: neither etc/an4_train.fileids nor etc/an4_test.fileids is there"
    )


def gather(corpus: Path, labels: Labels) -> tuple[dict[str, list[Utterance]], int]:
    """Read the corpus, and log everything that is missing or wrong.

    Returns:
        The usable utterances by split, and the number of utterances in the official lists.
    """
    splits: dict[str, list[Utterance]] = {split: [] for split in SPLITS}
    dev_speakers = set(DEV_SPEAKERS.read_text(encoding="utf-8").split())
    named = 0
    for official in ("train", "test"):
        needed = [f"etc/an4_{official}.{kind}" for kind in ("fileids", "transcription")]
        missing = [name for name in needed if not (corpus / name).is_file()]
        if missing:
            logger.warning("%s has no %s", corpus, " and no ".join(missing))
            continue
        utterances, problems, count = read_list(corpus, official, labels)
        named += count
        for problem in problems:
            logger.warning("%s", problem)
        for utterance in utterances:
            dev = official == "train" and utterance.speaker in dev_speakers
            splits["val" if dev else official].append(utterance)
    return splits, named


def prepare(source: Path | None, target: Path, jobs: int) -> tuple[dict[str, Manifest], int]:
    """Prepare every split that the source has.

    Args:
        source: the unpacked corpus or its archive; None for the official archive.
        target: folder to write to.
        jobs: number of processes.

    Returns:
        The manifests by split, and the number of utterances that were left out.

    Raises:
        InputError: when the source cannot be used, or `target` cannot be written to.
        RunError: when no utterance can be used.
    """
    labels = Labels.load(LABELS_PATH)
    ensure_target(target)
    with exclusive_lock(target / "an4_dataset"):
        return _prepare(source, target, jobs, labels)


def _prepare(
    source: Path | None, target: Path, jobs: int, labels: Labels
) -> tuple[dict[str, Manifest], int]:
    """As `prepare`, while no other command writes there."""
    corpus = find_corpus(source, target)
    splits, named = gather(corpus, labels)
    manifests = {}
    for split, utterances in splits.items():
        folder = target / "an4_dataset" / split
        outcomes = parallel(
            partial(write_utterance, folder, labels), utterances, jobs, f"an4 {split}", folder
        )
        rows, metadata = [], []
        for utterance, outcome in zip(utterances, outcomes, strict=True):
            if isinstance(outcome, str):
                logger.warning("%s", outcome)
            else:
                rows.append(utterance_paths(folder, utterance.name))
                metadata.append(outcome)
        if rows:
            path = target / f"an4_{split}_manifest.csv"
            manifests[split] = save_manifest(path, rows, metadata, labels)
        else:
            logger.warning(
                "%s: no usable %s utterances: the %s split is left out", corpus, split, split
            )
    if not manifests:
        raise RunError(f"{corpus}: none of the {named} utterances can be used")
    return manifests, named - sum(map(len, manifests.values()))


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    result = argparse.ArgumentParser(
        prog="python -m data.an4", description="Prepare the CMU AN4 corpus."
    )
    result.add_argument(
        "--source",
        type=Path,
        metavar="PATH",
        help="unpacked corpus or tar archive (default: download the official archive)",
    )
    add_common_arguments(result)
    return result


def main(argv: list[str] | None = None) -> int:
    """Prepare AN4 as the command line says; returns the exit code."""
    args = parser().parse_args(argv)
    return commands.run(lambda: an4(args))


def an4(args: argparse.Namespace) -> int:
    manifests, left_out = prepare(args.source, args.target, args.jobs)
    for split, manifest in manifests.items():
        minutes = manifest.seconds.sum() / 60
        print(f"an4: {split:5s} {len(manifest)} utterances, {minutes:.1f} min -> {manifest.path}")
    print(f"an4: {left_out} utterances left out")
    return 0


if __name__ == "__main__":
    sys.exit(main())
