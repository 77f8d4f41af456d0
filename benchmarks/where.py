"""Where the time of a training step goes: ``make where``, or ``python -m benchmarks.where``.

The step runs in a process of its own while Linux's sampler `perf` looks at its main thread 2,000
times a second and notes which C function it is in. Every function belongs to one kind:

    products            all of BLAS but
    waiting             for BLAS's other threads (`exec_blas`, which spins until they are done)
    pointwise           the loops of NumPy's ufuncs and reductions (`FLOAT_multiply_..`), and libm
    copies and gathers  transposing and casting loops, `take`, indexing, filling, sorting, memmove
    Python and NumPy    everything else: the interpreter, NumPy's way to a loop, allocation

The kernel's time (a page touched for the first time) counts for the function that called it. A
sample is half a millisecond on a core. This is better than a stopwatch around each call, which
would cost more than the small calls themselves and cannot see those made by operators; and the
sampler does not stop the process: a step takes as long with it as without.

A second way, for the products: those of the floor alone, each in NumPy's fastest layout. It has no
gradient of the embedding, which we make as a product with one-hot columns, and finds its factors in
the cache. A third way, made once (LSTM T=50 B=32 H=128, one thread): each product of a step timed
alone on arrays laid out as in the step, times how often it is made. Sum: 4.33 to 4.43 ms, 0.64 of
it the one-hot product; sampled: 4.6 to 4.9 ms, 5 to 10 % more, because in a step the factors are
not all in the cache, and because norms of gradients are BLAS, too.
"""

from __future__ import annotations

import argparse
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.cpu import Page, facts
from benchmarks.cpu_rows import CELLS, SIZES, named
from benchmarks.cpu_turns import PAUSE, Peer, Peers
from benchmarks.cpu_worker import FLOOR, OURS
from benchmarks.gpu_table import number
from benchmarks.peers import Size

RESULTS = Path(__file__).parent / "results" / "where.md"
RATE = 2000  # samples a second
NO_PERF = """perf, Linux's sampler, was not found or cannot start: install linux-perf (linux-tools).
It also needs 2 or less in /proc/sys/kernel/perf_event_paranoid."""
PRODUCTS, WAITING, POINTWISE = "products", "waiting", "pointwise"
COPIES, REST = "copies and gathers", "Python and NumPy"
KINDS = (PRODUCTS, WAITING, POINTWISE, COPIES, REST)

INTRODUCTION = f"""\
# Where the time of a training step goes

Written by `make where ARGS=--write`; needs Linux's `perf`. Whole steps of this project as in
[`cpu.md`](cpu.md), sampled {RATE:,} times a second: milliseconds that the main thread spent on a
core, and their shares, by the kind of C function it was in; **waiting** is for BLAS's other
threads, and grows with what else the machine does. How functions are sorted is said in
[`where.py`](../where.py). **On the clock** is the best of a few steps that were not sampled; **on a
core**: for how much of the sampled time the main thread had one (well below 100 %: the machine was
busy, or BLAS slept).
**Products alone** are the step's products, each in its fastest layout and timed in the same run
(the floor of `cpu.md`): a second measurement of the products, without that of the embedding's
gradient (one-hot columns).
"""


# ---- which function is of which kind -------------------------------------------------------------

NUMPY = "_multiarray_umath"
OF_NUMPY = (  # the first that fits; NumPy's loops begin with the name of a type, FLOAT_multiply
    (PRODUCTS, r"^[A-Z]+_(matmul|dot|vecdot|matvec|vecmat)|^(gemm|gemv|syrk|cblas_)"),
    (REST, r"^[A-Z]+_(legacy_)?[gs]etitem"),
    (COPIES, r"^_?(aligned_)?(swap_(pair_)?)?(strided|contig)_to_"),
    (COPIES, r"^_(aligned_)?(contig|strided)_cast_|^cast_\w+_to_|^[A-Z]+_to_[A-Z]+"),
    (COPIES, r"^[A-Z]+_(copyswap|fill|nonzero)|^(mapiter|raw_array|npyiter_copy)_|sort"),
    (COPIES, r"^PyArray_(TakeFrom|Repeat|Transfer)|^npy_fasttake|^copy_and_swap"),
    (POINTWISE, r"^[A-Z]+_[a-z]|simd_|svml|^PyArray_Where|^npy_(exp|log|tanh|sqrt|pow)"),
)
OF_LIBC = ((COPIES, r"mem(move|cpy|set)"), (WAITING, r"sched_yield"))  # who waits for BLAS yields


def kind(library: str, symbol: str) -> str:
    """The kind of a C function, by the library it is in and its name there."""
    if re.search(r"blas|mkl|blis", library):
        return WAITING if symbol.startswith("exec_blas") else PRODUCTS
    if library.startswith(("libm.", "libmvec")):
        return REST if "except" in symbol else POINTWISE  # NumPy asks for floating-point errors
    rules: Any = OF_NUMPY if NUMPY in library else OF_LIBC if library.startswith("libc.") else ()
    return next((found for found, rule in rules if re.search(rule, symbol)), REST)


