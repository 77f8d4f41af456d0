"""Write torch_recurrent.json: what PyTorch's RNN, LSTM and GRU compute, values and gradients.

Run by hand where PyTorch is installed (``pip install torch==2.13.0``), never by the tests:

    python tests/data/make_torch_recurrent.py

One stream of random numbers runs through all cases: new ones go at the end, or the old ones change.
"""

import json
from pathlib import Path

import torch

CASES = [
    ("RNN", {"nonlinearity": "tanh"}),
    ("RNN", {"nonlinearity": "relu", "bias": False}),
    ("RNN", {"num_layers": 2, "bidirectional": True}),
    ("LSTM", {}),
    ("LSTM", {"bias": False}),
    ("LSTM", {"num_layers": 2}),
    ("LSTM", {"num_layers": 2, "bidirectional": True, "batch_first": True}),
    ("GRU", {}),
    ("GRU", {"bias": False}),
    ("GRU", {"num_layers": 2}),
    ("GRU", {"bidirectional": True}),
    ("GRU", {"num_layers": 2, "bidirectional": True, "batch_first": True}),
]
T, B, I, H = 4, 3, 2, 3


def tolist(tensors):
    return [t.tolist() for t in tensors]


def run(kind, options):
    layer = getattr(torch.nn, kind)(I, H, **options).double()
    for parameter in layer.parameters():
        torch.nn.init.uniform_(parameter, -0.8, 0.8)
    rows = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
    shape = (B, T, I) if options.get("batch_first") else (T, B, I)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    states = [torch.randn(rows, B, H, dtype=torch.float64, requires_grad=True)]
    if kind == "LSTM":
        states.append(torch.randn(rows, B, H, dtype=torch.float64, requires_grad=True))
    out, ends = layer(x, tuple(states) if kind == "LSTM" else states[0])
    ends = list(ends) if kind == "LSTM" else [ends]
    seeds = [torch.randn_like(t) for t in (out, *ends)]
    torch.autograd.backward([out, *ends], seeds)
    return {
        "kind": kind,
        "options": options,
        "weights": {name: p.tolist() for name, p in layer.named_parameters()},
        "x": x.tolist(),
        "states": tolist(states),
        "out": out.tolist(),
        "ends": tolist(ends),
        "seeds": tolist(seeds),
        "dx": x.grad.tolist(),
        "dstates": tolist([s.grad for s in states]),
        "dweights": {name: p.grad.tolist() for name, p in layer.named_parameters()},
    }


if __name__ == "__main__":
    torch.manual_seed(0)
    target = Path(__file__).with_name("torch_recurrent.json")
    cases = [run(kind, options) for kind, options in CASES]
    target.write_text(json.dumps({"torch": torch.__version__, "cases": cases}) + "\n")
