"""Module and Parameter: how a model is put together, walked through, saved and loaded.

There is no registration. A module's parameters are whatever Parameters can be found in its
attributes, in modules among its attributes, and in lists, tuples and dicts of either; their names
are the path to them, joined by dots, as in PyTorch.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping
from typing import Any, Self

import numpy as np

from tinygrad_rnn import backends
from tinygrad_rnn.core.grad_mode import no_grad, recording
from tinygrad_rnn.core.tensor import Tensor
from tinygrad_rnn.errors import CheckpointError, DTypeError
from tinygrad_rnn.ops.convert import to


class Parameter(Tensor):
    """A leaf Tensor that a Module owns and an optimizer changes; it requires a gradient."""

    __slots__ = ()

    def __init__(
        self, data: Any, *, dtype: Any = None, device: str | None = None, requires_grad: bool = True
    ) -> None:
        super().__init__(data, dtype=dtype, device=device, requires_grad=requires_grad)


class Module:
    """Base class of layers and models: subclass it, set attributes, write ``forward``."""

    training: bool = True  # set by `train` and `eval`; dropout looks at it

    def forward(self, *inputs: Any, **options: Any) -> Any:  # noqa: ARG002 - subclasses use them
        """What the module computes. Every subclass says its own."""
        raise TypeError(f"{type(self).__name__} has no forward method; a Module needs one")

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        if recording.watch is None:
            return self.forward(*inputs, **options)
        running = recording.watch.modules  # `detect_anomaly` wants to know whose op it sees
        running.append(self)
        try:
            return self.forward(*inputs, **options)
        finally:
            running.pop()

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse to replace a parameter by what is none: it would no longer be trained, in silence.

        ``layer.weight -= step``, for one, computes a new tensor and assigns it.
        """
        old = vars(self).get(name)
        if isinstance(old, Parameter) and not isinstance(value, Parameter | None):
            what = f"the result of {value._node.name!r}" if _is_result(value) else "no Parameter"
            raise DTypeError(
                f"{type(self).__name__}.{name} is a Parameter and what is to take its place is "
                f"{what}, which no optimizer would know. Write its numbers, "
                f"module.{name}.writable()[...] = new, or assign nn.Parameter(new)"
            )
        super().__setattr__(name, value)

    # ---- walking ----

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """This module and all inside it, each once, with the path to it."""
        seen: set[int] = set()
        for name, found in _walk(self, prefix):
            if isinstance(found, Module) and id(found) not in seen:
                seen.add(id(found))
                yield name, found

    def modules(self) -> Iterator[Module]:
        """This module and all inside it, each once."""
        return (module for _, module in self.named_modules())

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
        """Every parameter with the path to it. A tied one comes once, under its first name."""
        seen: set[int] = set()
        for name, found in _walk(self, prefix):
            if isinstance(found, Parameter) and id(found) not in seen:
                seen.add(id(found))
                yield name, found

    def parameters(self) -> Iterator[Parameter]:
        """Every parameter, each once."""
        return (parameter for _, parameter in self.named_parameters())

    # ---- changing ----

    def train(self, mode: bool = True) -> Self:
        """Training mode (dropout drops), for this module and all inside it; returns itself."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Evaluation mode (dropout does nothing); returns itself."""
        return self.train(mode=False)

    def zero_grad(self) -> None:
        """Forget the gradients: every parameter's ``.grad`` becomes None."""
        for parameter in self.parameters():
            parameter.grad = None

    def to(self, *args: Any, dtype: Any = None, device: str | None = None) -> Self:
        """Move or convert every parameter, in place: ``model.to("cuda")``; returns itself.

        The Parameter objects stay the same, so an optimizer made before still knows them, and
        their hooks stay too.

        Raises:
            DTypeError: the dtype is not a floating one; the module is as it was.
        """
        parameters = list(self.parameters())
        with no_grad():
            moved = [to(p.detach(), *args, dtype=dtype, device=device) for p in parameters]
        for parameter, new in zip(parameters, moved, strict=True):
            if parameter.dtype.kind == "f" and new.dtype.kind != "f":
                raise DTypeError(
                    f"{type(self).__name__}.to: got the dtype {new.dtype}, in which parameters "
                    f"cannot be trained; needed a floating-point one, such as tg.float32"
                )
        for parameter, new in zip(parameters, moved, strict=True):
            if new._data is not parameter._data:
                grad = None if parameter._leaf is None else parameter._leaf.grad
                if grad is not None:
                    grad = to(Tensor(grad), dtype=new.dtype, device=new.device)._data
                parameter.rehouse(new._data, grad)
        return self

    # ---- saving and loading ----

    def state_dict(self) -> dict[str, np.ndarray]:
        """A copy of every parameter as a NumPy array, by name: fit for `tinygrad_rnn.save`."""
        return {name: p.detach().numpy() for name, p in self.named_parameters()}

    def load_state_dict(self, state: Mapping[str, Any], *, strict: bool = True) -> None:
        """Copy arrays or Tensors into the parameters of the same names.

        Args:
            state: name to array; a tied parameter may come under any of its names, or all.
            strict: also refuse missing and unexpected names.

        Raises:
            CheckpointError: names every missing, unexpected, mis-shaped and non-numeric entry at
                once, and leaves the module as it was.
        """
        names: dict[str, Parameter] = {
            name: found for name, found in _walk(self, "") if isinstance(found, Parameter)
        }
        given = {id(names[name]) for name in state if name in names}
        missing = [n for n, p in self.named_parameters() if id(p) not in given]
        unexpected = [name for name in state if name not in names]
        problems: list[str] = []
        arrays = [
            (parameter, _fitting(name, state[name], parameter, problems))
            for name, parameter in names.items()
            if name in state
        ]
        if strict:
            problems += [f"missing: {name}" for name in missing]
            problems += [f"unexpected: {name}" for name in unexpected]
        if problems:
            raise CheckpointError(
                f"the state does not fit this {type(self).__name__}: " + "; ".join(problems)
            )
        for parameter, array in arrays:  # all converted before the first is written
            where = backends.of(parameter._data)
            parameter.writable()[...] = where.asarray(array, parameter.device)

    # ---- showing ----

    def describe(self) -> str:
        """What a layer adds about itself in ``repr``: sizes, mostly."""
        return ""

    @reprlib.recursive_repr()
    def __repr__(self) -> str:
        lines = []
        for name, value in vars(self).items():
            if isinstance(value, Module) or (
                isinstance(value, list | tuple | dict)
                and any(isinstance(found, Module) for _, found in _walk(value, ""))
            ):
                lines.append(f"({name}): {value!r}".replace("\n", "\n  "))
        inside = "".join(f"\n  {line}" for line in lines)
        return f"{type(self).__name__}({self.describe()}{inside}{chr(10) if lines else ''})"


