# ruff: noqa: E501
"""What reads users' files: valid files of each kind, hostile variants, and the call that reads."""

import bz2
import gzip
import hashlib
import io
import json
import logging.handlers
import lzma
import os
import pickle
import random
import re
import shutil
import socket
import struct
import subprocess
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile
from conftest import ROOT
from hostile import Files, Target
from hypothesis import strategies as st
from mutations import NUMBERS, WORDS, mutate, mutate_message

from deepspeech2.labels import Labels

LABELS = Labels.load(ROOT / "labels.json")
RATE = 16000


def noise(seconds: float = 0.2, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, (round(seconds * RATE), channels))


def read_files(folder: Path) -> Files:
    """The contents of all files below a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def change_first(
    change: Callable = mutate, repair: Callable[[bytes, random.Random], bytes] | None = None
) -> Callable:
    """Change the first file; half of the time, make the checksums in it right again."""

    def changed(rng: random.Random, files: Files, seeds: list[Files]) -> Files:
        name = next(iter(files))
        content = change(rng, files[name], [next(iter(seed.values())) for seed in seeds])
        if repair and rng.random() < 0.5:
            content = repair(content, rng)
        return files | {name: content}

    return changed


FILE_NAMES = ("a\nb", "\x1b[2J", "caf\udce9", "a,b", '"q"', "-rf", " ", "é", "%s", "A" * 240, "...")


def change_any(*patterns: str) -> Callable:
    """Change one of the files whose names end as `patterns` say; some are removed or renamed."""

    def changed(rng: random.Random, files: Files, seeds: list[Files]) -> Files:
        name = rng.choice([name for name in files if name.endswith(patterns)])
        if rng.random() < 0.02:
            return {other: content for other, content in files.items() if other != name}
        if rng.random() < 0.05:
            old = rng.choice(list(files))
            folder, _, last = old.rpartition("/")
            new = rng.choice(FILE_NAMES) + rng.choice(("", os.path.splitext(last)[1]))
            return {(f"{folder}/{new}" if other == old else other): content
                    for other, content in files.items()}
        others = [seed[name] for seed in seeds if name in seed]
        return files | {name: mutate(rng, files[name], others)}

    return changed


# --- strategies that several targets use --------------------------------------------------------

number = st.sampled_from(NUMBERS) | st.integers(-(2**70), 2**70).map(str) | st.floats().map(repr)
word = (
    st.sampled_from(WORDS)
    | number
    | st.text(max_size=20)
    | st.text("ABC '_.,|\"\t/-", max_size=12)
)
scalar = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.sampled_from([float("inf"), float("nan"), 1e300, 10**400])
    | st.floats()
    | word
)
value = st.recursive(
    scalar,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(word, inner, max_size=4),
    max_leaves=12,
)


def encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def as_json(content) -> bytes:
    try:
        return json.dumps(content).encode()
    except ValueError:  # a number with more digits than Python writes
        return b"[" + b"9" * 5000 + b"]"


deep_json = st.sampled_from([b"[" * 100_000, b'{"a":' * 100_000, b"[" * 900 + b"]" * 900])


def lines_of(row: st.SearchStrategy[str], most: int = 6) -> st.SearchStrategy[bytes]:
    return st.lists(row, max_size=most).map(lambda rows: encode("\n".join(rows)))


# --- audio --------------------------------------------------------------------------------------


def audio_seeds(folder: Path) -> list[Files]:
    kinds = [
        ("a.wav", "WAV", "PCM_16", 1), ("b.wav", "WAV", "PCM_24", 2), ("c.wav", "WAV", "FLOAT", 1),
        ("d.wav", "WAVEX", "PCM_16", 2), ("e.wav", "WAV", "ULAW", 1), ("f.wav", "RF64", "PCM_16", 1),
        ("g.wav", "WAV", "IMA_ADPCM", 1), ("h.wav", "WAV", "MS_ADPCM", 1), ("i.wav", "WAV", "GSM610", 1),
        ("a.flac", "FLAC", "PCM_16", 1), ("b.flac", "FLAC", "PCM_24", 2),
        ("a.ogg", "OGG", "VORBIS", 1), ("b.ogg", "OGG", "VORBIS", 2),
        ("a.opus", "OGG", "OPUS", 1), ("b.opus", "OGG", "OPUS", 2),
        ("a.mp3", "MP3", "MPEG_LAYER_III", 1), ("b.mp3", "MP3", "MPEG_LAYER_III", 2),
        ("a.sph", "NIST", "PCM_16", 1), ("b.sph", "NIST", "ULAW", 2),
        ("a.aiff", "AIFF", "PCM_16", 1), ("a.au", "AU", "PCM_16", 1), ("a.caf", "CAF", "ALAC_16", 1),
        ("a.w64", "W64", "PCM_16", 1), ("a.voc", "VOC", "PCM_16", 1), ("a.mat", "MAT5", "PCM_16", 1),
    ]  # fmt: skip
    for name, form, subtype, channels in kinds:
        rate = 16000 if "OPUS" not in subtype else 48000
        with open(folder / name, "wb") as file:  # the suffix does not decide
            soundfile.write(file, noise(channels=channels), rate, format=form, subtype=subtype)
    return [{name: content} for name, content in read_files(folder).items()] + [
        {"object.flac": (folder / "a.flac").read_bytes()},
        {"object.wav": (folder / "a.wav").read_bytes()},
        {"object.mp3": (folder / "a.mp3").read_bytes()},
    ]


def read_audio(folder: Path) -> list[str]:
    from deepspeech2.audio import load_audio

    (path,) = folder.iterdir()
    if path.stem == "object":
        with open(path, "rb") as file:
            load_audio(file, RATE)
    else:
        load_audio(path, RATE)
    return []


def repair_audio(content: bytes, rng: random.Random) -> bytes:
    return repair_ogg(content) if content.startswith(b"OggS") else content


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
    """Make the checksums of all Ogg pages right."""
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
    u32 = st.sampled_from([0, 1, 16, 1000, 2**31 - 1, 2**31, 2**32 - 1]) | st.integers(0, 2**32 - 1)
    u16 = st.sampled_from([0, 1, 2, 3, 6, 7, 8, 16, 17, 24, 32, 49, 64, 1024, 0xFFFE, 0xFFFF])
    rate = st.sampled_from([0, 1, 7, 100, 999, 8000, 16000, 44100, 10**6, 2**31 - 1, 2**32 - 1])
    body = struct.pack("<HHIIHH", draw(u16), draw(u16), draw(rate), draw(u32), draw(u16), draw(u16))
    if draw(st.booleans()):  # plain and right, but for the rate
        body = struct.pack("<HHIIHH", 1, 1, draw(rate), 32000, 2, 16)
    chunks = [(b"fmt ", body + draw(st.binary(max_size=30)))]
    names = st.sampled_from([b"LIST", b"fact", b"PEAK", b"cue ", b"smpl", b"bext", b"data", b"ds64"])
    chunks += draw(st.lists(st.tuples(names, st.binary(max_size=60)), max_size=3))
    chunks.append((b"data", draw(st.binary(max_size=40)) * draw(st.sampled_from([1, 2, 1000]))))
    content = b"".join(
        name + (draw(u32) if draw(st.integers(0, 5)) == 0 else len(part)).to_bytes(4, "little") + part
        for name, part in chunks
    )
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
    pages, packets = draw(st.sampled_from([1, 1, 2, 5, 5, 150])), draw(st.sampled_from([1, 1, 9, 255]))
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

# --- texts, labels, manifests -------------------------------------------------------------------


def transcript_seeds(folder: Path) -> list[Files]:
    texts = ["HELLO WORLD", "\ufeffDON'T\nSTOP\r\n", "yes"]
    return [{"a.txt": text.encode()} for text in texts]


def read_transcript(folder: Path) -> list[str]:
    from src.manifest import read_transcript

    read_transcript(folder / "a.txt", LABELS)
    return []


def labels_seeds(folder: Path) -> list[Files]:
    return [{"labels.json": (ROOT / "labels.json").read_bytes()},
            {"labels.json": json.dumps(list("AÄ中 _")).encode()}]


def read_labels(folder: Path) -> list[str]:
    labels = Labels.load(folder / "labels.json")
    labels.decode(range(len(labels)))
    return []


any_labels = st.one_of(
    st.lists(st.characters().map(str.upper) | word, max_size=30).map(lambda x: as_json([*x, "_"])),
    st.integers(10_000, 100_000).map(
        lambda n: as_json([chr(i) for i in range(0x4E00, 0x4E00 + n) if chr(i).upper() == chr(i)])
    ),
    value.map(as_json),
    deep_json,
).map(lambda content: {"labels.json": content})


def manifest_seeds(folder: Path) -> list[Files]:
    soundfile.write(folder / "a.wav", noise(), RATE)
    soundfile.write(folder / "b.flac", noise(), RATE)
    for name in "ab":
        (folder / f"{name}.txt").write_text("HELLO WORLD\n")
    files = read_files(folder)
    return [{"m.csv": b"a.wav,a.txt\nb.flac,b.txt\n", **files},
            {"m.csv": b'\xef\xbb\xbf"a.wav","a.txt"\r\n', **files}]


def read_manifest(folder: Path) -> list[str]:
    """Check a manifest as data.verify_manifest does."""
    from data.verify_manifest import label_warnings, length_warnings
    from src.config import Config
    from src.manifest import inspect_manifest

    manifest, problems = inspect_manifest(folder / "m.csv", LABELS, jobs=1, allow_empty=True)
    if manifest:
        length_warnings(manifest, Config())
        label_warnings([manifest], LABELS)
    return problems


def any_manifest() -> st.SearchStrategy[Files]:
    (files,) = _manifest_files()
    cell = st.sampled_from(["a.wav", "b.flac", "a.txt", "b.txt", "m.csv", ".", "./a.wav"]) | word
    row = st.lists(cell, max_size=3).map(",".join)
    good = st.just("a.wav,a.txt")
    return lines_of(good | row, 8).map(lambda content: {"m.csv": content, **files})


def _manifest_files() -> list[Files]:
    with tempfile.TemporaryDirectory() as folder:
        first, _ = manifest_seeds(Path(folder))
    return [{name: content for name, content in first.items() if name != "m.csv"}]


def index_seeds(folder: Path) -> list[Files]:
    """Manifests with an index that is right for the files' times, which the harness sets."""
    from src.manifest import read_manifest

    seeds = []
    for number, files in enumerate(manifest_seeds(folder)):
        place = folder / str(number)
        place.mkdir()
        for name, content in files.items():
            (place / name).write_bytes(content)
            os.utime(place / name, ns=(10**18, 10**18))
        read_manifest(place / "m.csv", LABELS, jobs=1)
        index = (place / "m.index.npz").read_bytes()
        seeds.append({"m.index.npz": index, **files})
    return seeds


