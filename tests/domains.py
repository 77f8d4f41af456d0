"""Where each op is differentiable: the one table the gradient tests walk over.

An entry names an op and draws `Case`s: inputs in float64 and the options of a call through the
public function. The numbers come from the grids of `tinygrad_rnn/testing/strategies.py`, which keep
away from kinks and ties.

`tests/test_gradients.py` fails for an op of the package that no entry covers.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tinygrad_rnn as tg
from tinygrad_rnn.ops import arithmetic, convert, elementwise, indexing, linalg, reduce, shape
from tinygrad_rnn.ops import gru as gru_ops
from tinygrad_rnn.ops import loss as loss_ops
from tinygrad_rnn.ops import lstm as lstm_ops
from tinygrad_rnn.ops import norm as norm_ops
from tinygrad_rnn.ops import rnn as rnn_ops
from tinygrad_rnn.ops import sequence as sequence_ops
from tinygrad_rnn.testing import (
    Case,
    arrays,
    axes,
    broadcastable,
    broadcastable_shapes,
    indices,
    shapes,
)
from tinygrad_rnn.testing.strategies import MANY, NONZERO, POSITIVE, REAL, WITH_ZERO, grid

A = arithmetic
# Results are bools or integers: there is nothing to differentiate.
NOT_DIFFERENTIABLE = {
    A.equal, A.not_equal, A.less, A.less_equal, A.greater, A.greater_equal,
    A.logical_and, A.logical_or, A.logical_not, reduce._argmax, reduce._argmin,
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """An op's cases, and the primitives that they are the test of."""

    cases: st.SearchStrategy[Case]
    covers: tuple
    order: int = 2  # 1 for what cannot be differentiated twice


ENTRIES: dict[str, Entry] = {}


def entry(name: str, cases: st.SearchStrategy[Case], *covers, order: int = 2) -> None:
    assert name not in ENTRIES
    ENTRIES[name] = Entry(cases, covers, order)


def filled(shape_, values=REAL, *, unique: bool = False):
    return arrays(values, shape_, unique=unique)


# ---- families ----


def unary(function, values=REAL, *, min_dims: int = 0, **options):
    return shapes(min_dims).flatmap(
        lambda s: filled(s, values).map(lambda a: Case((a,), function, options))
    )


def broadcast(function, *values):
    """As many inputs as `values`, whose shapes broadcast against each other."""
    return broadcastable(*values).map(lambda drawn: Case(drawn, function))


@st.composite
def reduction(draw, function, values=REAL, *, unique=False, min_side=0, **options):
    """Over no axis, one, several or all; `options` are strategies.

    Two of three arrays have sides of 2 and 3, and every set of axes is as likely as another: a sum
    spread back along the wrong axis shows in no other case.
    """
    kinds = [shapes(min_side=min_side), shapes(2, min_side=2), shapes(2, min_side=2)]
    a = draw(filled(draw(draw(st.sampled_from(kinds))), values, unique=unique))
    drawn = {name: draw(strategy) for name, strategy in options.items()}
    drawn |= {"axis": draw(subsets_of_axes(a.ndim)), "keepdims": draw(st.booleans())}
    return Case((a,), function, drawn)


def subsets_of_axes(ndim: int):
    """None, or any set of axes: as a number where it is one, from the front or from the end."""
    sets = itertools.chain.from_iterable(
        itertools.combinations(range(ndim), n) for n in range(ndim + 1)
    )
    found = [None]
    for chosen in sets:
        found += [chosen, tuple(i - ndim for i in reversed(chosen))]
        found += [chosen[0]] if len(chosen) == 1 else []
    return st.sampled_from(found)


@st.composite
def shaped(draw, function, options, *, min_dims=0, min_side=0):
    """`options(draw, shape)` gives the options that go with a shape."""
    s = draw(shapes(min_dims, min_side=min_side))
    return Case((draw(filled(s)),), function, options(draw, s))


def one_axis(draw, s) -> int:
    return draw(st.integers(-len(s), len(s) - 1))


# ---- elementwise ----

