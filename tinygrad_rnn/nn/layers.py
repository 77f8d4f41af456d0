"""Layers without a memory: Linear, Embedding, LayerNorm, Dropout, Sequential."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinygrad_rnn.errors import DTypeError, ShapeError
from tinygrad_rnn.nn import functional, init
from tinygrad_rnn.nn.module import Module, Parameter
from tinygrad_rnn.ops.indexing import as_index, rows
from tinygrad_rnn.ops.linalg import linear, matmul
from tinygrad_rnn.ops.norm import check_eps, layer_norm
from tinygrad_rnn.ops.random import Rng, generator
from tinygrad_rnn.ops.shape import matrix_transpose


def check_size(name: str, value: object, layer: str, lowest: int = 1) -> None:
    """Refuse a layer size that is no whole number >= `lowest`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < lowest:
        raise ShapeError(f"{layer}: {name} is a whole number >= {lowest}, got {value!r}")


def new_parameter(shape: tuple[int, ...], dtype: Any, device: str | None) -> Parameter:
    """A parameter of zeros (float32 unless told otherwise), to be filled by `nn.init`."""
    return Parameter(np.zeros(shape, dtype=dtype or np.float32), device=device)


class Linear(Module):
    """``y = x W' + b``: (..., in_features) to (..., out_features).

    Args:
        in_features, out_features: sizes of the last dimension before and after.
        bias: whether to add b.
        rng: a generator or seed for the first weights, uniform in +-1/sqrt(in_features) as in
            PyTorch.

    Attributes:
        weight: (out_features, in_features).
        bias: (out_features,) or None.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        rng: Rng = None,
        dtype: Any = None,
        device: str | None = None,
    ) -> None:
        check_size("in_features", in_features, "Linear")
        check_size("out_features", out_features, "Linear")
        bound = 1 / math.sqrt(in_features)
        rng = generator(rng)  # one stream for both: a seed alone would start it anew for the bias
        self.weight = new_parameter((out_features, in_features), dtype, device)
        self.bias = new_parameter((out_features,), dtype, device) if bias else None
        init.uniform_(self.weight, -bound, bound, rng=rng)
        if self.bias is not None:
            init.uniform_(self.bias, -bound, bound, rng=rng)

    def forward(self, x: Any) -> Any:
        out_features, in_features = self.weight.shape
        if x.ndim == 0 or x.shape[-1] != in_features:
            raise ShapeError(
                f"Linear({in_features}, {out_features}): needed (..., {in_features}), got an "
                f"input of shape {x.shape}"
            )
        if x.dtype != self.weight.dtype:
            raise DTypeError(
                f"Linear({in_features}, {out_features}): the input is {x.dtype} and the weight is "
                f"{self.weight.dtype}; convert one with .to()"
            )
        if self.bias is None:
            return matmul(x, matrix_transpose(self.weight))
        return linear(x, self.weight, self.bias)

    def describe(self) -> str:
        out_features, in_features = self.weight.shape
        return f"{in_features}, {out_features}, bias={self.bias is not None}"


class Embedding(Module):
    """A vector for every number 0 .. num_embeddings-1: integers (...) to (..., embedding_dim).

    The same as a one-hot vector times a matrix, without the vector. Starts from N(0, 1), as in
    PyTorch. Raises IndexError for a number outside the range, on every device.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        *,
        rng: Rng = None,
        dtype: Any = None,
        device: str | None = None,
    ) -> None:
        check_size("num_embeddings", num_embeddings, "Embedding")
        check_size("embedding_dim", embedding_dim, "Embedding")
        self.weight = new_parameter((num_embeddings, embedding_dim), dtype, device)
        init.normal_(self.weight, rng=rng)

    def forward(self, ids: Any) -> Any:
        return rows(self.weight, as_index(ids, self.weight, self.weight.shape[0], "Embedding"))

    def describe(self) -> str:
        return ", ".join(map(str, self.weight.shape))


class LayerNorm(Module):
    """Every row to mean 0 and variance 1, then ``weight * row + bias`` (Ba et al. 2016).

    A row is what the last dimensions, `normalized_shape`, span; the others are left alone. Training
    and evaluation are the same. The equations are in `tinygrad_rnn/ops/norm.py`.

    Args:
        normalized_shape: the last size, or the last sizes, of the input.
        eps: added to the variance, so that a constant row is not divided by 0.
        elementwise_affine: whether there is a weight (and with `bias`, a bias).
        bias: False for a weight alone.

    Attributes:
        weight: `normalized_shape`, ones at first; or None.
        bias: `normalized_shape`, zeros at first; or None.
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        dtype: Any = None,
        device: str | None = None,
    ) -> None:
        given = normalized_shape
        shape: tuple[Any, ...] = tuple(given) if isinstance(given, tuple | list) else (given,)
        if not shape:
            raise ShapeError("LayerNorm: normalized_shape has at least one size, got none")
        for size in shape:
            check_size("normalized_shape", size, "LayerNorm")
        check_eps(eps, "LayerNorm")
        self.normalized_shape, self.eps = tuple(map(int, shape)), eps
        self.weight = self.bias = None
        if elementwise_affine:
            self.weight = new_parameter(self.normalized_shape, dtype, device)
            init.ones_(self.weight)
            self.bias = new_parameter(self.normalized_shape, dtype, device) if bias else None

    def forward(self, x: Any) -> Any:
        dims = len(self.normalized_shape)
        if tuple(x.shape[-dims:]) != self.normalized_shape:
            wanted = ", ".join(map(str, ("...", *self.normalized_shape)))
            raise ShapeError(
                f"LayerNorm({self.normalized_shape}): needed ({wanted}), got an input of shape "
                f"{x.shape}"
            )
        if self.weight is not None and x.dtype != self.weight.dtype:
            raise DTypeError(
                f"LayerNorm({self.normalized_shape}): the input is {x.dtype} and the weight is "
                f"{self.weight.dtype}; convert one with .to()"
            )
        return layer_norm(x, self.weight, self.bias, dims=dims, eps=self.eps)

    def describe(self) -> str:
        affine = f"elementwise_affine={self.weight is not None}, bias={self.bias is not None}"
        return f"{self.normalized_shape}, eps={self.eps}, {affine}"


class Dropout(Module):
    """In training, zero each element with probability `p` and scale the rest by 1/(1-p).

    The mask is drawn on the host from `rng` (a generator; None: the package's own), so that the
    same seed drops the same elements on every device and a resumed run continues exactly.
    """

    def __init__(self, p: float = 0.5, *, rng: Rng = None) -> None:
        functional.check_probability(p)
        self.p = p
        self.rng = None if rng is None else generator(rng)  # a seed becomes one stream of masks

    def forward(self, x: Any) -> Any:
        return functional.dropout(x, self.p, training=self.training, rng=self.rng)

    def describe(self) -> str:
        return f"p={self.p}"


class Sequential(Module):
    """Modules applied one after the other."""

    def __init__(self, *layers: Module) -> None:
        for i, layer in enumerate(layers):  # attributes "0", "1", ...: PyTorch's names
            setattr(self, str(i), layer)

    @property
    def layers(self) -> list[Module]:
        """The modules in order."""
        return [value for name, value in vars(self).items() if name.isdigit()]

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, index: int) -> Module:
        return self.layers[index]

    def forward(self, x: Any) -> Any:
        for layer in self.layers:
            x = layer(x)
        return x
