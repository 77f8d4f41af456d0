"""The harness that runs CUDA kernels on a CPU: right kernels pass, mistakes of each kind are seen.

The kernels here are small and written for one question each. Wrong ones matter more than right
ones: a harness that finds no fault in them would find none in the real kernels either.
"""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass

import numpy as np
import pytest

from tests import cuda_on_cpu
from tests.cuda_on_cpu import KernelError, launch
from tinygrad_rnn.backends import kernels

pytestmark = cuda_on_cpu.needs_compiler
SEEDS = range(5)


@dataclass(frozen=True)
class Kernel:
    """One kernel, `k`, as a variant: ``Kernel("float* x, int n", "x[n] = 1;")``."""

    parameters: str
    body: str
    before: str = ""
    real: str = "float"
    threads: int = 256
    shared_memory: int = 4096
    cooperative: bool = True
    kernels = ("k",)

    @property
    def options(self) -> tuple[str, ...]:
        return ("-std=c++17", f"-DREAL={self.real}", f"-DTHREADS={self.threads}")

    def source(self) -> str:
        common = (kernels.HERE / "common.cuh").read_text(encoding="utf-8")
        head = f'extern "C" __global__ void __launch_bounds__(THREADS) k({self.parameters})'
        return f"{common}\n{self.before}\n{head} {{\n{self.body}\n}}\n"

    def __call__(self, grid, block, *arguments, **options) -> None:
        launch(self, "k", grid, block, arguments, **options)


