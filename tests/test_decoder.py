"""deepspeech_pytorch/decoder.py against a per-frame loop, and logits made by hand."""

import numpy as np
import pytest

from deepspeech2.metrics import count_errors
from deepspeech_pytorch.decoder import BeamCTCDecoder, Decoder, GreedyDecoder

ENGLISH = "'ABCDEFGHIJKLMNOPQRSTUVWXYZ _"


def collapse(classes, size, labels, blank, remove_repetitions):
    """One utterance, frame by frame."""
    text, offsets = "", []
    for frame in range(size):
        repeated = frame > 0 and classes[frame] == classes[frame - 1]
        if classes[frame] == blank or (remove_repetitions and repeated):
            continue
        text += labels[classes[frame]]
        offsets.append(frame)
    return text, offsets


def frames(path, labels=ENGLISH):
    """A path such as "AA_B" -> (1, T, C) logits whose best class per frame it is."""
    return np.eye(len(labels), dtype=np.float32)[[labels.index(symbol) for symbol in path]][None]


def unpack(decoded):
    """([[str]], [[offsets]]) -> [(str, list)], with nesting and type of the offsets checked."""
    strings, offsets = decoded
    assert len(strings) == len(offsets)
    for text, of_text in zip(strings, offsets, strict=True):
        assert len(text) == len(of_text) == 1
        assert isinstance(of_text[0], np.ndarray) and of_text[0].dtype == np.int32
    return [(text[0], of_text[0].tolist()) for text, of_text in zip(strings, offsets, strict=True)]


# Decoder

def test_alphabet_attributes():
    decoder = Decoder(ENGLISH)
    assert decoder.labels == ENGLISH
    assert decoder.int_to_char == dict(enumerate(ENGLISH))
    assert (decoder.blank_index, decoder.space_index) == (28, 27)
    assert Decoder(list(ENGLISH), blank_index=0).blank_index == 0
    assert Decoder(["_", "A"]).space_index == 2  # no space: an index that no class has


@pytest.mark.parametrize(("labels", "blank_index", "message"), [
    ("AB ", None, "lack the CTC blank '_'"), ("", None, "lack the CTC blank '_'"),
    ("AB_", 3, r"`blank_index` \(=3\) must be the index of one of the 3 labels"),
    ("AB_", -1, r"`blank_index` \(=-1\)"), ("ABA_", None, r"repeated: \['A'\]"),
])
def test_bad_alphabet_is_refused(labels, blank_index, message):
    with pytest.raises(ValueError, match=message):
        Decoder(labels, blank_index)


def test_base_class_does_not_decode():
    with pytest.raises(NotImplementedError, match="Decoder"):
        Decoder(ENGLISH).decode(frames("A"))


