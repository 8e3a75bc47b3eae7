"""Beam search against a sum over all CTC paths, against flashlight-text, and cases by hand."""

import itertools
import math

import kenlm
import numpy as np
import pytest
from flashlight.lib.text.decoder import (
    CriterionType,
    LexiconDecoder,
    LexiconDecoderOptions,
    SmearingMode,
    Trie,
)
from flashlight.lib.text.decoder.kenlm import KenLM
from flashlight.lib.text.dictionary import Dictionary

from deepspeech2.decoding.beam import BeamSearch
from deepspeech2.decoding.decoders import LMConfig
from deepspeech2.decoding.language_model import LanguageModel
from deepspeech2.errors import InputError
from deepspeech2.labels import Labels

LABELS = Labels("AB _")
WORDS = ["A", "B", "AB", "BA", "AA", "BBA"]
WIDE = {"beam_width": 3000, "beam_threshold": 1e9, "top_paths": 3000}


def write_arpa(path, rng, words=WORDS):
    """A trigram model of random log probabilities; the higher orders hold a part of all n-grams."""
    unigrams = [("<s>",), ("</s>",), ("<unk>",), *((word,) for word in words)]
    orders = [unigrams]
    for _ in range(2):
        longer = [(*context, word) for context in orders[-1] for (word,) in unigrams[1:]
                  if context[-1] != "</s>" and "<unk>" not in (*context, word)
                  and (*context[1:], word) in orders[-1]]
        orders.append([ngram for ngram in longer if rng.random() < 0.4])
    lines = ["\\data\\", *(f"ngram {n}={len(grams)}" for n, grams in enumerate(orders, 1))]
    for n, grams in enumerate(orders, 1):
        lines += ["", f"\\{n}-grams:"]
        for gram in grams:
            log_prob = -99 if gram == ("<s>",) else -2.5 * rng.random()
            backoff = f"\t{-rng.random():.4f}" if n < 3 and gram[-1] != "</s>" else ""
            lines.append(f"{log_prob:.4f}\t{' '.join(gram)}{backoff}")
    path.write_text("\n".join([*lines, "", "\\end\\", ""]))
    return path


def random_probs(rng, frames, labels=LABELS):
    return rng.dirichlet(np.full(len(labels), rng.choice([0.3, 1, 3])), frames).astype(np.float32)


def acoustic_log_probs(probs, labels=LABELS) -> dict[str, float]:
    """{text: log probability}, from a sum over all paths."""
    sums: dict[str, float] = {}
    for path in itertools.product(range(len(labels)), repeat=len(probs)):
        symbols = [symbol for symbol, _ in itertools.groupby(path) if symbol != labels.blank_index]
        text = " ".join("".join(labels.characters[symbol] for symbol in symbols).split())
        p = math.prod(float(row[symbol]) for row, symbol in zip(probs, path, strict=True))
        sums[text] = sums.get(text, 0.0) + p
    return {text: math.log(p) for text, p in sums.items() if p > 0}


@pytest.mark.parametrize("seed", range(10))
def test_all_texts_and_their_scores_are_those_of_all_paths(seed):
    """Ten times thirty cases without a language model, and so without its weights."""
    rng = np.random.default_rng(seed)
    search = BeamSearch(LABELS, LMConfig(beta=3.0, unknown_cost=3.0, **WIDE))
    for _ in range(30):
        probs = random_probs(rng, rng.integers(0, 6))
        found, truth = search.decode(probs), acoustic_log_probs(probs)
        assert {h.text: h.score for h in found} == pytest.approx(truth, abs=1e-5)
        assert found[0].text == max(truth, key=truth.get)
        assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("closed", [False, True])
