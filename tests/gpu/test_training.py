"""Training on a GPU: nothing waits, nothing leaks, and a run goes on exactly, there or on a CPU."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import tinygrad_rnn as tg
from tests.test_char_lm import run, small, text
from tinygrad_rnn import nn, optim
from tinygrad_rnn.training import Corpus, Session


@pytest.fixture
def cp():
    return pytest.importorskip("cupy")


class CharModel(nn.Module):
    """The smallest network with everything in it: embedding, LSTM, head."""

    def __init__(self, V=20, H=32):
        self.embedding = nn.Embedding(V, H, rng=0)
        self.lstm = nn.LSTM(H, H, rng=1)
        self.head = nn.Linear(H, V, rng=2)

    def forward(self, x, state=None):
        out, state = self.lstm(self.embedding(x), state)
        return self.head(out), state


def make_step(device, **options):
    model = CharModel(**options).to(device)
    optimizer = optim.Adam(model.parameters(), lr=1e-2)

    def step(x, y, state=None):
        logits, state = model(x, state)
        loss = nn.functional.cross_entropy(logits, y)
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=False)
        optimizer.step()
        return loss, norm, tuple(s.detach() for s in state)

    return step


def batch(T=12, B=4, V=20, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, V, (T, B)), rng.integers(0, V, (T, B))


def test_a_training_step_never_waits_for_the_gpu(cp):
    import cupyx

    step = make_step("cuda")
    step(*batch())  # compiles
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="cupyx.allow_synchronize")  # it is on its way out
        with cupyx.allow_synchronize(False):
            loss, norm, state = step(*batch())
            step(*batch(seed=1), state)
    assert np.isfinite(float(loss))
    assert np.isfinite(float(norm))


def test_losses_are_the_cpus(cp):
    here, there = make_step("cpu"), make_step("cuda")
    for seed in range(30):
        a, b = here(*batch(seed=seed))[0], there(*batch(seed=seed))[0]
        assert float(a) == pytest.approx(float(b), rel=1e-4)


def test_ten_thousand_windows_in_the_same_memory(cp):
    """Graphs are freed by reference counting: the pool neither grows nor holds more at the end."""
    step, state = make_step("cuda", V=5, H=8), None
    x, y = batch(T=4, B=2, V=5)
    pool = cp.get_default_memory_pool()
    seen = []
    for n in range(10_000):
        _, _, state = step(x, y, state)
        if n % 1000 == 999:
            seen.append((pool.used_bytes(), pool.total_bytes()))
    assert set(seen) == {seen[0]}, seen


@pytest.mark.parametrize("model", ["rnn", "gru", "lstm"])
def test_a_run_goes_on_exactly_and_moves_between_devices(tmp_path, model):
    config, corpus = small(model=model, layers=2, dropout=0.3), Corpus.of(text())
    straight = Session(config, corpus, device="cuda")
    reports = run(straight, straight.windows + 5)
    first = Session(config, corpus, device="cuda")
    run(first, 7)
    first.save(tmp_path / "run")
    second = Session(config, corpus, device="cuda")
    second.restore(tmp_path / "run")
    assert run(second, straight.windows - 2) == reports[7:]  # every bit of it
    on_cpu = Session(config, corpus, device="cpu")
    on_cpu.restore(tmp_path / "run")
    for mine, theirs in zip(run(on_cpu, 5), reports[7:], strict=False):
        assert mine.loss == pytest.approx(theirs.loss, rel=1e-4)
    on_cpu.save(tmp_path / "back")
    second.restore(tmp_path / "back")  # and from the CPU to the GPU
    for ours, theirs in zip(second.model.parameters(), on_cpu.model.parameters(), strict=True):
        assert ours.device == "cuda:0"
        np.testing.assert_array_equal(ours.detach().numpy(), theirs.detach().numpy())


def test_arrays_are_shared_with_pytorch_without_a_copy(cp):
    torch = pytest.importorskip("torch")
    theirs = torch.arange(6.0, device="cuda").reshape(2, 3)
    ours = tg.from_dlpack(theirs)
    assert ours.device == "cuda:0"
    theirs += 1
    np.testing.assert_array_equal(ours.numpy(), np.arange(1.0, 7).reshape(2, 3))
    back = torch.from_dlpack(ours)
    back *= 2
    assert back.data_ptr() == theirs.data_ptr() == ours.data.data.ptr
    np.testing.assert_array_equal(ours.numpy(), 2 * np.arange(1.0, 7).reshape(2, 3))


def test_running_out_of_memory_says_how_much_there_is(cp):
    x = tg.tensor(np.ones(1 << 20, np.float32), device="cuda")
    with pytest.raises(MemoryError) as found:
        tg.broadcast_to(x, (1 << 20, 1 << 20)) * 2.0
    told = str(found.value) + " ".join(found.value.__notes__)
    assert "in use" in told
    assert "MiB" in told
    assert "multiply" in told
    (x * 2.0).sum().item()  # and the device is as good as before


def test_devices_and_numbers(cp):
    listed = {d.name: d for d in tg.devices()}
    assert listed["cuda:0"].usable
    assert "MiB in use" in listed["cuda:0"].detail
    x = tg.tensor([1.0, 2.0]).cuda()
    assert x.device == "cuda:0"
    with pytest.raises(tg.BackendUnavailable, match="usable: cuda:0"):
        x.to(f"cuda:{cp.cuda.runtime.getDeviceCount()}")
    with pytest.raises(tg.DeviceError, match=r"\.to\('cpu'\)|\.to\('cuda:0'\)"):
        x + tg.tensor([1.0, 2.0])


def test_an_id_out_of_range_is_refused_on_the_gpu_too(cp):
    table = nn.Embedding(3, 2, rng=0).to("cuda")
    with pytest.raises(IndexError, match="index 3 is out of range"):
        table(cp.array([0, 3]))
    with pytest.raises(IndexError, match="index 3 is out of range"):
        table(np.array([0, 3]))


def test_huge_gradients_are_clipped_and_not_wiped_out(cp):
    """The factor is below the smallest float32 that a GPU does not take for 0."""
    p = tg.tensor(np.zeros(4, np.float32), device="cuda", requires_grad=True)
    p.grad = cp.full(4, 1.5e38, cp.float32)
    nn.utils.clip_grad_norm_([p], 1.0)
    np.testing.assert_allclose(p.grad.get(), 0.5, rtol=1e-6)
    layer = nn.RNN(1, 2, rng=0, clip_state_grad=0.5).to("cuda")
    x = tg.tensor(np.zeros((3, 1, 1), np.float32), device="cuda", requires_grad=True)
    h = tg.tensor(np.zeros((1, 1, 2), np.float32), device="cuda", requires_grad=True)
    (layer(x, h)[0][-1] * 1e38).sum().backward()
    assert 0.1 < float(cp.linalg.norm(h.grad)) <= 0.5001
