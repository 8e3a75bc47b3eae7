"""The figure: how many times as fast as PyTorch, of every row that was compared with it."""

from pathlib import Path

import matplotlib

matplotlib.use("agg")      # a file, never a window
import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter

from benchmarks.bench import OURS

COLOURS = {OURS: "#1f5f99", "checkpoint": "#1f5f99", "MindIR": "#5aa0d8", "ONNX": "#c46210", "ONNX int8": "#e8a33d"}
AROUND = {"epoch": "epoch", "features": "features", "decoding": "greedy decoding", "checkpoints": "checkpoint"}


def bars(results: dict) -> dict[str, list[tuple[str, str, dict]]]:
    """{panel: [(label, side, ratio with its spread)]} of what the results hold."""
    def of(section: str, label) -> list[tuple[str, str, dict]]:
        return [(label(row), side, ratio) for row in results.get(section, [])
                for side, ratio in row.get("speedup", {}).items()]

    def network(row: dict) -> str:
        return f"{row['units']} units, batch {row['batch']}"

    panels = {"Training step": of("train", network), "Inference": of("inference", network), "Around the network": [
        bar for section, name in AROUND.items()
        for bar in of(section, lambda row, n=name: f"{n}, {row.get('what', row.get('corpus', ''))}".rstrip(", "))]}
    return {panel: found for panel, found in panels.items() if found}


def possible(results: dict) -> bool:
    """Whether there is anything to draw."""
    return bool(bars(results))


def draw(results: dict, path: Path) -> None:
    """Write the figure as PNG, one panel a kind of work; the axis is logarithmic and has PyTorch at 1."""
    panels = bars(results)
    heights = [len(found) + 2 for found in panels.values()]
    figure, axes = plt.subplots(len(panels), 1, figsize=(8, 0.2 * sum(heights) + 0.8), squeeze=False,
                                gridspec_kw={"height_ratios": heights}, layout="constrained")
    for axis, (panel, found) in zip(axes[:, 0], panels.items(), strict=True):
        _draw_panel(axis, found)
        axis.set_title(panel, loc="left", fontsize=9)
    axes[-1, 0].set_xlabel("times as fast as PyTorch on the same cores (1: the same); lines: spread", fontsize=8)
    figure.savefig(path, dpi=120, format="png")
    plt.close(figure)


def _draw_panel(axis, found: list[tuple[str, str, dict]]) -> None:
    for position, (_, side, ratio) in enumerate(found):
        axis.barh(position, ratio["value"] - 1, left=1, height=0.75, color=COLOURS[side])
        axis.plot([ratio["low"], ratio["high"]], [position, position], color="0.4", linewidth=1.5)
        axis.annotate(f"{ratio['value']:.2f}", (max(1, ratio["high"]), position), (4, 0), fontsize=6, va="center",
                      textcoords="offset points")
    axis.set_yticks(range(len(found)), [label if side == OURS else f"{label}: {side}" for label, side, _ in found],
                    fontsize=7)
    axis.invert_yaxis()
    axis.axvline(1, color="black", linewidth=0.8)
    axis.set_xscale("log")
    least, greatest = min(ratio["low"] for *_, ratio in found), max(ratio["high"] for *_, ratio in found)
    axis.set_xlim(min(0.8, least * 0.9), max(1.25, greatest * 1.4))
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if greatest / least > 4 else (1, 1.5, 2, 3, 4, 5, 6, 8)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.tick_params(axis="x", labelsize=7)
    axis.grid(axis="x", color="0.9")
    axis.set_axisbelow(True)
