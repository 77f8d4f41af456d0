"""Initial values: their distributions, their orthogonality, and that leaves are filled in place."""

import math

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.core.clock import written
from tinygrad_rnn.nn import init

RANDOM = {
    "orthogonal_": init.orthogonal_,
    "uniform_": init.uniform_,
    "normal_": init.normal_,
    "xavier_uniform_": init.xavier_uniform_,
    "xavier_normal_": init.xavier_normal_,
    "kaiming_uniform_": init.kaiming_uniform_,
}
FIXED = {
    "zeros_": init.zeros_,
    "ones_": init.ones_,
    "identity_": init.identity_,
    "constant_": lambda tensor, rng=None: init.constant_(tensor, 2.5, rng=rng),
}


def leaf(*shape, dtype=np.float32):
    return tg.tensor(np.full(shape, 7, dtype), requires_grad=True)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("fill", [*RANDOM.values(), *FIXED.values()], ids=[*RANDOM, *FIXED])
def test_the_leaf_is_filled_in_place(fill, dtype):
    tensor = leaf(3, 4, dtype=dtype)
    array = tensor._data
    assert fill(tensor, rng=0) is tensor
    assert tensor._data is array
    assert tensor.dtype == dtype
    assert written(array) > tensor._node.number
    assert not (array == 7).any()


@pytest.mark.parametrize("fill", RANDOM.values(), ids=RANDOM)
def test_the_seed_decides(fill):
    draws = [fill(leaf(5, 6), rng=seed).data for seed in (1, 1, np.random.default_rng(1), 2)]
    np.testing.assert_array_equal(draws[0], draws[1])
    np.testing.assert_array_equal(draws[0], draws[2])
    assert not np.array_equal(draws[0], draws[3])
    tg.manual_seed(1)
    np.testing.assert_array_equal(fill(leaf(5, 6)).data, draws[0])
    wide = fill(leaf(5, 6, dtype=np.float64), rng=1).data
    np.testing.assert_array_equal(wide.astype(np.float32), draws[0])


@pytest.mark.parametrize("shape", [(8, 8), (12, 5), (5, 12), (1, 1), (1, 4), (4, 1), (3, 2, 4)])
def test_orthogonal_rows_or_columns(shape):
    w = init.orthogonal_(leaf(*shape, dtype=np.float64), gain=3.0, rng=0).data
    w = w.reshape(shape[0], -1)
    small = w.T @ w if w.shape[0] >= w.shape[1] else w @ w.T
    np.testing.assert_allclose(small, 9 * np.eye(len(small)), atol=1e-13)


def test_orthogonal_matrices_are_evenly_distributed():
    # Of the 2x2 ones half are rotations and half reflections, at an even angle. A QR without the
    # sign fix gives only reflections with a first entry < 0.
    rng = np.random.default_rng(0)
    many = [init.orthogonal_(leaf(2, 2), rng=rng).data.copy() for _ in range(2000)]
    assert abs(np.mean([np.linalg.det(w) for w in many])) < 0.1
    angles = np.array([math.atan2(w[1, 0], w[0, 0]) for w in many])
    counts, _ = np.histogram(angles, 8, (-math.pi, math.pi))
    assert counts.min() > 190  # 250 expected, standard deviation 15
    assert counts.max() < 310


def test_uniform_and_normal():
    w = init.uniform_(leaf(100, 200), -2, 4, rng=0).data
    assert w.min() >= -2
    assert w.max() <= 4
    assert w.mean() == pytest.approx(1, abs=0.05)
    assert w.std() == pytest.approx(6 / math.sqrt(12), rel=0.02)
    w = init.normal_(leaf(100, 200), 3, 0.5, rng=0).data
    assert w.mean() == pytest.approx(3, abs=0.02)
    assert w.std() == pytest.approx(0.5, rel=0.02)
    np.testing.assert_array_equal(init.uniform_(leaf(2), 1.5, 1.5).data, [1.5, 1.5])
    np.testing.assert_array_equal(init.normal_(leaf(2), 1.5, 0).data, [1.5, 1.5])


