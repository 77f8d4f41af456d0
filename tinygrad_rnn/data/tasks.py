"""Tasks that need a memory, made to order: how far back can a network look?

A text hides how much of it must be remembered. In these tasks it is said in advance: something is
shown early, asked for late, and nothing in between helps. Each has a *baseline*, the best that
can be had without remembering anything, so that a number says whether a network remembers:

    adding(T, B)         add two marked numbers out of T                MSE, baseline 1/6
    adding_1997(T, B)    the same as it was first published             MSE, baseline 1/24
    copy_memory(T, B)    ten symbols, T blanks, the ten symbols again   nats, 10 ln 8 / (T + 20)
    hello()              "hell" -> "ello": after l comes l, and then o
    linear_rnn(T, H, a)  a network whose gradients are known in closed form: they go as a^k

Everything is drawn from ``rng``, a generator or a seed, and comes as plain arrays with time first.
Sizes: T time steps, B sequences, H hidden units.
"""

import math
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinygrad_rnn.errors import DataError
from tinygrad_rnn.ops.random import Rng, generator

# ---- adding: two numbers out of many -------------------------------------------------------------

# The best constant is the mean of the target, and its squared error the variance: of a sum of two
# numbers from U(0, 1), 2/12. (0.1767, which some papers print, is not reached by any constant.)
ADDING_BASELINE = 1 / 6

# 0.5 + (X1 + X2) / 4 with both from U(-1, 1): mean 0.5, variance (1/3 + 1/3) / 16.
ADDING_1997_BASELINE = 1 / 24
ADDING_1997_TOLERANCE = 0.04  # an answer counts as right if its error is smaller than this
# |X1 + X2| < 4 * 0.04 is the middle of a triangle on [-2, 2]: a share of 1 - (1 - 0.08)^2.
ADDING_1997_RIGHT = 1 - (1 - 2 * ADDING_1997_TOLERANCE) ** 2  # 15.4 % for the constant 0.5


