"""Audio of every kind is read whole or refused. Oracles: libsndfile, FFmpeg's libraries (PyAV)."""

import io
import struct
import sys
import threading
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from test_audio import refusal, speech

from deepspeech2.audio import AudioError, containers, libsndfile, load_audio, open_audio, read_audio
from deepspeech2.audio.source import Recording

ID3V2 = b"ID3\3\0\0" + bytes([0, 0, 8, 0]) + b"\xff\xfb\x90\x64" * 256  # looks like frames
ID3V1 = b"TAG" + bytes(125)
APE_BEHIND = bytes(68) + b"APETAGEX" + struct.pack("<IIII", 2000, 100, 0, 0) + bytes(8)
APE = b"APETAGEX" + struct.pack("<IIII", 2000, 32, 0, 0) + bytes(8)


def encoded(samples: np.ndarray, rate: int, form: str, **options) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=form, **options)
    return file.getvalue()


def mp3(seconds: float = 2.0, rate: int = 16000, channels: int = 1, seed: int = 0, **options):
    samples = np.stack([speech(seconds, rate, seed)] * channels, axis=1)
    return encoded(samples, rate, "MP3", **options)


def without_header(content: bytes) -> bytes:
    """An MP3 without its first frame, which has the length and the encoder's delay."""
    starts = [i for i in range(8, len(content)) if content[i:i + 2] == content[:2]]
    return content[starts[0]:]


def with_ffmpeg(path: Path) -> np.ndarray:
    """(n, channels) samples that FFmpeg decodes."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray() for frame in container.decode(audio=0)]
    return np.concatenate(frames, axis=1).T


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


# MPEG

@pytest.mark.parametrize("options", [{"bitrate_mode": "CONSTANT"}, {"bitrate_mode": "VARIABLE"}])
@pytest.mark.parametrize(("rate", "channels"), [(16000, 1), (22050, 2), (44100, 2), (8000, 1)])
def test_mp3_without_a_header_is_read_as_ffmpeg_reads_it(tmp_path, rate, channels, options):
    """Loud noise after silence: a length that is guessed from the first frames is far off."""
    content = without_header(mp3(3, rate, channels, **options))
    path = write(tmp_path / "a.mp3", content)
    found, found_rate = read_audio(path)
    expected = with_ffmpeg(path).mean(axis=1)
    assert found_rate == rate and len(found) == len(expected)
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [16000, 44100])
def test_mp3_with_a_header_is_what_libsndfile_reads(tmp_path, rate, channels):
    """Delay and padding of the encoder are cut off."""
    path = write(tmp_path / "a.mp3", mp3(2, rate, channels))
    expected = soundfile.read(path, dtype="float32", always_2d=True)[0].mean(axis=1)
    found = read_audio(path)[0]
    assert len(found) == 2 * rate
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(("before", "after"), [
    (ID3V2, b""), (b"", ID3V1), (ID3V1 + ID3V2, b""), (ID3V2, APE + ID3V1),
    (bytes(500), bytes(999)), (APE, b"LYRICSBEGIN"), (b"\xff\xfb\x90", b"\xff\xfb"),
])
@pytest.mark.parametrize("header", [True, False])
def test_tags_and_junk_around_an_mp3(tmp_path, capfd, before, after, header):
    content = mp3() if header else without_header(mp3())
    plain = write(tmp_path / "a.mp3", content)
    tagged = write(tmp_path / "b.mp3", before + content + after)
    np.testing.assert_array_equal(read_audio(tagged)[0], read_audio(plain)[0])
    assert capfd.readouterr().err == ""  # libmpg123 writes notes that name no file


@pytest.mark.parametrize("header", [True, False])
def test_joined_mp3s(tmp_path, header):
    """Also of another rate: the first one's holds."""
    contents = [mp3(2), mp3(1, seed=1), mp3(1, rate=8000, seed=2)]
    contents = contents if header else [without_header(content) for content in contents]
    paths = [write(tmp_path / f"{i}.mp3", content) for i, content in enumerate(contents)]
    joined = write(tmp_path / "a.mp3", contents[0] + ID3V2 + contents[1] + ID3V1 + contents[2])
    expected = np.concatenate([load_audio(path, 16000) for path in paths])
    found, rate = read_audio(joined)
    assert rate == 16000 and len(found) == len(expected)
    assert np.corrcoef(found, expected)[0, 1] > (0.9999 if header else 0.99)  # the borders differ


