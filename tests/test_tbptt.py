"""Truncated back-propagation through time does what its name says, and no more."""

import gc
import itertools

import numpy as np
import pytest

import tinygrad_rnn as tg
from tests.fake_device import sync_budget
from tinygrad_rnn import nn, optim


class Model(nn.Module):
    """A recurrent layer and a linear read-out, in float64 so that equalities can be 1e-12."""

    def __init__(self, H=5, I=2, V=3, seed=0, layers=1, kind="LSTM", **options):
        rng = np.random.default_rng(seed)
        self.rnn = getattr(nn, kind)(I, H, layers, rng=rng, dtype=np.float64, **options)
        self.head = nn.Linear(H, V, rng=rng, dtype=np.float64)

    def forward(self, x, state=None):
        y, state = self.rnn(x, state)
        return self.head(y), state


def stream(N, B=2, I=2, V=3, seed=1):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(N, B, I)), rng.integers(0, V, (N, B))


def still(model):
    """An optimizer that never moves, so that gradients can be compared from window to window."""
    return optim.SGD(model.parameters(), lr=0.0)


def gradients(model):
    return {name: p.grad.copy() for name, p in model.named_parameters()}


cross_entropy = nn.functional.cross_entropy


@pytest.mark.parametrize("options", [{}, {"layers": 2}, {"clip_state_grad": 0.01}])
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_one_window_is_full_back_propagation_bit_for_bit(kind, options):
    xs, ys = stream(12)
    model, plain = Model(kind=kind, **options), Model(kind=kind, **options)
    (report,) = tg.TBPTT(model, cross_entropy, still(model), k1=12).run(xs, ys)
    out, _ = plain(tg.tensor(xs))
    loss = cross_entropy(out, ys)
    loss.backward()
    assert float(report.loss) == float(loss)
    for name, p in plain.named_parameters():
        np.testing.assert_array_equal(gradients(model)[name], p.grad)


def test_a_training_run_with_one_window_equals_plain_training_bit_for_bit():
    xs, ys = stream(8)
    model, plain = Model(), Model()
    ours = optim.Adam(model.parameters(), lr=0.01)
    theirs = optim.Adam(plain.parameters(), lr=0.01)
    tbptt = tg.TBPTT(model, cross_entropy, ours, k1=8, k2=8, clip_norm=0.5)
    for _ in range(5):
        for report in tbptt.run(xs, ys):
            assert report.clipped == (float(report.norm) > 0.5)
        theirs.zero_grad()
        cross_entropy(plain(tg.tensor(xs))[0], ys).backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        theirs.step()
    for a, b in zip(model.parameters(), plain.parameters(), strict=True):
        np.testing.assert_array_equal(a.data, b.data)


@tg.primitive
def cut(x):
    """The same values, but its Jacobian is zero: a boundary that no gradient crosses."""
    return x


cut.vjp(x=lambda g: 0.0 * g)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize(("k1", "k2"), [(3, 3), (2, 4), (2, 5), (1, 4), (3, 5), (3, 12), (5, 5)])
def test_a_window_is_the_full_graph_with_the_boundary_jacobian_zeroed(k1, k2, kind):
    xs, ys = stream(12)
    model, whole = Model(kind=kind), Model(kind=kind)
    reports = tg.TBPTT(model, cross_entropy, still(model), k1=k1, k2=k2).run(xs, ys)
    for done, report in zip(itertools.count(0, k1), reports, strict=False):
        end = min(done + k1, 12)
        start = max(0, done + k1 - k2)
        whole.zero_grad()
        state = None
        if start:  # the full graph from the very first step, its state cut at `start`
            _, state = whole(tg.tensor(xs[:start]))
            state = tuple(map(cut, state)) if kind == "LSTM" else cut(state)
        out, _ = whole(tg.tensor(xs[start:end]), state)
        loss = cross_entropy(out[done - start :], ys[done:end])
        loss.backward()
        assert float(report.loss) == pytest.approx(float(loss), rel=1e-12)
        assert report.tokens == (end - done) * 2
        for name, p in whole.named_parameters():
            np.testing.assert_allclose(gradients(model)[name], p.grad, rtol=1e-11, atol=1e-12)


def test_a_tally_says_what_it_has_counted():
    xs, ys = stream(6)
    model = Model()
    tbptt = tg.TBPTT(model, cross_entropy, still(model), k1=2, clip_norm=1e-6)
    list(tbptt.run(xs, ys))
    assert repr(tbptt.clipping) == "Clipping(3 of 3 updates)"


