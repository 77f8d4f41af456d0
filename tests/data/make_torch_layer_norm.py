"""Write torch_layer_norm.json: what PyTorch's LayerNorm computes, values and gradients.

Run by hand where PyTorch is installed (``pip install torch==2.13.0``), never by the tests:

    python tests/data/make_torch_layer_norm.py
"""

import json
from pathlib import Path

import torch

CASES = [  # the shape of the input, the normalised shape, options
    ((4, 3, 5), 5, {}),
    ((4, 3, 5), [3, 5], {}),
    ((4, 3), [4, 3], {"eps": 0.1}),
    ((4, 3, 5), 5, {"bias": False}),
    ((4, 3, 5), [5], {"elementwise_affine": False}),
    ((6,), 6, {}),
]


def run(shape, normalized_shape, options):
    layer = torch.nn.LayerNorm(normalized_shape, **options).double()
    first = {name: p.tolist() for name, p in layer.named_parameters()}
    for parameter in layer.parameters():
        torch.nn.init.uniform_(parameter, -0.8, 0.8)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    out = layer(x)
    seed = torch.randn_like(out)
    out.backward(seed)
    return {
        "normalized_shape": normalized_shape,
        "options": options,
        "first": first,
        "weights": {name: p.tolist() for name, p in layer.named_parameters()},
        "x": x.tolist(),
        "out": out.tolist(),
        "seed": seed.tolist(),
        "dx": x.grad.tolist(),
        "dweights": {name: p.grad.tolist() for name, p in layer.named_parameters()},
    }


if __name__ == "__main__":
    torch.manual_seed(0)
    target = Path(__file__).with_name("torch_layer_norm.json")
    cases = [run(*case) for case in CASES]
    target.write_text(json.dumps({"torch": torch.__version__, "cases": cases}) + "\n")
