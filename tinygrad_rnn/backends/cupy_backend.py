"""CuPy on NVIDIA GPUs: what differs from NumPy, and what a GPU does in its own way.

Most of this project runs on CuPy as it stands: `xp` is CuPy's own module. What is here is how
arrays travel, and what CuPy does not check: indices, and which GPU an array is on. What it would
do in an order that changes from run to run (sums over repeated indices), or in a dozen launches, is
in `cupy_launch.py` and `cupy_update.py`; products are in `cupy_products.py`, time loops in
`window.py`.

Imported when a GPU is first asked for, and never before (`backends/__init__.py`). Work goes to the
current stream and the current GPU of the thread, as in all of CuPy; arrays that are put on "cuda:1"
make that one current. Nothing here waits for the device except where its docstring says so.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable
from typing import Any

import cupy
import numpy as np
from cupy._core import _routines_linalg
from cupyx.scipy import special

from tinygrad_rnn.backends import cupy_products
from tinygrad_rnn.backends.base import Array, check_range
from tinygrad_rnn.backends.cupy_kernels import CudaDevice, kernel
from tinygrad_rnn.backends.cupy_launch import SmallKernels
from tinygrad_rnn.backends.settings import cuda_settings
from tinygrad_rnn.backends.window import choose


class CupyBackend(SmallKernels):
    """Arrays in the memory of a GPU, computed on by CuPy and by the kernels of this package."""

    name = "cuda"
    xp = cupy
    array_type = cupy.ndarray

    kernel = staticmethod(kernel)

    def __init__(self) -> None:
        super().__init__()
        _use_tf32(cuda_settings.tf32)
        cuda_settings.on_change.append(_use_tf32)

    def device_names(self) -> list[str]:
        return [f"cuda:{n}" for n in range(cupy.cuda.runtime.getDeviceCount())]

    def device_of(self, array: Array) -> str:
        return f"cuda:{array.device.id}"

    def asarray(self, host: np.ndarray, device: str) -> Array:
        """As in the contract; the device becomes the thread's current one."""
        number = device.partition(":")[2]
        if number:
            cupy.cuda.Device(int(number)).use()
        return cupy.array(host, order="C", copy=True)

    def to_host(self, array: Array) -> np.ndarray:
        """As in the contract: waits for the device."""
        host: np.ndarray = array.get(order="C")
        return host

    def synchronize(self) -> None:
        cupy.cuda.Device().synchronize()

    def memory(self, device: str = "") -> dict[str, int]:
        """Bytes of a GPU: in arrays, kept by CuPy's pool for the next ones, free, and in all."""
        number = device.partition(":")[2]
        with cupy.cuda.Device(int(number) if number else None):
            pool = cupy.get_default_memory_pool()
            free, total = cupy.cuda.runtime.memGetInfo()
            used = pool.used_bytes()
        return {"in use": used, "kept": pool.total_bytes() - used, "free": free, "in all": total}

    def check_index(self, index: Array, size: int, op: str, *, lowest: int = 0) -> None:
        """As in the contract; for ids that live on the GPU it waits, once."""
        if index.size:
            low, high = cupy.stack([index.min(), index.max()]).get()
            check_range(int(low), int(high), size, op, lowest=lowest)

    def erf(self, x: Array) -> Array:
        return special.erf(x)

    # ---- for SmallKernels ----

    @property
    def deterministic(self) -> bool:  # type: ignore[override] # there it is a constant
        """Whether sums over repeated indices are to come out the same every time."""
        return cuda_settings.deterministic

    def on(self, array: Array) -> Any:
        return array.device

    def address(self, array: Array) -> int:
        return int(array.data.ptr)

    def stream(self) -> Hashable:
        # The thread, too: under per-thread default streams all of them have the same address.
        here = cupy.cuda.runtime.getDevice(), threading.get_ident()
        return *here, cupy.cuda.get_current_stream().ptr

    # ---- products, and whole windows ----

    def matmul(self, a: Array, b: Array) -> Array:
        cupy_products.check_current(a)
        cupy_products.check_current(b)
        return cupy_products.matmul(a, b) if cupy_products.takes(a, b) else cupy.matmul(a, b)

    def sum_rows(self, x: Array) -> Array:
        cupy_products.check_current(x)
        if x.dtype in cupy_products.DTYPES and x.size:
            return cupy_products.sum_rows(x)
        return cupy.sum(x, axis=1)

    def window(self, cell: str, impl: str, like: Array, B: int, H: int, *, relu: bool) -> Any:
        cupy_products.check_current(like)
        return choose(CudaDevice(), cell, impl, like.dtype, B, H, relu=relu)


def _use_tf32(value: bool) -> None:
    """Let CuPy's own products of float32 matrices use TF32, or not."""
    kind = _routines_linalg.COMPUTE_TYPE_TF32 if value else _routines_linalg.COMPUTE_TYPE_FP32
    _routines_linalg.set_compute_type(np.dtype(np.float32), kind)
