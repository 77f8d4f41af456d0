"""The picture of a training run: is it still learning, and do its gradients stay in bounds?

Above, the loss: a pale line for single updates, a dark one for their running mean, dots for the
validation text, and dashed lines for what counting alone achieves there. Below, on a logarithmic
axis because gradients explode by powers of ten, the norm of the gradient before clipping, the bound
it was clipped to, and how often.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinygrad_rnn.errors import DataError
from tinygrad_rnn.viz.figure import new_figure

TRAINING, PALE, VALIDATION, BASELINE = "#1f5f99", "#a9c6e3", "#c8401f", "#777777"


def plot_training(
    csv_path: str | os.PathLike[str],
    png_path: str | os.PathLike[str],
    baselines: Mapping[int, float] | None = None,
    *,
    clip: float | None = None,
    title: str = "",
) -> None:
    """Draw the log of a run.

    Args:
        csv_path: the log, with columns step, loss, smoothed, norm and validation (which may be
            empty); further columns are ignored.
        png_path: the picture; its suffix decides the format (.png, .svg, .pdf).
        baselines: validation losses of n-gram models, n to nats per character.
        clip: the bound on the norm of the gradient.
        title: a line above the picture.

    Raises:
        ImportError: matplotlib is not installed.
        DataError: the log has no rows, or lacks a column.
        OSError: the log cannot be read, or the picture not be written.
    """
    log = _read(Path(csv_path))
    figure = new_figure(9, 6.5)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    if title:
        above.set_title(title, loc="left", fontsize=11)
    _draw_loss(above, log, baselines or {})
    _draw_norm(below, log, clip)
    for axes in (above, below):
        axes.grid(visible=True, color="#e8e8e8", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        # One update is a point on the left edge of nothing: leave some room around it.
        axes.set_xlim(0, max(log["step"]) * 1.02 + 1)
    figure.savefig(png_path, dpi=130)


def _read(path: Path) -> dict[str, list[float]]:
    """The columns needed, as numbers; NaN where a field is empty."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise DataError(f"{path} has no rows: nothing to draw; train for at least one update")
    try:
        return {
            name: [float(row[name] or math.nan) for row in rows]
            for name in ("step", "loss", "smoothed", "norm", "validation")
        }
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path} is not the log of a training run: {error!r}") from error


def _draw_loss(axes: Any, log: dict[str, list[float]], baselines: Mapping[int, float]) -> None:
    axes.plot(log["step"], log["loss"], color=PALE, linewidth=0.7, label="training, each update")
    axes.plot(log["step"], log["smoothed"], color=TRAINING, linewidth=1.8, label="running mean")
    measured = [(s, v) for s, v in zip(log["step"], log["validation"], strict=True) if v >= 0]
    if measured:
        steps, losses = zip(*measured, strict=True)
        axes.plot(
            steps, losses, "o-", color=VALIDATION, linewidth=1.2, markersize=6, zorder=3,
            label=f"validation, {losses[-1]:.3f} at the end",
        )  # fmt: skip
    labels = _apart({n: loss for n, loss in baselines.items() if math.isfinite(loss)})
    best = min(baselines.values(), default=math.nan)
    for n, (loss, height) in labels.items():
        weight = "bold" if loss == best else "normal"
        axes.axhline(loss, color=BASELINE, linewidth=0.9, linestyle=(0, (5, 4)), zorder=1)
        axes.annotate(
            f"{n}-gram {loss:.3f}", (1.01, height), xycoords=("axes fraction", "data"),
            va="center", color=BASELINE, fontsize=9, fontweight=weight, annotation_clip=False,
        )  # fmt: skip
    lows = [v for v in (*log["smoothed"], *log["validation"], *baselines.values()) if v >= 0]
    highest = max(*baselines.values(), log["smoothed"][0]) if baselines else max(log["smoothed"])
    axes.set_ylim(max(0, min(lows) - 0.15), highest * 1.05 + 0.05)
    axes.set_ylabel("loss (nats per character)")
    axes.legend(loc="upper right", frameon=True, framealpha=0.9, edgecolor="none")


def _apart(losses: dict[int, float]) -> dict[int, tuple[float, float]]:
    """For each line its height, and one for its label, so that no two labels overlap."""
    gap = 0.035 * max(losses.values(), default=0)
    placed: dict[int, tuple[float, float]] = {}
    lowest = -math.inf
    for n, loss in sorted(losses.items(), key=lambda item: item[1]):
        lowest = max(loss, lowest + gap)
        placed[n] = (loss, lowest)
    return placed


def _draw_norm(axes: Any, log: dict[str, list[float]], clip: float | None) -> None:
    from matplotlib.ticker import LogLocator

    axes.plot(log["step"], log["norm"], color=TRAINING, linewidth=0.8)
    if clip is not None:
        axes.axhline(clip, color=VALIDATION, linewidth=1.2, linestyle=(0, (5, 4)))
        percent = 100 * sum(norm > clip for norm in log["norm"]) / len(log["norm"])
        axes.annotate(
            f"{percent:.3g} % clipped\nto {clip:g}", (1.01, clip),
            xycoords=("axes fraction", "data"), va="center", color=VALIDATION, fontsize=9,
            annotation_clip=False,
        )  # fmt: skip
    if any(norm > 0 for norm in log["norm"]):  # all 0 for a text of one character
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
    axes.set_ylabel("gradient norm")
    axes.set_xlabel("updates")