def test_all_texts_and_their_scores_with_a_language_model(seed, closed, tmp_path):
    """Ten times thirty cases, with KenLM's scores of the same trigrams; open and closed words.

    A and BBA are allowed words that the language model does not know, and A is a hotword.
    """
    rng = np.random.default_rng(1000 + seed)
    lm_words = [word for word in WORDS if word not in ("A", "BBA")]
    path = str(write_arpa(tmp_path / "lm.arpa", rng, lm_words))
    judge, model = kenlm.Model(path), LanguageModel.read(path)
    for _ in range(30):
        probs = random_probs(rng, rng.integers(0, 6))
        config = LMConfig(alpha=round(rng.uniform(0, 2), 2), beta=round(rng.normal(), 2),
                          unknown_cost=round(rng.uniform(0, 4), 2), hotword_bonus=0.7, **WIDE)
        lexicon = WORDS if closed else None
        found = BeamSearch(LABELS, config, model, lexicon, hotwords=["A"]).decode(probs)
        truth = {}
        for text, acoustic in acoustic_log_probs(probs).items():
            words = text.split()
            if closed and not set(words) <= set(WORDS):
                continue
            unknown = sum(word not in [*lm_words, "A"] for word in words)
            truth[text] = (acoustic + config.beta * len(words) - config.unknown_cost * unknown
                           + config.alpha * judge.score(text) * math.log(10)
                           + config.hotword_bonus * words.count("A"))
        assert {h.text: h.score for h in found} == pytest.approx(truth, abs=1e-4)
        assert found[0].text == max(truth, key=truth.get)
        for h in found[:5]:
            assert h.language == pytest.approx(judge.score(h.text) * math.log(10), abs=1e-4)


@pytest.mark.parametrize("seed", range(10))
def test_unknown_words_are_spelled_by_a_letter_model(seed, tmp_path):
    """Ten times thirty cases, with KenLM's scores of the words and of the letters.

    A is a hotword that the language model does not know: its letters cost nothing.
    """
    rng = np.random.default_rng(2000 + seed)
    lm_words = ["B", "AB", "BA"]
    words, letters = (str(write_arpa(tmp_path / name, rng, known)) for name, known in
                      [("lm.arpa", lm_words), ("letters.arpa", ["A", "B"])])
    judge, letter_judge = kenlm.Model(words), kenlm.Model(letters)
    models = LanguageModel.read(words), LanguageModel.read(letters)
    for _ in range(30):
        probs = random_probs(rng, rng.integers(0, 6))
        config = LMConfig(alpha=round(rng.uniform(0, 2), 2), beta=round(rng.normal(), 2),
                          unknown_cost=round(rng.uniform(0, 4), 2), hotword_bonus=0.7, **WIDE)
        found = BeamSearch(LABELS, config, models[0], None, ["A"], models[1]).decode(probs)
        truth, language = {}, {}
        for text, acoustic in acoustic_log_probs(probs).items():
            unknown = [word for word in text.split() if word not in [*lm_words, "A"]]
            log10 = judge.score(text) + sum(letter_judge.score(" ".join(w)) for w in unknown)
            language[text] = log10 * math.log(10)
            truth[text] = (acoustic + config.beta * len(text.split())
                           + config.alpha * language[text] - config.unknown_cost * len(unknown)
                           + config.hotword_bonus * text.split().count("A"))
        assert {h.text: h.score for h in found} == pytest.approx(truth, abs=1e-4)
        assert {h.text: h.language for h in found} == pytest.approx(language, abs=1e-4)
        assert found[0].text == max(truth, key=truth.get)


# another beam search

def plain_prefix_beam_search(log_probs, labels, width) -> list[tuple[str, float]]:
    """The textbook's search over dictionaries, without language model; best texts first."""
    beams = {"": (0.0, -math.inf)}  # text: log probability of paths that end in blank, in a symbol
    for row in log_probs:
        grown: dict[str, list[float]] = {}

        def add(text, ends_in_symbol, log_prob, grown=grown):
            sums = grown.setdefault(text, [-math.inf, -math.inf])
            sums[ends_in_symbol] = float(np.logaddexp(sums[ends_in_symbol], log_prob))

        for text, (blank, symbol) in beams.items():
            total = np.logaddexp(blank, symbol)
            add(text, False, total + row[labels.blank_index])
            for c, character in enumerate(labels.characters):
                if c == labels.blank_index:
                    continue
                if character == " " and text[-1:] in ("", " "):
                    add(text, True, total + row[c])
                elif character == text[-1:]:
                    add(text, True, symbol + row[c])
                    add(text + character, True, blank + row[c])
                else:
                    add(text + character, True, total + row[c])
        best = sorted(grown, key=lambda text: -np.logaddexp(*grown[text]))[:width]
        beams = {text: tuple(grown[text]) for text in best}
    sums: dict[str, float] = {}
    for text, (blank, symbol) in beams.items():
        total = np.logaddexp(blank, symbol)
        sums[text.strip()] = float(np.logaddexp(sums.get(text.strip(), -math.inf), total))
    return sorted(sums.items(), key=lambda item: -item[1])


