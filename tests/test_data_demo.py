"""The demo corpus: what it says, how it sounds, and that it is the same every time."""

import csv
import dataclasses
import itertools
import json
import sys
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile

from data import demo, espeak
from deepspeech2.errors import RunError
from deepspeech2.labels import Labels

COUNTS = {"train": 13, "val": 4, "test": 4}
ARGUMENTS = [f"--{split}={count}" for split, count in COUNTS.items()]


def make(target: Path, *arguments: str) -> int:
    return demo.main(["--target", str(target), *ARGUMENTS, *arguments])


def contents(target: Path) -> dict[str, bytes]:
    return {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*.*")
            if path.suffix in (".wav", ".txt")}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("demo")
    assert make(target, "--jobs=1") == 0
    return target


@pytest.fixture(scope="module")
def plan() -> dict[str, list[demo.Utterance]]:
    return {split: demo.plan_split(split, count, seed=0)
            for split, count in demo.DEFAULT_COUNTS.items()}


def test_layout_manifests_and_format(made):
    for split, count in COUNTS.items():
        with open(made / f"demo_{split}_manifest.csv", newline="") as file:
            rows = list(csv.reader(file))
        assert len(rows) == count
        for audio, transcript in rows:
            assert Path(audio).parent == made / "demo_dataset" / split / "wav"
            assert Path(transcript).parent == made / "demo_dataset" / split / "txt"
            info = soundfile.info(audio)
            assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")
        assert (made / f"demo_{split}_manifest.index.npz").exists()


def test_no_voice_is_in_two_splits():
    voices = [voice.lower() for split in demo.VOICES.values() for voice in split]
    assert len(voices) == len(set(voices))


def timbre(voice: str) -> np.ndarray:
    """(40, 120) mel spectrogram of two sentences by `voice` in dB, mean 0, of one length."""
    sentences = []
    for text in ("H E L P", "FIVE SIX SEVEN EIGHT NINE"):
        speech = espeak.Speech(text, f"en-us+{voice}", rate=140, pitch=50, pitch_range=50,
                               volume=70, seed=1)
        samples = espeak.synthesize(speech).astype(np.float32)
        mel = librosa.feature.melspectrogram(y=samples, sr=espeak.SAMPLE_RATE, n_mels=40)
        frames = np.linspace(0, mel.shape[1] - 1, 60).round().astype(int)
        sentences.append(librosa.power_to_db(mel)[:, frames])
    both = np.concatenate(sentences, axis=1)
    return both - both.mean()


def test_no_voice_has_a_near_copy_in_another_split():
    """The root mean square of the difference in dB, which is below 5.6 for near copies."""
    timbres = {voice: timbre(voice) for voices in demo.VOICES.values() for voice in voices}

    def distance(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.sqrt(np.mean((a - b) ** 2)))

    for one, other in (("steph", "steph2"), ("m1", "grandpa"), ("f5", "f2")):
        assert distance(timbre(one), timbre(other)) < 5.6
    for one, other in itertools.combinations(demo.VOICES, 2):
        for a, b in itertools.product(demo.VOICES[one], demo.VOICES[other]):
            assert distance(timbres[a], timbres[b]) > 6.5, (a, b)


def is_female(voice: str) -> bool:
    variant = Path(espeak.find_library()[1], "voices", "!v", voice)
    return "gender female" in variant.read_text()


def test_every_split_has_women_and_men_and_a_small_one_too():
    for split, voices in demo.VOICES.items():
        assert len(voices) >= 8
        assert sum(map(is_female, voices)) >= 3
        assert {is_female(voice) for voice in voices[:COUNTS[split]]} == {True, False}


def test_the_plan_uses_all_voices_and_no_pair_twice(plan):
    for split, utterances in plan.items():
        assert {u.speech.voice for u in utterances} == {f"en-us+{voice}"
                                                        for voice in demo.VOICES[split]}
        assert len({(u.speech.voice, u.speech.text) for u in utterances}) == len(utterances)
        assert len({u.name for u in utterances}) == len(utterances)


def test_training_has_every_word_and_the_alphabet_every_character(plan):
    texts = {split: [u.speech.text for u in utterances] for split, utterances in plan.items()}
    words = {split: set(" ".join(lines).split()) for split, lines in texts.items()}
    assert words["val"] <= words["train"] and words["test"] <= words["train"]
    assert 60 <= len(words["train"]) <= 100 and {"DON'T", "A", "Z", "ZERO"} <= words["train"]
    labels = Labels.load(demo.LABELS_PATH)
    for text in sum(texts.values(), []):
        labels.encode(text)
        assert text == text.upper()


