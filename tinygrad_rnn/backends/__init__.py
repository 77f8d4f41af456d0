"""Which array library an array belongs to, and which devices there are.

``namespace(x)`` is how the rest of the package stays free of "if GPU": one dictionary look-up on
the type of an array gives the module whose ``tanh`` understands it. CuPy is imported on the first
request for a CUDA device, never before.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinygrad_rnn.backends.base import Array, Backend, Namespace, wrong_device
from tinygrad_rnn.backends.numpy_backend import NumpyBackend
from tinygrad_rnn.errors import BackendUnavailable, DTypeError

__all__ = [
    "ARRAY_TYPES",
    "OPERAND_TYPES",
    "Backend",
    "Device",
    "devices",
    "get",
    "namespace",
    "of",
    "register",
]


class _ByType(dict[type, Backend]):
    """type of array -> backend, filled in as types are met."""

    def __missing__(self, cls: type) -> Backend:
        if issubclass(cls, np.generic | np.ndarray):  # NumPy's scalars, and subclasses of ndarray
            return _cpu
        if cls.__module__.partition(".")[0] == "cupy":  # a CuPy array before any "cuda" request
            return get("cuda")
        raise DTypeError(
            f"no backend knows arrays of type {cls.__module__}.{cls.__qualname__}; needed a NumPy "
            f"or CuPy array. In a vjp rule, use operators and tinygrad_rnn's own ops only."
        )


_cpu = NumpyBackend()
_by_name: dict[str, Backend] = {"cpu": _cpu}
_by_type = _ByType({np.ndarray: _cpu})
ARRAY_TYPES: set[type] = {np.ndarray}  # the exact types a Tensor may hold
OPERAND_TYPES: set[type] = {float, int, bool, np.ndarray}  # what an op takes without a second look


def register(backend: Backend) -> None:
    """Make a backend known under ``backend.name``; its arrays are recognised by their type."""
    _by_name[backend.name] = backend
    _by_type[backend.array_type] = backend
    ARRAY_TYPES.add(backend.array_type)
    OPERAND_TYPES.add(backend.array_type)


def of(array: Array) -> Backend:
    """The backend an array belongs to."""
    return _by_type[type(array)]


def namespace(array: Array) -> Namespace:
    """The module (numpy, cupy, ...) whose functions work on `array`."""
    return _by_type[type(array)].xp


def get(device: str) -> Backend:
    """The backend for a device name such as "cpu", "cuda" or "cuda:1".

    Raises `BackendUnavailable`, with cause and fix, where the device cannot be used, and
    `DeviceError` where nobody knows the name. There is no fallback to another device.
    """
    if not isinstance(device, str):
        raise DTypeError(f"a device is named by a string such as 'cpu', got {device!r}")
    name, _, number = device.partition(":")
    if name in _by_name and (not number or number.isdigit()):
        backend = _by_name[name]
        usable = backend.device_names()
        if number and device not in usable:
            raise BackendUnavailable(f"no device {device!r} here; usable: {', '.join(usable)}")
        return backend
    if name == "cuda" and (not number or number.isdigit()):
        raise BackendUnavailable(f"device {device!r} cannot be used: {_why_no_cuda()}")
    raise wrong_device(device, [*_by_name, "cuda"])


@dataclass(frozen=True)
class Device:
    """One line of `devices()`: a device, whether it can be used, and if not, why."""

    name: str
    usable: bool
    detail: str


def devices() -> list[Device]:
    """Every device this package knows of: the usable ones first, then the others and why not."""
    found = [
        Device(name, True, f"{type(backend).__name__}, {_version_of(backend.xp)}")
        for backend in _by_name.values()
        for name in backend.device_names()
    ]
    if "cuda" not in _by_name:
        found.append(Device("cuda", False, _why_no_cuda()))
    return found


def _version_of(xp: Any) -> str:
    return f"{xp.__name__} {getattr(xp, '__version__', '')}".strip()


def _why_no_cuda() -> str:
    """The first obstacle on the way to a GPU, and what to do."""
    # Said with every cause: nobody should install gigabytes of CUDA for a backend still to come.
    advice = "this version has no CuPy backend yet, so use device='cpu'"
    if importlib.util.find_spec("cupy") is None:
        return f"CuPy is not installed; and {advice}"
    try:
        import cupy  # on the first request for a GPU, never before
    except Exception as error:  # noqa: BLE001 - a broken CuPy fails in many ways; all are told
        return f"CuPy is installed but cannot be imported ({error}); and {advice}"
    if not hasattr(cupy, "cuda"):
        return (
            f"what Python imports as cupy is not CuPy (found at {[*cupy.__path__]}); and {advice}"
        )
    if not cupy.cuda.is_available():
        if cupy.cuda.runtime.driverGetVersion() == 0:
            return f"no NVIDIA driver was found; and {advice}"
        return (
            f"CuPy sees no usable GPU (a driver too old for it, or CUDA_VISIBLE_DEVICES hides it); "
            f"and {advice}"
        )
    return advice