def read_index(folder: Path) -> list[str]:
    from src.manifest import read_manifest

    manifest = read_manifest(folder / "m.csv", LABELS, jobs=1)
    assert len(manifest.seconds) == len(manifest) and manifest.fingerprint()
    return []


@st.composite
def any_array(draw) -> np.ndarray:
    kind = draw(st.sampled_from(["i8", "i4", "f8", "f4", "U5", "S3", "b1", "c8", "M8[s]", "V4"]))
    shape = tuple(draw(st.lists(st.integers(0, 5), max_size=3)))
    return np.zeros(shape, kind)


@st.composite
def npz_file(draw, arrays: dict[str, np.ndarray]) -> bytes:
    """An npz file with a right zip; its arrays are changed in type, shape, value or header."""
    content = io.BytesIO()
    method = draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
    with zipfile.ZipFile(content, "w", method) as archive:
        for name, array in arrays.items():
            action = draw(st.integers(0, 5 + 2 * len(arrays)))
            if action == 0:
                continue
            if action == 1:
                array = draw(any_array())
            elif action == 2 and array.dtype.kind in "if":
                array = np.full(array.shape, draw(st.sampled_from([-1, 0, 1, 2**31, 2**62])),
                                array.dtype)
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, array, allow_pickle=False)
            data = buffer.getvalue()
            if action == 3:  # a header of the same length that says something else
                text = draw(st.sampled_from([(b"(", b"(9999999999,"), (b"<i8", b"|O8"),
                                             (b"False", b"True "), (b"{", b"["), (b"'descr'", b"1" * 7)]))
                data = data[:10] + data[10:128].replace(*text, 1)[:118] + data[128:]
            elif action == 4:
                data = data[: draw(st.integers(0, len(data)))]
            archive.writestr(f"{name}.npy", data)
    return content.getvalue()


@lru_cache
def npz_bomb(name: str) -> bytes:
    """An npz file of a float32 array of 1.25 GiB of zeros, in 1.3 MB."""
    begin = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        begin, {"descr": "<f4", "fortran_order": False, "shape": (20 << 24,)}
    )
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(begin.getvalue()) + packer.flush(zlib.Z_FULL_FLUSH)
    zeros = packer.compress(bytes(1 << 26)) + packer.flush(zlib.Z_FULL_FLUSH)
    packed += zeros * 20 + packer.flush()  # a full flush makes blocks that can be repeated
    crc = zlib.crc32(begin.getvalue())
    for _ in range(20):
        crc = zlib.crc32(bytes(1 << 26), crc)
    size = len(begin.getvalue()) + (20 << 26)
    fields = struct.pack("<HHHHHIIIHH", 20, 0, 8, 0, 33, crc, len(packed), size, len(name), 0)
    local = b"PK\3\4" + fields + name.encode() + packed
    central = b"PK\1\2\x14\0" + fields + bytes(14) + name.encode()
    end = struct.pack("<HHHHIIH", 0, 0, 1, 1, len(central), len(local), 0)
    return local + central + b"PK\5\6" + end


def any_index() -> st.SearchStrategy[Files]:
    (files,) = _manifest_files()
    from src.manifest import INDEX_VERSION

    files = {"m.csv": b"a.wav,a.txt\nb.flac,b.txt\n", **files}
    digest = hashlib.sha256(files["m.csv"]).hexdigest()
    sizes = [len(files[name]) for name in ("a.wav", "a.txt", "b.flac", "b.txt")]
    stamps = [[sizes[0], 10**18, sizes[1], 10**18], [sizes[2], 10**18, sizes[3], 10**18]]
    arrays = {"key": np.array(f"{INDEX_VERSION} {digest} {LABELS}"),
              "metadata": np.array([[3200, RATE, 11, 1]] * 2, np.int64),
              "file_states": np.array(stamps, np.int64)}
    bomb = st.builds(npz_bomb, st.just("key.npy"))
    return st.one_of(*[npz_file(arrays)] * 20, bomb).map(
        lambda content: {"m.index.npz": content, **files}
    )


