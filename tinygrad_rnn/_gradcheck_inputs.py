"""The function to be checked, and what it is a function of.

A check needs leaves in float64 that it may move. Where they come from:

- an array or a Tensor among the inputs: a float64 copy of it;
- a leaf of the caller's own that requires a gradient (a parameter that `fn` reads from outside):
  the leaf itself, for `fn` knows no other. It is *lent*: for the time of the check it gets another
  array, and afterwards its own back, which nobody has written to;
- a Module: the parameters of a float64 copy.

float32 is never checked by differences. The best step leaves an error of 1e-3 to 1e-5 in float32,
which proves nothing, so the same numbers are checked in float64, and then the float32 gradient is
held against the float64 one.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_rnn import backends
from tinygrad_rnn.core.engine import grad
from tinygrad_rnn.core.grad_mode import enable_grad
from tinygrad_rnn.core.primitive import nodes_behind
from tinygrad_rnn.core.tensor import Leaf, Tensor
from tinygrad_rnn.errors import DTypeError
from tinygrad_rnn.nn.module import Module

Host = NDArray[Any]

WAY_OUT = (
    "What a function closes over cannot be converted from outside: pass the Module itself as fn, "
    "or what it closes over among the inputs"
)


@dataclass(frozen=True)
class Problem:
    """A function without arguments of leaves that can be moved, and the names of both ends."""

    run: Callable[[], list[tuple[str, Tensor]]]
    leaves: list[Tensor]
    names: list[str]

    def outputs(self) -> list[Tensor]:
        """The results at the leaves' present values, each call with a graph of its own."""
        return [y for _, y in self.run()]

    def values(self) -> Host:
        """The results as one flat vector on the host."""
        return flat([host(y) for y in self.outputs()])

    def at(self, v: list[Host], t: float) -> Host:
        """f(x + t v), flat; the leaves end where they were."""
        before = [host(x) for x in self.leaves]
        try:
            for x, start, d in zip(self.leaves, before, v, strict=True):
                if d.any():
                    write(x, start + t * d)
            return self.values()
        finally:
            for x, start, d in zip(self.leaves, before, v, strict=True):
                if d.any():
                    write(x, start)


@dataclass(frozen=True)
class Inputs:
    """`fn` with its inputs: in float64 to be checked, and as given where that was float32."""

    problem: Problem
    as_given: Callable[[], Problem] | None


def prepare(fn: Callable[..., Any], inputs: Any) -> Inputs:
    """Find the leaves, and convert what is float32; raises DTypeError where that cannot be."""
    alone = not isinstance(inputs, list | tuple)
    given = [inputs] if alone else list(inputs)
    narrow = any(_is_single(x) for x in _floats(given))
    precise = _problem(_converted(fn, np.float64), given, np.float64, cast=narrow)
    if not precise.leaves:
        raise DTypeError("gradcheck: none of the inputs is a float64 or float32 array or Tensor")
    if isinstance(fn, Module):
        narrow = any(_is_single(p) for p in fn.parameters()) or (
            narrow and next(fn.parameters(), None) is None
        )
        as_given = np.float32  # the inputs go along with the parameters
    else:
        as_given = None
    return Inputs(
        precise,
        (lambda: _problem(_converted(fn, None), given, as_given, cast=False)) if narrow else None,
    )


def _converted(fn: Callable[..., Any], dtype: Any) -> Callable[..., Any]:
    """A Module is checked by way of a copy, and is itself never touched."""
    if not isinstance(fn, Module):
        return fn
    for name, p in fn.named_parameters():
        _refuse_half(name, p)
    twin = copy.deepcopy(fn)
    return twin if dtype is None else twin.to(dtype=dtype)


def _problem(fn: Callable[..., Any], given: list[Any], dtype: Any, *, cast: bool) -> Problem:
    found: dict[int, tuple[str, Tensor]] = {}
    arguments = [_argument(x, f"input {i}", dtype, found) for i, x in enumerate(given)]
    if isinstance(fn, Module):
        for name, p in fn.named_parameters():
            if p.requires_grad:
                found.setdefault(id(p), (name, p))
    names, leaves = [n for n, _ in found.values()], [x for _, x in found.values()]

    def run() -> list[tuple[str, Tensor]]:
        try:
            # An infinity or a NaN is for the report to tell, not for NumPy.
            with enable_grad(), np.errstate(all="ignore"):
                result = fn(*arguments)
        except DTypeError as error:
            inputs = "float64 copies of its float32 inputs" if cast else "its inputs"
            raise DTypeError(f"gradcheck: on {inputs}, fn raised: {error}. {WAY_OUT}") from error
        return list(_results(result, "output", dtype is np.float64))

    return Problem(run, leaves, names)


