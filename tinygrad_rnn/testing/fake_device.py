"""A device that is not there: CuPy's rules on NumPy's arithmetic.

Code that runs on NumPy may still fail on a GPU, or worse, run there and be wrong. `FakeArray` holds
a NumPy array without being one, and keeps CuPy's rules instead of NumPy's:

* it never mixes with NumPy arrays, and no ``np.`` function accepts it;
* every result is an array: reductions give 0-d arrays, never scalars;
* an integer index out of range wraps around in silence, and where an assignment names an element
  twice, nobody knows which value wins (here: drawn by lot);
* reading a value (``float``, ``if``, ``.item()``, a bool mask) waits for the device. Every such
  wait is counted, and `sync_budget` limits them;
* arrays on two devices ("fake:0", "fake:1") do not mix, and floating-point trouble never warns.

`FakeBackend` overrides only what a backend must say, so that the plain bodies of
`tinygrad_rnn.backends.base` are what runs here. `register` makes it known as the device "fake".
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import numpy as np

from tinygrad_rnn import backends
from tinygrad_rnn.backends.base import Backend
from tinygrad_rnn.errors import GradcheckError


class _Syncs:
    count = 0


def _waited() -> None:
    _Syncs.count += 1


@contextlib.contextmanager
def sync_budget(limit: int) -> Iterator[None]:
    """Fail unless the block waits for the fake device at most `limit` times."""
    before = _Syncs.count
    yield
    waits = _Syncs.count - before
    if waits > limit:
        raise GradcheckError(f"{waits} host synchronisations, allowed were {limit}")


# ---- in and out of the wrapper ----


def _wrap(result: Any, place: int = 0) -> Any:
    """What NumPy returned, as the device would: arrays and scalars become FakeArrays."""
    if isinstance(result, tuple | list):
        return type(result)(_wrap(r, place) for r in result)
    if not isinstance(result, np.ndarray | np.generic):
        return result
    made = object.__new__(FakeArray)
    made._host, made._place = np.asarray(result), place
    return made


def _unwrap(value: Any, places: set[int]) -> Any:
    """An argument for NumPy; what CuPy would refuse is refused here."""
    if isinstance(value, FakeArray):
        places.add(value._place)
        return value._host
    if isinstance(value, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'> on the fake device")
    if isinstance(value, tuple | list):
        return type(value)([_unwrap(v, places) for v in value])
    return value


def _compute(function: Callable[..., Any], args: Sequence[Any], options: dict[str, Any]) -> Any:
    """Run a NumPy function on what the wrappers hold, without warnings, and wrap its result."""
    places: set[int] = set()
    hosts = [_unwrap(a, places) for a in args]
    out = options.get("out")
    options = {k: _unwrap(v, places) for k, v in options.items()}
    if len(places) > 1:
        raise ValueError(f"arrays on different fake devices: {sorted(places)}")
    with np.errstate(all="ignore"):
        result = function(*hosts, **options)
    return out if out is not None else _wrap(result, max(places, default=0))


# ---- the array ----


class FakeArray:
    """An array on the fake device; see the module's docstring for its rules."""

    __slots__ = ("_host", "_place")
    __hash__ = None  # type: ignore[assignment] # as on arrays: == compares elementwise
    _host: np.ndarray
    _place: int

    def __init__(self) -> None:
        raise TypeError("make fake arrays with xp functions")

    # What NumPy asks an object before it works with it. The answer is always no.
    def __array__(self, dtype: Any = None, copy: Any = None) -> NoReturn:
        raise TypeError("Implicit conversion to a NumPy array is not allowed")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> NoReturn:
        raise TypeError(f"np.{ufunc.__name__} does not work on the fake device")

    def __array_function__(self, function: Any, types: Any, args: Any, options: Any) -> NoReturn:
        raise TypeError(f"np.{function.__name__} does not work on the fake device")

    shape = property(lambda self: self._host.shape)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    dtype = property(lambda self: self._host.dtype)
    flags = property(lambda self: self._host.flags)
    strides = property(lambda self: self._host.strides)
    nbytes = property(lambda self: self._host.nbytes)
    # What owns the memory: where two FakeArrays wrap one array, what they have in common.
    base = property(lambda self: self._host if self._host.base is None else self._host.base)
    T = property(lambda self: _wrap(self._host.T, self._place))

    def __len__(self) -> int:
        return len(self._host)

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"FakeArray({self._host!r})"

    def __deepcopy__(self, memo: Any) -> FakeArray:
        return _wrap(self._host.copy(), self._place)  # type: ignore[no-any-return] # it is one

    # Reading a value waits for the device.
    def _value(self) -> np.ndarray:
        _waited()
        return self._host

    def __float__(self) -> float:
        return float(self._value())

    def __int__(self) -> int:
        return int(self._value())

    def __bool__(self) -> bool:
        return bool(self._value())

    def __index__(self) -> int:
        return self._value().__index__()

    def item(self) -> Any:
        """The value of a one-element array."""
        return self._value().item()

    def tolist(self) -> Any:
        """The values as nested lists."""
        return self._value().tolist()

    def get(self) -> np.ndarray:
        """CuPy's name for a copy on the host."""
        return self._value().copy()

    # Indexing.
    def __getitem__(self, index: Any) -> Any:
        return _wrap(self._host[_host_index(index, self)], self._place)

    def __setitem__(self, index: Any, value: Any) -> None:
        places = {self._place}
        index, value = _host_index(index, self), _unwrap(value, places)
        if len(places) > 1:
            raise ValueError(f"arrays on different fake devices: {sorted(places)}")
        if not _has_integer_arrays(index):
            self._host[index] = value
            return
        # By lot: assign the elements in random order, so that any of several may come last.
        numbers = np.arange(self.size).reshape(self.shape)[index]
        order = np.random.default_rng().permutation(numbers.size)
        values = np.broadcast_to(np.asarray(value, dtype=self.dtype), numbers.shape)
        self._host.flat[numbers.ravel()[order]] = values.ravel()[order]


