"""Where the transcripts of a command go: standard output or files; progress; and what failed."""

import argparse
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from deepspeech2.errors import InputError, RunError
from deepspeech2.files import ensure_writable, write_bytes
from deepspeech2.recordings import Recording, output_stems
from deepspeech2.result import Transcript
from deepspeech2.writers import WRITERS, Layout

logger = logging.getLogger(__name__)

SUBTITLES = {"srt", "vtt"}
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), 127)}


class Files:
    """Writes a file for each recording and format; a file is there whole or not at all.

    Args:
        folder: where the files go.
        formats: names of `WRITERS`.
        layout: of subtitles.
        skip_existing: whether recordings that have all their files are done.
    """

    def __init__(self, folder: str, formats: Sequence[str], layout: Layout, skip_existing: bool):
        self._folder, self._formats, self._layout = folder, formats, layout
        self._skip_existing = skip_existing

    def places(self, recordings: Sequence[Recording]) -> list[tuple[Recording, str]]:
        """The recordings with the paths of their files, without suffix."""
        stems = [os.path.join(self._folder, stem) for stem in output_stems(recordings)]
        return list(zip(recordings, stems, strict=True))

    def is_done(self, place: str) -> bool:
        """Whether a recording can be left out."""
        return self._skip_existing and all(map(os.path.isfile, self.files(place)))

    def files(self, place: str) -> list[str]:
        """The paths of the files of a recording."""
        return [f"{place}.{name}" for name in self._formats]

    def write(self, place: str, result: Transcript | Exception) -> None:
        """Write the files of a recording; none for one that failed. Raises RunError."""
        if isinstance(result, Transcript):
            for name in self._formats:
                path = Path(f"{place}.{name}")
                try:
                    layout = replace(self._layout, recording=path.stem)
                    # names of files can have any bytes
                    content = WRITERS[name](result, layout).encode(errors="backslashreplace")
                    write_bytes(path, content)
                except OSError as error:
                    raise RunError(f"{path}: cannot write: {error.strerror}") from None


class StandardOutput:
    """Prints each transcript; of a recording that failed, an empty line keeps the count.

    Args:
        format_name: a name of `WRITERS`.
        layout: of subtitles.
    """

    def __init__(self, format_name: str, layout: Layout):
        self._format, self._layout = format_name, layout

    def places(self, recordings: Sequence[Recording]) -> list[tuple[Recording, str]]:
        """The recordings with names for them."""
        return list(zip(recordings, output_stems(recordings), strict=True))

    def is_done(self, place: str) -> bool:
        """Nothing is done already."""
        return False

    def files(self, place: str) -> list[str]:
        """There are none."""
        return []

    def write(self, place: str, result: Transcript | Exception) -> None:
        """Print a transcript. Raises OSError when nothing can be printed any more."""
        if isinstance(result, Transcript):
            layout = replace(self._layout, recording=os.path.basename(place))
            text = WRITERS[self._format](result, layout)
        else:
            text = "\n" if self._format == "txt" else ""
        print(text, end="", flush=True)


def make_output(
    args: argparse.Namespace, recordings: Sequence[Recording]
) -> Files | StandardOutput:
    """What the options ask for.

    Raises:
        InputError: for options that contradict each other, and a folder that cannot be written to.
    """
    formats = list(WRITERS) if args.output_format == "all" else [args.output_format]
    layout = Layout(
        args.max_line_width, args.max_line_count, args.highlight_words, args.word_timestamps
    )
    if args.highlight_words and not SUBTITLES & set(formats):
        raise InputError("--highlight_words is for subtitles: --output_format srt, vtt or all")
    if args.output_dir:
        ensure_writable(args.output_dir)
        return Files(args.output_dir, formats, layout, args.skip_existing)
    if args.skip_existing:
        raise InputError("--skip_existing needs --output_dir, the folder with the files")
    if args.output_format == "all" or (args.output_format != "txt" and len(recordings) > 1):
        raise InputError(
            f"--output_format {args.output_format} needs --output_dir: standard output takes one "
            "recording, or txt of many"
        )
    return StandardOutput(args.output_format, layout)


class Failures:
    """Reports what failed, a line each, and remembers what the exit code is.

    Args:
        before: called before each line.
        problems: the first failures.
    """

    def __init__(self, before: Callable[[], None], problems: Sequence[InputError]):
        self._before = before
        self.exit_code = 0
        for problem in problems:
            self.add("", problem)

    def add(self, path: str, error: Exception) -> None:
        """Report why a recording has no transcript or no file."""
        message = str(error) or type(error).__name__
        if isinstance(error, MemoryError):
            message = "too little memory"
        if path not in message:
            message = f"{path}: {message}"
        self._before()
        logger.error("%s", message.translate(_CONTROL))  # a name may have newlines
        if isinstance(error, InputError):
            self.exit_code = 2
        self.exit_code = self.exit_code or 1


class Progress:
    """A line on the terminal that shows how far the work is; nothing where stderr is none.

    Args:
        total: number of recordings.
    """

    def __init__(self, total: int):
        self._total = total
        self._shown = sys.stderr.isatty()
        self._done = 0
        self._seconds = 0.0
        self._start = time.monotonic()

    def __enter__(self) -> "Progress":
        self._show()
        return self

    def __exit__(self, *exception) -> None:
        self.clear()

    def add_audio(self, seconds: float) -> None:
        """So much audio was recognised."""
        self._seconds += seconds
        self._show()

    def add_recording(self) -> None:
        """A recording is complete."""
        self._done += 1
        self._show()

    def clear(self) -> None:
        """Make room for another line."""
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def _show(self) -> None:
        if not self._shown:
            return
        speed = self._seconds / max(time.monotonic() - self._start, 1e-3)
        minutes, seconds = divmod(round(self._seconds), 60)
        print(
            f"\r{self._done}/{self._total} recordings, {minutes // 60}:{minutes % 60:02}:"
            f"{seconds:02} of audio, {speed:.0f} times real time\x1b[K",
            end="", file=sys.stderr, flush=True,
        )  # fmt: skip
