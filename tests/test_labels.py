"""The alphabet of labels.json, how texts are written in it, and what is refused."""

import copy
import json
import os
import pickle
import unicodedata

import pytest

from deepspeech2.errors import InputError
from deepspeech2.labels import Labels, UnknownCharacters, compose


def refusal(function, *arguments) -> str:
    with pytest.raises(InputError) as caught:
        function(*arguments)
    return str(caught.value)


def test_the_29_classes(labels):
    assert len(labels) == 29
    assert labels.characters == ("'", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ", " ", "_")
    assert (labels.blank_index, labels.space_index) == (28, 27)


@pytest.mark.parametrize(("text", "indices"), [
    ("A CAB", [1, 27, 3, 1, 2]), ("b", [2]), ("  a \t\n b\r\n", [1, 27, 2]),
    ("'", [0]), ("'TIS", [0, 20, 9, 19]),  # class 0 is a character like any other
    ("", []), ("  ", []), ("\n", []),
])
def test_encode_by_hand(labels, text, indices):
    assert labels.encode(text) == indices
    assert labels.decode(indices) == " ".join(text.upper().split())


@pytest.mark.parametrize(("text", "unknown"), [
    ("ROOM 101", ["'0'", "'1'"]), ("NAÏVE", ["'Ï'"]), ("WAIT - WHAT?", ["'-'", "'?'"]),
    ("A_B", ["'_'"]),  # the blank is no character of a text
    ("IT\u2019S", ["'\u2019'"]),  # a typographic apostrophe
])
def test_unknown_characters_are_all_named(labels, text, unknown):
    message = refusal(labels.encode, text)
    assert all(character in message for character in unknown), message
    assert repr(text) in message


@pytest.mark.parametrize(("characters", "text", "words"), [
    # one sees nothing of a combining mark or a zero-width space
    ("ABC _", "a\u0300\u0308", "'\u0308' (U+0308 COMBINING DIAERESIS)"),
    ("ABC _", "a\u200bb", "(U+200B ZERO WIDTH SPACE)"),
    ("МИР _", "мup", "'p' (U+0070) 'u' (U+0075) in 'мup'"),  # Latin letters in a Russian word
])
def test_an_unknown_character_is_named_such_that_one_finds_it(characters, text, words):
    assert words in refusal(Labels(characters).encode, text)


def test_a_text_of_another_alphabet_gives_a_short_message():
    message = refusal(Labels("AB _").encode, "".join(map(chr, range(0x4E00, 0x4F00))))
    assert message.count("U+") == 20 and " and 236 more in " in message and len(message) < 500


# how a text is written, each by hand

LATIN = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
TURKISH = "ABCÇDEFGĞHIİJKLMNOÖPRSŞTUÜVYZ"
GREEK = "αάβγδεέζηήθιίϊΐκλμνξοόπρσςτυύϋΰφχψωώ"
GEORGIAN = "აბგდევზთიკლმნოპჟრსტუფქღყშჩცძწჭხჯჰ"


@pytest.mark.parametrize(("characters", "text", "written"), [
    # the case of the labels, whichever it is
    (LATIN, "Hello World", "HELLO WORLD"), (LATIN.lower(), "Hello World", "hello world"),
    (LATIN + LATIN.lower(), "Hello World", "Hello World"),
    ("АБВГДЕЁЖ", "Ёж где", "ЁЖ ГДЕ"), ("абвгдеёж", "ЁЖ ГДЕ", "ёж где"),
    # scripts without case, and one whose capitals nobody writes
    ("一丁七", "七 一", "七 一"), ("नमस्ते", "नमस्ते", "नमस्ते"),
    (GEORGIAN, "გამარჯობა", "გამარჯობა"), (GEORGIAN, "ᲒᲐᲛᲐᲠᲯᲝᲑᲐ", "გამარჯობა"),
    # ß: the label itself, its capital, or its two letters
    (LATIN + "ß", "straße GROSS", "STRAßE GROSS"), (LATIN + "ẞ", "straße", "STRAẞE"),
    (LATIN, "straße", "STRASSE"), (LATIN, "STRAẞE", "STRASSE"),
    (LATIN.lower() + "ß", "STRAẞE", "straße"), (LATIN.lower(), "Straße", "strasse"),
    # other letters whose capital is two letters
    ("ԱԲԳԴԵՒ", "և բա", "ԵՒ ԲԱ"), ("ԱԲԳԴԵՒև", "և բա", "և ԲԱ"), (LATIN, "\ufb01sh", "FISH"),
    # Turkish
    (TURKISH, "ısı İstanbul iki", "ISI İSTANBUL İKİ"),
    ("abcçdefgğhıijklmnoöprsştuüvyz", "ISI İSTANBUL İki", "ısı istanbul iki"),
    (LATIN, "title", "TITLE"),
    # the Greek sigma at the end of a word
    (GREEK, "ο λόγος", "ο λόγος"), (GREEK, "Ο ΛΌΓΟΣ ΣΑΣ", "ο λόγος σας"),
    (GREEK.replace("ς", ""), "ο λόγος", "ο λόγοσ"), ("ΑΒΓΛΟΣΌ", "λόγος", "ΛΌΓΟΣ"),
    # composed and decomposed letters are the same; marks without a composed form are labels
    ("ÄÖÜB", "u\u0308b", "ÜB"), ("A\u0308ÖB", "äb", "ÄB"), ("ẸSÓ\u0301", "ẹ\u0301só", "Ẹ\u0301SÓ"),
    ("क\u093c", "\u0958", "क\u093c"),  # Unicode composes no letter with a nukta
    (GREEK.upper() + "\u0301", "ταΐζω", "ΤΑΪ\u0301ΖΩ"),
])
def test_texts_are_written_in_the_characters_of_the_labels(characters, text, written):
    characters = dict.fromkeys(unicodedata.normalize("NFC", characters))
    labels = Labels([*characters, " ", "_"])
    for form in ("NFC", "NFD"):
        assert labels.normalize(unicodedata.normalize(form, text)) == written
    assert labels.normalize(written) == written == labels.decode(labels.encode(text))


def test_an_unknown_character_crosses_the_border_of_a_process():
    with pytest.raises(UnknownCharacters) as caught:
        Labels("AB _").encode("ab cd")
    copied = pickle.loads(pickle.dumps(caught.value))
    assert (str(copied), copied.characters) == (str(caught.value), ["c", "d"])


def test_every_process_and_every_copy_writes_the_same():
    labels = Labels([*TURKISH, "ẞ", " ", "_"])
    for other in (labels, pickle.loads(pickle.dumps(labels)), copy.deepcopy(labels)):
        assert other == labels and other.normalize("diş ısı saße") == "DİŞ ISI SAẞE"


def test_any_place_can_hold_the_blank_and_no_class_need_be_the_space():
    labels = Labels("_ AB")
    assert (labels.blank_index, labels.space_index, labels.encode("B A")) == (0, 1, [3, 1, 2])
    assert Labels("AB_").space_index == 3
    assert "' '" in refusal(Labels("AB_").encode, "A B")


def test_equal_when_the_characters_are():
    assert Labels("AB_") == Labels(["A", "B", "_"])
    assert Labels("AB_") != Labels("BA_") and Labels("AB_") != "AB_"
    assert len({Labels("AB_"), Labels("AB_")}) == 1
    assert str(Labels("AB_")) == "AB_"


# what is refused

@pytest.mark.parametrize(("characters", "words"), [
    (["A", "B"], "must contain '_'"), ([], "must contain '_'"), (["A", "_", "A"], "'A'"),
    (["A", "_", "_"], "'_'"), (["A", "SH", "_"], "'SH'"), (["A", "", "_"], "''"),
    (["A", 1, "_"], "1"), ([["A"], "_"], "['A']"),
    (["SH", "CH", "_"], "'SH' (U+0053 U+0048), 'CH'"),  # all of them
    (["\u0958", "_"], "(U+0915 U+093C)"),  # has no composed form
    (["A\u030a", "\u212b", "_"], "'Å' (U+00C5)"),  # one letter in three forms
])
def test_labels_that_cannot_be_used(characters, words):
    message = refusal(Labels, characters)
    assert message.startswith("labels must") and words in message


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "labels.json")
    assert "a pipe or a device, not a file" in refusal(Labels.load, tmp_path / "labels.json")


