"""Write a Transcript as text, subtitles (SRT, WebVTT), tables (TSV, CTM), JSON or for Praat."""

import html
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from deepspeech2.result import Segment, Transcript, Word

# what subtitles are made for: lines that fit a screen, read at a glance, gone when nobody speaks
CUE_SECONDS = 7.0
PAUSE_SECONDS = 1.5


@dataclass(frozen=True)
class Layout:
    """How words are laid out as subtitles.

    Attributes:
        max_line_width: characters of a line; a longer word has a line of its own.
        max_line_count: lines shown at once.
        highlight_words: underline each word while it is said.
        word_timestamps: show and list each word by itself.
        recording: name of the recording, which CTM has in every line.
    """

    max_line_width: int = 42
    max_line_count: int = 2
    highlight_words: bool = False
    word_timestamps: bool = False
    recording: str = "recording"


@dataclass(frozen=True)
class Cue:
    """Lines of words that are shown together.

    Attributes:
        start, end: seconds from the beginning of the recording.
        lines: the words of each line.
        separator: what stands between two words.
        active: the word that is underlined; None for none.
    """

    start: float
    end: float
    lines: tuple[tuple[Word, ...], ...]
    separator: str
    active: Word | None = None

    def text(self, escape: Callable[[str], str]) -> str:
        """The lines, with every word escaped."""
        def show(word: Word) -> str:
            return f"<u>{escape(word.word)}</u>" if word is self.active else escape(word.word)

        return "\n".join(self.separator.join(map(show, line)) for line in self.lines)


def cues(transcript: Transcript, layout: Layout) -> list[Cue]:
    """Divide a transcript into cues: in order, without overlap, each within its segment.

    A cue ends where its lines are full, after `CUE_SECONDS`, and at a pause of `PAUSE_SECONDS`.
    """
    result: list[Cue] = []
    for segment in _segments(transcript, layout):
        separator = " " if " " in segment.text else ""  # an alphabet may have no space
        group: list[Word] = []
        for word in segment.words:
            if group and not _continues(group, word, separator, layout):
                result += _show(group, separator, layout)
                group = []
            group.append(word)
        result += _show(group, separator, layout)
    return result


def _segments(transcript: Transcript, layout: Layout) -> list[Segment]:
    """The segments of a transcript, or each of its words as a segment."""
    if not layout.word_timestamps:
        return list(transcript.segments)
    return [Segment(w.start, w.end, w.word, (w,), w.probability) for w in transcript.words]


def _continues(group: list[Word], word: Word, separator: str, layout: Layout) -> bool:
    """Whether a word can be shown together with the words before it."""
    return (
        word.start - group[-1].end < PAUSE_SECONDS
        and word.end - group[0].start <= CUE_SECONDS
        and len(_lines([*group, word], separator, layout)) <= layout.max_line_count
    )


def _lines(words: list[Word], separator: str, layout: Layout) -> tuple[tuple[Word, ...], ...]:
    lines: list[list[Word]] = [[]]
    width = 0
    for word in words:
        width += len(separator) + len(word.word)
        if lines[-1] and width - len(separator) > layout.max_line_width:
            lines.append([])
            width = len(separator) + len(word.word)
        lines[-1].append(word)
    return tuple(map(tuple, lines))


def _show(group: list[Word], separator: str, layout: Layout) -> Iterator[Cue]:
    """The cue of a group of words; with highlighting one for each word and each gap."""
    if not group:
        return
    lines = _lines(group, separator, layout)
    if not layout.highlight_words:
        yield Cue(group[0].start, group[-1].end, lines, separator)
        return
    shown = group[0].start
    for word in group:
        if word.start > shown:
            yield Cue(shown, word.start, lines, separator)
        yield Cue(word.start, word.end, lines, separator, word)
        shown = word.end


def _milliseconds(seconds: float) -> int:
    return round(1000 * seconds)


def _clock(seconds: float, separator: str) -> str:
    """Seconds as HH:MM:SS and three digits after the separator."""
    rest, milliseconds = divmod(_milliseconds(seconds), 1000)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours:02}:{minutes:02}:{rest:02}{separator}{milliseconds:03}"


def to_txt(transcript: Transcript, layout: Layout) -> str:
    """One line with the whole text."""
    return transcript.text + "\n"


