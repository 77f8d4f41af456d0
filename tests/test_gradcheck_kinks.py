"""A kink is not a wrong rule, and a wrong rule is not a kink."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn.errors import GradcheckError
from tinygrad_rnn.gradcheck import gradcheck

RNG = np.random.default_rng(0)


def verdict(fn, inputs, **options):
    """The verdict and the report, raised or not."""
    try:
        report = gradcheck(fn, inputs, **options)
    except GradcheckError as error:
        report = error.report
    return report.verdict, report


def faulty(forward, slope, factor):
    """A smooth function whose rule is off by a factor."""

    @tg.primitive
    def function(x):
        return forward(x)

    function.vjp(x=lambda g, x: g * slope(x) * factor)
    return function


# ---- a wrong rule where the function is smooth ---------------------------------------------------

SMOOTH = {
    "sin": (np.sin, np.cos),
    "exp": (np.exp, np.exp),
    "cube": (lambda x: x**3, lambda x: 3 * x**2),
    "tanh": (np.tanh, lambda x: 1 - np.tanh(x) ** 2),
    "a million": (lambda x: 1e6 * x * x, lambda x: 2e6 * x),
    "shifted far": (lambda x: x * x + 1000, lambda x: 2 * x),
    "wiggly": (lambda x: np.sin(100 * x), lambda x: 100 * np.cos(100 * x)),
    "steep": (lambda x: np.tanh(1e4 * x), lambda x: 1e4 * (1 - np.tanh(1e4 * x) ** 2)),
    "root": (lambda x: np.sqrt(np.abs(x)), lambda x: 0.5 * np.sign(x) / np.sqrt(np.abs(x))),
}


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("off", [-2.0, -1.0, 0.01, 1e-4, float("nan"), float("inf")])
@given(x=st.floats(-2, 2))
def test_a_wrong_rule_at_a_smooth_point_is_never_called_a_kink(name, off, x):
    forward, slope = SMOOTH[name]
    if name == "root" and abs(x) < 1e-2:
        return  # there it has an edge within reach
    if abs(slope(np.array(x))) < 0.01:
        return  # a ten-thousandth of next to nothing is within the tolerance
    found, report = verdict(faulty(forward, slope, 1 + off), [np.array([x])])
    assert found == "DISAGREE"
    assert report.kinks == ()
    assert "kink" not in str(report)


@pytest.mark.parametrize("name", SMOOTH)
@given(x=st.floats(-2, 2))
def test_a_right_rule_at_a_smooth_point_passes(name, x):
    forward, slope = SMOOTH[name]
    if name == "root" and abs(x) < 1e-2:
        return
    found, report = verdict(faulty(forward, slope, 1), [np.array([x])])
    if name == "steep" and found == "KINK":  # it bends within the step: no evidence, and no blame
        assert {kink.kind for kink in report.kinks} == {"bend"}
        return
    assert found == "agree"
    assert report.kinks == ()


def test_a_wrong_rule_in_many_elements_is_no_kink():
    wrong = faulty(np.sin, np.cos, 1.0001)
    assert verdict(wrong, RNG.normal(size=(8, 8)))[0] == "DISAGREE"
    assert verdict(wrong, RNG.normal(size=(40, 50)))[0] == "DISAGREE"
    assert verdict(lambda x: tg.mean(wrong(x)), RNG.normal(size=10**4), atol=1e-10)[0] == "DISAGREE"


# ---- a right rule at a kink, at a tie, and beside them -------------------------------------------

KINKED = {
    "abs": tg.abs,
    "relu": tg.relu,
    "relu of a slope": lambda x: tg.relu(-3 * x) * 2 + tg.sin(x),
    "clip": lambda x: tg.clip(x, 0, None),
    "maximum": lambda x: tg.maximum(x, 2 * x),
    "minimum": lambda x: tg.minimum(x, tg.exp(2 * x) - 1),
    "max of three": lambda x: tg.max(tg.stack([x, 2 * x, -x])),
    "norm": lambda x: tg.norm(x) + x,
    "l1": lambda x: tg.nn.functional.l1_loss(x, np.zeros(1)),
    "where": lambda x: tg.where(x > 0, x * x + 5 * x, x),
    "a sum of kinks": lambda x: tg.abs(x) + 0.5 * tg.relu(x) + tg.abs(2 * x),
    "slopes far apart": lambda x: tg.relu(x) - 0.5 * tg.relu(-x),
}


@pytest.mark.parametrize("name", KINKED)
@given(
    aside=st.sampled_from(
        [0.0, 1e-12, 1e-9, 1e-8, 1e-7, 5e-7, 1e-6, 2e-6, 4e-6, 5.9e-6, 2e-5, 1.0]
    ),
    sign=st.sampled_from([-1, 1]),
)
def test_a_right_rule_near_a_kink_is_never_called_wrong(name, aside, sign):
    found, report = verdict(KINKED[name], [np.array([sign * aside])])
    assert found in ("agree", "KINK")
    if 1e-7 <= aside <= 4e-6:  # the differences reach over it, and the other side is in sight
        assert found == "KINK"
        assert report.kinks[0].near
        assert report.kinks[0].kind == "kink"
    if aside >= 2e-5:
        assert found == "agree"
        assert report.kinks == ()


def test_what_is_said_of_a_kink():
    x = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 1e-6]])
    found, report = verdict(tg.abs, x)
    assert (found, report.passed, report.index) == ("KINK", False, (1, 2))
    (kink,) = report.kinks
    assert (kink.input, kink.index, kink.output) == ("input 0", (1, 2), "output 0[1, 2]")
    assert (kink.left, kink.right, kink.analytic) == pytest.approx((-1, 1, 1))
    said = str(report)
    assert "KINK at input 0[1, 2]" in said
    assert "kink near input 0[1, 2] (slopes -1 and 1; analytic 1)" in said
    assert "no evidence of a wrong rule" in said
    assert "Move the input" in said
    assert "DISAGREE" not in said


def test_a_tie_is_a_kink():
    found, report = verdict(tg.max, np.array([1.0, 3.0, 3.0, 3.0]))  # each gets a third
    assert found == "KINK"
    assert {kink.index for kink in report.kinks} == {(1,), (2,), (3,)}
    for kink in report.kinks:
        assert (kink.left, kink.right, kink.analytic) == pytest.approx((0, 1, 1 / 3))


def test_where_the_gradient_is_the_mean_of_both_slopes_the_check_passes_and_says_so():
    report = gradcheck(tg.abs, np.array([0.0, 1.0]))
    (kink,) = report.kinks
    assert (kink.index, kink.near) == ((0,), False)
    assert "kink near input 0[0] (slopes -1 and 1; analytic 0)" in str(report)
    # The complex step takes one side of a kink. That is not held against the rule.
    report = gradcheck(tg.norm, np.zeros(2))
    assert len(report.kinks) == 2
    assert report.no_complex_step == "every number is at a kink"


def test_a_jump_is_told_from_a_kink():
    def step(x):
        return tg.where(x > 1, x + 3, x)

    found, report = verdict(step, np.array([1.0, 2.0]))
    assert (found, report.kinks[0].kind) == ("KINK", "jump")
    assert "jump near input 0[0]" in str(report)


@pytest.mark.parametrize(
    ("fn", "x"), [(tg.sqrt, 0.0), (tg.sqrt, 1e-7), (tg.log, 1e-6), (tg.log, 0.0)]
)
def test_the_edge_of_a_domain_is_told_from_a_kink(fn, x):
    found, report = verdict(fn, np.array([x, 1.0]))
    assert (found, report.kinks[0].kind, report.kinks[0].index) == ("KINK", "edge", (0,))


def test_a_kink_of_the_gradient_shows_at_order_two():
    def fn(t):  # x**2 / 100 for x > 0, else 0: the slope is continuous, and has a kink
        return 0.01 * tg.relu(t) * t

    x = np.array([1.0, 1e-6])
    assert gradcheck(fn, x).passed
    found, report = verdict(fn, x, order=2)
    assert (found, report.order, report.kinks[0].index) == ("KINK", 2, (1,))


def test_one_kink_in_a_large_input_is_found_and_named():
    x = RNG.normal(size=(30, 40))
    x[7, 5] = 1e-7
    found, report = verdict(tg.relu, x)
    assert (found, report.input, report.index) == ("KINK", "input 0", (7, 5))


# ---- both ----------------------------------------------------------------------------------------


def test_a_wrong_rule_beside_a_kink_is_wrong():
    """On the near side of the kink the function is smooth, and has another slope than claimed."""

    @tg.primitive
    def length(x):
        return np.abs(x)

    length.vjp(x=lambda g, x: 1.01 * g * tg.sign(x))
    for aside in (1e-7, -1e-6, 3e-6):
        assert verdict(length, [np.array([aside])])[0] == "DISAGREE"


def test_a_wrong_rule_counts_more_than_kinks_elsewhere():
    x = np.array([1e-6, -1e-6, 2.0])
    found, report = verdict(lambda t: tg.abs(t) * faulty(np.sin, np.cos, 1.001)(t + 1), x)
    assert found == "DISAGREE"
    assert "no evidence" not in str(report)
