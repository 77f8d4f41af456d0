"""New tensors that are computed from nothing but a shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinygrad_rnn import backends
from tinygrad_rnn.core.array import real_dtype
from tinygrad_rnn.core.tensor import Tensor, tensor, wrap

Shape = int | Sequence[int]


def full(
    shape: Shape,
    fill_value: float,
    *,
    dtype: Any = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """A tensor of one value. Python floats give float32, ints int64, bools bool."""
    if dtype is None:
        dtype = tensor(fill_value).dtype
    host = np.full(shape, fill_value, dtype=dtype)
    return tensor(host, device=device, requires_grad=requires_grad)


def zeros(
    shape: Shape, *, dtype: Any = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """Zeros of a shape; float32 unless told otherwise."""
    host = np.zeros(shape, dtype=np.float32 if dtype is None else dtype)
    return tensor(host, device=device, requires_grad=requires_grad)


def ones(
    shape: Shape, *, dtype: Any = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """Ones of a shape; float32 unless told otherwise."""
    host = np.ones(shape, dtype=np.float32 if dtype is None else dtype)
    return tensor(host, device=device, requires_grad=requires_grad)


def zeros_like(x: Any, *, dtype: Any = None) -> Any:
    """Zeros in the shape, dtype and place of `x` (a Tensor or an array); a leaf of its own."""
    if isinstance(x, Tensor):
        return wrap(zeros_like(x._data, dtype=dtype), None)
    return backends.namespace(x).zeros(x.shape, dtype=dtype or x.dtype)


def ones_like(x: Any, *, dtype: Any = None) -> Any:
    """Ones in the shape, dtype and place of `x` (a Tensor or an array); a leaf of its own."""
    if isinstance(x, Tensor):
        return wrap(ones_like(x._data, dtype=dtype), None)
    return backends.namespace(x).ones(x.shape, dtype=dtype or x.dtype)


def arange(
    start: float,
    stop: float | None = None,
    step: float = 1,
    *,
    dtype: Any = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """``start, start + step, ...`` below `stop`; with one argument, from 0. Ints give int64."""
    start, stop = (0, start) if stop is None else (start, stop)
    if dtype is None:
        whole = all(isinstance(v, int | np.integer) for v in (start, stop, step))
        dtype = np.int64 if whole else np.float32
    host = np.arange(start, stop, step).astype(dtype)
    return tensor(host, device=device, requires_grad=requires_grad)


def eye(
    n_rows: int,
    n_cols: int | None = None,
    *,
    k: int = 0,
    dtype: Any = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Ones on the k-th diagonal, zeros elsewhere; float32 unless told otherwise."""
    host = np.eye(n_rows, n_cols, k=k, dtype=np.float32 if dtype is None else dtype)
    return tensor(host, device=device, requires_grad=requires_grad)


def from_dlpack(array: Any) -> Tensor:
    """A tensor that shares memory with any array that speaks DLPack (PyTorch, JAX, CuPy, ...)."""
    kind = array.__dlpack_device__()[0]
    on_cpu = 1  # DLDeviceType.kDLCPU
    backend = backends.get("cpu" if kind == on_cpu else "cuda")
    shared = backend.xp.from_dlpack(array)
    real_dtype(shared.dtype)
    return wrap(shared, None)
