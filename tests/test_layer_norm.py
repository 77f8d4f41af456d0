"""Layer normalisation: PyTorch's numbers, its specification, and rows that are hard on rounding."""

import json
import pathlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tests.checking import ops_behind
from tinygrad_rnn import nn
from tinygrad_rnn.core.primitive import nodes_behind
from tinygrad_rnn.ops import norm
from tinygrad_rnn.ops.norm import layer_norm

DATA = pathlib.Path(__file__).parent / "data"
STORED = json.loads((DATA / "torch_layer_norm.json").read_text())


def normalized(rows, eps=1e-5):
    """The definition, in float64."""
    rows = np.asarray(rows, np.float64)
    centred = rows - rows.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps)


# ---- the same as elsewhere ----


@pytest.mark.parametrize(
    "case", STORED["cases"], ids=lambda c: f"{c['normalized_shape']}-{c['options']}"
)
def test_equals_pytorch(backend, case):
    layer = nn.LayerNorm(case["normalized_shape"], **case["options"], dtype=np.float64)
    assert {name: w.tolist() for name, w in layer.state_dict().items()} == case["first"]
    layer.load_state_dict({name: np.array(w) for name, w in case["weights"].items()})
    layer.to(backend.device)
    x = backend.tensor(case["x"], requires_grad=True)
    out = layer(x)
    np.testing.assert_allclose(backend.host(out), case["out"], rtol=1e-12, atol=1e-12)
    found = tg.grad(out, [x, *layer.parameters()], backend.tensor(case["seed"]))
    for ours, theirs in zip(found, [case["dx"], *case["dweights"].values()], strict=True):
        np.testing.assert_allclose(backend.host(ours), theirs, rtol=1e-11, atol=1e-11)


SHAPES = st.sampled_from([((5,), 1), ((2, 3), 1), ((2, 3), 2), ((2, 3, 4), 2), ((0, 3), 1)])


@given(
    size=SHAPES, weight=st.booleans(), bias=st.booleans(), eps=st.sampled_from([1e-5, 0.1]),
    seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_fused_equals_specification_up_to_second_order(backend, size, weight, bias, eps, seed):
    (shape, dims), rng = size, np.random.default_rng(seed)
    options = {"dims": dims, "eps": eps}
    x = backend.tensor(3 + rng.normal(size=shape), requires_grad=True)
    affine = [
        backend.tensor(rng.normal(size=shape[-dims:]), requires_grad=True) if wanted else None
        for wanted in (weight, bias)
    ]
    asked = [t for t in (x, *affine) if t is not None]
    seeds = backend.tensor(rng.normal(size=shape))
    directions = [backend.tensor(rng.normal(size=t.shape)) for t in asked]
    results = []
    for function in (layer_norm, norm.specification):
        out = function(x, *affine, **options)
        plain = tg.grad((out * out * seeds).sum(), asked, retain_graph=True)
        first = tg.grad((out * out * seeds).sum(), asked, create_graph=True)
        along = sum(((g * v).sum() for g, v in zip(first, directions, strict=True)), 0.0)
        second = tg.grad(along, asked, allow_unused=True)
        results.append([backend.host(t) for t in (out, *plain, *first, *second) if t is not None])
    for fused, spelled in zip(*results, strict=True):
        np.testing.assert_allclose(fused, spelled, rtol=1e-9, atol=1e-9)


# ---- what is computed, and what is kept ----


def test_only_what_is_needed_is_computed(backend):
    rng = np.random.default_rng(0)
    asked = [backend.tensor(rng.normal(size=s), requires_grad=True) for s in ((4, 3), (3,), (3,))]
    everything = tg.grad((layer_norm(*asked) ** 2).sum(), asked)
    for k, leaf in enumerate(asked):
        alone = [t if i == k else t.detach() for i, t in enumerate(asked)]
        (one,) = tg.grad((layer_norm(*alone) ** 2).sum(), [leaf])
        np.testing.assert_array_equal(backend.host(one), backend.host(everything[k]))
        needs = tuple(i == k for i in range(3))
        out, cache = norm._layer_norm.forward(
            *[t._data for t in asked], keep=True, dims=1, eps=1e-5
        )
        found = norm._layer_norm.hand_backward(out, cache, needs, dims=1, eps=1e-5)
        assert tuple(d is not None for d in found) == needs


def test_one_call_is_one_node_and_no_grad_keeps_nothing():
    layer = nn.LayerNorm(4)
    out = layer(tg.random.normal((3, 4), rng=0))
    assert norm._layer_norm in ops_behind([out])
    assert [n.name for n in nodes_behind([out]) if hasattr(n, "cache")] == ["layer_norm"]
    assert len(list(nodes_behind([out]))) == 3  # the op, and its two parameters
    _, cache = norm._layer_norm.forward(np.ones((2, 4)), None, None, keep=False, dims=1, eps=1e-5)
    assert cache is None
    with tg.no_grad():
        assert not layer(tg.ones((3, 4))).requires_grad


def test_nothing_that_is_given_is_written_to(backend):
    """Without a weight and a bias the result is what backward needs: it stays as it is."""
    host = np.random.default_rng(0).normal(size=(4, 3))
    x = backend.tensor(host, requires_grad=True)
    out = layer_norm(x)
    before = backend.host(out)
    seed = backend.tensor(np.random.default_rng(1).normal(size=(4, 3)))
    kept = backend.host(seed)
    first = [backend.host(tg.grad(out, x, seed, retain_graph=True)[0]) for _ in range(2)]
    np.testing.assert_array_equal(first[0], first[1])
    np.testing.assert_array_equal(backend.host(out), before)
    np.testing.assert_array_equal(backend.host(seed), kept)
    np.testing.assert_array_equal(backend.host(x), host)


# ---- numbers that are hard on rounding ----


@pytest.mark.parametrize("function", [layer_norm, norm.specification])
@pytest.mark.parametrize("place", [0, 3])
@pytest.mark.parametrize(
    ("offset", "noise", "outlier"), [(1e4, 1, 0), (-1e6, 4, 0), (1e4, 1e-2, 0), (0, 1, 1e6)]
)
def test_float32_loses_nothing_to_an_offset(backend, function, place, offset, noise, outlier):
    """Within a few roundings of the exact result for the same float32 numbers.

    The mean of 512 numbers near 10,000 is itself rounded to 1/1000, and a variance taken as the
    difference of two means of squares is wrong in its first digit.
    """
    rng = np.random.default_rng(0)
    host = (offset + noise * rng.normal(size=(4, 512))).astype(np.float32)
    host[:, place] += outlier
    g = rng.normal(size=host.shape)
    results = []
    for dtype in (np.float32, np.float64):
        x = backend.tensor(host.astype(dtype), requires_grad=True)
        out = function(x, None, None, dims=1, eps=1e-5)
        (dx,) = tg.grad(out, [x], backend.tensor(g.astype(dtype)))
        assert out.dtype == dx.dtype == dtype
        results.append((backend.host(out), backend.host(dx)))
    (out, dx), (exact, exact_dx) = results
    np.testing.assert_allclose(exact, normalized(host), rtol=1e-9, atol=1e-9)
    largest = np.abs(exact).max()
    np.testing.assert_allclose(out, exact, rtol=0, atol=4e-7 * largest)
    np.testing.assert_allclose(dx, exact_dx, rtol=0, atol=1e-6 * largest * np.abs(exact_dx).max())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [0.0, 0.1, -12345.678, 3e30])
