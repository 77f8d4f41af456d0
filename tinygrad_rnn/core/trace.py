"""Where a value came from, put into words: what `core/anomaly.py` writes down and reports."""

from __future__ import annotations

import hashlib
import linecache
import os
import sys
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from tinygrad_rnn import backends
from tinygrad_rnn.backends.base import Array

PACKAGE = str(Path(__file__).parents[1]) + os.sep  # frames of files below are not the user's


@dataclass(frozen=True)
class Anomaly:
    """What is known of the first value that is not finite; ``str`` puts it into words.

    Attributes:
        op: the operation; of a fused one, its name.
        phase: "forward" or "backward".
        what: the value: which array it stands in, where, and how many are like it.
        inside: for a fused op, the plain op of its specification that failed; "" if none did.
        layer: the module that was running and its parameters that the op uses; "" outside of one.
        step: the time step, from 0; None where there is none.
        gates: the gates of the recurrent layer that are concerned, by letter; "" if none.
        line: the line of the program that called the op.
        before: the numbers that went in, one line each.
    """

    op: str
    phase: str
    what: str
    inside: str = ""
    layer: str = ""
    step: int | None = None
    gates: str = ""
    line: str = ""
    before: tuple[str, ...] = ()

    def __str__(self) -> str:
        rows = [
            ("in the op", f"{self.inside} of its specification" if self.inside else ""),
            ("layer", self.layer),
            ("time step", "" if self.step is None else f"{self.step} (the first is 0)"),
            ("gate", ", ".join(self.gates)),
            ("line", self.line),
            *(("before", fact) for fact in self.before),
        ]
        lines = [f"\n  {name:10} {text}" for name, text in rows if text]
        return f"{self.op}: {self.what}, first seen in the {self.phase} pass" + "".join(lines)


@dataclass
class Trace:
    """Where a node was made, and what the arrays were that it saved.

    Attributes:
        line, step: of the program, and of its loop over time.
        modules: weak references to those that were running: one may hold the result that holds us.
        gates: of a recurrent layer, those that the result belongs to.
        prints: a fingerprint of each saved array, by its id; the node keeps the arrays alive.
    """

    line: str
    step: int | None
    modules: tuple[Any, ...]
    gates: frozenset[str] = frozenset()
    prints: dict[int, bytes] = field(default_factory=dict)


def bad_places(value: Array, nan_only: bool) -> tuple[np.ndarray, np.ndarray]:
    """The values on the host, and the index of each that is not finite, in C order."""
    host = backends.of(value).to_host(value)
    return host, np.argwhere(np.isnan(host) if nan_only else ~np.isfinite(host))


def statistics(value: Any) -> str:
    """Shape, dtype, range and size of an array in a few words."""
    if type(value) not in backends.ARRAY_TYPES:
        return repr(value)
    host = backends.of(value).to_host(value)
    kind = f"{host.shape} {host.dtype}"
    finite = host[np.isfinite(host)] if host.dtype.kind == "f" else host
    if not finite.size:
        return f"{kind}, no finite value"
    mean = np.abs(finite.astype(np.float64)).mean()
    bad = host.size - finite.size
    besides = f", {bad} of {host.size} not finite" if bad else ""
    return f"{kind}, from {finite.min():.3g} to {finite.max():.3g}, mean size {mean:.3g}{besides}"


def fingerprint(array: Array) -> bytes:
    """A hash of the values: two arrays with the same one are, for all practical ends, equal."""
    host = backends.of(array).to_host(array)
    return hashlib.blake2b(host.tobytes(), digest_size=16).digest()


def layer(modules: tuple[Any, ...], ends: Container[Any]) -> str:
    """The innermost module that was running, by its path in the outermost, and its parameters.

    Named are the parameters that are among `ends`, the leaves that an op works on.
    """
    running = [module for ref in modules if (module := ref()) is not None]
    if not running:
        return ""
    outer, inner = running[0], running[-1]
    path = next((name for name, module in outer.named_modules() if module is inner), "")
    text = f"{type(inner).__name__}({inner.describe()})"
    named = inner.named_parameters()
    used = [name for name, p in named if p._node is not None and p._node in ends]
    return (f"{path}, " if path else "") + text + (f", with {', '.join(used)}" if used else "")


def user_line() -> str:
    """The innermost line of the program that is not in this package."""
    for frame in _frames():
        name = frame.f_code.co_filename
        if not name.startswith(PACKAGE):
            return f"{name}:{frame.f_lineno}: {linecache.getline(name, frame.f_lineno).strip()}"
    return ""


def user_level() -> int:
    """The `stacklevel` with which `warnings.warn`, called by our caller, points at the program."""
    inside = [frame.f_code.co_filename.startswith(PACKAGE) for frame in _frames()]
    return inside.index(False) + 1 if False in inside else 1


def _frames() -> Iterator[FrameType]:
    """The frames of this thread, the innermost first, without those of this file."""
    frame: FrameType | None = sys._getframe(0)
    while frame is not None:
        if frame.f_code.co_filename != __file__:
            yield frame
        frame = frame.f_back