for _op, _values in [
    (A.negative, REAL), (A.log, POSITIVE), (elementwise.exp, REAL), (elementwise.expm1, REAL),
    (elementwise.log1p, grid(-0.75, 3)), (elementwise.sqrt, POSITIVE),
    (elementwise.square, WITH_ZERO), (elementwise.reciprocal, NONZERO), (elementwise.sin, REAL),
    (elementwise.cos, REAL), (elementwise.tanh, WITH_ZERO), (elementwise.sigmoid, WITH_ZERO),
    (elementwise.softplus, REAL), (elementwise.relu, REAL), (elementwise.abs, REAL),
    (elementwise.sign, REAL), (elementwise.erf, WITH_ZERO),
]:  # fmt: skip
    entry(_op.__name__, unary(_op, _values), _op)
entry("gelu", unary(tg.gelu))
entry("gelu, tanh", unary(tg.gelu, approximate="tanh"))
for _low, _high in [(-1, None), (None, 1), (-1, 1)]:
    entry(f"clip to {_low}, {_high}", unary(tg.clip, min=_low, max=_high), elementwise._clip)
entry(
    "clip by tensors", broadcast(tg.clip, REAL, grid(-3, 3, offset=0), grid(-3, 3, offset=1 / 32))
)

for _op, _a, _b in [
    (A.add, REAL, REAL), (A.subtract, REAL, REAL), (A.multiply, REAL, WITH_ZERO),
    (A.divide, WITH_ZERO, NONZERO), (A.power, POSITIVE, WITH_ZERO),
    (A.maximum, REAL, WITH_ZERO), (A.minimum, REAL, WITH_ZERO),
]:  # fmt: skip
    entry(_op.__name__, broadcast(_op, _a, _b), _op)
for _n in (0, 1, 2, 3, -2):
    entry(f"power, exponent {_n}", unary(lambda x, n: x**n, NONZERO, n=_n), A.power)
entry("power, base 2", unary(lambda x: 2**x), A.power)
entry("arithmetic with numbers", unary(lambda x: (1 - x) / 2 + 3 / (x + 4) - x * 0.5 - 1))
entry("a + a", unary(lambda x: x + x), A.add)
entry("a * a", unary(lambda x: x * x), A.multiply)


@st.composite
def _where(draw):
    first, second, third = draw(broadcastable_shapes(3))
    condition = draw(hnp.arrays(bool, first))
    call = lambda a, b, condition: tg.where(tg.tensor(condition, device=a.device), a, b)  # noqa: E731
    return Case((draw(filled(second)), draw(filled(third))), call, {"condition": condition})


entry("where", _where(), A.where)


# ---- reductions ----

entry("sum", reduction(tg.sum), reduce._sum)
entry("mean", reduction(tg.mean, min_side=1))
_correction = {"correction": st.sampled_from([0, 0.5])}
entry("var", reduction(tg.var, min_side=1, **_correction))
entry("std", reduction(tg.std, MANY, min_side=1, unique=True, **_correction))
entry("max", reduction(tg.max, MANY, min_side=1, unique=True), reduce._max)
entry("min", reduction(tg.min, MANY, min_side=1, unique=True), reduce._min)
entry("prod", reduction(tg.prod, grid(-1, 1, offset=0)), reduce._prod)
entry("logsumexp", reduction(tg.logsumexp, min_side=1), reduce._logsumexp)
entry("norm", reduction(tg.norm), reduce._norm)
for _ord in (1, math.inf, -math.inf, 3, 0.5):
    _side, _from = (1, grid(0.5, 9)) if math.isinf(_ord) else (1, REAL)
    _cases = reduction(tg.norm, _from, unique=math.isinf(_ord), min_side=_side, ord=st.just(_ord))
    entry(f"norm, ord {_ord}", _cases)
entry(
    "cumsum",
    shaped(tg.cumsum, lambda draw, s: {"axis": draw(axes(len(s), several=False))}),
    reduce._cumsum,
)
for _op, _primitive in [(tg.softmax, reduce._softmax), (tg.log_softmax, reduce._log_softmax)]:
    _cases = shaped(_op, lambda draw, s: {"axis": one_axis(draw, s)}, min_dims=1, min_side=1)
    entry(_op.__name__, _cases, _primitive)


# ---- shapes ----


def _reshaped(draw, s):
    parts = draw(st.permutations([*s, 1]))
    return {"wanted": tuple(parts) if draw(st.booleans()) else (math.prod(s),)}


