"""The specification of a fused op, run once more to find the op, the step and the gate that failed.

Forward nothing is raised: bad results are noted, and from the last we walk back to the first. An
infinity that saturates on the way is not on that path. Backward the first bad gradient is it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tinygrad_rnn import backends
from tinygrad_rnn.backends.base import Array
from tinygrad_rnn.core.engine import grad
from tinygrad_rnn.core.fused import FusedNode
from tinygrad_rnn.core.tensor import Leaf, Tensor, wrap
from tinygrad_rnn.core.trace import Anomaly, bad_places
from tinygrad_rnn.core.watch import UNSEEN, Watch, operands


class Replay(Watch):
    """Watches the specification of a fused op. Bad results are noted, and the cause found later."""

    def __init__(self, nan_only: bool, node: FusedNode) -> None:
        super().__init__(nan_only, Replay)
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
            before = operands(origin, values)
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
