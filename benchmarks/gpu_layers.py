"""A recurrent layer, forward and backward, beside PyTorch's, which is cuDNN's.

Both start from the same weights, read the same x (T, B, I) and get the same gradient of out
(T, B, H); both compute the gradients of x and of all four weights. Everything each of them returns
is compared, before and after the timing, with PyTorch's own layer in float64:

    error = max over out and gradients of |a - reference| / |reference|          2-norms

A layer whose error is above `LIMITS` is marked WRONG, and so is one that gives NaN.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from benchmarks.gpu_ceilings import need_ceilings
from benchmarks.gpu_clock import (
    DeviceLostError,
    Place,
    Run,
    Samples,
    first_line,
    note_failures,
    take_turns,
    tell_table,
)
from benchmarks.gpu_table import REHEARSAL, WINDOWS, Window, floor_ms, layer_work, number, ratio

IMPLS = ("fused", "step", "persistent", "auto")
LIMITS = {False: 1e-4, True: 3e-3}  # strict float32 rounds to 6e-8, TF32 to 5e-4
PRECISIONS = {False: "strict", True: "TF32"}
HEADERS = [
    "layer", "who", "fwd ms", "/ torch", "fwd + bwd ms", "/ torch (range)", "host ms", "floor ms",
    "x floor", "error", "verdict",
]  # fmt: skip
TITLE = "A recurrent layer, forward and backward"


class TorchLayer:
    """PyTorch's layer; also the maker of the weights, of x and of the gradient of out."""

    def __init__(self, place: Place, cell: str, w: Window) -> None:
        torch = place.torch
        torch.manual_seed(0)
        kind = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}[cell]
        self.layer = kind(w.I, w.H).to(place.device)
        self.x = torch.randn(w.T, w.B, w.I, device=place.device, requires_grad=True)
        self.g = torch.randn(w.T, w.B, w.H, device=place.device)
        self.torch, self.out = torch, None

    def prepare(self) -> None:
        self.out = self.x.grad = None
        for parameter in self.layer.parameters():
            parameter.grad = None

    def __call__(self) -> None:
        self.out = self.layer(self.x)[0]
        self.out.backward(self.g)

    def forward(self) -> None:
        with self.torch.no_grad():
            self.out = self.layer(self.x)[0]

    def results(self) -> dict[str, Any]:
        """What the last call computed, by name."""
        grads = {name: p.grad for name, p in self.layer.named_parameters()}
        return {"out": self.out.detach(), "x": self.x.grad} | grads

    def in_float64(self) -> TorchLayer:
        """The same layer, in double precision."""
        twin = copy.copy(self)
        twin.layer = copy.deepcopy(self.layer).double()
        twin.x = self.x.detach().double().requires_grad_()
        twin.g = self.g.double()
        return twin


class OurLayer:
    """This project's layer with the weights of `theirs`, in one implementation (`layer.impl`)."""

    def __init__(self, place: Place, cell: str, w: Window, theirs: TorchLayer) -> None:
        import tinygrad_rnn as tg
        from tinygrad_rnn import nn

        kind = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[cell]
        weights = {n: p.detach().cpu().numpy() for n, p in theirs.layer.named_parameters()}
        self.layer: Any = kind(w.I, w.H)
        self.layer.load_state_dict(weights)
        self.layer.to(place.device)
        x, g = theirs.x.detach().cpu().numpy(), theirs.g.cpu().numpy()
        self.x = tg.Tensor(x, device=place.device, requires_grad=True)
        self.g = tg.Tensor(g, device=place.device)
        self.place, self.tg, self.out, self.impl = place, tg, None, "auto"

    def as_impl(self, impl: str) -> OurLayer:
        """The same layer and data in another implementation."""
        twin = copy.copy(self)
        twin.impl = impl
        return twin

    def prepare(self) -> None:
        self.out = self.x.grad = None
        self.layer.zero_grad()
        self.layer.impl = self.impl

    def __call__(self) -> None:
        out = self.layer(self.x)[0]
        out.backward(self.g)
        self.out = out

    def forward(self) -> None:
        with self.tg.no_grad():
            self.out = self.layer(self.x)[0]

    def results(self) -> dict[str, Any]:
        arrays = {"out": self.out.data, "x": self.x.grad}
        arrays |= {name: p.grad for name, p in self.layer.named_parameters()}
        return {name: self.place.tensor(array) for name, array in arrays.items()}


class ForwardOnly:
    """The same layer, without a backward pass and without a graph."""

    def __init__(self, layer: TorchLayer | OurLayer) -> None:
        self.prepare, self.forward = layer.prepare, layer.forward

    def __call__(self) -> None:
        self.forward()


def worst_error(found: Mapping[str, Any], reference: Mapping[str, Any]) -> float:
    """The largest relative error among all results; NaN if any of them contains one."""
    if set(found) != set(reference):
        raise ValueError(f"other results than expected: {sorted(set(found) ^ set(reference))}")
    errors = []
    for name, exact in reference.items():
        got = found[name]
        if got is None or tuple(got.shape) != tuple(exact.shape):
            seen = "nothing" if got is None else f"shape {tuple(got.shape)}"
            raise ValueError(f"{name}: got {seen}, needed {tuple(exact.shape)}")
        errors.append(float((got.double() - exact).norm() / exact.norm()))
    return float(np.max(errors))  # NumPy's, unlike Python's, passes a NaN on


