"""The CUDA sources of this project, and the one list of what is compiled from them.

Each ``.cu`` file is C++ without a single ``#include``: that compiles in a twentieth of a second,
needs no CUDA headers, and is the same text for NVRTC, for nvcc, and for a C++ compiler with
``tests/cuda_on_cpu`` in front of it, which runs every kernel on a CPU. `common.cuh` stands in front
of each file: what differs between those three is there and nowhere else.

A *variant* is a file with values for its macros. `VARIANTS` are all that this version may ever
compile: the loader (`backends/cupy_kernels.py`) makes a `Variant` only with `find`, which looks
there, and the tests compile every one for every architecture, without a GPU.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
# A dtype, and the C++ type. (Not its name: `dtype.name` takes four microseconds to say.)
REAL = {np.dtype(np.float32): "float", np.dtype(np.float64): "double"}


@dataclass(frozen=True)
class Variant:
    """A source file, the values of its macros, and what the result is allowed to use."""

    file: str  # "loss" for loss.cu
    kernels: tuple[str, ...]  # names, extern "C"
    macros: tuple[tuple[str, str | int], ...]  # sorted by name
    threads: int = 256  # of a block, at most: __launch_bounds__ in the source says the same
    shared_memory: int = 0  # bytes of dynamic shared memory of a block, at most
    cooperative: bool = False  # whether its blocks wait for each other

    @property
    def options(self) -> tuple[str, ...]:
        """Compiler options. CuPy adds -ftz=true by itself; the compile check does, too."""
        return ("-std=c++17", *(f"-D{name}={value}" for name, value in self.macros))

    def source(self) -> str:
        """The whole text: what all kernels share, what this file builds on, and the file."""
        parts = ["common.cuh", *BUILDS_ON.get(self.file, ()), f"{self.file}.cu"]
        return "\n".join(map(_text, parts))


@cache
def _text(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


# Files whose only macro is the type of their numbers, and the kernels in each (`cupy_launch.py`).
POINTWISE: dict[str, tuple[str, ...]] = {
    "loss": ("softmax_cross_entropy", "softmax_cross_entropy_backward", "reduce_losses"),
    "scatter": ("sort_rows", "add_rows", "take_columns", "sum_columns"),
    "update": ("sum_squares", "scale", "adam"),
}
POINTWISE_ROOM = 256 * 8  # bytes of shared memory: a number for each thread
# What stands in front of a file, and the number of gates of each cell.
BUILDS_ON = {"steps": ("cells.cuh",), "sequence": ("cells.cuh", "product.cuh")}
GATES = {"rnn": 1, "gru": 3, "lstm": 4}
# For sequence.cu: how many units a block owns, and for which columns per warp (H / 8, rounded up)
# and cells per thread there is code. More would not fit into the registers of a thread.
SEQUENCE: dict[str, list[tuple[int, tuple[int, ...], tuple[int, ...]]]] = {
    "lstm": [(16, (16, 32, 48, 64), (1, 2)), (8, (96, 128), (1,))],
    "gru": [(16, (16, 32, 48, 64), (1, 2))],
    "rnn": [(32, (16, 32, 48, 64), (1, 2, 4)), (32, (96, 128), (1, 2))],
}
SHARED_MEMORY = 227 * 1024  # of a block, on the largest chips; `plan.py` asks the one it has


def _variants() -> list[Variant]:
    found = []
    for real in REAL.values():
        found += [
            Variant(file, names, (("REAL", real),), shared_memory=POINTWISE_ROOM)
            for file, names in POINTWISE.items()
        ]
        for gates in GATES.values():
            macros = (("CELL", gates), ("REAL", real))
            found.append(Variant("steps", ("step_forward", "step_backward"), macros))
    for cell, shapes in SEQUENCE.items():
        for units, columns, cells in shapes:
            for kw, n, tf32 in itertools.product(columns, cells, (0, 1)):
                of_cell = {"CELL": GATES[cell], "UNITS": units, "KW": kw, "CELLS": n, "TF32": tf32}
                found.append(
                    Variant(
                        "sequence",
                        ("sequence_forward", "sequence_backward"),
                        tuple(sorted(of_cell.items())),
                        shared_memory=SHARED_MEMORY,
                        cooperative=True,
                    )
                )
    return found


VARIANTS: tuple[Variant, ...] = tuple(_variants())


@cache
def find(file: str, **macros: str | int) -> Variant:
    """The variant of `file` with these macros; a KeyError means that the list above lacks it."""
    wanted = (file, tuple(sorted(macros.items())))
    return {(v.file, v.macros): v for v in VARIANTS}[wanted]
