"""The same training step, written for each framework that is compared.

One step of a character model: embedding, recurrent layers, linear, cross entropy, backward, clip,
Adam. Every peer starts from the same weights and sees the same batches, so the losses it returns
must agree: that shows that all of them do the same work.

Here are this project's step and PyTorch's; JAX's is in `benchmarks/peers_jax.py`, the step's matrix
products alone in `benchmarks/peers_floor.py`, and what is measured besides a whole step in
`benchmarks/peers_parts.py`. A peer runs in a process of its own (`benchmarks/cpu_worker.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.gpu_table import BLOCKS

LEARNING_RATE = 2e-3
CLIP = 5.0
LAYERS = {"rnn": "RNN", "gru": "GRU", "lstm": "LSTM"}  # the class of `nn` in both frameworks


@dataclass(frozen=True)
class Size:
    """T steps, B rows, V symbols, H hidden units (and embedding width), layers, and the cell."""

    T: int
    B: int
    V: int
    H: int
    layers: int = 1
    cell: str = "lstm"


def weights(size: Size) -> dict[str, np.ndarray]:
    """The first weights of every peer, by the names of `torch.nn` modules."""
    rng = np.random.default_rng(0)
    rows = BLOCKS[size.cell] * size.H
    shapes = {"embedding.weight": (size.V, size.H)}
    for k in range(size.layers):
        for name in ("ih", "hh"):
            shapes[f"rnn.weight_{name}_l{k}"] = (rows, size.H)
            shapes[f"rnn.bias_{name}_l{k}"] = (rows,)
    shapes |= {"head.weight": (size.V, size.H), "head.bias": (size.V,)}
    bound = size.H**-0.5
    return {n: rng.uniform(-bound, bound, s).astype(np.float32) for n, s in shapes.items()}


def batches(size: Size, count: int = 4) -> list[tuple[np.ndarray, np.ndarray]]:
    """A few batches of ids and targets, (T, B) each, used in turn."""
    rng = np.random.default_rng(1)
    return [
        (rng.integers(0, size.V, (size.T, size.B)), rng.integers(0, size.V, (size.T, size.B)))
        for _ in range(count)
    ]


class TinygradRnn:
    """This project, with the embedding handed to the recurrent layer as a table."""

    table = True

    def __init__(self, size: Size) -> None:
        import tinygrad_rnn as tg
        from tinygrad_rnn import nn, optim

        use_table = self.table

        class Model(nn.Module):
            def __init__(self) -> None:
                layer = getattr(nn, LAYERS[size.cell])
                self.embedding = nn.Embedding(size.V, size.H)
                self.rnn = layer(size.H, size.H, size.layers)
                self.head = nn.Linear(size.H, size.V)

            def forward(self, x: Any) -> Any:
                if use_table:
                    return self.head(self.rnn(x, table=self.embedding.weight)[0])
                return self.head(self.rnn(self.embedding(x))[0])

        self.model = Model()
        self.model.load_state_dict(weights(size))
        self.optimizer = optim.Adam(self.model.parameters(), LEARNING_RATE)
        self.nn, self.version = nn, tg.__version__

    def step(self, x: np.ndarray, y: np.ndarray) -> float:
        self.optimizer.zero_grad()
        loss = self.nn.functional.cross_entropy(self.model(x), y)
        loss.backward()
        self.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        return float(loss)


class RowsFirst(TinygradRnn):
    """This project, written as in PyTorch: the embedding's rows are made, then read."""

    table = False


class PyTorch:
    """PyTorch's own layers and optimizer, eager, as its users write it."""

    def __init__(self, size: Size) -> None:
        import torch

        class Model(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                layer = getattr(torch.nn, LAYERS[size.cell])
                self.embedding = torch.nn.Embedding(size.V, size.H)
                self.rnn = layer(size.H, size.H, size.layers)
                self.head = torch.nn.Linear(size.H, size.V)

            def forward(self, x: Any) -> Any:
                return self.head(self.rnn(self.embedding(x))[0])

        self.model = Model()
        self.model.load_state_dict({n: torch.from_numpy(w) for n, w in weights(size).items()})
        self.optimizer = torch.optim.Adam(self.model.parameters(), LEARNING_RATE)
        self.torch, self.version, self.V = torch, torch.__version__, size.V

    def step(self, x: np.ndarray, y: np.ndarray) -> float:
        torch = self.torch
        self.optimizer.zero_grad()
        logits = self.model(torch.from_numpy(x)).reshape(-1, self.V)
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(y).reshape(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        return loss.item()
