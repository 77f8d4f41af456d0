"""A whole training step beside PyTorch's: ``make bench``, or ``python -m benchmarks.step``.

Each framework runs in a process of its own and they take turns, a few steps each, so that a busy
moment of the machine hits both. A turn's time is its median step; the ratio is taken turn by turn,
and the median of the ratios is reported: above 1 this project is the faster one.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import platform
import statistics
import subprocess
import sys
from dataclasses import asdict
from typing import Any

import numpy as np

from benchmarks.peers import PEERS, Size

SIZES = [
    Size(25, 1, 64, 100, cell="rnn"),
    Size(25, 1, 64, 100),
    Size(50, 32, 96, 128),
    Size(100, 32, 96, 256),
    Size(100, 32, 96, 256, layers=2),
    Size(100, 64, 96, 512),
]


class Peer:
    """The near end of a peer's process."""

    def __init__(self, name: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.peers", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        if self.process.stdin is None or self.process.stdout is None:
            raise RuntimeError("the peer was started without pipes")
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError("a peer's process ended; its error is above")
        return dict(json.loads(answer))

    def close(self) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait()


def compare(size: Size, *, turns: int, seconds: float) -> dict[str, Any]:
    """Median step times and the median ratio for one size."""
    peers = {name: Peer(name) for name in PEERS}
    try:
        versions = {name: p.ask(size=asdict(size))["version"] for name, p in peers.items()}
        first = {name: p.ask(steps=4) for name, p in peers.items()}  # warm-up, and the same work?
        losses = np.array([answer["losses"] for answer in first.values()])
        if not np.allclose(losses, losses[0], rtol=2e-4):
            raise RuntimeError(f"the peers do not compute the same losses: {losses}")
        slowest = max(statistics.median(answer["times"]) for answer in first.values())
        steps = max(3, min(200, int(seconds / turns / 2 / slowest)))
        times: dict[str, list[float]] = {name: [] for name in peers}
        for turn in range(turns):
            order = list(peers) if turn % 2 == 0 else list(reversed(peers))
            for name in order:
                times[name].append(statistics.median(peers[name].ask(steps=steps)["times"]))
    finally:
        for peer in peers.values():
            peer.close()
    return {"versions": versions, "times": times}


def ratio(times: dict[str, list[float]], name: str) -> list[float]:
    """PyTorch's time over that of `name`, turn by turn, sorted."""
    return sorted(t / o for o, t in zip(times[name], times["pytorch"], strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=9, help="turns each framework takes")
    parser.add_argument("--seconds", type=float, default=20, help="about how long a size takes")
    parser.add_argument("--only", type=int, help="only the size with this hidden size")
    args = parser.parse_args()
    print(f"{dt.date.today()}  {platform.processor() or platform.machine()}  "
          f"Python {platform.python_version()}  NumPy {np.__version__}")  # fmt: skip
    print("whole training step, float32, medians; ratio: PyTorch's time over ours, above 1 ours is")
    print("the faster (lowest - highest turn); rows first: written as rnn(embedding(ids))\n")
    print("cell layers    T    B    V    H  tinygrad_rnn     PyTorch  ratio           rows first")
    for size in SIZES:
        if args.only and args.only != size.H:
            continue
        r = compare(size, turns=args.turns, seconds=args.seconds)
        median = {name: statistics.median(t) * 1e3 for name, t in r["times"].items()}
        ratios = ratio(r["times"], "tinygrad_rnn")
        rows_first = statistics.median(ratio(r["times"], "rows first"))
        print(
            f"{size.cell:<5}{size.layers:6}{size.T:5}{size.B:5}{size.V:5}{size.H:5}"
            f"{median['tinygrad_rnn']:11.2f} ms{median['pytorch']:9.2f} ms"
            f"{statistics.median(ratios):7.2f} ({ratios[0]:.2f} - {ratios[-1]:.2f})"
            f"{rows_first:11.2f}",
            flush=True,
        )
    print("\nversions:", ", ".join(f"{name} {v}" for name, v in r["versions"].items()))


if __name__ == "__main__":
    main()
