"""How well counting does: the losses of n-gram models, the baseline of every character model.

An n-gram model predicts a character c from the k = n - 1 characters before it, its context, by

    p(c | context) = (count(context, c) + add) / (count(context) + add V)

with counts taken from the training text and a small `add`, without which a pair never seen would
cost an infinite loss. As n grows the loss first falls and then rises again: most long contexts of
the validation text were never seen. A network that remembers must get below the lowest of them.

The counting is done by sorting. Each distinct context gets a rank, 0, 1, 2, ...; a context and the
character after it then make the code ``rank * V + c``, and the ranks of the distinct codes are the
ranks of the contexts one character longer. Codes stay below N * V, whereas packing n characters in
base V, the obvious way, overflows 64 bits for n = 10 at V = 103.
"""

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tinygrad_rnn.data.text import _integers
from tinygrad_rnn.errors import DataError


def ngram_losses(
    train_ids: ArrayLike,
    validation_ids: ArrayLike,
    vocabulary_size: int,
    orders: Iterable[int] = range(1, 7),
    add: float = 0.01,
) -> dict[int, float]:
    """Validation losses of add-constant n-gram models, in nats per character.

    The first n - 1 characters of the validation text have no whole context in it; they are not
    predicted, and the mean is over the others. count(context) counts contexts that a character
    follows, so the probabilities of the V characters sum to one.

    Args:
        train_ids: ids (N,) that are counted.
        validation_ids: ids (M,) that are predicted.
        vocabulary_size: V; every id is in 0 .. V - 1.
        orders: the n wanted; n = 1 looks at no context at all.
        add: what is added to every count, > 0.

    Returns:
        {n: loss}, in the order asked for.

    Raises:
        DataError: ids outside the vocabulary, a text shorter than n, n < 1, or add not above 0.
    """
    wanted = list(orders)
    train = _checked(train_ids, "train_ids", vocabulary_size, wanted)
    validation = _checked(validation_ids, "validation_ids", vocabulary_size, wanted)
    if not (add > 0 and math.isfinite(add)):
        raise DataError(f"add must be above 0 and finite (0.01, say), got {add!r}")
    losses: dict[int, float] = {}
    # Ranks of the contexts that *end before* each place; the empty context is the only one of its
    # length. One entry more than characters: the last context has nothing after it.
    seen = np.zeros(len(train) + 1, dtype=np.int64)
    asked = np.zeros(len(validation) + 1, dtype=np.int64)
    for n in range(1, max(wanted, default=0) + 1):
        codes_seen = seen[:-1] * vocabulary_size + train[n - 1 :]  # (N - n + 1,)
        codes_asked = asked[:-1] * vocabulary_size + validation[n - 1 :]  # (M - n + 1,)
        contexts = _count(seen[:-1], asked[:-1])  # (M - n + 1,)
        seen, asked = _rank(codes_seen, codes_asked)
        if n in wanted:
            pairs = _count(seen, asked)
            p = (pairs + add) / (contexts + add * vocabulary_size)
            losses[n] = float(-np.log(p).mean())
    return {n: losses[n] for n in wanted}


def _checked(ids: ArrayLike, name: str, size: int, orders: list[int]) -> NDArray[np.int64]:
    """`ids` as int64 (N,), with every id in the vocabulary and enough of them for every order."""
    array = _integers(ids, name).astype(np.int64, copy=False)
    if any(n < 1 for n in orders):
        raise DataError(f"n-gram orders start at 1, got {orders}")
    longest = max(orders, default=0)
    if len(array) < longest:
        raise DataError(
            f"{name} has {len(array)} characters, but a {longest}-gram needs {longest}; "
            "use a longer text or lower orders"
        )
    if array.size and (array.min() < 0 or array.max() >= size):
        raise DataError(
            f"{name} holds ids {array.min()} .. {array.max()}, but a vocabulary of {size} symbols "
            f"has 0 .. {size - 1}; encode both texts with one vocabulary"
        )
    return array


def _rank(
    seen: NDArray[np.int64], asked: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Replace codes by their ranks among the distinct codes of both texts."""
    ranks = np.unique(np.concatenate([seen, asked]), return_inverse=True)[1].astype(np.int64)
    return ranks[: len(seen)], ranks[len(seen) :]


def _count(seen: NDArray[np.int64], asked: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each entry of `asked`, how often it occurs in `seen`; both hold ranks."""
    return np.bincount(seen, minlength=int(asked.max()) + 1)[asked]