def test_an_mp3_with_a_header_and_frames_after_those_that_it_counts(tmp_path):
    joined = write(tmp_path / "a.mp3", mp3(2) + without_header(mp3(1)))
    alone = write(tmp_path / "b.mp3", without_header(mp3(1)))
    assert len(read_audio(joined)[0]) == 2 * 16000 + len(read_audio(alone)[0])


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("damage", [bytes(20_000), b"\xa5" * 20_000])
def test_an_mp3_with_a_hole_is_refused(tmp_path, header, damage):
    content = mp3(20) if header else without_header(mp3(20))
    middle = len(content) // 2
    path = write(tmp_path / "a.mp3", content[:middle] + damage + content[middle + len(damage):])
    assert "truncated" in refusal(path) or "damaged" in refusal(path)


def test_mp3_in_wav(tmp_path):
    content = without_header(mp3())
    form = struct.pack("<HHIIHHH", 0x55, 1, 16000, 4000, 1, 0, 0)
    data = b"data" + struct.pack("<I", len(content)) + content
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form + data + b"LIST\4\0\0\0abcd"
    whole = b"RIFF" + struct.pack("<I", len(body)) + body
    path = write(tmp_path / "a.wav", whole)
    expected = read_audio(write(tmp_path / "a.mp3", content))[0]
    np.testing.assert_array_equal(read_audio(path)[0], expected)
    assert "truncated" in refusal(write(path, whole[:3000]))
    junk = whole.replace(content, b"\x55" * len(content))
    assert "no samples" in refusal(write(path, junk))


def test_an_mp3_is_read_in_bounded_memory_and_left_in_its_middle(tmp_path, monkeypatch):
    monkeypatch.setattr(libsndfile, "_BLOCK", 10_000)
    path = write(tmp_path / "a.mp3", without_header(mp3(20)))
    before = set(threading.enumerate())  # other tests may have left a thread
    with open_audio(path, 16000) as blocks:
        assert 0 < len(next(iter(blocks))) <= 10_000
    assert set(threading.enumerate()) <= before


# Ogg, FLAC, WAV

@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_joined_ogg_streams(tmp_path, subtype):
    first, second = (encoded(speech(s, 16000, int(s)), 16000, "OGG", subtype=subtype)
                     for s in (2, 1))
    paths = [write(tmp_path / "a.ogg", first), write(tmp_path / "b.ogg", second)]
    joined = write(tmp_path / "c.ogg", first + second)
    expected = np.concatenate([read_audio(path)[0] for path in paths])
    np.testing.assert_array_equal(read_audio(joined)[0], expected)
    assert len(expected) == 48000
    assert "within an Ogg page" in refusal(write(joined, (first + second)[:-100]))


def test_joined_ogg_streams_of_different_rates(tmp_path):
    contents = [encoded(speech(1, rate), rate, "OGG") for rate in (16000, 44100)]
    assert load_audio(write(tmp_path / "a.ogg", b"".join(contents)), 16000).shape == (32000,)


def without_count(content: bytes) -> bytes:
    """A FLAC file as a program writes it to a pipe."""
    content = bytearray(content)
    content[21] &= 0xF0  # 36 bits of the STREAMINFO block
    content[22:26] = bytes(4)
    return bytes(content)


@pytest.mark.parametrize("samples", [1, 17, 192, 4096, 4097, 32000, 700_000])
@pytest.mark.parametrize(("rate", "channels"), [(16000, 1), (12345, 2), (44100, 2)])
def test_streamed_flac(tmp_path, rate, channels, samples):
    signal = np.stack([np.resize(speech(2, rate), samples)] * channels, axis=1)
    content = encoded(signal, rate, "FLAC")
    expected = read_audio(write(tmp_path / "a.flac", content))
    found = read_audio(write(tmp_path / "b.flac", without_count(content)))
    np.testing.assert_array_equal(found[0], expected[0])
    assert found[1] == expected[1] == rate


@pytest.mark.parametrize("lost", [1, 100, 5000])
def test_streamed_flac_that_is_cut(tmp_path, lost):
    content = without_count(encoded(speech(), 16000, "FLAC"))
    assert "whole FLAC frame" in refusal(write(tmp_path / "a.flac", content[:-lost]))


