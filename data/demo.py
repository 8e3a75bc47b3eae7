"""The demo corpus, spoken by espeak-ng: commands, digits, spelled words. `python -m data.demo`

Made here from nothing but the `espeakng-loader` wheel, so that the whole recipe can be tried
without a download. All three splits draw sentences from the grammar below; some sentences occur in
several of them. The voices are disjoint: no voice of val or test, nor a near copy, is ever heard in
training. Rates, pitches and silences vary from utterance to utterance. Equal settings give equal
bytes, whatever --jobs.

Writes TARGET/demo_dataset/{train,val,test}/{wav,txt}/ and
TARGET/demo_{train,val,test}_manifest.csv.
"""

import argparse
import contextlib
import hashlib
import importlib.metadata
import json
import random
import sys
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from data import espeak
from data.common import (
    LABELS_PATH,
    SAMPLE_RATE,
    add_common_arguments,
    ensure_target,
    exclusive_lock,
    parallel,
    save_manifest,
    to_pcm16,
    utterance_info,
    utterance_paths,
    whole_number,
    write_text,
    write_wav,
)
from deepspeech2 import commands
from deepspeech2.files import atomic_path, parse_json
from deepspeech2.labels import Labels
from src.manifest import Manifest, ManifestError, read_manifest

# Variants of one American speaker model that sound like people: no robots, whispers or creaks.
# pretrained/an4.ckpt, which learned from people, has a CER of 20 to 41 % on spelled words and
# digits by each of them, and of 24 % by the model's own voice. No voice has a near copy in another
# split (tests/test_data_demo.py). A small corpus has voices of both sexes, too.
VOICES = {
    "train": ("m1", "f3", "m3", "Annie", "Denis", "f5", "paul", "f2", "adam", "Andrea", "Diogo",
              "anika", "Alex", "m4", "m5", "m6", "max", "Hugo", "Michael", "gustave", "marcelo",
              "mike2", "iven3", "pedro", "antonio"),
    "val": ("f1", "robert", "belinda", "m2", "steph", "victor", "rob", "Gene2", "pablo"),
    "test": ("f4", "m7", "linda", "sandro", "aunty", "m8", "Mario", "Nguyen", "quincy"),
}
DEFAULT_COUNTS = {"train": 650, "val": 180, "test": 180}
STAMP = "demo_dataset/made.json"  # says of a whole corpus what it was made of
MAX_COUNT = 10000  # the grammar has more sentences than that, so that drawing new ones ends

WORDS = {
    "move": "GO MOVE WALK RUN",
    "way": "FORWARD BACK LEFT RIGHT UP DOWN",
    "side": "LEFT RIGHT",
    "digit": "ZERO ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE",
    "several": "TWO THREE FIVE TEN",
    "unit": "METERS STEPS",
    "act": "STOP GO MOVE TURN RUN",
    "when": "NOW AGAIN PLEASE",
    "part": "DOOR WINDOW GATE BOX",
    "device": "LIGHT RADIO FAN",
    "color": "RED GREEN BLUE YELLOW",
    "object": "BOX BALL BOOK",
    "place": "HOME BACK",
    "spelled": "STOP BOX JAM KEY QUIZ VAN WIND FIG HELP CAR",
}
# (weight, template); {spelled} is read letter by letter
TEMPLATES = (
    (4, "{move} {way}"),
    (8, "{move} {way} {several} {unit}"),
    (4, "TURN {side} {when}"),
    (4, "DON'T {act}"),
    (3, "DON'T {act} {when}"),
    (3, "LET'S GO {place}"),
    (2, "THAT'S THE {color} {object}"),
    (4, "OPEN THE {part}"),
    (4, "CLOSE THE {part}"),
    (3, "TURN ON THE {device}"),
    (3, "TURN OFF THE {device}"),
    (4, "TAKE THE {color} {object}"),
    (10, "{digit} {digit} {digit}"),
    (4, "{digit} {digit} {digit} {digit}"),
    (6, "CALL {digit} {digit} {digit}"),
    (12, "{spelled}"),
    (8, "SPELL {spelled}"),
    (2, "STOP {when}"),
    (2, "YES {when}"),
    (2, "HELP {when}"),
)


@dataclass(frozen=True)
class Utterance:
    """One recording: the speech, and the silence around it in samples at `SAMPLE_RATE`."""

    name: str
    speech: espeak.Speech
    before: int
    after: int


def draw_sentence(rng: random.Random) -> str:
    """A sentence of the grammar, as its transcript."""
    template = rng.choices([t for _, t in TEMPLATES], [weight for weight, _ in TEMPLATES])[0]
    words = []
    for part in template.split():
        word = rng.choice(WORDS[part[1:-1]].split()) if part.startswith("{") else part
        words += list(word) if part == "{spelled}" else [word]
    return " ".join(words)


