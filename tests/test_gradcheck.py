"""The checker is checked: it accepts what is right and rejects what is planted wrong."""

import itertools

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.errors import DataError, DTypeError, GradcheckError
from tinygrad_rnn.gradcheck import GradcheckReport, gradcheck

RNG = np.random.default_rng(0)
SMALL, LARGE = RNG.normal(size=(2, 3)), RNG.normal(size=(20, 30))


# ---- what is right -------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize(
    "x", [SMALL, LARGE, np.array(0.5), np.zeros((0, 3))], ids=["small", "large", "0-d", "empty"]
)
def test_accepts_what_is_right(backend, order, x):
    report = gradcheck(lambda t: tg.tanh(t) * t, [backend.tensor(x)], order=order)
    assert isinstance(report, GradcheckReport)
    assert report.passed
    assert report.order == order
    assert report.error <= report.tolerance
    assert "agree" in str(report)
    assert (report.compared == 0) == (x.size == 0)


def test_every_entry_of_a_small_jacobian_is_compared():
    report = gradcheck(lambda a, b: a @ b, [SMALL, SMALL.T])
    assert report.compared == (6 + 6) * 4
    assert "input " in report.place
    assert "output 0[" in report.place
    report = gradcheck(lambda a, b: a @ b, [LARGE, LARGE.T])
    assert report.compared == 5 + 2  # directions through both, and through each
    assert "direction" in report.place


def test_several_outputs_unused_inputs_and_other_dtypes():
    def fn(a, ids, unused):
        return [tg.take(a, ids, 0), tg.sum(a), tg.tensor(np.ones(2))]

    report = gradcheck(fn, [SMALL, np.array([1, 0, 1]), np.ones(2)])
    assert report.compared == 8 * (9 + 1 + 2)
    assert gradcheck(fn, [SMALL, np.array([1, 0, 1]), np.ones(2)], order=2).passed


def test_a_linear_function_has_second_derivatives_of_zero():
    assert gradcheck(lambda a: 3 * a, [SMALL], order=2).passed


def test_one_input_needs_no_list():
    assert gradcheck(tg.exp, SMALL).compared == 36
    assert gradcheck(tg.exp, tg.tensor(SMALL)).compared == 36


def test_a_model_is_checked_in_place_and_left_as_it_was():
    model = tg.nn.LSTM(3, 4, rng=0, dtype=np.float64)
    x = np.random.default_rng(1).normal(size=(5, 2, 3))
    before = {name: array.tobytes() for name, array in model.state_dict().items()}
    report = gradcheck(lambda *_: tg.mean(tg.square(model(x)[0])), list(model.parameters()))
    assert report.passed
    assert report.error < 1e-9
    assert {name: array.tobytes() for name, array in model.state_dict().items()} == before
    assert all(p.grad is None for p in model.parameters())


def test_works_inside_no_grad():
    with tg.no_grad():
        assert gradcheck(tg.tanh, SMALL, order=2).passed


# ---- what is wrong -------------------------------------------------------------------------------


def planted(rule):
    """x**3, with a rule of your own."""

    @tg.primitive
    def cube(x):
        return x * x * x

    cube.vjp(x=rule)
    return cube


WRONG = {
    "sign": lambda g, x: -3 * g * x * x,
    "factor": lambda g, x: 2 * g * x * x,
    "forgotten g": lambda g, x: 3 * x * x + 0 * g,
    "a thousandth": lambda g, x: 3.003 * g * x * x,
    "a millionth": lambda g, x: 3.00001 * g * x * x,
    "zero": lambda g, x: 0 * g * x,
    "nan": lambda g, x: g * x * float("nan"),
}


@pytest.mark.parametrize("x", [SMALL, LARGE], ids=["elements", "directions"])
@pytest.mark.parametrize("name", WRONG)
def test_rejects_planted_wrong_rules(backend, name, x):
    with pytest.raises(GradcheckError, match=r"(?s)DISAGREE.*analytic.*numeric"):
        gradcheck(planted(WRONG[name]), [backend.tensor(x)], rtol=1e-7)


