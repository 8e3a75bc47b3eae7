"""Tell whether one model is really better than another, from two tables that eval.py writes.

Usage: `python -m tools.compare logs/first_eval.csv logs/second_eval.csv`
"""

import argparse
import sys
from pathlib import Path

import pandas as pd

from deepspeech2 import commands
from deepspeech2.errors import InputError
from deepspeech2.metrics import percent
from src.bootstrap import Comparison, compare_rates
from src.evaluation import read_table

COLUMNS = ["audio_path", "speaker", "reference", "word_errors", "words", "char_errors", "chars"]
SIGNIFICANT = 0.05  # p-values below are no chance


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    result = argparse.ArgumentParser(
        prog="python -m tools.compare", description="Compare two evaluations of one data set."
    )
    result.add_argument("tables", type=Path, nargs=2, metavar="EVAL.csv", help="written by eval.py")
    return result


def read_both(paths: list[Path]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read two tables, with their rows in the same order.

    Raises:
        InputError: naming the file, for a table that cannot be read, and for tables of other
            recordings or other transcripts.
    """
    first, second = (_read(path) for path in paths)
    only = first.index.symmetric_difference(second.index)
    if len(only):
        here, there = paths if only[0] in first.index else paths[::-1]
        raise InputError(f"{there}: {len(only)} recordings are in one table only, "
                         f"{only[0]} for example is in {here}")
    second = second.loc[first.index]
    changed = first.index[first["reference"] != second["reference"]]
    if len(changed):
        raise InputError(f"{paths[1]}: {changed[0]} has another reference than in {paths[0]}")
    return first, second


def _read(path: Path) -> pd.DataFrame:
    table = read_table(path, COLUMNS)
    counts = COLUMNS[3:]
    try:
        table[counts] = table[counts].astype(int)
    except (ValueError, OverflowError) as error:
        raise InputError(f"{path}: a count is no whole number: {error}") from None
    repeated = table["audio_path"][table["audio_path"].duplicated()]
    if len(repeated):
        raise InputError(f"{path}: {repeated.iloc[0]} is in it twice")
    return table.set_index("audio_path")


def report(first: pd.DataFrame, second: pd.DataFrame) -> list[str]:
    """The lines to print."""
    speakers = first["speaker"].tolist()
    words, voices = first["words"].sum(), len(set(speakers))
    lines = [f"{len(first)} utterances, {words} words, {voices} speakers",
             f"{'':5}{'first':>8}{'second':>8}{'change':>8}   95 % interval of the change"]
    for name, unit in (("WER", "word"), ("CER", "char")):
        errors = [table[f"{unit}_errors"].to_numpy() for table in (first, second)]
        totals = first[f"{unit}s"].to_numpy()
        rates = [percent(e.sum(), totals.sum()) for e in errors]
        found = compare_rates((errors[0], errors[1]), totals, speakers)
        line = f"{name:5}{rates[0]:8.2f}{rates[1]:8.2f}{rates[1] - rates[0]:+8.2f}   "
        lines.append(line + _verdict(found))
    change = (second["word_errors"] - first["word_errors"]).to_numpy()
    lines.append(f"fewer wrong words in {(change < 0).sum()} utterances of the second, more in "
                 f"{(change > 0).sum()}, as many in {(change == 0).sum()}")
    return lines


def _verdict(found: Comparison | None) -> str:
    if found is None:
        return "unknown: fewer than two speakers, or empty references"
    low, high = found.interval
    verdict = "which may be chance"
    if found.p_value < SIGNIFICANT:
        verdict = f"{'fewer' if found.difference < 0 else 'more'} errors, not by chance"
    return f"{low:+.2f} to {high:+.2f}, p = {found.p_value:.4f}, {verdict}"


def main(argv: list[str] | None = None) -> int:
    """Compare two tables as the command line says; returns the exit code."""
    args = parser().parse_args(argv)
    return commands.run(lambda: compare(args))


def compare(args: argparse.Namespace) -> int:
    print("\n".join(report(*read_both(args.tables))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
