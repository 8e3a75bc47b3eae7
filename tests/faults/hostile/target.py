"""What the targets share: their description, changes of files, and strategies of hypothesis."""

import json
import os
import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from tests.faults.hostile.mutations import NUMBERS, WORDS, mutate

Files = dict[str, bytes]  # contents by path in the folder of an input
ROOT = Path(__file__).resolve().parents[3]
RATE = 16000


@dataclass(frozen=True)
class Target:
    """Something that reads files.

    Attributes:
        share: number of inputs, of 100,000 of all targets.
        make_seeds: makes valid inputs, in an empty folder.
        read: reads the input in a folder. Returns the problems that the user is told, or raises
            `InputError` or `RunError`; an input without problems is a result.
        change: a hostile variant of a seed.
        structured: a strategy for hostile inputs, None for changed seeds only.
    """

    share: int
    make_seeds: Callable[[Path], list[Files]]
    read: Callable[[Path], list[str]]
    change: Callable[[random.Random, Files, list[Files]], Files]
    structured: st.SearchStrategy[Files] | None = None


def noise(seconds: float = 0.2, channels: int = 1) -> np.ndarray:
    """(n, channels) floats."""
    return np.random.default_rng(0).normal(0, 0.1, (round(seconds * RATE), channels))


def read_files(folder: Path) -> Files:
    """The contents of all files below a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# --- changes of files ---------------------------------------------------------------------------


def change_first(
    change: Callable = mutate, repair: Callable[[bytes, random.Random], bytes] | None = None
) -> Callable:
    """Change the first file; half of the time, make the checksums in it right again."""

    def changed(rng: random.Random, files: Files, seeds: list[Files]) -> Files:
        name = next(iter(files))
        content = change(rng, files[name], [next(iter(seed.values())) for seed in seeds])
        if repair and rng.random() < 0.5:
            content = repair(content)
        return files | {name: content}

    return changed


_NAMES = ("a\nb", "\x1b[2J", "caf\udce9", "a,b", '"q"', "-rf", " ", "é", "%s", "A" * 240, "...")


def change_any(*patterns: str) -> Callable:
    """Change one of the files whose names end as `patterns` say; some are removed or renamed."""

    def changed(rng: random.Random, files: Files, seeds: list[Files]) -> Files:
        name = rng.choice([name for name in files if name.endswith(patterns)])
        if rng.random() < 0.02:
            return {other: content for other, content in files.items() if other != name}
        if rng.random() < 0.05:
            old = rng.choice(list(files))
            folder, _, last = old.rpartition("/")
            new = f"{folder}/{rng.choice(_NAMES)}{rng.choice(('', os.path.splitext(last)[1]))}"
            return {new if other == old else other: content for other, content in files.items()}
        others = [seed[name] for seed in seeds if name in seed]
        return files | {name: mutate(rng, files[name], others)}

    return changed


# --- strategies ---------------------------------------------------------------------------------

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
    """UTF-8, with halves of surrogate pairs as they are."""
    return text.encode("utf-8", "surrogatepass")


def as_json(content) -> bytes:
    try:
        return json.dumps(content).encode()
    except ValueError:  # a number with more digits than Python writes
        return b"[" + b"9" * 5000 + b"]"


def lines_of(row: st.SearchStrategy[str], most: int = 6) -> st.SearchStrategy[bytes]:
    return st.lists(row, max_size=most).map(lambda rows: encode("\n".join(rows)))


def from_seeds(make: Callable, make_seeds: Callable, *arguments) -> st.SearchStrategy:
    """`make(seeds, *arguments)`, a strategy that is made when the first example is drawn."""

    def strategy() -> st.SearchStrategy:
        with tempfile.TemporaryDirectory() as folder:
            return make(make_seeds(Path(folder)), *arguments)

    return st.deferred(strategy)
