"""Mistakes in the engine: accumulation, ownership, order, freeing, hooks, seeds, and the switch."""

from functools import partial

from tests.mutation.mutant import Mutant
from tests.mutation.ops import ARITH, GAPS, SMOOTH, rule

engine = partial(Mutant, "engine")
ENGINE, CHANGED = "tests/test_engine.py", "tests/test_changed.py"

SWEEP = [
    engine("arrive-assigns", "core/engine.py", "arrived[node] = arrived[node] + g",
           "arrived[node] = g", ENGINE,
           "= for +=: of two paths only the last counts"),
    engine("arrive-owns-first", "core/engine.py",
           "                arrived[parent] = passed  # the common",
           "                owned.add(parent)\n"
           "                arrived[parent] = passed  # the common",
           ENGINE, "adds in place into an array it only borrowed"),
    engine("part-into-borrowed", "core/engine.py", "        total = total.copy()\n",
           "        total = total\n", ENGINE, "a slice added into an array that is only borrowed"),
    engine("part-assigns", "core/carriers.py", "total[self.index] += self.g",
           "total[self.index] = self.g", ENGINE, "= for +=: of two slices only the last counts"),
    engine("part-unfit", "core/engine.py", "if type(part) is not Part or (", "if (", ENGINE,
           "what is no part taken for one"),
    engine("results-unrecorded", "core/engine.py",
           "        return _results([found.get(node) for node in targets], seeds, carrier)",
           "    return _results([found.get(node) for node in targets], seeds, carrier)", ENGINE,
           "the second of two answers without a graph in a no_grad block"),
    engine("sweep-order", "core/engine.py", "sorted(seen, key=by_number, reverse=True)",
           "sorted(seen, key=by_number)", ENGINE, "oldest first"),
    engine("grad-overwritten", "core/engine.py", "g if leaf.grad is None else leaf.grad + g", "g",
           ENGINE, "a second backward replaces .grad instead of adding to it"),
    engine("commit-as-it-goes", "core/engine.py",
           "            found[node] = carrier.own(g, already=node in owned)\n",
           "            found[node] = carrier.own(g, already=node in owned)\n"
           "            if targets is None:\n"
           "                new = found.pop(node)\n"
           "                node.grad = new if node.grad is None else node.grad + new\n",
           GAPS, "writes .grad during the sweep: an exception leaves half"),
    engine("never-freed", "core/engine.py",
           "        if not retain_graph:\n            node.free()\n", "", ENGINE,
           "the graph kept after backward"),
    engine("always-freed", "core/engine.py",
           "        if not retain_graph:\n            node.free()\n", "        node.free()\n",
           ENGINE, "retain_graph ignored"),
    engine("freed-silently", "core/node.py", "        self.parents = None\n        self.plan,",
           "        self.parents = []\n        self.plan,", ENGINE,
           "a second backward finds nothing, and says nothing"),
    engine("collect-floor", "core/engine.py", "parent.number >= floor", "parent.number > floor",
           ENGINE, "off by one: the oldest target is never reached"),
    engine("leading-order", "core/engine.py", "for node in reversed(order):", "for node in order:",
           ENGINE, "children decided before their parents"),
    engine("sum-in-no-grad", "core/engine.py",
           "with enable_grad() if create_graph else contextlib.nullcontext():",
           "with contextlib.nullcontext():", ENGINE,
           "sums of gradients not recorded inside no_grad"),
]  # fmt: skip

EDGES = [
    engine("own-shares", "core/carriers.py",
           'return g if already and g.flags.c_contiguous else g.copy(order="C")', "return g",
           ENGINE, "missing copy: two .grad share memory"),
    engine("own-any-order", "core/carriers.py", "g if already and g.flags.c_contiguous else",
           "g if already else", GAPS, "a .grad in Fortran order"),
    engine("unbroadcast-mean", "core/broadcast.py", "g.sum(axis=axes)", "g.mean(axis=axes)",
           rule("add"), "the mean over the copies for their sum"),
    engine("unbroadcast-size-1", "core/broadcast.py", "axes = (*range(extra), *stretched)",
           "axes = tuple(range(extra))", rule("add"), "stretched dimensions of size 1 forgotten"),
    engine("unbroadcast-reshapes", "core/broadcast.py", "        return None\n",
           "        return g.reshape(shape)\n", ENGINE,
           "a wrong shape is forced to fit"),
    engine("dtype-not-checked", "core/engine.py", "if g.dtype != node.dtype:", "if False:",
           ENGINE, "a rule's drift to float64 converted back in silence"),
    engine("seed-float64", "core/engine.py", "return backend.xp.ones_like(data)",
           "return backend.xp.ones(data.shape)", ENGINE,
           "a float64 seed for a float32 loss"),
    engine("seed-dtype", "core/engine.py",
           "return given if given.dtype == data.dtype else given.astype(data.dtype)",
           "return given", ENGINE, "the caller's dtype kept"),
    engine("hook-ignored", "core/engine.py", "g = carrier.own(replaced, already=False)",
           "carrier.own(replaced, already=False)", ENGINE,
           "what a hook returns is dropped"),
    engine("hook-sees-ours", "core/engine.py", "replaced = hook(carrier.own(g, already=False))",
           "replaced = hook(g)", GAPS,
           "a hook is handed the array the sweep goes on with"),
]  # fmt: skip

