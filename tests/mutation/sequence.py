"""Mistakes in the fused recurrent ops: time, gates, what is accumulated, and what is shared."""

from functools import partial

from tests.mutation.mutant import Mutant
from tests.mutation.ops import GAPS

fused = partial(Mutant, "fused")
RECURRENT = "tests/test_recurrent.py"
KERNELS = "tests/test_backends.py"

RNN = [
    fused("rnn-outside-replaces", "ops/rnn.py", "dh += dh_out[t].T", "dh[...] = dh_out[t].T",
          RECURRENT, "= for +=: nothing flows back through time"),
    fused("rnn-outside-lost", "ops/rnn.py", "        dh += dh_out[t].T\n", "", RECURRENT,
          "only the last state hears from the loss"),
    fused("rnn-step-of-before", "ops/rnn.py", "step(dh, h[t + 1], dz_t, nonlinearity)",
          "step(dh, h[t], dz_t, nonlinearity)", RECURRENT,
          "off by one in time: the slope at the state before"),
    fused("rnn-no-transpose", "ops/rnn.py", "w_hh_t = xp.ascontiguousarray(w_hh.T)",
          "w_hh_t = xp.ascontiguousarray(w_hh)", RECURRENT, "missing transpose of W_hh"),
    fused("rnn-weight-time", "ops/rnn.py", "states[0, :-1], dz", "states[0, 1:], dz", RECURRENT,
          "off by one in time: dW_hh with h_t for h_{t-1}"),
    fused("rnn-end-lost", "ops/rnn.py", 'dh = dh_out[-1].T.copy(order="C")',
          "dh = xp.zeros((H, B), dtype=x.dtype)", RECURRENT,
          "the gradient of the last state dropped"),
    fused("rnn-writes-into-g", "ops/rnn.py", 'dh = dh_out[-1].T.copy(order="C")',
          "dh = dh_out[-1].T", 'tests/test_gradients.py -k "test_gradient and rnn"',
          "missing copy: the loop works in the incoming gradient"),
    fused("rnn-forward-time", "ops/rnn.py", "xp.matmul(w_hh, h[t], out=recurrent)",
          "xp.matmul(w_hh, h[max(t - 1, 0)], out=recurrent)", RECURRENT,
          "off by one in time: the state before the last"),
]  # fmt: skip

SHARED = [
    fused("bias-mean", "ops/rnn.py", "db = xp.sum(dz, axis=1)", "db = xp.mean(dz, axis=1)",
          RECURRENT, "the mean over steps for their sum"),
    fused("bias-needs", "ops/rnn.py", "if need_b_ih or need_b_hh else None",
          "if need_b_ih else None", RECURRENT, "one of the two biases forgotten"),
    fused("needs-swapped", "ops/rnn.py", "need_w_ih, need_w_hh, need_b_ih, need_b_hh = needs[-4:]",
          "need_w_hh, need_w_ih, need_b_ih, need_b_hh = needs[-4:]", RECURRENT,
          "two weights in the wrong order"),
    fused("table-needs", "ops/rnn.py", "if ids is not None and (needs[0] or need_w_ih):",
          "if ids is not None and needs[0]:", GAPS,
          "dW_ih of a frozen table not summed by rows"),
    fused("bias-half", "ops/rnn.py", "namespace(b_ih), b_ih + b_hh", "namespace(b_ih), b_ih",
          RECURRENT, "the second bias left out"),
    fused("table-gradient", "ops/rnn.py", ".reshape(x.shape) if needs[0] else None",
          ".reshape(x.shape) if needs[0] and ids is None else None", RECURRENT,
          "no gradient for a table of inputs"),
]  # fmt: skip

