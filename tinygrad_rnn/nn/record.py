"""What happens inside a recurrent layer, step by step, written down: ``layer(x, record=True)``.

    out, (h, c), record = lstm(x, record=True)

    record.f                            the forget gate, (T, B, H); a Tensor like any other
    tg.grad(loss, [record.f, record.h], retain_graph=True)      its gradient, and that of all h_t

The gradient of a recorded value is the whole one: how the loss changes with h_t *along all ways*,
through the output at t and through every later step; with c_t, through h_t and through c_{t+1}.

A layer that records does not run its fused op but the readable `step` of `ops/rnn.py`,
`ops/lstm.py` or `ops/gru.py`, one after the other: then every gate at every step is a tensor of its
own in the graph, which is what it takes to ask for its gradient. The results are those of the
fused op up to rounding; it takes longer, and everything is kept. Each step is also given a copy of
the weights, at a place in the graph of its own, so that a weight's gradient can be told apart by
steps (`tinygrad_rnn.gradient_flow` does).
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tinygrad_rnn.backends import namespace
from tinygrad_rnn.core.fused import identity
from tinygrad_rnn.core.grad_mode import time_steps
from tinygrad_rnn.core.tensor import Tensor, wrap
from tinygrad_rnn.errors import DataError, NotDifferentiableError
from tinygrad_rnn.ops.sequence import arriving, held
from tinygrad_rnn.ops.shape import stack

Arrange = Callable[[Any], Any]  # from the order of the run, (T, B, H), to the layout of the layer


class Recorded(Tensor):
    """A value of all steps: a Tensor (T, B, H) that also knows the step that each part comes from.

    To compute with it is to compute with the steps. `tg.grad` with respect to it asks for the
    gradient of every step and puts the answers together. A part of it, ``record.h[2]``, is a new
    result like any other, which the loss does not depend on; ask for the whole, and take the part.
    """

    __slots__ = ("_arrange", "steps")
    steps: list[Tensor]  # (B, H) each, in the order they were computed
    _arrange: Arrange

    def gathered(self, gradients: Sequence[Tensor | None]) -> Tensor | None:
        """The gradients of the steps as one, in this tensor's shape; a step without one has 0."""
        if not self.steps:
            return wrap(namespace(self._data).zeros_like(self._data), None)
        if all(g is None for g in gradients):
            return None
        filled = [
            wrap(namespace(s._data).zeros_like(s._data), None) if g is None else g
            for s, g in zip(self.steps, gradients, strict=True)
        ]
        whole: Tensor = self._arrange(stack(filled))
        return whole

    def register_hook(
        self,
        hook: Callable[[Any], Any],  # noqa: ARG002 - a Tensor's method has it
    ) -> Callable[[], None]:
        """Refused: a loss depends on the steps and not on this, so the hook would never be called.

        Put it on the steps: ``for step in record.h.steps: step.register_hook(hook)``.
        """
        raise NotDifferentiableError(
            "a hook on a recorded value would never be called, because the loss depends on its "
            "steps; put one on each: for step in record.h.steps: step.register_hook(hook)"
        )


def recorded(steps: list[Tensor], empty: Tensor, arrange: Arrange) -> Recorded:
    """The values of the steps as one `Recorded`; `empty` (0, B, H) where there are no steps."""
    whole = arrange(stack(steps) if steps else empty)
    result = object.__new__(Recorded)
    result._data, result._node = whole._data, whole._node
    result.steps, result._arrange = steps, arrange
    return result


@dataclass(frozen=True, eq=False)
class Walk:
    """One layer and direction over one window, as it was computed.

    Attributes:
        step: one step in plain ops, ``step(x_t, *states, *weights)``.
        inputs: what the layer read, (T, B, I).
        ended: (T, B) where rows have ended; None: nowhere.
        parameters: the weights themselves, by name; None where there is no bias.
        values: for each gate and state by name, its tensors (B, H), one per step.
        weights: for each weight by name, its copies, one per step.
        states: for each kind of state (h, c), the T + 1 tensors from the first on.
    """

    step: Callable[..., dict[str, Any]]
    inputs: Tensor
    ended: Any
    parameters: Mapping[str, Any]
    values: dict[str, list[Tensor]]
    weights: dict[str, list[Tensor]]
    states: list[list[Tensor]]

    @property
    def length(self) -> int:
        """T, the number of steps."""
        return len(self.states[0]) - 1

    def trajectory(self, kind: int) -> Any:
        """(T+1, B, H), as the fused op returns it."""
        return stack(self.states[kind])


