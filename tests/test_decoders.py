"""Decoders of a model: the one that the settings ask for, and where its text is said."""

import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from test_beam import frames

from deepspeech2.decoding.decoders import (
    BeamDecoder,
    GreedyDecoder,
    LMConfig,
    make_decoder,
    read_settings,
)
from deepspeech2.errors import InputError
from deepspeech2.labels import Labels
from deepspeech2.streaming.decoders import stream_decoder

LABELS = Labels("AB _")


@pytest.mark.parametrize("path", ["AA_B", " A  B_", "A_A B", "_", "", "BA _ AB"])
def test_beam_and_greedy_agree_where_one_path_stands_out(path):
    """The greedy text may have several spaces; the beam search has one, on any of their frames."""
    probs = frames(path, LABELS, p=0.99)
    greedy, beam = GreedyDecoder(LABELS), make_decoder(LMConfig("beam"), LABELS)
    assert beam.texts([probs, probs]) == greedy.texts([probs, probs])
    symbols, spans, alternatives = beam.path(probs)
    assert LABELS.decode(symbols) == greedy.texts([probs])[0][0] and alternatives == ()
    assert spans.shape == (len(symbols), 2)
    expected = [(s, *span) for s, span in zip(*greedy.path(probs)[:2], strict=True)
                if s != LABELS.space_index]
    letters = symbols != LABELS.space_index
    found = [(s, *span) for s, span in zip(symbols[letters], spans[letters], strict=True)]
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("characters", ["к\u0301 _", "кќ\u0301 _", "न\u093c _"])
def test_marks_that_compose_with_a_letter_stay_classes_of_their_own(characters):
    """Unicode's form NFC of the text is another one, whose letters the alphabet may not have."""
    labels = Labels(characters)
    letter, mark = characters[0], characters[-3]
    probs = frames(f"{letter}{mark}_{letter}", labels, p=0.99)
    symbols, spans, _ = make_decoder(LMConfig("beam"), labels).path(probs)
    assert labels.decode(symbols) == letter + mark + letter
    assert spans.tolist() == [[0, 0], [1, 1], [3, 3]]
    stream = stream_decoder(make_decoder(LMConfig("beam"), labels), labels, 100)
    words = [word for frame, row in enumerate(probs) for word in stream.push(row, frame)]
    (word,) = words + stream.flush()
    assert labels.decode(word.symbols) == letter + mark + letter


def test_a_decoder_in_words():
    """Of a report: what differs from the defaults, without folders."""
    assert LMConfig().described() == "greedy"
    config = LMConfig("beam", lm_path="/a/b/lm.arpa.gz", alpha=0.7, hotwords="A,B", beam_width=100)
    assert config.described() == "beam, lm_path lm.arpa.gz, hotwords A,B, alpha 0.7"


def test_other_texts_are_alternatives():
    probs = np.array([[0.5, 0.3, 0, 0.2]], np.float32)
    decoder = make_decoder(LMConfig("beam", top_paths=2), LABELS)
    assert decoder.texts([probs]) == [["A", "B"]]
    symbols, spans, alternatives = decoder.path(probs)
    assert (symbols.tolist(), spans.tolist(), alternatives) == ([0], [[0, 0]], ("B",))


def test_hotwords_and_lexicon_come_from_the_settings(tmp_path):
    (tmp_path / "words.txt").write_text("ab\nBB\n")
    config = LMConfig("beam", lexicon_path=str(tmp_path / "words.txt"), hotwords=" ba, BAB ba,")
    decoder = make_decoder(config, LABELS)
    assert decoder.texts([frames(path) for path in ("AB BA", "A", "BAB")]) == [
        ["AB BA"], [""], ["BAB"]]


@pytest.mark.parametrize(("config", "words"), [
    (LMConfig(lm_path="a.arpa"), r"`LMConfig.lm_path` \(='a.arpa'\) needs the beam search: set"),
    (LMConfig(alpha=1.0), r"`LMConfig.alpha` \(=1.0\) needs the beam search"),
    (LMConfig("best"), "`LMConfig.decoder_type` .* one of greedy, beam"),
    (LMConfig("beam", lm_path="none.arpa"), "none.arpa: cannot read the language model"),
    (LMConfig("beam", lm_path="english"), r"stands for are --config \S+/assets/lm/english[.]json$"),
    (LMConfig("beam", lexicon_path="none.txt"), "none.txt: cannot read the lexicon"),
    (LMConfig("beam", hotwords="AÉ"), "hotword: unknown characters 'É'"),
])
def test_settings_that_are_refused(config, words):
    with pytest.raises(InputError, match=words):
        make_decoder(config, LABELS)


