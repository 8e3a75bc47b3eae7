"""What a model mistakes for what: `python -m src.confusions logs/test_manifest_eval.csv`, from the table of eval.py."""

import argparse
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import Levenshtein
import pandas as pd

from src import cli
from src.errors import InputError

NOTHING = "-"    # on the other side of an insertion or a deletion


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    result = argparse.ArgumentParser(prog="python -m src.confusions", description="List the most frequent errors.")
    result.add_argument("table", type=Path, metavar="EVAL.csv", help="written by eval.py into log_dir")
    result.add_argument("--top", type=int, default=15, metavar="N", help="how many to list (default: %(default)s)")
    result.add_argument("--unit", choices=("word", "character"), default="word")
    return result


def count(pairs: Iterable[tuple[str, str]], unit: str = "word") -> Counter[tuple[str, str]]:
    """{(said, heard): times} over pairs of reference and hypothesis, along one shortest alignment of each.

    A deletion is (said, '-'), an insertion ('-', heard). Characters are compared without spaces, as the error rate is.
    """
    found: Counter[tuple[str, str]] = Counter()
    for reference, hypothesis in pairs:
        said, heard = (text.split() if unit == "word" else list("".join(text.split()))
                       for text in (reference, hypothesis))
        for kind, i, j in Levenshtein.editops(said, heard):
            found[said[i] if kind != "insert" else NOTHING, heard[j] if kind != "delete" else NOTHING] += 1
    return found


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """References and hypotheses of a table. Raises InputError naming the file."""
    try:
        table = pd.read_csv(path, keep_default_na=False, dtype=str)
        return list(zip(table["reference"], table["hypothesis"], strict=True))
    except KeyError as error:
        raise InputError(f"{path}: no column {error}: not a table of eval.py") from None
    except OSError as error:
        raise InputError(f"{path}: cannot read the table: {error.strerror}") from None
    except ValueError as error:    # pandas' own errors are ValueErrors
        raise InputError(f"{path}: not a table: {' '.join(str(error).split())}") from None


def main(argv: list[str] | None = None) -> int:
    """List as the command line says; returns the exit code."""
    args = parser().parse_args(argv)

    def command() -> int:
        found = count(read_pairs(args.table), args.unit)
        # equal counts in the order of the alphabet, so that the list is the same every time
        ordered = sorted(found.items(), key=lambda item: (-item[1], item[0]))
        print(f"{found.total()} errors of {len(found)} kinds; times, said, heard:")
        for (said, heard), times in ordered[:args.top]:
            print(f"{times:5d}  {said}  {heard}")
        return 0

    return cli.run(command)


if __name__ == "__main__":
    sys.exit(main())
