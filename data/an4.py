"""Prepare CMU AN4 (census data: names, numbers, spelled words; 948 + 130 utterances). `python -m data.an4`

The source is the unpacked corpus in its own layout (`etc/an4_{train,test}.{fileids,transcription}`
and audio below `wav/` as .sph, .raw, .wav or .flac) or a tar archive of it. Without --source the
official archive is downloaded; nobody publishes a checksum of it, so only its own gzip sums protect
it.

The official train list is divided: the speakers of `data/an4_dev_speakers.txt` become val. What
cannot be used is named, counted and left out. Writes TARGET/an4_dataset/{train,val,test}/{wav,txt}/
and TARGET/an4_{train,val,test}_manifest.csv; an archive is unpacked into TARGET/an4_dataset/source/
and kept there, so that running again does no work again.
"""

import argparse
import logging
import re
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import soundfile

from data.common import (
    LABELS_PATH,
    SAMPLE_RATE,
    add_common_arguments,
    parallel,
    save_manifest,
    to_pcm16,
    utterance_facts,
    utterance_paths,
    write_text,
    write_wav,
)
from data.download import ArchiveError, download, extract
from deepspeech2 import commands
from deepspeech2.audio import AudioError, load_audio
from deepspeech2.errors import InputError, RunError
from deepspeech2.files import ensure_writable
from deepspeech2.labels import Labels
from src.manifest import Manifest

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
    """One recording of the corpus and its transcript in characters of the alphabet."""

    name: str  # an251-fash-b
    speaker: str  # fash
    audio: Path
    text: str


def read_transcription(path: Path, labels: Labels) -> tuple[dict[str, str | None], list[str]]:
    """Transcripts by utterance name (None: reported as unusable), and the problems as `file:line.

    Message`.
    """
    texts: dict[str, str | None] = {}
    problems = []
    for number, line in enumerate(
        path.read_text(encoding="utf-8", errors="replace").splitlines(), 1
    ):
        match = LINE.fullmatch(line)
        if not match:
            if line.strip():
                problems.append(
                    f"{path}:{number}: expected `WORDS (utterance)`, found {line[:80]!r}"
                )
            continue
        name, text = match["name"], " ".join(NOT_WORDS.sub(" ", match["text"]).upper().split())
        problem = (
            f"{name} is there twice"
            if name in texts
            else ""
            if text
            else f"the transcript of {name} is empty"
        )
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
    """The usable utterances of an official list (`train` or `test`), all problems, and how many the list names."""
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
        audio = next(
            (
                path
                for path in (corpus / "wav" / f"{fileid}{s}" for s in SUFFIXES)
                if path.is_file()
            ),
            None,
        )
        text = texts.get(name, "")
        if name in utterances:
            problems.append(f"{fileids}:{number}: {name} is there twice")
        elif text == "":
            problems.append(f"{fileids}:{number}: {name} has no transcript")
        elif audio is None:
            problems.append(
                f"{fileids}:{number}: no audio file {corpus / 'wav' / fileid}{{{','.join(SUFFIXES)}}}"
            )
        elif text is not None:
            utterances[name] = Utterance(name, folder.rpartition("/")[2], audio, text)
    return list(utterances.values()), problems, sum(map(bool, lines))


def read_source(path: Path) -> np.ndarray:
    """(n,) float32 samples at `SAMPLE_RATE`.

    Raises AudioError if they are missing or cannot be right.
    """
    if path.suffix == ".raw":
        return read_raw(path)
    return load_audio(path, SAMPLE_RATE)


def read_raw(path: Path) -> np.ndarray:
    """(n,) float32 samples of a headerless file of 16-bit big-endian numbers at 16 kHz."""
    content = path.read_bytes()
    if not content or len(content) % 2:
        raise AudioError(f"{path}: {len(content)} bytes are not 16-bit samples")
    samples, swapped = np.frombuffer(content, ">i2"), np.frombuffer(content, "<i2")
    # In the wrong byte order speech is noise: it jumps from sample to sample.
    roughness, swapped_roughness = (
        np.abs(np.diff(x.astype(np.float64))).sum() for x in (samples, swapped)
    )
    if roughness > 2 * swapped_roughness:
        raise AudioError(
            f"{path}: these samples look little-endian; AN4's .raw files are big-endian"
        )
    return samples.astype(np.float32) / 32768


