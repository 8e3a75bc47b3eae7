"""N-gram models: what they give words, what is cached, and what is refused."""

import itertools
import logging
import math
import random

import kenlm
import pytest
from flashlight.lib.text import dictionary
from flashlight.lib.text.decoder.kenlm import KenLM

from deepspeech2.decoding.language_model import LanguageModel, advance, compiled_advance
from deepspeech2.errors import InputError

LOG10 = math.log(10)
SMALL = """\\data\\
ngram 1=5
ngram 2=3

\\1-grams:
-1.5\t<unk>
-99\t<s>\t-0.3
-0.7\t</s>
-0.6\tA\t-0.2
-0.9\tB\t-0.1

\\2-grams:
-0.2\t<s> A
-0.3\tA B
-0.4\tB </s>

\\end\\
"""


def random_model(seed: int, order: int, suffixes: bool) -> list[dict[tuple[str, ...], list[float]]]:
    """{n-gram: [log10 probability, log10 backoff]} of each order; every context is there.

    With `suffixes` what an n-gram ends in is there too, as KenLM's binary format needs it.
    """
    rng = random.Random(seed)
    words = ["<unk>", "<s>", "</s>", *"ABCDE"]
    grams = [{(word,) for word in words}] + [set() for _ in range(order - 1)]
    for n in range(order, 1, -1):
        for _ in range(12 * n):
            gram = tuple(rng.choices(words[3:], k=n))
            gram = rng.choice([gram, ("<s>", *gram[1:]), (*gram[:-1], "</s>")])
            for k in range(2, n + 1):
                grams[k - 1].add(gram[:k])
                for start in range(n - k + 1) if suffixes else ():
                    grams[k - 1].add(gram[start : start + k])
    return [{gram: [-rng.uniform(0.1, 2), rng.choice([0, -rng.uniform(0, 1)]) * (n < order)]
             for gram in sorted(level)} for n, level in enumerate(grams, 1)]


def write(path, model, shuffle: int = 0):
    """Write a model as ARPA, in alphabetical or another order."""
    lines = ["\\data\\", *(f"ngram {n}={len(level)}" for n, level in enumerate(model, 1))]
    for n, level in enumerate(model, 1):
        entries = [f"{p:.6f}\t{' '.join(gram)}" + (f"\t{b:.6f}" if b else "")
                   for gram, (p, b) in level.items()]
        if shuffle:
            random.Random(shuffle).shuffle(entries)
        lines += ["", f"\\{n}-grams:", *entries]
    path.write_text("\n".join([*lines, "", "\\end\\", ""]))
    return path


def brute_force(model, history: list[str], word: str) -> float:
    """The natural log probability by the definition of backoff."""
    known = model[0]
    text = [w if (w,) in known else "<unk>" for w in [*history, word]]
    gram = tuple(text[-len(model):])
    total = 0.0
    while len(gram) > 1:
        if gram in model[len(gram) - 1]:
            break
        total += model[len(gram) - 2].get(gram[:-1], [0, 0])[1]
        gram = gram[1:]
    return (total + model[len(gram) - 1][gram][0]) * LOG10


def sentences(seed: int, count: int = 60):
    rng = random.Random(seed)
    return [rng.choices([*"ABCDE", "OTHER"], k=rng.randrange(9)) for _ in range(count)]


def small(tmp_path, text: str = SMALL):
    path = tmp_path / "lm.arpa"
    path.write_text(text)
    return path


def refusal(tmp_path, content: str | bytes) -> str:
    path = tmp_path / "lm.arpa"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as caught:
        LanguageModel.read(path)
    assert str(path) in str(caught.value)
    return str(caught.value).replace(str(path), "lm.arpa")


# --- probabilities -------------------------------------------------------------------------------


@pytest.mark.parametrize("suffixes", [True, False])
@pytest.mark.parametrize("order", [1, 2, 3, 4, 6])
def test_scores_are_those_of_the_definition(tmp_path, order, suffixes):
    model = random_model(order, order, suffixes)
    lm = LanguageModel.read(write(tmp_path / "lm.arpa", model, shuffle=1))
    assert lm.order == order and lm.counts == tuple(map(len, model))
    for words in sentences(order):
        for begin in (True, False):
            history = ["<s>"] if begin else []
            full = [*history, *words, "</s>"]
            expected = [brute_force(model, full[:i], full[i])
                        for i in range(len(history), len(full))]
            assert lm.score(words, begin=begin) == pytest.approx(expected, abs=1e-5)
            assert lm.score(words, begin, end=False) == pytest.approx(expected[:-1], abs=1e-5)


