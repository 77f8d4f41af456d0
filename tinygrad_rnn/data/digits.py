"""Handwritten digits, small enough to learn from in seconds: 1,797 images of 8 x 8 numbers.

    digits = load_digits()
    x, y = digits.images[digits.train], digits.labels[digits.train]     # (1437, 8, 8), (1437,)

The same image serves every shape of sequence problem: as it is, one thing to one class; row by
row, a sequence to a class; and its English name, letter by letter, makes it one thing to many.

Source and licence: "Optical Recognition of Handwritten Digits" by E. Alpaydin and C. Kaynak, UCI
Machine Learning Repository, 1998 (https://doi.org/10.24432/C50P49), CC BY 4.0. What is here is its
test part, thirteen people's digits, as scikit-learn (BSD-3-Clause) distributes it: read from the
installed package, never downloaded. Each digit was scanned as 32 x 32 black or white dots, and each
number of the 8 x 8 counts the black ones among 4 x 4 of them, 0 .. 16.
"""

import importlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_rnn.errors import DataError


@dataclass(frozen=True, eq=False)  # arrays have no single answer to ==
class Digits:
    """The images, and which of them are to be learnt from.

    Attributes:
        images: float32 (N, 8, 8), 0 is paper and 1 is ink; the first row is the top one.
        labels: int64 (N,), the digits 0 .. 9.
        train, test: int64 indices of the two parts, in random order; together 0 .. N - 1, each
            once.
    """

    images: NDArray[np.float32]
    labels: NDArray[np.int64]
    train: NDArray[np.int64]
    test: NDArray[np.int64]


def load_digits(*, test: float = 0.2, rng: np.random.Generator | int = 0) -> Digits:
    """Read the digits that come with scikit-learn, and split them into two parts.

    The split is drawn from `rng`, whose default never changes: results with different first weights
    are then about the same held-out images. Both parts hold digits of the same thirteen people,
    because the file does not say who wrote which: what is measured is reading new digits of known
    hands, which is easier than reading a stranger's.

    Args:
        test: the share of held-out images, 0 <= test < 1; 0.2 are 360 of 1,797.
        rng: a generator or a seed for the split.

    Raises:
        ImportError: scikit-learn is not installed; says how to.
        DataError: a share outside [0, 1).
    """
    if not (0 <= test < 1):  # false for NaN, too
        raise DataError(f"test is a share of the images, 0 <= test < 1, but got {test!r}")
    source = _source()
    images = np.asarray(source.images / 16, dtype=np.float32)
    labels = np.asarray(source.target, dtype=np.int64)
    order = np.random.default_rng(rng).permutation(len(labels))
    held_out = math.ceil(len(labels) * test)
    return Digits(images, labels, train=order[held_out:], test=order[:held_out])


def _source() -> Any:
    """What scikit-learn returns, a bunch of arrays; imported here because it takes a second."""
    try:
        return importlib.import_module("sklearn.datasets").load_digits()
    except ImportError as error:
        raise ImportError(
            "load_digits reads the images that come with scikit-learn, which is not installed: "
            'pip install "tinygrad_rnn[data]", or in a checkout: make data'
        ) from error
