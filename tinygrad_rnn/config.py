"""What a training run is made from: a `Config`, and a `Corpus`.

Both are values: frozen, and checked before anything is allocated. One configuration and one text
are one run, so a checkpoint that holds both can say whether it may be gone on with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tinygrad_rnn.char_lm import parameter_count
from tinygrad_rnn.data import Text, Vocabulary, split
from tinygrad_rnn.errors import CheckpointError, DataError

__all__ = ["Config", "Corpus"]


@dataclass(frozen=True)
class Config:
    """What decides the weights: one configuration and one text are one run, bit for bit."""

    model: Literal["lstm", "gru", "rnn"] = "lstm"
    """Kind of recurrent network."""
    hidden: int = 256
    """Size of the hidden state."""
    layers: int = 1
    """Recurrent layers on top of each other."""
    embedding: int = 64
    """Size of the vector learnt for each character."""
    dropout: float = 0.0
    """Share of each layer's outputs dropped in training; worth it when epochs are many."""
    batch: int = 32
    """Places in the text that are read side by side."""
    k1: int = 64
    """Characters between two updates of the weights."""
    k2: int | None = None
    """Characters a gradient runs back, k2 >= k1. None: as many as k1."""
    clip: float = 1.0
    """Longest gradient (2-norm over all weights); a longer one is scaled down to it."""
    epochs: int = 4
    """Passes over the training part of the text."""
    lr: float = 0.008
    """First learning rate of Adam; it falls along half a cosine to a twentieth of it."""
    seed: int = 0
    """Seed of all random numbers."""

    def check(self) -> None:
        """Refuse values that no run can have; names all of them at once."""
        values: dict[str, Any] = asdict(self)  # from a file or a program they may be anything
        problems = [
            f"{name} is a whole number >= {lowest}, got {values[name]!r}"
            for name, lowest in _COUNTS.items()
            if not (isinstance(values[name], int) and values[name] >= lowest)
        ]
        problems += [
            f"{name} is a finite number > 0, got {values[name]!r}"
            for name in ("lr", "clip")
            if not (_is_number(values[name]) and 0 < values[name] < math.inf)
        ]
        if not (_is_number(values["dropout"]) and 0 <= values["dropout"] < 1):
            problems.append(f"dropout is a share, 0 <= dropout < 1, got {self.dropout!r}")
        if values["model"] not in ("lstm", "gru", "rnn"):
            problems.append(f"model is lstm, gru or rnn, got {self.model!r}")
        k2 = values["k2"]
        if not problems and k2 is not None and not (isinstance(k2, int) and k2 >= self.k1):
            problems.append(f"k2 is a whole number >= k1 = {self.k1}, got {k2!r}")
        if problems:
            raise DataError("; ".join(problems))

    @classmethod
    def of(cls, saved: Any) -> Config:
        """The configuration in a checkpoint; raises CheckpointError if that is none."""
        names = {field.name for field in fields(cls)}
        if not isinstance(saved, Mapping) or saved.keys() != names:
            raise CheckpointError(
                "the checkpoint holds no configuration of a character model; was it written by "
                "another program, or by another version of this one?"
            )
        config = cls(**saved)
        try:
            config.check()
        except DataError as error:
            raise CheckpointError(f"its configuration is no valid one: {error}") from error
        return config

    def parameter_count(self, symbols: int) -> int:
        """How many parameters the model has, before any is allocated."""
        return parameter_count(
            symbols,
            kind=self.model,
            hidden=self.hidden,
            layers=self.layers,
            embedding=self.embedding,
        )

    def memory(self, symbols: int) -> dict[str, int]:
        """Bytes of the largest arrays of a run by purpose: a rough bound, before allocation.

        Four numbers per parameter are there all the time: itself, its gradient, Adam's two
        averages. A checkpoint holds three of them, and while it is written it is in memory about
        two and a half times more (copies on the host, the file as one string of bytes): eight
        numbers. A run that could train but not save would lose everything at its first save.
        Per character of a window there are the logits and their gradient, and about twelve numbers
        per hidden unit.
        """
        parameters = self.parameter_count(symbols)
        characters = self.batch * (self.k2 or self.k1)
        return {
            "weights, gradients and Adam's averages (--hidden, --layers)": 4 * 4 * parameters,
            "writing checkpoints (--hidden, --layers)": 4 * 8 * parameters,
            "the logits of a window (--batch, --k1, --k2)": 4 * characters * 3 * symbols,
            "the hidden states of a window (--batch, --k1, --k2, --hidden)": (
                4 * characters * 12 * self.hidden * self.layers
            ),
        }


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


_COUNTS = {"hidden": 1, "layers": 1, "embedding": 1, "batch": 1, "k1": 1, "epochs": 1, "seed": 0}


@dataclass(frozen=True)
class Corpus:
    """A text, its alphabet, and its two parts as ids: (N,) to train on, (M,) to validate with."""

    text: Text
    vocabulary: Vocabulary
    train: NDArray[np.int64]
    validation: NDArray[np.int64]

    @classmethod
    def of(cls, text: Text, *, validation: float = 0.1) -> Corpus:
        """Split a text; raises DataError where there is not enough of it."""
        vocabulary = Vocabulary.of(text.text)
        train, rest = split(vocabulary.encode(text.text), validation=validation)
        if len(rest) < 2:
            raise DataError(
                f"{text.name} has {len(text.text)} characters, and a tenth of that is too little "
                "to validate with: at least 2 characters there need a text of at least 20"
            )
        return cls(text, vocabulary, train, rest)
