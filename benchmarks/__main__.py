"""This project against PyTorch, in one run on one machine: `python -m benchmarks`.

Compares the outputs, measures in turns, and writes performance.md (the part between its markers),
performance.json and performance.png into `docs`. A partial or quick run writes with --output only.
`--only accuracy` trains for hours, and reports by itself.
"""

import argparse
import importlib.metadata
import importlib.util
import logging
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from benchmarks import accuracy, report
from benchmarks.sections import SECTIONS, Bench, prepare_corpora
from deepspeech2 import commands
from deepspeech2.errors import InputError

logger = logging.getLogger("benchmarks")

PACKAGES = ("mindspore", "torch", "onnxruntime", "numpy", "scipy", "librosa", "soundfile")


def parser() -> argparse.ArgumentParser:
    """The options of the benchmark."""
    result = argparse.ArgumentParser(prog="python -m benchmarks",
                                     description="Measure this project against PyTorch.")
    result.add_argument("--only", type=lambda text: text.split(","), metavar="SECTION,…",
                        help=f"measure only these: {', '.join(SECTIONS)}; or accuracy alone")
    result.add_argument("--quick", action="store_true",
                        help="tiny networks, to try the benchmark itself")
    result.add_argument("--output", type=Path, metavar="DIR",
                        help="folder for the report, default is docs; runs/accuracy for accuracy")
    accuracy.add_options(result)
    return result


def describe_machine(packages: Sequence[str] = PACKAGES) -> dict:
    """Processor, memory, versions and load; nothing that names the machine or its folders."""
    def first(pattern: str, path: str) -> str:
        return re.search(pattern, Path(path).read_text(encoding="utf-8"))[1].strip()

    return {"processor": first(r"model name\s*: (.*)", "/proc/cpuinfo"),
            "cores": len(os.sched_getaffinity(0)),
            "memory_gib": round(int(first(r"MemTotal:\s*(\d+)", "/proc/meminfo")) / 2**20, 1),
            "system": f"{platform.system()} {platform.machine()}",
            "python": platform.python_version(),
            "versions": {name: importlib.metadata.version(name) for name in packages},
            "date": date.today().isoformat(), "load_before": round(os.getloadavg()[0], 2)}


def measure(only: list[str], quick: bool) -> dict:
    """Run the sections that are asked for; returns what performance.json holds."""
    started = time.monotonic()
    results = {"machine": describe_machine(), "quick": quick}
    with tempfile.TemporaryDirectory(prefix="ds2_benchmark_") as name:
        folder = Path(name)
        bench = Bench(folder, quick, prepare_corpora(folder, quick))
        results["speech"] = [
            {"name": name, "utterances": len(corpus), "minutes": corpus.seconds.sum() / 60,
             "shortest": corpus.seconds.min(), "longest": corpus.seconds.max()}
            for name, corpus in bench.corpora.items()]
        results["network"] = {"layers": bench.layers}
        for section in only:
            results[section] = []
            for row in SECTIONS[section](bench):
                results[section].append(row)
                logger.info("%s: %s", report.case(section, row), row.get("median", ""))
    return results | {"minutes": round((time.monotonic() - started) / 60, 1)}


def benchmark(args: argparse.Namespace) -> int:
    """Measure and report; returns 1 when outputs differ from PyTorch's."""
    unknown = [name for name in args.only or () if name not in SECTIONS]
    if unknown and args.only != ["accuracy"]:
        raise InputError(f"--only {','.join(unknown)}: the sections are {', '.join(SECTIONS)}; or "
                         "accuracy alone")
    if not importlib.util.find_spec("torch"):
        raise InputError(
            "the benchmark needs torch: python -m pip install -r requirements-benchmark.txt (the "
            "CPU build of PyTorch will do: --extra-index-url https://download.pytorch.org/whl/cpu)")
    if unknown:
        return accuracy.benchmark(args, describe_machine())
    writes = args.output or not (args.quick or args.only)
    folder = args.output or Path("docs")
    if writes:
        report.page_around(folder)  # before the quarter of an hour
    results = measure(args.only or list(SECTIONS), args.quick)
    print(report.markdown(results))
    if writes:
        report.write(results, folder)
    differing = report.differing(results)
    for line in differing:
        print(f"differs from PyTorch, no ratio: {line}", file=sys.stderr)
    return 1 if differing else 0


def main(argv: list[str] | None = None) -> int:
    return commands.run(lambda: benchmark(parser().parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
