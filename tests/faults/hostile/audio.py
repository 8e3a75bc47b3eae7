"""Recordings in every format that libsndfile or PyAV reads."""

import struct
from pathlib import Path

import av
import soundfile
from hypothesis import strategies as st

from tests.faults.hostile.target import (
    RATE,
    Files,
    Target,
    change_first,
    encode,
    noise,
    number,
    read_files,
    word,
)

_KINDS = (
    ("a.wav", "WAV", "PCM_16", 1), ("b.wav", "WAV", "PCM_24", 2), ("c.wav", "WAV", "FLOAT", 1),
    ("d.wav", "WAVEX", "PCM_16", 2), ("e.wav", "WAV", "ULAW", 1), ("f.wav", "RF64", "PCM_16", 1),
    ("g.wav", "WAV", "IMA_ADPCM", 1), ("h.wav", "WAV", "MS_ADPCM", 1),
    ("i.wav", "WAV", "GSM610", 1), ("a.flac", "FLAC", "PCM_16", 1), ("b.flac", "FLAC", "PCM_24", 2),
    ("a.ogg", "OGG", "VORBIS", 1), ("b.ogg", "OGG", "VORBIS", 2), ("a.opus", "OGG", "OPUS", 1),
    ("b.opus", "OGG", "OPUS", 2), ("a.mp3", "MP3", "MPEG_LAYER_III", 1),
    ("b.mp3", "MP3", "MPEG_LAYER_III", 2), ("a.sph", "NIST", "PCM_16", 1),
    ("b.sph", "NIST", "ULAW", 2), ("a.aiff", "AIFF", "PCM_16", 1), ("a.au", "AU", "PCM_16", 1),
    ("a.caf", "CAF", "ALAC_16", 1), ("a.w64", "W64", "PCM_16", 1), ("a.voc", "VOC", "PCM_16", 1),
    ("a.mat", "MAT5", "PCM_16", 1),
)  # fmt: skip


# name, FFmpeg's codec and format, sample rate in Hz
_MEDIA = (
    ("a.m4a", "aac", "ipod", 16000), ("a.mp4", "alac", "mp4", 16000),
    ("a.webm", "libopus", "webm", 48000), ("a.mkv", "pcm_s16le", "matroska", 16000),
    ("a.wma", "wmav2", "asf", 44100), ("a.aac", "aac", "adts", 16000),
    ("a.flv", "aac", "flv", 44100), ("a.avi", "mp2", "avi", 32000),
    ("a.ts", "aac", "mpegts", 44100), ("a.wv", "wavpack", "wv", 16000),
)  # fmt: skip


def _encode(path: Path, codec: str, form: str, rate: int) -> None:
    """Half a second of noise, as FFmpeg's libraries write it."""
    with av.open(str(path), "w", format=form) as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        stream.bit_rate = 64000
        samples = noise(0.5 * rate / RATE).astype("f4").reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate = rate
        context = stream.codec_context
        resampler = av.AudioResampler(context.format, "mono", rate, context.frame_size or None)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))


def make_seeds(folder: Path) -> list[Files]:
    """A file of each kind; those called `object` are given as open files."""
    for name, codec, form, rate in _MEDIA:
        _encode(folder / name, codec, form, rate)
    for name, form, subtype, channels in _KINDS:
        rate = 48000 if subtype == "OPUS" else 16000
        with open(folder / name, "wb") as file:  # the suffix does not decide
            soundfile.write(file, noise(channels=channels), rate, format=form, subtype=subtype)
    files = read_files(folder)
    objects = {f"object.{kind}": files[f"a.{kind}"] for kind in ("flac", "wav", "mp3")}
    return [{name: content} for name, content in (files | objects).items()]


def read(folder: Path) -> list[str]:
    from deepspeech2.audio import load_audio

    (path,) = folder.iterdir()
    if path.stem == "object":
        with open(path, "rb") as file:
            load_audio(file, RATE)
    else:
        load_audio(path, RATE)
    return []


def _table(polynomial: int, bits: int) -> list[int]:
    table = []
    for byte in range(256):
        value = byte << (bits - 8)
        for _ in range(8):
            value = value << 1 ^ (polynomial if value >> (bits - 1) else 0)
            value &= (1 << bits) - 1
        table.append(value)
    return table


