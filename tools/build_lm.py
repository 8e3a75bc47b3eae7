"""Build an n-gram language model from texts, one sentence a line, for decoding with a beam search.

Usage: `python -m tools.build_lm TEXT ... --order 3 --output lm.arpa.gz`

Texts are plain, gzip or xz. Words are written as the labels write them; a word that they cannot
write becomes `<unk>`. Smoothing is interpolated modified Kneser-Ney (docs/language_models.md).
"""

import argparse
import logging
import sys
from array import array
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deepspeech2 import commands
from deepspeech2.decoding.arpa import BEGIN, END, MAX_ORDER, UNKNOWN, write_arpa
from deepspeech2.decoding.language_model import LanguageModel
from deepspeech2.errors import InputError
from deepspeech2.files import ensure_writable, unpacked
from deepspeech2.labels import Labels, describe, listed
from deepspeech2.spelling import Speller
from tools import kneser_ney
from tools.kneser_ney import BOS, EOS, UNK

SPECIAL = [UNKNOWN[0], BEGIN, END]  # ids UNK, BOS, EOS
LABELS_PATH = "./labels.json"

_log = logging.getLogger(__name__)


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    result = argparse.ArgumentParser(
        prog="python -m tools.build_lm", description="Build an n-gram language model from texts."
    )
    result.add_argument("texts", nargs="+", type=Path, metavar="TEXT",
                        help="one sentence a line; plain, gzip or xz")
    result.add_argument("--output", type=Path, required=True, metavar="LM.arpa.gz",
                        help="the model to write: .arpa, .arpa.gz or .arpa.xz")
    result.add_argument("--order", type=int, default=3, metavar="N",
                        help=f"words in the longest n-gram, at most {MAX_ORDER} "
                        "(default: %(default)s)")
    result.add_argument("--prune", type=int, nargs="+", default=[0], metavar="COUNT",
                        help="leave out n-grams that occur as often or less: a count for each "
                        "order, beginning with 0; the last one counts for higher orders too "
                        "(default: nothing)")
    result.add_argument("--vocabulary", type=int, default=0, metavar="N",
                        help="keep the N most frequent words, the others become <unk> "
                        "(default: all)")
    result.add_argument("--dev", type=Path, metavar="TEXT",
                        help="text to report perplexity and unknown words for")
    result.add_argument("--mix", type=commands.boolean, default=False, metavar="True|False",
                        help="build a model of each TEXT, and mix the models with the weights that "
                        "suit --dev best (default: one model of all texts)")
    result.add_argument("--letters", type=commands.boolean, default=False, metavar="True|False",
                        help="build a model of the letters of the words, each different word once, "
                        "for words that a language model does not know (default: %(default)s)")
    result.add_argument("--labels_path", default=LABELS_PATH, metavar="FILE",
                        help="JSON list of the characters of the model (default: %(default)s)")
    return result


# --- texts ---------------------------------------------------------------------------------------


def sentences(path: Path, speller: Speller) -> Iterator[list[str]]:
    """The words of each line that has any, as the labels write them, or `<unk>`.

    Raises:
        InputError: naming the file, for one that cannot be read, has no words or is not UTF-8.
    """
    words = 0
    with unpacked(path, "the text") as file:
        for number, line in enumerate(file, 1):
            try:
                found = speller.words(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{path}:{number}: not UTF-8: {error.reason} at byte {error.start + 1}"
                ) from None
            if found:
                words += len(found)
                yield [SPECIAL[UNK] if word is None else word for word in found]
    _report(path, speller)
    if speller.unknown.total() == words:
        raise InputError(
            f"{path}: no word that the labels can write; needed are sentences of words, one a line"
        )


def _report(path: Path, speller: Speller) -> None:
    """Log what the labels cannot write."""
    if speller.removed:
        marks = listed([f"{describe(c)} {n}" for c, n in speller.removed.most_common()], ", ")
        _log.info("%s: punctuation became space: %s", path, marks)
    if speller.unknown:
        words = listed([f"{w!r} {n}" for w, n in speller.unknown.most_common(20)], ", ")
        _log.warning("%s: %d words with characters that the labels lack became <unk>: %s%s",
                     path, speller.unknown.total(), words, " ..." * (len(speller.unknown) > 20))