# --- settings -----------------------------------------------------------------------------------


def config_seeds(folder: Path) -> list[Files]:
    seeds = [{"c.yaml": path.read_bytes()} for path in sorted((ROOT / "configs").glob("*.yaml"))]
    text = "ModelConfig: &m\n  hidden_size: 8\n  conv2_kernel: [21, 11]\nTrainingConfig: {epochs: 1}\n"
    return [*seeds, {"c.yaml": text.encode()}]


def read_config(folder: Path) -> list[str]:
    from src.config import load_config

    load_config(folder / "c.yaml")
    return []


@st.composite
def yaml_file(draw) -> bytes:
    """YAML with this project's keys, and with everything that YAML can do."""
    scalar = number | word.map(json.dumps) | st.sampled_from([
        "!!python/object/apply:os.system ['touch outside']", "!!python/name:os.system ''",
        "!!binary aGVsbG8=", "!!set {a, b}", "2024-13-45", "2001-12-14t21:59:43.10-05:00", "190:20:30",
        "*a", "*b", "*z", "&c [1, *c]", "{<<: *a}", "? [1]\n", "|\n  text", "'~x'", '"~a\\0b"', "~",
        "!!float nan", "!!int 1e5", "!unknown x", "[*a, *a]", "{p: *a, q: *a}", '"\\ud800"',
    ])  # fmt: skip
    flow = st.recursive(
        scalar,
        lambda inner: st.lists(inner, max_size=3).map(lambda x: "[" + ", ".join(x) + "]")
        | st.lists(st.tuples(scalar, inner), max_size=3).map(
            lambda x: "{" + ", ".join(f"{k}: {v}" for k, v in x) + "}"),
        max_leaves=6,
    )  # fmt: skip
    keys = {
        "TrainingConfig": ["epochs", "seed", "max_grad_norm", "log_dir", "dropout"],
        "ModelConfig": ["hidden_size", "rnn_type", "conv2_kernel", "bidirectional"],
        "OptimConfig": ["betas", "learning_rate", "optimizer"],
        "CheckpointConfig": ["ckpt_path", "ckpt_file_name_prefix"],
        "DataConfig": ["labels_path", "batch_size", "SpectConfig"],
        "explicit": ["x"],
    }
    lines = draw(st.sampled_from([[], ["x: &a {k: 1}"], ["x: &a [1]", "y: &b [*a, *a]"]]))
    for group in draw(st.lists(st.sampled_from(sorted(keys)), max_size=3, unique=True)):
        lines.append(f"{group}:")
        for name in draw(st.lists(st.sampled_from(keys[group]), max_size=3)):
            lines.append(f"  {name}: {draw(flow)}")
        if draw(st.integers(0, 3)) == 0:
            lines.append(f"  {draw(flow)}: {draw(flow)}")
    if draw(st.integers(0, 5)) == 0:
        lines.append(draw(flow))
    return encode("\n".join(lines))


def _laughs(opening: str, closing: str, end: str) -> bytes:
    """Aliases that stand for 2^60 values."""
    lines = [f"a0: &a0 {opening}{end}{closing}"]
    for i in range(60):
        first, second = (f"p: *a{i}", f"q: *a{i}") if opening == "{" else (f"*a{i}", f"*a{i}")
        lines.append(f"a{i + 1}: &a{i + 1} {opening}{first}, {second}{closing}")
    return "\n".join([*lines, "TrainingConfig: {epochs: *a60}"]).encode()


any_config = st.one_of(
    yaml_file(),
    st.sampled_from([
        _laughs("[", "]", "1"), _laughs("{", "}", "x: 1"), b"[" * 5000, b"{a: " * 5000, b"- " * 5000,
        b"a: &a {b: *a}", b"TrainingConfig: &a {epochs: *a}", b"TrainingConfig: &a [*a]",
        b"!!python/object/apply:os.system ['touch outside']", b"%YAML 9.9\n---\na: 1", b"--- \n---\n",
    ]),
).map(lambda content: {"c.yaml": content})  # fmt: skip

# --- checkpoints --------------------------------------------------------------------------------


def checkpoint_arrays() -> dict[str, np.ndarray]:
    return {"weight": np.arange(6, dtype=np.float32).reshape(2, 3), "steps": np.array(7, np.int32),
            "optimizer.weight": np.ones((2, 3), np.float32), "half": np.ones(3, np.float16)}


def checkpoint_seeds(folder: Path) -> list[Files]:
    from src.checkpoint import save_checkpoint
    from src.config import Config

    info = Config().model_info(Labels("AB _"))
    save_checkpoint(folder / "a.ckpt", checkpoint_arrays(), info, {"epoch": 3, "history": [{}]})
    save_checkpoint(folder / "b.ckpt", {"weight": np.zeros((300, 2), np.float32)}, info)
    return [{"a.ckpt": (folder / name).read_bytes()} for name in ("a.ckpt", "b.ckpt")]


def read_checkpoint(folder: Path) -> list[str]:
    from deepspeech2.errors import InputError
    from src.checkpoint import load_checkpoint, read_progress
    from src.config import load_config

    try:
        checkpoint = load_checkpoint(folder / "a.ckpt")
        if checkpoint.info:
            load_config().with_model(checkpoint.info, str(checkpoint.path))
    except InputError:
        read_progress(folder / "a.ckpt")  # what it says of a damaged file is its own
        raise
    read_progress(folder / "a.ckpt")
    return []


def repair_checkpoint(content: bytes, rng: random.Random) -> bytes:
    """A right checksum at the end."""
    body, mark, _ = content.rpartition(b"crc_num")
    body = body if mark else content
    return body + b"crc_num" + zlib.crc32(body).to_bytes(10, "big")


def change_checkpoint(rng: random.Random, content: bytes, others) -> bytes:
    if rng.random() < 0.5:
        return mutate(rng, content, others)
    return mutate_message(rng, content[:-17], []) + content[-17:]


