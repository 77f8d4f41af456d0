"""Write torch_cells.json: one step of PyTorch's RNNCell, LSTMCell and GRUCell, with gradients.

Run by hand where PyTorch is installed (``pip install torch==2.13.0``), never by the tests:

    python tests/data/make_torch_cells.py

A case has `x` (B, I), or (I,) without a batch, the `states` before the step (h; for an LSTMCell h
and c), those after it in `out`, the gradients that come in at them in `seeds`, and what comes out
at the other end: `dx`, `dstates`, `dweights`.
"""

import json
from pathlib import Path

import torch

CASES = [
    ("RNNCell", {"nonlinearity": "tanh"}),
    ("RNNCell", {"nonlinearity": "tanh", "bias": False}),
    ("RNNCell", {"nonlinearity": "relu"}),
    ("RNNCell", {"nonlinearity": "relu", "bias": False}),
    ("LSTMCell", {}),
    ("LSTMCell", {"bias": False}),
    ("GRUCell", {}),
    ("GRUCell", {"bias": False}),
]
B, I, H = 3, 2, 4


def tolist(tensors):
    return [t.tolist() for t in tensors]


def run(kind, options, batch):
    cell = getattr(torch.nn, kind)(I, H, **options).double()
    for parameter in cell.parameters():
        torch.nn.init.uniform_(parameter, -0.8, 0.8)
    x = torch.randn(*batch, I, dtype=torch.float64, requires_grad=True)
    many = kind == "LSTMCell"
    states = [
        torch.randn(*batch, H, dtype=torch.float64, requires_grad=True) for _ in range(1 + many)
    ]
    out = cell(x, tuple(states) if many else states[0])
    out = list(out) if many else [out]
    seeds = [torch.randn_like(t) for t in out]
    torch.autograd.backward(out, seeds)
    return {
        "kind": kind,
        "options": options,
        "weights": {name: p.tolist() for name, p in cell.named_parameters()},
        "x": x.tolist(),
        "states": tolist(states),
        "out": tolist(out),
        "seeds": tolist(seeds),
        "dx": x.grad.tolist(),
        "dstates": tolist([s.grad for s in states]),
        "dweights": {name: p.grad.tolist() for name, p in cell.named_parameters()},
    }


if __name__ == "__main__":
    torch.manual_seed(0)
    target = Path(__file__).with_name("torch_cells.json")
    cases = [run(kind, options, (B,)) for kind, options in CASES]
    cases += [run(kind, {}, ()) for kind in ("RNNCell", "LSTMCell", "GRUCell")]
    target.write_text(json.dumps({"torch": torch.__version__, "cases": cases}) + "\n")