@pytest.mark.parametrize("width", [1, 7, 40])
def test_a_narrow_beam_keeps_the_same_hypotheses_as_the_textbook(width):
    """In 150 frames; the wide one needs a larger table of nodes than the first."""
    rng, labels = np.random.default_rng(width), Labels("ABCDE _")
    probs = rng.dirichlet(np.full(7, 0.5), 150)
    config = LMConfig(beam_width=width, beam_threshold=1e9, top_paths=width)
    found = BeamSearch(labels, config).decode(probs)
    truth = plain_prefix_beam_search(np.log(np.maximum(probs, 1.2e-38)), labels, width)
    assert [h.text for h in found] == [text for text, _ in truth]
    assert [h.acoustic for h in found] == pytest.approx([score for _, score in truth])


def flashlight(arpa, words, labels, config):
    """flashlight-text's decoder of a closed vocabulary: probabilities -> text and score."""
    dictionary = Dictionary([*words, "<unk>"])
    dictionary.set_default_index(dictionary.get_index("<unk>"))
    model = KenLM(str(arpa), dictionary)
    trie = Trie(len(labels), labels.space_index)
    for word in words:
        index = dictionary.get_index(word)
        _, score = model.score(model.start(False), index)
        trie.insert([*labels.encode(word), labels.space_index], index, score)
    trie.smear(SmearingMode.MAX)
    options = LexiconDecoderOptions(
        config.beam_width, len(labels), config.beam_threshold, config.alpha * math.log(10),
        config.beta, -math.inf, 0.0, True, CriterionType.CTC)  # its model's logarithms are decimal
    decoder = LexiconDecoder(options, trie, model, labels.space_index, labels.blank_index,
                             dictionary.get_index("<unk>"), [], False)

    def decode(probs):
        # every word must end in a space: there is one behind the last frame
        log_probs = np.full((len(probs) + 1, len(labels)), -1e4, np.float32)
        log_probs[:-1] = np.log(np.maximum(probs, 1.2e-38))
        log_probs[-1, labels.space_index] = 0
        best = decoder.decode(log_probs.ctypes.data, *log_probs.shape)[0]
        return " ".join(dictionary.get_entry(i) for i in best.words if i >= 0), best.score
    return decode


def noisy(rng, text, labels, noise):
    """Probabilities of a text: a frame or two a symbol, a blank between, and noise."""
    frames = []
    for symbol in labels.encode(text):
        frames += [symbol] * rng.integers(1, 3) + [labels.blank_index] * rng.integers(0, 2)
    return ((1 - noise) * np.eye(len(labels))[frames]
            + noise * rng.dirichlet(np.full(len(labels), 0.5), len(frames))).astype(np.float32)


def test_flashlight_finds_the_same_words(tmp_path):
    """Sixty noisy sentences of a closed vocabulary, with a trigram model.

    Its scores are not quite ours: it also adds up texts whose futures are the same.
    """
    rng, labels = np.random.default_rng(0), Labels("ABCDE _")
    words = sorted({"".join(rng.choice(list("ABCDE"), rng.integers(2, 5))) for _ in range(25)})
    arpa = write_arpa(tmp_path / "lm.arpa", rng, words)
    config = LMConfig(alpha=0.6, beta=1.0, beam_width=500, beam_threshold=50.0)
    search = BeamSearch(labels, config, LanguageModel.read(arpa), words)
    judge = flashlight(arpa, words, labels, config)
    for _ in range(60):
        text = " ".join(rng.choice(words, rng.integers(1, 5)))
        probs = noisy(rng, text, labels, noise=0.3)
        best = search.decode(probs)[0]
        expected, score = judge(probs)
        assert best.text == expected and best.score == pytest.approx(score, abs=0.5)


