"""Write torch_lengths.json: PyTorch's RNN, LSTM and GRU on rows of unequal lengths.

Run by hand where PyTorch is installed (``pip install torch==2.13.0``), never by the tests:

    python tests/data/make_torch_lengths.py

PyTorch packs the rows before the layer and pads them again after it. A case has `x`, whose padding
holds random numbers as elsewhere, the `lengths`, `out` with 0 beyond each row's length, the states
at each row's own last step in `ends`, the gradients that come in at both in `seeds` (beyond the
lengths too, where they must not count), and `dx` (0 beyond), `dstates`, `dweights`.
"""

import json
from pathlib import Path

import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

STACKED = {"num_layers": 2, "bidirectional": True}
VARIANTS = [
    ({}, [3, 5, 1, 4]),  # not sorted, and one row as long as the window
    ({}, [2, 2, 4, 3]),  # no row reaches the end of the window
    (STACKED, [3, 5, 1, 4]),
    (STACKED, [2, 2, 4, 3]),
    ({**STACKED, "batch_first": True, "bias": False}, [1, 3, 5, 2]),
    (STACKED, [5, 5, 5, 5]),  # no padding at all
]
CASES = [(kind, *variant) for kind in ("RNN", "LSTM", "GRU") for variant in VARIANTS]
T, B, I, H = 5, 4, 3, 2


def tolist(tensors):
    return [t.tolist() for t in tensors]


def run(kind, options, lengths):
    layer = getattr(torch.nn, kind)(I, H, **options).double()
    for parameter in layer.parameters():
        torch.nn.init.uniform_(parameter, -0.8, 0.8)
    first, many = options.get("batch_first", False), kind == "LSTM"
    rows = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
    shape = (B, T, I) if first else (T, B, I)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    states = [
        torch.randn(rows, B, H, dtype=torch.float64, requires_grad=True) for _ in range(1 + many)
    ]
    packed = pack_padded_sequence(x, lengths, batch_first=first, enforce_sorted=False)
    result, ends = layer(packed, tuple(states) if many else states[0])
    out, _ = pad_packed_sequence(result, batch_first=first, total_length=T)
    ends = list(ends) if many else [ends]
    seeds = [torch.randn_like(t) for t in (out, *ends)]
    torch.autograd.backward([out, *ends], seeds)
    return {
        "kind": kind,
        "options": options,
        "lengths": lengths,
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
    target = Path(__file__).with_name("torch_lengths.json")
    cases = [run(*case) for case in CASES]
    target.write_text(json.dumps({"torch": torch.__version__, "cases": cases}) + "\n")
