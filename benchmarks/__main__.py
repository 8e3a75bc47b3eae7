"""This project against PyTorch, in one run on one machine: `python -m benchmarks`.

Compares the outputs, measures in turns, and writes performance.md (the part between its markers),
performance.json and performance.png into `docs`. A partial or quick run writes with --output only.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import logging
import os
import platform
import re
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

from benchmarks import report
from benchmarks.sections import FULL, QUICK, SECTIONS, Bench, prepare_corpora
from deepspeech2 import commands
from deepspeech2.errors import InputError

logger = logging.getLogger("benchmarks")

PACKAGES = ("mindspore", "torch", "onnxruntime", "numpy", "scipy", "librosa", "soundfile")
# what the frameworks choose their kernels by
EXTENSIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile")


def parser() -> argparse.ArgumentParser:
    """The options of the benchmark."""
    result = argparse.ArgumentParser(prog="python -m benchmarks",
                                     description="Measure this project against PyTorch.")
    result.add_argument("--only", type=lambda text: text.split(","), default=[],
                        metavar="SECTION,…", help=f"measure only these: {', '.join(SECTIONS)}")
    result.add_argument("--quick", action="store_true",
                        help="tiny networks, to try the benchmark itself")
    result.add_argument("--output", type=Path, metavar="DIR",
                        help="folder for the report, default is docs")
    result.add_argument("--from", dest="source", type=Path, metavar="FILE.json",
                        help="measure nothing, write the report of an earlier run again")
    return result


def describe_machine() -> dict:
    """Processor, memory, versions and load; nothing that names the machine or its folders."""
    def first(pattern: str, path: str) -> str:
        return re.search(pattern, Path(path).read_text(encoding="utf-8"))[1].strip()

    flags = first(r"flags\s*: (.*)", "/proc/cpuinfo").split()
    memory = int(first(r"MemTotal:\s*(\d+) kB", "/proc/meminfo"))
    return {"processor": first(r"model name\s*: (.*)", "/proc/cpuinfo"),
            "extensions": [name for name in EXTENSIONS if name in flags],
            "cores": len(os.sched_getaffinity(0)), "memory_gib": round(memory / 2**20, 1),
            "system": f"{platform.system()} {platform.machine()}",
            "python": platform.python_version(),
            "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
            "date": date.today().isoformat(), "load_before": round(os.getloadavg()[0], 2)}


def measure(only: list[str], quick: bool) -> dict:
    """Run the sections that are asked for; returns what performance.json holds."""
    started = time.monotonic()
    results = {"machine": describe_machine(), "quick": quick, "failed": {}, "section_seconds": {}}
    if report.disturbed(results):
        logger.warning("other programs are running: the figures will not be reliable")
    with tempfile.TemporaryDirectory(prefix="ds2_benchmark_") as name:
        folder = Path(name)
        bench = Bench(folder, QUICK if quick else FULL, prepare_corpora(folder, quick))
        results["speech"] = [corpus.describe() for corpus in bench.corpora]
        model = bench.config(bench.sizes.units[0]).ModelConfig
        results["network"] = {"layers": model.hidden_layers, "channels": model.conv_channels,
                              "conv2_kernel": list(model.conv2_kernel)}
        for section in only or SECTIONS:
            results[section], began = [], time.monotonic()
            try:
                for row in SECTIONS[section](bench):
                    results[section].append(row)
                    passed = time.monotonic() - started
                    logger.info("%4.0f s: %s %s", passed, section, report.summary(row))
            except Exception as error:  # the other sections are still worth having
                logger.exception("%s failed", section)
                reason = f"{type(error).__name__}: {error}".strip().splitlines()[-1]
                results["failed"][section] = re.sub(r"(/[^/\s]+)+/", "", reason)  # no folders
            results["section_seconds"][section] = round(time.monotonic() - began, 1)
    return results | {"minutes": round((time.monotonic() - started) / 60, 1)}


def main(argv: list[str] | None = None) -> int:
    """Measure and report; returns 1 when a section failed or outputs differ from PyTorch's."""
    args = parser().parse_args(argv)
    return commands.run(lambda: benchmark(args))


def benchmark(args: argparse.Namespace) -> int:
    unknown = [name for name in args.only if name not in SECTIONS]
    if unknown:
        raise InputError(f"--only {','.join(unknown)}: the sections are {', '.join(SECTIONS)}")
    if not importlib.util.find_spec("torch"):
        raise InputError(
            "the benchmark needs torch: python -m pip install -r requirements-benchmark.txt (the "
            "CPU build of PyTorch will do: --extra-index-url https://download.pytorch.org/whl/cpu)")
    output = args.output or (None if args.quick or args.only else Path("docs"))
    if args.source:
        results = json.loads(args.source.read_text(encoding="utf-8"))
        output = args.output or args.source.parent
    else:
        results = measure(args.only, args.quick)
    print(report.markdown(results))
    if output:
        report.write(results, output)
    differing = report.differing(results)
    for line in differing:
        print(f"differs from PyTorch, no ratio: {line}", file=sys.stderr)
    return 1 if differing or results["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
