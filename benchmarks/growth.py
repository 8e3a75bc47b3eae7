"""How costs grow: `python -m benchmarks.growth`.

Measures what a recording, a training step, a prediction, a manifest, an evaluation and a beam
search cost at growing sizes, with one thread on one core. For each cost it finds the exponent of
its growth and the line that fits best. `--output DIR` writes growth.json and growth.png; curves
that are not measured keep what growth.json holds.
"""

import argparse
import contextlib
import json
import logging
import math
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.__main__ import describe_machine
from benchmarks.growth_curves import CURVES, Curve, Place
from benchmarks.report import seconds, table
from deepspeech2 import commands
from deepspeech2.errors import InputError
from deepspeech2.files import atomic_path, parse_json

logger = logging.getLogger("benchmarks")

PACKAGES = ("mindspore", "onnxruntime", "numpy", "numba", "soundfile")
JSON, PICTURE = "growth.json", "growth.png"
COLUMNS = 4  # of the picture


@dataclass(frozen=True)
class Fit:
    """How a cost grows with a size x.

    Attributes:
        exponent: slope of the logarithms, over the upper half of the points.
        fixed, rate: the line `fixed + rate * x` whose relative errors are smallest in squares.
        worst: the largest relative error of the line.
    """

    exponent: float
    fixed: float
    rate: float
    worst: float