@pytest.mark.parametrize("n", [10**2, 10**5, 10**6])
def test_a_mean_over_many_numbers_hides_nothing(n):
    """Its derivatives are 2x/n: each tiny, and a rule 1 % off must still not pass for rounding."""

    @tg.primitive
    def square(x):
        return x * x

    square.vjp(x=lambda g, x: 2.02 * g * x)
    x = np.random.default_rng(0).normal(size=n)
    with pytest.raises(GradcheckError, match="DISAGREE"):
        gradcheck(lambda t: tg.mean(square(t)), x)
    for reduction in (tg.mean, tg.sum):  # noise is relative to the result: a sum has the most
        report = gradcheck(lambda t: reduction(tg.square(t)), x)  # noqa: B023
        assert report.error < 0.2 * report.tolerance


def test_a_large_recurrent_layer_is_right():
    """A step in all of its 130,000 weights at once must not be too large for differences."""
    layer = tg.nn.RNN(256, 256, rng=0, dtype=np.float64)
    x = np.random.default_rng(0).normal(size=(50, 1, 256))
    report = gradcheck(lambda *_: layer(x)[0], list(layer.parameters()))
    assert report.error < 0.2 * report.tolerance


def test_right_at_order_1_and_wrong_at_order_2():
    def rule(g, x):
        return g * (3 * x * x).detach() if isinstance(x, tg.Tensor) else g * (3 * x * x)

    assert gradcheck(planted(rule), SMALL).passed
    with pytest.raises(GradcheckError, match="order 2"):
        gradcheck(planted(rule), SMALL, order=2)
    right = planted(lambda g, x: 3 * g * x * x)
    assert gradcheck(right, SMALL, order=2).passed


def test_one_wrong_element_is_found_and_named():
    mask = np.ones((2, 3))
    mask[1, 2] = 1.01
    with pytest.raises(GradcheckError, match=r"input 0\[1, 2\], output 0\[1, 2\]"):
        gradcheck(planted(lambda g, x: 3 * g * x * x * mask), SMALL)


def test_a_wrong_gradient_of_one_input_among_several():
    @tg.primitive
    def product(a, b):
        return a * b

    product.vjp(a=lambda g, b: g * b, b=lambda g, a: g * a * 1.0001)
    with pytest.raises(GradcheckError, match="input 1"):
        gradcheck(product, [SMALL, SMALL + 1])
    with pytest.raises(GradcheckError):
        gradcheck(product, [LARGE, LARGE + 1])


def test_a_missing_term_is_found():
    """The derivative of x * sin(x) has two terms."""

    @tg.primitive
    def wave(x):
        return x * np.sin(x)

    wave.vjp(x=lambda g, x: g * tg.sin(x))
    with pytest.raises(GradcheckError, match="DISAGREE"):
        gradcheck(wave, SMALL)
    wave.vjp(x=lambda g, x: g * (tg.sin(x) + x * tg.cos(x)))
    assert gradcheck(wave, SMALL, order=2).passed


def shifted(x, b):
    return x + b


@pytest.mark.parametrize("x", [SMALL, LARGE], ids=["elements", "directions"])
def test_a_missing_unbroadcast_is_found(x):
    """The engine sums broadcast gradients; a backward written by hand has to do it itself."""

    @tg.fused(spec=shifted)
    def shift(x, b, *, keep):
        return x + b, (x.shape if keep else None)

    shift.backward(lambda g, *_: (g, g[0]))
    with pytest.raises(GradcheckError, match="DISAGREE at input 1") as caught:
        gradcheck(shift, [x, x[0]])
    assert caught.value.report.input == "input 1"
    shift.backward(lambda g, *_: (g, g.sum(axis=0)))
    assert gradcheck(shift, [x, x[0]], order=2).passed


def cell(z, c):
    """One step of an LSTM from its pre-activations, (B, 4H), and its cell, (B, H)."""
    i, f, g, o = tg.split(z, 4, axis=1)
    return tg.sigmoid(o) * tg.tanh(tg.sigmoid(f) * c + tg.sigmoid(i) * tg.tanh(g))


def fused_cell(swapped):
    """The same by hand, with the gradients of the gates in the order of `swapped`."""

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    @tg.fused(spec=cell)
    def by_hand(z, c, *, keep):
        i, f, g, o = np.split(z, 4, axis=1)
        i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
        t = np.tanh(f * c + i * g)
        return o * t, ((i, f, g, o, c, t) if keep else None)

    @by_hand.backward
    def _(d, cache, needs):
        i, f, g, o, c, t = cache
        dc = d * o * (1 - t * t)
        gates = [
            dc * g * i * (1 - i),
            dc * c * f * (1 - f),
            dc * i * (1 - g * g),
            d * t * o * (1 - o),
        ]
        return np.concatenate([gates[k] for k in swapped], axis=1), dc * f

    return by_hand


