"""RNN, LSTM and GRU: PyTorch's numbers, their own specification, and every layout they accept."""

import json
import pathlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn import backends, nn
from tinygrad_rnn.core.tensor import Leaf
from tinygrad_rnn.ops import gru, lstm, rnn, sequence

STORED = json.loads((pathlib.Path(__file__).parent / "data" / "torch_recurrent.json").read_text())


@pytest.mark.parametrize("case", STORED["cases"], ids=lambda c: f"{c['kind']}-{c['options']}")
def test_equals_pytorch(backend, case):
    weights = {name: np.array(w) for name, w in case["weights"].items()}
    x = backend.tensor(case["x"], requires_grad=True)
    states = [backend.tensor(s, requires_grad=True) for s in case["states"]]
    options = dict(case["options"], dtype=np.float64)
    layer = getattr(nn, case["kind"])(x.shape[-1], states[0].shape[-1], **options)
    layer.load_state_dict(weights)
    layer.to(backend.device)
    out, ends = layer(x, tuple(states) if case["kind"] == "LSTM" else states[0])
    results = [out, *(ends if case["kind"] == "LSTM" else [ends])]
    for ours, theirs in zip(results, [case["out"], *case["ends"]], strict=True):
        np.testing.assert_allclose(backend.host(ours), theirs, rtol=1e-12, atol=1e-12)
    parameters = dict(layer.named_parameters())
    assert list(parameters) == list(weights)  # PyTorch's names, in PyTorch's order
    seeds = [backend.tensor(s) for s in case["seeds"]]
    found = tg.grad(results, [x, *states, *parameters.values()], seeds)
    expected = [case["dx"], *case["dstates"], *case["dweights"].values()]
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(backend.host(ours), theirs, rtol=1e-11, atol=1e-11)


def inputs_of(backend, op, rng, T, B, I, H, *, bias=True):
    blocks, kinds = {rnn.rnn: (1, 1), lstm.lstm: (4, 2), gru.gru: (3, 1)}[op]
    shapes = [(T, B, I)] + [(B, H)] * kinds + [(blocks * H, I), (blocks * H, H)]
    arrays = [backend.tensor(0.7 * rng.normal(size=s), requires_grad=True) for s in shapes]
    biases = [backend.tensor(rng.normal(size=blocks * H), requires_grad=True) for _ in range(2)]
    return arrays, (biases if bias else [None, None])


VARIANTS = {
    "rnn-tanh": (rnn.rnn, rnn.specification, {"nonlinearity": "tanh"}),
    "rnn-relu": (rnn.rnn, rnn.specification, {"nonlinearity": "relu"}),
    "lstm": (lstm.lstm, lstm.specification, {}),
    "gru": (gru.gru, gru.specification, {}),
}


def mask(backend, rng, T, B):
    """Where rows of random lengths have ended."""
    return backend.tensor(np.arange(T)[:, None] >= rng.integers(0, T + 1, B))._data