def to_srt(transcript: Transcript, layout: Layout) -> str:
    """SubRip subtitles."""
    def escape(text: str) -> str:
        return re.sub("-{2,}>", "->", text)  # the arrow --> divides the times

    return "".join(
        f"{number}\n{_clock(cue.start, ',')} --> {_clock(cue.end, ',')}\n{cue.text(escape)}\n\n"
        for number, cue in enumerate(cues(transcript, layout), 1)
    )


def to_vtt(transcript: Transcript, layout: Layout) -> str:
    """WebVTT subtitles."""
    def escape(text: str) -> str:
        return html.escape(text, quote=False)

    return "WEBVTT\n\n" + "".join(
        f"{_clock(cue.start, '.')} --> {_clock(cue.end, '.')}\n{cue.text(escape)}\n\n"
        for cue in cues(transcript, layout)
    )


def to_tsv(transcript: Transcript, layout: Layout) -> str:
    """A line for each segment: start and end in milliseconds, text; separated by tabs."""
    lines = [
        f"{_milliseconds(s.start)}\t{_milliseconds(s.end)}\t{s.text}"
        for s in _segments(transcript, layout)
    ]
    return "\n".join(["start\tend\ttext", *lines]) + "\n"


def to_json(transcript: Transcript, layout: Layout) -> str:
    """Everything: text, segments, words, times in seconds and probabilities.

    The keys are those of openai/whisper, and `duration` and `alternatives`.
    """
    segments = [
        {
            "id": number,
            "start": round(segment.start, 3),
            "end": round(segment.end, 3),
            "text": segment.text,
            "probability": round(segment.probability, 4),
            "words": [word_content(word) for word in segment.words],
        }
        for number, segment in enumerate(transcript.segments)
    ]
    content = {
        "text": transcript.text,
        "segments": segments,
        "duration": round(transcript.duration, 3),
        "alternatives": list(transcript.alternatives),
    }
    return json.dumps(content, ensure_ascii=False, indent=2) + "\n"


def word_content(word: Word) -> dict[str, str | float]:
    """A word as JSON has it."""
    return {
        "word": word.word,
        "start": round(word.start, 3),
        "end": round(word.end, 3),
        "probability": round(word.probability, 4),
    }


def to_textgrid(transcript: Transcript, layout: Layout) -> str:
    """A TextGrid of Praat with two tiers of intervals: segments and words."""
    segments = [(s.start, s.end, s.text) for s in transcript.segments]
    words = [(w.start, w.end, w.word) for w in transcript.words]
    tiers = [("segments", segments), ("words", words)]
    lines = [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        "xmin = 0",
        f"xmax = {transcript.duration:.6f}",
        "tiers? <exists>",
        f"size = {len(tiers)}",
        "item []:",
    ]
    for number, (name, rows) in enumerate(tiers, 1):
        intervals = list(_intervals(rows, transcript.duration))
        lines += [
            f"    item [{number}]:",
            '        class = "IntervalTier"',
            f'        name = "{name}"',
            "        xmin = 0",
            f"        xmax = {transcript.duration:.6f}",
            f"        intervals: size = {len(intervals)}",
        ]
        for place, (start, end, text) in enumerate(intervals, 1):
            escaped = text.replace('"', '""')
            lines += [
                f"        intervals [{place}]:",
                f"            xmin = {start:.6f}",
                f"            xmax = {end:.6f}",
                f'            text = "{escaped}"',
            ]
    return "\n".join(lines) + "\n"


def _intervals(
    rows: list[tuple[float, float, str]], duration: float
) -> Iterator[tuple[float, float, str]]:
    """Rows of start, end and text, with empty ones between them: one begins where one ends."""
    last = 0.0
    for start, end, text in rows:
        if round(start, 6) > round(last, 6):
            yield last, start, ""
        yield max(start, last), end, text
        last = end
    if round(duration, 6) > round(last, 6) or not rows:
        yield last, duration, ""


def to_ctm(transcript: Transcript, layout: Layout) -> str:
    """A line for each word, as NIST's sclite reads it: recording, channel, start, length, word,
    confidence."""
    name = "_".join(layout.recording.split()) or "recording"
    return "".join(
        f"{name} 1 {word.start:.3f} {word.end - word.start:.3f} {'_'.join(word.word.split())} "
        f"{word.probability:.4f}\n"
        for word in transcript.words
    )


WRITERS: dict[str, Callable[[Transcript, Layout], str]] = {
    "txt": to_txt,
    "srt": to_srt,
    "vtt": to_vtt,
    "tsv": to_tsv,
    "json": to_json,
    "TextGrid": to_textgrid,
    "ctm": to_ctm,
}
