"""Choose the weights of a beam search with a language model, on softmax matrices that eval.py kept.

Usage: `python -m tools.tune_lm MANIFEST OUTPUTS.npz --config recipe.yaml --lm LM.arpa.gz --output
decoder.json`

`eval.py --save_output OUTPUTS.npz` writes the matrices of its manifest. Axes: N utterances, T'
output frames, C classes.
"""

import argparse
import dataclasses
import itertools
import json
import logging
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from deepspeech2 import commands
from deepspeech2.decoding.decoders import (
    GROUP,
    PATH_FIELDS,
    SETTINGS_SUFFIXES,
    BeamDecoder,
    Decoder,
    GreedyDecoder,
    LMConfig,
    read_settings,
)
from deepspeech2.errors import InputError
from deepspeech2.files import atomic_path, ensure_writable, is_special
from deepspeech2.labels import Labels, listed
from deepspeech2.metrics import count_errors, percent
from deepspeech2.model import decoder_settings
from src import cli
from src.config import Config, load_config
from src.evaluation import find_speakers
from src.manifest import Manifest, read_manifest, read_transcript
from tools.pictures import check_picture

logger = logging.getLogger(__name__)


class Weights(NamedTuple):
    """Fields of LMConfig."""

    alpha: float
    beta: float
    unknown_cost: float


Axes = tuple[Sequence[float], Sequence[float], Sequence[float]]  # the values of each weight

COARSE: Axes = (
    (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2), (-2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0),
    (2.0, 5.0, 8.0, 12.0, 16.0),
)
FINE_STEPS = Weights(0.1, 0.5, 0.0)  # to either side of the best coarse weights
FINE = 8  # decodings around them
DEFAULTS = Weights(LMConfig.alpha, LMConfig.beta, LMConfig.unknown_cost)
HALVES = ("A", "B", "all")


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    result = argparse.ArgumentParser(
        prog="python -m tools.tune_lm",
        description="Choose alpha, beta and unknown_cost of a beam search (docs/decoding.md).",
    )
    result.add_argument("manifest", type=Path, metavar="MANIFEST")
    result.add_argument("outputs", type=Path, metavar="OUTPUTS.npz",
                        help="softmax matrices of its rows, from eval.py --save_output")
    result.add_argument("--lm", required=True, metavar="LM.arpa.gz", help="the language model")
    result.add_argument("--letter_lm", default="", metavar="LM.arpa",
                        help="letter model of words that --lm lacks (default: none)")
    result.add_argument("--lexicon", default="", metavar="FILE",
                        help="the only words that are allowed, one a line (default: any)")
    result.add_argument("--output", type=Path, required=True, metavar="decoder.json",
                        help="settings for eval.py --config, transcribe.py --decoder_config and "
                        "load_model; a name in " + ", ".join(SETTINGS_SUFFIXES))
    result.add_argument("--plot", type=Path, metavar="FILE.png",
                        help="picture of the WER over alpha and beta")
    cli.add_config_arguments(result)
    return result


# --- data ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Data:
    """What is decoded.

    Attributes:
        names: (N,) names of the utterances, for messages.
        matrices: N arrays (T', C) of class probabilities.
        references: (N,) transcripts.
        speakers: (N,) who speaks.
    """

    names: list[str]
    matrices: list[np.ndarray]
    references: list[str]
    speakers: list[str]

    def halves(self) -> dict[str, np.ndarray]:
        """(N,) bool of each half and of both: every other speaker in sorted order belongs to A."""
        in_a = set(sorted(set(self.speakers))[::2])
        a = np.array([speaker in in_a for speaker in self.speakers])
        return dict(zip(HALVES, (a, ~a, a | ~a), strict=True))