@st.composite
def checkpoint_file(draw) -> bytes:
    """Whole records and a right checksum, with any names, shapes, types and strings."""
    from src import checkpoint_file
    from src.config import Config

    info = json.loads(Config().model_info(Labels("AB _")).to_json())
    info |= draw(st.dictionaries(st.sampled_from(sorted(info)), value, max_size=1))
    if isinstance(info["settings"], dict) and draw(st.booleans()):
        key = draw(st.sampled_from([*info["settings"], "x"]) | word)
        info["settings"][key] = draw(value)
    text = st.sampled_from(["[" * 50_000, "{}", ""]) | value.map(lambda v: as_json(v).decode())
    strings = {"deepspeech2_info": as_json(info).decode(), "deepspeech2_progress": draw(text)}
    strings |= draw(st.dictionaries(word.filter(str.isprintable), text, max_size=1))
    parts = []
    for name, string in strings.items():
        if draw(st.integers(0, 9)):
            data = string.encode("utf-32-le", "surrogatepass")
            parts.append(checkpoint_file._header(name, (0,), "str", len(data)) + data)
    dim = st.sampled_from([0, 1, 2, 3, 2**31, 2**32, 2**63 - 1, 2**63, 2**70 - 1])
    for _ in range(draw(st.integers(0, 3))):
        kind = draw(st.sampled_from(["Float32", "Float16", "Bool", "Int64", "str", "Float8", "a\0b", ""]))
        shape = tuple(draw(st.lists(dim, max_size=3) | st.just([1] * 100)))
        data = draw(st.binary(max_size=40) | st.sampled_from([b"", bytes(4), bytes(24)]))
        name = draw(st.sampled_from(["weight", "weight", "fc.weight", "crc_num", "", "é", "A" * 5000]))
        parts.append(checkpoint_file._header(name, shape, kind, len(data)) + data)
    return repair_checkpoint(b"".join(draw(st.permutations(parts))), None)


any_checkpoint = st.deferred(checkpoint_file).map(lambda content: {"a.ckpt": content})


class Unnoticed(Exception):
    """An altered checkpoint was loaded."""


def altered_seeds(folder: Path) -> list[Files]:
    return [{"a.ckpt": seed["a.ckpt"], "original": seed["a.ckpt"]} for seed in checkpoint_seeds(folder)]


def alter(rng: random.Random, files: Files, seeds: list[Files]) -> Files:
    """Cut or change a checkpoint as disks, copies and transfers do, often between two records."""
    from mutations import parse_message, serialize_field

    content = files["original"]
    records = [serialize_field(*record) for record in parse_message(content[:-17])]
    assert b"".join(records) == content[:-17]
    while content == files["original"]:
        match rng.randrange(7):
            case 0:
                content = content[: rng.randrange(len(content))]
            case 1:
                content = b"".join(records[: rng.randrange(len(records) + 1)])
            case 2:
                content = b"".join(records[: rng.randrange(len(records))]) + content[-17:]
            case 3:
                kept = [record for record in records if rng.random() < 0.7]
                rng.shuffle(kept)
                content = b"".join(kept) + content[-17:]
            case 4:
                content = content + rng.choice((records[-1], bytes(rng.randrange(1, 9)), content))
            case 5:
                content = mutate_message(rng, content[:-17], []) + content[-17:]
            case _:
                content = mutate(rng, content, [seed["a.ckpt"] for seed in seeds])
    return files | {"a.ckpt": content}


def read_altered(folder: Path) -> list[str]:
    from src.checkpoint import load_checkpoint

    load_checkpoint(folder / "a.ckpt")
    if (folder / "a.ckpt").read_bytes() != (folder / "original").read_bytes():
        raise Unnoticed
    return []


# --- stored models ------------------------------------------------------------------------------

SMALL = ["ModelConfig.hidden_size=4", "ModelConfig.hidden_layers=1", "ModelConfig.conv_channels=2",
         "ModelConfig.conv2_kernel=[21, 1]", "DataConfig.SpectConfig.sample_rate=8000"]


def small_network():
    """Configuration, labels and network of a small model, as the commands set MindSpore up."""
    from src import device
    from src.config import load_config

    device.set_device("CPU")
    from src.DeepSpeech import DeepSpeech

    config, labels = load_config(None, SMALL), Labels("AB _")
    bins = config.DataConfig.SpectConfig.num_bins
    return config, labels, DeepSpeech(config.ModelConfig, bins, len(labels))


def stored_seeds(folder: Path) -> list[Files]:
    from src.checkpoint import arrays_of, save_checkpoint

    config, labels, network = small_network()
    save_checkpoint(folder / "a.ckpt", arrays_of(network.get_parameters()), config.model_info(labels))
    return [{"a.ckpt": (folder / "a.ckpt").read_bytes()}]


def read_stored(folder: Path) -> list[str]:
    from src.stored_models import load_model

    load_model(next(path for path in sorted(folder.iterdir()) if path.suffix != ".json"))
    return []


def change_stored(rng: random.Random, content: bytes, others) -> bytes:
    """Change the settings or the records, and make the checksum right."""
    from src import checkpoint_file

    if rng.random() < 0.5:
        return repair_checkpoint(mutate_message(rng, content[:-17], []), rng)
    start = content.index('{'.encode("utf-32-le"))
    stop = content.index('}\n'.encode("utf-32-le"), start)
    stop = content.index('}\n'.encode("utf-32-le"), stop + 8) + 8 if b"" else stop + 8
    text = content[start:stop].decode("utf-32-le")
    changed = mutate(rng, text.encode(), []).decode("utf-8", "replace").encode("utf-32-le")
    from mutations import parse_message, serialize_field

    records = [serialize_field(*record) for record in parse_message(content[:-17])]
    records[0] = checkpoint_file._header("deepspeech2_info", (0,), "str", len(changed)) + changed
    return repair_checkpoint(b"".join(records), rng)


def onnx_seeds(folder: Path) -> list[Files]:
    config, labels, network = small_network()
    from src.onnx_graph import write_onnx

    parameters = {name: p.asnumpy() for name, p in network.parameters_dict().items()}
    write_onnx(folder / "a.onnx", parameters, config.ModelConfig,
               config.DataConfig.SpectConfig.num_bins)
    (folder / "a.json").write_text(config.model_info(labels).to_json(folder / "a.onnx"))
    files = read_files(folder)
    return [{"a.onnx": files["a.onnx"], "a.json": files["a.json"]}]


def read_onnx(folder: Path) -> list[str]:
    """Load a model and, with it, transcribe a short recording."""
    import deepspeech2

    model = deepspeech2.load_model(folder / "a.onnx")
    model.transcribe((noise()[:, 0], RATE))
    return []


def change_model(rng: random.Random, files: Files, seeds: list[Files]) -> Files:
    """Change the model; its checksum is right, wrong, or missing."""
    name, info = list(files)
    content = (mutate_message if rng.random() < 0.6 else mutate)(rng, files[name], [])
    described = json.loads(files[info])
    match rng.randrange(4):
        case 0:
            del described["sha256"]
        case 1:
            pass
        case _:
            described["sha256"] = hashlib.sha256(content).hexdigest()
    return {name: content, info: json.dumps(described).encode()}


def sidecar_seeds(folder: Path) -> list[Files]:
    (files,) = onnx_seeds(folder)
    return [{"a.json": files["a.json"], "a.onnx": files["a.onnx"]}]


_SIDECAR = {
    "settings": {"DataConfig.SpectConfig.sample_rate": 8000, "DataConfig.SpectConfig.window_size": 0.02,
                 "DataConfig.SpectConfig.window_stride": 0.01, "DataConfig.SpectConfig.window": "hamming",
                 "ModelConfig.hidden_size": 4},
    "labels": list("AB _"), "time_stride": 2,
}  # fmt: skip


