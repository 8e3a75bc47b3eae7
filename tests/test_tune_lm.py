"""Weights of a beam search, tuned on halves of the speakers, against a loop over all weights."""

import itertools
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from test_beam import random_probs, write_arpa

import deepspeech2.cli
import eval as evaluation_command
from deepspeech2 import load_model
from deepspeech2.decoding.beam import BeamSearch
from deepspeech2.decoding.decoders import LMConfig, read_settings
from deepspeech2.decoding.language_model import LanguageModel
from deepspeech2.labels import Labels
from deepspeech2.metrics import count_errors
from tools import build_lm, tune_lm

LABELS = Labels("AB _")
SPEAKERS = ["s1", "s4", "s2", "s3", "s1", "s3", "s2", "s4"]  # s1 and s3 are half A


class Case:
    """A folder with a manifest of eight utterances, matrices, and a language model.

    Attributes:
        probs: matrices of the utterances.
        references: their transcripts.
    """

    def __init__(self, folder, write_wav, seed=0):
        rng = np.random.default_rng(seed)
        self.folder = folder
        self.probs = [random_probs(rng, 10 + row, LABELS) for row in range(len(SPEAKERS))]
        self.references = [" ".join(rng.choice(["A", "B", "AB", "BA", "AA", "BBB"], 3))
                           for _ in SPEAKERS]
        (folder / "labels.json").write_text(json.dumps(LABELS.characters))
        lines = []
        for row, (text, speaker) in enumerate(zip(self.references, SPEAKERS, strict=True)):
            write_wav(folder / f"{speaker}-{row}.wav", seconds=0.02 * len(self.probs[row]))
            (folder / f"{row}.txt").write_text(text)
            lines.append(f"{speaker}-{row}.wav,{row}.txt\n")
        (folder / "manifest.csv").write_text("".join(lines))
        write_arpa(folder / "lm.arpa", rng)
        self.save()

    def save(self):
        np.savez(self.folder / "outputs.npz", *self.probs)

    def run(self, *options, lm="lm.arpa", output="decoder.json", pattern=r"/(s\d)-\d"):
        """The exit code of a run that writes `output` and surface.png."""
        folder = self.folder
        return tune_lm.main([
            f"{folder}/manifest.csv", f"{folder}/outputs.npz", "--lm", f"{folder}/{lm}",
            "--output", f"{folder}/{output}", "--plot", f"{folder}/surface.png", *options,
            f"DataConfig.labels_path={folder}/labels.json",
            f"DataConfig.speaker_pattern={pattern}"])

    def written(self):
        """What a run left in the folder."""
        return sorted(path.name for path in self.folder.iterdir()
                      if path.name.startswith(".") or path.suffix == ".png"
                      or path.name == "decoder.json")

    def word_errors(self, alpha, beta, unknown_cost):
        """(N,) word errors, computed with one search for each of the weights."""
        search = BeamSearch(
            LABELS, LMConfig("beam", alpha=alpha, beta=beta, unknown_cost=unknown_cost),
            LanguageModel.read(self.folder / "lm.arpa"))
        return np.array([edit_distance(reference.split(), search.decode(probs)[0].text.split())
                         for reference, probs in zip(self.references, self.probs, strict=True)])


def around(weights):
    """The weights half a coarse step away in alpha and beta."""
    alpha, beta, cost = weights
    return [(max(0, round(alpha + a, 3)), beta + b, cost)
            for a in (-0.1, 0, 0.1) for b in (-0.5, 0, 0.5)]


def edit_distance(a, b):
    row = list(range(len(b) + 1))
    for i, x in enumerate(a):
        diagonal, row[0] = i, i + 1
        for j, y in enumerate(b):
            diagonal, row[j + 1] = row[j + 1], min(
                diagonal + (x != y), row[j] + 1, row[j + 1] + 1)
    return row[-1]


@pytest.fixture
def case(tmp_path, write_wav):
    return Case(tmp_path, write_wav)


def rows_of(output: str) -> dict[str, list[float]]:
    """{name: numbers} of the printed table."""
    names = ("greedy", "defaults", "tuned on A", "tuned on B", "tuned on all", "cross-tuned")
    return {name: [float(cell.rstrip("*")) for cell in line.removeprefix(name).split()]
            for line in output.splitlines() for name in names if line.startswith(name + " ")}