@pytest.mark.parametrize("variant", VARIANTS)
@given(
    T=st.integers(1, 6), B=st.integers(0, 3), I=st.integers(1, 3), H=st.integers(1, 4),
    bias=st.booleans(), unequal=st.booleans(), seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_fused_equals_specification_up_to_second_order(
    backend, variant, T, B, I, H, bias, unequal, seed
):
    op, specification, options = VARIANTS[variant]
    rng = np.random.default_rng(seed)
    if unequal:
        options = options | {"ended": mask(backend, rng, T, B)}
    tensors, biases = inputs_of(backend, op, rng, T, B, I, H, bias=bias)
    asked = tensors + (biases if bias else [])
    weight = None
    results = []
    for function in (op, specification):
        out = function(*tensors, *biases, **options)
        if weight is None:
            weight = backend.tensor(rng.normal(size=out.shape))
            directions = [backend.tensor(rng.normal(size=t.shape)) for t in asked]
        first = tg.grad((out * out * weight).sum(), asked, create_graph=True)
        along = sum(((g * v).sum() for g, v in zip(first, directions, strict=True)), 0.0)
        second = tg.grad(along, asked)
        results.append([backend.host(t) for t in (out, *first, *second)])
    for fused, spelled in zip(*results, strict=True):
        np.testing.assert_allclose(fused, spelled, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("extra", ["none", "ended", "limit", "table"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_windows_of_many_blocks_equal_one_block(backend, monkeypatch, variant, extra):
    """What a loop does for a block of steps at once: for all 7, for 3, 3 and 1, and step by step.

    The output, all gradients, and the output when no graph is recorded.
    """
    op, _, options = VARIANTS[variant]
    T, B, I, H = 7, 2, 3, 4
    rng = np.random.default_rng(0)
    (x, *rest), biases = inputs_of(backend, op, rng, T, B, I, H)
    if extra == "table":
        x = backend.tensor(rng.normal(size=(5, I)), requires_grad=True)
        options = options | {"ids": backend.tensor(rng.integers(0, 5, (T, B)))._data}
    elif extra == "ended":
        options = options | {"ended": mask(backend, rng, T, B)}
    elif extra == "limit":
        options = options | {"limit": 0.5}
    found = []
    largest = H * B * {"rnn-tanh": 1, "rnn-relu": 1, "lstm": 4, "gru": 4}[variant]
    for size in (2**16, 3 * largest, 1):
        monkeypatch.setattr(sequence, "BLOCK", size)
        out = op(x, *rest, *biases, **options)
        weight = np.random.default_rng(1).normal(size=out.shape)
        grads = tg.grad(out, [x, *rest, *biases], backend.tensor(weight))
        with tg.no_grad():
            found.append([out, *grads, op(x, *rest, *biases, **options)])
    assert sequence.blocks(7, 5) == [slice(t, t + 1) for t in range(7)]
    for other in found[1:]:
        for ours, theirs in zip(other, found[0], strict=True):
            np.testing.assert_allclose(
                backend.host(ours), backend.host(theirs), rtol=1e-13, atol=1e-13
            )


@pytest.mark.parametrize("variant", VARIANTS)
def test_without_inputs_the_biases_have_a_gradient_all_the_same(backend, variant):
    op, specification, options = VARIANTS[variant]
    tensors, biases = inputs_of(backend, op, np.random.default_rng(0), T=3, B=2, I=0, H=2)
    fixed = [t.detach() for t in tensors]
    fused, readable = (
        tg.grad(f(*fixed, *biases, **options).sum(), biases) for f in (op, specification)
    )
    for ours, theirs in zip(fused, readable, strict=True):
        np.testing.assert_allclose(backend.host(ours), backend.host(theirs), rtol=1e-12)


def test_blocks_are_of_the_size_that_was_measured(monkeypatch):
    monkeypatch.setattr(sequence, "BLOCK", 100)
    assert sequence.blocks(7, 30) == [slice(0, 3), slice(3, 6), slice(6, 7)]
    assert sequence.blocks(2, 101) == [slice(0, 1), slice(1, 2)]  # at least a step
    assert sequence.blocks(0, 30) == [slice(0, 0)]
    assert sequence.blocks(3, 0) == [slice(0, 3)]


@pytest.mark.parametrize("unequal", [False, True])
@pytest.mark.parametrize("limit", [1e-3, 0.5, 1e9])
@pytest.mark.parametrize("variant", VARIANTS)
def test_with_a_limit_fused_equals_specification_at_first_order(backend, variant, limit, unequal):
    op, specification, options = VARIANTS[variant]
    rng = np.random.default_rng(0)
    tensors, biases = inputs_of(backend, op, rng, 6, 3, 2, 4)
    options = options | {"limit": limit, "ended": mask(backend, rng, 6, 3) if unequal else None}
    asked = tensors + biases
    results = [
        tg.grad((function(*asked, **options) ** 2).sum(), asked) for function in (op, specification)
    ]
    unlimited = tg.grad((op(*asked, **options | {"limit": None}) ** 2).sum(), asked)
    for fused, spelled in zip(*results, strict=True):
        a, b = backend.host(fused), backend.host(spelled)
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13)
    pairs = zip(results[0], unlimited, strict=True)
    same = [np.allclose(backend.host(a), backend.host(b)) for a, b in pairs]
    assert all(same) == (limit == 1e9)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_window_of_no_steps_passes_the_state_through(backend, variant):
    op, _, options = VARIANTS[variant]
    tensors, biases = inputs_of(backend, op, np.random.default_rng(0), 0, 2, 3, 4)
    out = op(*tensors, *biases, **options)
    states = tensors[1:-2]  # h_0, and of an LSTM c_0
    assert out.shape == (len(states), 2, 4)
    out.sum().backward()
    for end, start in zip(out, states, strict=True):
        np.testing.assert_array_equal(backend.host(end), backend.host(start))
        assert (backend.host(start.grad) == 1).all()
    assert not any(backend.host(b.grad).any() for b in biases)


@pytest.mark.parametrize("variant", VARIANTS)
def test_only_what_is_needed_is_computed(backend, variant):
    op, _, options = VARIANTS[variant]
    tensors, biases = inputs_of(backend, op, np.random.default_rng(0), 3, 2, 2, 2)
    asked = tensors + biases
    everything = tg.grad((op(*asked, **options) ** 2).sum(), asked)
    for k in range(len(asked)):
        alone = [t if i == k else t.detach() for i, t in enumerate(asked)]
        (one,) = tg.grad((op(*alone, **options) ** 2).sum(), [asked[k]])
        np.testing.assert_array_equal(backend.host(one), backend.host(everything[k]))


def test_a_layer_is_one_node_per_window_and_no_grad_keeps_nothing():
    layer = nn.LSTM(3, 4, rng=0)
    out, _ = layer(tg.random.normal((50, 2, 3), rng=1))
    seen, stack = set(), [out._node]
    while stack:
        node = stack.pop()
        seen.add(node)
        stack += [p for p in node.parents if p is not None and p not in seen]
    operations = [node.name for node in seen if not isinstance(node, Leaf)]
    assert operations.count("lstm") == 1
    assert len(operations) <= 3  # the window, and the slice that is its output
    with tg.no_grad():
        out, state = layer(tg.random.normal((50, 2, 3), rng=1))
    assert not out.requires_grad
    assert not any(s.requires_grad for s in state)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_layouts_agree(kind):
    make = getattr(nn, kind)
    layer = make(3, 4, 2, bidirectional=True, rng=0, dtype=np.float64)
    first = make(3, 4, 2, bidirectional=True, batch_first=True, rng=0, dtype=np.float64)
    x = tg.random.normal((5, 2, 3), rng=1, dtype=np.float64)
    out, state = layer(x)
    out_b, state_b = first(tg.swapaxes(x, 0, 1))
    np.testing.assert_array_equal(out.detach().numpy(), out_b.detach().numpy().swapaxes(0, 1))
    pick = (lambda s: s[0]) if kind == "LSTM" else (lambda s: s)
    np.testing.assert_array_equal(pick(state).detach().numpy(), pick(state_b).detach().numpy())
    assert pick(state).shape == (4, 2, 4)
    single, single_state = layer(x[:, 0])
    assert single.shape == (5, 8)
    assert pick(single_state).shape == (4, 4)
    np.testing.assert_allclose(single.detach().numpy(), out.detach().numpy()[:, 0], rtol=1e-12)
    again, _ = layer(x[:, 0], single_state)  # the state of an unbatched call fits the next one
    assert again.shape == (5, 8)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("rows", [4, 5, 40])  # a small table is projected, a large one looked up
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}])
def test_ids_with_a_table_equal_an_embedding(backend, kind, rows, options):
    rng = np.random.default_rng(0)
    layer = getattr(nn, kind)(3, 4, rng=0, dtype=np.float64, **options).to(backend.device)
    table = backend.tensor(rng.normal(size=(rows, 3)), requires_grad=True)
    ids = rng.integers(0, rows, (6, 2))
    asked = [table, *layer.parameters()]
    results = []
    for out, _ in (layer(ids, table=table), layer(tg.take(table, ids, 0))):
        weight = backend.tensor(np.random.default_rng(1).normal(size=out.shape))
        first = tg.grad((out * weight).sum(), asked, create_graph=True)
        second = tg.grad(sum(((g * g).sum() for g in first), 0.0), asked)
        results.append([backend.host(t) for t in (out, *first, *second)])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)


