"""Clipping gradients: the cure for those that explode (Pascanu, Mikolov & Bengio 2013).

Sent back through many steps, a gradient can grow by orders of magnitude from one window to the
next. `clip_grad_norm_` keeps its direction and limits its length:

    g = g * min(1, max_norm / |g|)          |g| over all parameters taken as one long vector

PyTorch's version has three traps that are closed here: a non-finite norm passes in silence and
turns parameters into NaN, finite but huge float32 gradients overflow the norm and become 0, and a
tied parameter that is listed twice is clipped twice.

`clip_report_` does the same and tells more: the norm of every parameter's gradient, the factor, and
which parameter made the norm what it is. `Clipping` counts how often there was something to clip.
All of it rests on one array of squared norms, which the norm needs anyway and which stays on the
device: nothing waits for it before a person looks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from typing import Any

import numpy as np

from tinygrad_rnn import backends
from tinygrad_rnn.backends.base import Array
from tinygrad_rnn.core.tensor import Tensor, tensor, wrap
from tinygrad_rnn.errors import DataError, DeviceError, DTypeError, NonFiniteError

Parameters = Tensor | Iterable[Tensor] | Iterable[tuple[str, Tensor]]
Leaf = tuple[int, str, Tensor]  # its place among the parameters, its name or "", and itself


def clip_grad_norm_(
    parameters: Parameters, max_norm: float, *, error_if_nonfinite: bool = True
) -> Tensor:
    """Scale all gradients, in place and together, so that their norm is at most `max_norm`.

    The factor is PyTorch's ``max_norm / (norm + 1e-6)``; where ``norm <= max_norm``, the gradients
    stay bit for bit what they were.

    Args:
        parameters: a Tensor, Tensors, or the pairs of ``named_parameters()``, whose names then
            appear in errors. One that is listed twice counts once; one without gradient not at all.
        max_norm: the length allowed; inf to measure without clipping.
        error_if_nonfinite: raise where the norm is NaN or infinite. That reads the norm, so it
            waits for the device once; False never waits.

    Returns:
        The 2-norm of the gradients before clipping, a 0-d float64 Tensor on their device: nothing
        waits for it until ``float(norm)``. 0 where there are no gradients.

    Raises:
        NonFiniteError: names the parameters whose gradients are to blame; none has been changed.
        DataError: `max_norm` is not > 0.
        DTypeError: something that is no Tensor.
        DeviceError: the parameters are on several devices.
    """
    return _clip_norm("clip_grad_norm_", parameters, max_norm, error_if_nonfinite).norm


def clip_report_(
    parameters: Parameters, max_norm: float, *, error_if_nonfinite: bool = True
) -> ClipReport:
    """Do what `clip_grad_norm_` does (arguments and errors are the same), and report on it."""
    return _clip_norm("clip_report_", parameters, max_norm, error_if_nonfinite)


@dataclass(frozen=True, eq=False)
class ClipReport:
    """The gradients that `clip_report_` saw. What is a Tensor stays on the device until read."""

    names: tuple[str, ...]  # of the n parameters with a gradient; "parameter 3" if none was given
    squared_norms: Tensor  # (n,) float64, the squared norm of each, before clipping
    norm: Tensor  # 0-d float64, of all together: the root of their sum
    max_norm: float  # the length allowed
    scale: Tensor  # what all were multiplied by: 0-d, exactly 1 where nothing was clipped

    @property
    def norms(self) -> Tensor:
        """The norm of each parameter's gradient before clipping: (n,), in the order of `names`."""
        squares = self.squared_norms.data
        return wrap(backends.namespace(squares).sqrt(squares), None)

    @property
    def clipped(self) -> bool:
        """Whether the gradient was longer than allowed, and was scaled down. Reads `norm`.

        A NaN, which only gets here with ``error_if_nonfinite=False``, counts: it is no length.
        """
        return not float(self.norm) <= self.max_norm

    @property
    def dominant(self) -> str | None:
        """The name of the parameter with the longest gradient; None where all are 0. Waits."""
        return self._longest[0]

    @property
    def share(self) -> float:
        """What part of the squared norm is that parameter's: 1/n to 1, or 0 for none. Waits."""
        return self._longest[1]

    @cached_property
    def _longest(self) -> tuple[str | None, float]:
        squares = self.squared_norms.numpy()
        total = float(squares.sum())
        if total == 0:
            return None, 0.0
        longest = int(squares.argmax())  # a NaN, if there is one
        return self.names[longest], float(squares[longest]) / total


class Clipping:
    """How often gradients were clipped: `add` the report of each update, read the share when done.

    The count is kept on the device; only `clipped` and `share` wait for it.
    """

    def __init__(self) -> None:
        self.updates = 0
        self._clipped: Any = 0

    def __repr__(self) -> str:
        return f"Clipping({self.clipped} of {self.updates} updates)"

    def add(self, report: ClipReport) -> None:
        """Count an update."""
        self.updates += 1
        if report.names and report.max_norm < math.inf:  # without gradients nothing is clipped
            within = report.norm.data <= report.max_norm
            self._clipped = self._clipped + (1 - within)

    @property
    def clipped(self) -> int:
        """In how many updates the gradient was longer than allowed."""
        return int(self._clipped)

    @property
    def share(self) -> float:
        """`clipped` as a share of all updates; 0 before the first."""
        return self.clipped / max(1, self.updates)


