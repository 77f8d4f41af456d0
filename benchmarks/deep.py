"""How time and memory grow with the depth of a graph: run it as ``python -m benchmarks.deep``.

A chain of additions, forward, drawn as text, backward and freed, at a tenth of the largest length
and at the largest. Linear means that the second row is ten times the first. No test is timed; what
`tests/test_deep.py` holds is counted.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import time
import tracemalloc

import tinygrad_rnn as tg
from tinygrad_rnn.viz import graph_lines


def chain(length):
    x = y = tg.tensor(0.0, requires_grad=True)
    for _ in range(length):
        y = y + 1.0
    return x, y


def seconds(length):
    """Forward, drawn, backward, freed."""
    gc.collect()
    gc.disable()
    marks = [time.perf_counter()]
    x, y = chain(length)
    marks.append(time.perf_counter())
    lines = sum(1 for _ in graph_lines(y))
    marks.append(time.perf_counter())
    y.backward(retain_graph=True)
    marks.append(time.perf_counter())
    del y
    marks.append(time.perf_counter())
    gc.enable()
    assert lines == length + 1
    assert x.grad == 1
    return [b - a for a, b in itertools.pairwise(marks)]


def bytes_per_node(length=50_000):
    """Of a chain of tanh, whose nodes keep small arrays; forward, and at the peak of backward."""
    x = y = tg.tensor(0.5, requires_grad=True)
    tracemalloc.start()
    for _ in range(length):
        y = tg.tanh(y)
    built = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    tg.grad(y, x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return built / length, peak / length


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--length", type=int, default=1_000_000)
    options = parser.parse_args()
    print(f"{'nodes':>10} {'forward':>9} {'drawn':>9} {'backward':>9} {'freed':>9}   seconds")
    for length in (options.length // 10, options.length):
        print(f"{length:>10,}", *(f"{s:9.2f}" for s in seconds(length)))
    built, peak = bytes_per_node()
    print(f"bytes per node of a chain of tanh: {built:.0f}, at the peak of backward {peak:.0f}")


if __name__ == "__main__":
    main()
