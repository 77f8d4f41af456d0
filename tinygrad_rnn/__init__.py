"""tinygrad_rnn: autograd and recurrent networks in plain Python, to read and to use.

    import tinygrad_rnn as tg

Start with `tg.tensor`, `tg.nn`, `tg.optim` and `tg.TBPTT`; the README says in which order to read
the source.
"""

import importlib
from typing import Any

from numpy import bool_ as bool
from numpy import float32, float64, int32, int64

from tinygrad_rnn import data, nn, optim
from tinygrad_rnn.backends import Device, devices
from tinygrad_rnn.core.anomaly import detect_anomaly
from tinygrad_rnn.core.engine import backward, grad
from tinygrad_rnn.core.fused import Fused, fused
from tinygrad_rnn.core.grad_mode import enable_grad, no_grad, time_steps
from tinygrad_rnn.core.primitive import Primitive, primitive
from tinygrad_rnn.core.tensor import Tensor, tensor
from tinygrad_rnn.errors import (
    BackendUnavailable,
    CheckpointError,
    DataError,
    DeviceError,
    DTypeError,
    GradcheckError,
    GraphFreedError,
    GraphGrowthWarning,
    IndexingError,
    NonFiniteError,
    NotDifferentiableError,
    SavedArrayChangedError,
    ShapeError,
    TinygradError,
)
from tinygrad_rnn.gradcheck import GradcheckReport, gradcheck
from tinygrad_rnn.gradient_flow import GradientFlow, gradient_flow
from tinygrad_rnn.ops import random
from tinygrad_rnn.ops.arithmetic import (
    add,
    divide,
    equal,
    greater,
    greater_equal,
    less,
    less_equal,
    log,
    logical_and,
    logical_not,
    logical_or,
    maximum,
    minimum,
    multiply,
    negative,
    not_equal,
    power,
    subtract,
    where,
)
from tinygrad_rnn.ops.convert import astype
from tinygrad_rnn.ops.creation import (
    arange,
    eye,
    from_dlpack,
    full,
    ones,
    ones_like,
    zeros,
    zeros_like,
)
from tinygrad_rnn.ops.elementwise import (
    abs,
    clip,
    cos,
    erf,
    exp,
    expm1,
    gelu,
    log1p,
    reciprocal,
    relu,
    sigmoid,
    sign,
    sin,
    softplus,
    sqrt,
    square,
    tanh,
)
from tinygrad_rnn.ops.indexing import one_hot, take, take_along_axis
from tinygrad_rnn.ops.linalg import dot, einsum, matmul, outer
from tinygrad_rnn.ops.random import manual_seed
from tinygrad_rnn.ops.reduce import (
    argmax,
    argmin,
    cumsum,
    log_softmax,
    logsumexp,
    max,
    mean,
    min,
    norm,
    prod,
    softmax,
    std,
    sum,
    var,
)
from tinygrad_rnn.ops.shape import (
    broadcast_to,
    concat,
    expand_dims,
    flip,
    matrix_transpose,
    pad,
    permute_dims,
    ravel,
    repeat,
    reshape,
    roll,
    split,
    squeeze,
    stack,
    swapaxes,
    tile,
    transpose,
    tril,
    triu,
    unstack,
)
from tinygrad_rnn.tbptt import TBPTT

__version__ = "0.1.0"

# Names whose modules need more than NumPy and the standard library, or that few programs use: they
# are imported when first asked for, so that `import tinygrad_rnn` stays quick and bare.
_LATER = {
    "save": "tinygrad_rnn.checkpoint",
    "load": "tinygrad_rnn.checkpoint",
    "save_checkpoint": "tinygrad_rnn.checkpoint",
    "load_checkpoint": "tinygrad_rnn.checkpoint",
}


def __getattr__(name: str) -> Any:
    if name in ("testing", "viz"):  # these need extras, and so are not in `__all__`
        return importlib.import_module(f"tinygrad_rnn.{name}")
    if name not in _LATER:
        raise AttributeError(f"module 'tinygrad_rnn' has no attribute {name!r}")
    return getattr(importlib.import_module(_LATER[name]), name)


__all__ = [
    "BackendUnavailable",
    "CheckpointError",
    "DTypeError",
    "DataError",
    "Device",
    "DeviceError",
    "Fused",
    "GradcheckError",
    "GradcheckReport",
    "GradientFlow",
    "GraphFreedError",
    "GraphGrowthWarning",
    "IndexingError",
    "NonFiniteError",
    "NotDifferentiableError",
    "Primitive",
    "SavedArrayChangedError",
    "ShapeError",
    "TBPTT",
    "Tensor",
    "TinygradError",
    "abs",
    "add",
    "arange",
    "argmax",
    "argmin",
    "astype",
    "backward",
    "bool",
    "broadcast_to",
    "clip",
    "concat",
    "cos",
    "cumsum",
    "data",
    "detect_anomaly",
    "devices",
    "divide",
    "dot",
    "einsum",
    "enable_grad",
    "equal",
    "erf",
    "exp",
    "expand_dims",
    "expm1",
    "eye",
    "flip",
    "float32",
    "float64",
    "from_dlpack",
    "full",
    "fused",
    "gelu",
    "grad",
    "gradcheck",
    "gradient_flow",
    "greater",
    "greater_equal",
    "int32",
    "int64",
    "less",
    "less_equal",
    "load",
    "load_checkpoint",
    "log",
    "log1p",
    "log_softmax",
    "logical_and",
    "logical_not",
    "logical_or",
    "logsumexp",
    "manual_seed",
    "matmul",
    "matrix_transpose",
    "max",
    "maximum",
    "mean",
    "min",
    "minimum",
    "multiply",
    "negative",
    "nn",
    "no_grad",
    "norm",
    "not_equal",
    "one_hot",
    "ones",
    "ones_like",
    "optim",
    "outer",
    "pad",
    "permute_dims",
    "power",
    "primitive",
    "prod",
    "random",
    "ravel",
    "reciprocal",
    "relu",
    "repeat",
    "reshape",
    "roll",
    "save",
    "save_checkpoint",
    "sigmoid",
    "sign",
    "sin",
    "softmax",
    "softplus",
    "split",
    "sqrt",
    "square",
    "squeeze",
    "stack",
    "std",
    "subtract",
    "sum",
    "swapaxes",
    "take",
    "take_along_axis",
    "tanh",
    "tensor",
    "tile",
    "time_steps",
    "transpose",
    "tril",
    "triu",
    "unstack",
    "var",
    "where",
    "zeros",
    "zeros_like",
]