def _broadcasted(draw, s):
    wide = tuple(3 if n == 1 else n for n in s)
    return {"shape": draw(st.sampled_from([s, wide, (2, *wide), (0, *wide)]))}


def _rolled(draw, s):
    axis = draw(axes(len(s)))
    count = len(axis) if isinstance(axis, tuple) else 1
    shifts = tuple(draw(st.integers(-4, 4)) for _ in range(count))
    return {"shift": shifts if isinstance(axis, tuple) else shifts[0], "axis": axis}


def _diagonal(draw, s):
    return {"k": draw(st.integers(-3, 3))}


def _padded(draw, s):
    pair = st.tuples(st.integers(0, 2), st.integers(0, 2))
    widths = draw(st.one_of(st.integers(0, 2), pair, st.tuples(*[pair] * len(s))))
    return {"pad_width": widths, "constant_value": draw(st.sampled_from([0, 1.5]))}


def _axis_and(**strategies):
    return lambda draw, s: {
        "axis": one_axis(draw, s),
        **{name: draw(strategy) for name, strategy in strategies.items()},
    }


entry("reshape", shaped(lambda x, wanted: x.reshape(wanted), _reshaped), shape._reshape)
entry(
    "permute_dims",
    shaped(tg.permute_dims, lambda draw, s: {"axes": draw(st.permutations(range(len(s))))}),
    shape._permute_dims,
)
entry("broadcast_to", shaped(tg.broadcast_to, _broadcasted), shape._broadcast_to)
entry("flip", shaped(tg.flip, lambda draw, s: {"axis": draw(axes(len(s)))}), shape._flip)
entry("roll", shaped(tg.roll, _rolled), shape._roll)
entry("tril", shaped(tg.tril, _diagonal, min_dims=2), shape._tril)
entry("triu", shaped(tg.triu, _diagonal, min_dims=2), shape._triu)
entry("pad", shaped(tg.pad, _padded, min_dims=1), shape._pad)
entry("ravel", unary(tg.ravel))
entry("transpose", unary(tg.transpose))
entry("matrix_transpose", unary(tg.matrix_transpose, min_dims=2))
entry(
    "swapaxes",
    shaped(
        tg.swapaxes,
        lambda draw, s: {"axis1": one_axis(draw, s), "axis2": one_axis(draw, s)},
        min_dims=1,
    ),
)
entry("expand_dims", shaped(tg.expand_dims, lambda draw, s: {"axis": one_axis(draw, (*s, 1))}))
entry("squeeze", unary(lambda x: tg.squeeze(tg.expand_dims(x, (0, -1)), -1)))
_repeats = {"repeats": st.integers(0, 3)}
entry("repeat", shaped(tg.repeat, _axis_and(**_repeats), min_dims=1))
entry(
    "tile",
    shaped(
        tg.tile,
        lambda draw, s: {
            "repetitions": tuple(draw(st.lists(st.integers(0, 2), max_size=len(s) + 1)))
        },
    ),
)
entry(
    "split",
    shaped(
        lambda x, axis, cuts: tg.concat(tg.split(x, cuts, axis)[::-1], axis),
        _axis_and(cuts=st.lists(st.integers(0, 3), max_size=2).map(sorted)),
        min_dims=1,
    ),
)
entry(
    "unstack",
    shaped(
        lambda x, axis: tg.stack(tg.unstack(x, axis)[::-1], axis),
        _axis_and(),
        min_dims=1,
        min_side=1,
    ),
)


@st.composite
def _concat(draw):
    s = draw(shapes(1))
    axis = one_axis(draw, s)
    sizes = draw(st.lists(st.integers(0, 3), min_size=1, max_size=3))
    place = axis % len(s)
    arrays = [draw(filled((*s[:place], n, *s[place + 1 :]))) for n in sizes]
    return Case(tuple(arrays), lambda *xs, axis: tg.concat(xs, axis), {"axis": axis})


@st.composite
def _stack(draw):
    s = draw(shapes(0, 2))
    arrays = tuple(draw(filled(s)) for _ in range(draw(st.integers(1, 3))))
    return Case(arrays, lambda *xs, axis: tg.stack(xs, axis), {"axis": one_axis(draw, (*s, 1))})


entry("concat", _concat(), shape._concat)
entry("stack", _stack())
entry("a tensor twice in concat", unary(lambda x: tg.concat([x, x], 0), min_dims=1), shape._concat)


