"""Mistakes in the rules of single ops: signs, factors, axes, edges, and what a rule remembers."""

from functools import partial

from tests.mutation.mutant import Mutant

op = partial(Mutant, "ops")
OPS, BACKENDS = "tests/test_ops.py", "tests/test_backends.py"
GAPS = "tests/test_mutation_gaps.py"
CATALOGUE = "tests/test_catalogue.py"


def rule(*names: str) -> str:
    """The gradient property of the ops of these names, at order 1 and 2, on every device."""
    words = " or ".join(names)
    return f'tests/test_gradients.py -k "test_gradient and ({words})"'


# One selection for several ops: it is run once without a mistake, and then serves them all.
ARITH = rule("subtract", "multiply", "divide", "log", "power", "minimum", "where")
SMOOTH = rule("exp", "sqrt", "cos", "tanh", "sigmoid", "softplus", "relu", "erf")
MOVES = rule("permute_dims", "flip", "roll", "tril", "pad", "concat")
SUMS = rule("sum", "max", "prod", "softmax")
PRODUCTS = rule("matmul", "einsum")
CROSS_ENTROPY = rule("cross_entropy")

ARITHMETIC = [
    op("subtract-sign", "ops/arithmetic.py",
       "subtract.vjp(a=lambda g: g, b=lambda g: -g)", "subtract.vjp(a=lambda g: g, b=lambda g: g)",
       ARITH, "flipped sign"),
    op("multiply-swapped", "ops/arithmetic.py",
       "a=lambda g, b: g * b, b=lambda g, a: g * a", "a=lambda g, a: g * a, b=lambda g, b: g * b",
       ARITH, "each factor's own value instead of the other's"),
    op("divide-factor", "ops/arithmetic.py", "-g * out / b)", "-g * out)",
       ARITH, "dropped factor 1/b"),
    op("log-inverse", "ops/arithmetic.py", "log.vjp(x=lambda g, x: g / x)",
       "log.vjp(x=lambda g, x: g * x)", ARITH, "times x instead of divided by it"),
    op("power-exponent", "ops/arithmetic.py", "where(corner, 1, a) ** (b - 1)",
       "where(corner, 1, a) ** b", ARITH, "exponent not lowered by 1"),
    op("power-corner", "ops/arithmetic.py", "where(corner, 1, a) ** (b - 1)", "a ** (b - 1)",
       OPS, "0 ** -1 left in: 0 * inf is NaN at a = b = 0"),
    op("power-base", "ops/arithmetic.py", "return g * out * log(where(equal(a, 0), 1, a))",
       "return g * log(where(equal(a, 0), 1, a))", ARITH, "dropped factor a**b"),
    op("where-swapped", "ops/arithmetic.py", "a=lambda g, condition: where(condition, g, 0)",
       "a=lambda g, condition: where(condition, 0, g)", ARITH,
       "the gradient of the branch not taken"),
    op("where-multiplied", "ops/arithmetic.py", "b=lambda g, condition: where(condition, 0, g)",
       "b=lambda g, condition: g * logical_not(condition)", GAPS,
       "masking by a product, where 0 * inf is NaN, instead of choosing"),
    op("maximum-tie", "ops/arithmetic.py",
       "a=lambda g, a, b: where(a > b, g, where(equal(a, b), 0.5 * g, 0))",
       "a=lambda g, a, b: where(greater_equal(a, b), g, 0)", CATALOGUE,
       "the whole gradient to one side at a tie"),
    op("minimum-as-maximum", "ops/arithmetic.py", "a=lambda g, a, b: where(a < b, g,",
       "a=lambda g, a, b: where(a > b, g,", ARITH, "copied from maximum, not turned round"),
]  # fmt: skip

