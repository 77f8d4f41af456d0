"""An optimizer's step over all parameters at once: `kernels/update.cu` and what launches it.

    squared_norms, clip_factor        the squares of all gradients, and the factor that clips them
    scale_all                         the clipping
    adam_step                         the update

are a launch each for up to 48 arrays: three for what would be a dozen per array. The addresses of
the arrays travel in a struct that is an argument, so nothing is copied to the device, and the norm
and the factor stay there: nothing waits. Sums have a fixed order, so they are deterministic.

`Kernels` are the three methods that a backend fills in. CuPy is not imported here, its namespace is
``self.xp``: so the tests run all of this on NumPy arrays, the kernels included.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import numpy as np

from tinygrad_rnn.backends.base import Array, Backend
from tinygrad_rnn.backends.kernels import REAL

Launch = Callable[..., None]  # kernel((grid,), (block,), arguments, shared_mem=bytes)
Parameter = tuple[Array, Array, Array, Array]  # x, g, m, v

TOGETHER = 48  # arrays in a launch: their struct stays below the 4 KB that arguments may have
CHUNK = 4096  # numbers of a block
# `Arrays` of update.cu, field by field.
ARRAYS = np.dtype(
    [
        ("at", np.uint64, (4, TOGETHER)),
        ("size", np.int64, TOGETHER),
        ("first", np.int32, TOGETHER + 1),
        ("place", np.int32, TOGETHER),
        ("count", np.int32),
    ],
    align=True,
)


def pack(
    addresses: Sequence[Sequence[int]], sizes: Sequence[int], places: Sequence[int]
) -> tuple[np.ndarray, int]:
    """The struct for up to 48 arrays, as an argument, and the number of blocks for their chunks.

    ``addresses[k]`` are those of up to four arrays of ``sizes[k]`` numbers that belong together.
    """
    packed = np.zeros((), ARRAYS)
    n, blocks = len(sizes), np.cumsum([0, *(-(-size // CHUNK) for size in sizes)])
    at = np.array(addresses, np.uint64).T
    packed["at"][: len(at), :n] = at
    packed["size"][:n] = sizes
    packed["first"][: n + 1] = blocks
    packed["place"][:n] = places
    packed["count"] = n
    return packed, max(1, int(blocks[-1]))  # without numbers there still is an answer


class Kernels(Backend):
    """A backend with kernels of its own; where they come from, it says in these methods."""

    def kernel(self, file: str, name: str, **macros: str | int) -> Launch:
        """The kernel `name` of `file`, compiled."""
        raise NotImplementedError

    def address(self, array: Array) -> int:
        """Where the array's first number is, in the memory of its device."""
        raise NotImplementedError

    def stream(self) -> Hashable:
        """The current device and stream."""
        raise NotImplementedError


