"""Mistakes in layers, in losses, and in the checker of gradients itself."""

from functools import partial

from tests.mutation.mutant import Mutant
from tests.mutation.ops import GAPS

layer, check = partial(Mutant, "nn"), partial(Mutant, "gradcheck")
RECORD, FLOW = "tests/test_record.py", "tests/test_gradient_flow.py"
RECURRENT, NN = "tests/test_recurrent.py", "tests/test_nn.py"
GRADCHECK = "tests/test_gradcheck.py"

LAYERS = [
    layer("reverse-not-turned", "nn/recurrent_base.py",
          "outputs.append(turn(y, lengths) if d == 1 else y)",
          "outputs.append(y)", RECURRENT, "the backward direction's output left reversed in time"),
    layer("state-slot", "nn/recurrent_base.py", "place = layer * self.directions + d",
          "place = layer + d", RECURRENT, "states of two directions and layers mixed up"),
    layer("state-off-by-one", "nn/recurrent_base.py", "ends.append(expand_dims(trajectory[T:], 1))",
          "ends.append(expand_dims(trajectory[T - 1 : -1], 1))", RECURRENT,
          "off by one in time: the last but one"),
    layer("output-off-by-one", "nn/recurrent_base.py", "y = trajectory[1 : T + 1]",
          "y = trajectory[:T]", RECURRENT, "off by one in time: outputs from h_0 on"),
    layer("forget-bias-gate", "nn/recurrent.py", "[H : 2 * H] = self.forget_bias",
          "[:H] = self.forget_bias", RECURRENT, "the input gate's bias set to 1"),
    layer("dropout-last-layer", "nn/recurrent_base.py", "layer < self.num_layers - 1:",
          "layer < self.num_layers:", RECURRENT, "dropout after the last layer, too"),
    layer("record-step-order", "nn/record.py", "found.values.setdefault(name, []).append(value)",
          "found.values.setdefault(name, []).insert(0, value)", RECORD, "steps in reverse"),
    layer("record-missing-is-shifted", "nn/record.py",
          "wrap(namespace(s._data).zeros_like(s._data), None) if g is None else g",
          "wrap(namespace(s._data).ones_like(s._data), None) if g is None else g", RECORD,
          "a step without influence has a gradient"),
    layer("record-weights-shared", "nn/record.py", "None if w is None else identity(w) for w",
          "w for w", FLOW, "one place in the graph for the weights of all steps"),
    layer("flow-kinds", "gradient_flow.py", 'name = "hc"[kind]', 'name = "h"', FLOW,
          "dL/dh_t given out as dL/dc_t"),
    layer("flow-product", "_gradient_flow_layer.py", "product = j @ product",
          "product = product @ j", FLOW, "Jacobians multiplied in the wrong order"),
    layer("flow-seed-side", "_gradient_flow_layer.py", "one[:, k * H : (k + 1) * H]",
          "one[:, (kinds - 1 - k) * H : (kinds - k) * H]", FLOW, "rows of h and c swapped"),
    layer("cell-forget-bias", "nn/cells.py", "[H : 2 * H] = self.forget_bias",
          "[:H] = self.forget_bias", "tests/test_cells.py", "the input gate's bias set to 1"),
    layer("dropout-scale", "nn/functional.py", "np.asarray(1 / (1 - p) if p < 1 else 0,",
          "np.asarray(1 if p < 1 else 0,", NN, "what is kept not scaled up"),
    layer("dropout-in-eval", "nn/functional.py", "if not training or p == 0:", "if p == 0:",
          NN, "dropout while evaluating"),
    layer("embedding-unchecked", "nn/layers.py",
          'as_index(ids, self.weight, self.weight.shape[0], "Embedding")', "ids", NN,
          "id -1 read as the last row"),
    layer("linear-transpose", "ops/linalg.py", "matmul(_rows(x), weight.T) + bias",
          "matmul(_rows(x), weight.reshape(weight.shape[::-1])) + bias", NN,
          "reshaped where it should be transposed"),
    layer("smooth-l1-offset", "nn/functional.py", "distance - 0.5 * beta", "distance - 0.5", GAPS,
          "dropped factor beta: a jump where the pieces meet"),
    layer("bce-sign", "nn/functional.py", "softplus(logits) - target * logits",
          "softplus(logits) + target * logits", NN, "flipped sign"),
    layer("nll-mean", "nn/functional.py", "xp.maximum(xp.sum(counted), 1)",
          "xp.maximum(xp.sum(counted | True), 1)", NN, "the mean over ignored targets, too"),
    layer("walk-tied-twice", "nn/module.py",
          "if isinstance(found, Parameter) and id(found) not in seen:",
          "if isinstance(found, Parameter):", NN, "a tied parameter listed twice"),
    layer("orthogonal-sign", "nn/init.py", "np.where(np.diagonal(r) < 0, -1.0, 1.0)", "1.0",
          "tests/test_init.py", "QR's own signs: orthogonal, but not evenly distributed"),
]  # fmt: skip

CHECKER = [
    check("always-passes", "_gradcheck_compare.py", 'passed=verdict == "agree"', "passed=True",
          GRADCHECK, "a checker that cannot fail"),
    check("nan-agrees", "_gradcheck_compare.py", "np.where(np.isfinite(ratios), ratios, np.inf)",
          "np.where(np.isfinite(ratios), ratios, 0)", GAPS, "NaN taken for agreement"),
]  # fmt: skip

MUTANTS = [*LAYERS, *CHECKER]
