"""Changing a tensor's dtype or device. Both are ops: gradients travel back the same way."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_rnn import backends
from tinygrad_rnn.backends.base import Array
from tinygrad_rnn.core.primitive import primitive
from tinygrad_rnn.core.tensor import Tensor
from tinygrad_rnn.errors import DTypeError


@primitive
def _astype(x: Array, *, dtype: Any) -> Array:
    return x.astype(dtype, copy=False)


# The engine brings every gradient to its input's dtype, which is all there is to do.
_astype.vjp(x=lambda g: g)


def astype(x: Any, dtype: Any) -> Any:
    """`x` in another dtype. From floats to integers or bools no gradient flows."""
    dtype = np.dtype(dtype)
    if dtype.kind not in "biuf":
        raise DTypeError(f"astype: needed a real or bool dtype, got {dtype}")
    if isinstance(x, Tensor) and dtype.kind != "f":
        x = x.detach()
    return _astype(x, dtype=dtype)


@primitive
def _transfer(x: Array, *, device: str, origin: str) -> Array:
    target, source = backends.get(device), backends.of(x)
    if source.device_of(x) == device:
        return x
    return target.asarray(source.to_host(x), device)


_transfer.vjp(x=lambda g, *, device, origin: _transfer(g, device=origin, origin=device))


def to(x: Any, *args: Any, dtype: Any = None, device: str | None = None) -> Any:
    """`x` on another device, in another dtype, or both: ``t.to("cuda")``, ``t.to(tg.float64)``.

    Raises:
        BackendUnavailable: the device cannot be used here; there is no silent fallback.
    """
    for arg in args:
        if isinstance(arg, str) and not _names_dtype(arg):
            device = arg
        elif isinstance(arg, int):  # a GPU's number, as elsewhere
            raise DTypeError(f"to: {arg} is no dtype, and devices have names, such as 'cuda:{arg}'")
        else:
            dtype = arg
    if device is not None:
        target = backends.get(device)
        here = x.device if isinstance(x, Tensor) else backends.of(x).device_of(x)
        if ":" not in device and target is backends.of(x._data if isinstance(x, Tensor) else x):
            device = here  # "cuda" means the device it is on already, if that is a GPU
        if device != here:
            x = _transfer(x, device=device, origin=here)
    return x if dtype is None else astype(x, dtype)


def _names_dtype(name: str) -> bool:
    try:
        np.dtype(name)
    except TypeError:
        return False
    return True


def cpu(x: Any) -> Any:
    """`x` in host memory."""
    return to(x, device="cpu")


def cuda(x: Any) -> Any:
    """`x` on the GPU; raises `BackendUnavailable` where there is none."""
    return to(x, device="cuda")