ELEMENTWISE = [
    op("exp-detached", "ops/elementwise.py", "exp.vjp(x=lambda g, out: g * out)",
       "exp.vjp(x=lambda g, out: g * getattr(out, 'detach', lambda: out)())", SMOOTH,
       "a detach inside a rule: right at order 1, wrong at order 2"),
    op("sqrt-factor", "ops/elementwise.py", "0.5 * g / out", "g / out", SMOOTH,
       "dropped factor 1/2"),
    op("cos-sign", "ops/elementwise.py", "cos.vjp(x=lambda g, x: -g * sin(x))",
       "cos.vjp(x=lambda g, x: g * sin(x))", SMOOTH, "flipped sign"),
    op("tanh-square", "ops/elementwise.py", "tanh.vjp(x=lambda g, out: g * (1 - out * out))",
       "tanh.vjp(x=lambda g, out: g * (1 - out))", SMOOTH, "the square forgotten"),
    op("sigmoid-factor", "ops/elementwise.py", "g * out * (1 - out))", "g * out)",
       SMOOTH, "dropped factor 1 - s"),
    op("softplus-mirrored", "ops/elementwise.py", "softplus.vjp(x=lambda g, x: g * sigmoid(x))",
       "softplus.vjp(x=lambda g, x: g * sigmoid(-x))", SMOOTH, "the other half of it"),
    op("relu-edge", "ops/elementwise.py", "where(out > 0, g, 0)", "where(out >= 0, g, 0)",
       SMOOTH, ">= for >: the result is 0 on the whole left side"),
    op("abs-kink", "ops/elementwise.py", "abs.vjp(x=lambda g, x: g * sign(x))",
       "abs.vjp(x=lambda g, x: where(less_equal(0, x), g, -g))", CATALOGUE,
       "slope 1 at 0 instead of 0"),
    op("clip-edges", "ops/elementwise.py",
       "return logical_and(greater_equal(x, low), less_equal(x, high))",
       "return logical_and(x > low, x < high)", CATALOGUE, "strict at the edges"),
    op("erf-factor", "ops/elementwise.py", "(2 / math.sqrt(math.pi))", "(1 / math.sqrt(math.pi))",
       SMOOTH, "wrong constant"),
]  # fmt: skip

SHAPE = [
    op("permute-not-inverted", "ops/shape.py",
       "g, axes=tuple(sorted(range(len(axes)), key=axes.__getitem__))", "g, axes=axes",
       MOVES, "the same permutation instead of its inverse"),
    op("flip-forgotten", "ops/shape.py", "lambda g, *, axes: _flip(g, axes=axes)",
       "lambda g: g", MOVES, "the gradient not turned back"),
    op("roll-direction", "ops/shape.py", "shift=tuple(-s for s in shift), axes=axes",
       "shift=shift, axes=axes", MOVES, "rolled further instead of back"),
    op("tril-diagonal", "ops/shape.py", "_tril(g, k=k)", "_tril(g, k=0)", MOVES,
       "the option not passed on to the rule"),
    op("pad-sides", "ops/shape.py", "slice(a, n - b) for (a, b)", "slice(b, n - a) for (a, b)",
       MOVES, "before and after swapped"),
    op("concat-offset", "ops/shape.py", "slice(ends[position - 1] if position else 0,",
       "slice(ends[position - 1] if position > 1 else 0,", MOVES,
       "off by one in the list of ends"),
]  # fmt: skip

INDEXING = [
    op("scatter-assigns", "ops/indexing.py", "backends.of(g).scatter_add(target, index, g)",
       "target[index] = g", "tests/test_catalogue_indices.py",
       "= for +=: a repeated index counts once"),
    op("scatter-negative-rows", "backends/numpy_backend.py",
       "flat = np.where(flat < 0, flat + len(target), flat)", "flat = flat.copy()",
       BACKENDS, "row -1 and the last row not seen as one"),
    op("scatter-first-group", "backends/numpy_backend.py", "np.r_[True, ordered[1:]",
       "np.r_[False, ordered[1:]", BACKENDS,
       "off by one: the first group of equal rows is lost"),
    op("index-not-copied", "ops/indexing.py",
       "return array if isinstance(ids, Tensor) else array.copy()", "return array",
       GAPS, "missing copy of a buffer the caller fills anew"),
]  # fmt: skip