def _has_integer_arrays(index: Any) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(p, np.ndarray) and p.dtype.kind in "iu" for p in parts)


def _host_index(index: Any, array: FakeArray) -> tuple[Any, ...]:
    """The same index for NumPy, with integer arrays wrapped around as CuPy does."""
    parts = index if isinstance(index, tuple) else (index,)
    used = sum(_axes_used(p) for p in parts)
    axis, result = 0, list[Any]()
    for part in parts:
        if isinstance(part, FakeArray):
            if part._place != array._place:
                raise ValueError("the index is on another fake device")
            host = part._host
            if host.dtype.kind == "b":
                _waited()  # how large the result is depends on values
            elif array.shape[axis]:
                host = host.astype(np.int64) % array.shape[axis]  # int8 does not hold 200
            result.append(host)
        elif part is None or part is Ellipsis or isinstance(part, int | slice):
            result.append(part)
        else:
            raise TypeError(f"the fake device has no index of type {type(part).__name__}")
        axis += array.ndim - used if part is Ellipsis else _axes_used(part)
    return tuple(result)


def _axes_used(part: Any) -> int:
    if part is None or part is Ellipsis:
        return 0
    return part.ndim if isinstance(part, FakeArray) and part.dtype.kind == "b" else 1


# ---- operators and methods: the same few lines for each, so they are made in a loop ----


def _operator(name: str, *, in_place: bool) -> Callable[..., Any]:
    function = getattr(np.ndarray, name)

    def method(self: FakeArray, other: Any) -> Any:
        if getattr(other, "__array_ufunc__", "none") is None:
            return NotImplemented  # a Tensor: its reflected operator knows what to do
        if isinstance(other, list | tuple):
            raise TypeError(f"Unsupported type {type(other)} on the fake device")
        result = _compute(function, (self, other), {})
        return self if in_place and result is not NotImplemented else result

    return method


def _forwarded(name: str) -> Callable[..., Any]:
    function = getattr(np.ndarray, name)
    return lambda self, *args, **options: _compute(function, (self, *args), options)


_BINARY = ["add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor"]
_COMPARE = ["eq", "ne", "lt", "le", "gt", "ge"]
for _name in [*_BINARY, *(f"r{n}" for n in _BINARY), *_COMPARE]:
    setattr(FakeArray, f"__{_name}__", _operator(f"__{_name}__", in_place=False))
for _name in _BINARY:
    setattr(FakeArray, f"__i{_name}__", _operator(f"__i{_name}__", in_place=True))
METHODS = """
    __neg__ __abs__ __invert__ all any argmax argmin astype clip copy cumsum dot fill flatten max
    mean min prod ravel repeat reshape round squeeze std sum swapaxes take transpose var view
"""
for _name in METHODS.split():
    setattr(FakeArray, _name, _forwarded(_name))


