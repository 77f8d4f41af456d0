// A recurrent layer over a whole window in one launch: the weights stay on the chip.
//
// Step by step, cuBLAS would read W_hh from the cache again and again, and every step would cost
// two launches. Here each block keeps its part of W_hh in registers for the whole window, and what
// the blocks have to tell each other, h_t on the way forward and dh_t on the way back, goes through
// the L2 cache (Diamos et al. 2016, "Persistent RNNs").
//
//   Who does what. A block owns UNITS hidden units (and so ROWS = GATES * UNITS rows of W_hh) and a
//   slice of `slice_rows` rows of the batch. `parts` blocks side by side cover all units of a slice
//   and wait for each other after every step; different slices never meet.
//
//   Forward.  pre[b][row] = sum_k W[row][k] h[b][k]. The eight warps split k, KW columns each, and
//   their sums meet in shared memory; then one thread per cell computes its gates and its state.
//
//   Backward. dh[b][k] = sum_row slope[b][row] W[row][k]. A block has only its own rows: its warps
//   split the columns k, it sends its part of the sum for *all* units, and everyone adds up what
//   has been sent for its own units, in the order of the parts: the result is always the same.
//
// The same kernels do one step per launch (t_from and t_to next to each other): then nobody waits
// inside, and any number of blocks may run.
//
// Macros: CELL (cells.cuh), TF32 (product.cuh), UNITS, KW, CELLS (cells per thread). `real` is
// float here: four numbers are read as a float4.
// tests/test_sequence_kernels.py runs this file on a CPU.

#ifndef UNITS
#define UNITS 16
#define KW 64
#define CELLS 1
#endif

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;
constexpr int ROWS = GATES * UNITS;   // of W_hh, in a block
constexpr int PADDED = WARPS * KW;    // H, rounded up
constexpr int TILE = PADDED + 4;      // stride of a row of h in shared memory: no bank conflicts
constexpr int SUMS = ROWS + 8;        // stride of a row of sums
constexpr int SLOPE_TILE = ROWS + 4;  // stride of a row of slopes
// Loads on their way at the same time, as far as registers go: one takes hundreds of cycles, and
// several hardly more.
constexpr int LOADS = CELLS > 2 ? 2 : 4;
constexpr int PLAIN_GATES = CELL == 3 ? 2 : GATES;  // whose two biases may be added up

// Which cell is the n-th of this thread, and whether there is one.
struct Cell {
    int local_b, local_unit, b, unit;
    bool mine, real_one;  // in this block; and inside the batch and the layer

    __device__ __forceinline__ Cell(
        int n, int b_first, int unit_first, int slice_rows, int B, int H) {
        int place = n * THREADS + threadIdx.x;
        local_b = place / UNITS, local_unit = place % UNITS;
        b = b_first + local_b, unit = unit_first + local_unit;
        mine = local_b < slice_rows;
        real_one = mine && b < B && unit < H;
    }
};

// ---- forward ----

