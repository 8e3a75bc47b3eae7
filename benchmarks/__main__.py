"""This project against PyTorch, in one run on one machine: `python -m benchmarks`.

Compares the outputs, then measures in turns, and writes performance.md (the part between its markers),
performance.json and performance.png into `docs`. A run of a part only writes where --output says.
"""

import argparse
import importlib.util
import json
import logging
import sys
import tempfile
import time
from pathlib import Path

from deepspeech2.errors import InputError
from deepspeech2 import commands

logger = logging.getLogger("benchmarks")

SECTIONS = ("peak", "train", "inference", "epoch", "features", "decoding", "start", "checkpoints", "memory")


def parser() -> argparse.ArgumentParser:
    """The options of the benchmark."""
    result = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure this project against PyTorch.")
    result.add_argument("--only", type=lambda text: text.split(","), default=[], metavar="SECTION,…",
                        help=f"measure only these: {', '.join(SECTIONS)}")
    result.add_argument("--quick", action="store_true", help="tiny networks, to try the benchmark itself")
    result.add_argument("--profile", action="store_true", help="also where a training step of ours spends its time")
    result.add_argument("--output", type=Path, metavar="DIR", help="folder for the report, default is docs")
    result.add_argument("--from", dest="source", type=Path, metavar="FILE.json",
                        help="measure nothing, write the report of an earlier run again")
    return result


def measure(args: argparse.Namespace) -> dict:
    """Run the sections that are asked for; returns what performance.json holds."""
    from benchmarks import data_sections, machine, network_sections, profile, report, speech
    from benchmarks.bench import FULL, QUICK, Bench
    from benchmarks.workers import WorkerError
    functions = {"peak": network_sections.peak, "train": network_sections.train,
                 "inference": network_sections.inference, "memory": network_sections.memory,
                 "epoch": data_sections.epoch, "features": data_sections.features, "start": data_sections.start,
                 "decoding": data_sections.decoding, "checkpoints": data_sections.checkpoints,
                 "profile": profile.profile}
    names = [name for name in SECTIONS if not args.only or name in args.only] + ["profile"] * args.profile
    started = time.monotonic()
    results = {"machine": machine.describe(), "quick": args.quick, "failed": {}, "section_seconds": {}}
    load = machine.ForeignLoad()
    with tempfile.TemporaryDirectory(prefix="ds2_benchmark_") as folder:
        bench = Bench(Path(folder), speech.prepare(Path(folder), args.quick), QUICK if args.quick else FULL)
        if load.share() > report.FOREIGN_SHARE:
            logger.warning("other programs use %.0f%% of the cores: this may take ten times as long, and its figures "
                           "will not be reliable", 100 * load.share())
        results["speech"] = [corpus.describe() for corpus in bench.speech.values()]
        results["network"] = bench.describe()
        for name in names:
            rows, began = [], time.monotonic()
            results[name] = rows
            try:
                for row in functions[name](bench):
                    rows.append(row)
                    logger.info("%4.0f s: %s %s", time.monotonic() - started, name, _brief(row))
            except WorkerError as error:      # the other sections are still worth having
                logger.error("%s: %s", name, error)
                results["failed"][name] = error.reason()
            results["section_seconds"][name] = round(time.monotonic() - began, 1)
    return results | {"minutes": round((time.monotonic() - started) / 60, 1)}


def _brief(row: dict) -> str:
    """What a row says, and how much faster than PyTorch, in one line."""
    from benchmarks import report
    words = [report.values(row)]
    words += [f"{side} {value:.3g} s" for side, value in row.get("median", {}).items()]
    words += [f"{side} is {ratio['value']:.2f} times as fast" for side, ratio in row.get("speedup", {}).items()]
    return ", ".join(words)


def main(argv: list[str] | None = None) -> int:
    """Measure and report; returns the exit code, 1 when a section failed or outputs differed from PyTorch's."""
    args = parser().parse_args(argv)

    def command() -> int:
        unknown = sorted(set(args.only) - set(SECTIONS))
        if unknown:
            raise InputError(f"--only {','.join(unknown)}: the sections are {', '.join(SECTIONS)}")
        if not importlib.util.find_spec("torch"):
            raise InputError("the benchmark needs torch: python -m pip install "
                             "-r requirements-benchmark.txt (the CPU build of PyTorch will do: "
                             "--extra-index-url https://download.pytorch.org/whl/cpu)")
        from benchmarks import report
        results = json.loads(args.source.read_text(encoding="utf-8")) if args.source else measure(args)
        output = args.output or (None if args.quick or args.only or args.profile else Path("docs"))
        print(report.markdown(results))
        if output or args.source:
            report.write(results, output or args.source.parent)
        differing = report.differing(results)
        for line in differing:
            print(f"differs from PyTorch, no ratio: {line}", file=sys.stderr)
        for line in report.disturbed(results):
            print(f"warning: other programs used {line}", file=sys.stderr)
        return 1 if differing or results["failed"] else 0

    return commands.run(command)


if __name__ == "__main__":
    sys.exit(main())
