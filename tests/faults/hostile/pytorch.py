"""Models of deepspeech.pytorch, in the files of torch.save and in npz files."""

import io
import os
import pickle
import random
import shutil
import socket
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from hypothesis import strategies as st

from tests.faults.hostile.archives import repair_tar
from tests.faults.hostile.mutations import mutate
from tests.faults.hostile.npz import npz_bomb, npz_file
from tests.faults.hostile.target import Files, Target, value


def make_seeds(folder: Path) -> list[Files]:
    import test_convert_torch as made

    torch = import_module("torch")
    small = made.build(torch, hidden=4, layers=2, channels=2)
    seeds = []
    for name, package in (("a.pth", made.package_v1), ("b.pth", made.package_v2),
                          ("c.ckpt", made.package_v3)):
        for legacy in (False, True):
            path = made.save(torch, package(torch, small), folder / name, legacy)
            seeds.append({name: path.read_bytes()})
    made.write_npz(folder / "d.npz", made.state())
    return [*seeds, {"d.npz": (folder / "d.npz").read_bytes()}]


def read(folder: Path) -> list[str]:
    from tools.convert_torch import convert_torch, parser

    (path,) = folder.iterdir()
    convert_torch(parser().parse_args([str(path), str(folder / "out" / "x.ckpt")]))
    return []


def change(rng: random.Random, files: Files, seeds: list[Files]) -> Files:
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
    Call(socket.create_connection, ("127.0.0.1", 9)),
    Call(getattr, Call(__import__, "os"), "system"),
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
             "torch\nFloatStorage", "torch\nload", "omegaconf\nDictConfig", "a\nb.c", "\n"]
    simple = [b"(", b"0", b"1", b"2", b"N", b"}", b"]", b")", b"t", b"\x85", b"\x86", b"\x87", b"R",
              b"b", b"o", b"\x81", b"\x92", b"s", b"u", b"e", b"a", b"l", b"d", b"\x90", b"\x8f",
              b"Q", b"\x93", b"\x94", b"q\1", b"h\1", b"h\2", b"K\1", b"J\xff\xff\xff\x7f",
              b"\x8a\x08" + b"\xff" * 8, b"\x8b\xff\xff\xff\x7f", b"B\xff\xff\xff\x7f",
              b"\x8e" + b"\xff" * 7 + b"\x7f", b"\x95" + b"\xff" * 7 + b"\x7f",
              b"r\xff\xff\xff\x7f", b"\x82\1",
              b"I01\n", b"L9\n", b"Fnan\n", b"G\x7f\xf0" + bytes(6), b"Pkey\n", b".",
              b"\x80\4", b"X\7\0\0\0storage", b"X\3\0\0\0cpu", b"X\x0astate_dict"]
    calls = [code + name.encode() + b"\n" for code in (b"c", b"i") for name in names]
    part = st.sampled_from(simple) | st.sampled_from(calls)
    parts = draw(st.lists(part, max_size=25))
    beginning = draw(st.sampled_from([b"", b"}X\x0a\0\0\0state_dict", b"}X\6\0\0\0labels"]))
    return b"\x80\2" + beginning + b"".join(parts) + draw(st.sampled_from([b"s.", b".", b""]))


# a dictionary with a key of 2^60 numbers; a tensor that is one number 2^60 times
_CODES = (
    b"\x80\2}X\x0a\0\0\0state_dict}K\1" + b"2\x86" * 60 + b"K\1ss.",
    b"\x80\2}X\x0a\0\0\0state_dict}X\1\0\0\0actorch._utils\n_rebuild_tensor_v2\n((X\7\0\0\0storage"
    b"ctorch\nFloatStorage\nX\1\0\0\x000X\3\0\0\0cpuK\x0atQK\0\x8a\x08"
    + (2**60).to_bytes(8, "little") + b"\x85K\0\x85\x89ccollections\nOrderedDict\n)RtRss.",
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
            {"state_dict": {}, "hyper_parameters": {"labels": thing, "spect_cfg": thing}},
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
        for name in draw(st.sets(st.sampled_from(["0", "../outside", "byteorder", "1"]))):
            archive.writestr(f"archive/data/{name}", bytes(40))
        if draw(st.integers(0, 9)) == 0:
            archive.writestr("archive/byteorder", draw(st.sampled_from(["little", "big", "x", ""])))
    return {draw(st.sampled_from(["a.pth", "a.ckpt"])): content.getvalue()}


def npz_state() -> st.SearchStrategy[Files]:
    import test_convert_torch as made

    arrays = {f"state/{name}": array for name, array in made.state().items()}
    bomb = st.builds(npz_bomb, st.just("state/fc.0.module.1.weight.npy"))
    return st.one_of(*[npz_file(arrays)] * 20, bomb).map(lambda content: {"a.npz": content})


TARGETS = {
    "torch": Target(1_500, make_seeds, read, change, torch_file() | st.deferred(npz_state)),
}
