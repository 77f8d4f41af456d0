"""What all tests share: Hypothesis profiles, and the `backend` fixture.

A test that takes `backend` runs on NumPy, on the fake device (CuPy's rules without a GPU:
`tinygrad_rnn/testing/fake_device.py`) and, where there is a GPU, on CuPy. What needs a GPU carries
the marker `gpu`: those runs, and everything in `tests/gpu`. Nobody sets it by hand.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import tinygrad_rnn as tg
from tinygrad_rnn.testing import Place, register_fake_device

register_fake_device()

# No deadlines: a slow machine is not a wrong gradient. `ci` tries the same examples every time, so
# that a red run can be repeated; `nightly` looks for new ones.
settings.register_profile("dev", max_examples=25, deadline=None)
settings.register_profile(
    "ci",
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "nightly",
    max_examples=1000,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("dev")


DEVICES = ["cpu", "fake", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(scope="session", params=DEVICES)
def backend(request) -> Place:
    """Each device in turn; a GPU only where one can be used."""
    return Place(request.param)


@cache
def why_no_gpu() -> str:
    """Empty where a GPU can be used."""
    cuda = [d for d in tg.devices() if d.name.startswith("cuda")]
    return "" if any(d.usable for d in cuda) else "; ".join(d.detail for d in cuda)


@pytest.hookimpl(tryfirst=True)  # before -m chooses by the markers
def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent / "gpu" in item.path.parents:
            item.add_marker(pytest.mark.gpu)


def pytest_runtest_setup(item):
    """Without a GPU its tests are skipped; but who asks for them alone is to hear that none ran."""
    if item.get_closest_marker("gpu") and why_no_gpu():
        asked = item.config.getoption("markexpr") == "gpu"
        (pytest.fail if asked else pytest.skip)(f"no GPU: {why_no_gpu()}")
