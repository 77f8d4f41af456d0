"""Optimizers and schedules against PyTorch's stored numbers and against the published formulas."""

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import optim
from tinygrad_rnn.core.clock import next_number, written

TORCH = json.loads(Path(__file__).with_name("data").joinpath("torch_optim.json").read_text("utf-8"))

# One of each, with every branch of its formula in use.
MAKERS = {
    "SGD": lambda p: optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "plain SGD": lambda p: optim.SGD(p, 0.1),
    "RMSprop": lambda p: optim.RMSprop(p, centered=True, momentum=0.5, weight_decay=0.1),
    "Adagrad": lambda p: optim.Adagrad(p, lr_decay=0.1, initial_accumulator_value=0.1),
    "Adam": lambda p: optim.Adam(p, weight_decay=0.1),
    "AdamW": lambda p: optim.AdamW(p),
}
each_optimizer = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def leaf(host, dtype=np.float64):
    return tg.tensor(np.asarray(host, dtype=dtype), requires_grad=True)


def leaves(seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return [leaf(rng.normal(size=shape), dtype) for shape in [(3, 4), (4,), ()]]


def set_grads(params, seed):
    rng = np.random.default_rng(seed)
    for p in params:
        p.grad = np.asarray(rng.normal(size=p.shape)).astype(p.dtype)


def case_id(case):
    return f"{case.get('name', '')}{case['options']}"


def assert_same_state(a, b):
    assert a["param_groups"] == b["param_groups"]
    assert a["state"].keys() == b["state"].keys()
    for i, slots in a["state"].items():
        assert slots.keys() == b["state"][i].keys()
        for name, value in slots.items():
            np.testing.assert_array_equal(value, b["state"][i][name])


# ---- the formulas ----


@pytest.mark.parametrize("case", TORCH["optimizers"], ids=case_id)
def test_optimizer_equals_pytorch(case):
    params = [leaf(values) for values in case["start"]]
    optimizer = getattr(optim, case["name"])(params, **case["options"])
    for step in case["steps"]:
        for p, g in zip(params, step["grads"], strict=True):
            p.grad = None if g is None else np.array(g)
        optimizer.step()
        for p, expected in zip(params, step["params"], strict=True):
            np.testing.assert_allclose(p.data, expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("case", TORCH["optimizers"], ids=case_id)
def test_optimizer_goes_on_from_pytorchs_state_dict(case):
    params = [leaf(values) for values in case["steps"][2]["params"]]
    optimizer = getattr(optim, case["name"])(params, **case["options"])
    dtypes = {"step": np.float32}
    saved = {
        "param_groups": case["saved_after_3"]["param_groups"],
        "state": {
            int(i): {k: np.array(v, dtypes.get(k, np.float64)) for k, v in slots.items()}
            for i, slots in case["saved_after_3"]["state"].items()
        },
    }
    optimizer.load_state_dict(saved)
    for step in case["steps"][3:]:
        for p, g in zip(params, step["grads"], strict=True):
            p.grad = np.array(g)
        optimizer.step()
    for p, expected in zip(params, case["steps"][-1]["params"], strict=True):
        np.testing.assert_allclose(p.data, expected, rtol=1e-13, atol=1e-15)


def test_adam_equals_algorithm_1_of_the_paper():
    rng = np.random.default_rng(0)
    theta = rng.normal(size=5)
    p = leaf(theta)
    optimizer = optim.Adam([p], lr=0.01, betas=(0.8, 0.99), eps=1e-6)
    m = v = np.zeros(5)
    for t in range(1, 50):
        g = rng.normal(size=5)
        m = 0.8 * m + 0.2 * g
        v = 0.99 * v + 0.01 * g**2
        theta = theta - 0.01 * (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.99**t)) + 1e-6)
        p.grad = g.copy()
        optimizer.step()
        np.testing.assert_allclose(p.data, theta, rtol=1e-13, atol=1e-14)
        np.testing.assert_array_equal(p.grad, g)  # step leaves gradients alone