def read_data(manifest_path: Path, outputs: Path, config: Config, labels: Labels) -> Data:
    """Read transcripts, speakers and matrices.

    Raises:
        InputError: for a manifest that cannot be used, fewer than two speakers, and an archive that
            cannot be read or is of another manifest.
    """
    pattern = config.DataConfig.speaker_pattern
    if not pattern:
        raise InputError(
            "DataConfig.speaker_pattern is empty: one half of the speakers is tuned on, the other "
            "one is tried. Set what finds the speaker in the path of a recording, in --config or "
            "behind the options; '(.*)' if each recording has a speaker of its own"
        )
    manifest = read_manifest(manifest_path, labels)
    speakers = find_speakers(manifest, pattern)
    matrices = read_matrices(outputs, manifest, labels)
    rows = [row for row, matrix in enumerate(matrices) if len(matrix)]
    if len(rows) < len(manifest):
        logger.warning("%s: %d of %d rows have no matrix, because eval.py could not read their "
                       "recordings; they are left out", outputs, len(manifest) - len(rows),
                       len(manifest))
    if len({speakers[row] for row in rows}) < 2:
        raise InputError(
            f"{manifest_path}: fewer than two speakers, found by DataConfig.speaker_pattern "
            f"(={pattern!r}): one half is tuned on, the other one is tried"
        )
    return Data(
        [f"{outputs}: arr_{row} ({manifest.where(row)})" for row in rows],
        [matrices[row] for row in rows],
        [read_transcript(manifest.transcript_paths[row], labels) for row in rows],
        [speakers[row] for row in rows],
    )


def read_matrices(path: Path, manifest: Manifest, labels: Labels) -> list[np.ndarray]:
    """Read the (T', C) matrix of each row; (0, 0) for a recording that could not be read.

    Raises:
        InputError: for a file that is no whole archive, or whose matrices cannot be those of the
            manifest and the labels.
    """
    matrices = _load(path)
    if list(matrices) != [f"arr_{row}" for row in range(len(manifest))]:
        raise InputError(
            f"{path}: {len(matrices)} arrays, but {manifest.path} has {len(manifest)} rows: needed "
            "are arr_0, arr_1 ... as eval.py --save_output writes them for this manifest"
        )
    found = list(matrices.values())
    for row, matrix in enumerate(found):
        good = matrix.ndim == 2 and matrix.dtype.kind == "f"
        if not good or (matrix.size and matrix.shape[1] != len(labels)):
            raise InputError(
                f"{path}: arr_{row} ({manifest.where(row)}) has shape {matrix.shape} and type "
                f"{matrix.dtype}, needed are floats (T', {len(labels)}): frames, and the classes "
                "of DataConfig.labels_path"
            )
    frames = np.array([len(matrix) for matrix in found])
    expected = manifest.seconds * frames.sum() / max(manifest.seconds[frames > 0].sum(), 1e-9)
    wrong = np.flatnonzero((frames > 0) & (abs(frames - expected) > 3 + 0.03 * expected))
    if len(wrong):
        row = wrong[0]
        raise InputError(
            f"{path}: arr_{row} has {frames[row]} frames, but {manifest.where(row)} has "
            f"{manifest.seconds[row]:.2f} s, for which about {expected[row]:.0f} are needed: the "
            "archive is of another manifest"
        )
    return found


