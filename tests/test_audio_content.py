"""What the samples hold: channels, a constant, another full scale; and where they come from."""

import io
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import ROOT
from test_audio import speech

from data import verify_manifest
from deepspeech2 import load_model
from deepspeech2.audio import AudioError, libsndfile, load_audio, read_audio

# channels

def stereo(*channels: np.ndarray) -> tuple[np.ndarray, int]:
    return np.stack(channels, axis=1), 16000


@pytest.mark.parametrize(("gain", "taken"), [(-1.0, 0), (-0.8, 0), (-1.25, 1)])
def test_of_channels_that_cancel_each_other_the_louder_one_is_taken(caplog, gain, taken):
    """An inverted plug, or balanced lines read as stereo."""
    left = speech() * 0.5
    samples, rate = stereo(left, left * gain)
    np.testing.assert_array_equal(load_audio((samples, rate), 16000), samples[:, taken])
    assert f"channel {taken + 1} of 2 is taken" in caplog.text


@pytest.mark.parametrize("channels", [
    (speech(), speech(seed=1)), (speech(), speech()), (speech(), speech() * -0.3),
    (speech(), np.zeros(32000, np.float32)), tuple(speech(seed=i) for i in range(8)),
    (np.zeros(32000, np.float32),) * 2,
    (speech() * 0.1 + np.float32(0.2), speech() * 0.1 - np.float32(0.2)),
])
def test_other_channels_are_averaged_without_a_word(caplog, channels):
    samples, rate = stereo(*channels)
    found = load_audio((samples, rate), 16000)
    np.testing.assert_allclose(found, samples.mean(axis=1), atol=1e-6)
    assert not caplog.records


def test_cancelling_channels_stay_so_in_a_long_recording(tmp_path, monkeypatch, caplog):
    """The pause in its middle, with noise of its own in each channel, goes on with the same one."""
    monkeypatch.setattr(libsndfile, "_BLOCK", 8000)
    left = speech(3)
    right = -left
    left[16000:32000], right[16000:32000] = speech(1, seed=1) / 100, speech(1, seed=2) / 100
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], 1), 16000, subtype="FLOAT")
    np.testing.assert_array_equal(load_audio(tmp_path / "a.wav", 16000), left)
    assert len(caplog.records) == 1


@pytest.mark.parametrize("channel", [1, 2, 3])
def test_one_channel(tmp_path, channel):
    samples = np.stack([speech(seed=i) for i in range(3)], axis=1)
    soundfile.write(tmp_path / "a.wav", samples, 16000, subtype="FLOAT")
    for source in (tmp_path / "a.wav", (samples, 16000)):
        np.testing.assert_array_equal(load_audio(source, 16000, channel), samples[:, channel - 1])


@pytest.mark.parametrize("channel", [0, 2, -1])
def test_a_channel_that_is_not_there(tmp_path, channel):
    soundfile.write(tmp_path / "a.wav", speech(), 16000)
    with pytest.raises(AudioError, match=f"a.wav: there is no channel {channel}: the recording"):
        load_audio(tmp_path / "a.wav", 16000, channel)


# a constant, and the full scale

@pytest.mark.parametrize("constant", [-0.3, -0.01, 0.02, 0.1])
def test_a_constant_is_taken_out(tmp_path, constant):
    """Cheap sound cards add one."""
    samples = speech() * 0.3
    soundfile.write(tmp_path / "a.wav", samples + constant, 16000)
    found = load_audio(tmp_path / "a.wav", 16000)
    assert abs(found.mean()) < 1e-6
    np.testing.assert_allclose(found, samples - samples.mean(), atol=1e-4)


def test_a_constant_is_taken_out_of_every_block(tmp_path, monkeypatch):
    """A last block too short to tell has that of the block before."""
    monkeypatch.setattr(libsndfile, "_BLOCK", 16_000)
    samples = speech(2.001) * 0.3
    soundfile.write(tmp_path / "a.wav", samples + 0.1, 16000)
    found = load_audio(tmp_path / "a.wav", 16000)
    np.testing.assert_allclose(found, samples, atol=2e-3)


@pytest.mark.parametrize("samples", [speech(), speech(0.2), speech() + np.float32(0.0008)])
def test_samples_without_a_constant_stay_bit_for_bit(samples):
    np.testing.assert_array_equal(load_audio((samples, 16000), 16000), samples)


