"""One call that puts an op of your own through everything that ours go through.

    tg.testing.check_op(softsign, "real")

Hypothesis draws inputs in all shapes that broadcast, empty and 0-d ones included, and shrinks what
fails to the smallest case. Each case runs on NumPy and on the fake device, which has CuPy's rules:
an op written with ``np.`` where ``namespace(x)`` belongs fails there, without a GPU.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import hypothesis
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky, HypothesisException

from tinygrad_rnn.core.tensor import Tensor
from tinygrad_rnn.errors import DataError, GradcheckError, TinygradError
from tinygrad_rnn.testing import fake_device, order_two, properties
from tinygrad_rnn.testing.places import Place, layouts
from tinygrad_rnn.testing.point import Case, Op, Point
from tinygrad_rnn.testing.strategies import Strategy, broadcastable, in_use

Property = Callable[[Point], None]

# In this order: what says most about a fault comes first.
FIRST: dict[str, Property] = {
    "first order": properties.first_order,
    "the vjp is linear": properties.linear,
    "zero in, zero out": properties.zero,
    "twice gives the same bits": properties.repeatable,
    "no memory is shared, nothing is written to": properties.isolated,
    "the order of construction does not matter": properties.order_of_construction,
    "an input asked for alone": properties.asked_alone,
    "the specification": properties.specification,
    "float32": properties.narrow,
    "every layout": properties.layout,
}
SECOND: dict[str, Property] = {
    "second order": order_two.second_order,
    "duality of vjp and jvp": order_two.duality,
    "the second pass is linear": order_two.second_linear,
    "zero in, zero out, at order 2": order_two.second_zero,
    "no memory is shared, nothing is written to, at order 2": order_two.second_isolated,
    "twice gives the same bits, at order 2": order_two.second_repeatable,
    "the order of construction does not matter, at order 2": (
        order_two.second_order_of_construction
    ),
}
PROPERTIES = {**FIRST, **SECOND}


def check_op(
    op: Op,
    *domains: Any,
    inputs: Strategy | Sequence[Strategy] | None = None,
    options: Mapping[str, Any] | None = None,
    order: int = 2,
    devices: Sequence[str] = ("cpu", "fake"),
    max_examples: int | None = None,
) -> None:
    """Raise GradcheckError unless `op` and its rules have every property in `PROPERTIES`.

    Args:
        op: a primitive, a fused op, or any function of Tensors that returns a Tensor (or a tuple
            of them). It must be a function: the same numbers in, the same out.
        domains: where the numbers of each input lie, by name ("real", "positive", "nonzero", "with
            zero", "unique") or as a strategy of floats. The inputs come in all shapes that
            broadcast. For a kink at a tie, as maximum has, give "real" and "with zero": they never
            meet.
        inputs: instead, for ops that are particular about shapes: a strategy of arrays such as
            ``tg.testing.arrays("real", min_dims=1)``, one of tuples of arrays, or a list with one
            strategy per input. Arrays of integers or bools are passed on as they are; gradients
            are taken by the others.
        options: keyword arguments of the op; one that is a strategy is drawn.
        order: 1 to leave second derivatives out.
        devices: where to run.
        max_examples: cases to try on each device; by default what Hypothesis is set to.
    """
    if bool(domains) == (inputs is not None):
        raise DataError(
            "check_op: needed either one domain per input (check_op(op, 'real')) or inputs=, a "
            "strategy of arrays (check_op(op, inputs=tg.testing.arrays('real', min_dims=1)))"
        )
    drawn: Any = broadcastable(*domains) if inputs is None else inputs
    if isinstance(drawn, tuple | list):
        drawn = st.tuples(*drawn)
    given_options = {
        k: v if isinstance(v, st.SearchStrategy) else st.just(v) for k, v in (options or {}).items()
    }
    cases = st.builds(
        lambda arrays, options: _case(op, arrays, options),
        drawn,
        st.fixed_dictionaries(given_options),
    )
    name = getattr(op, "__name__", type(op).__name__)
    check_cases(name, cases, order=order, devices=devices, max_examples=max_examples)


def _case(op: Op, drawn: Any, options: dict[str, Any]) -> Case:
    """A call whose differentiable inputs are the floating-point ones among `drawn`."""
    everything = drawn if isinstance(drawn, tuple | list) else (drawn,)
    moved = [i for i, a in enumerate(everything) if a.dtype.kind == "f"]
    if len(moved) == len(everything):
        return Case(tuple(everything), op, options)

    def call(*tensors: Tensor, **given: Any) -> Any:
        mixed = [Tensor(a, device=tensors[0].device) for a in everything]
        for i, t in zip(moved, tensors, strict=True):
            mixed[i] = t
        return op(*mixed, **given)

    return Case(tuple(everything[i] for i in moved), call, options)


def check_cases(
    name: str,
    cases: Strategy,
    *,
    order: int = 2,
    devices: Sequence[str] = ("cpu", "fake"),
    max_examples: int | None = None,
) -> None:
    """`check_op` for whatever can be written as a strategy of `Case`: calls of any kind."""
    if order not in (1, 2):
        raise DataError(f"{name}: order is 1 or 2, got {order!r}")
    devices = [devices] if isinstance(devices, str) else devices
    phases = [phase for phase in settings().phases if phase is not Phase.explain]
    chosen = in_use(max_examples, phases=phases)
    fake_device.register()
    wanted = PROPERTIES if order == 2 else FIRST
    for device in devices:
        try:
            try:
                _search(name, cases, Place(device), wanted, chosen, narrowing=True)
            except Flaky:  # perhaps it takes what an earlier property did, to an array say
                _search(name, cases, Place(device), wanted, chosen, narrowing=False)
                raise
        except GradcheckError as error:
            # Hypothesis has added what it tried; the message says it more readably.
            raise GradcheckError(str(error)) from error.__cause__
        except Flaky as error:
            raise GradcheckError(
                f"{name}, on {device}: failed, and with the same numbers did not fail again. An "
                f"op is a function of its inputs: no random numbers, no state"
            ) from error


def _search(
    name: str,
    cases: Strategy,
    place: Place,
    wanted: dict[str, Property],
    chosen: settings,
    *,
    narrowing: bool,
) -> None:
    """Let Hypothesis look for a case that fails, and raise what the smallest one raises.

    Narrowing: once a property has failed, only that one is asked while the case is made smaller.
    """
    asked = dict(wanted)

    def holds(case: Case, seed: int, layout: str) -> None:
        try:
            check_point(name, case, place, seed, layout, asked)
        except _Broken as error:
            if narrowing:
                for other in asked.keys() - {error.what}:
                    del asked[other]
            raise

    search = given(case=cases, seed=st.integers(0, 2**32 - 1), layout=layouts())(holds)
    if chosen.derandomize:  # the same cases every time, but not the same for every op
        search = hypothesis.seed(zlib.crc32(name.encode()))(search)
    chosen(search)()


class _Broken(GradcheckError):
    """With the name of the property that does not hold."""

    what = "the forward"


def check_point(
    name: str,
    case: Case,
    place: Place,
    seed: int,
    layout: str,
    wanted: Mapping[str, Property] = PROPERTIES,
) -> None:
    """Every property at one point; raise one error that says which does not hold, and where."""
    what = _Broken.what
    try:
        point = Point(place, case.op, case.arrays, seed, layout)
        for name_of, holds in wanted.items():
            what = name_of
            holds(point)
    except HypothesisException:
        raise
    except Exception as error:  # noqa: BLE001 - people's ops raise anything; it is told, and kept
        told, cause = str(error), error.__cause__
        if not isinstance(error, GradcheckError):
            told, cause = f"{type(error).__name__}: {told}{_advice(error, place)}", error
        broken = _Broken(_message(name, what, place, case, told))
        broken.what = what
        raise broken from cause


def _message(name: str, what: str, place: Place, case: Case, told: str) -> str:
    lines = [f"{name}, on {place.device}: {what}: {told}"]
    lines += [f"    input {k}: {a!r}" for k, a in enumerate(case.arrays)]
    lines += [f"    {key} = {value!r}" for key, value in case.options.items()]
    return "\n".join(lines)


def _advice(error: Exception, place: Place) -> str:
    """What to do about the commonest mistake: NumPy's functions where arrays may be any."""
    if isinstance(error, TinygradError):
        return ""  # it says itself what to do
    if place.device == "fake" and isinstance(error, TypeError | AttributeError):
        return (
            "\n    What runs on NumPy must run on a GPU's arrays, too. In a forward write "
            "namespace(x).tanh(x) instead of np.tanh(x) (from tinygrad_rnn.backends import "
            "namespace); in a rule use operators and tinygrad_rnn's own ops"
        )
    if isinstance(error, TypeError) and "Tensor" in str(error):
        return (
            "\n    For second derivatives rules are given Tensors: in a rule use operators and "
            "tinygrad_rnn's own ops, no function of NumPy's. order=1 leaves second derivatives out"
        )
    return ""
