"""The tests. A package, so that they can share `fake_device`, `checking` and `domains`."""
