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
from tinygrad_rnn.backends.cupy_products import check_current, multiplier
from tinygrad_rnn.backends.kernels import Variant, find
from tinygrad_rnn.backends.plan import THREADS
from tinygrad_rnn.backends.settings import cuda_settings
from tinygrad_rnn.errors import DeviceError

NULL = np.uintp(0)


@cache
def _module(variant: Variant, together: bool) -> cupy.RawModule:
    """CuPy's handle; `together` changes how its kernels are started, and not what is compiled."""
    return cupy.RawModule(
        code=variant.source(), options=variant.options, enable_cooperative_groups=together
    )


@cache
def kernel_of(variant: Variant, name: str, device: int, *, together: bool = False) -> Any:
    """A kernel of a variant, to be called as ``k((blocks,), (threads,), arguments)``.

    One for each GPU: what a kernel may have of shared memory is set on the current one.
    """
    found = _module(variant, together).get_function(name)
    if variant.shared_memory > 48 * 1024:  # more than a block gets without asking
        found.max_dynamic_shared_size_bytes = min(variant.shared_memory, _limits(device)[1])
    return found


@cache
def kernel(file: str, name: str, **macros: str | int) -> Any:
    """The kernel `name` of `file`, compiled with these macros; for small kernels, on any GPU."""
    return kernel_of(find(file, **macros), name, device=-1)


class CudaDevice:
    """The current GPU, as `backends/plan.py` describes one."""

    xp: Namespace = cupy
    multiplier = staticmethod(multiplier)

    def __init__(self) -> None:
        self.number = cupy.cuda.runtime.getDevice()
        self.processors, self.shared_memory = _limits(self.number)

    @property
    def tf32(self) -> bool:
        return cuda_settings.tf32

    def arguments(self, *values: Any) -> tuple[Any, ...]:
        return tuple([_argument(value) for value in values])

    def launcher(
        self, variant: Variant, name: str, blocks: int, shared: int, *, together: bool
    ) -> Callable[[tuple[Any, ...]], None]:
        """What starts a kernel; blocks that wait for each other are first shown to fit at once."""
        if together:
            room = self.processors * resident(variant, name, self.number, shared)
            if blocks > room:
                raise DeviceError(
                    f"{name}: {blocks} blocks wait for each other, but this GPU runs only {room} "
                    f"at a time; they would wait forever. Use impl='fused'"
                )
        start = kernel_of(variant, name, self.number, together=together)
        return lambda arguments: start((blocks,), (THREADS,), arguments, shared_mem=shared)


@cache
def _limits(device: int) -> tuple[int, int]:
    attributes = cupy.cuda.Device(device).attributes
    return attributes["MultiProcessorCount"], attributes["MaxSharedMemoryPerBlockOptin"]


@cache
def resident(variant: Variant, name: str, device: int, shared: int) -> int:
    """How many blocks of a kernel one multiprocessor runs at a time."""
    function = kernel_of(variant, name, device, together=True).kernel
    return int(
        cupy.cuda.driver.occupancyMaxActiveBlocksPerMultiprocessor(function.ptr, THREADS, shared)
    )


def _argument(value: Any) -> Any:
    if value is None:
        return NULL
    if isinstance(value, int):
        return np.int32(value)
    check_current(value)
    if not value.flags.c_contiguous:
        raise ValueError(f"a kernel takes no strides: {value.shape} with strides {value.strides}")
    return value
