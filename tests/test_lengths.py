"""Rows of unequal lengths: PyTorch's numbers, and padding that has no influence whatsoever."""

import json
import pathlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tests.fake_device import sync_budget
from tinygrad_rnn import nn

STORED = json.loads((pathlib.Path(__file__).parent / "data" / "torch_lengths.json").read_text())
KINDS = ["RNN", "LSTM", "GRU"]
VARIANTS = {
    "plain": {},
    "stacked, both directions": {"num_layers": 2, "bidirectional": True},
    "batch first": {"batch_first": True, "bidirectional": True},
}


def parts(state):
    return list(state) if isinstance(state, tuple) else [state]


def as_state(states):
    return tuple(states) if len(states) > 1 else states[0]


@pytest.mark.parametrize(
    "case", STORED["cases"], ids=lambda c: f"{c['kind']}-{c['options']}-{c['lengths']}"
)
def test_equals_pytorch(backend, case):
    x = backend.tensor(case["x"], requires_grad=True)
    states = [backend.tensor(s, requires_grad=True) for s in case["states"]]
    layer = getattr(nn, case["kind"])(x.shape[-1], states[0].shape[-1], **case["options"])
    layer.to(tg.float64).load_state_dict(case["weights"])
    layer.to(backend.device)
    out, ends = layer(x, as_state(states), lengths=case["lengths"])
    results = [out, *parts(ends)]
    for ours, theirs in zip(results, [case["out"], *case["ends"]], strict=True):
        np.testing.assert_allclose(backend.host(ours), theirs, rtol=1e-12, atol=1e-12)
    seeds = [backend.tensor(s) for s in case["seeds"]]
    found = tg.grad(results, [x, *states, *layer.parameters()], seeds)
    expected = [case["dx"], *case["dstates"], *case["dweights"].values()]
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(backend.host(ours), theirs, rtol=1e-11, atol=1e-11)


def drawn(kind, options, T, B, seed, lengths):
    """A layer, an input with zeros in the padding, and states, all random."""
    rng = np.random.default_rng(seed)
    layer = getattr(nn, kind)(2, 3, rng=seed, dtype=np.float64, **options)
    for parameter in layer.parameters():
        parameter.writable()[...] = rng.normal(size=parameter.shape)
    x = rng.normal(size=(T, B, 2))
    x[np.arange(T)[:, None] >= np.array(lengths)] = 0
    rows = layer.num_layers * layer.directions
    states = [rng.normal(size=(rows, B, 3)) for _ in range(layer.kinds)]
    return layer, x, states


