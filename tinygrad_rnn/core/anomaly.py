"""Anomaly mode: where the first value that is not finite came from.

A loss that is NaN says only that something went wrong some steps ago, in some layer. Within

    with tg.detect_anomaly():
        loss = ...
        loss.backward()

every recorded operation is looked at as it runs, and every gradient as it is passed on. The first
one that is not finite stops the program with a `NonFiniteError` that tells the op, the layer, the
time step, the line of the program, and what the numbers were like just before.

A recurrent layer is one fused op over a whole window, so the op alone says little. Its
*specification* says more: it is replayed on the same inputs, one plain op after the other. From the
bad result we walk back, from op to op, to the first whose operands are all finite, and that op has
a time step and a gate. (Not simply to the first infinity: one that a sigmoid turns into a 1 has
done no harm.)

A second thing is checked on the way. Each array that a rule saves gets a fingerprint, a hash of its
bytes, and it is taken again when the rule is about to run. That finds every change between forward
and backward, also those that no stamp shows (`core/clock.py`): on a GPU, or through another library
that shares the memory.

All of it is slow, and outside of the block nothing of it is there.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from tinygrad_rnn import backends
from tinygrad_rnn.backends.base import Array
from tinygrad_rnn.core.engine import grad
from tinygrad_rnn.core.fused import FusedNode
from tinygrad_rnn.core.grad_mode import GradMode, recording
from tinygrad_rnn.core.refusals import changed
from tinygrad_rnn.core.tensor import Leaf, Tensor, wrap
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


class detect_anomaly(GradMode):  # noqa: N801 - PyTorch's name
    """Within it (or in a function it decorates) the first NaN or infinity raises; this thread only.

    Args:
        nan_only: let infinities pass, for programs that mask with them on purpose.

    Raises:
        NonFiniteError: in the op or the backward pass that made the value; its attribute
            ``anomaly`` holds the facts one by one (`Anomaly`).
        SavedArrayChangedError: an array that a rule saved has other bytes now.

    Only operations that are recorded are looked at, and what enters them. Run forward and backward
    inside of the same block.
    """

    def __init__(self, *, nan_only: bool = False) -> None:
        self.nan_only = nan_only

    def switch(self) -> None:
        """Let a new watcher look. NumPy's warnings are silenced: it says the same in more words."""
        recording.errors.append(np.seterr(all="ignore"))
        recording.watch = Watch(self.nan_only)
        recording.enabled = recording.enabled and recording.watch

    def __exit__(self, *exc: object) -> None:
        np.seterr(**recording.errors.pop())
        super().__exit__(*exc)


class Watch:
    """Looks at every recorded op and every gradient of one thread."""

    def __init__(self, nan_only: bool) -> None:
        self.nan_only = nan_only
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
                what = f"{_input(node, i)} came in with {self.bad(values[i])}"
                raise self.error(node, "forward", what)
        if self.is_bad(out):
            before = _operands(node, values)
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
            raise self._backward_error(what, _operands(node, values), out)

    # ---- backward ----

    def arrived(self, node: Any, g: Any) -> None:
        """The gradient of a node is complete, and its rules are about to run."""
        prints = getattr(node, "trace", UNSEEN).prints if type(node) is not Leaf else {}
        if prints:
            for what, array in node.saved(recorded=isinstance(g, Tensor)):
                if fingerprint(array) != prints.get(id(array)):
                    raise SavedArrayChangedError(changed(node.name, what, array, "changed"))
        if self.is_bad(_plain(g)):
            what = (
                f"the gradient that reached it (the sum over its users, the seed of the pass, or "
                f"what a hook returned) has {self.bad(_plain(g))}"
            )
            raise self.error(node, "backward", what)

    def pull(
        self, pull: Callable[..., list[tuple[Any, Any]]], node: Any, g: Any, wanted: Any
    ) -> list[tuple[Any, Any]]:
        """Run the rules of a node, and look at what they give."""
        if isinstance(g, Tensor):
            self.pulling.append(node)
        try:
            pairs = pull(node, g, wanted)
            for parent, passed in pairs:
                if self.is_bad(_plain(passed)):
                    self._passed_on(node, parent, _plain(g), _plain(passed))
        finally:
            if isinstance(g, Tensor):
                self.pulling.pop()
        return pairs

    def _passed_on(self, node: Any, parent: Any, g: Array, passed: Array) -> None:
        what = f"the gradient of {_input(node, node.parents.index(parent))} has {self.bad(passed)}"
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
        replay = Replay(self.nan_only, node)
        before = recording.enabled, recording.watch
        recording.enabled = recording.watch = replay
        try:
            return replay.run(node, g)
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


