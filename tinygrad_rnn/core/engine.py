"""The backward sweep: from outputs to inputs, every node once, newest first.

Nodes are numbered in the order they were made, and an operation is always younger than its inputs.
So: collect every node that can be reached (with a stack, never by recursion: a chain of a million
nodes is no deeper than a chain of two), sort by number, walk down. When the walk comes to a node,
all of its users have already sent their gradients.

What the gradients are made of is the *carrier*'s business (`core/carriers.py`): plain arrays in
`backward`, Tensors that record what is done to them under ``create_graph=True``. The sweep is the
same for both. What it refuses to do, and why, is in `core/refusals.py`.

Two promises keep the result safe to use:

* **Borrow, then own.** The first gradient to reach a node is borrowed: rules may hand the same
  array to several parents. The second arrival allocates the sum, and only that array is added to
  in place. What ends up in ``.grad`` is always an array of its own.
* **All or nothing.** ``.grad`` is written after the last rule has run. An exception in the middle
  of a backward pass leaves every ``.grad`` as it was.
"""

from __future__ import annotations

import contextlib
import functools
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tinygrad_rnn import backends
from tinygrad_rnn.backends.base import Array
from tinygrad_rnn.core.broadcast import unbroadcast
from tinygrad_rnn.core.carriers import Arrays, Carrier, Part, Tensors, as_array
from tinygrad_rnn.core.clock import writes
from tinygrad_rnn.core.grad_mode import enable_grad, recording
from tinygrad_rnn.core.refusals import check_saved, check_unmoved, check_used, freed
from tinygrad_rnn.core.tensor import Leaf, Tensor, wrap
from tinygrad_rnn.errors import (
    DeviceError,
    DTypeError,
    GraphFreedError,
    NotDifferentiableError,
    ShapeError,
)

by_number = operator.attrgetter("number")


def backward(tensor: Tensor, gradient: Any = None, *, retain_graph: bool = False) -> None:
    """Add the gradient of `tensor` to the ``.grad`` of every leaf it was computed from.

    Args:
        tensor: usually the loss; a result of recorded operations.
        gradient: d(loss)/d(tensor), in its shape. May be left out for one-element tensors, where
            it is 1.
        retain_graph: keep the saved arrays for another pass. By default each node is freed as
            soon as it has passed its gradient on, so memory falls during the sweep.

    Raises:
        NotDifferentiableError: nothing in the graph requires a gradient.
        ShapeError: a non-scalar without `gradient`, or a `gradient` of another shape.
        GraphFreedError: an earlier backward pass has freed the graph.
    """
    node = _root(tensor, "backward")
    seed = _seed(tensor, gradient)
    grads = _sweep([node], [seed], Arrays(), targets=None, retain_graph=retain_graph)
    check_unmoved(grads)
    # Compute every new value before writing any.
    commits = [(leaf, g if leaf.grad is None else leaf.grad + g) for leaf, g in grads.items()]
    for leaf, value in commits:
        leaf.grad = value if type(value) is leaf.array_type else as_array(value)


def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Any = None,
    *,
    create_graph: bool = False,
    retain_graph: bool | None = None,
    allow_unused: bool = False,
) -> tuple[Tensor | None, ...]:
    """The gradients of the sum of `outputs` with respect to `inputs`; no ``.grad`` is touched.

    Args:
        outputs: one Tensor or several.
        inputs: one Tensor or several, leaves or results.
        grad_outputs: the gradient of each output (None: 1, for one-element outputs only).
        create_graph: return Tensors that can be differentiated again.
        retain_graph: keep the graph; by default it is kept only when `create_graph` is set.
        allow_unused: give None for an input the outputs do not depend on, instead of raising.

    Returns:
        One Tensor (or None) per input, in order, each of its input's shape and dtype.

    An input that a recurrent layer has recorded consists of many tensors, one for each time step.
    They are asked for one by one, and the answers put together (`nn/record.py`).
    """
    ins = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    if any(hasattr(x, "steps") for x in ins):
        ask = functools.partial(
            grad, outputs, grad_outputs=grad_outputs, create_graph=create_graph,
            retain_graph=retain_graph, allow_unused=True,
        )  # fmt: skip
        if not allow_unused:  # before anything is freed
            check_used(ins, _reached_by(outputs, ins))
        return _grad_of_steps(ask, ins, allow_unused=allow_unused)
    outs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    one = grad_outputs is None or (len(outs) == 1 and not isinstance(grad_outputs, list | tuple))
    given = [grad_outputs] * len(outs) if one else list(grad_outputs)
    if len(given) != len(outs):
        raise ShapeError(f"grad: {len(outs)} outputs but {len(given)} grad_outputs")
    roots = [_root(out, "grad") for out in outs]
    targets = [_root(x, "grad with respect to this input") for x in ins]
    carrier = Tensors() if create_graph else Arrays()
    seed = _recorded_seed if create_graph else _seed
    seeds = [seed(o, s) for o, s in zip(outs, given, strict=True)]
    keep = create_graph if retain_graph is None else retain_graph
    # Sums of gradients have to be recorded like the rules, in a `no_grad` block too, and so has the
    # copy that is made of a gradient that belongs to several inputs.
    with enable_grad() if create_graph else contextlib.nullcontext():
        found = _sweep(
            roots, seeds, carrier, targets=targets, retain_graph=keep, allow_unused=allow_unused
        )
        if not allow_unused:  # reachable, and yet no rule passed a gradient on
            check_used(targets, found)
        return _results([found.get(node) for node in targets], seeds, carrier)


