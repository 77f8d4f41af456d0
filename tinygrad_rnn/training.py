"""A training run of a character model that can be stopped anywhere and goes on exactly there.

A run is a `Config`, a text, and a number of updates done. Everything that the next update depends
on is held in a `Session` and saved with it:

    parameters, optimizer       what has been learnt, and the averages Adam keeps of it
    schedule                    the learning rate at this moment
    random numbers              the generator that drops elements; it also drew the first weights
    (epoch, window)             the place in the text
    hidden state                what the network remembers of the text before that place

so N updates, a save, a load and N more updates give the same weights, bit for bit, as 2 N updates
in one go. Nothing is read from a clock, and sampling draws from a generator of its own.
"""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_rnn.char_lm import CharModel, evaluate
from tinygrad_rnn.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from tinygrad_rnn.config import Config, Corpus
from tinygrad_rnn.core.tensor import Tensor
from tinygrad_rnn.data import Streams
from tinygrad_rnn.errors import CheckpointError, DataError, NonFiniteError
from tinygrad_rnn.nn.functional import cross_entropy
from tinygrad_rnn.optim import Adam, LambdaLR
from tinygrad_rnn.tbptt import TBPTT, Report

__all__ = ["Config", "Corpus", "Session", "Update", "model_from"]

FINAL_LR = 0.05  # the last learning rate, as a share of the first
HOPELESS = 10.0  # nats above the loss of guessing, from where no run comes back


@dataclass(frozen=True)
class Update:
    """What one update did; losses are in nats per character."""

    step: int  # how many updates are done, with this one
    epoch: int  # which pass over the text it belongs to, from 1
    loss: float
    smoothed: float  # a running mean of the losses of about the last 25 updates
    norm: float  # 2-norm of the gradient before clipping
    clipped: bool
    scale: float  # what the gradient was multiplied by: 1 where it was not clipped
    dominant: str  # the parameter with the longest gradient; "" where all are 0
    lr: float  # the learning rate it was made with
    tokens: int  # characters predicted
    validation: float | None  # loss on the validation part, measured at the end of an epoch