# what goes wrong elsewhere

def frames(path: str, labels=LABELS, p=0.9) -> np.ndarray:
    """(T', C) probabilities whose best path is `path`."""
    probs = np.full((len(path), len(labels)), (1 - p) / (len(labels) - 1), np.float32)
    probs[np.arange(len(path)), [labels.characters.index(c) for c in path]] = p
    return probs


@pytest.fixture
def arpa(tmp_path):
    """P(A) = 1/2, P(AB) = 1/10, P(</s>) = 3/10, P(<unk>) = 1/10."""
    path = tmp_path / "small.arpa"
    grams = [(-99, "<s>"), (math.log10(0.3), "</s>"), (-1, "<unk>"), (math.log10(0.5), "A"),
             (-1, "AB")]
    lines = [f"{log_prob:.6f}\t{word}" for log_prob, word in grams]
    path.write_text("\n".join(["\\data\\", "ngram 1=5", "", "\\1-grams:", *lines, "", "\\end\\"]))
    return path


def test_texts_that_differ_by_outer_spaces_are_one_text():
    """AB is likelier than each of A, `A ` and ` A`, but not than all."""
    probs = np.array([[0.45, 0.2, 0.35, 0], [0.25, 0.45, 0.3, 0]])
    best = BeamSearch(LABELS, LMConfig()).decode(probs)[0]
    assert best.text == "A"
    assert math.exp(best.acoustic) == pytest.approx(0.45 * 0.25 + 0.45 * 0.3 + 0.35 * 0.25)


def test_a_space_at_the_end_begins_no_unknown_word(arpa):
    config = LMConfig(alpha=1.0, beta=0.0, unknown_cost=50.0)
    search = BeamSearch(LABELS, config, LanguageModel.read(arpa))
    for path in ("A", "A ", " A ", "A  "):
        best = search.decode(frames(path))[0]
        assert best.text == "A" and best.language == pytest.approx(math.log(0.5 * 0.3), abs=1e-5)
        assert best.score == pytest.approx(best.acoustic + best.language)


def test_no_frames_are_no_words(arpa):
    empty = np.zeros((0, 4), np.float32)
    (found,) = BeamSearch(LABELS, LMConfig(alpha=2.0), LanguageModel.read(arpa)).decode(empty)
    assert (found.text, found.acoustic) == ("", 0.0)
    assert found.language == pytest.approx(math.log(0.3), abs=1e-5)
    assert found.score == pytest.approx(2 * found.language)


def test_rounded_probabilities_are_probabilities():
    """float32 rows that add up to 0.99999994, and probabilities of exactly 0 and 1."""
    probs = frames("AB_A")
    probs[1] *= np.float32(0.99999994)
    assert BeamSearch(LABELS, LMConfig()).decode(probs)[0].text == "ABA"
    assert BeamSearch(LABELS, LMConfig()).decode(frames("AA B", p=1))[0].text == "A B"


def test_a_word_that_cannot_end_in_time_is_left_out():
    """The lexicon has nothing but AB; the recording ends in A."""
    search = BeamSearch(LABELS, LMConfig(), lexicon=["AB"])
    assert search.decode(frames("A", p=1))[0].text == ""
    assert search.decode(frames("AB A", p=1))[0].text == "AB"


def test_a_hotword_is_preferred_and_costs_nothing_as_unknown_word(arpa):
    """The recording says AB rather than BB, which is unknown; their letters count one by one."""
    probs = np.array([[0.6, 0.4, 0, 0], [0, 0, 0, 1], [0, 1, 0, 0]])
    model = LanguageModel.read(arpa)
    base = LMConfig(alpha=1.0, beta=0.0, unknown_cost=9.0, hotword_bonus=0.5, top_paths=2)

    def texts(hotwords):
        return {h.text: h.score for h in BeamSearch(LABELS, base, model, None, hotwords).decode(
            probs)}

    without, preferred = texts([]), texts(["BB"])
    assert list(without) == ["AB", "BB"] and list(preferred) == ["BB", "AB"]
    assert preferred["AB"] == pytest.approx(without["AB"])
    assert preferred["BB"] == pytest.approx(without["BB"] + 9 + 2 * 0.5)