// gates (T, B, GATES H): W_ih x_t, overwritten with the activated gates. h, c (T+1, B, H): slot
// t_from is given, the following ones are written. q (T, B, H) is the GRU's only. Biases, c, q and
// `ended` (T, B) may be null. `counters`: one per slice, 0 at the start.
extern "C" __global__ void __launch_bounds__(THREADS, 1) sequence_forward(
    real* gates, const real* w_hh, const real* b_ih, const real* b_hh, real* h, real* c, real* q,
    const bool* ended, unsigned* counters, int t_from, int t_to, int b_start, int B, int H,
    int parts, int slice_rows, int relu) {
    int part = blockIdx.x % parts, slice = blockIdx.x / parts;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int unit_first = part * UNITS, b_first = b_start + slice * slice_rows;
    SHARED_MEMORY(real, shared);
    real* tile = shared;                       // (slice_rows, TILE): h_t
    real* sums = shared + slice_rows * TILE;   // (WARPS, slice_rows, SUMS)

    Product<ROWS, KW> product;
    product.load([=](int row, int k) {
        int unit = unit_first + row % UNITS, column = warp * KW + k;
        if (unit >= H || column >= H) return real(0);
        return w_hh[(size_t(row / UNITS) * H + unit) * H + column];
    });
    for (int i = threadIdx.x; i < slice_rows * TILE; i += THREADS) tile[i] = real(0);

    State state[CELLS];
    for (int n = 0; n < CELLS; n++) {
        Cell cell(n, b_first, unit_first, slice_rows, B, H);
        size_t at = (size_t(t_from) * B + cell.b) * H + cell.unit;
        state[n].h = cell.real_one ? h[at] : real(0);
        state[n].c = cell.real_one && c ? c[at] : real(0);
    }

    for (int t = t_from; t < t_to; t++) {
        // What comes from the input, and both biases (of a GRU's n, where r stands between them,
        // one): before waiting, because nobody has to be waited for.
        real z[CELLS][GATES];
        bool over[CELLS];
#pragma unroll
        for (int n = 0; n < CELLS; n++) {
            Cell cell(n, b_first, unit_first, slice_rows, B, H);
            size_t row = size_t(t) * B + cell.b;
            over[n] = cell.real_one && ended && ended[row];
#pragma unroll
            for (int k = 0; k < GATES; k++) {
                z[n][k] = cell.real_one ? gates[(row * GATES + k) * H + cell.unit] : real(0);
                if (cell.real_one && b_ih) z[n][k] += b_ih[k * H + cell.unit];
                if (cell.real_one && b_hh && k < PLAIN_GATES) z[n][k] += b_hh[k * H + cell.unit];
            }
        }
        if (t > t_from && threadIdx.x == 0) wait_until(counters + slice, parts * (t - t_from));
        __syncthreads();

        // h_t of the slice, all units, a row to a warp. Rows outside of the batch stay 0.
        for (int b = warp; b < slice_rows && b_first + b < B; b += WARPS) {
            const real* h_t = h + (size_t(t) * B + b_first + b) * H;
            real* to = tile + b * TILE;
            if (H % 4 == 0) {
#pragma unroll LOADS
                for (int k = 4 * lane; k < H; k += 128) {
                    float4 v = load_shared_by_blocks(reinterpret_cast<const float4*>(h_t + k));
                    v.x = as_operand(v.x), v.y = as_operand(v.y);
                    v.z = as_operand(v.z), v.w = as_operand(v.w);
                    *reinterpret_cast<float4*>(to + k) = v;
                }
            } else {
                for (int k = lane; k < H; k += 32)
                    to[k] = as_operand(load_shared_by_blocks(h_t + k));
            }
        }
        __syncthreads();

        for (int b = 0; b < slice_rows; b += product.AT_ONCE)
            product.run(tile + b * TILE + warp * KW, TILE, [=](int row, int out, real sum) {
                sums[(warp * slice_rows + b + row) * SUMS + out] = sum;
            });
        __syncthreads();

        real pre_q[CELLS];
#pragma unroll
        for (int n = 0; n < CELLS; n++) {
            Cell cell(n, b_first, unit_first, slice_rows, B, H);
            if (!cell.real_one) continue;
            real u[GATES];
#pragma unroll
            for (int k = 0; k < GATES; k++) {
                const real* sum = sums + cell.local_b * SUMS + k * UNITS + cell.local_unit;
                u[k] = k >= PLAIN_GATES && b_hh ? b_hh[k * H + cell.unit] : real(0);
#pragma unroll
                for (int w = 0; w < WARPS; w++) u[k] += sum[w * slice_rows * SUMS];
            }
            State now = cell_forward(z[n], u, state[n], &pre_q[n], relu);
            if (!over[n]) state[n] = now;
            h[(size_t(t + 1) * B + cell.b) * H + cell.unit] = state[n].h;
        }
        if (t + 1 < t_to) {
            __syncthreads();
            if (threadIdx.x == 0) arrive(counters + slice);
        }
        // What nobody waits for.
#pragma unroll
        for (int n = 0; n < CELLS; n++) {
            Cell cell(n, b_first, unit_first, slice_rows, B, H);
            if (!cell.real_one) continue;
            size_t row = size_t(t) * B + cell.b;
#pragma unroll
            for (int k = 0; k < GATES; k++) gates[(row * GATES + k) * H + cell.unit] = z[n][k];
            if (c) c[(row + B) * H + cell.unit] = state[n].c;
            if (q) q[row * H + cell.unit] = pre_q[n];
        }
    }
}

