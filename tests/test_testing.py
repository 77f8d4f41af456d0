"""The tester is tested: `tg.testing` accepts what is right, and each property can fail."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn import testing
from tinygrad_rnn.backends import namespace
from tinygrad_rnn.core import engine
from tinygrad_rnn.core.tensor import wrap
from tinygrad_rnn.ops.lstm import lstm
from tinygrad_rnn.testing import fake_device
from tinygrad_rnn.testing.point import Point

# ---- what is right passes ----


@tg.primitive
def softsign(x):
    return x / (1 + namespace(x).abs(x))


softsign.vjp(x=lambda g, x: g / tg.square(1 + tg.abs(x)))


def test_an_elementwise_op_takes_one_line(backend):
    testing.check_op(softsign, "real", devices=[backend.device])


def test_ops_of_several_inputs_options_and_particular_shapes():
    testing.check_op(tg.divide, "real", "nonzero", max_examples=10)
    testing.check_op(tg.maximum, "real", "with zero", max_examples=10)
    testing.check_op(tg.matmul, inputs=[testing.arrays("real", (3, 3))] * 2)
    testing.check_op(tg.clip, testing.between(-2, 2), options={"min": -0.999, "max": 0.999})
    last = {"axis": st.sampled_from([0, -1])}
    rows = testing.arrays("unique", min_dims=1, min_side=1)
    testing.check_op(tg.max, inputs=rows, options=last, max_examples=10)


def test_integer_inputs_are_passed_on_as_they_are():
    table = testing.arrays("real", (4, 2))
    ids = testing.arrays(st.integers(-4, 3).map(float), (3,)).map(lambda a: a.astype(np.int64))
    seen = set()

    def pick(x, index):
        seen.add(index.dtype.kind)
        return tg.take(x, index.data, axis=0)

    testing.check_op(pick, inputs=st.tuples(table, ids), max_examples=10)
    assert seen == {"i"}


def test_functions_that_return_several_tensors_are_checked_in_all_of_them():
    def right(x):
        return x * 2, (tg.exp(x), [tg.sum(x)])

    def wrong(x):
        return x * 2, (tg.exp(x), [tg.sum(cubed(lambda g: g)(x))])

    testing.check_op(right, "real", max_examples=10)
    with pytest.raises(tg.GradcheckError, match="first order"):
        testing.check_op(wrong, "real", max_examples=10)
    with pytest.raises(tg.GradcheckError, match=r"returned float; needed a Tensor"):
        testing.check_op(lambda _: 1.0, "real")


def test_every_property_is_asked_in_all_shapes(monkeypatch):
    """Counted, so that a property that is never run, or on scalars only, is noticed."""
    asked = {name: set() for name in testing.PROPERTIES}
    for name, holds in [*testing.PROPERTIES.items()]:

        def count(point, name=name, holds=holds):
            asked[name].add(tuple(a.shape for a in point.arrays))
            holds(point)

        monkeypatch.setitem(testing.PROPERTIES, name, count)
    testing.check_op(tg.add, "real", "real", max_examples=100)
    for shapes in asked.values():
        flat = [s for pair in shapes for s in pair]
        assert () in flat
        assert any(0 in s for s in flat)
        assert any(a != b for a, b in shapes)
        assert max(len(s) for s in flat) == 3


# ---- each property can fail ----


def cubed(rule):
    """x**3 with a rule of your own; a new op every time."""
    op = tg.primitive(lambda x: x * x * x)
    op.vjp(x=rule)
    return op


def through(rule):
    """x**3, right at first order; at second order its gradient comes through `rule`."""
    helper = tg.primitive(lambda y: y * 1.0)
    helper.vjp(y=rule)
    return cubed(lambda g, x: helper(3 * g * x * x))


RANDOM = np.random.default_rng(0)
cut = lambda t: t.detach() if isinstance(t, tg.Tensor) else t  # noqa: E731


def doubles(g):
    g *= 2.0  # in place, in the array that came in
    return g * 0.5


@tg.fused(spec=lambda x: x * x * x + 1)
def other_than_its_specification(x, *, keep):
    return x * x * x, x


other_than_its_specification.backward(lambda g, x, _: (3 * g * x * x,))


@tg.fused(spec=lambda a, b: a * b)
def minds_what_is_needed(a, b, *, keep):
    return a * b, (a, b)


@minds_what_is_needed.backward
def _(g, cache, needs):
    a, b = cache
    return g * b, g * a * (1 if all(needs) else 2)


def reads_the_layout(x):
    kept = x._data
    return x * x * (2.0 if kept.ndim > 1 and not kept.flags.c_contiguous else 1.0)


# One fault for each property, too small or too hidden for those that only compare with differences.
FAULTS = {
    "first order": cubed(lambda g, x: 3.0001 * g * x * x),
    "the vjp is linear": cubed(lambda g, x: 3 * g * x * x + 1e-9 * g * g),
    "zero in, zero out": cubed(lambda g, x: 3 * g * x * x + 1e-13),
    "twice gives the same bits": cubed(lambda g, x: 3 * g * x * x * (1 + 1e-13 * RANDOM.random())),
    "no memory is shared, nothing is written to": cubed(lambda g, x: doubles(g) * (3 * x * x)),
    "an input asked for alone": minds_what_is_needed,
    "the specification": other_than_its_specification,
    "float32": cubed(lambda g, x: 3 * g * x * x * tg.ones_like(x, dtype=np.float64)),
    "every layout": reads_the_layout,
    "second order": cubed(lambda g, x: 3 * g * x * cut(x)),
    "duality of vjp and jvp": cubed(lambda g, x: 3 * g * x * x + 1e-9 * (g - cut(g))),
    "the second pass is linear": through(lambda g: g + 1e-9 * g * g),
    "zero in, zero out, at order 2": through(lambda g: g + 1e-13),
    "no memory is shared, nothing is written to, at order 2": through(doubles),
    "twice gives the same bits, at order 2": through(lambda g: g * (1 + 1e-13 * RANDOM.random())),
}
ORDERS = {
    "the order of construction does not matter",
    "the order of construction does not matter, at order 2",
}


def point_of(op, place, count=1):
    arrays = [np.linspace(0.5, 2.0, 6).reshape(2, 3) + k for k in range(count)]
    return Point(place, op, arrays, seed=1)


def test_there_is_a_fault_for_every_property():
    assert FAULTS.keys() | ORDERS == testing.PROPERTIES.keys()


@pytest.mark.parametrize("name", FAULTS)
def test_each_property_notices_its_fault(backend, name):
    count = 2 if FAULTS[name] is minds_what_is_needed else 1
    holds = testing.PROPERTIES[name]
    for seed in range(3):  # `asked_alone` asks for one input by lot
        point = Point(backend, FAULTS[name], point_of(tg.add, backend, 2).arrays[:count], seed)
        try:
            holds(point)
        except (tg.GradcheckError, tg.DTypeError):
            return
    pytest.fail(f"{name!r} does not notice its fault")


@pytest.mark.parametrize("name", testing.PROPERTIES)
def test_each_property_accepts_what_is_right(backend, name):
    testing.PROPERTIES[name](point_of(cubed(lambda g, x: 3 * g * x * x), backend))
    testing.PROPERTIES[name](point_of(tg.multiply, backend, 2))


@pytest.mark.parametrize("name", sorted(ORDERS))
def test_an_engine_that_forgets_what_came_first_is_noticed(backend, monkeypatch, name):
    def keeps_the_last(node, g, arrived, *rest):
        arrived[node] = g

    point = point_of(cubed(lambda g, x: 3 * g * x * x), backend)
    monkeypatch.setattr(engine, "_arrive", keeps_the_last)
    with pytest.raises(tg.GradcheckError, match="two uses, built in the other order"):
        testing.PROPERTIES[name](point)


@pytest.mark.parametrize("order", ["", ", at order 2"])
def test_an_engine_that_hands_out_its_own_arrays_is_noticed(backend, monkeypatch, order):
    """A rule may return `g` itself. If the engine gave that to a leaf, it would share memory."""
    same = tg.primitive(lambda x: x * 1.0)
    same.vjp(x=lambda g: g)
    point = point_of(same, backend)
    holds = testing.PROPERTIES["no memory is shared, nothing is written to" + order]
    holds(point)
    monkeypatch.setattr(engine.Arrays, "own", staticmethod(lambda g, **_: g))
    monkeypatch.setattr(engine.Arrays, "result", staticmethod(lambda g, **_: wrap(g, None)))
    with pytest.raises(tg.GradcheckError, match="shares memory"):
        holds(point)


# ---- faults of the kind people make, through the public call ----


def rejected(op, *domains, match, **options):
    with pytest.raises(tg.GradcheckError, match=match) as caught:
        testing.check_op(op, *domains, **options)
    return str(caught.value)


def test_numpy_in_a_forward_fails_without_a_gpu():
    @tg.primitive
    def swish(x):
        return x / (1 + np.exp(-x))

    swish.vjp(x=lambda g, x, out: g * (tg.sigmoid(x) * (1 - out) + out))
    testing.check_op(swish, "real", devices=["cpu"])  # nobody would notice
    said = rejected(swish, "real", match=r"swish, on fake: the forward: TypeError: np\.exp")
    assert "namespace(x).tanh(x) instead of np.tanh(x)" in said


def test_numpy_in_a_rule_fails_without_a_gpu_and_at_second_order():
    @tg.primitive
    def sine(x):
        return namespace(x).sin(x)

    sine.vjp(x=lambda g, x: g * np.cos(x))
    testing.check_op(sine, "real", devices=["cpu"], order=1)  # right, on NumPy
    said = rejected(sine, "real", order=1, match=r"sine, on fake: first order: TypeError: np\.cos")
    assert "in a rule use operators and tinygrad_rnn's own ops" in said
    said = rejected(sine, "real", match=r"sine, on cpu: second order: TypeError")
    assert "order=1 leaves second derivatives out" in said


def test_a_function_that_the_device_lacks_is_named():
    @tg.primitive
    def wrapped(x):
        return namespace(x).unwrap(x.ravel()).reshape(x.shape)

    rejected(wrapped, "real", match=r"has no function 'unwrap'", order=1, devices=["fake"])


def test_a_missing_unbroadcast_is_found():
    @tg.fused(spec=lambda x, b: x + b)
    def add_bias(x, b, *, keep):
        return x + b, None

    add_bias.backward(lambda g, *_: (g, g[0]))  # the first row, where rows were to be summed
    inputs = st.tuples(testing.arrays("real", (2, 3)), testing.arrays("real", (3,)))
    rejected(add_bias, inputs=inputs, match="add_bias, on cpu: first order: .* for input 1 alone")
    add_bias.backward(lambda g, *_: (g, g.sum(0)))
    testing.check_op(add_bias, inputs=inputs, max_examples=10)


def lstm_with(change):
    """The fused LSTM over a window, its gradients passed through `change`."""

    @tg.fused(spec=lstm.spec)
    def window(x, h, c, w_ih, w_hh, b_ih, b_hh, *, keep):
        return lstm.forward(x, h, c, w_ih, w_hh, b_ih, b_hh, ids=None, keep=keep)

    window.backward(
        lambda g, cache, needs: change(list(lstm.hand_backward(g, cache, needs, ids=None)))
    )
    return lambda *inputs: window(*inputs)


def swapped(found):
    """The gradients of W_ih with the blocks of the input gate and of the forget gate exchanged."""
    w = found[3]
    if w is not None:
        H = len(w) // 4
        found[3] = namespace(w).concatenate([w[H : 2 * H], w[:H], w[2 * H :]])
    return found


def test_swapped_gates_in_a_fused_backward_are_found(backend):
    shapes = [(2, 1, 2), (1, 2), (1, 2), (8, 2), (8, 2), (8,), (8,)]
    inputs = st.tuples(*(testing.arrays("real", s) for s in shapes))
    options = {"inputs": inputs, "devices": [backend.device], "max_examples": 5}
    testing.check_op(lstm_with(list), **options)
    rejected(lstm_with(swapped), match="first order: .* for input 3 alone", **options)


def test_randomness_and_state_are_found():
    rejected(FAULTS["twice gives the same bits"], "real", match="twice gives the same bits: the gr")
    rejected(lambda x: tg.nn.functional.dropout(x, 0.5), "real", match="on cpu: ")
    calls = []

    def stateful(x):  # wrong for a while: a single call may be of zeros
        calls.append(1)
        return x * (2.0 if 30 <= len(calls) < 60 else 1.0)

    rejected(stateful, "real", match="did not fail again")


def test_a_fault_that_needs_what_came_before_is_found():
    """It shows in the seventh backward pass only: never where one property is asked alone."""
    passes = {}

    def rule(g, x):
        key = id(x)
        passes[key] = passes.get(key, 0) + 1
        return 3 * g * x * x * (1.5 if passes[key] > 6 and isinstance(g, np.ndarray) else 1)

    rejected(cubed(rule), "positive", match="on cpu: ", devices=["cpu"])


# ---- what is said ----


def test_a_message_names_the_op_the_property_and_the_smallest_case():
    @tg.primitive
    def halved(x, *, times):
        return x * 0.5**times

    halved.vjp(x=lambda g: g * 0.5)
    options = {"times": st.integers(1, 5)}
    with pytest.raises(tg.GradcheckError) as caught:
        testing.check_op(halved, "real", options=options)
    said = str(caught.value)
    assert said.startswith("halved, on cpu: first order: the rules give ")
    assert "input 0: array(0.0625)" in said  # the smallest there is
    assert "times = 2" in said
    assert type(caught.value) is tg.GradcheckError
    assert not getattr(caught.value, "__notes__", [])


def test_errors_of_an_op_are_kept_as_the_cause():
    def broken(x):
        raise LookupError("the lookup failed")

    with pytest.raises(tg.GradcheckError, match="LookupError: the lookup failed") as caught:
        testing.check_op(broken, "real")
    assert isinstance(caught.value.__cause__, LookupError)


def test_calls_that_say_too_little_or_nonsense_are_refused():
    for arguments, options in (
        ([], {}),
        (["real"], {"inputs": testing.arrays()}),
    ):
        with pytest.raises(tg.DataError, match="either one domain per input"):
            testing.check_op(tg.exp, *arguments, **options)
    with pytest.raises(tg.DataError, match=r"no domain is called 'reel'; there are 'real'"):
        testing.check_op(tg.exp, "reel")
    with pytest.raises(tg.DataError, match="low < high"):
        testing.between(1, 1)


def run_python(code, cwd=None):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True, text=True, check=True, cwd=cwd,
    ).stdout  # fmt: skip


def test_without_hypothesis_the_error_says_what_to_install():
    code = (
        "import sys; sys.modules['hypothesis'] = None; import tinygrad_rnn as tg\n"
        "try: tg.testing\n"
        "except ImportError as error: print(error)"
    )
    assert "pip install 'tinygrad_rnn[testing]'" in run_python(code)


def test_it_is_imported_when_asked_for_and_the_fake_device_registered_when_needed(tmp_path):
    code = (
        "import sys, tinygrad_rnn as tg\n"
        "names = lambda: 'fake' in str([d.name for d in tg.devices()])\n"
        "print('hypothesis' in sys.modules)\n"
        "tg.testing; print('hypothesis' in sys.modules, names())\n"
        "tg.testing.check_op(tg.tanh, 'real', max_examples=2); print(names())"
    )
    assert run_python(code, tmp_path).split() == ["False", "True", "False", "True"]


# ---- the strategies ----


@given(st.data())
def test_domains_keep_their_distance(data):
    draw = lambda domain: data.draw(testing.arrays(domain, (3, 3)))  # noqa: E731
    assert (np.abs(draw("real")) >= 1 / 16).all()
    assert (draw("positive") > 0.5).all()
    assert (np.abs(draw("nonzero")) > 0.5).all()
    distances = draw("real")[:, None] - draw("with zero")
    assert (np.abs(distances) >= 1 / 32).all()
    assert len(np.unique(draw("unique"))) == 9
    inside = draw(testing.between(2, 3))
    assert ((inside > 2) & (inside < 3)).all()


@given(testing.broadcastable("real", "positive", "unique"))
def test_broadcastable_arrays_broadcast(drawn):
    assert len(drawn) == 3
    np.broadcast_shapes(*(a.shape for a in drawn))


@given(testing.shapes().flatmap(lambda s: st.tuples(st.just(s), testing.indices(s))))
def test_indices_are_valid(drawn):
    shape, index = drawn
    np.zeros(shape)[index]


def test_indices_have_every_form():
    seen = set()

    @settings(max_examples=300, database=None, derandomize=True)
    @given(testing.indices((3, 2)))
    def collect(index):
        for part in index if isinstance(index, tuple) else (index,):
            seen.add(f"{part.dtype} {part.ndim}" if isinstance(part, np.ndarray) else type(part))

    collect()
    forms = {int, slice, type(None), type(...), list, "bool 2", "bool 1", "int64 0", "int64 2"}
    assert seen >= forms


@given(testing.shapes(1).flatmap(lambda s: st.tuples(st.just(s), testing.axes(len(s)))))
def test_axes_are_valid(drawn):
    shape, axis = drawn
    np.zeros(shape).sum(axis)


@pytest.mark.parametrize("name", testing.LAYOUTS)
def test_layouts_change_nothing_but_the_memory(backend, name):
    a = np.arange(12.0).reshape(3, 4)
    laid = testing.LAYOUTS[name](backend, a)
    np.testing.assert_array_equal(backend.host(laid), a)
    assert laid.dtype == np.float64
    assert laid.requires_grad
    strides = {"fortran": (8, 24), "reversed": (-32, -8), "strided": (64, 16)}
    if backend.device == "cpu":
        assert laid.data.strides == strides.get(name, (32, 8))


def test_the_sync_budget_raises():
    x = tg.tensor([1.0], device="fake")
    with pytest.raises(tg.GradcheckError, match="1 host sync"), testing.sync_budget(0):
        x.item()
    assert fake_device.FakeArray is type(x.data)


def test_orders_and_devices_are_what_they_can_be():
    with pytest.raises(tg.DataError, match="order is 1 or 2"):
        testing.check_op(tg.tanh, "real", order=3)
    testing.check_op(tg.tanh, "real", devices="cpu", max_examples=2)