@pytest.mark.parametrize(("batch", "width"), [(2, 2), (5, 20)], ids=["elements", "directions"])
@pytest.mark.parametrize("swapped", [(1, 0, 2, 3), (0, 2, 1, 3), (3, 1, 2, 0), (0, 1, 2, 3)])
def test_swapped_gates_are_found(swapped, batch, width):
    z, c = RNG.normal(size=(batch, 4 * width)), RNG.normal(size=(batch, width))
    if swapped == (0, 1, 2, 3):
        assert gradcheck(fused_cell(swapped), [z, c], order=2).complex_step.passed
        return
    with pytest.raises(GradcheckError, match="DISAGREE at input 0") as caught:
        gradcheck(fused_cell(swapped), [z, c])
    gate = caught.value.report.index[1] // width  # the element sits in a gate that was swapped
    assert swapped[gate] != gate


def test_dropout_is_no_function():
    with pytest.raises(GradcheckError, match="two different results"):
        gradcheck(lambda a: tg.nn.functional.dropout(a, 0.5), LARGE)  # of 600, never the same


# ---- what cannot be checked ----------------------------------------------------------------------


def test_refuses_half_precision_and_what_is_no_number():
    with pytest.raises(DTypeError, match=r"input 1 is float16; needed float64.*astype"):
        gradcheck(tg.add, [SMALL, SMALL.astype(np.float16)])
    with pytest.raises(DTypeError, match="must return float64"):
        gradcheck(lambda a: tg.astype(a, np.float32), SMALL)
    with pytest.raises(DTypeError, match="must return float64"):
        gradcheck(lambda _: 1.0, SMALL)
    with pytest.raises(DTypeError, match="none of the inputs"):
        gradcheck(lambda a: a, [np.arange(3)])
    with pytest.raises(DataError, match="order"):
        gradcheck(tg.exp, SMALL, order=3)


def test_refuses_float32_in_the_middle():
    """Its rounding, 1e-7 of the value, divided by the step is a slope of a percent."""
    with pytest.raises(DTypeError, match=r"'astype' computes in float32.*Leave out"):
        gradcheck(lambda a: tg.astype(tg.astype(a, np.float32), np.float64), SMALL)


def test_inputs_get_their_bits_back_wherever_the_function_raises():
    """And ops get their forward back, which the complex step exchanges."""
    x = tg.tensor(SMALL, requires_grad=True)
    array, forward = x._data, tg.exp.forward
    for last in itertools.count(1):  # raise at the first call, the second, ... until none is left
        calls = itertools.count(1)

        def fn(a):
            if next(calls) == last:  # noqa: B023 - called in this round only
                raise RuntimeError("no more")
            return tg.exp(a)

        try:
            gradcheck(fn, [x], order=2)
            finished = True
        except RuntimeError:
            finished = False
        assert x._data is array
        assert x.data.tobytes() == SMALL.tobytes()
        assert x.grad is None
        assert tg.exp.forward is forward
        if finished:
            break
    assert last > 100


def test_a_leaf_that_comes_twice_moves_once():
    x = tg.tensor(SMALL, requires_grad=True)
    assert gradcheck(lambda a, b: a * b, [x, x]).compared == 36


def test_a_graph_made_before_still_runs_backward_after():
    x = tg.tensor(SMALL, requires_grad=True)
    y = tg.sum(x * x)
    assert gradcheck(tg.square, [x]).passed
    y.backward()
    np.testing.assert_array_equal(x.grad, 2 * SMALL)


def test_tolerances_that_tolerate_everything_are_refused():
    for wrong in (
        {"eps": 0.0},
        {"eps": np.nan},
        {"atol": -1.0},
        {"rtol": np.nan},
        {"rtol": np.inf},
    ):
        with pytest.raises(DataError, match="needed finite numbers"):
            gradcheck(tg.exp, SMALL, **wrong)


def test_a_point_outside_of_the_domain_is_said_to_be_one():
    with np.errstate(all="ignore"), pytest.raises(GradcheckError, match="inside of its domain"):
        gradcheck(tg.log, np.array([-1.0, 2.0]))


def test_a_layer_that_a_function_closes_over_in_float32_is_explained():
    layer = tg.nn.Linear(2, 1, rng=0)
    with pytest.raises(DTypeError, match="pass the Module itself as fn"):
        gradcheck(lambda x: layer(x), np.ones((2, 2)))
    assert gradcheck(layer, np.ones((2, 2))).passed