@pytest.mark.parametrize("bits", [16, 24, 32])
def test_floats_with_the_full_scale_of_integers(tmp_path, caplog, bits):
    samples = (speech() * 0.9 * 2 ** (bits - 1)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", samples, 16000, subtype="FLOAT")
    for source in (tmp_path / "a.wav", (samples, 16000)):
        caplog.clear()
        np.testing.assert_allclose(load_audio(source, 16000), speech() * 0.9, atol=1e-6)
        assert f"divided by {2 ** (bits - 1)}" in caplog.text


@pytest.mark.parametrize("peak", [1.5, 4])
def test_floats_a_little_above_full_scale_stay(caplog, peak):
    samples = speech() * np.float32(peak)
    np.testing.assert_array_equal(load_audio((samples, 16000), 16000), samples)
    assert not caplog.records


def test_floats_of_no_scale_at_all():
    with pytest.raises(AudioError, match="the samples reach 1e[+]20, where full scale is 1"):
        load_audio((speech() / np.abs(speech()).max() * np.float32(1e20), 16000), 16000)


# pipes

@pytest.mark.parametrize(("name", "rate"), [("a.wav", 16000), ("a.flac", 44100), ("a.ogg", 16000),
                                            ("a.mp3", 16000)])
def test_a_pipe_is_read_like_a_file(tmp_path, name, rate):
    soundfile.write(tmp_path / name, speech(2, rate), rate)
    content = (tmp_path / name).read_bytes()
    expected = load_audio(tmp_path / name, 16000)
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(content,))
    writer.start()
    np.testing.assert_array_equal(load_audio(tmp_path / "pipe", 16000), expected)
    writer.join()
    ours, theirs = os.pipe()
    writer = threading.Thread(target=lambda: (os.write(theirs, content), os.close(theirs)))
    writer.start()
    with open(ours, "rb") as file:  # its name is a number
        np.testing.assert_array_equal(load_audio(file, 16000), expected)
    writer.join()


def test_a_long_pipe_goes_to_the_disk(monkeypatch):
    from deepspeech2.audio import source

    class Pipe:
        """A stream that gives a few bytes at a time, and cannot seek."""

        def __init__(self, content):
            self.file = io.BytesIO(content)

        def read(self, count):
            return self.file.read(min(count, 1000))

    monkeypatch.setattr(source, "_IN_MEMORY", 5000)
    file = io.BytesIO()
    soundfile.write(file, speech(), 16000, format="WAV", subtype="FLOAT")
    np.testing.assert_array_equal(load_audio(Pipe(file.getvalue()), 16000), speech())
    with pytest.raises(AudioError, match="audio: cannot read the audio: the file is empty"):
        load_audio(Pipe(b""), 16000)


def test_a_pipe_is_not_read_for_a_corpus(tmp_path):
    os.mkfifo(tmp_path / "a.wav")
    with pytest.raises(AudioError, match="a.wav: cannot read the audio: a pipe or a device"):
        read_audio(tmp_path / "a.wav")


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null"])
def test_a_device_is_not_read(path):
    with pytest.raises(AudioError, match=f"{path}: cannot read the audio: a device"):
        load_audio(path, 16000)


def test_a_file_that_is_open_as_text():
    with open(os.devnull) as file:
        for text in (io.StringIO("text"), file):
            with pytest.raises(AudioError, match="open as text"):
                load_audio(text, 16000)


def test_a_file_object_that_is_closed(tmp_path):
    file = io.BytesIO(b"RIFF")
    file.close()
    with pytest.raises(AudioError, match="closed file"):
        load_audio(file, 16000)


def test_the_commands_read_pipes_and_files_of_any_name(demo_corpus, tmp_path):
    """Each line is that of the same recording; a bad file between them has an empty one."""
    spoken, rate = soundfile.read(next((demo_corpus / "demo_dataset" / "test" / "wav").iterdir()))
    soundfile.write(tmp_path / "a.wav", spoken, rate)
    odd = os.fsencode(tmp_path) + b"/caf\xe9.flac"
    soundfile.write(odd, spoken, rate)
    bad = os.fsencode(tmp_path) + b"/bad\xe9.mp3"
    Path(os.fsdecode(bad)).write_bytes(b"text")
    command = (f"cat {tmp_path}/a.wav | {sys.executable} -m deepspeech2 transcribe {tmp_path}/a.wav"
               f" - <(cat {tmp_path}/a.wav) $ODD $BAD --channel 1")
    result = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, capture_output=True, check=False,
        env=os.environb | {b"ODD": odd, b"BAD": bad, b"LC_ALL": b"C"})
    lines = result.stdout.decode().split("\n")
    assert result.returncode == 2 and len(lines) == 6, result.stderr
    assert lines[0] and lines[1:4] == lines[:1] * 3 and lines[4:] == ["", ""]
    error = result.stderr.decode()
    assert "bad\\udce9.mp3: cannot read the audio" in error and "Traceback" not in error


