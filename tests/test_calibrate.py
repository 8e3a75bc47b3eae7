"""Probabilities of words: what is fitted, what becomes of it in a model, and the command."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from conftest import ROOT
from scipy.optimize import minimize

from deepspeech2 import load_model
from deepspeech2.confidence import Confidence, logit
from deepspeech2.errors import InputError
from deepspeech2.model_info import ModelInfo, read_info
from src.evaluation import ScoredUtterance, count_errors
from tools import calibrate

BIAS, SLOPE = -1.5, 0.6


@pytest.fixture
def words() -> calibrate.Words:
    """3,000 words of 40 speakers, right as often as BIAS and SLOPE say."""
    rng = np.random.default_rng(0)
    probabilities = rng.uniform(0.2, 0.999, 3000)
    chances = 1 / (1 + np.exp(-BIAS - SLOPE * np.log(probabilities / (1 - probabilities))))
    speakers = rng.choice([f"s{i}" for i in range(40)], 3000)
    return calibrate.Words(probabilities, rng.uniform(size=3000) < chances, speakers)


# the fit

def test_it_is_the_likeliest(words):
    """As a minimiser of SciPy finds it, but for the targets, which are not quite 0 and 1."""
    inputs = np.log(words.probabilities / (1 - words.probabilities))
    signs = np.where(words.right, 1, -1)
    oracle = minimize(lambda x: np.logaddexp(0, -signs * (x[0] + x[1] * inputs)).sum(), [0, 1]).x
    found = calibrate.fit(words)
    assert (found.bias, found.slope) == pytest.approx(tuple(oracle), abs=0.01)
    assert abs(found.bias - BIAS) < 0.2 and abs(found.slope - SLOPE) < 0.1


def test_speakers_that_were_not_fitted_get_honest_probabilities(words):
    before, after = (calibrate.measures(values, words.right)
                     for values in (words.probabilities, calibrate.crossed(words)))
    assert after[0] == pytest.approx(words.right.mean(), abs=0.02)
    assert after[1] < 0.04 < 0.2 < before[1] and after[2] < before[2]


def test_each_half_gets_the_fit_of_the_other(words):
    """One half is right more often than the other one."""
    often = np.isin(words.speakers, sorted(set(words.speakers))[::2])
    right = words.probabilities > np.where(often, 0.4, 0.9) + 0.05 * (np.arange(3000) % 3 - 1)
    found = calibrate.crossed(dataclasses.replace(words, right=right))
    assert found[often].mean() == pytest.approx(right[~often].mean(), abs=0.02)
    assert found[~often].mean() == pytest.approx(right[often].mean(), abs=0.02)


@pytest.mark.parametrize("right", [True, False])
def test_words_that_are_all_right_or_all_wrong(words, right):
    with pytest.raises(InputError, match=f"3000 words are {'right' if right else 'wrong'}: "):
        calibrate.fit(dataclasses.replace(words, right=np.full(3000, right)))


def test_probabilities_that_say_the_opposite_are_refused(words):
    with pytest.raises(InputError, match=r"surer of are not more often right \(slope -0\.\d+, "):
        calibrate.fit(dataclasses.replace(words, right=~words.right))


def test_measures_of_words_by_hand():
    values, right = np.array([0.95, 0.91, 0.35, 0.31]), np.array([True, False, False, True])
    mean, error, loss = calibrate.measures(values, right)
    assert (mean, error) == pytest.approx((0.63, (0.86 + 0.34) / 4))
    assert loss == pytest.approx(-np.log([0.95, 0.09, 0.65, 0.31]).mean())


def test_insertions_are_wrong_and_deletions_are_no_words():
    texts = [("A B C", "A X C D"), ("A B", "B"), ("A", "")]
    chances = [(0.9, 0.8, 0.7, 0.6), (0.5,), ()]
    utterances = [
        ScoredUtterance(row, "", *pair, count_errors(*pair), 1.0, None, confidences=values)
        for row, (pair, values) in enumerate(zip(texts, chances, strict=True))
    ]
    found = calibrate.find_words(utterances, ["s", "t", "u"])
    assert found.probabilities.tolist() == [0.9, 0.8, 0.7, 0.6, 0.5]
    assert found.right.tolist() == [True, False, True, False, True]
    assert found.speakers.tolist() == ["s", "s", "s", "s", "t"]


def test_words_that_are_not_those_of_the_text_do_not_count():
    """Where a label is a tab, the model's word is two in the text."""
    texts = ("A B", "A\tB")
    one = ScoredUtterance(0, "", *texts, count_errors(*texts), 1.0, None, confidences=(0.9,))
    assert len(calibrate.find_words([one], ["s"]).right) == 0


