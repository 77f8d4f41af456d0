"""A Tensor: an array, and the place in a graph where it came from.

Three kinds of object, each pointing only backwards in time:

    Tensor  ->  Node  ->  Node  ->  ...  ->  Leaf

A `Tensor` is what people hold: an array and, where a gradient is wanted, the node that made it. A
`Node` (`core/node.py`) is one operation that was carried out; it holds its parent nodes and
the few arrays its backward rules asked for, never a tensor. A `Leaf` ends the graph: it stands for
an array a person made, and it is where ``.grad`` is kept.

Because nothing points forward, there are no cycles: when the last tensor of a graph goes, CPython's
reference counting frees the whole graph at once, without the garbage collector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from tinygrad_rnn import backends
from tinygrad_rnn.backends.base import Array
from tinygrad_rnn.core.array import to_array
from tinygrad_rnn.core.clock import next_number, stamp
from tinygrad_rnn.errors import (
    DeviceError,
    DTypeError,
    NotDifferentiableError,
    ShapeError,
)


class Leaf:
    """The end of a graph: it collects the gradient of an array that a person made."""

    __slots__ = ("array_type", "dtype", "grad", "hooks", "moved", "number", "shape")

    parents: tuple[()] = ()
    name = "leaf"

    def __init__(self, array: Array) -> None:
        self.number = next_number()
        self.array_type, self.shape, self.dtype = type(array), array.shape, array.dtype
        self.grad: Array | None = None
        # Set by `Tensor.rehouse`: its tensor has another end now, and would not see the gradient.
        self.moved = False
        self.hooks: dict[int, Callable[[Any], Any]] | None = None


class Tensor:
    """An array that remembers how it was computed.

    ``tg.Tensor(data, *, dtype=None, device=None, requires_grad=False)`` copies `data`, exactly as
    `tensor` does. Operations never change a Tensor; they make new ones.
    """

    # `_kept` is set on a frozen leaf only (see `requires_grad_`): results never pay for it.
    __slots__ = ("__weakref__", "_data", "_kept", "_node")
    # NumPy and CuPy see this and leave `array + tensor` to Tensor.__radd__. Without it they would
    # loop over the elements, or convert the Tensor to an array and lose its graph in silence.
    __array_ufunc__ = None
    __hash__ = object.__hash__  # == compares elementwise, yet tensors must work in sets and dicts

    _data: Array
    _node: Any  # Leaf | Node | None; Any because nodes live one file further up
    _kept: Leaf

    def __init__(
        self,
        data: Any,
        *,
        dtype: Any = None,
        device: str | None = None,
        requires_grad: bool = False,
    ) -> None:
        plain = data._data if isinstance(data, Tensor) else data
        self._data = to_array(plain, dtype=dtype, device=device)
        self._node = None
        if requires_grad:
            self.requires_grad_()

    # ---- what it is ----

    @property
    def data(self) -> Array:
        """The plain array (of NumPy or CuPy), shared, not copied, and for reading only.

        Graphs hold these arrays for their backward pass. NumPy enforces it: writing raises a
        ValueError. CuPy cannot; there only `detect_anomaly` notices. To write into a leaf, use
        `writable`.
        """
        return backends.of(self._data).read_only(self._data)

    @data.setter
    def data(self, value: Any) -> None:  # noqa: ARG002 - a setter has one
        raise NotDifferentiableError(
            "a tensor keeps its array. To change the numbers of a leaf, write "
            "x.writable()[...] = new; to convert or move it, x.to(...)"
        )

    @property
    def shape(self) -> tuple[int, ...]:
        return self._data.shape  # type: ignore[no-any-return] # arrays are Any to the checker

    @property
    def ndim(self) -> int:
        return len(self._data.shape)

    @property
    def size(self) -> int:
        return int(self._data.size)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._data.dtype  # type: ignore[no-any-return] # arrays are Any to the checker

    @property
    def device(self) -> str:
        """The device the array lives on: "cpu", "cuda:0", ..."""
        return backends.of(self._data).device_of(self._data)

    @property
    def requires_grad(self) -> bool:
        return self._node is not None

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self.requires_grad_(value)

    @property
    def is_leaf(self) -> bool:
        """True for a Tensor that no recorded operation made."""
        return self._node is None or type(self._node) is Leaf

    @property
    def grad(self) -> Array | None:
        """The gradient collected by `backward`: a plain array like `data`, or None.

        None also while the leaf is frozen, so that optimizers pass it by.
        """
        return self._node.grad if type(self._node) is Leaf else None

    @grad.setter
    def grad(self, value: Any) -> None:
        if type(self._node) is not Leaf:
            if value is None:
                if self._leaf is not None:
                    self._leaf.grad = None  # or it would come back when the leaf is thawed
                return
            raise NotDifferentiableError("only a leaf that requires a gradient can hold .grad")
        if value is not None:
            value = value._data if isinstance(value, Tensor) else value
            seen = (type(value), getattr(value, "shape", None), getattr(value, "dtype", None))
            needed = (self._node.array_type, self.shape, self.dtype)
            if seen != needed:
                raise ShapeError(
                    f".grad needs a {needed[0].__name__} of shape {needed[1]} and dtype "
                    f"{needed[2]}, got {seen[0].__name__} of shape {seen[1]} and dtype {seen[2]}"
                )
            value = value.copy(order="C")  # clipping scales it in place: it is nobody else's
        self._node.grad = value

    # ---- where it stands in a graph ----

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Start (or stop) collecting gradients for this leaf; returns the tensor itself.

        To stop (to freeze it) concerns the operations that follow. The end of the graph is kept:
        a graph from before still leads to it, and on starting again ``.grad`` and the hooks are
        back, as in PyTorch.
        """
        if not self.is_leaf:
            if not requires_grad:
                raise NotDifferentiableError(
                    "only a leaf can stop requiring a gradient; use .detach() for a result"
                )
        elif not requires_grad:
            if self._node is not None:
                self._kept, self._node = self._node, None
        elif self._node is None:
            if self.dtype.kind != "f":
                raise DTypeError(
                    f"only a floating-point tensor can require a gradient, this one is "
                    f"{self.dtype}; convert it with .to(tg.float32) first"
                )
            self._node = self._leaf or Leaf(self._data)
        return self

    @property
    def _leaf(self) -> Leaf | None:
        """The end of the graph that stands for this tensor, in use or kept while it is frozen."""
        return self._node if type(self._node) is Leaf else getattr(self, "_kept", None)

    def rehouse(self, data: Array, grad: Array | None) -> None:
        """Give a leaf another array, of another dtype or device, and its gradient likewise.

        The hooks go along. A graph made before saved the old array and leads to the old end.
        """
        old, self._data = self._leaf, data
        if old is None:
            return
        new = Leaf(data)
        new.grad, new.hooks = grad, old.hooks
        old.moved = True
        if self._node is None:
            self._kept = new
        else:
            self._node = new

    def detach(self) -> Tensor:
        """The same values, cut off from the graph: no gradient flows back through it."""
        return wrap(self._data, None)

    def register_hook(self, hook: Callable[[Any], Any]) -> Callable[[], None]:
        """Call ``hook(gradient)`` whenever a backward pass has computed this tensor's gradient.

        The hook sees a plain array (a Tensor under ``create_graph=True``); what it returns, unless
        None, takes the gradient's place. Returns a function that removes the hook.
        """
        node = self._node
        if node is None:
            raise NotDifferentiableError(
                "a hook needs a tensor that requires a gradient; call .requires_grad_() first"
            )
        if node.hooks is None:
            node.hooks = {}
        key = next_number()
        node.hooks[key] = hook

        def remove() -> None:
            node.hooks.pop(key, None)

        return remove

    def writable(self) -> Array:
        """The array of a leaf, for writing in place: the one door for optimizers and loaders.

        Every call is stamped (`core/clock.py`). A backward pass through a graph that was made
        before and needs the old values raises `SavedArrayChangedError`. So write at once, ask again
        for the next write, and compute what is to be written first: in ``x.writable()[...] = f(x)``
        Python asks for the array, and stamps it, before it calls f.
        """
        if not self.is_leaf:
            raise NotDifferentiableError("only a leaf may be written to; a result is immutable")
        stamp(self._data)
        return self._data

    # ---- reading values: each of these waits for the device ----

    def numpy(self) -> np.ndarray:
        """The values as a NumPy array of its own (a copy), wherever the tensor lives."""
        if self._node is not None:
            raise NotDifferentiableError(
                "this tensor requires a gradient, and a NumPy array would lose its graph without "
                "a word; write .detach().numpy()"
            )
        return backends.of(self._data).to_host(self._data)

    def item(self) -> Any:
        """The value of a one-element tensor as a Python number."""
        if self._data.size != 1:
            raise ShapeError(
                f"item() needs exactly one element, this tensor has shape {self.shape}"
            )
        return backends.of(self._data).to_host(self._data).item()

    def tolist(self) -> Any:
        """The values as nested Python lists."""
        return backends.of(self._data).to_host(self._data).tolist()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if self.device != "cpu":
            raise DeviceError(
                f"a tensor on {self.device} does not become a NumPy array by itself; "
                f"write .detach().numpy()"
            )
        if copy is False:
            raise ValueError("a tensor becomes a NumPy array by copying; .data is the array itself")
        return np.asarray(self.numpy(), dtype=dtype)

    def __dlpack__(self, **options: Any) -> Any:
        if self._node is not None:
            raise NotDifferentiableError("export through DLPack loses the graph; .detach() first")
        return self._data.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._data.__dlpack_device__()

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __bool__(self) -> bool:
        if self._data.size != 1:
            raise ShapeError(
                f"a tensor of shape {self.shape} is neither true nor false; "
                f"ask x.data.any() or x.data.all()"
            )
        return bool(self.item())

    def __index__(self) -> int:
        if self.dtype.kind not in "iu":
            raise DTypeError(f"only an integer tensor can be an index, this one is {self.dtype}")
        return int(self.item())

    def __len__(self) -> int:
        if not self.shape:
            raise DTypeError("a 0-d tensor has no length")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    def _in_place(self, other: Any) -> Any:  # noqa: ARG002 - an operator's signature
        # `p -= step` would give the name p to a new tensor and leave the parameter as it is. Where
        # that is no danger, as in `total += loss`, Python goes on with the plain operator.
        if type(self._node) is Leaf:
            raise NotDifferentiableError(
                "a leaf that requires a gradient cannot be changed by +=, -=, *= or /=: tensors "
                "are immutable, and the name would be given to a new one. To update a parameter, "
                "p.writable()[...] = p.data - lr * p.grad; to compute with it, write p = p + x"
            )
        return NotImplemented

    __iadd__ = __isub__ = __imul__ = __itruediv__ = __ipow__ = __imatmul__ = _in_place

    def __setitem__(self, index: Any, value: Any) -> None:
        raise NotDifferentiableError(
            "tensors are immutable, so that no saved value changes under a graph. Build a new one "
            "with tg.where, tg.concat or tg.stack; to fill a leaf before use, write to a NumPy "
            "array and pass it to tg.tensor"
        )

    def __reduce_ex__(self, protocol: Any) -> Any:
        # copy.deepcopy and the standard serialisers ask here. A leaf is its array; a result is
        # the end of a graph, and copying that node by node would recurse and duplicate it.
        if not self.is_leaf:
            raise NotDifferentiableError(
                f"the result of {self._node.name!r} cannot be copied with its graph; copy a leaf, "
                f"or .detach() first"
            )
        return _rebuild, (type(self), self._data, self.requires_grad, self.grad)

    def __repr__(self) -> str:
        host = backends.of(self._data).to_host(self._data)
        values = np.array2string(host, separator=", ", prefix="tensor(", threshold=100)
        made = ""
        if self._node is not None:
            made = ", requires_grad=True" if self.is_leaf else f", op={self._node.name!r}"
        return f"tensor({values}, dtype={self.dtype}, device={self.device!r}{made})"

    if TYPE_CHECKING:
        # Bound from the table in `ops/__init__.py`; a test holds the two lists equal.
        def backward(self, gradient: Any = None, *, retain_graph: bool = False) -> None: ...
        def to(self, *args: Any, **kwargs: Any) -> Tensor: ...
        def astype(self, dtype: Any) -> Tensor: ...
        def cpu(self) -> Tensor: ...
        def cuda(self) -> Tensor: ...
        def __getitem__(self, index: Any) -> Tensor: ...
        def __add__(self, other: Any) -> Tensor: ...
        def __radd__(self, other: Any) -> Tensor: ...
        def __sub__(self, other: Any) -> Tensor: ...
        def __rsub__(self, other: Any) -> Tensor: ...
        def __mul__(self, other: Any) -> Tensor: ...
        def __rmul__(self, other: Any) -> Tensor: ...
        def __truediv__(self, other: Any) -> Tensor: ...
        def __rtruediv__(self, other: Any) -> Tensor: ...
        def __pow__(self, other: Any) -> Tensor: ...
        def __rpow__(self, other: Any) -> Tensor: ...
        def __matmul__(self, other: Any) -> Tensor: ...
        def __rmatmul__(self, other: Any) -> Tensor: ...
        def __neg__(self) -> Tensor: ...
        def __abs__(self) -> Tensor: ...
        def __eq__(self, other: object) -> Tensor: ...  # type: ignore[override] # elementwise
        def __ne__(self, other: object) -> Tensor: ...  # type: ignore[override] # elementwise
        def __lt__(self, other: Any) -> Tensor: ...
        def __le__(self, other: Any) -> Tensor: ...
        def __gt__(self, other: Any) -> Tensor: ...
        def __ge__(self, other: Any) -> Tensor: ...
        def __and__(self, other: Any) -> Tensor: ...
        def __or__(self, other: Any) -> Tensor: ...
        def __invert__(self) -> Tensor: ...
        @property
        def T(self) -> Tensor: ...  # noqa: N802 - NumPy's name
        @property
        def mT(self) -> Tensor: ...  # noqa: N802 - the array API's name
        # Every other method (sum, tanh, reshape, ...) has the signature of the function of the
        # same name in `tinygrad_rnn.ops`, with the tensor as its first argument.
        def __getattr__(self, name: str) -> Callable[..., Any]: ...


def wrap(array: Array, node: Any) -> Tensor:
    """A Tensor around an array, without a copy and without checks: the engine's own door."""
    result = object.__new__(Tensor)
    result._data = array
    result._node = node
    return result


def _rebuild(cls: type[Tensor], data: Array, requires_grad: bool, grad: Array) -> Tensor:
    result = object.__new__(cls)
    result._data, result._node = data, None
    if requires_grad:
        result.requires_grad_().grad = grad
    return result


def tensor(
    data: Any, *, dtype: Any = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """A Tensor holding a copy of `data`.

    Args:
        data: numbers, nested lists of them, a NumPy or CuPy array, or a Tensor. Python floats
            become float32, ints int64, bools bool; arrays keep their dtype.
        dtype: the dtype to convert to.
        device: where to put it: "cpu", "cuda", "cuda:1". Default: where `data` is.
        requires_grad: collect gradients for it.

    Raises:
        DTypeError: text, objects or complex numbers; a gradient asked for on integers.
        ShapeError: nested lists of unequal lengths.
        BackendUnavailable: the device cannot be used here (with the reason and the fix).
    """
    return Tensor(data, dtype=dtype, device=device, requires_grad=requires_grad)
