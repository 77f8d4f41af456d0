"""What it means for a gradient to be right, as functions that raise where it is not.

The central claim is checked with *directional* central differences, in float64. For an op f, a
random weight w and a random direction v,

    <grad <w, f>, v>  =  (<w, f(x + h v)> - <w, f(x - h v)>) / 2h  +  O(h^2)

One random direction finds any wrong entry of the Jacobian with probability one, and costs two runs
of f instead of two per element. h = 6e-6, the cube root of float64's precision, balances the
error of the formula against that of the rounding: together about 1e-10 of the terms' size.

`tests/test_gradients.py` applies these functions to every op, and to ops that are wrong on
purpose: a checker that cannot fail checks nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np

import tinygrad_rnn as tg
from tinygrad_rnn.backends import namespace

STEP = 6e-6
TOLERANCE = 1e-7  # of the size of the terms; a hundred times the error of the differences

Op = Callable[..., tg.Tensor]


def leaves(backend, arrays: Sequence[np.ndarray]) -> list[tg.Tensor]:
    """One leaf per array, collecting gradients."""
    return [backend.tensor(a, requires_grad=True) for a in arrays]


def gradients(backend, op: Op, arrays, weight, **options) -> list[np.ndarray]:
    """The gradients of <weight, op(arrays)>, on the host; zeros where nothing depends."""
    inputs = leaves(backend, arrays)
    out = op(*inputs)
    if not out.requires_grad:
        return [np.zeros_like(a) for a in arrays]
    found = tg.grad(out, inputs, backend.tensor(weight), allow_unused=True, **options)
    return [
        np.zeros_like(a) if g is None else backend.host(g)
        for a, g in zip(arrays, found, strict=True)
    ]


def value(backend, op: Op, arrays) -> np.ndarray:
    """op(arrays), on the host."""
    return backend.host(op(*(backend.tensor(a) for a in arrays)))


def check_all(backend, op: Op, arrays, rng, layout: str) -> None:
    """Everything below, for one op at one point; `layout` is one of `LAYOUTS`."""
    check_first_order(backend, op, arrays, rng)
    check_second_order(backend, op, arrays, rng)
    check_isolation(backend, op, arrays, rng)
    check_zero(backend, op, arrays)
    check_float32(backend, op, arrays, rng)
    check_layout(backend, op, arrays, rng, layout)


# ---- against finite differences ----


def check_difference(name: str, f: Callable, arrays, grads, rng) -> None:
    """<grads, v> must equal the central difference of the scalar f along a random direction v."""
    directions = [rng.standard_normal(a.shape) for a in arrays]
    ahead = [a + STEP * v for a, v in zip(arrays, directions, strict=True)]
    behind = [a - STEP * v for a, v in zip(arrays, directions, strict=True)]
    # x + h - (x - h) is 2h only up to rounding; what was really stepped is what counts.
    stepped = [(p - m) / 2 for p, m in zip(ahead, behind, strict=True)]
    terms = [g * s / STEP for g, s in zip(grads, stepped, strict=True)]
    claimed = sum(t.sum() for t in terms)
    (plus, size), (minus, _) = f(ahead), f(behind)
    measured = (plus - minus) / (2 * STEP)
    scale = 1 + size + sum(np.abs(t).sum() for t in terms)
    assert abs(claimed - measured) <= TOLERANCE * scale, (
        f"{name}: along a random direction the rules give {claimed:.12g}, "
        f"differences {measured:.12g}"
    )


def check_first_order(backend, op: Op, arrays, rng) -> None:
    """Every rule of `op` against differences of its forward."""
    weight = rng.standard_normal(value(backend, op, arrays).shape)

    def weighted(points):
        terms = weight * value(backend, op, points)
        return terms.sum(), np.abs(terms).sum()

    grads = gradients(backend, op, arrays, weight)
    check_difference("first order", weighted, arrays, grads, rng)


def check_second_order(backend, op: Op, arrays, rng) -> None:
    """The derivative of the gradient, under create_graph, against differences of the gradient.

    The incoming gradient counts as an input too: a rule is a function of it, and its own rule is
    what carries the forward pass in double backward.
    """
    arrays = [*arrays, rng.standard_normal(value(backend, op, arrays).shape)]
    coefficients = [rng.standard_normal(a.shape) for a in arrays[:-1]]

    def weighted(points):
        grads = gradients(backend, op, points[:-1], points[-1])
        terms = [(c * g).ravel() for c, g in zip(coefficients, grads, strict=True)]
        return sum(t.sum() for t in terms), sum(np.abs(t).sum() for t in terms)

    *inputs, weight = leaves(backend, arrays)
    out = op(*inputs)
    second = [np.zeros_like(a) for a in arrays]
    if out.requires_grad:
        first = tg.grad(out, inputs, weight, create_graph=True, allow_unused=True)
        sums = [
            (backend.tensor(c) * g).sum()
            for c, g in zip(coefficients, first, strict=True)
            if g is not None and g.requires_grad
        ]
        if sums:
            total = sum(sums[1:], sums[0])
            found = tg.grad(total, [*inputs, weight], allow_unused=True)
            second = [
                z if g is None else backend.host(g) for z, g in zip(second, found, strict=True)
            ]
    check_difference("second order", weighted, arrays, second, rng)


# ---- what must hold besides the value ----


def check_isolation(backend, op: Op, arrays, rng) -> None:
    """Nothing is written to but what is ours, and no two gradients share memory.

    Inputs, the incoming gradient and the result stay as they were; no gradient shares memory with
    any of them or with another gradient. A second backward pass gives the same bits.
    """
    inputs = leaves(backend, arrays)
    out = op(*inputs)
    weight = backend.tensor(rng.standard_normal(out.shape))
    bystanders = [*inputs, out, weight]
    before = [backend.host(t) for t in bystanders]
    if not out.requires_grad:
        return
    out.backward(weight, retain_graph=True)
    for tensor, was in zip(bystanders, before, strict=True):
        np.testing.assert_array_equal(backend.host(tensor), was, err_msg="written to by backward")
    grads = [t.grad for t in inputs if t.grad is not None]
    for g, t in itertools.product(grads, bystanders):
        assert not shares_memory(g, t.data), "a gradient shares memory with a tensor"
    for g, other in itertools.combinations(grads, 2):
        assert not shares_memory(g, other), "two gradients share memory"
    first = [backend.host(g) for g in grads]
    for t in inputs:
        t.grad = None
    out.backward(weight, retain_graph=True)
    again = [backend.host(t.grad) for t in inputs if t.grad is not None]
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b, err_msg="a second pass gives other values")
    for t, a in zip(inputs, arrays, strict=True):
        if t.grad is not None:
            assert (t.grad.shape, t.grad.dtype) == (a.shape, a.dtype)
            assert t.grad.flags.c_contiguous


def check_zero(backend, op: Op, arrays) -> None:
    """A zero cotangent gives zero: exactly, and not NaN."""
    shape = value(backend, op, arrays).shape
    for g in gradients(backend, op, arrays, np.zeros(shape)):
        np.testing.assert_array_equal(g, 0)


def check_float32(backend, op: Op, arrays, rng) -> None:
    """float32 in, float32 out, and the same gradient up to float32's precision."""
    narrow = [a.astype(np.float32) for a in arrays]
    out = value(backend, op, narrow)
    assert out.dtype == np.float32, f"float32 became {out.dtype}"
    weight = np.asarray(rng.standard_normal(out.shape), dtype=np.float32)
    expected = gradients(backend, op, [a.astype(np.float64) for a in narrow], weight)
    for seen, wanted in zip(gradients(backend, op, narrow, weight), expected, strict=True):
        assert seen.dtype == np.float32, f"the gradient of a float32 input is {seen.dtype}"
        size = float(np.abs(wanted).max(initial=1.0))
        np.testing.assert_allclose(seen, wanted, rtol=1e-4, atol=1e-4 * size)


