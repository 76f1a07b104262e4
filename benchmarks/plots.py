"""Draws the figures of docs/performance.md from what was measured; run in the environment of requirements/plots.txt."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt

from benchmarks.tables import NAMES

OURS, THEIRS, GRID = "#2b6cb0", "#a0aec0", "#e2e8f0"
SIZE = (7, 3.2)


def main() -> None:
    results, folder = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    # The same figures give the same file, so that a change of it is a change of figures.
    mpl.rcParams.update({"svg.hashsalt": "pyncette", "svg.fonttype": "none", "font.size": 9})
    for name, draw in FIGURES.items():
        if name in results:
            figure, axes = plt.subplots(figsize=SIZE, layout="constrained")
            draw(axes, {store: results[name][store] for store in NAMES if store in results[name]})
            for side in ("top", "right"):
                axes.spines[side].set_visible(False)
            axes.grid(axis="y", color=GRID)
            axes.set_axisbelow(True)
            figure.savefig(folder / f"performance-{name}.svg", metadata={"Date": None})
            plt.close(figure)


def drain(axes: Any, stores: dict[str, Any]) -> None:
    _beside(axes, stores, "rate", "runs a second", "{:,.0f}")


def latency(axes: Any, stores: dict[str, Any]) -> None:
    _beside(axes, stores, "p99_ms", "start minus due, p99, ms", "{:,.1f}")


def _beside(axes: Any, stores: dict[str, Any], figure: str, unit: str, text: str) -> None:
    """Draw ours and theirs beside each other, on a scale on which factors are lengths."""
    for offset, side, label, colour in (
        (-0.2, "ours", "this package", OURS),
        (0.2, "upstream", "pyncette 1.1.0", THEIRS),
    ):
        there = [(at, sides[side][figure]) for at, sides in enumerate(stores.values()) if side in sides]
        bars = axes.bar(
            [at + offset for at, _ in there], [value for _, value in there], 0.38, label=label, color=colour
        )
        axes.bar_label(bars, [text.format(value) for _, value in there], fontsize=7)
    axes.set_yscale("log")
    axes.set_xticks(range(len(stores)), [NAMES[store] for store in stores])
    axes.set_ylabel(unit)
    axes.legend(frameon=False)


def scale(axes: Any, stores: dict[str, Any]) -> None:
    for store, sizes in stores.items():
        costs = [figures["worker_cpu_us"] + figures["server_cpu_us"] for figures in sizes.values()]
        axes.plot([int(size) for size in sizes], costs, marker="o", label=NAMES[store])
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("instances")
    axes.set_ylabel("CPU of a run, µs")
    axes.legend(frameon=False)


def processes(axes: Any, stores: dict[str, Any]) -> None:
    for store, counts in stores.items():
        axes.plot(
            list(counts), [figures["rate"] for figures in counts.values()], marker="o", label=NAMES[store]
        )
    axes.set_ylim(bottom=0)
    axes.set_xlabel("workers")
    axes.set_ylabel("runs a second")
    axes.legend(frameon=False)


FIGURES = {"drain": drain, "latency": latency, "scale": scale, "processes": processes}

if __name__ == "__main__":
    main()
