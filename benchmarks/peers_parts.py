"""Tasks with recurrent layers: a whole step, the layer alone, writing; for us and for PyTorch.

A task is made once and then run many times:

    prepare()   what has to be done before a run, and does not count
    run()       what counts
    check()     numbers that must be the same for all who do this task

Frameworks are imported inside the tasks: a process that measures PyTorch must not load this
project, which asks the C library to keep freed memory (`tinygrad_rnn/backends/memory.py`) and so
would change PyTorch's times. The tasks without layers are in `benchmarks/peers_small.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from benchmarks.peers import LAYERS, PyTorch, Size, batches, weights

FIRST = 65  # the character that a text continues
TEXT = 100  # characters written in a run
CHECKED = 4  # steps, or updates, whose outcome is compared


class Task:
    """A task that needs no preparation."""

    def prepare(self) -> None:
        """Nothing."""


def norms(arrays: Iterable[Any]) -> list[float]:
    """The 2-norm of each array, in float64."""
    return [float(np.linalg.norm(np.asarray(a, np.float64))) for a in arrays]


# ---- a whole training step -----------------------------------------------------------------------


class Step(Task):
    """A step of `peers.TinygradRnn`, or of another model that has `step(x, y)`."""

    def __init__(self, model: Callable[[Size], Any], **size: Any) -> None:
        self.model, self.data, self.done = model(Size(**size)), batches(Size(**size)), 0

    def run(self) -> float:
        x, y = self.data[self.done % len(self.data)]
        self.done += 1
        return float(self.model.step(x, y))

    def check(self) -> list[float]:
        """Losses of steps on one batch: each shows what the gradients of those before it did."""
        x, y = self.data[0]
        return [float(self.model.step(x, y)) for _ in range(CHECKED)]


# ---- the layer alone -----------------------------------------------------------------------------


def recurrent_weights(size: Size) -> dict[str, np.ndarray]:
    """Of `peers.weights`, those of the recurrent layers, by the names inside the layer."""
    return {n[4:]: w for n, w in weights(size).items() if n.startswith("rnn.")}


def signals(size: Size) -> list[np.ndarray]:
    """x and the gradient of out, (T, B, H) both."""
    rng = np.random.default_rng(2)
    return [rng.standard_normal((size.T, size.B, size.H), np.float32) for _ in range(2)]


class OurLayer(Task):
    """`nn.LSTM` and the like: forward, or forward and the gradients of x and of every weight."""

    def __init__(self, *, backward: bool, **size: Any) -> None:
        import tinygrad_rnn as framework
        from tinygrad_rnn import nn

        self.setup(framework, nn, Size(**size), framework.Tensor)
        self.backward = backward

    def setup(self, framework: Any, nn: Any, size: Size, tensor: Callable[[Any], Any]) -> None:
        self.layer = getattr(nn, LAYERS[size.cell])(size.H, size.H, size.layers)
        self.layer.load_state_dict({n: tensor(w) for n, w in recurrent_weights(size).items()})
        self.x, self.g = map(tensor, signals(size))
        self.framework, self.names, self.out = framework, list(recurrent_weights(size)), None

    def prepare(self) -> None:
        self.out = None  # the last graph goes before the next is made, in every framework
        self.x = self.x.detach()
        self.x.requires_grad = self.backward
        for parameter in self.layer.parameters():
            parameter.grad = None

    def run(self) -> None:
        if self.backward:
            self.out = self.layer(self.x)[0]
            self.out.backward(self.g)
        else:
            with self.framework.no_grad():
                self.out = self.layer(self.x)[0]

    def check(self) -> list[float]:
        self.prepare()
        self.run()
        found = [self.out.detach()]
        if self.backward:
            of = dict(self.layer.named_parameters())
            found += [self.x.grad, *(of[name].grad for name in self.names)]
        return norms(a.numpy() if hasattr(a, "numpy") else a for a in found)


class TorchLayer(OurLayer):
    """`torch.nn.LSTM` and the like."""

    def __init__(self, *, backward: bool, **size: Any) -> None:
        import torch

        self.setup(torch, torch.nn, Size(**size), torch.from_numpy)
        self.backward = backward


# ---- writing, one character at a time ------------------------------------------------------------


class OurWriter(Task):
    """`tinygrad_rnn.char_lm.generate`: what `tinygrad-rnn sample` runs."""

    def __init__(self, **size: Any) -> None:
        from tinygrad_rnn import char_lm
        from tinygrad_rnn.data import Vocabulary

        s = Size(**size)
        self.vocabulary = Vocabulary("".join(map(chr, range(32, 32 + s.V))))
        self.model = char_lm.CharModel(s.V, kind=s.cell, hidden=s.H, embedding=s.H, layers=s.layers)
        new = {"embedding": "embedding", "rnn": "recurrent", "head": "output"}
        named = {n.partition("."): w for n, w in weights(s).items()}
        self.model.load_state_dict({f"{new[a]}.{b}": w for (a, _, b), w in named.items()})
        self.generate = char_lm.generate

    def run(self, temperature: float = 1.0) -> list[str]:
        prompt = self.vocabulary.symbols[FIRST]
        options = {"length": TEXT, "temperature": temperature, "rng": 0}
        return list(self.generate(self.model, self.vocabulary, prompt=prompt, **options))

    def check(self) -> list[float]:
        """At temperature 0 there is no chance in a text."""
        return [float(i) for i in self.vocabulary.encode("".join(self.run(0.0)))]


class TorchWriter(Task):
    """PyTorch, as its tutorials do it: softmax, multinomial, and the character to Python."""

    def __init__(self, **size: Any) -> None:
        made = PyTorch(Size(**size))
        self.model, self.torch = made.model, made.torch

    def run(self, *, best: bool = False) -> list[int]:
        torch, model, state, written = self.torch, self.model, None, [FIRST]
        with torch.inference_mode():
            for _ in range(TEXT):
                out, state = model.rnn(model.embedding(torch.tensor([[written[-1]]])), state)
                logits = model.head(out[-1, 0])
                if best:
                    written.append(int(logits.argmax()))
                else:
                    drawn = torch.multinomial(torch.softmax(logits, -1), 1)
                    written.append(drawn.item())
        return written[1:]

    def check(self) -> list[float]:
        return [float(i) for i in self.run(best=True)]
