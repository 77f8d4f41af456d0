"""Run this project's CUDA kernels on a CPU: the `.cu` text itself, as C++, one fiber per thread.

``launch(variant, "kernel", grid, block, [x, out, np.int32(n)])`` compiles the variant's source with
`cuda_words.hpp` in front of it, once per test session, and runs it on NumPy arrays, in place. The
first lines of `cuda_words.hpp` say what such a run cannot show.

What is held against the kernel, besides its results:

- the arguments: their number, and each one's type, as declared in the kernel (a GPU would take any
  eight bytes for a pointer);
- the launch: threads and shared memory within what the variant promises;
- memory: arrays live in buffers of their own, between guards, and shared memory has one behind it.
  A write into a guard is an error; a read gets a NaN, or an integer far off. NaNs (0xff in every
  byte) fill shared memory before a block starts. Fill what a kernel is to write with NaN yourself;
- running: a stray address, an endless loop, an integer divided by zero;
- waiting: a deadlock is reported with who waits where, and so are threads of a block that meet in
  different barriers. A missing barrier shows as a wrong result for some `seed`: try a few.
"""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest

from tests.cuda_on_cpu.memory import Memory

HERE = Path(__file__).parent
MOST_SHARED_MEMORY = 227 * 1024  # bytes of a block, of sm_90
MOST_BLOCKS, MOST_THREADS = (2**31 - 1, 65535, 65535), (1024, 1024, 64)  # along x, y, z
# No fused multiply-adds, so that every machine computes the same; casts between pointers as in
# CUDA; and the longest frame on a fiber's stack (fibers.hpp).
FLAGS = (
    *("-std=c++17", "-O2", "-fPIC", "-fvisibility=hidden", "-U_FORTIFY_SOURCE"),
    *("-ffp-contract=off", "-fno-strict-aliasing", "-Wno-unknown-pragmas"),
    "-Wframe-larger-than=32768",
)


class Variant(Protocol):
    """What of `tinygrad_rnn.backends.kernels.Variant` is used here."""

    kernels: tuple[str, ...]
    threads: int
    shared_memory: int
    cooperative: bool

    @property
    def options(self) -> tuple[str, ...]: ...
    def source(self) -> str: ...


class KernelError(AssertionError):
    """A kernel that waits forever, or touches what is not its own."""


class CompileError(KernelError):
    """A kernel that does not compile."""


class Argument(ctypes.Structure):
    """What a kernel declares an argument to be: `Argument` of cuda_words.hpp."""

    _fields_ = [(name, ctypes.c_int) for name in ("pointer", "constant", "kind", "bytes")]

    def takes(self, dtype: np.dtype) -> bool:
        return dtype.itemsize == self.bytes and dtype.kind == chr(self.kind)

    def __str__(self) -> str:
        return f"{'array' if self.pointer else 'scalar'} of {chr(self.kind)}{self.bytes}"


@dataclass(frozen=True)
class Library:
    """A compiled variant, and the lines it was compiled from."""

    library: ctypes.CDLL
    lines: list[str]

    def arguments(self, kernel: str) -> list[Argument]:
        describe = self.library[f"{kernel}_arguments"]
        describe.restype = ctypes.POINTER(Argument)
        listed, found = describe(), []
        while listed[len(found)].kind:
            found.append(listed[len(found)])
        return found

    def with_lines(self, message: str) -> str:
        """Where the message says "line 7", that line's text behind it."""
        return re.sub(
            r"line (\d+)",
            lambda m: f"{m[0]} `{self.lines[int(m[1]) - 1].strip()}`",
            message,
        )


@cache
def compiler() -> str | None:
    """The C++ compiler of this machine, or None."""
    names = (os.environ.get("CXX"), "c++", "g++", "clang++")
    return next(filter(None, (shutil.which(n) for n in names if n)), None)


def _trouble() -> str:
    """Why nothing can be run here, or nothing."""
    if sys.platform != "linux":
        return f"fibers are made for Linux, not for {sys.platform}"
    return "" if compiler() else "no C++ compiler: neither $CXX nor c++, g++ or clang++"


needs_compiler = pytest.mark.skipif(bool(_trouble()), reason=_trouble())


