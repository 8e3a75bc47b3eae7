"""Evaluation with a model whose answers are known, so that every figure can be computed by hand."""

import csv
import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, model_that_says

from deepspeech2.decoding.decoders import make_decoder
from deepspeech2.errors import InputError, RunError
from deepspeech2.labels import Labels
from deepspeech2.metrics import ErrorCounts
from deepspeech2.model import Model
from src.config import load_config
from src.evaluation import (
    Evaluation,
    ScoredUtterance,
    details,
    evaluate,
    find_speakers,
    read_table,
    table_path,
    write_csv,
    write_outputs,
)
from src.manifest import read_manifest, write_manifest

LABELS = Labels.load(ROOT / "labels.json")


def says(text: str) -> Model:
    return model_that_says(text, LABELS)


def test_other_texts_of_a_beam_search_stand_in_the_table(manifest, tmp_path):
    """Decoded in two threads; the frames say GO, a hotword is preferred."""
    (tmp_path / "words.txt").write_text("go\nno\ngot\n")
    settings = ["decoder_type=beam", "top_paths=2", "lm_workers=2", "hotwords=GOT",
                "hotword_bonus=4", f"lexicon_path={tmp_path}/words.txt"]
    config = load_config(None, [f"LMConfig.{setting}" for setting in settings])
    greedy = says("GO")

    def acoustic(inputs, input_length):
        probs, lengths = greedy.acoustic(inputs, input_length)
        probs = probs**4 + 1e-6
        return probs / probs.sum(axis=2, keepdims=True), lengths

    model = Model(acoustic, config.model_info(LABELS), make_decoder(config.LMConfig, LABELS))
    evaluation = evaluate(model, manifest, config)
    assert {(u.hypothesis, len(u.alternatives)) for u in evaluation.utterances} == {("GOT", 1)}
    write_csv(evaluation, tmp_path / "table.csv", manifest.audio_paths)
    with open(tmp_path / "table.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [json.loads(row["alternatives"]) for row in rows] == [
        list(u.alternatives) for u in evaluation.utterances]
    evaluation = evaluate(greedy, manifest, config)
    write_csv(evaluation, tmp_path / "table.csv", manifest.audio_paths)
    assert "alternatives" not in (tmp_path / "table.csv").read_text().splitlines()[0]


@pytest.fixture
def manifest(demo_corpus):
    return read_manifest(demo_corpus / "demo_val_manifest.csv", LABELS)


