"""Mistakes in what a GPU does: the CUDA kernels, their launches, and what is said where none runs.

None of these needs a GPU. The kernels run on the CPU (`tests/cuda_on_cpu`), which takes a C++
compiler: without one their tests are skipped, and every mutant of a kernel survives.
"""

from functools import partial

from tests.mutation.mutant import Mutant

gpu = partial(Mutant, "gpu")
CELLS, PRODUCT = (f"backends/kernels/{f}.cuh" for f in ("cells", "product"))
SEQUENCE, STEPS = (f"backends/kernels/{f}.cu" for f in ("sequence", "steps"))
LOSS, SCATTER, UPDATE = (f"backends/kernels/{f}.cu" for f in ("loss", "scatter", "update"))
WINDOW, PLAN, LAUNCH = (f"backends/{f}.py" for f in ("window", "plan", "cupy_launch"))
UPDATES, TROUBLE = "backends/cupy_update.py", "backends/cuda_trouble.py"
# The tests of whole windows; and those of the small kernels and their launchers.
IN_WINDOWS = "tests/test_sequence_kernels.py -k "
FUSED, OWN = IN_WINDOWS + "fused_way", IN_WINDOWS + "kernel_of_our_own"
ORDER, TURNS = IN_WINDOWS + "order_of_threads", IN_WINDOWS + "too_large"
CHOICE, TENSOR = IN_WINDOWS + '"choice or chip"', IN_WINDOWS + "tensor_cores"
WARPS = IN_WINDOWS + "all_warps"
INFINITE = "tests/test_window.py -k infinite"
ALONE = "tests/test_small_kernels.py -k "
ENTROPY, ROWS = ALONE + '"softmax or loss"', ALONE + '"rows or columns"'
SQUARES, ADAM = ALONE + '"squares or scale"', ALONE + "adam"
SAID = "tests/test_cuda_trouble.py"
MEETING = "        __syncthreads();\n"

CELL = [
    gpu("cuda-lstm-forget", CELLS, "by.c = dc * f;", "by.c = dc * i;", FUSED,
        "swapped gates on the way to c_{t-1}"),
    gpu("cuda-gru-reset", CELLS, "dn * q * r * (real(1) - r)", "dn * r * (real(1) - r)", FUSED,
        "dropped factor q in the gradient of r"),
    gpu("cuda-relu-nan", CELLS, "(z[0] == z[0] ? real(0) : z[0])", "real(0)", IN_WINDOWS + "nan",
        "a comparison that turns NaN into 0"),
    gpu("cuda-met-state", CELLS, "MET_STATE = SLOPES - GATES;", "MET_STATE = 0;", OWN,
        "the GRU's slopes of n sent through W_hh"),
]  # fmt: skip

# ---- sequence.cu ----

FORWARD = [
    gpu("forward-late-to-the-tile", SEQUENCE,
        "wait_until(counters + slice, parts * (t - t_from));\n" + MEETING,
        "wait_until(counters + slice, parts * (t - t_from));\n", ORDER,
        "missing barrier: only one thread waits for the other blocks"),
    gpu("forward-tile-unready", SEQUENCE, MEETING + "\n        for (int b = 0; b < slice_rows;",
        "\n        for (int b = 0; b < slice_rows;", ORDER,
        "missing barrier: h is multiplied before all of it is there"),
    gpu("forward-sums-unready", SEQUENCE,
        MEETING + "\n        real pre_q[CELLS];", "\n        real pre_q[CELLS];", ORDER,
        "missing barrier: sums are read before all warps have written theirs"),
    gpu("forward-arrives-early", SEQUENCE,
        "            __syncthreads();\n            if (threadIdx", "            if (threadIdx",
        ORDER, "missing barrier: told to be done before it is"),
    gpu("forward-waits-for-one", SEQUENCE, "parts * (t - t_from)", "(t - t_from)", ORDER,
        "waits until one block has arrived, not all"),
    gpu("forward-padding", SEQUENCE, "tile[i] = real(0);", "{}", OWN,
        "columns beyond H never set to 0: 0 * NaN"),
    gpu("forward-beyond-the-weights", SEQUENCE, "if (unit >= H || column >= H) return real(0);",
        "if (unit >= H) return real(0);", OWN, "reads the next row of W_hh as padding",
        of=2, nth=0),
    gpu("forward-unaligned", SEQUENCE, "if (H % 4 == 0) {", "if (H % 4 >= 0) {", OWN,
        "four numbers at a time where a row is no multiple of four"),
    gpu("forward-columns-skipped", SEQUENCE, "k < H; k += 128)", "k < H; k += 256)", WARPS,
        "every other run of 128 columns never loaded"),
    gpu("forward-slice-part", SEQUENCE, "part = blockIdx.x % parts, slice = blockIdx.x / parts",
        "slice = blockIdx.x % parts, part = blockIdx.x / parts", OWN, "slices and parts mixed up",
        of=2, nth=0),
    gpu("forward-ended", SEQUENCE, "if (!over[n]) state[n] = now;", "state[n] = now;", OWN,
        "the state runs on through the padding"),
    gpu("forward-gru-bias", SEQUENCE, "&& k < PLAIN_GATES) z", "&& k < GATES) z", OWN,
        "the bias that r multiplies counted without r, too"),
    gpu("forward-last-warp", SEQUENCE, "w < WARPS; w++", "w < WARPS - 1; w++",
        WARPS, "off by one: the last warp's columns of W_hh left out"),
    gpu("product-halves", PRODUCT, "(odd ? pair[1] : pair[0]) + other",
        "(odd ? pair[0] : pair[1]) + other", OWN, "the half that was just given away is kept"),
    gpu("product-fragment", PRODUCT, "group + 8 * (k % 2), 8 * i + place + 4 * (k / 2)",
        "group + 8 * (k / 2), 8 * i + place + 4 * (k % 2)", TENSOR,
        "a tensor core's operand in the layout of another"),
    gpu("product-cut-off", SEQUENCE, "as_operand(slope[n][k])", "slope[n][k]",
        IN_WINDOWS + "rounded", "cut off where it should be rounded: a bias of half a unit"),
]  # fmt: skip

