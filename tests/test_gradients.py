"""Every gradient of the package against finite differences, and the checker against wrong rules."""

from __future__ import annotations

import importlib
import pkgutil

import numpy as np
import pytest
from hypothesis import given, settings

import tinygrad_rnn as tg
from tests import checking, domains
from tinygrad_rnn import ops
from tinygrad_rnn.core.fused import Fused
from tinygrad_rnn.core.primitive import Primitive


def all_ops() -> dict[int, Primitive | Fused]:
    """Every primitive and fused op in the modules of `tinygrad_rnn.ops`, once."""
    modules = [
        importlib.import_module(f"{ops.__name__}.{m.name}")
        for m in pkgutil.iter_modules(ops.__path__)
    ]
    found = [v for module in modules for v in vars(module).values()]
    return {id(v): v for v in found if isinstance(v, Primitive | Fused)}


# ---- the table is complete ----


def test_every_op_has_an_entry():
    covered = {id(op) for e in domains.ENTRIES.values() for op in e.covers}
    exempt = {id(op) for op in domains.NOT_DIFFERENTIABLE}
    missing = [op.__name__ for key, op in all_ops().items() if key not in covered | exempt]
    assert not missing, f"no gradient test for {missing}; add entries to tests/domains.py"
    assert len(all_ops()) >= 50  # the walk itself works


def test_only_ops_without_rules_are_exempt():
    for op in domains.NOT_DIFFERENTIABLE:
        assert list(op.rules) == [None] * len(op.inputs), op.__name__


@pytest.mark.parametrize("name", domains.ENTRIES)
def test_entries_reach_what_they_claim(name):
    """An entry's op really is in the graph that its cases record."""
    entry = domains.ENTRIES[name]
    reached = set()

    @settings(max_examples=8, derandomize=True, database=None)
    @given(case=entry.cases)
    def collect(case):
        inputs = [tg.tensor(a, requires_grad=True) for a in case.arrays]
        out = case.op(*inputs)
        if out.requires_grad:
            weight = tg.tensor(np.ones(out.shape), requires_grad=True)
            twice = entry.order == 2
            grads = tg.grad(out, inputs, weight, create_graph=twice, allow_unused=True)
            reached.update(checking.ops_behind([out, *grads]))

    collect()
    for op in entry.covers:
        assert op in reached, f"no case of {name!r} records {op.__name__}"


# ---- the properties ----


@pytest.mark.parametrize("name", domains.ENTRIES)
def test_gradient(backend, name):
    """All of `tg.testing.PROPERTIES`, at first and second order, on what the table draws."""
    entry = domains.ENTRIES[name]
    tg.testing.check_cases(name, entry.cases, order=entry.order, devices=[backend.device])


# ---- the checker itself: rules that are wrong on purpose ----


def planted(rule, forward=lambda x: x * x * x, name="x"):
    """A primitive x**3 whose one rule is `rule`; a new one for every test."""
    op = tg.primitive(lambda x: forward(x))
    op.vjp(**{name: rule})
    return op


def cut(x):
    """What a rule does that computes outside the graph: right once, wrong when derived again."""
    return x.detach() if isinstance(x, tg.Tensor) else x


def overwrites_g(g, x):
    g *= 1 if isinstance(g, tg.Tensor) else 3  # on arrays in place, in the caller's array
    return g * x * x if not isinstance(g, tg.Tensor) else 3 * g * x * x


def overwrites_saved(g, x):
    if not isinstance(x, tg.Tensor):
        x += 0.0  # harmless ...
        x[...] = x + 1e-3  # ... and not
        return 3 * g * (x - 1e-3) * (x - 1e-3)
    return 3 * g * x * x


def wrong_at_order_two(g, x):
    return 3 * g * cut(x) * x


