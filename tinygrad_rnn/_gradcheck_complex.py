"""Derivatives without subtraction: the complex step.

For a function that is *analytic*, made of ops that mean the same for complex numbers,

    f(x + i h v) = f(x) + i h J v - h^2 ... ,      so      J v = Im f(x + i h v) / h

Nothing is subtracted, so h can be 1e-20 and h^2 vanishes: J v comes out to the last digits, and a
rule that is wrong by a billionth shows. (Squire & Trapp 1998, SIAM Review 40(1).)

Tensors are real. So the complex numbers live beside them, as *shadows*: while f runs as always on
real arrays, each op also computes its *complex form* on the shadows of its inputs, and the result
becomes the shadow of its output. Branches, comparisons and indices see the real numbers, and so do
graphs: a backward pass under ``create_graph`` has shadows like any other computation, which is how
order 2 is checked.

An op that is no analytic function (abs, relu, max ...) has no complex form. Then there is no
complex step for the function, and the report names the op.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np

from tinygrad_rnn._gradcheck_inputs import Host, Problem, flat
from tinygrad_rnn.core.fused import Fused, FusedNode, identity
from tinygrad_rnn.core.grad_mode import enable_grad, no_grad
from tinygrad_rnn.core.primitive import Primitive, nodes_behind
from tinygrad_rnn.core.tensor import Leaf, Tensor, wrap
from tinygrad_rnn.errors import TinygradError
from tinygrad_rnn.ops import arithmetic, convert, elementwise, indexing, linalg, reduce, shape

STEP = 1e-20

Form = Callable[..., Any]


class NotAnalytic(TinygradError):
    """The complex step met something that is no function of complex numbers."""


# ---- complex forms ----


def _sigmoid(x: Host) -> Host:
    return 0.5 * np.tanh(0.5 * x) + 0.5


def _softplus(x: Host) -> Host:
    small = np.where(x.real >= 0, -x, x)  # |x|, negated, on the branch of the real part
    return np.where(x.real >= 0, x, 0) + np.log1p(np.exp(small))


def _logsumexp(x: Host, *, axes: tuple[int, ...], keepdims: bool) -> Host:
    top = x.real.max(axis=axes, keepdims=True)  # a constant; what it is does not matter
    top = np.where(np.isfinite(top), top, 0)
    out: Host = np.log(np.exp(x - top).sum(axis=axes, keepdims=True)) + top
    return out if keepdims else out.squeeze(axes)


def _log_softmax(x: Host, *, axis: int) -> Host:
    out: Host = x - _logsumexp(x, axes=(axis,), keepdims=True)
    return out


def _softmax(x: Host, *, axis: int) -> Host:
    weights = np.exp(x - x.real.max(axis=axis, keepdims=True))
    out: Host = weights / weights.sum(axis=axis, keepdims=True)
    return out


def _matmul(a: Host, b: Host) -> Host:
    """(A + iB)(C + iD) by real products, three times as fast; BD is of order h^2, and vanishes."""
    a_real, b_real = np.ascontiguousarray(a.real), np.ascontiguousarray(b.real)
    out: Host = a_real @ b_real + 1j * (a_real @ b.imag + a.imag @ b_real)
    return out


def _astype(x: Host, *, dtype: Any) -> Host:
    if np.dtype(dtype) != np.float64:
        raise NotAnalytic(f"astype to {np.dtype(dtype)} rounds")
    return x


# Polynomials, exponentials and the moving of elements mean the same for complex numbers: their
# forward is their complex form.
AS_THEY_ARE: tuple[Primitive, ...] = (
    arithmetic.add, arithmetic.subtract, arithmetic.multiply, arithmetic.divide,
    arithmetic.negative, arithmetic.log, arithmetic.power, arithmetic.where,
    elementwise.exp, elementwise.expm1, elementwise.log1p, elementwise.sqrt, elementwise.square,
    elementwise.reciprocal, elementwise.sin, elementwise.cos, elementwise.tanh,
    reduce._sum, reduce._prod, reduce._cumsum, reduce._norm, identity,
    shape._reshape, shape._permute_dims, shape._broadcast_to, shape._flip, shape._roll,
    shape._tril, shape._triu, shape._pad, shape._concat, indexing._getitem, indexing._scatter,
)  # fmt: skip
# Written with an absolute value or a maximum for accuracy's sake, and analytic nevertheless; and
# a product that is faster in parts.
OTHERWISE: dict[Primitive, Form] = {
    elementwise.sigmoid: _sigmoid,
    elementwise.softplus: _softplus,
    reduce._logsumexp: _logsumexp,
    reduce._log_softmax: _log_softmax,
    reduce._softmax: _softmax,
    linalg._matmul: _matmul,
    linalg.linear: lambda x, weight, bias: _matmul(x, weight.T) + bias,
    convert._astype: _astype,
}


# ---- what a function is made of ----


def obstacle(problem: Problem, analytic: Collection[Primitive]) -> str:
    """Why there is no complex step for a function; nothing if there is one.

    Args:
        problem: the function; it is recorded once to see its ops.
        analytic: primitives of the user's own whose forward may be given complex numbers.
    """
    if any(type(x._data) is not np.ndarray for x in problem.leaves):
        return f"the inputs are on {problem.leaves[0].device}; it needs NumPy, on the cpu"
    known = {*AS_THEY_ARE, *OTHERWISE, *analytic}
    outputs = problem.outputs()
    if {id(x._node) for x in problem.leaves}.isdisjoint(map(id, nodes_behind(outputs))):
        return "no gradient reaches an input: an op without a rule, or detach()?"
    missing = {op.__name__ for op in _ops_behind(outputs) if op not in known}
    if missing:
        return f"no complex form of {', '.join(sorted(missing))}"
    return ""


def _ops_behind(outputs: list[Tensor]) -> Iterator[Any]:
    """The primitives of a graph; those of its specification in the place of a fused op."""
    for node in nodes_behind(outputs):
        if isinstance(node, FusedNode):
            parents = node.parents or ()
            copies = [
                v if p is None else wrap(v, Leaf(v))
                for v, p in zip(node.values, parents, strict=True)
            ]
            with enable_grad():
                out = node.op.spec(*copies, **node.options)
            yield from _ops_behind([out])
        elif type(node) is not Leaf:
            yield node.op


# ---- shadows ----


class _Running(threading.local):
    # id of an array -> the array (held, so that no other takes its id) and its shadow
    shadows: dict[int, tuple[Any, Host]] | None = None


running = _Running()
swapping = threading.RLock()


def complex_step(problem: Problem, v: list[Host], analytic: Collection[Primitive]) -> Host:
    """J v, flat, by one run of the function beside its shadow."""
    before = running.shadows
    with _shadowed([*AS_THEY_ARE, *OTHERWISE, *analytic], _fused_in(problem)):
        running.shadows = {
            id(x._data): (x._data, x._data + 1j * STEP * d)
            for x, d in zip(problem.leaves, v, strict=True)
        }
        try:
            parts = [_imaginary(y) / STEP for y in problem.outputs()]
        finally:
            running.shadows = before
    return flat(parts)


def _fused_in(problem: Problem) -> list[Fused]:
    nodes = nodes_behind(problem.outputs())
    return list({node.op for node in nodes if isinstance(node, FusedNode)})


def _imaginary(y: Tensor) -> Host:
    found = (running.shadows or {}).get(id(y._data))
    return np.zeros(y.shape) if found is None else found[1].imag


@contextlib.contextmanager
def _shadowed(ops: list[Primitive], fused: list[Fused]) -> Iterator[None]:
    """Let ops cast shadows: their forward is exchanged, and comes back whatever happens.

    Other threads that call an op meanwhile have no shadows and get what they always get; only
    another complex step has to wait. Outside of this block no op knows of shadows at all.
    """
    with swapping:
        everything: list[Any] = [*ops, *fused]
        originals = [(op, op.forward) for op in everything]
        try:
            for op, forward in originals:
                if isinstance(op, Fused):
                    op.forward = _by_specification(op, forward)
                else:
                    op.forward = _with_shadow(op, forward)
            yield
        finally:
            for op, forward in originals:
                op.forward = forward  # whatever happened


def _with_shadow(op: Primitive, forward: Form) -> Form:
    form, trusted = OTHERWISE.get(op, forward), op in AS_THEY_ARE

    def shadowing(*values: Any, **options: Any) -> Any:
        out = forward(*values, **options)
        shadows = running.shadows
        if shadows is None or not any(id(x) in shadows for x in values):
            return out
        own = np.array(out)  # never an input passed through: it needs a shadow of its own
        found = form(*(shadows[id(x)][1] if id(x) in shadows else x for x in values), **options)
        if not trusted:
            _check_value(op.__name__, own, found)
        shadows[id(own)] = (own, _joined(own, found))
        return own

    return shadowing


def _by_specification(op: Fused, forward: Form) -> Form:
    def shadowing(*values: Any, keep: bool, **options: Any) -> tuple[Any, Any]:
        out, cache = forward(*values, keep=keep, **options)
        shadows = running.shadows
        if shadows is None or not any(id(x) in shadows for x in values):
            return out, cache
        with no_grad():
            arrays = [wrap(x, None) if id(x) in shadows else x for x in values]
            found = shadows.get(id(op.spec(*arrays, **options)._data))
        out = np.asarray(out)
        if found is not None:
            _check_value(op.__name__, out, found[1])
            shadows[id(out)] = (out, _joined(out, found[1]))
        return out, cache

    return shadowing


def _joined(real: Host, found: Any) -> Host:
    """The real part as computed by the op itself, the imaginary part from its complex form."""
    shadow = np.empty(real.shape, dtype=np.complex128)
    shadow.real, shadow.imag = real, np.imag(found)
    return shadow


def _check_value(name: str, real: Host, found: Any) -> None:
    """A complex form that has another value on the real line is the form of another function."""
    finite = np.isfinite(real)
    size = np.abs(real[finite]).max(initial=1.0)
    same = np.shape(found) == real.shape
    if not same or (np.abs(np.real(found) - real)[finite] > 1e-6 * size).any():
        raise NotAnalytic(f"{name} has another value for complex numbers")
