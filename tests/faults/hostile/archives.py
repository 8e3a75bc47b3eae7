"""Archives of corpora: tar files, plain and compressed."""

import bz2
import gzip
import io
import lzma
import random
import tarfile
from functools import lru_cache
from pathlib import Path

from hypothesis import strategies as st

from tests.faults.hostile.mutations import mutate
from tests.faults.hostile.target import Files, Target, encode, number

COMPRESSIONS = {
    "a.tar": lambda x: x, "a.tar.gz": lambda x: gzip.compress(x, 1), "a.tar.bz2": bz2.compress,
    "a.tar.xz": lambda x: lzma.compress(x, preset=0),
}  # fmt: skip


def make_seeds(folder: Path) -> list[Files]:
    seeds = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        long = "b" * (90 if form == tarfile.USTAR_FORMAT else 150)
        members = {"corpus/wav/a.wav": 700, f"corpus/{long}": 4, "corpus/é.txt": 600}
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w", format=form) as tar:
            for name, size in members.items():
                member = tarfile.TarInfo(name)
                member.size, member.mtime = size, 10**9
                tar.addfile(member, io.BytesIO(b"A" * size))
        seeds += [{name: pack(content.getvalue())} for name, pack in COMPRESSIONS.items()]
    return seeds


def read(folder: Path) -> list[str]:
    from data.download import extract

    (archive,) = folder.iterdir()
    extract(archive, folder / "target" / "corpus")
    return []


def change(rng: random.Random, files: Files, seeds: list[Files]) -> Files:
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
    kinds = st.sampled_from([bytes([kind]) for kind in b"0005123467SDMV\0ZgxLKX"])
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
        text = draw(st.sampled_from([*_MEMBERS, "0,1,2,3", "1,-5", "BINARY"]) | number)
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


@st.composite
def any_archive(draw) -> Files:
    if draw(st.integers(0, 9)) == 0:
        return draw(archive_bomb())
    name = draw(st.sampled_from(sorted(COMPRESSIONS)))
    return {name: COMPRESSIONS[name](draw(tar_file()))}


TARGETS = {"archive": Target(4_000, make_seeds, read, change, any_archive())}
