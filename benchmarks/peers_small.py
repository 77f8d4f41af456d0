"""Tasks without recurrent layers: small ops, building and freeing a graph, clip and Adam.

They cost Python and memory traffic rather than arithmetic. What a task is stands in
`benchmarks/peers_parts.py`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.peers_parts import CHECKED, Task, norms

CHAIN = 100  # small ops one after another, so that the end of a backward sweep costs them little
NODES = 10_000  # of the graph that is built and freed
SHAPES = [(480, 500)] * 4 + [(5000,)] * 8  # 12 parameters, a million numbers


# ---- small ops, and graphs -----------------------------------------------------------------------


def operands(op: str, elements: int) -> list[np.ndarray]:
    """y and b of y = op(y, b), chosen so that a chain of them neither grows nor vanishes."""
    if op == "matmul":
        rows, inner = {1: (1, 1), 32: (1, 32), 1024: (32, 32)}[elements]
        return [np.ones((rows, inner), np.float32), np.eye(inner, dtype=np.float32)]
    y, b = np.ones(elements, np.float32), np.full(elements, 0.01, np.float32)
    return {"add": [y, b], "mul": [y, np.ones_like(y)], "tanh": [y]}[op]


class OurOps(Task):
    """A chain of `CHAIN` small ops, forward and backward."""

    def __init__(self, op: str, elements: int) -> None:
        import tinygrad_rnn as tg

        self.setup(tg.tanh, tg.Tensor, op, elements)

    def setup(self, tanh: Any, tensor: Callable[[Any], Any], op: str, elements: int) -> None:
        self.op = tanh if op == "tanh" else getattr(operator, op)
        first, *rest = [tensor(a) for a in operands(op, elements)]
        self.leaves, self.g = [first, *rest], tensor(operands(op, elements)[0])
        for leaf in self.leaves:
            leaf.requires_grad = True

    def prepare(self) -> None:
        for leaf in self.leaves:
            leaf.grad = None

    def run(self) -> Any:
        op, (y, *rest) = self.op, self.leaves
        for _ in range(CHAIN):
            y = op(y, *rest)
        y.backward(self.g)
        return y

    def check(self) -> list[float]:
        """The result, and the gradient of the first operand."""
        self.prepare()
        return norms([self.run().detach().numpy(), self.leaves[0].grad])


class TorchOps(OurOps):
    """The same by PyTorch."""

    def __init__(self, op: str, elements: int) -> None:
        import torch

        self.setup(torch.tanh, torch.from_numpy, op, elements)


class Graph(Task):
    """A chain of `NODES` additions: building it, or letting go of it."""

    def __init__(self, first: Callable[[], Any], *, free: bool) -> None:
        self.x, self.y, self.free = first(), None, free

    def build(self) -> None:
        y = self.x
        for _ in range(NODES):
            y = y + 1.0
        self.y = y

    def prepare(self) -> None:
        self.y = None
        if self.free:
            self.build()

    def run(self) -> None:
        if self.free:
            self.y = None
        else:
            self.build()

    def check(self) -> list[float]:
        self.build()
        return [float(self.y.detach())]


def our_scalar() -> Any:
    import tinygrad_rnn as tg

    return tg.tensor(0.0, requires_grad=True)


def torch_scalar() -> Any:
    import torch

    return torch.tensor(0.0, requires_grad=True)


# ---- clip and Adam -------------------------------------------------------------------------------


def values_and_grads() -> list[list[np.ndarray]]:
    """A million first values, and gradients whose norm is about 1,000."""
    rng = np.random.default_rng(0)
    return [[rng.standard_normal(s, np.float32) for s in SHAPES] for _ in range(2)]


class OurUpdate(Task):
    """Adam over `SHAPES`, after `clip_grad_norm_` or without."""

    def __init__(self, *, clip: bool, fused: bool = False) -> None:  # noqa: ARG002 - PyTorch's
        import tinygrad_rnn as tg
        from tinygrad_rnn import nn, optim

        self.setup(nn.utils.clip_grad_norm_, tg.Tensor, clip=clip)
        self.optimizer = optim.Adam(self.parameters, 1e-3)

    def setup(self, clip_norm: Any, tensor: Callable[[Any], Any], *, clip: bool) -> None:
        values, grads = values_and_grads()
        self.parameters, self.clip_norm, self.clip = list(map(tensor, values)), clip_norm, clip
        for parameter, grad in zip(self.parameters, grads, strict=True):
            parameter.requires_grad = True
            parameter.grad = tensor(grad)

    def run(self) -> None:
        if self.clip:
            self.clip_norm(self.parameters, 1.0)
        self.optimizer.step()

    def check(self) -> list[float]:
        for _ in range(CHECKED):
            self.run()
        return norms(parameter.detach().numpy() for parameter in self.parameters)


class TorchUpdate(OurUpdate):
    """The same by PyTorch, with the Adam that it takes by itself or with its fused one."""

    def __init__(self, *, clip: bool, fused: bool = False) -> None:
        import torch

        self.setup(torch.nn.utils.clip_grad_norm_, torch.from_numpy, clip=clip)
        options = {"fused": True} if fused else {}
        self.optimizer = torch.optim.Adam(self.parameters, 1e-3, **options)
