"""The bias of truncated back-propagation, and its memory: the numbers of `examples/truncation.py`.

Counted, not timed: memory is what tracemalloc counts, in bytes.
"""

import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import tinygrad_rnn as tg
from tests.programs import example
from tinygrad_rnn import nn
from tinygrad_rnn.char_lm import CharModel

PATH = Path(__file__).parent.parent / "examples" / "truncation.py"
sys.path.append(str(PATH.parent))  # as Python does for a program that it runs: `_door` is there
SPEC = importlib.util.spec_from_file_location("truncation", PATH)
truncation = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(truncation)

V = 7


def stream(T, B=3, seed=1):
    rng = np.random.default_rng(seed)
    return rng.integers(0, V, (T, B)), rng.integers(0, V, (T, B))


def model_of(kind, hidden=12, dtype=None):
    return CharModel(V, kind=kind, hidden=hidden, embedding=5, rng=0, dtype=dtype)


def biases(model, xs, ys, pairs):
    g = truncation.exact(model, xs, ys)
    return [
        truncation.compare(truncation.truncated(model, xs, ys, k1, k2)[0], g)[0] for k1, k2 in pairs
    ]


@pytest.mark.parametrize("kind", ["rnn", "lstm"])
@pytest.mark.parametrize("T", [48, 49])
def test_a_window_as_long_as_the_stream_has_no_bias_at_all(kind, T):
    model, (xs, ys) = model_of(kind), stream(T)
    g = truncation.exact(model, xs, ys)
    found, _ = truncation.truncated(model, xs, ys, T, T)
    for a, b in zip(found, g, strict=True):
        np.testing.assert_array_equal(a, b)
    assert truncation.compare(found, g) == (0, 1, 1)


@pytest.mark.parametrize("kind", ["rnn", "lstm"])
@pytest.mark.parametrize("k1", [1, 6, 48])
def test_windows_that_overlap_back_to_the_start_have_no_bias_but_rounding(kind, k1):
    """Each loss is counted once, whatever k1 is: twice would be a bias of 1."""
    model, (xs, ys) = model_of(kind, dtype=np.float64), stream(48)
    (bias,) = biases(model, xs, ys, [(k1, 48)])
    assert bias < 1e-13


@pytest.mark.parametrize("kind", ["rnn", "lstm"])
def test_the_bias_falls_as_the_gradient_runs_further_back(kind):
    model, (xs, ys) = model_of(kind, dtype=np.float64), stream(64)
    found = biases(model, xs, ys, [(4, k2) for k2 in (4, 8, 16, 32, 64)])
    assert found == sorted(found, reverse=True)
    assert found[0] > 0.02
    assert found[0] > 10 * found[3]
    # Without overlap, most losses see less of the past than k2.
    (apart,) = biases(model, xs, ys, [(16, 16)])
    assert found[2] < apart < found[0]


class Forgetful(nn.Module):
    """An RNN whose state holds nothing that is older than the last k steps.

    Its recurrent matrix only moves unit 1 to 2, 2 to 3 and so on: after k = H moves nothing is
    left, because the k-th power of a strictly triangular matrix is 0.
    """

    def __init__(self, k):
        self.recurrent = nn.RNN(2, k, rng=0, dtype=np.float64)
        self.output = nn.Linear(k, V, rng=1, dtype=np.float64)
        self.recurrent.weight_hh_l0.writable()[...] = 0.9 * np.eye(k, k=-1)

    def forward(self, x, state=None):
        h, state = self.recurrent(x, state)
        return self.output(h), state


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("k1", [1, 3])
def test_a_network_that_forgets_after_k_steps_has_no_bias_from_there_on(k, k1):
    """The oldest loss of a window sees k2 - k1 steps before its own; k - 1 are all that matter."""
    rng = np.random.default_rng(2)
    xs, ys = tg.tensor(rng.normal(size=(24, 3, 2))), rng.integers(0, V, (24, 3))
    model = Forgetful(k)
    out, _ = model(xs)
    moved = xs.numpy()
    moved[3] += 1.0  # it does forget: an input shows in k outputs
    moved_out, _ = model(tg.tensor(moved))
    seen = np.abs((moved_out - out).detach().numpy()).max(axis=(1, 2)) > 0
    assert seen.nonzero()[0].tolist() == list(range(3, 3 + k))
    found = biases(model, xs, ys, [(k1, k1 + back) for back in range(k + 2)])
    assert max(found[k - 1 :]) < 1e-14
    assert min(found[: k - 1], default=1) > 1e-4


@pytest.mark.parametrize("kind", ["rnn", "lstm"])
@pytest.mark.parametrize("overlap", [1, 2])
def test_memory_grows_with_k2_and_not_with_the_stream(kind, overlap):
    # Arrays of megabytes: beside them neither Python's own objects count nor the blocks of steps
    # that the time loop works on at once, which have one size.
    model = model_of(kind, hidden=128)

    def peak(T, k2):
        return truncation.truncated(model, *stream(T, B=96), k2 // overlap, k2)[1]

    short = peak(80, 20)
    assert peak(160, 20) == pytest.approx(short, rel=0.02)
    assert peak(640, 20) == pytest.approx(short, rel=0.02)
    assert 1.8 < peak(160, 40) / short < 2.1
    assert 1.8 < peak(320, 80) / peak(160, 40) < 2.1


def test_the_example_prints_the_table_and_draws_it(tmp_path):
    options = ("--length", "48", "--updates", "2", "--plot", str(tmp_path / "a.png"))
    printed = example("truncation.py", *options)
    for kind in ("RNN", "LSTM"):
        part = printed.split(f"{kind} 128, after 2 updates; T = 48")[1].split("another place")[0]
        rows = re.findall(r"^ *(\d+) +(\d+) +(0 exactly|\S+) .* MB", part, re.MULTILINE)
        assert [(int(k1), int(k2)) for k1, k2, _ in rows] == [
            *((k, k) for k in (1, 2, 4, 8, 16, 24, 48)), *((2, k) for k in (4, 8, 16, 24, 48)),
        ]  # fmt: skip
        assert next(k2 for _, k2, bias in rows if bias == "0 exactly") == "48"
        assert float(rows[0][2]) > 0.05
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_the_example_repeats_itself_and_takes_one_model():
    options = ("--length", "48", "--updates", "0", "--model", "rnn")
    first, second = (example("truncation.py", *options) for _ in range(2))
    numbers = re.compile(r"\d\.\d+ MB")  # the interpreter's own objects are counted, too
    assert numbers.sub("", first) == numbers.sub("", second)
    assert "LSTM" not in first