def numbers(*shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def whole(*shape, dtype=np.float32, seed=0):
    """Small integers: sums and products of them are exact in any order."""
    return np.random.default_rng(seed).integers(-8, 9, shape).astype(dtype)


# ---- threads and indices ----


def test_every_thread_of_every_block_runs_once_and_knows_its_place():
    kernel = Kernel(
        "int* seen, int* sizes",
        """
        int thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
        int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
        atomicAdd(seen + block * (blockDim.x * blockDim.y * blockDim.z) + thread, 1);
        if (block == 0 && thread == 0) {
            sizes[0] = gridDim.x; sizes[1] = gridDim.y; sizes[2] = gridDim.z;
            sizes[3] = blockDim.x; sizes[4] = blockDim.y; sizes[5] = blockDim.z;
        }
        """,
    )
    for cooperative in (False, True):
        seen, sizes = np.zeros((24, 30), np.int32), np.zeros(6, np.int32)
        kernel((2, 3, 4), (5, 3, 2), seen, sizes, cooperative=cooperative)
        assert (seen == 1).all()
        assert sizes.tolist() == [2, 3, 4, 5, 3, 2]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numbers_are_computed_in_the_type_of_the_variant(dtype):
    kernel = Kernel(
        "const real* __restrict__ x, real* y, int n, real alpha",
        "int i = blockIdx.x * blockDim.x + threadIdx.x; if (i < n) y[i] = alpha * x[i];",
        real=kernels.REAL[np.dtype(dtype)],
    )
    x, y = numbers(100, dtype=dtype), np.full(100, np.nan, dtype)
    kernel(4, 32, x, y, np.int32(90), dtype(1 / 3))
    np.testing.assert_array_equal(y[:90], dtype(1 / 3) * x[:90])
    assert np.isnan(y[90:]).all()


def test_the_words_of_cuda_mean_what_they_mean_there():
    kernel = Kernel(
        "float* y, int* n, unsigned* u",
        """
        float4 v = make_float4(1, 2, 3, 4);
        *reinterpret_cast<float4*>(y) = v;
        y[4] = max(2, 3.5f); y[5] = min(2.0f, 3); y[6] = rsqrtf(4); y[7] = tanhf(99);
        y[8] = __uint_as_float(0x40490fdbu); y[9] = atomicAdd(y + 4, 1.0f); y[10] = __ldg(y + 1);
        #pragma unroll
        for (int i = 0; i < 2; ++i) n[i] = atomicMax(n + 2, 5);
        n[3] = atomicCAS(n + 4, 0, 9); n[5] = warpSize;
        u[0] = __float_as_uint(1.0f); u[1] = to_tf32(1.0f + 1.0f / 2048);
        u[2] = to_tf32(-1.0f - 1.0f / 2048); u[3] = to_tf32(1.0f + 0.999f / 2048);
        u[4] = to_tf32(__uint_as_float(0x7f800001u)); u[5] = to_tf32(__uint_as_float(0x7fffffffu));
        """,
    )
    y, n, u = np.zeros(11, np.float32), np.zeros(6, np.int32), np.zeros(6, np.uint32)
    kernel(1, 1, y, n, u)
    expected = [1, 2, 3, 4, 4.5, 2, 0.5, 1, np.float32(np.pi), 3.5, 2]
    np.testing.assert_array_equal(y, np.array(expected, np.float32))
    assert n.tolist() == [0, 5, 5, 0, 9, 32]
    assert u.view(np.float32)[:4].tolist() == [1, 1 + 2**-10, -1 - 2**-10, 1]  # ties: away from 0
    assert np.isnan((u[4:] & 0xFFFFE000).view(np.float32)).all()


# ---- barriers ----

BLOCK_SUM = """
    SHARED_MEMORY(real, sums);
    int i = threadIdx.x;
    sums[i] = x[blockIdx.x * blockDim.x + i];
    __syncthreads();
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        if (i < half) sums[i] += sums[i + half];
        __syncthreads();
    }
    if (i == 0) y[blockIdx.x] = sums[0];
"""


@pytest.mark.parametrize("seed", SEEDS)
def test_a_block_adds_its_numbers(seed):
    x, y = whole(7, 128), np.full(7, np.nan, np.float32)
    Kernel("const real* x, real* y", BLOCK_SUM)(7, 128, x, y, shared_memory=512, seed=seed)
    np.testing.assert_array_equal(y, x.sum(1))


def without(barrier: int, body: str) -> str:
    """The body with its `barrier`-th __syncthreads() left out."""
    parts = body.split("__syncthreads();")
    parts[barrier : barrier + 2] = [parts[barrier] + parts[barrier + 1]]
    return "__syncthreads();".join(parts)


@pytest.mark.parametrize("barrier", [0, 1])
def test_a_missing_barrier_shows(barrier):
    kernel = Kernel("const real* x, real* y", without(barrier, BLOCK_SUM))
    right = []
    for seed in SEEDS:
        x, y = whole(7, 128), np.full(7, np.nan, np.float32)
        kernel(7, 128, x, y, shared_memory=512, seed=seed)
        right.append(np.array_equal(y, x.sum(1)))
    assert not all(right)


ROTATE = """
    SHARED_MEMORY(float, all);
    for (int t = 0; t < 3; ++t) {
        all[threadIdx.x] = x[threadIdx.x];
        __syncthreads();
        x[threadIdx.x] = all[(threadIdx.x + 1) % blockDim.x];
        __syncthreads();
    }
"""


@pytest.mark.parametrize("barrier", [None, 0, 1])
def test_a_barrier_that_keeps_fast_threads_from_overtaking_is_missed_too(barrier):
    """Write, read, and write again: the second barrier protects from the next round."""
    kernel = Kernel("float* x", ROTATE if barrier is None else without(barrier, ROTATE))
    right = []
    for seed in SEEDS:
        x = np.arange(64, dtype=np.float32)
        kernel(1, 64, x, shared_memory=256, seed=seed)
        right.append(np.array_equal(x, np.roll(np.arange(64), -3)))
    assert all(right) == (barrier is None)


@pytest.mark.parametrize("waiting", ["__syncthreads();", "__syncwarp();"])
@pytest.mark.parametrize("seed", SEEDS)
def test_threads_that_have_ended_are_not_waited_for(waiting, seed):
    kernel = Kernel("int* x", f"if (threadIdx.x > 9) return; {waiting} x[threadIdx.x] = 1;")
    kernel(1, 64, x := np.zeros(64, np.int32), seed=seed)
    assert x.sum() == 10


@pytest.mark.parametrize("cooperative", [False, True])
def test_one_seed_is_one_order_of_threads_and_of_blocks(cooperative):
    kernel = Kernel(
        "int* turn, int* x", "x[blockIdx.x * blockDim.x + threadIdx.x] = atomicAdd(turn, 1);"
    )
    orders = []
    for seed in (0, 1, 0):
        orders.append(np.zeros((16, 64), np.int32))
        kernel(16, 64, np.zeros(1, np.int32), orders[-1], cooperative=cooperative, seed=seed)
        assert sorted(orders[-1].ravel()) == list(range(16 * 64))
    assert np.array_equal(orders[0], orders[2])
    of_lanes = [order[0, :32].argsort() for order in orders]
    assert not np.array_equal(of_lanes[0], of_lanes[1])
    of_blocks = [np.argsort(order.min(1)) for order in orders]
    assert not np.array_equal(of_blocks[0], of_blocks[1])
    assert not np.array_equal(of_blocks[0], np.arange(16))


# ---- warps ----


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.uint32])
def test_shuffles_move_numbers_between_lanes(dtype, seed):
    number = {"f4": "float", "f8": "double", "i4": "int", "u4": "unsigned"}
    kernel = Kernel(
        "const T* x, T* y",
        """
        T v = x[threadIdx.x];
        T* out = y + threadIdx.x;
        out[0] = __shfl_sync(0xffffffffu, v, 5);
        out[64] = __shfl_xor_sync(0xffffffffu, v, 3);
        out[128] = __shfl_down_sync(0xffffffffu, v, 4);
        out[192] = __shfl_up_sync(0xffffffffu, v, 1, 8);
        out[256] = __shfl_sync(0xffffffffu, v, 9, 8);
        out[320] = __shfl_xor_sync(0xffffffffu, v, 16, 16);
        for (int by = 16; by > 0; by /= 2) v += __shfl_xor_sync(0xffffffffu, v, by);
        out[384] = v;
        """,
        before=f"typedef {number[np.dtype(dtype).str[1:]]} T;",
    )
    x, y = np.arange(10, 74).astype(dtype), np.zeros((7, 2, 32), dtype)
    kernel(1, 64, x, y, seed=seed)
    lane, x = np.arange(32), x.reshape(2, 32)
    sources = [lane * 0 + 5, lane ^ 3, np.where(lane < 28, lane + 4, lane)]
    sources += [np.where(lane % 8 > 0, lane - 1, lane), lane // 8 * 8 + 1]
    sources += [np.where(lane < 16, lane, lane ^ 16)]  # from segments before one's own only
    np.testing.assert_array_equal(y[:6], np.stack([x[:, s] for s in sources]))
    np.testing.assert_array_equal(y[6], np.broadcast_to(x.sum(1, keepdims=True), (2, 32)))


def test_lanes_of_two_masks_meet_apart():
    kernel = Kernel(
        "int* x",
        """
        unsigned half = threadIdx.x < 16 ? 0x0000ffffu : 0xffff0000u;
        int rounds = threadIdx.x < 16 ? 2 : 5;
        for (int t = 0; t < rounds; ++t) x[threadIdx.x] = __shfl_xor_sync(half, x[threadIdx.x], 1);
        x[threadIdx.x] += 100 * __any_sync(0xffffffffu, threadIdx.x == 7);
        x[threadIdx.x] += 1000 * __all_sync(0xffffffffu, threadIdx.x == 7);
        """,
    )
    for seed in SEEDS:
        x = np.arange(32, dtype=np.int32)
        kernel(1, 32, x, seed=seed)
        lane = np.arange(32)
        np.testing.assert_array_equal(x, 100 + np.where(lane < 16, lane, lane ^ 1))


def test_a_lane_that_does_not_exist_gives_nan():
    kernel = Kernel("float* x", "x[threadIdx.x] = __shfl_down_sync(0xffffffffu, 1.0f, 4);")
    x = np.zeros(24, np.float32)
    kernel(1, 24, x)
    assert (x[:20] == 1).all()
    assert np.isnan(x[20:]).all()


TF32 = """
    int group = threadIdx.x / 4, place = threadIdx.x % 4;
    unsigned left[4], right[2];
    float sums[4];
    for (int i = 0; i < 4; ++i) {
        left[i] = BITS(a[(group + 8 * (i % 2)) * 8 + place + 4 * (i / 2)]);
        sums[i] = c[(group + 8 * (i / 2)) * 8 + 2 * place + i % 2];
    }
    for (int i = 0; i < 2; ++i) right[i] = BITS(b[(place + 4 * i) * 8 + group]);
    multiply_add_tf32(sums, left, right);
    for (int i = 0; i < 4; ++i) c[(group + 8 * (i / 2)) * 8 + 2 * place + i % 2] = sums[i];
"""


def tensor_core(a, b, c, bits="to_tf32", **options):
    """c + a @ b, as one warp computes it."""
    kernel = Kernel("const float* a, const float* b, float* c", TF32, f"#define BITS {bits}")
    kernel(1, 32, a, b, result := c.copy(), **options)
    return result


def mantissa_of_ten_bits(x, rounding):
    mantissa, exponent = np.frexp(x.astype(np.float64))
    return np.ldexp(rounding(mantissa * 2**11) / 2**11, exponent)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_tensor_core_product_of_integers_is_exact(seed):
    a, b, c = whole(16, 8, seed=seed), whole(8, 8, seed=seed + 10), whole(16, 8, seed=seed + 20)
    np.testing.assert_array_equal(tensor_core(a, b, c, seed=seed), c + a @ b)


@pytest.mark.parametrize(("bits", "how"), [("to_tf32", np.rint), ("__float_as_uint", np.trunc)])
def test_a_tensor_core_sees_ten_bits_of_a_mantissa(bits, how):
    """`to_tf32` rounds; the bits of a float as they are would be cut off. (No ties here.)"""
    a, b, c = numbers(16, 8), numbers(8, 8, seed=1), np.zeros((16, 8), np.float32)
    product = mantissa_of_ten_bits(a, how) @ mantissa_of_ten_bits(b, how)
    np.testing.assert_array_equal(tensor_core(a, b, c, bits), product.astype(np.float32))


LARGEST = np.finfo(np.float32).max  # rounds up, out of the range


@pytest.mark.parametrize("special", [np.inf, -np.inf, np.nan, LARGEST])
def test_a_tensor_core_keeps_what_is_not_finite(special):
    a, b, c = np.eye(16, 8, dtype=np.float32), np.ones((8, 8), np.float32), np.zeros((16, 8))
    a[0, 0] = special
    got = tensor_core(a, b, c.astype(np.float32))[0, 0]
    np.testing.assert_array_equal(got, np.float32(np.inf if special == LARGEST else special))


# ---- blocks that wait for each other ----

ROUNDS = """
    for (int t = 0; t < T; ++t) {
        float* from = x + t % 2 * gridDim.x * blockDim.x;
        float* to = x + (t + 1) % 2 * gridDim.x * blockDim.x;
        int i = blockIdx.x * blockDim.x + threadIdx.x;
        to[i] = load_shared_by_blocks(from + (i + blockDim.x) % (gridDim.x * blockDim.x)) + 1;
        __syncthreads();  // before
        if (threadIdx.x == 0) {
            arrive(counter);
            wait_until(counter, (t + 1) * gridDim.x);
        }
        __syncthreads();  // after
    }
"""


def rounds(body, seed, blocks=8, T=5, **options) -> bool:
    """Whether each block hands its numbers on to the block before it, T times, adding 1."""
    start = np.arange(blocks * 32, dtype=np.float32).reshape(blocks, 32)
    x = np.stack([start, np.full_like(start, np.nan)])
    kernel = Kernel("float* x, unsigned* counter, int T", body)
    kernel(blocks, 32, x, np.zeros(1, np.uint32), np.int32(T), seed=seed, **options)
    return np.array_equal(x[T % 2], np.roll(start, -T, 0) + T)


@pytest.mark.parametrize("seed", SEEDS)
def test_blocks_wait_for_each_other(seed):
    assert rounds(ROUNDS, seed, cooperative=True)


@pytest.mark.parametrize(
    "missing",
    [
        "__syncthreads();  // before",
        "__syncthreads();  // after",
        "wait_until(counter, (t + 1) * gridDim.x);",
    ],
)
def test_blocks_that_do_not_quite_wait_for_each_other_are_caught(missing):
    wrong = ROUNDS.replace(missing, "")
    assert wrong != ROUNDS
    assert not all(rounds(wrong, seed, cooperative=True) for seed in range(10))


def test_a_deadlock_says_who_waits_where():
    with pytest.raises(KernelError, match="deadlock") as caught:
        rounds(ROUNDS, 0, cooperative=False)
    said = str(caught.value)
    assert "31 in __syncthreads on line" in said
    assert "`__syncthreads();  // after`" in said
    assert "`wait_until(counter, (t + 1) * gridDim.x);` for a counter to be 8 (it is 1)" in said
    assert "thread (0, 0, 0) of block" in said
    assert "need a cooperative launch" in said


def test_a_deadlock_of_a_cooperative_launch_is_seen_too():
    wrong = ROUNDS.replace("(t + 1) * gridDim.x", "(t + 1) * gridDim.x + (blockIdx.x == 3)")
    with pytest.raises(KernelError, match=r"(?s)counter to be 41 \(it is 40\)") as caught:
        rounds(wrong, 1, T=5, cooperative=True)
    assert "cooperative launch" not in str(caught.value)
    assert rounds(ROUNDS, 1, cooperative=True)  # the library is as good as new


def test_a_counter_may_be_moved_by_other_means_than_arrive():
    kernel = Kernel(
        "unsigned* n", "if (blockIdx.x) wait_until(n, 64); else atomicAdd(n, 1); atomicMax(n, 64);"
    )
    for seed in SEEDS:
        kernel(3, 64, n := np.zeros(1, np.uint32), cooperative=True, seed=seed)
        assert n[0] >= 64


def test_a_large_cooperative_grid():
    """As large as the largest GPU's: the whole grid's stacks are there at once."""
    assert rounds(ROUNDS, 0, blocks=132, T=20, cooperative=True)


# ---- mistakes in waiting ----


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            "if (threadIdx.x < 9)\n__syncthreads();  // one\nelse\n__syncthreads();  // two",
            r"barrier: thread .* in __syncthreads on line \d+ `__syncthreads\(\);  // (one|two)`",
        ),
        ("if (threadIdx.x == 1) __syncwarp(); else __syncthreads();", "deadlock(?s:.*)__syncwarp"),
        ("__shfl_sync(0xffu, 1, 0);", "not in its own mask in __shfl_sync"),
        ("if (threadIdx.x < 9)\n__syncwarp();\nelse\n__syncwarp();", "warp: .* other lanes on"),
    ],
)
def test_threads_that_do_not_meet_are_reported(body, said):
    with pytest.raises(KernelError, match=said):
        Kernel("", body)(1, 32)