def _results(found: list[Any], seeds: list[Any], carrier: Carrier) -> tuple[Any, ...]:
    """One Tensor for each input, no two the same: one gradient may belong to several."""
    taken, results = {id(seed) for seed in seeds}, []
    for g in found:
        results.append(None if g is None else carrier.result(g, again=id(g) in taken))
        taken.add(id(g))
    return tuple(results)


def _reached_by(outputs: Tensor | Sequence[Tensor], ins: list[Any]) -> set[Any]:
    """The inputs that `outputs` depend on, by any of their steps.

    One without steps has nothing to depend on; one without a place in a graph `_root` refuses.
    """
    places = {x: [getattr(s, "_node", None) for s in getattr(x, "steps", [x])] for x in ins}
    numbers = [node.number for nodes in places.values() for node in nodes if node is not None]
    outs = [outputs] if isinstance(outputs, Tensor) else outputs
    reached = set(_collect([_root(out, "grad") for out in outs], min(numbers, default=0)))
    return {
        x
        for x, nodes in places.items()
        if nodes in ([], [None]) or not reached.isdisjoint(node for node in nodes if node)
    }


def _grad_of_steps(
    ask: Callable[..., tuple[Any, ...]], ins: list[Any], *, allow_unused: bool
) -> tuple[Tensor | None, ...]:
    """The gradients of inputs of which some consist of one tensor for each time step."""
    # A step that depends on nothing with a gradient (the first may) is not asked about.
    parts = [[s for s in x.steps if s.requires_grad] if hasattr(x, "steps") else [x] for x in ins]
    answers = iter(ask(inputs=[p for part in parts for p in part]) if any(parts) else ())
    results = []
    with enable_grad():  # where answers have graphs, what is made of them has one
        for x, part in zip(ins, parts, strict=True):
            found = {id(p): next(answers) for p in part}
            is_one = not hasattr(x, "steps")
            results.append(
                found[id(x)] if is_one else x.gathered([found.get(id(s)) for s in x.steps])
            )
    if not allow_unused:
        check_used(ins, {x for x, g in zip(ins, results, strict=True) if g is not None})
    return tuple(results)


# ---- the sweep ----


