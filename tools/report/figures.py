"""The figures of a report: error rates of groups, confusions, chosen utterances, calibration."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from deepspeech2.audio import AudioError, read_audio
from deepspeech2.metrics import align, units
from src.evaluation import ScoredUtterance, find_rate
from tools.confusions import count, most_frequent

SILENCE = -100.0  # dBFS; digital silence has no level
LARGEST_BAR = 200.0  # percent
GROUPS_OF_VALUE = 5  # of a value such as the length
SMALLEST_GROUP = 5  # utterances
CONFIDENCE_BINS = 10
# title, number of utterances, and how many of them get a picture
WORST, MEDIAN, BEST = ("Worst", 6, 3), ("Median", 3, 1), ("Best", 3, 1)


@dataclass(frozen=True)
class Group:
    """Utterances that have something in common, and their word errors.

    Attributes:
        name: the speaker; "" for a group by value.
        low, high: ends of the values in the group; None for a speaker.
        utterances: number of utterances.
        words: number of reference words.
        errors: number of word errors.
        percent: WER.
        interval: ends of its 95 % interval, or None.
        above: the whole interval lies above the overall WER, and there are enough utterances for
            an interval that means something.
    """

    name: str
    low: float | None
    high: float | None
    utterances: int
    words: int
    errors: int
    percent: float
    interval: tuple[float, float] | None
    above: bool


def _group(
    members: Sequence[ScoredUtterance], speakers: Sequence[str], overall: float, name: str = "",
    ends: tuple[float | None, float | None] = (None, None),
) -> Group:
    rate = find_rate(members, "word", speakers)
    above = bool(rate.interval and rate.interval[0] > overall and len(members) >= SMALLEST_GROUP)
    return Group(name, *ends, len(members), rate.total, rate.errors, rate.percent, rate.interval,
                 above)


def by_speaker(
    utterances: Sequence[ScoredUtterance], speakers: Sequence[str], overall: float
) -> list[Group]:
    """The speakers, highest WER first. Their intervals draw utterances.

    Args:
        utterances: (N,) scored utterances.
        speakers: (N,) who speaks.
        overall: WER of all utterances in percent.
    """
    members: dict[str, list[ScoredUtterance]] = {}
    for speaker, utterance in zip(speakers, utterances, strict=True):
        members.setdefault(speaker, []).append(utterance)
    groups = [_group(own, [str(u.row) for u in own], overall, name)
              for name, own in members.items()]
    return sorted(groups, key=lambda group: (-group.percent, -group.errors, group.name))


def by_value(
    utterances: Sequence[ScoredUtterance], speakers: Sequence[str],
    values: Sequence[float | None], overall: float,
) -> list[Group]:
    """Up to five groups of about equal numbers of utterances, lowest values first.

    Args:
        utterances: (N,) scored utterances.
        speakers: (N,) who speaks; the intervals draw speakers.
        values: (N,) what to group by; None leaves an utterance out.
        overall: WER of all utterances in percent.
    """
    known = [i for i, value in enumerate(values) if value is not None]
    if not known:
        return []
    found = np.array([values[i] for i in known], float)
    number = min(GROUPS_OF_VALUE, max(1, len(known) // SMALLEST_GROUP))
    # the lowest value of each group; equal values stay together
    starts = np.unique(np.quantile(found, np.arange(number) / number))
    places = np.searchsorted(starts, found, side="right")
    groups = []
    for place in np.unique(places):
        rows = [i for i, own in zip(known, places, strict=True) if own == place]
        inside = found[places == place]
        groups.append(_group([utterances[i] for i in rows], [speakers[i] for i in rows],
                             overall, ends=(float(inside.min()), float(inside.max()))))
    return groups


def worst_group(groups: Sequence[Group], overall: float) -> Group | None:
    """Of the groups above the overall WER the one with most errors beyond it."""
    above = [group for group in groups if group.above]
    return max(above, key=lambda g: g.errors - overall / 100 * g.words, default=None)


def scale(summary: dict) -> float:
    """The WER in percent at the right end of all bars of groups: at least 1, at most 200."""
    tops = [summary["wer"]["percent"]]
    for name in ("by_speaker", "by_length", "by_loudness", "by_speed"):
        for group in summary[name] or []:
            tops += [group["percent"], *(group["interval"] or ())]
    return min(LARGEST_BAR, max(1.0, *tops))


def measure_levels(utterances: Sequence[ScoredUtterance]) -> list[float | None]:
    """(N,) root mean square of each recording in dB below full scale; None where unreadable."""
    levels: list[float | None] = []
    for utterance in utterances:
        try:
            samples, _ = read_audio(utterance.audio_path)
        except AudioError:
            levels.append(None)
            continue
        power = float(np.mean(np.square(samples, dtype=np.float64)))
        levels.append(max(SILENCE, 10 * math.log10(power)) if power else SILENCE)
    return levels


def confusions(texts: Sequence[tuple[str, str]], unit: str, top: int) -> list[dict]:
    """The most frequent edits.

    Args:
        texts: reference and hypothesis of each utterance.
        unit: `word` or `character`.
        top: how many to list.

    Returns:
        reference, hypothesis ("" where there is none), times, and how often the reference unit is
        said; the most frequent first, equal ones in alphabetical order.
    """
    said = Counter(word for reference, _ in texts for word in units(reference, unit))
    return [{"reference": x, "hypothesis": y, "times": times, "said": said[x]}
            for (x, y), times in most_frequent(count(texts, unit, gap=""), top)]


def rank(utterance: ScoredUtterance) -> tuple:
    """Sorts utterances from good to bad; of faultless ones the longer is better."""
    errors = utterance.errors
    length = errors.words if errors.word_errors else -errors.words
    return errors.wer_percent, errors.cer_percent, length, utterance.row


def choose(order: Sequence[int]) -> list[tuple[str, list[int], int]]:
    """Pick from utterances in the order of `rank`: title, utterances, number of pictures."""
    left = list(order)
    picked = []
    for title, number, pictures in (WORST, BEST, MEDIAN):
        start = {"Worst": len(left) - number, "Best": 0}.get(title, (len(left) - number) // 2)
        part = slice(max(0, start), max(0, start) + number)
        chosen = left[part][::-1] if title == "Worst" else left[part]
        del left[part]
        picked.append((title, chosen, pictures))
    worst, best, median = picked
    return [entry for entry in (worst, median, best) if entry[1]]


def edits(utterance: ScoredUtterance) -> list[tuple[str, str, str]]:
    """The aligned words: reference, hypothesis, and the edit: substitution, deletion, insertion."""
    aligned = align(utterance.reference.split(), utterance.hypothesis.split())
    return [(x or "", y or "", _edit(x, y)) for x, y in aligned]


def _edit(x: str | None, y: str | None) -> str:
    if x == y:
        return ""
    return "insertion" if x is None else "deletion" if y is None else "substitution"


def judged(utterance: ScoredUtterance) -> list[tuple[float, bool]]:
    """The probability of each recognised word, and whether the word is right.

    Empty where a label is white space, so that the words of the text are not those of the model.
    """
    right = [edit == "" for _, word, edit in edits(utterance) if word]
    sure = utterance.confidences
    return list(zip(sure, right, strict=True)) if len(right) == len(sure) else []


def bins_of(probabilities: np.ndarray) -> np.ndarray:
    """(W,) the bin of each of (W,) probabilities, of `CONFIDENCE_BINS`."""
    return np.minimum((probabilities * CONFIDENCE_BINS).astype(int), CONFIDENCE_BINS - 1)


def calibration(utterances: Iterable[ScoredUtterance]) -> dict | None:
    """How far the probabilities of words can be trusted; None where words carry none.

    Returns:
        auc: how often a right word has a higher probability than a wrong one, 0.5 by chance; None
            if all words are right, or wrong. bins: low, high, words, share of right ones, and mean
            probability.
    """
    words: list[tuple[float, bool]] = []
    for utterance in utterances:
        if utterance.confidences is None:
            return None
        words += judged(utterance)
    if not words:
        return None
    values, hits = (np.array(column) for column in zip(*words, strict=True))
    places = bins_of(values)
    bins = [{"low": place / CONFIDENCE_BINS, "high": (place + 1) / CONFIDENCE_BINS,
             "words": int((places == place).sum()),
             "right": float(hits[places == place].mean()),
             "confidence": float(values[places == place].mean())} for place in np.unique(places)]
    return {"words": len(hits), "auc": _auc(values[hits], values[~hits]), "bins": bins}


def _auc(right: np.ndarray, wrong: np.ndarray) -> float | None:
    """The probability that a right word has the higher value; ties count half."""
    if not len(right) or not len(wrong):
        return None
    wrong = np.sort(wrong)
    below, above = (np.searchsorted(wrong, right, side=side) for side in ("left", "right"))
    return float((below + above).sum() / 2 / len(right) / len(wrong))