REDUCE = [
    op("sum-axis", "ops/reduce.py", "return broadcast_to(reshape(g, _kept(shape, axes)), shape)",
       "return broadcast_to(reshape(g, _kept(shape, axes[:1])) if g.ndim else g, shape)",
       "tests/test_catalogue_data.py", "only the first of several axes put back"),
    op("sum-wrong-axis", "ops/reduce.py",
       "return broadcast_to(reshape(g, _kept(shape, axes)), shape)",
       "return broadcast_to(g, shape)", "tests/test_catalogue_data.py",
       "left to broadcasting, which puts g along the last axis"),
    op("mean-count", "ops/reduce.py", "count = _count(x, axes)\n    return sum",
       "count = x.size\n    return sum", OPS, "the count of all elements"),
    op("var-correction", "ops/reduce.py",
       "free = _count(x, axes) - correction\n    distance = x - mean(x, axes, keepdims=True)\n"
       "    return sum",
       "free = _count(x, axes)\n    distance = x - mean(x, axes, keepdims=True)\n    return sum",
       GAPS, "n for n - 1"),
    op("max-shares", "ops/reduce.py",
       "return hit * reshape(g, kept) / sum(hit, axes, keepdims=True)",
       "return hit * reshape(g, kept)", CATALOGUE, "the whole gradient to every tie"),
    op("max-shares-axis", "ops/reduce.py",
       "return hit * reshape(g, kept) / sum(hit, axes, keepdims=True)",
       "return hit * reshape(g, kept) / sum(hit)", SUMS, "ties counted over all axes"),
    op("prod-divided", "ops/reduce.py",
       "x=lambda g, x, *, axes: reshape(g, _kept(x.shape, axes)) * _product_of_others(x, axes)",
       "x=lambda g, x, out, *, axes: reshape(g * out, _kept(x.shape, axes)) / x", SUMS,
       "the product divided by the element: 0/0 at 0"),
    op("cumsum-forwards", "ops/reduce.py", "flip(_cumsum(flip(g, axis), axis=axis), axis)",
       "_cumsum(g, axis=axis)", SUMS, "summed from the front instead of from the end"),
    op("logsumexp-nothing", "ops/reduce.py",
       "exp(x - where(equal(total, -math.inf), 0, total))", "exp(x - total)",
       CATALOGUE, "-inf minus -inf is NaN"),
    op("softmax-term", "ops/reduce.py", "out * (g - sum(g * out, axis, keepdims=True))",
       "out * g", SUMS, "missing term: only the diagonal of the Jacobian"),
    op("softmax-overflow", "ops/reduce.py",
       "weights = xp.exp(x - xp.max(x, axis=axis, keepdims=True))", "weights = xp.exp(x)",
       CATALOGUE, "the largest logit not subtracted"),
    op("log-softmax-axis", "ops/reduce.py", "g - exp(out) * sum(g, axis, keepdims=True)",
       "g - exp(out) * sum(g, keepdims=True)", SUMS, "summed over all axes"),
    op("norm-at-zero", "ops/reduce.py", "return x / where(equal(length, 0), 1, length)",
       "return x / length", CATALOGUE, "0/0 at the origin"),
]  # fmt: skip

LINALG = [
    op("matmul-transpose", "ops/linalg.py", "b=lambda g, a: _product(_transposed(a), g)",
       "b=lambda g, a: _transposed(_product(_transposed(a), g))", PRODUCTS,
       "transposed once too often: fits as long as matrices are square"),
    op("matmul-transpose-a", "ops/linalg.py", "a=lambda g, b: _product(g, _transposed(b))",
       "a=lambda g, b: _product(g, b)", PRODUCTS, "missing transpose"),
    op("linear-bias", "ops/linalg.py", "bias=lambda g: sum(_rows(g), 0)",
       "bias=lambda g: _rows(g)[0]", rule("linear"), "the first row for the sum of all"),
    op("einsum-later", "ops/linalg.py", "labelled[i + 1 :]", "labelled[i + 2 :]", GAPS,
       "off by one: a letter of the next operand is summed away too early"),
]  # fmt: skip

LOSS = [
    op("cross-entropy-smoothing", "backends/base.py", "-= factor * (1 - smoothing)",
       "-= factor", CROSS_ENTROPY, "smoothing in the loss, not in its gradient"),
    op("cross-entropy-count", "backends/base.py", "xp.maximum(xp.sum(counted), 1)",
       "xp.maximum(xp.sum(counted | True), 1)", OPS,
       "the mean over ignored targets, too"),
    op("cross-entropy-ignored", "backends/base.py", "xp.where(counted, factor, 0)",
       "xp.where(counted | True, factor, 0)", OPS,
       "a gradient for ignored targets"),
    op("cross-entropy-seed", "ops/loss.py", 'each = g / count if reduction == "mean" else g',
       'each = (g * 0 + 1) / count if reduction == "mean" else g', GAPS,
       "the incoming gradient taken for 1"),
    op("cross-entropy-overflow", "backends/base.py",
       "shifted = logits - xp.max(logits, axis=1, keepdims=True)", "shifted = logits + 0",
       CATALOGUE, "the largest logit not subtracted"),
]  # fmt: skip

MUTANTS = [*ARITHMETIC, *ELEMENTWISE, *SHAPE, *INDEXING, *REDUCE, *LINALG, *LOSS]