class Replay(Watch):
    """Watches the specification of a fused op. Bad results are noted, and the cause found later."""

    def __init__(self, nan_only: bool, node: FusedNode) -> None:
        super().__init__(nan_only)
        self.gates = node.op.gates
        self.width = node.shape[-1] if node.shape else 0  # of one gate
        self.results: dict[Any, tuple[list[Any], Array]] = {}  # of nodes with a bad result

    def run(self, node: FusedNode, g: Array | None) -> Anomaly | None:
        """Run the specification forward and, from `g`, backward; raises or returns the cause."""
        copies = [
            wrap(v, Leaf(v)) if type(v) in backends.ARRAY_TYPES and v.dtype.kind == "f" else v
            for v in node.values
        ]
        out = node.op.spec(*copies, **node.options)
        if g is not None:
            asked = [c for c in copies if isinstance(c, Tensor)]
            grad(out, asked, wrap(g, None), allow_unused=True)  # raises where it fails
        elif out._node in self.results:
            origin, gates = self._origin(out._node)
            values, result = self.results[origin]
            before = _operands(origin, values)
            found: Anomaly = self.error(origin, "forward", self.bad(result), before, result).anomaly
            return replace(found, gates=gates or found.gates)
        return None

    def _origin(self, node: Any) -> tuple[Any, str]:
        """From a bad result back to the op whose operands are all finite, the oldest way.

        The gate is that of the last slice on the way: the product before it computes all gates, and
        the first infinity in it may be a harmless one of another.
        """
        gates: frozenset[str] = frozenset()
        while causes := [p for p in node.parents if p in self.results]:
            gates = node.trace.gates or gates
            node = min(causes, key=lambda cause: cause.number)
        return node, "".join(sorted(node.trace.gates or gates))

    def made(self, node: Any, values: list[Any], out: Array) -> None:
        """An op of the specification has run."""
        self._note(node)
        node.trace.gates = self._gates_of(node)
        if self.is_bad(out):
            self.results[node] = (values, out)

    def _gates_of(self, node: Any) -> frozenset[str]:
        """The gates a result belongs to.

        A slice as wide as one gate, taken from an array as wide as all of them, is that gate; what
        is computed from gates at the same step belongs to all of these.
        """
        wide = len(self.gates) * self.width
        for parent, _, _, options in getattr(node, "edges", ()) if wide else ():
            index = options.get("index")
            if isinstance(index, tuple) and parent.shape[-1:] == (wide,) != node.shape[-1:]:
                start = getattr(index[-1], "start", None) or 0
                return frozenset(self.gates[start // self.width])
        traces = [getattr(parent, "trace", UNSEEN) for parent in node.parents if parent]
        return frozenset().union(*(t.gates for t in traces if t.step == self.step))

    def gates_at(self, value: Array | None) -> frozenset[str]:
        """The gate of the first bad value of an array in which all gates stand side by side."""
        wide = len(self.gates) * self.width
        if value is None or not wide or value.shape[-1:] != (wide,):
            return frozenset()
        column = int(bad_places(value, self.nan_only)[1][0][-1])
        return frozenset(self.gates[column // self.width])


def _operands(node: Any, values: list[Any]) -> tuple[str, ...]:
    """The statistics of each operand."""
    return tuple(
        f"{_input(node, i)}: {statistics(value)}"
        for i, value in enumerate(values[: len(node.parents)])
        if value is not None
    )


def _input(node: Any, i: int) -> str:
    """What the i-th operand is called."""
    names = node.op.inputs
    return f"the input {names[i]!r}" if len(names) == len(node.parents) else f"the input {i}"


def _plain(g: Any) -> Array:
    return g._data if isinstance(g, Tensor) else g