def check_layout(backend, op: Op, arrays, rng, layout: str) -> None:
    """The same values and gradients whatever the strides of the inputs are."""
    make = LAYOUTS[layout]
    inputs = [make(backend, a) for a in arrays]
    for t, a in zip(inputs, arrays, strict=True):
        np.testing.assert_array_equal(backend.host(t), a)  # the layout itself changes nothing
    out = op(*inputs)
    wanted = value(backend, op, arrays)
    np.testing.assert_allclose(backend.host(out), wanted, rtol=1e-12, atol=1e-12)
    if not out.requires_grad:
        return
    weight = rng.standard_normal(wanted.shape)
    found = tg.grad(out, inputs, backend.tensor(weight), allow_unused=True)
    for seen, g in zip(found, gradients(backend, op, arrays, weight), strict=True):
        if seen is None:
            np.testing.assert_array_equal(g, 0)
        else:
            size = float(np.abs(g).max(initial=1.0))
            np.testing.assert_allclose(backend.host(seen), g, rtol=1e-12, atol=1e-12 * size)


# tg.tensor makes every array C-contiguous. Strides reach an op by way of views, so three of the
# layouts are views of a leaf, which hold the same values in another order of memory.


def _fortran(backend, a):
    return backend.tensor(a.T, requires_grad=True).T


def _reversed(backend, a):
    return tg.flip(backend.tensor(np.flip(a), requires_grad=True))


def _strided(backend, a):
    wide = np.stack([a, np.full_like(a, np.nan)], axis=-1)  # every other number in memory
    return backend.tensor(wide, requires_grad=True)[..., 0]


def _read_only(backend, a):
    locked = a.copy()
    locked.flags.writeable = False
    return backend.tensor(locked, requires_grad=True)


def _big_endian(backend, a):
    return backend.tensor(a.astype(a.dtype.newbyteorder(">")), requires_grad=True)


LAYOUTS = {
    "fortran": _fortran,
    "reversed": _reversed,
    "strided": _strided,
    "read-only": _read_only,
    "big-endian": _big_endian,
}


def shares_memory(a, b) -> bool:
    """Whether two plain arrays of one library overlap."""
    hosts = [getattr(x, "_host", x) for x in (a, b)]  # a FakeArray holds a NumPy array
    if all(isinstance(h, np.ndarray) for h in hosts):
        return np.shares_memory(*hosts)
    return bool(namespace(a).shares_memory(a, b))


def ops_behind(tensors: Sequence[tg.Tensor]) -> set:
    """Every op recorded in the graphs of `tensors`."""
    stack = [t._node for t in tensors if t is not None and t._node is not None]
    seen, ops = set(), set()
    while stack:
        node = stack.pop()
        if node in seen or node is None:
            continue
        seen.add(node)
        ops.add(getattr(node, "op", None))
        stack.extend(node.parents)
    return ops
