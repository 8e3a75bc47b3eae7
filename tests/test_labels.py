"""The alphabet of labels.json and what is refused."""

import json

import pytest

from deepspeech2.errors import InputError
from deepspeech2.labels import Labels


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
    (["a", "B", "_"], "'a'"),  # transcripts are upper-cased: it could never occur
])
def test_labels_that_cannot_be_used(characters, words):
    message = refusal(Labels, characters)
    assert message.startswith("labels must") and words in message


def test_load(tmp_path):
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(["Ä", " ", "_"]), encoding="utf-8")
    assert Labels.load(path) == Labels("Ä _")


@pytest.mark.parametrize(("content", "words"), [
    (b"", "not a JSON list"), (b"['A', '_']", "not a JSON list"),
    (b'"AB_"', "not a JSON list of characters but a str"),
    (b'{"A": 0, "_": 1}', "not a JSON list of characters but a dict"),
    (b'["A", "\xff"]', "not a JSON list"), (b'["A"]', "must contain '_'"),
    (b'["A", "A", "_"]', "more than once: 'A'"), (None, "cannot read the labels"),
])
def test_load_names_the_file_and_the_fault(tmp_path, content, words):
    path = tmp_path / "labels.json"
    if content is not None:
        path.write_bytes(content)
    message = refusal(Labels.load, path)
    assert message.startswith(f"{path}: ") and words in message
