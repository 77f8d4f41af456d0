"""A character language model: the network, how good it is, and what it writes.

The model reads one character at a time and says how probable each character is as the next:

    e_t     = embedding[x_t]                        a learnt vector for each character
    h_t, .. = lstm(e_t, h_{t-1}, ..)                everything read so far, as one vector
    p(x_{t+1} | x_1 .. x_t) = softmax(W h_t + b)

Its loss is the mean of -log p over the characters that really came next, in nats per character
(divide by log 2 for bits). To *write*, draw a character from p, read it, and go on: the model is
fed with its own output. This is Karpathy's char-rnn (2015), after Sutskever, Martens and Hinton,
"Generating text with recurrent neural networks" (2011).

How a model is trained is in `training.py`; the same in forty open lines is `examples/char_lm.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tinygrad_rnn.core.grad_mode import no_grad
from tinygrad_rnn.core.tensor import Tensor
from tinygrad_rnn.data import Vocabulary
from tinygrad_rnn.errors import DataError, NonFiniteError
from tinygrad_rnn.nn.functional import cross_entropy
from tinygrad_rnn.nn.layers import Dropout, Embedding, Linear
from tinygrad_rnn.nn.module import Module
from tinygrad_rnn.nn.recurrent import GRU, LSTM, RNN, Recurrent
from tinygrad_rnn.ops.random import Rng, generator

__all__ = ["CharModel", "draw", "evaluate", "generate", "parameter_count"]

KINDS: dict[str, type[Recurrent]] = {"rnn": RNN, "lstm": LSTM, "gru": GRU}


class CharModel(Module):
    """Embedding, recurrent layers, Linear: ``logits, state = model(ids, state=None)``.

    Args:
        symbols: V, the size of the vocabulary.
        kind: "lstm", "gru" or "rnn".
        hidden, layers, embedding: sizes H, L, E.
        dropout: probability of dropping an element of each recurrent layer's output on its way
            *up*. The recurrent connections are never touched: what a network should remember
            for a hundred steps must not be diced away a hundred times (Zaremba et al. 2014).
        rng: generator or seed for the first weights and the dropout masks.

    Shapes:
        ids: integers (T, B).
        logits: (T, B, V); their softmax is the distribution of the next character.
        state: of the recurrent layers, h or (h, c); None is the beginning of a text.
    """

    def __init__(
        self,
        symbols: int,
        *,
        kind: str = "lstm",
        hidden: int = 256,
        layers: int = 1,
        embedding: int = 64,
        dropout: float = 0.0,
        rng: Rng = None,
        dtype: Any = None,
        device: str | None = None,
    ) -> None:
        if kind not in KINDS:
            raise DataError(f"kind is one of {', '.join(KINDS)}, got {kind!r}")
        rng = generator(rng)  # a seed becomes one generator, shared by all parts below
        place: dict[str, Any] = {"rng": rng, "dtype": dtype, "device": device}
        self.embedding = Embedding(symbols, embedding, **place)
        self.recurrent = KINDS[kind](embedding, hidden, layers, dropout=dropout, **place)
        self.dropout = Dropout(dropout, rng=rng)
        self.output = Linear(hidden, symbols, **place)

    def forward(self, ids: Any, state: Any = None) -> tuple[Any, Any]:
        # The same as recurrent(embedding(ids)), and faster: see the table in `nn.LSTM`.
        out, state = self.recurrent(ids, state, table=self.embedding.weight)  # (T, B, H)
        return self.output(self.dropout(out)), state  # (T, B, V)


def parameter_count(symbols: int, *, kind: str, hidden: int, layers: int, embedding: int) -> int:
    """How many parameters a `CharModel` has, known before any of them is allocated."""
    rows = KINDS[kind].blocks * hidden
    widths = [embedding] + [hidden] * (layers - 1)
    recurrent = sum(rows * (width + hidden + 2) for width in widths)  # two biases, as in PyTorch
    return symbols * embedding + recurrent + symbols * (hidden + 1)


# ---- how good it is ------------------------------------------------------------------------------


@no_grad()
def evaluate(model: Module, ids: ArrayLike, *, batch: int = 32, window: int = 64) -> float:
    """The mean loss on a text, in nats per character, each character after the first counted once.

    The text is read as `batch` streams side by side, `window` characters at a time to bound memory,
    and the state is carried on. Only the first characters of each stream are predicted without the
    text before them, which costs a little: more streams are faster and a touch pessimistic.

    Args:
        model: ``model(ids, state) -> (logits, state)``; put into evaluation mode meanwhile.
        ids: the text (N,), N >= 2.
        batch: streams; fewer if the text is shorter than that.
        window: characters at a time; does not change the result.
    """
    text = np.asarray(ids)
    predictions = len(text) - 1
    if predictions < 1:
        raise DataError(f"evaluate needs at least 2 characters, got {len(text)}")
    batch = min(batch, predictions)
    length = predictions // batch  # of each stream
    whole = batch * length
    x = text[:whole].reshape(batch, length).T  # (length, batch)
    y = text[1 : whole + 1].reshape(batch, length).T
    training = model.training
    model.eval()
    try:
        total, state = _total_loss(model, x, y, None, window)
        if whole < predictions:  # what no stream of equal length had room for follows the last
            rest = text[whole:]
            total += _total_loss(model, rest[:-1, None], rest[1:, None], _last(state), window)[0]
    finally:
        model.train(training)
    return total / predictions


def _total_loss(
    model: Module, x: NDArray[Any], y: NDArray[Any], state: Any, window: int
) -> tuple[float, Any]:
    """The summed loss of streams (N, B), and the state after them."""
    total = 0.0  # a Python float: sums of windows lose no digits to float32
    for start in range(0, len(x), window):
        logits, state = model(np.ascontiguousarray(x[start : start + window]), state)
        targets = np.ascontiguousarray(y[start : start + window])
        total += float(cross_entropy(logits, targets, reduction="sum"))
    return total, state


def _last(state: Any) -> Any:
    """The state of the last stream of a batch alone: (L, B, H) to (L, 1, H)."""
    return tuple(s[:, -1:] for s in state) if isinstance(state, tuple) else state[:, -1:]


# ---- what it writes ------------------------------------------------------------------------------


def generate(
    model: Module,
    vocabulary: Vocabulary,
    *,
    prompt: str = "",
    length: int = 200,
    temperature: float = 1.0,
    rng: Rng = None,
) -> Iterator[str]:
    """Continue `prompt`, one character at a time, reading each character that was written.

    Args:
        model: ``model(ids, state) -> (logits, state)``.
        vocabulary: the one it was trained with.
        prompt: what to continue, of any length; it is not repeated in the output. An empty prompt
            stands for the start of a line: the model reads a newline, or, if the vocabulary has
            none, a character drawn evenly from all.
        length: how many characters to write.
        temperature: divides the logits. 1 samples what the model believes, less is more careful,
            0 always takes the most probable character, infinity any with equal probability.
        rng: generator or seed.

    Raises:
        DataError: a character of the prompt that is not in the vocabulary; a bad temperature or
            length. Raised by this call, not by the first step of the iterator.
        NonFiniteError: the model gives NaN: its training has diverged.
    """
    check_temperature(temperature)
    if length < 0:
        raise DataError(f"length is a number of characters, at least 0; got {length}")
    rng = generator(rng)
    ids = vocabulary.encode(prompt)
    if not prompt:
        newline = vocabulary.symbols.find("\n")
        ids = np.array([newline if newline >= 0 else rng.integers(len(vocabulary))])
    return _write(model, vocabulary, ids, length, temperature, rng)


@no_grad()
def _write(
    model: Module,
    vocabulary: Vocabulary,
    ids: NDArray[np.int64],
    length: int,
    temperature: float,
    rng: np.random.Generator,
) -> Iterator[str]:
    state: Any = None
    for _ in range(length):
        # Around each step: between two characters the model is the caller's.
        training = [module for module in model.modules() if module.training]
        _set_training(training, False)
        try:
            for start in range(0, len(ids), 1024):  # a prompt may be a book
                logits, state = model(ids[start : start + 1024, None], state)  # (T, 1, V)
        finally:
            _set_training(training, True)
        choice = draw(_on_host(logits)[-1, 0], temperature, rng)
        yield vocabulary.symbols[choice]
        ids = np.array([choice])


def _set_training(modules: list[Module], mode: bool) -> None:
    for module in modules:
        module.training = mode


def _on_host(logits: Tensor) -> NDArray[np.float64]:
    return logits.detach().numpy().astype(np.float64)


def check_temperature(temperature: float) -> None:
    """Refuse NaN and negative temperatures; -1 would quietly turn the ranking upside down."""
    if not temperature >= 0:
        raise DataError(f"temperature is a number >= 0 (0 = most probable), got {temperature}")


def draw(logits: NDArray[np.float64], temperature: float, rng: np.random.Generator) -> int:
    """One index drawn from ``softmax(logits / temperature)``, for logits (V,) in float64.

    By inverting the distribution function: of a line cut into V pieces as long as the
    probabilities, the piece that a random point falls on. One random number per character,
    whatever the temperature, so that a seed means the same from run to run.
    """
    check_temperature(temperature)
    peak, least = logits[logits.argmax()], logits[logits.argmin()]  # NaN, if there is one
    if not (math.isfinite(peak) and math.isfinite(least)):
        raise NonFiniteError("the model's logits are not finite: its training has diverged")
    point = rng.random()
    if temperature == 0:
        return int(logits.argmax())
    if math.isinf(temperature):
        return int(point * len(logits))
    with np.errstate(over="ignore"):  # a tiny temperature: -1 / 1e-310 is -inf, whose exp is 0
        scaled = (logits - peak) / temperature  # <= 0, and exactly 0 at the maximum
    ends = np.exp(scaled).cumsum()  # unnormalised; at least 1
    return int(ends.searchsorted(point * ends[-1], side="right"))