BACKWARD = [
    gpu("backward-to-the-ended", SEQUENCE, "!cell.real_one || had_ended", "!cell.real_one",
        INFINITE, "0 times an infinite weight added to the gradient of a row that is over"),
    gpu("step-to-the-ended", STEPS, "received && !(ended", "received && !(false && ended",
        INFINITE, "the same where cuBLAS multiplies"),
    gpu("loop-to-the-ended", "ops/lstm.py", "hold(d, by, ended[t])", "d += by", INFINITE,
        "the same in the loop that a CPU runs"),
    gpu("backward-late-to-the-sums", SEQUENCE,
        "parts * (t_from - 1 - t));\n                __syncthreads();",
        "parts * (t_from - 1 - t));", ORDER,
        "missing barrier: only one thread waits for the other blocks"),
    gpu("backward-slopes-unready", SEQUENCE, MEETING + "\n        size_t block",
        "\n        size_t block", ORDER,
        "missing barrier: slopes are multiplied before all are there"),
    gpu("backward-arrives-early", SEQUENCE, "            });\n        __syncthreads();\n        if",
        "            });\n        if", ORDER, "missing barrier: told to be done before it is"),
    gpu("backward-waits-too-little", SEQUENCE, "parts * (t_from - 1 - t)",
        "parts * (t_from - 2 - t)", ORDER, "off by one: the step before is waited for"),
    gpu("backward-exchange-turn", SEQUENCE, "((t + 1) & 1) * slices", "(t & 1) * slices", OWN,
        "reads the half that is written next"),
    gpu("backward-exchange-stride", SEQUENCE, "size_t next = size_t(slice_rows) * PADDED;",
        "size_t next = PADDED;", OWN, "the next row taken for the next block"),
    gpu("backward-loads-twice", SEQUENCE, "4 * LOADS <= parts; p += 4 * LOADS)",
        "4 * LOADS <= parts; p += 8)", WARPS, "what some blocks have sent added twice"),
    gpu("backward-ended-state", SEQUENCE, "if (over[n]) by[n] = d[n];", "", OWN,
        "nothing flows past the padding to a row's end"),
    gpu("backward-ended-slopes", SEQUENCE, "if (over[n]) slope[n][k] = real(0);", "", OWN,
        "weights learn from the padding"),
    gpu("backward-carry-unread", SEQUENCE, "cell.real_one && t_from < T", "false", OWN,
        "each launch starts without what the last one left"),
    gpu("backward-met-state", SEQUENCE, "(k - MET_STATE) * UNITS", "k * UNITS", OWN,
        "the GRU's slopes one block too far"),
    gpu("backward-finish", SEQUENCE, "t_to - (finish ? 1 : 0)", "t_to", OWN,
        "what the first step has sent is never gathered"),
]  # fmt: skip