def test_centered_rmsprop_equals_its_equations():
    rng = np.random.default_rng(0)
    theta = rng.normal(size=5)
    p = leaf(theta)
    optimizer = optim.RMSprop([p], lr=0.01, alpha=0.95, eps=1e-4, momentum=0.9, centered=True)
    n = mean = delta = np.zeros(5)
    for _ in range(50):
        g = rng.normal(size=5)
        n = 0.95 * n + 0.05 * g**2
        mean = 0.95 * mean + 0.05 * g
        delta = 0.9 * delta - 0.01 * g / (np.sqrt(n - mean**2) + 1e-4)
        theta = theta + delta
        p.grad = g
        optimizer.step()
        np.testing.assert_allclose(p.data, theta, rtol=1e-12, atol=1e-13)


def test_centered_rmsprop_survives_a_constant_gradient():
    # Its variance is 0, and rounding makes it a little less: a NaN in PyTorch.
    p = leaf(np.zeros(1000), np.float32)
    optimizer = optim.RMSprop([p], alpha=0.5, centered=True, eps=1e-3)
    for _ in range(200):
        p.grad = np.linspace(0.1, 3, 1000, dtype=np.float32)
        optimizer.step()
    assert np.isfinite(p.data).all()


@pytest.mark.parametrize("t", [1, 2, 1000, 10**6])
def test_adam_bias_correction_makes_a_constant_gradient_a_step_of_lr(t):
    # With g constant from the start, m = g (1 - β1^t) and v = g² (1 - β2^t): the step is lr.
    p = leaf([2.0, -2.0])
    optimizer = optim.Adam([p], lr=0.01, eps=0.0)
    g = np.array([0.3, -5.0])
    if t > 1:
        optimizer.state[p] = {
            "step": t - 1,
            "exp_avg": g * (1 - 0.9 ** (t - 1)),
            "exp_avg_sq": g**2 * (1 - 0.999 ** (t - 1)),
        }
    p.grad = g
    optimizer.step()
    np.testing.assert_allclose(p.data, [1.99, -1.99], rtol=1e-12)
    assert optimizer.state[p]["step"] == t
    assert type(optimizer.state[p]["step"]) is int


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_adam_with_a_zero_gradient_moves_nothing(dtype):
    p = leaf([1.0, -2.0], dtype)
    optimizer = optim.Adam([p])
    for _ in range(3):
        p.grad = np.zeros(2, dtype)
        optimizer.step()
    np.testing.assert_array_equal(p.data, [1.0, -2.0])


@each_optimizer
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_dtype_stays_and_averages_have_at_least_float32(make, dtype):
    params = leaves(dtype=dtype)
    arrays = [p._data for p in params]
    optimizer = make(params)
    optimizer.param_groups[0]["lr"] = np.float64(0.01)  # as a schedule of one's own may do
    for seed in range(3):
        set_grads(params, seed)
        optimizer.step()
    for p, array in zip(params, arrays, strict=True):
        assert p._data is array, "an optimizer writes in place"
        assert p.dtype == dtype
        for name, value in optimizer.state[p].items():
            if name != "step":
                assert value.dtype == np.promote_types(dtype, np.float32)
                assert value.shape == p.shape