FRAME = re.compile(r"^\s*[0-9a-f]+ (.*) \((.*)\)$")


def innermost(script: str) -> Iterator[tuple[str, str]]:
    """From `perf script`: library and function of each sample, outside of the kernel."""
    for sample in re.split(r"\n\s*\n", script.strip()):
        frames = [match.groups() for line in sample.splitlines() if (match := FRAME.match(line))]
        outside = [(Path(lib).name, symbol) for symbol, lib in frames if not lib.startswith("[k")]
        if frames:
            yield outside[0] if outside else ("kernel", frames[0][0])


# ---- sampling ------------------------------------------------------------------------------------


class NoSamplerError(RuntimeError):
    """`perf` is not there, or is not allowed to look."""


@dataclass
class Sampled:
    """Of one size: how often each function was met in so many steps, and what a clock says."""

    functions: Counter[tuple[str, str]]  # library, symbol
    steps: int
    seconds: float  # of these steps
    once: float  # seconds of a step that was not sampled, at best
    alone: float  # seconds of its products alone

    def ms(self, which: str = "") -> float:
        """Of a step, on a core: in functions of one kind, or in all."""
        found = self.functions.items()
        samples = sum(n for name, n in found if which in {"", kind(*name)})
        return samples / RATE / self.steps * 1e3

    @property
    def on_core(self) -> float:
        """The share of the time in which the main thread had a core."""
        return self.functions.total() / RATE / self.seconds


def perf(pid: int, work: Any) -> tuple[str, Any]:
    """What `perf` sees of a process's main thread during `work()`, and what that returns."""
    if shutil.which("perf") is None:
        raise NoSamplerError(NO_PERF)
    with tempfile.TemporaryDirectory() as folder:
        data = f"{folder}/perf.data"
        command = ["perf", "record", "-q", "-g", "-e", "cpu-clock", "-F", str(RATE), "-t", str(pid)]
        recorder = subprocess.Popen([*command, "-o", data])
        time.sleep(0.5)  # a thread that waits for a request is not sampled, so no harm in waiting
        if recorder.poll() is not None:
            raise NoSamplerError(NO_PERF)
        done = work()
        recorder.send_signal(signal.SIGINT)
        recorder.wait()
        found = subprocess.run(
            ["perf", "script", "-i", data, "-F", "ip,sym,dso", "--no-inline"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return found.stdout, done


def best(peer: Peer, size: Size, runs: int = 5) -> float:
    """Seconds of the task alone, in the best of a few runs."""
    peer.ask(make="step", args=asdict(size))
    time.sleep(PAUSE)
    return min(peer.ask(runs=runs, warm=True)["times"])


def sample(peers: Peers, size: Size, seconds: float) -> Sampled:
    """One size, for some seconds."""
    alone = best(peers[FLOOR], size)
    once = best(peers[OURS], size)
    runs = max(3, int(seconds / once))
    script, done = perf(peers[OURS].process.pid, lambda: peers[OURS].ask(runs=runs))
    return Sampled(Counter(innermost(script)), runs, done["seconds"], once, alone)


def cells(size: Size, found: Sampled) -> dict[str, str]:
    """A row of the table, by header."""
    total = found.ms()
    row = {"what": named(size), "on the clock": number(found.once * 1e3)}
    row |= {"on a core": f"{found.on_core:.0%}", "sampled": number(total)}
    for which in KINDS:
        row[which] = f"{number(found.ms(which))} ({found.ms(which) / total:.0%})"
    over = found.ms(PRODUCTS) / (found.alone * 1e3)
    return row | {"products alone": number(found.alone * 1e3), "sampled / alone": f"{over:.2f}"}


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m benchmarks.where", description=__doc__.split("\n")[0]
    )
    p.add_argument("--match", default="", help="only rows whose label has this text in it")
    p.add_argument("--seconds", type=float, default=4, help="of steps, for each size")
    p.add_argument("--top", type=int, default=0, help="name that many functions of each size, too")
    p.add_argument("--write", action="store_true", help=f"write results/{RESULTS.name}")
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    options = parser().parse_args(arguments)
    command = " ".join(["python -m benchmarks.where", *arguments])
    page = Page(command, RESULTS if options.write else None, facts=facts([]),
                introduction=INTRODUCTION)  # fmt: skip
    print(f"{page.command}\n{page.facts}")
    sizes = [Size(s.T, s.B, s.V, s.H, s.layers, cell) for cell in CELLS for s in SIZES]
    with Peers() as peers:
        for size in sizes:
            if options.match.lower() not in named(size).lower():
                continue
            try:
                found = sample(peers, size, options.seconds)
            except NoSamplerError as error:
                print(error, file=sys.stderr)
                return 2
            row = cells(size, found)
            page.add("A whole training step, ms", list(row), [list(row.values())])
            for (library, symbol), times in found.functions.most_common(options.top):
                share = times / found.functions.total()
                print(f"    {share:6.1%}  {kind(library, symbol):18}  {symbol} ({library})")
    return 1 if page.troubles else 0


if __name__ == "__main__":
    sys.exit(main())
