"""From what people have (numbers, lists, arrays) to an array of a backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinygrad_rnn import backends
from tinygrad_rnn.backends.base import Array
from tinygrad_rnn.errors import DTypeError, ShapeError, TinygradError


def to_array(data: Any, *, dtype: Any = None, device: str | None = None) -> Array:
    """A C-contiguous copy of `data` as an array on `device`; the rules are those of `tg.tensor`."""
    if type(data) in backends.ARRAY_TYPES and type(data) is not np.ndarray:
        source = backends.of(data)
        if device in (None, source.name, source.device_of(data)):
            dtype = real_dtype(data.dtype if dtype is None else dtype)
            with source.on(data):
                return source.xp.array(data, dtype=dtype, order="C", copy=True)
        data = source.to_host(data)
    try:
        host = np.array(data, order="C", copy=True)
    except TinygradError:
        raise  # a list of tensors that require gradients says so itself
    except (ValueError, TypeError) as error:
        raise ShapeError(
            f"cannot make a tensor of {type(data).__name__}: {error}. Needed numbers in nested "
            f"lists of equal lengths; join tensors with tg.stack or tg.concat"
        ) from None
    found = real_dtype(host.dtype)
    if dtype is None:
        dtype = np.float32 if found == np.float64 and _is_python(data) else found
    host = host.astype(real_dtype(dtype), copy=False)
    if device is None or device == "cpu":
        return host
    return backends.get(device).asarray(host, device)


def real_dtype(dtype: Any) -> np.dtype[Any]:
    """`dtype` in the machine's byte order, or a DTypeError where tensors cannot have it."""
    native: np.dtype[Any] = np.dtype(dtype)
    if not native.isnative:  # a big-endian array becomes native
        native = native.newbyteorder("=")
    if native.kind not in "biuf" or native.itemsize > 8:
        raise DTypeError(
            f"cannot make a tensor of dtype {native}; needed real numbers of up to 64 bits or bools"
        )
    return native


def _is_python(data: Any) -> bool:
    """Whether numbers are written in plain Python, so that a float is "a real number" and no more
    than that; an array, a Tensor or a NumPy scalar has chosen its precision.
    """
    while isinstance(data, Sequence) and len(data):
        data = data[0]
    return not hasattr(data, "dtype")
