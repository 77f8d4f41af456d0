"""The watcher of anomaly mode: shown every recorded op and every gradient, it looks for trouble.

`made` is called by an op that has run, `arrived` and `pull` by the sweep; what they raise is the
report. The idea is told in `core/anomaly.py`.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tinygrad_rnn import backends
from tinygrad_rnn.backends.base import Array
from tinygrad_rnn.core.fused import FusedNode
from tinygrad_rnn.core.grad_mode import recording
from tinygrad_rnn.core.refusals import changed
from tinygrad_rnn.core.tensor import Leaf, Tensor
from tinygrad_rnn.core.trace import (
    Anomaly,
    Trace,
    bad_places,
    fingerprint,
    layer,
    statistics,
    user_line,
)
from tinygrad_rnn.errors import NonFiniteError, SavedArrayChangedError

UNSEEN = Trace("made before detect_anomaly began", None, ())


class Watch:
    """Looks at every recorded op and every gradient of one thread.

    `replay` makes a watcher for the specification of a fused op that has failed.
    """

    def __init__(self, nan_only: bool, replay: Any = None) -> None:
        self.nan_only, self.replay = nan_only, replay
        self.step: int | None = None  # set by `time_steps`
        self.modules: list[Any] = []  # those that are running, the outermost first
        self.leaves: dict[Leaf, Trace] = {}  # where each was first used
        self.pulling: list[Any] = []  # the nodes whose rules are running and recording
        self.last = ""  # the last finite result, in words: what the world was like before

    # ---- forward ----

    def made(self, node: Any, values: list[Any], out: Array) -> None:
        """An op has run: note where, and look at what came in from outside and what came out."""
        self._note(node)
        if self.pulling:
            self._made_by_a_rule(node, values, out)
            return
        for i, parent in enumerate(node.parents):
            # Results of recorded ops have been looked at; leaves and constants not yet.
            if (parent is None or type(parent) is Leaf) and self.is_bad(values[i]):
                what = f"{input_name(node, i)} came in with {self.bad(values[i])}"
                raise self.error(node, "forward", what)
        if self.is_bad(out):
            before = operands(node, values)
            before += (self.last,) if self.last else ()
            found = self._explained(node, None) if isinstance(node, FusedNode) else None
            raise self.error(node, "forward", self.bad(out), before, out, found)
        self.last = f"the result before, of {node.name}: {statistics(out)}"

    def _note(self, node: Any) -> None:
        modules = tuple(weakref.ref(module) for module in self.modules)
        prints = {id(array): fingerprint(array) for _, array in node.saved()}
        node.trace = Trace(user_line(), self.step, modules, prints=prints)
        for parent in node.parents:
            if type(parent) is Leaf:
                self.leaves.setdefault(parent, node.trace)

    def _made_by_a_rule(self, node: Any, values: list[Any], out: Array) -> None:
        """Under create_graph rules record their ops. What goes wrong there went wrong backward."""
        rule_of = self.pulling[-1]
        if self.is_bad(out) and not isinstance(rule_of, FusedNode):  # that one runs forward first
            what = f"a gradient on its way through it has {self.bad(out)}, from {node.name}"
            raise self._backward_error(what, operands(node, values), out)

    # ---- backward ----

    def arrived(self, node: Any, g: Any) -> None:
        """The gradient of a node is complete."""
        if self.is_bad(plain(g)):
            what = (
                f"the gradient that reached it (the sum over its users, the seed of the pass, or "
                f"what a hook returned) has {self.bad(plain(g))}"
            )
            raise self.error(node, "backward", what)

    def pull(
        self, pull: Callable[..., list[tuple[Any, Any]]], node: Any, g: Any, wanted: Any
    ) -> list[tuple[Any, Any]]:
        """Run the rules of a node, and look at what they are given and what they give."""
        prints = getattr(node, "trace", UNSEEN).prints
        for what, array in node.saved(wanted, recorded=isinstance(g, Tensor)) if prints else ():
            if fingerprint(array) != prints.get(id(array)):
                raise SavedArrayChangedError(changed(node.name, what, array, "changed"))
        if isinstance(g, Tensor):
            self.pulling.append(node)
        try:
            pairs = pull(node, g, wanted)
            for parent, passed in pairs:
                if self.is_bad(plain(passed)):
                    self._passed_on(node, parent, plain(g), plain(passed))
        finally:
            if isinstance(g, Tensor):
                self.pulling.pop()
        return pairs

    def _passed_on(self, node: Any, parent: Any, g: Array, passed: Array) -> None:
        what = (
            f"the gradient of {input_name(node, node.parents.index(parent))} has {self.bad(passed)}"
        )
        before = [f"the gradient that came in: {statistics(g)}"]
        before += [f"{name}: {statistics(array)}" for name, array in node.saved()]
        if len(self.pulling) > 1:  # in the specification of a fused op
            raise self._backward_error(what, tuple(before), passed)
        found = self._explained(node, g) if isinstance(node, FusedNode) else None
        raise self.error(node, "backward", what, tuple(before), passed, found)

    def _backward_error(self, what: str, before: tuple[str, ...], value: Array) -> NonFiniteError:
        """For the node whose rules are running; the innermost one, if a fused op contains it."""
        outer, inner = self.pulling[0], self.pulling[-1]
        if outer is inner:
            return self.error(outer, "backward", what, before, value)
        found: Anomaly = self.error(inner, "backward", what, before, value).anomaly
        return self.error(outer, "backward", what, (), value, found)

    # ---- the specification of a fused op, op by op ----

    def _explained(self, node: FusedNode, g: Array | None) -> Anomaly | None:
        """Where the specification fails: forward, or backward from `g`; None if it does not."""
        replay = self.replay(self.nan_only, node)
        before = recording.enabled, recording.watch
        recording.enabled = recording.watch = replay
        try:
            cause: Anomaly | None = replay.run(node, g)
            return cause
        except NonFiniteError as error:
            found: Anomaly | None = error.anomaly
            return found
        except Exception:  # noqa: BLE001 - it is only to explain: the report comes without it
            return None
        finally:
            recording.enabled, recording.watch = before

    # ---- putting it into words ----

    def is_bad(self, value: Any) -> bool:
        """Whether there is a NaN in an array, or an infinity unless these are let pass."""
        if type(value) not in backends.ARRAY_TYPES or value.dtype.kind != "f":
            return False
        xp = backends.namespace(value)
        return bool(xp.any(xp.isnan(value)) if self.nan_only else not xp.all(xp.isfinite(value)))

    def bad(self, value: Array) -> str:
        """The first value that is not finite, its place, and how many there are."""
        host, places = bad_places(value, self.nan_only)
        first = tuple(int(i) for i in places[0])
        where = f" at {list(first)}" if first else ""
        return (
            f"{host[first]}{where} ({len(places)} of {host.size} are "
            f"{'NaN' if self.nan_only else 'not finite'}, "
            f"shape {host.shape}, {host.dtype})"
        )

    def error(
        self,
        node: Any,
        phase: str,
        what: str,
        before: tuple[str, ...] = (),
        value: Array | None = None,
        found: Anomaly | None = None,
    ) -> NonFiniteError:
        """The error for `node`, with what its specification `found` where it is a fused op."""
        is_leaf = type(node) is Leaf
        trace = self.leaves.get(node, UNSEEN) if is_leaf else getattr(node, "trace", UNSEEN)
        used = layer(trace.modules, (node,) if is_leaf else node.parents or ())
        gates = "".join(sorted(trace.gates or self.gates_at(value)))
        anomaly = Anomaly(node.name, phase, what, "", used, trace.step, gates, trace.line, before)
        if found is not None:
            step = found.step if trace.step is None else trace.step
            at = "" if step == found.step else f" (at step {found.step} of its window)"
            anomaly = replace(
                anomaly,
                inside=f"{found.op}, {found.inside}" if found.inside else found.op,
                step=step,
                gates=found.gates,
                before=(f"there{at}, {found.what}", *found.before),
            )
        elif isinstance(node, FusedNode) and before:
            facts = ("its specification, replayed, stays finite: compare them", *before)
            anomaly = replace(anomaly, before=facts)
        error = NonFiniteError(str(anomaly))
        error.anomaly = anomaly
        return error

    def gates_at(self, value: Array | None) -> frozenset[str]:  # noqa: ARG002 - Replay's signature
        """The gates of the first bad value: none, outside of a specification."""
        return frozenset()


def operands(node: Any, values: list[Any]) -> tuple[str, ...]:
    """The statistics of each operand."""
    return tuple(
        f"{input_name(node, i)}: {statistics(value)}"
        for i, value in enumerate(values[: len(node.parents)])
        if value is not None
    )


def input_name(node: Any, i: int) -> str:
    """What the i-th operand is called."""
    names = node.op.inputs
    return f"the input {names[i]!r}" if len(names) == len(node.parents) else f"the input {i}"


def plain(g: Any) -> Array:
    """The array of a gradient, whichever of the two carriers it comes from."""
    return g._data if isinstance(g, Tensor) else g