def test_a_streamed_flac_with_a_frame_header_in_each_place(tmp_path):
    """Each of 15,000 may begin the last frame; a checksum from each to the end took minutes."""
    content = without_count(encoded(speech(), 16000, "FLAC"))
    start = content.index(b"\xff\xf8")
    message = refusal(write(tmp_path / "a.flac", content + content[start:start + 17] * 15_000))
    assert "whole FLAC frame" in message


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT", "ULAW"])
@pytest.mark.parametrize("riff_size", [0, 36, 0xFFFFFFFF])
def test_wav_whose_writer_did_not_fill_in_the_sizes(tmp_path, subtype, riff_size):
    content = bytearray(encoded(speech(1), 16000, "WAV", subtype=subtype))
    expected = read_audio(write(tmp_path / "a.wav", bytes(content)))[0]
    at = content.index(b"data") + 4
    content[at:at + 4] = bytes(4)
    content[4:8] = struct.pack("<I", riff_size)
    found = read_audio(write(tmp_path / "b.wav", bytes(content)))[0]
    np.testing.assert_array_equal(found[:len(expected)], expected)
    assert len(found) - len(expected) < 40  # the chunk after the samples, if there is one


def test_wav_without_samples_but_with_a_chunk_after_them(tmp_path):
    body = encoded(np.zeros(0), 16000, "WAV")[8:] + b"LIST\4\0\0\0abcd"
    path = write(tmp_path / "a.wav", b"RIFF" + struct.pack("<I", len(body)) + body)
    assert "no samples" in refusal(path)


@pytest.mark.parametrize(("form", "subtype"), [
    ("WAV", "GSM610"), ("AU", "G721_32"), ("AU", "G723_24"), ("WAV", "NMS_ADPCM_32"),
    ("WAV", "NMS_ADPCM_16"), ("WAV", "IMA_ADPCM"), ("WAV", "G721_32"), ("AIFF", "GSM610"),
    ("W64", "GSM610"), ("CAF", "ALAC_16"), ("VOC", "ULAW"), ("WAV", "MS_ADPCM"),
])
def test_codecs_that_cannot_seek(tmp_path, monkeypatch, form, subtype):
    samples = speech(3, 8000)
    path = write(tmp_path / "a", encoded(samples, 8000, form, subtype=subtype))
    monkeypatch.setattr(libsndfile, "_BLOCK", 5000)
    found, rate = read_audio(path)
    assert rate == 8000 and 0 <= len(found) - len(samples) < 600  # whole blocks of the codec
    assert np.corrcoef(found[:len(samples)], samples)[0, 1] > 0.8


# other formats

def encoded_by_ffmpeg(path: Path, codec: str, form: str, rate: int = 16000, **options) -> Path:
    encoded_into(str(path), codec, form, rate, **options)
    return path


def encoded_into(file, codec: str, form: str, rate: int, options=None, metadata=None) -> None:
    samples = speech(2, rate)
    with av.open(file, "w", format=form, options=options) as container:
        container.metadata.update(metadata or {})
        stream = container.add_stream(codec, rate=rate, layout="mono")
        stream.bit_rate = 64000
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate = rate
        resampler = av.AudioResampler(stream.codec_context.format, "mono", rate,
                                      stream.codec_context.frame_size or None)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))


def likeness(a: np.ndarray, b: np.ndarray) -> float:
    """The correlation of two signals, the second one moved to where it is highest."""
    size = len(a) + len(b)
    products = np.fft.irfft(np.fft.rfft(a, size) * np.fft.rfft(b, size).conj(), size)
    return np.abs(products).max() / np.sqrt(np.square(a).sum() * np.square(b).sum())


MEDIA = [
    ("aac", "mp4", 44100, "MP4 or QuickTime"), ("aac", "ipod", 16000, "MP4 or QuickTime"),
    ("alac", "mov", 16000, "MP4 or QuickTime"), ("libopus", "webm", 48000, "Matroska or WebM"),
    ("wmav2", "asf", 44100, "Windows Media"), ("aac", "adts", 16000, "it is AAC"),
    ("ac3", "ac3", 48000, "AC-3"), ("aac", "flv", 44100, "Flash"), ("mp2", "avi", 32000, "AVI"),
    ("aac", "mpegts", 44100, "MPEG transport stream"), ("wavpack", "wv", 16000, "WavPack"),
    ("tta", "tta", 16000, "True Audio"),
]


