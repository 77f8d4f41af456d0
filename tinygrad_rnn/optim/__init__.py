"""Optimizers and learning-rate schedules, with PyTorch's names, formulas and defaults.

optimizer = tg.optim.Adam(model.parameters(), lr=2e-3)
schedule = tg.optim.CosineAnnealingLR(optimizer, T_max=1000)
loss.backward(); optimizer.step(); optimizer.zero_grad(); schedule.step()
"""

from tinygrad_rnn.optim.base import Optimizer
from tinygrad_rnn.optim.optimizers import SGD, Adagrad, Adam, AdamW, RMSprop
from tinygrad_rnn.optim.plateau import ReduceLROnPlateau
from tinygrad_rnn.optim.schedules import (
    CosineAnnealingLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    Schedule,
    StepLR,
)

__all__ = [
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "CosineAnnealingLR",
    "ExponentialLR",
    "LambdaLR",
    "LinearLR",
    "Optimizer",
    "RMSprop",
    "ReduceLROnPlateau",
    "Schedule",
    "StepLR",
]
