"""Truncated back-propagation through time (Williams & Peng 1990).

A sequence may be a whole book; the graph of a pass over it would not fit into any memory. So the
stream is read in windows. The *state* flows on from window to window, so that the network's memory
is as long as it likes; the *gradient* does not: at each window's start the state is detached.

    update every k1 steps, through the last k2 steps:

    k1 = k2          |--------|--------|--------|        each gradient stops at its window's start

    k1 < k2      |---+--------|                          the newest k1 steps give the loss, and its
                     |---+----+---|                      gradient runs back over k2: windows
                         |--------+---|                  overlap, and no error is cut off at once

With k1 < k2 the older part of a window is computed again, with the weights as they are now: a
graph kept from before the last update would mix old activations with new weights.

The whole of it is `detach` and `backward`; everything here can be written in your own loop, as
`examples/char_lm.py` does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tinygrad_rnn.core.tensor import Tensor
from tinygrad_rnn.errors import ShapeError
from tinygrad_rnn.nn.module import Module
from tinygrad_rnn.nn.utils import Clipping, ClipReport, clip_report_
from tinygrad_rnn.ops.shape import concat


@dataclass(frozen=True)
class Report:
    """What one update did. Numbers stay on their device until they are read with ``float()``."""

    loss: Tensor  # mean loss of the new steps, 0-d
    tokens: int  # how many targets that is the mean of
    gradient: ClipReport  # norms before clipping, the scale applied, which parameter dominated
    clip_norm: float | None  # the bound, if there is one
    state: Any  # detached: where the next window starts; after the last, the end of the stream

    @property
    def norm(self) -> Tensor:
        """The 2-norm of all gradients before clipping, 0-d."""
        return self.gradient.norm

    @property
    def clipped(self) -> bool:
        """Whether the gradient was longer than the bound, and was scaled down to it."""
        return self.gradient.clipped


class TBPTT:
    """Train on streams, window by window.

    Args:
        model: ``model(x, state) -> (outputs, state)`` with time as the first axis; a state of
            None is the beginning.
        loss_fn: ``loss_fn(outputs, targets) -> loss``, a 0-d Tensor.
        optimizer: has ``step()``, ``zero_grad()`` and ``param_groups``.
        k1: steps between updates.
        k2: steps a gradient runs back, k2 >= k1; k1 if None.
        clip_norm: the largest 2-norm of a gradient; None leaves gradients as they are.
        error_if_nonfinite: raise NonFiniteError instead of updating with a gradient that is NaN or
            infinite. That reads the norm, the one wait for the device in an update; False has none.

    Attributes:
        clipping: in how many of the updates so far the gradient was clipped, and which share.
    """

    def __init__(
        self,
        model: Callable[..., tuple[Any, Any]],
        loss_fn: Callable[[Any, Any], Tensor],
        optimizer: Any,
        *,
        k1: int,
        k2: int | None = None,
        clip_norm: float | None = None,
        error_if_nonfinite: bool = True,
    ) -> None:
        k2 = k1 if k2 is None else k2
        if not _is_window(k1, k2):
            raise ShapeError(f"TBPTT: needed whole numbers 1 <= k1 <= k2, got k1={k1}, k2={k2}")
        self.model, self.loss_fn, self.optimizer = model, loss_fn, optimizer
        self.k1, self.k2, self.clip_norm = k1, k2, clip_norm
        self.error_if_nonfinite = error_if_nonfinite
        self.clipping = Clipping()
        # A function has no names for its parameters; reports then call them "parameter 3".
        named = model.named_parameters() if isinstance(model, Module) else ()
        self._names = {parameter: name for name, parameter in named}

    def run(self, xs: Any, ys: Any, state: Any = None) -> Iterator[Report]:
        """Go through a stream once, yielding a `Report` after each update.

        Args:
            xs: inputs (N, B, ...), time first: an array, a Tensor or anything that slices.
            ys: targets (N, B, ...), one for each input.
            state: where to begin; the state of the last report continues a stream.

        The last window is shorter when k1 does not divide N. Memory does not grow with N.
        """
        if len(xs) != len(ys):
            raise ShapeError(f"TBPTT: {len(xs)} inputs but {len(ys)} targets; one each is needed")
        start = 0
        for done in range(0, len(xs), self.k1):
            end = min(done + self.k1, len(xs))
            # Where the next window will start: k2 steps before its end, which is k1 from here.
            # After the last, nothing is left to overlap with: the state is that of the end.
            next_start = end if end == len(xs) else max(0, end + self.k1 - self.k2)
            report = self.update(
                xs[start:end], ys[done:end], state, context=done - start, carry=next_start - start
            )
            start, state = next_start, report.state
            yield report

    def update(
        self, x: Any, y: Any, state: Any = None, *, context: int = 0, carry: int | None = None
    ) -> Report:
        """One update on one window.

        Args:
            x: (context + k, B, ...): steps that were seen before, then k new ones.
            y: (k, B, ...): targets of the new steps, the only ones in the loss.
            state: the state before the window's first step.
            context: how many steps at the start only carry the gradient further back.
            carry: after how many steps to take the state for the next window; all, if None.
        """
        carry = len(x) if carry is None else carry
        self.optimizer.zero_grad()
        outputs = []
        carried = state
        if carry:
            out, carried = self.model(x[:carry], state)
            outputs.append(out)
        if carry < len(x):  # cut where the next window starts, because its first state is there
            out, _ = self.model(x[carry:], carried)
            outputs.append(out)
        out = outputs[0] if len(outputs) == 1 else concat(outputs, 0)
        loss = self.loss_fn(out[context:] if context else out, y)
        loss.backward()
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        gradient = clip_report_(
            [(self._names.get(p, ""), p) for p in parameters],
            math.inf if self.clip_norm is None else self.clip_norm,
            error_if_nonfinite=self.error_if_nonfinite,
        )
        self.clipping.add(gradient)
        self.optimizer.step()
        tokens = y.size if hasattr(y, "size") else len(y)
        return Report(loss.detach(), tokens, gradient, self.clip_norm, detach(carried))


def _is_window(k1: object, k2: object) -> bool:
    return isinstance(k1, int) and isinstance(k2, int) and 1 <= k1 <= k2


def detach(state: Any) -> Any:
    """A recurrent state cut off from its graph: a Tensor, None, or tuples, lists, dicts of such."""
    if isinstance(state, Tensor):
        return state.detach()
    if isinstance(state, tuple | list):
        return type(state)(detach(part) for part in state)
    if isinstance(state, dict):
        return {name: detach(part) for name, part in state.items()}
    return state