# ---- indexing ----


@st.composite
def _getitem(draw):
    a = draw(filled(draw(shapes())))
    return Case((a,), lambda x, index: x[index], {"index": draw(indices(a.shape))})


@st.composite
def _take(draw):
    a = draw(filled(draw(shapes(1, min_side=1))))
    axis = draw(axes(a.ndim, several=False))
    size = a.size if axis is None else a.shape[axis]
    ids = draw(hnp.arrays(np.int64, shapes(0, 2), elements=st.integers(-size, size - 1)))
    return Case((a,), tg.take, {"indices": ids, "axis": axis})


@st.composite
def _take_along_axis(draw):
    a = draw(filled(draw(shapes(1, min_side=1))))
    axis = one_axis(draw, a.shape)
    s = list(a.shape)
    s[axis] = draw(st.integers(0, 3))
    size = a.shape[axis]
    ids = draw(hnp.arrays(np.int64, tuple(s), elements=st.integers(-size, size - 1)))
    return Case((a,), tg.take_along_axis, {"indices": ids, "axis": axis})


entry("getitem", _getitem(), indexing._getitem, indexing._scatter)
entry("take", _take())
entry("take_along_axis", _take_along_axis())


# ---- products ----

_MATMUL = hnp.mutually_broadcastable_shapes(
    signature=np.matmul.signature, max_dims=2, min_side=0, max_side=3
)


@st.composite
def of_shapes(draw, function, shapes_, **options):
    """Inputs of the shapes that one draw gives."""
    return Case(tuple(draw(filled(s)) for s in draw(shapes_)), function, options)


entry("matmul", of_shapes(tg.matmul, _MATMUL.map(lambda m: m.input_shapes)), linalg._matmul)
_LINEAR = [((2, 3), (4, 3), (4,)), ((3,), (2, 3), (2,)), ((2, 2, 3), (1, 3), (1,)),
           ((0, 3), (2, 3), (2,)), ((2, 0), (3, 0), (3,)), ((2, 3), (0, 3), (0,))]  # fmt: skip
entry("linear", of_shapes(linalg.linear, st.sampled_from(_LINEAR)), linalg.linear)
_DOT = [((3,), (3,)), ((2, 3), (3,)), ((2, 3), (3, 2)), ((3,), (2, 3, 2)), ((2, 1, 3), (2, 3, 2)),
        ((), (2, 3)), ((0,), (0,)), ((2, 0), (0, 3))]  # fmt: skip
entry("dot", of_shapes(tg.dot, st.sampled_from(_DOT)))
entry("outer", of_shapes(tg.outer, st.tuples(shapes(0, 2), shapes(0, 2))))
_EINSUM = """
    ij,jk->ik  ij->ji  ij->j  ij->  ii->i  ii  iij->j  bij,bjk->bik  i,i->  i,j->ij  ij,j
    ijk,kl->ijl  ij,kj,kl->il  ...i,ij->...j  bij,j->b  ij,ij->i  i...,i...->...  i,->i
"""


@st.composite
def _einsum(draw):
    subscripts = draw(st.sampled_from(_EINSUM.split()))
    size = {letter: draw(st.integers(0, 3)) for letter in "bijklZ"}
    terms = subscripts.partition("->")[0].replace("...", "Z").split(",")
    arrays = tuple(draw(filled(tuple(size[letter] for letter in t))) for t in terms)
    return Case(arrays, lambda *xs, s: tg.einsum(s, *xs), {"s": subscripts})


entry("einsum", _einsum())


# ---- conversions ----


def there_and_back(x):
    return x.to("fake" if x.device == "cpu" else "cpu").to(x.device)


entry("astype", unary(lambda x: x.astype(x.dtype)), convert._astype)
entry("transfer", unary(there_and_back), convert._transfer)


# ---- fused ops ----


@st.composite
def _cross_entropy(draw):
    *outer, classes = draw(shapes(1, min_side=1))
    if draw(st.booleans()):
        outer = [0, *outer][: len(outer)]  # no rows at all
    targets = draw(
        hnp.arrays(np.int64, tuple(outer), elements=st.sampled_from([-100, *range(classes)]))
    )
    options = {
        "targets": targets,
        "reduction": draw(st.sampled_from(["mean", "sum", "none"])),
        "label_smoothing": draw(st.sampled_from([0.0, 0.25])),
    }
    call = loss_ops.softmax_cross_entropy
    return Case((draw(filled((*outer, classes))),), call, options)