PRIMITIVE = [
    engine("saved-order", "core/node.py",
           "self.saves = tuple(places[name] for name in wanted[1:])",
           "self.saves = tuple(sorted(places[name] for name in wanted[1:]))", ARITH,
           "saved arrays in the op's order instead of the rule's"),
    engine("out-off-the-graph", "core/node.py",
           "places = [*(self.parents or ()), self]", "places = [*(self.parents or ()), None]",
           SMOOTH, "a saved result taken for a constant at order 2"),
    engine("input-off-the-graph", "core/node.py", "else wrap(value, node)\n",
           "else wrap(value, None)\n", ARITH,
           "a saved input taken for a constant at order 2"),
    engine("switch-ignored", "core/primitive.py",
           "if recorded and (watch := recording.enabled):",
           "if recorded and (watch := True):", ENGINE, "the switch not looked at"),
    engine("plan-for-all", "core/primitive.py", "recorded += bit", "recorded = 1", ARITH,
           "one plan for every set of inputs that want a gradient"),
    engine("plan-outlives-rule", "core/primitive.py", "self.rules = changed",
           "self._rules = changed", ENGINE, "a rule given later is not used"),
    engine("silent-kept", "core/primitive.py", "parents[i] = None  # nothing goes there",
           "pass  # nothing goes there", ENGINE, "a graph kept alive for no gradient"),
    engine("detach-keeps", "core/tensor.py", "return wrap(self._data, None)",
           "return wrap(self._data, self._node)", f"{ENGINE} tests/test_tbptt.py",
           "detach that detaches nothing"),
]  # fmt: skip

SWITCH = [
    engine("no-grad-nesting", "core/grad_mode.py",
           "recording.enabled, recording.watch = recording.before.pop()",
           "recording.enabled, recording.watch = True, recording.before.pop()[1]", ENGINE,
           "back to True instead of back to what it was"),
    engine("no-grad-generator", "core/grad_mode.py",
           "if inspect.isgeneratorfunction(function):", "if False:", ENGINE,
           "a generator's setting leaks to its caller"),
    engine("no-grad-threads", "core/grad_mode.py", "class _Recording(threading.local):",
           "class _Recording:", ENGINE, "one switch for all threads"),
]  # fmt: skip

FUSED = [
    engine("fused-copies", "core/fused.py", "copies.append(identity(wrap(value, parent)))",
           "copies.append(wrap(value, parent))", ENGINE,
           "partial derivatives mix where one input comes from another"),
    engine("fused-bystander", "core/fused.py", "copies.append(wrap(value, parent))\n",
           "copies.append(value)\n", GAPS,
           "an input not asked about now is a constant to the second derivative"),
    engine("fused-needs", "core/fused.py",
           "tuple(p is not None and (wanted is None or p in wanted)",
           "tuple(p is not None and (wanted is None or p not in wanted)",
           GAPS, "the gradients nobody asked for"),
    engine("fused-computes-all", "core/fused.py",
           "tuple(p is not None and (wanted is None or p in wanted)", "tuple(p is not None",
           GAPS, "gradients computed that nobody needs"),
]  # fmt: skip

SAVED = [
    engine("write-not-stamped", "core/tensor.py", "        stamp(self._data)\n", "", CHANGED,
           "a write that no backward pass will hear of"),
    engine("stamp-not-read", "core/refusals.py", "if writes.last < oldest:", "if True:", CHANGED,
           "saved arrays never looked at: a step before backward gives wrong gradients"),
    engine("stamp-by-array", "core/clock.py",
           "entry = writes.entries.get(id(backends.of(array).owner(array)))",
           "entry = writes.entries.get(id(array))", CHANGED,
           "the stamp of an array, not of its memory: a view of it looks unchanged"),
    engine("plain-array-not-copied", "core/primitive.py",
           "                self._own(inputs, values)\n", "                pass\n", CHANGED,
           "missing copy of a plain array that its owner fills anew"),
]  # fmt: skip

MUTANTS = [*SWEEP, *EDGES, *PRIMITIVE, *SWITCH, *FUSED, *SAVED]
