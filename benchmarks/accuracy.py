"""Time to accuracy: the original's training and ours on the same data, side by side.

Every contestant is a process with a core of its own and one thread. As many run at once as there
are cores. A contestant's folder DIR/CORPUS/NAME holds its settings, curve (metrics.csv), state and
log: the same command goes on with a stopped run, and does not repeat what is finished.
"""

import argparse
import json
import logging
import math
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pandas as pd

from benchmarks.report import table
from benchmarks.sections import run
from benchmarks.workers import ROOT
from deepspeech2.errors import InputError, RunError
from deepspeech2.files import atomic_path
from deepspeech2.labels import Labels
from src.config import Config, ModelConfig, load_config
from src.manifest import read_manifest
from tools.plot_log import read_metrics

logger = logging.getLogger("benchmarks")

TITLES = {"original": "the original", "ours": "ours",  # these two begin, side by side
          "original_our_network": "the original's training of our network",
          "ours_quarter": "ours in a quarter of the time"}
UNITS = (128, 192, 256, 384, 512, 768, 1024)  # sizes of the original up to the published one
NETWORK = ("hidden_size", "hidden_layers", "conv_channels", "conv2_kernel", "conv2_time_stride")
# a trial measures how fast a contestant is: training on some speech for two epochs or some time
TRIAL_SPEECH, TRIAL_MINUTES = 3.0, 0.5
# a Python that stays on the core of its first argument, ends with the benchmark, and runs the rest
ON_CORE = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
os.sched_setaffinity(0, [int(sys.argv[1])])
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


@dataclass(frozen=True)
class Corpus:
    """How a corpus is prepared and learned.

    Attributes:
        title: its name in the report.
        module: the module of `data` that prepares it.
        prefix: its manifests are PREFIX_train_manifest.csv and PREFIX_val_manifest.csv.
        source: its folder in the data of DS2_SHARED or ../shared; '' for the demo corpus, a few
            utterances to try the benchmark.
        config: our settings.
        epochs: how many of the original have to fit into the minutes, which limits its size.
        options: of the module, but for the folders.
    """

    title: str
    module: str
    prefix: str
    source: str
    config: str
    epochs: int
    options: tuple[str, ...] = ()


CORPORA = {
    "an4": Corpus("AN4", "an4", "an4", "an4", "configs/an4.yaml", 20),
    "librispeech": Corpus("LibriSpeech train-clean-100, 67 unseen speakers", "librispeech", "libri",
                          "speech/LibriSpeech", "configs/librispeech_10h.yaml", 2,
                          ("--max_seconds", "40")),
    "demo": Corpus("the demo corpus (synthetic speech)", "demo", "demo", "", "configs/demo.yaml",
                   20, ("--train", "24", "--val", "6", "--test", "6"))}
