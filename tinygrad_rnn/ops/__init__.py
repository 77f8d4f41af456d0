"""Every operation, and the one table that makes methods and operators of them.

`ops.NAME(x, ...)` and `x.NAME(...)` are the same function. The table below is flat on purpose: to
know what a Tensor can do, read it.
"""

from __future__ import annotations

from typing import Any

from tinygrad_rnn.core import engine
from tinygrad_rnn.core.primitive import Primitive
from tinygrad_rnn.core.tensor import Tensor
from tinygrad_rnn.ops import (
    arithmetic,
    convert,
    creation,
    elementwise,
    indexing,
    linalg,
    random,
    reduce,
    shape,
)


def _reflected(op: Any) -> Any:
    """``other op self``: what Python calls when the left operand knows nothing of Tensors."""
    return lambda self, other: op(other, self)


def _elementwise(op: Any) -> Any:
    """``==`` with what is no number at all is decided by Python: ``tensor == None`` is False."""
    return lambda self, other: NotImplemented if isinstance(other, _STRANGERS) else op(self, other)


_STRANGERS = (type(None), str, bytes, dict, set)

METHODS: dict[str, Any] = {
    # autograd and conversions
    "backward": engine.backward,
    "to": convert.to,
    "astype": convert.astype,
    "cpu": convert.cpu,
    "cuda": convert.cuda,
    # operators
    "__add__": arithmetic.add,
    "__radd__": _reflected(arithmetic.add),
    "__sub__": arithmetic.subtract,
    "__rsub__": _reflected(arithmetic.subtract),
    "__mul__": arithmetic.multiply,
    "__rmul__": _reflected(arithmetic.multiply),
    "__truediv__": arithmetic.divide,
    "__rtruediv__": _reflected(arithmetic.divide),
    "__pow__": arithmetic.power,
    "__rpow__": _reflected(arithmetic.power),
    "__matmul__": linalg.matmul,
    "__rmatmul__": _reflected(linalg.matmul),
    "__neg__": arithmetic.negative,
    "__abs__": elementwise.abs,
    "__eq__": _elementwise(arithmetic.equal),
    "__ne__": _elementwise(arithmetic.not_equal),
    "__lt__": arithmetic.less,
    "__le__": arithmetic.less_equal,
    "__gt__": arithmetic.greater,
    "__ge__": arithmetic.greater_equal,
    "__and__": arithmetic.logical_and,
    "__or__": arithmetic.logical_or,
    "__invert__": arithmetic.logical_not,
    "__getitem__": indexing.getitem,
    "T": property(shape.transpose),
    "mT": property(shape.matrix_transpose),
    # elementwise
    "abs": elementwise.abs,
    "exp": elementwise.exp,
    "expm1": elementwise.expm1,
    "log": arithmetic.log,
    "log1p": elementwise.log1p,
    "sqrt": elementwise.sqrt,
    "square": elementwise.square,
    "reciprocal": elementwise.reciprocal,
    "sin": elementwise.sin,
    "cos": elementwise.cos,
    "tanh": elementwise.tanh,
    "sigmoid": elementwise.sigmoid,
    "relu": elementwise.relu,
    "sign": elementwise.sign,
    "clip": elementwise.clip,
    "maximum": arithmetic.maximum,
    "minimum": arithmetic.minimum,
    # reductions
    "sum": reduce.sum,
    "mean": reduce.mean,
    "var": reduce.var,
    "std": reduce.std,
    "max": reduce.max,
    "min": reduce.min,
    "prod": reduce.prod,
    "cumsum": reduce.cumsum,
    "logsumexp": reduce.logsumexp,
    "norm": reduce.norm,
    "softmax": reduce.softmax,
    "log_softmax": reduce.log_softmax,
    "argmax": reduce.argmax,
    "argmin": reduce.argmin,
    # shapes
    "reshape": shape.reshape,
    "ravel": shape.ravel,
    "transpose": shape.transpose,
    "permute_dims": shape.permute_dims,
    "swapaxes": shape.swapaxes,
    "expand_dims": shape.expand_dims,
    "squeeze": shape.squeeze,
    "broadcast_to": shape.broadcast_to,
    "flip": shape.flip,
    "roll": shape.roll,
    "tril": shape.tril,
    "triu": shape.triu,
    "split": shape.split,
    "unstack": shape.unstack,
    "repeat": shape.repeat,
    "tile": shape.tile,
    # indexing and products
    "take": indexing.take,
    "take_along_axis": indexing.take_along_axis,
    "matmul": linalg.matmul,
    "dot": linalg.dot,
    "outer": linalg.outer,
}


def _method(name: str, op: Any) -> Any:
    """A primitive is a callable object, which Python does not bind as a method by itself."""
    if not isinstance(op, Primitive):
        return op
    if len(op.inputs) == 2 and name.startswith("__"):
        return lambda self, other: op(self, other)  # operators are the hot path: no packing
    return lambda self, *others, **options: op(self, *others, **options)


for _name, _op in METHODS.items():
    setattr(Tensor, _name, _method(_name, _op))

__all__ = [
    "METHODS",
    "arithmetic",
    "convert",
    "creation",
    "elementwise",
    "indexing",
    "linalg",
    "random",
    "reduce",
    "shape",
]