def _load(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an archive. Raises InputError naming it, when it cannot be read."""
    if is_special(path):
        raise InputError(f"{path}: cannot read the matrices: a pipe or a device, not a file")
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            size = sum(member.file_size for member in arrays.zip.infolist())
            if size > 100 * os.path.getsize(path):
                raise ValueError(f"{size} bytes come out of it")
            return {name: arrays[name] for name in arrays.files}
    except OSError as error:
        raise InputError(
            f"{path}: cannot read the matrices: {error.strerror or error}"
        ) from None
    except Exception as error:  # a damaged archive can raise any error
        raise InputError(
            f"{path}: not a whole archive of eval.py --save_output: {error}"
        ) from None


# --- search --------------------------------------------------------------------------------------


class Trials:
    """Decodes all utterances once for each choice of weights, and counts errors.

    Args:
        data: what is decoded.
        labels: the classes.
        base: the settings but for the weights.

    Attributes:
        totals: (N, 2) reference words and characters.
    """

    def __init__(self, data: Data, labels: Labels, base: LMConfig):
        self.data, self.base = data, base
        self._decoder = BeamDecoder(labels, self.with_weights(DEFAULTS))
        self._known: dict[Weights, np.ndarray] = {}
        counts = [count_errors(reference, "") for reference in data.references]
        self.totals = np.array([(c.words, c.chars) for c in counts])

    def with_weights(self, weights: Weights) -> LMConfig:
        """The settings with these weights."""
        return dataclasses.replace(self.base, **weights._asdict())

    def check(self) -> None:
        """Decode each utterance once. Raises InputError, naming the first wrong matrix."""
        for name, matrix in zip(self.data.names, self.data.matrices, strict=True):
            try:
                self._decoder.texts([matrix])
            except InputError as error:
                raise InputError(f"{name}: {error}") from None

    def count(self, decoder: Decoder) -> np.ndarray:
        """(N, 2) errors in words and characters that a decoder makes."""
        pairs = zip(self.data.references, decoder.texts(self.data.matrices), strict=True)
        counts = [count_errors(reference, texts[0]) for reference, texts in pairs]
        return np.array([(c.word_errors, c.char_errors) for c in counts])

    def errors(self, weights: Weights) -> np.ndarray:
        """(N, 2) errors in words and characters."""
        if weights not in self._known:
            decoder = self._decoder.with_weights(self.with_weights(weights))
            self._known[weights] = self.count(decoder)
        return self._known[weights]

    def decode_all(self, axes: Axes) -> None:
        """Decode with all weights of a grid, with a progress bar on a terminal."""
        for weights in tqdm(_grid(axes), "decoding", unit="setting", disable=None):
            self.errors(weights)

    def best(self, axes: Axes, chosen: np.ndarray) -> Weights:
        """The weights of a grid with the fewest word errors; see `middle`.

        Args:
            axes: the grid.
            chosen: (N,) bool, which utterances count.
        """
        errors = [self.errors(weights)[chosen, 0].sum() for weights in _grid(axes)]
        index = middle(np.reshape(errors, [len(values) for values in axes]))
        return Weights(*(values[i] for values, i in zip(axes, index, strict=True)))

    def rates(self, errors: np.ndarray, chosen: np.ndarray) -> tuple[float, float]:
        """WER and CER of utterances in percent."""
        wer, cer = map(percent, errors[chosen].sum(0), self.totals[chosen].sum(0))
        return float(wer), float(cer)


def _grid(axes: Axes) -> list[Weights]:
    return [Weights(*values) for values in itertools.product(*axes)]


def middle(errors: np.ndarray) -> tuple[int, ...]:
    """The index of the fewest errors in a grid of any number of axes.

    Where several are the fewest, neighbours form plateaus. The point of the largest plateau that
    lies nearest to its mean is taken, and of equally near ones the first: the smallest weights.
    """
    from scipy import ndimage

    plateaus, number = ndimage.label(errors == errors.min())
    sizes = np.bincount(plateaus.ravel(), minlength=number + 1)[1:]
    points = np.argwhere(plateaus == 1 + sizes.argmax())
    distances = ((points - points.mean(0)) ** 2).sum(1)
    return tuple(points[distances.round(9).argmin()].tolist())


def tune(trials: Trials, chosen: np.ndarray) -> Weights:
    """The best weights for utterances: of the coarse grid, then of a finer one around those.

    Args:
        trials: decodes.
        chosen: (N,) bool, which utterances count.
    """
    fine = finer(trials.best(COARSE, chosen))
    trials.decode_all(fine)
    return trials.best(fine, chosen)


def finer(centre: Weights) -> Axes:
    """The grid around the best weights of the coarse one."""
    alphas, betas, costs = (
        sorted({round(value + way * step, 3) for way in (-1, 0, 1)})
        for value, step in zip(centre, FINE_STEPS, strict=True)
    )
    return [alpha for alpha in alphas if alpha >= 0], betas, costs


def edges(best: Weights) -> list[str]:
    """The weights at the edge of the coarse grid or beyond, for a warning."""
    return [
        f"{name} {value:g} ({values[0]:g} to {values[-1]:g} were tried)"
        for (name, value), values in zip(best._asdict().items(), COARSE, strict=True)
        if value >= values[-1] or (value <= values[0] and name != "alpha")  # 0 is the least
    ]


# --- results -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """A row of the table.

    Attributes:
        name: what is decoded with.
        weights: the weights; None where there are none, or several.
        errors: (N, 2) errors in words and characters.
        selection: parts of the data that chose the weights.
    """

    name: str
    weights: Weights | None
    errors: np.ndarray
    selection: str = ""


def lines(trials: Trials, greedy: np.ndarray, tuned: dict[str, Weights]) -> list[Line]:
    """The rows of the table.

    Args:
        trials: decodes.
        greedy: (N, 2) errors of the greedy decoder.
        tuned: the weights that each part of the data chose.
    """
    a = trials.data.halves()["A"]
    errors = {name: trials.errors(weights) for name, weights in tuned.items()}
    crossed = np.where(a[:, None], errors["B"], errors["A"])
    return [
        Line("greedy", None, greedy),
        Line("defaults", DEFAULTS, trials.errors(DEFAULTS)),
        *(Line(f"tuned on {n}", tuned[n], errors[n], "A B all" if n == "all" else f"{n} all")
          for n in HALVES),
        Line("cross-tuned", None, crossed),
    ]


def table(trials: Trials, rows: Iterable[Line]) -> list[str]:
    """The lines to print; a star marks selection figures."""
    halves = trials.data.halves()
    voices = {n: sorted({s for s, m in zip(trials.data.speakers, halves[n], strict=True) if m})
              for n in HALVES[:2]}
    result = [f"{n}: {halves[n].sum()} utterances, {trials.totals[halves[n], 0].sum()} words of "
              f"{len(names)} speakers: {listed(names)}" for n, names in voices.items()]
    heads = "".join(f"{f'{rate} {n}':>9}" for rate in ("WER", "CER") for n in HALVES)
    result += ["", f"{'':14}{'alpha':>6}{'beta':>6}{'unknown_cost':>13}{heads}"]
    for row in rows:
        rates = [trials.rates(row.errors, halves[n]) for n in HALVES]
        stars = ["*" if n in row.selection.split() else " " for n in HALVES]
        cells = [f"{rate[unit]:8.2f}{star}" for unit in (0, 1)
                 for rate, star in zip(rates, stars, strict=True)]
        values = [f"{value:g}" for value in row.weights or ()] or ["", "", ""]
        result.append(f"{row.name:14}{values[0]:>6}{values[1]:>6}{values[2]:>13}{''.join(cells)}")
    return [line.rstrip() for line in result] + [
        "* selection figure: utterances in it chose the weights, so it flatters them.",
        "cross-tuned: A with the weights that B chose, B with those that A chose. This is what to "
        "expect of new speakers.",
    ]


def draw(trials: Trials, best: Weights, path: Path) -> None:
    """Draw the WER of all utterances over alpha and beta, at the unknown_cost of `best`.

    Args:
        trials: has decoded the coarse grid.
        best: the weights to mark.
        path: the PNG to write.
    """
    import matplotlib

    matplotlib.use("agg")  # a file, never a window
    import matplotlib.pyplot as plt

    alphas, betas, _ = COARSE
    everything = trials.data.halves()["all"]
    wer = np.array([[trials.rates(trials.errors(Weights(a, b, best.unknown_cost)), everything)[0]
                     for a in alphas] for b in betas])
    figure, axes = plt.subplots(figsize=(8, 6), layout="constrained")
    # the worst weights are many times worse, and would leave the others one colour
    mesh = axes.pcolormesh(alphas, betas, wer, cmap="viridis_r",
                           vmax=max(min(wer.max(), 2 * wer.min()), wer.min() + 1e-3))
    for (row, column), value in np.ndenumerate(wer):
        dark = mesh.norm(value) > 0.5
        axes.annotate(f"{value:.1f}", (alphas[column], betas[row]), ha="center", va="center",
                      color="white" if dark else "black")
    chosen = trials.rates(trials.errors(best), everything)[0]
    axes.plot(best.alpha, best.beta, "o", markersize=32, markerfacecolor="none",
              markeredgecolor="red", markeredgewidth=2, clip_on=False,
              label=f"chosen: alpha {best.alpha:g}, beta {best.beta:g}, WER {chosen:.2f}")
    axes.set(title=f"WER in %, all {len(everything)} utterances, unknown_cost "
             f"{best.unknown_cost:g}", xlabel="alpha", ylabel="beta", xticks=alphas, yticks=betas)
    figure.legend(loc="outside lower center", markerscale=0.4)
    figure.colorbar(mesh, extend="max" if wer.max() > 2 * wer.min() else "neither")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=80)
    plt.close(figure)


def write_settings(config: LMConfig, path: Path) -> None:
    """Write settings for `read_settings` and for `--config`: JSON, which YAML readers take too.

    Files in the folder of `path` or below are named relative to it, others by their whole path.
    """
    folder = path.parent.resolve()
    names = {}
    for name in PATH_FIELDS:
        if target := getattr(config, name):
            target = Path(target).resolve()
            inside = target.is_relative_to(folder)
            names[name] = str(target.relative_to(folder) if inside else target)
    content = {GROUP: dataclasses.asdict(config) | names}
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


# --- the command ---------------------------------------------------------------------------------


def check(args: argparse.Namespace) -> None:
    """Raise InputError for a wrong suffix, and for a place where nothing can be written."""
    if args.output.suffix.lower() not in SETTINGS_SUFFIXES:
        raise InputError(
            f"--output {args.output}: needed is a name in {', '.join(SETTINGS_SUFFIXES)}"
        )
    if args.plot:
        check_picture("--plot", args.plot)
    if os.path.lexists(args.output):
        try:
            read_settings(args.output)
        except InputError:
            raise InputError(
                f"--output {args.output}: exists, and this command did not write it: name another"
            ) from None
    ensure_writable(args.output.parent)


def main(argv: list[str] | None = None) -> int:
    """Tune as the command line says; returns the exit code."""
    args = parser().parse_intermixed_args(argv)
    return commands.run(lambda: tune_lm(args))


def tune_lm(args: argparse.Namespace) -> int:
    check(args)
    config = load_config(args.config, args.overrides)
    labels = Labels.load(config.DataConfig.labels_path)
    base = dataclasses.replace(config.LMConfig, decoder_type="beam",
                               lm_path=decoder_settings(args.lm).lm_path,
                               letter_lm_path=args.letter_lm or config.LMConfig.letter_lm_path,
                               lexicon_path=args.lexicon or config.LMConfig.lexicon_path)
    data = read_data(args.manifest, args.outputs, config, labels)
    trials = Trials(data, labels, base)
    trials.check()
    coarse = len(_grid(COARSE))
    logger.info("%d utterances: %d settings to decode with, then at most %d around the best ones",
                len(data.matrices), coarse, 3 * FINE)
    trials.decode_all(COARSE)
    halves = data.halves()
    tuned = {name: tune(trials, halves[name]) for name in HALVES}
    greedy = trials.count(GreedyDecoder(labels))
    print("\n".join(table(trials, lines(trials, greedy, tuned))))
    best = tuned["all"]
    if at_edge := edges(best):
        logger.warning("at the edge of what was tried: %s", ", ".join(at_edge))
    if args.plot:
        draw(trials, best, args.plot)
        print(f"picture in {args.plot}")
    write_settings(trials.with_weights(best), args.output)
    print(f"alpha {best.alpha:g}, beta {best.beta:g}, unknown_cost {best.unknown_cost:g} in "
          f"{args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
