"""Writes `torch_optim.json`: what PyTorch's optimizers and schedules compute, in float64.

Run it in an environment that has torch (the file was made with 2.13.0, on a CPU):

    python tests/data/make_torch_optim.py

The tests read the file; nothing in them needs torch.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch

STEPS = 6
OPTIMIZERS = [
    ("SGD", {}),
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.05}),
    ("SGD", {"lr": 0.1, "momentum": 0.8, "nesterov": True, "weight_decay": 0.05}),
    ("RMSprop", {}),
    ("RMSprop", {"lr": 0.03, "alpha": 0.9, "eps": 1e-3, "weight_decay": 0.05}),
    ("RMSprop", {"lr": 0.03, "momentum": 0.9}),
    ("RMSprop", {"lr": 0.03, "alpha": 0.9, "centered": True, "momentum": 0.5, "eps": 1e-2}),
    ("Adagrad", {}),
    ("Adagrad", {"lr": 0.1, "lr_decay": 0.2, "weight_decay": 0.05, "eps": 1e-3}),
    ("Adagrad", {"lr": 0.1, "initial_accumulator_value": 0.5}),
    ("Adam", {}),
    ("Adam", {"lr": 0.1, "betas": [0.7, 0.9], "eps": 1e-2, "weight_decay": 0.05}),
    ("AdamW", {}),
    ("AdamW", {"lr": 0.1, "betas": [0.7, 0.9], "eps": 1e-2, "weight_decay": 0.3}),
]
SCHEDULES = [
    ("StepLR", {"step_size": 3}),
    ("StepLR", {"step_size": 2, "gamma": 0.5}),
    ("ExponentialLR", {"gamma": 0.9}),
    ("CosineAnnealingLR", {"T_max": 5}),
    ("CosineAnnealingLR", {"T_max": 7, "eta_min": 0.01}),
    ("LinearLR", {}),
    ("LinearLR", {"start_factor": 0.1, "end_factor": 0.5, "total_iters": 8}),
    ("LambdaLR", {}),
]
METRICS = [
    5,
    4,
    4.1,
    4.2,
    3.9999,
    4.3,
    4,
    4,
    3,
    3.1,
    None,
    3.2,
    3.3,
    3,
    3,
    3,
    3,
    3,
    3,
    3,
    2,
]  # None: NaN
PLATEAUS = [
    {"patience": 2},
    {"patience": 1, "factor": 0.5, "cooldown": 2, "min_lr": 0.05},
    {"patience": 0, "mode": "max", "threshold": 0.5, "threshold_mode": "abs"},
    {"patience": 1, "mode": "max", "threshold": 0.2},
    {"patience": 1, "threshold": 0.5, "threshold_mode": "abs", "min_lr": [0.0, 0.3]},
    {"patience": 0, "eps": 0.02},
]


def two_groups():
    """An optimizer with the learning rates 0.2 and 0.5."""
    a, b = (torch.zeros(1, dtype=torch.float64, requires_grad=True) for _ in range(2))
    return torch.optim.SGD([{"params": [a], "lr": 0.2}, {"params": [b], "lr": 0.5}])


def plain(value):
    """A state dict with lists for tensors."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value.tolist() if isinstance(value, torch.Tensor) else value


def optimizer_case(name, options):
    """Parameters, gradients (None once in a while), and the parameters after each step."""
    generator = torch.Generator().manual_seed(0)

    def draw(shape):
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    params = [draw((2, 3)).requires_grad_(), draw((3,)).requires_grad_()]
    case = {"name": name, "options": options, "start": [p.tolist() for p in params], "steps": []}
    betas = {"betas": tuple(options["betas"])} if "betas" in options else {}
    optimizer = getattr(torch.optim, name)(params, **{**options, **betas})
    for i in range(STEPS):
        for j, p in enumerate(params):
            p.grad = None if (i, j) == (2, 1) else draw(p.shape)
        grads = [None if p.grad is None else p.grad.tolist() for p in params]
        optimizer.step()
        case["steps"].append({"grads": grads, "params": [p.tolist() for p in params]})
        if i == 2:
            case["saved_after_3"] = plain(optimizer.state_dict())
    return case


def schedule_case(name, options):
    """The learning rates of both groups, from t = 0 on."""
    optimizer = two_groups()
    functions = {"lr_lambda": [lambda t: 1 / (1 + t), lambda t: 0.9**t]}
    given = functions if name == "LambdaLR" else options
    schedule = getattr(torch.optim.lr_scheduler, name)(optimizer, **given)
    rates = [schedule.get_last_lr()]
    for _ in range(12):
        optimizer.step()
        schedule.step()
        rates.append(schedule.get_last_lr())
    return {"name": name, "options": options, "rates": rates}


def plateau_case(options):
    """The learning rates of both groups after each metric."""
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(two_groups(), **options)
    rates = []
    for metric in METRICS:
        schedule.step(math.nan if metric is None else metric)
        rates.append(schedule.get_last_lr())
    return {"options": options, "rates": rates}


if __name__ == "__main__":
    result = {
        "torch": torch.__version__,
        "optimizers": [optimizer_case(*case) for case in OPTIMIZERS],
        "schedules": [schedule_case(*case) for case in SCHEDULES],
        "metrics": METRICS,
        "plateaus": [plateau_case(case) for case in PLATEAUS],
    }
    text = json.dumps(result, allow_nan=False)
    Path(__file__).with_name("torch_optim.json").write_text(text + "\n", encoding="utf-8")
