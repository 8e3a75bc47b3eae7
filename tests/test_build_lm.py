"""Building n-gram models: probabilities by the textbook, mixtures, texts, and what is refused."""

import gzip
import logging
import lzma
import math
import random
from collections import Counter

import kenlm
import numpy as np
import pytest

from deepspeech2.decoding.language_model import LanguageModel, advance
from tools import build_lm

LOG10 = math.log(10)


def build(tmp_path, *texts: str, options: str = "", name: str = "lm.arpa") -> LanguageModel:
    """The model of texts, by the command."""
    paths = []
    for i, text in enumerate(texts):
        paths.append(tmp_path / f"text{i}.txt")
        paths[-1].write_text(text)
    arguments = [*map(str, paths), "--output", str(tmp_path / name), *options.split()]
    assert build_lm.main(arguments) == 0
    return LanguageModel.read(tmp_path / name)


def random_text(seed: int, lines: int = 300, words: str = "ABCDEFGHIJKL") -> str:
    """Sentences in which a word depends on the two words before, so that all orders matter."""
    rng = random.Random(seed)
    result = []
    for _ in range(lines):
        sentence = rng.choices(words, k=2)
        while rng.random() < 0.85:
            start = 3 * words.index(sentence[-1]) + 5 * words.index(sentence[-2])
            sentence.append(words[(start + int(rng.expovariate(0.6))) % len(words)])
        result.append(" ".join(sentence))
    return "\n".join(result) + "\n"


class Textbook:
    """Interpolated modified Kneser-Ney as Chen and Goodman write it, with plain dictionaries."""

    def __init__(self, text: str, order: int, thresholds: tuple[int, ...] = (), words=()):
        thresholds = [*thresholds] + [thresholds[-1] if thresholds else 0] * order
        sentences = [["<s>", *line.split(), "</s>"] for line in text.splitlines()]
        raw = [Counter(tuple(s[i:i + n]) for s in sentences for i in range(len(s) - n + 1))
               for n in range(1, order + 1)]
        self.vocabulary = {"<unk>", *words, *(word for word, in raw[0])} - {"<s>"}
        self.kept = [{g for g in raw[n] if n == 0 or raw[n][g] > thresholds[n]}
                     for n in range(order)]
        self.counts = []
        for n in range(order):
            if n == order - 1:
                counts = dict(raw[n])
            else:
                counts = {g: len({h[0] for h in raw[n + 1] if h[1:] == g}) for g in raw[n]}
                counts |= {g: raw[n][g] for g in raw[n] if g[0] == "<s>"}
            counts.pop(("<s>",), None)
            self.counts.append(counts)
        self.discounts = [self.find_discounts(counts) for counts in self.counts]

    @staticmethod
    def find_discounts(counts):
        t = [sum(c == k for c in counts.values()) for k in range(5)]
        if not all(t[1:]):
            return {1: 0.5, 2: 1.0, 3: 1.5}
        y = t[1] / (t[1] + 2 * t[2])
        found = {k: k - (k + 1) * y * t[k + 1] / t[k] for k in (1, 2, 3)}
        usable = all(0 <= d <= k for k, d in found.items())
        return found if usable else {1: 0.5, 2: 1.0, 3: 1.5}

    def prob(self, history: tuple[str, ...], word: str) -> float:
        """p(word | history) for a history of any length up to order - 1."""
        n = len(history)
        after = {g: c for g, c in self.counts[n].items() if g[:-1] == history}
        total = sum(after.values())
        shorter = self.prob(history[1:], word) if n else 1 / len(self.vocabulary)
        if not total:
            return shorter
        taken = {g: self.discounts[n][min(c, 3)] if g in self.kept[n] else c
                 for g, c in after.items()}
        gram = (*history, word)
        return (after.get(gram, 0) - taken.get(gram, 0) + sum(taken.values()) * shorter) / total

    def score(self, words: list[str]) -> list[float]:
        order, full = len(self.counts), ["<s>", *words, "</s>"]
        return [math.log(self.prob(tuple(full[max(0, i - order + 1):i]), full[i]))
                for i in range(1, len(full))]


def contexts(lm: LanguageModel) -> dict[int, str]:
    """A word sequence for every state."""
    found, reached = {lm.empty: "", lm.begin: "<s>"}, [lm.empty, lm.begin]
    while reached:
        state = reached.pop()
        for word, i in lm.ids.items():
            if word not in ("<s>", "</s>"):
                following = advance(lm.tables, state, i)[1]
                if following not in found:
                    found[following] = f"{found[state]} {word}"
                    reached.append(following)
    return found


