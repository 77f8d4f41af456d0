"""An empty figure to draw on, with matplotlib and without its pyplot."""

from __future__ import annotations

from typing import Any


def new_figure(width: float, height: float) -> Any:
    """A matplotlib Figure of a size in inches that lays itself out and can be saved.

    Nothing is opened and no setting is touched: ``figure.savefig("picture.png")`` writes it.

    Raises:
        ImportError: matplotlib is not installed; says how to.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "pictures are drawn with matplotlib, which is not installed: "
            'pip install "tinygrad_rnn[plot]"'
        ) from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
