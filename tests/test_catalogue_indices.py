"""The catalogue of silent wrongs: indices, repeated and out of range.

For the idea see `tests/test_catalogue.py`.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tinygrad_rnn as tg
from tests import domains
from tests.fake_device import sync_budget
from tests.test_catalogue import gradient
from tinygrad_rnn import nn
from tinygrad_rnn.nn import functional as F

# ---- repeated indices ----


def added_at(shape, index, weight):
    """What picking has to scatter back, by NumPy's slow and certain way."""
    total = np.zeros(shape)
    np.add.at(total, index, weight)
    return total


@given(case=domains._getitem(), seed=st.integers(0, 99))
def test_repeated_index_of_every_form_adds_up(backend, case, seed):
    """Fast ways around `add.at` have missed a form of index again and again: here every form that
    NumPy has, against `add.at`. The weights are quarters, so that sums are exact in any order."""
    (a,), index = case.arrays, case.options["index"]
    weight = np.random.default_rng(seed).integers(-8, 9, a[index].shape) / 4
    for options in ({}, {"create_graph": True}):
        _, g = gradient(backend, lambda x: x[index], a, weight=weight, **options)
        np.testing.assert_array_equal(g, added_at(a.shape, index, weight))


def test_repeated_index_counts_twice_in_every_op_that_picks(backend):
    """Assigning, or ``+=`` at an index, keeps one of the repeats: 1 came out where 2 is right."""
    on_device = backend.tensor(np.array([[0], [0]]))
    for f in (
        lambda x: x[[0, 0]],
        lambda x: x[np.array([0, -2])],
        lambda x: x[on_device],
        lambda x: tg.take(x, np.array([0, 0])),
        lambda x: tg.take(x, on_device, 0),
        lambda x: tg.take_along_axis(x, np.array([0, 0])),
        lambda x: tg.take_along_axis(x, np.array([0, -2])),
    ):
        np.testing.assert_array_equal(gradient(backend, f, np.array([1.0, 2.0]))[1], [2, 0])
    table = nn.Embedding(3, 2, rng=0).to(backend.device)
    table(np.array([[1, 1], [0, 1]])).sum().backward()
    np.testing.assert_array_equal(backend.host(table.weight.grad), [[1, 1], [3, 3], [0, 0]])


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "i4", ">i4", "i8", "u8"])
def test_repeated_index_in_every_integer_type(backend, dtype):
    """Ids are stored small (bytes of a text): 300 rows do not fit into their type, nor does
    ``id + 300`` for a negative one."""
    ids = np.array([100, 3, 100, 127], dtype)
    ids[1] = -1 if ids.dtype.kind == "i" else 3
    a, weight = np.zeros((300, 2)), np.arange(8.0).reshape(4, 2)
    wanted = added_at(a.shape, ids.astype(np.int64), weight)
    for f in (lambda x: x[ids], lambda x: tg.take(x, ids, 0), lambda x: x[backend.tensor(ids)]):
        np.testing.assert_array_equal(gradient(backend, f, a, weight=weight)[1], wanted)


@given(
    ids=hnp.arrays(np.int64, domains.shapes(0, 2), elements=st.integers(-4, 3)),
    seed=st.integers(0, 99),
)
def test_repeated_index_equals_a_product_with_one_hot_rows(backend, ids, seed):
    """Picking rows is a matrix product with rows of zeros and a one: the same value and gradient,
    to the last bit (quarters again)."""
    rng = np.random.default_rng(seed)
    table, weight = rng.integers(-4, 4, (4, 3)) / 4, rng.integers(-4, 4, (*ids.shape, 3)) / 4
    rows = np.eye(4)[ids].reshape(-1, 4)
    picked = gradient(backend, lambda t: tg.take(t, ids, 0), table, weight=weight)
    dense = gradient(
        backend, lambda t: backend.tensor(rows) @ t, table, weight=weight.reshape(-1, 3)
    )
    np.testing.assert_array_equal(picked[0].reshape(-1, 3), dense[0])
    np.testing.assert_array_equal(picked[1], dense[1])


# ---- numbers out of range ----