@pytest.mark.parametrize(("codec", "form", "rate", "words"), MEDIA)
def test_other_formats_are_read_with_the_extra(tmp_path, capfd, codec, form, rate, words):
    path = encoded_by_ffmpeg(tmp_path / "a", codec, form, rate)
    found, expected = load_audio(path, 16000), load_audio((speech(2, rate), rate), 16000)
    assert abs(len(found) - len(expected)) < 5000  # delay and padding of the codec
    assert likeness(found, expected) > 0.9 and capfd.readouterr().err == ""
    with open(path, "rb") as file:
        np.testing.assert_array_equal(load_audio(file, 16000), found)


@pytest.mark.parametrize(("codec", "form", "rate", "words"), MEDIA)
def test_other_formats_are_named_without_the_extra(
    tmp_path, monkeypatch, codec, form, rate, words
):
    path = encoded_by_ffmpeg(tmp_path / "it's a.bin", codec, form, rate)
    monkeypatch.setitem(sys.modules, "av", None)  # what an import then raises
    message = refusal(path)
    assert words in message and "pip install '.[media]'" in message
    assert "ffmpeg -i '" in message and "a.wav'" in message


@pytest.mark.parametrize(("codec", "form", "rate", "words"), MEDIA)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_damage_in_other_formats_raises_nothing_else(tmp_path, codec, form, rate, words, share):
    """Not all of it shows: some of these formats tell nothing of their end."""
    path = encoded_by_ffmpeg(tmp_path / "a", codec, form, rate)
    content = path.read_bytes()
    middle = int(len(content) * share)
    for damaged in (content[:middle], content[:middle] + b"\xa5" * 300 + content[middle + 300:]):
        path.write_bytes(damaged)
        try:
            assert len(load_audio(path, 16000)) < 64000
        except AudioError as error:
            assert str(error).startswith(f"{path}: ")


# containers, tags, and what a format does not tell by its first bytes

def written_to_a_pipe(codec: str, form: str, rate: int) -> bytes:
    """What FFmpeg writes where it cannot go back to fill in sizes and lengths."""

    class Pipe:
        def __init__(self):
            self.content = b""

        def write(self, content):
            self.content += bytes(content)
            return len(content)

    pipe = Pipe()
    encoded_into(pipe, codec, form, rate, {"movflags": "frag_keyframe+empty_moov"})
    return pipe.content


@pytest.mark.parametrize(("codec", "form", "rate"), [
    ("aac", "mp4", 44100), ("aac", "ipod", 16000), ("alac", "mov", 16000), ("wavpack", "wv", 16000),
    ("libopus", "webm", 48000), ("aac", "matroska", 16000), ("pcm_s16le", "avi", 16000),
    ("wmav2", "asf", 44100), ("aac", "flv", 44100), ("libmp3lame", "mp4", 44100),
])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_containers_that_are_cut(tmp_path, codec, form, rate, share):
    """FFmpeg reads what is there, of some of them without an error."""
    content = encoded_by_ffmpeg(tmp_path / "a", codec, form, rate).read_bytes()
    assert "truncated" in refusal(write(tmp_path / "b", content[:int(len(content) * share)]))


@pytest.mark.parametrize(("form", "subtype"), [
    ("AIFF", "PCM_16"), ("AIFF", "FLOAT"), ("AU", "PCM_24"), ("AU", "ULAW"), ("CAF", "PCM_16"),
    ("CAF", "ALAC_16"), ("W64", "PCM_16"), ("W64", "GSM610"), ("RF64", "PCM_16"), ("SVX", "PCM_16"),
    ("VOC", "PCM_U8"), ("VOC", "ALAW"), ("WAV", "PCM_16"), ("NIST", "PCM_16"),
    ("MAT4", "DOUBLE"), ("MAT4", "PCM_16"), ("AVR", "PCM_16"), ("AVR", "PCM_S8"),
    ("MPC2K", "PCM_16"),
])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.99])
def test_what_libsndfile_reads_is_refused_where_it_is_cut(tmp_path, form, subtype, share):
    """libsndfile makes the length of most of these fit what is there."""
    content = encoded(speech(2, 16000), 16000, form, subtype=subtype)
    path = write(tmp_path / "a", content)
    assert abs(len(load_audio(path, 16000)) - 32000) < 500
    assert "truncated" in refusal(write(path, content[:int(len(content) * share)]))


