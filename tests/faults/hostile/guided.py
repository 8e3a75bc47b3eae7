"""Fuzz a parser in Python, guided by the code that inputs reach: for what random changes miss.

Usage: `pip install atheris; python -m tests.faults.hostile.guided TARGET SECONDS FOLDER`, with a
target that reads one file. FOLDER keeps inputs that reached new code, and the one that failed.
"""

import logging
import sys
import tempfile
from importlib import import_module
from pathlib import Path

atheris = import_module("atheris")  # no requirement: few versions of Python have it

INSTRUMENTED = ("src", "deepspeech2", "data", "yaml", "tarfile", "json")
MODULES = ("src.checkpoint", "src.config", "src.manifest", "src.word_cuts", "data.verify_manifest",
           "data.download", "deepspeech2.onnx_model", "json.decoder", "tarfile", "yaml")

with atheris.instrument_imports(include=INSTRUMENTED):
    for module in MODULES:
        import_module(module)
    from tests.faults.hostile.worker import ACCEPTED, Watch, all_targets, judge, write_files

    TARGETS = all_targets()


def fuzz(name: str, seconds: str, folder: Path) -> None:
    """Feed inputs to a target until one fails or the time is over."""
    logging.disable()
    target, case, corpus = TARGETS[name], folder / "case", folder / "inputs"
    for place in (case, corpus):
        place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as made:
        seeds = target.make_seeds(Path(made))
    for number, files in enumerate(seeds):
        (corpus / f"seed-{number}").write_bytes(next(iter(files.values())))
    watch = Watch(case)

    def read(content: bytes) -> None:
        files = seeds[0] | {next(iter(seeds[0])): content}
        write_files(case, files)
        with watch:
            kind, message = judge(target, case, files)
        assert kind in ACCEPTED and not watch.found, f"{kind}: {message} {watch.found}"

    limits = [f"-max_total_time={seconds}", "-timeout=10", "-rss_limit_mb=3000"]
    atheris.Setup([sys.argv[0], *limits, f"-artifact_prefix={folder}/", str(corpus)], read)
    atheris.Fuzz()


if __name__ == "__main__":
    fuzz(sys.argv[1], sys.argv[2], Path(sys.argv[3]).absolute())
