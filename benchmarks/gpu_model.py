"""A character model beside PyTorch's on the GPU: a whole training step, and writing.

The training step is that of `benchmarks/peers.py`: embedding, LSTM, linear, cross entropy,
backward, clip, Adam, from the same weights and with ids that come from the host. Neither side reads
its loss or norm, so neither waits for the device within a step; a turn is several steps and one
wait. To write, each reads the character it has just drawn, so every character waits for the last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks import peers
from benchmarks.gpu_clock import Place, each, note_failures, ratios, take_turns, tell_table
from benchmarks.gpu_table import number

STEPS = 10  # in a turn
MODELS = {"A": peers.Size(128, 64, 96, 512), "C": peers.Size(100, 32, 96, 128)}
TINY = peers.Size(5, 3, 7, 8)
LOSS_LIMITS = {False: 2e-4, True: 5e-3}  # relative, after a few steps


# ---- a training step -----------------------------------------------------------------------------


class OurModel(peers.TinygradRnn):
    """This project on the device; the embedding is read as a table."""

    def __init__(self, place: Place, size: peers.Size, impl: str = "auto") -> None:
        super().__init__(size)
        from tinygrad_rnn import optim

        self.model.to(place.device)
        self.model.rnn.impl = impl
        self.optimizer = optim.Adam(self.model.parameters(), peers.LEARNING_RATE)
        self.data = peers.batches(size)

    def prepare(self) -> None:
        """Nothing: a step ends where the next begins."""

    def one(self, x: np.ndarray, y: np.ndarray) -> Any:
        self.optimizer.zero_grad()
        loss = self.nn.functional.cross_entropy(self.model(x), y)
        loss.backward()
        parameters = self.model.parameters()
        self.nn.utils.clip_grad_norm_(parameters, peers.CLIP, error_if_nonfinite=False)
        self.optimizer.step()
        return loss

    def __call__(self) -> None:
        for k in range(STEPS):
            self.one(*self.data[k % len(self.data)])

    def losses(self) -> list[float]:
        return [float(self.one(x, y)) for x, y in self.data]


class TorchModel(peers.PyTorch):
    """PyTorch on the device, with the Adam that it takes by itself or with its fused one."""

    def __init__(self, place: Place, size: peers.Size, *, fused: bool) -> None:
        super().__init__(size)
        self.device = place.device
        self.model.to(place.device)
        parameters = self.model.parameters()
        options = {"fused": True} if fused else {}
        self.optimizer = self.torch.optim.Adam(parameters, peers.LEARNING_RATE, **options)
        self.data = peers.batches(size)

    def prepare(self) -> None:
        """Nothing: a step ends where the next begins."""

    def one(self, x: np.ndarray, y: np.ndarray) -> Any:
        torch = self.torch
        self.optimizer.zero_grad()
        # Without `non_blocking` a copy would wait for all that the device still has to do.
        ids, targets = (torch.from_numpy(a).to(self.device, non_blocking=True) for a in (x, y))
        logits, targets = self.model(ids).reshape(-1, self.V), targets.reshape(-1)
        loss = torch.nn.functional.cross_entropy(logits, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), peers.CLIP)
        self.optimizer.step()
        return loss

    def __call__(self) -> None:
        for k in range(STEPS):
            self.one(*self.data[k % len(self.data)])

    def losses(self) -> list[float]:
        return [self.one(x, y).item() for x, y in self.data]


def models(place: Place, label: str, impls: Sequence[str]) -> dict[str, Callable[[], Any]]:
    """Who is compared, each ready to be made. Ours chooses for itself, unless it may not."""
    size = TINY if place.rehearse else MODELS[label]
    impl = next((i for i in ("auto", "fused", "ops") if i in impls), "auto")
    return {
        "torch": lambda: TorchModel(place, size, fused=False),
        "torch, fused Adam": lambda: TorchModel(place, size, fused=True),
        impl: lambda: OurModel(place, size, impl),
    }


def training(label: str) -> Callable[..., None]:
    """The unit "model:A" or "model:C"."""

    def run(place: Place, impls: list[str], *, turns: int, seconds: float) -> None:
        size = TINY if place.rehearse else MODELS[label]
        for tf32 in (False, True):
            place.precision(tf32)
            failed: dict[str, str] = {}
            made = each(place, models(place, label, impls), failed)
            losses = each(place, {who: model.losses for who, model in made.items()}, failed)
            made = {who: model for who, model in made.items() if who in losses}
            samples = take_turns(place, made, turns=turns, seconds=seconds / 2, failed=failed)
            note_failures(f"model {label}", failed)
            rows = []
            for who, times in samples.items():
                theirs = losses.get("torch", [np.nan])
                off = float(np.abs(np.array(losses[who]) / np.array(theirs) - 1).max())
                ms = times.median / STEPS
                rows.append([
                    f"{label} T={size.T} B={size.B} H={size.H} V={size.V}",
                    "TF32" if tf32 else "strict", who, number(ms),
                    f"{size.T * size.B / ms * 1e3:,.0f}", number(times.host / STEPS),
                    *ratios(who, samples, ("torch", "torch, fused Adam")),
                    f"{off:.1e}" if off <= LOSS_LIMITS[tf32] else f"{off:.1e} WRONG",
                ])  # fmt: skip
            headers = [
                "size", "precision", "who", "ms a step", "characters / s", "host ms",
                "ours / torch", "ours / torch, fused Adam", "losses differ by",
            ]  # fmt: skip
            tell_table("A whole training step", headers, rows)
        place.precision(False)

    return run


# ---- writing, one character at a time ------------------------------------------------------------


class OurWriter:
    """`tinygrad_rnn.char_lm.generate`: every character is drawn on the host."""

    def __init__(self, place: Place, hidden: int, length: int, impl: str) -> None:
        from tinygrad_rnn import char_lm
        from tinygrad_rnn.data import Vocabulary

        self.vocabulary = Vocabulary("".join(map(chr, range(32, 128))))  # V = 96
        self.model = char_lm.CharModel(
            len(self.vocabulary), hidden=hidden, embedding=hidden, rng=0, device=place.device
        )
        self.model.recurrent.impl = impl
        self.generate, self.length = char_lm.generate, length

    def prepare(self) -> None:
        """Nothing."""

    def __call__(self) -> None:
        text = self.generate(self.model, self.vocabulary, prompt="a", length=self.length, rng=0)
        if len("".join(text)) != self.length:
            raise RuntimeError("fewer characters than asked for")


class TorchWriter:
    """PyTorch: the character stays on the device, or, as ours does, each is brought to the host."""

    def __init__(self, place: Place, hidden: int, length: int, *, to_host: bool) -> None:
        torch = self.torch = place.torch
        torch.manual_seed(0)
        self.embedding = torch.nn.Embedding(96, hidden).to(place.device)
        self.rnn = torch.nn.LSTM(hidden, hidden).to(place.device)
        self.head = torch.nn.Linear(hidden, 96).to(place.device)
        self.first = torch.full((1, 1), 65, device=place.device)
        self.length, self.to_host = length, to_host

    def prepare(self) -> None:
        """Nothing."""

    def __call__(self) -> None:
        torch, token, state, written = self.torch, self.first, None, []
        with torch.no_grad():
            for _ in range(self.length):
                out, state = self.rnn(self.embedding(token), state)
                token = torch.multinomial(torch.softmax(self.head(out[-1]), -1), 1)
                written.append(token.item() if self.to_host else token)
            if not self.to_host:
                torch.cat(written).cpu()


def sampling(place: Place, impls: list[str], *, turns: int, seconds: float) -> None:
    """Section "sampling": B = 1, one LSTM of 512 units, strict float32."""
    hidden, length = (8, 5) if place.rehearse else (512, 100)
    makers: dict[str, Callable[[], Any]] = {
        "torch, token on the device": lambda: TorchWriter(place, hidden, length, to_host=False),
        "torch, token to the host": lambda: TorchWriter(place, hidden, length, to_host=True),
    }
    chosen = [impl for impl in impls if impl != "ops"] or impls
    makers |= {i: lambda i=i: OurWriter(place, hidden, length, i) for i in chosen}
    failed: dict[str, str] = {}
    made = each(place, makers, failed)
    samples = take_turns(place, made, turns=min(turns, 7), seconds=seconds, failed=failed)
    note_failures("sampling", failed)
    others = list(makers)[:2]
    rows = [
        [who, number(s.median / length), f"{length / s.median * 1e3:,.0f}",
         *ratios(who, samples, others)]
        for who, s in samples.items()
    ]  # fmt: skip
    headers = ["who", "ms a character", "characters / s", *(f"ours / {other}" for other in others)]
    tell_table(f"Writing: B=1 H={hidden} V=96, strict", headers, rows)
