"""The GPU benchmark: ``make bench-gpu``, or ``python -m benchmarks.gpu``.

Sections, in order, each of which can be asked for with ``--only``:

    machine           device, driver, versions        ceilings    copies and matrix products
    micro             what a call costs the host      torch       PyTorch's layers by themselves
    lstm, gru, rnn    a layer beside PyTorch's        model       a whole training step
    sampling          one character at a time         optimizer   clip and Adam
    launches          kernels per call, and memory

A section is made of units, such as "lstm:A". They are measured in a second process, which this one
watches (`benchmarks/gpu_watch.py`): an error ends a unit, a lost device an implementation.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import gpu_ceilings, gpu_counts, gpu_layers, gpu_model, gpu_optimizer
from benchmarks.gpu_clock import DeviceLostError, Place, first_line, tell
from benchmarks.gpu_table import WINDOWS
from benchmarks.gpu_watch import LOST, NOTHING_TO_RUN_ON, Left, Report, watch

RESULTS = Path(__file__).parent / "results" / "gpu.md"
SECTIONS = (
    "machine", "ceilings", "micro", "torch", "lstm", "gru", "rnn", "model", "sampling",
    "optimizer", "launches",
)  # fmt: skip
USUAL = [name for name in SECTIONS if name != "torch"]  # whose rows "lstm" has, too
IMPLS = ("ops", *gpu_layers.IMPLS)


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.split("\n")[0])
    p.add_argument("--only", type=_words(SECTIONS), default=USUAL, help=", ".join(SECTIONS))
    p.add_argument("--sizes", type=_words(WINDOWS), default=list(WINDOWS), help="of A,B,C")
    p.add_argument("--impls", type=_words(IMPLS), default=list(IMPLS), help=f"of {','.join(IMPLS)}")
    p.add_argument("--turns", type=int, default=15, help="turns each one takes, where time allows")
    p.add_argument("--seconds", type=float, default=150, help="about how long all takes, at most")
    p.add_argument("--quick", action="store_true", help="fewer turns, at most a minute")
    p.add_argument("--stall", type=float, default=45, help="seconds of silence that mean a hang")
    p.add_argument("--write", action="store_true", help=f"write results/{RESULTS.name}")
    p.add_argument("--out", type=Path, help="write to this file instead")
    p.add_argument("--rehearse", action="store_true", help="tiny, on the CPU: tests the program")
    p.add_argument("--worker", help=argparse.SUPPRESS)  # in the second process: what is left to do
    return p


def _words(known: Any) -> Any:
    def words(text: str) -> list[str]:
        found = [word.strip() for word in text.split(",") if word.strip()]
        if unknown := [word for word in found if word not in known]:
            raise argparse.ArgumentTypeError(
                f"unknown: {', '.join(unknown)}; known: {', '.join(known)}"
            )
        return [word for word in known if word in found]

    return words


def plan(only: Sequence[str], sizes: Sequence[str]) -> list[str]:
    """The units of the sections asked for, in order; of size B there is only the LSTM."""
    units = []
    for section in only:
        if section in ("lstm", "gru", "rnn", "model"):
            units += [f"{section}:{size}" for size in sizes if size != "B" or section == "lstm"]
        else:
            units.append(section)
    return units


def programs(sizes: list[str]) -> dict[str, Any]:
    """Every unit's program, all with the same signature."""

    def simple(program: Any) -> Any:
        return lambda place, impls, **pace: program(place)  # noqa: ARG005 - one signature for all

    found = {
        "machine": simple(gpu_ceilings.machine),
        "ceilings": simple(gpu_ceilings.ceilings),
        "micro": simple(gpu_ceilings.micro),
        "sampling": gpu_model.sampling,
        "optimizer": gpu_optimizer.optimizer,
        "launches": gpu_counts.counts,
    }
    found |= {f"model:{label}": gpu_model.training(label) for label in gpu_model.MODELS}
    return found | gpu_layers.units(sizes)


def missing() -> str:
    """Which package is not here, "" if none."""
    gone = [name for name in ("cupy", "torch") if importlib.util.find_spec(name) is None]
    if not gone:
        return ""
    return (
        f"{sys.executable} lacks {' and '.join(gone)}, which benchmarks.gpu needs; install that, "
        f"or name another Python: make bench-gpu GPU_PYTHON=/path/to/python"
    )


def unusable(place: Place) -> str:
    """Why there is nothing to measure on, "" if there is."""
    import cupy

    if not cupy.cuda.is_available():
        return "benchmarks.gpu needs a GPU; CuPy sees none that it can use"
    if not place.torch.cuda.is_available():
        return f"benchmarks.gpu needs a PyTorch with CUDA; {place.torch.__version__} sees no GPU"
    return ""


def work(options: argparse.Namespace) -> int:
    """The second process: do the units in order and tell of each; an error ends its unit only."""
    warnings.filterwarnings("ignore", message=".*TF32.*")  # PyTorch renames its switches
    units, impls, seconds, ceilings = json.loads(options.worker)
    deadline = time.monotonic() + seconds
    place = Place(rehearse=options.rehearse)
    if not options.rehearse and (why := unusable(place)):
        print(why)
        return NOTHING_TO_RUN_ON
    place.ceilings.update(ceilings)
    todo = programs(options.sizes)
    for number, unit in enumerate(units):
        place.unit = unit
        tell(who="")
        share = (deadline - time.monotonic()) / (len(units) - number)
        try:
            if share <= 0:
                raise TimeoutError("the time was up before it began")
            todo[unit](place, impls, turns=options.turns, seconds=share)
            place.free()
        except DeviceLostError as error:
            tell(trouble=f"{unit}: {error}")
            tell(who=error.who)
            return LOST
        except Exception as error:
            tell(trouble=f"{unit}: {first_line(error)}")
            if options.rehearse:
                raise  # a rehearsal wants to see where
        tell(done=unit)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    options = parser().parse_args(arguments)
    if options.quick:
        options.turns, options.seconds = min(options.turns, 10), min(options.seconds, 60)
    if options.worker is not None:
        return work(options)
    if not options.rehearse and (why := missing()):
        print(why)
        return NOTHING_TO_RUN_ON
    report = Report(shown(arguments), options.out or (RESULTS if options.write else None))
    left = Left(plan(options.only, options.sizes), list(options.impls), options.seconds)
    command = [sys.executable, "-m", "benchmarks.gpu", *arguments, "--worker"]
    return watch(command, left, report, stall=options.stall)


def shown(arguments: Sequence[str]) -> str:
    """The command as the file shows it: where that file lies is of no interest."""
    words, skip = [], False
    for argument in arguments:
        if not skip and not argument.startswith("--out"):
            words.append(argument)
        skip = argument == "--out"
    return " ".join(["python -m benchmarks.gpu", *words])


if __name__ == "__main__":
    sys.exit(main())