# ---- steps.cu, loss.cu, scatter.cu, update.cu ----

SMALL = [
    gpu("step-ended", STEPS, "if (ended && ended[size_t(t) * B + b]) now = old;", "", FUSED,
        "the state runs on through the padding"),
    gpu("step-carry", STEPS, "dh[after] + carry[place] + ", "dh[after] + ", FUSED,
        "what came by no weight is lost"),
    gpu("step-bias-stride", STEPS, "b_hh[k * H + unit]", "b_hh[unit]", FUSED,
        "all gates with the bias of the first"),
    gpu("loss-ignored", LOSS, "counts ? factor[row * step] : real(0)", "factor[row * step]",
        ENTROPY, "a gradient for ignored targets"),
    gpu("loss-room-reused", LOSS, "    __syncthreads();  // `room` may", "    // `room` may",
        ENTROPY, "missing barrier: the second sum overwrites the first"),
    gpu("loss-factor-step", LOSS, "factor[row * step]", "factor[row]", ENTROPY,
        "one factor for all rows read as one for each"),
    gpu("losses-all-counted", LOSS, "number += counted[row]", "number += 1", ENTROPY,
        "the mean over ignored targets, too"),
    gpu("losses-unready", LOSS,
        "    __syncthreads();\n    if (threadIdx.x != 0) return;\n    sum =",
        "    if (threadIdx.x != 0) return;\n    sum =", ENTROPY,
        "missing barrier: sums are read before all warps have written theirs"),
    gpu("sort-unstable", SCATTER, "place += tile[k] <= mine", "place += tile[k] < mine", ROWS,
        "equal numbers in one place"),
    gpu("sort-negative", SCATTER, "number < 0 ? number + size : number", "number", ROWS,
        "-1 is before the first row"),
    gpu("sort-tile-overwritten", SCATTER, MEETING + "        if (threadIdx.x < length)",
        "        if (threadIdx.x < length)", ROWS,
        "missing barrier: the next tile comes while this one is read"),
    gpu("rows-assigned", SCATTER, "* width + column] += sum", "* width + column] = sum", ROWS,
        "= for +=: what was there is lost"),
    gpu("scatter-sums-overwritten", SCATTER, MEETING + "        sums[", "        sums[", ROWS,
        "missing barrier: the next columns' sums come while these are read"),
    gpu("scatter-run-twice", SCATTER, "return {row, k, k};",
        "return {row, k, first_of(sorted, count, row + 1)};", ROWS,
        "a run counted again from its second number on"),
    gpu("scatter-columns-run", SCATTER, "* size + run.row] = sum", "* size + k] = sum", ROWS,
        "a run's number taken for its row"),
    gpu("take-columns-step", SCATTER, "numbers[step * count + b]", "numbers[b]", ROWS,
        "every step picks the columns of the first"),
    gpu("update-chunk-end", UPDATE, "begin + 4096 < size ? begin + 4096 : size", "begin + 4096",
        SQUARES, "beyond an array's end"),
    gpu("update-counter", UPDATE, "    if (threadIdx.x == 0) *finished = 0;\n", "", SQUARES,
        "a counter left where the next launch does not expect it"),
    gpu("update-nan", UPDATE, "unlimited || norm <= max_norm ? 1 : max_norm / (norm + 1e-6)",
        "norm > max_norm ? max_norm / (norm + 1e-6) : 1", SQUARES, "a NaN is not clipped"),
    gpu("update-last-block", UPDATE, "room[8] == 0", "room[8] == 1", SQUARES,
        "the chunks are added before all are there"),
    gpu("update-adam-eps", UPDATE, "(root_of(square) + eps)", "root_of(square + eps)", ADAM,
        "eps inside the root"),
]  # fmt: skip

# ---- Python around them ----