def test_an_endless_loop_ends():
    kernel = Kernel("int* x", "while (load_shared_by_blocks((volatile int*)x) == 0) {}")
    with pytest.raises(KernelError, match=r"time: thread \(0, 0, 0\) of block \(0, 0, 0\)"):
        kernel(1, 1, np.zeros(1, np.int32), patience=1)


# ---- mistakes with memory ----


@pytest.mark.parametrize(
    ("write", "said"),
    [
        ("all[128] = 0;", "block .* wrote byte 51[2-5] of its 512 bytes of shared memory"),
        ("all[140] += 1;", "block .* wrote byte 56[0-3] of its 512 bytes of shared memory"),
        ("all[131] = all[150];", "block .* wrote byte 52[4-7] of its 512 bytes of shared memory"),
        ("x[10] = 0;", "byte 4[0-3] of an array of 40 bytes was written"),
        ("x[11] += 1;", "byte 4[4-7] of an array of 40 bytes was written"),
        ("x[-1] = 0;", "byte -[1-4] of an array of 40 bytes was written"),
        ("x[13] = y[12];", "byte 5[2-5] of an array of 40 bytes was written"),
        ("const_cast<float*>(y)[3] = 1;", "an array that is const in the kernel was written"),
        ("x[1 << 30] = 0;", r"address: thread \(0, 0, 0\) of block .* touched 0x"),
        pytest.param(
            "x[0] = 100 / int(y[0]);",
            "division: thread",
            marks=pytest.mark.skipif(platform.machine() != "x86_64", reason="no trap elsewhere"),
        ),
    ],
)
def test_memory_that_is_not_a_kernels_own_is_guarded(write, said):
    kernel = Kernel("float* x, const float* y", f"SHARED_MEMORY(float, all); all[0] = 1; {write}")
    with pytest.raises(KernelError, match=said):
        kernel(2, 1, np.zeros(10, np.float32), np.zeros(10, np.float32), shared_memory=512)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_nobody_has_written_is_not_a_number(dtype):
    kernel = Kernel(
        "const real* x, real* y",
        "SHARED_MEMORY(real, all); y[0] = all[3]; y[1] = x[4]; y[2] = x[-1];",
        real=kernels.REAL[np.dtype(dtype)],
    )
    kernel(1, 1, np.zeros(4, dtype), y := np.zeros(3, dtype), shared_memory=64)
    assert np.isnan(y).all()


