"""The errors of tinygrad_rnn, all in one place.

Every error a user can cause derives from `TinygradError` *and* from the built-in exception that
fits, so that ``except ValueError`` and ``except tg.TinygradError`` both do what a person expects.
A message says three things: what was seen, what was needed, what to do.
"""

from typing import Any


class TinygradError(Exception):
    """Base class of every error raised on purpose by this package."""


class ShapeError(TinygradError, ValueError):
    """Shapes that do not fit the operation; the message names the op and both shapes."""


class IndexingError(TinygradError, IndexError):
    """An index, id or class number that does not exist, or one that does not fit the tensor."""


class DTypeError(TinygradError, TypeError):
    """A data type the operation cannot work with (say, a gradient for integers)."""


class DeviceError(TinygradError, RuntimeError):
    """Operands on different devices, or a device name nobody knows."""


class BackendUnavailable(TinygradError, RuntimeError):
    """A device that exists in principle but cannot be used here; says the cause and the fix."""


class GraphFreedError(TinygradError, RuntimeError):
    """A backward pass through a graph that an earlier backward pass has already freed."""


class NotDifferentiableError(TinygradError, RuntimeError):
    """A gradient was asked for where none is defined."""


class SavedArrayChangedError(TinygradError, RuntimeError):
    """An array that a backward rule needs was changed between the forward and the backward pass."""


class NonFiniteError(TinygradError, ArithmeticError):
    """A NaN or an infinity where training cannot go on.

    Raised by `detect_anomaly` it has an attribute ``anomaly``, which holds the facts one by one.
    """

    anomaly: Any = None


class GradcheckError(TinygradError, AssertionError):
    """A gradient that disagrees with finite differences.

    Where a comparison was made, its attribute ``report`` has the details (`GradcheckReport`).
    """

    report: Any = None


class GraphGrowthWarning(UserWarning):
    """The graph behind a recurrent state reaches far back, and keeps the memory of every step."""


class CheckpointError(TinygradError, ValueError):
    """A file that is not a readable, intact checkpoint."""


class DataError(TinygradError, ValueError):
    """Text or numbers that cannot be trained on; the message says what was found and needed."""
