"""Which array library an array belongs to, and which devices there are.

``namespace(x)`` is how the rest of the package stays free of "if GPU": one dictionary look-up on
the type of an array gives the module whose ``tanh`` understands it. CuPy is imported on the first
request for a CUDA device, never before.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinygrad_rnn.backends.base import Array, Backend, Namespace, wrong_device
from tinygrad_rnn.backends.cuda_trouble import diagnose
from tinygrad_rnn.backends.numpy_backend import NumpyBackend
from tinygrad_rnn.backends.settings import cuda_settings
from tinygrad_rnn.errors import BackendUnavailable, DTypeError

__all__ = [
    "ARRAY_TYPES",
    "OPERAND_TYPES",
    "Backend",
    "Device",
    "cuda_settings",
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
    if name not in (*_by_name, "cuda") or (number and not number.isdigit()):
        raise wrong_device(device, list(dict.fromkeys([*_by_name, "cuda"])))
    if name not in _by_name and (trouble := _open_cuda()):
        raise BackendUnavailable(f"device {device!r} cannot be used: {trouble}")
    backend = _by_name[name]
    usable = backend.device_names()
    if number and device not in usable:
        raise BackendUnavailable(f"no device {device!r} here; usable: {', '.join(usable)}")
    return backend


@dataclass(frozen=True)
class Device:
    """One line of `devices()`: a device, whether it can be used, and if not, why."""

    name: str
    usable: bool
    detail: str


def devices() -> list[Device]:
    """Every device this package knows of: the usable ones first, then the others and why not.

    Looks for a GPU, so where CuPy is installed it is imported now.
    """
    trouble = _open_cuda()
    found = [
        Device(name, True, _described(backend, name))
        for backend in _by_name.values()
        for name in backend.device_names()
    ]
    if trouble:
        found.append(Device("cuda", False, trouble))
    return found


def _open_cuda() -> str | None:
    """Register the CuPy backend, unless that has been done; or say why it cannot be used."""
    if "cuda" in _by_name:
        return None
    trouble = diagnose()
    if trouble is None:
        from tinygrad_rnn.backends.cupy_backend import CupyBackend  # noqa: PLC0415 - imports CuPy

        register(CupyBackend())
    return trouble


def _described(backend: Backend, device: str) -> str:
    """Who computes there, and the memory, where the library keeps count of it."""
    xp = backend.xp
    library = f"{xp.__name__} {getattr(xp, '__version__', '')}".strip()
    memory = [f"{n / 2**20:,.1f} MiB {name}" for name, n in backend.memory(device).items()]
    return ", ".join([f"{type(backend).__name__}, {library}", *memory])