LSTM = [
    fused("spec-gates-swapped", "ops/lstm.py", "i, f, g, o = split(z, 4, axis=1)",
          "f, i, g, o = split(z, 4, axis=1)", RECURRENT, "swapped gates in the specification"),
    fused("lstm-cell-outside-lost", "ops/lstm.py", "        dc += dc_out[t].T\n", "", RECURRENT,
          "what reaches a cell state from outside is dropped"),
    fused("lstm-cell-outside-replaces", "ops/lstm.py", "dc += dc_out[t].T",
          "dc[...] = dc_out[t].T", RECURRENT, "= for +=: the conveyor belt is cut"),
    fused("lstm-cell-time", "ops/lstm.py", "step(dh, dc, gates[t], c[t], c[t + 1], dz_t)",
          "step(dh, dc, gates[t], c[t + 1], c[t + 1], dz_t)", RECURRENT,
          "off by one in time: c_t for c_{t-1}"),
    fused("lstm-weight-time", "ops/lstm.py", "states[0, :-1], dz", "states[0, 1:], dz",
          RECURRENT, "off by one in time: dW_hh with h_t for h_{t-1}"),
    fused("lstm-weight-kind", "ops/lstm.py", "states[0, :-1], dz", "states[1, :-1], dz",
          RECURRENT, "dW_hh with the cell for the hidden state"),
    fused("lstm-states-swapped", "ops/lstm.py", "return dx, dh.T, dc.T,",
          "return dx, dc.T, dh.T,", RECURRENT, "dh_0 and dc_0 swapped"),
    fused("lstm-writes-into-g", "ops/lstm.py", 'dc_out[-1].T.copy(order="C")', "dc_out[-1].T",
          'tests/test_gradients.py -k "test_gradient and lstm"',
          "missing copy: the loop works in the incoming gradient"),
]  # fmt: skip

# The plain kernels in base.py run on the fake device, those of numpy_backend.py on the CPU.
KERNEL = [
    fused("plain-tanh-slope", "backends/base.py", "dpre[...] = dh * (1 - h * h)",
          "dpre[...] = dh * (1 - h)", RECURRENT, "the square forgotten"),
    fused("plain-relu-edge", "backends/base.py", "self.xp.where(h > 0, dh, 0)",
          "self.xp.where(h >= 0, dh, 0)", RECURRENT, ">= for >"),
    fused("plain-lstm-forget", "backends/base.py", "        dc *= f\n", "", RECURRENT,
          "dropped factor: the forget gate on the way to c_{t-1}"),
    fused("plain-lstm-gates", "backends/base.py",
          "dgates[:size] = dc * g * i * (1 - i)\n"
          "        dgates[size : 2 * size] = dc * c_before * f * (1 - f)",
          "dgates[size : 2 * size] = dc * g * i * (1 - i)\n"
          "        dgates[:size] = dc * c_before * f * (1 - f)", RECURRENT, "swapped gates i, f"),
    fused("plain-lstm-cell-replaces", "backends/base.py", "dc += dh * o * (1 - tanh_c * tanh_c)",
          "dc[...] = dh * o * (1 - tanh_c * tanh_c)", RECURRENT,
          "= for +=: what came through later cells is lost"),
    fused("fast-lstm-forward-gates", "backends/numpy_backend.py",
          "np.multiply(i_f[size:], c_before, out=c)", "np.multiply(i_f[:size], c_before, out=c)",
          KERNELS, "swapped gates: the old is kept by the input gate"),
    fused("fast-lstm-cell", "backends/numpy_backend.py", "        df *= c_before\n",
          "        df *= c\n", KERNELS, "off by one in time: c_t for c_{t-1}"),
    fused("fast-lstm-candidate", "backends/numpy_backend.py",
          "        di *= g ", "        di *= f ",
          KERNELS, "swapped gates in the gradient of i"),
    fused("fast-lstm-forget", "backends/numpy_backend.py", "        dc *= f\n",
          "        dc *= i\n", KERNELS, "swapped gates on the way to c_{t-1}"),
    fused("sum-columns-assigns", "backends/base.py", "self.scatter_add(total, index, matrix.T)",
          "total[index] = matrix.T", KERNELS, "= for +=: a character counts once per window"),
]  # fmt: skip

MUTANTS = [*RNN, *SHARED, *LSTM, *KERNEL]