@each_optimizer
def test_float32_follows_float64(make):
    narrow, wide = leaves(dtype=np.float32), leaves(dtype=np.float64)
    first, second = make(narrow), make(wide)
    for seed in range(5):
        set_grads(narrow, seed)
        set_grads(wide, seed)
        first.step()
        second.step()
    for a, b in zip(narrow, wide, strict=True):
        np.testing.assert_allclose(a.data, b.data, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("beta1", [0.0, 0.1, 0.5, 0.6])
def test_a_small_gradient_after_a_large_one_counts(beta1):
    """With beta1 = 0 the mean is the gradient itself, whatever came before."""
    p = leaf([1.0], np.float32)
    optimizer = optim.Adam([p], betas=(beta1, 0.999))
    for g in (1e3, 1e-5):
        p.grad = np.array([g], np.float32)
        optimizer.step()
    wanted = beta1 * (1 - beta1) * 1e3 + (1 - beta1) * 1e-5
    np.testing.assert_allclose(optimizer.state[p]["exp_avg"], [wanted], rtol=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_the_centre_of_rmsprop_forgets_as_fast(alpha):
    p = leaf([1.0], np.float32)
    optimizer = optim.RMSprop([p], alpha=alpha, centered=True, eps=1e-3)
    for g in (1e3, 1e-5):
        p.grad = np.array([g], np.float32)
        optimizer.step()
    wanted = alpha * (1 - alpha) * 1e3 + (1 - alpha) * 1e-5
    np.testing.assert_allclose(optimizer.state[p]["grad_avg"], [wanted], rtol=1e-6)


# ---- which parameters ----


@each_optimizer
def test_a_parameter_without_gradient_is_left_alone(make):
    params = leaves()
    optimizer = make(params)
    set_grads(params, 0)
    optimizer.step()
    before = copy.deepcopy(optimizer.state_dict())
    values, stamp = params[0].data.copy(), written(params[0].data)
    for seed in range(3):
        set_grads(params, seed)
        params[0].grad = None
        optimizer.step()
    np.testing.assert_array_equal(params[0].data, values)
    assert written(params[0].data) == stamp
    after = optimizer.state_dict()
    for name, value in before["state"].get(0, {}).items():
        np.testing.assert_array_equal(after["state"][0][name], value)


def test_every_step_stamps_what_it_writes_to():
    p = leaf([1.0])
    optimizer = optim.SGD([p])
    for _ in range(2):
        before = next_number()
        p.grad = np.ones(1)
        optimizer.step()
        assert written(p.data) > before


def test_zero_grad_and_a_tied_parameter():
    p = leaf([1.0])
    optimizer = optim.SGD([p, p], lr=0.5)
    assert len(optimizer.param_groups[0]["params"]) == 1
    p.grad = np.ones(1)
    optimizer.step()
    np.testing.assert_array_equal(p.data, [0.5])
    optimizer.zero_grad()
    assert p.grad is None


def test_a_parameter_frozen_later_is_skipped():
    p, q = leaf([1.0]), leaf([1.0])
    optimizer = optim.SGD([p, q], lr=0.5)
    q.requires_grad_(False)
    p.grad = np.ones(1)
    optimizer.step()
    optimizer.zero_grad()
    assert (p.item(), q.item()) == (0.5, 1.0)


def test_groups_have_options_of_their_own():
    p, q, r = (leaf([1.0]) for _ in range(3))
    optimizer = optim.SGD([{"params": [p]}, {"params": q, "lr": 0.25}], lr=0.5)
    optimizer.add_param_group({"params": (x for x in [r]), "lr": np.float32(2)})
    for x in (p, q, r):
        x.grad = np.ones(1)
    optimizer.step()
    assert [p.item(), q.item(), r.item()] == [0.5, 0.75, -1.0]
    assert type(optimizer.param_groups[2]["lr"]) is float


@pytest.mark.parametrize("empty", [[], iter(()), [{"params": []}]])
def test_no_parameters_is_an_error(empty):
    with pytest.raises(ValueError, match="no parameters"):
        optim.SGD(empty)


def test_wrong_parameters_are_refused():
    p = leaf([1.0])
    with pytest.raises(tg.DTypeError, match="iterable"):
        optim.SGD(p)
    with pytest.raises(tg.DTypeError, match="iterable"):
        optim.SGD(3)
    with pytest.raises(tg.DTypeError, match="parameter 1 is a ndarray"):
        optim.SGD([p, np.ones(3)])
    with pytest.raises(tg.NotDifferentiableError, match=r"parameter 0.*result"):
        optim.SGD([p * 2])
    with pytest.raises(tg.NotDifferentiableError, match=r"parameter 1.*frozen"):
        optim.SGD([p, tg.tensor([1.0])])
    with pytest.raises(tg.DataError, match="another group"):
        optim.SGD([{"params": [p]}, {"params": [p]}])
    with pytest.raises(tg.DTypeError, match="'params'"):
        optim.SGD([{"lr": 1.0}])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *(("SGD", {"lr": lr}) for lr in (-1, math.nan, math.inf, "0.1", None, True)),
        ("SGD", {"momentum": -0.1}),
        ("SGD", {"dampening": math.nan}),
        ("SGD", {"weight_decay": -1}),
        ("SGD", {"nesterov": True}),
        ("SGD", {"nesterov": True, "momentum": 0.9, "dampening": 0.1}),
        ("SGD", {"nesterov": 1, "momentum": 0.9}),
        ("RMSprop", {"alpha": 1.1}),
        ("RMSprop", {"eps": -1e-8}),
        ("Adagrad", {"lr_decay": -1}),
        ("Adagrad", {"initial_accumulator_value": math.nan}),
        ("Adam", {"betas": (0.9, 1.0)}),
        ("Adam", {"betas": (-0.1, 0.9)}),
        ("Adam", {"betas": 0.9}),
        ("AdamW", {"weight_decay": math.nan}),
    ],
)
def test_options_out_of_range_are_refused(name, options):
    with pytest.raises(ValueError, match=f"{name}: .*need"):
        getattr(optim, name)([leaf([1.0])], **options)
    with pytest.raises(ValueError, match=f"{name}: .*need"):
        getattr(optim, name)([{"params": [leaf([1.0])], **options}])