def test_no_more_chunks_are_looked_at_than_a_recording_has(tmp_path, monkeypatch):
    """A hostile file can consist of millions of them."""
    looked = []
    read = Recording.read
    monkeypatch.setattr(Recording, "read",
                        lambda self, *place: looked.append(place) or read(self, *place))
    monkeypatch.setattr(containers, "_MOST_CHUNKS", 100)
    header = b"Creative Voice File\x1a\x1a\0\x0a\x01\x29\x11"
    refusal(write(tmp_path / "a.voc", header + 10_000 * b"\3\0\0\0"))
    assert 100 < len(looked) < 200


def test_a_last_chunk_of_odd_length_need_not_be_filled(tmp_path):
    content = encoded(speech(0.1)[:1599], 16000, "AIFF", subtype="PCM_S8")
    at = content.index(b"SSND") + 4
    size = struct.pack(">I", 8 + 1599)
    path = write(tmp_path / "a.aiff", content[:at] + size + content[at + 4:at + 4 + 8 + 1599])
    assert len(read_audio(path)[0]) == 1599


@pytest.mark.parametrize(("codec", "form"), [
    ("pcm_s16be", "au"), ("pcm_s16be", "aiff"), ("pcm_s16le", "w64"), ("pcm_s16le", "caf"),
    ("pcm_s16le", "wav"), ("pcm_s16le", "avi"), ("pcm_s16le", "mov"), ("wavpack", "wv"),
])
def test_pcm_whose_writer_did_not_fill_in_the_sizes(tmp_path, codec, form):
    path = write(tmp_path / "a", written_to_a_pipe(codec, form, 16000))
    np.testing.assert_allclose(read_audio(path)[0], speech(), atol=0.01)


@pytest.mark.parametrize(("codec", "form", "rate"), [
    ("libopus", "webm", 48000), ("aac", "matroska", 16000), ("mp2", "avi", 32000),
    ("aac", "mp4", 44100), ("wmav2", "asf", 44100), ("aac", "flv", 44100),
])
def test_containers_whose_writer_did_not_fill_in_the_sizes(tmp_path, codec, form, rate):
    expected = read_audio(encoded_by_ffmpeg(tmp_path / "a", codec, form, rate))[0]
    path = write(tmp_path / "b", written_to_a_pipe(codec, form, rate))
    found = read_audio(path)[0]
    assert len(found) == len(with_ffmpeg(path)) and abs(len(found) - len(expected)) < 3000
    assert likeness(found, expected) > 0.99


@pytest.mark.parametrize(("codec", "form"), [("wavpack", "wv"), ("tta", "tta")])
@pytest.mark.parametrize("after", [ID3V1, APE_BEHIND, APE_BEHIND + ID3V1])
def test_tags_behind_other_formats(tmp_path, codec, form, after):
    path = encoded_by_ffmpeg(tmp_path / "a", codec, form)
    expected = read_audio(path)[0]
    tagged = write(tmp_path / "b", path.read_bytes() + after)
    np.testing.assert_array_equal(read_audio(tagged)[0], expected)


@pytest.mark.parametrize(("codec", "form"), [
    ("wavpack", "wv"), ("tta", "tta"), ("aac", "adts"), ("aac", "ipod"), ("flac", "flac"),
    ("pcm_s16le", "wav"), ("libopus", "ogg"),
])
def test_a_tag_in_front_of_other_formats(tmp_path, codec, form):
    path = encoded_by_ffmpeg(tmp_path / "a", codec, form)
    expected = read_audio(path)[0]
    plain_tag = b"ID3\3\0\0" + bytes([0, 0, 8, 0]) + bytes(1024)
    tagged = write(tmp_path / "b", plain_tag + path.read_bytes())
    np.testing.assert_array_equal(read_audio(tagged)[0], expected)


@pytest.mark.parametrize("content", [ID3V2[:300], ID3V2, ID3V2 + b"text", ID3V1 + b"text"])
def test_a_tag_and_nothing_else(tmp_path, capfd, content):
    assert "none after the tag" in refusal(write(tmp_path / "a.mp3", content))
    assert capfd.readouterr().err == ""