def test_ids_with_a_table_in_every_layout():
    table = tg.random.normal((5, 3), rng=0)
    ids = np.array([[0, 4], [1, 1], [2, 3]])
    layer = nn.LSTM(3, 4, rng=0)
    first = nn.LSTM(3, 4, batch_first=True, rng=0)
    out = layer(ids, table=table)[0].detach().numpy()
    other = first(ids.T, table=table)[0].detach().numpy()
    np.testing.assert_array_equal(out.swapaxes(0, 1), other)
    single, _ = layer(ids[:, 0], table=table)
    np.testing.assert_allclose(single.detach().numpy(), out[:, 0], rtol=1e-5)
    for wrong in (5, -1):
        with pytest.raises(IndexError, match=f"index {wrong} is out of range"):
            layer(np.array([[wrong]]), table=table)
    with pytest.raises(tg.ShapeError, match=r"table \(V, 3\)"):
        layer(ids, table=tg.zeros((5, 2)))
    with pytest.raises(tg.ShapeError, match=r"ids \(T, B\)"):
        layer(np.zeros((2, 2, 2), int), table=table)
    with pytest.raises(tg.DTypeError, match="integers"):
        layer(np.zeros((2, 2)), table=table)


def test_state_carries_the_sequence_on():
    layer = nn.LSTM(3, 4, 2, rng=0)
    x = tg.random.normal((6, 2, 3), rng=1)
    whole, end = layer(x)
    first, state = layer(x[:2])
    second, last = layer(x[2:], state)
    joined = tg.concat([first, second]).detach().numpy()
    np.testing.assert_allclose(joined, whole.detach().numpy(), rtol=1e-5, atol=1e-6)
    for a, b in zip(end, last, strict=True):
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_first_values():
    layer = nn.LSTM(3, 5, rng=0)
    for k in range(4):
        block = layer.weight_hh_l0.data[5 * k : 5 * (k + 1)]
        np.testing.assert_allclose(block @ block.T, np.eye(5), atol=1e-6)
    total = layer.bias_ih_l0.data + layer.bias_hh_l0.data
    np.testing.assert_array_equal(total, np.r_[np.zeros(5), np.ones(5), np.zeros(10)])
    assert np.abs(layer.weight_ih_l0.data).max() <= 5**-0.5
    plain = nn.LSTM(3, 5, forget_bias=0.0, rng=0)
    assert not plain.bias_ih_l0.data.any()
    same = nn.LSTM(3, 5, rng=0)
    for a, b in zip(layer.parameters(), same.parameters(), strict=True):
        np.testing.assert_array_equal(a.data, b.data)