@dataclass
class Corpus:
    """Texts as numbers.

    Attributes:
        words: the words by id.
        tokens: for each text (T,) int32 ids, BOS before and EOS behind each sentence.
    """

    words: list[str]
    tokens: list[np.ndarray]


def read_corpus(paths: Sequence[Path], labels: Labels) -> Corpus:
    """Read all texts. Words get their ids in the order in which they occur."""
    ids: defaultdict[str, int] = defaultdict(lambda: len(ids))
    for word in SPECIAL:
        ids[word]
    tokens = []
    for path in paths:
        numbers = array("i")
        for words in sentences(path, Speller(labels)):
            numbers.append(BOS)
            numbers.extend(map(ids.__getitem__, words))
            numbers.append(EOS)
        tokens.append(np.array(numbers))
        count = int((tokens[-1] > EOS).sum())
        _log.info("%s: %d sentences, %d words", path, (tokens[-1] == BOS).sum(), count)
    return Corpus(list(ids), tokens)


def letters_of(corpus: Corpus) -> Corpus:
    """The corpus whose sentences are the words of another one, each once, and whose words are
    letters."""
    ids = {word: i for i, word in enumerate(SPECIAL)}
    tokens = []
    for text in corpus.tokens:
        numbers = array("i")
        for word in np.unique(text[text > EOS]):
            numbers.append(BOS)
            numbers.extend(ids.setdefault(letter, len(ids)) for letter in corpus.words[word])
            numbers.append(EOS)
        tokens.append(np.array(numbers))
    return Corpus(list(ids), tokens)


def limit_vocabulary(corpus: Corpus, limit: int) -> Corpus:
    """Keep the most frequent words; the others become `<unk>`. Ids follow frequency, then spelling.

    Args:
        corpus: all words.
        limit: how many words to keep, 0 for all.
    """
    counts = sum(np.bincount(tokens, minlength=len(corpus.words)) for tokens in corpus.tokens)
    special = len(SPECIAL)
    order = sorted(range(special, len(corpus.words)), key=lambda i: (-counts[i], corpus.words[i]))
    kept = order[: limit or None]
    new = np.full(len(corpus.words), UNK, np.int32)
    new[:special] = range(special)
    new[kept] = np.arange(special, special + len(kept))
    share = counts[kept].sum() / max(1, counts[special:].sum())
    _log.info("vocabulary: %d of %d words, %.2f %% of the texts", len(kept), len(order),
              100 * share)
    words = SPECIAL + [corpus.words[i] for i in kept]
    return Corpus(words, [new[tokens] for tokens in corpus.tokens])


# --- perplexity and weights ----------------------------------------------------------------------


def log_probs(model: LanguageModel, dev: list[list[str]]) -> np.ndarray:
    """(n,) natural log probabilities of the known words and the ends of sentences."""
    return np.array([
        log_prob
        for words in dev
        for word, log_prob in zip([*words, END], model.score(words), strict=True)
        if word in model.ids and word not in UNKNOWN
    ])


def perplexity(model: LanguageModel, dev: list[list[str]]) -> str:
    """Perplexity without unknown words, and their share, for a result line."""
    values = log_probs(model, dev)
    words = sum(map(len, dev))
    unknown = words + len(dev) - len(values)
    return f"perplexity {np.exp(-values.mean()):.1f}, {100 * unknown / words:.2f} % unknown words"


def find_weights(probs: np.ndarray) -> np.ndarray:
    """The weights of a mixture with the highest likelihood, by expectation maximisation.

    Args:
        probs: (models, n) probabilities of n words.

    Returns:
        (models,) weights, which sum to one.
    """
    weights = np.full(len(probs), 1 / len(probs))
    for _ in range(1000):
        shares = weights[:, None] * probs
        new = (shares / shares.sum(axis=0)).mean(axis=1)
        if np.abs(new - weights).max() < 1e-6:
            break
        weights = new
    return new


