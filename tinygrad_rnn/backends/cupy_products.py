"""Products of matrices by cuBLAS, called directly: no copies, and less of the host's time.

`cupy.matmul` copies an operand that is a part of a wider matrix, and thinks longer about each call
(18 microseconds against 13, on an H200). cuBLAS itself asks only that a matrix is rows, or columns,
at a constant distance, which a slice of neighbouring columns is, and its transpose.

cuBLAS thinks in columns: our row-major arrays are its transposed ones. So where we want
``out = a @ b`` it is asked for ``out.T = b.T @ a.T``, with the operands in the other order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cupy
import numpy as np

from tinygrad_rnn.backends.base import Array
from tinygrad_rnn.backends.settings import cuda_settings
from tinygrad_rnn.errors import DeviceError

NORMAL, TRANSPOSED = 0, 1  # cublasOperation_t
FLOAT32, FLOAT64 = 0, 1  # cudaDataType
COMPUTE_32F, COMPUTE_32F_TF32, COMPUTE_64F = 68, 77, 70  # cublasComputeType_t
DEFAULT_ALGORITHM = -1
DTYPES = (np.dtype(np.float32), np.dtype(np.float64))
# Factors in host memory, where cuBLAS reads them.
_ONE = {dtype: np.ones((), dtype) for dtype in DTYPES}
_ZERO = {dtype: np.zeros((), dtype) for dtype in DTYPES}


def check_current(array: Array) -> None:
    """Raise DeviceError unless `array` is on the thread's current GPU, where work is started.

    CuPy's elementwise kernels check that for themselves; cuBLAS and our kernels would read whatever
    stands at the same address of another GPU.
    """
    current = cupy.cuda.runtime.getDevice()
    if array.data.device_id != current:
        raise DeviceError(
            f"an array is on cuda:{array.data.device_id}, and the current GPU of this thread is "
            f"cuda:{current}; move it with .to('cuda:{current}'), or compute "
            f"`with cupy.cuda.Device({array.data.device_id}):`"
        )


def _cublas() -> Any:
    from cupy_backends.cuda.libs import cublas  # noqa: PLC0415 - fails where cuBLAS is missing

    return cublas


def _kinds(dtype: Any) -> tuple[int, int]:
    """The type of the numbers, and how exactly their products are added up."""
    if dtype == np.float64:
        return FLOAT64, COMPUTE_64F
    return FLOAT32, COMPUTE_32F_TF32 if cuda_settings.tf32 else COMPUTE_32F


def multiplier(
    a: Array, b: Array, out: Array, *, add: bool, transposed: bool
) -> Callable[[int], None]:
    """``out[t] = a[t] @ b`` for each t; see `window.Device`."""
    (m, k), n, dtype = a.shape[1:], out.shape[-1], out.dtype
    kind, compute = _kinds(dtype)
    gemm, handle = _cublas().gemmEx, cupy.cuda.device.get_cublas_handle()
    operation = TRANSPOSED if transposed else NORMAL
    one, old = _ONE[dtype].ctypes.data, (_ONE if add else _ZERO)[dtype].ctypes.data
    # Addresses, and how many bytes there are to the next step; and numbers to the next row.
    at_a, next_a, row_a = a.data.ptr, a.strides[0], a.strides[1] // a.itemsize
    at_out, row_out = out.data.ptr, out.strides[-2] // out.itemsize
    next_out = out.strides[0] if out.ndim == 3 else 0
    at_b, row_b = b.data.ptr, b.shape[1]

    def multiply(t: int) -> None:
        gemm(
            handle, operation, NORMAL, n, m, k,
            one, at_b, kind, row_b, at_a + t * next_a, kind, row_a,
            old, at_out + t * next_out, kind, row_out,
            compute, DEFAULT_ALGORITHM,
        )  # fmt: skip

    return multiply


def takes(a: Array, b: Array) -> bool:
    """Whether `matmul` here is for these operands; CuPy's is for all the others."""
    return (
        a.ndim == 2 == b.ndim and a.dtype == b.dtype and a.dtype in DTYPES and a.size > 0 < b.size
    )


def matmul(a: Array, b: Array) -> Array:
    """``a @ b`` of two matrices that `takes` has said yes to; parts and transposes are not copied.

    Seen in columns, a matrix that lies in rows is already the transposed one that is wanted:
    NORMAL. One that lies transposed cuBLAS has to turn.
    """
    (m, k), n = a.shape, b.shape[1]
    kind, compute = _kinds(a.dtype)
    out = cupy.empty((m, n), a.dtype)
    a, operation_a, row_a = _layout(a)
    b, operation_b, row_b = _layout(b)
    _cublas().gemmEx(
        cupy.cuda.device.get_cublas_handle(), operation_b, operation_a, n, m, k,
        _ONE[a.dtype].ctypes.data, b.data.ptr, kind, row_b, a.data.ptr, kind, row_a,
        _ZERO[a.dtype].ctypes.data, out.data.ptr, kind, n,
        compute, DEFAULT_ALGORITHM,
    )  # fmt: skip
    return out


def sum_rows(x: Array) -> Array:
    """The sum of each row of a matrix, as its product with ones: (R, N) to (R,).

    CuPy's sum is slow across rows of a transposed matrix. Always in full precision.
    """
    x, operation, row = _layout(x)
    ones, out = cupy.ones(x.shape[1], x.dtype), cupy.empty(len(x), x.dtype)
    gemv = _cublas().dgemv if x.dtype == np.float64 else _cublas().sgemv
    # Here the matrix itself is wanted, so what lies in rows has to be turned: 1 - operation.
    rows, columns = (x.shape[1], len(x)) if operation == NORMAL else x.shape
    gemv(
        cupy.cuda.device.get_cublas_handle(), 1 - operation, rows, columns,
        _ONE[x.dtype].ctypes.data, x.data.ptr, row, ones.data.ptr, 1,
        _ZERO[x.dtype].ctypes.data, out.data.ptr, 1,
    )  # fmt: skip
    return out


def _layout(x: Array) -> tuple[Array, int, int]:
    """A matrix, whether it lies transposed in memory, and how far apart its rows (or columns) are.

    Copied only where neither its rows nor its columns are runs of numbers side by side.
    """
    rows, columns = x.shape
    down, across = (s // x.itemsize for s in x.strides)
    if (across == 1 or columns == 1) and (down >= columns or rows == 1):
        return x, NORMAL, columns if rows == 1 else down
    if (down == 1 or rows == 1) and (across >= rows or columns == 1):
        return x, TRANSPOSED, rows if columns == 1 else across
    return cupy.ascontiguousarray(x), NORMAL, columns
