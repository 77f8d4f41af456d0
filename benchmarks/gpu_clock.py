"""Where the GPU benchmark runs, how it takes the time, and how it tells of it.

PyTorch and CuPy use the same context of the device and both work on its null stream, so one pair of
CUDA events times either. One timing is one call, begun on an idle device and ended when its last
kernel has; it contains the time in which Python prepares the launches, because at small sizes that
is what a person waits for. Those who are compared take turns, call by call.

`tell` sends lines to the process that watches this one (`benchmarks/gpu.py`).
"""

from __future__ import annotations

import contextlib
import gc
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from benchmarks.gpu_table import ratio, turns_for
from tinygrad_rnn.backends import cuda_settings

MARK = "\x1e"  # the first character of a line that is a message
WARM = 3
SHORT = 0.01  # seconds; calls that take less are made twice in a turn, and the second counts


def tell(**message: Any) -> None:
    """A message to the process that watches: rows of a table, facts, what is being done now."""
    print(MARK + json.dumps(message), flush=True)


def tell_table(title: str, headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Rows of a table; those told under a title already used are added to that table."""
    if rows:
        tell(title=title, headers=list(headers), rows=[[str(c) for c in row] for row in rows])


def note_failures(what: str, failed: Mapping[str, str]) -> None:
    """Say who could not be measured, and why."""
    for who, why in failed.items():
        tell(note=f"{who}: {why}", where=what)


class DeviceLostError(RuntimeError):
    """After an illegal access nothing works in this process any more; `who` was running."""

    def __init__(self, who: str, error: object) -> None:
        super().__init__(f"the device was lost while {who} ran: {first_line(error)}")
        self.who = who


def first_line(error: object) -> str:
    """What went wrong, short enough for a cell of a table."""
    text = str(error).strip().splitlines()
    kind = type(error).__name__
    return f"{kind}: {text[0]:.110}".replace("|", "/") if text else kind


class Run(Protocol):
    """One of those who are compared. A call is timed; `prepare` before it is not."""

    def prepare(self) -> None: ...
    def __call__(self) -> Any: ...


@dataclass
class Samples:
    """The timings of one Run, in milliseconds, a number per turn."""

    ms: list[float] = field(default_factory=list)  # on the device's clock, the waiting included
    host_ms: list[float] = field(default_factory=list)  # until Python had handed over all work
    wall_ms: list[float] = field(default_factory=list)  # on the host's clock, until all was done

    @property
    def median(self) -> float:
        return statistics.median(self.ms)

    @property
    def host(self) -> float:
        return statistics.median(self.host_ms)

    @property
    def misses_work(self) -> bool:
        """Whether much was done outside of the events, on a stream that does not wait for them."""
        return statistics.median(self.wall_ms) > 1.2 * self.median + 0.15


class Place:
    """The GPU, or for a rehearsal the CPU; and the precision both frameworks compute in."""

    def __init__(self, *, rehearse: bool = False) -> None:
        import torch

        self.torch: Any = torch
        self.rehearse = rehearse
        self.device = "cpu" if rehearse else "cuda"
        self.unit = ""  # what is being measured, for messages
        self.ceilings: dict[str, float] = {}  # set by `gpu_ceilings`
        self._events: list[Any] = []

    def wait(self) -> None:
        """Until the device has done everything, on every stream, CuPy's too."""
        if not self.rehearse:
            self.torch.cuda.synchronize()

    def precision(self, tf32: bool) -> None:
        """Strict float32 or TF32, for both frameworks, in every matrix product."""
        self.torch.backends.cudnn.allow_tf32 = tf32
        self.torch.backends.cuda.matmul.allow_tf32 = tf32
        cuda_settings.tf32 = tf32

    def free(self) -> None:
        """Give unused memory back, so that each framework finds room."""
        gc.collect()
        if not self.rehearse:
            import cupy

            self.torch.cuda.empty_cache()
            cupy.get_default_memory_pool().free_all_blocks()

    def tensor(self, array: Any) -> Any:
        """An array of ours as PyTorch's, without a copy on the device."""
        if isinstance(array, np.ndarray):
            return self.torch.from_numpy(array.copy())
        return self.torch.as_tensor(array, device=self.device)

    def once(self, call: Any, samples: Samples | None = None) -> float:
        """Seconds of one call, on an idle device; the timing goes to `samples`."""
        if not self._events and not self.rehearse:
            self._events = [self.torch.cuda.Event(enable_timing=True) for _ in range(2)]
        self.wait()
        if not self.rehearse:
            self._events[0].record()
        began = time.perf_counter()
        call()
        host = time.perf_counter() - began
        if not self.rehearse:
            self._events[1].record()
        self.wait()
        wall = time.perf_counter() - began
        if samples is not None:
            timed = wall * 1e3 if self.rehearse else self._events[0].elapsed_time(self._events[1])
            samples.ms.append(timed)
            samples.host_ms.append(host * 1e3)
            samples.wall_ms.append(wall * 1e3)
        return wall

    @contextlib.contextmanager
    def watched(self, who: str) -> Iterator[None]:
        """Say who runs; if an error took the device along, say that instead of the error."""
        tell(doing=f"{self.unit} {who}", who=who)
        try:
            yield
        except Exception as error:
            try:
                self.wait()
            except Exception:  # noqa: BLE001 - after a lost device every call fails
                raise DeviceLostError(who, error) from error
            raise


def take_turns(
    place: Place,
    runs: Mapping[str, Run],
    *,
    turns: int,
    seconds: float,
    failed: dict[str, str],
) -> dict[str, Samples]:
    """Timings of all runs, taken in turns, after a warm-up. Who fails is noted and left out."""
    once: dict[str, float] = {}
    for who, run in runs.items():
        try:
            with place.watched(who):
                for _ in range(WARM):
                    run.prepare()
                    once[who] = place.once(run)
        except DeviceLostError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the others go on
            failed[who] = first_line(error)
            once.pop(who, None)
    samples = {who: Samples() for who in once}
    gc.collect()
    gc.disable()  # a collection in the middle of a call would be counted as the call's
    try:
        for turn in range(turns_for(2 * sum(once.values()), seconds, wanted=turns)):
            # Shifted by one each turn: to be first, or after a certain other one, is nobody's lot.
            names = list(samples)
            shift = turn % len(names) if names else 0
            for who in names[shift:] + names[:shift]:
                try:
                    with place.watched(who):
                        # Not counted: it finds the host's caches full of the others' code, which
                        # no training run does, and where the host is the brake that was a third.
                        for kept in (None, samples[who]) if once[who] < SHORT else (samples[who],):
                            runs[who].prepare()
                            place.once(runs[who], kept)
                except DeviceLostError:
                    raise
                except Exception as error:  # noqa: BLE001 - as above
                    failed[who] = first_line(error)
                    del samples[who]
    finally:
        gc.enable()
    return samples


def each(
    place: Place, calls: Mapping[str, Callable[[], Any]], failed: dict[str, str]
) -> dict[str, Any]:
    """What each of the calls returns; who fails is noted and left out."""
    found = {}
    for who, call in calls.items():
        try:
            with place.watched(who):
                found[who] = call()
        except DeviceLostError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the others go on
            failed[who] = first_line(error)
    return found


def ratios(who: str, samples: Mapping[str, Samples], others: Sequence[str]) -> list[str]:
    """Ours against each of the others; dashes for the others themselves."""
    if who in others:
        return ["-"] * len(others)
    mine = samples[who].ms
    return [
        str(ratio(mine, samples[other].ms))
        if other in samples and len(samples[other].ms) == len(mine)
        else "-"
        for other in others
    ]