@st.composite
def any_sidecar(draw, seeds: list[Files]) -> Files:
    content = dict(_SIDECAR)
    for _ in range(draw(st.integers(1, 2))):
        if draw(st.booleans()):
            content[draw(st.sampled_from([*content, "sha256"]))] = draw(value)
        elif isinstance(content["settings"], dict):
            key = draw(st.sampled_from([*content["settings"], "x"]) | word)
            content["settings"] = content["settings"] | {key: draw(value)}
    return seeds[0] | {"a.json": as_json(content)}


def mindir_seeds(folder: Path) -> list[Files]:
    from src.config import load_config
    from src.exporting import export_mindir

    (files,) = stored_seeds(folder)
    export_mindir(str(folder / "a.ckpt"), load_config(), folder / "out" / "a.mindir")
    files = read_files(folder / "out")
    return [{"a.mindir": files["a.mindir"], "a.json": files["a.json"]}]


# --- tables -------------------------------------------------------------------------------------


def cuts_seeds(folder: Path) -> list[Files]:
    text = "audio_path,word,start,end\na.wav,HELLO,0.0,0.08\na.wav,WORLD,0.08,0.2\nb.wav,YES,0.0,0.2\n"
    return [{"cuts.csv": text.encode()}]


def read_cuts(folder: Path) -> list[str]:
    """Read word cuts, and shuffle words with them as training does."""
    from src.augment import Augmenter
    from src.config import AugmentationConfig
    from src.manifest import Manifest
    from src.word_cuts import read_word_cuts

    zeros = np.zeros(2, np.int64)
    paths = ["a.wav", "b.wav"], ["a.txt", "b.txt"]
    manifest = Manifest(Path("m"), zeros, *paths, zeros, zeros, zeros, zeros)
    cuts = read_word_cuts(folder / "cuts.csv", manifest)
    augmenter = Augmenter(AugmentationConfig(shuffle_words=1.0), RATE, 0, zeros, word_cuts=cuts)
    for row, text in enumerate(("HELLO WORLD", "YES")):
        samples, _ = augmenter.shuffle_words(noise()[:, 0].astype(np.float32), text, row)
        assert len(samples) <= RATE
    return []


def csv_rows(header: list[str], rows: list[list[str]], cell=word | number) -> st.SearchStrategy[bytes]:
    """A table with a header; some of its cells are hostile."""

    @st.composite
    def build(draw) -> bytes:
        table = [list(row) for row in [header, *rows]]
        for _ in range(draw(st.integers(1, 4))):
            row = table[draw(st.integers(0, len(table) - 1))]
            if row:
                row[draw(st.integers(0, len(row) - 1))] = draw(cell)
            if draw(st.integers(0, 9)) == 0:
                row.append(draw(cell))
        if draw(st.integers(0, 9)) == 0:
            table.append([draw(cell)] * draw(st.sampled_from([1, 3, 2000])))
        return encode("\n".join(map(",".join, table)))

    return build()


CUTS_ROWS = [["a.wav", "HELLO", "0.0", "0.08"], ["a.wav", "WORLD", "0.08", "0.2"],
             ["b.wav", "YES", "0.0", "0.2"]]
METRICS = ["epoch", "step", "learning_rate", "train_loss", "gradient_norm", "val_wer", "val_cer",
           "minutes"]
METRICS_ROWS = [["1", "3", "0.001", "90.0", "9.0", "100.0", "80.0", "0.5"],
                ["2", "6", "0.0005", "40.0", "8.0", "", "", "0.25"],
                ["3", "9", "0.0002", "20.0", "7.0", "50.0", "30.0", "0.25"]]
EVALUATION = ["audio_path", "seconds", "wer", "cer", "reference", "hypothesis"]
EVALUATION_ROWS = [["a.wav", "1.5", "0.0", "0.0", "HELLO WORLD", "HELLO WORLD"],
                   ["b.wav", "2.5", "50.0", "20.0", "YES IT IS", "YES IS"]]


def table_seeds(name: str, header: list[str], rows: list[list[str]]) -> Callable:
    text = "\n".join(map(",".join, [header, *rows])) + "\n"
    return lambda folder: [{name: text.encode()}]


def read_metrics(folder: Path) -> list[str]:
    from tools.plot_log import parser, plot_log

    plot_log(parser().parse_args([str(folder / "metrics.csv"), "--output", str(folder / "x.png")]))
    return []


def read_evaluation(folder: Path) -> list[str]:
    from tools.confusions import confusions, parser

    confusions(parser().parse_args([str(folder / "eval.csv")]))
    return []


# --- archives -----------------------------------------------------------------------------------

COMPRESSIONS = {
    "a.tar": lambda x: x, "a.tar.gz": lambda x: gzip.compress(x, 1), "a.tar.bz2": bz2.compress,
    "a.tar.xz": lambda x: lzma.compress(x, preset=0),
}  # fmt: skip


def archive_seeds(folder: Path) -> list[Files]:
    seeds = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w", format=form) as tar:
            for name, data in (("corpus/wav/a.wav", bytes(700)), ("corpus/" + "b" * (90 if form == tarfile.USTAR_FORMAT else 150), b"text"),
                               ("corpus/é.txt", b"A" * 600)):
                member = tarfile.TarInfo(name)
                member.size, member.mtime = len(data), 10**9
                tar.addfile(member, io.BytesIO(data))
        seeds += [{name: pack(content.getvalue())} for name, pack in COMPRESSIONS.items()]
    return seeds


def read_archive(folder: Path) -> list[str]:
    from data.download import extract

    (archive,) = folder.iterdir()
    extract(archive, folder / "target" / "corpus")
    return []


def change_archive(rng: random.Random, files: Files, seeds: list[Files]) -> Files:
    """Change the compressed bytes; or the tar in them, often with right checksums of headers."""
    (name,) = files
    if rng.random() < 0.25:
        return {name: mutate(rng, files[name], [next(iter(seed.values())) for seed in seeds])}
    tars = [seed["a.tar"] for seed in seeds if "a.tar" in seed]
    content = mutate(rng, rng.choice(tars), tars)
    if rng.random() < 0.8:
        content = repair_tar(content)
    return {name: COMPRESSIONS[name](content)}


def repair_tar(content: bytes) -> bytes:
    """Make the checksums of all blocks right that look like headers."""
    blocks = [content[i : i + 512] for i in range(0, len(content), 512)]
    for i, block in enumerate(blocks):
        if block[257:262] == b"ustar" and len(block) == 512:
            blocks[i] = block[:148] + b"%06o\0 " % _tar_sum(block) + block[156:]
    return b"".join(blocks)


def _tar_sum(header: bytes) -> int:
    return sum(header[:148]) + 8 * 32 + sum(header[156:])


_MEMBERS = (
    "a.txt", "dir/b.txt", "/etc/ds2-hostile", "../outside.txt", "dir/../../outside.txt", "dir/..",
    "..", ".", "", "/", "//x", "./../x", "link", "link/x.txt", "dir", "a" * 300, "a/" * 500 + "x",
    "a\nb", "\x1b[2J", "caf\udce9", "C:\\x", "...", ".unpacked", "dir/.unpacked/x", "é", "a ",
)  # fmt: skip


