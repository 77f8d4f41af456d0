"""Whether operations are recorded, and whether somebody watches: one switch per thread.

Under `no_grad` an operation computes its result and leaves no node behind, so nothing is kept for
a backward pass that will never come: that is how a model is sampled from, or evaluated.

Under `detect_anomaly` (`core/anomaly.py`) every recorded operation is shown to a watcher. The
watcher itself is the value of the switch then, so that looking whether to record is also looking
whether to show: without a watcher nothing is paid.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


class _Recording(threading.local):
    enabled: Any = True  # False, True, or the watcher: what each new thread starts with
    watch: Any = None  # the watcher, in a `no_grad` block too

    def __init__(self) -> None:  # runs once in each thread
        self.errors: list[Any] = []  # NumPy's settings before each `detect_anomaly`
        self.before: list[tuple[Any, Any]] = []  # what to go back to, innermost last


recording = _Recording()


class GradMode:
    """Context manager and decorator that sets the switch and puts it back, whatever happens."""

    enabled: Any = True

    def __enter__(self) -> None:
        recording.before.append((recording.enabled, recording.watch))
        self.switch()

    def __exit__(self, *exc: object) -> None:
        recording.enabled, recording.watch = recording.before.pop()

    def switch(self) -> None:
        """Set the switch."""
        recording.enabled = self.enabled and (recording.watch or True)

    def __call__(self, function: F) -> F:
        if inspect.isgeneratorfunction(function):
            # Switch around every step. A plain `with` around a `yield` would leave the caller,
            # who runs between the steps, with the generator's setting.
            @functools.wraps(function)
            def stepwise(*args: Any, **kwargs: Any) -> Any:
                generator = function(*args, **kwargs)
                send: Callable[[], Any] = lambda: next(generator)  # noqa: E731 - rebound below
                while True:
                    try:
                        with self:
                            value = send()
                    except StopIteration as stop:
                        return stop.value
                    try:
                        received = yield value
                        send = functools.partial(generator.send, received)
                    except GeneratorExit:
                        generator.close()
                        raise
                    except BaseException as error:  # noqa: BLE001 - handed to the generator
                        send = functools.partial(generator.throw, error)

            return stepwise  # type: ignore[return-value] # a wrapper with the same signature

        @functools.wraps(function)
        def switched(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        return switched  # type: ignore[return-value] # a wrapper with the same signature


class no_grad(GradMode):  # noqa: N801 - PyTorch's name
    """Within it (or in a function it decorates) nothing is recorded; this thread only."""

    enabled = False


class enable_grad(GradMode):  # noqa: N801 - PyTorch's name
    """Record again inside a `no_grad` block; this thread only."""

    enabled = True


def time_steps(T: int) -> Iterable[int]:
    """``range(T)``, for a loop over time: under `detect_anomaly` a report then names the step."""
    return range(T) if recording.watch is None else _counted(T, recording.watch)


def _counted(T: int, watch: Any) -> Iterator[int]:
    outer = watch.step
    try:
        for t in range(T):
            watch.step = t
            yield t
    finally:
        watch.step = outer