_OGG, _CRC8, _CRC16 = _table(0x04C11DB7, 32), _table(0x07, 8), _table(0x8005, 16)


def checksum(content: bytes, table: list[int], bits: int) -> int:
    value, mask = 0, (1 << bits) - 1
    for byte in content:
        value = (value << 8 & mask) ^ table[(value >> (bits - 8)) ^ byte]
    return value


def repair_ogg(content: bytes) -> bytes:
    """Make the checksums of all Ogg pages right, if there are any."""
    pages = content.split(b"OggS")
    for i, page in enumerate(pages[1:], 1):
        if len(page) > 22:
            page = page[:18] + bytes(4) + page[22:]
            value = checksum(b"OggS" + page, _OGG, 32)
            pages[i] = page[:18] + value.to_bytes(4, "little") + page[22:]
    return b"OggS".join(pages)


@st.composite
def wave_file(draw) -> bytes:
    """A RIFF file whose fields and sizes need not be right."""
    u32 = st.sampled_from([0, 1, 16, 1000, 2**31 - 1, 2**31]) | st.integers(0, 2**32 - 1)
    u16 = st.sampled_from([0, 1, 2, 3, 6, 7, 8, 16, 17, 24, 32, 49, 64, 1024, 0xFFFE, 0xFFFF])
    rate = st.sampled_from([0, 1, 7, 100, 999, 8000, 16000, 44100, 10**6, 2**31 - 1, 2**32 - 1])
    body = struct.pack("<HHIIHH", draw(u16), draw(u16), draw(rate), draw(u32), draw(u16), draw(u16))
    if draw(st.booleans()):  # plain and right, but for the rate
        body = struct.pack("<HHIIHH", 1, 1, draw(rate), 32000, 2, 16)
    chunks = [(b"fmt ", body + draw(st.binary(max_size=30)))]
    names = st.sampled_from([b"LIST", b"fact", b"PEAK", b"cue ", b"smpl", b"bext", b"ds64"])
    chunks += draw(st.lists(st.tuples(names, st.binary(max_size=60)), max_size=3))
    chunks.append((b"data", draw(st.binary(max_size=40)) * draw(st.sampled_from([1, 2, 1000]))))
    content = b""
    for name, part in chunks:
        size = draw(u32) if draw(st.integers(0, 5)) == 0 else len(part)
        content += name + size.to_bytes(4, "little") + part
    riff = draw(st.sampled_from([b"RIFF", b"RIFF", b"RIFX", b"RF64"]))
    return riff + (len(content) + 4).to_bytes(4, "little") + b"WAVE" + content


@st.composite
def sphere_file(draw) -> bytes:
    """A SPHERE file with any header."""
    fields = {
        "sample_count": "-i 1000", "sample_rate": "-i 16000", "channel_count": "-i 1",
        "sample_n_bytes": "-i 2", "sample_byte_format": "-s2 01", "sample_coding": "-s3 pcm",
        "sample_sig_bits": "-i 16",
    }  # fmt: skip
    for name in draw(st.lists(st.sampled_from(sorted(fields)), max_size=3)):
        coding = st.sampled_from(["-s3 pcm", "-s4 ulaw", "-s26 pcm,embedded-shorten-v2.00", ""])
        fields[name] = draw(st.one_of(number.map(lambda n: f"-i {n}"), coding, word))
    lines = [f"{name} {text}" for name, text in fields.items()]
    header = encode("NIST_1A\n   1024\n" + "\n".join(lines) + "\nend_head\n")
    size = draw(st.sampled_from([0, 1, 1999, 2000]))
    return header.ljust(1024, b" ")[: draw(st.sampled_from([1024, 1024, 100, 1025]))] + bytes(size)


