"""Single runs of the tasks that need a memory, each with its numbers: the hands of `tasks.py`."""

from __future__ import annotations

import datetime as dt
import importlib.util
import os
import platform
import re
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import tinygrad_rnn as tg
from tinygrad_rnn.char_lm import CharModel, evaluate
from tinygrad_rnn.data import Streams, Vocabulary, load_text, ngram_losses, split
from tinygrad_rnn.nn.functional import cross_entropy

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Result:
    """What one run came to."""

    command: str
    seed: int
    updates: int  # made; fewer than allowed if it was solved before
    reached: float  # the loss at the end, on sequences that were not trained on
    lowest: float  # and at its best
    baseline: float
    solved: bool
    seconds: float  # on the clock
    cpu: float  # seconds of processor time, which other programs on the machine change less

    @property
    def best(self) -> float:
        """The lowest loss as a share of the baseline."""
        return self.lowest / self.baseline


def run(options: str, seed: int) -> Result:
    """Run the example, watch its lines go by, and read the numbers from them."""
    command = f"python examples/long_memory.py {options} --seed {seed}"
    print(f"$ {command}", flush=True)
    began, cpu = time.perf_counter(), _cpu(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, *command.split()[1:]],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    seconds, cpu = time.perf_counter() - began, _cpu(resource.RUSAGE_CHILDREN) - cpu
    print(done.stdout, flush=True)
    line = re.compile(r"after +(\d+) updates: loss ([\d.]+), .* x baseline ([\d.]+);")
    tests = line.findall(done.stdout)
    updates, loss, baseline = tests[-1]
    return Result(
        command,
        seed,
        updates=int(updates),
        reached=float(loss),
        lowest=min(float(loss) for _, loss, _ in tests),
        baseline=float(baseline),
        solved=done.stdout.splitlines()[-1].startswith("goal reached"),
        seconds=seconds,
        cpu=cpu,
    )


def _cpu(who: int) -> float:
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def machine() -> str:
    """Where and with what: the processor, its cores, how busy it was, the versions, the day."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists() and (names := re.findall(r"model name\s*: (.*)", info.read_text())):
        cpu = names[0]
    threads = os.environ.get("OPENBLAS_NUM_THREADS", "all")
    kernels = f", kernels: {found}" if (found := blas_kernels()) else ""
    return (
        f"{dt.date.today()}; {os.cpu_count()} cores of {cpu}, load {os.getloadavg()[0]:.1f}, BLAS "
        f"threads: {threads}{kernels}; Python {platform.python_version()}, NumPy {np.__version__}, "
        f"tinygrad_rnn {tg.__version__}"
    )


def blas_kernels() -> str:
    """The products that NumPy's BLAS chose for this processor, as 'OpenBLAS SkylakeX'.

    OpenBLAS has a set of them for each kind of processor; the wrong one can cost half the speed,
    and nothing says so. Empty where threadpoolctl is missing, or the library does not tell.
    """
    if importlib.util.find_spec("threadpoolctl") is None:
        return ""
    import threadpoolctl

    names = {"openblas": "OpenBLAS", "blis": "BLIS"}
    found = [
        f"{names.get(each['internal_api'], each['internal_api'])} {each['architecture']}"
        for each in threadpoolctl.threadpool_info()
        if each["user_api"] == "blas" and each.get("architecture")
    ]
    return found[0] if found else ""


# ---- character models on a text ------------------------------------------------------------------


@dataclass(frozen=True)
class TextResult:
    """Validation losses after each epoch, and what counting reaches on the same split."""

    kind: str
    seed: int
    losses: list[float]  # nats per character
    updates: int  # of one epoch
    seconds: float
    cpu: float


def train_on_text(path: str | None, kind: str, *, epochs: int, seed: int = 0) -> TextResult:
    """A character model with 128 units: T = 50, B = 50, Adam 2e-3, clipped to 5, 90 : 10 split."""
    train, validation, symbols = _encoded(path)
    model = CharModel(symbols, kind=kind, hidden=128, rng=seed)
    optimizer = tg.optim.Adam(model.parameters(), lr=2e-3)
    tbptt = tg.TBPTT(model, cross_entropy, optimizer, k1=50, clip_norm=5.0)
    streams = Streams(train, batch=50, window=50)
    began, cpu, losses = time.perf_counter(), _cpu(resource.RUSAGE_SELF), []
    for epoch in range(epochs):
        state = None
        for x, y in streams:
            state = tbptt.update(x, y, state).state
        losses.append(evaluate(model, validation, batch=50))
        print(f"{kind}, epoch {epoch + 1}: {losses[-1]:.4f} nats per character", flush=True)
    seconds, cpu = time.perf_counter() - began, _cpu(resource.RUSAGE_SELF) - cpu
    return TextResult(kind, seed, losses, len(streams), seconds, cpu)


def counting(path: str | None) -> dict[int, float]:
    """The losses of n-gram models, n = 1 .. 4, on the same split."""
    return ngram_losses(*_encoded(path), orders=range(1, 5))


def _encoded(path: str | None) -> tuple[np.ndarray, np.ndarray, int]:
    text = load_text(path).text
    vocabulary = Vocabulary.of(text)
    return *split(vocabulary.encode(text)), len(vocabulary)
