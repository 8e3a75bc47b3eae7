"""Texts: transcripts, labels, manifests and their indexes, settings, and tables."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
from hypothesis import strategies as st

from deepspeech2.labels import Labels
from tests.faults.hostile.npz import npz_bomb, npz_file
from tests.faults.hostile.target import (
    RATE,
    ROOT,
    Files,
    Target,
    as_json,
    change_any,
    change_first,
    encode,
    from_seeds,
    lines_of,
    noise,
    number,
    read_files,
    value,
    word,
)

LABELS = Labels.load(ROOT / "labels.json")

# --- transcripts and labels ---------------------------------------------------------------------

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
    st.sampled_from([b"[" * 100_000, b'{"a":' * 100_000, b"[" * 900 + b"]" * 900]),
).map(lambda content: {"labels.json": content})


# --- manifests ----------------------------------------------------------------------------------


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


def any_manifest(seeds: list[Files]) -> st.SearchStrategy[Files]:
    cell = st.sampled_from(["a.wav", "b.flac", "a.txt", "b.txt", "m.csv", ".", "./a.wav"]) | word
    row = st.just("a.wav,a.txt") | st.lists(cell, max_size=3).map(",".join)
    return lines_of(row, 8).map(lambda content: seeds[0] | {"m.csv": content})


def index_seeds(folder: Path) -> list[Files]:
    """Manifests with an index that is right for the files' times, which the harness sets."""
    from src.manifest import read_manifest

    seeds = []
    for i, files in enumerate(manifest_seeds(folder)):
        place = folder / str(i)
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


def any_index(seeds: list[Files]) -> st.SearchStrategy[Files]:
    from src.manifest import INDEX_VERSION

    files = seeds[0]
    digest = hashlib.sha256(files["m.csv"]).hexdigest()
    states = [[len(files["a.wav"]), 10**18, len(files["a.txt"]), 10**18],
              [len(files["b.flac"]), 10**18, len(files["b.txt"]), 10**18]]
    arrays = {"key": np.array(f"{INDEX_VERSION} {digest} {LABELS}"),
              "metadata": np.array([[3200, RATE, 11, 1]] * 2, np.int64),
              "file_states": np.array(states, np.int64)}
    bombs = st.builds(npz_bomb, st.sampled_from([f"{name}.npy" for name in arrays]))
    return st.one_of(*[npz_file(arrays)] * 20, bombs).map(
        lambda content: {"m.index.npz": content, **files}
    )


# --- settings -----------------------------------------------------------------------------------


def config_seeds(folder: Path) -> list[Files]:
    seeds = [{"c.yaml": path.read_bytes()} for path in sorted((ROOT / "configs").glob("*.yaml"))]
    text = b"ModelConfig: &m\n  hidden_size: 8\n  conv2_kernel: [21, 11]\n"
    return [*seeds, {"c.yaml": text + b"TrainingConfig: {epochs: 1}\n"}]


def read_config(folder: Path) -> list[str]:
    from src.config import load_config

    load_config(folder / "c.yaml")
    return []


