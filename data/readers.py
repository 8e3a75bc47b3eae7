"""Corpora in the formats that they come in: one small reader for each format.

A reader takes the file that holds the transcripts and returns the clips that it names, and what is
wrong with the other lines as `file:line: message`. It does not open audio.
"""

import csv
import os
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from deepspeech2.errors import InputError
from deepspeech2.files import files_below, is_file, is_path, is_special, parse_json

SUFFIXES = (".wav", ".flac", ".opus", ".ogg", ".mp3", ".sph")
# folders that sort files by kind, and say nothing about a speaker
_FOLDERS_OF_KINDS = {"wav", "wavs", "flac", "sph", "audio", "clips", "txt"}


@dataclass(frozen=True)
class Clip:
    """An utterance: a recording or a part of one, and what is said in it."""

    name: str  # unique in the corpus; folders are allowed
    audio: Path
    text: str  # as the corpus writes it
    where: str  # the file and line that name the utterance
    start: float = 0.0  # seconds
    end: float | None = None  # seconds; None: the end of the recording
    speaker: str = ""  # "": the corpus does not say
    channel: int = 0  # from 1; 0: all channels, averaged


_LONGEST = 1e9  # seconds; 31 years
# what code raises that reads JSON of another kind than it expects
_NOT_AS_EXPECTED = (ValueError, KeyError, TypeError, AttributeError, OverflowError)

Read = tuple[list[Clip], list[str]]  # what a reader returns


@dataclass(frozen=True)
class Format:
    """How a format is read, and where a corpus keeps the files that the reader takes."""

    read: Callable[[Path], Read]
    patterns: tuple[str, ...]  # of the files with transcripts, below the corpus's folder
    alone: bool = False  # each file is a set of its own: SOURCE must name one
    names_are_unique: bool = False  # in several corpora together


def read_ljspeech(path: Path) -> Read:
    """LJSpeech's metadata.csv: `NAME|TEXT` or `NAME|TEXT|NORMALIZED TEXT`, audio in wavs/."""
    root, clips, problems, listed = path.parent, [], [], set()
    folders = [root / "wavs", root / "wav", root]
    for where, line in _lines(path, problems):
        cells = [cell.strip() for cell in line.split("|")]
        found = [find_audio(cell, *folders) for cell in cells[:4]]
        listed |= {audio for audio in found if audio}
        if len(cells) not in (2, 3):
            problems.append(
                f"{where}: expected `NAME|TEXT` or `NAME|TEXT|NORMALIZED TEXT`, "
                f"found {len(cells)} columns"
            )
        elif found[0]:
            clips.append(Clip(_stem(cells[0]), found[0], cells[-1], where, speaker=root.name))
        elif any(found):
            column = next(i for i, audio in enumerate(found, 1) if audio)
            problems.append(
                f"{where}: another column order: column {column} names the audio; expected "
                "`NAME|TEXT` or `NAME|TEXT|NORMALIZED TEXT`"
            )
        else:
            problems.append(f"{where}: there is no audio for {cells[0][:80]!r} in {folders[0]}")
    return clips, problems + _unlisted(path, folders[:2], listed)


def read_festvox(path: Path) -> Read:
    r"""CMU ARCTIC's and Festvox's txt.done.data: `( NAME "TEXT" )`, audio in wav/."""
    root = path.parent.parent if path.parent.name == "etc" else path.parent
    clips, problems, listed = [], [], set()
    for where, line in _lines(path, problems):
        match = re.fullmatch(r'\s*\(\s*(\S+)\s+"(.*)"\s*\)\s*', line)
        audio = find_audio(match[1], root / "wav") if match else None
        if not match:
            problems.append(f'{where}: expected `( NAME "TEXT" )`, found {line[:80]!r}')
        elif audio is None:
            problems.append(f"{where}: there is no audio for {match[1]} in {root / 'wav'}")
        else:
            listed.add(audio)
            text = re.sub(r"\\(.)", r"\1", match[2])
            clips.append(Clip(match[1], audio, text, where, speaker=root.name))
    return clips, problems + _unlisted(path, [root / "wav"], listed)


