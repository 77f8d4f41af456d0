"""Does a backend keep the contract? For backends of your own, and for ours.

    tg.testing.check_backend(MyBackend())

`backends/base.py` is the contract: what a backend must say, and kernels with a plain body each. A
kernel is right if it computes what that body computes on NumPy, up to rounding. Both are run on the
same numbers, and compared in all they return and in every array they were handed, so that an
argument changed on the quiet is a difference, too.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_rnn.backends.base import Array, Backend
from tinygrad_rnn.backends.numpy_backend import NumpyBackend
from tinygrad_rnn.errors import GradcheckError
from tinygrad_rnn.testing.point import Host
from tinygrad_rnn.testing.properties import require_same
from tinygrad_rnn.testing.strategies import in_use

# What a backend has to say for itself; every other method hides a body of the contract.
MUST = {"asarray", "to_host", "device_names", "device_of", "erf"}
Put = Callable[[Any], Array]  # from the host to the device


class PlainNumpy(NumpyBackend):
    """NumPy with every body of the contract as `Backend` wrote it: what kernels must equal."""


for _name, _function in vars(NumpyBackend).items():
    if inspect.isfunction(_function) and _name not in MUST:
        setattr(PlainNumpy, _name, getattr(Backend, _name))
PLAIN = PlainNumpy()


# ---- the arguments of a call to each kernel ----


class Sizes:
    """Random numbers in the sizes of a call: the same ones whenever it is made with one seed."""

    def __init__(self, seed: int, dtype: Any, B: int, H: int) -> None:
        self.rng, self.dtype, self.B, self.H = np.random.default_rng(seed), dtype, B, H

    def normal(self, *shape: int) -> Host:
        """Random numbers in the dtype of the call."""
        return np.asarray(self.rng.standard_normal(shape), self.dtype)

    def empty(self, *shape: int) -> Host:
        """Room for a result; whoever reads it before writing spreads NaN."""
        return np.full(shape, np.nan, self.dtype)

    def below(self, high: int, count: int) -> Host:
        """Indices."""
        return self.rng.integers(0, high, count)


def _scatter_add(s: Sizes, put: Put) -> list[Any]:
    # Whole numbers: the order in which repeats are added up cannot show.
    target = s.rng.integers(-9, 9, (4, s.H)).astype(s.dtype)
    rows = s.rng.integers(-4, 4, s.B)
    values = s.rng.integers(-9, 9, (s.B, s.H)).astype(s.dtype)
    return [put(target), put(rows), put(values)]


def _scatter_add_elements(s: Sizes, put: Put) -> list[Any]:
    index = (put(s.below(4, s.B)), put(s.below(3, s.B)))
    target = s.rng.integers(-9, 9, (4, 3)).astype(s.dtype)
    return [put(target), index, put(s.rng.integers(-9, 9, s.B).astype(s.dtype))]


def _take_columns(s: Sizes, put: Put) -> list[Any]:
    numbers = s.below(5, 3 * s.B).reshape(3, s.B)
    return [put(s.normal(s.H, 5)), put(numbers), put(s.empty(3, s.H, s.B))]


def _sum_columns(s: Sizes, put: Put) -> list[Any]:
    return [put(s.normal(s.H, s.B)), put(s.below(5, s.B)), 5]


def _matmul(s: Sizes, put: Put) -> list[Any]:
    return [put(s.normal(s.B, 5)), put(s.normal(5, s.H))]


def _matmul_of_parts(s: Sizes, put: Put) -> list[Any]:
    """Parts of wider matrices, one of them transposed."""
    return [put(s.normal(6, s.B + 2)).T[1:-1, ::2], put(s.normal(3, s.H + 3))[:, 1 : s.H + 1]]


def _matmul_of_stacks(s: Sizes, put: Put) -> list[Any]:
    return [put(s.normal(2, s.B, 3)), put(s.normal(2, 3, s.H))]


def _sum_rows(s: Sizes, put: Put) -> list[Any]:
    return [put(s.normal(s.H, s.B))]


def _sum_rows_of_a_part(s: Sizes, put: Put) -> list[Any]:
    """Transposed, and without its last column."""
    return [put(s.normal(s.B + 1, s.H)).T[:, :-1]]


def _softmax_cross_entropy(s: Sizes, put: Put) -> list[Any]:
    logits, targets = 3 * s.normal(s.B, s.H + 1), s.below(s.H + 1, s.B)
    return [put(logits), put(targets), put(s.rng.random(s.B) < 0.7), 0.25 * (s.H % 2)]


def _reduce_losses(s: Sizes, put: Put) -> list[Any]:
    return [put(s.normal(s.B)), put(s.rng.random(s.B) < 0.7), bool(s.H % 2)]


def _softmax_cross_entropy_backward(s: Sizes, put: Put) -> list[Any]:
    softmax, targets, counted = s.normal(s.B, s.H + 1), s.below(s.H + 1, s.B), s.rng.random(s.B)
    factor = s.normal((1, s.B)[s.H % 2])  # one that all rows share, or one for each
    rows = [put(a) for a in (softmax, targets, counted < 0.7, factor)]
    return [*rows, 0.25 * (s.B % 2)]


def _several(s: Sizes) -> list[Host]:
    return [s.normal(s.H, s.B), s.normal(), s.normal(s.B, s.H).T]


def _squared_norms(s: Sizes, put: Put) -> list[Any]:
    return [[put(a) for a in _several(s)]]


def _clip_factor(s: Sizes, put: Put) -> list[Any]:
    return [[put(a) for a in _several(s)], (1.0, 1e9, math.inf)[s.H % 3]]


def _scale_all(s: Sizes, put: Put) -> list[Any]:
    return [[put(a) for a in _several(s)], put(np.float64((1, 0.3)[s.H % 2]))]


def _adam_step(s: Sizes, put: Put) -> list[Any]:
    parameters = []
    for shape in ((s.H, s.B), (), (s.B,)):
        x, g, m, v = (s.normal(*shape) for _ in range(4))
        parameters.append(tuple(put(a) for a in (x, g, m, np.abs(v))))
    return [parameters]


ADAM = {"betas": (0.9, 0.99), "step_size": 0.1, "eps": 1e-3, "weight_decay": 0.1, "shrink": 0.9}


KERNELS: dict[str, list[Callable[[Sizes, Put], list[Any]]]] = {
    "scatter_add": [_scatter_add, _scatter_add_elements],
    "take_columns": [_take_columns],
    "sum_columns": [_sum_columns],
    "matmul": [_matmul, _matmul_of_parts, _matmul_of_stacks],
    "sum_rows": [_sum_rows, _sum_rows_of_a_part],
    "softmax_cross_entropy": [_softmax_cross_entropy],
    "softmax_cross_entropy_backward": [_softmax_cross_entropy_backward],
    "reduce_losses": [_reduce_losses],
    "squared_norms": [_squared_norms],
    "clip_factor": [_clip_factor],
    "scale_all": [_scale_all],
    "adam_step": [_adam_step],
}
OPTIONS: dict[str, dict[str, Any]] = {"adam_step": ADAM}  # what a kernel takes by name


# ---- the check ----


def check_backend(backend: Backend, *, max_examples: int | None = None) -> None:
    """Raise GradcheckError unless `backend` keeps the contract of `Backend`.

    Names, copies, indices and erf are checked on all of its devices, kernels on the first. It need
    not be registered. Once it is, ``check_op(tg.tanh, "real", devices=[backend.name])`` and the
    like put ops through it.
    """
    devices = backend.device_names()
    for device in devices:
        for what, check in CHECKS.items():
            _told(backend, what, check, backend, device)
    sizes = st.integers(0, 7)
    drawn = {
        "seed": st.integers(0, 2**32 - 1),
        "dtype": st.sampled_from([np.float32, np.float64]),
        "B": sizes,
        "H": sizes,
    }
    in_use(max_examples)(given(**drawn)(_kernels_of(backend, devices[0])))()


def _told(backend: Backend, what: str, check: Callable[..., None], *arguments: Any) -> None:
    """Run a check; whatever it raises says of which backend and method."""
    try:
        check(*arguments)
    except (
        Exception
    ) as error:  # people's backends raise anything: it is told, and kept as the cause
        ours = isinstance(error, GradcheckError)
        told = str(error) if ours else f"{type(error).__name__}: {error}"
        raise GradcheckError(f"the {backend.name} backend: {what}: {told}") from error


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise GradcheckError(message)


def _check_places(backend: Backend, device: str) -> None:
    """Names fit, what travels is copied and contiguous, and views are known for what they are."""
    name = device.partition(":")[0]
    _require(name == backend.name, f"the device {device!r} does not begin with the backend's name")
    host = np.arange(6.0).reshape(2, 3).T
    array = backend.asarray(host, device)
    host += 1
    back = backend.to_host(array)
    _require(type(array) is backend.array_type, f"asarray gives a {type(array).__name__}")
    _require(np.array_equal(back + 1, host), "asarray shares memory with the host array")
    _require(isinstance(back, np.ndarray), f"to_host gives a {type(back).__name__}")
    _require(back.flags.c_contiguous, "to_host gives an array that is not C-contiguous")
    _require(array.flags.c_contiguous, "asarray gives an array that is not C-contiguous")
    back += 1
    _require(
        not np.array_equal(backend.to_host(array), back), "to_host gives the array's own memory"
    )
    place = backend.device_of(array)
    _require(place == device, f"device_of says {place!r} of an array that was put on {device!r}")
    for dtype in (np.float32, np.int64, np.bool_):
        seen = backend.asarray(np.ones(2, dtype), device).dtype
        _require(seen == dtype, f"asarray turns {np.dtype(dtype)} into {seen}")
    _require(
        backend.owner(array) is backend.owner(array[1:]), "a view has another owner than its array"
    )
    _require(
        np.array_equal(backend.to_host(backend.read_only(array)), back - 1),
        "read_only changes values",
    )
    array[0] = 0  # and the array itself stays writable
    backend.synchronize()
    _require(isinstance(backend.memory(), dict), "memory() gives no dict")


def _check_index(backend: Backend, device: str) -> None:
    def index(*values: int) -> Array:
        return backend.asarray(np.array(values, np.int64), device)

    backend.check_index(index(0, 2), 3, "op")
    backend.check_index(index(), 0, "op")
    backend.check_index(index(-3), 3, "op", lowest=-3)
    for wrong in ((0, 3), (-1, 0)):
        try:
            backend.check_index(index(*wrong), 3, "op")
        except IndexError as error:
            _require("op" in str(error), f"the error does not name the op: {error}")
        else:
            raise GradcheckError(f"the index {wrong} into 3 passes")


def _check_erf(backend: Backend, device: str) -> None:
    x = np.array([[-3.0, -0.5, 0.0], [1e-9, 2.0, 30.0]])
    exact = np.array([math.erf(v) for v in x.ravel()]).reshape(x.shape)
    for dtype, tolerance in ((np.float64, 1e-6), (np.float32, 1e-6)):
        seen = backend.to_host(backend.erf(backend.asarray(x.astype(dtype), device)))
        _require(seen.dtype == dtype, f"{np.dtype(dtype)} becomes {seen.dtype}")
        require_same("the error function", [seen], [exact], tolerance)


CHECKS: dict[str, Callable[[Backend, str], None]] = {
    "names and copies": _check_places,
    "check_index": _check_index,
    "erf": _check_erf,
}


def _kernels_of(backend: Backend, device: str) -> Callable[..., None]:
    """Every kernel, in the sizes that Hypothesis draws."""

    def agree(seed: int, dtype: Any, B: int, H: int) -> None:
        for name, makers in KERNELS.items():
            for make in makers:
                given_sizes = (seed, dtype, B, H)
                _told(backend, name, _compare, backend, device, name, make, given_sizes)

    return agree


def _compare(
    backend: Backend,
    device: str,
    name: str,
    make: Callable[[Sizes, Put], list[Any]],
    sizes: tuple[int, Any, int, int],
) -> None:
    """One call, here and as the body of the contract on NumPy."""
    results = []
    for there, put in (
        (backend, lambda a: backend.asarray(np.asarray(a), device)),
        (PLAIN, lambda a: np.array(a)),
    ):
        arguments = make(Sizes(*sizes), put)
        returned = getattr(there, name)(*arguments, **OPTIONS.get(name, {}))
        kinds_of_array = (there.array_type, np.generic)  # NumPy gives 0-d results as scalars
        arrays = [a for a in _flat([arguments, returned]) if isinstance(a, kinds_of_array)]
        results.append([there.to_host(a) for a in arrays])
    seen, wanted = results
    kinds = [[f"{a.shape} {a.dtype}" for a in r] for r in results]
    _require(kinds[0] == kinds[1], f"arguments and results are {kinds[0]}, needed {kinds[1]}")
    # A few units in the last place: the same formula, in another order of operations.
    tolerance = 64 * float(np.finfo(sizes[1]).eps)
    require_same("arguments and results, in order", seen, wanted, tolerance)


def _flat(value: Any) -> list[Any]:
    if isinstance(value, tuple | list):
        return [v for part in value for v in _flat(part)]
    return [value]
