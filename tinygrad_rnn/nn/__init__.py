"""Layers, losses and what belongs to them, under PyTorch's names."""

from tinygrad_rnn.nn import functional, init, utils
from tinygrad_rnn.nn.layers import Dropout, Embedding, Linear, Sequential
from tinygrad_rnn.nn.module import Module, Parameter
from tinygrad_rnn.nn.recurrent import LSTM, RNN

__all__ = [
    "LSTM",
    "RNN",
    "Dropout",
    "Embedding",
    "Linear",
    "Module",
    "Parameter",
    "Sequential",
    "functional",
    "init",
    "utils",
]
