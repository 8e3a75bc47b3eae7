"""Corpora in every format: made ones with tones of known length, their faults, and real ones."""

import contextlib
import csv
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import ROOT

from data import corpus
from data.transcripts import Normalizer
from data.verify_manifest import main as verify
from deepspeech2.errors import InputError
from deepspeech2.labels import Labels
from src.manifest import index_path, read_manifest

RATE = 16000
LABELS = Labels.load(ROOT / "labels.json")
# three utterances of every corpus: seconds, what the corpus writes, what the labels write
SECONDS = {"a1": 0.5, "a2": 0.6, "b3": 0.7}
TEXTS = {"a1": "Don’t stop.", "a2": "Well-known, isn't it?", "b3": "YES"}
EXPECTED = {"a1": "DON'T STOP", "a2": "WELL KNOWN ISN'T IT", "b3": "YES"}


def tone(seconds: float, rate: int = RATE) -> np.ndarray:
    """(n,) floats; the frequency tells the length."""
    return 0.3 * np.sin(2 * np.pi * 1000 * seconds * np.arange(round(seconds * rate)) / rate)


def write_audio(path: Path, samples: np.ndarray, rate: int = RATE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    kinds = {".sph": {"format": "NIST"}, ".opus": {"format": "OGG", "subtype": "OPUS"}}
    soundfile.write(path, samples, rate, **kinds.get(path.suffix, {}))


def write_tones(folder: Path, suffix: str, names=tuple(SECONDS), rate: int = RATE) -> None:
    for name in names:
        write_audio(folder / f"{name}{suffix}", tone(SECONDS[name], rate), rate)


def write_lines(path: Path, lines) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


# One function for each format: makes the corpus in a folder, and returns SOURCE.


def make_ljspeech(folder: Path) -> Path:
    write_tones(folder / "wavs", ".wav", rate=22050)
    write_lines(folder / "metadata.csv", [f"{n}|1 {t}|{t}" for n, t in TEXTS.items()])
    return folder


def make_festvox(folder: Path) -> Path:
    write_tones(folder / "wav", ".opus")
    write_lines(folder / "etc/txt.done.data", [f'( {n} "{t}" )' for n, t in TEXTS.items()])
    return folder


def make_commonvoice(folder: Path) -> Path:
    write_tones(folder / "en/clips", ".mp3", rate=32000)
    rows = ["up_votes\tsentence\tpath\tclient_id"]  # another order than Common Voice's
    rows += [f"2\t{t}\t{n}.mp3\tspeaker-{n[0]}" for n, t in TEXTS.items()]
    write_lines(folder / "en/validated.tsv", rows)
    return folder


def make_stm(folder: Path) -> Path:
    """One recording: silence between the utterances, and music that is not scored."""
    parts = [np.zeros(RATE // 10)]
    lines, at = (
        [";; a comment", "talk 1 inter_segment_gap 0 0.1 <NA> ignore_time_segment_in_scoring"],
        0.1,
    )
    for name, text in TEXTS.items():
        end = at + SECONDS[name]
        text = text.replace("isn't", "isn 't").replace("YES", "YES(2)")
        lines.append(f"talk 1 talk_{name[0]} {at:.2f} {end:.2f} <o,f0,female> {text}")
        parts += [tone(SECONDS[name]), np.zeros(RATE // 10)]
        at = end + 0.1
    write_audio(folder / "sph/talk.sph", np.concatenate(parts))
    write_lines(folder / "stm/talk.stm", lines)
    return folder


def make_voxforge(folder: Path) -> Path:
    """An archive for each of two people, as they are published."""
    folder.mkdir()
    for user, names in (("jo-20080318-kdl", ("a1", "a2")), ("anonymous-20090101-xyz", ("b3",))):
        part = folder.parent / "parts" / user
        write_tones(part / "wav", ".wav", names)
        write_lines(part / "etc/PROMPTS", [f"{user}/mfc/{n} {TEXTS[n]}" for n in names])
        with tarfile.open(folder / f"{user}.tgz", "w:gz") as tar:
            tar.add(part, user)
    return folder


def make_kaldi(folder: Path) -> Path:
    """As after Kaldi's own preparation: paths from where its scripts run, commands that decode."""
    write_tones(folder / "db", ".flac", ("a2", "b3"))
    write_audio(folder / "db/long.wav", np.concatenate([tone(1.0), tone(SECONDS["a1"]), tone(0.4)]))
    data = folder / "data/train"
    write_lines(
        data / "wav.scp",
        [
            "long db/long.wav",
            "r2 flac -c -d -s db/a2.flac |",
            f"r3 /usr/bin/sox {folder}/db/b3.flac -t wav -r 16k -b 16 - |",
        ],
    )
    write_lines(data / "segments", ["a1 long 1.0 1.5", "a2 r2 0 0.6", "b3 r3 0 0.7"])
    write_lines(data / "text", [f"{n} {t}" for n, t in TEXTS.items()])
    write_lines(data / "utt2spk", [f"{n}\tspeaker-{n[0]}" for n in TEXTS])
    return data


def make_nemo(folder: Path) -> Path:
    write_tones(folder / "audio", ".wav", ("a2", "b3"))
    write_audio(folder / "audio/a1.wav", np.concatenate([tone(1.0), tone(SECONDS["a1"])]))
    entries = [
        {
            "audio_filepath": f"audio/{n}.wav",
            "text": t,
            "duration": SECONDS[n],
            "speaker": n[0],
            **({"offset": 1.0} if n == "a1" else {}),
        }
        for n, t in TEXTS.items()
    ]
    return write_lines(folder / "train.json", map(json.dumps, entries))


def make_deepspeech_pytorch(folder: Path) -> Path:
    write_tones(folder / "set/wav", ".wav")
    for name, text in TEXTS.items():
        write_lines(folder / f"set/txt/{name}.txt", [text])
    manifest = {
        "root_path": str(folder / "set"),
        "samples": [{"wav_path": f"wav/{n}.wav", "transcript_path": f"txt/{n}.txt"} for n in TEXTS],
    }
    return write_lines(folder / "train.json", [json.dumps(manifest)])


def make_manifest(folder: Path) -> Path:
    make_deepspeech_pytorch(folder)
    return write_lines(
        folder / "train.csv", [f"set/wav/{n}.wav,{folder}/set/txt/{n}.txt" for n in TEXTS]
    )


def make_text(folder: Path) -> Path:
    for name, text in TEXTS.items():
        write_tones(folder / name[0], ".flac", (name,))
        write_lines(folder / name[0] / f"{name}.txt", [text])
    return folder


MAKERS = {
    "ljspeech": make_ljspeech,
    "festvox": make_festvox,
    "commonvoice": make_commonvoice,
    "stm": make_stm,
    "voxforge": make_voxforge,
    "kaldi": make_kaldi,
    "nemo": make_nemo,
    "deepspeech.pytorch": make_deepspeech_pytorch,
    "manifest": make_manifest,
    "text": make_text,
}


def prepare(target: Path, source: Path | list[Path], form: str, *arguments: str) -> int:
    sources = map(str, source if isinstance(source, list) else [source])
    return corpus.main(
        [
            *sources,
            "--format",
            form,
            "--name",
            "made",
            "--target",
            str(target),
            "--jobs=1",
            *arguments,
        ]
    )


def rows(target: Path, split: str = "") -> list[tuple[Path, Path]]:
    path = target / f"made{split and '_'}{split}_manifest.csv"
    with open(path, newline="") as file:
        return [(Path(audio), Path(text)) for audio, text in csv.reader(file)]


def prepared(target: Path, split: str = "") -> list[tuple[str, float]]:
    """(text, seconds to a hundredth) of a manifest, by length."""
    found = [
        (text.read_text().strip(), round(soundfile.info(audio).duration, 2))
        for audio, text in rows(target, split)
    ]
    return sorted(found, key=lambda pair: pair[1])


def problems(target: Path) -> list[str]:
    path = target / "made_dataset/problems.txt"
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize("form", MAKERS)
def test_files_and_folders_may_be_links(tmp_path, form):
    """As in git-annex, DVC and the cache of Hugging Face; one leads back to the corpus."""
    source, store = MAKERS[form](tmp_path / "source"), tmp_path / "store"
    store.mkdir()
    for number, path in enumerate(sorted((tmp_path / "source").rglob("*"), reverse=True)):
        os.rename(path, store / str(number))  # what is in a folder comes before it
        path.symlink_to(store / str(number))
    (store / "loop").mkdir()
    (tmp_path / "source/loop").symlink_to(store / "loop")
    (store / "loop/back").symlink_to(tmp_path / "source")
    assert prepare(tmp_path / "target", source, form) == 0
    texts = [text for text, _ in prepared(tmp_path / "target")]
    assert sorted(texts) == sorted(EXPECTED.values())


def test_compressed_recordings_of_other_libraries(tmp_path):
    """A list with clips that libsndfile cannot read, though PyAV can."""
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "a.m4a"), "w") as container:
        stream = container.add_stream("aac", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone(2.0)[None].astype(np.float32), "fltp", "mono")
        frame.rate = RATE
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    line = json.dumps({"audio_filepath": "a.m4a", "duration": 2.0, "text": "HELLO"})
    write_lines(tmp_path / "made.json", [line])
    assert prepare(tmp_path / "target", tmp_path / "made.json", "nemo") == 0
    assert [text.read_text().strip() for _, text in rows(tmp_path / "target")] == ["HELLO"]


def files(target: Path) -> dict[Path, int]:
    """Inodes of all files: what is written again gets another."""
    return {path: path.stat().st_ino for path in target.rglob("*") if path.is_file()}


@pytest.mark.parametrize("form", MAKERS)
def test_every_format(tmp_path, form, capsys):
    source, target = MAKERS[form](tmp_path / "source"), tmp_path / "target"
    original = files(tmp_path / "source")
    assert prepare(target, source, form) == 0
    found = prepared(target)
    assert [text for text, _ in found] == list(EXPECTED.values())
    np.testing.assert_allclose([s for _, s in found], list(SECONDS.values()), atol=0.08)  # MP3 pads
    assert verify([str(target / "made_manifest.csv"), "--jobs=1"]) == 0
    assert "made: 3 utterances, 0.00 h" in capsys.readouterr().out
    assert files(tmp_path / "source") == original
    # the index, made without decoding, is what decoding finds
    path = target / "made_manifest.csv"
    known = read_manifest(path, LABELS)
    index_path(path).unlink()
    decoded = read_manifest(path, LABELS)
    for name in ("samples", "sample_rates", "label_counts", "repeats"):
        np.testing.assert_array_equal(getattr(known, name), getattr(decoded, name))


@pytest.mark.parametrize(
    "form, cut", [(form, {"stm": 3, "kaldi": 1, "nemo": 1}.get(form, 0)) for form in MAKERS]
)
def test_only_parts_of_recordings_are_written_and_nothing_is_done_twice(
    tmp_path, form, cut, monkeypatch
):
    source, target = MAKERS[form](tmp_path / "source"), tmp_path / "target"
    assert prepare(target, source, form) == 0
    written = [
        audio for audio, _ in rows(target) if audio.is_relative_to(target / "made_dataset/wav")
    ]
    assert len(written) == cut and len(list(target.rglob("wav/**/*.wav"))) in (
        cut,
        cut + 3,
    )  # 3: unpacked
    before = files(target)
    monkeypatch.setattr(corpus, "read_audio", lambda path: pytest.fail(f"{path} is decoded again"))
    assert prepare(target, source, form) == 0
    after = files(target)
    record = target / "made_dataset/.prepared.json"
    assert {**after, record: 0} == {**before, record: 0}


def test_what_is_cut_is_the_part_that_was_named(tmp_path):
    assert prepare(tmp_path / "target", make_stm(tmp_path / "source"), "stm") == 0
    for audio, text in rows(tmp_path / "target"):
        name = next(n for n, expected in EXPECTED.items() if expected == text.read_text().strip())
        np.testing.assert_allclose(soundfile.read(audio)[0], tone(SECONDS[name]), atol=1e-4)


def test_a_channel_of_a_recording_with_two(tmp_path):
    """Telephone speech: a person on each channel."""
    write_audio(
        tmp_path / "call.sph", np.column_stack([tone(0.5), np.pad(tone(0.4), (0, RATE // 10))])
    )
    write_lines(
        tmp_path / "call.stm",
        ["call A jo 0 0.5 <NA> ONE", "call B al 0 0.4 <NA> TWO", "call 3 al 0 0.4 <NA> THREE"],
    )
    assert prepare(tmp_path / "target", tmp_path, "stm", "--val_speakers=1") == 2
    assert (
        len(problems(tmp_path / "target")) == 1
        and "call.stm:3: expected" in problems(tmp_path / "target")[0]
    )
    both = rows(tmp_path / "target", "train") + rows(tmp_path / "target", "val")
    for audio, text in both:
        expected = tone(0.5 if text.read_text() == "ONE\n" else 0.4)
        np.testing.assert_allclose(soundfile.read(audio)[0], expected, atol=1e-4)


def test_a_changed_recording_or_segment_is_done_again(tmp_path):
    data, target = make_kaldi(tmp_path / "source"), tmp_path / "target"
    assert prepare(target, data, "kaldi") == 0
    write_lines(data / "segments", ["a1 long 0.5 1.0", "a2 r2 0 0.6", "b3 r3 0 0.7"])
    assert prepare(target, data, "kaldi") == 0
    cut = next(audio for audio, _ in rows(target) if audio.is_relative_to(target))
    np.testing.assert_allclose(soundfile.read(cut)[0], tone(1.0)[RATE // 2 :], atol=1e-4)
    write_lines(data / "segments", ["a1 long 0.5 -1", "a2 r2 0 0.6", "b3 r3 0 0.7"])
    assert prepare(target, data, "kaldi") == 0
    assert soundfile.info(cut).duration == 1.4  # -1: to the end
    write_lines(data / "segments", ["a1 long 0.5 1.0", "a2 r2 0 0.6", "b3 r3 0 0.7"])
    write_audio(tmp_path / "source/db/long.wav", tone(1.5))
    assert prepare(target, data, "kaldi") == 0
    np.testing.assert_allclose(soundfile.read(cut)[0], tone(1.5)[RATE // 2 : RATE], atol=1e-4)
    cut.write_bytes(cut.read_bytes()[:-2])  # as after a power cut
    assert prepare(target, data, "kaldi") == 0
    assert soundfile.info(cut).frames == RATE // 2


def test_a_tar_archive(tmp_path):
    make_festvox(tmp_path / "cmu_us_jo_arctic")
    with tarfile.open(tmp_path / "cmu_us_jo_arctic.tar.bz2", "w:bz2") as tar:
        tar.add(tmp_path / "cmu_us_jo_arctic", "cmu_us_jo_arctic")
    assert prepare(tmp_path / "target", tmp_path / "cmu_us_jo_arctic.tar.bz2", "festvox") == 0
    assert [text for text, _ in prepared(tmp_path / "target")] == list(EXPECTED.values())


def test_the_default_name_is_that_of_the_folder(tmp_path):
    make_ljspeech(tmp_path / "LJ Speech-1.1")
    for source in (tmp_path / "LJ Speech-1.1", tmp_path / "LJ Speech-1.1/metadata.csv"):
        target = tmp_path / source.name
        assert corpus.main([str(source), "--format=ljspeech", "--target", f"{target}.out"]) == 0
        assert (tmp_path / f"{target}.out" / "LJ_Speech-1.1_manifest.csv").exists()


def test_several_corpora_become_one(tmp_path):
    """Both ARCTIC voices have an arctic_a0001. Manifests are merged as by merge_manifests."""
    voices = [make_festvox(tmp_path / "voices" / name) for name in ("bdl", "slt")]
    assert prepare(tmp_path / "one", tmp_path / "voices", "festvox") == 0
    assert prepare(tmp_path / "two", voices, "festvox") == 0
    assert len(rows(tmp_path / "one")) == 6
    names = [
        text.relative_to(tmp_path / "two/made_dataset/txt") for _, text in rows(tmp_path / "two")
    ]
    assert names == [Path(voice, f"{name}.txt") for voice in ("bdl", "slt") for name in SECONDS]
    manifests = [tmp_path / "two/made_manifest.csv", make_manifest(tmp_path / "old")]
    arguments = ("--min_seconds", "0.55", "--max_seconds", "0.65")
    assert prepare(tmp_path / "all", manifests, "manifest", *arguments) == 0
    assert prepared(tmp_path / "all") == [(EXPECTED["a2"], 0.6)] * 3


@pytest.mark.parametrize("form", ["commonvoice", "kaldi", "nemo"])
def test_unseen_speakers_are_held_out(tmp_path, form, capsys):
    source, speakers = MAKERS[form](tmp_path / "source"), tmp_path / "speakers.txt"
    speakers.write_text("b\n" if form == "nemo" else "speaker-b\nnobody\n")
    assert prepare(tmp_path / "target", source, form, "--val_speakers", str(speakers)) == 0
    assert [text for text, _ in prepared(tmp_path / "target", "train")] == [
        EXPECTED["a1"],
        EXPECTED["a2"],
    ]
    assert [text for text, _ in prepared(tmp_path / "target", "val")] == [EXPECTED["b3"]]
    assert "made: val 1 utterances, 0.00 h, 1 speaker ->" in capsys.readouterr().out


def test_a_number_of_speakers_is_always_the_same_speakers(tmp_path, capsys):
    source = make_text(tmp_path / "source")
    for name in ("c", "d", "e"):
        write_tones(source / name, ".wav", ("b3",))
        write_lines(source / name / "b3.txt", ["YES"])
    val = []
    for target in (tmp_path / "one", tmp_path / "two"):
        assert prepare(target, source, "text", "--val_speakers", "3") == 0
        val.append({audio.parent.name for audio, _ in rows(target, "val")})
        assert not val[-1] & {audio.parent.name for audio, _ in rows(target, "train")}
    assert val[0] == val[1] and len(val[0]) == 3
    assert "utterances of val have a text that is in train" in capsys.readouterr().out
    for wanted in ("0", "5", str(tmp_path / "nowhere")):
        assert prepare(tmp_path / "three", source, "text", "--val_speakers", wanted) == 2
        assert f"--val_speakers {wanted}: " in capsys.readouterr().err
    assert (
        prepare(tmp_path / "three", make_manifest(tmp_path / "x"), "manifest", "--val_speakers=1")
        == 2
    )
    assert "does not say who speaks" in capsys.readouterr().err
    assert not list((tmp_path / "three").glob("*.csv"))


def test_what_is_left_out_for_its_length_is_not_decoded_again(tmp_path, monkeypatch):
    source, target = make_text(tmp_path / "source"), tmp_path / "target"
    assert prepare(target, source, "text", "--max_seconds=0.6") == 0
    monkeypatch.setattr(corpus, "read_audio", lambda path: pytest.fail(f"{path} is decoded again"))
    assert prepare(target, source, "text", "--max_seconds=0.6") == 0
    assert len(rows(target)) == 2
    assert prepare(target, source, "text") == 0
    assert len(rows(target)) == 3


def test_length_limits_leave_out_and_are_no_fault(tmp_path, capsys):
    source, target = make_stm(tmp_path / "source"), tmp_path / "target"
    assert prepare(target, source, "stm", "--max_seconds=0.6") == 0
    assert (
        len(rows(target)) == 2
        and "left out: 1 for their length; 0 problems" in capsys.readouterr().out
    )
    assert prepare(target, source, "stm") == 0
    assert len(rows(target)) == 3
    assert prepare(target, source, "stm", "--min_seconds=0.6") == 0
    assert prepared(target) == [(EXPECTED["a2"], 0.6), (EXPECTED["b3"], 0.7)]


# what is wrong with corpora


@pytest.mark.parametrize(
    "form, spoil, expected, kept",
    [
        # transcripts without audio, and audio without transcripts
        (
            "ljspeech",
            lambda c: (c / "wavs/a2.wav").unlink(),
            "metadata.csv:2: there is no audio for 'a2'",
            2,
        ),
        (
            "festvox",
            lambda c: (c / "wav/a2.opus").unlink(),
            "txt.done.data:2: there is no audio for a2",
            2,
        ),
        ("commonvoice", lambda c: (c / "en/clips/a2.mp3").unlink(), "validated.tsv:3: ", 2),
        ("text", lambda c: (c / "a/a2.flac").unlink(), "a2.txt: there is no audio beside it", 2),
        ("text", lambda c: (c / "a/a2.txt").unlink(), "a2.flac: there is no a2.txt beside it", 2),
        ("ljspeech", lambda c: write_audio(c / "wavs/z.wav", tone(1)), "z.wav: ", 3),
        ("festvox", lambda c: write_audio(c / "wav/z.wav", tone(1)), "z.wav: ", 3),
        (
            "kaldi",
            lambda c: write_lines(c / "text", ["a1 ONE", "b3 THREE"]),
            "segments:2: a2 has no",
            2,
        ),
        (
            "kaldi",
            lambda c: write_lines(c / "wav.scp", ["r2 db/a2.flac", "r3 db/b3.flac"]),
            "segments:1: long is not in",
            2,
        ),
        (
            "kaldi",
            lambda c: write_lines(c / "segments", ["a1 long 1 1.5"]),
            "text:2: a2 is not in",
            1,
        ),
        (
            "manifest",
            lambda c: (c.parent / "set/txt/a2.txt").unlink(),
            "train.csv:2: cannot read the transcript",
            2,
        ),
        (
            "deepspeech.pytorch",
            lambda c: (c.parent / "set/wav/a2.wav").unlink(),
            "train.json: sample 2: ",
            2,
        ),
        # a broken clip
        (
            "commonvoice",
            lambda c: (c / "en/clips/a2.mp3").write_bytes(b"no audio"),
            "a2.mp3: cannot read",
            2,
        ),
        (
            "ljspeech",
            lambda c: os.truncate(c / "wavs/a2.wav", 4000),
            "a2.wav: the audio is truncated",
            2,
        ),
        (
            "text",
            lambda c: (c / "a/a2.flac").write_bytes(b""),
            "a2.flac: cannot read the audio: the file is empty",
            2,
        ),
        # lines that are not in the format
        (
            "ljspeech",
            lambda c: append(c / "metadata.csv", "a2 without columns"),
            "metadata.csv:4: expected",
            3,
        ),
        (
            "festvox",
            lambda c: append(c / "etc/txt.done.data", "(a2 no quotes)"),
            "txt.done.data:4: expected",
            3,
        ),
        (
            "commonvoice",
            lambda c: append(c / "en/validated.tsv", "one\ttwo"),
            "validated.tsv:5: 2 columns",
            3,
        ),
        (
            "stm",
            lambda c: append(c / "stm/talk.stm", "talk 1 x zero one <NA> WORD"),
            "talk.stm:6: expected",
            3,
        ),
        ("nemo", lambda c: append(c, "{not json"), "train.json:4: expected", 3),
        ("nemo", lambda c: append(c, '{"audio_filepath": "a.wav"}'), "train.json:4: expected", 3),
        ("manifest", lambda c: append(c, "one,two,three"), "train.csv:4: expected", 3),
        ("kaldi", lambda c: append(c / "wav.scp", "alone"), "wav.scp:4: expected two columns", 3),
        (
            "ljspeech",
            lambda c: append(c / "metadata.csv", b"a2|\xff|\xff"),
            "metadata.csv:4: not UTF-8",
            3,
        ),
        # times
        (
            "stm",
            lambda c: append(c / "stm/talk.stm", "talk 1 x 1.5 3.1 <NA> WORD"),
            "is longer than its file",
            3,
        ),
        (
            "stm",
            lambda c: append(c / "stm/talk.stm", "talk 1 x 1.5 1.5 <NA> WORD"),
            "starts at 1.5 s and ends",
            3,
        ),
        (
            "kaldi",
            lambda c: write_lines(c / "segments", ["a1 long 1 1.5", "a2 r2 0 5", "b3 r3 9 11"]),
            "a2 is longer than its file: it goes to 5.0 s",
            1,
        ),
        (
            "kaldi",
            lambda c: write_lines(c / "segments", ["a1 long 1 1.5", "a2 r2 0", "b3 r3 0 .7"]),
            "segments:2: expected `NAME RECORDING START END`",
            2,
        ),
        (
            "stm",
            lambda c: append(c / "stm/talk.stm", "talk B x 0 1 <NA> WORD"),
            "is on channel 2,",
            3,
        ),
        # programs
        (
            "kaldi",
            lambda c: write_lines(
                c / "wav.scp", ["long db/long.wav", "r2 touch db/x |", "r3 db/b3.flac"]
            ),
            "commands are not run",
            2,
        ),
        (
            "kaldi",
            lambda c: write_lines(
                c / "wav.scp",
                ["long db/long.wav", "r2 sox db/a2.flac -t wav - speed 2 |", "r3 db/b3.flac"],
            ),
            "does more than decode",
            2,
        ),
        # texts
        (
            "festvox",
            lambda c: append(c / "etc/txt.done.data", '( a1 "Other words" )'),
            "a1 is there twice",
            2,
        ),
        (
            "festvox",
            lambda c: append(c / "etc/txt.done.data", f'( a1 "{TEXTS["a1"]}" )'),
            "the first is taken",
            3,
        ),
        ("nemo", lambda c: append(c, c.read_text().splitlines()[0]), "is there twice", 3),
        (
            "kaldi",
            lambda c: write_lines(c / "text", ["a1", "a2 TWO", "b3 THREE"]),
            "a1: the transcript is empty",
            2,
        ),
        (
            "kaldi",
            lambda c: write_lines(c / "text", ["a1 ONE", "a2 in 1984", "b3 THREE"]),
            "numbers '1984'",
            2,
        ),
        (
            "voxforge",
            lambda c: (c / "broken.tgz").write_bytes(b"no archive"),
            "broken.tgz: broken",
            3,
        ),
    ],
)
def test_what_is_at_fault_is_named_and_the_rest_prepared(
    tmp_path, form, spoil, expected, kept, capsys
):
    source, target = MAKERS[form](tmp_path / "source"), tmp_path / "target"
    spoil(source)
    code = prepare(target, source, form)
    found = problems(target)
    assert len(rows(target)) == kept and verify([str(target / "made_manifest.csv")]) == 0
    assert code == 2 and f"; {len(found)} problems" in capsys.readouterr().out
    assert any(expected in problem for problem in found), found


# what only somebody hostile writes, or a program with a fault


def nemo(**changes) -> str:
    return json.dumps({"audio_filepath": "audio/a2.wav", "text": "A", "duration": 0.6} | changes)


@pytest.mark.parametrize(
    "form, spoil, expected",
    [
        ("nemo", lambda c: append(c, nemo(offset=10**400)), "train.json:4: expected"),
        ("nemo", lambda c: append(c, nemo(offset="nan")), "train.json:4: expected"),
        ("nemo", lambda c: append(c, nemo(duration="inf")), "train.json:4: expected"),
        ("nemo", lambda c: append(c, nemo(audio_filepath="a\0.wav")), "train.json:4: expected"),
        ("nemo", lambda c: append(c, nemo(audio_filepath="\ud800")), "train.json:4: expected"),
        ("nemo", lambda c: append(c, nemo(audio_filepath=5)), "train.json:4: expected"),
        ("nemo", lambda c: append(c, "[" * 50_000), "train.json:4: expected"),
        ("nemo", lambda c: append(c, nemo(text="\ud800", offset=0.1)), "the labels cannot write"),
        ("nemo", lambda c: append(c, nemo(audio_filepath="a/" * 2000 + "a")), "cannot be the name"),
        (
            "deepspeech.pytorch",
            lambda c: write_lines(c, [c.read_text().replace("wav/a1.wav", "a\\u0000")]),
            "train.json: sample 1: expected",
        ),
        (
            "stm",
            lambda c: append(c / "stm/talk.stm", f"talk 1 x 0 {'9' * 400} <NA> WORD"),
            "talk.stm:6: expected",
        ),
        (
            "kaldi",
            lambda c: write_lines(
                c / "wav.scp", ["long db/long.wav", f"r2 {'a' * 300}.wav", "r3 db/b3.flac"]
            ),
            "File name too long",
        ),
        ("manifest", lambda c: append(c, "set/wav/a1.wav,/dev/zero"), "a pipe or a device"),
        ("manifest", lambda c: append(c, f'"{"a" * 200_000}",b'), "train.csv:4: expected"),
        ("text", lambda c: copy_as(c / "a", "b\n1"), "has line breaks: rename the file"),
        ("text", lambda c: copy_as(c / "a", os.fsdecode(b"caf\xe9")), "is no UTF-8"),
    ],
)
def test_hostile_lines_and_names_are_told(tmp_path, form, spoil, expected):
    source, target = MAKERS[form](tmp_path / "source"), tmp_path / "target"
    spoil(source)
    limit = csv.field_size_limit(131_072)  # MindSpore raises it
    try:
        assert prepare(target, source, form) == 2
    finally:
        csv.field_size_limit(limit)
    assert any(expected in problem for problem in problems(target)), problems(target)


def copy_as(folder: Path, name: str) -> None:
    """Another name for an utterance of the format `text`."""
    for suffix in (".flac", ".txt"):
        (folder / f"{name}{suffix}").write_bytes((folder / f"a1{suffix}").read_bytes())


def test_without_any_utterance_the_source_is_named(tmp_path, capsys):
    source = write_lines(tmp_path / "metadata.csv", [])
    assert prepare(tmp_path / "target", source, "ljspeech") == 2
    assert f"{source}: none of the 0 utterances" in capsys.readouterr().err


def test_what_is_done_is_recorded_on_the_way(tmp_path, monkeypatch):
    """A preparation of hours may be killed, or stopped."""
    monkeypatch.setattr(corpus, "_RECORD_SECONDS", 0)
    monkeypatch.setattr(corpus, "_RECORD_SHARE", 1e9)
    source, record = make_text(tmp_path / "source"), tmp_path / "target/made_dataset/.prepared.json"
    known, one = [], corpus.prepare_recording

    def stop_at_the_last(folder, clips):
        known.append(len(corpus.read_record(record)))
        if len(known) == 3:
            raise KeyboardInterrupt
        return one(folder, clips)

    monkeypatch.setattr(corpus, "prepare_recording", stop_at_the_last)
    for _ in range(2):  # the second time nothing but the last is left to do
        with contextlib.suppress(KeyboardInterrupt):
            prepare(tmp_path / "target", source, "text")
    assert known == [0, 1, 2, 2]
    assert len(rows(tmp_path / "target")) == 3


def test_folders_of_one_name_inside_each_other_are_told_apart(tmp_path):
    paths = [tmp_path / f"{name}/etc/txt.done.data" for name in ("a/b", "a/b/a", "c/c", "c/c/d")]
    assert corpus._corpus_names(paths) == ["a/b", "a/b/a", "c", "c/d"]


@pytest.mark.parametrize("content", ["[" * 100_000, "[[1]]", "5", '{"made": 5}'])
def test_an_unreadable_record_is_only_work_lost(tmp_path, content):
    source, target = make_text(tmp_path / "source"), tmp_path / "target"
    assert prepare(target, source, "text") == 0
    (target / "made_dataset/.prepared.json").write_text(content)
    assert prepare(target, source, "text") == 0
    assert len(rows(target)) == 3


def append(path: Path, line: str | bytes) -> None:
    with open(path, "ab") as file:
        file.write((line if isinstance(line, bytes) else line.encode()) + b"\n")


def test_another_column_order_is_said(tmp_path, capsys):
    source, target = make_ljspeech(tmp_path / "source"), tmp_path / "target"
    write_lines(
        source / "metadata.csv", [*(f"{t}|{n}" for n, t in list(TEXTS.items())[:2]), "b3|YES"]
    )
    assert prepare(target, source, "ljspeech") == 2
    assert (
        len(rows(target)) == 1
        and "metadata.csv:1: another column order: column 2 names" in problems(target)[0]
    )
    source = make_commonvoice(tmp_path / "cv")
    append(write_lines(source / "en/validated.tsv", ["client\tfile"]), "x\ty")
    assert prepare(tmp_path / "cv_target", source, "commonvoice") == 2
    assert "the columns are client, file; needed are path and sentence" in capsys.readouterr().err


def test_an_empty_segments_file(tmp_path):
    """It is named. Recordings whose transcripts have their names are whole utterances."""
    data, target = make_kaldi(tmp_path / "source"), tmp_path / "target"
    (data / "segments").write_text("")
    write_lines(data / "text", ["r2 TWO", "r3 THREE", "a1 ONE"])
    assert prepare(target, data, "kaldi") == 2
    assert prepared(target) == [("TWO", 0.6), ("THREE", 0.7)]
    for problem, expected in zip(
        problems(target),
        (
            "segments: the file is empty",
            "text:3: a1 is not in",
            "wav.scp:1: long has no transcript",
        ),
        strict=True,
    ):
        assert expected in problem


@pytest.mark.parametrize("form", MAKERS)
def test_a_source_without_transcripts(tmp_path, form, capsys):
    (tmp_path / "empty").mkdir()
    write_audio(tmp_path / "audio/wav/a.wav", tone(0.5))
    for source in ("nowhere", "empty", "audio"):
        assert prepare(tmp_path / "target", tmp_path / source, form) == 2
        error = capsys.readouterr().err
        assert len(error.splitlines()) == 1 and str(tmp_path / source) in error
    assert not list((tmp_path / "target").glob("*.csv"))


def test_nothing_usable_leaves_no_manifest(tmp_path, capsys):
    source, target = make_festvox(tmp_path / "source"), tmp_path / "target"
    for path in (source / "wav").iterdir():
        path.write_bytes(b"")
    assert prepare(target, source, "festvox") == 2
    assert "none of the 3 utterances can be used: 3 problems" in capsys.readouterr().err
    assert not list(target.glob("*.csv")) and len(problems(target)) == 3
    write_tones(source / "wav", ".opus")
    assert prepare(target, source, "festvox") == 0
    assert not problems(target)


def test_several_sets_in_a_folder_are_not_mixed(tmp_path, capsys):
    source = make_commonvoice(tmp_path / "source")
    (source / "en/test.tsv").write_bytes((source / "en/validated.tsv").read_bytes())
    assert prepare(tmp_path / "target", source, "commonvoice") == 2
    assert "name one of them as SOURCE: en/test.tsv, en/validated.tsv" in capsys.readouterr().err
    assert prepare(tmp_path / "target", source / "en/test.tsv", "commonvoice") == 0


@pytest.mark.parametrize("name", ["../../evil", "/evil", "x" * 300])
def test_a_name_that_is_no_file_name_is_refused(tmp_path, name):
    data, target = make_kaldi(tmp_path / "source"), tmp_path / "deep/target"
    append(data / "segments", f"{name} long 0 1")
    append(data / "text", f"{name} EVIL")
    assert prepare(target, data, "kaldi") == 2
    assert len(rows(target)) == 3 and "cannot be the name of a file" in problems(target)[0]
    assert not [path for path in tmp_path.rglob("*") if "evil" in path.name]


def test_many_problems_are_listed_in_a_file(tmp_path, caplog):
    source, target = make_festvox(tmp_path / "source"), tmp_path / "target"
    for number in range(50):
        append(source / "etc/txt.done.data", f'( z{number} "Not there" )')
    assert prepare(target, source, "festvox") == 2
    assert len(problems(target)) == 50 and len(caplog.messages) == corpus.SHOWN + 1
    assert "30 more problems" in caplog.messages[-1] and "problems.txt" in caplog.messages[-1]


def test_compressed_and_truncated_sphere(tmp_path):
    source, target = make_stm(tmp_path / "source"), tmp_path / "target"
    path = source / "sph/talk.sph"
    content = path.read_bytes()
    path.write_bytes(
        content.replace(b"sample_coding -s3 pcm", b"sample_coding -s26 pcm,embedded-shorten-v2.00")
    )
    assert prepare(target, source, "stm") == 2
    assert "compressed with shorten; convert it with sph2pipe" in problems(target)[0]
    path.write_bytes(content[:20000])
    assert prepare(target, source, "stm") == 2
    assert "the audio is truncated: 9488 samples where the header says" in problems(target)[0]


@pytest.mark.parametrize("option", ["--format=mp3", "--max_seconds=nan", "--spell_out=xx"])
def test_options_that_are_no_options(tmp_path, option, capsys):
    with pytest.raises(SystemExit) as caught:
        corpus.main([str(tmp_path), "--format=text", option])
    assert caught.value.code == 2 and option.partition("=")[0] in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--name", "../x"], ["--min_seconds=2", "--max_seconds=1"]])
def test_options_that_do_not_fit(tmp_path, options, capsys):
    target = tmp_path / "target"
    assert corpus.main([str(tmp_path), "--format=text", "--target", str(target), *options]) == 2
    error = capsys.readouterr().err
    assert options[0].partition("=")[0] in error and len(error.splitlines()) == 1
    assert not target.exists()


# transcripts


@pytest.mark.parametrize(
    "text, expected",
    [
        ("already PLAIN", "ALREADY PLAIN"),
        ("“Don’t,” he said…", "DON'T HE SAID"),
        ("a—b, c-d e/f", "A B C D E F"),
        ("the U.S. at 5 p.m.".replace("5 ", ""), "THE U S AT P M"),
        ("'quoted words' and dogs' 'tis", "QUOTED WORDS AND DOGS' 'TIS"),
        ("<s> HELLO [noise] ++BREATH++ {COUGH} </s>", "HELLO"),
        ("soft\u00adhyphen", "SOFTHYPHEN"),
        ("``TEX'S'' 'QUOTES ' END''", "TEX'S 'QUOTES END"),
        ("Mr. X", "MR X"),
    ],
)
def test_punctuation_is_removed(text, expected):
    assert Normalizer(LABELS).normalize(text) == (expected, "")


@pytest.mark.parametrize(
    "text, words",
    [
        ("in 1984", "numbers '1984'"),
        ("½ cup", "numbers '½'"),
        ("a café", "foreign letters 'café'"),
        ("AT&T", "symbols 'AT&T'"),
        ("<unk> word", "markers '<unk>'"),
        ("... !", "the transcript is empty"),
    ],
)
def test_what_is_said_is_never_dropped(text, words):
    found, problem = Normalizer(LABELS).normalize(text)
    assert found == "" and words in problem


@pytest.mark.parametrize(("characters", "text", "expected"), [
    ("ABCÉÑ' ", "cab e\u0301 ñ.", "CAB É Ñ"),
    ("abcéñ' ", "CAB, É Ñ.", "cab é ñ"),
    ("İIDS ", "Disı, dısi!", "DİSI DISİ"),
    ("aberstß ", "STRAẞE? Straße.", "straße straße"),
    ("п’ять ", "П'ять, п’ять", "п’ять п’ять"),  # the apostrophe that the labels have
    ("नमस्ते ", "नमस्ते।", "नमस्ते"),
    ("你好世界", "你好，世界。 你好", "你好世界你好"),  # labels without a space
])
def test_transcripts_are_written_as_the_labels_write_them(characters, text, expected):
    normalizer = Normalizer(Labels([*characters, "_"]))
    assert normalizer.normalize(text) == (expected, "")
    if " " not in characters:
        assert normalizer.removed[" "] == 2


def test_the_report_counts():
    normalizer = Normalizer(LABELS)
    for text in ("Mr. A, B. No. 5", "NASA and Mr. C", "5 cafés", "ALL IN CAPITALS"):
        normalizer.normalize(text)
    assert normalizer.report() == [
        "removed from transcripts: '.' 4, ',' 1",
        "abbreviations, kept as written: 'Mr.' 2, 'No.' 1, 'NASA' 1",
        "left out for foreign letters: 1 utterances, 'cafés' 1",
        "left out for numbers: 2 utterances, '5' 2",
    ]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("In 1984, Mr. O’Neil’s No. 5", "IN NINETEEN EIGHTY FOUR MISTER O'NEIL'S NUMBER FIVE"),
        ("No. Yes.", "NO YES"),
        ("the 21st (22nd)", "THE TWENTY FIRST TWENTY SECOND"),
        ("$5 million", "FIVE MILLION DOLLARS"),
        ("£1.05", "ONE POUND AND FIVE PENCE"),
        ("3.14 or 5%", "THREE POINT ONE FOUR OR FIVE PERCENT"),
        ("1,234 men", "ONE THOUSAND TWO HUNDRED AND THIRTY FOUR MEN"),
        ("naïve Øre & Straße", "NAIVE ORE AND STRASSE"),
    ],
)
def test_spelling_out(text, expected):
    pytest.importorskip("num2words")
    normalizer = Normalizer(LABELS, "en")
    assert normalizer.normalize(text) == (expected, "")
    assert text == "No. Yes." or any("spelled out: " in line for line in normalizer.report())


@pytest.mark.parametrize("text", ["at 3:30", "007", "B52", "the 1920s", "-5", "1/2", "½", "Б"])
def test_what_cannot_be_spelled_out_surely_is_left_out(text):
    pytest.importorskip("num2words")
    assert Normalizer(LABELS, "en").normalize(text)[0] == ""


def test_spelling_out_without_the_package(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "num2words", None)
    with pytest.raises(InputError, match="pip install"):
        Normalizer(LABELS, "en")


# real corpora


def test_real_festvox(shared, tmp_path, capsys):
    """Every tenth sentence of a CMU ARCTIC voice."""
    real, source = shared / "data/speech/CMU_ARCTIC/cmu_us_slt_arctic", tmp_path / "slt"
    lines = (real / "etc/txt.done.data").read_text().splitlines()[::10]
    write_lines(source / "etc/txt.done.data", lines)
    (source / "wav").mkdir()
    for line in lines:
        name = f"{line.split()[1]}.opus"
        (source / "wav" / name).symlink_to(real / "wav" / name)
    assert prepare(tmp_path / "target", source, "festvox") == 0
    assert len(rows(tmp_path / "target")) == 114 and "0 problems" in capsys.readouterr().out
    assert (
        rows(tmp_path / "target")[0][1].read_text()
        == "AUTHOR OF THE DANGER TRAIL PHILIP STEELS ETC\n"
    )
