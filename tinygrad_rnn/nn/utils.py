"""Clipping gradients: the cure for those that explode (Pascanu, Mikolov & Bengio 2013).

Sent back through many steps, a gradient can grow by orders of magnitude from one window to the
next. `clip_grad_norm_` keeps its direction and limits its length:

    g = g * min(1, max_norm / |g|)          |g| over all parameters taken as one long vector

PyTorch's version has three traps that are closed here: a non-finite norm passes in silence and
turns parameters into NaN, finite but huge float32 gradients overflow the norm and become 0, and a
tied parameter that is listed twice is clipped twice.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Real
from typing import Any

import numpy as np

from tinygrad_rnn import backends
from tinygrad_rnn.backends.base import Array
from tinygrad_rnn.core.tensor import Tensor, tensor, wrap
from tinygrad_rnn.errors import DataError, DeviceError, DTypeError, NonFiniteError

Parameters = Tensor | Iterable[Tensor] | Iterable[tuple[str, Tensor]]


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
    max_norm = _positive("clip_grad_norm_", "max_norm", max_norm)
    leaves = _with_gradients("clip_grad_norm_", parameters)
    norm = _norm(leaves)
    if not leaves:
        return wrap(norm, None)
    if error_if_nonfinite:
        length = float(norm)
        if not math.isfinite(length):
            raise NonFiniteError(_blame(leaves, length))
        if length <= max_norm:
            return wrap(norm, None)
    if max_norm < math.inf:
        # Computed on the device, where `norm` is: exactly 1 unless there is something to clip.
        scale = backends.namespace(norm).where(norm <= max_norm, 1.0, max_norm / (norm + 1e-6))
        with np.errstate(invalid="ignore"):  # inf * 0, for those who asked not to be told
            for _, leaf in leaves:
                g: Any = leaf.grad
                g *= scale.astype(np.promote_types(g.dtype, np.float32))
    return wrap(norm, None)


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
    norm = _norm(leaves)
    if clip_value < math.inf:
        for _, leaf in leaves:
            g: Any = leaf.grad
            backends.namespace(g).clip(g, -clip_value, clip_value, out=g)
    return wrap(norm, None)


def _positive(op: str, name: str, value: Any) -> float:
    if not (isinstance(value, Real) and float(value) > 0):  # false for NaN, too
        raise DataError(
            f"{op}: {name} is {value!r}; needed a number > 0 (inf to measure without clipping)"
        )
    return float(value)


def _with_gradients(op: str, parameters: Parameters) -> list[tuple[str, Tensor]]:
    """The parameters that have a gradient, each once, with what an error is to call them."""
    items = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    found: dict[Tensor, str] = {}  # a Tensor hashes by identity
    for position, item in enumerate(items):
        name, leaf = item if isinstance(item, tuple) and len(item) == 2 else ("", item)
        if not isinstance(leaf, Tensor):
            raise DTypeError(f"{op}: parameter {position} is a {type(leaf).__name__}, no Tensor")
        if leaf.grad is not None:
            label = f"parameter {position} {name!r}" if name else f"parameter {position}"
            found.setdefault(leaf, f"{label} of shape {leaf.shape}")
    devices = sorted({leaf.device for leaf in found})
    if len(devices) > 1:
        raise DeviceError(
            f"{op}: the parameters are on {', '.join(devices)}; one norm needs one device. Move "
            f"the model with .to({devices[-1]!r}), or clip the parameters of each by themselves"
        )
    return [(label, leaf) for leaf, label in found.items()]


def _norm(leaves: list[tuple[str, Tensor]]) -> Array:
    """The 2-norm of all gradients, summed in float64: 0-d, on their device."""
    if not leaves:
        return tensor(0.0, dtype=np.float64).data
    grads = [leaf.grad for _, leaf in leaves]
    with np.errstate(all="ignore"):  # trouble shows in the norm itself; no second voice about it
        return backends.of(grads[0]).global_norm(grads)


def _blame(leaves: list[tuple[str, Tensor]], length: float) -> str:
    """The message for a norm that is not finite. Slow, and on the way out anyway."""
    lines = []
    for label, leaf in leaves:
        host = backends.of(leaf.grad).to_host(leaf.grad)
        bad = int(host.size - np.isfinite(host).sum())
        if bad:
            lines.append(f"{label}: {bad} of {host.size} elements are NaN or infinite")
    lines = lines or ["every element is finite, but the sum of their squares overflows float64"]
    return (
        f"clip_grad_norm_: the norm of the gradients is {length}; nothing has been changed. Skip "
        f"this update, lower the learning rate, or look at the inputs and the loss of this window. "
        f"Found:\n  " + "\n  ".join(lines)
    )
