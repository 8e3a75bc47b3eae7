"""What a model mistakes for what.

`python -m tools.confusions logs/test_manifest_eval.csv`, from the table of eval.py.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from deepspeech2 import commands
from deepspeech2.errors import InputError
from deepspeech2.metrics import edit_operations, units

GAP = "-"  # on the other side of an insertion or a deletion


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


def count(pairs: Iterable[tuple[str, str]], unit: str = "word") -> Counter[tuple[str, str]]:
    """{(reference, hypothesis): times} of the units that differ, along one shortest alignment each.

    A deletion is (reference, '-'), an insertion ('-', hypothesis). Characters are compared without
    spaces, as the error rate is.
    """
    counts: Counter[tuple[str, str]] = Counter()
    for texts in pairs:
        reference, hypothesis = (units(text, unit) for text in texts)
        for kind, i, j in edit_operations(reference, hypothesis):
            expected = reference[i] if kind != "insert" else GAP
            counts[expected, hypothesis[j] if kind != "delete" else GAP] += 1
    return counts


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """References and hypotheses of a table. Raises InputError naming the file."""
    try:
        table = pd.read_csv(path, keep_default_na=False, dtype=str)
        return list(zip(table["reference"], table["hypothesis"], strict=True))
    except KeyError as error:
        raise InputError(f"{path}: no column {error}: not a table of eval.py") from None
    except OSError as error:
        raise InputError(f"{path}: cannot read the table: {error.strerror}") from None
    except ValueError as error:  # pandas' own errors are ValueErrors
        raise InputError(f"{path}: not a table: {' '.join(str(error).split())}") from None


def main(argv: list[str] | None = None) -> int:
    """List as the command line says; returns the exit code."""
    args = parser().parse_args(argv)

    def command() -> int:
        counts = count(read_pairs(args.table), args.unit)
        # equal counts in the order of the alphabet, so that the list is the same every time
        ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        print(f"{counts.total()} errors of {len(counts)} kinds; times, reference, hypothesis:")
        for (reference, hypothesis), times in ordered[: args.top]:
            print(f"{times:5d}  {reference}  {hypothesis}")
        return 0

    return commands.run(command)


if __name__ == "__main__":
    sys.exit(main())