@st.composite
def yaml_file(draw) -> bytes:
    """YAML with this project's keys, and with everything that YAML can do."""
    scalar = number | word.map(json.dumps) | st.sampled_from([
        "!!python/object/apply:os.system ['touch outside']", "!!python/name:os.system ''",
        "!!binary aGVsbG8=", "!!set {a, b}", "2024-13-45", "2001-12-14t21:59:43.10-05:00",
        "190:20:30", "*a", "*b", "*z", "&c [1, *c]", "{<<: *a}", "? [1]\n", "|\n  text", "'~x'",
        '"~a\\0b"', "~", "!!float nan", "!!int 1e5", "!unknown x", "[*a, *a]", "{p: *a, q: *a}",
        '"\\ud800"',
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
    names = ("p: ", "q: ") if opening == "{" else ("", "")
    for i in range(60):
        pair = ", ".join(f"{name}*a{i}" for name in names)
        lines.append(f"a{i + 1}: &a{i + 1} {opening}{pair}{closing}")
    return "\n".join([*lines, "TrainingConfig: {epochs: *a60}"]).encode()


any_config = st.one_of(
    yaml_file(),
    st.sampled_from([
        _laughs("[", "]", "1"), _laughs("{", "}", "x: 1"), b"[" * 5000, b"{a: " * 5000,
        b"- " * 5000, b"a: &a {b: *a}", b"TrainingConfig: &a {epochs: *a}",
        b"TrainingConfig: &a [*a]", b"!!python/object/apply:os.system ['touch outside']",
        b"%YAML 9.9\n---\na: 1", b"--- \n---\n",
    ]),
).map(lambda content: {"c.yaml": content})  # fmt: skip


# --- tables -------------------------------------------------------------------------------------


def cuts_manifest():
    from src.manifest import Manifest

    zeros = np.zeros(2, np.int64)
    paths = ["a.wav", "b.wav"], ["a.txt", "b.txt"]
    return Manifest(Path("m"), zeros, *paths, zeros, zeros, zeros, zeros)


def read_cuts(folder: Path) -> list[str]:
    """Read word cuts, and shuffle words with them as training does."""
    from src.augment import Augmenter
    from src.config import AugmentationConfig
    from src.word_cuts import read_word_cuts

    zeros = np.zeros(2, np.int64)
    cuts = read_word_cuts(folder / "cuts.csv", cuts_manifest())
    config = AugmentationConfig(shuffle_words=1.0)
    augmenter = Augmenter(config, RATE, 0, zeros, word_cuts=cuts or ())
    for row, text in enumerate(("HELLO WORLD", "YES")):
        samples, _ = augmenter.shuffle_words(noise()[:, 0].astype(np.float32), text, row)
        assert len(samples) <= RATE
    return []


def read_metrics(folder: Path) -> list[str]:
    from tools.plot_log import parser, plot_log

    plot_log(parser().parse_args([str(folder / "metrics.csv"), "--output", str(folder / "x.png")]))
    return []


def read_evaluation(folder: Path) -> list[str]:
    from tools.confusions import confusions, parser

    confusions(parser().parse_args([str(folder / "eval.csv")]))
    return []


def read_comparison(folder: Path) -> list[str]:
    """Compare an evaluation with one that always has the same counts."""
    from tools.compare import compare, parser

    with open(folder / "other.csv", "w", encoding="utf-8") as file:
        file.writelines(",".join(row) + "\n" for row in [COMPARISON[0], *COMPARISON[1]])
    for tables in (["eval.csv", "other.csv"], ["eval.csv", "eval.csv"]):
        compare(parser().parse_args([str(folder / name) for name in tables]))
    return []


# header and rows of each table
CUTS = ["row", "word", "start", "end"], [
    ["0", "HELLO", "0.0", "0.08"], ["0", "WORLD", "0.08", "0.2"], ["1", "YES", "0.0", "0.2"]]
METRICS = ["epoch", "step", "learning_rate", "train_loss", "gradient_norm", "val_wer", "val_cer",
           "minutes"], [
    ["1", "3", "0.001", "90.0", "9.0", "100.0", "80.0", "0.5"],
    ["2", "6", "0.0005", "40.0", "8.0", "", "", "0.25"],
    ["3", "9", "0.0002", "20.0", "7.0", "50.0", "30.0", "0.25"]]
EVALUATION = ["audio_path", "seconds", "wer", "cer", "reference", "hypothesis"], [
    ["a.wav", "1.5", "0.0", "0.0", "HELLO WORLD", "HELLO WORLD"],
    ["b.wav", "2.5", "50.0", "20.0", "YES IT IS", "YES IS"]]

COMPARISON = ["audio_path", "speaker", "reference", "word_errors", "words", "char_errors",
              "chars"], [
    ["a.wav", "a", "HELLO WORLD", "0", "2", "0", "11"],
    ["b.wav", "b", "YES IT IS", "1", "3", "2", "9"],
    ["c.wav", "b", "NO", "1", "1", "1", "2"]]


@st.composite
def any_table(draw, header: list[str], rows: list[list[str]]) -> bytes:
    """A table of which some cells are hostile."""
    table, cell = [list(row) for row in [header, *rows]], word | number
    for _ in range(draw(st.integers(1, 4))):
        row = draw(st.sampled_from(table))
        row[draw(st.integers(0, len(row) - 1))] = draw(cell)
        if draw(st.integers(0, 9)) == 0:
            row.append(draw(cell))
    if draw(st.integers(0, 9)) == 0:
        table.append([draw(cell)] * draw(st.sampled_from([1, 3, 2000])))
    return encode("\n".join(map(",".join, table)))


def table(
    share: int,
    name: str,
    content: tuple[list[str], list[list[str]]],
    read: Callable,
    repair: Callable[[bytes], bytes] = lambda content: content,
):
    """The target of a table in a file; `repair` puts a right checksum into it."""
    header, rows = content
    text = repair("\n".join(map(",".join, [header, *rows])).encode() + b"\n")
    hostile = any_table(header, rows).map(lambda content: {name: repair(content)})
    return Target(share, lambda folder: [{name: text}], read, change_first(repair=repair), hostile)


def with_checksum(content: bytes) -> bytes:
    """Word cuts of `cuts_manifest` with a right first line, and the second where there is none."""
    from src.word_cuts import _data_set_line

    mark = b"# sha256 of the lines below: "
    lines = content.partition(b"\n")[2] if content.startswith(mark) else content
    if not lines.startswith(b"#"):
        lines = _data_set_line(cuts_manifest()) + lines
    return mark + hashlib.sha256(lines).hexdigest().encode() + b"\n" + lines


TARGETS = {
    "transcript": Target(6_100, transcript_seeds, read_transcript, change_first()),
    "labels": Target(5_000, labels_seeds, read_labels, change_first(), any_labels),
    "manifest": Target(6_000, manifest_seeds, read_manifest, change_any(""),
                       from_seeds(any_manifest, manifest_seeds)),
    "index": Target(4_000, index_seeds, read_index, change_first(),
                    from_seeds(any_index, manifest_seeds)),
    "settings": Target(8_000, config_seeds, read_config, change_first(), any_config),
    "word cuts": table(4_000, "cuts.csv", CUTS, read_cuts, with_checksum),
    "metrics": table(400, "metrics.csv", METRICS, read_metrics),
    "evaluation": table(8_000, "eval.csv", EVALUATION, read_evaluation),
    "comparison": table(1_000, "eval.csv", COMPARISON, read_comparison),
}  # fmt: skip