def test_an_unknown_option_of_a_group_is_refused():
    with pytest.raises(ValueError, match="no option 'learning_rate'"):
        optim.SGD([{"params": [leaf([1.0])], "learning_rate": 1.0}])


# ---- to a file and back ----


@each_optimizer
def test_state_dict_continues_bit_for_bit(make):
    def train(params, optimizer, seeds):
        for seed in seeds:
            set_grads(params, seed)
            params[1].grad = None if seed == 0 else params[1].grad
            optimizer.step()

    straight, first = leaves(), leaves()
    train(straight, make(straight), range(10))
    optimizer = make(first)
    train(first, optimizer, range(4))
    saved = optimizer.state_dict()
    resumed = [leaf(p.data, p.dtype) for p in first]
    train(first, optimizer, range(4, 6))  # must not change what was saved
    again = make(resumed)
    again.load_state_dict(saved)
    assert_same_state(again.state_dict(), saved)
    train(resumed, again, range(4, 10))
    for a, b in zip(straight, resumed, strict=True):
        np.testing.assert_array_equal(a.data, b.data)
    assert all(type(s.get("step", 0)) is int for s in again.state_dict()["state"].values())


def test_layout_of_the_state_dict_is_pytorchs():
    params = leaves()
    groups = [{"params": params[:2]}, {"params": params[2:], "lr": 0.5}]
    optimizer = optim.Adam(groups)
    set_grads(params, 0)
    params[1].grad = None
    optimizer.step()
    saved = optimizer.state_dict()
    assert [g["params"] for g in saved["param_groups"]] == [[0, 1], [2]]
    assert saved["param_groups"][1] == {
        "lr": 0.5,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0,
        "params": [2],
    }
    assert list(saved["state"]) == [0, 2]
    assert list(saved["state"][0]) == ["step", "exp_avg", "exp_avg_sq"]


def test_load_state_dict_takes_tensors_and_lists():
    params = leaves()
    optimizer = optim.Adam(params)
    set_grads(params, 0)
    optimizer.step()
    saved = optimizer.state_dict()
    loose = copy.deepcopy(saved)
    loose["param_groups"][0]["betas"] = [0.9, 0.999]
    for slots in loose["state"].values():
        for name in ("exp_avg", "exp_avg_sq"):
            slots[name] = tg.tensor(slots[name])
    optimizer.load_state_dict(loose)
    assert_same_state(optimizer.state_dict(), saved)