def test_standard_input_that_is_none():
    command = [sys.executable, "-m", "deepspeech2", "transcribe", "-"]
    for redirection, words in (("</dev/null", "the file is empty"), ("<&-", "closed")):
        result = subprocess.run(["bash", "-c", f"{' '.join(command)} {redirection}"], cwd=ROOT,
                                capture_output=True, text=True, check=False)
        assert result.returncode == 2 and words in result.stderr, result.stderr


# the reported recordings

@pytest.fixture(scope="module")
def cases(shared) -> Path:
    """What other people reported; each recording says ERASE TWO FOUR EIGHT NINE."""
    folder = shared / "cases" / "inference"
    if not folder.is_dir():
        pytest.skip(f"the reported recordings are needed: {folder} is not there")
    return folder


@pytest.mark.parametrize(("path", "samples"), [
    ("01-mp3-vbr-without-xing-is-cut/vbr.mp3", 112896),
    ("02-mp3-without-xing-refused/cbr128_44k_stereo.mp3", 112896),
    ("02-mp3-without-xing-refused/cbr32_22k.mp3", 57024),
    ("02-mp3-without-xing-refused/cover.mp3", 42048),
    ("02-mp3-without-xing-refused/id3v1.mp3", 42048),
    ("02-mp3-without-xing-refused/mp3_in.wav", 42048),
    ("02-mp3-without-xing-refused/piped_44k.mp3", 112896),
    ("04-ogg-chained-is-cut/twice.ogg", 2 * 40391),
    ("04-ogg-chained-is-cut/twice.opus", 2 * 40391),
    ("05-codecs-that-cannot-seek-crash/g721.au", 40440),
    ("05-codecs-that-cannot-seek-crash/gsm.wav", 20480),
    ("05-codecs-that-cannot-seek-crash/nms.wav", 20320),
    ("05-codecs-that-cannot-seek-crash/v.vox", 20196),
    ("14-wav-with-data-size-0/size0.wav", 40391), ("14-wav-with-data-size-0/sizeff.wav", 40391),
    ("15-flac-of-unknown-length/streamed.flac", 40391),
    ("20-messages-for-other-formats/a.amr", 20320),
    ("20-messages-for-other-formats/a.m4a", 40960),
    ("20-messages-for-other-formats/a.mp4", 31744),
    ("20-messages-for-other-formats/a.oga", 40391),
    ("20-messages-for-other-formats/a.webm", 121173),
])
def test_reported_recordings_are_as_long_as_ffmpeg_reads_them(cases, capfd, path, samples):
    """What ffmpeg 8.1 decodes; of the second Opus stream and of .vox, what it should."""
    assert len(read_audio(cases / path)[0]) == samples
    assert capfd.readouterr().err == ""


def test_reported_recordings_say_what_they_should(cases, caplog):
    model = load_model("an4")
    for path in (
        "07-name-not-utf8-crashes/speech.flac", "10-inverted-stereo-is-silence/inverted.wav",
        "12-dc-offset-changes-the-text/offset.wav", "14-wav-with-data-size-0/size0.wav",
        "15-flac-of-unknown-length/streamed.flac", "20-messages-for-other-formats/a.oga",
    ):
        assert model.transcribe(cases / path).text == "ERASE TWO FOUR EIGHT NINE", path
    assert "inverted.wav: the channels cancel each other" in caplog.text


def test_each_channel_of_a_reported_call(cases):
    path = cases / "11-two-speakers-in-stereo-are-mixed" / "call.wav"
    samples, rate = soundfile.read(path, dtype="float32")
    for channel in (1, 2):
        expected = samples[:, channel - 1] - samples[:, channel - 1].mean()  # 0.0014
        np.testing.assert_allclose(load_audio(path, rate, channel), expected, atol=1e-6)


def test_the_check_of_a_manifest_reads_what_training_reads(cases, tmp_path, capsys):
    """The seconds are those of the whole recordings."""
    names = ["01-mp3-vbr-without-xing-is-cut/vbr.mp3", "05-codecs-that-cannot-seek-crash/gsm.wav",
             "02-mp3-without-xing-refused/cover.mp3"]
    (tmp_path / "a.txt").write_text("ERASE")
    manifest = tmp_path / "m.csv"
    manifest.write_text("".join(f"{cases / name},a.txt\n" for name in names))
    assert verify_manifest.main([str(manifest)]) == 0
    shortest, longest = 112896 / 44100, 42048 / 16000
    assert f"({shortest:.1f} to {longest:.1f} s)" in capsys.readouterr().out
