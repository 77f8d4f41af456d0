"""Several threads, each with its own part of the work, and a BLAS that keeps to one thread.

Left to itself OpenBLAS splits every matrix product over all cores and makes them wait for each
other after it. A time loop is hundreds of small products, so that is hundreds of waits: short ones
on an idle machine, most of the time on a busy one (44,000 characters a second became 5,000 beside
one other busy program). And between two products the helper thread spins for some 20 ms, and takes
its core from anybody else.

The rows of a batch do not depend on each other. So here each thread takes its rows through the
whole window, with products of its own, and the threads meet once, at the end. It works in Python
because NumPy lets go of the interpreter's lock while it computes.
"""

from __future__ import annotations

import contextvars
import ctypes
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np

Part = TypeVar("Part")
Result = TypeVar("Result")


@functools.cache
def _blas() -> tuple[Callable[[], int], Callable[[int], None]] | None:
    """How to read and set the number of threads of NumPy's BLAS; None if it is not OpenBLAS."""
    try:
        core = np._core._multiarray_umath.__file__  # type: ignore[attr-defined] # not in the stubs
        library = ctypes.CDLL(core)  # a look-up in it also searches what it is linked with
        read = library.scipy_openblas_get_num_threads64_
        write = library.scipy_openblas_set_num_threads64_
    except (AttributeError, OSError):  # another BLAS, or another build of NumPy
        return None
    write.restype = None
    return read, write


class _Limit:
    """Who wants BLAS to keep to one thread at the moment, and what to put back after the last."""

    lock = threading.Lock()
    holders = 0
    before = 1


def blas_threads() -> int:
    """How many threads BLAS may use: 1 where we cannot tell, or cannot change it."""
    blas = _blas()
    with _Limit.lock:
        return 1 if blas is None else _Limit.before if _Limit.holders else blas[0]()


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """BLAS keeps to one thread inside; afterwards it is as before. May be nested, in any thread."""
    blas = _blas()
    if blas is None:
        yield
        return
    read, write = blas
    with _Limit.lock:
        if _Limit.holders == 0:
            _Limit.before = read()
            write(1)
        _Limit.holders += 1
    try:
        yield
    finally:
        with _Limit.lock:
            _Limit.holders -= 1
            if _Limit.holders == 0:
                write(_Limit.before)


def run_parts(work: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
    """``[work(part) for part in parts]``, a thread for each part; an exception in any is raised.

    Threads are made for the occasion: 0.1 ms beside a window of many, and nothing is left behind
    that a fork could trip over.
    """
    results: list[Any] = [None] * len(parts)
    errors: list[BaseException] = []

    def run(k: int) -> None:
        try:
            results[k] = work(parts[k])
        except BaseException as error:  # noqa: BLE001 - raised below, in the caller's thread
            errors.append(error)

    with one_blas_thread():
        # A copy of the context takes the caller's np.errstate along.
        others = [
            threading.Thread(target=contextvars.copy_context().run, args=(run, k))
            for k in range(1, len(parts))
        ]
        for thread in others:
            thread.start()
        run(0)
        for thread in others:
            thread.join()
    if errors:
        raise errors[0]
    return results
