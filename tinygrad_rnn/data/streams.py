"""A long text as a batch of contiguous streams.

Truncated back-propagation through time carries the hidden state from one window to the next, so
window t must go on in every row exactly where window t - 1 stopped. The text is therefore cut into
B chunks of equal length, one per row of the batch, and read from left to right in steps of T:

    row 0:  |  window 0  |  window 1  |  ...            each window T characters long
    row 1:  |  window 0  |  window 1  |  ...            row 1 starts where row 0 ends
    row 2:  |  window 0  |  window 1  |  ...

Shuffled windows would break the thread of the text, and the carried state would be a lie.
"""

import operator
from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tinygrad_rnn.data.text import _integers
from tinygrad_rnn.errors import DataError


def split(
    ids: ArrayLike, *, validation: float = 0.1
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The first part of a text for training, the rest of it for validation; both contiguous.

    A random split would put half a sentence on either side, and counting would look like learning.

    Args:
        ids: character ids (N,).
        validation: the share of the last part, 0 <= validation < 1.

    Returns:
        Two views of one int64 array: int(N * (1 - validation)) ids, and the others.

    Raises:
        DataError: a share outside [0, 1), or a text too short to leave something in both parts.
    """
    array = _integers(ids, "split").astype(np.int64, copy=False)
    if not 0 <= validation < 1:
        raise DataError(f"validation is a share, 0 <= validation < 1, but got {validation!r}")
    cut = int(len(array) * (1 - validation))
    if cut == 0 or (validation > 0 and cut == len(array)):
        raise DataError(
            f"{len(array)} characters leave one side empty when the last {validation:.0%} are for "
            "validation; use a longer text, or another share"
        )
    return array[:cut], array[cut:]


class Streams:
    """Windows of B parallel streams: a sequence of pairs (x, y), each int64 (T, B).

    ``streams[w]`` is window w and may be asked for in any order, so a place in the training data is
    two integers, (epoch, window), and a run that was interrupted goes on exactly there. y is x one
    character ahead. Each pair is a fresh C-contiguous copy.

    Attributes:
        batch, window: B and T.
        tokens: characters predicted in one pass, len(self) * T * B.
        dropped: characters at the end of the text that fill no window and are never read.
    """

    __slots__ = ("_inputs", "_targets", "batch", "dropped", "tokens", "window")

    def __init__(self, ids: ArrayLike, *, batch: int, window: int) -> None:
        """Cut `ids` (N,) into `batch` streams that are read `window` characters at a time.

        Raises:
            DataError: fewer than B * T + 1 characters, or B or T below 1.
        """
        array = _integers(ids, "Streams").astype(np.int64, copy=False)
        if batch < 1 or window < 1:
            raise DataError(f"batch and window must be at least 1, got {batch} and {window}")
        need = batch * window + 1  # the last character is only ever a target
        if len(array) < need:
            raise DataError(
                f"{batch} streams x {window} characters need {need} characters (one more, for the "
                f"last target), but this part of the text has {len(array)}; use a longer text, a "
                "smaller batch or a shorter window"
            )
        windows = (len(array) - 1) // (batch * window)
        self.batch, self.window = batch, window
        self.tokens = windows * batch * window
        self.dropped = len(array) - 1 - self.tokens
        grid = (batch, windows, window)
        self._inputs = array[: self.tokens].reshape(grid)  # (B, windows, T), a view
        self._targets = array[1 : self.tokens + 1].reshape(grid)

    def __len__(self) -> int:
        """Windows in one pass over the text."""
        return self._inputs.shape[1]

    def __getitem__(self, index: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Window `index` as (x, y), each (T, B); negative indices count from the end."""
        w = operator.index(index)
        if not -len(self) <= w < len(self):
            raise IndexError(f"window {w} of {len(self)} windows")
        return self._inputs[:, w].T.copy(), self._targets[:, w].T.copy()  # (T, B)

    def __iter__(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        return (self[w] for w in range(len(self)))

    def __repr__(self) -> str:
        return f"Streams({len(self)} windows of ({self.window}, {self.batch}))"
