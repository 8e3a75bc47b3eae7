"""What recordings of all lengths take: `python -m benchmarks.lengths RECORDINGS MODEL…`.

RECORDINGS is a folder of short recordings, which are joined with pauses of a second. Each model, a
name or a file, transcribes each length in a process of its own. Prints a table, and draws peak
memory and speed against length with --output PICTURE.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from benchmarks.report import table
from benchmarks.sections import ROOT
from benchmarks.service import RATE, joined
from deepspeech2 import commands
from deepspeech2.audio import AUDIO_SUFFIXES
from deepspeech2.errors import InputError, RunError

MINUTES = (1.0, 10.0, 30.0, 60.0, 180.0)
# runs its arguments, and prints peak memory in KiB and CPU seconds; a process begins with the peak
# of the one that started it, so that one must be small
_RUN = """
import os, sys
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=[
    (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)])
_, status, usage = os.wait4(pid, 0)
print(usage.ru_maxrss, usage.ru_utime + usage.ru_stime)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def write_long(path: Path, part: np.ndarray, minutes: float) -> float:
    """Write a WAV file of `part` again and again; returns its seconds."""
    left = round(60 * minutes * RATE)
    with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16") as file:
        while left > 0:
            file.write(part[:left])
            left -= len(part)
    return 60 * minutes


def transcribed(model: str, recording: Path) -> tuple[float, float]:
    """Peak memory in MB and CPU seconds of a process that transcribes a recording."""
    program = ["transcribe.py", "--pretrain_ckpt"] if model.endswith(".ckpt") else [
        "-m", "deepspeech2", "transcribe", "--model"]
    return spent(*program, model, str(recording))


def spent(*arguments: str) -> tuple[float, float]:
    """Peak memory in MB and CPU seconds of Python with the arguments, in the repository.

    Raises:
        RunError: naming the arguments, when it fails.
    """
    command = [sys.executable, "-S", "-c", _RUN, sys.executable, *arguments]
    result = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if result.returncode:
        raise RunError(f"python {' '.join(arguments)} ended with exit code {result.returncode}")
    memory, used = map(float, result.stdout.split())
    return memory / 1024, used


def measure(args: argparse.Namespace) -> int:
    """Measure, print and draw."""
    paths = sorted(p for p in args.recordings.rglob("*") if p.suffix in AUDIO_SUFFIXES)
    if not paths:
        raise InputError(f"{args.recordings}: no file ends in {', '.join(AUDIO_SUFFIXES)}")
    part = joined(paths, min(600.0, 60 * max(args.minutes)))
    found = {model: [] for model in args.models}
    with tempfile.TemporaryDirectory() as folder:
        for minutes in args.minutes:
            recording = Path(folder, "long.wav")
            seconds = write_long(recording, part, minutes)
            for model in args.models:
                memory, used = transcribed(model, recording)
                found[model].append((minutes, memory, seconds / used))
                print(f"{model}, {minutes:g} min: {memory:.0f} MB, {seconds / used:.0f} seconds of "
                      "audio in a CPU second", file=sys.stderr)
    rows = [{"model": model, "minutes": minutes, "memory": memory, "speed": speed}
            for model in args.models for minutes, memory, speed in found[model]]
    print(table(rows, {"model": "`{model}`", "length": "{minutes:g} min",
                       "peak memory": "{memory:.0f} MB",
                       "seconds of audio in a CPU second": "{speed:.0f}"}))
    if args.output:
        draw(found, args.output)
    return 0


def draw(found: dict[str, list[tuple[float, float, float]]], path: Path) -> None:
    """Peak memory and speed against length, a line for each model."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), layout="constrained")
    above, below = figure.subplots(2, sharex=True)
    for model, rows in found.items():
        minutes, memory, speed = np.array(rows).T
        above.plot(minutes, memory, "o-", label=model)
        below.plot(minutes, speed, "o-", label=model)
    above.set(ylabel="peak memory (MB)", xscale="log", ylim=(0, None))
    below.set(ylabel="seconds of audio in a CPU second", xlabel="length of the recording (min)",
              ylim=(0, None))
    below.set_xticks(minutes, [f"{m:g}" for m in minutes])
    below.minorticks_off()
    above.legend()
    figure.savefig(path, dpi=110)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lengths", description=__doc__)
    parser.add_argument("recordings", type=Path, metavar="RECORDINGS")
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--minutes", type=float, nargs="+", default=MINUTES, metavar="M",
                        help="lengths, default is 1 10 30 60 180")
    parser.add_argument("--output", type=Path, metavar="PICTURE", help="a .png file")
    args = parser.parse_args(argv)
    return commands.run(lambda: measure(args))


if __name__ == "__main__":
    sys.exit(main())
