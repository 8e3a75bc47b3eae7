"""Estimate n-gram models: interpolated modified Kneser-Ney, and mixtures of several models.

Sources: Chen and Goodman 1998, "An Empirical Study of Smoothing Techniques for Language Modeling",
section 3; Heafield et al. 2013, "Scalable Modified Kneser-Ney Language Model Estimation" (lmplz),
whose rules for sentence beginnings, unknown words and pruning are used.

The n-grams of order n are the rows of arrays, sorted by context and word. An n-gram knows its
context, which is all but its last word, and its suffix, which is all but its first word, as rows of
order n - 1. Words are ids: 0 `<unk>`, 1 `<s>`, 2 `</s>`.
"""

import logging
from dataclasses import dataclass

import numpy as np

from deepspeech2.decoding.arpa import LOG10, Section

UNK, BOS, EOS = range(3)
FALLBACK = (0.5, 1.0, 1.5)  # discounts, lmplz's --discount_fallback

_log = logging.getLogger(__name__)


@dataclass
class Grams:
    """The n-grams of one order, sorted by (context, word).

    Attributes:
        context: (M,) int64 row of the context in the order below.
        word: (M,) int64 last word.
        suffix: (M,) int64 row of the suffix in the order below.
        count: (M,) int64 how often the n-gram occurs; empty in a mixture.
        prob: (M,) float64 probability of the last word after the context.
        backoff: (M,) float64 backoff weight of the n-gram as a context.
    """

    context: np.ndarray
    word: np.ndarray
    suffix: np.ndarray
    count: np.ndarray
    prob: np.ndarray | None = None
    backoff: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.word)