def plan_split(split: str, count: int, seed: int) -> list[Utterance]:
    """The first `count` utterances of a split: voices in turn, no sentence twice by one voice."""
    # a string seeds the same way in every process and version
    rng = random.Random(f"{seed} {split}")
    said: set[tuple[str, str]] = set()
    utterances = []
    for number in range(count):
        variant = VOICES[split][number % len(VOICES[split])]
        text = draw_sentence(rng)
        while (variant, text) in said:
            text = draw_sentence(rng)
        said.add((variant, text))
        speech = espeak.Speech(
            text,
            f"en-us+{variant}",
            rate=rng.randint(120, 160),
            pitch=rng.randint(40, 60),
            pitch_range=rng.randint(35, 65),
            volume=70,
            seed=rng.randint(1, 2**31 - 1),
        )
        # 50 to 125 ms
        before, after = (rng.randint(SAMPLE_RATE // 20, SAMPLE_RATE // 8) for _ in range(2))
        utterances.append(
            Utterance(f"{split}-{number:05d}-{variant.lower()}", speech, before, after)
        )
    return utterances


def render(utterance: Utterance) -> np.ndarray:
    """(n,) int16 samples at `SAMPLE_RATE`."""
    spoken = espeak.synthesize(utterance.speech).astype(np.float32) / 32768
    import librosa  # takes seconds
    spoken = librosa.resample(spoken, orig_sr=espeak.SAMPLE_RATE, target_sr=SAMPLE_RATE)
    return to_pcm16(np.pad(spoken, (utterance.before, utterance.after)))


def write_utterance(folder: Path, utterance: Utterance) -> int:
    """Write one utterance below `folder`; returns its number of samples."""
    audio, transcript = utterance_paths(folder, utterance.name)
    samples = render(utterance)
    write_wav(audio, samples)
    write_text(transcript, utterance.speech.text)
    return len(samples)


def prepare(target: Path, counts: dict[str, int], seed: int, jobs: int) -> dict[str, Manifest]:
    """Make the corpus below `target`, or find it there; returns the manifests by split.

    Raises:
        InputError: if espeak-ng cannot be used, or `target` not be written to.
        RunError: if espeak-ng stops working, or what it made cannot be read back.
    """
    espeak.find_library()
    ensure_target(target)
    labels = Labels.load(LABELS_PATH)
    plan = {split: plan_split(split, counts[split], seed) for split in VOICES}
    settings = describe(plan, counts, seed)
    with exclusive_lock(target / "demo_dataset"):
        manifests = find_made(target, settings, labels, jobs)
        if manifests:
            print(f"demo: already made in {target / 'demo_dataset'}")
        return manifests or _make(target, plan, settings, labels, jobs)


def _make(
    target: Path,
    plan: dict[str, list[Utterance]],
    settings: dict[str, object],
    labels: Labels,
    jobs: int,
) -> dict[str, Manifest]:
    """Make the corpus; returns the manifests by split."""
    manifests, stamp = {}, target / STAMP
    # whatever happens below, a half-made corpus does not count as made
    stamp.unlink(missing_ok=True)
    for split, utterances in plan.items():
        folder = target / "demo_dataset" / split
        clear(folder)
        name = f"demo {split}"
        sizes = parallel(partial(write_utterance, folder), utterances, jobs, name, folder)
        rows = [utterance_paths(folder, utterance.name) for utterance in utterances]
        metadata = [
            utterance_info(n, u.speech.text, labels) for n, u in zip(sizes, utterances, strict=True)
        ]
        manifests[split] = save_manifest(manifest_path(target, split), rows, metadata, labels)
    with atomic_path(stamp) as temporary:
        temporary.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return manifests


def describe(
    plan: dict[str, list[Utterance]], counts: dict[str, int], seed: int
) -> dict[str, object]:
    """What the bytes of the corpus depend on.

    Kept beside it to see whether it has to be made again.
    """
    everything = json.dumps(
        [asdict(utterance) for utterances in plan.values() for utterance in utterances]
    )
    return {
        "seed": seed,
        "utterances": counts,
        "plan": hashlib.sha256(everything.encode()).hexdigest(),
        "espeakng-loader": importlib.metadata.version("espeakng-loader"),
    }


def find_made(
    target: Path, settings: dict, labels: Labels, jobs: int
) -> dict[str, Manifest]:
    """The manifests of a complete corpus with these settings, or nothing."""
    try:
        if parse_json((target / STAMP).read_text(encoding="utf-8")) != settings:
            return {}
        return {
            split: read_manifest(manifest_path(target, split), labels, jobs) for split in VOICES
        }
    except (OSError, ValueError, ManifestError):
        return {}


def manifest_path(target: Path, split: str) -> Path:
    """Where the manifest of a split is written."""
    return target / f"demo_{split}_manifest.csv"


def clear(folder: Path) -> None:
    """Remove the utterances of an earlier plan, and no other file."""
    for pattern in ("wav/*.wav", "txt/*.txt"):
        for path in folder.glob(pattern):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    result = argparse.ArgumentParser(
        prog="python -m data.demo", description="Make the synthetic demo corpus."
    )
    add_common_arguments(result)
    result.add_argument(
        "--seed",
        type=whole_number(0),
        default=0,
        metavar="N",
        help="of sentences and prosody (default: %(default)s)",
    )
    for split, count in DEFAULT_COUNTS.items():
        result.add_argument(
            f"--{split}",
            type=whole_number(1, MAX_COUNT),
            default=count,
            metavar="N",
            help=f"utterances of the {split} split (default: %(default)s)",
        )
    return result


def main(argv: list[str] | None = None) -> int:
    """Make the corpus as the command line says; returns the exit code."""
    args = parser().parse_args(argv)
    return commands.run(lambda: make(args))


def make(args: argparse.Namespace) -> int:
    counts = {split: getattr(args, split) for split in DEFAULT_COUNTS}
    for split, manifest in prepare(args.target, counts, args.seed, args.jobs).items():
        minutes = manifest.seconds.sum() / 60
        voices = min(len(manifest), len(VOICES[split]))
        print(
            f"demo: {split:5s} {len(manifest)} utterances, {minutes:.1f} min, {voices} voices -> "
            f"{manifest.path}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
