"""Tests that mutants asked for: each guards a line that could be wrong with all others green.

The names of the mutants (`tests/mutation/`) stand beside the tests. What they have in common is
that the usual case hides the mistake: leaves are made before the ops that use them, gradients are
finite, one transpose is followed by another.
"""

from __future__ import annotations

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import nn, optim
from tinygrad_rnn.ops import gru, lstm, rnn

# ---- engine ----


def test_a_leaf_younger_than_the_failing_op_keeps_its_grad(backend):
    """commit-as-it-goes. The sweep meets leaves by age: this one comes before the failing rule."""

    def fails(g):
        raise ArithmeticError("planted")

    op = tg.primitive(lambda x: x * 1)
    op.vjp(x=fails)
    old = backend.tensor(np.ones(2), requires_grad=True)
    early = op(old)
    young = backend.tensor(np.ones(2), requires_grad=True)
    with pytest.raises(ArithmeticError, match="planted"):
        (early * young).sum().backward()
    assert young.grad is None
    assert old.grad is None


def test_a_hook_may_write_into_what_it_is_given(backend):
    """hook-sees-ours. `add` hands one array to both of its parents."""
    a, b = (backend.tensor(np.ones(2), requires_grad=True) for _ in range(2))
    left, right = a * 1, b * 1

    def spoils(g):
        g[...] = 77  # and returns None: nothing is to be replaced

    left.register_hook(spoils)
    right.register_hook(spoils)
    (left + right).backward(np.ones(2))
    np.testing.assert_array_equal(backend.host(a.grad), 1)
    np.testing.assert_array_equal(backend.host(b.grad), 1)


def test_a_grad_that_was_summed_in_fortran_order_is_stored_in_c_order(backend):
    """own-any-order. Two transposed gradients make a sum in the order of both."""
    x = backend.tensor(np.ones((2, 3)), requires_grad=True)
    weight = backend.tensor(np.arange(6.0).reshape(3, 2))
    (x.T * weight + x.T * weight).sum().backward()
    assert x.grad.flags.c_contiguous
    np.testing.assert_array_equal(backend.host(x.grad), 2 * np.arange(6.0).reshape(3, 2).T)


# ---- fused ops ----


def test_a_fused_backward_is_told_what_is_needed(backend):
    """fused-computes-all, fused-needs. What nobody needs is not to be computed."""
    asked = []

    @tg.fused(spec=lambda a, b: a * b)
    def product(a, b, *, keep):
        return a * b, (a, b)

    @product.backward
    def _(g, cache, needs):
        asked.append(tuple(needs))
        return g * cache[1], g * cache[0]

    a, b = (backend.tensor(np.ones(2), requires_grad=True) for _ in range(2))
    for inputs in ([a], [b], [a, b]):
        tg.grad(product(a, b).sum(), inputs)
    tg.grad(product(a.detach(), b).sum(), [b])
    assert asked == [(True, False), (False, True), (True, True), (False, True)]


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
def test_the_second_derivative_reaches_an_input_the_first_was_not_taken_by(backend, kind):
    """fused-bystander. d/dw of dL/dx, where L is a fused op of both, as its specification is."""
    rng = np.random.default_rng(0)
    fused, spec, rows, states, options = {
        "rnn": (rnn.rnn, rnn.specification, 2, 1, {"nonlinearity": "tanh"}),
        "lstm": (lstm.lstm, lstm.specification, 8, 2, {}),
        "gru": (gru.gru, gru.specification, 6, 1, {}),
    }[kind]
    shapes = [(3, 2, 2), *[(2, 2)] * states, (rows, 2), (rows, 2), (rows,), (rows,)]
    inputs = [backend.tensor(rng.normal(size=s), requires_grad=True) for s in shapes]
    found = []
    for op in (fused, spec):
        (dx,) = tg.grad((op(*inputs, **options) ** 2).sum(), [inputs[0]], create_graph=True)
        second = tg.grad((dx * dx).sum(), inputs[1:])
        found.append([backend.host(g) for g in second])
    for ours, exact in zip(*found, strict=True):
        np.testing.assert_allclose(ours, exact, rtol=1e-10, atol=1e-10)
        assert np.abs(exact).max() > 0


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_a_frozen_table_leaves_the_gradients_of_the_weights_as_they_are(backend, kind):
    """table-needs. The sum over equal ids serves two gradients, and one may be unwanted."""
    ids = np.array([[0, 1], [2, 1], [0, 0]])
    table = np.random.default_rng(0).normal(size=(3, 2))  # 3 <= 2 * 2: projected, not looked up
    found = []
    for trained in (True, False):
        layer = getattr(nn, kind)(2, 3, rng=0, dtype=np.float64).to(backend.device)
        weight = backend.tensor(table, requires_grad=trained)
        out, _ = layer(backend.tensor(ids), table=weight)
        (out * out).sum().backward()
        found.append([backend.host(p.grad) for p in layer.parameters()])
    for trained, frozen in zip(*found, strict=True):
        np.testing.assert_array_equal(trained, frozen)


# ---- ops ----


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_where_keeps_a_bad_incoming_gradient_from_the_branch_not_taken(backend, bad):
    """where-multiplied. 0 * inf is NaN: the rule has to choose, not to multiply by the mask."""
    a, b = (backend.tensor(np.ones(2), requires_grad=True) for _ in range(2))
    out = tg.where(backend.tensor(np.array([True, False])), a, b)
    out.backward(backend.tensor(np.array([bad, 1.0])))
    np.testing.assert_array_equal(backend.host(b.grad), [0, 1])
    np.testing.assert_array_equal(backend.host(a.grad), [bad, 0])


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy_passes_on_what_comes_in(backend, reduction):
    """cross-entropy-seed. The loss is not always the end of the graph: times 3, g is 3."""
    rng = np.random.default_rng(0)
    logits = backend.tensor(rng.normal(size=(3, 4)), requires_grad=True)
    targets = np.array([0, -100, 2])
    found = []
    for factor in (1.0, 3.0):
        loss = tg.nn.functional.cross_entropy(logits, targets, reduction=reduction)
        (g,) = tg.grad((loss * factor).sum(), logits)
        found.append(backend.host(g))
    np.testing.assert_allclose(found[1], 3 * found[0], rtol=1e-14)
    assert np.abs(found[0]).max() > 0.1


