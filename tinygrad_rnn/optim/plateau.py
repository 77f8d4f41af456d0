"""The schedule that watches a metric, usually the validation loss."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, SupportsFloat

from tinygrad_rnn.optim.base import Optimizer
from tinygrad_rnn.optim.options import COUNT, DECAY, FINITE, NON_NEGATIVE, Need
from tinygrad_rnn.optim.schedules import RATES, Schedule


class ReduceLROnPlateau(Schedule):
    """Multiply the rate by `factor` once a metric has not improved for more than `patience` steps.

    The one schedule that is no function of t; it is one of the metric's history.

    Args:
        optimizer: whose rates are set; errors as in `Schedule`.
        mode: "min" where less is better, "max" where more is.
        factor: what a reduction multiplies the rate by.
        patience: so many steps without improvement are allowed.
        threshold: how much better than the best counts as an improvement.
        threshold_mode: "rel", relative to the best value, or "abs".
        cooldown: so many steps after a reduction are not held against the metric.
        min_lr: the lowest rate, or a list of one per group.
        eps: a reduction that changes a rate by no more than this is not made.
    """

    needs: ClassVar[Mapping[str, Need]] = {
        "mode": Need("'min' or 'max'", lambda v: v in ("min", "max")),
        "factor": DECAY,
        "patience": COUNT,
        "threshold": NON_NEGATIVE,
        "threshold_mode": Need("'rel' or 'abs'", lambda v: v in ("rel", "abs")),
        "cooldown": COUNT,
        "min_lr": Need(
            "a number >= 0, or a list of them",
            lambda v: NON_NEGATIVE.accepts(v) or RATES.accepts(v),
        ),
        "eps": NON_NEGATIVE,
    }
    progress: ClassVar[Mapping[str, Need]] = {
        "last_epoch": COUNT,
        "last_lrs": RATES,
        "best": Need("a finite number or None", lambda v: v is None or FINITE.accepts(v)),
        "num_bad_epochs": COUNT,
        "cooldown_counter": COUNT,
    }
    mode: str
    factor: float
    patience: int
    threshold: float
    threshold_mode: str
    cooldown: int
    min_lr: float | Sequence[float]
    eps: float

    def __init__(
        self,
        optimizer: Optimizer,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float | Sequence[float] = 0,
        eps: float = 1e-8,
    ) -> None:
        super().__init__(
            optimizer,
            mode=mode,
            factor=factor,
            patience=patience,
            threshold=threshold,
            threshold_mode=threshold_mode,
            cooldown=cooldown,
            min_lr=min_lr,
            eps=eps,
        )
        self.best: float | None = None
        self.num_bad_epochs = self.cooldown_counter = 0

    def step(self, metrics: SupportsFloat) -> None:  # type: ignore[override] # PyTorch's signature
        """Take the metric of one more epoch into account. NaN and infinity are never better."""
        value = float(metrics)
        self.last_epoch += 1
        self.num_bad_epochs += 1
        if self._improves(value):
            self.best, self.num_bad_epochs = value, 0
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        rates = self._current()  # a person may have set them in the meantime
        if self.num_bad_epochs > self.patience:
            self.num_bad_epochs, self.cooldown_counter = 0, self.cooldown
            rates = self._reduced(rates)
        self._set(rates)

    def rates(self) -> list[float]:
        """The rates that were set last: they are a result of the history, kept as they are."""
        return list(self.last_lrs)

    def _reduced(self, rates: list[float]) -> list[float]:
        floors = self.min_lr if isinstance(self.min_lr, Sequence) else [self.min_lr] * len(rates)
        lower = [max(r * self.factor, m) for r, m in zip(rates, floors, strict=True)]
        return [new if old - new > self.eps else old for old, new in zip(rates, lower, strict=True)]

    def _improves(self, value: float) -> bool:
        """Whether `value` is better than the best by more than the threshold."""
        if self.best is None or not math.isfinite(value):
            return math.isfinite(value)
        sign = -1 if self.mode == "min" else 1
        if self.threshold_mode == "rel":
            return sign * value > sign * self.best * (1 + sign * self.threshold)
        return sign * value > sign * self.best + self.threshold