def fit(x: Sequence[float], y: Sequence[float]) -> Fit:
    """Fit two or more points with positive sizes and costs, sorted by size."""
    x, y = np.array(x, float), np.array(y, float)
    upper = slice(min(len(x) // 2, len(x) - 2), None)
    exponent, _ = np.polyfit(np.log(x[upper]), np.log(y[upper]), 1)
    # relative errors are those of (fixed + rate * x) / y against 1; x is scaled to be of order 1
    scaled = x / x.max()
    (fixed, rate), *_ = np.linalg.lstsq(np.stack([1 / y, scaled / y], axis=1), np.ones(len(x)),
                                        rcond=None)
    worst = np.abs((fixed + rate * scaled) / y - 1).max()
    return Fit(float(exponent), float(fixed), float(rate / x.max()), float(worst))


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """Let this process, and those that it starts, compute with one thread on one core."""
    cores, threads = os.sched_getaffinity(0), os.environ.get("OMP_NUM_THREADS")
    os.sched_setaffinity(0, {min(cores)})
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
        del os.environ["OMP_NUM_THREADS"]
        if threads is not None:
            os.environ["OMP_NUM_THREADS"] = threads


def measured(name: str, place: Place) -> dict:
    """A curve of growth.json: machine, rows and fits."""
    curve, rows = CURVES[name], []
    result = {"machine": describe_machine(PACKAGES), "quick": place.quick, "rows": rows}
    for row in curve.measure(place):
        rows.append(row)
        logger.info("%s: %s", name, cells(curve, row))
    sizes = [row["x"] for row in rows]
    return result | {"fits": {cost: asdict(fit(sizes, [row[cost] for row in rows]))
                              for cost in curve.costs}}


# reports

def amount(cost: str, value: float) -> str:
    """A cost with its unit, which its name ends in."""
    return f"{value:#.3g} GiB" if cost.endswith("_gib") else seconds(value)


def small_amount(cost: str, value: float) -> str:
    """As `amount`, for a rate, which may be far below a millisecond or a MiB."""
    names, step = (("GiB", "MiB", "KiB", "bytes"), 1024) if cost.endswith("_gib") else (
        ("s", "ms", "µs", "ns"), 1000)
    power = min(len(names) - 1, max(0, math.ceil(-math.log(abs(value) or 1, step))))
    return f"{value * step**power:.3g} {names[power]}"


def cells(curve: Curve, row: dict) -> dict[str, str]:
    """{heading: text} of a row."""
    return {curve.size: f"{row['x']:,}"} | {
        heading: amount(cost, row[cost]) for cost, heading in curve.costs.items()}


def markdown(name: str, result: dict) -> str:
    """The points of a curve, and how each cost grows."""
    curve, quick = CURVES[name], " (a quick trial)" if result["quick"] else ""
    points = [cells(curve, row) for row in result["rows"]]
    fits = [{"cost": heading, "fixed": amount(cost, found["fixed"]),
             "rate": small_amount(cost, found["rate"])} | {
                key: found[key] for key in ("exponent", "worst")}
            for cost, heading in curve.costs.items() for found in [result["fits"][cost]]]
    return "\n\n".join((
        f"### {curve.title}{quick}",
        table(points, {heading: f"{{{heading}}}" for heading in points[0]}),
        table(fits, {"cost": "{cost}", "exponent, upper half": "{exponent:.2f}",
                     "fixed": "{fixed}", "and for each one": "{rate}",
                     "off by at most": "{worst:.0%}"})))


def draw(results: dict, path: Path) -> None:
    """A panel for each cost: its points and its line, both axes logarithmic."""
    from matplotlib.figure import Figure

    panels = [(name, cost) for name in results for cost in CURVES[name].costs]
    lines = -(-len(panels) // COLUMNS)
    figure = Figure(figsize=(4 * COLUMNS, 3 * lines), layout="constrained")
    axes = figure.subplots(lines, COLUMNS, squeeze=False).ravel()
    for axis, (name, cost) in zip(axes, panels, strict=False):
        curve, result = CURVES[name], results[name]
        found = Fit(**result["fits"][cost])
        x, y = (np.array([row[key] for row in result["rows"]]) for key in ("x", cost))
        between = np.geomspace(x[0], x[-1], 100)
        axis.loglog(between, found.fixed + found.rate * between, "-", x, y, "o")
        middle, factor = np.sqrt(y.min() * y.max()), 1.2 * max(3, np.sqrt(y.max() / y.min()))
        axis.set_ylim(middle / factor, middle * factor)  # what hardly grows looks flat
        axis.set_title(f"{curve.title}\n{curve.costs[cost]}, exponent {found.exponent:.2f}",
                       fontsize=8)
        axis.set_xlabel(curve.size, fontsize=8)
        axis.set_ylabel("GiB" if cost.endswith("_gib") else "seconds", fontsize=8)
        axis.tick_params(labelsize=7, which="both")
    for axis in axes[len(panels):]:
        axis.set_axis_off()
    figure.savefig(path, dpi=110)


def read_results(folder: Path) -> dict:
    """The curves in the folder's growth.json, {} without one. Raises InputError for another."""
    path = folder / JSON
    if not path.exists():
        return {}
    try:
        found = parse_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not JSON: {error}: choose another --output") from None
    if not isinstance(found, dict) or not found.keys() <= CURVES.keys():
        raise InputError(f"{path}: needed are the curves {', '.join(CURVES)}: choose another "
                         "--output")
    return found


def write(results: dict, folder: Path) -> None:
    """Write growth.json and growth.png."""
    with atomic_path(folder / PICTURE) as temporary:
        draw(results, temporary)
    with atomic_path(folder / JSON) as temporary:
        temporary.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


# the command

def benchmark(args: argparse.Namespace) -> int:
    """Measure, print and write; each curve is written when it is complete."""
    names = args.only or list(CURVES)
    unknown = [name for name in names if name not in CURVES]
    if unknown:
        raise InputError(f"--only {','.join(unknown)}: the curves are {', '.join(CURVES)}")
    found = read_results(args.output) if args.output else {}
    with tempfile.TemporaryDirectory(prefix="ds2_growth_") as folder, one_core():
        place = Place(Path(folder), args.quick)
        for name in names:
            found[name] = measured(name, place)
            print(markdown(name, found[name]), end="\n\n", flush=True)
            if args.output:
                write({name: found[name] for name in CURVES if name in found}, args.output)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--only", type=lambda text: text.split(","), metavar="CURVE,…",
                        help=f"measure only these: {', '.join(CURVES)}")
    parser.add_argument("--quick", action="store_true",
                        help="two points a curve and tiny networks, to try the benchmark itself")
    parser.add_argument("--output", type=Path, metavar="DIR",
                        help="folder for growth.json and growth.png, default is to print only")
    args = parser.parse_args(argv)
    return commands.run(lambda: benchmark(args))


if __name__ == "__main__":
    sys.exit(main())