@st.composite
def tar_file(draw) -> bytes:
    """Members of any type, name, size and time, with right checksums."""
    content = io.BytesIO()
    kinds = st.sampled_from([b"0", b"0", b"0", b"5", b"1", b"2", b"3", b"4", b"6", b"7", b"S", b"D",
                             b"M", b"V", b"\0", b"Z", b"g", b"x", b"L", b"K", b"X"])
    sizes = st.sampled_from([0, 1, 511, 512, 10_000, 2**33, 2**60, -1, -512, -1024, 2**33 - 1])
    for _ in range(draw(st.integers(1, 4))):
        member = tarfile.TarInfo(draw(st.sampled_from(_MEMBERS)))
        member.type = draw(kinds)
        member.size = draw(sizes)
        member.linkname = draw(st.sampled_from(["", *_MEMBERS, "/etc", "/etc/passwd", "../.."]))
        member.mode = draw(st.sampled_from([0, 0o644, 0o4777, 0o7777, 2**20]))
        member.mtime = draw(st.sampled_from([0, 10**9, -1, 2**33, 2**60, -(2**60)]))
        member.uid = member.gid = draw(st.sampled_from([0, 1000, 2**31, -1, 2**60]))
        form = draw(st.sampled_from([tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT]))
        try:
            header = member.tobuf(form, "utf-8", "surrogateescape")
        except ValueError:  # a number or a name that this format cannot write
            member.uid = member.gid = 0
            header = member.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
        data = draw(st.sampled_from([b"", b"text", bytes(10_000)]))
        if member.type in (b"x", b"g", b"X"):
            data = draw(pax_records())
            header = repair_tar(header[:124] + b"%011o\0" % len(data) + header[136:])
        content.write(header + data + bytes(-len(data) % 512))
    return content.getvalue() + bytes(draw(st.sampled_from([0, 512, 1024, 10240])))


@st.composite
def pax_records(draw) -> bytes:
    keys = ["path", "linkpath", "size", "mtime", "uid", "mode", "GNU.sparse.map", "hdrcharset",
            "GNU.sparse.major", "GNU.sparse.minor", "GNU.sparse.size", "GNU.sparse.realsize",
            "GNU.sparse.name", "GNU.sparse.numblocks", "comment", "", "a\0b"]
    result = b""
    for _ in range(draw(st.integers(0, 4))):
        text = draw(st.sampled_from(_MEMBERS) | number | st.sampled_from(["0,1,2,3", "1,-5", "BINARY"]))
        record = encode(f" {draw(st.sampled_from(keys))}={text}".replace("\udce9", "?")) + b"\n"
        size = len(record) + len(str(len(record) + 3))
        result += str(draw(st.just(size) | st.integers(-5, 2**40))).encode() + record
    return draw(st.sampled_from([result, result, b"9" * 60_000, b"1" * 30_000 + b" hdrcharset="]))


@st.composite
def archive_bomb(draw) -> Files:
    """1.25 GiB of zeros in a small archive: a file, or the long name or records of a header.

    Compressed files may be joined, so that the zeros need not be compressed at once.
    """
    name = draw(st.sampled_from(["a.tar.gz", "a.tar.bz2", "a.tar.xz"]))
    member = tarfile.TarInfo("zeros")
    member.size, member.type = 20 << 26, draw(st.sampled_from([b"0", b"L", b"x", b"g"]))
    header = COMPRESSIONS[name](member.tobuf(tarfile.GNU_FORMAT))
    return {name: header + _zeros(name) * draw(st.sampled_from([1, 20]))}


@lru_cache
def _zeros(name: str) -> bytes:
    return COMPRESSIONS[name](bytes(1 << 26))


any_archive = st.one_of(
    *[
        st.tuples(st.sampled_from(sorted(COMPRESSIONS)), tar_file()).map(
            lambda parts: {parts[0]: COMPRESSIONS[parts[0]](parts[1])}
        )
    ]
    * 9,
    archive_bomb(),
)

# --- corpora ------------------------------------------------------------------------------------

# what is given to the command, beside the name of a format, and the file that holds the transcripts
CORPORA = {
    "ljspeech": ("", "metadata.csv"), "festvox": ("", "etc/txt.done.data"),
    "commonvoice": ("en/validated.tsv", "en/validated.tsv"), "stm": ("", "stm/talk.stm"),
    "voxforge": ("", "jo/etc/PROMPTS"), "kaldi": ("data/train", "data/train/text"),
    "nemo": ("train.json", "train.json"), "deepspeech.pytorch": ("train.json", "train.json"),
    "manifest": ("train.csv", "train.csv"), "text": ("", "a/a1.txt"),
}  # fmt: skip
TEXTS = (".csv", ".data", ".tsv", ".stm", "PROMPTS", "text", "segments", "wav.scp", "utt2spk",
         ".json", ".txt")  # fmt: skip


def corpus_seeds(folder: Path) -> list[Files]:
    """A small corpus in every format; the first folder of each path names the format."""
    import test_data_corpus as made

    for name, make in made.MAKERS.items():
        make(folder / name)
    shutil.rmtree(folder / "voxforge")
    (folder / "parts" / "jo-20080318-kdl").rename(folder / "parts" / "jo")
    (folder / "parts").rename(folder / "voxforge")
    seeds = []
    for name in made.MAKERS:
        place = f"{folder / name}/".encode()
        files = {path: content.replace(place, b"") if path.endswith(TEXTS) else content
                 for path, content in read_files(folder / name).items()}
        first = CORPORA[name][1]
        seeds.append({f"{name}/{path}": files[path] for path in [first, *files]})
    return seeds


def read_corpus(folder: Path) -> list[str]:
    """Prepare the corpus as the command does; its problems are in a file of the target."""
    from data import corpus

    (form,) = (path.name for path in folder.iterdir())
    source, target = folder / form / CORPORA[form][0], folder / "target"
    options = ["--format", form, "--target", str(target), "--jobs=1", "--name=c"]
    args = corpus.parser().parse_args([str(source), *options, "--spell_out=en"])
    problems = said(lambda: corpus.corpus(args))
    assert bool(problems) == (target / "c_dataset" / "problems.txt").exists()
    return problems


def mixed_lines(content: bytes) -> st.SearchStrategy[bytes]:
    """Lines of the tokens and separators of a text, some of them hostile."""
    text = content.decode()
    tokens = st.sampled_from(sorted(set(re.split(r"[\s|,]+", text))))
    separators = st.sampled_from([" ", " ", "\t", "|", ",", "/", ""])
    row = st.lists(st.tuples(tokens | tokens | word, separators), max_size=7).map(
        lambda parts: "".join(a + b for a, b in parts)
    )
    return lines_of(row | st.sampled_from(text.splitlines()), 6)


@st.composite
def any_corpus(draw, seeds: list[Files]) -> Files:
    files = draw(st.sampled_from(seeds))
    name = draw(st.sampled_from([path for path in files if path.endswith(TEXTS)]))
    if "/train.json" in name:
        entries = [json.loads(line) for line in files[name].splitlines()]
        if "samples" in entries[0]:
            entries = [entries[0], *entries[0]["samples"]]
        entry = draw(st.sampled_from(entries))
        entry = entry | {draw(st.sampled_from(sorted(entry)) | word): draw(scalar | value)}
        if "samples" in entries[0]:
            entry = entry if "samples" in entry else entries[0] | {"samples": [entry]}
        return files | {name: as_json(entry)}
    return files | {name: draw(mixed_lines(files[name]))}


