"""The alphabet: the character of each class, and the class of the CTC blank."""

import json
from collections.abc import Sequence
from pathlib import Path

from deepspeech2.errors import InputError

BLANK = "_"
SPACE = " "


class Labels:
    """The characters of a model's output classes, with `_` as the CTC blank.

    Args:
        characters: one character for each class, in class order.

    Attributes:
        blank_index: class of the CTC blank.
        space_index: class of the space, or C if the alphabet has no space.

    Raises:
        InputError: for an entry that is not a single character, a duplicate, a lower-case
            character, or a missing `_`.
    """

    def __init__(self, characters: Sequence[str]):
        self.characters = tuple(characters)
        wrong = [c for c in self.characters if not isinstance(c, str) or len(c) != 1]
        if wrong:
            raise InputError(f"labels must be single characters, found {wrong[0]!r}")
        duplicates = sorted({c for c in self.characters if self.characters.count(c) > 1})
        if duplicates:
            raise InputError(
                f"labels must be unique, found more than once: {' '.join(map(repr, duplicates))}"
            )
        if BLANK not in self.characters:
            raise InputError(f"labels must contain {BLANK!r}, the CTC blank")
        lower = [c for c in self.characters if c != c.upper()]
        if lower:
            raise InputError(f"labels must be upper case like the transcripts, found {lower[0]!r}")
        self.blank_index = self.characters.index(BLANK)
        self.space_index = (
            self.characters.index(SPACE) if SPACE in self.characters else len(self.characters)
        )
        self._index = {c: i for i, c in enumerate(self.characters) if c != BLANK}

    @classmethod
    def load(cls, path: str | Path) -> "Labels":
        """Read a JSON list of characters.

        Raises:
            InputError: naming the file, when it cannot be read or holds anything else.
        """
        try:
            characters = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"{path}: cannot read the labels: {error.strerror}") from None
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

    def normalize(self, text: str) -> str:
        """`text` in upper case, with one space for each run of white space.

        Raises:
            InputError: naming the characters that have no class; no character is ever dropped.
        """
        text = SPACE.join(text.upper().split())
        unknown = sorted(set(text) - self._index.keys())
        if unknown:
            raise InputError(f"unknown characters {' '.join(map(repr, unknown))} in {text[:60]!r}")
        return text

    def encode(self, text: str) -> list[int]:
        """(U,) class indices of the normalised text. Raises InputError as `normalize`."""
        return [self._index[c] for c in self.normalize(text)]

    def decode(self, indices: Sequence[int]) -> str:
        """The text of (U,) class indices: the inverse of `encode`."""
        return "".join(self.characters[i] for i in indices)

    def __len__(self) -> int:
        return len(self.characters)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Labels) and self.characters == other.characters

    def __hash__(self) -> int:
        return hash(self.characters)

    def __str__(self) -> str:
        return "".join(self.characters)
