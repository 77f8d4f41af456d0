"""Modules, the layers without memory, and the losses."""

import copy

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import nn
from tinygrad_rnn.core.primitive import nodes_behind
from tinygrad_rnn.core.tensor import Leaf

F = nn.functional


class Tied(nn.Module):
    """Two layers that share one weight, a list, a dict and something that is no module."""

    def __init__(self):
        self.first = nn.Linear(3, 3, rng=0)
        self.second = nn.Linear(3, 3, bias=False, rng=1)
        self.second.weight = self.first.weight
        self.layers = [nn.Linear(3, 2, rng=2), nn.Dropout(0.5)]
        self.named = {"head": nn.Linear(2, 1, rng=3)}
        self.note = "no module"

    def forward(self, x):
        x = self.second(self.first(x))
        for layer in self.layers:
            x = layer(x)
        return self.named["head"](x)


NAMES = [
    "first.weight", "first.bias", "layers.0.weight", "layers.0.bias", "named.head.weight",
    "named.head.bias",
]  # fmt: skip


OPTIONS = {
    "plain": {},
    "two layers": {"num_layers": 2, "dropout": 0.5},
    "both directions": {"bidirectional": True},
    "batch first": {"batch_first": True},
    "the specification": {"impl": "ops"},
}


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("called", ["x", "one row", "lengths", "table"])
def test_layers_give_the_same_bits_where_nothing_is_recorded(backend, kind, name, called):
    """There they run on plain arrays, and give Tensors back."""
    options = dict(OPTIONS[name])
    impl = options.pop("impl", "auto")
    layer = getattr(nn, kind)(3, 4, rng=0, **options).to(backend.device)
    layer.impl = impl
    rng = np.random.default_rng(0)
    shape = (5,) if called == "one row" else (2, 5) if layer.batch_first else (5, 2)
    more = {"lengths": [3, 5]} if called == "lengths" else {}
    if called == "table":
        x = rng.integers(9, size=shape)
        more["table"] = backend.tensor(rng.standard_normal((9, 3), np.float32))
    else:
        x = backend.tensor(rng.standard_normal((*shape, 3), np.float32))

    def run():
        layer.rng = np.random.default_rng(1)  # the same dropout
        out, state = layer(x, **more)
        out, state = layer(x, state, **more)
        return [out, *(state if kind == "LSTM" else [state])]

    recorded = run()
    with tg.no_grad():
        found = run()
    for seen, wanted in zip(found, recorded, strict=True):
        assert type(seen) is tg.Tensor
        assert wanted.requires_grad
        assert not seen.requires_grad
        # Of a table fewer rows are projected where nothing is recorded: another product.
        limit = {"rtol": 1e-5, "atol": 1e-6} if called == "table" else {"rtol": 0}
        wanted_data = backend.host(wanted.detach().data)
        np.testing.assert_allclose(backend.host(seen.data), wanted_data, **limit)


def test_a_linear_layer_is_one_op(backend):
    """And gives what transpose, product and sum give, for inputs of any shape."""
    layer = nn.Linear(3, 2, rng=0).to(backend.device)
    for shape in [(3,), (4, 3), (2, 4, 3), (0, 3)]:
        x = backend.tensor(np.random.default_rng(0).standard_normal(shape, np.float32))
        x.requires_grad_()
        out = layer(x)
        plain = x @ layer.weight.T + layer.bias
        assert [n.name for n in nodes_behind([out]) if not isinstance(n, Leaf)] == ["linear"]
        assert out.shape == plain.shape
        np.testing.assert_array_equal(backend.host(out.detach().data),
                                      backend.host(plain.detach().data))  # fmt: skip
        inputs = [x, layer.weight, layer.bias]
        weight = backend.tensor(np.random.default_rng(1).standard_normal(out.shape, np.float32))
        for a, b in zip(tg.grad(out, inputs, weight), tg.grad(plain, inputs, weight), strict=True):
            np.testing.assert_allclose(backend.host(a.data), backend.host(b.data), rtol=1e-6)


