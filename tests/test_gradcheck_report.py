"""What the report of a gradient check says: places, steps, and the complex step."""

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.core.primitive import Rule
from tinygrad_rnn.errors import GradcheckError
from tinygrad_rnn.gradcheck import gradcheck
from tinygrad_rnn.ops import elementwise

RNG = np.random.default_rng(0)
SMALL, LARGE = RNG.normal(size=(2, 3)), RNG.normal(size=(20, 30))


def cubed(rule):
    """x**3, with a rule of your own."""

    @tg.primitive
    def cube(x):
        return x * x * x

    cube.vjp(x=rule)
    return cube


def failed(fn, inputs, **options):
    """The report of a check that has to fail."""
    with pytest.raises(GradcheckError) as caught:
        gradcheck(fn, inputs, **options)
    report = caught.value.report
    assert not report.passed
    assert str(caught.value) == str(report)
    return report


# ---- where, and which numbers --------------------------------------------------------------------


def test_a_report_that_passes_prints_well():
    report = gradcheck(lambda a, b: tg.tanh(a @ b), [SMALL, SMALL.T])
    lines = str(report).splitlines()
    assert lines[0] == "gradcheck, order 1: 48 comparisons agree"
    assert report.place in lines[1]
    assert any("every entry of the Jacobian" in line for line in lines)
    assert any(line.startswith("  complex step  48 numbers") for line in lines)
    assert sum("<- truncation above" in line for line in lines) == 1
    assert max(map(len, lines)) <= 100
    assert (report.verdict, report.kinks, report.single) == ("agree", (), None)
    assert report.place == f"{report.input}[{', '.join(map(str, report.index))}], {report.output}"


@pytest.mark.parametrize("x", [SMALL, LARGE], ids=["elements", "directions"])
def test_one_wrong_element_is_found_and_named(x):
    """In a large input by halving a direction that disagrees."""
    mask = np.ones(x.shape)
    mask[1, 2] = 1.01
    report = failed(cubed(lambda g, x: 3 * g * x * x * mask), x)
    assert (report.verdict, report.input, report.index) == ("DISAGREE", "input 0", (1, 2))
    assert report.analytic == pytest.approx(1.01 * report.numeric, rel=1e-6)
    assert report.error == pytest.approx(abs(report.analytic - report.numeric))
    if x is SMALL:
        assert report.output == "output 0[1, 2]"
        assert report.numeric == pytest.approx(3 * x[1, 2] ** 2, rel=1e-8)
    assert "DISAGREE at input 0[1, 2]" in str(report)


def test_a_fault_in_many_elements_too_small_for_one_is_still_found():
    x = RNG.normal(size=10**5)
    report = failed(lambda t: tg.mean(cubed(lambda g, x: 3.003 * g * x * x)(t)), x)
    assert (report.input, report.index) == ("a random direction through all inputs", None)


def test_a_wrong_input_among_several_is_named():
    @tg.primitive
    def product(a, b):
        return a * b

    product.vjp(a=lambda g, b: g * b, b=lambda g, a: g * a * 1.0001)
    for x in (SMALL, LARGE):
        assert failed(product, [x, x + 3]).input == "input 1"


def test_outputs_and_inputs_inside_pairs_have_names():
    def fn(a, pair):
        return {"sum": a + pair[0], "more": (a * pair[1], pair[1])}

    report = gradcheck(fn, [SMALL[:1], (SMALL[1:], SMALL[:1])])
    assert report.compared == 9 * 9
    wrong = cubed(lambda g, x: g * x * x)
    report = failed(lambda a, pair: {"h": [a, wrong(pair[1])]}, [SMALL, (SMALL, SMALL)])
    assert report.input == "input 1.1"
    assert report.output.startswith("output h.1[")


def test_the_gradient_at_order_two_has_names():
    def rule(g, x):
        return g * (3 * x * x).detach() if isinstance(x, tg.Tensor) else g * (3 * x * x)

    report = failed(cubed(rule), SMALL, order=2)
    assert report.order == 2
    assert (report.input, report.output[:19]) == ("input 0", "gradient by input 0")


# ---- the sweep over step sizes -------------------------------------------------------------------


def test_the_sweep_shows_truncation_on_one_side_and_rounding_on_the_other():
    report = gradcheck(tg.exp, np.array([1.0]))
    assert [step.h for step in report.sweep] == pytest.approx([10.0**-k for k in range(2, 10)])
    off = [step.difference for step in report.sweep]
    assert off[0] == pytest.approx(np.e * 1e-4 / 6, rel=0.01)  # h^2/6 times the third derivative
    assert off[1] == pytest.approx(off[0] / 100, rel=0.01)
    assert off.index(min(off)) in (3, 4)  # about the cube root of the precision
    assert off[-1] > 100 * min(off)
    for step in report.sweep:
        assert abs(step.numeric - report.analytic) == step.difference


def test_the_sweep_of_a_wrong_rule_is_a_plateau():
    report = failed(cubed(lambda g, x: 3.3 * g * x * x), np.array([1.0]))
    assert [s.difference for s in report.sweep] == pytest.approx([0.3] * 8, rel=1e-2)


# ---- the complex step ----------------------------------------------------------------------------


def test_the_complex_step_finds_a_billionth(monkeypatch):
    """Differences cannot; and here the rule is of an op of the package."""
    wrong = Rule(lambda g, out: g * (1 - out * out) * (1 + 1e-9), tg.tanh)
    monkeypatch.setattr(tg.tanh, "rules", [wrong])
    for x in (SMALL, LARGE):
        report = failed(lambda a: tg.tanh(a) * 2, x)
        assert (report.verdict, report.against) == ("DISAGREE", "the complex step")
        assert 1e-10 < report.error / abs(report.numeric) < 1e-8
        assert report.index is not None
        assert "the complex step" in str(report).splitlines()[1]


