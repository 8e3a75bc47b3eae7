"""Beam search against a sum over all CTC paths, against flashlight-text, and cases by hand."""

import itertools
import math

import kenlm
import numpy as np
import pytest

from deepspeech2.decoding.beam import BeamSearch
from deepspeech2.decoding.decoders import LMConfig
from deepspeech2.decoding.language_model import LanguageModel
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
    """Ten times thirty cases without a language model."""
    rng = np.random.default_rng(seed)
    for _ in range(30):
        probs, beta = random_probs(rng, rng.integers(0, 6)), round(rng.normal(), 2)
        found = BeamSearch(LABELS, LMConfig(beta=beta, **WIDE)).decode(probs)
        truth = {text: acoustic + beta * len(text.split())
                 for text, acoustic in acoustic_log_probs(probs).items()}
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
