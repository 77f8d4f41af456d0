"""Mistakes in the fused recurrent ops: time, gates, what is accumulated, and what is shared."""

from functools import partial

from tests.mutation.mutant import Mutant
from tests.mutation.ops import GAPS

fused = partial(Mutant, "fused")
RECURRENT = "tests/test_recurrent.py"
SEQUENCE = "tests/test_sequence.py"
LENGTHS = "tests/test_lengths.py"
NORMS = "tests/test_layer_norm.py"
KERNELS = "tests/test_backends.py"

RNN = [
    fused("rnn-outside-replaces", "ops/rnn.py", "dh += dh_out[t].T", "dh[...] = dh_out[t].T",
          RECURRENT, "= for +=: nothing flows back through time"),
    fused("rnn-outside-lost", "ops/rnn.py", "        dh += dh_out[t].T\n", "", RECURRENT,
          "only the last state hears from the loss"),
    fused("rnn-step-of-before", "ops/rnn.py", "undo(dh, h[t + 1], dz_t, nonlinearity)",
          "undo(dh, h[t], dz_t, nonlinearity)", RECURRENT,
          "off by one in time: the slope at the state before"),
    fused("rnn-no-transpose", "ops/rnn.py", "w_hh_t = xp.ascontiguousarray(w_hh.T)",
          "w_hh_t = xp.ascontiguousarray(w_hh)", RECURRENT, "missing transpose of W_hh"),
    fused("rnn-weight-time", "ops/rnn.py", "states[0, :-1], dz", "states[0, 1:], dz", RECURRENT,
          "off by one in time: dW_hh with h_t for h_{t-1}", of=2, nth=1),
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
    fused("bias-mean", "backends/base.py", "xp.sum(x, axis=1)", "xp.mean(x, axis=1)", RECURRENT,
          "the mean over steps for their sum"),
    fused("bias-needs", "ops/sequence.py", "if need_b_ih or need_b_hh else None",
          "if need_b_ih else None", RECURRENT, "one of the two biases forgotten"),
    fused("needs-swapped", "ops/sequence.py",
          "need_w_ih, need_w_hh, need_b_ih, need_b_hh = needs[-4:]",
          "need_w_hh, need_w_ih, need_b_ih, need_b_hh = needs[-4:]", RECURRENT,
          "two weights in the wrong order"),
    fused("table-needs", "ops/sequence.py", "if not (need_x or need_w):",
          "if not need_x:", GAPS, "dW_ih of a frozen table not computed"),
    fused("bias-half", "ops/sequence.py", "tiled(b_ih + b_hh, B)", "tiled(b_ih, B)",
          RECURRENT, "the second bias left out"),
    fused("table-gradient", "ops/sequence.py", ".reshape(x.shape) if need_x else None",
          ".reshape(x.shape) if need_x and ids is None else None", RECURRENT,
          "no gradient for a table of inputs"),
    fused("turned-gradient", "ops/sequence.py",
          "turned.vjp(x=lambda g, *, order: turned(g, order=order))",
          "turned.vjp(x=lambda g, *, order: g)", SEQUENCE, "the gradient not turned around"),
    fused("limit-scale", "ops/sequence.py", "limit / xp.maximum(length, limit)", "limit / length",
          SEQUENCE, "short gradients made longer"),
    fused("limit-axis", "ops/sequence.py", "scale_to(limit, g, axis=0)",
          "scale_to(limit, g, axis=1)", SEQUENCE, "the norm over the batch instead of the row"),
    fused("limit-overflow", "ops/sequence.py", "xp.square(g, dtype=np.float64)", "xp.square(g)",
          SEQUENCE, "squares that float32 has no number for: the gradient becomes 0"),
    fused("limit-in-padding", "ops/rnn.py", 'held(now["h"], states[-1], ended, t)',
          'held(now["h"], h, ended, t)', RECURRENT, "limited on the way past the padding, too"),
    fused("rows-unread", "ops/sequence.py", "xp.where(seen[:-1, None], table, 0)", "table",
          LENGTHS, "0 * NaN: a row that nobody reads"),
    fused("state-of-padding", "ops/sequence.py", "where(ended[:, :, None], 0, h_before)",
          "where(ended[:, :, None], h_before, h_before)", LENGTHS,
          "0 * NaN: a state that no step begins with"),
]  # fmt: skip

ENDS = [
    fused("held-swapped", "ops/sequence.py", "where(ended[t][:, None], old, new)",
          "where(ended[t][:, None], new, old)", LENGTHS, "the mask the wrong way round"),
    fused("rnn-not-held", "ops/rnn.py", "hold(h[t + 1], h[t], ended[t])",
          "hold(h[t + 1], h[t + 1], ended[t])", LENGTHS, "the state runs on through the padding"),
    fused("rnn-padding-counts", "ops/rnn.py", "            stop(dz_t, ended[t])\n", "", LENGTHS,
          "weights learn from the padding"),
    fused("rnn-gradient-ends", "ops/rnn.py", "hold(dh, by, ended[t])", "dh += 0",
          LENGTHS, "nothing flows past the padding to a row's end"),
    fused("lstm-padding-counts", "ops/lstm.py", "            stop(dz_t, ended[t])\n",
          "            dz_t += 0\n", LENGTHS,
          "weights learn from the padding"),
    fused("lstm-cell-forgets", "ops/lstm.py", "            hold(dc, c_by, ended[t])\n", "", LENGTHS,
          "the cell's gradient goes through gates in the padding"),
    fused("lstm-only-h-held", "ops/lstm.py", "hold(kept[:, t + 1], kept[:, t], ended[t])",
          "hold(h[t + 1], h[t], ended[t])", LENGTHS, "c runs on through the padding"),
    fused("gru-gradient-ends", "ops/gru.py", "            hold(dh, by, ended[t])\n",
          "            dh += 0\n", LENGTHS,
          "what flows past the padding is multiplied by z"),
    fused("lengths-off-by-one", "nn/lengths.py", "self._host = steps >= numbers",
          "self._host = steps > numbers", LENGTHS, "off by one: a step of padding read"),
    fused("lengths-turn", "nn/lengths.py", "numbers - 1 - steps)", "numbers - steps)", LENGTHS,
          "off by one where each row is turned around"),
    fused("padding-let-in", "nn/recurrent_base.py", "return ends.blank(x), None, ends, False",
          "return x, None, ends, False", LENGTHS, "NaN in the padding reaches the weights"),
    fused("padding-let-out", "nn/recurrent_base.py",
          "y = y if lengths is None else lengths.blank(y)", "y = y", LENGTHS,
          "outputs beyond a row's end repeat its last state"),
]  # fmt: skip