def test_a_parameter_is_not_replaced_by_what_no_optimizer_knows():
    """``layer.weight -= step`` computes a tensor and assigns it: the parameter would be lost."""
    layer = nn.Linear(2, 1, rng=0)
    weight = layer.weight
    with tg.no_grad():
        with pytest.raises(tg.DTypeError, match=r"Linear.weight.*writable\(\)"):
            layer.weight = weight - 0.1
        with pytest.raises(tg.NotDifferentiableError, match=r"writable\(\)"):
            layer.weight -= 0.1
    with pytest.raises(tg.DTypeError, match=r"nn.Parameter"):
        layer.weight = np.zeros((1, 2))
    assert layer.weight is weight
    layer.weight = nn.Parameter(np.zeros((1, 2), np.float32))
    layer.bias = None
    assert list(layer.state_dict()) == ["weight"]


def test_walking_counts_a_tied_parameter_once():
    model = Tied()
    assert [name for name, _ in model.named_parameters()] == NAMES
    assert list(model.state_dict()) == NAMES
    assert len(list(model.parameters())) == 6
    assert {type(m).__name__ for m in model.modules()} == {"Tied", "Linear", "Dropout"}
    loss = model(tg.ones((2, 3))).sum()
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    model.zero_grad()
    assert all(p.grad is None for p in model.parameters())


def test_train_and_eval_reach_every_module():
    model = Tied()
    model.eval()
    assert not any(m.training for m in model.modules())
    x = tg.ones((2, 3))
    np.testing.assert_array_equal(model(x).data, model(x).data)
    assert model.train() is model
    assert all(m.training for m in model.modules())


def test_state_dict_round_trip_and_copies():
    model, other = Tied(), Tied()
    for p in other.parameters():
        p.writable()[...] = 0
    state = model.state_dict()
    other.load_state_dict(state)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        np.testing.assert_array_equal(a.data, b.data)
    state["first.weight"][...] = 7  # a copy: neither model changes
    assert not (model.first.weight.data == 7).any()
    assert other.second.weight is other.first.weight
    # A state that lists a tied weight under both of its names, as PyTorch writes it.
    both = {**model.state_dict(), "second.weight": model.first.weight}
    other.load_state_dict(both)


def test_load_state_dict_names_every_problem_and_changes_nothing():
    model = Tied()
    before = model.state_dict()
    wrong = {**before, "extra": np.zeros(1), "first.bias": np.zeros(9)}
    del wrong["named.head.weight"]
    with pytest.raises(tg.CheckpointError) as caught:
        model.load_state_dict(wrong)
    message = str(caught.value)
    for word in ("missing: named.head.weight", "unexpected: extra", "first.bias", "(9,)", "(3,)"):
        assert word in message
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    fine = {k: v for k, v in wrong.items() if k != "first.bias"}
    model.load_state_dict(fine, strict=False)
    with pytest.raises(tg.CheckpointError):  # a wrong shape is never fine
        model.load_state_dict(wrong, strict=False)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([["text", "b"]], "not real numbers: bias is <U4, needed float32"),
        (np.ones(2, complex), "not real numbers: bias is complex128"),
        ([1.0, None], "not real numbers: bias is object"),
        ([[1.0], [1.0, 2.0]], "not an array: bias, a list"),
    ],
)
def test_load_state_dict_reads_everything_before_it_writes(value, words):
    model = nn.Linear(3, 2, rng=0)
    before = model.state_dict()
    with pytest.raises(tg.CheckpointError) as caught:
        model.load_state_dict({"weight": np.zeros((2, 3)), "bias": value})
    assert words in str(caught.value)
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_a_module_may_know_its_parent():
    model = Tied()
    model.first.parent = model
    model.layers.append(model.layers)
    assert [name for name, _ in model.named_parameters()] == NAMES
    assert sum(m is model for m in model.modules()) == 1
    state = model.state_dict()
    model.eval().load_state_dict({**state, "second.weight": state["first.weight"]})
    assert "(parent): ..." in repr(model)
    assert copy.deepcopy(model).first.parent is not model