PLANS = [
    gpu("plan-too-many-blocks", PLAN, "room = device.processors // parts",
        "room = device.processors", CHOICE, "blocks that wait for blocks that never run"),
    gpu("plan-rows-left", PLAN, "launches=-(-B // (slices * slice_rows))",
        "launches=B // (slices * slice_rows)", CHOICE, "rounded down: the last rows never run"),
    gpu("plan-too-little-memory", PLAN, "(padded + 4 + WARPS * (rows + 8))",
        "(padded + 4 + WARPS * rows)", OWN, "shared memory without the ends of its rows"),
    gpu("plan-memory-unchecked", PLAN, "if made.shared_forward > device.shared_memory:",
        "if False:", CHOICE, "more shared memory than a block can have"),
    gpu("spans-finish", WINDOW, "[] if self.persistent else [(0, 0, T, 1)]", "[]", OWN,
        "what the first step has sent is never gathered"),
    gpu("window-counters-kept", WINDOW,
        "        for b in self._batches(B):\n"
        '            counters = device.arguments(device.xp.zeros(p.slices, dtype="uint32"))\n',
        '        counters = device.arguments(device.xp.zeros(p.slices, dtype="uint32"))\n'
        "        for b in self._batches(B):\n", TURNS,
        "counters not set back between launches: nobody waits any more"),
    gpu("window-carry-unset", WINDOW, "        carry[...] = 0\n", "", FUSED,
        "the last step starts from whatever was in memory"),
    gpu("window-slopes-met-state", WINDOW, "slopes[..., H:]", "slopes[..., :-H]", FUSED,
        "n, r, z sent through W_hh for r, z, q"),
    gpu("window-strides", WINDOW, "given = (self._whole(a) for a in (w_hh, b_ih, b_hh))",
        "given = (w_hh, b_ih, b_hh)", IN_WINDOWS + "views", "a kernel ignores strides"),
    gpu("window-empty", "ops/window.py", "if not (T and B and H):", "if False:",
        IN_WINDOWS + "empty", "a launch of no blocks"),
    gpu("window-limit", "ops/window.py", 'reason = "" if limit is None else',
        'reason = "" if True else', IN_WINDOWS + "limit",
        "gradients not limited where a kernel runs the loop"),
    gpu("window-dtypes", "ops/window.py", "a is not None and a.dtype != x.dtype", "False",
        IN_WINDOWS + "dtypes", "a kernel reads the bytes of one kind of number as another's"),
    gpu("window-time-order", "ops/window.py", "transpose((2, 0, 1))", "transpose((2, 1, 0))", FUSED,
        "steps and rows swapped"),
    gpu("window-lstm-weight-kind", "ops/lstm.py", "(h, _), _, _ = cache", "(_, h), _, _ = cache",
        FUSED, "dW_hh with the cell for the hidden state"),
    gpu("window-ids-order", "ops/window.py", "ids.reshape(-1), axis=0", "ids.T.reshape(-1), axis=0",
        IN_WINDOWS + "ids", "steps and rows swapped"),
    gpu("window-gru-weight-time", "ops/gru.py", "h[:-1], dz", "h[1:], dz", FUSED,
        "off by one in time: dW_hh with h_t for h_{t-1}"),
]  # fmt: skip

LAUNCHES = [
    gpu("launch-negative-rows", LAUNCH, "numbers * size + wide % max(1, size)",
        "numbers * size + wide", ALONE + "several_numbers", "-1 is in the row before"),
    gpu("launch-not-written-back", LAUNCH, "                target[...] = work\n",
        "                pass\n", ROWS, "a sum in a copy that nobody sees"),
    gpu("launch-last-rows", LAUNCH, "(-(-rows // height),)", "(max(1, rows // height),)", ENTROPY,
        "rounded down: the last rows never run"),
    gpu("launch-last-chunk", UPDATES, "-(-size // CHUNK) for", "size // CHUNK for", SQUARES,
        "rounded down: the end of an array never counts"),
    gpu("launch-strides", UPDATES, "a.dtype == dtype and a.flags.c_contiguous", "a.dtype == dtype",
        SQUARES, "a kernel ignores strides"),
    gpu("launch-places", UPDATES, "sizes, some)", "sizes, range(len(some)))", SQUARES,
        "the 49th array's square where the first one's belongs"),
    gpu("launch-one-counter", UPDATES, "key = self.stream()", "key = 0", ALONE + "stream",
        "launches that run at the same time count in one number"),
]  # fmt: skip

DIAGNOSIS = [
    gpu("trouble-nothing-tried", TROUBLE, "return _no_device(cupy) or _smoke()",
        "return _no_device(cupy)", SAID, "a GPU that is seen taken for one that computes"),
    gpu("trouble-whole-text", TROUBLE, "for line in str(error).splitlines():",
        "for line in [str(error)]:", SAID, "a library that was found blamed for another"),
    gpu("trouble-other-extra", TROUBLE, "built_for // 1000 > driver // 1000 == 12",
        "built_for // 1000 > driver // 1000", SAID, "an extra advised that does not help"),
]  # fmt: skip

MUTANTS = [*CELL, *FORWARD, *BACKWARD, *SMALL, *PLANS, *LAUNCHES, *DIAGNOSIS]