def _argument(value: Any, name: str, dtype: Any, found: dict[int, tuple[str, Tensor]]) -> Any:
    """`value` with a leaf for every floating array in it; a pair of states is looked into."""
    if type(value) in (list, tuple):
        return type(value)(_argument(x, f"{name}.{i}", dtype, found) for i, x in enumerate(value))
    if not _is_float(value):
        return value
    _refuse_half(name, value)
    own = isinstance(value, Tensor) and value.is_leaf and value.requires_grad
    leaf = value if own else Tensor(value, dtype=dtype, requires_grad=True)
    found.setdefault(id(leaf), (name, leaf))  # a leaf that comes twice moves once
    return leaf


def _results(value: Any, name: str, strict: bool) -> Iterator[tuple[str, Tensor]]:
    """Every Tensor in what `fn` returned; in a check by differences all have to be float64."""
    if isinstance(value, list | tuple | dict):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in parts:
            yield from _results(
                part, f"{name} {key}" if name == "output" else f"{name}.{key}", strict
            )
        return
    if value is None and name != "output":
        return  # a state that a module does not have
    if not isinstance(value, Tensor) or (strict and value.dtype != np.float64):
        seen = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise DTypeError(f"gradcheck: fn must return float64 Tensors, but gave {seen}. {WAY_OUT}")
    yield ("output 0" if name == "output" else name), value


def refuse_narrow(problem: Problem) -> None:
    """Nothing between the leaves and the results may be narrower than float64.

    Differences of what was once rounded to float32 have errors of a percent.
    """
    reached = {x._node for x in problem.leaves}
    for node in nodes_behind(problem.outputs()):
        if type(node) is not Leaf and not reached.isdisjoint(node.parents or ()):
            reached.add(node)
            if node.dtype.itemsize < 8:
                raise DTypeError(
                    f"gradcheck: inside fn, {node.name!r} computes in {node.dtype}, whose rounding "
                    f"differences would take for a slope. Leave out the conversion. {WAY_OUT}"
                )


@contextlib.contextmanager
def lent(leaves: Sequence[Tensor]) -> Iterator[None]:
    """Give each leaf a float64 array to be moved, and its own array back, whatever happens."""
    before = [(x, x._data, x._node) for x in leaves]
    try:
        for x in leaves:
            x.rehouse(Tensor(x, dtype=np.float64)._data, None)
        yield
    finally:
        for x, data, node in before:
            x._data, x._node = data, node
            node.moved = False  # it is the end of the graph again


# ---- backward passes ----


def vjp(
    outputs: Sequence[Tensor], leaves: Sequence[Tensor], cotangents: Sequence[Any], **options: Any
) -> Sequence[Tensor | None]:
    """J^T u by one backward pass; None for leaves that no output depends on."""
    pairs = [(y, u) for y, u in zip(outputs, cotangents, strict=True) if y.requires_grad]
    if not pairs:
        return [None] * len(leaves)
    ys, us = zip(*pairs, strict=True)
    return grad(list(ys), list(leaves), list(us), allow_unused=True, **options)


def gradients(
    outputs: Sequence[Tensor], leaves: Sequence[Tensor], cotangents: Sequence[Any], **options: Any
) -> list[Host]:
    """The same on the host, with zeros for None."""
    with np.errstate(all="ignore"):
        found = vjp(outputs, leaves, cotangents, **options)
    return [np.zeros(x.shape) if g is None else host(g) for x, g in zip(leaves, found, strict=True)]


# ---- small things ----


def host(x: Tensor) -> Host:
    """A copy of the values."""
    return np.array(backends.of(x._data).to_host(x._data))


def flat(parts: Sequence[Host]) -> Host:
    return np.concatenate([np.ravel(p) for p in parts]) if parts else np.zeros(0)


def write(x: Tensor, values: Host) -> None:
    x.writable()[...] = backends.of(x._data).asarray(values, x.device)


def _floats(value: Any) -> Iterator[Any]:
    if type(value) in (list, tuple):
        for part in value:
            yield from _floats(part)
    elif _is_float(value):
        yield value


def _is_float(value: Any) -> bool:
    return getattr(getattr(value, "dtype", None), "kind", "") == "f"


def _is_single(value: Any) -> bool:
    return bool(value.dtype == np.float32)


def _refuse_half(name: str, value: Any) -> None:
    if value.dtype == np.float16:
        raise DTypeError(
            f"gradcheck: {name} is float16; needed float64 or float32. Convert it with "
            f".astype('float64'): in float16 one step of rounding is a thousandth"
        )
