"""Mistakes in what watches over a run: anomaly mode, the growth guard, checks of indices, grad."""

from functools import partial

from tests.mutation.mutant import Mutant

watch = partial(Mutant, "watch")
ANOMALY, CHANGED = "tests/test_anomaly.py", "tests/test_changed.py"
ERRORS, INDICES = "tests/test_errors.py", "tests/test_catalogue_indices.py"

ANOMALIES = [
    watch("result-unseen", "core/anomaly.py", "if self._is_bad(out):", "if False:", ANOMALY,
          "the results of ops not looked at"),
    watch("operands-unseen", "core/anomaly.py",
          "if (parent is None or type(parent) is Leaf) and self._is_bad(values[i]):", "if False:",
          ANOMALY, "what comes in from outside blamed on the op"),
    watch("gradients-unseen", "core/anomaly.py", "if self._is_bad(_plain(passed)):", "if False:",
          ANOMALY, "only the forward pass watched"),
    watch("sums-unseen", "core/anomaly.py", "if self._is_bad(_plain(g)):", "if False:",
          ANOMALY, "two finite gradients whose sum is not"),
    watch("infinity-is-fine", "core/anomaly.py", "if self.nan_only else not xp.all",
          "if True else not xp.all", ANOMALY, "only NaN noticed"),
    watch("print-not-compared", "core/anomaly.py", "if fingerprint(array) != was:", "if False:",
          CHANGED, "a fingerprint taken and never compared"),
    watch("gate-off-by-one", "core/anomaly.py", "self.gates[column // self.width]",
          "self.gates[(column // self.width + 1) % 4]", ANOMALY, "the gate after it named"),
    watch("step-off-by-one", "core/grad_mode.py", "            watch.step = t\n",
          "            watch.step = t + 1\n", ANOMALY, "the step after it named"),
    watch("warnings-left-off", "core/anomaly.py", "np.seterr(**recording.watch.errors)", "pass",
          ANOMALY, "NumPy's settings not put back"),
    watch("module-left-on-the-stack", "nn/module.py", "            running.pop()\n",
          "            pass\n", ANOMALY, "the layer named is one that ran before"),
]  # fmt: skip

GUARDS = [
    watch("growth-forgets", "nn/recurrent.py", "trajectory._node.steps = behind + T",
          "trajectory._node.steps = T", ERRORS, "every window counted as the first"),
    watch("growth-every-time", "nn/growth.py", "behind > limit >= behind - T", "behind > limit",
          ERRORS, "a warning for every window from then on"),
    watch("growth-freed", "nn/growth.py", "if node is None or node in seen or not node.parents:",
          "if node is None or node in seen:", ERRORS, "a graph that is gone counted as kept"),
    watch("device-index-unchecked", "ops/indexing.py",
          "backends.of(array).check_index(array, size, op, lowest=-size)", "pass", INDICES,
          "an index that a GPU wraps around in silence"),
    watch("size-of-the-wrong-axis", "ops/indexing.py",
          "sizes.append(shape[axis] if n and axis < len(shape) else 0)", "sizes.append(shape[0])",
          INDICES, "an index checked against another axis"),
    watch("unused-unnoticed", "core/engine.py",
          "    if not allow_unused:\n        check_used(targets, set(order))\n", "",
          "tests/test_engine.py", "refused only after the graph was freed"),
]  # fmt: skip

MUTANTS = [*ANOMALIES, *GUARDS]