def test_a_tag_behind_a_streamed_flac(tmp_path):
    content = encoded(speech(), 16000, "FLAC")
    tagged = write(tmp_path / "a.flac", without_count(content) + APE_BEHIND + ID3V1)
    np.testing.assert_array_equal(
        read_audio(tagged)[0], read_audio(write(tmp_path / "b.flac", content))[0])


@pytest.mark.parametrize("lost", [1, 5000, 15_000])
def test_flac_that_is_cut(tmp_path, lost):
    content = encoded(speech(), 16000, "FLAC")
    assert "whole FLAC frame" in refusal(write(tmp_path / "a.flac", content[:-lost]))


def crc(content: bytes, polynomial: int, bits: int) -> bytes:
    value = 0
    for byte in content:
        value ^= byte << (bits - 8)
        for _ in range(8):
            value = value << 1 ^ (polynomial if value >> (bits - 1) else 0)
            value &= (1 << bits) - 1
    return value.to_bytes(bits // 8, "big")


def flac_of_32_bits(samples: np.ndarray, rate: int) -> bytes:
    """One block of at most 65536 mono samples, as they are. Source: RFC 9639."""
    size = struct.pack(">HH", len(samples), len(samples))
    counts = (rate << 44 | 31 << 36 | len(samples)).to_bytes(8, "big")
    frame = b"\xff\xf8\x70\x0e\0" + struct.pack(">H", len(samples) - 1)
    frame += crc(frame, 0x07, 8) + b"\x02" + (samples * 2.0 ** 31).astype(">i4").tobytes()
    frame += crc(frame, 0x8005, 16)
    return b"fLaC\x80\0\0\x22" + size + bytes(6) + counts + bytes(16) + frame


def test_flac_of_32_bits_is_read_with_the_extra(tmp_path, monkeypatch):
    """libsndfile does not."""
    path = write(tmp_path / "a.flac", flac_of_32_bits(speech(), 16000))
    np.testing.assert_allclose(read_audio(path)[0], speech(), atol=1e-6)
    assert "whole FLAC frame" in refusal(write(tmp_path / "b.flac", path.read_bytes()[:-1]))
    monkeypatch.setitem(sys.modules, "av", None)
    assert "it is FLAC; pip install" in refusal(path)


def dsdiff(samples: np.ndarray, rate: int) -> bytes:
    """Mono samples as bits, made by a sigma-delta modulator of the first order."""
    total, bits = 0.0, np.empty(len(samples), np.uint8)
    for i, sample in enumerate(samples):
        bits[i] = total >= 0
        total += sample - (1 if bits[i] else -1)

    def chunk(name: bytes, content: bytes) -> bytes:
        return name + struct.pack(">Q", len(content)) + content

    properties = b"SND " + chunk(b"FS  ", struct.pack(">I", rate))
    properties += chunk(b"CHNL", b"\0\1C   ") + chunk(b"CMPR", b"DSD \x00\x00")
    return chunk(b"FRM8", b"DSD " + chunk(b"FVER", b"\1\5\0\0") + chunk(b"PROP", properties)
                 + chunk(b"DSD ", np.packbits(bits).tobytes()))


def test_dsdiff(tmp_path):
    rate = 2_822_400
    tone = 0.4 * np.sin(2 * np.pi * 1000 * np.arange(rate // 20) / rate)
    content = dsdiff(tone, rate)
    found = load_audio(write(tmp_path / "a.dff", content), 16000)
    assert len(found) == 800
    assert likeness(found, 0.4 * np.sin(2 * np.pi * 1000 * np.arange(800) / 16000)) > 0.99
    assert "truncated" in refusal(write(tmp_path / "b.dff", content[:-1]))


@pytest.mark.parametrize(("content", "words"), [
    (b"ajkg\2" + bytes(90), "Shorten"), (b"\0\0\1\xb3\x14\0\xc8\x11" + bytes(90), "MPEG video"),
])
def test_more_formats_are_named_without_the_extra(tmp_path, monkeypatch, content, words):
    path = write(tmp_path / "a", content)
    monkeypatch.setitem(sys.modules, "av", None)
    assert f"it is {words}; pip install" in refusal(path)


@pytest.mark.parametrize("junk", [b"", b"ICY 200 OK\r\nicy-name:a\r\n\r\n"])
def test_aac_from_the_middle_of_a_stream(tmp_path, junk):
    """What a radio station sends begins within a frame."""
    whole = encoded_by_ffmpeg(tmp_path / "a", "aac", "adts")
    expected = read_audio(whole)[0]
    path = write(tmp_path / "b", junk + whole.read_bytes()[5000:])
    found = read_audio(path)[0]
    assert 16000 < len(found) < len(expected)
    np.testing.assert_allclose(found[4096:], expected[4096 - len(found):], atol=1e-3)


@pytest.mark.parametrize(("codec", "form", "rate"), [
    ("libmp3lame", "mp4", 44100), ("libmp3lame", "matroska", 44100), ("mp2", "mpeg", 32000),
])
def test_mpeg_audio_in_containers_is_read_by_its_container(tmp_path, capfd, codec, form, rate):
    """Frames of MPEG audio are found in them, with other bytes between."""
    path = encoded_by_ffmpeg(tmp_path / "a", codec, form, rate)
    found, expected = read_audio(path)[0], with_ffmpeg(path).mean(axis=1)
    assert len(found) == len(expected) and np.corrcoef(found, expected)[0, 1] > 0.9999
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("layout", "channels"), [("7.1", 8), ("hexadecagonal", 16)])
def test_many_channels_in_planes_of_their_own(tmp_path, layout, channels):
    """PyAV's arrays of them read memory that is not theirs, and end the program."""
    samples = np.stack([speech(seed=i) for i in range(channels)], axis=1) * 0.3
    path = tmp_path / "a.wv"
    with av.open(str(path), "w", format="wv") as container:
        stream = container.add_stream("wavpack", rate=16000, layout=layout)
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="flt", layout=layout)
        frame.sample_rate = 16000
        resampler = av.AudioResampler(stream.codec_context.format, layout, 16000)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    for channel in (1, channels):
        found = load_audio(path, 16000, channel)
        np.testing.assert_allclose(found, samples[:, channel - 1], atol=0.01)  # 8 bits


def test_names_in_a_file_that_are_no_utf_8(tmp_path):
    path = encoded_by_ffmpeg(tmp_path / "a", "aac", "ipod", metadata={"title": "Cafe Concert"})
    expected = read_audio(path)[0]
    content = path.read_bytes()
    assert content.count(b"Cafe Concert") == 1
    path.write_bytes(content.replace(b"Cafe Concert", b"Caf\xe9 Concert"))
    np.testing.assert_array_equal(read_audio(path)[0], expected)


@pytest.mark.parametrize("junk", [
    "the quick brown fox jumps over it".encode("utf-16le"), b"\xff" * 64, bytes(64),
])
def test_a_size_that_leads_out_of_the_file_prints_nothing(tmp_path, capfd, junk):
    content = encoded_by_ffmpeg(tmp_path / "a", "wmav2", "asf").read_bytes()
    header = int.from_bytes(content[16:24], "little")
    path = write(tmp_path / "b", content[:header] + junk[1:] + content[header:])
    assert "a damaged or unknown kind of Windows Media" in refusal(path)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", [b"drms", b"enca", b"aavd"])
def test_encrypted_mp4_says_so(tmp_path, kind):
    content = encoded_by_ffmpeg(tmp_path / "a", "aac", "ipod").read_bytes()
    at = content.index(b"mp4a", content.index(b"stsd"))
    message = refusal(write(tmp_path / "b", content[:at] + kind + content[at + 4:]))
    assert "encrypted (DRM)" in message


def test_encrypted_windows_media_says_so(tmp_path):
    content = encoded_by_ffmpeg(tmp_path / "a", "wmav2", "asf").read_bytes()
    encryption = bytes.fromhex("fbb3112223bdd211b4b700a0c955fc6e") + struct.pack("<Q", 40)
    size, objects = struct.unpack("<QI", content[16:28])
    head = content[:16] + struct.pack("<QI", size + 40, objects + 1) + content[28:30]
    path = write(tmp_path / "b", head + encryption + bytes(16) + content[30:])
    assert "encrypted (DRM)" in refusal(path)


def test_wav_with_the_samples_before_what_they_are(tmp_path):
    content = encoded(speech(0.1), 16000, "WAV", subtype="PCM_16")
    path = write(tmp_path / "a.wav", content[:12] + content[36:] + content[12:36])
    assert "'data' chunk before its 'fmt ' chunk" in refusal(path)
