"""Schedules of the learning rate, with PyTorch's names, defaults and values.

A schedule here is a function: the number t of steps taken goes in, the learning rate comes out,
computed from the rates that the optimizer had when the schedule was made. PyTorch multiplies the
previous rate by a factor instead, and collects rounding errors as it goes. A function can be
plotted, tested and resumed at any t; the price is that two schedules on one optimizer do not
multiply: the last one to step decides.

    schedule = StepLR(optimizer, step_size=10)
    for epoch in range(50):
        ...                                  # optimizer.step(), many times
        schedule.step()
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from tinygrad_rnn.errors import CheckpointError, DataError, DTypeError
from tinygrad_rnn.optim.base import Optimizer
from tinygrad_rnn.optim.options import COUNT, NON_NEGATIVE, UNIT, Need, misfits, plain

POSITIVE_COUNT = Need("an integer >= 1", lambda v: COUNT.accepts(v) and v >= 1)
POSITIVE_UNIT = Need("a number > 0 and <= 1", lambda v: UNIT.accepts(v) and v > 0)
RATES = Need(
    "a list of numbers >= 0",
    lambda v: isinstance(v, list | tuple) and all(map(NON_NEGATIVE.accepts, v)),
)


class Schedule:
    """Base class: a subclass says what the rate is at step t, in `rate`.

    Making a schedule sets the optimizer's rates to those of t = 0.

    Raises:
        DTypeError: `optimizer` is no `Optimizer`.
        DataError: an option out of its range.
    """

    needs: ClassVar[Mapping[str, Need]] = {}  # the options, and what each must be
    progress: ClassVar[Mapping[str, Need]] = {"last_epoch": COUNT, "base_lrs": RATES}

    def __init__(self, optimizer: Optimizer, **options: Any) -> None:
        if not isinstance(optimizer, Optimizer):
            raise DTypeError(f"{self._name} needs an Optimizer, got {type(optimizer).__name__}")
        self.optimizer = optimizer
        options = {name: plain(value) for name, value in options.items()}
        if problems := self._problems(self.needs, options):
            raise DataError(f"{self._name}: {'; '.join(problems)}")
        for name, value in options.items():
            setattr(self, name, value)
        self.last_epoch = 0  # t, under PyTorch's name
        self.base_lrs: Sequence[float] = self._current()
        self.last_lrs: Sequence[float] = self.base_lrs
        self._set(self.rates())

    def rate(self, t: int, base: float) -> float:
        """The learning rate after t steps, for a group that began with `base`."""
        raise NotImplementedError(f"{self._name} does not say what the rate is")

    def rates(self) -> list[float]:
        """The learning rate of each group, now."""
        return [self.rate(self.last_epoch, base) for base in self.base_lrs]

    def step(self) -> None:
        """One step further: after an epoch, or after an update, as the schedule is meant."""
        self.last_epoch += 1
        self._set(self.rates())

    def get_last_lr(self) -> list[float]:
        """The learning rates that were set last, one per group of the optimizer."""
        return list(self.last_lrs)

    def state_dict(self) -> dict[str, Any]:
        """Options and progress as plain numbers, strings and lists (a JSON file can hold them)."""
        values = {name: getattr(self, name) for name in (*self.needs, *self.progress)}
        return {k: list(v) if isinstance(v, list | tuple) else v for k, v in values.items()}

    def load_state_dict(self, state_dict: Any) -> None:
        """Go on from a `state_dict`, and set the optimizer's rates to those of that moment.

        Raises:
            CheckpointError: it does not fit; lists every reason, and nothing has been changed.
        """
        saved = state_dict if isinstance(state_dict, Mapping) else {}
        values = {name: plain(value) for name, value in saved.items()}
        problems = self._problems({**self.needs, **self.progress}, values)
        if problems:
            raise CheckpointError(
                f"{self._name}: the state dict does not fit this schedule, which is unchanged: "
                f"{'; '.join(problems)}"
            )
        for name, value in values.items():
            setattr(self, name, value)
        self._set(self.rates())

    def _problems(self, needs: Mapping[str, Need], values: Mapping[str, Any]) -> list[str]:
        """What is wrong with these options; whatever is a list has one entry per group."""
        groups = len(self.optimizer.param_groups)
        return misfits(needs, values) + [
            f"{name} has {len(value)} entries, needed {groups}, one per group"
            for name, value in values.items()
            if isinstance(value, tuple) and len(value) != groups
        ]

    def _current(self) -> list[float]:
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def _set(self, rates: Sequence[float]) -> None:
        groups = self.optimizer.param_groups
        if len(groups) != len(rates):
            raise DataError(
                f"{self._name} was made for {len(rates)} groups, the optimizer has {len(groups)}; "
                f"make the schedule after the last add_param_group"
            )
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
        self.last_lrs = rates

    @property
    def _name(self) -> str:
        return type(self).__name__


class StepLR(Schedule):
    """A stair: ``base * gamma ** (t // step_size)``.

    Args:
        optimizer: whose rates are set; errors as in `Schedule`.
        step_size: the width of a stair, in steps.
        gamma: the factor from each stair to the next.
    """

    needs: ClassVar[Mapping[str, Need]] = {"step_size": POSITIVE_COUNT, "gamma": NON_NEGATIVE}
    step_size: int
    gamma: float

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1) -> None:
        super().__init__(optimizer, step_size=step_size, gamma=gamma)

    def rate(self, t: int, base: float) -> float:
        """``base * gamma ** (t // step_size)``."""
        return base * self.gamma ** (t // self.step_size)


class ExponentialLR(Schedule):
    """``base * gamma ** t``.

    Args:
        optimizer: whose rates are set; errors as in `Schedule`.
        gamma: the factor of each step.
    """

    needs: ClassVar[Mapping[str, Need]] = {"gamma": NON_NEGATIVE}
    gamma: float

    def __init__(self, optimizer: Optimizer, gamma: float) -> None:
        super().__init__(optimizer, gamma=gamma)

    def rate(self, t: int, base: float) -> float:
        """``base * gamma ** t``."""
        return base * self.gamma**t


class CosineAnnealingLR(Schedule):
    """``eta_min + (base - eta_min) * (1 + cos(π t / T_max)) / 2``.

    Down to `eta_min` in `T_max` steps and, if one goes on, up again in as many (Loshchilov &
    Hutter 2017, arXiv:1608.03983, equation 5, without their restarts).

    Args:
        optimizer: whose rates are set; errors as in `Schedule`.
        T_max: steps on the way down.
        eta_min: the lowest rate.
    """

    needs: ClassVar[Mapping[str, Need]] = {"T_max": POSITIVE_COUNT, "eta_min": NON_NEGATIVE}
    T_max: int
    eta_min: float

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0) -> None:
        super().__init__(optimizer, T_max=T_max, eta_min=eta_min)

    def rate(self, t: int, base: float) -> float:
        """Half a period of the cosine above for every T_max steps."""
        return self.eta_min + (base - self.eta_min) * (1 + math.cos(math.pi * t / self.T_max)) / 2


class LinearLR(Schedule):
    """A ramp: base times a factor that goes from `start_factor` to `end_factor`, then stays.

    Args:
        optimizer: whose rates are set; errors as in `Schedule`.
        start_factor: the factor at t = 0.
        end_factor: the factor from t = total_iters on.
        total_iters: the length of the ramp, in steps.
    """

    needs: ClassVar[Mapping[str, Need]] = {
        "start_factor": POSITIVE_UNIT,
        "end_factor": UNIT,
        "total_iters": POSITIVE_COUNT,
    }
    start_factor: float
    end_factor: float
    total_iters: int

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
    ) -> None:
        super().__init__(
            optimizer, start_factor=start_factor, end_factor=end_factor, total_iters=total_iters
        )

    def rate(self, t: int, base: float) -> float:
        """Base times the factor, interpolated linearly."""
        done = min(t, self.total_iters) / self.total_iters
        return base * (self.start_factor + (self.end_factor - self.start_factor) * done)


class LambdaLR(Schedule):
    """``base * function(t)``, for a function of your own.

    The function is no part of `state_dict`: a file holds data, not programs.

    Args:
        optimizer: whose rates are set; errors as in `Schedule`.
        lr_lambda: one function of t, or a list of one per group.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        lr_lambda: Callable[[int], float] | Sequence[Callable[[int], float]],
    ) -> None:
        self.lr_lambda = lr_lambda  # first: the base class asks for the rates at t = 0
        super().__init__(optimizer)

    def rates(self) -> list[float]:
        """Base times the value of each group's function."""
        groups = len(self.base_lrs)
        functions = [self.lr_lambda] * groups if callable(self.lr_lambda) else self.lr_lambda
        if len(functions) != groups:
            raise DataError(f"LambdaLR got {len(functions)} functions for {groups} groups")
        pairs = zip(self.base_lrs, functions, strict=True)
        return [base * float(function(self.last_epoch)) for base, function in pairs]
