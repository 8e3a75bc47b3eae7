"""Watch long runs: memory, handles and speed must stay flat.

    python -m tests.faults.soak watch PID soak.csv            # a training, for example, to its end
    python -m tests.faults.soak transcribe HOURS soak.csv    # random lengths of noise, one model
    python -m tests.faults.soak report soak.csv soak.png      # slopes, and their picture
"""

import os
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

INTERVAL = 20.0  # seconds between samples
WARM_UP = 0.1  # share of the run before memory is expected to be flat


def sample(pid: int) -> dict[str, float]:
    """Memory, handles and CPU time of a process. Raises OSError when it is gone."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return {"seconds": time.time(), "mib": int(status["VmRSS"].split()[0]) / 1024,
            "handles": len(os.listdir(f"/proc/{pid}/fd")), "threads": int(status["Threads"]),
            "cpu_seconds": (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")}


def watch(pid: int, path: Path) -> None:
    """Append a sample every `INTERVAL` seconds until the process ends."""
    while True:
        try:
            row = sample(pid)
        except OSError:
            return
        pd.DataFrame([row]).to_csv(path, mode="a", header=not path.exists(), index=False)
        time.sleep(INTERVAL)


def transcribe(hours: float, path: Path) -> None:
    """Transcribe noise of 0.5 to 20 s for some hours in this process, and watch it."""
    import deepspeech2
    model, rng = deepspeech2.load_model("an4"), np.random.default_rng(0)
    end, due, audio, started = time.time() + hours * 3600, 0.0, 0.0, time.process_time()
    while time.time() < end:
        samples = rng.standard_normal(int(16000 * rng.uniform(0.5, 20))).astype(np.float32) / 10
        model.transcribe((samples, 16000))
        audio += len(samples) / 16000
        if time.time() >= due:
            # by the clock, it would be other programs that are measured
            speed = audio / (time.process_time() - started)
            row = sample(os.getpid()) | {"audio_seconds_per_cpu_second": speed}
            pd.DataFrame([row]).to_csv(path, mode="a", header=not path.exists(), index=False)
            due, audio, started = time.time() + INTERVAL, 0.0, time.process_time()


def report(path: Path, picture: Path) -> None:
    """Print the change per hour of each figure after the warm-up, and draw all of them."""
    from matplotlib.figure import Figure
    table = pd.read_csv(path)
    hours = table.pop("seconds").to_numpy()
    hours = (hours - hours[0]) / 3600
    settled = hours >= WARM_UP * hours[-1]
    figure = Figure(figsize=(8, 2 * len(table.columns)), layout="constrained")
    for axis, (name, values) in zip(np.atleast_1d(figure.subplots(len(table.columns), sharex=True)),
                                    table.items(), strict=True):
        slope = np.polyfit(hours[settled], values[settled], 1)[0]
        print(f"{name}: from {values[settled].iloc[0]:.1f} to {values.iloc[-1]:.1f}, "
              f"{slope:+.2f} an hour, over {hours[-1]:.2f} hours")
        axis.plot(hours, values)
        axis.set_ylabel(name)
        axis.set_ylim(bottom=0)
    axis.set_xlabel("hours")
    figure.savefig(picture, dpi=100)


if __name__ == "__main__":
    command, first, second = sys.argv[1:]
    if command == "watch":
        watch(int(first), Path(second))
    elif command == "transcribe":
        transcribe(float(first), Path(second))
    else:
        report(Path(first), Path(second))