def write_utterance(
    folder: Path, labels: Labels, utterance: Utterance
) -> tuple[int, int, int, int] | str:
    """Write an utterance below `folder` unless it is there already; returns its facts, or what is wrong with its audio.

    A written file carries the time of change of its source, by which the next run knows it.
    """
    audio, transcript = utterance_paths(folder, utterance.name)
    try:
        stamp = utterance.audio.stat().st_mtime_ns
        if audio.exists() and audio.stat().st_mtime_ns == stamp:
            count = soundfile.info(audio).frames
        else:
            samples = to_pcm16(read_source(utterance.audio))
            count = len(samples)
            write_wav(audio, samples, stamp)
    except AudioError as error:
        return str(error)
    write_text(transcript, utterance.text)
    return utterance_facts(count, utterance.text, labels)


def find_corpus(source: Path | None, target: Path) -> Path:
    """The folder that holds `etc` and `wav`, after downloading and unpacking as necessary.

    Raises:
        InputError: if `source` is missing, broken or not AN4.
        RunError: if the official archive cannot be had.
    """
    if source is None:
        try:
            folder = extract(
                download(URL, target / URL.rpartition("/")[2]), target / "an4_dataset" / "source"
            )
        except ArchiveError as error:
            raise RunError(f"{error}; delete it to download it again") from None
        except RunError as error:
            raise RunError(f"{error}. With the corpus at hand, use --source") from None
    elif source.is_file():
        folder = extract(source, target / "an4_dataset" / "source")
    elif source.is_dir():
        folder = source
    else:
        raise InputError(f"--source {source}: no such file or folder")
    for corpus in (folder, folder / "an4"):
        if any(
            (corpus / "etc" / f"an4_{official}.fileids").is_file() for official in ("train", "test")
        ):
            return corpus
    raise InputError(
        f"{folder}: not AN4: neither etc/an4_train.fileids nor etc/an4_test.fileids is there"
    )


def gather(corpus: Path, labels: Labels) -> tuple[dict[str, list[Utterance]], int]:
    """The usable utterances of each split, and how many the corpus's lists name.

    Logs what is missing or wrong.
    """
    splits: dict[str, list[Utterance]] = {split: [] for split in SPLITS}
    dev_speakers = set(DEV_SPEAKERS.read_text(encoding="utf-8").split())
    named = 0
    for official in ("train", "test"):
        missing = [f"etc/an4_{official}.{kind}" for kind in ("fileids", "transcription")
                   if not (corpus / "etc" / f"an4_{official}.{kind}").is_file()]
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
    """Prepare every split that the source has; returns the manifests by split, and how many utterances were left out.

    Raises:
        InputError: if the source cannot be used, or `target` not be written to.
        RunError: if nothing in it can.
    """
    labels = Labels.load(LABELS_PATH)
    ensure_writable(target)
    splits, named = gather(find_corpus(source, target), labels)
    manifests = {}
    for split, utterances in splits.items():
        folder = target / "an4_dataset" / split
        outcomes = parallel(
            partial(write_utterance, folder, labels), utterances, jobs, f"an4 {split}"
        )
        rows, facts = [], []
        for utterance, outcome in zip(utterances, outcomes, strict=True):
            if isinstance(outcome, str):
                logger.warning("%s", outcome)
            else:
                rows.append(utterance_paths(folder, utterance.name))
                facts.append(outcome)
        if rows:
            manifests[split] = save_manifest(
                target / f"an4_{split}_manifest.csv", rows, facts, labels
            )
        else:
            logger.warning(
                "the source has no usable %s utterances: the %s split is left out", split, split
            )
    if not manifests:
        raise RunError(f"none of the {named} utterances can be used")
    return manifests, named - sum(map(len, manifests.values()))


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m data.an4", description="Prepare the CMU AN4 corpus."
    )
    parser.add_argument(
        "--source",
        type=Path,
        metavar="PATH",
        help="unpacked corpus or tar archive (default: download the official archive)",
    )
    add_common_arguments(parser)
    args = parser.parse_args(argv)

    def command() -> int:
        manifests, left_out = prepare(args.source, args.target, args.jobs)
        for split, manifest in manifests.items():
            print(
                f"an4: {split:5s} {len(manifest)} utterances, {manifest.seconds.sum() / 60:.1f} min "
                f"-> {manifest.path}"
            )
        print(f"an4: {left_out} utterances left out")
        return 0

    return commands.run(command)


if __name__ == "__main__":
    sys.exit(main())
