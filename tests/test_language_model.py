"""N-gram models: what they give words, what is cached, and what is refused."""

import errno
import gzip
import itertools
import logging
import lzma
import math
import os
import random
import tracemalloc
import unicodedata

import kenlm
import numpy as np
import pytest
from flashlight.lib.text import dictionary
from flashlight.lib.text.decoder.kenlm import KenLM

from deepspeech2.decoding import arpa, language_model
from deepspeech2.decoding.language_model import LanguageModel, advance, compiled_advance
from deepspeech2.errors import InputError
from deepspeech2.labels import Labels

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


# --- words and labels ----------------------------------------------------------------------------


@pytest.mark.parametrize(("characters", "spelled"), [
    ("'ABCÉ _", {"CAB": "cab", "CAFÉ": None, "ABC": "Abc", "'A": "'a", "BÉ": "be\u0301"}),
    ("abce\u0301 _", {"cab": "cab", "abc": "Abc", "bé": "be\u0301"}),
])
def test_words_are_put_into_case_and_unicode_form_of_the_labels(tmp_path, characters, spelled):
    words = ["cab", "café", "Abc", "'a", "be\u0301", "a\u00a0b"]  # the last has a wide space
    entries = "\n".join(f"-1.{i}\t{word}" for i, word in enumerate(words))
    text = SMALL.replace("-0.6\tA\t-0.2\n-0.9\tB\t-0.1", entries).replace("1=5", "1=9")
    lm = LanguageModel.read(small(tmp_path, text.partition("\\2-")[0].replace("ngram 2=3\n", "")
                                  + "\\end\\\n"))
    labels = Labels(list(unicodedata.normalize("NFC", characters)))
    expected = {spelling: lm.ids[word] for spelling, word in spelled.items() if word}
    assert lm.spellings(labels) == expected
    assert lm.coverage(labels) == len(expected) / len(words)


def test_of_words_that_become_the_same_the_more_probable_one_counts(tmp_path, labels):
    lm = LanguageModel.read(small(tmp_path, SMALL.replace("<s> A", "<s> a").replace("A B", "a B")
                                  .replace("A\t-0.2", "A\n-0.5\ta").replace("1=5", "1=6")))
    assert lm.spellings(labels) == {"A": lm.ids["a"], "B": lm.ids["B"]}
    assert lm.coverage(labels) == 1


def test_a_model_without_words_is_refused(tmp_path, labels):
    text = "\\data\\\nngram 1=2\n\n\\1-grams:\n-99\t<s>\n-0.5\t</s>\n\n\\end\\\n"
    with pytest.raises(InputError, match="the language model has no words"):
        LanguageModel.read(small(tmp_path, text)).coverage(labels)


def test_a_model_of_another_script_is_refused_with_a_word(tmp_path, labels):
    text = SMALL.replace("A", "МИР").replace("B", "дом")
    lm = LanguageModel.read(small(tmp_path, text))
    for ask in (lm.spellings, lm.coverage):
        with pytest.raises(InputError, match=r"lm\.arpa: the labels can spell none of the 2 words "
                                             r".*'МИР' has 'И' \(U\+0418\)"):
            ask(labels)


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
@pytest.mark.parametrize("name", ["lm.arpa", "lm.arpa.gz"])
def test_packed_files_are_read_whatever_their_name_is(tmp_path, pack, name):
    (tmp_path / name).write_bytes(pack(SMALL.encode()))
    assert LanguageModel.read(tmp_path / name).counts == (5, 3)


@pytest.mark.parametrize("change", [
    lambda text: text.replace("\n", "\r\n"), lambda text: "\ufeff" + text,
    lambda text: "made by a program\n\n" + text, lambda text: text.replace("\t", " "),
    lambda text: text.rstrip("\n"), lambda text: text.replace("-0.3\tA B", "-0.3\tA B\t0"),
    lambda text: text.replace("\n\n\\end", "\n\\end"), lambda text: text + "\n\n",
    lambda text: text.replace("-0.3\tA", "-3e-1\tA"),
])
def test_variants_of_the_format(tmp_path, change):
    lm = LanguageModel.read(small(tmp_path, change(SMALL)))
    assert lm.score(["A", "B"]) == pytest.approx([p * LOG10 for p in (-0.2, -0.3, -0.4)])