def test_the_weights_are_the_best_of_all_that_were_tried(case, capsys):
    assert case.run() == 0
    rows = rows_of(capsys.readouterr().out)
    a = np.isin(SPEAKERS, ["s1", "s3"])
    coarse = {w: case.word_errors(*w) for w in itertools.product(*tune_lm.COARSE)}
    words = 3
    for name, part in (("tuned on A", a), ("tuned on B", ~a), ("tuned on all", a | ~a)):
        alpha, beta, cost, *rates = rows[name]
        own = case.word_errors(alpha, beta, cost)
        fewest = min(errors[part].sum() for errors in coarse.values())
        # around some best coarse weights, and the best there
        nearby = [around(best) for best, errors in coarse.items() if errors[part].sum() == fewest]
        nearby = [ws for ws in nearby if (alpha, beta, cost) in ws]
        assert any(own[part].sum() == min(case.word_errors(*w)[part].sum() for w in ws)
                   for ws in nearby)
        expected = [100 * own[p].sum() / (words * p.sum()) for p in (a, ~a, a | ~a)]
        assert rates[:3] == pytest.approx(expected, abs=0.006)
    crossed = np.where(a, case.word_errors(*rows["tuned on B"][:3]),
                       case.word_errors(*rows["tuned on A"][:3]))
    assert rows["cross-tuned"][2] == pytest.approx(100 * crossed.sum() / 24, abs=0.006)
    written = read_settings(case.folder / "decoder.json")
    assert [written.alpha, written.beta, written.unknown_cost] == rows["tuned on all"][:3]
    assert written.lm_path == str(case.folder / "lm.arpa")
    assert case.written() == ["decoder.json", "surface.png"]


def test_the_lexicon_of_the_settings(case):
    """Weights that are tuned without it would be those of another decoder."""
    words = sorted({word for text in case.references for word in text.split()})
    (case.folder / "words.txt").write_text("\n".join(words))
    assert case.run("LMConfig.decoder_type=beam",
                    f"LMConfig.lexicon_path={case.folder}/words.txt") == 0
    assert read_settings(case.folder / "decoder.json").lexicon_path == f"{case.folder}/words.txt"


def test_the_language_model_of_the_settings_of_another_run(case):
    """As that of `english`, which also has a name."""
    (case.folder / "other.json").write_text(
        '{"LMConfig": {"decoder_type": "beam", "lm_path": "lm.arpa", "alpha": 9}}')
    assert case.run(lm="other.json") == 0
    written = read_settings(case.folder / "decoder.json")
    assert written.lm_path == str(case.folder / "lm.arpa") and written.alpha < 9


def test_selection_figures_are_marked(case, capsys):
    assert case.run() == 0
    lines = capsys.readouterr().out.splitlines()
    marked = {line[:14].strip(): [cell.endswith("*") for cell in line[39:].split()]
              for line in lines if line[:5] in ("greed", "defau", "tuned", "cross")
              and not line.startswith("cross-tuned:")}
    assert marked == {
        "greedy": [False] * 6, "defaults": [False] * 6, "tuned on A": [True, False, True] * 2,
        "tuned on B": [False, True, True] * 2, "tuned on all": [True] * 6,
        "cross-tuned": [False] * 6}
    assert lines[0] == "A: 4 utterances, 12 words of 2 speakers: s1 s3"
    assert lines[1] == "B: 4 utterances, 12 words of 2 speakers: s2 s4"


def test_two_runs_write_the_same(case, capsys):
    assert case.run("LMConfig.decoder_type=beam", "LMConfig.beam_width=20") == 0
    first = capsys.readouterr().out, (case.folder / "decoder.json").read_bytes()
    assert case.run("LMConfig.decoder_type=beam", "LMConfig.beam_width=20") == 0
    assert (capsys.readouterr().out, (case.folder / "decoder.json").read_bytes()) == first
    assert read_settings(case.folder / "decoder.json").beam_width == 20


@pytest.mark.parametrize(("errors", "index"), [
    ([[3, 1, 2]], (0, 1)),
    ([[1, 1, 1, 2]], (0, 1)),  # the middle, not the edge
    ([[1, 1, 2, 1, 1, 1]], (0, 4)),  # of the largest plateau
    ([[1, 1, 2]], (0, 0)),  # no middle: the smaller weight
    ([[5, 1, 5], [1, 1, 1], [5, 1, 5]], (1, 1)),
    ([[1, 1, 1], [1, 9, 1], [1, 1, 1]], (0, 1)),  # never a point beside the plateau
])
def test_of_equals_the_middle_of_the_plateau(errors, index):
    assert tune_lm.middle(np.array(errors)) == index


@pytest.mark.parametrize(("change", "words"), [
    (lambda c: c.probs.pop(), "7 arrays, but"),
    (lambda c: c.probs.append(c.probs[0]), "9 arrays, but"),
    (lambda c: c.probs.__setitem__(2, np.full((12, 5), 0.2)), "arr_2 ({}/manifest.csv:3) has shape "
     "(12, 5) and type float64, needed are floats (T', 4)"),
    (lambda c: c.probs.__setitem__(3, np.array(["A", "B"])), "arr_3 ({}/manifest.csv:4) has shape"),
    (lambda c: c.probs.reverse(), "the archive is of another manifest"),
    (lambda c: c.probs[5].__setitem__((4, 1), np.nan),
     "arr_5 ({}/manifest.csv:6): frame 4 has nan for class 1"),
    (lambda c: c.probs[1].__imul__(3), "arr_1 ({}/manifest.csv:2): the probabilities of frame 0 "
     "add up to 3, needed is 1: a softmax"),
    (lambda c: (c.folder / "6.txt").write_text(" \n"), "6.txt: the transcript is empty"),
    (lambda c: (c.folder / "lm.arpa").unlink(), "lm.arpa: cannot read the language model"),
    (lambda c: (c.folder / "lm.arpa").write_text("words"), "lm.arpa"),
])
def test_bad_input(case, change, words, capsys):
    change(case)
    case.save()
    assert case.run() == 2
    assert words.format(case.folder) in capsys.readouterr().err
    assert case.written() == []