def test_longer_windows_approach_the_full_gradient():
    """The truncation is real: short windows give another gradient, longer ones a closer one."""
    xs, ys = stream(24)
    full = Model()
    out, _ = full(tg.tensor(xs))
    cross_entropy(out[-2:], ys[-2:]).backward()
    exact = np.concatenate([p.grad.ravel() for p in full.parameters()])
    errors = []
    for k2 in (2, 4, 12, 24):
        model = Model()
        for _ in tg.TBPTT(model, cross_entropy, still(model), k1=2, k2=k2).run(xs, ys):
            pass  # the gradients of the last update stay
        found = np.concatenate([p.grad.ravel() for p in model.parameters()])
        errors.append(np.linalg.norm(found - exact) / np.linalg.norm(exact))
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 1e-3
    assert errors[-1] < 1e-12


def test_forward_values_do_not_depend_on_the_windows():
    xs, ys = stream(24)
    losses = {}
    for k1, k2 in [(24, 24), (1, 1), (4, 4), (4, 12), (6, 8)]:
        model = Model()
        run = tg.TBPTT(model, cross_entropy, still(model), k1=k1, k2=k2).run(xs, ys)
        each = [float(r.loss) * r.tokens for r in run]
        losses[k1, k2] = sum(each)
    for total in losses.values():
        assert total == pytest.approx(losses[24, 24], rel=1e-13)


def test_runs_continue_where_the_last_one_ended():
    xs, ys = stream(24)
    straight, halves = Model(), Model()
    for model, pieces in ((straight, [slice(0, 24)]), (halves, [slice(0, 12), slice(12, 24)])):
        tbptt = tg.TBPTT(model, cross_entropy, optim.SGD(model.parameters(), lr=0.1), k1=4)
        state = None
        for piece in pieces:
            for report in tbptt.run(xs[piece], ys[piece], state):
                state = report.state
    for a, b in zip(straight.parameters(), halves.parameters(), strict=True):
        np.testing.assert_array_equal(a.data, b.data)


@pytest.mark.parametrize(("k1", "k2", "N"), [(2, 4, 8), (2, 5, 11), (3, 7, 4), (4, 4, 9)])
def test_the_last_state_is_that_of_the_end_of_the_stream(k1, k2, N):
    xs, ys = stream(N)
    model = Model()
    reports = list(tg.TBPTT(model, cross_entropy, still(model), k1=k1, k2=k2).run(xs, ys))
    with tg.no_grad():
        _, end = model(tg.tensor(xs))
    for ours, exact in zip(reports[-1].state, end, strict=True):
        np.testing.assert_allclose(ours.data, exact.data, rtol=1e-12)


def test_memory_stays_flat_over_thousands_of_windows_without_the_collector():
    """Counted, not timed: every window's graph is gone by reference counting alone."""
    xs, ys = stream(3 * 3000, B=1)
    model = Model(H=3)
    optimizer = optim.SGD(model.parameters(), lr=0.01)
    tbptt = tg.TBPTT(model, cross_entropy, optimizer, k1=3, k2=6)
    gc.collect()
    gc.disable()
    try:
        counts = []
        for i, report in enumerate(tbptt.run(xs, ys)):
            assert report.state is None or all(s.is_leaf for s in report.state)
            if i % 500 == 499:
                counts.append(len(gc.get_objects()))
        assert len(counts) == 6
        assert max(counts) - min(counts) < 50
    finally:
        gc.enable()


def test_state_may_be_nested_and_is_detached():
    x = tg.ones(2, requires_grad=True)
    state = {"a": (x * 2, [x * 3]), "b": None}
    cut_off = tg.tbptt.detach(state)
    assert not cut_off["a"][0].requires_grad
    assert isinstance(cut_off["a"], tuple)
    assert cut_off["b"] is None


def test_report_reads_lazily_and_clip_none_leaves_gradients():
    xs, ys = stream(6)
    model = Model()
    (report,) = tg.TBPTT(model, cross_entropy, still(model), k1=6).run(xs, ys)
    assert report.clip_norm is None
    assert not report.clipped
    total = np.sqrt(sum((p.grad**2).sum() for p in model.parameters()))
    assert float(report.norm) == pytest.approx(total, rel=1e-12)


