"""Write the words of any text as the labels do."""

import unicodedata
from collections import Counter

from deepspeech2.labels import BLANK, SPACE, Labels


class Speller:
    """Writes words as the labels do.

    Characters without a class: an apostrophe of another form becomes `'`, other punctuation
    becomes space, what formats a text unseen (soft hyphens) goes, and a word with anything else
    cannot be written.

    Attributes:
        removed: punctuation that became space, and how often.
        unknown: words that cannot be written, and how often.
    """

    def __init__(self, labels: Labels):
        self._labels = labels
        self._letters = frozenset(labels.characters) - {BLANK, SPACE}
        self._punctuation = _Punctuation(self._letters)
        self.removed: Counter[str] = Counter()
        self.unknown: Counter[str] = Counter()

    def words(self, line: str) -> list[str | None]:
        """The words of a line; None for a word that cannot be written."""
        line = self._labels.fold(line)
        if not self._letters.issuperset(line.replace(SPACE, "")):
            self.removed.update(filter(self._punctuation.removes, line))
            line = line.translate(self._punctuation)
        words: list[str | None] = []
        for word in line.split():
            known = self._letters.issuperset(word)
            if not known:
                self.unknown[word] += 1
            words.append(word if known else None)
        return words


class _Punctuation(dict[int, str | int]):
    """What becomes of a character without a class, for `str.translate`."""

    def __init__(self, letters: frozenset[str]):
        super().__init__()
        self._letters = letters
        if "'" in letters:
            self.update({ord(c): "'" for c in "’‘ʼ`´′＇" if c not in letters})

    def __missing__(self, code: int) -> str | int:
        category = unicodedata.category(chr(code))
        if chr(code) in self._letters:
            self[code] = code
        elif category == "Cf":
            self[code] = ""
        else:
            self[code] = SPACE if category[0] == "P" else code
        return self[code]

    def removes(self, character: str) -> bool:
        return self[ord(character)] == SPACE and character != SPACE
