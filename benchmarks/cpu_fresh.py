"""What only a fresh process can tell: how long an import takes, and how much memory a step needs.

import    seconds from the moment NumPy has been imported until the package has, by an
          interpreter that does nothing else
memory    the most that three training steps of a new model add to the memory of a process that
          has done a tiny step before (`benchmarks/cpu_worker.py`)
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.cpu_turns import ROOT, Outcome, Peer, PeerError, order
from benchmarks.cpu_worker import OURS, PACKAGES

IMPORT = (
    "import sys, time, numpy; start = time.perf_counter(); __import__(sys.argv[1]); "
    "print(time.perf_counter() - start)"
)


def import_seconds(who: str) -> float:
    """Of the package over NumPy, as installed: from bytecode, which the warm round writes.

    Where PYTHONDONTWRITEBYTECODE is set, each of our processes would compile every file anew, 50
    ms; pip has compiled the others' for good.
    """
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, "-c", IMPORT, PACKAGES[who]],
        capture_output=True, text=True, cwd=ROOT, check=False, env=environment,
    )  # fmt: skip
    if done.returncode:
        raise PeerError((done.stderr.strip().splitlines() or ["the import failed"])[-1])
    return float(done.stdout.split()[-1])


def peak_bytes(who: str, size: dict[str, Any]) -> float:
    """Of training steps, beyond what was there before the first."""
    peer = Peer(who)
    try:
        return float(peer.ask(memory=size)["bytes"])
    finally:
        peer.close()


def in_turn(
    who: Sequence[str], measure: Callable[[str], float], turns: int, *, warm: bool = False
) -> Outcome:
    """`measure(name)` for each in turn; warm: a first round, to write .pyc files, is not kept."""
    outcome, left = Outcome(), list(who)
    for turn in range(turns + warm):
        for name in order(left, turn):
            try:
                value = measure(name)
            except PeerError as error:
                outcome.failed[name] = str(error)
                outcome.turns.pop(name, None)
                left.remove(name)
                continue
            if turn >= warm:
                outcome.turns.setdefault(name, []).append(value)
    if OURS in outcome.failed:
        outcome.turns.clear()  # nobody to compare with
    return outcome
