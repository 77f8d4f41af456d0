"""Those who are compared on the CPU: their processes, and how they take turns.

Each framework lives in a process of its own, so that no allocator, thread pool or setting of one
touches another. They do the same task in turn, forwards and then backwards through the list, so
that a busy moment of the machine hits all of them. A turn's time is its median run. Ratios are
taken turn by turn, and then their median, so that a slow minute of the machine cancels out.

Before anything is timed each task says what it computed (losses, norms of gradients, a text): who
does not agree with this project to `TOLERANCE` is marked WRONG and gets no ratio.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from benchmarks.cpu_worker import ONE_THREAD, OURS
from benchmarks.gpu_table import turns_for

ROOT = Path(__file__).parent.parent
TOLERANCE = 2e-5  # relative: float32 rounds to 6e-8; of a reset gate without gradient 3e-5 is seen
TURN = 0.1  # seconds of a turn, about; at least one run
RUNS = 200  # in a turn, at most
LONG = 0.1  # seconds; what takes longer needs no run to warm up the caches in every turn
PAUSE = 0.15  # seconds between turns: OpenBLAS's threads spin for 0.1 s after their last product


class PeerError(RuntimeError):
    """A peer could not do what it was asked for."""


class Peer:
    """The near end of a peer's process; "floor, one thread" is the floor with a BLAS of one."""

    def __init__(self, who: str, module: str = "benchmarks.cpu_worker") -> None:
        command = [sys.executable, "-m", module, who.removesuffix(ONE_THREAD)]
        settings = {"OPENBLAS_NUM_THREADS": "1"} if who.endswith(ONE_THREAD) else {}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT, env=os.environ | settings
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        if self.process.stdin is None or self.process.stdout is None:
            raise PeerError("the peer was started without pipes")
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise PeerError(f"its process ended with code {self.process.wait()}")
        found = dict(json.loads(answer))
        if "error" in found:
            raise PeerError(found["error"])
        return found

    def close(self) -> None:
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # what a dead process was not told
                self.process.stdin.close()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


class Peers:
    """Peers by name, started when first asked for, and anew if they have died."""

    def __init__(self) -> None:
        self.running: dict[str, Peer] = {}

    def __getitem__(self, who: str) -> Peer:
        old = self.running.get(who)
        if old is None or old.process.poll() is not None:
            if old is not None:
                old.close()
            self.running[who] = Peer(who)
        return self.running[who]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for peer in self.running.values():
            peer.close()
        self.running.clear()


@dataclass
class Outcome:
    """What a row came to: a value of each turn for each peer, who was wrong, and who failed."""

    turns: dict[str, list[float]] = field(default_factory=dict)
    wrong: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def difference(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The largest relative difference; infinite where one has computed something else or NaN."""
    if not theirs:  # the floor computes nothing that could be compared
        return 0.0
    if len(ours) != len(theirs):
        return float("inf")
    a, b = np.array(ours, float), np.array(theirs, float)
    with np.errstate(invalid="ignore"):
        off = float((np.abs(a - b) / np.maximum(np.abs(a), 1e-30)).max())
    return off if np.isfinite(off) else float("inf")


def order(who: Sequence[str], turn: int) -> list[str]:
    """Forwards in even turns, backwards in odd ones: nobody always follows the same one."""
    return list(who) if turn % 2 == 0 else list(reversed(who))


def pace(once: dict[str, float], *, turns: int, seconds: float) -> tuple[int, bool, int]:
    """Runs of each in a turn, whether one more warms up, and turns that fit into `seconds`.

    Args:
        once: the seconds of one run of each, with what prepares it.
    """
    slowest = max(once.values())
    runs = max(1, min(RUNS, int(TURN / slowest)))
    warm = slowest < LONG
    one_turn = sum(once.values()) * (runs + warm) + PAUSE * len(once)
    return runs, warm, turns_for(one_turn, seconds, wanted=turns)


def compare(
    peers: Peers, who: Sequence[str], task: str, args: dict[str, Any], *, turns: int, seconds: float
) -> Outcome:
    """Let them take turns at a task. `seconds` bounds the turns, not the preparation."""
    outcome, once, ours = Outcome(), {}, None
    for name in who:  # this project is the first
        try:
            check = peers[name].ask(make=task, args=args)["check"]
            ours = check if ours is None else ours
            off = difference(ours, check)
            if off > TOLERANCE:
                outcome.wrong[name] = off
                continue
            once[name] = peers[name].ask(runs=1)["seconds"]
        except PeerError as error:
            outcome.failed[name] = str(error)
            if name == OURS:
                return outcome  # nobody to compare with
    runs, warm, turns = pace(once, turns=turns, seconds=seconds)
    for turn in range(turns):
        for name in order([name for name in once if name not in outcome.failed], turn):
            time.sleep(PAUSE)
            try:
                times = peers[name].ask(runs=runs, warm=warm)["times"]
            except PeerError as error:
                outcome.failed[name] = str(error)
                outcome.turns.pop(name, None)
            else:
                outcome.turns.setdefault(name, []).append(statistics.median(times))
        if OURS in outcome.failed:
            break
    return outcome