def test_hotwords_of_a_closed_vocabulary_are_allowed():
    found = BeamSearch(LABELS, LMConfig(), None, ["A"], ["BA"]).decode(frames("BA A"))
    assert found[0].text == "BA A"


def test_labels_without_a_space():
    labels = Labels("AB_")
    rng = np.random.default_rng(0)
    for _ in range(20):
        probs = random_probs(rng, 5, labels)
        found = BeamSearch(labels, LMConfig(**WIDE)).decode(probs)
        assert {h.text: h.score for h in found} == pytest.approx(acoustic_log_probs(probs, labels),
                                                                 abs=1e-5)


@pytest.mark.parametrize("cutoff", [{"cutoff_top_n": 1}, {"cutoff_prob": 0.05}])
def test_with_one_class_a_frame_all_texts_are_parts_of_the_best_path(cutoff):
    rng, labels = np.random.default_rng(0), Labels("ABCDE _")
    for _ in range(20):
        probs = rng.dirichlet(np.full(7, 0.5), 30)
        config = LMConfig(top_paths=500, beam_width=500, beam_threshold=1e9, **cutoff)
        texts = [h.text for h in BeamSearch(labels, config).decode(probs)]
        path = labels.decode(probs.argmax(axis=1))
        assert all(is_part(text, path) for text in texts)


def is_part(text: str, of: str) -> bool:
    """Whether the letters of a text occur in another one, in order."""
    letters = iter(of)
    return all(letter in letters for letter in text)


@pytest.mark.parametrize("workers", [1, 2, 1000])
def test_a_batch_is_decoded_as_its_utterances(arpa, workers):
    """Of different lengths; more workers than cores are no mistake."""
    rng = np.random.default_rng(0)
    batch = [random_probs(rng, length) for length in (7, 0, 30, 1, 12)]
    config = LMConfig(top_paths=3, lm_workers=workers)
    search = BeamSearch(LABELS, config, LanguageModel.read(arpa))
    assert search.decode_batch(batch) == [search.decode(probs) for probs in batch]
    assert search.decode_batch([]) == []


def test_frames_may_come_little_by_little(arpa):
    """The search goes on as if they had come at once, also beyond the first table of nodes."""
    rng, labels = np.random.default_rng(0), Labels("ABCDE _")
    search = BeamSearch(labels, LMConfig(top_paths=5), LanguageModel.read(arpa))
    probs = rng.dirichlet(np.full(7, 0.5), 120)
    state, at = search.begin(), 0
    while at < len(probs):
        size = int(rng.integers(0, 9))
        state, at = search.take(state, probs[at : at + size]), at + size
        assert search.end(state) == search.decode(probs[:at])


# what is refused

def text_of(path, labels=LABELS) -> str:
    """The text of a path so far; a space at its end stays."""
    text = ""
    for symbol, _ in itertools.groupby(path):
        letter = labels.characters[symbol]
        if symbol != labels.blank_index and not (letter == " " and text[-1:] in ("", " ")):
            text += letter
    return text


@pytest.mark.parametrize("seed", range(10))
def test_what_is_settled_is_the_beginning_of_all_texts(seed):
    """The paths that go on are those whose text began so when it was settled."""
    rng = np.random.default_rng(seed)
    probs, search = random_probs(rng, 6), BeamSearch(LABELS, LMConfig(**WIDE))
    state = search.take(search.begin(), probs[:4])
    best, _ = search.texts_in_progress(state)
    count = int(rng.integers(len(best) + 1))
    state = search.settle(state, count)
    _, common = search.texts_in_progress(state)
    assert len(common) >= count and common[:count].tolist() == best[:count].tolist()
    settled, expected = LABELS.decode(best[:count]), {}
    for path in itertools.product(range(len(LABELS)), repeat=len(probs)):
        if text_of(path[:4]).startswith(settled):
            p = math.prod(float(row[symbol]) for row, symbol in zip(probs, path, strict=True))
            text = text_of(path).strip()
            expected[text] = expected.get(text, 0.0) + p
    found = {h.text: h.acoustic for h in search.end(search.take(state, probs[4:]))}
    assert found == pytest.approx({text: math.log(p) for text, p in expected.items()}, abs=1e-5)


