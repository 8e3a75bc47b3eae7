"""Corpora of many formats, in the folders that the preparation reads."""

import json
import logging.handlers
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from hypothesis import strategies as st

from tests.faults.hostile.target import (
    Files,
    Target,
    as_json,
    change_any,
    from_seeds,
    lines_of,
    read_files,
    value,
    word,
)

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
    expected = "etc/an4_test", "test utterances"  # this corpus has none
    return [line for line in problems if not any(words in line for words in expected)]


def librispeech_seeds(folder: Path) -> list[Files]:
    """A subset; and a subset with the record of an earlier preparation."""
    import test_data_librispeech as made

    made.write_subset(folder / "source", "dev-clean")
    assert made.prepare(folder / "target", folder / "source") == 0
    files = {f"source/{path}": content for path, content in read_files(folder / "source").items()}
    target = {f"target/{path}": content for path, content in read_files(folder / "target").items()}
    return [files, files | target]


def read_librispeech(folder: Path) -> list[str]:
    from data import librispeech

    options = ["--source", str(folder / "source"), "--target", str(folder / "target"), "--jobs=1"]
    problems = said(lambda: librispeech.librispeech(librispeech.parser().parse_args(options)))
    return [line for line in problems if "what was prepared is not there any more" not in line]


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
def any_listed(draw, seeds: list[Files], *patterns: str) -> Files:
    """Hostile lines in one of the lists of a corpus; in JSON, one hostile value."""
    files = draw(st.sampled_from(seeds))
    name = draw(st.sampled_from([path for path in files if path.endswith(patterns)]))
    if not name.endswith(".json"):
        return files | {name: draw(mixed_lines(files[name]))}
    content = json.loads(files[name].splitlines()[0])
    part = content
    if "samples" in content and draw(st.booleans()):
        part = content["samples"][0]
    part[draw(st.sampled_from(sorted(part)) | word)] = draw(value)
    return files | {name: as_json(content)}


AN4, LIBRISPEECH = (".fileids", ".transcription"), (".trans.txt", "dev-clean.json")
TARGETS = {
    "corpus": Target(7_000, corpus_seeds, read_corpus, change_any(*TEXTS),
                     from_seeds(any_listed, corpus_seeds, *TEXTS)),
    "an4": Target(1_500, an4_seeds, read_an4, change_any(*AN4, "-b.raw", "-b.sph"),
                  from_seeds(any_listed, an4_seeds, *AN4)),
    "librispeech": Target(1_500, librispeech_seeds, read_librispeech, change_any(*LIBRISPEECH),
                          from_seeds(any_listed, librispeech_seeds, *LIBRISPEECH)),
}  # fmt: skip
