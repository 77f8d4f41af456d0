"""Recurrent layers: RNN and LSTM, stacked, in one or both directions.

    out, state = lstm(x, state)

State in, state out: a layer remembers nothing between calls, so where a gradient ends is for the
caller to see, in a ``detach``. Each layer and direction is one op over the whole window
(`ops/rnn.py`, `ops/lstm.py`); this file names the parameters, checks shapes and stacks layers.

Parameter names, shapes and gate order are PyTorch's, so weights travel both ways. The first values
are not: recurrent weights start orthogonal (Saxe et al. 2014; a product of orthogonal matrices
neither shrinks nor grows), biases start at 0, and an LSTM's forget gate at 1, open
(Jozefowicz et al. 2015).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinygrad_rnn.backends import namespace
from tinygrad_rnn.core.fused import FusedNode
from tinygrad_rnn.core.tensor import Tensor, wrap
from tinygrad_rnn.errors import DTypeError, ShapeError
from tinygrad_rnn.nn import functional, init
from tinygrad_rnn.nn.growth import look_behind
from tinygrad_rnn.nn.layers import check_size, new_parameter
from tinygrad_rnn.nn.module import Module
from tinygrad_rnn.ops import lstm as lstm_op
from tinygrad_rnn.ops import rnn as rnn_op
from tinygrad_rnn.ops.indexing import as_index, rows
from tinygrad_rnn.ops.random import Rng, generator
from tinygrad_rnn.ops.shape import concat, expand_dims, flip, squeeze, stack, swapaxes


class Recurrent(Module):
    """What RNN and LSTM share: parameters, shapes, layers and directions."""

    blocks: int  # how many (H, .) blocks stand under each other in a weight: 1, or 4 gates
    kinds: int  # how many kinds of state there are: 1 (h), or 2 (h and c)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        rng: Rng,
        dtype: Any,
        device: str | None,
    ) -> None:
        name = type(self).__name__
        check_size("input_size", input_size, name)
        check_size("hidden_size", hidden_size, name)
        check_size("num_layers", num_layers, name)
        functional.check_probability(dropout)
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.dropout = bias, batch_first, dropout
        self.bidirectional = bidirectional
        # A seed becomes one stream of numbers, for the weights and then for the dropout masks.
        self.rng = None if rng is None else generator(rng)
        rows = self.blocks * hidden_size
        for layer in range(num_layers):
            width = input_size if layer == 0 else hidden_size * self.directions
            for suffix in self._suffixes(layer):
                self._add("weight_ih" + suffix, (rows, width), dtype, device)
                self._add("weight_hh" + suffix, (rows, hidden_size), dtype, device)
                if bias:
                    self._add("bias_ih" + suffix, (rows,), dtype, device)
                    self._add("bias_hh" + suffix, (rows,), dtype, device)
        self.reset_parameters(rng=self.rng)

    @property
    def directions(self) -> int:
        """1, or 2 if bidirectional."""
        return 2 if self.bidirectional else 1

    def _suffixes(self, layer: int) -> list[str]:
        return [f"_l{layer}", f"_l{layer}_reverse"][: self.directions]

    def _add(self, name: str, shape: tuple[int, ...], dtype: Any, device: str | None) -> None:
        setattr(self, name, new_parameter(shape, dtype, device))

    def reset_parameters(self, *, rng: Rng = None) -> None:
        """New first values: input weights uniform in +-1/sqrt(H), recurrent blocks orthogonal."""
        H, rng = self.hidden_size, generator(rng)
        for name, parameter in self.named_parameters():
            if name.startswith("weight_ih"):
                init.uniform_(parameter, -1 / math.sqrt(H), 1 / math.sqrt(H), rng=rng)
            elif name.startswith("weight_hh"):
                for k in range(self.blocks):
                    block = Tensor(np.zeros((H, H), dtype=parameter.dtype), device=parameter.device)
                    init.orthogonal_(block, rng=rng)
                    parameter.writable()[k * H : (k + 1) * H] = block._data
            else:
                init.zeros_(parameter)

    # ---- forward ----

    def _window(self, x: Any, ids: Any, states: list[Any], suffix: str) -> Any:  # noqa: ARG002 - as above
        """The trajectory (kinds, T+1, B, H) of one layer in one direction; subclasses say how."""
        raise TypeError(f"{type(self).__name__} does not say how it steps")

    def _run(self, x: Any, ids: Any, states: list[Any]) -> tuple[Any, list[Any]]:
        """All layers over (T, B, I): the output (T, B, D*H) and the last state of each kind."""
        ends: list[list[Any]] = [[] for _ in range(self.kinds)]
        T = len(x if ids is None else ids)
        behind = look_behind(states, T, self._name)
        for layer in range(self.num_layers):
            outputs = []
            for d, suffix in enumerate(self._suffixes(layer)):
                place = layer * self.directions + d
                if d == 1:  # backwards in time
                    x, ids = (flip(x, 0), None) if ids is None else (x, flip(ids, 0))
                trajectory = self._window(x, ids, [s[place] for s in states], suffix)
                if isinstance(trajectory._node, FusedNode):
                    trajectory._node.behind = behind
                y = trajectory[0, 1:]  # (T, B, H)
                outputs.append(flip(y, 0) if d == 1 else y)
                for kind, end in enumerate(ends):
                    end.append(trajectory[kind, -1])
            x, ids = outputs[0] if len(outputs) == 1 else concat(outputs, -1), None
            if self.dropout and layer < self.num_layers - 1:
                x = functional.dropout(x, self.dropout, training=self.training, rng=self.rng)
        return x, [stack(end) if len(end) > 1 else expand_dims(end[0], 0) for end in ends]

    def _forward(self, x: Any, states: list[Any] | None, table: Any) -> tuple[Any, list[Any]]:
        """Bring any accepted layout to (T, B, I), run, and bring the results back."""
        x, ids, unbatched = self._input(x) if table is None else self._rows(x, table)
        batch = (x if ids is None else ids).shape[1]
        shape = (self.num_layers * self.directions, batch, self.hidden_size)
        if states is None:
            zero = wrap(namespace(x._data).zeros(shape, dtype=x.dtype), None)
            states = [zero] * self.kinds
        else:
            if unbatched:
                states = [expand_dims(s, 1) if s.ndim == 2 else s for s in states]
            self._check_states(states, shape, unbatched=unbatched)
        out, ends = self._run(x, ids, states)
        if unbatched:
            return squeeze(out, 1), [squeeze(end, 1) for end in ends]
        return (swapaxes(out, 0, 1) if self.batch_first else out), ends

    def _input(self, x: Any) -> tuple[Any, None, bool]:
        """Vectors as input: (T, B, I), no ids, and whether there was no batch."""
        x = x if isinstance(x, Tensor) else Tensor(x, dtype=self._dtype(), device=self._device())
        self._check_input(x)
        if x.ndim == 2:
            return expand_dims(x, 1), None, True
        return (swapaxes(x, 0, 1) if self.batch_first else x), None, False

    def _rows(self, x: Any, table: Any) -> tuple[Any, Any, bool]:
        """Rows of a table as input: the table (V, I), the ids (T, B), whether there was no batch.

        Projecting a table instead of its rows pays while it is small: its gradient is a product
        over V columns, that of the rows three over I. Beyond V = 2 I the rows are made after all.
        """
        name = self._name
        table = table if isinstance(table, Tensor) else Tensor(table)
        if table.ndim != 2 or table.shape[1] != self.input_size:
            raise ShapeError(f"{name}: needed a table (V, {self.input_size}), got {table.shape}")
        if table.dtype != self._dtype():
            raise DTypeError(f"{name}: the table is {table.dtype}, the weights {self._dtype()}")
        ids = as_index(x, table, table.shape[0], name)
        if ids.ndim not in (1, 2):
            raise ShapeError(f"{name}: needed ids (T, B) or (T,), got {ids.shape}")
        unbatched = ids.ndim == 1
        ids = ids[:, None] if unbatched else ids.T if self.batch_first else ids
        if table.shape[0] > 2 * self.input_size:
            return rows(table, ids), None, unbatched
        return table, ids, unbatched

    @property
    def _name(self) -> str:
        return f"{type(self).__name__}({self.input_size}, {self.hidden_size})"

    def _dtype(self) -> Any:
        return next(self.parameters()).dtype

    def _device(self) -> str:
        return next(self.parameters()).device

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
            )
            if value != {"num_layers": 1, "bias": True, "dropout": 0.0}.get(name, False)
        )
        return f"{self.input_size}, {self.hidden_size}{extra}"

    def _weights(self, suffix: str) -> list[Any]:
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        return [getattr(self, name + suffix, None) for name in names]


class RNN(Recurrent):
    """The vanilla recurrent network: ``h_t = tanh(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh)``.

    ``out, h = rnn(x, h=None)``

    Args:
        input_size, hidden_size: I and H.
        num_layers: layers on top of each other.
        nonlinearity: "tanh" or "relu".
        bias: whether to have b_ih and b_hh.
        batch_first: x and out are (B, T, .) instead of (T, B, .); states never change layout.
        dropout: probability of dropping an element between layers, in training.
        bidirectional: read the sequence from both ends; D = 2 instead of 1.
        rng: generator or seed for the first weights and the dropout masks.

    Shapes:
        x: (T, B, I), or (T, I) for a single sequence; with a table, ids (T, B) or (T,).
        table: (V, I), usually an embedding's weight. ``rnn(ids, h, table=emb.weight)`` is
            ``rnn(emb(ids), h)``, and faster: the table is projected once instead of every row.
        h: (num_layers * D, B, H), or (num_layers * D, H); zeros if None.
        out: (T, B, D * H), or (T, D * H).

    Attributes:
        weight_ih_l{k}, weight_hh_l{k}, bias_ih_l{k}, bias_hh_l{k}: (H, I), (H, H), (H,), (H,) of
            layer k, with ``_reverse`` appended for the other direction.
    """

    blocks, kinds = 1, 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        rng: Rng = None,
        dtype: Any = None,
        device: str | None = None,
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise DTypeError(f"RNN: nonlinearity is 'tanh' or 'relu', got {nonlinearity!r}")
        self.nonlinearity = nonlinearity
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional,
            rng, dtype, device,
        )  # fmt: skip

    def _window(self, x: Any, ids: Any, states: list[Any], suffix: str) -> Any:
        weights = self._weights(suffix)
        return rnn_op.rnn(x, *states, *weights, nonlinearity=self.nonlinearity, ids=ids)

    def forward(self, x: Any, h: Any = None, *, table: Any = None) -> tuple[Any, Any]:
        out, ends = self._forward(x, None if h is None else [h], table)
        return out, ends[0]


class LSTM(Recurrent):
    """The long short-term memory; see `ops/lstm.py` for the equations.

    ``out, (h, c) = lstm(x, state=None)`` with ``state = (h, c)``.

    Args: as for `RNN`, without a nonlinearity, and
        forget_bias: the first value of the forget gate's bias. 1 keeps the gate open at the
            start, so that gradients reach far back from the first update on.

    Shapes:
        x: (T, B, I), or (T, I) for a single sequence; with a table, ids (T, B) or (T,).
        table: (V, I), as for `RNN`.
        h, c: (num_layers * D, B, H), or (num_layers * D, H); zeros if state is None.
        out: (T, B, D * H), or (T, D * H).

    Attributes:
        weight_ih_l{k}, weight_hh_l{k}, bias_ih_l{k}, bias_hh_l{k}: (4H, I), (4H, H), (4H,), (4H,)
            of layer k, blocks in the order i, f, g, o, with ``_reverse`` for the other direction.
            The two biases are added up; the forget bias is in bias_ih.
    """

    blocks, kinds = 4, 2

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        forget_bias: float = 1.0,
        rng: Rng = None,
        dtype: Any = None,
        device: str | None = None,
    ) -> None:
        self.forget_bias = forget_bias
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional,
            rng, dtype, device,
        )  # fmt: skip

    def reset_parameters(self, *, rng: Rng = None) -> None:
        super().reset_parameters(rng=rng)
        H = self.hidden_size
        for name, parameter in self.named_parameters():
            if name.startswith("bias_ih"):
                parameter.writable()[H : 2 * H] = self.forget_bias

    def _window(self, x: Any, ids: Any, states: list[Any], suffix: str) -> Any:
        return lstm_op.lstm(x, *states, *self._weights(suffix), ids=ids)

    def forward(
        self, x: Any, state: Any = None, *, table: Any = None
    ) -> tuple[Any, tuple[Any, Any]]:
        if state is not None and (not isinstance(state, tuple | list) or len(state) != 2):
            raise ShapeError(
                f"LSTM: the state is a pair (h, c), got {type(state).__name__}; "
                f"a single h is what RNN takes"
            )
        out, (h, c) = self._forward(x, None if state is None else list(state), table)
        return out, (h, c)