def read_commonvoice(path: Path) -> Read:
    """Common Voice's TSV: columns by the names in its first line, audio in clips/."""
    clips, problems = [], []
    lines = _lines(path, problems)
    header = next(lines, ("", ""))[1].split("\t")
    if not {"path", "sentence"} <= set(header):
        raise InputError(
            f"{path}:1: the columns are {', '.join(header)[:200]}; needed are path and sentence"
        )
    for where, line in lines:
        cells = line.split("\t")
        if len(cells) != len(header):
            problems.append(f"{where}: {len(cells)} columns where line 1 names {len(header)}")
            continue
        row = dict(zip(header, cells, strict=True))
        file = row["path"] if row["path"].lower().endswith(SUFFIXES) else f"{row['path']}.mp3"
        audio = path.parent / "clips" / file
        clips.append(
            Clip(_stem(file), audio, row["sentence"], where, speaker=row.get("client_id", ""))
        )
    return clips, problems


_STM_LINE = re.compile(
    r"(?P<file>\S+)\s+(?P<channel>\S+)\s+(?P<speaker>\S+)\s+(?P<start>[\d.]+)\s+(?P<end>[\d.]+)"
    r"(?:\s+<(?:[^<>\s]*,[^<>\s]*|NA|F\d_[MF])>)?(?:\s+(?P<text>.*))?",
    re.IGNORECASE,
)


def read_stm(path: Path) -> Read:
    """NIST's STM as in TED-LIUM: `FILE CHANNEL SPEAKER START END <LABELS> TEXT`, audio in sph/."""
    clips, problems = [], []
    folders = [path.parent.parent / name for name in ("sph", "wav", "audio")] + [path.parent]
    for where, line in _lines(path, problems):
        if line.startswith(";;"):
            continue
        match = _STM_LINE.fullmatch(line.strip())
        channel = {"1": 1, "a": 1, "2": 2, "b": 2}.get(match["channel"].lower()) if match else None
        times = _seconds(match["start"], match["end"]) if match else None
        if channel is None or times is None or times[1] is None:
            problems.append(
                f"{where}: expected `FILE CHANNEL SPEAKER START END <LABELS> TEXT`, "
                f"found {line[:80]!r}"
            )
            continue
        text = (match["text"] or "").strip()
        if text.lower() == "ignore_time_segment_in_scoring":  # TED-LIUM's music and applause
            continue
        # as Kaldi's egs/tedlium: no pronunciation variants, and `it 's` is one word
        text = re.sub(r"\(\d\)", "", text)
        text = re.sub(r"(?<=\w) '(?=(?:s|re|ve|ll|d|m|t)\b)", "'", text, flags=re.IGNORECASE)
        audio = find_audio(match["file"], *folders)
        if audio is None:
            problems.append(f"{where}: there is no audio for {match['file']} in {folders[0]}")
            continue
        name = f"{match['file']}-{channel}-" + "-".join(f"{round(t * 100):07d}" for t in times)
        clips.append(Clip(name, audio, text, where, *times, match["speaker"], channel))
    return clips, problems


def read_voxforge(path: Path) -> Read:
    """VoxForge's etc/PROMPTS: `FOLDER/mfc/NAME TEXT`, audio in wav/ or flac/."""
    root, clips, problems, listed = path.parent.parent, [], [], set()
    folders = [root / "wav", root / "flac"]
    # anonymous-20080425-abc: who that is, only this folder says
    user = root.name.partition("-")[0]
    speaker = root.name if user.lower() == "anonymous" else user
    for where, line in _lines(path, problems):
        prompt, text = _split(line)
        name = prompt.rpartition("/")[2]
        audio = find_audio(name, *folders)
        if audio is None:
            problems.append(f"{where}: there is no audio for {name!r} in {root}/{{wav,flac}}")
        else:
            listed.add(audio)
            clips.append(Clip(name, audio, text, where, speaker=speaker))
    return clips, problems + _unlisted(path, folders, listed)


# Commands in wav.scp that only decode a file, by the words that they may have besides its name.
_DECODERS = {
    "cat": "",
    "flac": "-c -d -s -f -dc -cd -dcs -cds -sdc -scd --decode --stdout --silent",
    "sph2pipe": "-f wav -p",
    "sox": "-t wav wavpcm flac mp3 sph -r 16000 16k -b 16 -e signed signed-integer -c 1 -G - -V0",
    "ffmpeg": "-i -f wav -ar 16000 -ac 1 -acodec -c:a pcm_s16le -v -loglevel quiet error "
    "-nostdin -hide_banner - pipe:1",
}


