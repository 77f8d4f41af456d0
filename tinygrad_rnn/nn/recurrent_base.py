"""What RNN, LSTM and GRU share: parameters, shapes, layers, directions, lengths and records.

    out, state = lstm(x, state)

State in, state out: a layer remembers nothing between calls, so where a gradient ends is for the
caller to see, in a ``detach``. Each layer and direction is one op over the whole window
(`ops/rnn.py`, `ops/lstm.py`, `ops/gru.py`); this file checks shapes and stacks layers. The weights
of a layer are in `nn/cell_weights.py`, the three networks in `nn/recurrent.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import Any

from tinygrad_rnn.backends import namespace
from tinygrad_rnn.core.array import to_array
from tinygrad_rnn.core.fused import FusedNode
from tinygrad_rnn.core.grad_mode import recording
from tinygrad_rnn.core.tensor import Tensor, wrap
from tinygrad_rnn.errors import DataError, DTypeError, ShapeError
from tinygrad_rnn.nn import functional
from tinygrad_rnn.nn.cell_weights import WEIGHTS, add_weights, set_first_values
from tinygrad_rnn.nn.growth import look_behind
from tinygrad_rnn.nn.layers import check_size
from tinygrad_rnn.nn.lengths import Lengths, turn
from tinygrad_rnn.nn.module import Module, Parameter
from tinygrad_rnn.nn.record import LayerRecord, Record, Walk, ear, walk
from tinygrad_rnn.ops.indexing import as_index, rows
from tinygrad_rnn.ops.random import Rng, generator
from tinygrad_rnn.ops.shape import concat, expand_dims, squeeze, stack, swapaxes
from tinygrad_rnn.ops.window import IMPLS

DEFAULTS = {"num_layers": 1, "bias": True, "dropout": 0.0, "clip_state_grad": None}


class Recurrent(Module):
    """A stack of recurrent layers; what kind of cell they have is for the subclass to say."""

    blocks: int  # how many (H, .) blocks stand under each other in a weight: 1, 3 or 4
    kinds: int  # how many kinds of state there are: 1 (h), or 2 (h and c)
    names: tuple[str, ...]  # what a step computes, gates and states
    op: Callable[..., Any]  # the fused op over a window
    step: Callable[..., dict[str, Any]]  # one step, in plain ops
    # How the window is run: "auto", or "ops" (the specification, node by node), "fused", "step" or
    # "persistent" (`backends/window.py`). The numbers are the same, up to rounding.
    impl = "auto"
    weight_ih_l0: Parameter  # every layer has one, and it tells dtype and device of all

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        clip_state_grad: float | None,
        rng: Rng,
        dtype: Any,
        device: str | None,
    ) -> None:
        name = type(self).__name__
        check_size("input_size", input_size, name)
        check_size("hidden_size", hidden_size, name)
        check_size("num_layers", num_layers, name)
        functional.check_probability(dropout)
        clip_state_grad = _checked_limit(name, clip_state_grad)
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.dropout = bias, batch_first, dropout
        self.bidirectional, self.clip_state_grad = bidirectional, clip_state_grad
        # A seed becomes one stream of numbers, for the weights and then for the dropout masks.
        self.rng = None if rng is None else generator(rng)
        rows = self.blocks * hidden_size
        for layer in range(num_layers):
            width = input_size if layer == 0 else hidden_size * self.directions
            for suffix in self._suffixes(layer):
                add_weights(self, suffix, rows, width, hidden_size, bias, dtype, device)
        self.reset_parameters(rng=self.rng)

    @property
    def directions(self) -> int:
        """1, or 2 if bidirectional."""
        return 2 if self.bidirectional else 1

    def _suffixes(self, layer: int) -> list[str]:
        return [f"_l{layer}", f"_l{layer}_reverse"][: self.directions]

    def reset_parameters(self, *, rng: Rng = None) -> None:
        """New first values: input weights uniform in +-1/sqrt(H), recurrent blocks orthogonal."""
        set_first_values(self, self.hidden_size, self.blocks, rng)

    # ---- forward ----

    def _options(self) -> dict[str, Any]:
        """Options of the op and of its step."""
        return {}

    def _weights(self, suffix: str) -> dict[str, Any]:
        return {name + suffix: getattr(self, name + suffix, None) for name in WEIGHTS}

    def _window(
        self, x: Any, ids: Any, states: list[Any], suffix: str, lengths: Lengths | None
    ) -> Any:
        """One layer in one direction: h_0 .. h_T, and of an LSTM c_T, (T + kinds, B, H)."""
        if self.impl not in IMPLS:
            raise DataError(f"{self._name}: impl is {self.impl!r}, needed one of {IMPLS}")
        op, weights = type(self).op, list(self._weights(suffix).values())
        if not isinstance(x, Tensor):
            weights = [None if w is None else w._data for w in weights]
        return (op.spec if self.impl == "ops" else op)(  # type: ignore[attr-defined] # a Fused
            x,
            *states,
            *weights,
            ids=ids,
            ended=None if lengths is None else lengths.ended,
            limit=self.clip_state_grad,
            impl=self.impl,
            **self._options(),
        )

    def _walk(
        self, x: Any, ids: Any, states: list[Any], suffix: str, lengths: Lengths | None
    ) -> Walk:
        """The same, step by step, written down."""
        return walk(
            type(self).step,
            x if ids is None else rows(x, ids),
            states,
            self._weights(suffix),
            ended=None if lengths is None else lengths.ended,
            limit=self.clip_state_grad,
            **self._options(),
        )

    def _run(
        self,
        x: Any,
        ids: Any,
        states: list[Any],
        lengths: Lengths | None,
        walks: dict[str, Walk] | None,
    ) -> tuple[Any, list[Any]]:
        """All layers over (T, B, I): the output (T, B, D*H) and the last state of each kind.

        On Tensors or, where nothing is recorded, on plain arrays (see `_forward`). Where `walks` is
        given, they are walked step by step, and written down there.
        """
        ends: list[Any] = []  # the last states of each layer, (kinds, 1, B, H)
        behind = None
        if recording.enabled:
            behind = look_behind(states, len(x if ids is None else ids), self._name)
        for layer in range(self.num_layers):
            outputs = []
            for d, suffix in enumerate(self._suffixes(layer)):
                place = layer * self.directions + d
                if d == 1:  # backwards in time
                    x, ids = (turn(x, lengths), None) if ids is None else (x, turn(ids, lengths))
                before = [s[place] for s in states]
                if walks is not None:
                    walks[suffix] = found = self._walk(x, ids, before, suffix, lengths)
                    y = found.trajectory(0)[1:]  # (T, B, H)
                    ends.append(expand_dims(stack([kind[-1] for kind in found.states]), 1))
                else:
                    trajectory = self._window(x, ids, before, suffix, lengths)
                    if behind and isinstance(trajectory._node, FusedNode):
                        trajectory._node.behind = behind
                    T = len(trajectory) - self.kinds
                    y = trajectory[1 : T + 1]  # (T, B, H)
                    ends.append(expand_dims(trajectory[T:], 1))
                y = y if lengths is None else lengths.blank(y)
                outputs.append(turn(y, lengths) if d == 1 else y)
            x, ids = outputs[0] if len(outputs) == 1 else concat(outputs, -1), None
            if self.dropout and layer < self.num_layers - 1:
                x = functional.dropout(x, self.dropout, training=self.training, rng=self.rng)
        # A copy: as a view, a state that is carried on would keep the whole trajectory alive.
        last = concat(ends, 1)  # (kinds, layers * directions, B, H)
        return x, [last[kind] for kind in range(self.kinds)]

    def _forward(
        self, x: Any, states: list[Any] | None, table: Any, lengths: Any, record: bool
    ) -> tuple[Any, list[Any], Record | None]:
        """Bring any accepted layout to (T, B, I), run, and bring the results back."""
        x, ids, ends, unbatched = (
            self._input(x, lengths) if table is None else self._rows(x, table, lengths)
        )
        batch = (x if ids is None else ids).shape[1]
        shape = (self.num_layers * self.directions, batch, self.hidden_size)
        if states is None:
            zero = wrap(namespace(x._data).zeros(shape, dtype=x.dtype), None)
            states = [zero] * self.kinds
        else:
            if unbatched:
                states = [expand_dims(s, 1) if getattr(s, "ndim", 0) == 2 else s for s in states]
            self._check_states(states, shape, unbatched=unbatched)
            states = [s if isinstance(s, Tensor) else Tensor(s) for s in states]
        heard = ear.tape is not None and ear.tape.hears(self)
        walks: dict[str, Walk] | None = {} if record or heard else None
        # Where nothing is recorded the same ops run on plain arrays: to take a part of an array
        # costs 0.15 us, of a Tensor 1.3. That is a tenth of writing one character at a time.
        bare = walks is None and not recording.enabled
        if bare:
            x, states = x._data, [s._data for s in states]
        out, last = self._run(x, ids, states, ends, walks)
        if heard and ear.tape is not None:
            for suffix, one in (walks or {}).items():
                ear.tape.note(self, suffix, one)
        written = self._record(walks or {}, states[0], ends, unbatched) if record else None
        if unbatched:
            out, last = squeeze(out, 1), [squeeze(end, 1) for end in last]
        elif self.batch_first:
            out = swapaxes(out, 0, 1)
        if bare:
            out, last = wrap(out, None), [wrap(end, None) for end in last]
        return out, last, written

    def _one_state(self, x: Any, h: Any, table: Any, lengths: Any, record: bool) -> Any:
        """The call of a network whose only state is h."""
        states = None if h is None else [h]
        out, (last,), written = self._forward(x, states, table, lengths, record)
        return (out, last, written) if record else (out, last)

    def _record(
        self, walks: dict[str, Walk], state: Any, lengths: Lengths | None, unbatched: bool
    ) -> Record:
        """What was written down, in the layout and the order in time of the output."""

        def arrange(reverse: bool) -> Callable[[Any], Any]:
            def to_layout(x: Any) -> Any:
                x = x if lengths is None else lengths.blank(x)
                x = turn(x, lengths) if reverse else x
                if unbatched:
                    return squeeze(x, 1)
                return swapaxes(x, 0, 1) if self.batch_first else x

            return to_layout

        return Record(
            {
                suffix[1:]: LayerRecord(found, self.names, state[0], arrange("_reverse" in suffix))
                for suffix, found in walks.items()
            }
        )

    def _input(self, x: Any, lengths: Any) -> tuple[Any, None, Lengths | None, bool]:
        """Vectors as input: (T, B, I), no ids, the lengths, and whether there was no batch."""
        x = x if isinstance(x, Tensor) else Tensor(x, dtype=self._dtype(), device=self._device())
        self._check_input(x)
        if x.ndim == 2:
            self._refuse_lengths(lengths)
            return expand_dims(x, 1), None, None, True
        x = swapaxes(x, 0, 1) if self.batch_first else x
        if lengths is None:
            return x, None, None, False
        ends = Lengths(lengths, x.shape[0], x.shape[1], x._data, self._name)
        return ends.blank(x), None, ends, False

    def _rows(self, x: Any, table: Any, lengths: Any) -> tuple[Any, Any, Lengths | None, bool]:
        """Rows of a table as input: the table (V, I), the ids (T, B), the lengths, and whether
        there was no batch.

        Projecting a table instead of its rows pays while it is small: its gradient is a product
        over V columns, that of the rows three over I. Beyond V = 2 I the rows are made after all;
        and where there is no gradient, as when text is written, as soon as they are fewer than V.
        """
        name = self._name
        table = table if isinstance(table, Tensor) else Tensor(table)
        if table.ndim != 2 or table.shape[1] != self.input_size:
            raise ShapeError(f"{name}: needed a table (V, {self.input_size}), got {table.shape}")
        if table.dtype != self._dtype():
            raise DTypeError(f"{name}: the table is {table.dtype}, the weights {self._dtype()}")
        ends = None
        if lengths is not None:
            x = to_array(x._data if isinstance(x, Tensor) else x)
            if x.ndim == 2:
                T, B = reversed(x.shape) if self.batch_first else x.shape
                ends = Lengths(lengths, T, B, table._data, name)
                x = ends.blank_ids(x.T).T if self.batch_first else ends.blank_ids(x)
        ids = as_index(x, table, table.shape[0], name)
        if ids.ndim not in (1, 2):
            raise ShapeError(f"{name}: needed ids (T, B) or (T,), got {ids.shape}")
        unbatched = ids.ndim == 1
        if unbatched:
            self._refuse_lengths(lengths)
        ids = ids[:, None] if unbatched else ids.T if self.batch_first else ids
        few = ids.size < table.shape[0] and not recording.enabled
        if few or table.shape[0] > 2 * self.input_size:
            vectors = rows(table, ids)
            return (vectors if ends is None else ends.blank(vectors)), None, ends, unbatched
        return table, ids, ends, unbatched

    def _refuse_lengths(self, lengths: Any) -> None:
        if lengths is not None:
            raise ShapeError(
                f"{self._name}: lengths are for the rows of a batch, and this input has none; cut "
                f"a single sequence at its end instead"
            )

    @property
    def _name(self) -> str:
        return f"{type(self).__name__}({self.input_size}, {self.hidden_size})"

    def _dtype(self) -> Any:
        return self.weight_ih_l0.dtype

    def _device(self) -> str:
        return self.weight_ih_l0.device

    def _check_input(self, x: Tensor) -> None:
        name = self._name
        layout = "(B, T, I)" if self.batch_first else "(T, B, I)"
        if x.ndim not in (2, 3) or x.shape[-1] != self.input_size:
            raise ShapeError(
                f"{name}: needed an input of shape {layout} or (T, I) with I = {self.input_size}, "
                f"got {x.shape}"
            )
        if x.dtype != self._dtype():
            raise DTypeError(
                f"{name}: the input is {x.dtype} and the weights are {self._dtype()}; convert one "
                f"with .to(). Ids go through nn.Embedding or tg.one_hot first"
            )

    def _check_states(self, states: list[Any], shape: tuple[int, ...], *, unbatched: bool) -> None:
        for kind, s in zip("hc", states, strict=False):
            if getattr(s, "shape", None) != shape:
                wanted = (shape[0], shape[2]) if unbatched else shape
                seen = f"has shape {s.shape}" if hasattr(s, "shape") else f"is a {type(s).__name__}"
                raise ShapeError(
                    f"{self._name}: state {kind} {seen}, needed "
                    f"(layers * directions, B, H) = {wanted}, whatever batch_first says; "
                    f"did the batch size change, or the state come from another layer?"
                )
            if s.dtype != self._dtype():
                raise DTypeError(
                    f"{self._name}: state {kind} is {s.dtype} and the weights are "
                    f"{self._dtype()}; convert one with .to()"
                )

    def describe(self) -> str:
        extra = "".join(
            f", {name}={value}"
            for name, value in (
                ("num_layers", self.num_layers),
                ("bias", self.bias),
                ("batch_first", self.batch_first),
                ("dropout", self.dropout),
                ("bidirectional", self.bidirectional),
                ("clip_state_grad", self.clip_state_grad),
            )
            if value != DEFAULTS.get(name, False)
        )
        return f"{self.input_size}, {self.hidden_size}{extra}"


def _checked_limit(layer: str, limit: Any) -> float | None:
    if limit is None:
        return None
    is_number = isinstance(limit, Real) and not isinstance(limit, bool)
    if not (is_number and 0 < float(limit) < math.inf):
        raise DataError(f"{layer}: clip_state_grad is a finite number > 0 or None, got {limit!r}")
    return float(limit)