entry("cross_entropy", _cross_entropy(), loss_ops._softmax_cross_entropy)


@st.composite
def _layer_norm(draw):
    """Rows of one to three axes, or no rows at all; a weight, a bias, both or neither."""
    whole = draw(shapes(1, min_side=1))
    dims = draw(st.integers(1, len(whole)))
    outer, size = whole[:-dims], whole[-dims:]
    if draw(st.booleans()):
        outer = (0, *outer)[: len(outer)]
    # With eps = 1e-5 the curvature at a constant row is beyond what differences can see.
    eps = draw(st.sampled_from([1e-5, 0.25]))
    numbers, unique = (MANY, True) if eps < 0.1 else (REAL, False)
    given = [name for name in ("weight", "bias") if draw(st.booleans())]
    arrays = [draw(filled((*outer, *size), numbers, unique=unique))]
    arrays += [draw(filled(size)) for _ in given]

    def call(x, *rest, **options):
        return norm_ops.layer_norm(x, **dict(zip(given, rest, strict=True)), **options)

    return Case(tuple(arrays), call, {"dims": dims, "eps": eps})


entry("layer_norm", _layer_norm(), norm_ops._layer_norm)


@st.composite
def recurrent(draw, op, *, gates: int, states: int, bias: bool | None = None, **options):
    """A recurrent op on a window: x, the states, the two weights, the two biases or None.

    In one of two windows rows end before it does.
    """
    T, B = draw(st.integers(0, 3)), draw(st.integers(0, 2))
    if draw(st.booleans()):
        ends = np.array(draw(st.lists(st.integers(0, T), min_size=B, max_size=B)), int)
        options["ended"] = np.arange(T)[:, None] >= ends
        op = with_masks(op)
    I, H = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    window = [(T, B, I), *[(B, H)] * states, (gates * H, I), (gates * H, H)]
    arrays = [draw(filled(s, grid(-1, 1))) for s in window]
    if not (draw(st.booleans()) if bias is None else bias):
        return Case(tuple(arrays), lambda *xs, **kw: op(*xs, None, None, **kw), options)
    # An offset that no sum of products of grid points cancels: no pre-activation is 0 (for relu).
    shifted = grid(-1, 1, offset=0.0173)
    arrays += [draw(filled((gates * H,), shifted)), draw(filled((gates * H,), shifted))]
    return Case(tuple(arrays), op, options)


def with_masks(op):
    """`op`, whose masks and orders come to where its operands are."""

    def call(x, *rest, **options):
        there = {
            n: tg.tensor(v, device=x.device)._data if isinstance(v, np.ndarray) else v
            for n, v in options.items()
        }
        return op(x, *rest, **there)

    return call


for _f in ("tanh", "relu"):
    _cases = recurrent(
        rnn_ops.rnn, gates=1, states=1, nonlinearity=_f, bias=True if _f == "relu" else None
    )
    entry(f"rnn, {_f}", _cases, rnn_ops.rnn)
entry("lstm", recurrent(lstm_ops.lstm, gates=4, states=2), lstm_ops.lstm)
entry("gru", recurrent(gru_ops.gru, gates=3, states=1), gru_ops.gru)


@st.composite
def _turned(draw):
    """Rows of unequal lengths, each read backwards."""
    T, B = draw(st.integers(0, 3)), draw(st.integers(0, 2))
    ends = np.array(draw(st.lists(st.integers(0, T), min_size=B, max_size=B)), int)
    steps = np.arange(T)[:, None]
    order = np.where(steps < ends, ends - 1 - steps, steps)
    shape = (T, B, *draw(st.sampled_from([(), (2,)])))
    return Case((draw(filled(shape)),), with_masks(sequence_ops.turned), {"order": order})


entry("turned", _turned(), sequence_ops.turned)
# Beyond the limit what flows back is no derivative; `tests/test_sequence.py` has that.
entry(
    "limit_gradient",
    unary(sequence_ops.limit_gradient, min_dims=1, limit=1e9),
    sequence_ops.limit_gradient,
    order=1,
)