def read_kaldi(path: Path) -> Read:
    """A Kaldi data folder: `text`, `wav.scp`, and if they are there `segments` and `utt2spk`.

    Commands in wav.scp are not run. Those that only decode a file are read as that file.
    """
    root, clips, problems, named = path.parent, [], [], set()
    recordings = _kaldi_table(root / "wav.scp", problems)
    speakers = _kaldi_table(root / "utt2spk", problems) if (root / "utt2spk").exists() else {}
    segments = None
    if (root / "segments").exists():
        segments = _kaldi_table(root / "segments", problems)
        if not segments:
            problems.append(
                f"{root / 'segments'}: the file is empty; utterances of `text` that wav.scp "
                "names are taken whole"
            )
    for where, line in _lines(path, problems):
        name, text = _split(line)
        named.add(name)
        at, value = (segments or {}).get(name, (where, name))
        recording, *times = value.split()
        span = _seconds(*times) if len(times) == 2 else None
        if segments and name not in segments:
            problems.append(f"{where}: {name} is not in {root / 'segments'}")
        elif segments and span is None:
            problems.append(f"{at}: expected `NAME RECORDING START END`, found {value[:80]!r}")
        elif recording not in recordings:
            problems.append(f"{at}: {recording} is not in {root / 'wav.scp'}")
        else:
            at, command = recordings[recording]
            audio = _kaldi_audio(command, root)
            speaker = speakers.get(name, ("", ""))[1]
            if isinstance(audio, str):
                problems.append(f"{at}: {audio}")
            else:
                clips.append(Clip(name, audio, text, where, *(span or (0.0, None)), speaker))
    listed = segments or recordings
    problems += [
        f"{at}: {name} has no transcript in {path}"
        for name, (at, _) in listed.items()
        if name not in named
    ]
    return clips, problems


def _kaldi_table(path: Path, problems: list[str]) -> dict[str, tuple[str, str]]:
    """`KEY VALUE` a line as {KEY: (file:line, VALUE)}."""
    table: dict[str, tuple[str, str]] = {}
    for where, line in _lines(path, problems):
        key, value = _split(line)
        if key in table or not value:
            problems.append(
                f"{where}: {key} is there twice"
                if key in table
                else f"{where}: expected two columns, found {key[:80]!r}"
            )
        else:
            table[key] = where, value
    return table


def _kaldi_audio(command: str, root: Path) -> Path | str:
    """The file behind an entry of wav.scp, or why there is none."""
    file = command
    if command.endswith("|"):
        try:
            program, *words = shlex.split(command[:-1])
        except ValueError:
            program, words = "", []
        harmless = _DECODERS.get(os.path.basename(program), "").split()
        files = [word for word in words if word not in harmless]
        if os.path.basename(program) not in _DECODERS or len(files) != 1:
            return (
                f"commands are not run, and {command[:80]!r} does more than decode a file; "
                "write the audio to files first"
            )
        file = files[0]
    elif re.search(r"\.ark:\d+$", command):
        return f"{command}: Kaldi archives are not read; write the audio to files first"
    # Kaldi's relative paths start where its scripts run, two folders above data/train
    above = [parent for path in (root.absolute(), root.resolve()) for parent in path.parents[:3]]
    candidates = [folder / file for folder in (root, *above)]
    return next(filter(is_file, candidates), candidates[0])


def read_nemo(path: Path) -> Read:
    """NeMo's manifest: a JSON object with audio_filepath, text, duration and offset a line."""
    rows, problems = [], []
    for where, line in _lines(path, problems):
        try:
            entry = parse_json(line)
            audio, text, speaker = entry["audio_filepath"], entry["text"], entry.get("speaker", "")
            start = float(entry.get("offset") or 0)
            end = start + float(entry["duration"]) if entry.get("duration") else None
            if not (isinstance(text, str) and is_path(audio) and _are_seconds(start, end or 0)):
                raise TypeError
        except _NOT_AS_EXPECTED:
            problems.append(
                f"{where}: expected a JSON object with audio_filepath and text, found {line[:80]!r}"
            )
            continue
        rows.append((path.parent / audio, text, where, start, end, str(speaker or "")))
    clips = []
    names = _names([row[0] for row in rows])
    for name, row in zip(names, rows, strict=True):
        start, end = row[3:5]
        if start:
            ends = f"{round(end * 1000):07d}" if end else "end"
            name = f"{name}-{round(start * 1000):07d}-{ends}"
        clips.append(Clip(name, *row))
    return clips, problems