# in a model

def test_confidence_is_the_formula_and_ranks_as_before():
    confidence = Confidence(BIAS, SLOPE)
    values = [0.01, 0.3, 0.5, 0.9, 0.999]
    found = [confidence(value) for value in values]
    assert found == pytest.approx([1 / (1 + np.exp(-BIAS) * (1 / v - 1) ** SLOPE) for v in values])
    assert 0 < confidence(0.0) < found[0] and found[-1] < confidence(1.0) < 1
    assert Confidence(0, 1)(0.3) == pytest.approx(0.3)
    assert logit(np.array([0.5, 1.0])) == pytest.approx([0, np.log(9999)])


def test_it_is_stored_with_a_model_and_wrong_values_are_named(labels):
    info = ModelInfo({}, labels, 4, confidence={"network": Confidence(-1, 0.5)})
    text = info.to_json()
    assert ModelInfo.from_json(text, "a.json") == info
    for before, after in (("0.5", "-0.5"), ('"slope"', '"slop"'), ("-1", '"x"'), ("-1", "NaN"),
                          ('{\n      "bias": -1,\n      "slope": 0.5\n    }', "[1, 2]")):
        assert before in text
        with pytest.raises(InputError, match="a.json: the model's settings cannot be read"):
            ModelInfo.from_json(text.replace(before, after), "a.json")


@pytest.fixture
def copied(tmp_path):
    """The AN4 model of the package, without its confidence."""
    for suffix in (".onnx", ".json"):
        shutil.copy(ROOT / "deepspeech2" / "assets" / f"an4{suffix}", tmp_path)
    content = json.loads((tmp_path / "an4.json").read_text())
    content.pop("confidence", None)
    (tmp_path / "an4.json").write_text(json.dumps(content))
    return tmp_path / "an4.onnx"


def test_the_command_writes_what_transcripts_then_have(copied, shared, tmp_path, capsys):
    """Real speech of two speakers."""
    from data import an4
    assert an4.main(["--source", str(shared / "data" / "an4"), "--target", str(tmp_path)]) == 0
    lines = (tmp_path / "an4_val_manifest.csv").read_text().splitlines()
    manifest = tmp_path / "some.csv"
    manifest.write_text("\n".join(line for line in lines if "mmsh" in line or "mjes" in line))
    before = load_model(copied).transcribe(lines[-1].split(",")[0])
    assert calibrate.main([str(copied), str(manifest), "--config", str(ROOT / "configs/an4.yaml"),
                           f"TrainingConfig.log_dir={tmp_path}"]) == 0
    assert "words of 2 speakers" in (out := capsys.readouterr().out) and "network: bias" in out
    confidence = read_info(copied).confidence["network"]
    after = load_model(copied).transcribe(lines[-1].split(",")[0])
    (old,), (new,) = before.segments, after.segments
    assert (new.text, new.probability) == (old.text, old.probability)
    assert [word.probability for word in new.words] == pytest.approx(
        [confidence(word.probability) for word in old.words])


def test_what_the_command_refuses(copied, demo_corpus, tmp_path, capsys):
    one = tmp_path / "one.csv"
    one.write_text((demo_corpus / "demo_val_manifest.csv").read_text().splitlines()[0])
    for arguments, words in (
            ([str(copied), str(one)], "words of fewer than two speakers"),
            ([str(tmp_path / "none.onnx"), str(one)], "none.onnx: no such model"),
            ([str(copied), str(tmp_path / "none.csv")], "none.csv: cannot read the manifest"),
            ([str(copied), str(one), "LMConfig.decoder_type=beam"], "LMConfig.decoder_type: "),
            ([str(copied), str(one), "--lm", "none.arpa"], "none.arpa: cannot read the language")):
        assert calibrate.main(arguments) == 2
        assert words in capsys.readouterr().err
    assert not read_info(copied).confidence