def assert_sums_to_one(lm: LanguageModel) -> None:
    words = [i for word, i in lm.ids.items() if word != "<s>"]
    for state, context in contexts(lm).items():
        total = sum(math.exp(advance(lm.tables, state, i)[0]) for i in words)
        assert total == pytest.approx(1, abs=2e-5), context


def assert_same_as_kenlm(lm: LanguageModel, path) -> None:
    oracle = kenlm.Model(str(path))
    rng = random.Random(0)
    for _ in range(100):
        words = rng.choices(["OTHER", *lm.words[3:]], k=rng.randrange(1, 9))
        expected = [p * LOG10 for p, _, _ in oracle.full_scores(" ".join(words))]
        assert lm.score(words) == pytest.approx(expected, abs=1e-4)


# --- estimation ----------------------------------------------------------------------------------


def test_a_bigram_model_by_hand(tmp_path, caplog):
    """Two sentences, A B and A C; discounts cannot be estimated and are 0.5, 1 and 1.5.

    Words occur after different words: A 1 (<s>), B 1 (A), C 1 (A), </s> 2 (B, C); in all 5.
    Taken off: 0.5 + 0.5 + 0.5 + 1 = 2.5, half; it is shared by 5 words (<unk> too): 0.1 each.
    """
    lm = build(tmp_path, "A B\nA C\n", options="--order 2")
    a, b, end, unk = 0.5 / 5 + 0.1, 0.5 / 5 + 0.1, 1 / 5 + 0.1, 0.1
    assert np.exp(lm.score(["Z"], begin=False, end=False)) == pytest.approx([unk])
    # after <s>: A twice, 2 - 1 of 2; half is left for A (0.2 of it) and others
    assert np.exp(lm.score(["A", "B"])) == pytest.approx([
        0.5 + 0.5 * a, 0.5 / 2 + 0.5 * b, 0.5 / 1 + 0.5 * end], rel=1e-5)
    assert np.exp(lm.score(["C"])) == pytest.approx([0.5 * b, 0.5 + 0.5 * end], rel=1e-5)
    assert lm.counts == (6, 5) and "order 2: too few n-grams to estimate discounts" in caplog.text


@pytest.mark.parametrize(("order", "prune"), [
    (1, ()), (2, ()), (3, ()), (4, ()), (3, (0, 1)), (3, (0, 0, 2)), (4, (0, 1, 2, 3))])
def test_probabilities_are_those_of_the_textbook(tmp_path, order, prune):
    text = random_text(order)
    options = f"--order {order}" + (f" --prune {' '.join(map(str, prune))}" if prune else "")
    lm, oracle = build(tmp_path, text, options=options), Textbook(text, order, prune)
    assert lm.counts == (len(oracle.vocabulary) + 1, *map(len, oracle.kept[1:]))
    rng = random.Random(1)
    for _ in range(150):
        words = rng.choices("ABCDEFGHIJKLM", k=rng.randrange(1, 9))  # M does not occur
        expected = oracle.score([word if word != "M" else "<unk>" for word in words])
        assert lm.score(words) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("options", [
    "", "--order 1", "--order 4 --prune 0 1 1", "--vocabulary 6", "--order 2 --prune 0 3",
])
def test_probabilities_sum_to_one_after_every_context_and_kenlm_reads_the_same(tmp_path, options):
    lm = build(tmp_path, random_text(5), options=options)
    assert_sums_to_one(lm)
    if lm.order > 1:  # KenLM refuses order 1
        assert_same_as_kenlm(lm, tmp_path / "lm.arpa")


def test_words_beyond_the_vocabulary_limit_are_unk(tmp_path):
    text = "A B\nA B\nC A\nD A\n"
    lm = build(tmp_path, text, options="--order 2 --vocabulary 2")
    assert lm.words == ["<unk>", "<s>", "</s>", "A", "B"]
    oracle = Textbook(text.replace("C", "<unk>").replace("D", "<unk>"), 2)
    assert lm.score(["C", "A"]) == pytest.approx(oracle.score(["<unk>", "A"]), abs=1e-5)


def test_of_equally_frequent_words_the_first_in_the_alphabet_stay(tmp_path):
    assert build(tmp_path, "D C B A\n", options="--vocabulary 2").words[3:] == ["A", "B"]


