"""Check manifests and all files that they list, and report all problems in one pass.

A problem makes a manifest unusable, and the exit code 2. A warning says what train.py leaves out or
refuses, and what becomes of the alphabet.

Usage: `python -m data.verify_manifest MANIFEST ...`
"""

import argparse
import logging
import sys
from collections import Counter
from pathlib import Path

import numpy as np

from data.common import LABELS_PATH, add_jobs_argument
from deepspeech2 import commands
from deepspeech2.labels import Labels, compose, describe, listed
from src.config import Config, load_config
from src.manifest import Manifest, inspect_manifest, read_text, summary

logger = logging.getLogger(__name__)


def verify(manifests: list[Path], labels: Labels, config: Config, jobs: int) -> int:
    """Print a line for every manifest, all problems on stderr, and log warnings.

    Args:
        manifests: paths of the manifests.
        labels: the alphabet of the transcripts.
        config: the recipe whose output frames the transcripts must fit.
        jobs: number of threads.

    Returns:
        The number of problems.
    """
    total = 0
    good = []
    for path in manifests:
        manifest, problems = inspect_manifest(path, labels, jobs, allow_empty=True)
        total += len(problems)
        if manifest is None:
            print(*summary(problems), sep="\n", file=sys.stderr)
            print(f"{path}: {len(problems)} problem{'s' * (len(problems) > 1)}")
            continue
        good.append(manifest)
        seconds = manifest.seconds
        print(
            f"{path}: {len(manifest)} utterances, {seconds.sum() / 3600:.2f} h "
            f"({seconds.min():.1f} to {seconds.max():.1f} s), "
            f"{manifest.label_counts.sum()} labels, no problems"
        )
    warnings = [warning for manifest in good for warning in length_warnings(manifest, config)]
    for warning in summary(warnings) + label_warnings(good, labels):
        logger.warning("%s", warning)
    return total


def length_warnings(manifest: Manifest, config: Config) -> list[str]:
    """What train.py leaves out or refuses for its length, each as `file:line: message`."""
    frames = config.output_frames(manifest.samples, manifest.sample_rates)
    needed = manifest.required_frames
    longest = config.DataConfig.max_seconds or np.inf
    too_long = np.flatnonzero(needed > frames)
    warnings = [
        f"{manifest.where(row)}: {manifest.transcript_paths[row]}: too long for its audio, and "
        f"train.py leaves it out: CTC needs {needed[row]} output frames, the audio has "
        f"{frames[row]}"
        for row in too_long
    ]
    if len(too_long) == len(manifest):
        warnings.append(f"{manifest.path}: no transcript fits its audio, and train.py refuses it")
    warnings += [
        f"{manifest.where(row)}: {manifest.transcript_paths[row]}: the transcript is empty; "
        "eval.py takes it, train.py refuses it"
        for row in np.flatnonzero(needed == 0)
    ]
    return warnings + [
        f"{manifest.where(row)}: {manifest.audio_paths[row]}: longer than DataConfig.max_seconds, "
        f"and train.py leaves it out: {manifest.seconds[row]:.1f} s"
        for row in np.flatnonzero(manifest.seconds > longest)
    ]


def label_warnings(manifests: list[Manifest], labels: Labels) -> list[str]:
    """Which characters of the transcripts become several labels, and which labels none uses."""
    found: Counter[str] = Counter()  # as the transcripts have them
    used = {labels.characters[labels.blank_index]}
    for path in (path for manifest in manifests for path in manifest.transcript_paths):
        text = compose(read_text(path))
        found.update(text)
        used.update(labels.fold(text))
    warnings = [
        f"{describe(c)} becomes {labels.fold(c)!r}, {found[c]} time{'s' * (found[c] > 1)}; to keep "
        "it, make it a label"
        for c in sorted(found)
        if len(labels.fold(c)) > 1
    ]
    unused = [c for c in labels.characters if c not in used]
    if manifests and unused:
        names = listed([repr(c) if c.isascii() or c.isalnum() else describe(c) for c in unused])
        warnings.append(f"no transcript has {len(unused)} of the {len(labels)} labels: {names}")
    return warnings


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
        help="JSON list of the characters allowed (default: the recipe's, or the project's "
        "labels.json)",
    )
    result.add_argument(
        "--config",
        default="",
        metavar="FILE",
        help="YAML file of the recipe that will train on the manifests (default: the default "
        "settings)",
    )
    add_jobs_argument(result, "threads")
    return result


def main(argv: list[str] | None = None) -> int:
    """Check manifests as the command line says; returns the exit code, 2 for any problem."""
    args = parser().parse_args(argv)
    return commands.run(lambda: check(args))


def check(args: argparse.Namespace) -> int:
    config = load_config(args.config)
    if args.labels_path:
        labels = Labels.load(args.labels_path)
    else:
        labels = config.explicit_labels() or Labels.load(LABELS_PATH)
    return 2 if verify(args.manifests, labels, config, args.jobs) else 0


if __name__ == "__main__":
    sys.exit(main())
