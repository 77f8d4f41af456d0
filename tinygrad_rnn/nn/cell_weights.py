"""The weights of one recurrent cell: names, shapes and first values, for layers and for cells.

Names, shapes and gate order are PyTorch's, so weights travel both ways. The first values are not:
recurrent weights start orthogonal (Saxe et al. 2014; a product of orthogonal matrices neither
shrinks nor grows), biases start at 0, and an LSTM's forget gate at 1, open (Jozefowicz et al.
2015).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinygrad_rnn.core.tensor import Tensor
from tinygrad_rnn.nn import init
from tinygrad_rnn.nn.layers import new_parameter
from tinygrad_rnn.nn.module import Module
from tinygrad_rnn.ops.random import Rng, generator

WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def add_weights(
    module: Module,
    suffix: str,
    rows: int,
    input_size: int,
    hidden_size: int,
    bias: bool,
    dtype: Any,
    device: str | None,
) -> None:
    """Give a module the two weights and, with `bias`, the two biases of one cell."""
    shapes: dict[str, tuple[int, ...]] = {
        "weight_ih": (rows, input_size),
        "weight_hh": (rows, hidden_size),
        "bias_ih": (rows,),
        "bias_hh": (rows,),
    }
    for name, shape in shapes.items():
        if bias or name.startswith("weight"):
            setattr(module, name + suffix, new_parameter(shape, dtype, device))


def set_first_values(module: Module, H: int, blocks: int, rng: Rng) -> None:
    """Input weights uniform in +-1/sqrt(H), blocks of recurrent ones orthogonal, biases 0."""
    rng = generator(rng)
    for name, parameter in module.named_parameters():
        if name.startswith("weight_ih"):
            init.uniform_(parameter, -1 / math.sqrt(H), 1 / math.sqrt(H), rng=rng)
        elif name.startswith("weight_hh"):
            for k in range(blocks):
                block = Tensor(np.zeros((H, H), dtype=parameter.dtype), device=parameter.device)
                init.orthogonal_(block, rng=rng)
                parameter.writable()[k * H : (k + 1) * H] = block._data
        else:
            init.zeros_(parameter)
