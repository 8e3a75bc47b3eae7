"""A text whose words are looked for in a recording: its lines, and its words as the labels write
them."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deepspeech2.audio import STANDARD_INPUT
from deepspeech2.errors import InputError
from deepspeech2.labels import Labels, listed
from deepspeech2.spelling import Speller

_SHOWN_LINES = 5


@dataclass(frozen=True)
class Token:
    """A word of a text, with its punctuation.

    Attributes:
        text: as the text writes it. Punctuation that stands alone belongs to the word before
            it; a line of nothing else is left out.
        line: number of its line, from 1 on.
        words: as the labels write it, `well-known` in two words; none where they cannot.
    """

    text: str
    line: int
    words: tuple[str, ...]


def read_text(path: str | Path) -> str:
    """The content of a UTF-8 file, with or without a byte order mark; `-` is standard input.

    Raises:
        InputError: naming the file, for one that cannot be read or is not UTF-8.
    """
    if str(path) == STANDARD_INPUT and (sys.stdin is None or sys.stdin.closed):
        raise InputError("-: cannot read the text: standard input is closed")
    try:
        if str(path) == STANDARD_INPUT:
            content = sys.stdin.buffer.read()
        else:
            content = Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a null byte
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot read the text: {reason}") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}:{line}: the text is not UTF-8: {error.reason} at byte {error.start}; convert "
            "it, as in: iconv -f UTF-16 -t UTF-8"
        ) from None


def tokens_of(text: str, labels: Labels) -> list[Token]:
    """The words of a text in order.

    Raises:
        InputError: for a text without words, or without one that the labels can write.
    """
    speller = Speller(labels)
    tokens: list[Token] = []
    for number, line in enumerate(text.splitlines(), 1):
        tokens += _tokens_of_line(line, number, speller)
    if not tokens:
        raise InputError("the text has no words")
    if not any(token.words for token in tokens):
        examples = listed([repr(token.text) for token in tokens[:5]])
        raise InputError(
            f"the labels can write none of the {len(tokens)} words of the text, {examples} for "
            f"example: the model writes {''.join(labels.characters)!r}"
        )
    return tokens


def _tokens_of_line(line: str, number: int, speller: Speller) -> list[Token]:
    tokens: list[Token] = []
    loose = ""  # punctuation in front of the first word
    for text in line.split():
        words = speller.words(text)
        if words:
            known = tuple(words) if None not in words else ()
            tokens.append(Token(loose + text, number, known))
            loose = ""
        elif tokens:
            last = tokens[-1]
            tokens[-1] = Token(f"{last.text} {text}", number, last.words)
        else:
            loose += f"{text} "
    return tokens


def describe_unspelled(tokens: Sequence[Token]) -> str:
    """The words that the labels cannot write, with their lines, for a message; '' for none."""
    lines: dict[str, list[int]] = {}
    for token in tokens:
        if not token.words:
            lines.setdefault(token.text, []).append(token.line)
    if not lines:
        return ""
    found = sorted(lines.items(), key=lambda item: -len(item[1]))
    named = listed([f"{word!r} ({_lines(numbers)})" for word, numbers in found], ", ")
    total = sum(map(len, lines.values()))
    return f"{total} words that the labels cannot write have the times between others: {named}"


def _lines(numbers: Sequence[int]) -> str:
    """Numbers of lines for a message."""
    different = list(dict.fromkeys(numbers))
    shown = ", ".join(map(str, different[:_SHOWN_LINES]))
    more = " ..." if len(different) > _SHOWN_LINES else ""
    times = f"{len(numbers)} times, " if len(numbers) > 1 else ""
    return f"{times}line{'s' * (len(different) > 1)} {shown}{more}"
