"""What a time loop needs of a GPU, and how a batch is spread over it (`window.py`, sequence.cu).

A recurrent layer is cut in two ways: its hidden units into *parts*, so many that each part's rows
of W_hh fit into the registers of one block, and the rows of the batch into *slices*. Part times
slice is a block, and a multiprocessor runs one block; all of them run at the same time, because
those of a slice wait for each other after every step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from tinygrad_rnn.backends.base import Array, Namespace
from tinygrad_rnn.backends.kernels import GATES, SEQUENCE, Variant, find

WARPS, THREADS = 8, 256  # of a block, as in sequence.cu


class Device(Protocol):
    """What a window needs of the GPU it runs on."""

    xp: Namespace
    processors: int  # blocks that certainly run at the same time, one on each
    shared_memory: int  # bytes a block may have

    @property
    def tf32(self) -> bool:
        """Whether float32 products may be rounded to TF32."""

    def arguments(self, *values: Any) -> tuple[Any, ...]:
        """Arrays, ints and None (a null pointer) as a launch takes them."""

    def launcher(
        self, variant: Variant, name: str, blocks: int, shared: int, *, together: bool
    ) -> Callable[[tuple[Any, ...]], None]:
        """What starts a kernel, with `blocks` blocks of THREADS threads, on `arguments`.

        `together`: the blocks wait for each other, so all have to run at the same time.
        """

    def multiplier(
        self, a: Array, b: Array, out: Array, *, add: bool, transposed: bool
    ) -> Callable[[int], None]:
        """What computes ``out[t] = a[t] @ b`` for a t: (T, B, K), (K, N), and (T, B, N) or (B, N).

        With `transposed` ``a[t] @ b.T``; with `add` it is added to `out`. Rows of `a` and of `out`
        may be parts of longer rows.
        """


@dataclass(frozen=True)
class Plan:
    """How a batch is spread over the chip; see sequence.cu."""

    variant: Variant
    parts: int  # blocks side by side, for all units of a slice
    slice_rows: int  # rows of the batch in a slice
    slices: int  # in one launch
    launches: int  # one after the other, until all rows have had their turn
    shared_forward: int  # bytes
    shared_backward: int
    padded: int  # H, rounded up to what the variant has code for

    @property
    def blocks(self) -> int:
        """Blocks in a launch; they all run at the same time."""
        return self.parts * self.slices


def plan(cell: str, B: int, H: int, device: Device) -> Plan | None:
    """The best plan for a layer, or None where there is no code for so many units.

    The narrowest slices with which all rows have their turn in one launch: the more blocks work,
    the sooner a step is done. Where there are none, the widest that there is room for.
    """
    for units, columns, cells in SEQUENCE[cell]:
        kw = next((k for k in columns if WARPS * k >= H), None)
        if kw is None:
            continue
        parts, found = -(-H // units), None
        room = device.processors // parts  # slices that run at the same time
        for slice_rows in (8, 16, 32):
            n = -(-units * slice_rows // THREADS)
            if n not in cells or room == 0:
                continue
            slices = min(room, -(-B // slice_rows))
            made = layout(cell, units, kw, n, parts, slice_rows, slices, B, tf32=device.tf32)
            if made.shared_forward > device.shared_memory:
                continue
            found = made
            if made.launches == 1:
                break
        if found is not None:
            return found
    return None


def layout(
    cell: str,
    units: int,
    kw: int,
    cells: int,
    parts: int,
    slice_rows: int,
    slices: int,
    B: int,
    *,
    tf32: bool,
) -> Plan:
    """The plan with these numbers: `units` of a block, `kw` and `cells` as in sequence.cu."""
    rows, padded = GATES[cell] * units, WARPS * kw
    macros = {"CELL": GATES[cell], "UNITS": units, "KW": kw, "CELLS": cells, "TF32": int(tf32)}
    return Plan(
        variant=find("sequence", **macros),
        parts=parts,
        slice_rows=slice_rows,
        slices=slices,
        launches=-(-B // (slices * slice_rows)),
        shared_forward=4 * slice_rows * (padded + 4 + WARPS * (rows + 8)),
        shared_backward=4 * slice_rows * (rows + 4),
        padded=padded,
    )
