"""The fake device, registered; it lives in `tinygrad_rnn/testing/fake_device.py`."""

from tinygrad_rnn.testing.fake_device import FakeArray, FakeBackend, register, sync_budget, xp

__all__ = ["FakeArray", "FakeBackend", "sync_budget", "xp"]
register()