def test_blocks_of_any_size_give_the_same(tmp_path, monkeypatch):
    path = write(tmp_path / "lm.arpa", random_model(1, 3, suffixes=True))
    whole = LanguageModel.read(path)
    monkeypatch.setattr(arpa, "_CHUNK", 50)
    monkeypatch.setattr(arpa, "_BLOCK", 3)
    parts = LanguageModel.read(path)
    assert parts.words == whole.words
    for one, other in zip(parts.tables, whole.tables, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("old", "new", "message"), [
    ("\\data\\", "data", "not an ARPA language model: no line \\data\\"),
    ("ngram 1=5\nngram 2=3\n", "", "lm.arpa:2: the head announces no 1-grams"),
    ("ngram 2=3", "ngram 3=3", "lm.arpa:3: 'ngram 3=3' where 'ngram 2=COUNT' should come"),
    ("ngram 2=3", "ngram 2=many", "lm.arpa:3: 'ngram 2=many'"),
    ("ngram 2=3", "ngram 2=4", "lm.arpa:16: fewer 2-grams than the 4 that the head announces"),
    ("ngram 2=3", "ngram 2=2", "lm.arpa:15: more 2-grams than the 2 that the head announces"),
    ("ngram 2=3", "ngram 2=3000000000", "lm.arpa:4: 3000000005 n-grams, at most 2147483646"),
    ("1=5", "1=4", "lm.arpa:10: more 1-grams than the 4"),
    ("\n\\2-grams:", "\n\\3-grams:", "lm.arpa:12: '\\\\3-grams:' where \\2-grams: should come"),
    ("-0.3\tA B", "-0.3\tA", "lm.arpa:14: '-0.3\\tA' is no 2-gram: needed are a log probability, "
                             "2 words"),
    ("-0.3\tA B", "-0.3\tA B 0 0", "lm.arpa:14: '-0.3\\tA B 0 0' is no 2-gram"),
    ("-0.3\tA B", "-0.3\tA C", "lm.arpa:14: 'C' is not among the 1-grams"),
    ("-0.3\tA B", "nan\tA B", "lm.arpa:14: 'nan' is not a finite number"),
    ("-0.3\tA B", "-inf\tA B", "lm.arpa:14: '-inf' is not a finite number"),
    ("-0.3\tA B", "-1e300\tA B", "lm.arpa:14: '-1e300' is not a finite number"),
    ("B\t-0.1", "B\t1e39", "lm.arpa:10: '1e39' is not a finite number"),
    ("B\t-0.1", "B\tx", "lm.arpa:10: 'x' is not a finite number"),
    ("-0.3\tA B", "0.3\tA B", "lm.arpa:14: a log probability of '0.3'; none is above 0"),
    ("-0.3\tA B", "-0.3\t<s> A", "lm.arpa:14: '<s> A': the same n-gram stands in an earlier"),
    ("-0.9\tB", "-0.9\tA", "lm.arpa:10: 'A' stands among the 1-grams twice"),
    ("<s>", "<S>", "lm.arpa: <s> is not among the 1-grams"),
    ("</s>", "END", "lm.arpa: </s> is not among the 1-grams"),
    ("\n\\end\\\n", "", "lm.arpa:15: the file is cut: it ends where \\end\\ should come"),
    ("-0.4\tB </s>\n\n\\end\\\n", "", "lm.arpa:14: the file is cut: 1 of 3 2-grams are missing"),
])
def test_what_is_wrong_in_a_file_is_named_with_its_line(tmp_path, old, new, message):
    assert old in SMALL
    assert message in refusal(tmp_path, SMALL.replace(old, new))


def test_an_ngram_without_its_context_is_refused(tmp_path):
    text = SMALL.replace("ngram 2=3", "ngram 2=3\nngram 3=1").replace(
        "\\end\\", "\\3-grams:\n-0.1\tB A B\n\n\\end\\")
    assert "lm.arpa:19: 'B A B': its context is missing among the 2-grams" in refusal(
        tmp_path, text)


def test_order_7_is_refused_with_the_way_out(tmp_path):
    counts = "".join(f"ngram {n}=5\n" for n in range(1, 8))
    message = refusal(tmp_path, f"\\data\\\n{counts}\n\\1-grams:\n")
    assert "a model of order 7; orders 1 to 6 are read" in message and "-order 6" in message


@pytest.mark.parametrize(("content", "message"), [
    (b"", "lm.arpa: the language model is empty"),
    (b"mmap lm http://kheafield.com/code format version 5\n\0\0\0", "a KenLM binary"),
    (b"PK\x03\x04...", "a ZIP archive"), (b"\x00" * 5000, "not an ARPA language model"),
    ("ONE TWO\n" * 5000, "not an ARPA language model"),
    (SMALL.encode("utf-16"), "not an ARPA language model"),
    (SMALL.replace("A", "É").encode("latin-1"), "lm.arpa:9: b'\\xc9' is not UTF-8"),
    (gzip.compress(SMALL.encode())[:-20], "lm.arpa: the packed file is cut or damaged"),
    (gzip.compress(SMALL.encode())[:-4], "lm.arpa: the packed file is cut or damaged"),
    (gzip.compress(SMALL.encode())[:-8] + b"\0" * 8, "lm.arpa: the packed file is cut or damaged"),
    (lzma.compress(SMALL.encode())[:-20], "lm.arpa: the packed file is cut or damaged"),
    (b"\x1f\x8b" + b"x" * 100, "lm.arpa: the packed file is cut or damaged"),
])
def test_what_is_no_language_model_is_refused(tmp_path, content, message):
    assert message in refusal(tmp_path, content)


