"""What it means for a gradient to be right: properties, as functions of a `Point` that raise.

The central claim is checked with *directional* central differences, in float64. For an op f, a
random weight u and a random direction v,

    <J^T u, v>  =  (<u, f(x + h v)> - <u, f(x - h v)>) / 2h  +  O(h^2)

One random direction finds any wrong entry of the Jacobian with probability one, and costs two runs
of f instead of two per element. h = 6e-6, the cube root of float64's precision, balances the
error of the formula against that of the rounding: together about 1e-10 of the terms' size. It is
also the duality of J^T and J, with J taken by differences.

(`tg.gradcheck` tells a person everything about one point. This asks one cheap question of thousands
of points, so that Hypothesis can look for one that fails and make it small.)

All the others compare the rules with themselves, so that their tolerance is that of rounding, or
none at all. `order_two.py` has the same for second derivatives.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinygrad_rnn.core.fused import FusedNode
from tinygrad_rnn.core.primitive import nodes_behind
from tinygrad_rnn.core.tensor import Leaf, Tensor
from tinygrad_rnn.errors import GradcheckError
from tinygrad_rnn.testing.places import LAYOUTS, Place, shares_memory
from tinygrad_rnn.testing.point import Host, Point

STEP = 6e-6
TOLERANCE = 1e-7  # of the size of the terms; a hundred times the error of the differences
ROUNDING = 1e-12  # of the size of the numbers, where two ways must agree up to rounding


# ---- comparing ----


def require_same(
    what: str, seen: Sequence[Host], wanted: Sequence[Host], tolerance: float = 0.0
) -> None:
    """Raise unless all pairs are equal up to `tolerance` of their size; 0 means the same bits."""
    for k, (a, b) in enumerate(zip(seen, wanted, strict=True)):
        if tolerance and a.dtype.kind != "b":
            size = 1 + float(np.abs(b).max(initial=0.0))
            wrong = ~(np.abs(a - b) <= tolerance * size)  # NaN is wrong, too
        elif a.tobytes() == b.tobytes():
            continue
        else:
            wrong = np.asarray((a != b) | (np.signbit(a) != np.signbit(b)))
        if wrong.any():
            at = tuple(int(i) for i in np.argwhere(wrong)[0])
            raise GradcheckError(
                f"{what}: number {k}, at {list(at)}, is {a[at]!r} and was to be {b[at]!r}"
            )


def require_difference(
    f: Callable[[list[Host]], tuple[float, float]],
    arrays: Sequence[Host],
    grads: Sequence[Host],
    point: Point,
) -> None:
    """<grads, v> must equal the central difference of the scalar f along a random direction v."""
    directions = point.directions[: len(arrays)]
    claimed, measured, scale = _along(f, arrays, grads, directions)
    if abs(claimed - measured) <= TOLERANCE * scale:
        return
    message = f"the rules give {claimed:.12g}, differences {measured:.12g} along a random direction"
    for k, only in enumerate(directions if len(directions) > 1 else []):  # which of them is it?
        alone = [only if i == k else np.zeros_like(v) for i, v in enumerate(directions)]
        claimed, measured, scale = _along(f, arrays, grads, alone)
        if not abs(claimed - measured) <= TOLERANCE * scale:
            message += f"; for input {k} alone {claimed:.12g} against {measured:.12g}"
    raise GradcheckError(message)


def _along(
    f: Callable[[list[Host]], tuple[float, float]],
    arrays: Sequence[Host],
    grads: Sequence[Host],
    directions: Sequence[Host],
) -> tuple[float, float, float]:
    """The derivative along a direction as claimed and as measured, and the size of their terms."""
    ahead = [a + STEP * v for a, v in zip(arrays, directions, strict=True)]
    behind = [a - STEP * v for a, v in zip(arrays, directions, strict=True)]
    # x + h - (x - h) is 2h only up to rounding; what was really stepped is what counts.
    terms = [g * ((p - m) / 2) / STEP for g, p, m in zip(grads, ahead, behind, strict=True)]
    claimed = float(sum(t.sum() for t in terms))
    (plus, size), (minus, _) = f(ahead), f(behind)
    measured = float((plus - minus) / (2 * STEP))
    return claimed, measured, float(1 + size + sum(np.abs(t).sum() for t in terms))


# ---- the value of the gradient ----


def first_order(p: Point) -> None:
    """Every rule against differences of the forward."""

    def weighted(arrays: list[Host]) -> tuple[float, float]:
        terms = p.weight * p.value(arrays)
        return float(terms.sum()), float(np.abs(terms).sum())

    require_difference(weighted, p.arrays, p.first, p)


def linear(p: Point) -> None:
    """vjp(a u + b w) = a vjp(u) + b vjp(w)."""
    a, b = 0.75, -1.5
    together = p.pull(a * p.weight + b * p.other_weight)
    apart = [a * g + b * h for g, h in zip(p.first, p.first_other, strict=True)]
    require_same("the rule of a sum of incoming gradients", together, apart, ROUNDING)


def zero(p: Point) -> None:
    """A zero incoming gradient gives zero: exactly, and not NaN."""
    for g in p.pull(np.zeros_like(p.weight)):
        if not (g == 0).all():
            raise GradcheckError(f"an incoming gradient of zeros gives {g.tolist()}")


def narrow(p: Point) -> None:
    """float32 in, float32 out, and the same gradient up to float32's precision."""
    narrowed = [a.astype(np.float32) for a in p.arrays]
    leaves = p.place.leaves(narrowed)
    out = p.op(*leaves)
    if out.dtype != np.float32:
        raise GradcheckError(f"float32 inputs give {out.dtype}; constants are Python numbers")
    if not out.requires_grad:
        return
    exact = [a.astype(np.float64) for a in narrowed]
    same = all(np.array_equal(a, b) for a, b in zip(exact, p.arrays, strict=True))
    wanted = p.first if same else p.gradients(exact, p.weight)
    found = p.pull_from([out], [np.asarray(p.weight, np.float32)], leaves)
    for k, seen in enumerate(found):
        if seen.dtype != np.float32:
            raise GradcheckError(f"the gradient of the float32 input {k} is {seen.dtype}")
    require_same("the gradient in float32, against float64", found, wanted, 1e-4)