def test_a_shared_module_may_be_loaded_under_each_of_its_names():
    model = nn.Module()
    model.a = model.b = nn.Linear(2, 1, bias=False, rng=0)
    assert list(model.state_dict()) == ["a.weight"]
    model.load_state_dict({"a.weight": np.ones((1, 2)), "b.weight": np.ones((1, 2))})
    np.testing.assert_array_equal(model.b.weight.data, 1)


@pytest.mark.parametrize("dtype", [np.int32, bool])
def test_to_refuses_what_cannot_be_trained_and_changes_nothing(dtype):
    model = Tied()
    nodes = [p._node for p in model.parameters()]
    with pytest.raises(tg.DTypeError, match=r"Tied\.to: .*needed a floating-point"):
        model.to(dtype)
    assert [p.dtype for p in model.parameters()] == [np.float32] * 6
    assert [p._node for p in model.parameters()] == nodes


def test_to_takes_hooks_and_frozen_gradients_along():
    layer = nn.Linear(2, 1, rng=0)
    seen = []
    remove = layer.weight.register_hook(lambda g: seen.append(g.dtype))
    layer(tg.ones((1, 2))).sum().backward()
    layer.bias.requires_grad_(False)
    layer.to(tg.float64)
    assert not layer.bias.requires_grad
    assert layer.bias.requires_grad_().grad.dtype == np.float64
    layer(tg.ones((1, 2), dtype=np.float64)).sum().backward()
    assert seen == [np.float32, np.float64]
    np.testing.assert_array_equal(layer.bias.grad, [2])
    remove()
    layer(tg.ones((1, 2), dtype=np.float64)).sum().backward()
    assert len(seen) == 2


def test_to_keeps_the_parameter_objects(backend):
    model = Tied()
    model(tg.ones((2, 3))).sum().backward()
    parameters = list(model.parameters())
    assert model.to(tg.float64).to(backend.device) is model
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    for p in parameters:
        assert (p.dtype, p.requires_grad) == (np.float64, True)
        assert p.device.startswith(backend.device)  # "fake" may be called "fake:0"
        assert backend.host(p.grad).dtype == np.float64


def test_deepcopy_makes_an_independent_model():
    model = Tied()
    twin = copy.deepcopy(model)
    assert twin.second.weight is twin.first.weight
    twin.first.weight.writable()[...] = 0
    assert model.first.weight.data.any()


def test_repr_shows_the_structure():
    text = repr(Tied())
    for word in ("Tied(", "(first): Linear(3, 3, bias=True)", "Dropout(p=0.5)", "'head': Linear("):
        assert word in text
    text = repr(nn.Sequential(nn.Embedding(5, 2), nn.LSTM(2, 3, num_layers=2)))
    assert "Embedding(5, 2)" in text
    assert "LSTM(2, 3, num_layers=2)" in text


def test_sequential_and_embedding(backend):
    model = nn.Sequential(nn.Embedding(5, 3, rng=0), nn.Linear(3, 2, rng=1)).to(backend.device)
    assert [n for n, _ in model.named_parameters()] == ["0.weight", "1.weight", "1.bias"]
    ids = np.array([[1, 1], [4, 0]])
    out = model(ids)
    assert out.shape == (2, 2, 2)
    out.sum().backward()
    grad = backend.host(model[0].weight.grad)
    column_sums = backend.host(model[1].weight).sum(0)
    counts = np.array([1, 2, 0, 0, 1])[:, None]  # id 1 was used twice and gets both gradients
    np.testing.assert_allclose(grad, counts * column_sums, rtol=1e-5)
    for wrong in (5, -1):
        with pytest.raises(IndexError, match=f"Embedding: index {wrong} is out of range"):
            model(np.array([wrong]))
    with pytest.raises(tg.DTypeError):
        model(np.array([0.5]))


def test_embedding_of_small_ids_in_a_large_table(backend):
    layer = nn.Embedding(300, 4, rng=0).to(backend.device)
    layer(np.array([1, 2, 1], np.uint8)).sum().backward()
    np.testing.assert_array_equal(backend.host(layer.weight.grad)[:4, 0], [0, 2, 1, 0])


