"""Our CUDA kernels as functions: compiled at first use, kept, and started with checked arguments.

`kernels/__init__.py` has the list of what may be compiled. CuPy compiles a variant for the GPU at
hand in about a second, once per machine: the result is kept in CuPy's cache on disk.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import cupy
import numpy as np

from tinygrad_rnn.backends.base import Namespace
from tinygrad_rnn.backends.cupy_products import multiplier
from tinygrad_rnn.backends.kernels import Variant, find
from tinygrad_rnn.backends.settings import cuda_settings
from tinygrad_rnn.backends.window import THREADS
from tinygrad_rnn.errors import DeviceError

NULL = np.uintp(0)


@cache
def _module(variant: Variant) -> cupy.RawModule:
    return cupy.RawModule(
        code=variant.source(),
        options=variant.options,
        enable_cooperative_groups=variant.cooperative,
    )


@cache
def kernel_of(variant: Variant, name: str) -> Any:
    """A kernel of a variant, to be called as ``k((blocks,), (threads,), arguments)``."""
    found = _module(variant).get_function(name)
    if variant.shared_memory > 48 * 1024:  # more than a block gets without asking
        found.max_dynamic_shared_size_bytes = min(variant.shared_memory, CudaDevice().shared_memory)
    return found


def kernel(file: str, name: str, **macros: str | int) -> Any:
    """The kernel `name` of `file`, compiled with these macros."""
    return kernel_of(find(file, **macros), name)


class CudaDevice:
    """The current GPU, as `backends/window.py` needs it."""

    xp: Namespace = cupy
    multiplier = staticmethod(multiplier)

    def __init__(self) -> None:
        self.processors, self.shared_memory = _limits(cupy.cuda.runtime.getDevice())

    @property
    def tf32(self) -> bool:
        return cuda_settings.tf32

    def arguments(self, *values: Any) -> tuple[Any, ...]:
        return tuple([_argument(value) for value in values])

    def launcher(
        self, variant: Variant, name: str, blocks: int, shared: int
    ) -> Callable[[tuple[Any, ...]], None]:
        """What starts a kernel; blocks that wait for each other are first shown to fit at once."""
        if variant.cooperative:
            room = self.processors * _resident(variant, name, shared)
            if blocks > room:
                raise DeviceError(
                    f"{name}: {blocks} blocks wait for each other, but this GPU runs only {room} "
                    f"at a time; they would wait forever. Use impl='fused'"
                )
        started, grid, block = kernel_of(variant, name), (blocks,), (THREADS,)
        return lambda arguments: started(grid, block, arguments, shared_mem=shared)


@cache
def _limits(device: int) -> tuple[int, int]:
    attributes = cupy.cuda.Device(device).attributes
    return attributes["MultiProcessorCount"], attributes["MaxSharedMemoryPerBlockOptin"]


@cache
def _resident(variant: Variant, name: str, shared: int) -> int:
    """How many blocks of a kernel one multiprocessor runs at a time."""
    function = kernel_of(variant, name).kernel
    return int(
        cupy.cuda.driver.occupancyMaxActiveBlocksPerMultiprocessor(function.ptr, THREADS, shared)
    )


def _argument(value: Any) -> Any:
    if value is None:
        return NULL
    if isinstance(value, cupy.ndarray) and not value.flags.c_contiguous:
        raise ValueError(f"a kernel takes no strides: {value.shape} with strides {value.strides}")
    return np.int32(value) if isinstance(value, int) else value