def _is_result(value: Any) -> bool:
    return isinstance(value, Tensor) and not value.is_leaf


_HOLDERS = (Parameter, Module, dict, list, tuple)


def _walk(value: Any, path: str, above: frozenset[int] = frozenset()) -> Iterator[tuple[str, Any]]:
    """Every Module and Parameter that can be reached from `value`, with each path to it.

    What stands `above` on the path is not entered again: a child may know its parent. Anything else
    comes under all of its names, for a file may list a tied parameter under any of them.
    """
    if isinstance(value, Parameter):
        yield path, value
        return
    if id(value) in above:
        return
    if isinstance(value, Module):
        yield path, value
        children: Any = vars(value).items()
    elif isinstance(value, dict):
        children = value.items()
    elif isinstance(value, list | tuple):
        children = enumerate(value)
    else:
        return
    for name, child in children:
        if not isinstance(child, _HOLDERS):  # a size, a flag: most of what a module has
            continue
        yield from _walk(child, f"{path}.{name}" if path else str(name), above | {id(value)})


def _fitting(name: str, value: Any, parameter: Parameter, problems: list[str]) -> Any:
    """`value` as a host array in the parameter's dtype; notes why that cannot be."""
    try:
        array = _host(value)
    except (ValueError, TypeError, RuntimeError) as error:  # ragged lists; foreign arrays
        problems.append(f"not an array: {name}, a {type(value).__name__} ({error})")
        return None
    if array.dtype.kind not in "biuf":  # of a complex number the imaginary part would be lost
        problems.append(f"not real numbers: {name} is {array.dtype}, needed {parameter.dtype}")
        return None
    if array.shape != parameter.shape:
        problems.append(f"mis-shaped: {name} has shape {array.shape}, needed {parameter.shape}")
        return None
    return array.astype(parameter.dtype)


def _host(value: Any) -> np.ndarray:
    if isinstance(value, Tensor):
        return value.detach().numpy()
    if type(value) in backends.ARRAY_TYPES:
        return backends.of(value).to_host(value)
    return np.asarray(value)