@pytest.mark.parametrize(("options", "words"), [
    ({"pattern": ""}, "DataConfig.speaker_pattern is empty: one half of the speakers is tuned"),
    ({"pattern": "(manifest|s)"}, "fewer than two speakers, found by DataConfig.speaker_pattern"),
    ({"pattern": r"/(s[12])-\d"}, "manifest.csv:2: DataConfig.speaker_pattern"),
    ({"output": "lm.arpa"}, "lm.arpa: needed is a name in .json, .yaml, .yml"),
    ({"output": "labels.json"}, "labels.json: exists, and this command did not write it"),
])
def test_bad_options(case, options, words, capsys):
    before = {path: path.read_bytes() for path in case.folder.iterdir()}
    assert case.run(**options) == 2
    assert words in capsys.readouterr().err
    assert case.written() == [] and all(p.read_bytes() == b for p, b in before.items())


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_no_archive(case, content, capsys):
    path = case.folder / "outputs.npz"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert case.run() == 2
    assert str(path) in capsys.readouterr().err and case.written() == []


def test_a_cut_archive(case, capsys):
    path = case.folder / "outputs.npz"
    path.write_bytes(path.read_bytes()[:-200])
    assert case.run() == 2
    assert "outputs.npz: not a whole archive" in capsys.readouterr().err


def test_rows_that_could_not_be_read_are_left_out(case, capsys, caplog):
    case.probs[2] = np.zeros((0, 0), np.float32)
    case.save()
    assert case.run() == 0
    assert "1 of 8 rows have no matrix" in caplog.text
    assert "B: 3 utterances, 9 words of 2 speakers" in capsys.readouterr().out


def test_weights_at_the_edge_are_named():
    """But no alpha of 0, which is the least that is allowed."""
    assert tune_lm.edges(tune_lm.Weights(0.0, 1.0, 5.0)) == []
    assert [text.split()[0] for text in tune_lm.edges(tune_lm.Weights(1.3, 2.0, 16.0))] == [
        "alpha", "unknown_cost"]
    assert tune_lm.edges(tune_lm.Weights(0.4, -2.5, 5.0)) == ["beta -2.5 (-2 to 6 were tried)"]


def test_all_commands_take_the_file(demo_corpus, tmp_path, monkeypatch, capsys):
    """The WER of the table is the one of eval.py and of load_model, wherever the folder lies."""
    manifest = demo_corpus / "demo_val_manifest.csv"
    lines = [line.split(",") for line in manifest.read_text().splitlines()]
    texts = [Path(transcript).read_text().strip() for _, transcript in lines]
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    made, moved = tmp_path / "made", tmp_path / "moved"
    lm, outputs = made / "lm.arpa.gz", tmp_path / "outputs.npz"
    assert build_lm.main([str(tmp_path / "texts.txt"), "--output", str(lm)]) == 0
    evaluate = ["--pretrain_ckpt", f"{ROOT}/deepspeech2/assets/an4.onnx",
                f"DataConfig.test_manifest={manifest}", f"TrainingConfig.log_dir={tmp_path}"]
    assert evaluation_command.main([*evaluate, "--save_output", str(outputs)]) == 0
    assert tune_lm.main([str(manifest), str(outputs), "--lm", str(lm), "--output",
                         str(made / "decoder.yaml"), "DataConfig.speaker_pattern=(.*)",
                         f"DataConfig.labels_path={ROOT}/labels.json"]) == 0
    rows = rows_of(capsys.readouterr().out)
    wer = rows["tuned on all"][5]
    assert wer < rows["defaults"][5]  # so the weights of the file matter
    shutil.move(made, moved)
    monkeypatch.chdir(tmp_path)
    assert evaluation_command.main([*evaluate, "--config", "moved/decoder.yaml"]) == 0
    scored = re.search(r"Average WER (\S+)", capsys.readouterr().out)[1]
    assert float(scored) == pytest.approx(wer, abs=0.006)
    model = load_model("an4", lm="moved/decoder.yaml")
    heard = [model.transcribe(audio).text for audio, _ in lines]
    errors = sum((count_errors(*pair) for pair in zip(texts, heard, strict=True)),
                 start=count_errors("", ""))
    assert errors.wer_percent == pytest.approx(wer, abs=0.006)
    assert deepspeech2.cli.main(["transcribe", "--model", "an4", "--decoder_config",
                                 "moved/decoder.yaml", *(audio for audio, _ in lines)]) == 0
    assert capsys.readouterr().out.splitlines() == heard