def _sweep(  # noqa: PLR0912 - one loop, to be read in one piece
    roots: list[Any],
    seeds: list[Any],
    carrier: Carrier,
    *,
    targets: list[Any] | None,
    retain_graph: bool,
    allow_unused: bool = True,
) -> dict[Any, Any]:
    """Send the seeds back from the roots; return the targets' gradients (None: of all leaves)."""
    floor = min(node.number for node in targets) if targets else 0
    order = _collect(roots, floor)
    wanted = _leading_to(targets, order, allow_unused=allow_unused)
    goals = None if targets is None else set(targets)
    check_saved(order, wanted, recorded=not carrier.plain)
    watch, pull = recording.watch, carrier.pull
    if watch is not None:
        pull = functools.partial(watch.pull, carrier.pull)
    arrived: dict[Any, Any] = {}  # node -> the sum of the gradients that have reached it so far
    owned: set[Any] = set()  # the nodes whose sum is an array of ours, safe to add to in place
    found: dict[Any, Any] = {}
    for node, seed in zip(roots, seeds, strict=True):
        _arrive(node, seed, arrived, owned, carrier)
    for node in order:
        g = arrived.pop(node, None)
        if g is None:  # no rule has passed a gradient here
            continue
        if type(g) is not node.array_type:
            g = carrier.mend(g)
        if node.hooks:
            last = writes.last
            g = _run_hooks(node, g, carrier)
            _check_after_hooks(last, node, order, wanted, carrier)
        if watch is not None:
            watch.arrived(node, g)
        is_leaf = type(node) is Leaf
        if is_leaf if goals is None else node in goals:
            found[node] = carrier.own(g, already=node in owned)
        if is_leaf or (wanted is not None and wanted.isdisjoint(node.parents)):
            continue  # the end of the graph, or of the part of it that was asked about
        pairs = pull(node, g, wanted)
        fresh = carrier.plain and node.op.fresh
        for parent, passed in pairs:
            if (  # a quick look; `_fit` looks closely
                type(passed) is not parent.array_type
                or passed.shape != parent.shape
                or passed.dtype is not parent.dtype
            ):
                if _arrive_in_part(parent, passed, arrived, owned):
                    continue
                passed = _fit(passed, parent, node, carrier)
            elif fresh and parent not in arrived and _is_given_once(passed, pairs):
                owned.add(parent)
            if parent not in arrived:
                arrived[parent] = passed  # the commonest case, without a call
            else:
                _arrive(parent, passed, arrived, owned, carrier)
        if not retain_graph:
            node.free()
    return found


def _collect(roots: Iterable[Any], floor: int) -> list[Any]:
    """Every node the roots were computed from, newest first, down to the number `floor`.

    A node older than every target cannot lead to one, so the search need not go there.
    """
    roots = set(roots)
    seen = set(roots)
    stack = list(seen)
    while stack:
        node = stack.pop()
        if node.parents is None:
            raise GraphFreedError(freed(node, first=node in roots))
        for parent in node.parents:
            if parent is not None and parent.number >= floor and parent not in seen:
                seen.add(parent)
                stack.append(parent)
    return sorted(seen, key=by_number, reverse=True)


def _leading_to(
    targets: list[Any] | None, order: list[Any], *, allow_unused: bool
) -> set[Any] | None:
    """The nodes from which some target can be reached: only these are worth a gradient.

    Without targets every leaf is one, and so is the answer every node: None.
    """
    if targets is None:
        return None
    if not allow_unused:
        check_used(targets, set(order))
    leading = set(targets)
    for node in reversed(order):  # oldest first: a node's parents are decided before it
        if node not in leading and any(p in leading for p in node.parents):
            leading.add(node)
    return leading


def _is_given_once(passed: Array, pairs: list[tuple[Any, Array]]) -> bool:
    """Whether a gradient goes to one parent only, where its op promises to make them anew.

    A recurrent layer, for one, gives the two halves of a bias the same array.
    """
    return [g is passed for _, g in pairs].count(True) == 1


def _arrive(node: Any, g: Any, arrived: dict[Any, Any], owned: set[Any], carrier: Carrier) -> None:
    """Add `g` to what has reached `node`: borrow the first, own the sum from the second on."""
    if node not in arrived:
        arrived[node] = g
    elif node in owned and g.size > 1:  # of one number NumPy's += takes 0.58 us, and + takes 0.18
        arrived[node] = carrier.add_in_place(arrived[node], g)
    else:
        arrived[node] = arrived[node] + g
        owned.add(node)


def _arrive_in_part(node: Any, part: Any, arrived: dict[Any, Any], owned: set[Any]) -> bool:
    """The same for a gradient of a slice; False if it is none, or does not fit.

    The sum is owned from the first slice on, and the next are written into it.
    """
    if type(part) is not Part or (type(part.g), part.shape, part.g.dtype) != (
        node.array_type, node.shape, node.dtype,
    ):  # fmt: skip
        return False
    total = arrived.get(node)
    if total is not None:
        total = as_array(total)  # NumPy's sum of two 0-d arrays is a scalar
        if node not in owned:
            total = total.copy()
    arrived[node] = part.added_to(total)
    owned.add(node)
    return True