def said(prepare: Callable[[], object]) -> list[str]:
    """The warnings of a preparation, which names what it leaves out; its error if there is none."""
    from deepspeech2.errors import InputError, RunError

    handler = logging.handlers.BufferingHandler(10**6)
    handler.setLevel(logging.WARNING)
    logging.getLogger("data").addHandler(handler)
    try:
        prepare()
    except (InputError, RunError):
        if not handler.buffer:
            raise
    finally:
        logging.getLogger("data").removeHandler(handler)
    return [record.getMessage() for record in handler.buffer]


def an4_seeds(folder: Path) -> list[Files]:
    import test_data_an4 as made

    seeds = []
    for suffix in (".raw", ".wav", ".sph"):
        made.write_corpus(folder / suffix, suffix)
        files = read_files(folder / suffix)
        seeds.append({f"an4/{path}": content for path, content in files.items()})
    return seeds


def read_an4(folder: Path) -> list[str]:
    from data import an4

    options = ["--source", str(folder / "an4"), "--target", str(folder / "target"), "--jobs=1"]
    problems = said(lambda: an4.an4(an4.parser().parse_args(options)))
    return [line for line in problems if "etc/an4_test" not in line and "test utterances" not in line]


def librispeech_seeds(folder: Path) -> list[Files]:
    """A subset; and a subset with the record of an earlier preparation."""
    import test_data_librispeech as made

    made.write_subset(folder / "source", "dev-clean")
    assert made.prepare(folder / "target", folder / "source") == 0
    files = {f"source/{path}": content for path, content in read_files(folder / "source").items()}
    prepared = {f"target/{path}": content for path, content in read_files(folder / "target").items()}
    return [files, files | prepared]


def read_librispeech(folder: Path) -> list[str]:
    from data import librispeech

    options = ["--source", str(folder / "source"), "--target", str(folder / "target"), "--jobs=1"]
    problems = said(lambda: librispeech.librispeech(librispeech.parser().parse_args(options)))
    return [line for line in problems if "what was prepared is not there any more" not in line]


@st.composite
def any_listed(draw, seeds: list[Files], *patterns: str) -> Files:
    """Hostile lines in one of the lists of a corpus, or hostile JSON in a record."""
    files = draw(st.sampled_from(seeds))
    name = draw(st.sampled_from([path for path in files if path.endswith(patterns)]))
    if name.endswith(".json"):
        record = json.loads(files[name])
        record[draw(st.sampled_from(sorted(record)) | word)] = draw(value)
        return files | {name: as_json(record)}
    return files | {name: draw(mixed_lines(files[name]))}


# --- models of deepspeech.pytorch ---------------------------------------------------------------


def torch_seeds(folder: Path) -> list[Files]:
    import test_convert_torch as made
    import torch

    small = made.build(torch, hidden=4, layers=2, channels=2)
    seeds = []
    for name, package in (("a.pth", made.package_v1), ("b.pth", made.package_v2),
                          ("c.ckpt", made.package_v3)):
        for legacy in (False, True):
            path = made.save(torch, package(torch, small), folder / name, legacy)
            seeds.append({name: path.read_bytes()})
    made.write_npz(folder / "d.npz", made.state())
    return [*seeds, {"d.npz": (folder / "d.npz").read_bytes()}]


def read_torch(folder: Path) -> list[str]:
    from tools.convert_torch import convert_torch, parser

    (path,) = folder.iterdir()
    convert_torch(parser().parse_args([str(path), str(folder / "out" / "x.ckpt")]))
    return []


def change_torch(rng: random.Random, files: Files, seeds: list[Files]) -> Files:
    """Change a file, or a member of a zip whose checksums stay right."""
    ((name, content),) = files.items()
    if content.startswith(b"PK") and len(content) < 1 << 17 and rng.random() < 0.6:
        with zipfile.ZipFile(io.BytesIO(content)) as old:
            members = {member: old.read(member) for member in old.namelist()}
        names = sorted(members, key=lambda member: not member.endswith("data.pkl"))
        chosen = names[0 if rng.random() < 0.6 else rng.randrange(len(names))] if names else ""
        changed = io.BytesIO()
        with zipfile.ZipFile(changed, "w") as new:
            for member, data in members.items():
                new.writestr(member, mutate(rng, data, []) if member == chosen else data)
        return {name: changed.getvalue()}
    return {name: mutate(rng, content, [next(iter(seed.values())) for seed in seeds])}