def test_missing_files_and_folders_are_refused(tmp_path):
    for path, reason in ((tmp_path / "lm.arpa", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(InputError, match=f"cannot read the language model: {reason}"):
            LanguageModel.read(path)


@pytest.mark.parametrize("content", ["\0", "\n", "x\n", SMALL + "\n"])
def test_a_file_that_unpacks_without_end_is_given_up_in_bounded_memory(
        tmp_path, content, monkeypatch):
    monkeypatch.setattr(arpa, "_ALWAYS", 1 << 20)
    monkeypatch.setattr(arpa, "_CHUNK", 1 << 16)
    bomb = gzip.compress((content * ((1 << 24) // len(content))).encode())
    assert len(bomb) < 1 << 17
    tracemalloc.start()
    try:
        refusal(tmp_path, bomb)
        assert tracemalloc.get_traced_memory()[1] < 1 << 22
    finally:
        tracemalloc.stop()


# --- the cache -----------------------------------------------------------------------------------


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """A file whose model is cached however small it is, and a home folder for tests."""
    monkeypatch.setattr(language_model, "CACHED_FROM", 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    (tmp_path / "model").mkdir()
    return write(tmp_path / "model" / "lm.arpa", random_model(9, 3, suffixes=True))


def same(one: LanguageModel, other: LanguageModel) -> bool:
    arrays = zip(one.tables, other.tables, strict=True)
    return (one.words, one.counts, one.begin) == (other.words, other.counts, other.begin) and all(
        a.dtype == b.dtype and np.array_equal(a, b) for a, b in arrays)


def no_parsing(monkeypatch):
    def refuse(path):
        raise AssertionError(f"{path} was parsed")
    monkeypatch.setattr(language_model, "read_arpa", refuse)


def test_the_second_reading_takes_the_cache(cached, monkeypatch):
    first = LanguageModel.read(cached)
    assert sorted(p.name for p in cached.parent.iterdir()) == ["lm.arpa", "lm.arpa.cache"]
    no_parsing(monkeypatch)
    assert same(LanguageModel.read(cached), first)


def test_a_small_file_gets_no_cache(tmp_path):
    LanguageModel.read(small(tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == ["lm.arpa"]


def test_a_file_that_changed_is_read_anew(cached):
    LanguageModel.read(cached)
    before = cached.stat()
    cached.write_text(cached.read_text().replace("E", "F"))
    os.utime(cached, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert "F" in LanguageModel.read(cached).ids


@pytest.mark.parametrize("damage", [
    lambda content: b"", lambda content: content[:-1], lambda content: content[:len(content) // 2],
    lambda content: b"x" * 1000,
    *(lambda content, share=share: content[:int(share * len(content))] + b"\xa5\x5a\xa5"
        + content[int(share * len(content)) + 3:] for share in np.linspace(0, 0.99, 25)),
])
def test_a_damaged_cache_is_passed_over_and_made_anew(cached, damage, monkeypatch):
    first = LanguageModel.read(cached)
    cache = cached.with_name("lm.arpa.cache")
    cache.write_bytes(damage(cache.read_bytes()))
    assert same(LanguageModel.read(cached), first)
    no_parsing(monkeypatch)
    assert same(LanguageModel.read(cached), first)


def test_where_nothing_can_be_written_the_users_cache_folder_is_taken(cached, monkeypatch, caplog):
    real = language_model.atomic_path

    def read_only(path):
        if path.parent == cached.parent:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path)
    monkeypatch.setattr(language_model, "atomic_path", read_only)
    first = LanguageModel.read(cached)
    assert len(list((cached.parents[1] / "home" / "deepspeech2").iterdir())) == 1
    assert not caplog.records
    with monkeypatch.context() as only_read:
        no_parsing(only_read)
        assert same(LanguageModel.read(cached), first)


def test_without_any_cache_the_reason_is_said_once(cached, monkeypatch, caplog):
    (cached.parent / "lm.arpa.cache").mkdir()  # cannot be replaced by a file
    (cached.parents[1] / "home").write_text("no folder")
    assert LanguageModel.read(cached).order == 3
    assert len(caplog.records) == 1 and "no cache" in caplog.text