GRU = [
    fused("gru-outside-replaces", "ops/gru.py", "dh += dh_out[t].T", "dh[...] = dh_out[t].T",
          RECURRENT, "= for +=: nothing flows back through time"),
    fused("gru-time", "ops/gru.py", "undo(dh, gates[t], q[t], h[t], dz_t)",
          "undo(dh, gates[t], q[t], h[t + 1], dz_t)", RECURRENT, "off by one in time: h_t"),
    fused("gru-weight-time", "ops/gru.py", "states[0, :-1], dz", "states[0, 1:], dz", RECURRENT,
          "off by one in time in dW_hh", of=2, nth=1),
    fused("gru-bias-sides", "ops/gru.py", "sum_of_steps(old) if need_b_hh",
          "n_last(sum_of_steps(new)) if need_b_hh", RECURRENT,
          "the two biases taken for halves of one, as in an LSTM"),
    fused("gru-blocks", "ops/gru.py", "None if dw_ih is None else n_last(dw_ih)", "dw_ih",
          RECURRENT, "blocks of dW_ih left in the order of the loop"),
    fused("gru-through-replaces", "ops/gru.py", "dh += through", "dh[...] = through", RECURRENT,
          "= for +=: the straight way through z is cut"),
    fused("gru-spec-reset", "ops/gru.py", "n = tanh(n_new + r * n_old)",
          "n = tanh(r * n_new + n_old)", RECURRENT, "the reset gate on the input"),
    fused("plain-gru-update", "backends/base.py", "h[...] = n + z * (h_before - n)",
          "h[...] = h_before + z * (n - h_before)", RECURRENT, "z and 1 - z swapped"),
    fused("plain-gru-reset", "backends/base.py", "dn * q * r * (1 - r)", "dn * r * (1 - r)",
          RECURRENT, "dropped factor q in the gradient of r"),
    fused("plain-gru-straight", "backends/base.py", "        dh *= z\n", "", RECURRENT,
          "dropped factor z on the straight way"),
    fused("fast-gru-reset", "backends/numpy_backend.py", "        dr *= q\n", "", KERNELS,
          "dropped factor q in the gradient of r"),
    fused("fast-gru-update", "backends/numpy_backend.py", "np.subtract(1, z, out=dz)",
          "dz[...] = z", KERNELS, "z for 1 - z"),
]  # fmt: skip

LSTM = [
    fused("spec-gates-swapped", "ops/lstm.py", "i, f, g, o = split(z, 4, axis=1)",
          "f, i, g, o = split(z, 4, axis=1)", RECURRENT, "swapped gates in the specification"),
    fused("lstm-cell-outside-lost", "ops/lstm.py", "        dc += dc_out[t].T\n", "", RECURRENT,
          "what reaches a cell state from outside is dropped"),
    fused("lstm-cell-outside-replaces", "ops/lstm.py", "dc += dc_out[t].T",
          "dc[...] = dc_out[t].T", RECURRENT, "= for +=: the conveyor belt is cut"),
    fused("lstm-cell-time", "ops/lstm.py", "undo(dh, dc, gates[t], c[t], c[t + 1], dz_t)",
          "undo(dh, dc, gates[t], c[t + 1], c[t + 1], dz_t)", RECURRENT,
          "off by one in time: c_t for c_{t-1}"),
    fused("lstm-weight-time", "ops/lstm.py", "states[0, :-1], dz", "states[0, 1:], dz",
          RECURRENT, "off by one in time: dW_hh with h_t for h_{t-1}", of=2, nth=1),
    fused("lstm-weight-kind", "ops/lstm.py", "states[0, :-1], dz", "states[1, :-1], dz",
          RECURRENT, "dW_hh with the cell for the hidden state", of=2, nth=1),
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

NORM = [
    fused("norm-offset-kept", "ops/norm.py", "    dx -= offset\n", "", NORMS,
          "the part along the offset not taken away"),
    fused("norm-scale-kept", "ops/norm.py", "    dx -= along\n", "", NORMS,
          "the part along the scale not taken away"),
    fused("norm-dw", "ops/norm.py", "dw = xp.sum(along, axis=0)", "dw = xp.sum(rows, axis=0)",
          NORMS, "the gradient of the bias for that of the weight"),
    fused("norm-eps-outside", "ops/norm.py", "scale = xp.sqrt(spread) / spread",
          "scale = 1 / (xp.sqrt(spread - eps) + eps)", NORMS, "eps outside of the root"),
    fused("norm-cancels", "ops/norm.py", "normal = rows - rows[:, :1]", "normal = rows.copy()",
          NORMS, "digits lost beside a large offset"),
]  # fmt: skip

MUTANTS = [*RNN, *SHARED, *ENDS, *LSTM, *GRU, *NORM, *KERNEL]