def adding(
    T: int, batch: int, *, rng: Rng = None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The adding problem as in Le, Jaitly & Hinton (2015) and Arjovsky, Shah & Bengio (2016).

    Each step shows a value, U(0, 1), and a mark, 0 or 1. One step of the first half is marked and
    one of the second (the halves are steps 0 .. T//2 - 1 and T//2 .. T - 1); after the last step,
    the sum of the two marked values is asked for. The loss is the squared error. An answer that
    looks at nothing reaches `ADDING_BASELINE`, 1/6.

    Args:
        T: steps, at least 2.
        batch: B, sequences.
        rng: generator or seed.

    Returns:
        x: (T, B, 2), float32: [:, :, 0] the values, [:, :, 1] the marks.
        y: (B, 1), float32.

    Raises:
        DataError: T below 2, batch below 1, or one of them no whole number.
    """
    T, batch = _whole("adding", "T", T, 2), _whole("adding", "batch", batch, 1)
    rng = generator(rng)
    x = np.zeros((T, batch, 2), dtype=np.float32)
    x[:, :, 0] = rng.random((T, batch), dtype=np.float32)
    rows = np.arange(batch)
    first = rng.integers(0, T // 2, size=batch)
    second = rng.integers(T // 2, T, size=batch)
    x[first, rows, 1] = x[second, rows, 1] = 1
    return x, (x[first, rows, :1] + x[second, rows, :1])


def adding_1997(
    T: int, batch: int, *, rng: Rng = None
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """The adding problem as first published: Hochreiter & Schmidhuber (1997), experiment 4.

    Values are U(-1, 1), and lengths differ: T .. T + T // 10, evenly. The first mark is on one of
    the first 10 steps, the second on another of the first T // 2 - 1. A mark is 1; the first and
    the last step have -1 there. Asked for at the end is 0.5 + (X1 + X2) / 4 of the marked values X,
    right if the error is below 0.04. The constant 0.5 is right in 15.4 % (`ADDING_1997_RIGHT`),
    with a squared error of 1/24 (`ADDING_1997_BASELINE`).

    One detail is ours. Where the first step is marked, the paper sets its X to 0; here the mark
    takes the place of the -1 and the value counts, so that the baselines are exact.

    Args:
        T: the shortest length, at least 11: ten steps for the first mark, and an end.
        batch: B, sequences.
        rng: generator or seed.

    Returns:
        x: (T + T // 10, B, 2), float32; values, and marks. Zeros after the end of a sequence.
        y: (B, 1), float32.
        lengths: (B,), int64; sequence b ends with step lengths[b] - 1.

    Raises:
        DataError: T below 11, batch below 1, or one of them no whole number.
    """
    T, batch = _whole("adding_1997", "T", T, 11), _whole("adding_1997", "batch", batch, 1)
    rng = generator(rng)
    longest = T + T // 10
    rows = np.arange(batch)
    lengths = rng.integers(T, longest + 1, size=batch)
    x = np.zeros((longest, batch, 2), dtype=np.float32)
    x[:, :, 0] = rng.uniform(-1, 1, size=(longest, batch))
    x[:, :, 0] *= np.arange(longest)[:, np.newaxis] < lengths  # nothing after the end
    first = rng.integers(0, 10, size=batch)
    # Another step than the first: of those before T // 2 - 1 leave out `first`, if it is one.
    last = T // 2 - 1
    second = rng.integers(0, last - (first < last), size=batch)
    second += second >= first
    x[0, :, 1] = x[lengths - 1, rows, 1] = -1
    x[first, rows, 1] = x[second, rows, 1] = 1
    y = 0.5 + (x[first, rows, :1] + x[second, rows, :1]) / 4  # (B, 1)
    return x, y.astype(np.float32, copy=False), lengths


# ---- copy memory ---------------------------------------------------------------------------------

COPY_BLANK, COPY_MARKER = 0, 9  # the symbols to remember are 1 .. 8
COPY_SYMBOLS = 10  # ids in all
COPY_LENGTH = 10  # how many symbols are to be remembered


def copy_memory(
    T: int, batch: int, *, rng: Rng = None, control: bool = False
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The copy memory problem: Arjovsky, Shah & Bengio (2016), after Hochreiter & Schmidhuber.

        ids        s1 s2 ... s10   0 0 ... 0    9   0  0  ...  0       0 blank, 9 "now repeat them"
        targets     0  0 ...  0    0 0 ... 0    0  s1 s2 ... s10
        steps          10           T - 1       1       10             T + 20 in all

    The symbols s are evenly drawn from 1 .. 8, and every step's target is predicted. Without a
    memory, blanks cost nothing and each of the ten symbols ln 8 nats: `copy_baseline(T)`.

    Args:
        T: steps between the last symbol shown and the first one asked for, at least 1.
        batch: B, sequences.
        rng: generator or seed.
        control: ask for ten *fresh* symbols instead. Nothing shown tells them, so the baseline is
            the best that can be done; who gets below it sees the answer through a leak. All else,
            the state of `rng` afterwards included, is the same as without it.

    Returns:
        ids, targets: (T + 20, B) each, int64, in 0 .. 9.

    Raises:
        DataError: T or batch below 1, or no whole number.
    """
    T, batch = _whole("copy_memory", "T", T, 1), _whole("copy_memory", "batch", batch, 1)
    shown, fresh = generator(rng).integers(1, 9, size=(2, COPY_LENGTH, batch))
    ids = np.full((T + 2 * COPY_LENGTH, batch), COPY_BLANK, dtype=np.int64)
    targets = ids.copy()
    ids[:COPY_LENGTH] = shown
    ids[-COPY_LENGTH - 1] = COPY_MARKER
    targets[-COPY_LENGTH:] = fresh if control else shown
    return ids, targets


def copy_baseline(T: int) -> float:
    """The loss without a memory, 10 ln 8 / (T + 20) nats per step: 0.1733 for T = 100."""
    T = _whole("copy_baseline", "T", T, 1)
    return COPY_LENGTH * math.log(8) / (T + 2 * COPY_LENGTH)


# ---- four letters --------------------------------------------------------------------------------

HELLO_LETTERS = "helo"


def hello() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The four letters of Karpathy's "The unreasonable effectiveness of RNNs" (2015).

    A network reads "hell" and says at each step which letter comes next, "ello". Who sees only
    the current letter is at best torn between l and o after an l: a mean loss of ln 2 / 2, and 3
    of 4 right. `examples/hello.py` learns it.

    Returns:
        x: (4, 1, 4), float32: "hell", one-hot in the order of `HELLO_LETTERS`.
        targets: (4, 1), int64: the ids of "ello".
    """
    ids = np.array([[HELLO_LETTERS.index(letter)] for letter in "hello"])
    return np.eye(len(HELLO_LETTERS), dtype=np.float32)[ids[:-1]], ids[1:]


# ---- a network whose gradients are known ---------------------------------------------------------


class LinearRNN(NamedTuple):
    """A linear network over T steps and its exact gradients, float64; see `linear_rnn`."""

    weight: NDArray[np.float64]  # (H, H) W = a Q
    x: NDArray[np.float64]  # (T, H) the inputs x_1 .. x_T
    h: NDArray[np.float64]  # (T, H) the states h_1 .. h_T
    v: NDArray[np.float64]  # (H,) the loss is v . h_T; |v| = 1
    gradient: NDArray[np.float64]  # (T, H) dL/dx_t, which is dL/dh_t as well


def linear_rnn(
    T: int, hidden: int, gain: float, *, window: int | None = None, rng: Rng = None
) -> LinearRNN:
    """Vanishing and exploding in closed form (after Pascanu, Mikolov & Bengio 2013).

        h_t = W h_{t-1} + x_t,    h_0 = 0,    L = v . h_T    =>    dL/dx_t = (W')^(T-t) v

    With W = a Q and Q orthogonal, k = T - t steps back the gradient has length a^k exactly: it
    vanishes for a < 1 and explodes for a > 1, whatever the inputs are. Truncated to a window, the
    last `window` steps keep their gradient and those before get 0.

    The inputs are made so that every state lies in (1, 2): the states are drawn first and
    x_t = h_t - W h_{t-1} follows. Then relu never cuts anything off, and `nn.RNN` with relu, with
    W as its recurrent weight, the identity as its input weight and no bias, is this network.

    Args:
        T: steps, at least 1.
        hidden: H.
        gain: a, a finite number.
        window: how many steps a gradient goes back, at least 1; None for all.
        rng: generator or seed.

    Raises:
        DataError: a size below 1 or no whole number, or a gain that is not finite.
    """
    T, hidden = _whole("linear_rnn", "T", T, 1), _whole("linear_rnn", "hidden", hidden, 1)
    window = T if window is None else _whole("linear_rnn", "window", window, 1)
    _check_finite("linear_rnn", "gain", gain)
    rng = generator(rng)
    Q = np.linalg.qr(rng.normal(size=(hidden, hidden)))[0]
    h = rng.uniform(1, 2, size=(T, hidden))
    x = h.copy()
    x[1:] -= h[:-1] @ (gain * Q).T
    direction = rng.normal(size=hidden)
    direction /= np.linalg.norm(direction)
    v, gradient = direction, np.zeros((T, hidden))
    for k in range(min(window, T)):
        gradient[T - 1 - k] = gain**k * direction  # the length apart, so that none is rounded off
        direction = Q.T @ direction
    return LinearRNN(gain * Q, x, h, v, gradient)


def _whole(task: str, name: str, value: Any, least: int) -> int:
    """`value` as an int, if it is a whole number and not below `least`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise DataError(f"{task}: {name} is a whole number, at least {least}; got {value!r}")
    return int(value)


def _check_finite(task: str, name: str, value: Any) -> None:
    if not isinstance(value, Real) or not math.isfinite(value):
        raise DataError(f"{task}: {name} is a finite number (0.9, say), got {value!r}")
