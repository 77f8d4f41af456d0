"""What all tests share: Hypothesis profiles, and the `backend` fixture.

A test that takes `backend` runs on NumPy, on the fake device (`tests/fake_device.py`: CuPy's rules
without a GPU) and, where there is a GPU, on CuPy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

import tinygrad_rnn as tg
from tests import fake_device  # noqa: F401 - registers the device "fake"
from tinygrad_rnn import backends

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


@dataclass(frozen=True)
class Place:
    """One device, and how test data gets there and back."""

    device: str

    def tensor(self, host, *, requires_grad: bool = False) -> tg.Tensor:
        """A Tensor on this device with a copy of `host`, whose dtype it keeps."""
        return tg.tensor(np.asarray(host), device=self.device, requires_grad=requires_grad)

    def array(self, host):
        """A plain array of this device's library."""
        return self.tensor(host).data

    def host(self, x) -> np.ndarray:
        """A Tensor or a plain array as a NumPy array."""
        array = x.data if isinstance(x, tg.Tensor) else x
        return backends.of(array).to_host(array)


DEVICES = ["cpu", "fake", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(scope="session", params=DEVICES)
def backend(request) -> Place:
    """Each device in turn; a GPU only where one can be used."""
    if request.param == "cuda":
        cuda = [d for d in tg.devices() if d.name.startswith("cuda")]
        if not any(d.usable for d in cuda):
            pytest.skip("; ".join(d.detail for d in cuda))
    return Place(request.param)