def answer(backend, layer, x, states, lengths):
    """Everything that comes out: outputs, last states, and all gradients of a loss of all of it."""
    layout = x.swapaxes(0, 1) if layer.batch_first else x
    x, states = (
        backend.tensor(layout, requires_grad=True),
        [backend.tensor(s, requires_grad=True) for s in states],
    )
    layer.to(backend.device)
    out, ends = layer(x, as_state(states), lengths=lengths)
    loss = sum(((e * e).sum() for e in parts(ends)), (out * out).sum())
    asked = [x, *states, *layer.parameters()]
    grads = [backend.host(g) for g in tg.grad(loss, asked)]
    out = backend.host(out)
    grads[0] = grads[0].swapaxes(0, 1) if layer.batch_first else grads[0]
    return (
        out.swapaxes(0, 1) if layer.batch_first else out,
        [backend.host(e) for e in parts(ends)],
        grads,
    )


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", KINDS)
@given(
    T=st.integers(0, 4), lengths=st.lists(st.integers(0, 4), max_size=3), seed=st.integers(0, 99)
)
def test_a_batch_equals_its_rows_one_by_one(backend, kind, variant, T, lengths, seed):
    lengths = [min(n, T) for n in lengths]
    layer, x, states = drawn(kind, VARIANTS[variant], T, len(lengths), seed, lengths)
    out, ends, grads = answer(backend, layer, x, states, lengths)
    total = [np.zeros(p.shape) for p in layer.parameters()]
    for b, n in enumerate(lengths):
        alone = [s[:, b : b + 1] for s in states]
        one_out, one_ends, one_grads = answer(backend, layer, x[:n, b : b + 1], alone, None)
        same = np.testing.assert_allclose
        same(out[:n, b : b + 1], one_out, rtol=1e-12, atol=1e-12)
        assert not out[n:, b].any()
        for end, one_end in zip(ends, one_ends, strict=True):
            same(end[:, b : b + 1], one_end, rtol=1e-12, atol=1e-12)
        same(grads[0][:n, b : b + 1], one_grads[0], rtol=1e-10, atol=1e-11)
        assert not grads[0][n:, b].any()
        for g, one_g in zip(grads[1 : 1 + layer.kinds], one_grads[1:], strict=False):
            same(g[:, b : b + 1], one_g, rtol=1e-10, atol=1e-11)
        for sum_, one_g in zip(total, one_grads[1 + layer.kinds :], strict=True):
            sum_ += one_g
    for g, sum_ in zip(grads[1 + layer.kinds :], total, strict=True):
        np.testing.assert_allclose(g, sum_, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("rubbish", [np.nan, np.inf, 1e300])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_stands_in_the_padding_changes_no_bit(backend, kind, variant, rubbish):
    lengths = [2, 4, 0]
    layer, x, states = drawn(kind, VARIANTS[variant], 4, 3, 0, lengths)
    clean = answer(backend, layer, x, states, lengths)
    x[np.arange(4)[:, None] >= np.array(lengths)] = rubbish
    dirty = answer(backend, layer, x, states, lengths)
    for a, b in zip(
        [clean[0], *clean[1], *clean[2]], [dirty[0], *dirty[1], *dirty[2]], strict=True
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", KINDS)
def test_more_padding_changes_nothing_but_the_length(backend, kind):
    lengths = [2, 3]
    layer, x, states = drawn(kind, {"bidirectional": True}, 3, 2, 1, lengths)
    short = answer(backend, layer, x, states, lengths)
    long = answer(backend, layer, np.concatenate([x, x[:2]]), states, lengths)
    np.testing.assert_allclose(short[0], long[0][:3], rtol=1e-13)
    for a, b in zip([*short[1], *short[2][1:]], [*long[1], *long[2][1:]], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("rows", [3, 40])  # a small table is projected, a large one looked up
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_ids_in_the_padding_may_be_anything(backend, kind, rows, first):
    rng = np.random.default_rng(0)
    layer = getattr(nn, kind)(2, 3, bidirectional=True, batch_first=first, rng=0, dtype=np.float64)
    layer.to(backend.device)
    table = backend.tensor(rng.normal(size=(rows, 2)), requires_grad=True)
    ids = rng.integers(1, rows, (4, 3))
    lengths = [4, 1, 2]
    padding = np.arange(4)[:, None] >= np.array(lengths)
    results = []
    for filler in (0, -1, 10**6):
        ids[padding] = filler
        given_ids = ids.T if first else ids
        out, _ = layer(given_ids, table=table, lengths=lengths)
        grads = tg.grad((out * out).sum(), [table, *layer.parameters()])
        results.append([backend.host(t) for t in (out, *grads)])
    assert not results[0][1][0].any()  # nothing but padding had id 0: no gradient for that row
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)
    ids[padding] = 0
    vectors = tg.take(table, ids.T if first else ids, 0)
    out, _ = layer(vectors, lengths=lengths)
    np.testing.assert_allclose(results[0][0], backend.host(out), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_what_nobody_reads_may_be_nan(backend, kind):
    """A row of a table that no step reads, and the state of a row without steps."""
    layer = getattr(nn, kind)(2, 3, rng=0, dtype=np.float64).to(backend.device)
    table = np.ones((4, 2))
    table[:2] = np.nan  # row 0 is what stands in the padding, row 1 is read by nobody
    table = backend.tensor(table, requires_grad=True)
    start = np.zeros((1, 3, 3))
    start[0, 2] = np.nan
    states = [backend.tensor(start, requires_grad=True) for _ in range(layer.kinds)]
    ids = np.array([[2, 3, 0], [3, 0, 0]])
    out, _ = layer(ids, as_state(states), table=table, lengths=[2, 1, 0])
    loss = out.sum()
    found = tg.grad(loss, [table, *states, *layer.parameters()])
    assert np.isfinite(backend.host(loss))
    for g in found:
        assert np.isfinite(backend.host(g)).all()


def test_full_lengths_are_no_lengths():
    layer = nn.LSTM(2, 3, rng=0)
    x = tg.random.normal((4, 2, 2), rng=1)
    np.testing.assert_array_equal(layer(x)[0].data, layer(x, lengths=[4, 4])[0].data)


def test_a_stream_goes_on_from_where_each_row_ended():
    layer = nn.GRU(2, 3, rng=0, dtype=np.float64)
    x = tg.random.normal((5, 2, 2), rng=1, dtype=np.float64)
    _, state = layer(x, lengths=[5, 2])
    _, after = layer(x[:3], state)
    whole = tg.concat([x[:2, 1:], x[:3, 1:]])
    np.testing.assert_allclose(after.data[:, 1:], layer(whole)[1].data, rtol=1e-12)


@pytest.mark.parametrize("record", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_training_step_does_not_wait_for_the_device(kind, record):
    """Lengths on the host, a table, both directions, limits, clipping, an update: no wait."""
    layer = getattr(nn, kind)(2, 3, 2, bidirectional=True, clip_state_grad=0.1, rng=0).to("fake")
    table = tg.tensor(np.ones((4, 2), np.float32), device="fake", requires_grad=True)
    parameters = [table, *layer.parameters()]
    optimizer = tg.optim.Adam(parameters, lr=0.01)
    tally = nn.utils.Clipping()
    with sync_budget(0):
        out, _, *_ = layer(np.array([[1, 2], [3, 0]]), table=table, lengths=[2, 1], record=record)
        (out * out).mean().backward()
        tally.add(nn.utils.clip_report_(parameters, 0.1, error_if_nonfinite=False))
        optimizer.step()
    assert tally.updates == 1


def test_second_derivatives_stop_at_the_padding_too(backend):
    layer, x, _ = drawn("LSTM", {}, 3, 2, 3, [1, 3])
    layer.to(backend.device)
    leaf = backend.tensor(x, requires_grad=True)
    out, _ = layer(leaf, lengths=[1, 3])
    (g,) = tg.grad((out * out).sum(), leaf, create_graph=True)
    (second,) = tg.grad((g * g).sum(), leaf)
    assert not backend.host(second)[1:, 0].any()
    assert backend.host(second)[:, 1].all()


@pytest.mark.parametrize("make", [list, np.array, tg.tensor, lambda n: np.array(n, np.int8)])
def test_lengths_come_in_any_form(make):
    layer = nn.RNN(2, 3, rng=0)
    x = tg.random.normal((4, 2, 2), rng=1)
    out, _ = layer(x, lengths=make([1, 4]))
    assert not out.data[1:, 0].any()
    assert out.data[:, 1].all()


@pytest.mark.parametrize(
    ("lengths", "words"),
    [
        ([4, 5], ["length 5", "T = 4"]),
        ([-1, 2], ["length -1", "0 <= length"]),
        ([4], ["2 rows", "(1,)"]),
        (4, ["2 rows", "()"]),
        ([1.0, 2.0], ["whole numbers", "float64"]),
        ([[1], [1, 2]], ["one whole number for each row"]),
        (np.array([1, 2**64 - 1], np.uint64), ["length 9223372036854775807"]),
    ],
)
def test_wrong_lengths_are_refused(lengths, words):
    with pytest.raises(tg.TinygradError) as caught:
        nn.LSTM(2, 3)(tg.zeros((4, 2, 2)), lengths=lengths)
    for word in ["LSTM(2, 3)", *words]:
        assert word in str(caught.value)


def test_a_single_sequence_has_no_lengths():
    with pytest.raises(tg.ShapeError, match="cut a single sequence"):
        nn.LSTM(2, 3)(tg.zeros((4, 2)), lengths=[2])
    with pytest.raises(tg.ShapeError, match="cut a single sequence"):
        nn.LSTM(2, 3)(np.zeros(4, int), table=tg.zeros((3, 2)), lengths=[2])