@st.composite
def flac_file(draw) -> bytes:
    """FLAC with right checksums: many samples that are all equal in few bytes."""
    channels, block = draw(st.integers(1, 8)), draw(st.sampled_from([16, 4096, 65535]))
    rate = draw(st.sampled_from([1, 8000, 16000, 48000, 655350]))
    frames = draw(st.sampled_from([0, 1, 1, 3, 3, 30, 1000]))
    total = draw(st.sampled_from([0, block * frames, block * frames + 1, 2**36 - 1]))
    info = struct.pack(">HH", block, block) + bytes(6)
    info += (rate << 44 | (channels - 1) << 41 | 15 << 36 | total).to_bytes(8, "big") + bytes(16)
    parts = [b"fLaC", b"\x80\0\0\x22", info]
    for frame in range(frames):
        # fixed block size given in 16 bits at the end, rate of STREAMINFO, 16 bits a sample
        header = bytes([0xFF, 0xF8, 0x70, (channels - 1) << 4 | 8]) + chr(frame).encode("utf-8")
        header += (block - 1).to_bytes(2, "big")
        body = header + bytes([checksum(header, _CRC8, 8)]) + bytes(3) * channels
        parts.append(body + checksum(body, _CRC16, 16).to_bytes(2, "big"))
    return b"".join(parts)


@st.composite
def opus_file(draw) -> bytes:
    """Opus with right checksums, whose packets of two bytes are 120 ms of silence each."""
    pages = draw(st.sampled_from([1, 1, 2, 5, 5, 150]))
    packets = draw(st.sampled_from([1, 1, 9, 255]))
    head = b"OpusHead" + struct.pack("<BBHIHB", 1, draw(st.integers(1, 2)), 312, 48000, 0, 0)
    tags = b"OpusTags" + struct.pack("<I", 0) + struct.pack("<I", 0)
    content = _page(2, 0, 0, [head]) + _page(0, 0, 1, [tags])
    for page in range(pages):
        granule = 5760 * packets * (page + 1)
        kind = 4 if page == pages - 1 else 0
        content += _page(kind, granule, page + 2, [b"\x83\x30"] * packets)
    return repair_ogg(content)


def _page(kind: int, granule: int, number: int, packets: list[bytes]) -> bytes:
    header = b"OggS" + struct.pack("<BBqIIIB", 0, kind, granule, 7, number, 0, len(packets))
    return header + bytes(map(len, packets)) + b"".join(packets)


_BEGINNINGS = (
    b"RIFF\xff\xff\xff\xffWAVE", b"FORM\0\0\0\0AIFF", b"FORM\0\0\0\x20AIFC", b".snd", b"dns.",
    b"caff\0\1\0\0", b"fLaC", b"OggS\0\2", b"ID3\4\0\0\x7f\x7f\x7f\x7f", b"\xff\xfb\x90\x64",
    b"riff\x2e\x91\xcf\x11", b"MATLAB 5.0 MAT-file", b"NIST_1A\n   1024\n", b"NIST_1A\n9999999\n",
    b"Creative Voice File\x1a", b"\x64\xa3\2\0", b"PVF1\n1 16000 16\n", b"Extended Instrument:",
    b" paf", b"fap ", b"2BIT", b"FORM\0\0\0\0" b"8SVX", b"\xf0\x7e", b"ALawSoundFile**", b"",
    b"\0\0\0\x20ftypM4A ", b"\x1aE\xdf\xa3\x01\0\0\0", b"#!AMR\n", b"FLV\1\4\0\0\0\t",
    b"wvpk", b"MAC ", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", b"RIFF\xff\xff\xff\xffAVI ",
    b"TTA1", b"DSD ", b"MPCK", b".RMF", b"\0\0\1\xba", b"\x0b\x77", b"\xff\xf1\x50\x80", b"TAG",
    b"tBaK",
)  # fmt: skip
any_audio = st.one_of(
    wave_file().map(lambda content: {"a.wav": content}),
    wave_file().map(lambda content: {"object.wav": content}),
    sphere_file().map(lambda content: {"a.sph": content}),
    flac_file().map(lambda content: {"a.flac": content}),
    opus_file().map(lambda content: {"a.opus": content}),
    st.tuples(st.sampled_from(_BEGINNINGS), st.binary(max_size=400), st.integers(0, 3)).map(
        lambda parts: {"a.wav": parts[0] + parts[1] * 40 ** parts[2] if parts[2] < 3 else parts[0]}
    ),
)

TARGETS = {
    "audio": Target(18_000, make_seeds, read, change_first(repair=repair_ogg), any_audio),
}