def test_distances_are_the_errors_that_are_counted():
    """Which test_metrics.py compares with dynamic programming."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        a, b = ("".join(rng.choice(list("AB  "), rng.integers(0, 25))) for _ in range(2))
        counts = count_errors(a, b)
        assert Decoder(ENGLISH).wer(a, b) == counts.word_errors
        assert Decoder(ENGLISH).cer(a, b) == counts.char_errors
    assert Decoder(ENGLISH).wer("ÜBER ŁÓDŹ 語", "UBER  ŁÓDŹ 话\n") == 2


# GreedyDecoder.decode

@pytest.mark.parametrize(("path", "text", "offsets"), [
    ("CCAAT_", "CAT", [0, 2, 4]),
    ("BOO_OKK", "BOOK", [0, 1, 4, 5]),  # a double letter needs a blank between
    ("BOOK", "BOK", [0, 1, 3]),
    (" _A  ", " A ", [0, 2, 3]),  # spaces at either end stay
    ("A _ B", "A  B", [0, 1, 3, 4]),  # so do two with a blank between
    ("____", "", []), ("", "", []),
    ("__'__", "'", [2]),  # class 0 is a letter like any other
])
def test_decode_by_hand(path, text, offsets):
    assert unpack(GreedyDecoder(ENGLISH).decode(frames(path))) == [(text, offsets)]


@pytest.mark.parametrize("blank", [0, 4, 28])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_decode_equals_the_loop(blank, dtype):
    rng = np.random.default_rng(blank)
    labels = ENGLISH.replace("_", "#")  # blank by index, not by name
    n, t = 16, 40
    # many repetitions
    logits = rng.normal(size=(n, t, 29)) * [1 + 2 * (c % 7 == 0) for c in range(29)]
    sizes = rng.integers(0, t + 1, n)
    sizes[:2] = 0, t
    logits = logits.astype(dtype)
    decoder = GreedyDecoder(labels, blank)
    for given, used in ((sizes, sizes), (sizes.tolist(), sizes), (sizes.astype(np.uint8), sizes),
                        (None, [t] * n)):
        expected = [collapse(logits[i].argmax(-1), used[i], labels, blank, True) for i in range(n)]
        assert unpack(decoder.decode(logits, given)) == expected


def test_alphabets_other_than_english():
    labels = ["_", "SCH", "Ü", "語", " "]  # labels of several characters, not ASCII
    logits = np.eye(5)[[[1, 1, 0, 1, 4, 2, 3, 0]]]
    assert unpack(GreedyDecoder(labels).decode(logits)) == [("SCHSCH Ü語", [0, 3, 4, 5, 6])]
    assert unpack(GreedyDecoder("AB_").decode(frames("AAB", "AB_"))) == [("AB", [0, 2])]  # no space
    # the blank alone, and no utterance
    assert GreedyDecoder("_").decode(np.zeros((0, 3, 1))) == ([], [])
    assert unpack(GreedyDecoder("_").decode(np.zeros((2, 3, 1)))) == [("", []), ("", [])]


@pytest.mark.parametrize(("shape", "sizes", "message"), [
    ((5, 29), None, r"`probs` has shape \(5, 29\), needed is \(N, T, 29\)"),
    ((2, 5, 28), None, r"`probs` has shape \(2, 5, 28\), needed is \(N, T, 29\)"),
    ((2, 5, 29), [5], r"`sizes` has shape \(1,\), needed is \(2,\)"),
    ((2, 5, 29), [[5, 5]], r"`sizes` has shape \(1, 2\), needed is \(2,\)"),
    ((2, 5, 29), [5, 6], r"`sizes\[1\]` \(=6\) must lie between 0 and the 5 frames"),
    ((2, 5, 29), [-1, 5], r"`sizes\[0\]` \(=-1\) must lie"),
    # fractions of the longest, say
    ((2, 5, 29), [0.5, 1.0], "`sizes` has dtype float64, needed are integers"),
])
def test_decode_refuses(shape, sizes, message):
    with pytest.raises(ValueError, match=message):
        GreedyDecoder(ENGLISH).decode(np.zeros(shape), sizes)


# GreedyDecoder.convert_to_strings, process_string

@pytest.mark.parametrize("remove_repetitions", [False, True])
def test_convert_to_strings_equals_the_loop(remove_repetitions):
    rng = np.random.default_rng(0)
    labels, blank = "AB _", 3
    lengths = rng.integers(0, 20, 12)
    ragged = [rng.integers(0, 4, length) for length in lengths]
    sizes = [rng.integers(0, length + 1) for length in lengths]
    decoder = GreedyDecoder(labels)
    for given, used in ((None, lengths), (sizes, sizes)):
        expected = [collapse(ragged[i], used[i], labels, blank, remove_repetitions)
                    for i in range(12)]
        for sequences in (ragged, [row.tolist() for row in ragged], tuple(ragged)):
            result = decoder.convert_to_strings(sequences, given, remove_repetitions,
                                                return_offsets=True)
            assert unpack(result) == expected
            texts = decoder.convert_to_strings(sequences, given, remove_repetitions)
            assert texts == [[text] for text, _ in expected]


def test_padding_past_size_may_hold_anything_and_no_sequences_are_no_texts():
    decoder, padded = GreedyDecoder("AB_"), np.array([[0, -1, 99], [0, 1, 0]])
    assert decoder.convert_to_strings(padded, [1, 3]) == [["A"], ["ABA"]]
    assert decoder.convert_to_strings([]) == []
    assert decoder.convert_to_strings([], [], return_offsets=True) == ([], [])


@pytest.mark.parametrize(("size", "remove_repetitions", "text", "offsets"), [
    (6, True, "BOOK", [0, 1, 4, 5]), (6, False, "BOOOK", [0, 1, 2, 4, 5]), (3, True, "BO", [0, 1]),
    (0, True, "", []),
])
def test_process_string(size, remove_repetitions, text, offsets):
    result = GreedyDecoder("BOK_").process_string(np.array([0, 1, 1, 3, 1, 2]), size,
                                                  remove_repetitions)
    assert (result[0], result[1].tolist()) == (text, offsets)
    assert result[1].dtype == np.int32


@pytest.mark.parametrize(("sequences", "sizes", "message"), [
    (np.array([0, 1]), None, r"`sequences` has shape \(2,\), needed is \(N, T\)"),
    ([0, 1], None, r"`sequences\[0\]` has shape \(\), needed is \(T,\)"),
    ([[0], [[1]]], None, r"`sequences\[1\]` has shape \(1, 1\), needed is \(T,\)"),
    (np.array([[0.5]]), None, "`sequences` has dtype float64, needed are integers"),
    ([[0], [0.5]], None, r"`sequences\[1\]` has dtype float64, needed are integers"),
    ([[0, 1], [0]], [2, 2], r"`sizes\[1\]` \(=2\) must lie between 0 and the 1 frames"),
    ([[0, 3]], None, r"class 3 in `sequences` has no label, needed is 0 … 2"),
    ([[0, -1]], None, "class -1 in `sequences` has no label"),
])
def test_convert_to_strings_refuses(sequences, sizes, message):
    with pytest.raises(ValueError, match=message):
        GreedyDecoder("AB_").convert_to_strings(sequences, sizes)


# BeamCTCDecoder

def test_beam_texts_and_offsets_are_best_first_and_of_each_utterances_own_frames():
    """Two utterances, the second one cut before its last letter."""
    probs = np.full((2, 6, len(ENGLISH)), 0.001)
    for row, path in zip(probs, ("CA_T_S", "HO__UR"), strict=True):
        row[np.arange(6), [ENGLISH.index(c) for c in path]] = 0.95
    probs /= probs.sum(axis=2, keepdims=True)
    strings, offsets = BeamCTCDecoder(ENGLISH, beam_width=20, blank_index=28).decode(probs, [6, 5])
    assert [texts[0] for texts in strings] == ["CATS", "HOU"]
    assert [frames[0].tolist() for frames in offsets] == [[0, 1, 3, 5], [0, 1, 4]]
    for texts, of_texts in zip(strings, offsets, strict=True):
        assert 1 < len(texts) <= 20 and len(set(texts)) == len(texts)
        for text, frames in zip(texts, of_texts, strict=True):
            assert frames.dtype == np.int32 and len(frames) == len(text)
            assert (np.diff(frames) > 0).all() and (frames < 6).all()


def test_beam_with_any_blank_and_with_a_language_model(tmp_path):
    """The model prefers COT, and the frames prefer CAT a little."""
    path = tmp_path / "lm.arpa"
    path.write_text("\\data\\\nngram 1=5\n\n\\1-grams:\n-99\t<s>\n-1\t</s>\n-3\t<unk>\n-2\tCAT\n"
                    "-0.5\tCOT\n\n\\end\\\n")
    labels = ["_", "A", "C", "O", "T", " "]
    probs = np.array([[[0, 0, 1, 0, 0, 0], [0, 0.6, 0, 0.4, 0, 0], [0, 0, 0, 0, 1, 0]]])
    assert BeamCTCDecoder(labels).decode(probs)[0][0][0] == "CAT"
    assert BeamCTCDecoder(labels, str(path), alpha=1).decode(probs)[0][0][0] == "COT"
    blank_called_otherwise = ["#", *labels[1:]]
    assert BeamCTCDecoder(blank_called_otherwise).decode(probs)[0][0][0] == "CAT"


def test_beam_without_utterances_and_without_frames():
    decoder = BeamCTCDecoder("_AB ")
    assert decoder.decode(np.zeros((0, 5, 4))) == ([], [])
    strings, offsets = decoder.decode(np.zeros((1, 0, 4)))
    assert strings == [[""]] and [o.tolist() for o in offsets[0]] == [[]]


@pytest.mark.parametrize(("arguments", "words"), [
    ({"labels": "A_B ", "blank_index": 0}, "'_' as class 1, but `blank_index` is 0"),
    ({"labels": "_AB ", "alpha": "x"}, "alpha` .* must be a finite number"),
    ({"labels": "_AB ", "lm_path": "none.arpa"}, "none.arpa: cannot read the language model"),
    ({"labels": "_AB ", "beam_width": 0}, "beam_width|top_paths"),
    ({"labels": ["_", "AB"]}, "labels must be single characters"),
])
def test_beam_refuses(arguments, words):
    with pytest.raises(ValueError, match=words):
        BeamCTCDecoder(**arguments)


@pytest.mark.parametrize(("probs", "sizes", "words"), [
    (np.full((1, 2, 4), -1.4), None, "frame 0 has -1.4 for class 0, needed are probabilities"),
    (np.full((2, 4), 0.25), None, r"`probs` has shape \(2, 4\), needed is \(N, T, 4\)"),
    (np.full((1, 2, 4), 0.25), [3], r"`sizes\[0\]` \(=3\) must lie between 0 and the 2 frames"),
    (np.full((1, 2, 4), np.nan), None, "not a finite number"),
])
def test_beam_refuses_what_are_no_probabilities(probs, sizes, words):
    with pytest.raises(ValueError, match=words):
        BeamCTCDecoder("_AB ").decode(probs, sizes)