def test_dropout_only_between_layers_and_only_in_training():
    x = tg.random.normal((4, 2, 3), rng=1)
    single = nn.LSTM(3, 4, 1, dropout=0.9, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(single(x)[0].data, single(x)[0].data)
    double = nn.LSTM(3, 4, 2, dropout=0.5, rng=np.random.default_rng(0))
    assert not np.array_equal(double(x)[0].data, double(x)[0].data)
    double.eval()
    np.testing.assert_array_equal(double(x)[0].data, double(x)[0].data)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: nn.LSTM(3, 4)(tg.zeros((5, 2, 7))), ["LSTM(3, 4)", "(T, B, I)", "(5, 2, 7)"]),
        (lambda: nn.LSTM(3, 4, batch_first=True)(tg.zeros(3)), ["(B, T, I)", "(3,)"]),
        (lambda: nn.RNN(3, 4)(tg.zeros((5, 2, 3)), tg.zeros((1, 3, 4))), ["(1, 3, 4)", "(1, 2,"]),
        (lambda: nn.LSTM(3, 4)(tg.zeros((5, 2, 3)), tg.zeros((1, 2, 4))), ["(h, c)"]),
        (lambda: nn.RNN(3, 4)(tg.zeros((5, 2, 3), dtype=tg.int64)), ["int64", "Embedding"]),
        (lambda: nn.RNN(3, 4)(tg.zeros((5, 2, 3), dtype=tg.float64)), ["float64", "float32"]),
        (lambda: nn.RNN(3, 0), ["hidden_size", "0"]),
        (lambda: nn.RNN(3, 4, nonlinearity="sigmoid"), ["'tanh' or 'relu'", "sigmoid"]),
        (lambda: nn.LSTM(3, 4, dropout=1.5), ["1.5", "[0, 1]"]),
        (lambda: nn.GRU(3, 4)(tg.zeros((5, 2, 3)), (1, 2)), ["state h", "tuple", "(1, 2, 4)"]),
        (lambda: nn.GRU(3, 4)(tg.zeros((5, 3)), (1, 2)), ["state h", "tuple", "(1, 4)"]),
        (lambda: nn.GRU(3, 4, clip_state_grad=0.0), ["clip_state_grad", "> 0", "0.0"]),
        (lambda: nn.GRU(3, 4, clip_state_grad="1"), ["clip_state_grad", "'1'"]),
        (lambda: nn.GRU(3, 4, clip_state_grad=True), ["clip_state_grad", "True"]),
    ],
)  # fmt: skip
def test_errors_name_what_was_seen_and_needed(call, words):
    with pytest.raises(tg.TinygradError) as caught:
        call()
    for word in words:
        assert word in str(caught.value)


