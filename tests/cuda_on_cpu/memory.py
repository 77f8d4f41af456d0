"""Where the arrays of a launch live: copies of them, between guards.

Arguments may overlap, as `h[:-1]` and `h[1:]` of one array of states do: what overlaps shares one
buffer, and each argument points into it. What does not overlap lies far apart, even if it was close
before: between are the guards, numbers that nobody may change. As floats they are *signalling* NaN.
A kernel that reads one has a NaN, and if it writes that back, to where it was, has changed a bit;
no two guards have the same numbers, so that a copy of one onto another is seen, too.
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass

import numpy as np

ALIGNMENT = 256  # bytes: of what cudaMalloc gives, at least
GUARD = 4096  # bytes before and behind each buffer, at least


def aligned(size: int) -> tuple[np.ndarray, int]:
    """An array of at least `size` bytes, and the place in it where they are to start."""
    whole = np.zeros(math.ceil((size + ALIGNMENT) / 8) * 8, np.uint8)
    return whole, -whole.ctypes.data % ALIGNMENT


def signalling_nans(size: int, itemsize: int) -> np.ndarray:
    """`size` bytes (a multiple of 8): NaN in floats of this size, each with another payload."""
    rng = np.random.default_rng()
    if itemsize == 8:
        payloads = rng.integers(0, 1 << 48, size // 8, dtype=np.uint64)
        return (payloads | np.uint64(0xFFF5 << 48)).view(np.uint8)
    payloads = rng.integers(0, 1 << 16, size // 4, dtype=np.uint32)
    return (payloads | np.uint32(0xFFA5 << 16)).view(np.uint8)


class Poisoned:
    """NumPy, but what `empty` gives holds NaN: whoever reads it before writing is found out."""

    def __getattr__(self, name: str):
        return getattr(np, name)

    def empty(self, shape, dtype) -> np.ndarray:
        return np.full(shape, np.nan if np.dtype(dtype).kind == "f" else -7, dtype)


@dataclass
class Buffer:
    """The bytes from `first` to `end` of NumPy's memory, in `whole`, from `start` on."""

    first: int
    end: int
    writable: bool
    itemsize: int

    def fill(self) -> None:
        size = self.end - self.first
        self.whole, self.start = aligned(2 * GUARD + size)
        self.whole[:] = signalling_nans(self.whole.size, self.itemsize)
        self.start += GUARD
        self.address = self.whole.ctypes.data + self.start
        self.guards = self.whole[: self.start], self.whole[self.start + size :]
        self.untouched = [guard.copy() for guard in self.guards]
        ctypes.memmove(self.address, self.first, size)

    def empty(self) -> bool:
        """Copy back what may be written; whether nothing else was."""
        size = self.end - self.first
        if self.writable:
            ctypes.memmove(self.first, self.address, size)
        return ctypes.string_at(self.first, size) == ctypes.string_at(self.address, size)

    def overrun(self) -> int | None:
        """The first byte written outside, counted from the buffer's start."""
        places = (-self.start, self.end - self.first)
        for place, guard, before in zip(places, self.guards, self.untouched, strict=True):
            changed = np.flatnonzero(guard != before)
            if changed.size:
                return place + int(changed[0])
        return None


class Memory:
    """Buffers for `arrays`, contiguous ones, each with whether it may be written."""

    def __init__(self, arrays: list[tuple[np.ndarray, bool]]):
        self.buffers: list[Buffer] = []
        self.scalars: list[np.ndarray] = []
        for first, end, writable, itemsize in sorted(
            (a.ctypes.data, a.ctypes.data + a.nbytes, writable, a.itemsize)
            for a, writable in arrays
            if a.size
        ):
            if self.buffers and first < self.buffers[-1].end:
                last = self.buffers[-1]
                last.end = max(last.end, end)
                last.writable |= writable
            else:
                self.buffers.append(Buffer(first, end, writable, itemsize))
        for buffer in self.buffers:
            buffer.fill()

    def pointer(self, array: np.ndarray | None) -> np.uintp:
        """Where a kernel finds the array. An empty one is nowhere, as on a GPU: a null pointer."""
        if array is None or not array.size:
            return np.uintp(0)
        at = array.ctypes.data
        buffer = next(b for b in self.buffers if b.first <= at < b.end)
        return np.uintp(buffer.address + at - buffer.first)

    def hold(self, value: np.generic) -> int:
        """The address of a copy of this scalar, aligned for whatever is in it."""
        data = np.frombuffer(value.tobytes(), np.uint8)
        whole, start = aligned(data.size)
        whole[start : start + data.size] = data
        self.scalars.append(whole)
        return whole.ctypes.data + start

    def copy_back(self) -> str:
        """What was written that may not be written, or nothing."""
        untouched = [buffer.empty() for buffer in self.buffers]
        for buffer in self.buffers:
            byte = buffer.overrun()
            if byte is not None:
                size = buffer.end - buffer.first
                return f"overrun: byte {byte} of an array of {size} bytes was written"
        return "" if all(untouched) else "an array that is const in the kernel was written"