@pytest.mark.parametrize("order", [2, 3, 5])
def test_scores_are_those_that_flashlight_decodes_with(tmp_path, order):
    path = write(tmp_path / "lm.arpa", random_model(order, order, suffixes=True))
    lm = LanguageModel.read(path)
    numbers = dictionary.Dictionary()
    for word in lm.words:
        numbers.add_entry(word)
    oracle = KenLM(str(path), numbers)
    for words in sentences(order):
        state, found = oracle.start(False), []
        for word in words:
            number = numbers.get_index(word if word in lm.ids else "<unk>")
            state, score = oracle.score(state, number)
            found.append(score * LOG10)
        assert lm.score(words, end=False) == pytest.approx(found, abs=1e-5)


@pytest.mark.parametrize("order", [2, 3, 5])
def test_scores_are_those_of_kenlm(tmp_path, order):
    path = write(tmp_path / "lm.arpa", random_model(order, order, suffixes=True))
    lm, oracle = LanguageModel.read(path), kenlm.Model(str(path))
    for words in sentences(order):
        expected = [p * LOG10 for p, _, _ in oracle.full_scores(" ".join(words))]
        assert lm.score(words) == pytest.approx(expected, abs=1e-5)


def test_equal_states_have_equal_futures_and_no_two_states_the_same(tmp_path):
    """States are minimal: two of them differ in what they give some word sequence."""
    model = random_model(7, 3, suffixes=False)
    lm = LanguageModel.read(write(tmp_path / "lm.arpa", model))
    continuations = list(itertools.product(range(len(lm.words)), repeat=3))

    def future(state: int) -> tuple[float, ...]:
        result = []
        for words in continuations:
            at = state
            for word in words:
                log_prob, at = advance(lm.tables, at, word)
                result.append(round(log_prob, 4))
        return tuple(result)

    states = sorted({lm.begin, lm.empty, *lm.tables.state.tolist()})
    futures = {state: future(state) for state in states}
    assert len(states) > 10 and len(set(futures.values())) == len(states)


def test_the_state_is_as_long_as_kenlms(tmp_path):
    path = write(tmp_path / "lm.arpa", random_model(3, 4, suffixes=True))
    lm, oracle = LanguageModel.read(path), kenlm.Model(str(path))
    ours, theirs = {}, {}
    for words in sentences(3, 200):
        state, at = lm.begin, kenlm.State()
        oracle.BeginSentenceWrite(at)
        for word in words:
            _, state = advance(lm.tables, state, lm.ids.get(word, lm.unknown))
            following = kenlm.State()
            oracle.BaseScore(at, word, following)
            at = following
        ours.setdefault(state, set()).add(at)
        theirs.setdefault(at, set()).add(state)
    assert len(ours) > 10
    assert all(len(states) == 1 for states in (*ours.values(), *theirs.values()))


def test_compiled_code_gives_the_same(tmp_path):
    lm = LanguageModel.read(write(tmp_path / "lm.arpa", random_model(5, 4, suffixes=False)))
    compiled = compiled_advance()
    for state in {lm.begin, lm.empty, *lm.tables.state.tolist()}:
        for word in range(len(lm.words)):
            assert compiled(lm.tables, state, word) == advance(lm.tables, state, word)


def test_a_file_without_unk_gives_unknown_words_the_least_words_probability(tmp_path, caplog):
    text = SMALL.replace("-1.5\t<unk>\n", "").replace("1=5", "1=4")
    caplog.set_level(logging.INFO)
    lm = LanguageModel.read(small(tmp_path, text))
    assert lm.score(["OTHER"], begin=False, end=False) == [pytest.approx(-0.9 * LOG10)]
    assert "no <unk>" in caplog.text
    assert lm.score(["A", "B"]) == pytest.approx([p * LOG10 for p in (-0.2, -0.3, -0.4)])


def test_capital_unk_is_unk(tmp_path):
    lm = LanguageModel.read(small(tmp_path, SMALL.replace("<unk>", "<UNK>")))
    assert lm.score(["OTHER"], begin=False, end=False) == [pytest.approx(-1.5 * LOG10)]