# --- the command ---------------------------------------------------------------------------------


def build(args: argparse.Namespace, labels: Labels) -> tuple[list[str], list]:
    """The words and the sections of the model that the command line asks for."""
    dev = list(sentences(args.dev, Speller(labels))) if args.dev else []
    corpus = read_corpus(args.texts, labels)
    if args.letters:
        words = dict.fromkeys(word for words in dev for word in words if word != SPECIAL[UNK])
        corpus, dev = letters_of(corpus), [list(word) for word in words]
    corpus = limit_vocabulary(corpus, args.vocabulary)
    if not args.mix:
        corpus.tokens, names = [np.concatenate(corpus.tokens)], ["texts"]
    else:
        names = [str(path) for path in args.texts]
    models = []
    for name, tokens in zip(names, corpus.tokens, strict=True):
        counted = kneser_ney.count_ngrams(tokens, len(corpus.words), args.order)
        _log.info("%s: %s n-grams counted", name, "/".join(str(len(level)) for level in counted))
        models.append(kneser_ney.estimate(counted, args.prune, name))
        kept = "/".join(str(len(level)) for level in models[-1])
        _log.info("%s: %s n-grams kept and estimated", name, kept)
    if args.mix:
        _log.info("mixing")
        models = [_mix(corpus.words, models, names, dev)]
    sections = kneser_ney.sections(models[0])
    if dev:
        print(f"{args.dev}: {perplexity(_model(corpus.words, sections), dev)}")
    return corpus.words, sections


def _model(words: list[str], sections: list) -> LanguageModel:
    return LanguageModel.of("the model", list(words), sections)


def _mix(words: list[str], models: list, names: list[str], dev: list[list[str]]) -> list:
    probs = []
    for name, model in zip(names, models, strict=True):
        single = _model(words, kneser_ney.sections(model))
        probs.append(np.exp(log_probs(single, dev)))
        print(f"{name} alone: {perplexity(single, dev)}")
    weights = find_weights(np.array(probs))
    for name, weight in zip(names, weights, strict=True):
        print(f"{name}: weight {weight:.3f}")
    return kneser_ney.mix(models, weights)


def check(args: argparse.Namespace) -> None:
    """Refuse options that make no model, and make `--prune` as long as the order."""
    if not 1 <= args.order <= MAX_ORDER:
        raise InputError(f"--order {args.order}: needed is 1 to {MAX_ORDER}")
    if args.vocabulary < 0:
        raise InputError(f"--vocabulary {args.vocabulary}: needed is a number of words")
    if args.mix and (not args.dev or len(args.texts) < 2):
        raise InputError("--mix True: needed are two TEXTs or more, and --dev for their weights")
    if args.letters and args.vocabulary:
        raise InputError("--letters True: --vocabulary has no use, the letters are all kept")
    given = args.prune
    if len(given) > args.order or given[0] != 0 or sorted(given) != given:
        raise InputError(
            f"--prune {' '.join(map(str, given))}: needed are at most {args.order} counts, one for "
            "each order, the first one 0 and none below the one before, as 0 1 1"
        )
    args.prune = given + given[-1:] * (args.order - len(given))
    name = args.output.name.removesuffix(".gz").removesuffix(".xz")
    if not name.endswith(".arpa"):
        raise InputError(f"--output {args.output}: needed is a name in .arpa, .arpa.gz or .arpa.xz")
    ensure_writable(args.output.parent)


def main(argv: list[str] | None = None) -> int:
    """Build a model as the command line says; returns the exit code."""
    args = parser().parse_args(argv)
    return commands.run(lambda: build_lm(args))


def build_lm(args: argparse.Namespace) -> int:
    check(args)
    words, sections = build(args, Labels.load(args.labels_path))
    _log.info("writing %s", args.output)
    write_arpa(args.output, words, sections)
    counts = ", ".join(f"{len(s.words)} {n}-grams" for n, s in enumerate(sections, 1))
    print(f"{args.output}: {counts}; {args.output.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
