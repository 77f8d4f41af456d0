"""A plugin for the pytest inside a sandbox: Hypothesis as on a pull request, but without shrinking.

Whether a test fails is all that is asked here. Looking for the smallest example that fails takes
several times as long as finding one.

`Sandbox` copies this file out, so it stands on its own.
"""

import pytest
from hypothesis import Phase, settings


@pytest.hookimpl(tryfirst=True)  # before Hypothesis's own plugin loads the profile
def pytest_configure() -> None:
    """Register the profile "mutants": "ci", as the project defines it, and nothing after."""
    examples = (Phase.explicit, Phase.generate)
    settings.register_profile("mutants", settings.get_profile("ci"), phases=examples)
