"""The tasks that need a memory: what they show, what they ask, what knowing nothing achieves."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn.data import tasks
from tinygrad_rnn.errors import DataError
from tinygrad_rnn.nn.functional import cross_entropy, mse_loss

batches = st.integers(1, 20)
seeds = st.integers(0, 2**32 - 1)


# ---- adding --------------------------------------------------------------------------------------


@given(T=st.integers(2, 60), batch=batches, seed=seeds)
def test_adding_marks_one_value_in_each_half_and_asks_for_their_sum(T, batch, seed):
    x, y = tasks.adding(T, batch, rng=seed)
    assert (x.shape, x.dtype) == ((T, batch, 2), np.float32)
    assert (y.shape, y.dtype) == ((batch, 1), np.float32)
    values, marks = x[:, :, 0], x[:, :, 1]
    assert ((values >= 0) & (values < 1)).all()
    assert np.isin(marks, (0, 1)).all()
    assert (marks[: T // 2].sum(0) == 1).all()
    assert (marks[T // 2 :].sum(0) == 1).all()
    assert (y[:, 0] == (values * marks).sum(0)).all()  # of two float32 numbers: one rounding


def test_adding_marks_every_place_it_may():
    x, _ = tasks.adding(5, 1000, rng=0)
    assert (x[:, :, 1].sum(1) > 200).all()  # evenly: 500 each of two, then 333 each of three


def test_no_constant_gets_below_the_baseline_of_adding():
    _, y = tasks.adding(4, 400_000, rng=0)
    y = y.astype(np.float64)
    assert y.mean() == pytest.approx(1, abs=0.003)  # 4.6 standard errors
    assert y.var() == pytest.approx(tasks.ADDING_BASELINE, abs=0.001)  # 3 standard errors


# ---- adding, 1997 --------------------------------------------------------------------------------


@given(T=st.integers(11, 120), batch=batches, seed=seeds)
def test_adding_1997_is_laid_out_as_the_paper_says(T, batch, seed):
    x, y, lengths = tasks.adding_1997(T, batch, rng=seed)
    longest = T + T // 10
    assert (x.shape, x.dtype) == ((longest, batch, 2), np.float32)
    assert (y.shape, y.dtype) == ((batch, 1), np.float32)
    assert (lengths.shape, lengths.dtype) == ((batch,), np.int64)
    assert ((lengths >= T) & (lengths <= longest)).all()
    for b, length in enumerate(lengths):
        values, marks = x[:, b, 0], x[:, b, 1]
        assert (abs(values) <= 1).all()
        assert not x[length:, b].any()
        places = np.flatnonzero(marks == 1)
        assert len(places) == 2
        assert places.min() < 10
        assert places.max() < max(10, T // 2 - 1)
        ends = {0, int(length) - 1} - set(places.tolist())
        assert set(np.flatnonzero(marks == -1).tolist()) == ends
        assert (np.delete(marks, [0, length - 1, *places]) == 0).all()
        total = values[places].astype(np.float64).sum()
        assert y[b, 0] == pytest.approx(0.5 + total / 4, abs=1e-6)


def test_adding_1997_takes_every_length_and_place_it_may():
    T = 40
    x, _, lengths = tasks.adding_1997(T, 4000, rng=0)
    assert (np.bincount(lengths)[T:] > 650).all()  # 4000 / 5
    assert len(np.bincount(lengths)) == 45
    marked = (x[:, :, 1] == 1).sum(1)  # 400 from the first mark, some 200 from the second
    assert (marked[:10] > 500).all()
    assert (marked[10:19] > 150).all()
    assert not marked[19:].any()


def test_knowing_nothing_gives_the_baselines_of_adding_1997():
    _, y, _ = tasks.adding_1997(11, 400_000, rng=0)
    errors = y.astype(np.float64) - 0.5
    assert (errors**2).mean() == pytest.approx(tasks.ADDING_1997_BASELINE, abs=3e-4)
    right = (abs(errors) < tasks.ADDING_1997_TOLERANCE).mean()
    assert abs(tasks.ADDING_1997_RIGHT - 0.1536) < 1e-12
    assert right == pytest.approx(0.1536, abs=0.003)  # 5 standard errors


# ---- copy memory ---------------------------------------------------------------------------------


@given(T=st.integers(1, 60), batch=batches, seed=seeds, control=st.booleans())
def test_copy_shows_ten_symbols_waits_and_asks_for_them(T, batch, seed, control):
    ids, targets = tasks.copy_memory(T, batch, rng=seed, control=control)
    assert ids.shape == targets.shape == (T + 20, batch)
    assert ids.dtype == targets.dtype == np.int64
    assert np.isin(ids[:10], range(1, 9)).all()
    assert (ids[10 : T + 9] == 0).all()
    assert (ids[T + 9] == 9).all()
    assert (ids[T + 10 :] == 0).all()
    assert (targets[: T + 10] == 0).all()
    assert np.isin(targets[T + 10 :], range(1, 9)).all()
    if not control:
        assert (targets[T + 10 :] == ids[:10]).all()


@given(T=st.integers(1, 60), batch=batches, seed=seeds)
def test_the_control_differs_in_the_recalled_symbols_only(T, batch, seed):
    copying, control = np.random.default_rng(seed), np.random.default_rng(seed)
    for _ in range(2):  # and the second batch is the same, too
        ids, targets = tasks.copy_memory(T, batch, rng=copying)
        ids_control, targets_control = tasks.copy_memory(T, batch, rng=control, control=True)
        assert (ids == ids_control).all()
        assert (targets[: T + 10] == targets_control[: T + 10]).all()


def test_nothing_shown_tells_what_the_control_asks_for():
    ids, targets = tasks.copy_memory(3, 80_000, rng=0, control=True)
    for shown, asked in ((i, j) for i in range(10) for j in range(10)):
        pairs = np.zeros((9, 9))
        np.add.at(pairs, (ids[shown], targets[13 + asked]), 1)
        assert not pairs[0].any()
        assert not pairs[:, 0].any()
        assert abs(pairs[1:, 1:] - 1250).max() < 6 * math.sqrt(1250)  # of 64 pairs, evenly


@pytest.mark.parametrize(("T", "known"), [(20, 0.5199), (50, 0.2971), (100, 0.1733)])
def test_the_best_without_a_memory_is_the_baseline_of_copying(T, known):
    """It is sure of the blanks, and of the symbols knows only that there are eight."""
    _, targets = tasks.copy_memory(T, 7, rng=0)
    scores = np.full((T + 20, 7, tasks.COPY_SYMBOLS), -1e9)
    scores[: T + 10, :, 0] = 0
    scores[T + 10 :, :, 1:9] = 0
    assert tasks.copy_baseline(T) == pytest.approx(known, abs=5e-5)
    assert float(cross_entropy(scores, targets)) == pytest.approx(tasks.copy_baseline(T), rel=1e-12)


# ---- four letters --------------------------------------------------------------------------------


def test_hello_is_hell_and_then_ello():
    x, targets = tasks.hello()
    assert (x.shape, x.dtype) == ((4, 1, 4), np.float32)
    assert (targets.shape, targets.dtype) == ((4, 1), np.int64)
    assert (x.sum(-1) == 1).all()
    assert "".join(tasks.HELLO_LETTERS[i] for i in x.argmax(-1)[:, 0]) == "hell"
    assert "".join(tasks.HELLO_LETTERS[i] for i in targets[:, 0]) == "ello"


# ---- the linear network --------------------------------------------------------------------------


def linear_layer(task):
    """nn.RNN with the weights of the task: relu, which its positive states never notice."""
    H = len(task.v)
    layer = tg.nn.RNN(H, H, nonlinearity="relu", bias=False, dtype=np.float64)
    layer.load_state_dict({"weight_ih_l0": np.eye(H), "weight_hh_l0": task.weight})
    return layer


def gradient_of_the_engine(task, window=None):
    """dL/dx_t from the fused layer, with the state detached `window` steps before the end."""
    layer, x = linear_layer(task), tg.tensor(task.x[:, np.newaxis], requires_grad=True)
    cut = 0 if window is None else max(0, len(task.x) - window)
    state = None
    if cut:
        _, state = layer(x[:cut])
        state = state.detach()
    out, _ = layer(x[cut:], state)
    (out[-1, 0] @ tg.tensor(task.v)).backward()
    return out.detach().numpy()[:, 0], x.grad[:, 0]


@pytest.mark.parametrize("gain", [0.9, 1.0, 1.1, -1.1])
def test_gradients_vanish_and_explode_as_the_closed_form_says(gain):
    task = tasks.linear_rnn(101, 8, gain, rng=0)
    states, gradient = gradient_of_the_engine(task)
    # The states are those of the task, so relu has cut nothing off. A rounding error of one step
    # is carried on like everything else, and grows as the gradient does.
    assert ((task.h > 1) & (task.h < 2)).all()
    np.testing.assert_allclose(states, task.h, rtol=1e-14 * max(1, abs(gain)) ** 100)
    for k in range(101):
        size = abs(gain) ** k
        assert np.linalg.norm(task.gradient[100 - k]) == pytest.approx(size, rel=1e-12)
        assert np.linalg.norm(gradient[100 - k]) == pytest.approx(size, rel=1e-12)
        off = np.linalg.norm(gradient[100 - k] - task.gradient[100 - k])
        assert off < 1e-12 * size


@given(
    T=st.integers(1, 12), hidden=st.integers(1, 5), gain=st.floats(-1.5, 1.5), seed=seeds,
    window=st.none() | st.integers(1, 15),
)  # fmt: skip
def test_the_linear_network_is_its_definition(T, hidden, gain, seed, window):
    task = tasks.linear_rnn(T, hidden, gain, window=window, rng=seed)
    np.testing.assert_allclose(task.weight @ task.weight.T, gain**2 * np.eye(hidden), atol=1e-12)
    h = np.zeros(hidden)
    for t in range(T):
        h = task.weight @ h + task.x[t]
        np.testing.assert_allclose(h, task.h[t], rtol=1e-12)
        k = T - 1 - t
        seen = window is None or k < window
        wanted = np.linalg.matrix_power(task.weight.T, k) @ task.v if seen else np.zeros(hidden)
        np.testing.assert_allclose(task.gradient[t], wanted, atol=1e-12 * max(1, abs(gain) ** k))


@pytest.mark.parametrize("window", [1, 7, 40, 41, 100])
def test_beyond_a_truncation_window_the_gradient_is_exactly_zero(window):
    task = tasks.linear_rnn(40, 6, 1.1, window=window, rng=3)
    _, gradient = gradient_of_the_engine(task, window)
    beyond = max(0, 40 - window)
    assert not gradient[:beyond].any()
    assert not task.gradient[:beyond].any()
    assert gradient[beyond:].all()
    np.testing.assert_allclose(gradient[beyond:], task.gradient[beyond:], rtol=1e-12, atol=1e-12)


# ---- all of them ---------------------------------------------------------------------------------

DRAWN = {
    "adding": lambda rng: tasks.adding(20, 3, rng=rng),
    "adding_1997": lambda rng: tasks.adding_1997(20, 3, rng=rng),
    "copy_memory": lambda rng: tasks.copy_memory(20, 3, rng=rng),
    "control": lambda rng: tasks.copy_memory(20, 3, rng=rng, control=True),
    "linear_rnn": lambda rng: tasks.linear_rnn(20, 3, 0.9, rng=rng),
}


@pytest.mark.parametrize("draw", DRAWN.values(), ids=DRAWN)
def test_the_same_seed_gives_the_same_data(draw):
    def same(one, other):
        return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))

    assert same(draw(5), draw(5))
    assert same(draw(5), draw(np.random.default_rng(5)))
    assert not same(draw(5), draw(6))
    rng = np.random.default_rng(5)
    assert not same(draw(rng), draw(rng))  # a generator goes on
    tg.manual_seed(5)
    assert same(draw(None), draw(5))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tasks.adding(1, 3), "adding: T is a whole number, at least 2; got 1"),
        (lambda: tasks.adding(5, 0), "batch is a whole number, at least 1; got 0"),
        (lambda: tasks.adding(5.0, 3), "at least 2; got 5.0"),
        (lambda: tasks.adding(5, True), "got True"),
        (lambda: tasks.adding("50", 3), "got '50'"),
        (lambda: tasks.adding_1997(10, 3), "adding_1997: T is a whole number, at least 11; got 10"),
        (lambda: tasks.adding_1997(20, None), "batch is a whole number, at least 1; got None"),
        (lambda: tasks.copy_memory(0, 3), "copy_memory: T is a whole number, at least 1; got 0"),
        (lambda: tasks.copy_memory(5, -2), "got -2"),
        (lambda: tasks.copy_baseline(-20), "copy_baseline: T"),
        (lambda: tasks.linear_rnn(0, 3, 0.9), "linear_rnn: T"),
        (lambda: tasks.linear_rnn(5, 0, 0.9), "linear_rnn: hidden"),
        (lambda: tasks.linear_rnn(5, 3, math.nan), "gain is a finite number .* got nan"),
        (lambda: tasks.linear_rnn(5, 3, "big"), "gain is a finite number .* got 'big'"),
        (lambda: tasks.linear_rnn(5, 3, 0.9, window=0), "window is a whole number, at least 1"),
    ],
)  # fmt: skip
def test_a_bad_size_says_what_was_needed(call, message):
    with pytest.raises(DataError, match=message):
        call()


def test_sizes_may_be_numpy_integers():
    assert tasks.adding(np.int64(4), np.int32(2), rng=0)[0].shape == (4, 2, 2)


def test_a_batch_is_what_a_layer_and_its_loss_take():
    x, y = tasks.adding(6, 3, rng=0)
    out, _ = tg.nn.RNN(2, 1, rng=0)(x)
    assert mse_loss(out[-1], y).dtype == np.float32