def calls_with_ids(backend):
    """Every door through which class numbers come in; each has 3 rows or classes."""
    x = backend.tensor(np.zeros((3, 3)), requires_grad=True)
    y = backend.tensor(np.zeros((2, 3)), requires_grad=True)
    table = nn.Embedding(3, 3, rng=0).to(backend.device)
    narrow, wide = (nn.LSTM(i, 2, rng=0).to(backend.device) for i in (3, 1))
    column = backend.tensor(np.ones((3, 1), np.float32))
    return {
        "cross_entropy": lambda ids: F.cross_entropy(y, ids),
        "nll_loss": lambda ids: F.nll_loss(y, ids),
        "Embedding": table,
        "one_hot": lambda ids: tg.one_hot(ids, 3),
        "LSTM, table": lambda ids: narrow(ids, table=table.weight),
        "LSTM, long table": lambda ids: wide(ids, table=column),
        "take": lambda ids: tg.take(x, ids, 0),
        "take, last axis": lambda ids: tg.take(y, ids, -1),
        "take_along_axis": lambda ids: tg.take_along_axis(x[0], ids),
        "x[ids]": lambda ids: x[ids],
        "x[:, ids]": lambda ids: y[:, ids],
        "x[..., ids]": lambda ids: y[..., ids],
        "x[None, ids]": lambda ids: x[None, ids],
        "x[ids, 0]": lambda ids: x[ids, 0],
        "x[[0, 0], ids]": lambda ids: x[np.array([0, 0]), ids],
        "x[mask, ids]": lambda ids: x[np.array([True, False, True]), ids],
        "x[ids][1:]": lambda ids: x[None, ..., ids, :],
    }


FROM_THE_END = ("take", "x[")  # these count negative numbers from the end, as NumPy does


@pytest.mark.parametrize("wrong", [3, 100, -1, -4, -101, 2**40])
@pytest.mark.parametrize("form", ["list", "host", "small", "Tensor", "device"])
def test_a_number_out_of_range_is_refused_everywhere(backend, wrong, form):
    """A GPU's library wraps it around and trains on the wrong row: a bad token id is a silently
    wrong loss. IndexError, from every door, for ids of every kind, before anything is computed."""
    if form == "small" and not -128 <= wrong < 256:
        return
    small = np.int8 if wrong < 0 else np.uint8
    make = {
        "list": list,
        "host": np.array,
        "small": lambda ids: np.array(ids, small),
        "Tensor": lambda ids: backend.tensor(np.array(ids)),
        "device": lambda ids: backend.array(np.array(ids)),
    }[form]
    passed = []
    for name, call in calls_with_ids(backend).items():
        call(make([0, 2]))
        if wrong == -1 and name.startswith(FROM_THE_END):
            call(make([0, wrong]))
            continue
        try:
            call(make([0, wrong]))
        except IndexError:
            continue
        passed.append(name)
    assert not passed, f"index {wrong} of 3 was accepted by {passed}"


def test_a_number_on_the_host_is_checked_there():
    """Checking on a GPU makes the host wait for it, once per call: ids that come from the host, as
    a data loader's do, are checked before they travel."""

    class Fake:
        device = "fake"
        tensor = staticmethod(lambda h, **o: tg.tensor(np.asarray(h), device="fake", **o))

    slow = []
    for name, call in calls_with_ids(Fake).items():
        if name == "x[mask, ids]":
            continue  # a mask waits: how many rows it picks depends on its values
        try:
            with sync_budget(0):
                call(np.array([0, 2]))
        except AssertionError as error:
            slow.append(f"{name}: {error}")
    assert not slow


@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss"])
@pytest.mark.parametrize("wrong", [3, 100, -1, -4])
def test_a_target_out_of_range_may_be_the_ignored_one(backend, name, wrong):
    """-4 was once accepted as a class. Named as `ignore_index` it is no class, and passes."""
    logits, loss = backend.tensor(np.zeros((2, 3))), getattr(F, name)
    for targets in (np.array([0, wrong]), backend.tensor(np.array([0, wrong]))):
        with pytest.raises(IndexError, match=rf"{name}: index {wrong} is out of range.*< 3"):
            loss(logits, targets)
        seen = loss(logits, targets, ignore_index=wrong)
        assert seen.item() == loss(logits[:1], np.array([0])).item()