@pytest.mark.parametrize("axis", [None, 0, 1, -1, (0, 2), (2, 1)])
def test_var_and_std_divide_by_n_minus_the_correction(backend, axis):
    """var-correction."""
    a = np.random.default_rng(0).normal(size=(2, 3, 4))
    for correction in (0, 1, 0.5):
        for ours, theirs in ((tg.var, np.var), (tg.std, np.std)):
            value = ours(backend.tensor(a), axis, correction=correction)
            np.testing.assert_allclose(backend.host(value), theirs(a, axis, ddof=correction))


@pytest.mark.parametrize("subscripts", ["ij,jk,kl->il", "ij,kj,kl->il", "bi,ij,bj->b", "i,j,k->"])
def test_einsum_of_three_operands(backend, subscripts):
    """einsum-later. A letter of the first pair may wait for the third operand."""
    rng = np.random.default_rng(0)
    terms = subscripts.partition("->")[0].split(",")
    size = dict(zip("bijkl", (2, 3, 4, 5, 2), strict=True))
    arrays = [rng.normal(size=[size[letter] for letter in term]) for term in terms]
    inputs = [backend.tensor(a, requires_grad=True) for a in arrays]
    out = tg.einsum(subscripts, *inputs)
    np.testing.assert_allclose(backend.host(out), np.einsum(subscripts, *arrays))
    # It is linear in each operand, so each gradient times its operand is the result again.
    for a, g in zip(arrays, tg.grad(out.sum(), inputs), strict=True):
        np.testing.assert_allclose((a * backend.host(g)).sum(), backend.host(out).sum())


@pytest.mark.parametrize("kind", ["RNN", "LSTM"])
def test_ids_of_a_recurrent_layer_may_be_overwritten_before_backward(backend, kind):
    """index-not-copied. A loader fills its buffer anew while the window is still in use."""
    table = backend.tensor(np.eye(3), requires_grad=True)
    layer = getattr(nn, kind)(3, 2, rng=0, dtype=np.float64).to(backend.device)
    ids = np.array([[0], [1]])
    out, _ = layer(ids, table=table)
    ids[...] = 2
    (g,) = tg.grad((out * out).sum(), table)
    used = np.abs(backend.host(g)).max(axis=1) > 0
    assert used.tolist() == [True, True, False]


@pytest.mark.parametrize("beta", [0.25, 1.0, 2.0])
def test_smooth_l1_joins_its_pieces_at_any_beta(backend, beta):
    """smooth-l1-offset. At beta = 1 a forgotten factor beta does not show."""
    d = np.array([-3.0, -1.5, -0.3, 0.0, 0.1, 0.9, 2.5])
    far = np.abs(d) - 0.5 * beta
    exact = np.where(np.abs(d) < beta, d * d / (2 * beta), far)
    loss = nn.functional.smooth_l1_loss(
        backend.tensor(d), backend.tensor(np.zeros(7)), reduction="none", beta=beta
    )
    np.testing.assert_allclose(backend.host(loss), exact, rtol=1e-14)


# ---- clipping ----


@pytest.mark.parametrize("size", [1e-15, 1e-19, 1e-23, 1e-30, 1e-38])
def test_the_norm_of_tiny_gradients_is_not_lost(backend, size):
    """norm-tiny. Relative to the norm itself: an absolute tolerance would take 0 for it."""
    g = np.array([3, -4], np.float32) * np.float32(size / 5)
    p = backend.tensor(np.zeros(2, np.float32), requires_grad=True)
    p.grad = backend.array(g)
    norm = float(nn.utils.clip_grad_norm_(p, 1.0))
    assert norm == pytest.approx(float(np.linalg.norm(g.astype(np.float64))), rel=1e-6, abs=0)


# ---- truncated back-propagation through time ----


def test_a_report_holds_no_graph():
    """graph-in-report. A list of reports is what a person keeps of a whole training run."""
    layer = nn.RNN(2, 2, rng=0)
    optimizer = optim.SGD(layer.parameters(), lr=0.1)
    tbptt = tg.TBPTT(layer, nn.functional.mse_loss, optimizer, k1=2, clip_norm=1.0)
    xs, ys = np.ones((6, 1, 2), np.float32), np.zeros((6, 1, 2), np.float32)
    for report in tbptt.run(tg.tensor(xs), tg.tensor(ys)):
        assert not report.loss.requires_grad
        assert not report.norm.requires_grad
        assert not report.state.requires_grad


# ---- the checker ----


def test_gradcheck_finds_the_one_element_that_is_nan(backend):
    """nan-agrees. Beside elements that are right, NaN must not count as the least of errors."""
    op = tg.primitive(lambda x: x * 1)
    bad = lambda g, x: tg.logical_and(tg.equal(x, 2), tg.not_equal(g, 0))  # noqa: E731
    op.vjp(x=lambda g, x: tg.where(bad(g, x), float("nan"), g))
    with pytest.raises(tg.GradcheckError):
        tg.gradcheck(op, [backend.tensor(np.array([1.0, 2.0, 3.0]))])