def checked(
    place: Place,
    runs: Mapping[str, Any],
    reference: Mapping[str, Any],
    errors: dict[str, float],
    failed: dict[str, str],
) -> None:
    """Run everybody once and note the error; the larger one, where there has been a check."""
    for who, run in runs.items():
        if who in failed:
            continue
        try:
            with place.watched(who):
                run.prepare()
                run()
                error = worst_error(run.results(), reference)
            errors[who] = float(np.maximum(error, errors.get(who, 0.0)))
        except DeviceLostError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the others go on
            failed[who] = first_line(error)


def compare_layers(
    place: Place, cell: str, size: str, impls: list[str], *, turns: int, seconds: float
) -> None:
    """All rows of one layer at one size, in both precisions; `impls` may be empty."""
    w = (REHEARSAL if place.rehearse else WINDOWS)[size]
    need_ceilings(place)
    theirs = TorchLayer(place, cell, w)
    runs: dict[str, Any] = {"torch": theirs}
    if impls:
        ours = OurLayer(place, cell, w, theirs)
        runs |= {impl: ours.as_impl(impl) for impl in impls}
    exact = theirs.in_float64()
    place.precision(False)
    exact.prepare()
    exact()
    reference = exact.results()
    place.wait()
    for tf32 in (False, True):
        place.precision(tf32)
        errors: dict[str, float] = {}
        failed: dict[str, str] = {}
        checked(place, runs, reference, errors, failed)
        going: dict[str, Run] = {who: run for who, run in runs.items() if who not in failed}
        both = take_turns(place, going, turns=turns, seconds=seconds / 3, failed=failed)
        alone: dict[str, Run] = {who: ForwardOnly(runs[who]) for who in both}
        forward = take_turns(place, alone, turns=turns, seconds=seconds / 6, failed=failed)
        checked(place, runs, reference, errors, failed)

        label, rates = f"{cell} {size} {PRECISIONS[tf32]}", place.ceilings
        work = layer_work(cell, w, backward=True)
        least = floor_ms(work, rates[PRECISIONS[tf32]], rates["copy"])
        rows = [
            [label, who, *times(who, forward, both, least),
             *judgement(errors.get(who), failed.get(who), tf32, both.get(who))]
            for who in runs
        ]  # fmt: skip
        tell_table(TITLE, HEADERS, rows)
        note_failures(label, failed)
        place.free()
    place.precision(False)


def times(
    who: str, forward: Mapping[str, Samples], both: Mapping[str, Samples], floor: float
) -> list[str]:
    """The cells of the times, dashes where there are none."""

    def against(samples: Mapping[str, Samples]) -> Any:
        if who == "torch" or who not in samples or "torch" not in samples:
            return None
        mine, theirs = samples[who].ms, samples["torch"].ms
        return ratio(mine, theirs) if len(mine) == len(theirs) else None

    first, second = forward.get(who), both.get(who)
    in_short = against(forward)
    return [
        number(first.median if first else None),
        number(in_short.median if in_short else None),
        number(second.median if second else None),
        str(against(both) or "-"),
        number(second.host if second else None),
        number(floor),
        number(second.median / floor if second else None),
    ]


def judgement(
    error: float | None, failure: str | None, tf32: bool, samples: Samples | None
) -> list[str]:
    """The error, and what to think of the row."""
    if failure is not None:
        return [number(error), "failed, see the notes"]
    if error is None:
        return ["-", "not checked"]
    if not error <= LIMITS[tf32]:  # a NaN too
        return [f"{error:.1e}", "WRONG"]
    if samples is not None and samples.misses_work:
        return [f"{error:.1e}", "right, but works on outside of the events"]
    return [f"{error:.1e}", "right"]


def units(sizes: list[str]) -> dict[str, Callable[..., None]]:
    """What can be measured by itself, by name: "lstm:A", "gru:C", ... and "torch" for it alone."""

    def layer(cell: str, size: str) -> Callable[..., None]:
        def run(place: Place, impls: list[str], *, turns: int, seconds: float) -> None:
            names = [i for i in impls if i != "ops" or size == "C"]
            compare_layers(place, cell, size, names, turns=turns, seconds=seconds)

        return run

    def torch_alone(place: Place, impls: list[str], *, turns: int, seconds: float) -> None:  # noqa: ARG001
        cells = [("lstm", s) for s in sizes] + [(c, s) for c in ("gru", "rnn") for s in sizes]
        for cell, size in cells:
            if cell == "lstm" or size != "B":
                compare_layers(place, cell, size, [], turns=turns, seconds=seconds / len(cells))

    found: dict[str, Callable[..., None]] = {"torch": torch_alone}
    found |= {f"lstm:{size}": layer("lstm", size) for size in sizes}
    found |= {f"{c}:{s}": layer(c, s) for c in ("gru", "rnn") for s in sizes if s != "B"}
    return found