# The rule, and the property that is to notice: the first, in the order of `PROPERTIES`, that can.
WRONG = {
    "sign": (lambda g, x: -3 * g * x * x, "first order"),
    "factor": (lambda g, x: 2 * g * x * x, "first order"),
    "a little": (lambda g, x: 3.0001 * g * x * x, "first order"),
    "missing factor": (lambda g, x: 3 * g * x, "first order"),
    "constant": (lambda g: g, "first order"),
    "ignores g": (lambda g, x: 3 * x * x + 0 * g, "first order"),
    "not linear": (lambda g, x: g * tg.abs(g) * x * x, "first order"),
    "one element": (
        lambda g, x: 3 * g * x * x * tg.astype(tg.not_equal(x, tg.max(x)), x.dtype),
        "first order",
    ),
    "order two: saved input cut off": (wrong_at_order_two, "second order"),
    "order two: g cut off": (lambda g, x: 3 * cut(g) * x * x, "second order"),
    "not zero for zero": (lambda g, x: 3 * g * x * x + 1e-13, "zero in, zero out"),
    "NaN": (lambda g, x: 3 * g * x * x + (x - x) * np.inf, "first order"),
    "writes into g": (overwrites_g, "no memory is shared"),
    "writes into a saved array": (overwrites_saved, "the vjp is linear"),
    "drifts to float64": (
        lambda g, x: 3 * g * x * x * tg.ones_like(x, dtype=np.float64),
        "float32: DTypeError",
    ),
    "a Tensor among arrays": (lambda g, x: 3 * g * x * x * tg.tensor(1.0), "D.*Error"),
}


def check(op, *domains, backend):
    """What a person outside the package calls."""
    tg.testing.check_op(op, *domains, devices=[backend.device], max_examples=10)


@pytest.mark.parametrize("fault", WRONG)
@pytest.mark.filterwarnings("ignore:invalid value")  # the rule that gives NaN
def test_wrong_rules_are_rejected(backend, fault):
    rule, noticed = WRONG[fault]
    with pytest.raises(tg.GradcheckError, match=rf"<lambda>, on {backend.device}: .*{noticed}"):
        check(planted(rule), "positive", backend=backend)


def test_the_right_rule_passes(backend):
    check(planted(lambda g, x: 3 * g * x * x), "positive", backend=backend)


def test_a_missing_rule_is_rejected(backend):
    """A forgotten term: the op refuses. Declared to be none, it is the differences that notice."""
    op = tg.primitive(lambda a, b: a * b)
    op.vjp(a=lambda g, b: g * b)
    a, b = (backend.tensor(np.ones(2), requires_grad=True) for _ in range(2))
    with pytest.raises(tg.NotDifferentiableError, match=r"no rule for the input 'b'.*vjp\(b="):
        op(a, b)
    assert not op(a.detach(), 2.0).requires_grad
    op.vjp(b=None)
    with pytest.raises(tg.GradcheckError, match=r"first order: .* for input 1 alone 0 against"):
        check(op, "real", "real", backend=backend)


@pytest.mark.parametrize("fault", [f for f in WRONG if f.startswith("order two")])
def test_second_order_faults_pass_at_first_order(backend, fault):
    """These are planted well: only the second derivative shows them."""
    op = planted(WRONG[fault][0])
    tg.testing.check_op(op, "positive", order=1, devices=[backend.device], max_examples=10)
    with pytest.raises(tg.GradcheckError, match="second order: the rules give"):
        check(op, "positive", backend=backend)


def test_rules_that_return_shared_memory_are_made_safe(backend):
    """A rule may return `g` itself: the engine, not the rule, sees to it that leaves own theirs."""
    op = tg.primitive(lambda a, b: a + b)
    op.vjp(a=lambda g: g, b=lambda g: g)
    check(op, "real", "real", backend=backend)


def test_wrong_backward_of_a_fused_op_is_rejected(backend):
    @tg.fused(spec=lambda x: x * x * x)
    def cube(x, *, keep):
        return x * x * x, x

    @cube.backward
    def _(g, cache, needs):
        return (3 * g * cache * cache if factor else -g,)

    factor = True
    check(cube, "positive", backend=backend)
    factor = False
    with pytest.raises(tg.GradcheckError, match=r"cube, on \w+: first order"):
        check(cube, "positive", backend=backend)


def test_wrong_specification_of_a_fused_op_is_rejected(backend):
    """A constant that the derivatives do not see, and one that only the second derivative sees."""
    for spec in (lambda x: x * x * x + 1, lambda x: x * x):
        cube = tg.fused(spec=spec)(lambda x, *, keep: (x * x * x, x if keep else None))
        cube.backward(lambda g, cache, _: (3 * g * cache * cache,))
        with pytest.raises(tg.GradcheckError, match="against its specification"):
            check(cube, "positive", backend=backend)