def test_thousands_of_marks_on_a_letter_stay_as_they_are():
    """Python composes them in a time that grows with the square of their number."""
    text = "A" + "\u0301\u0316" * 10_000
    assert compose(text) == text and Labels("A _").fold(text) == text
    long = "e\u0301 A\u0316\u0301 " * 1000
    assert compose(long) == unicodedata.normalize("NFC", long) == "é Á\u0316 " * 1000


def test_load(tmp_path):
    path = tmp_path / "labels.json"
    for encoding in ("utf-8", "utf-8-sig"):  # Windows writes a byte order mark
        for form in ("NFC", "NFD"):
            letters = [unicodedata.normalize(form, "Ä"), " ", "_"]
            path.write_text(json.dumps(letters, ensure_ascii=False), encoding=encoding)
            assert Labels.load(path) == Labels("Ä _")


@pytest.mark.parametrize(("content", "words"), [
    (b"", "not a JSON list"), (b"['A', '_']", "not a JSON list"),
    (b'"AB_"', "not a JSON list of characters but a str"),
    (b'{"A": 0, "_": 1}', "not a JSON list of characters but a dict"),
    (b'["A", "\xff"]', "not UTF-8"), ('["A", "_"]'.encode("utf-16"), "not UTF-8"),
    (b'["A"]', "must contain '_'"), (b"[" * 100_000, "not a JSON list"),
    (b'["A", "A", "_"]', "more than once: 'A'"), (None, "cannot read the labels"),
])
def test_load_names_the_file_and_the_fault(tmp_path, content, words):
    path = tmp_path / "labels.json"
    if content is not None:
        path.write_bytes(content)
    message = refusal(Labels.load, path)
    assert message.startswith(f"{path}: ") and words in message
