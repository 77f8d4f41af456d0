"""The catalogue of silent wrongs: exceptions, threads, processes.

For the idea see `tests/test_catalogue.py`.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import tinygrad_rnn as tg
from tests import checking
from tests.test_catalogue_training import IDS, TARGETS, Tied, loss_of
from tinygrad_rnn import nn, optim
from tinygrad_rnn.core import engine
from tinygrad_rnn.core.grad_mode import recording
from tinygrad_rnn.nn import functional as F
from tinygrad_rnn.nn.utils import clip_grad_norm_


def host(backend, arrays):
    return [None if a is None else backend.host(a) for a in arrays]


def assert_same(seen, wanted):
    for a, b in zip(seen, wanted, strict=True):
        if b is None:
            assert a is None
        else:
            assert (a.shape, a.dtype, a.tobytes()) == (b.shape, b.dtype, b.tobytes())


# ---- failures in the middle of a backward pass ----


def failing_at(monkeypatch, carrier, k):
    """Let the k-th rule of the next sweep raise, first counted as 0; returns the list of calls."""
    calls, pull = [], carrier.pull

    def counted(node, g, wanted):
        calls.append(node.name)
        if len(calls) == k + 1:
            raise ArithmeticError(f"planted in {node.name}")
        return pull(node, g, wanted)

    monkeypatch.setattr(carrier, "pull", staticmethod(counted))
    return calls


def number_of_rules(carrier, run):
    with pytest.MonkeyPatch.context() as patch:
        calls = failing_at(patch, carrier, -1)
        run()
    return len(calls)


@pytest.mark.parametrize("retain", [True, False])
def test_an_exception_at_any_rule_leaves_every_gradient_bit_for_bit(backend, retain):
    """Frameworks add into `.grad` as they go: a failure leaves half a step, and the next one trains
    on it. Here a model of fused and plain ops fails at each of its rules in turn; half of the
    parameters have a gradient from before. Nothing changes, and a retained graph can be used again.
    """
    model = Tied().to(backend.device)
    parameters = list(model.parameters())
    loss_of(model).backward()
    for p in parameters[::2]:
        p.grad = None
    before = host(backend, (p.grad for p in parameters))

    def build():
        """The sweep meets leaves by age, and `late` in the middle: younger than the LSTM."""
        logits, _ = model(IDS)
        late = backend.tensor(np.ones(4, np.float32), requires_grad=True)
        return F.cross_entropy(logits * late + late, TARGETS), late

    rules = number_of_rules(engine.Arrays, lambda: build()[0].backward())
    assert rules > 8
    for p, was in zip(parameters, before, strict=True):
        p.grad = None if was is None else backend.tensor(was)
    wanted = None
    for k in range(rules):
        loss, late = build()
        with pytest.MonkeyPatch.context() as patch:
            failing_at(patch, engine.Arrays, k)
            with pytest.raises(ArithmeticError, match="planted"):
                loss.backward(retain_graph=retain)
        assert_same(host(backend, (p.grad for p in parameters)), before)
        assert late.grad is None
        assert recording.enabled
        if retain:
            again = host(backend, (g.data for g in tg.grad(loss, [late, *parameters])))
            wanted = wanted or again
            assert_same(again, wanted)
        elif k:
            with pytest.raises(tg.GraphFreedError):
                loss.backward()
            assert_same(host(backend, (p.grad for p in parameters)), before)


def test_an_exception_under_create_graph_leaves_gradients_and_modes_as_they_were(backend):
    """The same for gradients that are recorded, where fused ops run their specification; and the
    switch of `no_grad` is put back, whichever way it stood."""
    model = nn.LSTM(2, 2, rng=0).to(backend.device)
    parameters = list(model.parameters())
    x = backend.tensor(np.ones((2, 1, 2), np.float32), requires_grad=True)

    def penalty():
        loss = (model(x)[0] ** 2).sum()
        return tg.grad(loss, [x, *parameters], create_graph=True)

    sum((g * g).sum() for g in penalty()).backward()
    before = host(backend, (p.grad for p in parameters))
    rules = number_of_rules(engine.Tensors, penalty)
    for k, mode in itertools.product(range(0, rules, 5), (tg.no_grad, tg.enable_grad)):
        loss = (model(x)[0] ** 2).sum()
        with pytest.MonkeyPatch.context() as patch, mode():
            failing_at(patch, engine.Tensors, k)
            with pytest.raises(ArithmeticError, match="planted"):
                tg.grad(loss, [x, *parameters], create_graph=True)
            assert recording.enabled == (mode is tg.enable_grad)
        assert recording.enabled
        assert_same(host(backend, (p.grad for p in parameters)), before)
        tg.grad(loss, [x, *parameters])  # create_graph keeps the graph, after a failure too


@pytest.mark.parametrize("retain", [True, False])
def test_an_exception_in_any_hook_leaves_every_gradient_bit_for_bit(backend, retain):
    """Hooks are user code, and called last of all at the leaves: others have their sums by then."""
    model = Tied().to(backend.device)
    parameters = list(model.parameters())
    loss_of(model).backward()
    before = host(backend, (p.grad for p in parameters))
    for p in parameters:
        remove = p.register_hook(lambda _: 1 / 0)
        loss = loss_of(model)
        with pytest.raises(ZeroDivisionError):
            loss.backward(retain_graph=retain)
        remove()
        assert_same(host(backend, (p.grad for p in parameters)), before)
    bad = backend.array(np.ones(5))
    remove = parameters[0].register_hook(lambda _: bad)  # a gradient of the wrong shape
    with pytest.raises(tg.ShapeError, match="hook"):
        loss_of(model).backward()
    assert_same(host(backend, (p.grad for p in parameters)), before)


# ---- threads ----


def trained(seed, device="cpu"):
    """A few steps of training, and every number that comes of it."""
    model = Tied(seed).to(device)
    optimizer = optim.Adam(model.parameters(), lr=0.05)
    losses, state = [], None
    for _ in range(4):
        logits, state = model(IDS, state)
        loss = F.cross_entropy(logits, TARGETS)
        optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        state = tuple(s.detach() for s in state)
        losses.append(np.asarray(loss.item()))
    return [*losses, *model.state_dict().values()]


def test_threads_with_models_of_their_own_give_the_bits_of_a_serial_run():
    """Counters, switches and caches that threads share mix their graphs up. Eight train at once,
    four of them evaluating under `no_grad` in between: bit for bit what each gives alone."""
    alone = [trained(seed) for seed in range(8)]
    start, together, recorded = threading.Barrier(8), [None] * 8, []

    def work(number):
        start.wait()
        for _ in range(3):
            if number % 2:
                with tg.no_grad():
                    recorded.append(loss_of(Tied(number)).requires_grad)
            together[number] = trained(number)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    for seen, wanted in zip(together, alone, strict=True):
        assert_same(seen, wanted)
    assert recorded == [False] * 12


# ---- processes: the hash seed, and Python without assertions ----

PROGRAM = """
import hashlib
import numpy as np
import tinygrad_rnn as tg
from tests.test_catalogue_failures import trained

