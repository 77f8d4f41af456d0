"""Anomaly mode: where the first value that is not finite came from.

A loss that is NaN says only that something went wrong some steps ago, in some layer. Within

    with tg.detect_anomaly():
        loss = ...
        loss.backward()

every recorded operation is looked at as it runs, and every gradient as it is passed on. The first
one that is not finite stops the program with a `NonFiniteError` that tells the op, the layer, the
time step, the line of the program, and what the numbers were like just before.

A recurrent layer is one fused op over a whole window, so the op alone says little. Its
*specification* says more: it is replayed on the same inputs, one plain op after the other, until it
fails in the same way, and that op has a time step and a gate.

A second thing is checked on the way. Each array that a rule saves gets a fingerprint, a hash of its
bytes, and it is taken again when the rule is about to run. That finds every change between forward
and backward, also those that no stamp shows (`core/clock.py`): on a GPU, or through another library
that shares the memory.

All of it is slow, and outside of the block nothing of it is there.
"""

from __future__ import annotations

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
        recording.watch = Watch(self.nan_only)
        recording.watch.errors = np.seterr(all="ignore")
        recording.enabled = recording.enabled and recording.watch

    def __exit__(self, *exc: object) -> None:
        np.seterr(**recording.watch.errors)
        super().__exit__(*exc)