def layout(p: Point) -> None:
    """The same values and gradients whatever the strides of the inputs are."""
    inputs = [LAYOUTS[p.layout](p.place, a) for a in p.arrays]
    out = p.op(*inputs)
    wanted = p.place.host(p.out)
    require_same(f"the result of {p.layout} inputs", [p.place.host(out)], [wanted], ROUNDING)
    found = p.pull_from([out], [p.weight], inputs)
    require_same(f"the gradient of {p.layout} inputs", found, p.first, ROUNDING)


# ---- what holds besides the value ----


def isolated(p: Point) -> None:
    """Nothing is written to but what is ours, and no two gradients share memory.

    Inputs, the incoming gradient and the result stay as they were; no gradient shares memory with
    any of them or with another gradient. A pass over the same graph gives the same bits again.
    """
    if not p.out.requires_grad:
        return
    weight = p.place.tensor(p.weight)
    bystanders = [*p.inputs, p.out, weight]
    before = [p.place.host(t) for t in bystanders]
    require_same("an input was written to", before[: len(p.arrays)], p.arrays)
    p.out.backward(weight, retain_graph=True)
    require_unchanged(p.place, bystanders, before)
    grads = [t.grad for t in p.inputs if t.grad is not None]
    require_apart(grads, bystanders)
    for t in p.inputs:
        if t.grad is not None and not (
            (t.grad.shape, t.grad.dtype) == (t.shape, t.dtype) and t.grad.flags.c_contiguous
        ):
            raise GradcheckError(f".grad is {t.grad.dtype} {t.grad.shape} for an input {t.shape}")
    found = p.hosts(p.inputs, [t.grad for t in p.inputs])
    for t in p.inputs:
        t.grad = None
    require_same("a second backward pass over the graph", found, p.first)


def require_unchanged(place: Place, tensors: Sequence[Tensor], before: Sequence[Host]) -> None:
    """Raise where a tensor (the inputs first, then the result and so on) has other bits."""
    after = [place.host(t) for t in tensors]
    require_same("written to by backward (inputs, result, incoming gradients)", after, before)


def require_apart(grads: Sequence[Any], bystanders: Sequence[Tensor]) -> None:
    """Raise where a gradient shares memory with a tensor or with another gradient."""
    for g, t in itertools.product(grads, bystanders):
        if shares_memory(g, t.data):
            raise GradcheckError("a gradient shares memory with an input, the result or a gradient")
    for g, other in itertools.combinations(grads, 2):
        if shares_memory(g, other):
            raise GradcheckError("two gradients share memory")


def repeatable(p: Point) -> None:
    """Twice gives the same bits: forward, forward with nothing recorded, and backward."""
    host = p.place.host
    out = host(p.out)
    require_same("the result of a second call", [host(p.again)], [out])
    require_same("the result with nothing recorded", [p.value(p.arrays)], [out])
    again = p.pull_both([p.again], [p.weight])
    require_same("the gradient of a second call", again, p.first)


def order_of_construction(p: Point) -> None:
    """Of two independent parts of a graph it does not matter which was built first.

    The parts are two uses of the inputs. Where each use sends one gradient to each input, sums have
    two terms, and must agree to the bit.
    """
    outs = [p.out, p.again]
    one = p.pull_both(outs, [p.weight, p.other_weight])
    other = p.pull_both(outs, [p.other_weight, p.weight])
    parents = [q for q in getattr(p.out._node, "parents", ()) if q is not None]
    two_terms = all(type(q) is Leaf for q in parents) and len(set(parents)) == len(parents)
    what = "the gradient through two uses, built in the other order"
    require_same(what, one, other, 0.0 if two_terms else ROUNDING)
    apart = [g + h for g, h in zip(p.first, p.first_other, strict=True)]
    require_same("the gradient through two uses, against their sum", one, apart, ROUNDING)


def asked_alone(p: Point) -> None:
    """An input whose gradient alone is asked for gets the same as among others."""
    if not p.out.requires_grad or len(p.inputs) == 1:
        return
    k = p.chosen
    rest = [t if i == k else t.detach() for i, t in enumerate(p.inputs)]
    found = p.pull_from([p.op(*rest)], [p.weight], [p.inputs[k]])
    require_same(f"the gradient of input {k} alone", found, [p.first[k]], ROUNDING)


def specification(p: Point) -> None:
    """Every fused op in the graph computes what its specification computes."""
    for node in nodes_behind([p.out]):
        if isinstance(node, FusedNode):
            given = [None if v is None else _constant(v) for v in node.values]
            fast = p.place.host(node.op(*given, **node.options))
            plain = p.place.host(node.op.spec(*given, **node.options))
            if fast.shape != plain.shape:
                raise GradcheckError(f"{node.name} gives {fast.shape}, its spec {plain.shape}")
            require_same(f"{node.name} against its specification", [fast], [plain], 1e-10)


def _constant(value: Any) -> Any:
    return value if isinstance(value, float | int) else Tensor(value)
