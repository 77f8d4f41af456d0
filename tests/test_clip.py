"""Clipping gradients: the exact cases where other libraries go wrong in silence."""

import math

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.nn.utils import clip_grad_norm_, clip_grad_value_


def leaf(grad, dtype=np.float32):
    grad = None if grad is None else np.array(grad, dtype)
    p = tg.tensor(np.zeros(np.shape(grad), dtype), requires_grad=True)
    p.grad = grad
    return p


def test_a_tied_parameter_is_clipped_once():
    p = leaf([3.0, 4.0])
    norm = clip_grad_norm_([p, p], 1.0)
    assert float(norm) == 5.0
    np.testing.assert_allclose(p.grad, [0.6, 0.8], rtol=1e-6)


@pytest.mark.parametrize("check", [True, False])
def test_the_norm_is_over_all_parameters_together(check):
    p, q, r = leaf([3.0]), leaf([[4.0]], np.float64), leaf(None)
    array = p.grad
    norm = clip_grad_norm_(iter([p, q, r]), 2.5, error_if_nonfinite=check)
    assert isinstance(norm, tg.Tensor)
    assert (norm.shape, norm.dtype, norm.requires_grad) == ((), np.float64, False)
    assert float(norm) == 5.0
    scale = 2.5 / (5 + 1e-6)  # PyTorch's factor
    np.testing.assert_allclose([p.grad[0], q.grad[0, 0]], [3 * scale, 4 * scale], rtol=1e-7)
    assert p.grad is array
    assert r.grad is None


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("max_norm", [5.0, 5, 5.0000001, 1e30, math.inf])
def test_gradients_within_the_limit_stay_bit_for_bit(check, dtype, max_norm):
    p = leaf([3.0, 4.0], dtype)
    assert float(clip_grad_norm_(p, max_norm, error_if_nonfinite=check)) == 5.0
    np.testing.assert_array_equal(p.grad, np.array([3, 4], dtype))
    assert p.grad.dtype == dtype


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e18, 2e22, 1e37])
def test_clipped_norm_and_direction(check, scale):
    rng = np.random.default_rng(0)
    grads = [rng.normal(size=s) * scale for s in [(30, 20), (20,), ()]]
    params = [leaf(g) for g in grads]
    norm = float(clip_grad_norm_(params, scale, error_if_nonfinite=check))
    before = np.concatenate([np.ravel(np.float32(g)).astype(np.float64) for g in grads])
    after = np.concatenate([p.grad.ravel().astype(np.float64) for p in params])
    np.testing.assert_allclose(norm, np.linalg.norm(before), rtol=1e-6)
    assert np.linalg.norm(after) <= scale * (1 + 1e-6)
    cosine = before @ after / np.linalg.norm(before) / np.linalg.norm(after)
    assert cosine >= 1 - 1e-12


def test_huge_finite_float32_gradients_do_not_become_zero():
    p = leaf([2e22, 2e22])
    norm = clip_grad_norm_(p, 1.0)
    np.testing.assert_allclose(float(norm), math.sqrt(2) * 2e22, rtol=1e-6)
    np.testing.assert_allclose(p.grad, [math.sqrt(0.5)] * 2, rtol=1e-6)


@pytest.mark.parametrize("bad", [[1.0, math.inf], [1.0, math.nan], [math.inf, -math.inf]])
def test_a_non_finite_norm_raises_and_changes_nothing(bad):
    good, p = leaf([3.0, 4.0]), leaf(bad)
    with pytest.raises(tg.NonFiniteError, match=r"parameter 1 of shape \(2,\)") as error:
        clip_grad_norm_([good, p], 1.0)
    assert "parameter 0" not in str(error.value)
    np.testing.assert_array_equal(good.grad, [3.0, 4.0])
    np.testing.assert_array_equal(p.grad, np.float32(bad))
    with pytest.raises(ArithmeticError, match=r"parameter 1 'rnn.weight_hh' .*NaN or infinite"):
        clip_grad_norm_([("rnn.bias", good), ("rnn.weight_hh", p)], math.inf)


def test_without_the_check_non_finite_norms_behave_as_in_pytorch():
    p = leaf([1.0, math.inf])
    assert float(clip_grad_norm_(p, 1.0, error_if_nonfinite=False)) == math.inf
    np.testing.assert_array_equal(p.grad, [0.0, math.nan])
    p = leaf([1.0, math.nan])
    assert math.isnan(float(clip_grad_norm_(p, 1.0, error_if_nonfinite=False)))
    np.testing.assert_array_equal(p.grad, [math.nan, math.nan])


def test_a_sum_of_squares_beyond_float64_is_told_apart():
    p = leaf([1e200, 1e200], np.float64)
    with pytest.raises(tg.NonFiniteError, match="every element is finite"):
        clip_grad_norm_(p, 1.0)


@pytest.mark.parametrize("clip", [clip_grad_norm_, clip_grad_value_])
def test_nothing_to_clip_has_norm_zero(clip):
    for parameters in ([], iter(()), [leaf(None)]):
        norm = clip(parameters, 1.0)
        assert isinstance(norm, tg.Tensor)
        assert float(norm) == 0.0
    p = leaf([0.0, 0.0])
    assert float(clip(p, 1.0)) == 0.0
    np.testing.assert_array_equal(p.grad, [0.0, 0.0])


@pytest.mark.parametrize("clip", [clip_grad_norm_, clip_grad_value_])
@pytest.mark.parametrize("limit", [-1.0, 0.0, 0, math.nan, -math.inf, "1", None])
def test_a_limit_that_is_not_positive_is_refused(clip, limit):
    p = leaf([3.0, 4.0])
    with pytest.raises(ValueError, match="> 0"):
        clip(p, limit)
    np.testing.assert_array_equal(p.grad, [3.0, 4.0])


@pytest.mark.parametrize("clip", [clip_grad_norm_, clip_grad_value_])
def test_what_is_no_tensor_is_refused(clip):
    with pytest.raises(tg.DTypeError, match="parameter 1 is a ndarray"):
        clip([leaf([1.0]), np.ones(3)], 1.0)


def test_clip_value():
    p, q = leaf([3.0, -4.0, 0.5]), leaf([[math.inf]])
    array = p.grad
    assert float(clip_grad_value_([p, p], 2.0)) == pytest.approx(math.sqrt(25.25))
    np.testing.assert_array_equal(p.grad, [2.0, -2.0, 0.5])
    assert p.grad is array
    assert p.grad.dtype == np.float32
    assert float(clip_grad_value_(q, 2.0)) == math.inf
    np.testing.assert_array_equal(q.grad, [[2.0]])
    assert float(clip_grad_value_(q, math.inf)) == 2.0
    np.testing.assert_array_equal(q.grad, [[2.0]])