def _corruptions():
    def change(description, edit):
        return pytest.param(edit, description, id=description)

    def state(i, name, value):
        return lambda d: d["state"][i].__setitem__(name, value)

    def group(name, value):
        return lambda d: d["param_groups"][0].__setitem__(name, value)

    return [
        change("is (4, 3) of float32", state(0, "exp_avg", np.zeros((4, 3), np.float32))),
        change("is (3, 4) of float64", state(0, "exp_avg", np.zeros((3, 4)))),
        change("is a list", state(0, "exp_avg", [0.0])),
        change("'exp_avg_sq' is missing", lambda d: d["state"][1].pop("exp_avg_sq")),
        change("'step' is missing", lambda d: d["state"][1].pop("step")),
        change("'step' is -1", state(1, "step", -1)),
        change("'step' is 1.5", state(1, "step", 1.5)),
        change("'step' is nan", state(1, "step", math.nan)),
        change("keeps no 'max_exp_avg_sq'", state(1, "max_exp_avg_sq", np.zeros(4))),
        change("no such parameter", lambda d: d["state"].__setitem__(3, {})),
        change("'state' is no dict", lambda d: d.pop("state")),
        change("lr is nan", group("lr", math.nan)),
        change("'eps' is missing", lambda d: d["param_groups"][0].pop("eps")),
        change("no option 'amsgrad'", group("amsgrad", True)),
        change("2 parameters saved, 3 here", group("params", [0, 1])),
        change("'param_groups' is no list", group("params", "012")),
        change("2 groups saved, 1 here", lambda d: d["param_groups"].append({"params": []})),
    ]


@pytest.mark.parametrize(("edit", "description"), _corruptions())
def test_load_state_dict_changes_all_or_nothing(edit, description):
    params = leaves()
    optimizer = optim.Adam(params)
    set_grads(params, 0)
    optimizer.step()
    before = optimizer.state_dict()
    wrong = optimizer.state_dict()
    wrong["param_groups"][0]["lr"] = 0.5
    wrong["state"][2]["step"] = 7
    edit(wrong)
    with pytest.raises(tg.CheckpointError) as error:
        optimizer.load_state_dict(wrong)
    assert description in str(error.value)
    assert_same_state(optimizer.state_dict(), before)


def test_load_state_dict_lists_every_problem():
    params = leaves()
    optimizer = optim.Adam(params)
    set_grads(params, 0)
    optimizer.step()
    wrong = optimizer.state_dict()
    wrong["param_groups"][0] |= {"lr": -1, "momentum": 0.9}
    wrong["state"][0]["exp_avg"] = np.zeros(3)
    del wrong["state"][1]["step"]
    with pytest.raises(tg.CheckpointError) as error:
        optimizer.load_state_dict(wrong)
    for part in ("lr is -1", "'momentum'", "parameter 0: 'exp_avg'", "parameter 1: 'step'"):
        assert part in str(error.value)
    with pytest.raises(tg.CheckpointError):
        optimizer.load_state_dict(None)


# ---- schedules ----

LAMBDAS = [lambda t: 1 / (1 + t), lambda t: 0.9**t]
SCHEDULES = {
    "StepLR": lambda o: optim.StepLR(o, 2),
    "ExponentialLR": lambda o: optim.ExponentialLR(o, 0.9),
    "CosineAnnealingLR": lambda o: optim.CosineAnnealingLR(o, 5),
    "LinearLR": lambda o: optim.LinearLR(o),
    "LambdaLR": lambda o: optim.LambdaLR(o, LAMBDAS),
    "ReduceLROnPlateau": lambda o: optim.ReduceLROnPlateau(o, patience=1, min_lr=[0.01, 0]),
}
each_schedule = pytest.mark.parametrize("make", SCHEDULES.values(), ids=SCHEDULES)


def two_groups():
    groups = [{"params": [leaf([1.0])], "lr": 0.2}, {"params": [leaf([1.0])], "lr": 0.5}]
    return optim.SGD(groups)


def advance(schedule, steps):
    """Take steps, and return all learning rates; a metric never improves after the first."""
    watches = isinstance(schedule, optim.ReduceLROnPlateau)
    rates = []
    for _ in range(steps):
        schedule.step(*([1.0] if watches else []))
        rates.append(schedule.get_last_lr())
    return rates


@pytest.mark.parametrize("case", TORCH["schedules"], ids=case_id)
def test_schedule_equals_pytorch(case):
    optimizer = two_groups()
    options = {"lr_lambda": LAMBDAS} if case["name"] == "LambdaLR" else case["options"]
    schedule = getattr(optim, case["name"])(optimizer, **options)
    np.testing.assert_allclose(schedule.get_last_lr(), case["rates"][0], rtol=1e-12)
    rates = advance(schedule, len(case["rates"]) - 1)
    # PyTorch multiplies its way through the cosine and loses some digits near its minimum.
    np.testing.assert_allclose(rates, case["rates"][1:], rtol=1e-12, atol=1e-15)
    assert [group["lr"] for group in optimizer.param_groups] == rates[-1]