class Session:
    """A run in progress: call `update` until `finished`, `save` whenever you like.

    Args:
        config: see `Config`.
        corpus: what to learn.
        device: "cpu", "cuda", ...

    Attributes:
        step: updates done; `total` is how many there are.
        windows: updates in one epoch.
        best: the lowest validation loss so far; `validation` is the last one.
        notes: what a program wants to find again in a checkpoint, under ``extra["notes"]``.

    Raises:
        DataError: a bad configuration, or a text too short for one window of every stream.
    """

    def __init__(self, config: Config, corpus: Corpus, *, device: str = "cpu") -> None:
        config.check()
        self.config, self.corpus, self.device = config, corpus, device
        self.windows, self._xs, self._ys = _streams(config, corpus)
        self.rng = np.random.default_rng(config.seed)
        self.model = model_from(config, len(corpus.vocabulary), rng=self.rng, device=device)
        self.optimizer = Adam(self.model.parameters(), lr=config.lr)
        self.schedule = LambdaLR(self.optimizer, self._lr_factor)
        self.tbptt = TBPTT(
            self.model,
            cross_entropy,
            self.optimizer,
            k1=config.k1,
            k2=config.k2,
            clip_norm=config.clip,
        )
        self.step = 0
        self.smoothed = math.nan
        self.validation: float | None = None
        self.best: float | None = None
        self.notes: dict[str, Any] = {}
        self._state: Any = None  # of the recurrent layers, before the next window

    @property
    def total(self) -> int:
        """How many updates the whole run has."""
        return self.config.epochs * self.windows

    @property
    def finished(self) -> bool:
        """Whether all updates are done."""
        return self.step >= self.total

    def _lr_factor(self, t: int) -> float:
        """Half a cosine from 1 to FINAL_LR: large steps first, small ones to settle."""
        return FINAL_LR + (1 - FINAL_LR) * (1 + math.cos(math.pi * min(1, t / self.total))) / 2

    # ---- going on ----

    def update(self) -> Update:
        """The next update, and at the end of an epoch the validation loss.

        Raises:
            NonFiniteError: the loss or its gradient is NaN or infinite, or a loss is far above
                that of guessing. Where it is the gradient, no weight has been changed; in any case
                the run cannot go on.
        """
        epoch, window = divmod(self.step, self.windows)
        lr = float(self.optimizer.param_groups[0]["lr"])
        report, loss = self._train_on(window)
        loss, norm = loss + 0.0, float(report.norm)  # -log 1 is -0.0: lose the sign
        self.step += 1
        self.schedule.step()
        # An exponential mean of the latest third of the updates, of 25 or so at most.
        weight = max(3 / (self.step + 2), 0.04)
        before = loss if self.step == 1 else self.smoothed
        self.smoothed = before + weight * (loss - before)
        self._check_hopeful("smoothed training", self.smoothed)
        self._state = report.state
        measured = None
        if window == self.windows - 1:
            self._state = None  # the next epoch starts at the beginning, with an empty memory
            measured = self._validate()
        gradient = report.gradient
        return Update(
            self.step, epoch + 1, loss, self.smoothed, norm, gradient.clipped,
            float(gradient.scale), gradient.dominant or "", lr, report.tokens, measured,
        )  # fmt: skip

    def _train_on(self, window: int) -> tuple[Report, float]:
        """One update of the weights, and its loss; with k1 < k2 the steps of `TBPTT.run`.

        Each number that is read makes a GPU finish first, so each is read once.
        """
        k1, k2 = self.tbptt.k1, self.tbptt.k2
        new, end = window * k1, (window + 1) * k1
        start, next_start = max(0, new + k1 - k2), max(0, end + k1 - k2)
        try:
            # NumPy's warnings would only say first what is found below.
            with np.errstate(over="ignore", invalid="ignore"):
                report = self.tbptt.update(
                    self._xs[start:end],
                    self._ys[new:end],
                    self._state,
                    context=new - start,
                    carry=next_start - start,
                )
        except NonFiniteError as error:
            raise NonFiniteError(f"step {self.step + 1}: {error}") from error
        loss = float(report.loss)
        if not math.isfinite(loss):
            raise NonFiniteError(
                f"step {self.step + 1}: the loss is {loss}, with a gradient of norm "
                f"{float(report.norm):.3g}"
            )
        return report, loss

    def _validate(self) -> float:
        with np.errstate(over="ignore", invalid="ignore"):
            loss = evaluate(self.model, self.corpus.validation, batch=self.config.batch) + 0.0
        self._check_hopeful("validation", loss)
        self.validation = loss
        self.best = loss if self.best is None else min(self.best, loss)
        return loss

    def _check_hopeful(self, what: str, loss: float) -> None:
        """Refuse a loss far above log V, that of knowing nothing: it need not be infinite.

        Weights of 1e30 give finite losses of 1e29, and such a run would end as a success.
        """
        guessing = math.log(len(self.corpus.vocabulary))
        if not loss <= guessing + HOPELESS:  # nor is NaN
            raise NonFiniteError(
                f"step {self.step}: the {what} loss is {loss:.3g}, and that of guessing is "
                f"{guessing:.3g}"
            )

    # ---- to a file and back ----

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything that the next update depends on; see `save_checkpoint` for errors."""
        epoch, window = divmod(self.step, self.windows)
        text = self.corpus.text
        save_checkpoint(
            path,
            model=self.model,
            optimizer=self.optimizer,
            schedule=self.schedule,
            rng=self.rng,
            position={"step": self.step, "epoch": epoch, "window": window, "total": self.total},
            hidden=self._state,
            vocabulary=self.corpus.vocabulary,
            config=asdict(self.config),
            extra={
                "text": {"name": text.name, "sha256": text.sha256, "length": len(text.text)},
                "smoothed": self.smoothed,
                "validation": self.validation,
                "best": self.best,
                "notes": self.notes,
            },
        )

    def restore(self, path: str | os.PathLike[str]) -> Checkpoint:
        """Go on where `save` was called. The session must be of the same configuration and text.

        Only `epochs` may differ: with more of them a finished run goes on.

        Raises:
            CheckpointError: the file is damaged or does not fit; the session is as it was.
        """
        found = load_checkpoint(path)
        self._check_fits(found, path)
        load_checkpoint(
            path, model=self.model, optimizer=self.optimizer, schedule=self.schedule, rng=self.rng
        )
        self.step = int(found.position["step"])
        self.smoothed = float(found.extra["smoothed"])
        self.validation, self.best = found.extra["validation"], found.extra["best"]
        self._state = _to_device(found.hidden, self.device)
        return found

    def _check_fits(self, found: Checkpoint, path: str | os.PathLike[str]) -> None:
        saved, mine = asdict(Config.of(found.config)), asdict(self.config)
        differing = [n for n in mine if n != "epochs" and saved[n] != mine[n]]
        if differing:
            listed = ", ".join(f"{n} ({saved[n]} there, {mine[n]} here)" for n in differing)
            raise CheckpointError(f"{path} is of another run: it differs in {listed}")
        try:
            other = found.extra["text"]["sha256"] != self.corpus.text.sha256
            complete = {"smoothed", "validation", "best"} <= found.extra.keys()
            complete &= found.position["step"] >= 0
        except (KeyError, TypeError, AttributeError):
            other = complete = False
        if not complete:
            raise CheckpointError(f"{path} is no checkpoint of a training session")
        if other or found.vocabulary != self.corpus.vocabulary.symbols:
            raise CheckpointError(f"{path} was trained on another text ({found.extra['text']})")


def model_from(
    config: Config, symbols: int, *, rng: np.random.Generator | int = 0, device: str | None = None
) -> CharModel:
    """The model that a configuration describes, with new weights."""
    return CharModel(
        symbols,
        kind=config.model,
        hidden=config.hidden,
        layers=config.layers,
        embedding=config.embedding,
        dropout=config.dropout,
        rng=rng,
        device=device,
    )


def streams_of(config: Config, corpus: Corpus) -> Streams:
    """The training part in windows; raises DataError where it is too short for one."""
    try:
        return Streams(corpus.train, batch=config.batch, window=config.k1)
    except DataError as error:
        raise DataError(f"the training part of {corpus.text.name}: {error}") from error


def _streams(config: Config, corpus: Corpus) -> tuple[int, NDArray[Any], NDArray[Any]]:
    """The number of windows, and inputs and targets (windows * k1, B) with time first."""
    streams = streams_of(config, corpus)
    xs, ys = zip(*streams, strict=True)
    return len(streams), np.concatenate(xs), np.concatenate(ys)


def _to_device(state: Any, device: str) -> Any:
    """A saved recurrent state, None, an array or a tuple of arrays, as Tensors."""
    if isinstance(state, tuple):
        return tuple(_to_device(part, device) for part in state)
    return None if state is None else Tensor(state, device=device)