class Call:
    """Unpickled without care, it calls a function."""

    def __init__(self, function: Callable, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


OUTSIDE = "/tmp/ds2-hostile-outside"
_CALLS = [
    Call(os.system, f"touch {OUTSIDE}"), Call(os.mkdir, OUTSIDE), Call(open, OUTSIDE, "w"),
    Call(exec, f"open({OUTSIDE!r}, 'w')"), Call(eval, f"open({OUTSIDE!r}, 'w')"),
    Call(subprocess.Popen, ["touch", OUTSIDE]), Call(shutil.rmtree, ".."), Call(os._exit, 3),
    Call(socket.create_connection, ("127.0.0.1", 9)), Call(getattr, Call(__import__, "os"), "system"),
    Call(pickle.loads, pickle.dumps(Call(os.system, f"touch {OUTSIDE}"))),
    Call(bytearray, 2**40), Call(range, 2**60), Call(list, range(10**9)),
]  # fmt: skip


def _doubled(levels: int, kind: Callable):
    """A value of a few bytes that is 2^levels values when it is written out."""
    result = kind("A")
    for _ in range(levels):
        result = kind([result, result])
    return result


@st.composite
def pickle_code(draw) -> bytes:
    """Any instructions of the pickle machine."""
    names = ["posix\nsystem", "builtins\nexec", "builtins\ngetattr", "collections\nOrderedDict",
             "torch._utils\n_rebuild_tensor_v2", "torch._utils\n_rebuild_parameter",
             "torch\nFloatStorage", "torch\nload", "omegaconf\nDictConfig", "a\nb.c", "\n", "os\npath"]
    simple = [b"(", b"0", b"1", b"2", b"N", b"}", b"]", b")", b"t", b"\x85", b"\x86", b"\x87", b"R",
              b"b", b"o", b"\x81", b"\x92", b"s", b"u", b"e", b"a", b"l", b"d", b"\x90", b"\x8f",
              b"Q", b"\x93", b"\x94", b"q\1", b"h\1", b"h\2", b"K\1", b"J\xff\xff\xff\x7f",
              b"\x8a\x08" + b"\xff" * 8, b"\x8b\xff\xff\xff\x7f", b"B\xff\xff\xff\x7f",
              b"\x8e" + b"\xff" * 7 + b"\x7f", b"\x95" + b"\xff" * 7 + b"\x7f", b"r\xff\xff\xff\x7f",
              b"\x82\1", b"I01\n", b"L9\n", b"Fnan\n", b"G\x7f\xf0" + bytes(6), b"Pkey\n", b".",
              b"\x80\4", b"X\7\0\0\0storage", b"X\3\0\0\0cpu", b"X\x0astate_dict"]
    part = st.sampled_from(simple) | st.sampled_from(names).map(lambda n: b"c" + n.encode() + b"\n") | (
        st.sampled_from(names).map(lambda n: b"i" + n.encode() + b"\n"))
    parts = draw(st.lists(part, max_size=25))
    beginning = draw(st.sampled_from([b"", b"}X\x0a\0\0\0state_dict", b"}X\6\0\0\0labels"]))
    return b"\x80\2" + beginning + b"".join(parts) + draw(st.sampled_from([b"s.", b".", b""]))


# a dictionary with a key of 2^60 numbers; a tensor that is one number 2^60 times
_CODES = (
    b"\x80\2}X\x0a\0\0\0state_dict}K\1" + b"2\x86" * 60 + b"K\1ss.",
    b"\x80\2}X\x0a\0\0\0state_dict}X\1\0\0\0actorch._utils\n_rebuild_tensor_v2\n((X\7\0\0\0storage"
    b"ctorch\nFloatStorage\nX\1\0\0\x000X\3\0\0\0cpuK\x0atQK\0\x8a\x08" + (2**60).to_bytes(8, "little")
    + b"\x85K\0\x85\x89ccollections\nOrderedDict\n)RtRss.",
)  # fmt: skip


def _legacy_tar() -> bytes:
    """A tar that begins as a file of torch.save does; torch waits at the pipe in it for ever."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name in ("first", "storages"):
            member = tarfile.TarInfo(name)
            member.type = tarfile.FIFOTYPE if name == "storages" else tarfile.REGTYPE
            tar.addfile(member)
    from tools.convert_torch import LEGACY

    return repair_tar(LEGACY + content.getvalue()[len(LEGACY):])


@st.composite
def torch_file(draw) -> Files:
    """A file of torch.save with a hostile pickle."""
    if draw(st.booleans()):
        thing = draw(st.sampled_from([*_CALLS, list, tuple]) | value)
        if thing in (list, tuple):  # made here, because hypothesis writes out what it samples from
            thing = _doubled(60, thing)
        packages = [
            thing, {"state_dict": thing}, {"state_dict": {"fc.0.module.1.weight": thing}},
            {"state_dict": {}, "labels": thing}, {"state_dict": {}, "audio_conf": thing},
            {"state_dict": {}, "hyper_parameters": {"labels": thing, "spect_cfg": {"window": thing}}},
        ]  # fmt: skip
        package = packages[draw(st.integers(0, len(packages) - 1))]
        code = pickle.dumps(package, protocol=2)
    else:
        code = draw(pickle_code() | st.sampled_from(_CODES))
    if draw(st.integers(0, 29)) == 0:
        return {"a.pth": _legacy_tar()}
    if draw(st.integers(0, 3)) == 0:
        plain = [pickle.dumps(x, protocol=2) for x in (0x1950A86A20F9469CFC6C, 1001, {})]
        keys = draw(st.sampled_from([[], ["0"], None, "A", [Call(os.system, "touch outside")]]))
        return {"a.pth": b"".join(plain) + code + pickle.dumps(keys, protocol=2) + bytes(40)}
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("archive/data.pkl", code)
        archive.writestr("archive/version", draw(st.sampled_from(["3\n", "99\n", "", "x"])))
        for name in draw(st.lists(st.sampled_from(["0", "../outside", "byteorder", "1"]), max_size=2,
                                  unique=True)):
            archive.writestr(f"archive/data/{name}", bytes(40))
        if draw(st.integers(0, 9)) == 0:
            archive.writestr("archive/byteorder", draw(st.sampled_from(["little", "big", "x", ""])))
    return {draw(st.sampled_from(["a.pth", "a.ckpt"])): content.getvalue()}


def npz_state() -> st.SearchStrategy[Files]:
    import test_convert_torch as made

    arrays = {f"state/{name}": array for name, array in made.state().items()}
    bomb = st.builds(npz_bomb, st.just("state/fc.0.module.1.weight.npy"))
    return st.one_of(*[npz_file(arrays)] * 20, bomb).map(lambda content: {"a.npz": content})


# --- all targets --------------------------------------------------------------------------------


def lazily(make: Callable[..., st.SearchStrategy], make_seeds: Callable | None = None, *arguments):
    """A strategy that is made, perhaps from seeds, when the first example is drawn."""

    def strategy() -> st.SearchStrategy:
        if make_seeds is None:
            return make(*arguments)
        with tempfile.TemporaryDirectory() as folder:
            return make(make_seeds(Path(folder)), *arguments)

    return st.deferred(strategy)


AN4, LIBRISPEECH = (".fileids", ".transcription"), (".trans.txt", "dev-clean.json")

TARGETS: dict[str, Target] = {
    "audio": Target(18_000, audio_seeds, read_audio, change_first(repair=repair_audio), any_audio),
    "transcript": Target(4_000, transcript_seeds, read_transcript, change_first()),
    "labels": Target(5_000, labels_seeds, read_labels, change_first(), any_labels),
    "manifest": Target(6_000, manifest_seeds, read_manifest, change_any(""), lazily(any_manifest)),
    "index": Target(4_000, index_seeds, read_index, change_first(), lazily(any_index)),
    "settings": Target(8_000, config_seeds, read_config, change_first(), any_config),
    "checkpoint": Target(12_000, checkpoint_seeds, read_checkpoint,
                         change_first(change_checkpoint, repair_checkpoint), any_checkpoint),
    "altered checkpoint": Target(4_000, altered_seeds, read_altered, alter),
    "stored checkpoint": Target(600, stored_seeds, read_stored, change_first(change_stored)),
    "onnx": Target(3_000, onnx_seeds, read_onnx, change_model),
    "sidecar": Target(4_000, sidecar_seeds, read_onnx, change_first(),
                      lazily(any_sidecar, sidecar_seeds)),
    "mindir": Target(400, mindir_seeds, read_stored, change_model),
    "word cuts": Target(4_000, cuts_seeds, read_cuts, change_first(), csv_rows(
        ["audio_path", "word", "start", "end"], CUTS_ROWS).map(lambda text: {"cuts.csv": text})),
    "metrics": Target(1_000, table_seeds("metrics.csv", METRICS, METRICS_ROWS), read_metrics,
                      change_first(), csv_rows(METRICS, METRICS_ROWS).map(
                          lambda text: {"metrics.csv": text})),
    "evaluation": Target(5_000, table_seeds("eval.csv", EVALUATION, EVALUATION_ROWS),
                         read_evaluation, change_first(), csv_rows(
                             EVALUATION, EVALUATION_ROWS).map(lambda text: {"eval.csv": text})),
    "archive": Target(8_000, archive_seeds, read_archive, change_archive, any_archive),
    "corpus": Target(7_000, corpus_seeds, read_corpus, change_any(*TEXTS),
                     lazily(any_corpus, corpus_seeds)),
    "an4": Target(1_500, an4_seeds, read_an4, change_any(*AN4, "-b.raw", "-b.sph"),
                  lazily(any_listed, an4_seeds, *AN4)),
    "librispeech": Target(1_500, librispeech_seeds, read_librispeech, change_any(*LIBRISPEECH),
                          lazily(any_listed, librispeech_seeds, *LIBRISPEECH)),
    "torch": Target(3_000, torch_seeds, read_torch, change_torch, st.one_of(torch_file(), lazily(npz_state))),
}  # fmt: skip