@pytest.mark.parametrize(("probs", "words"), [
    (np.full((3, 4), np.nan), "frame 0 has nan for class 0, which is not a finite number"),
    (np.array([[0.5, 0.5, 0, 0], [0, np.inf, 0, 0]]), "frame 1 has inf for class 1"),
    (np.log(np.full((2, 4), 0.25)), "needed are probabilities, not logits or logarithms"),
    (np.full((2, 4), 3.0), "frame 0 add up to 12, needed is 1: a softmax, not logits"),
    (np.zeros((2, 4)), "frame 0 add up to 0"), (np.zeros((2, 5)), r"shape \(2, 5\), needed is"),
    (np.zeros((1, 2, 4)), r"shape \(1, 2, 4\)"),
])
def test_what_is_no_matrix_of_probabilities(probs, words):
    with pytest.raises(InputError, match=words):
        BeamSearch(LABELS, LMConfig()).decode(probs)


@pytest.mark.parametrize(("settings", "words"), [
    ({"alpha": "much"}, r"`LMConfig.alpha` \(='much'\) must be a finite number"),
    ({"alpha": math.nan}, r"`LMConfig.alpha` \(=nan\) must be a finite number"),
    ({"alpha": -1.0}, "`LMConfig.alpha` .* at least 0"),
    ({"beta": math.inf}, "`LMConfig.beta` .* finite"),
    ({"beam_width": 0}, "`LMConfig.beam_width` .* at least 1"),
    ({"cutoff_prob": 1.5}, "`LMConfig.cutoff_prob` .* at most 1"),
    ({"lm_workers": 0}, "`LMConfig.lm_workers` .* at least 1"),
])
def test_a_wrong_setting(settings, words):
    with pytest.raises(InputError, match=words):
        BeamSearch(LABELS, LMConfig(**settings))


@pytest.mark.parametrize(("arguments", "words"), [
    ({"lexicon": ["AB", "AX"]}, "lexicon: unknown characters 'X'.* in 'AX': the labels cannot"),
    ({"hotwords": ["É"]}, "hotword: unknown characters 'É'"),
    ({"hotwords": ["A B"]}, "hotword: 'A B' is not one word"),
    ({"hotwords": [""]}, "hotword: '' is not one word"),
])
def test_words_that_the_labels_cannot_spell(arguments, words):
    with pytest.raises(InputError, match=words):
        BeamSearch(LABELS, LMConfig(), **arguments)


def test_words_need_a_space(arpa):
    for arguments in ({"hotwords": ["A"]}, {"lexicon": ["A"]},
                      {"language_model": LanguageModel.read(arpa)}):
        with pytest.raises(InputError, match="the labels have no space"):
            BeamSearch(Labels("AB_"), LMConfig(), **arguments)


def test_what_is_no_letter_model(arpa, tmp_path):
    words = LanguageModel.read(arpa)
    with pytest.raises(InputError, match="'AB' is not a letter: needed is a model of letters"):
        BeamSearch(LABELS, LMConfig(), words, letter_model=words)
    letters = LanguageModel.read(write_arpa(tmp_path / "x.arpa", np.random.default_rng(0), ["A"]))
    for others in ({}, {"language_model": words, "lexicon": ["A"]}):
        with pytest.raises(InputError, match=r"x\.arpa: the letter model is for words that a lang"):
            BeamSearch(LABELS, LMConfig(), letter_model=letters, **others)


def test_a_language_model_of_another_script(tmp_path):
    path = write_arpa(tmp_path / "lm.arpa", np.random.default_rng(0), ["да", "нет"])
    with pytest.raises(InputError, match="can spell none of the 2 words"):
        BeamSearch(LABELS, LMConfig(), LanguageModel.read(path))