@cache
def _workshop() -> Path:
    path = Path(tempfile.mkdtemp(prefix="cuda_on_cpu_"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def _compile(*arguments: str | Path) -> None:
    command = [compiler() or "c++", *FLAGS, *map(str, arguments), f"-I{HERE}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or "-Wframe-larger-than" in done.stderr:
        raise CompileError(f"{' '.join(command)}\n{done.stderr}")


@cache
def _runtime() -> tuple[Path, ...]:
    """What every library contains besides its kernels, compiled once."""
    objects = tuple(_workshop() / f"{name}.o" for name in ("fibers", "launch"))
    for path in objects:
        _compile("-c", HERE / f"{path.stem}.cpp", "-o", path)
    return objects


def compile(variant: Variant) -> Library:
    """The variant as a library; the same text, options and kernels are compiled once."""
    return _library(variant.source(), tuple(variant.options), tuple(variant.kernels))


@cache
def _library(source: str, options: tuple[str, ...], kernels: tuple[str, ...]) -> Library:
    offered = "".join(f"ON_CPU_KERNEL({name})\n" for name in kernels)
    text = f'#include "cuda_words.hpp"\n#line 1 "source"\n{source}\n{offered}'
    key = hashlib.sha256(repr((text, options)).encode()).hexdigest()[:16]
    file = _workshop() / f"{key}.cpp"
    file.write_text(text, encoding="utf-8")
    library = file.with_suffix(".so")
    _compile(*options, "-shared", file, *_runtime(), "-o", library)
    return Library(ctypes.CDLL(str(library)), source.splitlines())


def launch(
    variant: Variant,
    kernel: str,
    grid: int | tuple[int, ...],
    block: int | tuple[int, ...],
    arguments: Sequence[np.ndarray | np.generic | None],
    *,
    shared_memory: int = 0,
    cooperative: bool = False,
    seed: int = 0,
    patience: int = 60,
) -> None:
    """Run a kernel; arrays are its pointers, NumPy scalars (structured ones, too) its values.

    None is a null pointer. `seed` draws the order of the threads. In a cooperative launch all
    blocks run at once; else one after another, so that none can wait for another. After `patience`
    seconds of computing, a kernel is taken to be in an endless loop.
    """
    grid, block = _sizes(grid), _sizes(block)
    _check_launch(variant, kernel, grid, block, shared_memory, cooperative)
    library = compile(variant)
    declared = library.arguments(kernel)
    _check_arguments(kernel, declared, arguments)
    memory = Memory(
        [
            (value, not argument.constant)
            for argument, value in zip(declared, arguments, strict=True)
            if isinstance(value, np.ndarray)
        ]
    )
    values = [a if isinstance(a, np.generic) else memory.pointer(a) for a in arguments]
    run = library.library.launch_on_cpu
    run.restype = ctypes.c_char_p
    problem = run(
        library.library[f"{kernel}_call"],
        (ctypes.c_void_p * len(values))(*map(memory.hold, values)),
        (ctypes.c_uint * 6)(*grid, *block),
        ctypes.c_size_t(shared_memory),
        ctypes.c_int(cooperative),
        ctypes.c_uint64(seed),
        ctypes.c_long(patience),
    )
    written = memory.copy_back()
    if problem or written:
        said = library.with_lines(problem.decode()) if problem else written
        raise KernelError(f"{kernel}, seed {seed}: {said}")


def _sizes(sizes: int | tuple[int, ...]) -> tuple[int, ...]:
    sizes = (sizes,) if isinstance(sizes, int) else tuple(sizes)
    return (*sizes, 1, 1)[: max(3, len(sizes))]


def _check_launch(
    variant: Variant,
    kernel: str,
    grid: tuple[int, ...],
    block: tuple[int, ...],
    shared_memory: int,
    cooperative: bool,
) -> None:
    if kernel not in variant.kernels:
        raise ValueError(f"no kernel {kernel!r} among {variant.kernels}")
    for what, sizes, most in (("grid", grid, MOST_BLOCKS), ("block", block, MOST_THREADS)):
        if len(sizes) != 3 or not all(1 <= n <= m for n, m in zip(sizes, most, strict=False)):
            raise ValueError(f"{kernel}: the {what} {sizes} is outside (1, 1, 1) to {most}")
    if math.prod(block) > variant.threads:
        raise ValueError(f"{kernel}: block {block} exceeds the variant's {variant.threads} threads")
    allowed = min(variant.shared_memory, MOST_SHARED_MEMORY)
    if shared_memory > allowed:
        raise ValueError(f"{kernel}: {shared_memory} bytes of shared memory exceed {allowed}")
    if cooperative and not variant.cooperative:
        raise ValueError(f"{kernel}: a cooperative launch of a variant that is not cooperative")


def _check_arguments(kernel: str, declared: list[Argument], given: Sequence) -> None:
    if len(given) != len(declared):
        raise TypeError(f"{kernel} has {len(declared)} arguments, not {len(given)}")
    for i, (argument, value) in enumerate(zip(declared, given, strict=True)):
        where = f"{kernel}, argument {i}: {argument} was declared"
        if value is None and argument.pointer:
            continue
        if not isinstance(value, np.ndarray if argument.pointer else np.generic):
            raise TypeError(f"{where}, this is a {type(value).__name__}")
        if not argument.takes(value.dtype):
            raise TypeError(f"{where}, this is {value.dtype}")
        if isinstance(value, np.ndarray) and not value.flags.c_contiguous:
            raise ValueError(f"{where}, and a kernel ignores strides: this is not contiguous")
        if argument.pointer and not argument.constant and not value.flags.writeable:
            raise ValueError(f"{where}, not const, and this array is read-only")