class UpdateKernels(Kernels):
    """The part of the contract that `kernels/update.cu` has kernels for."""

    fused_updates = True

    def __init__(self) -> None:
        self._counters: dict[Hashable, Array] = {}
        self._packed: dict[Hashable, tuple[np.ndarray, int]] = {}

    def squared_norms(self, arrays: Sequence[Array]) -> Array:
        """As in the contract, in one launch for up to 48 arrays."""
        return self._sum_squares(arrays, None)[0]

    def clip_factor(self, arrays: Sequence[Array], max_norm: float) -> tuple[Array, Array, Array]:
        """As in the contract; the last block of the same launch goes on to norm and factor."""
        squares, limit = self._sum_squares(arrays, max_norm)
        norm, factor = limit[:1].reshape(()), limit[1:].reshape(())  # arrays, on NumPy as well
        return squares, norm, factor

    def _sum_squares(self, arrays: Sequence[Array], max_norm: float | None) -> tuple[Array, Array]:
        xp, n = self.xp, len(arrays)
        with self.on(arrays[0]):
            squares, limit = xp.empty(n, dtype=np.float64), xp.empty(2, dtype=np.float64)
            groups = [(self._readable(a),) for a in arrays]  # copies live until they are used
            launches = list(self._batches(groups))
            for k, (real, packed, blocks) in enumerate(launches):
                goes_on = max_norm is not None and k == len(launches) - 1
                most = math.inf if max_norm is None else max_norm
                numbers = (np.int32(n * goes_on), np.float64(most), np.int32(most == math.inf))
                sums = xp.empty(blocks, dtype=np.float64)  # of each chunk
                self.kernel("update", "sum_squares", REAL=real)(
                    (blocks,),
                    (256,),
                    (packed, sums, self._counter(), squares, limit, *numbers),
                    shared_mem=9 * 8,
                )
        return squares, limit

    def _readable(self, array: Array) -> Array:
        """Contiguous, and float32 at least."""
        if array.dtype not in REAL:
            array = array.astype(np.promote_types(array.dtype, np.float32))
        return self.xp.ascontiguousarray(array)

    def _counter(self) -> Array:
        """A number that is 0 between launches; one for each stream, whose launches are in order."""
        key = self.stream()
        if key not in self._counters:
            self._counters[key] = self.xp.zeros(1, dtype=np.uint32)
        return self._counters[key]

    def scale_all(self, arrays: Sequence[Array], factor: Array) -> None:
        """As in the contract; where the factor is 1, nothing is written."""
        fit, rest = _parted([(a,) for a in arrays])
        if fit:
            with self.on(factor):
                for real, packed, blocks in self._batches(fit):
                    scale = self.kernel("update", "scale", REAL=real)
                    scale((blocks,), (256,), (packed, factor))
        for (array,) in rest:
            array[...] = array * factor  # in float64, as the kernel does

    def adam_step(
        self,
        parameters: Sequence[Parameter],
        *,
        betas: tuple[float, float],
        step_size: float,
        eps: float,
        weight_decay: float,
        shrink: float,
    ) -> None:
        """As in the contract, in one launch for up to 48 parameters."""
        fit, rest = _parted(parameters)
        new = [1 - beta for beta in betas]
        numbers = (betas[0], new[0], betas[1], new[1], step_size, eps, weight_decay, shrink)
        if fit:
            with self.on(fit[0][0]):
                for real, packed, blocks in self._batches(fit):
                    number = np.float32 if real == "float" else np.float64
                    adam = self.kernel("update", "adam", REAL=real)
                    adam((blocks,), (256,), (packed, *(number(v) for v in numbers)))
        if rest:
            super().adam_step(
                rest,
                betas=betas,
                step_size=step_size,
                eps=eps,
                weight_decay=weight_decay,
                shrink=shrink,
            )

    def _batches(self, groups: Sequence[Any]) -> Iterator[tuple[str, np.ndarray, int]]:
        """For each launch: the C++ type of its numbers, its struct, and its blocks.

        A group is one array, or x, g, m and v. Its place is counted among all groups.
        """
        kinds: dict[str, list[int]] = defaultdict(list)
        for place, group in enumerate(groups):
            kinds[REAL[group[0].dtype]].append(place)
        for real, places in kinds.items():
            for start in range(0, len(places), TOGETHER):
                some = places[start : start + TOGETHER]
                addresses = [[self.address(a) for a in groups[p]] for p in some]
                sizes = [groups[p][0].size for p in some]
                yield real, *self._pack(addresses, sizes, some)

    def _pack(
        self, addresses: list[list[int]], sizes: list[int], places: list[int]
    ) -> tuple[np.ndarray, int]:
        """`pack`, remembered: from step to step arrays stay, and gradients get the same places."""
        key = (tuple(map(tuple, addresses)), tuple(sizes), tuple(places))
        if key not in self._packed:
            if len(self._packed) > 100:
                self._packed.clear()
            self._packed[key] = pack(addresses, sizes, places)
        return self._packed[key]


def _parted(groups: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Groups that a kernel can write to in place (contiguous, of one dtype), and the others."""
    parted: tuple[list[Any], list[Any]] = ([], [])
    for group in groups:
        dtype = group[0].dtype
        fits = dtype in REAL and all(a.dtype == dtype and a.flags.c_contiguous for a in group)
        parted[not fits].append(group)
    return parted
