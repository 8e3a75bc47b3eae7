"""Find the recordings that a command line names, and name the files of their transcripts."""

import csv
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, count

from deepspeech2.audio import AUDIO_SUFFIXES, STANDARD_INPUT
from deepspeech2.errors import InputError
from deepspeech2.files import files_below

# what a folder is searched for; the last ones need the extra `media`
SUFFIXES = (*AUDIO_SUFFIXES, ".oga", ".m4a", ".mp4", ".webm")


@dataclass(frozen=True)
class Recording:
    """A recording that was asked for.

    Attributes:
        path: where it is; `-` for standard input.
        root: the folder whose inner folders the outputs have too.
    """

    path: str
    root: str


def find_recordings(
    paths: Sequence[str], manifest: str
) -> tuple[list[Recording], list[InputError]]:
    """The recordings that were asked for, in order: files, the files in folders, a manifest's.

    A folder is searched with all that lies in it, in the order of names. Links are followed.
    Hidden files, and files with another suffix than `SUFFIXES`, are passed over.

    Args:
        paths: files, folders, and `-` for standard input.
        manifest: a manifest, see `read_manifest`; '' for none.

    Returns:
        The recordings, and what is wrong with folders.

    Raises:
        InputError: for a manifest that cannot be read, and when nothing was named.
    """
    found: list[Recording] = []
    problems: list[InputError] = []
    for path in paths:
        if path != STANDARD_INPUT and os.path.isdir(path):
            closed: list[str] = []
            inside = [
                Recording(file, path)
                for file in files_below(path, closed)
                if file.lower().endswith(SUFFIXES) and not os.path.basename(file).startswith(".")
            ]
            problems += map(InputError, closed)
            if not inside and not closed:
                listed = ", ".join(SUFFIXES)
                problems.append(InputError(f"{path}: no recordings in this folder ({listed})"))
            found += inside
        else:
            found.append(Recording(path, os.path.dirname(path)))
    if manifest:
        found += [Recording(path, os.path.dirname(path)) for path in read_manifest(manifest)]
    if not found and not problems:
        raise InputError("name a FILE or folder to transcribe, or a --manifest that lists some")
    return found, problems


def read_manifest(path: str) -> list[str]:
    """The recordings in the first column of a CSV file; relative paths begin at its folder.

    Raises:
        InputError: naming the file, when it cannot be read or has no recordings.
    """
    folder = os.path.dirname(path)
    try:
        # names of files can have any bytes
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            found = [os.path.join(folder, row[0]) for row in csv.reader(file) if row and row[0]]
    except OSError as error:
        raise InputError(f"{path}: cannot read the manifest: {error.strerror}") from None
    except csv.Error as error:
        raise InputError(f"{path}: not a manifest: {error}") from None
    if not found:
        raise InputError(f"{path}: the manifest lists no recordings")
    return found


def output_stems(recordings: Sequence[Recording]) -> list[str]:
    """Where the outputs of recordings lie in the output folder, without suffix.

    They lie in the same folders as the recordings, as seen from the deepest folder that has all of
    them. Two recordings never share an output: those that differ in their suffix only keep it, and
    a number tells apart what is still the same.
    """
    roots = [os.path.abspath(r.root) for r in recordings if r.path != STANDARD_INPUT]
    base = os.path.commonpath(roots) if roots else ""
    names = [
        "stdin" if r.path == STANDARD_INPUT else os.path.relpath(os.path.abspath(r.path), base)
        for r in recordings
    ]
    stems = {name: os.path.splitext(name)[0] for name in names}  # one for each recording
    counts = Counter(stems.values())
    taken = {stem for stem, times in counts.items() if times == 1}
    for name, stem in stems.items():
        if counts[stem] > 1:
            numbered = (f"{name}-{number}" for number in count(2))
            stems[name] = next(place for place in chain([name], numbered) if place not in taken)
            taken.add(stems[name])
    return [stems[name] for name in names]