# ---- the namespace ----


class _Function:
    """One function of the namespace; the binary ones have `at`, as CuPy's ufuncs do."""

    def __init__(self, name: str) -> None:
        self.__name__, self.numpy = name, getattr(np, name)

    def __call__(self, *args: Any, **options: Any) -> Any:
        out = options.get("out")
        if self.__name__ == "matmul" and out is not None and not out.flags.c_contiguous:
            raise ValueError("matmul: out= has to be C-contiguous on the fake device")
        return _compute(self.numpy, args, options)

    def at(self, target: FakeArray, index: Any, values: Any) -> None:
        """``target[index] = f(target[index], values)``, once for every time an element is named."""
        values = values._host if isinstance(values, FakeArray) else values
        self.numpy.at(target._host, _host_index(index, target), values)


class _Namespace:
    """What CuPy 14 has, by name. What is not listed is not there, as on the device.

    CuPy lacks, for one, `errstate`, `unstack`, `insert`, `block`, `ndenumerate` and `vecdot`.
    The tests compare the list with CuPy where CuPy is installed.
    """

    __name__ = "fake"
    __version__ = "14"
    inf, nan, pi, newaxis = math.inf, math.nan, math.pi, None
    FUNCTIONS = """
        add subtract multiply divide true_divide floor_divide remainder negative power abs absolute
        sign exp expm1 log log1p log2 sqrt square reciprocal sin cos tanh maximum minimum clip where
        isfinite isnan isinf logical_and logical_or logical_not equal not_equal less less_equal
        greater greater_equal
        sum prod mean var std max min any all argmax argmin cumsum argsort sort
        reshape ravel transpose swapaxes moveaxis expand_dims squeeze broadcast_to flip roll tril
        triu pad concatenate stack split repeat tile take take_along_axis
        matmul dot einsum tensordot outer
        zeros_like ones_like empty_like full_like copyto
        zeros ones full empty arange eye tri
    """

    def __init__(self) -> None:
        for name in self.FUNCTIONS.split():
            setattr(self, name, _Function(name))
        for name in ["bool_", "int32", "int64", "float16", "float32", "float64", "dtype"]:
            setattr(self, name, getattr(np, name))

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"the fake device has no function {name!r}, as CuPy has none")

    @staticmethod
    def array(data: Any, dtype: Any = None, order: Any = "K", copy: bool = True) -> Any:
        """An array on the device of `data`; "fake:0" for host data."""
        place = data._place if isinstance(data, FakeArray) else 0
        host = data._host if isinstance(data, FakeArray) else data
        return _wrap(np.array(host, dtype=dtype, order=order, copy=copy or None), place)

    def asarray(self, data: Any, dtype: Any = None) -> Any:
        """`data` itself where it is an array of that dtype, else a new array."""
        if isinstance(data, FakeArray) and dtype in (None, data.dtype):
            return data
        return self.array(data, dtype=dtype)

    def ascontiguousarray(self, data: Any, dtype: Any = None) -> Any:
        """`data` in C order, copied only where it is not."""
        return _compute(np.ascontiguousarray, (data,), {"dtype": dtype})

    def nonzero(self, array: Any) -> Any:
        """The indices of the elements that are not 0; how many there are is a value to wait for."""
        _waited()
        return _compute(np.nonzero, (array,), {})


xp = _Namespace()


class FakeBackend(Backend):
    """The fake device as a backend: no more than what every backend must say."""

    name = "fake"
    xp = xp
    array_type = FakeArray

    def device_names(self) -> list[str]:
        return ["fake:0", "fake:1"]

    def device_of(self, array: Any) -> str:
        return f"fake:{array._place}"

    def asarray(self, host: np.ndarray, device: str) -> Any:
        return _wrap(np.array(host, order="C", copy=True), int(device.partition(":")[2] or 0))

    def to_host(self, array: Any) -> np.ndarray:
        return np.array(array._value(), order="C", copy=True)

    def erf(self, x: Any) -> Any:
        return _wrap(np.vectorize(math.erf, otypes=[x.dtype])(x._host), x._place)


def register() -> None:
    """Make the fake device known as "fake", once; from then on `tg.devices()` lists it."""
    if FakeArray not in backends.ARRAY_TYPES:
        backends.register(FakeBackend())