def test_speech_is_short_audible_and_not_clipped(made):
    for path in made.rglob("*.wav"):
        samples, rate = soundfile.read(path, dtype="int16")
        loudness = np.abs(samples.astype(int))
        assert 0.5 < len(samples) / rate < 3
        assert 4000 < loudness.max() < 32000
        assert np.abs(samples[:rate // 25].astype(int)).max() < 300  # begins in silence
        power = np.abs(np.fft.rfft(samples.astype(float))) ** 2
        bands = [power[(f := np.fft.rfftfreq(len(samples), 1 / rate)) < 80].sum(),
                 power[(f >= 80) & (f < 4000)].sum(), power[f >= 4000].sum()]
        assert bands[1] > 0.8 * sum(bands)  # the band of voices


def test_an_utterance_does_not_depend_on_those_before_it(plan):
    """espeak-ng keeps flutter and noise between utterances; m1 has both, f4 an echo too."""
    some = [*plan["train"][:3], plan["test"][0]]
    alone = [demo.render(u) for u in some]
    for utterance, expected in reversed(list(zip(some, alone, strict=True))):
        np.testing.assert_array_equal(demo.render(utterance), expected)


def test_bytes_depend_on_the_seed_and_not_on_jobs(made, tmp_path):
    assert make(tmp_path / "again", "--jobs=2") == 0
    assert contents(tmp_path / "again") == contents(made)
    assert make(tmp_path / "other", "--seed=1", "--jobs=2") == 0
    assert contents(tmp_path / "other") != contents(made)


def test_the_second_run_leaves_everything_alone(tmp_path, capsys):
    assert make(tmp_path) == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert make(tmp_path) == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert "already made" in capsys.readouterr().out


def test_other_settings_and_missing_files_make_it_again(tmp_path, made):
    assert make(tmp_path, "--seed=7", "--train=20") == 0
    (tmp_path / "demo_dataset" / "train" / "wav" / "mine.flac").write_bytes(b"not ours")
    assert make(tmp_path) == 0
    assert contents(tmp_path) == contents(made)  # nothing is left of the larger corpus
    next((tmp_path / "demo_dataset" / "val" / "wav").iterdir()).unlink()
    assert make(tmp_path) == 0
    assert contents(tmp_path) == contents(made)
    assert (tmp_path / "demo_dataset" / "train" / "wav" / "mine.flac").exists()


def test_an_interrupted_run_is_not_taken_for_complete(tmp_path, made, monkeypatch, capsys):
    def fail(utterance):
        raise RunError("espeak-ng stopped")

    assert make(tmp_path) == 0
    with monkeypatch.context() as patch:
        patch.setattr(demo, "render", fail)
        assert make(tmp_path, "--seed=1", "--jobs=1") == 1
    assert "espeak-ng stopped" in capsys.readouterr().err
    assert not (tmp_path / "demo_dataset" / "made.json").exists()
    assert make(tmp_path) == 0
    assert contents(tmp_path) == contents(made)


def test_the_stamp_says_how_it_was_made(made):
    stamp = json.loads((made / "demo_dataset" / "made.json").read_text())
    assert stamp["seed"] == 0 and stamp["utterances"] == COUNTS and stamp["espeakng-loader"]


def test_letters_are_read_by_their_names():
    """`A` before another word would be the article, shorter than the name of the letter."""
    speech = espeak.Speech("A B", "en-us+m3", rate=140, pitch=50, pitch_range=50, volume=70, seed=1)
    letter = espeak.synthesize(speech)
    article = espeak.synthesize(dataclasses.replace(speech, text="a B"))
    assert len(letter) - len(article) > 0.03 * espeak.SAMPLE_RATE


def test_an_unknown_voice_is_named():
    for voice in ("en-us+nobody", "nolanguage+m3"):
        with pytest.raises(RunError, match=voice.replace("+", r"\+")):
            espeak.synthesize(espeak.Speech("GO", voice, rate=140, pitch=50, pitch_range=50,
                                            volume=70, seed=1))


def test_without_the_wheel_there_is_one_clear_message(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    assert make(tmp_path) == 2
    assert "espeakng-loader is missing" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_library_that_does_not_load_is_the_users_problem(tmp_path, monkeypatch, capsys):
    broken = tmp_path / "libespeak-ng.so"
    broken.write_bytes(b"not a library")
    monkeypatch.setattr("espeakng_loader.get_library_path", lambda: str(broken))
    assert make(tmp_path / "target") == 2
    assert "cannot be loaded" in capsys.readouterr().err


@pytest.mark.parametrize("argument",
                         ["--jobs=0", "--train=0", "--val=many", "--seed=-1", "--test=100000"])
def test_bad_options_are_refused(tmp_path, argument, capsys):
    with pytest.raises(SystemExit) as stop:
        make(tmp_path, argument)
    assert stop.value.code == 2
    assert argument.partition("=")[0] in capsys.readouterr().err


def test_a_target_that_is_a_file_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("here already")
    assert make(tmp_path / "file") == 2
    assert "file" in capsys.readouterr().err