REAL = ("an4", "librispeech")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `--only accuracy`."""
    group = parser.add_argument_group(
        "accuracy", "WER and CER against minutes of training, for `--only accuracy`. It takes "
        "hours: --output DIR (default is runs/accuracy) keeps what a stopped run has reached.")
    group.add_argument("--corpus", choices=CORPORA,
                       help="default is an4, then librispeech; demo is tiny, to try the benchmark")
    group.add_argument("--minutes", type=float, default=120, metavar="M",
                       help="training time of each contestant, default is 120")
    group.add_argument("--config", type=Path, metavar="FILE",
                       help="our settings for --corpus, default is "
                       + ", ".join(CORPORA[name].config for name in REAL))
    group.add_argument("--epochs", type=int, metavar="N",
                       help="our epochs, default is what fits into the minutes, by a trial")
    group.add_argument("--original", nargs="+", default=[], metavar="GROUP.FIELD=VALUE",
                       help="settings of the original instead of published ones; default for "
                       "ModelConfig.hidden_size is the largest with which TrainingConfig.epochs "
                       "(AN4: 20, LibriSpeech: 2) fit into the minutes, by trials")


class Contest:
    """The contestants on one corpus.

    Args:
        name: key of `CORPORA`.
        folder: keeps data, contestants and curves.
        args: the command line.
        machine: where this sitting runs, for the report.

    Raises:
        InputError: for settings that cannot be used.
    """

    def __init__(self, name: str, folder: Path, args: argparse.Namespace, machine: str):
        from benchmarks.original import PUBLISHED  # late: PyTorch may be missing

        self.corpus, self.folder, self.machine = CORPORA[name], folder, machine
        self.minutes, self.epochs = args.minutes, args.epochs
        self.config = (args.config or ROOT / self.corpus.config).absolute()
        self.original = [*PUBLISHED, f"TrainingConfig.epochs={self.corpus.epochs}", *args.original]
        self.asked = [self.minutes, self.epochs, self.config.name, self.original]
        for contestant in TITLES:
            self.settings(contestant)

    def settings(self, name: str, *changes: str) -> Config:
        """All settings of a contestant."""
        if name.startswith("ours"):
            return load_config(self.config, changes)
        return load_config(None, [*self.original, *changes])

    def prepare(self) -> None:
        """Make the manifests, the same for all contestants, and one of some minutes for trials."""
        shared = Path(os.environ.get("DS2_SHARED", ROOT.parent / "shared")) / "data"
        options = list(self.corpus.options)
        if self.corpus.source:
            options += ["--source", str(shared / self.corpus.source)]
        run("-m", f"data.{self.corpus.module}", "--target", str(self.folder / "data"), *options)
        labels, speech = Labels.load(ROOT / "labels.json"), {}
        for split in ("train", "val"):
            found = read_manifest(self.manifest(split), labels)
            speech[split] = {"utterances": len(found), "minutes": found.seconds.sum() / 60}
        self.speech_minutes = speech["train"]["minutes"]
        lines = self.manifest("train").read_text(encoding="utf-8").splitlines(keepends=True)
        every = max(1, round(self.speech_minutes / TRIAL_SPEECH))
        self.manifest("trial").write_text("".join(lines[::every]), encoding="utf-8")
        write_json(self.folder / "speech.json", speech)

    def manifest(self, split: str) -> Path:
        return self.folder / "data" / f"{self.corpus.prefix}_{split}_manifest.csv"

    def run(self) -> None:
        """Train what is not finished. Raises RunError when a contestant fails."""
        cores: SimpleQueue[int] = SimpleQueue()
        for core in os.sched_getaffinity(0):
            cores.put(core)
        with ThreadPoolExecutor(cores.qsize()) as pool:
            jobs = [pool.submit(self.contestant, name, cores) for name in TITLES]
            try:
                for job in jobs:
                    job.result()
            finally:
                pool.shutdown(cancel_futures=True)

    def contestant(self, name: str, cores: "SimpleQueue[int]") -> None:
        """Begin a contestant, go on with it, or leave it where it is finished."""
        path, core = self.folder / name / "contestant.json", cores.get()
        try:
            record = read_json(path) if path.exists() else self.plan(name, core)
            if record["asked"] != self.asked:
                raise InputError(f"{path}: began with {record['asked']}, but {self.asked} is asked "
                                 "for: choose another --output")
            if record["finished"]:
                return
            record["machines"] = sorted({*record["machines"], self.machine})
            write_json(path, record)
            data = [f"DataConfig.{split}_manifest={self.manifest(split)}"
                    for split in ("train", "val")]
            self.train(name, core, path.parent, self.minutes, *data, *record["settings"])
            write_json(path, record | {"finished": True})
        except Exception as error:
            logger.error("%s failed; what is under way goes on: %s", name, error)
            raise
        finally:
            cores.put(core)

    def train(self, name: str, core: int, folder: Path, minutes: float, *settings: str,
              ) -> pd.DataFrame:
        """Train on one core; returns the metrics. Raises RunError with the end of the log."""
        command = ["-m", "benchmarks.original", str(minutes), *self.original]
        if name.startswith("ours"):
            command = ["train.py", "--device_target", "CPU", "--resume", "auto",
                       "--config", str(self.config), "TrainingConfig.eval_interval=1"]
        command += [*settings, f"TrainingConfig.log_dir={folder}",
                    f"CheckpointConfig.ckpt_path={folder}", "CheckpointConfig.save_minutes=3"]
        logger.info("core %d: python %s", core, " ".join(command))
        with open(folder / "log.txt", "a+", encoding="utf-8") as log:
            done = subprocess.run([sys.executable, "-c", ON_CORE, str(core), *command], cwd=ROOT,
                                  env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=log, stderr=log)
            if done.returncode:
                log.seek(0)
                raise RunError(f"python {' '.join(command)} failed:\n{log.read()[-2000:]}")
        return read_metrics(folder / "metrics.csv")

    def trial(self, name: str, core: int, *settings: str) -> pd.DataFrame:
        """The metrics of a trial."""
        data = [f"DataConfig.train_manifest={self.manifest('trial')}", "DataConfig.val_manifest="]
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            return self.train(name, core, Path(folder), TRIAL_MINUTES, *data,
                              "TrainingConfig.epochs=2", *settings)

    def plan(self, name: str, core: int) -> dict:
        """A new contestant: its settings that network, speed and minutes determine."""
        if name == "original":
            settings = self.largest_network(core)
        elif name == "original_our_network":
            ours = self.settings("ours").ModelConfig
            values = {key: getattr(ours, key) for key in NETWORK}
            settings = [f"ModelConfig.{key}={list(value) if isinstance(value, tuple) else value}"
                        for key, value in values.items()]
        else:
            settings = self.fitting_epochs(core, 4 if name == "ours_quarter" else 1)
        model = self.settings(name, *settings).ModelConfig
        network = {key: getattr(model, key) for key in NETWORK}
        return {"asked": self.asked, "settings": settings, "finished": False, "machines": [],
                "network": network, "parameters": count_parameters(model)}

    def largest_network(self, core: int) -> list[str]:
        """The most units with which enough epochs of the original fit into the minutes."""
        if any(text.startswith("ModelConfig.hidden_size=") for text in self.original):
            return []
        needed = self.settings("original").TrainingConfig.epochs * self.speech_minutes
        largest = UNITS[0]
        for units in UNITS:
            metrics = self.trial("original", core, f"ModelConfig.hidden_size={units}")
            speed = metrics["audio_seconds_per_second"].iloc[-1]
            logger.info("the original with %d units: %.1f audio-s/s", units, speed)
            if speed * self.minutes < needed:
                break
            largest = units
        return [f"ModelConfig.hidden_size={largest}"]

    def fitting_epochs(self, core: int, parts: int) -> list[str]:
        """Our epochs in one of equal `parts` of the minutes; a schedule has to know them."""
        epochs = self.epochs and self.epochs / parts
        if not epochs:
            metrics = self.trial("ours", core)
            first, both = metrics["minutes"]  # cumulative; the first epoch compiles
            speed = metrics["audio_seconds_per_second"].iloc[-1]
            logger.info("ours: %.1f audio-s/s, %.1f minutes to begin", speed, 2 * first - both)
            epochs = (self.minutes / parts - (2 * first - both)) * speed / self.speech_minutes
        return [f"TrainingConfig.epochs={max(1, int(epochs))}"]


def count_parameters(model: ModelConfig) -> int:
    """Trainable parameters of both sides' network."""
    import torch

    from benchmarks.pytorch import Network

    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Network(model).parameters())


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, content: Any) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


