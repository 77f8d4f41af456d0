"""tinygrad_rnn: autograd and recurrent networks in plain Python, to read and to use.

    import tinygrad_rnn as tg

Start with `tg.tensor`, `tg.nn`, `tg.optim` and `tg.TBPTT`; the README says in which order to read
the source.

What few programs use, or what needs more than NumPy, is imported when it is first asked for: see
`_LATER`, below the imports.
"""

import importlib
from typing import TYPE_CHECKING, Any

from numpy import bool_ as bool
from numpy import float32, float64, int32, int64

from tinygrad_rnn import nn, optim
from tinygrad_rnn.backends import Device, devices
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

# Imported when first asked for, so that `import tinygrad_rnn` stays quick and bare: the name, and
# the module that has it, or that it is. Of 18 ms over NumPy's, `data` would add 11 (it needs
# numpy.random) and `detect_anomaly` 6 (hashlib). A function whose module has the same name cannot
# stand here (`gradcheck`): whoever imports the module puts it in the function's place.
_LATER = {
    "data": "tinygrad_rnn.data",
    "detect_anomaly": "tinygrad_rnn.core.anomaly",
    "load": "tinygrad_rnn.checkpoint",
    "load_checkpoint": "tinygrad_rnn.checkpoint",
    "save": "tinygrad_rnn.checkpoint",
    "save_checkpoint": "tinygrad_rnn.checkpoint",
    "testing": "tinygrad_rnn.testing",  # this and the next need extras: not in `__all__`
    "viz": "tinygrad_rnn.viz",
}
if TYPE_CHECKING:  # the same once more, for those who read the program and do not run it
    from tinygrad_rnn import data
    from tinygrad_rnn import testing as testing
    from tinygrad_rnn import viz as viz
    from tinygrad_rnn.checkpoint import load, load_checkpoint, save, save_checkpoint
    from tinygrad_rnn.core.anomaly import detect_anomaly


def __getattr__(name: str) -> Any:
    """What Python calls for a name that is not here (PEP 562): import it, once."""
    if name not in _LATER:
        raise AttributeError(f"module 'tinygrad_rnn' has no attribute {name!r}")
    module = importlib.import_module(_LATER[name])
    value = module if module.__name__ == f"tinygrad_rnn.{name}" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """With the names that are still to come, for help() and completion."""
    return sorted({*globals(), *__all__})


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
