"""Softmax cross entropy as one op: the loss of every classifier and language model here.

For a row of logits z and a target class k it is ``-log softmax(z)[k]``, in nats. Written with
separate ops it passes over the logits half a dozen times; fused, its gradient is simply
``softmax(z) - one_hot(k)``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_rnn import backends
from tinygrad_rnn.backends import namespace
from tinygrad_rnn.backends.base import Array
from tinygrad_rnn.core.fused import fused
from tinygrad_rnn.core.tensor import Tensor
from tinygrad_rnn.errors import DTypeError, ShapeError
from tinygrad_rnn.ops.arithmetic import not_equal, where
from tinygrad_rnn.ops.convert import astype
from tinygrad_rnn.ops.indexing import along_axis, as_index
from tinygrad_rnn.ops.reduce import log_softmax, mean
from tinygrad_rnn.ops.reduce import sum as total
from tinygrad_rnn.ops.shape import expand_dims, squeeze


def specification(
    logits: Any, targets: Any, *, ignore_index: int, reduction: str, label_smoothing: float
) -> Any:
    """The loss in plain ops: logits (..., V), targets (...) of class numbers."""
    plain = targets._data if isinstance(targets, Tensor) else targets
    counted = not_equal(plain, ignore_index)  # an array even where `plain` is 0-d
    log_p = log_softmax(logits, -1)
    picked = along_axis(log_p, expand_dims(where(counted, plain, 0), -1), log_p.ndim - 1)
    loss = -squeeze(picked, -1)
    if label_smoothing:
        loss = (1 - label_smoothing) * loss - label_smoothing * mean(log_p, -1)
    loss = where(counted, loss, 0)
    if reduction == "none":
        return loss
    result = total(astype(loss, np.float64))  # in float32 two losses of 2e38 add up to inf
    if reduction == "mean":
        result = result / astype(namespace(plain).maximum(total(counted), 1), np.float64)
    return astype(result, logits.dtype)


@fused(spec=specification)
def _softmax_cross_entropy(
    logits: Array,
    targets: Array,
    *,
    keep: bool,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
) -> tuple[Array, Any]:
    backend = backends.of(logits)
    flat = targets.reshape(-1)
    counted = flat != ignore_index
    rows = logits.reshape((flat.size, logits.shape[-1]))
    loss, softmax = backend.softmax_cross_entropy(rows, flat, counted, label_smoothing)
    if reduction == "none":
        out, count = loss.reshape(targets.shape), None
    else:
        out, count = backend.reduce_losses(loss, counted, reduction == "mean")
    cache = (softmax, flat, counted, count, logits.shape) if keep else None
    return out, cache


@_softmax_cross_entropy.backward
def _(
    g: Array,
    cache: Any,
    needs: tuple[bool, ...],
    *,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
) -> tuple[Array, None]:
    softmax, flat, counted, count, shape = cache
    each = g / count if reduction == "mean" else g  # one number, or one for each row
    backward = backends.of(softmax).softmax_cross_entropy_backward
    return backward(softmax, flat, counted, each.reshape(-1), label_smoothing).reshape(shape), None


def softmax_cross_entropy(
    logits: Any,
    targets: Any,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Any:
    """The cross entropy of softmax(logits) against class numbers, in nats.

    Args:
        logits: (..., V) unnormalised log probabilities, classes on the last axis.
        targets: (...) integers in 0 .. V-1, or `ignore_index`.
        ignore_index: targets of this value count neither in the loss nor in the mean.
        reduction: "mean" over the counted targets, "sum", or "none" for one loss per target.
        label_smoothing: the share of each target's weight spread evenly over all V classes.

    Returns:
        A 0-d Tensor, or one of the targets' shape for "none". If every target is ignored the loss
        is 0, and so is the gradient (PyTorch gives NaN).

    Raises:
        DTypeError: logits that are not floating-point numbers, targets that are not integers.
        ShapeError: the shapes do not belong together.
        IndexError: a target outside 0 .. V-1.
    """
    if reduction not in ("mean", "sum", "none"):
        raise DTypeError(f"cross_entropy: reduction is 'mean', 'sum' or 'none', got {reduction!r}")
    if not 0 <= label_smoothing <= 1:
        raise ShapeError(f"cross_entropy: label_smoothing is in [0, 1], got {label_smoothing}")
    if logits.dtype.kind != "f":  # the loss, in their dtype, would be cut to a whole number
        raise DTypeError(
            f"cross_entropy: needed floating-point logits, got {logits.dtype}; "
            f"convert them with .astype(tg.float32)"
        )
    if logits.ndim == 0 or logits.shape[-1] == 0:
        raise ShapeError(f"cross_entropy: needed logits (..., V) with V >= 1, got {logits.shape}")
    label_smoothing = float(label_smoothing)  # a NumPy scalar would make float32 losses float64
    numbers = as_index(targets, logits, logits.shape[-1], "cross_entropy", ignore=ignore_index)
    if logits.shape[:-1] != numbers.shape:
        raise ShapeError(
            f"cross_entropy: logits of shape {logits.shape} need targets of shape "
            f"{logits.shape[:-1]}, got {numbers.shape}; classes are on the last axis"
        )
    return _softmax_cross_entropy(
        logits,
        numbers,
        ignore_index=ignore_index,
        reduction=reduction,
        label_smoothing=label_smoothing,
    )
