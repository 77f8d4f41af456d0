"""Whether operations are recorded: one switch per thread.

Under `no_grad` an operation computes its result and leaves no node behind, so nothing is kept for
a backward pass that will never come: that is how a model is sampled from, or evaluated.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


class _Recording(threading.local):
    enabled = True  # the value each new thread starts with

    def __init__(self) -> None:  # runs once in each thread
        self.before: list[bool] = []  # what to go back to, innermost last


recording = _Recording()


class _GradMode:
    """Context manager and decorator that sets the switch and puts it back, whatever happens."""

    enabled: bool

    def __enter__(self) -> None:
        recording.before.append(recording.enabled)
        recording.enabled = self.enabled

    def __exit__(self, *exc: object) -> None:
        recording.enabled = recording.before.pop()

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
                        with type(self)():
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
            with type(self)():
                return function(*args, **kwargs)

        return switched  # type: ignore[return-value] # a wrapper with the same signature


class no_grad(_GradMode):  # noqa: N801 - PyTorch's name
    """Within it (or in a function it decorates) nothing is recorded; this thread only."""

    enabled = False


class enable_grad(_GradMode):  # noqa: N801 - PyTorch's name
    """Record again inside a `no_grad` block; this thread only."""

    enabled = True
