"""Options that commands share, the choice of the device, and the command `deepspeech2`."""

import argparse
from pathlib import Path

import pytest

import deepspeech2.cli
from deepspeech2.audio import read_audio
from deepspeech2.decoding.decoders import LMConfig
from deepspeech2.errors import InputError
from deepspeech2.result import Transcript
from src import cli, device


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    """All shared options together."""
    result = argparse.ArgumentParser()
    cli.add_bidirectional_argument(result)
    cli.add_device_argument(result)
    cli.add_config_arguments(result)
    return result


@pytest.mark.parametrize(("arguments", "override"), [
    ([], []),
    (["--bidirectional", "True"], ["ModelConfig.bidirectional=True"]),
    (["--bidirectional=false"], ["ModelConfig.bidirectional=False"]),
])
def test_bidirectional_is_an_override_only_when_written(parser, arguments, override):
    assert cli.config_changes(parser.parse_args([*arguments, "A.b=1"])) == [*override, "A.b=1"]


@pytest.mark.parametrize(("arguments", "words"), [
    (["--bidirectional", "yes"], "'yes' must be True or False"),
    (["--bidirectional"], "expected one argument"), (["--device_target", "TPU"], "'TPU'"),
    (["--device_target", "cpu"], "'cpu'"),
])
def test_a_bad_option_ends_with_2_and_is_named(parser, arguments, words, capsys):
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(arguments)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert arguments[0] in error and words in error


@pytest.mark.parametrize("arguments", [
    ["--config", "a.yaml", "A.b=1", "C.d=[2, 3]"],
    ["A.b=1", "C.d=[2, 3]", "--config", "a.yaml"],
    ["A.b=1", "--config", "a.yaml", "C.d=[2, 3]"],
])
def test_overrides_stand_anywhere(parser, arguments):
    args = parser.parse_intermixed_args(arguments)
    assert (args.config, args.overrides) == ("a.yaml", ["A.b=1", "C.d=[2, 3]"])


# the device of a stored model

@pytest.fixture
def devices(monkeypatch) -> list[str]:
    """What `set_device` is asked for, in place of MindSpore."""
    asked = []
    monkeypatch.setattr(device, "set_device", asked.append)
    return asked


@pytest.mark.parametrize(("model", "arguments", "expected"), [
    ("a.ckpt", [], ["GPU"]), ("a.mindir", ["--device_target", "CPU"], ["CPU"]),
    ("a.onnx", [], []), ("a.onnx", ["--device_target", "CPU"], []),
])
def test_an_onnx_model_needs_no_device_of_mindspore(devices, model, arguments, expected):
    result = argparse.ArgumentParser()
    cli.add_model_device_argument(result, "GPU")
    device.set_device_for(model, result.parse_args(arguments).device_target, "GPU")
    assert devices == expected


def test_an_onnx_model_does_not_run_on_the_cpu_in_silence_when_a_gpu_was_asked_for(devices):
    with pytest.raises(InputError, match=r"--device_target GPU: a\.onnx is an ONNX model, which"):
        device.set_device_for("a.onnx", "GPU", "CPU")
    assert devices == []


# deepspeech2 transcribe

def test_transcribe_gives_a_line_a_file_in_order_and_names_the_bad_one(
        tmp_path, write_wav, monkeypatch, capsys, caplog):
    """An unreadable file has an empty line, and the command ends with 2."""
    class Hears:
        """The name of the file in every recording."""

        def transcribe(self, path: str) -> Transcript:
            return Transcript(Path(path).stem, (), len(read_audio(path)[0]) / 16000)

    monkeypatch.setattr(deepspeech2.cli, "load_model", lambda name, lm: {"mine": Hears()}[name])
    for name in ("one", "two"):
        write_wav(tmp_path / f"{name}.wav")
    files = [f"{tmp_path}/{name}.wav" for name in ("two", "bad", "one")]
    assert deepspeech2.cli.main(["transcribe", "--model", "mine", *files]) == 2
    assert capsys.readouterr().out == "two\n\none\n"
    assert "bad.wav: cannot read the audio" in caplog.text
    assert deepspeech2.cli.main(["transcribe", "--model", "mine", files[0], files[2]]) == 0


