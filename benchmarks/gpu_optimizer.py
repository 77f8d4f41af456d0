"""Clipping and Adam over a million parameters, beside PyTorch's two ways of doing them.

Nothing depends on anything here, so time goes by launches and bytes only. Both sides start from the
same numbers and keep the same gradients; after ten steps their parameters must agree.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.gpu_ceilings import need_ceilings
from benchmarks.gpu_clock import Place, each, note_failures, ratios, take_turns, tell_table
from benchmarks.gpu_table import Work, floor_ms, number

STEPS = 10  # in a turn
SHAPES = [(480, 500)] * 4 + [(5000,)] * 8  # 12 tensors, a million numbers


class OurUpdate:
    """clip_grad_norm_ and Adam over `SHAPES`."""

    def __init__(self, place: Place, values: list[np.ndarray], grads: list[np.ndarray]) -> None:
        import tinygrad_rnn as tg
        from tinygrad_rnn import nn, optim

        self.parameters = [
            tg.Tensor(value, device=place.device, requires_grad=True) for value in values
        ]
        for parameter, g in zip(self.parameters, grads, strict=True):
            parameter.grad = tg.Tensor(g, device=place.device)
        self.optimizer = optim.Adam(self.parameters, 1e-3)
        self.clip = nn.utils.clip_grad_norm_

    def prepare(self) -> None:
        """Nothing."""

    def __call__(self) -> None:
        for _ in range(STEPS):
            self.clip(self.parameters, 1.0, error_if_nonfinite=False)
            self.optimizer.step()

    def values(self) -> list[np.ndarray]:
        return [parameter.detach().numpy() for parameter in self.parameters]


class TorchUpdate:
    """The same by PyTorch: foreach, which it takes by itself, or fused."""

    def __init__(
        self, place: Place, values: list[np.ndarray], grads: list[np.ndarray], *, fused: bool
    ) -> None:
        torch = place.torch
        self.parameters = [
            torch.from_numpy(value.copy()).to(place.device).requires_grad_() for value in values
        ]
        for parameter, g in zip(self.parameters, grads, strict=True):
            parameter.grad = torch.from_numpy(g.copy()).to(place.device)
        options = {"fused": True} if fused else {}
        self.optimizer = torch.optim.Adam(self.parameters, 1e-3, **options)
        self.clip = torch.nn.utils.clip_grad_norm_

    def prepare(self) -> None:
        """Nothing."""

    def __call__(self) -> None:
        for _ in range(STEPS):
            self.clip(self.parameters, 1.0)
            self.optimizer.step()

    def values(self) -> list[np.ndarray]:
        return [parameter.detach().cpu().numpy().copy() for parameter in self.parameters]


def updates(place: Place) -> dict[str, Callable[[], Any]]:
    """Who is compared, each ready to be made, all from the same numbers."""
    rng = np.random.default_rng(0)
    values, grads = (
        [rng.standard_normal(shape, dtype=np.float32) for shape in SHAPES] for _ in range(2)
    )
    return {
        "torch, foreach": lambda: TorchUpdate(place, values, grads, fused=False),
        "torch, fused": lambda: TorchUpdate(place, values, grads, fused=True),
        "tinygrad_rnn": lambda: OurUpdate(place, values, grads),
    }


def optimizer(place: Place, impls: list[str], *, turns: int, seconds: float) -> None:  # noqa: ARG001
    """Section "optimizer"."""
    failed: dict[str, str] = {}
    made = each(place, updates(place), failed)
    each(place, made, failed)
    ends = each(place, {who: run.values for who, run in made.items()}, failed)
    made = {who: run for who, run in made.items() if who in ends}
    samples = take_turns(place, made, turns=turns, seconds=seconds, failed=failed)
    note_failures("optimizer", failed)
    count = sum(int(np.prod(shape)) for shape in SHAPES)
    # The norm reads g; the update reads g, x, m and v and writes x, m and v: 32 bytes a parameter.
    # A million of them fit in the device's cache, which can be faster than its memory.
    rates = need_ceilings(place)

    def off(who: str) -> float:
        flat = [np.concatenate([v.ravel() for v in ends[k]]) for k in (who, next(iter(ends)))]
        return float(np.linalg.norm(flat[0] - flat[1]) / np.linalg.norm(flat[1]))

    floor = floor_ms(Work(0, 32 * count), rates["strict"], rates["copy"])
    rows = [
        [who, number(s.median / STEPS * 1e3), number(s.host / STEPS * 1e3), number(floor * 1e3),
         *ratios(who, samples, ("torch, foreach", "torch, fused")),
         f"{off(who):.1e}" + ("" if off(who) <= 1e-5 else " WRONG")]
        for who, s in samples.items()
    ]  # fmt: skip
    headers = [
        "who", "us a step", "host us", "floor us", "ours / foreach", "ours / fused",
        "after 10 steps off by",
    ]  # fmt: skip
    tell_table(f"Clip and Adam over {count:,} parameters in {len(SHAPES)} tensors", headers, rows)