# --- mixtures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("prune", [(), (0, 0, 1)])
def test_a_mixture_is_the_mean_of_its_models(tmp_path, capsys, prune):
    """Exactly for n-grams that a model has; others back off so that all sums to one."""
    texts = random_text(1), random_text(2, 100, "BCDEFGHIJKLM")
    (tmp_path / "dev.txt").write_text(random_text(3, 50) + "A Z\n")
    options = f"--mix True --dev {tmp_path}/dev.txt"
    options += f" --prune {' '.join(map(str, prune))}" if prune else ""
    lm = build(tmp_path, *texts, options=options)
    out = capsys.readouterr().out
    weights = [float(line.split("weight ")[1]) for line in out.splitlines() if "weight" in line]
    assert sum(weights) == pytest.approx(1) and weights[0] > 0.8  # dev is like the first
    models = [Textbook(text, 3, prune, words="ABCDEFGHIJKLM") for text in texts]
    grams = set().union(*(model.kept[2] for model in models))
    for gram in sorted(grams):
        expected = sum(w * model.prob(gram[:2], gram[2])
                       for w, model in zip(weights, models, strict=True))
        words, begin = (list(gram), False) if gram[0] != "<s>" else (list(gram[1:]), True)
        words, end = (words[:-1], True) if words[-1] == "</s>" else (words, False)
        found = lm.score(words, begin, end)[-1]
        assert math.exp(found) == pytest.approx(expected, rel=2e-3)  # weights have three digits
    assert lm.counts[2] == len(grams)
    assert_sums_to_one(lm)
    assert_same_as_kenlm(lm, tmp_path / "lm.arpa")


def test_weights_are_those_of_the_highest_likelihood():
    probs = np.random.default_rng(0).uniform(0.01, 1, (2, 500))
    weights = build_lm.find_weights(probs)
    grid = np.linspace(0, 1, 10001)
    likelihood = np.log(np.outer(grid, probs[0]) + np.outer(1 - grid, probs[1])).sum(axis=1)
    assert weights[0] == pytest.approx(grid[np.argmax(likelihood)], abs=1e-3)
    assert weights.sum() == pytest.approx(1)


def test_a_mixture_is_better_on_dev_than_each_of_its_models(tmp_path, capsys):
    (tmp_path / "dev.txt").write_text(random_text(3, 50) + random_text(4, 50, "LKJIHGFEDCBA"))
    build(tmp_path, random_text(1), random_text(2, words="LKJIHGFEDCBA"),
          options=f"--mix True --dev {tmp_path}/dev.txt --order 2")
    first, second, *_, mixture = [
        float(line.split("perplexity ")[1].split(",")[0])
        for line in capsys.readouterr().out.splitlines() if "perplexity" in line]
    assert mixture < min(first, second)


def test_perplexity_is_kenlms_and_unknown_words_are_counted(tmp_path, capsys):
    dev = "A B C\nB Z A\n"
    (tmp_path / "dev.txt").write_text(dev)
    build(tmp_path, random_text(1), options=f"--dev {tmp_path}/dev.txt")
    scores = [p * LOG10 for line in dev.splitlines()
              for p, _, unknown in kenlm.Model(str(tmp_path / "lm.arpa")).full_scores(line)
              if not unknown]
    expected = f"dev.txt: perplexity {math.exp(-np.mean(scores)):.1f}, 16.67 % unknown words"
    assert len(scores) == 7 and expected in capsys.readouterr().out


# --- texts ---------------------------------------------------------------------------------------


def test_a_letter_model_is_that_of_the_different_words(tmp_path, capsys):
    """Order, repetition and sentences do not matter, and dev counts each different word once."""
    (tmp_path / "dev.txt").write_text("DOES DOES\nIT DOES\n")
    dev = f"--dev {tmp_path / 'dev.txt'}"
    letters = build(tmp_path, "IT DOES IT\nIT'S SO\n", options=f"--letters True --order 2 {dev}")
    said = capsys.readouterr().out
    spelled = build(tmp_path, "D O E S\nI T\nI T ' S\nS O\n", options="--order 2")
    assert letters.counts == spelled.counts and set(letters.ids) == set(spelled.ids)
    for word in ("SIT", "TOE'S"):
        np.testing.assert_allclose(letters.score([*word]), spelled.score([*word]), atol=1e-6)
    log_probs = np.concatenate([letters.score([*word]) for word in ("DOES", "IT")])
    assert f"perplexity {np.exp(-log_probs.mean()):.1f}, 0.00 % unknown" in said


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, bytes])
@pytest.mark.parametrize("suffix", ["", ".gz", ".xz"])
def test_texts_and_models_may_be_packed(tmp_path, pack, suffix):
    (tmp_path / "text").write_bytes(pack(b"A B\n"))
    output = tmp_path / f"lm.arpa{suffix}"
    assert build_lm.main([str(tmp_path / "text"), "--output", str(output)]) == 0
    content = {"": bytes, ".gz": gzip.decompress, ".xz": lzma.decompress}[suffix](
        output.read_bytes())
    assert content.startswith(b"\\data\\\nngram 1=5\n") and content.endswith(b"\\end\\\n")
    assert LanguageModel.read(output).words[3:] == ["A", "B"]


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz"])
def test_the_same_texts_give_the_same_bytes(tmp_path, suffix, monkeypatch):
    contents = set()
    for clock, folder in enumerate(["one", "two"]):
        (tmp_path / folder).mkdir()
        with monkeypatch.context() as later:
            later.setattr("time.time", lambda clock=clock: 1e9 * (clock + 1))
            build(tmp_path / folder, random_text(1), name=f"lm.arpa{suffix}")
        contents.add((tmp_path / folder / f"lm.arpa{suffix}").read_bytes())
    assert len(contents) == 1