def test_a_report_names_the_parameter_that_dominated():
    xs, ys = stream(6)
    model = Model()
    (report,) = tg.TBPTT(model, cross_entropy, still(model), k1=6, clip_norm=0.01).run(xs, ys)
    norms = dict(zip(report.gradient.names, report.gradient.norms.tolist(), strict=True))
    assert norms.keys() == {name for name, _ in model.named_parameters()}
    assert report.gradient.dominant == max(norms, key=norms.get) == "head.bias"
    total = float(report.norm) ** 2
    assert report.gradient.share == pytest.approx(norms["head.bias"] ** 2 / total, rel=1e-12)
    assert sum(n**2 for n in norms.values()) == pytest.approx(total, rel=1e-12)
    assert report.clipped
    scale = float(report.gradient.scale)
    assert scale == 0.01 / (float(report.norm) + 1e-6)
    for name, p in model.named_parameters():  # the gradients are what the report says, scaled
        assert np.linalg.norm(p.grad) == pytest.approx(scale * norms[name], rel=1e-12)


def test_a_model_that_is_no_module_has_parameters_without_names():
    xs, ys = stream(6)
    model = Model()
    tbptt = tg.TBPTT(lambda x, state: model(x, state), cross_entropy, still(model), k1=6)
    (report,) = tbptt.run(xs, ys)
    assert report.gradient.names == tuple(f"parameter {k}" for k in range(6))
    assert report.gradient.dominant == "parameter 5"


def test_the_share_of_clipped_updates_is_kept_over_runs():
    xs, ys = stream(24)
    model = Model()
    measured = tg.TBPTT(model, cross_entropy, still(model), k1=4)
    norms = sorted(float(report.norm) for report in measured.run(xs, ys))
    assert measured.clipping.updates == 6
    assert measured.clipping.clipped == 0
    bound = (norms[3] + norms[4]) / 2  # two of six are longer
    tbptt = tg.TBPTT(model, cross_entropy, still(model), k1=4, clip_norm=bound)
    for runs in (1, 2):
        reports = list(tbptt.run(xs, ys))
        assert [r.clipped for r in reports].count(True) == 2
        assert [float(r.gradient.scale) == 1 for r in reports].count(True) == 4
        assert (tbptt.clipping.updates, tbptt.clipping.clipped) == (6 * runs, 2 * runs)
        assert tbptt.clipping.share == pytest.approx(1 / 3)


@pytest.mark.parametrize(("check", "waits"), [(True, 1), (False, 0)])
def test_an_update_waits_for_the_device_once_or_never(check, waits):
    """Once for the check that the norm is finite; the reports themselves stay where they are."""
    xs, ys = stream(12)
    model = Model().to("fake")
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    tbptt = tg.TBPTT(
        model, cross_entropy, optimizer, k1=3, k2=6, clip_norm=0.1, error_if_nonfinite=check
    )
    xs = tg.tensor(xs, device="fake")
    with sync_budget(4 * waits):
        reports = list(tbptt.run(xs, ys))
        on_device = [(r.norm, r.gradient.scale, r.gradient.norms) for r in reports]
        assert {t.device for tensors in on_device for t in tensors} == {"fake:0"}
    assert len(reports) == 4
    if waits:  # and it is the check that waits
        with pytest.raises(tg.GradcheckError, match="1 host sync"), sync_budget(0):
            next(tbptt.run(xs, ys))
    assert all(r.clipped for r in reports)
    assert tbptt.clipping.clipped == 4 + waits


def test_an_update_that_is_not_finite_is_refused_by_name_or_let_through():
    xs, ys = stream(4)
    xs[2] = np.inf  # an infinite input: the gates saturate, and inf * 0 is NaN
    before, model = Model(), Model()
    tbptt = tg.TBPTT(model, cross_entropy, still(model), k1=4)
    with np.errstate(all="ignore"):
        with pytest.raises(tg.NonFiniteError, match=r"parameter 0 'rnn\.weight_ih_l0'"):
            next(tbptt.run(xs, ys))
        assert tbptt.clipping.updates == 0
        for a, b in zip(before.parameters(), model.parameters(), strict=True):
            np.testing.assert_array_equal(a.data, b.data)
        asked = tg.TBPTT(model, cross_entropy, still(model), k1=4, error_if_nonfinite=False)
        (report,) = asked.run(xs, ys)
        assert np.isnan(float(report.norm))
        assert report.gradient.dominant.startswith("rnn.")


@pytest.mark.parametrize(("k1", "k2"), [(0, None), (4, 2), (2.0, None), (-1, 3)])
def test_impossible_windows_are_refused(k1, k2):
    with pytest.raises(tg.ShapeError, match="k1"):
        tg.TBPTT(Model(), cross_entropy, still(Model()), k1=k1, k2=k2)


def test_unequal_streams_are_refused():
    xs, ys = stream(6)
    with pytest.raises(tg.ShapeError, match="6 inputs but 5 targets"):
        next(tg.TBPTT(Model(), cross_entropy, still(Model()), k1=2).run(xs, ys[:5]))
