"""Find how probable it is that a word of a model is right, on speech that it was not trained on.

Usage: `python -m tools.calibrate MODEL.onnx MANIFEST [--lm LM]`

The result goes into the JSON file beside the model, and so into all transcripts.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from deepspeech2 import commands, shipped
from deepspeech2.confidence import Confidence, logit
from deepspeech2.errors import InputError
from deepspeech2.files import ensure_writable
from deepspeech2.model import load_model
from deepspeech2.model_info import read_info, write_info
from src import cli
from src.config import load_config
from src.evaluation import ScoredUtterance, evaluate, find_speakers
from src.manifest import read_manifest
from tools.report.figures import bins_of, judged

STEPS = 50  # of Newton's method; ten are enough for most data


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    result = argparse.ArgumentParser(
        prog="python -m tools.calibrate",
        description="Make the probabilities of a model's words those of being right: they are "
        "fitted to the transcripts and written into the JSON file beside the model.",
    )
    result.add_argument("model", metavar="MODEL.onnx", help="an ONNX model, or one of the package")
    result.add_argument("manifest", type=Path, metavar="MANIFEST",
                        help="recordings that the model was not trained on, with transcripts")
    result.add_argument("--lm", default="", metavar="LM",
                        help="for words that this language model chose: english, an ARPA file, or "
                        "settings of tools.tune_lm (default: none)")
    cli.add_config_arguments(result)
    return result


@dataclasses.dataclass(frozen=True)
class Words:
    """The words that a model has recognised.

    Attributes:
        probabilities: (W,) geometric means of the probabilities of their letters.
        right: (W,) bool, whether the word is right.
        speakers: (W,) who speaks.
    """

    probabilities: np.ndarray
    right: np.ndarray
    speakers: np.ndarray

    def __getitem__(self, chosen: np.ndarray) -> "Words":
        return Words(self.probabilities[chosen], self.right[chosen], self.speakers[chosen])


def find_words(utterances: Sequence[ScoredUtterance], speakers: Sequence[str]) -> Words:
    """The words of utterances that were scored with `keep_confidences`."""
    rows = [
        (probability, right, speakers[utterance.row])
        for utterance in utterances
        for probability, right in judged(utterance)
    ]
    columns = zip(*rows, strict=True) if rows else ((), (), ())
    return Words(*(np.array(column) for column in columns))


def fit(words: Words) -> Confidence:
    """The most probable `Confidence` for words (Platt 1999, with its targets for few words).

    Raises:
        InputError: when all words are right, or all wrong, and when words of higher probability are
            not more often right.
    """
    good = words.right.sum()
    if good in (0, len(words.right)):
        raise InputError(f"all {len(words.right)} words are {'right' if good else 'wrong'}: needed "
                         "are words of both kinds, of both halves of the speakers")
    targets = np.where(words.right, (good + 1) / (good + 2), 1 / (len(words.right) - good + 2))
    inputs = np.stack([np.ones(len(targets)), logit(words.probabilities)], axis=1)
    found = np.array([0.0, 1.0])
    for _ in range(STEPS):
        means = 1 / (1 + np.exp(-inputs @ found))
        gradient = inputs.T @ (targets - means)
        hessian = (inputs * (means * (1 - means))[:, None]).T @ inputs
        step = np.linalg.lstsq(hessian, gradient, rcond=None)[0]
        found = found + step * min(1, 2 / (np.abs(step).max() + 1e-9))
    try:
        return Confidence(*found.tolist())
    except ValueError:
        raise InputError(
            f"words that the model is surer of are not more often right (slope {found[1]:.3g}, "
            f"{good} of {len(targets)} words right): nothing can be made of its probabilities"
        ) from None


def crossed(words: Words) -> np.ndarray:
    """(W,) probabilities of being right, each by the `Confidence` of the other half's speakers."""
    names = sorted(set(words.speakers))
    first = np.isin(words.speakers, names[::2])
    result = np.zeros(len(first))
    for half in (first, ~first):
        confidence = fit(words[~half])
        result[half] = [confidence(value) for value in words.probabilities[half]]
    return result


def measures(probabilities: np.ndarray, right: np.ndarray) -> tuple[float, float, float]:
    """Mean probability; calibration error: the mean distance of probability and share of right
    words in bins; and log loss, in natural units a word."""
    bins = bins_of(probabilities)
    above = probabilities - right
    error = sum(abs(above[bins == place].sum()) for place in np.unique(bins))
    sure = np.where(right, probabilities, 1 - probabilities)
    loss = -np.log(np.maximum(sure, 1e-4)).mean()
    return float(probabilities.mean()), float(error / len(right)), float(loss)


def main(argv: list[str] | None = None) -> int:
    """Calibrate as the command line says; returns the exit code."""
    args = parser().parse_intermixed_args(argv)
    return commands.run(lambda: calibrate(args))


def calibrate(args: argparse.Namespace) -> int:
    """Recognise, fit, print, write; 2 when an utterance could not be read."""
    config = load_config(args.config, args.overrides)
    if decoding := sorted(key for key in config.explicit if key.startswith("LMConfig.")):
        raise InputError(f"{', '.join(decoding)}: probabilities are those of --lm, by its name")
    path = shipped.model_path(args.model)
    model = load_model(path, args.lm or None)
    model.confidence = None
    info_path = path.with_suffix(".json")
    ensure_writable(info_path.parent)
    manifest = read_manifest(args.manifest, model.labels)
    speakers = find_speakers(manifest, config.DataConfig.speaker_pattern)
    result = evaluate(model, manifest, config, keep_confidences=True)
    words = find_words(result.utterances, speakers)
    if len(set(words.speakers)) < 2:
        raise InputError(f"{args.manifest}: the model finds words of fewer than two speakers in it")
    print("\n".join(table(words)))
    found = fit(words)
    info = read_info(path)
    confidence = info.confidence | {model.decoder.decoding: found}
    write_info(path, dataclasses.replace(info, confidence=confidence))
    print(f"{model.decoder.decoding}: bias {found.bias:.3f}, slope {found.slope:.3f} "
          f"in {info_path}")
    return 2 if result.missing else 0


def table(words: Words) -> list[str]:
    """The lines to print."""
    lines = [f"{len(words.right)} words of {len(set(words.speakers))} speakers, "
             f"{words.right.mean():.1%} of them right",
             f"{'':26}{'mean probability':>17}{'calibration error':>19}{'log loss':>10}"]
    for name, values in (("of the letters", words.probabilities),
                         ("fitted to other speakers", crossed(words))):
        mean, error, loss = measures(values, words.right)
        lines.append(f"{name:26}{mean:17.1%}{error:19.1%}{loss:10.3f}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