def read_deepspeech_pytorch(path: Path) -> Read:
    """deepspeech.pytorch's manifest: JSON with root_path and samples of two paths each."""
    try:
        manifest = parse_json(path.read_text(encoding="utf-8-sig"))
        root, samples = path.parent / manifest["root_path"], list(manifest["samples"])
    except OSError as error:
        raise InputError(f"{path}: cannot read the file: {error.strerror}") from None
    except _NOT_AS_EXPECTED as error:
        raise InputError(
            f"{path}: expected JSON with root_path and samples ({type(error).__name__}: {error})"
        ) from None
    rows, problems = [], []
    for number, sample in enumerate(samples, 1):
        where = f"{path}: sample {number}"
        try:
            paths = [root / sample[name] for name in ("wav_path", "transcript_path")]
            if not all(is_path(str(path)) for path in paths):
                raise ValueError
            rows.append((where, *paths))
        except _NOT_AS_EXPECTED:
            problems.append(
                f"{where}: expected wav_path and transcript_path, found {str(sample)[:80]}"
            )
    return _with_transcripts(rows, problems)


def read_manifest(path: Path) -> Read:
    """This project's manifest, and older ones of deepspeech.pytorch: `AUDIO,TRANSCRIPT` paths."""
    rows, problems = [], []
    for where, line in _lines(path, problems):
        try:
            cells = [cell.strip() for cell in next(csv.reader([line]), [])]
        except csv.Error:  # a cell of more than 128 KB
            cells = []
        if len(cells) != 2 or not all(cells):
            problems.append(f"{where}: expected `AUDIO,TRANSCRIPT`, found {line[:80]!r}")
        else:
            rows.append((where, *(path.parent / cell for cell in cells)))
    return _with_transcripts(rows, problems)


def read_text_files(folder: Path) -> Read:
    """Audio anywhere below a folder, with NAME.txt beside it or in a txt/ folder instead."""
    if not folder.is_dir():
        raise InputError(f"{folder}: a folder is needed")
    rows, problems, without = [], [], []
    for audio in _audio_below(folder, problems):
        parts = audio.relative_to(folder).with_suffix(".txt").parts
        swapped = [Path(*parts[:i], "txt", *parts[i + 1 :]) for i in range(len(parts) - 1)]
        transcripts = [folder / path for path in (Path(*parts), *swapped)]
        transcript = next((path for path in transcripts if path.is_file()), None)
        if transcript is None:
            without.append(f"{audio}: there is no {transcripts[0].name} beside it")
        else:
            rows.append((str(audio), audio, transcript))
    if not rows:
        raise InputError(f"{folder}: no audio with a .txt beside it ({len(without)} without)")
    clips, problems = _with_transcripts(rows, problems, folder)
    used = {transcript for _, _, transcript in rows}
    inside = {path.parent for path in used}
    lonely = [
        f"{path}: there is no audio beside it"
        for path in sorted(map(Path, files_below(folder, [])))
        if path.suffix == ".txt" and path not in used and path.parent in inside
    ]
    return clips, problems + without + lonely


def _with_transcripts(
    rows: Sequence[tuple[str, Path, Path]], problems: list[str], root: Path | None = None
) -> Read:
    """Clips of (where, audio, transcript file); the speaker is the folder that they are in."""
    clips = []
    for name, (where, audio, transcript) in zip(
        _names([r[1] for r in rows], root), rows, strict=True
    ):
        if is_special(transcript):
            problems.append(f"{where}: {transcript}: a pipe or a device, not a file")
            continue
        try:
            text = transcript.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8"
            problems.append(f"{where}: cannot read the transcript {transcript}: {reason}")
            continue
        folders = [part for part in name.split("/")[:-1] if part not in _FOLDERS_OF_KINDS]
        speaker = folders[-1] if root and folders else ""
        clips.append(Clip(name, audio, text, where, speaker=speaker))
    return clips, problems


FORMATS = {
    "ljspeech": Format(read_ljspeech, ("**/metadata.csv",)),
    "festvox": Format(read_festvox, ("**/txt.done.data",)),
    "commonvoice": Format(read_commonvoice, ("*.tsv", "*/*.tsv", "*/*/*.tsv"), alone=True),
    "stm": Format(read_stm, ("*.stm", "stm/*.stm"), names_are_unique=True),
    "voxforge": Format(read_voxforge, ("**/etc/PROMPTS",)),
    "kaldi": Format(read_kaldi, ("text", "*/text", "*/*/text"), alone=True),
    "nemo": Format(read_nemo, ("*.json", "*.jsonl"), alone=True),
    "deepspeech.pytorch": Format(read_deepspeech_pytorch, ("*.json",), alone=True),
    "manifest": Format(read_manifest, ("*.csv",), alone=True),
    "text": Format(read_text_files, (".",)),
}