# ---- arguments ----


def test_structs_go_by_value():
    point = np.dtype([("n", np.int32), ("x", np.float64), ("y", np.float32)], align=True)
    kernel = Kernel(
        "Point p, double* out, const Point* many",
        "out[0] = p.n; out[1] = p.x; out[2] = p.y; out[3] = many[1].x;",
        before="struct Point { int n; double x; float y; };",
    )
    many = np.array([(1, 2.5, 3.5), (4, 5.5, 6.5)], point)
    kernel(1, 1, many[0], out := np.zeros(4), many)
    assert out.tolist() == [1, 2.5, 3.5, 5.5]
    with pytest.raises(TypeError, match="argument 0: scalar of V24 was declared"):
        kernel(1, 1, np.zeros(1, [("n", np.int32)])[0], out, many)


def test_arguments_may_overlap():
    kernel = Kernel(
        "const float* before, float* after", "after[threadIdx.x] = before[threadIdx.x];"
    )
    states = np.arange(8, dtype=np.float32).reshape(4, 2)
    before = states[:-1]
    before.flags.writeable = False  # the buffer that both share is written all the same
    kernel(1, 2, before, states[1:])
    assert states.tolist() == [[0, 1], [0, 1], [4, 5], [6, 7]]


def test_none_and_empty_arrays_are_null_pointers():
    kernel = Kernel("float* a, const int* b, int* n", "n[0] = (a == nullptr) + 2 * (b == nullptr);")
    kernel(1, 1, None, np.zeros(0, np.int32), n := np.zeros(1, np.int32))
    assert n[0] == 3


