"""A corpus of a million utterances: `python -m benchmarks.scale --folder DIR [--utterances N]`.

Makes the corpus once (hard links to a few generated recordings), then measures in fresh processes: loading and
checking the manifest through its index, planning an epoch, and the memory that all of it takes.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import soundfile

LABELS_PATH = Path(__file__).resolve().parents[1] / "labels.json"
SOURCES = 100               # different recordings; a file system allows some 65,000 links to one of them
PER_FOLDER = 10_000
RATE = 16000


def make_corpus(folder: Path, utterances: int) -> Path:
    """Write the manifest, its files and its index, unless they are there; returns the manifest."""
    from deepspeech2.files import atomic_path
    from deepspeech2.labels import Labels
    from src.manifest import inspect_manifest

    manifest = folder / f"scale_{utterances}_manifest.csv"
    if manifest.exists():
        return manifest
    rng = np.random.default_rng(0)
    sources = folder / "sources"
    sources.mkdir(parents=True, exist_ok=True)
    for i in range(SOURCES):
        samples = 0.1 * rng.standard_normal(int(rng.uniform(0.2, 0.4) * RATE))    # short: only the count matters here
        soundfile.write(sources / f"{i}.wav", samples, RATE)
        (sources / f"{i}.txt").write_text("HELLO WORLD")
    with atomic_path(manifest) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for i in range(utterances):
            name = folder / f"{i // PER_FOLDER:03d}" / f"utterance-{i:07d}"
            if i % PER_FOLDER == 0:
                name.parent.mkdir(exist_ok=True)
            for suffix in (".wav", ".txt"):
                if not os.path.exists(f"{name}{suffix}"):
                    os.link(sources / f"{i % SOURCES}{suffix}", f"{name}{suffix}")
            file.write(f"{os.path.abspath(name)}.wav,{os.path.abspath(name)}.txt\n")
    started = time.perf_counter()
    inspect_manifest(manifest, Labels.load(LABELS_PATH))
    print(f"index of {utterances} utterances written in {time.perf_counter() - started:.0f} s")
    return manifest


def measure(manifest: Path) -> dict[str, float]:
    """Seconds of each stage and the peak memory in GiB; to be called in a fresh process."""
    from deepspeech2.labels import Labels
    from src.batching import epoch_batches
    from src.manifest import read_manifest

    def lap() -> float:
        nonlocal started
        now = time.perf_counter()
        started, seconds = now, now - started
        return seconds

    started = time.perf_counter()
    loaded = read_manifest(manifest, Labels.load(LABELS_PATH))
    result = {"load_and_check_s": lap()}
    lengths = loaded.seconds
    for epoch in range(4):
        batches = epoch_batches(lengths, 8, epoch, seed=0, ranks=8)
        result[f"plan_epoch_{epoch}_s"] = lap()
    return result | {"utterances": len(loaded), "batches": len(batches),
                     "peak_memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


def main(argv: list[str] | None = None) -> int:
    """Make the corpus if needed and print what a fresh process measured, as JSON."""
    parser = argparse.ArgumentParser(prog="benchmarks.scale", description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="where the corpus is kept")
    parser.add_argument("--utterances", type=int, default=1_000_000)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    manifest = make_corpus(args.folder, args.utterances)
    if args.measure:
        print(json.dumps(measure(manifest), indent=2))
        return 0
    command = [sys.executable, "-m", "benchmarks.scale", "--folder", str(args.folder),
               "--utterances", str(args.utterances), "--measure"]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
