"""The picture of `benchmarks/growth.py`: nine small ones, three against each of T, B and H."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.cpu_worker import FLOOR, JAX, OURS, TORCH
from benchmarks.growth_curves import NAMES, OURS_ALONE, Curve, characters, size_at
from benchmarks.peers_floor import step_products
from tinygrad_rnn.viz import new_figure

STYLES = {  # dark: measured against each other; grey: what it is made of
    OURS: {"color": "#1f5f99", "linewidth": 2.0, "marker": "o", "zorder": 3},
    TORCH: {"color": "#c8401f", "linewidth": 1.4, "marker": "s"},
    JAX: {"color": "#3a8f4d", "linewidth": 1.4, "marker": "^"},
    OURS_ALONE: {"color": "#7fa9d1", "linewidth": 1.2, "linestyle": "--"},
    FLOOR: {"color": "#777777", "linewidth": 1.2, "linestyle": ":"},
}


def flops(letter: str, x: int) -> int:
    """Of the products of a step."""
    return sum(product.flops for product in step_products(size_at(letter, x)))


def units(letter: str) -> tuple[str, Callable[[int], float]]:
    """What the middle row shows, and of how many units a step consists.

    T and B change the number of characters, H the work on each: there a character's time would be
    as steep as the step's, and bends show in the time of a FLOP.
    """
    if letter == "H":
        return "ps per FLOP of the products", lambda x: flops(letter, x) * 1e-12
    return "µs per character", lambda x: characters(letter, x) * 1e-6


def lines(curve: Curve) -> list[tuple[str, dict[str, dict[int, float]]]]:
    """The three pictures of a sweep, from top to bottom: a label, and the curves by name."""
    name, count = units(curve.letter)

    def scaled(values: dict[str, dict[int, float]], by: Callable[[int], float]) -> Any:
        return {who: {x: y / by(x) for x, y in ys.items()} for who, ys in values.items()}

    return [
        ("ms per step", scaled(curve.seconds, lambda _: 1e-3)),
        (name, scaled(curve.seconds, count)),
        ("peak MB", scaled(curve.bytes, lambda _: 1e6)),
    ]


def draw(curves: dict[str, Curve], path: Path) -> None:
    """A column for each sweep."""
    from PIL import Image  # matplotlib needs it, too

    figure = new_figure(11, 9)
    rows = figure.subplots(3, len(curves), sharex="col", squeeze=False)
    for k, (letter, curve) in enumerate(curves.items()):
        for axes, (label, values) in zip(rows[:, k], lines(curve), strict=True):
            for who, style in STYLES.items():
                if who in values:
                    xs, ys = zip(*values[who].items(), strict=True)
                    axes.plot(xs, ys, label=who, markersize=4, **style)
            logarithmic(axes)
            axes.set_ylabel(label)
        xs = list(curve.seconds[OURS])
        axes.set_xticks(xs, [f"{x}" for x in xs], rotation=45)
        axes.set_xlabel(f"{letter}, {NAMES[letter]}")
    rows[0, 0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=100)
    # 64 colours are enough for eight and their edges: a quarter of the bytes.
    Image.open(path).convert("RGB").quantize(64).save(path, optimize=True)


def logarithmic(axes: Any) -> None:
    """Both axes, with plain numbers at 1, 2 and 5 of each power of ten."""
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(visible=True, color="#ececec", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