# report

PAGE = """# Time to accuracy

![WER and CER of the val set against minutes of training](accuracy.png)

Written by `python -m benchmarks --only accuracy`. Every contestant learns the same data in a
process with one thread and a core of its own, and as many run at once as there are cores.

- The original is our writing of deepspeech.pytorch in PyTorch: its network, loader, AdamW and
  annealing with its published settings (`benchmarks/original.py` names the files and the
  differences), in float32. Its network has five layers, of the published 1024 units or of as many
  as let 20 epochs of AN4 or 2 of LibriSpeech fit into the minutes by a trial, unless something else
  was asked for. It trains for the minutes, whatever number of epochs that gives; the last one may
  be cut.
- Ours is `train.py` with the settings of the recipe. Its schedule ends at its last epoch, so a
  trial found beforehand how many epochs fit into the minutes.
- Minutes are those of training, with loading, compilation and a state on the disk every three
  minutes; evaluation, checkpoints of epochs and trials are not in them. Steps after the last state
  of a stopped run are taken again, and count once.
- After each epoch the val set is decoded greedily without a language model, for all contestants by
  the same code. Averages of checkpoints are not in the curves.
- Figures on the val set are **selection figures** of ours: they chose the recipe. They did not
  choose the settings of the original. The best of many epochs is a choice too, on both sides.
"""
CURVE = ("epoch", "minutes", "val_wer", "val_cer")


def results(folder: Path) -> dict:
    """What accuracy.json holds: the curves of all contestants that have one."""
    found = []
    for name, corpus in CORPORA.items():
        contestants = []
        for contestant, title in TITLES.items():
            path = folder / name / contestant / "metrics.csv"
            if path.exists():
                metrics = read_metrics(path).dropna(subset=["val_wer"])
                contestants.append(
                    {"name": contestant, "title": title}
                    | read_json(path.with_name("contestant.json"))
                    | {key: metrics[key].tolist() for key in CURVE})
        if contestants:
            found.append({"title": corpus.title, "speech": read_json(folder / name / "speech.json"),
                          "contestants": contestants})
    return {"corpora": found}