def test_transcribe_uses_the_shipped_model_where_no_other_is_named(tmp_path, write_wav, capsys):
    write_wav(tmp_path / "a.wav")
    assert deepspeech2.cli.main(["transcribe", f"{tmp_path}/a.wav"]) == 0
    text = deepspeech2.load_model("an4").transcribe(tmp_path / "a.wav").text
    assert capsys.readouterr().out == f"{text}\n"


def test_transcribe_with_known_words_says_no_others(tmp_path, write_wav, capsys):
    write_wav(tmp_path / "a.wav")
    (tmp_path / "words.txt").write_text("yes\nno\n")
    options = ["--lexicon", f"{tmp_path}/words.txt", "--hotwords", "maybe"]
    assert deepspeech2.cli.main(["transcribe", *options, f"{tmp_path}/a.wav"]) == 0
    assert set(capsys.readouterr().out.split()) <= {"YES", "NO", "MAYBE"}


@pytest.mark.parametrize(("options", "expected"), [
    ([], LMConfig()), (["--decoder", "beam"], LMConfig("beam")),
    (["--lm", "a.arpa", "--alpha", "1"], LMConfig("beam", lm_path="a.arpa", alpha=1.0)),
    (["--hotwords", "A,B"], LMConfig("beam", hotwords="A,B")),
    (["--decoder", "beam", "--beam_width", "7"], LMConfig("beam", beam_width=7)),
    (["--alpha", "0.4"], LMConfig("beam", alpha=0.4)),  # the default, but somebody wrote it
])
def test_decoding_options(options, expected):
    args = deepspeech2.cli.parser().parse_args(["transcribe", *options, "a.wav"])
    assert deepspeech2.cli.decoding_settings(args) == expected


def test_options_come_on_top_of_a_file(tmp_path):
    path = tmp_path / "decoder.json"
    path.write_text('{"LMConfig": {"decoder_type": "beam", "alpha": 0.9, "beta": 3.5}}')

    def settings(*options):
        args = deepspeech2.cli.parser().parse_args(
            ["transcribe", "--decoder_config", str(path), *options, "a.wav"])
        return deepspeech2.cli.decoding_settings(args)

    assert settings() == LMConfig("beam", alpha=0.9, beta=3.5)
    assert settings("--alpha", "0.4", "--lm", "a.arpa") == LMConfig(
        "beam", lm_path="a.arpa", alpha=0.4, beta=3.5)
    assert settings("--lm", "a.arpa") == LMConfig("beam", lm_path="a.arpa", alpha=0.9, beta=3.5)
    with pytest.raises(InputError, match="alpha` .=0.9. needs the beam search"):
        settings("--decoder", "greedy")


@pytest.mark.parametrize(("arguments", "words"), [
    (["--decoder_config", "none.json", "a.wav"], "none.json: cannot read the settings"),
    (["--decoder", "greedy", "--lm", "a.arpa", "a.wav"], "`LMConfig.lm_path` (='a.arpa') needs"),
    (["--lm", "none.arpa", "a.wav"], "error: none.arpa: cannot read the language model"),
    (["--alpha", "nan", "a.wav"], "error: `LMConfig.alpha` (=nan) must be a finite number"),
    (["--alpha", "much", "a.wav"], "--alpha: invalid float value: 'much'"),
    (["--hotwords", "ÄH", "a.wav"], "error: hotword: unknown characters 'Ä'"),
    (["--model", "none.onnx", "a.wav"], "error: none.onnx: no such model"),
    (["--model", "labels.json", "a.wav"], "not a model"), ([], "FILE"),
    (["--modl", "x"], "unrecognized"),
])
def test_transcribe_refuses(arguments, words, capsys):
    try:
        code = deepspeech2.cli.main(["transcribe", *arguments])
    except SystemExit as error:
        code = error.code
    assert code == 2 and words in capsys.readouterr().err
