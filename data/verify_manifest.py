"""Check manifests and all files that they list, and report all problems in one pass.

Usage: `python -m data.verify_manifest MANIFEST ...`
"""

import argparse
import sys
from pathlib import Path

from data.common import LABELS_PATH, add_jobs_argument
from deepspeech2 import commands
from deepspeech2.labels import Labels
from src.manifest import inspect_manifest


def verify(manifests: list[Path], labels_path: Path, jobs: int) -> int:
    """Print a line for every manifest, and all problems on stderr.

    Args:
        manifests: paths of the manifests.
        labels_path: JSON list of the characters allowed.
        jobs: number of threads.

    Returns:
        The number of problems.
    """
    labels = Labels.load(labels_path)
    total = 0
    for path in manifests:
        manifest, problems = inspect_manifest(path, labels, jobs)
        for problem in problems:
            print(problem, file=sys.stderr)
        if manifest is None:
            print(f"{path}: {len(problems)} problem{'s' * (len(problems) > 1)}")
        else:
            seconds = manifest.seconds
            print(
                f"{path}: {len(manifest)} utterances, {seconds.sum() / 3600:.2f} h "
                f"({seconds.min():.1f} to {seconds.max():.1f} s), "
                f"{manifest.label_counts.sum()} labels, no problems"
            )
        total += len(problems)
    return total


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    result = argparse.ArgumentParser(
        prog="python -m data.verify_manifest", description="Check manifests."
    )
    result.add_argument(
        "manifests",
        nargs="+",
        type=Path,
        metavar="MANIFEST",
        help="a CSV of audio and transcript paths",
    )
    result.add_argument(
        "--labels_path",
        type=Path,
        default=LABELS_PATH,
        help="JSON list of the characters allowed (default: the project's labels.json)",
    )
    add_jobs_argument(result, "threads")
    return result


def main(argv: list[str] | None = None) -> int:
    """Check manifests as the command line says; returns the exit code, 2 for any problem."""
    args = parser().parse_args(argv)
    return commands.run(lambda: 2 if verify(args.manifests, args.labels_path, args.jobs) else 0)


if __name__ == "__main__":
    sys.exit(main())
