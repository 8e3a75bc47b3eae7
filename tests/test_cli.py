"""Options that commands share, the choice of the device, and the command `deepspeech2`."""

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import ROOT, model_that_hears_tones, model_that_says, say_in_tones, voice

import deepspeech2.cli
from deepspeech2.decoding.decoders import LMConfig, read_settings
from deepspeech2.errors import InputError
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


def test_settings_are_not_among_what_is_required(parser, capsys):
    parser.add_argument("manifest")
    with pytest.raises(SystemExit):
        parser.parse_intermixed_args([])
    assert capsys.readouterr().err.endswith("the following arguments are required: manifest\n")


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

@pytest.fixture
def says_go(monkeypatch, labels):
    """`deepspeech2 transcribe` with a model that hears GO in every piece with speech."""
    model = model_that_says("GO", labels)
    monkeypatch.setattr(deepspeech2.cli, "load_model", lambda name, lm: model)
    return lambda *arguments: deepspeech2.cli.main(["transcribe", *map(str, arguments)])


@pytest.fixture
def speech(tmp_path) -> Path:
    """A folder with recordings in folders, and other things."""
    folder = tmp_path / "in"
    for name in ("b.wav", "a/x.wav", "a/x.flac", "c d/x.WAV", "a/.hidden.wav", "a/notes.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with open(folder / name, "wb") as file:
            soundfile.write(file, voice(8000), 16000, format="FLAC" if "flac" in name else "WAV")
    (folder / "a" / "circle").symlink_to(folder)
    return folder


def files_in(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_transcribe_gives_a_line_a_file_in_order_and_names_the_bad_one(
        speech, says_go, capsys, caplog):
    """An unreadable file has an empty line, and the command ends with 2."""
    soundfile.write(speech / "nobody.wav", np.zeros(16000), 16000)
    (speech / "two\nlines.wav").write_bytes(b"?")
    good, silent, bad = (speech / name for name in ("b.wav", "nobody.wav", "two\nlines.wav"))
    assert says_go(good, bad, speech / "none.wav", silent, good) == 2
    assert capsys.readouterr().out == "GO\n\n\n\nGO\n"
    first, second = (record.getMessage() for record in caplog.records)
    assert "two\\x0alines.wav: " in first and "none.wav: cannot read the audio" in second
    assert says_go(good, silent) == 0


def test_folders_are_searched_in_order_and_mirrored(speech, says_go, tmp_path, capsys):
    """Links in circles end, and no two recordings share a file."""
    assert says_go(speech, "--output_dir", tmp_path / "out") == 0
    assert files_in(tmp_path / "out") == ["a/x.flac.txt", "a/x.wav.txt", "b.txt", "c d/x.txt"]
    assert (tmp_path / "out/b.txt").read_text() == "GO\n" and capsys.readouterr().out == ""
    (speech / "empty").mkdir()
    assert says_go(speech / "c d", speech / "empty", speech / "a/x.wav", "--output_format", "json",
                   "--output_dir", tmp_path / "json") == 2  # there is nothing in `empty`
    assert files_in(tmp_path / "json") == ["a/x.json", "c d/x.json"]


def test_a_manifest_and_all_formats(speech, says_go, tmp_path):
    (speech / "m.csv").write_text("a/x.wav,a/x.txt\n\nb.wav,b.txt\n")
    out = tmp_path / "out"
    assert says_go("--manifest", speech / "m.csv", "--output_format", "all",
                   "--output_dir", out) == 0
    assert files_in(out) == [f"{stem}.{name}" for stem in ("a/x", "b")
                             for name in ("TextGrid", "ctm", "json", "srt", "tsv", "txt",
                                                              "vtt")]
    (segment,) = json.loads((out / "b.json").read_text())["segments"]
    assert [word["word"] for word in segment["words"]] == ["GO"]


def test_what_exists_is_skipped(speech, says_go, tmp_path):
    out = tmp_path / "out"
    (out / "a").mkdir(parents=True)
    (out / "a/x.wav.txt").write_text("mine")
    assert says_go(speech, "--output_dir", out, "--skip_existing") == 0
    assert (out / "a/x.wav.txt").read_text() == "mine" and len(files_in(out)) == 4


def test_a_file_that_cannot_be_written_is_said_and_the_others_are(speech, says_go, tmp_path,
                                                                   caplog):
    out = tmp_path / "out"
    (out / "b.txt").mkdir(parents=True)  # where a file should go
    assert says_go(speech, "--output_dir", out) == 1
    assert f"{out}/b.txt: cannot write: Is a directory" in caplog.text
    assert files_in(out) == ["a/x.flac.txt", "a/x.wav.txt", "c d/x.txt"]


def test_one_recording_in_any_format_goes_to_standard_output(speech, says_go, capsys):
    assert says_go(speech / "b.wav", "--output_format", "vtt", "--highlight_words") == 0
    said = capsys.readouterr()
    assert said.out.startswith("WEBVTT\n\n00:00:00.") and said.out.count("WEBVTT") == 1


@pytest.fixture(scope="module")
def spoken(demo_corpus) -> str:
    """The longest recording of a synthetic voice."""
    return str(max(demo_corpus.rglob("*.wav"), key=lambda path: path.stat().st_size))


def test_transcribe_uses_the_shipped_model_where_no_other_is_named(spoken, capsys):
    assert deepspeech2.cli.main(["transcribe", spoken]) == 0
    text, other = (deepspeech2.load_model(name).transcribe(spoken).text
                   for name in ("english", "an4"))
    assert capsys.readouterr().out == f"{text}\n" and text and text != other


def test_transcribe_with_known_words_says_no_others(spoken, tmp_path, capsys):
    (tmp_path / "words.txt").write_text("yes\nno\na\ni\nthe\n")
    options = ["--lexicon", f"{tmp_path}/words.txt", "--hotwords", "maybe"]
    assert deepspeech2.cli.main(["transcribe", *options, spoken]) == 0
    words = set(capsys.readouterr().out.split())
    assert words and words <= {"YES", "NO", "A", "I", "THE", "MAYBE"}


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
    args = deepspeech2.cli.parser().parse_args(["transcribe", "--lm", str(path), "--beta", "1"])
    assert deepspeech2.cli.decoding_settings(args) == LMConfig("beam", alpha=0.9, beta=1.0)
    with pytest.raises(InputError, match="alpha` .=0.9. needs the beam search"):
        settings("--decoder", "greedy")


def test_a_shipped_language_model_brings_its_weights():
    def settings(*options):
        args = deepspeech2.cli.parser().parse_args(["transcribe", "--lm", "english", *options])
        return deepspeech2.cli.decoding_settings(args)

    shipped = read_settings(ROOT / "deepspeech2" / "assets" / "lm" / "english.json")
    assert settings() == shipped != LMConfig("beam", lm_path=shipped.lm_path)
    assert settings("--beam_width", "7", "--hotwords", "A") == dataclasses.replace(
        shipped, beam_width=7, hotwords="A")


@pytest.mark.parametrize(("arguments", "words"), [
    (["--decoder_config", "none.json", "a.wav"], "none.json: cannot read the settings"),
    (["--decoder_config", "a.json", "--lm", "english", "a.wav"], "error: --lm english brings its"),
    (["--decoder", "greedy", "--lm", "english", "a.wav"], "needs the beam search"),
    (["--lm", "englsh", "a.wav"], "error: englsh: cannot read the language model: No such file or "
                                  "directory; by name there are: english"),
    (["--decoder", "greedy", "--lm", "a.arpa", "a.wav"], "`LMConfig.lm_path` (='a.arpa') needs"),
    (["--lm", "none.arpa", "a.wav"], "error: none.arpa: cannot read the language model"),
    (["--alpha", "nan", "a.wav"], "error: `LMConfig.alpha` (=nan) must be a finite number"),
    (["--alpha", "much", "a.wav"], "--alpha: invalid float value: 'much'"),
    (["--hotwords", "ÄH", "a.wav"], "error: hotword: unknown characters 'Ä'"),
    (["--model", "none.onnx", "a.wav"], "error: none.onnx: no such model"),
    (["--model", "labels.json", "a.wav"], "not a model"), ([], "FILE"),
    (["--modl", "x"], "unrecognized"), (["--batch_size", "0", "a.wav"], "'0' must be a number"),
    (["--manifest", "none.csv"], "error: none.csv: cannot read the manifest"),
    (["--output_format", "all", "a.wav"], "error: --output_format all needs --output_dir"),
    (["--output_format", "srt", "a.wav", "b.wav"], "--output_format srt needs --output_dir"),
    (["--skip_existing", "a.wav"], "error: --skip_existing needs --output_dir"),
    (["--highlight_words", "a.wav"], "error: --highlight_words is for subtitles"),
    (["--output_dir", "/proc/none", "a.wav"], "error: /proc/none: cannot write there"),
])
def test_transcribe_refuses(arguments, words, capsys):
    try:
        code = deepspeech2.cli.main(["transcribe", *arguments])
    except SystemExit as error:
        code = error.code
    assert code == 2 and words in capsys.readouterr().err


# deepspeech2 align

@pytest.fixture
def align(monkeypatch, labels):
    """`deepspeech2 align` with a model that hears tones."""
    model = model_that_hears_tones(labels)
    monkeypatch.setattr(deepspeech2.cli, "load_model", lambda name: model)
    return lambda *arguments: deepspeech2.cli.main(["align", *map(str, arguments)])


@pytest.fixture
def talk(tmp_path) -> tuple[Path, Path]:
    """A recording with an odd name, and its text."""
    recording, text = tmp_path / "my\n tälk.wav", tmp_path / "talk.txt"
    with open(recording, "wb") as file:
        soundfile.write(file, say_in_tones("HELLO WORLD DOWN THERE", 0.5), 16000, format="WAV")
    text.write_text("Hello, world!\nDown there.\n", encoding="utf-8")
    return recording, text


def test_words_of_a_text_are_written_in_every_format(align, talk, tmp_path, capsys, caplog):
    caplog.set_level("INFO")
    assert align(*talk) == 0
    assert capsys.readouterr().out == (
        "start\tend\ttext\n0\t1470\tHello, world!\n1990\t3370\tDown there.\n")
    assert "4 of 4 words aligned, 0 of them unclear, 0 left out" in caplog.text
    assert align(*talk, "--output_format", "ctm") == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("my_tälk 1 0.990 0.480 world! 0.98")
    assert align(*talk, "--output_format", "all", "--output_dir", tmp_path / "out") == 0
    assert len(files_in(tmp_path / "out")) == 7
    before = (tmp_path / "out" / "my\n tälk.srt").stat().st_mtime_ns
    assert align(*talk, "--output_format", "all", "--output_dir", tmp_path / "out",
                 "--skip_existing") == 0
    assert (tmp_path / "out" / "my\n tälk.srt").stat().st_mtime_ns == before


@pytest.mark.parametrize(("arguments", "words"), [
    (["-", "-"], "standard input can be the recording or the text, not both"),
    (["talk.txt", "talk.txt"], "talk.txt: cannot read the audio"),
    (["a.wav", "none.txt"], "none.txt: cannot read the text"),
    (["a.wav", "empty.txt"], "the text has no words"),
    (["a.wav", "greek.txt"], "the labels can write none of the 2 words"),
    (["a.wav", "other.txt"], "a.wav: only 0 of 2 words are heard clearly"),
    (["silence.wav", "talk.txt"], "silence.wav: no speech is heard"),
    (["a.wav", "talk.txt", "--output_format", "all"], "--output_format all needs --output_dir"),
    (["talk.wav", "talk.txt", "--output_format", "all", "--output_dir", "."],
     "talk.txt: would be written over: choose another --output_dir"),
])
def test_what_cannot_be_aligned_ends_with_2(arguments, words, align, talk, tmp_path, monkeypatch,
                                            capsys):
    monkeypatch.chdir(tmp_path)
    talk[0].rename("a.wav")
    soundfile.write("silence.wav", np.zeros(32000), 16000)
    for name, text in (("empty.txt", " \n"), ("greek.txt", "Καλημέρα κόσμε"),
                       ("other.txt", "XXXXXX ZZZZZZ")):
        Path(name).write_text(text, encoding="utf-8")
    assert align(*arguments) == 2
    captured = capsys.readouterr()
    assert words in captured.err and captured.out == ""