def clip_grad_value_(parameters: Parameters, clip_value: float) -> Tensor:
    """Limit every element of every gradient to ``[-clip_value, clip_value]``, in place.

    That changes the direction of the gradient, which `clip_grad_norm_` keeps. An infinite element
    is clipped like any other; a NaN stays one.

    Args:
        parameters: as for `clip_grad_norm_`.
        clip_value: the largest absolute value allowed; inf to measure without clipping.

    Returns:
        The 2-norm of the gradients before clipping, as `clip_grad_norm_` does.

    Raises:
        DataError: `clip_value` is not > 0.
        DTypeError, DeviceError: as for `clip_grad_norm_`.
    """
    clip_value = _positive("clip_grad_value_", "clip_value", clip_value)
    leaves = _with_gradients("clip_grad_value_", parameters)
    _, norm, _ = _norms(leaves, math.inf)
    if clip_value < math.inf:
        for _, _, leaf in leaves:
            g: Any = leaf.grad
            backends.namespace(g).clip(g, -clip_value, clip_value, out=g)
    return wrap(norm, None)


def _positive(op: str, name: str, value: Any) -> float:
    if not (isinstance(value, Real) and float(value) > 0):  # false for NaN, too
        raise DataError(
            f"{op}: {name} is {value!r}; needed a number > 0 (inf to measure without clipping)"
        )
    return float(value)


def _clip_norm(
    op: str, parameters: Parameters, max_norm: float, error_if_nonfinite: bool
) -> ClipReport:
    max_norm = _positive(op, "max_norm", max_norm)
    leaves = _with_gradients(op, parameters)
    squares, norm, scale = _norms(leaves, max_norm)
    if _needs_scaling(op, leaves, norm, max_norm, error_if_nonfinite):
        with np.errstate(invalid="ignore"):  # inf * 0, for those who asked not to be told
            backends.of(scale).scale_all([leaf.grad for _, _, leaf in leaves], scale)
    names = tuple(name or f"parameter {position}" for position, name, _ in leaves)
    return ClipReport(names, wrap(squares, None), wrap(norm, None), max_norm, wrap(scale, None))


def _needs_scaling(
    op: str, leaves: list[Leaf], norm: Array, max_norm: float, error_if_nonfinite: bool
) -> bool:
    """False where the scale is 1 for certain, True where it may be another. See `error_if_...`."""
    if not leaves:
        return False
    if error_if_nonfinite:
        length = float(norm)
        if not math.isfinite(length):
            raise NonFiniteError(_blame(op, leaves, length))
        return length > max_norm
    return max_norm < math.inf


def _with_gradients(op: str, parameters: Parameters) -> list[Leaf]:
    """The parameters that have a gradient, each once, with their places and names."""
    items = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    found: dict[Tensor, tuple[int, str]] = {}  # a Tensor hashes by identity
    for position, item in enumerate(items):
        name, leaf = item if isinstance(item, tuple) and len(item) == 2 else ("", item)
        if not isinstance(leaf, Tensor):
            raise DTypeError(f"{op}: parameter {position} is a {type(leaf).__name__}, no Tensor")
        if leaf.grad is not None:
            found.setdefault(leaf, (position, name))
    devices = sorted({leaf.device for leaf in found})
    if len(devices) > 1:
        raise DeviceError(
            f"{op}: the parameters are on {', '.join(devices)}; one norm needs one device. Move "
            f"the model with .to({devices[-1]!r}), or clip the parameters of each by themselves"
        )
    return [(position, name, leaf) for leaf, (position, name) in found.items()]


def _norms(leaves: list[Leaf], max_norm: float) -> tuple[Array, Array, Array]:
    """The squares of each gradient's norm, (n,), the norm of all, 0-d, and the factor, 0-d."""
    if not leaves:
        none: list[float] = []
        squares, norm, factor = (tensor(v, dtype=np.float64).data for v in (none, 0.0, 1.0))
        return squares, norm, factor
    grads = [leaf.grad for _, _, leaf in leaves]
    with np.errstate(all="ignore"):  # trouble shows in the norm itself; no second voice about it
        return backends.of(grads[0]).clip_factor(grads, max_norm)


def _blame(op: str, leaves: list[Leaf], length: float) -> str:
    """The message for a norm that is not finite. Slow, and on the way out anyway."""
    lines = []
    for position, name, leaf in leaves:
        host = backends.of(leaf.grad).to_host(leaf.grad)
        bad = int(host.size - np.isfinite(host).sum())
        if bad:
            label = f"parameter {position} {name!r}" if name else f"parameter {position}"
            lines.append(
                f"{label} of shape {leaf.shape}: {bad} of {host.size} elements are NaN or infinite"
            )
    lines = lines or ["every element is finite, but the sum of their squares overflows float64"]
    return (
        f"{op}: the norm of the gradients is {length}; nothing has been changed. Skip "
        f"this update, lower the learning rate, or look at the inputs and the loss of this window. "
        f"Found:\n  " + "\n  ".join(lines)
    )