def test_a_seed_starts_one_stream_for_everything():
    lstm_layer = nn.LSTM(4, 4, 2, rng=0)
    blocks = [
        *lstm_layer.weight_hh_l0.data.reshape(4, 4, 4),
        *lstm_layer.weight_hh_l1.data.reshape(4, 4, 4),
    ]
    blocks += [
        *lstm_layer.weight_ih_l0.data.reshape(4, 4, 4),
        *lstm_layer.weight_ih_l1.data.reshape(4, 4, 4),
    ]
    for i, a in enumerate(blocks):
        assert not any(np.array_equal(a, b) for b in blocks[:i])
    linear = nn.Linear(3, 4, rng=0)
    assert not np.isin(linear.bias.data, linear.weight.data).any()
    drop = nn.Dropout(0.5, rng=0)
    x = tg.ones(100)
    assert not np.array_equal(drop(x).data, drop(x).data)
    stacked = nn.LSTM(4, 4, 2, dropout=0.5, rng=0)
    x = tg.random.normal((3, 2, 4), rng=1)
    assert not np.array_equal(stacked(x)[0].data, stacked(x)[0].data)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_no_dtype_is_changed_in_silence(kind):
    layer = getattr(nn, kind)(3, 4, dtype=np.float64)
    x, state = tg.zeros((2, 1, 3), dtype=tg.float64), tg.zeros((1, 1, 4))
    with pytest.raises(tg.DTypeError, match="state h is float32"):
        layer(x, (state, state) if kind == "LSTM" else state)
    with pytest.raises(tg.DTypeError, match="table is float32"):
        layer(np.zeros((2, 1), int), table=tg.zeros((5, 3)))
    with pytest.raises(tg.DTypeError, match="the input is float64"):
        nn.Linear(3, 2)(tg.zeros((2, 3), dtype=tg.float64))


def test_a_window_of_no_steps_under_create_graph():
    layer = nn.LSTM(3, 4, rng=0)
    x, h, c = (
        tg.zeros((0, 2, 3), requires_grad=True),
        tg.ones((1, 2, 4), requires_grad=True),
        tg.zeros((1, 2, 4)),
    )
    _, (end, _) = layer(x, (h, c))
    found = tg.grad(end.sum(), [h, layer.weight_hh_l0], create_graph=True)
    assert (found[0].data == 1).all()
    assert not found[1].data.any()


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_a_state_that_is_carried_on_keeps_no_trajectory_alive(kind, layers):
    layer = getattr(nn, kind)(2, 3, layers, rng=0)
    _, state = layer(tg.zeros((1000, 1, 2)))
    states = state if kind == "LSTM" else [state]
    for s in states:
        held = s.detach()
        owner = backends.of(held._data).owner(held._data)  # h and c are copied together
        assert owner.nbytes == 4 * layers * 3 * len(states)