class Watch:
    """Looks at every recorded op and every gradient of one thread."""

    def __init__(self, nan_only: bool, gates: str = "", width: int = 0) -> None:
        self.nan_only = nan_only
        self.step: int | None = None  # set by `time_steps`
        self.modules: list[Any] = []  # those that are running, the outermost first
        self.gates, self.width = gates, width  # of the layer whose specification is replayed
        self.last = ""
        self.errors: Any = {}

    # ---- forward ----

    def made(self, node: Any, values: list[Any], out: Array) -> None:
        """An op has run: note where, and look at what came in from outside and what came out."""
        prints = [fingerprint(array) for _, array in node.saved()]
        gates = self._gates_of(node)
        node.trace = Trace(user_line(), self.step, tuple(self.modules), gates, prints)
        for i, parent in enumerate(node.parents):
            # Results of recorded ops have been looked at; leaves and constants not yet.
            if (parent is None or type(parent) is Leaf) and self._is_bad(values[i]):
                what = f"{_input(node, i)} came in with {self._bad(values[i])}"
                raise self._error(node, "forward", what, ())
        if self._is_bad(out):
            what, before = self._bad(out), self._operands(node, values)
            found = self._replay(node, None) if isinstance(node, FusedNode) else None
            raise self._error(node, "forward", what, before, out, found)
        self.last = f"the result before, of {node.name}: {statistics(out)}"

    # ---- backward ----

    def arrived(self, node: Any, g: Any) -> None:
        """The gradient of a node is complete, and its rules are about to run."""
        trace = getattr(node, "trace", None)
        if trace is not None:
            for (what, array), was in zip(node.saved(), trace.prints, strict=True):
                if fingerprint(array) != was:
                    raise SavedArrayChangedError(changed(node.name, what, array, "changed"))
        if self._is_bad(_plain(g)):
            what = (
                f"the gradient that reached it (the sum over its users, the seed of the pass, or "
                f"what a hook returned) has {self._bad(_plain(g))}"
            )
            raise self._error(node, "backward", what, ())

    def passed(self, node: Any, parent: Any, g: Any, passed: Any) -> None:
        """A rule has run."""
        if self._is_bad(_plain(passed)):
            i = node.parents.index(parent)
            what = f"the gradient of {_input(node, i)} has {self._bad(_plain(passed))}"
            before = [f"the gradient that came in: {statistics(_plain(g))}"]
            before += [f"{name}: {statistics(array)}" for name, array in node.saved()]
            found = self._replay(node, _plain(g)) if isinstance(node, FusedNode) else None
            raise self._error(node, "backward", what, tuple(before), _plain(passed), found)

    # ---- the specification of a fused op, op by op ----

    def _replay(self, node: FusedNode, g: Array | None) -> Anomaly | None:
        """Where the specification fails: forward, or backward from `g`; None if it does not."""
        watch = Watch(self.nan_only, node.op.gates, node.shape[-1] if node.shape else 0)
        copies = [
            wrap(v, Leaf(v)) if type(v) in backends.ARRAY_TYPES and v.dtype.kind == "f" else v
            for v in node.values
        ]
        before = recording.enabled, recording.watch
        recording.enabled = recording.watch = watch
        try:
            out = node.op.spec(*copies, **node.options)
            if g is not None:
                asked = [c for c in copies if isinstance(c, Tensor)]
                grad(out, asked, wrap(g, None), allow_unused=True)
        except NonFiniteError as error:
            return getattr(error, "anomaly", None)
        finally:
            recording.enabled, recording.watch = before
        return None

    def _gates_of(self, node: Any) -> frozenset[str]:
        """The gates a result of a specification belongs to.

        A slice as wide as one gate, taken from an array as wide as all of them, is that gate; what
        is computed from gates at the same step belongs to all of these.
        """
        if not self.gates:
            return frozenset()
        wide = len(self.gates) * self.width
        for parent, _, _, options in getattr(node, "edges", ()):
            index = options.get("index")
            if isinstance(index, tuple) and parent.shape[-1:] == (wide,) != node.shape[-1:]:
                start = getattr(index[-1], "start", None) or 0
                return frozenset(self.gates[start // self.width])
        traces = [getattr(parent, "trace", None) for parent in node.parents]
        return frozenset().union(*(t.gates for t in traces if t and t.step == self.step))

    # ---- putting it into words ----

    def _is_bad(self, value: Any) -> bool:
        if type(value) not in backends.ARRAY_TYPES or value.dtype.kind != "f":
            return False
        xp = backends.namespace(value)
        return bool(xp.any(xp.isnan(value)) if self.nan_only else not xp.all(xp.isfinite(value)))

    def _bad(self, value: Array) -> str:
        """The first value that is not finite, its place, and how many there are."""
        host, places = bad_places(value, self.nan_only)
        first = tuple(int(i) for i in places[0])
        where = f" at {list(first)}" if first else ""
        return (
            f"{host[first]}{where} ({len(places)} of {host.size} are not finite, "
            f"shape {host.shape}, {host.dtype})"
        )

    def _error(
        self,
        node: Any,
        phase: str,
        what: str,
        before: tuple[str, ...],
        value: Array | None = None,
        found: Anomaly | None = None,
    ) -> NonFiniteError:
        """The error for `node`, with what the replayed specification `found` where there is one."""
        trace = getattr(node, "trace", None) or Trace("made before detect_anomaly began", None, ())
        if phase == "forward" and self.last:
            before = (*before, self.last)
        if found is None and isinstance(node, FusedNode) and value is not None:
            before = ("its specification, replayed, stays finite: compare them", *before)
        gates = "".join(sorted(trace.gates or self._gate_at(value)))
        used = layer(trace.modules, node)
        anomaly = Anomaly(node.name, phase, what, "", used, trace.step, gates, trace.line, before)
        if found is not None:
            anomaly = replace(
                anomaly,
                inside=f"{found.op}, {found.inside}" if found.inside else found.op,
                step=found.step,
                gates=found.gates,
                before=(f"there, {found.what}", *found.before),
            )
        error = NonFiniteError(str(anomaly))
        error.anomaly = anomaly
        return error

    def _gate_at(self, value: Array | None) -> frozenset[str]:
        """The gate of the first bad value of an array in which all gates stand side by side."""
        wide = len(self.gates) * self.width
        if value is None or not wide or value.shape[-1:] != (wide,):
            return frozenset()
        column = int(bad_places(value, self.nan_only)[1][0][-1])
        return frozenset(self.gates[column // self.width])

    @staticmethod
    def _operands(node: Any, values: list[Any]) -> tuple[str, ...]:
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