def test_arrays_of_vectors_are_arrays_of_numbers():
    kernel = Kernel("const float4* x, double2* y", "y[0].y = x[1].z;")
    kernel(1, 1, np.arange(8, dtype=np.float32), y := np.zeros(2))
    assert y.tolist() == [0, 6]


X = np.zeros(4, np.float32)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            (X.astype(np.float64), X, np.int32(1), np.float32(1)),
            "argument 0: array of f4 .* float64",
        ),
        ((X, X.astype(np.int32), np.int32(1), np.float32(1)), "argument 1: array of f4 .* int32"),
        ((X, X, np.int64(1), np.float32(1)), "argument 2: scalar of i4 was declared, .* int64"),
        ((X, X, np.uint32(1), np.float32(1)), "argument 2: scalar of i4 was declared, .* uint32"),
        ((X, X, 1, np.float32(1)), "argument 2: scalar of i4 was declared, this is a int"),
        ((X, X, np.int32(1), np.float64(1)), "argument 3: scalar of f4 .* float64"),
        ((X, X, np.int32(1), X[:1]), "argument 3: scalar of f4 was declared, this is a ndarray"),
        ((X, X, np.int32(1), None), "argument 3: scalar of f4 was declared, this is a NoneType"),
        ((np.float32(1), X, np.int32(1), np.float32(1)), "argument 0: array of f4 .* a float32"),
        ((X, X, np.int32(1)), "k has 4 arguments, not 3"),
    ],
)
def test_arguments_of_another_type_are_refused(wrong, said):
    kernel = Kernel("const real* x, real* y, int n, real alpha", "")
    with pytest.raises(TypeError, match=said):
        kernel(1, 1, *wrong)