def walk(
    step: Callable[..., dict[str, Any]],
    x: Any,
    states: Sequence[Any],
    weights: Mapping[str, Any],
    *,
    ended: Any = None,
    limit: float | None = None,
    **options: Any,
) -> Walk:
    """Run `step` over the inputs (T, B, I), and write everything down.

    It computes what the specification in the step's file computes.
    """
    step = functools.partial(step, **options) if options else step
    copied: dict[str, list[Tensor]] = {name: [] for name, w in weights.items() if w is not None}
    found = Walk(step, x, ended, weights, {}, copied, [[s] for s in states])
    for t in time_steps(x.shape[0]):
        before = [arriving(kind[-1], limit) for kind in found.states]
        copies = [None if w is None else identity(w) for w in weights.values()]
        now = step(x[t], *before, *copies)
        for name, copy in zip(weights, copies, strict=True):
            if copy is not None:
                copied[name].append(copy)
        for name, value in now.items():
            found.values.setdefault(name, []).append(value)
        for kind, name in zip(found.states, "hc", strict=False):
            kind.append(held(now[name], kind[-1], ended, t))
    return found


class LayerRecord:
    """One layer in one direction: its states and gates as attributes, (T, B, H) each.

    ``h`` and, of an LSTM, ``c``, ``i``, ``f``, ``g``, ``o``; of a GRU ``r``, ``z``, ``n``. They are
    in the layout of the layer's output, in the order of the sequence (also in the direction that
    reads it backwards), and 0 in the padding of rows that have ended.
    """

    def __init__(self, walk: Walk, names: Sequence[str], like: Tensor, arrange: Arrange) -> None:
        self.walk = walk
        data = like._data
        empty = wrap(namespace(data).zeros((0, *data.shape), dtype=data.dtype), None)
        self._values = {n: recorded(walk.values.get(n, []), empty, arrange) for n in names}

    def __getattr__(self, name: str) -> Recorded:
        values = self.__dict__.get("_values", {})
        if name in values:
            found: Recorded = values[name]
            return found
        raise AttributeError(f"this layer recorded {', '.join(values)}; there is no {name!r}")

    def __iter__(self) -> Iterator[str]:
        """The names of what was recorded."""
        return iter(self._values)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._values]

    def __getitem__(self, name: str) -> Recorded:
        return self._values[name]

    def __repr__(self) -> str:
        return f"LayerRecord({', '.join(self._values)})"


class Record(Mapping[str, LayerRecord]):
    """What a recurrent module recorded: ``record["l0"]``, ``record["l0_reverse"]``, ...

    The names are PyTorch's endings of the weights' names. Of the only layer, ``record.f`` is
    ``record["l0"].f``.
    """

    def __init__(self, layers: dict[str, LayerRecord]) -> None:
        self._layers = layers

    def __getitem__(self, name: str) -> LayerRecord:
        try:
            return self._layers[name]
        except KeyError:
            listed = ", ".join(map(repr, self._layers))
            raise KeyError(f"no layer {name!r} has recorded; there are {listed}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def __getattr__(self, name: str) -> Any:
        layers = self.__dict__.get("_layers", {})
        if name.startswith("_") or not layers:
            raise AttributeError(name)
        if len(layers) > 1:
            listed = ", ".join(f"record[{n!r}].{name}" for n in layers)
            raise AttributeError(f"several layers have recorded; choose one: {listed}")
        return getattr(next(iter(layers.values())), name)

    def __repr__(self) -> str:
        return f"Record({self._layers})"


# ---- listening to the layers of a whole model ----


class _Ear(threading.local):
    """Who listens in this thread, if anybody does."""

    tape: Tape | None = None


ear = _Ear()


class Tape:
    """The walks of the recurrent layers of a model, in the order they were made."""

    def __init__(self, model: Any) -> None:
        self.names = {id(module): name for name, module in model.named_modules()}
        self.walks: list[tuple[str, str, Walk]] = []  # module, ending of its weights' names, walk

    def hears(self, module: Any) -> bool:
        """Whether `module` is part of the model."""
        return id(module) in self.names

    def note(self, module: Any, suffix: str, walk: Walk) -> None:
        """Called by a layer that has run."""
        self.walks.append((self.names[id(module)], suffix, walk))


@contextlib.contextmanager
def listening(model: Any) -> Iterator[Tape]:
    """While it lasts, every recurrent layer and cell of `model` records, and tells the tape."""
    if ear.tape is not None:
        raise DataError("a model is being listened to already; one at a time in a thread")
    ear.tape = Tape(model)
    try:
        yield ear.tape
    finally:
        ear.tape = None