def count_ngrams(tokens: np.ndarray, size: int, order: int) -> list[Grams]:
    """Count the n-grams of orders 1 to `order`.

    Args:
        tokens: (T,) int32 word ids of sentences, each with BOS before and EOS behind it.
        size: number of words; all words are rows of order 1, also those that do not occur.
        order: the highest order.
    """
    places = np.arange(len(tokens))
    in_sentence = places - np.maximum.accumulate(np.where(tokens == BOS, places, 0))
    words = np.arange(size)
    nothing = np.zeros(size, np.int64)
    grams = [Grams(nothing, words, nothing, np.bincount(tokens, minlength=size))]
    rows = tokens.astype(np.int64)  # row of the n-gram that ends at each place
    for n in range(2, order + 1):
        ends = np.flatnonzero(in_sentence >= n - 1)
        key = rows[ends - 1] * size + tokens[ends]
        key, first, inverse, count = np.unique(key, True, True, True)
        grams.append(Grams(key // size, key % size, rows[ends[first]], count))
        rows = np.full(len(tokens), -1)
        rows[ends] = inverse
    return grams


def estimate(grams: list[Grams], thresholds: list[int], name: str) -> list[Grams]:
    """The probabilities and backoff weights of interpolated modified Kneser-Ney.

    Args:
        grams: what `count_ngrams` counted.
        thresholds: n-grams of order n that occur `thresholds[n - 1]` times or less are left out;
            ascending, and 0 for order 1, so that contexts and suffixes of an n-gram stay.
        name: what messages call the text.
    """
    size = len(grams[0])
    uniform = np.full(1, 1 / (size - 1))  # every word but <s>
    below, starts = Grams(*np.zeros((4, 1), np.int64), prob=uniform), np.zeros(1, bool)
    for n, level in enumerate(grams, 1):
        kept = level.count > thresholds[n - 1] if n > 1 else np.ones(size, bool)
        starts = level.word == BOS if n == 1 else starts[level.context]
        if n == len(grams):
            adjusted = level.count.copy()
        else:  # in how many ways the n-gram is preceded; nothing precedes <s>
            adjusted = np.bincount(grams[n].suffix, minlength=len(level))
            adjusted = np.where(starts, level.count, adjusted)
        if n == 1:
            adjusted[BOS] = 0
        discounts = _discounts(adjusted, f"{name}: order {n}")[np.minimum(adjusted, 3)]
        total = np.bincount(level.context, adjusted, len(below))
        free = np.bincount(level.context, np.where(kept, discounts, adjusted), len(below))
        below.backoff = np.divide(free, total, out=np.ones(len(below)), where=total > 0)
        level.prob = (adjusted - discounts) / total[level.context]
        level.prob += below.backoff[level.context] * below.prob[level.suffix]
        below = level
    below.backoff = np.ones(len(below))
    grams[0].prob[BOS] = 0  # no word is ever followed by <s>
    return _prune(grams, thresholds)


def _discounts(adjusted: np.ndarray, name: str) -> np.ndarray:
    """(4,) what is taken off counts of 0, 1, 2, and 3 and more."""
    t = np.bincount(np.minimum(adjusted, 5), minlength=6).astype(float)[1:5]
    if t.all():
        k = np.arange(1, 4)
        found = k - (k + 1) * t[0] / (t[0] + 2 * t[1]) * t[1:] / t[:3]
        if (found >= 0).all() and (found <= k).all():
            return np.array([0, *found])
    _log.warning("%s: too few n-grams to estimate discounts, taken are %s", name, FALLBACK)
    return np.array([0, *FALLBACK])


def _prune(grams: list[Grams], thresholds: list[int]) -> list[Grams]:
    result: list[Grams] = []
    new = np.zeros(1, np.int64)  # the rows of the order below, by their rows before
    for n, level in enumerate(grams, 1):
        kept = level.count > thresholds[n - 1] if n > 1 else np.ones(len(level), bool)
        context, suffix = (new[rows[kept]] for rows in (level.context, level.suffix))
        result.append(Grams(context, level.word[kept], suffix, level.count[kept],
                            level.prob[kept], level.backoff[kept]))
        new = np.cumsum(kept) - 1
    return result


def mix(models: list[list[Grams]], weights: np.ndarray) -> list[Grams]:
    """One model of all n-grams of several models, with the weighted mean of their probabilities.

    The backoff weights are such that the probabilities sum to one after every context. Where a
    context has other words than its suffix, this differs a little from the mean of the models.

    Args:
        models: models of the same words and order.
        weights: (models,) weights, which sum to one.
    """
    size, result = len(models[0][0]), []
    rows = [np.zeros(1, np.int64) for _ in models]  # of the mixture, by rows of each model
    probs = np.zeros((len(models), 1))  # of the order below in each model
    for n, levels in enumerate(zip(*models, strict=True), 1):
        keys = [below[level.context] * size + level.word
                for below, level in zip(rows, levels, strict=True)]
        key = np.unique(np.concatenate(keys))
        places = [np.searchsorted(key, own) for own in keys]
        context, suffix = key // size, np.empty(len(key), np.int64)
        for place, below, level in zip(places, rows, levels, strict=True):
            suffix[place] = below[level.suffix]
        own_probs = np.empty((len(models), len(key)))
        for i, (place, level) in enumerate(zip(places, levels, strict=True)):
            if n > 1:
                backoff = np.ones(len(result[-1]))
                backoff[rows[i]] = models[i][n - 2].backoff
                own_probs[i] = backoff[context] * probs[i, suffix]
            own_probs[i, place] = level.prob
        prob = weights @ own_probs
        if n > 1:
            below = result[-1]
            below.backoff = _missing(context, prob, len(below)) / _missing(
                context, below.prob[suffix], len(below))
        result.append(Grams(context, key % size, suffix, np.empty(0), prob, np.ones(len(key))))
        rows, probs = places, own_probs
    return result


def _missing(context: np.ndarray, prob: np.ndarray, count: int) -> np.ndarray:
    """(count,) what probabilities lack to sum to one after each context; never quite nothing."""
    return np.maximum(1 - np.bincount(context, prob, count), 1e-12)


def sections(grams: list[Grams]) -> list[Section]:
    """The model as natural logarithms, for an ARPA file."""
    result: list[Section] = []
    for level in grams:
        words = level.word[:, None].astype(np.int32)
        if result:
            words = np.concatenate([result[-1].words[level.context], words], axis=1)
        with np.errstate(divide="ignore"):
            log_prob = np.clip(np.log(level.prob), -99 * LOG10, 0)  # 1 may be a little more
        result.append(Section(words, log_prob.astype(np.float32),
                              np.log(level.backoff).astype(np.float32), 0))
    return result
