"""What all optimizers share: groups of parameters, their state, and its way to a file and back.

An optimizer is one method, `Optimizer.update`: the formula for one parameter. Around it stand

    param_groups   [{"params": [Tensor, ...], "lr": 0.1, ...}, ...]   who is trained, and how
    state          {Tensor: {"step": 7, "exp_avg": array, ...}}       what is remembered of each

exactly as in PyTorch, so that a schedule, or a person, may set ``group["lr"]`` at any time. Arrays
are only ever changed in place, through `Tensor.writable`, which counts the writes: a graph that
still needs the old values then knows that they are gone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np

from tinygrad_rnn import backends
from tinygrad_rnn.backends.base import Array
from tinygrad_rnn.core.array import to_array
from tinygrad_rnn.core.tensor import Tensor
from tinygrad_rnn.errors import CheckpointError, DataError, DTypeError, NotDifferentiableError
from tinygrad_rnn.optim.options import Need, is_real, misfits, plain

Group = dict[str, Any]
Item = tuple[Array, Array, dict[str, Any]]  # a parameter's array, its gradient, its state
Parameters = Iterable[Tensor] | Iterable[Mapping[str, Any]]

# What PyTorch's groups contain and ours don't need, so that its files can be loaded.
_FOREIGN = {"initial_lr", "decoupled_weight_decay"}


class Optimizer:
    """Base class of the optimizers: a subclass declares its options and writes `update`.

    Args:
        params: Tensors (``model.parameters()``), or dicts with ``"params"`` and options of their
            own, one per group. A parameter that appears twice in a group counts once.
        defaults: the options of a group that does not set them.

    Raises:
        DataError: no parameters, one parameter in two groups, an option out of its range.
        DTypeError: something that is no Tensor.
        NotDifferentiableError: a Tensor that is no leaf or does not require a gradient.
    """

    needs: ClassVar[Mapping[str, Need]] = {}  # the options, and what each must be
    slots: ClassVar[Mapping[str, str | None]] = {}  # what `state` holds: always, or with an option

    def __init__(self, params: Parameters, **defaults: Any) -> None:
        self.defaults = defaults
        self.param_groups: list[Group] = []
        self.state: dict[Tensor, dict[str, Any]] = {}  # a Tensor hashes by identity
        self._buffers: dict[tuple[str, np.dtype[Any], int], Array] = {}
        for group in self._as_groups(params):
            self.add_param_group(group)
        if not any(group["params"] for group in self.param_groups):
            raise DataError(
                f"{self._name} got no parameters at all; needed at least one Tensor that requires "
                f"a gradient. (A generator such as model.parameters() can be read only once.)"
            )

    def update(self, x: Array, g: Array, state: dict[str, Any], group: Group) -> None:
        """Take one step with one parameter.

        Args:
            x: the parameter's array, to be changed in place.
            g: its gradient, in at least float32; to be left as it is.
            state: what is remembered of this parameter; empty before its first step.
            group: the options.
        """
        raise NotImplementedError(f"{self._name} does not say how to update a parameter")

    def step(self) -> None:
        """Update every parameter that has a gradient.

        A parameter whose ``.grad`` is None is left alone entirely: its averages do not decay and
        its steps are not counted, as if it were not there.
        """
        for group in self.param_groups:
            self.update_all(self._to_update(group), group)

    def update_all(self, items: Iterable[Item], group: Group) -> None:
        """Take a step with the parameters of a group: (x, g, state) for each, as for `update`.

        Overridden where a backend can update them all at once.
        """
        for x, g, state in items:
            self.update(x, g, state, group)

    def _to_update(self, group: Group) -> Iterator[Item]:
        """The parameters that have a gradient, one by one: each is about to be written to."""
        for parameter in group["params"]:
            g = parameter.grad
            if g is not None:
                g = g.astype(_slot_dtype(parameter), copy=False)
                yield parameter.writable(), g, self.state.setdefault(parameter, {})

    def zero_grad(self) -> None:
        """Forget the gradients: ``.grad`` is None again, and its memory is free."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Train more parameters: a dict with ``"params"`` and the options that differ."""
        params = self._checked_params(group.get("params"))
        given = {name: value for name, value in group.items() if name != "params"}
        options = {name: plain(value) for name, value in {**self.defaults, **given}.items()}
        if problems := self.problems(options):
            raise DataError(f"{self._name}: {'; '.join(problems)}")
        self.param_groups.append({"params": params, **options})

    def problems(self, options: Group) -> list[str]:
        """What is wrong with these options, in words; overridden where options limit each other."""
        return misfits(self.needs, options)

    # ---- for the formulas ----

    def slot(self, state: dict[str, Any], name: str, like: Array, *, start: float = 0) -> Array:
        """The remembered array `name`, made like `like` and filled with `start` when first used."""
        if name not in state:
            state[name] = backends.namespace(like).full_like(like, start)
        return state[name]

    def scratch(self, like: Array, number: int = 0) -> Array:
        """A passing array of the shape and dtype of `like`, to be written before it is read.

        All parameters share two flat buffers as long as the largest of them. A fresh array per
        step would cost more than the arithmetic: the system hands out memory page by page.
        """
        backend = backends.of(like)
        key = (backend.device_of(like), like.dtype, number)
        flat = self._buffers.get(key)
        if flat is None or flat.size < like.size:
            flat = self._buffers[key] = backend.xp.empty(like.size, dtype=like.dtype)
        return flat[: like.size].reshape(like.shape)

    def decayed(self, x: Array, g: Array, weight_decay: float) -> Array:
        """``g + weight_decay * x``: the gradient of the loss plus ``weight_decay / 2 * |x|**2``."""
        if not weight_decay:
            return g
        total = self.scratch(g, 1)
        backends.namespace(x).multiply(x, weight_decay, out=total, dtype=g.dtype)
        total += g
        return total

    # ---- to a file and back ----

    def state_dict(self) -> dict[str, Any]:
        """A copy of the state and the options in PyTorch's layout; parameters become numbers.

        ``{"state": {0: {"step": 7, "exp_avg": array}, ...},``
        ``"param_groups": [{"lr": 0.1, "params": [0, 1]}, ...]}``
        """
        params = [p for group in self.param_groups for p in group["params"]]
        number = {p: i for i, p in enumerate(params)}
        return {
            "state": {
                i: {k: v if k == "step" else v.copy() for k, v in self.state[p].items()}
                for i, p in enumerate(params)
                if self.state.get(p)
            },
            "param_groups": [
                {**group, "params": [number[p] for p in group["params"]]}
                for group in self.param_groups
            ],
        }

    def load_state_dict(self, state_dict: Any) -> None:
        """Go on from a `state_dict`, exactly: options, averages and step counts.

        Parameters are told apart by their order, so build the optimizer as the saved one was.
        Arrays are copied, from whichever device they are on.

        Raises:
            CheckpointError: it does not fit; lists every reason, and nothing has been changed.
        """
        problems: list[str] = []
        saved = state_dict if isinstance(state_dict, Mapping) else {}
        groups, places = self._read_groups(saved.get("param_groups"), problems)
        state = self._read_state(saved.get("state"), places, problems)
        if problems:
            raise CheckpointError(
                f"{self._name}: the state dict does not fit this optimizer, which is unchanged; "
                f"make it with the parameters and options of the saved one. Found:\n  "
                + "\n  ".join(problems)
            )
        self.state = state
        for mine, options in zip(self.param_groups, groups, strict=True):
            mine.update(options)

    # ---- reading what may be wrong: each notes problems and goes on ----

    @property
    def _name(self) -> str:
        return type(self).__name__

    def _as_groups(self, params: Any) -> list[Mapping[str, Any]]:
        if isinstance(params, Tensor | Mapping) or not isinstance(params, Iterable):
            raise DTypeError(
                f"{self._name} needs an iterable of Tensors or of dicts, got one "
                f"{type(params).__name__}; write [x] for a single one, model.parameters() for a "
                f"model's"
            )
        items = list(params)
        are_groups = items and all(isinstance(item, Mapping) for item in items)
        return items if are_groups else [{"params": items}]

    def _checked_params(self, params: Any) -> list[Tensor]:
        """The parameters of one group, once each."""
        if not isinstance(params, Iterable):
            raise DTypeError(f"{self._name}: a group needs 'params', an iterable of Tensors")
        items = [params] if isinstance(params, Tensor) else list(params)
        known = {p for group in self.param_groups for p in group["params"]}
        for i, p in enumerate(items):
            if not isinstance(p, Tensor):
                raise DTypeError(f"{self._name}: parameter {i} is a {type(p).__name__}, no Tensor")
            if not (p.is_leaf and p.requires_grad):
                seen = "the result of an operation" if p.requires_grad else "frozen"
                raise NotDifferentiableError(
                    f"{self._name}: parameter {i}, of shape {p.shape}, is {seen}; needed a leaf "
                    f"with requires_grad=True. "
                    + (
                        "Make it one: .detach().requires_grad_()"
                        if p.requires_grad
                        else "Pass [p for p in params if p.requires_grad]"
                    )
                )
            if p in known:
                raise DataError(
                    f"{self._name}: parameter {i}, of shape {p.shape}, is in another group too, "
                    f"which would update it twice; leave it in one"
                )
        return list(dict.fromkeys(items))

    def _read_groups(
        self, saved: Any, problems: list[str]
    ) -> tuple[list[Group], dict[int, tuple[Tensor, Group]]]:
        """The saved options per group, and for each saved number its parameter and options."""
        groups: list[Group] = []
        places: dict[int, tuple[Tensor, Group]] = {}
        if not isinstance(saved, list | tuple) or not all(_is_saved_group(g) for g in saved):
            problems.append("'param_groups' is no list of dicts with their 'params' as integers")
            return groups, places
        if len(saved) != len(self.param_groups):
            problems.append(f"{len(saved)} groups saved, {len(self.param_groups)} here")
        for i, (theirs, mine) in enumerate(zip(saved, self.param_groups, strict=False)):
            options = {
                name: plain(value)
                for name, value in theirs.items()
                # PyTorch has switches that we don't; as long as they are off, that's no matter.
                if name in self.needs or not (name in _FOREIGN or value is None or value is False)
            }
            numbers, params = options.pop("params"), mine["params"]
            problems += [f"group {i}: {p}" for p in self.problems(options)]
            if len(numbers) != len(params):
                problems.append(f"group {i}: {len(numbers)} parameters saved, {len(params)} here")
            places |= {n: (p, options) for n, p in zip(numbers, params, strict=False)}
            groups.append(options)
        return groups, places

    def _read_state(
        self, saved: Any, places: dict[int, tuple[Tensor, Group]], problems: list[str]
    ) -> dict[Tensor, dict[str, Any]]:
        """The saved state, each array copied to the device of its parameter."""
        state: dict[Tensor, dict[str, Any]] = {}
        if not isinstance(saved, Mapping) or not all(
            isinstance(v, Mapping) for v in saved.values()
        ):
            problems.append("'state' is no dict of dicts")
            return state
        for number, theirs in saved.items():
            if number not in places:
                problems.append(f"there is state for parameter {number!r}, but no such parameter")
                continue
            parameter, options = places[number]
            problems += [
                f"parameter {number}: {name!r} is missing"
                for name, option in self.slots.items()
                if name not in theirs and (option is None or options.get(option))
            ]
            state[parameter] = {}
            for name, value in theirs.items():
                problem = self._misfit(name, value, parameter)
                if problem:
                    problems.append(f"parameter {number}: {problem}")
                elif name == "step":
                    state[parameter][name] = int(value)
                else:
                    state[parameter][name] = to_array(value, device=parameter.device)
        return state

    def _misfit(self, name: str, value: Any, parameter: Tensor) -> str | None:
        """Why `value` cannot be the slot `name` of `parameter`; None where it can."""
        if name not in self.slots:
            return f"{self._name} keeps no {name!r}, only {', '.join(sorted(self.slots))}"
        shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
        if name == "step":  # PyTorch writes an array of one float
            count = float(value) if is_real(value) or shape == () else math.nan
            whole = count >= 0 and count.is_integer()
            return None if whole else f"'step' is {value!r}, needed an integer >= 0"
        needed = (parameter.shape, _slot_dtype(parameter))
        if (shape, dtype) == needed:
            return None
        seen = f"{shape} of {dtype}" if dtype is not None else f"a {type(value).__name__}"
        return f"{name!r} is {seen}, needed {needed[0]} of {needed[1]}"


def _slot_dtype(parameter: Tensor) -> np.dtype[Any]:
    """What is remembered has at least float32: in half precision eps = 1e-8 would be 0."""
    return np.promote_types(parameter.dtype, np.float32)


def _is_saved_group(group: Any) -> bool:
    return (
        isinstance(group, Mapping)
        and isinstance(group.get("params"), list | tuple)
        and all(isinstance(number, int) for number in group["params"])
    )