@pytest.mark.parametrize("case", TORCH["plateaus"], ids=case_id)
def test_plateau_equals_pytorch(case):
    schedule = optim.ReduceLROnPlateau(two_groups(), **case["options"])
    for metric, expected in zip(TORCH["metrics"], case["rates"], strict=True):
        schedule.step(tg.tensor(math.nan if metric is None else metric, dtype=tg.float64))
        np.testing.assert_allclose(schedule.get_last_lr(), expected, rtol=1e-14)


def test_plateau_notes_a_rate_set_by_hand():
    optimizer = two_groups()
    schedule = optim.ReduceLROnPlateau(optimizer, patience=0, factor=0.5)
    schedule.step(1.0)
    optimizer.param_groups[0]["lr"] = 1.0
    schedule.step(1.0)
    assert schedule.get_last_lr() == [0.5, 0.25]


@each_schedule
def test_schedule_resumes_from_json(make):
    straight = advance(make(two_groups()), 9)
    schedule = make(two_groups())
    advance(schedule, 4)
    text = json.dumps(schedule.state_dict(), allow_nan=False)
    optimizer = two_groups()
    resumed = make(optimizer)
    resumed.load_state_dict(json.loads(text))
    assert [group["lr"] for group in optimizer.param_groups] == straight[3]
    assert resumed.state_dict() == json.loads(text)
    assert advance(resumed, 5) == straight[4:]


@each_schedule
def test_schedule_state_is_loaded_all_or_nothing(make):
    schedule = make(two_groups())
    advance(schedule, 3)
    good = schedule.state_dict()
    rates = "last_lrs" if "last_lrs" in good else "base_lrs"
    wrongs = [
        {**good, "last_epoch": -1},
        {**good, "last_epoch": 1.5},
        {**good, rates: [0.1]},
        {**good, rates: [0.1, math.nan]},
        {**good, "extra": 1},
        {k: v for k, v in good.items() if k != "last_epoch"},
        None,
    ]
    for wrong in wrongs:
        with pytest.raises(tg.CheckpointError, match=type(schedule).__name__):
            schedule.load_state_dict(wrong)
        assert schedule.state_dict() == good


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("StepLR", {"step_size": 0}),
        ("StepLR", {"step_size": 1.5}),
        ("StepLR", {"step_size": 2, "gamma": -1}),
        ("ExponentialLR", {"gamma": math.nan}),
        ("CosineAnnealingLR", {"T_max": 0}),
        ("LinearLR", {"start_factor": 0}),
        ("LinearLR", {"end_factor": 2}),
        ("LinearLR", {"total_iters": 0}),
        ("LambdaLR", {"lr_lambda": [abs]}),
        ("ReduceLROnPlateau", {"mode": "least"}),
        ("ReduceLROnPlateau", {"factor": 1.0}),
        ("ReduceLROnPlateau", {"patience": -1}),
        ("ReduceLROnPlateau", {"min_lr": [0.1]}),
        ("ReduceLROnPlateau", {"threshold_mode": "percent"}),
    ],
)
def test_options_of_schedules_are_checked(name, options):
    optimizer = two_groups()
    with pytest.raises(tg.DataError, match=name):
        getattr(optim, name)(optimizer, **options)
    assert [group["lr"] for group in optimizer.param_groups] == [0.2, 0.5]


def test_a_schedule_needs_an_optimizer_and_its_groups():
    with pytest.raises(tg.DTypeError, match="needs an Optimizer"):
        optim.ExponentialLR([leaf([1.0])], 0.9)
    optimizer = two_groups()
    schedule = optim.ExponentialLR(optimizer, 0.9)
    optimizer.add_param_group({"params": [leaf([1.0])]})
    with pytest.raises(tg.DataError, match="2 groups, the optimizer has 3"):
        schedule.step()
