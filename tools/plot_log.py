"""Draw the curves of training runs.

Usage: `python -m tools.plot_log logs/metrics.csv --output curves.png`
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from deepspeech2 import commands
from deepspeech2.errors import InputError
from deepspeech2.files import atomic_path
from tools.pictures import check_picture

NEEDED = ("epoch", "train_loss", "learning_rate", "val_wer", "val_cer", "minutes")


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    result = argparse.ArgumentParser(
        prog="python -m tools.plot_log", description="Draw the curves of training runs."
    )
    result.add_argument(
        "metrics",
        nargs="+",
        type=Path,
        metavar="METRICS.csv",
        help="what training wrote into its log folder; each is named by that folder",
    )
    result.add_argument("--output", type=Path, required=True, metavar="FILE.png")
    result.add_argument(
        "--by",
        choices=("epoch", "minutes"),
        default="epoch",
        help="horizontal axis; minutes are those of training (default: %(default)s)",
    )
    return result


def read_metrics(path: Path) -> pd.DataFrame:
    """Read a metrics.csv, with cumulative minutes.

    Raises:
        InputError: naming the file and the problem.
    """
    try:
        table = pd.read_csv(path, dtype=str)  # pandas' own reader of numbers can end the process
    except OSError as error:
        raise InputError(f"{path}: cannot read the metrics: {error.strerror}") from None
    except ValueError as error:  # pandas' own errors are ValueErrors
        raise InputError(f"{path}: not a table: {' '.join(str(error).split())}") from None
    missing = [name for name in NEEDED if name not in table]
    if missing or table.empty:
        raise InputError(
            f"{path}: not the metrics.csv of a training run: "
            + (f"no column {', '.join(missing)}" if missing else "no epoch")
        )
    table = table.apply(_numbers)
    wrong = [name for name in NEEDED if not pd.api.types.is_numeric_dtype(table[name])]
    if wrong:
        raise InputError(f"{path}: column {wrong[0]} holds something else than numbers")
    return table.assign(minutes=table["minutes"].cumsum())


def _numbers(texts: pd.Series) -> pd.Series:
    """A column as integers, or else as floats, or else as it is."""
    for kind in (int, float):
        try:
            return texts.astype(kind)
        except (ValueError, OverflowError):
            continue
    return texts


def draw(runs: dict[str, pd.DataFrame], by: str, path: Path) -> None:
    """Draw training loss, learning rate, and WER and CER on the val set.

    Lines of error rates skip epochs without an evaluation.

    Args:
        runs: {name: table of `read_metrics`}.
        by: column for the horizontal axis, `epoch` or `minutes`.
        path: the PNG to write.
    """
    import matplotlib

    matplotlib.use("agg")  # a file, never a window
    import matplotlib.pyplot as plt

    figure, (losses, rates, errors) = plt.subplots(1, 3, figsize=(15, 4.5), layout="constrained")
    for name, table in runs.items():
        losses.plot(table[by], table["train_loss"], label=name)
        rates.plot(table[by], table["learning_rate"], label=name)
        evaluated = table.dropna(subset=["val_wer"])
        (line,) = errors.plot(evaluated[by], evaluated["val_wer"], label=f"{name}, WER")
        errors.plot(
            evaluated[by], evaluated["val_cer"], "--", color=line.get_color(), label=f"{name}, CER"
        )
    for axes, title in (
        (losses, "Training loss"),
        (rates, "Learning rate"),
        (errors, "Val set, % (greedy)"),
    ):
        axes.set(title=title, xlabel=by)
        axes.grid(alpha=0.3)
    losses.set_yscale("log")
    errors.set_ylim(0, min(100, errors.get_ylim()[1]))
    errors.legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=100)
    plt.close(figure)


def names(paths: Sequence[Path]) -> list[str]:
    """A name for each run: its log folder, or the whole path where folder names repeat."""
    folders = [path.resolve().parent.name for path in paths]
    return [
        folder if folders.count(folder) == 1 else str(path)
        for folder, path in zip(folders, paths, strict=True)
    ]


def main(argv: list[str] | None = None) -> int:
    """Draw curves as the command line says; returns the exit code."""
    args = parser().parse_args(argv)
    return commands.run(lambda: plot_log(args))


def plot_log(args: argparse.Namespace) -> int:
    runs = dict(zip(names(args.metrics), map(read_metrics, args.metrics), strict=True))
    check_picture("--output", args.output)
    draw(runs, args.by, args.output)
    number = f" of {len(runs)} runs" if len(runs) > 1 else ""
    print(f"Curves{number} in {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