@pytest.mark.parametrize("batch_size", [1, 4, 6, 100])
def test_every_utterance_is_scored_once_in_the_order_of_the_manifest(manifest, batch_size):
    config = load_config(None, [f"DataConfig.batch_size={batch_size}"])
    evaluation = evaluate(says("GO"), manifest, config, keep_probs=True)
    assert [u.audio_path for u in evaluation.utterances] == manifest.audio_paths
    references = [Path(path).read_text().strip() for path in manifest.transcript_paths]
    assert [u.reference for u in evaluation.utterances] == references
    assert {u.hypothesis for u in evaluation.utterances} == {"GO"}
    words = sum(len(r.split()) for r in references)
    right = sum("GO" in r.split() for r in references)
    assert evaluation.errors.wer_percent == pytest.approx(100 * (words - right) / words)
    for u in evaluation.utterances:
        assert u.probs.shape == (int(u.seconds * 100) // 2 + 1, 29)


def test_a_long_recording_does_not_make_the_others_as_long(manifest):
    """Of the six utterances, one counts as five minutes."""
    sizes = []
    model = says("GO")

    def acoustic(inputs, input_length):
        sizes.append(len(inputs))
        return model.acoustic(inputs, input_length)

    manifest.samples[2] = 300 * 16000
    found = evaluate(Model(acoustic, load_config().model_info(LABELS)), manifest, load_config())
    assert [u.row for u in found.utterances] == list(range(6)) and sizes == [2, 1, 3]


def test_the_summary_has_the_documented_form():
    errors = ErrorCounts(words=8, word_deletions=1, chars=3, char_insertions=2)
    evaluation = Evaluation([ScoredUtterance(0, "a.wav", "", "", errors, 1.0, None)], [])
    assert evaluation.summary() == "Test Summary \tAverage WER 12.500\tAverage CER 66.667\t"


def test_details_name_interval_and_edits():
    utterances = [
        ScoredUtterance(row, "", "", "", ErrorCounts(10, row, 1, 0, 40, 0, 2, 0), 1.0, None)
        for row in range(4)
    ]
    wer, cer = details(Evaluation(utterances, []).rates(["a", "a", "b", "b"]))
    # the rates of the two speakers are the ends: 1 + 2 and 3 + 4 errors in 20 words
    assert wer == ("WER 25.00 (95 % interval 15.00 to 35.00, 2 speakers): "
                   "6 substitutions, 4 deletions, 0 insertions in 40 words")
    assert "CER 5.00 (95 % interval 5.00 to 5.00, 2 speakers): 0 sub" in cer
    alone, _ = details(Evaluation(utterances, []).rates(["a"] * 4))
    assert "no interval: fewer than two speakers" in alone
    silent = [ScoredUtterance(row, "", "", "", ErrorCounts(), 1.0, None) for row in range(4)]
    wer, cer = details(Evaluation(silent, []).rates(["a", "a", "b", "b"]))
    assert "no interval: no words in the references" in wer
    assert "no interval: no characters in the references" in cer


def test_speakers_are_found_in_paths(manifest):
    assert find_speakers(manifest, "") == manifest.audio_paths
    an4, libri = (load_config(ROOT / "configs" / f"{name}.yaml").DataConfig.speaker_pattern
                  for name in ("an4", "librispeech"))
    for pattern, path, speaker in ((an4, "/a-b/wav/an251-fash-b.wav", "fash"),
                                   (libri, "/84-1-1.wav/wav/1034-121119-0000.wav", "1034")):
        own = dataclasses.replace(manifest, audio_paths=[path] * len(manifest))
        assert find_speakers(own, pattern) == [speaker] * len(manifest)
    with pytest.raises(InputError, match=r"demo_val_manifest.csv:1: .*speaker_pattern.*finds no"):
        find_speakers(manifest, "(never)")


@pytest.mark.parametrize("pattern", ["abc", "(a)(b)", "(", "(a" * 50])
def test_other_patterns_are_refused(pattern):
    with pytest.raises(InputError, match="speaker_pattern.*must be a regular expression with one"):
        load_config(None, [f"DataConfig.speaker_pattern='{pattern}'"])


def test_infeasible_utterances_are_scored_too(manifest):
    manifest.label_counts[:] = 10_000
    assert len(evaluate(says("GO"), manifest, load_config()).utterances) == len(manifest)


def test_files_hold_a_row_and_a_matrix_an_utterance(manifest, tmp_path):
    evaluation = evaluate(says("GO"), manifest, load_config(), keep_probs=True)
    write_csv(evaluation, tmp_path / "out" / "e.csv", manifest.audio_paths)
    write_outputs(evaluation, len(manifest), tmp_path / "o.npz")
    rows = list(csv.DictReader((tmp_path / "out" / "e.csv").read_text().splitlines()))
    assert [r["audio_path"] for r in rows] == manifest.audio_paths
    assert sum(int(r["word_errors"]) for r in rows) == evaluation.errors.word_errors
    outputs = np.load(tmp_path / "o.npz")
    assert outputs.files == [f"arr_{i}" for i in range(len(manifest))]
    for i, u in enumerate(evaluation.utterances):
        np.testing.assert_array_equal(outputs[f"arr_{i}"], u.probs)


def test_manifests_of_one_name_have_tables_of_their_own(manifest, tmp_path):
    paths = list(zip(manifest.audio_paths, manifest.transcript_paths, strict=True))
    first, second, third = (
        write_manifest(tmp_path / name / "test.csv", rows, LABELS)[0]
        for name, rows in (("a", paths[:1]), ("b", paths[1:2]), ("c", paths[2:]))
    )
    for own, name in ((first, "test_eval.csv"), (second, "test-2_eval.csv"),
                      (third, "test-3_eval.csv"), (first, "test_eval.csv")):
        path = table_path(tmp_path, own)
        assert path.name == name
        write_csv(evaluate(says("GO"), own, load_config()), path, own.audio_paths)
        (row,) = csv.DictReader(path.read_text().splitlines()[:2])
        assert row["audio_path"] == own.audio_paths[0]
    (tmp_path / "test_eval.csv").write_text("something else")
    assert table_path(tmp_path, first).name == "test-4_eval.csv"


def test_a_folder_whose_name_is_not_utf_8(manifest, tmp_path):
    """Python writes its bytes as surrogates, which UTF-8 refuses."""
    folder = tmp_path / os.fsdecode(b"\xe4")
    folder.mkdir()
    shutil.copy(manifest.audio_paths[0], folder / "a.wav")
    (folder / "a.txt").write_text("GO")
    (folder / "m.csv").write_text("a.wav,a.txt\n")
    own = read_manifest(folder / "m.csv", LABELS)
    for _ in range(2):
        path = table_path(tmp_path, own)
        assert path.name == "m_eval.csv"
        write_csv(evaluate(says("GO"), own, load_config()), path, own.audio_paths)
    assert os.fsencode(folder / "a.wav") in path.read_bytes()
    assert read_table(path, ["audio_path"])["audio_path"].tolist() == own.audio_paths


def test_a_file_that_went_bad_is_left_out_and_said(manifest, tmp_path):
    rows = list(zip(manifest.audio_paths, manifest.transcript_paths, strict=True))
    bad = tmp_path / "bad.wav"
    shutil.copy(rows[1][0], bad)
    rows[1] = (str(bad), rows[1][1])
    own, _ = write_manifest(tmp_path / "m.csv", rows, LABELS)
    bad.write_bytes(b"")
    evaluation = evaluate(says("GO"), own, load_config(), keep_probs=True)
    assert evaluation.missing == [1]
    assert len(evaluation.utterances) == len(rows) - 1
    write_outputs(evaluation, len(own), tmp_path / "o.npz")
    outputs = np.load(tmp_path / "o.npz")
    assert outputs["arr_1"].shape == (0, 0) and outputs["arr_2"].shape[1] == 29
    only, _ = write_manifest(tmp_path / "one.csv", [rows[0]], LABELS)
    only = dataclasses.replace(only, audio_paths=[str(bad)])
    with pytest.raises(RunError, match="none of its 1 utterances could be read"):
        evaluate(says("GO"), only, load_config())