def test_settings_in_a_file(tmp_path):
    """Relative paths begin at the folder of the file."""
    path = tmp_path / "decoder.json"
    path.write_text('{"LMConfig": {"decoder_type": "beam", "alpha": 1, "lm_path": "lm/a.arpa", '
                    '"lexicon_path": "/words.txt"}}')
    assert read_settings(path) == LMConfig("beam", alpha=1.0, lm_path=f"{tmp_path}/lm/a.arpa",
                                           lexicon_path="/words.txt")
    path.write_text('{"LMConfig": {}}')
    assert read_settings(path) == LMConfig()


@pytest.mark.parametrize(("content", "words"), [
    (None, "cannot read the settings: No such file"), (b"\xff", "not JSON: 'utf-8' codec"),
    (b"LMConfig:\n  alpha: 1", "not JSON: Expecting value.* as python -m tools.tune_lm writes"),
    (b"[]", "needed is the group LMConfig alone"), (b'{"LMConfig": 1}', "the group LMConfig alone"),
    (b'{"LMConfig": {}, "DataConfig": {}}', "the group LMConfig alone"),
    (b'{"LMConfig": {"alfa": 1}}', "unknown setting `LMConfig.alfa`: `alfa` is none of"),
    (b'{"LMConfig": {"decoder_type": "beam", "alpha": NaN}}', "alpha` .=nan. must be a finite"),
    (b'{"LMConfig": {"alpha": 1}}', "alpha` .=1.0. needs the beam search"),
    (b'{"LMConfig": {"lm_path": "\\u0000"}}', "must be text that can be a path"),
])
def test_files_that_hold_no_settings(tmp_path, content, words):
    path = tmp_path / "decoder.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=f"decoder.json: .*{words}"):
        read_settings(path)


def test_a_beam_search_without_numba_says_what_to_install():
    code = """
import sys
sys.modules["numba"] = None
from deepspeech2.decoding.decoders import LMConfig, make_decoder
from deepspeech2.labels import Labels
make_decoder(LMConfig("beam"), Labels("AB _"))"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
                            check=False)
    assert "InputError: the beam search needs numba: python -m pip install numba" in result.stderr


def test_the_search_is_compiled_anew_where_its_language_model_changes():
    """numba's cache looks at one file only; the other's source is a part of the key."""
    from deepspeech2.decoding import search
    keys = {cell.cell_contents for one in (search.take, search.end, *search._compile("other"))
            for cell in one.py_func.__closure__ if isinstance(cell.cell_contents, str)}
    assert len(keys) == 2 and "other" in keys


def test_where_nothing_can_be_written_the_search_works_too(tmp_path):
    """numba has no place for its cache: not beside the source, nor in the user's folder."""
    code = """
import numpy as np
from numba.core import caching
caching.CacheImpl._locator_classes = []
from deepspeech2.decoding.decoders import BeamDecoder, LMConfig
from deepspeech2.labels import Labels
print(BeamDecoder(Labels("AB _"), LMConfig("beam")).texts([np.eye(4)[[0, 1]]]))"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
                            check=False)
    assert result.stdout == "[['AB']]\n", result.stderr


def test_words_of_the_language_model_that_the_labels_cannot_spell_are_counted(tmp_path, caplog):
    path = tmp_path / "lm.arpa"
    grams = ["-99\t<s>", "-1\t</s>", "-1\t<unk>", "-1\tab", "-1\tba", "-1\tcab"]
    path.write_text("\n".join(["\\data\\", "ngram 1=6", "", "\\1-grams:", *grams, "", "\\end\\"]))
    with caplog.at_level("INFO"):
        decoder = BeamDecoder(LABELS, LMConfig("beam", lm_path=str(path)))
    assert "lm.arpa: the labels can spell 66.7 % of the words" in caplog.text
    assert decoder.texts([frames("AB")]) == [["AB"]]