digest = hashlib.sha256()
for array in trained(0):
    digest.update(array.tobytes())
rng = np.random.default_rng(0)
for subscripts, *shapes in (
    ("iijj->", (7, 7, 5, 5)), ("iijjkk->", (3, 3, 5, 5, 4, 4)), ("iijj,ij->", (7, 7, 5, 5), (7, 5)),
    ("abc,cd,dbe->ae", (3, 4, 5), (5, 6), (6, 4, 2)), ("ba,cb", (3, 4), (5, 3)),
):
    inputs = [tg.tensor(rng.standard_normal(s), requires_grad=True) for s in shapes]
    out = tg.einsum(subscripts, *inputs)
    for t in (out, *tg.grad(out.sum(), inputs)):
        digest.update(t.detach().numpy().tobytes())
try:
    tg.tensor([1, 2], requires_grad=True)
except tg.DTypeError:
    print(digest.hexdigest(), __debug__)
"""


def run_program(seed, *flags):
    done = subprocess.run(
        [sys.executable, *flags, "-c", PROGRAM],
        env={**os.environ, "PYTHONHASHSEED": str(seed)}, cwd=Path(__file__).parents[1],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_process_gives_the_same_bits_under_every_hash_seed_and_without_assertions():
    """Walking over a set of names or of nodes follows the hash seed, which is another in every
    process: sums in another order, other last digits, and a run that cannot be repeated. And with
    ``python -O`` checks written as assertions vanish: the refusals here must not."""
    digests = [run_program(seed) for seed in (0, 1, 2, 3)]
    assert {d for d, _ in digests} == {digests[0][0]}
    assert run_program(0, "-O") == [digests[0][0], "False"]
    assert run_program(4, "-OO") == [digests[0][0], "False"]


def test_gradients_of_a_shared_leaf_add_up_whatever_the_order_of_construction(backend):
    """A sweep in the order of a set, or of discovery, visits a node before all its users: one of
    their gradients is lost. The same sum, built in every order, has the same gradient."""
    found = set()
    for order in itertools.permutations(range(4)):
        x = backend.tensor(np.array([0.5, -1.5]), requires_grad=True)
        h = x * 2
        users = {k: f(h) for k in order for f in [[tg.tanh, tg.exp, tg.square, tg.relu][k]]}
        total = users[0] + users[1] + users[2] + users[3]
        (total * h).sum().backward()
        found.add(backend.host(x.grad).round(12).tobytes())
        assert not checking.shares_memory(x.grad, x.data)
    assert len(found) == 1
