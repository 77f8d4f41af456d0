"""The tests of this package, for ops and backends of your own.

    import tinygrad_rnn as tg

    tg.testing.check_op(my_op, "real")       # everything that our own ops go through

* `check_op` and `check_cases`: gradients of first and second order against differences, and what
  must hold besides (`PROPERTIES` has the list), on NumPy and on a device that has a GPU's rules.
* `check_backend`: a backend of your own against the contract of `backends/base.py`.
* Strategies for tests of your own: `arrays`, `broadcastable`, `shapes`, `broadcastable_shapes`,
  `axes`, `indices`, `layouts`; domains by name (`DOMAINS`) or `between` two numbers.

Read `point.py` first, then `properties.py`. It all needs Hypothesis, which the package itself does
not: ``pip install 'tinygrad_rnn[testing]'``.
"""

try:
    import hypothesis as _hypothesis  # noqa: F401 - only to see whether it is there
except ImportError as error:
    raise ImportError(
        "tinygrad_rnn.testing draws its cases with Hypothesis, which is not installed: "
        "pip install 'tinygrad_rnn[testing]', or in a checkout: make test"
    ) from error

from tinygrad_rnn.testing.check import PROPERTIES, check_cases, check_op
from tinygrad_rnn.testing.conformance import check_backend
from tinygrad_rnn.testing.fake_device import register as register_fake_device
from tinygrad_rnn.testing.fake_device import sync_budget
from tinygrad_rnn.testing.places import LAYOUTS, Place, layouts
from tinygrad_rnn.testing.point import Case
from tinygrad_rnn.testing.strategies import (
    DOMAINS,
    arrays,
    axes,
    between,
    broadcastable,
    broadcastable_shapes,
    indices,
    shapes,
)

__all__ = [
    "check_backend",
    "check_cases",
    "check_op",
    "PROPERTIES",
    "Case",
    "DOMAINS",
    "LAYOUTS",
    "Place",
    "arrays",
    "axes",
    "between",
    "broadcastable",
    "broadcastable_shapes",
    "indices",
    "layouts",
    "register_fake_device",
    "shapes",
    "sync_budget",
]
