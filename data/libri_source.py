"""LibriSpeech as published: subsets, checksums, and the files in SUBSET/SPEAKER/CHAPTER/."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deepspeech2.errors import InputError
from deepspeech2.files import is_file
from deepspeech2.labels import Labels

URL = "https://www.openslr.org/resources/12/"
# from md5sum.txt at URL; compared with PaddleSpeech's and other public recipes
MD5 = {
    "dev-clean": "42e2234ba48799c1f50f24a7926300a1",
    "dev-other": "c8d0bcc9cca99d4f8b62fcc847357931",
    "test-clean": "32fa31d27d2e1cad72775fee3f4849a9",
    "test-other": "fb5a50374b501bb3bac4815ee91d3135",
    "train-clean-100": "2a93770f6d5c6c964bc36631d331a522",
    "train-clean-360": "c0e676e450a7ff2f54aeade5171606fa",
    "train-other-500": "d1a0fd59409feb2c614ce4d30c387708",
}
# source: deepspeech.pytorch, data/librispeech.py
SPLITS = {
    "dev-clean": "val",
    "dev-other": "val",
    "test-clean": "test_clean",
    "test-other": "test_other",
    "train": "train",
}
# in the order of preference, for an utterance that has several files
AUDIO_SUFFIXES = (".flac", ".wav", ".opus", ".ogg")


@dataclass(frozen=True)
class Utterance:
    """One recording of the corpus, and its transcript in upper case."""

    name: str  # 1272-128104-0000: speaker, chapter, number
    audio: Path
    text: str


def split_of(subset: str) -> str | None:
    """The split of a subset or a part of one; None if there is no such subset.

    `dev-clean-67` belongs to the split of dev-clean, `train-clean-5` to train.
    """
    for name, split in SPLITS.items():
        if subset.startswith(f"{name}-") or (subset == name and name != "train"):
            return split
    return None


def find_subsets(folder: Path) -> dict[str, Path]:
    """The folders of subsets by name: `folder`, and the folders in it and in its `LibriSpeech`.

    Raises:
        InputError: for two folders of one name.
    """
    folder = Path(os.path.abspath(folder))  # `.` has no name
    candidates = [folder, *sorted(folder.glob("*")), *sorted(folder.glob("LibriSpeech/*"))]
    found: dict[str, Path] = {}
    for path in candidates:
        if split_of(path.name) and any(path.glob("*/*/*.trans.txt")):
            refuse_two(path.name, found.setdefault(path.name, path), path)
    return found


def refuse_two(subset: str, first: Path, second: Path) -> None:
    """Raise InputError where a subset comes from two places, of which one would be lost."""
    if first.resolve() != second.resolve():
        raise InputError(
            f"{second}: {first} has {subset} too: give one of them another name, such as "
            f"{subset}-b, or leave it out"
        )


def fingerprint(source: Path) -> str:
    """A hash of the path, size and mtime of an archive, or of all files in a subset's folder."""
    paths = [source]
    if source.is_dir():
        paths = sorted(
            path
            for suffix in (*AUDIO_SUFFIXES, ".trans.txt")
            for path in source.glob(f"*/*/*{suffix}")
        )
    digest = hashlib.sha256(os.fsencode(source.resolve()))
    for path in paths:
        status = path.stat() if path.exists() else None  # None: a link that leads nowhere
        line = f"{path.name} {status and (status.st_size, status.st_mtime_ns)}\n"
        digest.update(os.fsencode(line))
    return digest.hexdigest()


def read_subset(folder: Path, labels: Labels) -> tuple[list[Utterance], list[str]]:
    """Read all chapters of a subset.

    Returns:
        The usable utterances, and a problem for each of the others as `file:line: message`.
    """
    utterances: dict[str, Utterance] = {}
    broken = []
    for chapter in sorted(path for path in folder.glob("*/*") if path.is_dir()):
        found, problems = read_chapter(chapter, labels)
        broken += problems
        for utterance in found:
            if utterance.name in utterances:
                broken.append(
                    f"{utterance.audio}: {utterances[utterance.name].audio} has the same name"
                )
            else:
                utterances[utterance.name] = utterance
    return list(utterances.values()), broken


def read_chapter(chapter: Path, labels: Labels) -> tuple[list[Utterance], list[str]]:
    """Read one chapter: lines `NAME WORD WORD ...` in `*.trans.txt`, and audio NAME.flac.

    The audio may have another suffix of `AUDIO_SUFFIXES`.

    Returns:
        As `read_subset`.
    """
    audio: dict[str, Path] = {}
    for suffix in AUDIO_SUFFIXES:
        for path in chapter.glob(f"*{suffix}"):
            audio.setdefault(path.stem, path)
    texts, problems = _read_texts(chapter, labels, audio)
    utterances = []
    for name, path in sorted(audio.items()):
        if name not in texts:
            problems[name] = f"{path}: no line of {chapter}/*.trans.txt is about it"
        elif name not in problems:
            utterances.append(Utterance(name, path, texts[name]))
    return utterances, list(problems.values())


def _read_texts(
    chapter: Path, labels: Labels, audio: Mapping[str, Path]
) -> tuple[dict[str, str], dict[str, str]]:
    """The transcripts of a chapter by utterance name, and the problem of each unusable one."""
    texts: dict[str, str] = {}
    problems: dict[str, str] = {}
    for path in sorted(chapter.glob("*.trans.txt")):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        for number, line in enumerate(lines, 1):
            name, *words = line.split() or [""]
            if not name:
                continue
            problem = ""
            if name in texts:
                problem = f"{name} is there twice"
            elif not words:
                problem = f"{name} has no words"
            texts[name] = labels.fold(" ".join(words))
            try:
                labels.encode(texts[name])
            except ValueError as error:
                problem = problem or str(error)
            if not problem and not (name in audio and is_file(audio[name])):
                problem = f"there is no {name}.flac"
            if problem:
                problems.setdefault(name, f"{path}:{number}: {problem}")
    return texts, problems
