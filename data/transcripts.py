"""Transcripts as the labels write them, and a count of everything that is not written that way.

Punctuation is removed, because nobody says it. Numbers, abbreviations, foreign letters and symbols
are said, but a transcript does not tell how: they are reported, and spelled out on request only.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from decimal import Decimal

from deepspeech2.errors import InputError
from deepspeech2.labels import SPACE, Labels, compose

LANGUAGES = ("en",)  # of --spell_out
NUMBERS, LETTERS, SYMBOLS, MARKERS = "numbers", "foreign letters", "symbols", "markers"

_APOSTROPHES = dict.fromkeys(map(ord, "’‘ʼ`´′＇"), "'")
_SPOKEN_SYMBOLS = set("%&@#*§‰\\")  # Unicode calls these punctuation
# <unk>, [noise], {NOISE}, ++breath++
_MARKER = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]|\{[^{}\s]+\}|\+\+[^+\s]+\+\+")
_NO_SPEECH = {"s", "/s", "sil", "silence", "noise", "breath", "cough", "smack", "laugh", "laughter"}
# quotes around words. An apostrophe alone belongs to its word: 'tis, dogs'
_QUOTED = re.compile(
    r"(?<![\w'])'(?!(?:tis|twas|em|til|cause)\b)(\w(?:[^']|(?<=\w)'(?=\w))*)'(?!\w)",
    re.IGNORECASE,
)
# quotes as TeX writes them, and apostrophes without a word
_STRAY = re.compile(r"'{2,}|(?<!\S)'(?!\S)")
# The first 18 are the table in the README of LJSpeech 1.1.
_ABBREVIATIONS = {
    "Mr.": "mister", "Mrs.": "missus", "Dr.": "doctor", "St.": "saint", "Co.": "company",
    "Jr.": "junior", "Maj.": "major", "Gen.": "general", "Drs.": "doctors", "Rev.": "reverend",
    "Lt.": "lieutenant", "Hon.": "honorable", "Sgt.": "sergeant", "Capt.": "captain",
    "Esq.": "esquire", "Ltd.": "limited", "Col.": "colonel", "Ft.": "fort", "Ms.": "miz",
    "Prof.": "professor", "Sr.": "senior", "Gov.": "governor", "Sen.": "senator",
    "etc.": "et cetera", "vs.": "versus", "No.": "number",
}  # fmt: skip
# `No.` ends many sentences: it is an abbreviation before a digit only
_ABBREVIATION = re.compile(
    rf"\bNo\.(?=\s*\d)|\b(?:{'|'.join(a[:-1] for a in _ABBREVIATIONS if a != 'No.')})\."
    r"|\b(?:[A-Za-z]\.){2,}"
)
_CAPITALS = re.compile(r"(?<![\w.'&])[A-Z]{2,}(?![\w.&])")
_NUMBER = re.compile(r"([$£€]?)(\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d{1,9}(?:\.\d+)?)(st|nd|rd|th|%?)")
_AROUND = re.compile(r"([(\[\"“'-]*)(.*?)([)\]\"”'.,;:!?-]*)")
_CURRENCIES = {"$": "dollar", "£": "pound", "€": "euro"}
_CENTS = {"$": "cents", "£": "pence", "€": "cents"}
# "$5 million" is said in another order than it is written
_MONEY = re.compile(r"([$£€])(\d[\d.,]*) (hundred|thousand|million|billion|trillion)\b")
_SAID = {"&": "and", "@": "at", "+": "plus", "=": "equals"}
# letters that are no ASCII letter with an accent
_LETTERS = str.maketrans({
    "Æ": "AE", "æ": "ae", "Œ": "OE", "œ": "oe", "Ø": "O", "ø": "o", "Ð": "D", "ð": "d", "Þ": "Th",
    "þ": "th", "Ł": "L", "ł": "l", "Đ": "D", "đ": "d", "ı": "i",
})  # fmt: skip


class Normalizer:
    """Writes transcripts in the characters of `labels`, and counts what is not in them.

    Raises:
        InputError: if `spell_out` (a language, or None) needs a package that is not installed.
    """

    def __init__(self, labels: Labels, spell_out: str | None = None):
        self._labels = labels
        self._known = set(labels.characters) - {labels.characters[labels.blank_index]}
        self._space = SPACE if SPACE in self._known else ""
        # Ukrainian labels, for example, may have the typographic apostrophe
        own = (chr(code) for code in _APOSTROPHES)
        self._apostrophe = next((c for c in ("'", *own) if c in self._known), "'")
        self._number_words = _load_number_words(spell_out) if spell_out else None
        self.removed: Counter[str] = Counter()  # punctuation, and markers without speech
        self.abbreviations: Counter[str] = Counter()
        self.spelled: Counter[str] = Counter()
        # by kind: the words that the labels cannot write, and how many utterances have them
        self.unknown: dict[str, Counter[str]] = {}
        self.utterances: Counter[str] = Counter()

    def normalize(self, text: str) -> tuple[str, str]:
        """(the text as the labels write it, "") or ("", what is wrong with it)."""
        text = compose(text).translate(_APOSTROPHES)
        plain = " ".join(text.split())
        clean = self._known.issuperset(plain) and not _STRAY.search(plain)
        if plain and clean:  # as the labels write it already: LibriSpeech, for example
            return plain, ""
        text = self._without_markers(text)
        self.removed.update(_STRAY.findall(text))
        text = _QUOTED.sub(r" \1 ", _STRAY.sub(" ", text))
        self._count_abbreviations(text)
        if self._number_words is not None:
            text = self._spell_out(text)
        words, unknown = [], {}
        for word in text.split():
            known, kind = self._write(word)
            words += known.split()
            if kind:
                unknown.setdefault(kind, []).append(word)
        for kind, found in unknown.items():
            self.unknown.setdefault(kind, Counter()).update(found)
            self.utterances[kind] += 1
        if unknown:
            named = (f"{kind} {' '.join(map(repr, found))}" for kind, found in unknown.items())
            return "", f"the labels cannot write {', '.join(named)}"
        if not self._space and len(words) > 1:
            self.removed[SPACE] += len(words) - 1
        return (self._space.join(words), "") if words else ("", "the transcript is empty")

    def report(self) -> list[str]:
        """One line for every kind of thing that was found, with counts, the most frequent first."""
        lines = []
        if self.removed:
            lines.append(f"removed from transcripts: {_listed(self.removed)}")
        if self.abbreviations:
            lines.append(f"abbreviations, kept as written: {_listed(self.abbreviations)}")
        if self.spelled:
            lines.append(f"spelled out: {_listed(self.spelled)}")
        lines += [
            f"left out for {kind}: {self.utterances[kind]} utterances, {_listed(words)}"
            for kind, words in sorted(self.unknown.items())
        ]
        return lines

    def _write(self, word: str) -> tuple[str, str]:
        """The known characters of a word, and the kind of what is unknown, or ""."""
        if _MARKER.fullmatch(word):
            return "", MARKERS
        known, unknown = [], set()
        for character in self._labels.fold(word.replace("'", self._apostrophe)):
            category = unicodedata.category(character)
            if character in self._known:
                known.append(character)
            elif category == "Cf" or (category[0] == "P" and character not in _SPOKEN_SYMBOLS):
                self.removed[character] += 1
                known.append("" if character == "'" or category == "Cf" else SPACE)
            else:
                unknown.add(category[0])
        if "N" in unknown:
            return "", NUMBERS
        return "".join(known), (LETTERS if unknown & {"L", "M"} else SYMBOLS) if unknown else ""

    def _without_markers(self, text: str) -> str:
        def replace(match: re.Match) -> str:
            if match[0].strip("<>[]{}+").lower() not in _NO_SPEECH:
                return f" {match[0]} "
            self.removed[match[0]] += 1
            return " "

        return _MARKER.sub(replace, text)

    def _count_abbreviations(self, text: str) -> None:
        found = _ABBREVIATION.findall(text)
        if text != text.upper():
            found += _CAPITALS.findall(text)
        known = self._number_words is not None
        for abbreviation in found:
            spelled = known and abbreviation in _ABBREVIATIONS
            (self.spelled if spelled else self.abbreviations)[abbreviation] += 1

    def _spell_out(self, text: str) -> str:
        text = _ABBREVIATION.sub(lambda m: f"{_ABBREVIATIONS.get(m[0], m[0])} ", text)
        text = _MONEY.sub(lambda m: f"{m[2]} {m[3]} {_CURRENCIES[m[1]]}s", text)
        return " ".join(self._spell_word(word) for word in text.split())

    def _spell_word(self, word: str) -> str:
        before, inner, after = _AROUND.fullmatch(word).groups()
        number = _NUMBER.fullmatch(inner)
        spelled = None
        if number and not before.endswith("-"):  # minus, or a part of something
            spelled = self._number_words(*number.groups())
        if spelled is None:
            spelled = "".join(f" {_SAID[c]} " if c in _SAID else c for c in inner)
            if not self._known.issuperset(self._labels.fold(spelled)):
                # marks go twice: thousands of them would take all time, and letters bring some
                letters = _without_marks(spelled.translate(_LETTERS))
                spelled = _without_marks(unicodedata.normalize("NFKD", letters))
            if any(c.isnumeric() for c in spelled):
                return word  # ½ would become 1⁄2
        if spelled != inner:
            self.spelled[inner] += 1
        return f"{before}{spelled}{after}"


def _without_marks(text: str) -> str:
    return "".join(c for c in text if not unicodedata.combining(c))


def _load_number_words(language: str) -> Callable[[str, str, str], str | None]:
    """A function of (currency, number, ending) that gives the words, None where it cannot tell."""
    try:
        from num2words import num2words
    except ImportError:
        raise InputError(
            f"--spell_out {language} needs num2words: pip install -r requirements.txt"
        ) from None

    def words(currency: str, number: str, ending: str) -> str | None:
        digits = number.replace(",", "")
        if len(digits) > 1 and digits[0] == "0" and digits[1] != ".":
            return None  # a code, said digit by digit or not
        value = Decimal(digits) if "." in digits else int(digits)
        if ending in ("st", "nd", "rd", "th"):
            if currency or "." in digits:
                return None
            return _letters(num2words(value, to="ordinal", lang=language))
        whole, _, cents = digits.partition(".")
        if currency and len(cents) == 2:
            rest = f" and {words('', str(int(cents)), '')} {_CENTS[currency]}"
            return words(currency, whole, "") + rest * (cents != "00")
        is_year = not (currency or ending) and number == digits and 1100 <= value < 2100
        spelled = num2words(
            value, to="year" if is_year and "." not in digits else "cardinal", lang=language
        )
        if ending == "%":
            spelled += " percent"
        if currency:
            spelled += f" {_CURRENCIES[currency]}{'s' * (value != 1)}"
        return _letters(spelled)

    return words


def _letters(text: str) -> str:
    return " ".join(re.split(r"[\s,-]+", text))


def _listed(counts: Counter[str], most: int = 20) -> str:
    listed = ", ".join(f"{name!r} {count}" for name, count in counts.most_common(most))
    return listed + (f" and {len(counts) - most} more" if len(counts) > most else "")
