"""List the most frequent errors of a model, from the table that eval.py writes.

Usage: `python -m tools.confusions logs/test_manifest_eval.csv`
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from deepspeech2 import commands
from deepspeech2.metrics import align, units
from src.evaluation import read_table

GAP = "-"  # in place of the missing unit of an insertion or a deletion


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    result = argparse.ArgumentParser(
        prog="python -m tools.confusions", description="List the most frequent errors."
    )
    result.add_argument(
        "table", type=Path, metavar="EVAL.csv", help="written by eval.py into log_dir"
    )
    result.add_argument(
        "--top", type=int, default=15, metavar="N", help="how many to list (default: %(default)s)"
    )
    result.add_argument("--unit", choices=("word", "character"), default="word")
    return result


def count(
    pairs: Iterable[tuple[str, str]], unit: str = "word", gap: str = GAP
) -> Counter[tuple[str, str]]:
    """Count the errors in pairs of reference and hypothesis.

    Args:
        pairs: (reference, hypothesis) of each utterance.
        unit: `word`, or `character` for characters without spaces.
        gap: stands in place of the missing unit of an insertion or a deletion.

    Returns:
        {(reference unit, hypothesis unit): number}, along one shortest alignment of each pair. A
        deletion is (reference unit, gap), an insertion (gap, hypothesis unit).
    """
    counts: Counter[tuple[str, str]] = Counter()
    for texts in pairs:
        reference, hypothesis = (units(text, unit) for text in texts)
        counts.update((x or gap, y or gap) for x, y in align(reference, hypothesis) if x != y)
    return counts


def most_frequent(
    counts: Counter[tuple[str, str]], top: int
) -> list[tuple[tuple[str, str], int]]:
    """The `top` kinds of errors; equal counts in alphabetical order, so always the same list."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:top]


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """Read (reference, hypothesis) of each utterance in a table of eval.py.

    Raises:
        InputError: naming the file, when it cannot be read or is no such table.
    """
    table = read_table(path, ["reference", "hypothesis"])
    return list(zip(table["reference"], table["hypothesis"], strict=True))


def main(argv: list[str] | None = None) -> int:
    """List errors as the command line says; returns the exit code."""
    args = parser().parse_args(argv)
    return commands.run(lambda: confusions(args))


def confusions(args: argparse.Namespace) -> int:
    counts = count(read_pairs(args.table), args.unit)
    print(f"{counts.total()} errors of {len(counts)} kinds; times, reference, hypothesis:")
    for (reference, hypothesis), times in most_frequent(counts, args.top):
        print(f"{times:5d}  {reference}  {hypothesis}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
