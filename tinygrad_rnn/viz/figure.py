"""An empty figure to draw on, with matplotlib and without its pyplot, and where it may be saved."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from tinygrad_rnn.errors import DataError


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
            'pip install "tinygrad_rnn[plot]", or in a checkout: '
            ".venv/bin/pip install -e '.[plot]'"
        ) from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def check_picture(path: str | os.PathLike[str]) -> None:
    """Refuse now, before hours of training, a picture that could not be written in the end.

    Nothing is left behind: an existing file stays as it is, and a new one is not begun.

    Args:
        path: the picture; its suffix decides the format (.png, .svg, .pdf).

    Raises:
        ImportError: matplotlib is not installed; says how to.
        DataError: a suffix that it does not know, or a file that cannot be written.
    """
    place = Path(path)
    known = new_figure(1, 1).canvas.get_supported_filetypes()
    # Without a suffix matplotlib would choose one, and write to another file than was named.
    if place.suffix[1:].lower() not in known:
        raise DataError(
            f"a picture's format is its suffix, and {os.fspath(path)!r} has none that matplotlib "
            "knows; take .png, .svg or .pdf"
        )
    try:
        if place.exists():
            place.open("ab").close()
        else:  # whether a file can be made there is known for sure when one has been made
            tempfile.TemporaryFile(dir=place.parent).close()
    except OSError as error:
        raise DataError(
            f"cannot write the picture {os.fspath(path)!r}: {error.strerror}; name a file in a "
            "folder that exists and that you may write to"
        ) from error