def test_a_constant_row_gives_the_bias_and_finite_gradients(backend, dtype, value):
    x = backend.tensor(np.full((2, 7), value, dtype), requires_grad=True)
    layer = nn.LayerNorm(7, dtype=dtype).to(backend.device)
    layer.bias.writable()[...] = 0.5
    out = layer(x)
    assert (backend.host(out) == 0.5).all()
    seed = np.random.default_rng(0).normal(size=(2, 7)).astype(dtype)
    dx, dw, db = tg.grad(out, [x, layer.weight, layer.bias], backend.tensor(seed))
    # The normalised row is 0, so only the offset is taken away.
    expected = (seed - seed.mean(-1, keepdims=True)) / np.sqrt(dtype(1e-5))
    np.testing.assert_allclose(backend.host(dx), expected, rtol=1e-5, atol=1e-4)
    assert not backend.host(dw).any()
    np.testing.assert_allclose(backend.host(db), seed.sum(0), rtol=1e-6)


def test_float16_is_added_up_in_float32(backend):
    """The square of 300 is no float16, and a sum of 4,096 ones stays at 2,048."""
    rng = np.random.default_rng(0)
    host = (300 * rng.normal(size=(4096, 16))).astype(np.float16)
    layer = nn.LayerNorm(16, dtype=np.float16).to(backend.device)
    x = backend.tensor(host, requires_grad=True)
    out = layer(x)
    assert out.dtype == np.float16
    np.testing.assert_allclose(backend.host(out), normalized(host), rtol=2e-3, atol=1e-3)
    dx, _, db = tg.grad(out.sum(), [x, layer.weight, layer.bias])
    assert (backend.host(db) == 4096).all()
    assert dx.dtype == np.float16


def test_a_square_that_overflows_gives_nan_and_not_a_row_of_zeros():
    with np.errstate(all="ignore"):
        out = layer_norm(np.array([[-1e20, 1e20, 1e20]], np.float32))
    assert np.isnan(out).all()