def _fit(g: Any, parent: Any, node: Any, carrier: Carrier) -> Any:
    """Bring a gradient to its parent's shape and dtype, where that is legitimate.

    Broadcasting and dtype promotion are undone here, in one place. Anything else (a rule that
    drifts from float32 to float64, returns a wrong shape or another library's array) is a wrong
    rule and stops the sweep: a wrong gradient must never pass on in silence.
    """
    if type(g) is Part:
        g = g.added_to(None)
    if type(g) is not parent.array_type:
        g = carrier.mend(g)
    if g.shape != parent.shape:
        summed = unbroadcast(g, parent.shape)
        if summed is None:
            raise ShapeError(
                f"internal error: the vjp rule of {node.name!r} gave a gradient of shape "
                f"{g.shape} for an input of shape {parent.shape}"
            )
        g = carrier.mend(summed)
    if g.dtype != parent.dtype:
        if g.dtype != node.dtype:
            raise DTypeError(
                f"internal error: the vjp rule of {node.name!r} gave a gradient of dtype "
                f"{g.dtype} for an input of dtype {parent.dtype}"
            )
        g = carrier.mend(g.astype(parent.dtype))  # the op had promoted this input
    if carrier.kind(g) is not parent.array_type:
        raise DTypeError(
            f"internal error: the vjp rule of {node.name!r} gave a {carrier.kind(g).__name__} for "
            f"an input held by {parent.array_type.__name__}"
        )
    return g


def _check_after_hooks(
    last: int, node: Any, order: list[Any], wanted: set[Any] | None, carrier: Carrier
) -> None:
    """A hook may write, step an optimizer say, into what the rules to come have saved."""
    if writes.last != last:
        rest = [n for n in order if n.number <= node.number]
        check_saved(rest, wanted, recorded=not carrier.plain)


def _run_hooks(node: Any, g: Any, carrier: Carrier) -> Any:
    """Let the hooks of a node see its gradient, and replace it."""
    for hook in list(node.hooks.values()):
        replaced = hook(carrier.own(g, already=False))
        if replaced is not None:
            if isinstance(replaced, Tensor) and carrier.plain:
                replaced = replaced._data
            replaced = carrier.mend(replaced)
            seen = (carrier.kind(replaced), replaced.shape, replaced.dtype)
            if seen != (node.array_type, node.shape, node.dtype):
                raise ShapeError(
                    f"a hook on {node.name!r} returned a {seen[0].__name__} of shape {seen[1]} and "
                    f"dtype {seen[2]}; needed a {node.array_type.__name__} of {node.shape} and "
                    f"{node.dtype}"
                )
            g = carrier.own(replaced, already=False)  # the hook may keep what it returned
    return g


# ---- the ends: where a sweep starts ----


def _root(tensor: Any, what: str) -> Any:
    if not isinstance(tensor, Tensor):
        raise DTypeError(f"{what}: needed a Tensor, got {type(tensor).__name__}")
    if tensor._node is None:
        raise NotDifferentiableError(
            f"{what}: this tensor does not require a gradient and was not computed from one that "
            f"does. Call .requires_grad_() on an input before computing, and check for detach(), "
            f"no_grad and integer results on the way"
        )
    return tensor._node


def _name(tensor: Tensor) -> str:
    return f"the result of {tensor._node.name!r}" if not tensor.is_leaf else "a leaf"


def _seed(tensor: Tensor, gradient: Any) -> Array:
    """The gradient a sweep starts with, in the tensor's own shape, dtype and place."""
    data = tensor._data
    backend = backends.of(data)
    if gradient is None:
        if data.size != 1:
            raise ShapeError(
                f"backward from {_name(tensor)} of shape {data.shape} and dtype {data.dtype} needs "
                f"a `gradient` of that shape; only one-element tensors have an obvious one. Did "
                f"you mean .sum() or .mean()?"
            )
        return backend.xp.ones_like(data)
    if isinstance(gradient, Tensor) and gradient.device != tensor.device:
        raise DeviceError(
            f"the gradient is on {gradient.device}, the tensor on {tensor.device}; "
            f"move it with .to({tensor.device!r})"
        )
    given = gradient._data if isinstance(gradient, Tensor) else gradient
    if type(given) is not type(data):
        given = Tensor(given, device=tensor.device)._data
    if given.shape != data.shape:
        raise ShapeError(
            f"backward from {_name(tensor)}: the gradient has shape {given.shape}, the tensor "
            f"{data.shape}; needed d(loss)/d(tensor), one number for each of its elements"
        )
    return given if given.dtype == data.dtype else given.astype(data.dtype)


def _recorded_seed(tensor: Tensor, gradient: Any) -> Tensor:
    """The same for a sweep that records: a Tensor keeps its own place in the graph."""
    array = _seed(tensor, gradient)
    if not isinstance(gradient, Tensor) or gradient._node is None:
        return wrap(array.copy(), None)  # the new graph saves it, and it may be the caller's own
    return gradient if array is gradient._data else gradient.to(tensor.device).astype(array.dtype)
