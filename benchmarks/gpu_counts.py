"""What is counted instead of timed: kernels launched, and the most memory in use at once.

PyTorch's profiler sees every kernel of the process, CuPy's too. It is started here only, after all
timing, because launches stay slower once it has run.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpu_clock import (
    DeviceLostError,
    Place,
    each,
    first_line,
    note_failures,
    tell_table,
)
from benchmarks.gpu_layers import OurLayer, TorchLayer
from benchmarks.gpu_model import MODELS, models
from benchmarks.gpu_optimizer import STEPS, updates
from benchmarks.gpu_table import REHEARSAL, WINDOWS, Window

KINDS = {"kernel": "kernels", "gpu_memcpy": "copies", "gpu_memset": "fills"}


def launches(place: Place, call: Callable[[], Any]) -> dict[str, Counter[str]]:
    """The names of what the device did during one call, by kind, each with how often."""
    profiler = place.torch.profiler
    activity = profiler.ProfilerActivity
    place.wait()
    with (
        quiet(),
        profiler.profile(activities=[activity.CPU if place.rehearse else activity.CUDA]) as seen,
    ):
        call()
        place.wait()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        seen.export_chrome_trace(str(path))
        return by_kind(json.loads(path.read_text(encoding="utf-8"))["traceEvents"])


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what libraries write to standard error: the profiler announces every start."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def by_kind(events: list[dict[str, Any]]) -> dict[str, Counter[str]]:
    """The events of a trace that happened on the device, sorted into `KINDS`."""
    found: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS.values()}
    for event in events:
        if event.get("ph") == "X" and (kind := KINDS.get(event.get("cat", ""))):
            found[kind][event["name"]] += 1
    return found


def short(name: str) -> str:
    """A kernel's name without its template arguments and parameters."""
    name = name.removeprefix("void ")
    return name.split("<")[0].split("(")[0].split("::")[-1][:40] or name[:40]


# ---- memory --------------------------------------------------------------------------------------


def in_use(place: Place, *, ours: bool) -> int:
    """Bytes in use in the pool of one of the frameworks."""
    if place.rehearse:
        return 0
    if not ours:
        return int(place.torch.cuda.memory_allocated())
    import cupy

    return int(cupy.get_default_memory_pool().used_bytes())


def most_in_use(place: Place, call: Callable[[], Any], *, ours: bool) -> int:
    """The most bytes in use at once during a call."""
    if place.rehearse:
        call()
        return 0
    if not ours:
        place.torch.cuda.reset_peak_memory_stats()
        call()
        place.wait()
        return int(place.torch.cuda.max_memory_allocated())
    import cupy

    class Watch(cupy.cuda.MemoryHook):
        name = "the most bytes in use"
        now = most = cupy.get_default_memory_pool().used_bytes()

        def malloc_postprocess(self, **about: Any) -> None:
            self.now += about["mem_size"]
            self.most = max(self.most, self.now)

        def free_postprocess(self, **about: Any) -> None:
            self.now -= about["mem_size"]

    watch = Watch()
    with watch:
        call()
        place.wait()
    return int(watch.most)


# ---- the section ---------------------------------------------------------------------------------


class One:
    """One training step of a model, where a turn would be several."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self) -> None:
        self.model.one(*self.model.data[0])


Subjects = dict[tuple[str, str], tuple[Callable[[], Any], int]]


def subjects(place: Place, impls: list[str]) -> Subjects:
    """(what, who) -> how to make it, and how often one call of it does the thing.

    Nothing is made before its turn, so that all it holds counts as its memory.
    """
    found: Subjects = {}
    for size in ("A", "C"):
        w = (REHEARSAL if place.rehearse else WINDOWS)[size]
        names = ["torch", *(impl for impl in impls if impl != "ops" or size == "C")]
        for who in names:
            found[f"lstm {size}, fwd + bwd", who] = (partial(_layer, place, w, who), 1)
    for label in MODELS:
        for who, make in models(place, label, impls).items():
            found[f"model {label}, a step", who] = (lambda make=make: One(make()), 1)
    for who, make in updates(place).items():
        found["clip + Adam", who] = (make, STEPS)
    return found


def _layer(place: Place, w: Window, who: str) -> TorchLayer | OurLayer:
    theirs = TorchLayer(place, "lstm", w)
    return theirs if who == "torch" else OurLayer(place, "lstm", w, theirs).as_impl(who)


def counts(place: Place, impls: list[str], *, turns: int, seconds: float) -> None:  # noqa: ARG001
    """Section "launches", in strict float32."""
    place.precision(False)
    failed: dict[str, str] = {}
    # The profiler's first run may miss some kernels; and where there is none, memory still counts.
    first = {"profiler": lambda: launches(place, lambda: place.torch.ones(9, device=place.device))}
    profiles = bool(each(place, first, failed))
    note_failures("launches", failed)
    for (what, who), (make, times) in subjects(place, impls).items():
        ours = not who.startswith("torch")
        try:
            with place.watched(who):
                place.free()
                before = in_use(place, ours=ours)
                run = make()
                for _ in range(3):
                    _once(run)
                peak = most_in_use(place, partial(_once, run), ours=ours) - before
                seen = launches(place, partial(_once, run)) if profiles else by_kind([])
                del run
        except DeviceLostError:
            raise
        except Exception as error:  # noqa: BLE001 - one that cannot be counted is left out
            note_failures(f"{what}, counted", {who: first_line(error)})
            continue
        common = ", ".join(f"{n} {short(k)}" for k, n in seen["kernels"].most_common(3))
        numbers = [
            f"{sum(seen[kind].values()) / times:,.4g}" if profiles else "-"
            for kind in KINDS.values()
        ]
        row = [what, who, *numbers, f"{peak / 2**20:,.1f}", common]
        tell_table("Launches and memory, strict", HEADERS, [row])


HEADERS = ["what", "who", *KINDS.values(), "peak MiB", "the most frequent kernels of a call"]


def _once(run: Any) -> None:
    if hasattr(run, "prepare"):
        run.prepare()
    run()
