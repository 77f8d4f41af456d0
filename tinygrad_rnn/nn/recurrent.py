"""Recurrent layers: RNN, LSTM and GRU, stacked, in one or both directions.

    out, h      = rnn(x, h)           the vanilla network         `ops/rnn.py`
    out, (h, c) = lstm(x, (h, c))     with gates and a cell       `ops/lstm.py`
    out, h      = gru(x, h)           with gates and one state    `ops/gru.py`

Each says here what its cell is like; all the rest they share (`nn/recurrent_base.py`).
"""

from __future__ import annotations

from typing import Any

from tinygrad_rnn.errors import DTypeError, ShapeError
from tinygrad_rnn.nn.recurrent_base import Recurrent
from tinygrad_rnn.ops import gru as gru_op
from tinygrad_rnn.ops import lstm as lstm_op
from tinygrad_rnn.ops import rnn as rnn_op
from tinygrad_rnn.ops.random import Rng

__all__ = ["GRU", "LSTM", "RNN", "Recurrent", "check_nonlinearity"]


def check_nonlinearity(name: str, nonlinearity: object) -> None:
    """Refuse what is neither "tanh" nor "relu"."""
    if nonlinearity not in ("tanh", "relu"):
        raise DTypeError(f"{name}: nonlinearity is 'tanh' or 'relu', got {nonlinearity!r}")


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
        clip_state_grad: the longest gradient (2-norm over the H numbers of a row) that a step may
            send back to the step before; a longer one is scaled down to it, of an LSTM those of h
            and of c each by itself. Then there are no second derivatives. None: no bound.
        rng: generator or seed for the first weights and the dropout masks.

    Called with
        x: the input, see below.
        h: the state to begin with.
        table: a table of which `x` is row numbers.
        lengths: (B,) whole numbers, for rows of unequal lengths: row b ends after its first
            lengths[b] steps. Its last state is that of its own end, its outputs are 0 beyond, and
            what stands in the padding has no influence whatsoever (`nn/lengths.py`).
        record: also return a `Record` of every state and gate at every step, each of which can be
            asked for its gradient (`nn/record.py`): ``out, h, record = rnn(x, record=True)``.

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

    blocks, kinds, names = 1, 1, ("h",)
    op, step = rnn_op.rnn, staticmethod(rnn_op.step)

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
        clip_state_grad: float | None = None,
        rng: Rng = None,
        dtype: Any = None,
        device: str | None = None,
    ) -> None:
        check_nonlinearity("RNN", nonlinearity)
        self.nonlinearity = nonlinearity
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional,
            clip_state_grad, rng, dtype, device,
        )  # fmt: skip

    def _options(self) -> dict[str, Any]:
        return {"nonlinearity": self.nonlinearity}

    def forward(
        self, x: Any, h: Any = None, *, table: Any = None, lengths: Any = None, record: bool = False
    ) -> Any:
        """The outputs and the last state, and with `record` a `Record`; see the class."""
        return self._one_state(x, h, table, lengths, record)


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
        lengths, record: as for `RNN`; an LSTM's record has h, c, i, f, g and o.

    Attributes:
        weight_ih_l{k}, weight_hh_l{k}, bias_ih_l{k}, bias_hh_l{k}: (4H, I), (4H, H), (4H,), (4H,)
            of layer k, blocks in the order i, f, g, o, with ``_reverse`` for the other direction.
            The two biases are added up; the forget bias is in bias_ih.
    """

    blocks, kinds, names = 4, 2, ("i", "f", "g", "o", "c", "h")
    op, step = lstm_op.lstm, staticmethod(lstm_op.step)

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
        clip_state_grad: float | None = None,
        rng: Rng = None,
        dtype: Any = None,
        device: str | None = None,
    ) -> None:
        self.forget_bias = forget_bias
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional,
            clip_state_grad, rng, dtype, device,
        )  # fmt: skip

    def reset_parameters(self, *, rng: Rng = None) -> None:
        super().reset_parameters(rng=rng)
        H = self.hidden_size
        for name, parameter in self.named_parameters():
            if name.startswith("bias_ih"):
                parameter.writable()[H : 2 * H] = self.forget_bias

    def forward(
        self,
        x: Any,
        state: Any = None,
        *,
        table: Any = None,
        lengths: Any = None,
        record: bool = False,
    ) -> Any:
        """The outputs and the last state, and with `record` a `Record`; see the class."""
        check_pair("LSTM", state, "RNN or GRU")
        states = None if state is None else list(state)
        out, (h, c), written = self._forward(x, states, table, lengths, record)
        return (out, (h, c), written) if record else (out, (h, c))


def check_pair(name: str, state: Any, other: str) -> None:
    """Refuse a state that is not the pair (h, c)."""
    if state is not None and (not isinstance(state, tuple | list) or len(state) != 2):
        raise ShapeError(
            f"{name}: the state is a pair (h, c), got {type(state).__name__}; "
            f"a single h is what {other} takes"
        )


class GRU(Recurrent):
    """The gated recurrent unit; see `ops/gru.py` for the equations.

    ``out, h = gru(x, h=None)``

    Args: as for `RNN`, without a nonlinearity.

    Shapes: as for `RNN`; a GRU's record has h, r, z and n.

    Attributes:
        weight_ih_l{k}, weight_hh_l{k}, bias_ih_l{k}, bias_hh_l{k}: (3H, I), (3H, H), (3H,), (3H,)
            of layer k, blocks in the order r, z, n, with ``_reverse`` for the other direction.
    """

    blocks, kinds, names = 3, 1, ("r", "z", "n", "h")
    op, step = gru_op.gru, staticmethod(gru_op.step)

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
        clip_state_grad: float | None = None,
        rng: Rng = None,
        dtype: Any = None,
        device: str | None = None,
    ) -> None:
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional,
            clip_state_grad, rng, dtype, device,
        )  # fmt: skip

    def forward(
        self, x: Any, h: Any = None, *, table: Any = None, lengths: Any = None, record: bool = False
    ) -> Any:
        """The outputs and the last state, and with `record` a `Record`; see the class."""
        return self._one_state(x, h, table, lengths, record)
