"""Mistakes in what watches over a run: anomaly mode, the growth guard, checks of indices, grad."""

from functools import partial

from tests.mutation.mutant import Mutant

watch = partial(Mutant, "watch")
ANOMALY, CHANGED = "tests/test_anomaly.py", "tests/test_changed.py"
ERRORS, INDICES = "tests/test_errors.py", "tests/test_catalogue_indices.py"

ANOMALIES = [
    watch("result-unseen", "core/watch.py",
          "        if self.is_bad(out):\n            before",
          "        if False:\n            before", ANOMALY, "the results of ops not looked at"),
    watch("operands-unseen", "core/watch.py",
          "if (parent is None or type(parent) is Leaf) and self.is_bad(values[i]):", "if False:",
          ANOMALY, "what comes in from outside blamed on the op"),
    watch("gradients-unseen", "core/watch.py", "if self.is_bad(plain(passed)):", "if False:",
          ANOMALY, "only the forward pass watched"),
    watch("sums-unseen", "core/watch.py", "if self.is_bad(plain(g)):", "if False:",
          ANOMALY, "two finite gradients whose sum is not"),
    watch("infinity-is-fine", "core/watch.py", "if self.nan_only else not xp.all",
          "if True else not xp.all", ANOMALY, "only NaN noticed"),
    watch("print-not-compared", "core/watch.py",
          "if fingerprint(array) != prints.get(id(array)):", "if False:",
          CHANGED, "a fingerprint taken and never compared"),
    watch("gate-off-by-one", "core/replay.py", "return frozenset(self.gates[start // self.width])",
          "return frozenset(self.gates[start // self.width - 1])", ANOMALY, "another gate named"),
    watch("step-off-by-one", "core/grad_mode.py", "            watch.step = t\n",
          "            watch.step = t + 1\n", ANOMALY, "the step after it named"),
    watch("warnings-left-off", "core/anomaly.py", "np.seterr(**recording.errors.pop())",
          "recording.errors.pop()", ANOMALY, "NumPy's settings not put back"),
    watch("module-left-on-the-stack", "nn/module.py", "            running.pop()\n",
          "            pass\n", ANOMALY, "the layer named is one that ran before"),
    watch("first-infinity-blamed", "core/replay.py",
          "while causes := [p for p in node.parents if p in self.results]:",
          "while causes := [p for p in self.results if p.number < node.number]:",
          ANOMALY, "an infinity that a sigmoid has made harmless taken for the cause"),
    watch("inner-step-wins", "core/watch.py",
          "step = found.step if trace.step is None else trace.step", "step = found.step",
          ANOMALY, "the step of a window of one, for that of the loop"),
]  # fmt: skip

GUARDS = [
    watch("growth-forgets", "nn/growth.py", "Behind(self.windows + 1, self.steps + T,",
          "Behind(self.windows + 1, T,", ERRORS, "every window counted as the first"),
    watch("growth-every-time", "nn/growth.py", "if behind.is_long and not behind.warned:",
          "if behind.is_long:", ERRORS, "a warning for every window from then on"),
    watch("growth-freed", "nn/growth.py", "if node is None or node in seen or not node.parents:",
          "if node is None or node in seen or node.parents == ():", ERRORS,
          "a graph that is gone counted as kept"),
    watch("growth-encoder", "nn/growth.py", "self.steps - self.longest > STEPS",
          "self.steps > STEPS", ERRORS, "a decoder blamed for the length of its encoder"),
    watch("device-index-unchecked", "ops/indexing.py",
          "backends.of(array).check_index(array, size, op, lowest=-size)", "pass", INDICES,
          "an index that a GPU wraps around in silence"),
    watch("size-of-the-wrong-axis", "ops/indexing.py",
          "sizes.append(shape[axis] if n and axis < len(shape) else 0)", "sizes.append(shape[0])",
          INDICES, "an index checked against another axis"),
    watch("unused-unnoticed", "core/engine.py",
          "    if not allow_unused:\n        check_used(targets, set(order))\n", "",
          "tests/test_engine.py", "refused only after the graph was freed"),
    watch("hooks-write-unseen", "core/engine.py", "if writes.last != last:", "if False:", CHANGED,
          "a hook that steps an optimizer under the sweep's feet"),
    watch("moved-unseen", "core/refusals.py", "if leaf.moved:", "if False:", CHANGED,
          "a gradient for parameters that are elsewhere by now"),
    watch("one-gradient-for-two", "core/carriers.py", "wrap(g.copy() if again else g, None)",
          "wrap(g, None)", CHANGED, "two results of grad in one array"),
    watch("grad-shared", "core/tensor.py", 'value = value.copy(order="C")', "value = value",
          CHANGED, "missing copy: one array assigned to two .grad"),
]  # fmt: skip

MUTANTS = [*ANOMALIES, *GUARDS]
