"""One step of a recurrent network at a time: RNNCell, LSTMCell, GRUCell.

    h = rnn_cell(x, h)            h, c = lstm_cell(x, (h, c))            h = gru_cell(x, h)

For loops that decide after each step what comes next: a decoder that reads what it wrote, say.
Where the whole sequence is known beforehand, the layers of `nn/recurrent.py` are several times
faster, since they project all inputs at once and cross from Python to arrays less often.

A cell is the layers' op over a window of one step. Names and shapes of the weights are PyTorch's,
their first values those of `nn/cell_weights.py`. What happens between two steps (lengths, limits
on gradients, records) is for your loop to say; `tg.gradient_flow` sees cells, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tinygrad_rnn.backends import namespace
from tinygrad_rnn.core.tensor import Tensor, wrap
from tinygrad_rnn.errors import DTypeError, ShapeError
from tinygrad_rnn.nn.cell_weights import WEIGHTS, add_weights, set_first_values
from tinygrad_rnn.nn.layers import check_size
from tinygrad_rnn.nn.module import Module, Parameter
from tinygrad_rnn.nn.record import ear, walk
from tinygrad_rnn.nn.recurrent import check_nonlinearity, check_pair
from tinygrad_rnn.ops import gru as gru_op
from tinygrad_rnn.ops import lstm as lstm_op
from tinygrad_rnn.ops import rnn as rnn_op
from tinygrad_rnn.ops.random import Rng
from tinygrad_rnn.ops.shape import expand_dims, squeeze


class Cell(Module):
    """What the cells share; which step they take is for the subclass to say."""

    blocks: int  # gates: how many (H, .) blocks stand under each other in a weight
    kinds: int  # kinds of state: 1 (h), or 2 (h and c)
    weight_ih: Parameter
    weight_hh: Parameter
    bias_ih: Parameter
    op: Callable[..., Any]
    step: Callable[..., dict[str, Any]]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool,
        rng: Rng,
        dtype: Any,
        device: str | None,
    ) -> None:
        name = type(self).__name__
        check_size("input_size", input_size, name)
        check_size("hidden_size", hidden_size, name)
        self.input_size, self.hidden_size, self.bias = input_size, hidden_size, bias
        rows = self.blocks * hidden_size
        add_weights(self, "", rows, input_size, hidden_size, bias, dtype, device)
        self.reset_parameters(rng=rng)

    def reset_parameters(self, *, rng: Rng = None) -> None:
        """New first values, as of the layers."""
        set_first_values(self, self.hidden_size, self.blocks, rng)

    def _options(self) -> dict[str, Any]:
        return {}

    def _advance(self, x: Any, states: list[Any] | None) -> list[Any]:
        """One step: the new states, in the layout of `x`, (B, I) or (I,)."""
        like = self.weight_hh
        x = x if isinstance(x, Tensor) else Tensor(x, dtype=like.dtype, device=like.device)
        states = self._checked(x, states)
        single = x.ndim == 1
        if single:
            x, states = expand_dims(x, 0), [expand_dims(s, 0) for s in states]
        window, weights = expand_dims(x, 0), {name: getattr(self, name, None) for name in WEIGHTS}
        if ear.tape is not None and ear.tape.hears(self):
            found = walk(type(self).step, window, states, weights, **self._options())
            ear.tape.note(self, "", found)
            new = [kind[-1] for kind in found.states]
        else:
            trajectory = type(self).op(window, *states, *weights.values(), **self._options())
            new = [trajectory[1 + kind] for kind in range(self.kinds)]  # h_1, c_1
        return [squeeze(s, 0) for s in new] if single else new

    def _checked(self, x: Tensor, states: list[Any] | None) -> list[Any]:
        """The states to begin with, zeros if None; refuses what does not fit."""
        name = f"{type(self).__name__}({self.input_size}, {self.hidden_size})"
        dtype = self.weight_hh.dtype
        if x.ndim not in (1, 2) or x.shape[-1] != self.input_size:
            raise ShapeError(
                f"{name}: needed an input of one step, (B, {self.input_size}) or "
                f"({self.input_size},), got {x.shape}; a whole sequence is what the layer of the "
                f"same name without 'Cell' reads"
            )
        if x.dtype != dtype:
            raise DTypeError(
                f"{name}: the input is {x.dtype}, the weights are {dtype}; convert one with .to()"
            )
        shape = (*x.shape[:-1], self.hidden_size)
        if states is None:
            zero = wrap(namespace(x._data).zeros(shape, dtype=x.dtype), None)
            return [zero] * self.kinds
        for kind, s in zip("hc", states, strict=False):
            is_array = hasattr(s, "shape") and hasattr(s, "dtype")
            if not is_array or s.shape != shape or s.dtype != dtype:
                seen = f"is {s.shape} {s.dtype}" if is_array else f"is a {type(s).__name__}"
                raise (ShapeError if not is_array or s.shape != shape else DTypeError)(
                    f"{name}: state {kind} {seen}, needed {shape} {dtype}"
                )
        return [s if isinstance(s, Tensor) else Tensor(s) for s in states]

    def describe(self) -> str:
        bias = "" if self.bias else ", bias=False"
        return f"{self.input_size}, {self.hidden_size}{bias}"


class RNNCell(Cell):
    """One step of the vanilla network: ``h = cell(x, h=None)``.

    Args:
        input_size, hidden_size: I and H.
        bias: whether to have b_ih and b_hh.
        nonlinearity: "tanh" or "relu".
        rng: generator or seed for the first weights.

    Shapes:
        x: (B, I), or (I,).
        h: (B, H), or (H,); zeros if None.

    Attributes:
        weight_ih, weight_hh, bias_ih, bias_hh: (H, I), (H, H), (H,), (H,).
    """

    blocks, kinds = 1, 1
    op, step = rnn_op.rnn, staticmethod(rnn_op.step)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        *,
        rng: Rng = None,
        dtype: Any = None,
        device: str | None = None,
    ) -> None:
        check_nonlinearity("RNNCell", nonlinearity)
        self.nonlinearity = nonlinearity
        super().__init__(input_size, hidden_size, bias, rng, dtype, device)

    def _options(self) -> dict[str, Any]:
        return {"nonlinearity": self.nonlinearity}

    def forward(self, x: Any, h: Any = None) -> Any:
        return self._advance(x, None if h is None else [h])[0]


class LSTMCell(Cell):
    """One step of an LSTM: ``h, c = cell(x, state=None)`` with ``state = (h, c)``.

    Args: as for `RNNCell`, without a nonlinearity, and
        forget_bias: the first value of the forget gate's bias, as of `LSTM`.

    Shapes: as for `RNNCell`; c is like h.

    Attributes:
        weight_ih, weight_hh, bias_ih, bias_hh: (4H, I), (4H, H), (4H,), (4H,), blocks in the order
            i, f, g, o.
    """

    blocks, kinds = 4, 2
    op, step = lstm_op.lstm, staticmethod(lstm_op.step)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        forget_bias: float = 1.0,
        rng: Rng = None,
        dtype: Any = None,
        device: str | None = None,
    ) -> None:
        self.forget_bias = forget_bias
        super().__init__(input_size, hidden_size, bias, rng, dtype, device)

    def reset_parameters(self, *, rng: Rng = None) -> None:
        super().reset_parameters(rng=rng)
        if self.bias:
            H = self.hidden_size
            self.bias_ih.writable()[H : 2 * H] = self.forget_bias

    def forward(self, x: Any, state: Any = None) -> tuple[Any, Any]:
        check_pair("LSTMCell", state, "RNNCell or GRUCell")
        h, c = self._advance(x, None if state is None else list(state))
        return h, c


class GRUCell(Cell):
    """One step of a GRU: ``h = cell(x, h=None)``.

    Args: as for `RNNCell`, without a nonlinearity.

    Shapes: as for `RNNCell`.

    Attributes:
        weight_ih, weight_hh, bias_ih, bias_hh: (3H, I), (3H, H), (3H,), (3H,), blocks in the order
            r, z, n.
    """

    blocks, kinds = 3, 1
    op, step = gru_op.gru, staticmethod(gru_op.step)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        rng: Rng = None,
        dtype: Any = None,
        device: str | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, rng, dtype, device)

    def forward(self, x: Any, h: Any = None) -> Any:
        return self._advance(x, None if h is None else [h])[0]