@pytest.mark.parametrize(("text", "words"), [
    ("a b\r\n\r\n  a\tc  \n", ["A", "B", "C"]), ("\ufeffa", ["A"]), ("a\u00a0b", ["A", "B"]),
    ("Hello, world!", ["HELLO", "WORLD"]), ("it\u2019s 'tis", ["'TIS", "IT'S"]),
    ("well-known", ["KNOWN", "WELL"]), ("a 42 b", ["A", "B"]), ("a мир b <unk>", ["A", "B"]),
    ("a <s> </s> b", ["A", "B"]),
])
def test_texts_are_written_as_the_labels_write(tmp_path, text, words):
    assert build(tmp_path, text).words[3:] == words


def test_what_becomes_of_characters_that_the_labels_lack_is_said(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    build(tmp_path, "Yes, 42, or 42!\n")
    assert "punctuation became space: ',' 2, '!' 1" in caplog.text
    assert "2 words with characters that the labels lack became <unk>: '42' 2" in caplog.text


def test_other_labels(tmp_path):
    (tmp_path / "labels.json").write_text('["а", "б", "-", " ", "_"]')
    lm = build(tmp_path, "БА-А аб", options=f"--labels_path {tmp_path}/labels.json")
    assert lm.words[3:] == ["аб", "ба-а"]


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(("content", "options", "message"), [
    (b"A B", "--letters True --vocabulary 9", "--letters True: --vocabulary has no use"),
    (b"A", "--order 7", "--order 7: needed is 1 to 6"),
    (b"A", "--order 0", "--order 0: needed is 1 to 6"),
    (b"A", "--prune 1", "--prune 1: needed are at most 3 counts"),
    (b"A", "--prune 0 2 1", "none below the one before"),
    (b"A", "--prune 0 1 1 1", "needed are at most 3 counts"),
    (b"A", "--prune 0 -1", "--prune 0 -1"),
    (b"A", "--vocabulary -5", "--vocabulary -5"),
    (b"A", "--mix True", "needed are two TEXTs or more, and --dev"),
    (b"A", "--output {0}/lm.bin", "needed is a name in .arpa, .arpa.gz or .arpa.xz"),
    (b"A", "--output {0}/text.txt/lm.arpa", "cannot write there"),
    (b"A", "--labels_path {0}/none.json", "cannot read the labels"),
    (b"A", "--dev {0}/none.txt", "none.txt: cannot read the text: No such file"),
    (b"", "", "text.txt: no word that the labels can write"),
    (b"\n \n", "", "text.txt: no word that the labels can write"),
    ("дом мир\n".encode(), "", "text.txt: no word that the labels can write"),
    (b"A\n\xc9T\xc9\n", "", "text.txt:2: not UTF-8: invalid continuation byte at byte 1"),
    (gzip.compress(random_text(1).encode())[:-9], "", "text.txt: the packed file is cut"),
])
def test_what_makes_no_model_is_refused_and_nothing_is_written(
        tmp_path, capsys, content, options, message):
    text = tmp_path / "text.txt"
    text.write_bytes(content)
    arguments = [str(text), "--output", str(tmp_path / "lm.arpa"),
                 *options.format(tmp_path).split()]
    assert build_lm.main(arguments) == 2
    assert message in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["text.txt"]


def test_a_model_that_is_there_stays_when_the_new_one_fails(tmp_path, monkeypatch, capsys):
    (tmp_path / "text.txt").write_text("A\n")
    (tmp_path / "lm.arpa").write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr("deepspeech2.decoding.arpa._write", full)
    arguments = [str(tmp_path / "text.txt"), "--output", str(tmp_path / "lm.arpa")]
    assert build_lm.main(arguments) == 1
    assert "No space left" in capsys.readouterr().err
    assert (tmp_path / "lm.arpa").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2
