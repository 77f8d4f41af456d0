"""One of those who are compared, in a process of its own: ``python -m benchmarks.cpu_worker NAME``.

It reads one JSON request a line and answers with one JSON line (`benchmarks/cpu_turns.py` holds the
other end):

    {"make": task, "args": {..}}    make a task; the answer has what its `check` gives
    {"runs": n, "warm": true}       run it n times; the answer has the seconds of each run, and of
                                    all with their preparation; warm: one run before does not count
    {"memory": {..}}                bytes that steps of this size need beyond what was there before

An error is an answer, too: the process goes on, because the next task may well succeed.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import peers, peers_floor, peers_parts, peers_small

OURS, ROWS_FIRST, TORCH, JAX, FLOOR = "tinygrad_rnn", "rows first", "PyTorch", "JAX", "floor"
PACKAGES = {OURS: "tinygrad_rnn", ROWS_FIRST: "tinygrad_rnn", TORCH: "torch", JAX: "jax",
            FLOOR: "numpy"}  # fmt: skip
ONE_THREAD = ", one thread"  # behind a name: its BLAS computes with one (`cpu_turns.Peer`)
TINY = {"T": 2, "B": 1, "V": 5, "H": 8}


def tasks(who: str) -> dict[str, Callable[..., Any]]:
    """How each task is made."""
    if who == JAX:  # imports JAX
        from benchmarks import peers_jax

        return peers_jax.TASKS
    return {
        OURS: {
            "step": lambda **size: peers_parts.Step(peers.TinygradRnn, **size),
            "layer": peers_parts.OurLayer,
            "sampling": peers_parts.OurWriter,
            "ops": peers_small.OurOps,
            "graph": lambda free: peers_small.Graph(peers_small.our_scalar, free=free),
            "optimizer": peers_small.OurUpdate,
        },
        ROWS_FIRST: {"step": lambda **size: peers_parts.Step(peers.RowsFirst, **size)},
        TORCH: {
            "step": lambda **size: peers_parts.Step(peers.PyTorch, **size),
            "layer": peers_parts.TorchLayer,
            "sampling": peers_parts.TorchWriter,
            "ops": peers_small.TorchOps,
            "graph": lambda free: peers_small.Graph(peers_small.torch_scalar, free=free),
            "optimizer": peers_small.TorchUpdate,
        },
        FLOOR: peers_floor.TASKS,
    }[who]


def timed(task: Any, runs: int) -> list[float]:
    """The seconds of each run."""
    times = []
    for _ in range(runs):
        task.prepare()
        start = time.perf_counter()
        task.run()
        times.append(time.perf_counter() - start)
    return times


# ---- memory --------------------------------------------------------------------------------------


def resident(field: str) -> int:
    """Bytes: `VmRSS` is what is in memory now, `VmHWM` the most there has been."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\s*(\d+) kB", status)[1]) * 1024


def peak(make: Callable[..., Any], size: dict[str, Any], steps: int = 3) -> int:
    """The most that the first steps add to what the process had: gradients, Adam's moments, all.

    Weights and batches were there before, and so was the code: a step of a tiny model has loaded
    it. Writing 5 to `clear_refs` sets the high-water mark to what is resident now, so that neither
    the imports nor a compiler count.
    """
    small = make(**(size | TINY))
    small.run()
    task = make(**size)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    for _ in range(steps):
        task.run()
    return resident("VmHWM") - before


# ---- the protocol --------------------------------------------------------------------------------


class Worker:
    """Answers requests with the task that was made last."""

    def __init__(self, makers: dict[str, Callable[..., Any]]) -> None:
        self.makers, self.task = makers, None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        if "make" in request:
            self.task = None  # its memory first
            self.task = self.makers[request["make"]](**request["args"])
            return {"check": self.task.check()}
        if "memory" in request:
            return {"bytes": peak(self.makers["step"], request["memory"])}
        if request.get("warm"):
            timed(self.task, 1)
        start = time.perf_counter()
        times = timed(self.task, request["runs"])
        return {"times": times, "seconds": time.perf_counter() - start}

    def serve(self, lines: Any, write: Callable[[str], None]) -> None:
        for line in lines:
            try:
                answer = self.answer(json.loads(line))
            except Exception as error:  # noqa: BLE001 - whatever it is, the other end says it
                answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
            write(json.dumps(answer))


if __name__ == "__main__":
    Worker(tasks(sys.argv[1])).serve(sys.stdin, lambda text: print(text, flush=True))