def contestants_table(contestants: list[dict]) -> str:
    """A row for each contestant, with the minutes to the original's best WER."""
    originals = [c for c in contestants if c["name"].startswith("original")]
    target = min((min(c["val_wer"]) for c in originals), default=-1.0)
    needed = min((minutes_to(target, c) for c in originals), default=math.inf)
    rows = []
    for contestant in contestants:
        errors = list(zip(contestant["val_wer"], contestant["val_cer"], strict=True))
        best, last = ("{:.2f} / {:.2f}".format(*rates) for rates in (min(errors), errors[-1]))
        reached = minutes_to(target, contestant)
        rows.append(contestant | contestant["network"] | {
            "unfinished": "" if contestant["finished"] else " (unfinished)",
            "millions": contestant["parameters"] / 1e6, "best": best, "last": last,
            "epochs": contestant["epoch"][-1], "total": contestant["minutes"][-1],
            "reached": f"{reached:.1f}" if reached < math.inf else "–",
            "share": f"{reached / needed:.2f}" if reached < math.inf else "–"})
    return table(rows, {
        "contestant": "{title}{unfinished}", "units × layers": "{hidden_size} × {hidden_layers}",
        "channels": "{conv_channels}", "time stride": "{conv2_time_stride}",
        "parameters": "{millions:.1f} M", "epochs": "{epochs}", "minutes": "{total:.1f}",
        "best val WER / CER": "{best}", "last val WER / CER": "{last}",
        f"minutes to WER {target:.2f}": "{reached}", "of the original's": "{share}"})


def minutes_to(wer: float, contestant: dict) -> float:
    """Minutes of training until a contestant's WER on the val set is at most `wer`."""
    curve = zip(contestant["minutes"], contestant["val_wer"], strict=True)
    return next((minutes for minutes, found in curve if found <= wer), math.inf)


def markdown(results: dict) -> str:
    """The whole page."""
    parts = [PAGE]
    for corpus in results["corpora"]:
        machines = {machine for c in corpus["contestants"] for machine in c["machines"]}
        speech = "; ".join("{}: {utterances} utterances, {minutes:.1f} min".format(split, **found)
                           for split, found in corpus["speech"].items())
        parts.append(f"## {corpus['title']}\n\n{speech}. One core each of: "
                     f"{'; '.join(sorted(machines))}.\n\n"
                     f"{contestants_table(corpus['contestants'])}\n")
    return "\n".join(parts)


def draw(results: dict, path: Path) -> None:
    """WER and CER against minutes, a row for each corpus."""
    from matplotlib.figure import Figure

    corpora = results["corpora"]
    figure = Figure(figsize=(12, 4.5 * len(corpora)), layout="constrained")
    grid = figure.subplots(len(corpora), 2, squeeze=False)
    for corpus, axes in zip(corpora, grid, strict=True):
        for axis, kind in zip(axes, ("wer", "cer"), strict=True):
            for contestant in corpus["contestants"]:
                style = "--" if contestant["name"].startswith("original") else "-"
                axis.plot(contestant["minutes"], contestant[f"val_{kind}"], f".{style}", ms=4,
                          label=contestant["title"])
            axis.set(title=f"{corpus['title']}: val {kind.upper()}, %", ylim=(0, 115),
                     xlim=(0, None), xlabel="minutes of training")
            axis.grid(alpha=0.3)
        axes[0].legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)


def write(results: dict, folder: Path) -> None:
    """Write accuracy.md, accuracy.json and accuracy.png."""
    draw(results, folder / "accuracy.png")
    write_json(folder / "accuracy.json", results)
    with atomic_path(folder / "accuracy.md") as temporary:
        temporary.write_text(markdown(results), encoding="utf-8")


def benchmark(args: argparse.Namespace, machine: dict) -> int:
    """Let the contestants learn on `machine` (`describe_machine`); report after each corpus."""
    if (args.config or args.epochs or args.original) and not args.corpus:
        raise InputError("--config, --epochs and --original need --corpus: they are for one corpus")
    if args.minutes <= 0 or (args.epochs or 1) < 1:
        raise InputError("--minutes and --epochs must be above 0")
    folder = (args.output or ROOT / "runs" / "accuracy").absolute()
    where = machine["processor"]
    if machine["load_before"] > 0.5 * machine["cores"]:
        where += " **while other programs were running, so these minutes are not to be relied on**"
    contests = [Contest(name, folder / name, args, where)
                for name in ([args.corpus] if args.corpus else REAL)]
    for contest in contests:
        contest.prepare()
        contest.run()
        write(results(folder), folder)
    print((folder / "accuracy.md").read_text(encoding="utf-8"))
    return 0