def test_the_complex_step_finds_a_billionth_at_order_two():
    def rule(g, x):
        if isinstance(x, tg.Tensor):  # the same value, with another derivative
            return 3 * g * x * x + 1e-9 * g * (x - x.detach())
        return 3 * g * x * x

    cube = cubed(rule)
    report = failed(cube, SMALL, order=2, analytic=[cube])
    assert (report.order, report.against) == (2, "the complex step")
    assert report.error < 1e-8
    right = cubed(lambda g, x: 3 * g * x * x)
    assert gradcheck(right, SMALL, order=2, analytic=[right]).complex_step.error < 1e-14


def composition(x, w):
    """Every op that has another complex form than its own forward, and a few that have not."""
    y = tg.logsumexp(x * w, axis=1) + tg.sum(tg.softmax(x, axis=0) * w, axis=1)
    y = y + tg.sum(tg.sigmoid(x) * tg.log_softmax(w, axis=1), axis=1) + tg.norm(x, axis=1)
    y = y * tg.softplus(-x[:, 0]) + tg.where(y > 0, tg.exp(-y), y**3)
    return tg.concat([y, tg.cumsum(tg.log1p(x[:, 1] ** 2)) / tg.sqrt(1 + tg.sum(w * w))])


@pytest.mark.parametrize("order", [1, 2])
def test_the_complex_step_is_exact_for_what_is_right(order):
    report = gradcheck(composition, [SMALL, SMALL + 0.5], order=order)
    assert report.complex_step.error < 1e-14
    assert report.no_complex_step == ""


@pytest.mark.parametrize("order", [1, 2])
def test_the_complex_step_goes_through_layers_and_losses(order):
    model = tg.nn.LSTM(3, 4, num_layers=2, bidirectional=True, rng=0, dtype=np.float64)
    readout = tg.nn.Linear(8, 5, rng=0, dtype=np.float64)

    def loss(x, *_):
        return tg.nn.functional.cross_entropy(readout(model(x)[0]), np.array([[1, 4], [0, 2]]))

    parameters = [*model.parameters(), *readout.parameters()]
    report = gradcheck(loss, [RNG.normal(size=(2, 2, 3)), *parameters], order=order)
    assert report.complex_step.error < 1e-13


@pytest.mark.parametrize(
    ("fn", "op"),
    [
        (tg.abs, "abs"),
        (tg.relu, "relu"),
        (lambda a: tg.exp(tg.max(a)), "max"),
        (lambda a: tg.clip(a, -9, 9), "clip"),
        (tg.nn.functional.gelu, "erf"),
        (lambda a: tg.maximum(a, 0) * tg.minimum(a, 1), "maximum, minimum"),
        (cubed(lambda g, x: 3 * g * x * x), "cube"),
        (tg.nn.RNN(3, 2, nonlinearity="relu", rng=0, dtype=np.float64), "relu"),
    ],
)
def test_the_op_that_prevents_the_complex_step_is_named(fn, op):
    report = gradcheck(fn, SMALL)
    assert report.complex_step is None
    assert report.no_complex_step == f"no complex form of {op}"
    assert f"complex step  not possible: no complex form of {op}" in str(report)


def test_the_complex_step_is_for_the_cpu(backend):
    report = gradcheck(tg.tanh, backend.tensor(SMALL))
    if backend.device == "cpu":
        assert report.complex_step.passed
    else:
        assert report.no_complex_step.startswith(f"the inputs are on {backend.device}")


def test_an_op_wrongly_said_to_be_analytic_is_not_held_against_the_rule():
    @tg.primitive
    def length(x):
        return np.abs(x)

    length.vjp(x=lambda g, x: g * tg.sign(x))
    report = gradcheck(length, SMALL, analytic=[length])
    assert report.passed
    assert "contradicts the differences" in report.no_complex_step

    @tg.primitive
    def size(x):
        return np.abs(x) if np.isrealobj(x) else x

    size.vjp(x=lambda g, x: g * tg.sign(x))
    assert "size has another value" in gradcheck(size, SMALL, analytic=[size]).no_complex_step


def test_branches_in_the_complex_step_are_those_of_the_real_numbers():
    def fn(a):
        return tg.where(a > 0, a * a, tg.exp(a)) * tg.take(a, tg.argmax(a))

    report = gradcheck(fn, SMALL)
    assert report.complex_step.error < 1e-14


def test_the_complex_step_puts_every_forward_back():
    before = [op.forward for op in vars(elementwise).values() if isinstance(op, type(tg.exp))]
    gradcheck(tg.exp, SMALL)
    after = [op.forward for op in vars(elementwise).values() if isinstance(op, type(tg.exp))]
    assert len(before) > 10
    assert all(a is b for a, b in zip(before, after, strict=True))


def test_a_specification_that_is_another_function_is_found_at_order_two():
    """Its own second derivatives are right: it has to be held against the hand-written backward."""

    @tg.fused(spec=lambda x: x * x)
    def cube(x, *, keep):
        return x * x * x, x

    cube.backward(lambda g, cache, _needs: (3 * g * cache * cache,))
    assert gradcheck(cube, SMALL).passed
    report = failed(cube, SMALL, order=2)
    assert (report.verdict, report.against) == ("DISAGREE", "the plain gradient")
    assert "specification" in report.place
