"""The commands as a user calls them, from training to transcription, and what bad input gives."""

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

import eval as evaluation_command
import export
import train
import transcribe
from src import manifest
from src.exporting import Exported

CPU = ["--device_target", "CPU"]
SHIPPED = str(ROOT / "deepspeech2" / "assets" / "an4.onnx")


@pytest.fixture(scope="module")
def trained(demo_corpus, tmp_path_factory):
    """A folder with the checkpoints of a short training through train.py."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "tiny.yaml").write_text(f"""
TrainingConfig: {{epochs: 1, log_dir: {folder}/logs}}
DataConfig:
  train_manifest: {demo_corpus}/demo_train_manifest.csv
  val_manifest: {demo_corpus}/demo_val_manifest.csv
  test_manifest: {demo_corpus}/demo_test_manifest.csv
ModelConfig: {{hidden_size: 16, hidden_layers: 2, conv_channels: 2, conv2_kernel: [21, 1]}}
CheckpointConfig: {{ckpt_path: {folder}/ckpt}}
""")
    assert train.main([*CPU, "--config", str(folder / "tiny.yaml")]) == 0
    return folder


@pytest.fixture
def checkpoint(trained):
    return str(trained / "ckpt" / "DeepSpeech-last.ckpt")


@pytest.fixture(scope="module")
def models(trained, tmp_path_factory):
    """The checkpoint in every format, exported by export.py: {name: path}."""
    folder, checkpoint = tmp_path_factory.mktemp("models"), str(
        trained / "ckpt" / "DeepSpeech-last.ckpt")
    options = {"mindir": [], "onnx": ["--file_format", "ONNX"],
               "int8": ["--file_format", "ONNX", "--quantize", "int8"]}
    paths = {"ckpt": checkpoint}
    for name, option in options.items():
        paths[name] = f"{folder}/{name}.{'mindir' if name == 'mindir' else 'onnx'}"
        assert export.main([*CPU, "--pre_trained_model_path", checkpoint, "--file_name",
                            f"{folder}/{name}", *option]) == 0
    assert sorted(os.listdir(folder)) == ["int8.json", "int8.onnx", "mindir.json", "mindir.mindir",
                                          "onnx.json", "onnx.onnx"]
    return paths


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def score(model, demo_corpus, tmp_path, capsys, options=CPU):
    """The last line of eval.py and the softmax matrices; the model knows its sizes."""
    assert evaluation_command.main([*options, "--pretrain_ckpt", model, "--save_output",
                                    f"{tmp_path}/o.npz",
                                    f"DataConfig.test_manifest={demo_corpus}/demo_test_manifest.csv",
                                    f"TrainingConfig.log_dir={tmp_path}/logs"]) == 0
    assert (tmp_path / "logs" / "demo_test_manifest_eval.csv").exists()
    with np.load(tmp_path / "o.npz") as archive:
        return capsys.readouterr().out.rstrip("\n").splitlines()[-1], [
            archive[name] for name in archive.files]


def test_evaluation_of_checkpoint_and_exports_agree(models, demo_corpus, tmp_path, capsys):
    line, outputs = score(models["ckpt"], demo_corpus, tmp_path, capsys)
    assert line.startswith("Test Summary \tAverage WER ") and line.endswith("\t")
    assert len(outputs) == 6
    for matrix in outputs:
        np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-5)
    for name, tolerance in (("mindir", 1e-5), ("onnx", 1e-5), ("int8", 0.05)):
        exported_line, exported = score(models[name], demo_corpus, tmp_path, capsys,
                                        [] if name == "onnx" else CPU)
        assert exported_line == line or name == "int8"
        for a, b in zip(outputs, exported, strict=True):
            np.testing.assert_allclose(a, b, atol=tolerance)


@pytest.mark.parametrize(("options", "compared"), [
    ([], "1.2e-07 (of a probability, for noise)"),
    (["--quantize", "int8"], "1.2e-02 (of a probability, for noise; it is larger for speech, so "
                             "compare the error rates of eval.py)"),
])
def test_an_export_says_how_large_it_is_and_what_was_compared(
        tmp_path, monkeypatch, capsys, options, compared):
    def write(checkpoint, config, path, quantize, streaming):
        path.write_bytes(bytes(3 * 2**20))
        return Exported(path, path.with_suffix(".json"), 2, 0.0123 if quantize else 1.2e-7)
    monkeypatch.setattr("src.exporting.export_onnx", write)
    assert export.main([*CPU, "--pre_trained_model_path", "x.ckpt", "--file_format", "ONNX",
                        "--file_name", f"{tmp_path}/a", *options]) == 0
    assert capsys.readouterr().out == (
        f"{tmp_path}/a.onnx: 3.0 MiB, 2 classes, settings in {tmp_path}/a.json; "
        f"largest difference from the network {compared}\n")


def test_transcription_says_the_same_with_every_format(models, demo_corpus, capsys):
    files = sorted(str(path)
                   for path in (demo_corpus / "demo_dataset" / "test" / "wav").iterdir())[:2]
    both = {}
    for name in ("ckpt", "mindir", "onnx", "int8"):
        assert transcribe.main(["--pretrain_ckpt", models[name], *files]) == 0
        both[name] = capsys.readouterr().out
    assert len(both["ckpt"].splitlines()) == 2
    assert both["mindir"] == both["onnx"] == both["ckpt"]


def test_resuming_a_finished_run_does_nothing(trained, caplog):
    before = files(trained / "ckpt")
    with caplog.at_level("INFO"):
        assert train.main([*CPU, "--config", str(trained / "tiny.yaml"), "--resume", "auto"]) == 0
    assert "nothing left to do: 1 epochs and 3 steps are trained" in caplog.text
    assert files(trained / "ckpt") == before


def test_a_unidirectional_network_trains_and_evaluates(trained, demo_corpus, tmp_path, capsys):
    """Its convolutions are our own, which tiny.yaml leaves out because they compile slowly."""
    settings = ["ModelConfig.conv2_kernel=[21, 11]", f"CheckpointConfig.ckpt_path={tmp_path}/ckpt",
                f"TrainingConfig.log_dir={tmp_path}/logs"]
    assert train.main([*CPU, "--config", str(trained / "tiny.yaml"), "--bidirectional", "False",
                       *settings]) == 0
    model = ["--pretrain_ckpt", f"{tmp_path}/ckpt/DeepSpeech-last.ckpt",
             f"DataConfig.test_manifest={demo_corpus}/demo_test_manifest.csv",
             f"TrainingConfig.log_dir={tmp_path}"]
    assert evaluation_command.main([*CPU, *model]) == 0
    capsys.readouterr()
    assert evaluation_command.main([*CPU, "--bidirectional", "True", *model]) == 2
    error = capsys.readouterr().err
    assert "`ModelConfig.bidirectional` is False in the model but True was asked for" in error


@pytest.mark.parametrize(("line", "words"), [
    ("nothing.wav,good.txt", "own.csv:2: {}/nothing.wav: cannot read the audio: No such file"),
    ("{},bad.txt", "own.csv:2: {}/bad.txt: unknown characters 'Ü'"),
])
def test_a_bad_manifest_stops_training_before_it_starts(
        trained, demo_corpus, tmp_path, capsys, line, words):
    wav = sorted((demo_corpus / "demo_dataset" / "train" / "wav").iterdir())[0]
    (tmp_path / "good.txt").write_text("GO\n")
    (tmp_path / "bad.txt").write_text("ÜBER")
    (tmp_path / "own.csv").write_text(f"{wav},good.txt\n{line.format(wav)}\n")
    assert train.main([*CPU, "--config", str(trained / "tiny.yaml"),
                       f"DataConfig.train_manifest={tmp_path}/own.csv",
                       f"CheckpointConfig.ckpt_path={tmp_path}/ckpt",
                       f"TrainingConfig.log_dir={tmp_path}/logs"]) == 2
    assert words.format(tmp_path) in capsys.readouterr().err
    assert os.listdir(tmp_path / "ckpt") == [".run.lock"]


def test_an_utterance_that_goes_bad_is_not_scored_and_the_evaluation_ends_with_2(
        models, demo_corpus, tmp_path, capsys, caplog):
    wavs = sorted((demo_corpus / "demo_dataset" / "test" / "wav").iterdir())[:2]
    shutil.copy(wavs[1], tmp_path / "bad.wav")
    (tmp_path / "a.txt").write_text("GO\n")
    (tmp_path / "m.csv").write_text(f"{wavs[0]},a.txt\nbad.wav,a.txt\n")
    options = ["--pretrain_ckpt", models["onnx"], f"DataConfig.test_manifest={tmp_path}/m.csv",
               f"TrainingConfig.log_dir={tmp_path}"]
    assert evaluation_command.main(options) == 0
    real = manifest.read_manifest

    def read(*arguments, **options):
        found = real(*arguments, **options)
        (tmp_path / "bad.wav").write_bytes(b"")
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest, "read_manifest", read)
        assert evaluation_command.main(options) == 2
    assert "1 of 2 utterances could not be read" in caplog.text
    assert len((tmp_path / "m_eval.csv").read_text().splitlines()) == 2


def test_silence_with_an_empty_transcript_is_scored(tmp_path, write_wav):
    write_wav(tmp_path / "a.wav", seconds=1, frequency=0)
    (tmp_path / "a.txt").write_text("\n")
    (tmp_path / "m.csv").write_text("a.wav,a.txt\n")
    assert evaluation_command.main(["--pretrain_ckpt", SHIPPED,
                                    f"TrainingConfig.log_dir={tmp_path}",
                                    f"DataConfig.test_manifest={tmp_path}/m.csv"]) == 0
    (row,) = csv.DictReader((tmp_path / "m_eval.csv").read_text().splitlines())
    assert (row["reference"], row["words"], row["chars"]) == ("", "0", "0")
    assert int(row["word_errors"]) == len(row["hypothesis"].split())


@pytest.mark.parametrize(("options", "words"), [
    (["DataConfig.train_manifest=nowhere.csv"], "nowhere.csv: cannot read the manifest"),
    (["DataConfig.labels_path={tmp}/no_blank.json"], "no_blank.json: labels must contain '_'"),
    (["CheckpointConfig.ckpt_path={tmp}/empty.csv/x"], "empty.csv/x: cannot write there"),
    (["TrainingConfig.log_dir={tmp}/empty.csv"], "empty.csv: cannot write there"),
    (["--resume", "{tmp}/none.ckpt"], "none.ckpt: no such checkpoint"),
    (["--pre_trained_model_path", "{tmp}/corrupt.ckpt"],
     "corrupt.ckpt: not a whole MindSpore checkpoint"),
    (["--pre_trained_model_path", "{last}", "ModelConfig.hidden_size=24"],
     "is 16 in the model but 24 was asked for"),
])
def test_bad_settings_stop_training_with_one_message(trained, checkpoint, tmp_path, capsys, options,
                                                     words):
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "no_blank.json").write_text(json.dumps(["A", " "]))
    (tmp_path / "corrupt.ckpt").write_bytes(Path(checkpoint).read_bytes()[:5000])
    config = ["--config", str(trained / "tiny.yaml")]
    outputs = [f"CheckpointConfig.ckpt_path={tmp_path}/ckpt",
               f"TrainingConfig.log_dir={tmp_path}/logs"]
    options = [option.format(tmp=tmp_path, last=checkpoint) for option in options]
    assert train.main([*CPU, *config, *outputs, *options]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error


def test_a_full_disk_ends_the_run_with_1_and_keeps_what_was_there(
    trained, tmp_path, capsys, monkeypatch):
    import resource
    shutil.copytree(trained / "ckpt", tmp_path / "ckpt")
    before = files(tmp_path / "ckpt")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        code = train.main([*CPU, "--config", str(trained / "tiny.yaml"), "--resume", "auto",
                           "TrainingConfig.epochs=2",
                           f"CheckpointConfig.ckpt_path={tmp_path}/ckpt",
                           f"TrainingConfig.log_dir={tmp_path}/logs"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 1
    assert "could not be written" in capsys.readouterr().err
    assert files(tmp_path / "ckpt") == before


@pytest.mark.parametrize(("command", "options", "words"), [
    (evaluation_command, [], "--pretrain_ckpt: name the model"),
    (evaluation_command, ["--pretrain_ckpt", "model.pth"], "model.pth: a model file ends in"),
    (evaluation_command, ["--pretrain_ckpt", "x.ckpt", "--save_output", "x.npy"],
     "must end in .npz"),
    (export, ["--pre_trained_model_path", "nowhere.ckpt"], "nowhere.ckpt: no such checkpoint"),
    (export, ["--pre_trained_model_path", "x.ckpt", "--file_format", "AIR"], "AIR is for Ascend"),
    (export, ["--pre_trained_model_path", "x.ckpt", "--batch_size", "-1"], "--batch_size (=-1)"),
    (export, ["--pre_trained_model_path", "x.ckpt", "--file_format", "ONNX", "--batch_size", "2"],
     "--batch_size 2: "),
    (export, ["--pre_trained_model_path", "x.ckpt", "--quantize", "int8"],
     "--quantize int8: only ONNX models"),
    (export, ["--pre_trained_model_path", "nowhere.ckpt", "--file_format", "ONNX"],
     "nowhere.ckpt: no such checkpoint"),
    (evaluation_command, ["--pretrain_ckpt", "nowhere.onnx"], "nowhere.onnx: no such model"),
    (evaluation_command, ["--pretrain_ckpt", "x.onnx", "--device_target", "GPU"],
     "--device_target GPU: x.onnx is an"),
    (evaluation_command, ["--pretrain_ckpt", SHIPPED, "LMConfig.lm_path=a.arpa"],
     "`LMConfig.lm_path` (='a.arpa') needs the beam search"),
    (evaluation_command, ["--pretrain_ckpt", SHIPPED, "LMConfig.decoder_type=beam",
                          "LMConfig.lm_path=nowhere.arpa"], "nowhere.arpa: cannot read the"),
    (transcribe, ["--pretrain_ckpt", SHIPPED, "--lm", "nowhere.arpa", "a.wav"],
     "nowhere.arpa: cannot read the language model"),
    (transcribe, ["--pretrain_ckpt", "nowhere.ckpt", "a.wav"], "nowhere.ckpt: no such checkpoint"),
    (transcribe, ["--pretrain_ckpt", "nowhere.onnx", "a.wav"], "nowhere.onnx: no such model"),
])
def test_bad_arguments_end_with_2_and_one_message(command, options, words, capsys):
    assert command.main([*CPU, *options]) == 2
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error


def test_a_gpu_that_is_not_there_is_one_clear_message(capsys):
    assert train.main(["--device_target", "GPU"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "finds no usable GPU" in error and "--device_target CPU" in error