// ---- backward ----

// What N parts have sent, added to `sum` one after the other. All loads are on their way before the
// first is needed.
template <int N>
__device__ __forceinline__ real add_up(real sum, const real* sent, size_t next) {
    real v[N];
#pragma unroll
    for (int i = 0; i < N; i++) v[i] = load_shared_by_blocks(sent + i * next);
#pragma unroll
    for (int i = 0; i < N; i++) sum += v[i];
    return sum;
}

// Steps t_from - 1, ..., t_to: t_from is the upper end, as `end` in window.py. dh, dc (T+1, B, H):
// what reaches each state from outside. Writes slopes (T, B, SLOPES H). `carry` (2, B, H) holds what
// goes from step to step by no weight, of h and of c, between launches; with `finish`, in the end,
// the gradient of the first state. `exchange` (2, slices, parts, slice_rows, PADDED): twice, so that
// nobody overwrites what others still read. The step after the last has sent nothing.
extern "C" __global__ void __launch_bounds__(THREADS, 1) sequence_backward(
    const real* gates, const real* w_hh, const real* h, const real* c, const real* q,
    const bool* ended, const real* dh, const real* dc, real* slopes, real* exchange, real* carry,
    unsigned* counters, int t_from, int t_to, int T, int finish, int b_start, int B, int H,
    int parts, int slice_rows, int relu) {
    int part = blockIdx.x % parts, slice = blockIdx.x / parts, warp = threadIdx.x / 32;
    int slices = gridDim.x / parts;
    int unit_first = part * UNITS, b_first = b_start + slice * slice_rows;
    SHARED_MEMORY(real, tile);  // (slice_rows, SLOPE_TILE): slopes of this block

    Product<KW, ROWS> product;
    product.load([=](int k, int row) {
        int unit = unit_first + row % UNITS, column = warp * KW + k;
        if (unit >= H || column >= H) return real(0);
        return w_hh[(size_t(row / UNITS) * H + unit) * H + column];
    });

    State by[CELLS];  // the gradient on its way from step to step, past the weights
    for (int n = 0; n < CELLS; n++) {
        Cell cell(n, b_first, unit_first, slice_rows, B, H);
        size_t at = size_t(cell.b) * H + cell.unit;
        bool given = cell.real_one && t_from < T;
        by[n].h = given ? carry[at] : real(0);
        by[n].c = given ? carry[size_t(B) * H + at] : real(0);
    }

    // With `finish` one more turn than there are steps: the last, with t = t_to - 1, only receives.
    for (int t = t_from - 1; t >= t_to - (finish ? 1 : 0); t--) {
        real z[CELLS][GATES], pre_q[CELLS], slope[CELLS][SLOPES];  // read before waiting
        State d[CELLS], old[CELLS], now[CELLS];
        bool over[CELLS], step = t >= t_to;
#pragma unroll
        for (int n = 0; n < CELLS; n++) {
            Cell cell(n, b_first, unit_first, slice_rows, B, H);
            size_t row = size_t(t) * B + cell.b, before = row * H + cell.unit;  // wraps for t = -1
            size_t after = before + size_t(B) * H;
            bool there = cell.real_one, both = cell.real_one && step;
            over[n] = !there || (both && ended && ended[row]);
            d[n].h = there ? dh[after] + by[n].h : real(0);
            d[n].c = there && c ? dc[after] + by[n].c : real(0);
            now[n].h = both ? h[after] : real(0);
            now[n].c = both && c ? c[after] : real(0);
            old[n].h = both ? h[before] : real(0);
            old[n].c = both && c ? c[before] : real(0);
            pre_q[n] = both && q ? q[before] : real(0);
#pragma unroll
            for (int k = 0; k < GATES; k++)
                z[n][k] = both ? gates[(row * GATES + k) * H + cell.unit] : real(0);
        }
        if (t < T - 1) {
            if (t < t_from - 1) {
                if (threadIdx.x == 0) wait_until(counters + slice, parts * (t_from - 1 - t));
                __syncthreads();
            }
#pragma unroll
            for (int n = 0; n < CELLS; n++) {
                Cell cell(n, b_first, unit_first, slice_rows, B, H);
                // To a row that had ended nothing was sent: 0 times an infinite weight is NaN. (A
                // cell outside of the batch looks at the last row, and goes on in the next line.)
                bool had_ended = ended && ended[size_t(t + 1) * B + min(cell.b, B - 1)];
                if (!cell.real_one || had_ended) continue;
                size_t block = (size_t((t + 1) & 1) * slices + slice) * parts;
                const real* sent =
                    exchange + (block * slice_rows + cell.local_b) * PADDED + cell.unit;
                real sum = real(0);
                size_t next = size_t(slice_rows) * PADDED;
                int p = 0;
                for (; p + 4 * LOADS <= parts; p += 4 * LOADS)
                    sum = add_up<4 * LOADS>(sum, sent + p * next, next);
                for (; p + 8 <= parts; p += 8) sum = add_up<8>(sum, sent + p * next, next);
                for (; p < parts; p++) sum = add_up<1>(sum, sent + p * next, next);
                d[n].h += sum;
            }
        }
        if (!step) {
#pragma unroll
            for (int n = 0; n < CELLS; n++) by[n] = d[n];
            break;
        }

#pragma unroll
        for (int n = 0; n < CELLS; n++) {
            Cell cell(n, b_first, unit_first, slice_rows, B, H);
            if (!cell.mine) continue;  // one outside batch or layer writes 0, for the product
            by[n] = cell_backward(d[n], z[n], pre_q[n], old[n], now[n], slope[n], relu);
            if (over[n]) by[n] = d[n];
#pragma unroll
            for (int k = 0; k < SLOPES; k++) {
                if (over[n]) slope[n][k] = real(0);
                if (k >= MET_STATE)
                    tile[cell.local_b * SLOPE_TILE + (k - MET_STATE) * UNITS + cell.local_unit] =
                        as_operand(slope[n][k]);
            }
        }
        __syncthreads();

        size_t block = (size_t(t & 1) * slices + slice) * parts + part;
        real* to = exchange + block * slice_rows * PADDED + warp * KW;
        for (int b = 0; b < slice_rows; b += product.AT_ONCE)
            product.run(tile + b * SLOPE_TILE, SLOPE_TILE, [=](int row, int k, real sum) {
                to[(b + row) * PADDED + k] = sum;
            });
        __syncthreads();
        if (threadIdx.x == 0) arrive(counters + slice);
#pragma unroll
        for (int n = 0; n < CELLS; n++) {  // what nobody waits for
            Cell cell(n, b_first, unit_first, slice_rows, B, H);
            if (!cell.real_one) continue;
            real* at = slopes + (size_t(t) * B + cell.b) * SLOPES * H + cell.unit;
#pragma unroll
            for (int k = 0; k < SLOPES; k++) at[k * H] = slope[n][k];
        }
    }

    for (int n = 0; n < CELLS; n++) {
        Cell cell(n, b_first, unit_first, slice_rows, B, H);
        size_t at = size_t(cell.b) * H + cell.unit;
        if (cell.real_one) {
            carry[at] = by[n].h;
            carry[size_t(B) * H + at] = by[n].c;
        }
    }
}
