"""The alphabet: the character of each class, the class of the CTC blank, and how a text is written.

A text is written in the characters of the alphabet by one rule, whoever reads it (docs/data.md,
"Alphabets"): Unicode form NFC; a character that the alphabet has stays; any other becomes its
capital or its small letter, whichever the alphabet has.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

from deepspeech2.errors import InputError
from deepspeech2.files import is_special, parse_json

BLANK = "_"
SPACE = " "

_FINAL_SIGMA = re.compile(r"(?<=\w)Σ(?!\w)")
_SHOWN = 20  # characters in a message
# more marks in a row than Unicode's "stream-safe" texts have; of interest in long texts only
_MOST_MARKS, _LONG_TEXT = 30, 1000


class UnknownCharacters(InputError):
    """A text with characters that have no class.

    Attributes:
        characters: the characters, sorted.
    """

    def __init__(self, message: str, characters: Sequence[str] = ()):  # a copy sets them later
        super().__init__(message)
        self.characters = characters


class Labels:
    """The characters of a model's output classes, with `_` as the CTC blank.

    Args:
        characters: one character for each class, in class order, in any Unicode form.

    Attributes:
        characters: the characters in Unicode form NFC.
        blank_index: class of the CTC blank.
        space_index: class of the space, or C if the alphabet has no space.
        separator: what stands between two words: a space, or nothing if the alphabet has none.

    Raises:
        InputError: for an entry that is not a single character in Unicode form NFC, a duplicate,
            or a missing `_`.
    """

    def __init__(self, characters: Sequence[str]):
        self.characters = tuple(_composed(c) for c in characters)
        wrong = [c for c in self.characters if not isinstance(c, str) or len(c) != 1]
        if wrong:
            raise InputError(
                "labels must be single characters in Unicode form NFC, found "
                + listed([_code_points(label) for label in wrong], ", ")
            )
        duplicates = [c for c, n in Counter(self.characters).items() if n > 1]
        if duplicates:
            twice = listed([describe(c) for c in duplicates])
            raise InputError(f"labels must be unique, found more than once: {twice}")
        if BLANK not in self.characters:
            raise InputError(f"labels must contain {BLANK!r}, the CTC blank")
        self.blank_index = self.characters.index(BLANK)
        self.space_index = (
            self.characters.index(SPACE) if SPACE in self.characters else len(self.characters)
        )
        self.separator = SPACE if SPACE in self.characters else ""
        self._index = {c: i for i, c in enumerate(self.characters) if c != BLANK}
        self._spellings = _Spellings(self._index.keys())

    @classmethod
    def load(cls, path: str | Path) -> "Labels":
        """Read a JSON list of characters, in UTF-8 with or without a byte order mark.

        Raises:
            InputError: naming the file, when it cannot be read or holds anything else.
        """
        if is_special(path):
            raise InputError(f"{path}: cannot read the labels: a pipe or a device, not a file")
        try:
            characters = parse_json(Path(path).read_text(encoding="utf-8-sig"))
        except OSError as error:
            raise InputError(f"{path}: cannot read the labels: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path}: the labels are not UTF-8: {error.reason} at byte {error.start}"
            ) from None
        except ValueError as error:
            raise InputError(f"{path}: not a JSON list of characters: {error}") from None
        if not isinstance(characters, list):
            raise InputError(
                f"{path}: not a JSON list of characters but a {type(characters).__name__}"
            )
        try:
            return cls(characters)
        except ValueError as error:
            raise InputError(f"{path}: {error}") from None

    def fold(self, text: str) -> str:
        """`text` in the characters of the alphabet; a character without a class stays.

        White space becomes single spaces. See the module for the rule.
        """
        text = SPACE.join(compose(text).split())
        if self._index.keys() >= set(text):
            return text
        if "ς" in self._index and "Σ" not in self._index:
            text = _FINAL_SIGMA.sub("ς", text)
        # again, because a mark can compose with a letter of the other case only
        return compose(text.translate(self._spellings))

    def normalize(self, text: str) -> str:
        """`text` in the characters of the alphabet; see `fold`.

        Raises:
            UnknownCharacters: naming the characters that have no class; none is ever dropped.
        """
        folded = self.fold(text)
        unknown = sorted(set(folded) - self._index.keys())
        if unknown:
            start = SPACE.join(text.split())[:60]
            named = listed([describe(c) for c in unknown])
            raise UnknownCharacters(f"unknown characters {named} in {start!r}", unknown)
        return folded

    def encode(self, text: str) -> list[int]:
        """(U,) class indices of the normalised text. Raises as `normalize`."""
        return [self._index[c] for c in self.normalize(text)]

    def decode(self, indices: Sequence[int]) -> str:
        """The text of (U,) class indices."""
        return "".join(self.characters[i] for i in indices)

    def spelled(self, text: str) -> list[int]:
        """(U,) class indices of a text that `decode` made, letter by letter.

        `encode` may compose two of its letters into a third one.
        """
        return [self._index[c] for c in text]

    def __len__(self) -> int:
        return len(self.characters)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Labels) and self.characters == other.characters

    def __hash__(self) -> int:
        return hash(self.characters)

    def __str__(self) -> str:
        return "".join(self.characters)


def compose(text: str) -> str:
    """`text` in Unicode form NFC.

    A text with more marks on a letter than any language has stays as it is: Python would take a
    time that grows with the square of their number, hours for a megabyte.
    """
    if len(text) > _LONG_TEXT:
        marks = groupby(text, lambda character: unicodedata.combining(character) > 0)
        if any(marked and sum(1 for _ in run) > _MOST_MARKS for marked, run in marks):
            return text
    return unicodedata.normalize("NFC", text)


def describe(character: str) -> str:
    """A character for a message, with its code point, and with its name where one sees nothing."""
    if character.isascii() and character.isprintable() and not character.isalpha():
        return repr(character)
    visible = unicodedata.category(character)[0] in "LNPS"
    name = "" if visible else f" {unicodedata.name(character, 'without a name')}"
    return f"{character!r} (U+{ord(character):04X}{name})"


def listed(items: Sequence[str], separator: str = " ") -> str:
    """The first items for a message, and the number of the others."""
    rest = len(items) - _SHOWN
    return separator.join(items[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _composed(character: object) -> object:
    return compose(character) if isinstance(character, str) else character


def _code_points(label: object) -> str:
    """A label that is not one character, for a message."""
    points = " ".join(f"U+{ord(c):04X}" for c in label) if isinstance(label, str) else ""
    return f"{label!r} ({points})" if points else repr(label)


class _Spellings(dict[int, str]):
    """How an alphabet writes each character, for `str.translate`; filled as characters occur."""

    def __init__(self, known: Iterable[str]):
        known = list(known)
        self._known = frozenset(known)
        # one-character capitals, ẞ of ß for example, come before SS, which is Unicode's capital
        spellings = {c.lower(): c for c in reversed(known) if len(c.lower()) == 1}
        if self._known >= {"I", "İ"}:  # Turkish: i has its own capital
            spellings["i"] = "İ"
        if self._known >= {"ı", "i"}:
            spellings |= {"I": "ı", "İ": "i"}
        spellings |= {c: c for c in self._known}
        super().__init__({ord(c): written for c, written in spellings.items()})

    def __missing__(self, code: int) -> str:
        c = chr(code)
        folded = c.casefold()
        variants = [c.upper(), c.lower(), folded, folded.upper()]  # of one character or several
        written = (unicodedata.normalize("NFC", variant) for variant in variants)
        self[code] = next(filter(self._known.issuperset, written), c)
        return self[code]
