"""What a small op and a small training step cost: ``python benchmarks/small.py``.

It imports whatever `tinygrad_rnn` is on the path, so that two checkouts can be compared, taking
turns in processes of their own:

    PYTHONPATH=one/checkout python benchmarks/small.py
    PYTHONPATH=another python benchmarks/small.py
"""

from __future__ import annotations

import statistics
import time

import numpy as np

import tinygrad_rnn as tg
from tinygrad_rnn.char_lm import CharModel

SIZES = [(25, 1, 64, 100, 300), (50, 32, 96, 128, 60), (100, 32, 96, 256, 25)]  # T B V H, repeats


def small_ops(repeats=300, length=200):
    """Microseconds forward and backward per op, over a chain of products and sums of 32 numbers."""
    a, b = (tg.tensor(np.ones(32, np.float32), requires_grad=True) for _ in range(2))
    g, rows = np.ones(32, np.float32), []
    for _ in range(repeats):
        start = time.perf_counter()
        y = a
        for _ in range(length):
            y = y * b
            y = y + 1.0
        middle = time.perf_counter()
        y.backward(g)
        rows.append((middle - start, time.perf_counter() - middle))
        a.grad = b.grad = None
    return [statistics.median(column) / (2 * length) * 1e6 for column in zip(*rows, strict=True)]


def step(T, B, V, H, repeats):
    """Milliseconds of a whole training step of a character LSTM."""
    model, rng = CharModel(V, kind="lstm", hidden=H, embedding=64, rng=0), np.random.default_rng(0)
    adam = tg.optim.Adam(model.parameters(), lr=1e-3)
    x, y = rng.integers(V, size=(2, T, B))
    times = []
    for _ in range(repeats + 3):
        start = time.perf_counter()
        adam.zero_grad()
        tg.nn.functional.cross_entropy(model(x)[0], y).backward()
        tg.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        adam.step()
        times.append(time.perf_counter() - start)
    return statistics.median(times[3:]) * 1e3


def main():
    forward, backward = small_ops()
    print(f"small op: forward {forward:.2f} us, backward {backward:.2f} us")
    for T, B, V, H, repeats in SIZES:
        print(f"step, T={T} B={B} V={V} H={H}: {step(T, B, V, H, repeats):.2f} ms")


if __name__ == "__main__":
    main()
