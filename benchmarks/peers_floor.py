"""The floor: the matrix products of a task alone, each in the layout in which NumPy is fastest.

No implementation on NumPy that does these products can be faster; ours divided by the floor says
what all the rest costs: pointwise arithmetic, copies, Python. With n = 1 (RNN), 3 (GRU) or 4 (LSTM)
blocks, N = T * B rows and R = min(V, N), a step needs

    forward     (R, H) (H, nH)            the inputs of the first layer: each row of the embedding
                                          once where that is less than each input once
                (N, H) (H, nH)            the inputs of every other layer
                (B, H) (H, nH)   T times  the recurrent product of every layer
                (N, H) (H, V)             the output layer
    backward    each of these twice, for the gradients of both factors; only the recurrent
                weights' gradient is not T products but one, (nH, N) (N, H)

The layer alone reads an x that has no table (R = N), and has no output layer. To write a character
takes the recurrent and the output product with B = 1: its input is a row of a projected table.
Tasks without such products have floors of their own kind: the bare NumPy calls of an op and of its
gradients, and for Adam a copy of as many bytes as it must read and write.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.gpu_table import BLOCKS
from benchmarks.peers import Size
from benchmarks.peers_parts import TEXT, Task
from benchmarks.peers_small import CHAIN, SHAPES, operands


@dataclass(frozen=True)
class Product:
    """(m, k) times (k, n), `count` times."""

    m: int
    k: int
    n: int
    count: int = 1

    @property
    def flops(self) -> int:
        return 2 * self.m * self.k * self.n * self.count

    def backward(self) -> list[Product]:
        """The gradients of both factors."""
        return [
            Product(self.m, self.n, self.k, self.count),
            Product(self.k, self.m, self.n, self.count),
        ]


def recurrent_products(size: Size, rows: int, *, backward: bool) -> list[Product]:
    """Of all layers; the first one's inputs are `rows` rows."""
    T, B, H, N, nH = size.T, size.B, size.H, size.T * size.B, BLOCKS[size.cell] * size.H
    inputs = [Product(rows, H, nH)] + [Product(N, H, nH)] * (size.layers - 1)
    found = inputs + [Product(B, H, nH, T)] * size.layers
    if backward:
        found += [product for forward in inputs for product in forward.backward()]
        found += [Product(B, nH, H, T), Product(nH, N, H)] * size.layers
    return found


def step_products(size: Size) -> list[Product]:
    """A whole training step."""
    N = size.T * size.B
    head = Product(N, size.H, size.V)
    layers = recurrent_products(size, min(size.V, N), backward=True)
    return [*layers, head, *head.backward()]


def sampling_products(size: Size, length: int) -> list[Product]:
    """`length` characters, one after another."""
    one = Size(T=length, B=1, V=size.V, H=size.H, layers=size.layers, cell=size.cell)
    products = recurrent_products(one, 1, backward=False)
    upper = [Product(1, size.H, p.n, length) for p in products[1 : size.layers]]
    return [*upper, *products[size.layers :], Product(1, size.H, size.V, length)]


# ---- the fastest layout --------------------------------------------------------------------------


def layouts(m: int, k: int, n: int) -> list[Callable[[], Any]]:
    """The same product in eight ways: each of the three arrays by rows or by columns."""
    rng = np.random.default_rng(0)

    def stored(rows: int, columns: int, by_rows: bool) -> np.ndarray:
        a = rng.standard_normal((rows, columns) if by_rows else (columns, rows), np.float32)
        return a if by_rows else a.T

    return [
        functools.partial(np.matmul, stored(m, k, a), stored(k, n, b), out=stored(m, n, c))
        for a, b, c in itertools.product((True, False), repeat=3)
    ]


def seconds(call: Callable[[], Any], least: float = 0.005, most: int = 200) -> float:
    """The best of some calls, as many as `least` seconds allow, but two."""
    times: list[float] = []
    end = time.perf_counter() + least
    while len(times) < 2 or (time.perf_counter() < end and len(times) < most):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


@functools.cache
def fastest(m: int, k: int, n: int) -> int:
    """Which of the layouts is."""
    times = [seconds(call) for call in layouts(m, k, n)]
    return times.index(min(times))


class Products(Task):
    """The products of a task, one after another."""

    def __init__(self, products: list[Product]) -> None:
        self.calls = []
        for p in products:
            best = fastest(p.m, p.k, p.n)
            self.calls.append((layouts(p.m, p.k, p.n)[best], p.count))

    def run(self) -> None:
        for call, count in self.calls:
            for _ in range(count):
                call()

    def check(self) -> list[float]:
        """Nothing that the others compute."""
        return []


# ---- floors of other kinds -----------------------------------------------------------------------


class Bare(Task):
    """The NumPy calls of a chain of small ops and of their gradients."""

    def __init__(self, op: str, elements: int) -> None:
        y, *rest = operands(op, elements)
        self.one, self.operands = getattr(self, op), (y, *rest)

    @staticmethod
    def add(y: Any, b: Any) -> Any:
        return y + b  # both gradients are g itself

    @staticmethod
    def mul(y: Any, b: Any) -> Any:
        return y * b, b * b, y * y  # the gradients: g * b, g * y

    @staticmethod
    def tanh(y: Any) -> Any:
        out = np.tanh(y)
        return y * (1.0 - out * out)

    @staticmethod
    def matmul(y: Any, b: Any) -> Any:
        return y @ b, y @ b.T, y.T @ y

    def run(self) -> None:
        one, operands = self.one, self.operands
        for _ in range(CHAIN):
            one(*operands)

    def check(self) -> list[float]:
        return []


class Copy(Task):
    """28 bytes a parameter: read g, x, m, v; write x, m, v. To clip, read g once before."""

    def __init__(self, *, clip: bool, fused: bool = False) -> None:  # noqa: ARG002 - PyTorch's
        count = sum(int(np.prod(shape)) for shape in SHAPES)
        self.a, self.b = (np.ones(7 * count // 2, np.float32) for _ in range(2))
        self.g = np.ones(count if clip else 0, np.float32)

    def run(self) -> None:
        np.dot(self.g, self.g)
        np.copyto(self.a, self.b)

    def check(self) -> list[float]:
        return []


class Pointwise(Task):
    """One pointwise op from two arrays into a third, over and over: how fast numbers arrive."""

    def __init__(self, elements: int) -> None:
        self.arrays = [np.ones(elements, np.float32) for _ in range(3)]

    def run(self) -> None:
        a, b, out = self.arrays
        np.multiply(a, b, out=out)

    def check(self) -> list[float]:
        return []


TASKS = {
    "step": lambda **size: Products(step_products(Size(**size))),
    "product": lambda m, k, n: Products([Product(m, k, n)]),  # these two: `growth_notes.py`
    "pointwise": Pointwise,
    "layer": lambda backward, **size: Products(
        recurrent_products(Size(**size), size["T"] * size["B"], backward=backward)
    ),
    "sampling": lambda **size: Products(sampling_products(Size(**size), TEXT)),
    "ops": Bare,
    "optimizer": Copy,
}