def test_arrays_with_strides_or_without_permission_are_refused():
    kernel = Kernel("const float* x, float* y", "y[0] = x[0];")
    fixed = np.zeros(4, np.float32)
    fixed.flags.writeable = False
    kernel(1, 1, fixed, np.zeros(4, np.float32))
    with pytest.raises(ValueError, match=r"argument 1: .*read-only"):
        kernel(1, 1, fixed, fixed)
    with pytest.raises(ValueError, match=r"argument 0: .*not contiguous"):
        kernel(1, 1, numbers(4, 4)[:, 1], np.zeros(4, np.float32))


@pytest.mark.parametrize(
    ("grid", "block", "options", "said"),
    [
        (1, 257, {}, "exceeds the variant's 256 threads"),
        (1, (16, 17), {}, "exceeds the variant's 256 threads"),
        (1, (1, 1, 65), {}, r"the block \(1, 1, 65\) is outside"),
        (0, 1, {}, r"the grid \(0, 1, 1\) is outside"),
        ((1, 1, 1, 1), 1, {}, r"the grid \(1, 1, 1, 1\) is outside"),
        (1, 1, {"shared_memory": 4097}, "4097 bytes of shared memory exceed 4096"),
        (1, 1, {"cooperative": True}, "a variant that is not cooperative"),
    ],
)
def test_launches_beyond_what_the_variant_promises_are_refused(grid, block, options, said):
    with pytest.raises(ValueError, match=said):
        Kernel("", "", cooperative=False)(grid, block, **options)