def test_no_rows_at_all(backend):
    x = backend.tensor(np.zeros((0, 5, 3)), requires_grad=True)
    layer = nn.LayerNorm(3, dtype=np.float64).to(backend.device)
    out = layer(x)
    assert out.shape == (0, 5, 3)
    dx, dw, db = tg.grad(out.sum(), [x, *layer.parameters()])
    assert dx.shape == (0, 5, 3)
    assert backend.host(dw).tolist() == backend.host(db).tolist() == [0, 0, 0]


# ---- as a layer ----


def test_it_has_pytorchs_names_and_first_values():
    layer = nn.LayerNorm((2, 3))
    state = layer.state_dict()
    assert list(state) == ["weight", "bias"]
    assert (state["weight"] == np.ones((2, 3))).all()
    assert (state["bias"] == np.zeros((2, 3))).all()
    assert state["weight"].dtype == np.float32
    assert layer.normalized_shape == (2, 3)
    assert nn.LayerNorm(4).normalized_shape == (4,)
    assert list(nn.LayerNorm(4, bias=False).state_dict()) == ["weight"]
    assert not nn.LayerNorm(4, elementwise_affine=False).state_dict()
    assert repr(nn.LayerNorm(4, eps=0.1, bias=False)) == (
        "LayerNorm((4,), eps=0.1, elementwise_affine=True, bias=False)"
    )


def test_training_and_evaluation_are_the_same_and_rows_are_alone():
    layer, x = nn.LayerNorm(6), tg.random.normal((4, 6), rng=0)
    out = layer(x).detach().numpy()
    np.testing.assert_array_equal(layer.eval()(x).detach().numpy(), out)
    for row in range(4):
        np.testing.assert_array_equal(layer(x[row]).detach().numpy(), out[row])


def test_a_row_of_one_number_is_0(backend):
    """It is its own mean, whatever it is."""
    x = backend.tensor(np.array([[3.0], [-2.0]]), requires_grad=True)
    out = layer_norm(x)
    assert not backend.host(out).any()
    assert not backend.host(tg.grad(out.sum(), x)[0]).any()


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: nn.LayerNorm(4)(tg.zeros((4, 3))), tg.ShapeError,
         ["LayerNorm((4,))", "(..., 4)", "(4, 3)"]),
        (lambda: nn.LayerNorm((2, 4))(tg.zeros(4)), tg.ShapeError, ["(..., 2, 4)", "(4,)"]),
        (lambda: nn.LayerNorm(1)(tg.zeros(())), tg.ShapeError, ["(..., 1)", "()"]),
        (lambda: nn.LayerNorm(4)(tg.zeros((2, 4), dtype=tg.float64)), tg.DTypeError,
         ["LayerNorm((4,))", "float64", "float32", ".to()"]),
        (lambda: nn.LayerNorm(4, elementwise_affine=False)(tg.zeros((2, 4), dtype=tg.int64)),
         tg.DTypeError, ["layer_norm", "int64", "astype"]),
        (lambda: nn.LayerNorm(()), tg.ShapeError, ["normalized_shape", "none"]),
        (lambda: nn.LayerNorm((3, 0)), tg.ShapeError, ["normalized_shape", ">= 1", "0"]),
        (lambda: nn.LayerNorm(2.5), tg.ShapeError, ["whole number", "2.5"]),
        (lambda: nn.LayerNorm(True), tg.ShapeError, ["whole number", "True"]),
        (lambda: nn.LayerNorm(4, -1e-5), tg.DataError, ["LayerNorm", "eps", "-1e-05"]),
        (lambda: nn.LayerNorm(4, float("nan")), tg.DataError, ["eps", "nan"]),
        (lambda: layer_norm(tg.zeros((2, 3)), dims=3), tg.ShapeError, ["dims = 3", "(2, 3)"]),
        (lambda: layer_norm(tg.zeros((2, 3)), dims=0), tg.ShapeError, ["dims = 0", "dims >= 1"]),
        (lambda: layer_norm(tg.zeros((2, 0))), tg.ShapeError, ["no numbers", "(2, 0)"]),
        (lambda: layer_norm(tg.zeros((2, 3)), tg.zeros(2)), tg.ShapeError,
         ["weight (3,)", "(2,)"]),
        (lambda: layer_norm(tg.zeros((2, 3)), None, tg.zeros((2, 3))), tg.ShapeError,
         ["bias (3,)", "got (2, 3)"]),
        (lambda: layer_norm(tg.zeros((2, 3)), tg.zeros(3, dtype=tg.float64)), tg.DTypeError,
         ["weight (3,) of float32", "float64"]),
        (lambda: layer_norm(tg.zeros((2, 3)), eps="small"), tg.DataError, ["layer_norm", "small"]),
    ],
)  # fmt: skip
def test_errors_name_what_was_seen_and_needed(call, error, words):
    with pytest.raises(error) as caught:
        call()
    for word in words:
        assert word in str(caught.value)
