"""Devices, and how the arrays of a check get there and back; the layouts they may have in memory.

`tg.tensor` makes every array C-contiguous. Other strides reach an op by way of views, so three of
the layouts below are views of a leaf: the same values in another order of memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tinygrad_rnn import backends
from tinygrad_rnn.backends.base import Array
from tinygrad_rnn.core.tensor import Tensor
from tinygrad_rnn.ops.shape import flip
from tinygrad_rnn.testing.strategies import Strategy


@dataclass(frozen=True)
class Place:
    """One device, and how test data gets there and back."""

    device: str

    def tensor(self, host: Any, *, requires_grad: bool = False) -> Tensor:
        """A Tensor on this device with a copy of `host`, whose dtype it keeps."""
        return Tensor(np.asarray(host), device=self.device, requires_grad=requires_grad)

    def leaves(self, hosts: Sequence[np.ndarray]) -> list[Tensor]:
        """One leaf per array, collecting gradients."""
        return [self.tensor(a, requires_grad=True) for a in hosts]

    def array(self, host: Any) -> Array:
        """A plain array of this device's library, free to be written to."""
        return backends.get(self.device).asarray(np.asarray(host), self.device)

    def host(self, x: Any) -> np.ndarray:
        """A Tensor or a plain array as a NumPy array."""
        array = x.data if isinstance(x, Tensor) else x
        return backends.of(array).to_host(array)


def shares_memory(a: Array, b: Array) -> bool:
    """Whether two plain arrays of one library overlap."""
    one, other = (getattr(x, "_host", x) for x in (a, b))  # a FakeArray holds a NumPy array
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return np.shares_memory(one, other)
    # By bounds. CuPy's exact `shares_memory` says yes to any two 0-d arrays (14.2): it compares the
    # addresses at which a kernel sees their elements, and single numbers travel by value.
    return bool(backends.namespace(a).may_share_memory(a, b))


# ---- layouts ----


def _fortran(place: Place, a: np.ndarray) -> Tensor:
    return place.tensor(a.T, requires_grad=True).T


def _reversed(place: Place, a: np.ndarray) -> Tensor:
    return flip(place.tensor(np.flip(a), requires_grad=True))  # type: ignore[no-any-return] # it is


def _strided(place: Place, a: np.ndarray) -> Tensor:
    wide = np.stack([a, np.full_like(a, np.nan)], axis=-1)  # every other number in memory
    return place.tensor(wide, requires_grad=True)[..., 0]


def _read_only(place: Place, a: np.ndarray) -> Tensor:
    locked = a.copy()
    locked.flags.writeable = False
    return place.tensor(locked, requires_grad=True)


def _big_endian(place: Place, a: np.ndarray) -> Tensor:
    return place.tensor(a.astype(a.dtype.newbyteorder(">")), requires_grad=True)


LAYOUTS: dict[str, Callable[[Place, np.ndarray], Tensor]] = {
    "fortran": _fortran,
    "reversed": _reversed,
    "strided": _strided,
    "read-only": _read_only,
    "big-endian": _big_endian,
}


def layouts() -> Strategy:
    """Names from `LAYOUTS`; ``LAYOUTS[name](Place(device), array)`` is a Tensor laid out so."""
    return st.sampled_from([*LAYOUTS])