def test_linear_names_the_wrong_shape():
    with pytest.raises(tg.ShapeError, match=r"Linear\(3, 2\).*\(4, 5\)"):
        nn.Linear(3, 2)(tg.zeros((4, 5)))
    layer = nn.Linear(3, 2)
    layer.bias = nn.Parameter(tg.zeros((4, 2)))  # would fit this batch, and no other
    with pytest.raises(tg.ShapeError, match=r"bias \(4, 2\); needed .*\(O,\)"):
        layer(tg.zeros((4, 3)))


def test_dropout(backend):
    x = backend.tensor(np.ones((100, 100), np.float32), requires_grad=True)
    layer = nn.Dropout(0.25, rng=np.random.default_rng(0))
    y = layer(x)
    host = backend.host(y)
    assert set(np.unique(host)) == {0.0, np.float32(1 / 0.75)}
    assert abs((host == 0).mean() - 0.25) < 0.02
    y.sum().backward()
    np.testing.assert_array_equal(backend.host(x.grad), host)  # what was dropped learns nothing
    assert layer.eval()(x) is x
    assert not backend.host(F.dropout(x, 1.0)).any()
    with pytest.raises(tg.ShapeError):
        nn.Dropout(-0.1)


# ---- losses ----


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_losses_against_their_formulas(backend, reduction):
    rng = np.random.default_rng(0)
    p, t = rng.normal(size=(2, 4, 3)) * 2
    reduce = {"mean": np.mean, "sum": np.sum, "none": np.asarray}[reduction]
    d = np.abs(p - t)
    s = 1 / (1 + np.exp(-p))
    q = rng.random((4, 3))
    expected = {
        F.mse_loss: (t, d**2),
        F.l1_loss: (t, d),
        F.smooth_l1_loss: (t, np.where(d < 1, d * d / 2, d - 0.5)),
        F.binary_cross_entropy_with_logits: (q, -q * np.log(s) - (1 - q) * np.log(1 - s)),
    }
    for loss, (target, each) in expected.items():
        for given in (target, backend.tensor(target)):  # a target may still be on the host
            out = loss(backend.tensor(p), given, reduction=reduction)
            np.testing.assert_allclose(backend.host(out), reduce(each), rtol=1e-12)
    with pytest.raises(tg.ShapeError, match="differ in shape"):
        F.mse_loss(backend.tensor(p), t[:, :1])
    with pytest.raises(tg.DTypeError, match="reduction"):
        F.mse_loss(backend.tensor(p), t, reduction="average")


def test_bce_is_finite_at_the_ends(backend):
    z = backend.tensor(np.array([-1e4, 1e4], np.float32), requires_grad=True)
    loss = F.binary_cross_entropy_with_logits(z, np.array([1.0, 1.0]))
    loss.backward()
    assert float(loss) == pytest.approx(5e3)
    np.testing.assert_allclose(backend.host(z.grad), [-0.5, 0.0])


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_nll_loss_after_log_softmax_is_cross_entropy(backend, reduction):
    rng = np.random.default_rng(0)
    logits = backend.tensor(rng.normal(size=(4, 3, 5)), requires_grad=True)
    targets = rng.integers(0, 5, (4, 3))
    targets[0, 0] = -100
    a = F.cross_entropy(logits, targets, reduction=reduction)
    b = F.nll_loss(F.log_softmax(logits), targets, reduction=reduction)
    np.testing.assert_allclose(backend.host(a), backend.host(b), rtol=1e-12)
    (ga,) = tg.grad(a.sum(), logits)
    (gb,) = tg.grad(b.sum(), logits)
    np.testing.assert_allclose(backend.host(ga), backend.host(gb), atol=1e-15)


def test_smooth_l1_refuses_beta_zero():
    with pytest.raises(tg.ShapeError, match="beta"):
        F.smooth_l1_loss(tg.zeros(2), tg.zeros(2), beta=0)
