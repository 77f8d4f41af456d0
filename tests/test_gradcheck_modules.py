"""Gradient checks of Modules, and of functions in float32."""

import numpy as np
import pytest

import tinygrad_rnn as tg
from tests.test_gradcheck_report import SMALL, cubed, failed
from tinygrad_rnn.errors import DTypeError, GradcheckError
from tinygrad_rnn.gradcheck import gradcheck

RNG = np.random.default_rng(1)


# ---- Modules -------------------------------------------------------------------------------------


class Scaled(tg.nn.Module):
    """A module whose weight goes through a cube with a rule of your own."""

    def __init__(self, rule, dtype=np.float64):
        self.inner = tg.nn.Linear(3, 2, rng=0, dtype=dtype)
        self.cube = cubed(rule)

    def forward(self, x):
        return self.inner(x) * tg.sum(self.cube(self.inner.weight[:, 1]))


def test_a_module_is_checked_with_its_parameters_under_their_names():
    report = gradcheck(Scaled(lambda g, x: 3 * g * x * x), SMALL)
    assert report.passed
    assert report.compared == (6 + 6 + 2) * 4
    report = failed(Scaled(lambda g, x: g * x * x), SMALL)
    assert report.input == "inner.weight"
    assert report.index in ((0, 1), (1, 1))
    assert f"DISAGREE at inner.weight[{report.index[0]}, 1]" in str(report)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_module_is_never_touched(dtype):
    lstm = tg.nn.LSTM(3, 4, rng=0, dtype=dtype)
    before = [(p, p._data, p._node, p.data.tobytes()) for p in lstm.parameters()]
    x = RNG.normal(size=(4, 2, 3)).astype(dtype)
    state = (RNG.normal(size=(1, 2, 4)).astype(dtype), RNG.normal(size=(1, 2, 4)).astype(dtype))
    report = gradcheck(lstm, [x, state])
    assert report.passed
    assert report.complex_step.passed
    assert (report.single is None) == (dtype is np.float64)
    for p, data, node, bits in before:
        assert p._data is data
        assert p._node is node
        assert p.data.tobytes() == bits
        assert p.grad is None


def test_frozen_parameters_are_not_checked():
    layer = tg.nn.Linear(3, 2, rng=0, dtype=np.float64)
    layer.weight.requires_grad_(False)
    assert gradcheck(layer, SMALL).compared == (6 + 2) * 4


def test_dropout_in_a_module_is_refused_until_eval():
    # Of 40 columns no two masks are equal; of 2 by 2 numbers they are, once in sixteen times.
    model = tg.nn.Sequential(tg.nn.Linear(3, 40, rng=0), tg.nn.Dropout(0.5))
    with pytest.raises(GradcheckError, match=r"two different results.*eval"):
        gradcheck(model, SMALL)
    assert gradcheck(model.eval(), SMALL).passed


# ---- float32 -------------------------------------------------------------------------------------


def test_float32_is_checked_in_float64_and_then_against_it():
    report = gradcheck(lambda a, b: tg.tanh(a) * b, [SMALL.astype(np.float32), SMALL])
    assert report.error < 1e-9  # the differences were taken in float64
    assert report.single.compared == 12
    assert 0 < report.single.error < report.single.tolerance < 1e-3
    assert "  float32       12 numbers, difference" in str(report)


def test_a_rule_wrong_in_float32_only_is_found():
    def rule(g, x):
        return 3 * g * x * x * (1.001 if x.dtype == np.float32 else 1)

    report = failed(cubed(rule), SMALL.astype(np.float32))
    assert (report.verdict, report.against) == ("DISAGREE", "the float64 gradient")
    assert report.input == "input 0"
    assert report.analytic == pytest.approx(1.001 * report.numeric, rel=1e-5)
    assert f"DISAGREE at {report.place}" in str(report)
    assert report.place.endswith("in float32")
    assert gradcheck(cubed(rule), SMALL).passed


def test_an_overflow_in_float32_is_found():
    report = failed(lambda a: tg.exp(a) / tg.exp(a) * a, np.array([100.0], dtype=np.float32))
    assert report.against == "the float64 gradient"


def test_float32_parameters_of_a_closure_are_lent_float64_arrays():
    layer = tg.nn.Linear(3, 2, rng=0)
    data = layer.weight._data
    seen = []

    def loss(x, *_):
        seen.append(layer.weight.dtype)
        return tg.sum(tg.square(layer(x)))

    report = gradcheck(loss, [SMALL.astype(np.float32), *layer.parameters()])
    assert report.passed
    assert report.single.passed
    assert set(seen) == {np.dtype(np.float32), np.dtype(np.float64)}
    assert layer.weight._data is data


def test_float32_parameters_that_are_not_passed_cannot_be_converted():
    layer = tg.nn.Linear(3, 2, rng=0)
    with pytest.raises(DTypeError, match=r"(?s)float64 copies.*pass the Module itself as fn"):
        gradcheck(lambda x: layer(x), SMALL.astype(np.float32))
    w = tg.tensor(SMALL.astype(np.float32), requires_grad=True)
    with pytest.raises(DTypeError, match=r"must return float64.*pass the Module"):
        gradcheck(lambda x: [x, w * w], SMALL)
