"""Clipping gradients: the exact cases where other libraries go wrong in silence."""

import math

import numpy as np
import pytest

import tinygrad_rnn as tg
from tests.fake_device import sync_budget
from tinygrad_rnn import backends, nn
from tinygrad_rnn.nn.utils import Clipping, clip_grad_norm_, clip_grad_value_, clip_report_


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


# ---- the report ----


def named(*grads):
    return [(name, leaf(g)) for name, g in zip("abcdefgh", grads, strict=False)]


@pytest.mark.parametrize("check", [True, False])
def test_a_report_says_who_dominated_and_what_was_done(check):
    pairs = named([3.0, 0.0], None, [[0.0], [12.0]], [4.0])  # 9, none, 144, 16: 13 squared
    before = [leaf_.grad for _, leaf_ in pairs if leaf_.grad is not None]
    before = [g.copy() for g in before]
    report = clip_report_(pairs, 6.5, error_if_nonfinite=check)
    assert report.names == ("a", "c", "d")  # b had no gradient
    assert float(report.norm) == 13
    np.testing.assert_array_equal(report.norms.numpy(), [3, 12, 4])
    assert (report.norms.dtype, report.scale.dtype, report.scale.shape) == (
        np.float64, np.float64, (),
    )  # fmt: skip
    assert report.dominant == "c"
    assert report.share == 144 / 169
    assert report.clipped
    assert report.max_norm == 6.5
    scale = float(report.scale)
    assert scale == 6.5 / (13 + 1e-6)
    for (_, after), g in zip([pairs[0], *pairs[2:]], before, strict=True):
        np.testing.assert_array_equal(after.grad, g * np.float32(scale))


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("max_norm", [13.0, 1e30, math.inf])
def test_the_scale_is_exactly_one_where_nothing_was_clipped(check, max_norm):
    report = clip_report_(named([3.0], [12.0], [4.0]), max_norm, error_if_nonfinite=check)
    assert float(report.scale) == 1.0
    assert report.scale.shape == ()
    assert not report.clipped


def test_a_report_and_plain_clipping_do_the_same_bit_for_bit():
    rng = np.random.default_rng(0)
    grads = [rng.normal(size=s) for s in [(30, 20), (20,), (), (3, 4, 5)]]
    ours, theirs = [leaf(g) for g in grads], [leaf(g) for g in grads]
    report, norm = clip_report_(ours, 2.0), clip_grad_norm_(theirs, 2.0)
    assert float(report.norm) == float(norm)
    assert float(report.norm) == pytest.approx(np.linalg.norm(report.norms.numpy()), rel=1e-15)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a.grad, b.grad)


def test_without_names_a_parameter_is_called_by_its_place():
    p, q = leaf([1.0]), leaf([2.0])
    report = clip_report_([p, leaf(None), q, p], 9.0)
    assert report.names == ("parameter 0", "parameter 2")
    assert (report.dominant, report.share) == ("parameter 2", 0.8)
    assert clip_report_([("", q), ("w", p)], 9.0).dominant == "parameter 0"
    assert clip_report_(q, 9.0).names == ("parameter 0",)


def test_nothing_dominates_where_every_gradient_is_zero():
    for parameters in ([], [leaf(None)], [leaf([0.0]), leaf([0.0, 0.0])]):
        report = clip_report_(parameters, 1.0)
        assert (report.dominant, report.share, report.clipped) == (None, 0.0, False)
        assert float(report.scale) == 1.0
        assert report.norms.shape == (len(report.names),)


def test_a_nan_dominates_for_those_who_asked_not_to_be_told():
    report = clip_report_(named([9.0], [math.nan]), 1.0, error_if_nonfinite=False)
    assert report.dominant == "b"
    assert math.isnan(report.share)
    assert math.isnan(float(report.scale))
    # Without a limit nothing is scaled, whatever the norm.
    p = leaf([math.nan, 2.0])
    assert float(clip_report_(p, math.inf, error_if_nonfinite=False).scale) == 1.0
    np.testing.assert_array_equal(p.grad, [math.nan, 2.0])
    report = clip_report_(named([math.inf], [1.0]), 1.0, error_if_nonfinite=False)
    assert (report.dominant, float(report.scale), report.clipped) == ("a", 0.0, True)


def test_a_report_refuses_what_plain_clipping_refuses():
    with pytest.raises(tg.NonFiniteError, match=r"(?s)clip_report_: .* parameter 1 'b' of shape"):
        clip_report_(named([1.0], [math.inf]), 1.0)
    with pytest.raises(tg.DataError, match="clip_report_: max_norm is 0"):
        clip_report_(named([1.0]), 0)
    with pytest.raises(tg.DTypeError, match="clip_report_: parameter 0"):
        clip_report_([3], 1.0)


def test_only_reading_waits_for_the_device():
    fake = backends.get("fake")
    parameters = [tg.zeros((3,), device="fake", requires_grad=True) for _ in range(4)]
    for k, p in enumerate(parameters):
        p.grad = fake.asarray(np.full(3, k, np.float32), "fake")
    clipping = Clipping()
    with sync_budget(0):
        for max_norm in (1.0, 100.0, math.inf):
            report = clip_report_(parameters, max_norm, error_if_nonfinite=False)
            clipping.add(report)
            assert report.names[1] == "parameter 1"
            assert report.norms.device == report.scale.device == report.norm.device == "fake:0"
    with pytest.raises(tg.GradcheckError, match="1 host sync"), sync_budget(0):
        clip_report_(parameters, 1.0)  # the check reads the norm, once
    with sync_budget(1):
        assert report.dominant == "parameter 3"
        assert report.share == pytest.approx(9 / 14)  # both from one copy
    with sync_budget(1):
        assert not report.clipped
    with sync_budget(1):
        assert clipping.clipped == 1


def test_a_tally_counts_the_updates_that_were_clipped():
    clipping = Clipping()
    assert (clipping.updates, clipping.clipped, clipping.share) == (0, 0, 0.0)
    for length, max_norm in [(1.0, 2.0), (2.0, 2.0), (3.0, 2.0), (9.0, math.inf), (9.0, 8.0)]:
        clipping.add(clip_report_(leaf([length]), max_norm))
    assert (clipping.updates, clipping.clipped, clipping.share) == (5, 2, 0.4)
    assert isinstance(clipping.clipped, int)


def test_the_names_of_a_module_are_those_of_pytorch():
    model = nn.LSTM(2, 3, rng=0)
    out, _ = model(tg.ones((4, 1, 2)))
    (1000 * out).sum().backward()
    report = clip_report_(model.named_parameters(), 1.0)
    assert report.names == ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    assert report.dominant in report.names