def test_no_variant_has_more_shared_memory_than_a_gpu():
    with pytest.raises(ValueError, match="232449 bytes of shared memory exceed 232448"):
        Kernel("", "", shared_memory=1 << 20)(1, 1, shared_memory=232449)


def test_a_kernel_that_does_not_exist_or_does_not_compile():
    with pytest.raises(ValueError, match=r"no kernel 'other' among \('k',\)"):
        launch(Kernel("", ""), "other", 1, 1, [])
    with pytest.raises(KernelError, match=r"source:\d+:.*error: .*nonsense"):
        Kernel("", "nonsense();")(1, 1)
    with pytest.raises(KernelError, match="-Wframe-larger-than"):
        Kernel(
            "int* x",
            "volatile int large[10000]; large[x[0]] = 1; x[1] = large[x[1]];",
        )(1, 1, np.zeros(2, np.int32))


def test_a_variant_is_compiled_once():
    first, again = (cuda_on_cpu.compile(Kernel("", "return;")) for _ in range(2))
    assert first is again
    assert cuda_on_cpu.compile(Kernel("", "return;", real="double")) is not first


# ---- the words themselves ----


def test_every_function_that_common_cuh_writes_for_a_gpu_has_a_twin_here():
    """A twin that is missing fails to compile only where it is used; this looks at the names."""
    common = (kernels.HERE / "common.cuh").read_text(encoding="utf-8")
    for_gpu = common[common.index("#ifdef __CUDACC__") : common.index("#endif")]
    names = set(re.findall(r"__forceinline__ [\w ]+?\*?(\w+)\(", for_gpu))
    names |= set(re.findall(r"#define (\w+)\(", for_gpu))
    assert {"SHARED_MEMORY", "arrive", "wait_until", "multiply_add_tf32", "to_tf32"} <= names
    words = (cuda_on_cpu.HERE / "cuda_words.hpp").read_text(encoding="utf-8")
    assert not {n for n in names if not re.search(rf"\b{n}\(", words)}