def find_transcripts(source: Path, name: str) -> list[Path]:
    """The files with transcripts that a corpus of format `name` has.

    Raises:
        InputError: if there is none, or several of which each is a set of its own; for a folder
            that cannot be read.
    """
    form = FORMATS[name]
    if source.is_file() or form.patterns == (".",):
        return [source]
    found = sorted(
        {
            path
            for pattern in form.patterns
            for path in _matching(source, pattern)
            if path.is_file() and not path.name.startswith(".")
        }
    )
    if not found:
        raise InputError(f"{source}: not {name}: it has no {' or '.join(form.patterns)}")
    if form.alone and len(found) > 1:
        listed = ", ".join(str(path.relative_to(source)) for path in found)
        raise InputError(f"{source}: several sets; name one of them as SOURCE: {listed}")
    return found


def _matching(folder: Path, pattern: str) -> Iterable[Path]:
    """As `Path.glob`, but `**` follows links. Raises InputError as `find_transcripts`."""
    if not pattern.startswith("**/"):
        return folder.glob(pattern)
    closed: list[str] = []
    found = [Path(path) for path in files_below(folder, closed)]
    if closed:
        raise InputError(closed[0])
    return [path for path in found if path.match(pattern.removeprefix("**/"))]


def find_audio(name: str, *folders: Path) -> Path | None:
    """The file of an utterance, which `name` may give with or without its suffix."""
    suffixes = ("",) if name.lower().endswith(SUFFIXES) else SUFFIXES
    paths = (folder / f"{name}{suffix}" for folder in folders for suffix in suffixes)
    return next(filter(is_file, paths), None)


def _audio_below(folder: Path, problems: list[str]) -> list[Path]:
    """The recordings below a folder; a folder that cannot be read is a problem."""
    # ._NAME.wav is what a Mac puts into archives
    return [
        path
        for path in sorted(map(Path, files_below(folder, problems)))
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    ]


def _unlisted(path: Path, folders: Iterable[Path], listed: set[Path]) -> list[str]:
    """A problem for every recording in `folders` that the transcripts in `path` do not name."""
    stems = {audio.stem for audio in listed}
    problems: list[str] = []
    for folder in filter(Path.is_dir, folders):
        problems += [
            f"{audio}: {path} has no transcript of it"
            for audio in _audio_below(folder, problems)
            if audio not in listed and audio.stem not in stems
        ]
    return problems


def _lines(path: Path, problems: list[str]) -> Iterator[tuple[str, str]]:
    """(file:line, text) of the lines that are not blank. Text that is not UTF-8 is a problem."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot read the file: {error.strerror}") from None
    for number, raw in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            line = raw.decode().rstrip("\r")
        except UnicodeDecodeError as error:
            problems.append(f"{path}:{number}: not UTF-8: {error.reason} at byte {error.start}")
            continue
        if "\0" in line:
            problems.append(f"{path}:{number}: the line holds a zero byte")
        elif line.strip():
            yield f"{path}:{number}", line


def _split(line: str) -> tuple[str, str]:
    """The first word of a line that is not blank, and the rest."""
    first, *rest = line.split(maxsplit=1)
    return first, rest[0].rstrip() if rest else ""


def _seconds(start: str, end: str) -> tuple[float, float | None] | None:
    try:
        times = float(start), float(end)
    except ValueError:
        return None
    if not _are_seconds(*times):
        return None
    return times[0], None if times[1] == -1 else times[1]  # -1 as in Kaldi


def _are_seconds(*times: float) -> bool:
    """Whether times are no infinity, no NaN, and not beyond any recording."""
    return all(abs(time) < _LONGEST for time in times)


def _stem(name: str) -> str:
    return name[: -len(Path(name).suffix)] if name.lower().endswith(SUFFIXES) else name


def _names(paths: Sequence[Path], root: Path | None = None) -> list[str]:
    """Names of utterances: their paths below `root`, or below the folder that all are in."""
    absolute = [os.path.abspath(path) for path in paths]
    if not absolute:
        return []
    common = (
        os.path.abspath(root)
        if root
        else os.path.commonpath([os.path.dirname(path) for path in absolute])
    )
    return [os.path.splitext(os.path.relpath(path, common))[0] for path in absolute]