# (out, in) = (100, 300); the bounds and deviations of PyTorch's documentation
@pytest.mark.parametrize(
    ("fill", "options", "bound", "std"),
    [
        (init.xavier_uniform_, {}, math.sqrt(6 / 400), math.sqrt(2 / 400)),
        (init.xavier_uniform_, {"gain": 2.0}, 2 * math.sqrt(6 / 400), 2 * math.sqrt(2 / 400)),
        (init.xavier_normal_, {"gain": 2.0}, math.inf, 2 * math.sqrt(2 / 400)),
        (init.kaiming_uniform_, {}, math.sqrt(6 / 300), math.sqrt(2 / 300)),
        (init.kaiming_uniform_, {"mode": "fan_out"}, math.sqrt(6 / 100), math.sqrt(2 / 100)),
        (init.kaiming_uniform_, {"a": math.sqrt(5)}, math.sqrt(1 / 300), math.sqrt(1 / 900)),
        (init.kaiming_uniform_, {"nonlinearity": "tanh"}, 5 / 3 * 0.1, 5 / 3 * math.sqrt(1 / 300)),
    ],
)
def test_bounds_follow_from_the_fans(fill, options, bound, std):
    w = fill(leaf(100, 300, dtype=np.float64), **options, rng=0).data
    assert abs(w).max() <= bound
    assert w.std() == pytest.approx(std, rel=0.02)
    assert w.mean() == pytest.approx(0, abs=4 * std / math.sqrt(w.size))
    if bound < math.inf:
        assert abs(w).max() > 0.999 * bound


def test_fans_count_further_dimensions_for_both():
    assert init.fans("test", leaf(5, 3)) == (3, 5)
    assert init.fans("test", leaf(5, 3, 2, 2)) == (12, 20)


def test_constants_and_identity():
    np.testing.assert_array_equal(init.zeros_(leaf(2, 3)).data, np.zeros((2, 3)))
    np.testing.assert_array_equal(init.ones_(leaf()).data, 1)
    np.testing.assert_array_equal(init.constant_(leaf(3), -1.5).data, [-1.5] * 3)
    np.testing.assert_array_equal(init.identity_(leaf(2, 3), 0.5).data, [[0.5, 0, 0], [0, 0.5, 0]])


def test_gains_are_pytorchs():
    assert init.calculate_gain("linear") == init.calculate_gain("sigmoid") == 1
    assert init.calculate_gain("tanh") == 5 / 3
    assert init.calculate_gain("relu") == math.sqrt(2)
    assert init.calculate_gain("leaky_relu", 2.0) == math.sqrt(2 / 5)
    assert init.calculate_gain("leaky_relu") == math.sqrt(2 / (1 + 0.01**2))
    assert init.calculate_gain("selu") == 0.75
    with pytest.raises(tg.DataError, match="'swish'"):
        init.calculate_gain("swish")


@pytest.mark.parametrize(
    "name", ["orthogonal_", "xavier_uniform_", "xavier_normal_", "kaiming_uniform_"]
)
def test_a_vector_is_no_matrix(name):
    with pytest.raises(tg.ShapeError, match=rf"{name} .*\(3,\)"):
        getattr(init, name)(leaf(3))


def test_wrong_arguments_are_refused_and_nothing_is_written():
    w = leaf(2, 2)
    with pytest.raises(tg.ShapeError, match="identity_"):
        init.identity_(leaf(2, 2, 2))
    for a, b in [(1, 0), (0, math.nan), (-math.inf, 0)]:
        with pytest.raises(tg.DataError, match="uniform_"):
            init.uniform_(w, a, b)
    for mean, std in [(0, -1), (math.nan, 1), (0, math.inf)]:
        with pytest.raises(tg.DataError, match="normal_"):
            init.normal_(w, mean, std)
    with pytest.raises(tg.DataError, match="'fan'"):
        init.kaiming_uniform_(w, mode="fan")
    with pytest.raises(tg.NotDifferentiableError, match="leaf"):
        init.zeros_(w * 2)
    np.testing.assert_array_equal(w.data, np.full((2, 2), 7))
