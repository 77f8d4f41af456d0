// Softmax cross entropy over the rows of logits z (N, V), with a class number k for each row:
//
//     softmax = exp(z - max z) / sum exp(z - max z)
//     loss    = log sum exp(z - max z) - (z[k] - max z)                       0 if not counted
//     grad    = factor * softmax - factor * (1 - smoothing) at k - factor * smoothing / V
//
// With smoothing s the loss is (1 - s) * loss + s * (the mean of the loss over all V classes).
//
// A row belongs to a team: a warp, eight of which make a block, while rows are short (a character
// model has 100 classes), or a block of 256 threads (a vocabulary of words). The threads of a team
// take columns in turn, so that neighbours read neighbours, and sum in an order that depends on V
// alone: the same numbers give the same bits. A row is read three times, but only once from afar.

// One number of all threads of a team from one of each; everybody gets it.
template <class Operation>
__device__ __forceinline__ real of_team(real x, Operation combine, real* room) {
    for (int apart = 16; apart; apart /= 2) x = combine(x, __shfl_xor_sync(0xffffffffu, x, apart));
    int warps = blockDim.x / 32;
    if (warps == 1) return x;
    __syncthreads();  // `room` may still be read from the time before
    if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = x;
    __syncthreads();
    x = room[0];
    for (int w = 1; w < warps; ++w) x = combine(x, room[w]);
    return x;
}

// Block (32, 8): eight rows, or (256, 1): one. Grid: as many as that takes.
extern "C" __global__ void __launch_bounds__(256) softmax_cross_entropy(
    const real* logits, const long long* targets, const bool* counted, real* loss, real* softmax,
    long long rows, int columns, real smoothing, real sharp) {  // sharp = 1 - smoothing
    SHARED_MEMORY(real, room);  // one number per warp
    long long row = (long long)blockIdx.x * blockDim.y + threadIdx.y;
    if (row >= rows) return;  // a whole warp: nobody waits for it
    const real* z = logits + row * columns;
    real* p = softmax + row * columns;
    auto larger = [](real a, real b) { return a > b ? a : b; };
    auto sum = [](real a, real b) { return a + b; };

    real top = z[0];
    for (int j = threadIdx.x; j < columns; j += blockDim.x) top = larger(z[j], top);
    top = of_team(top, larger, room);  // where a NaN gets lost here, it reaches the sum below
    real total = 0, shifted = 0;
    for (int j = threadIdx.x; j < columns; j += blockDim.x) {
        total += exp_of(z[j] - top);
        shifted += z[j] - top;
    }
    total = of_team(total, sum, room);  // >= 1: the largest term is exp(0)
    for (int j = threadIdx.x; j < columns; j += blockDim.x) p[j] = exp_of(z[j] - top) / total;
    if (smoothing != 0) shifted = of_team(shifted, sum, room);
    if (threadIdx.x != 0) return;
    real log_total = log_of(total), result = 0;
    if (counted[row]) {
        result = log_total - (z[targets[row]] - top);
        if (smoothing != 0)
            result = sharp * result + smoothing * (log_total - shifted / real(columns));
    }
    loss[row] = result;
}

// In the same teams. `step` is 1 where each row has a factor of its own, 0 where all share one.
extern "C" __global__ void __launch_bounds__(256) softmax_cross_entropy_backward(
    const real* softmax, const long long* targets, const bool* counted, const real* factor,
    int step, real* grad, long long rows, int columns, real everywhere, real sharp) {
    long long row = (long long)blockIdx.x * blockDim.y + threadIdx.y;
    if (row >= rows) return;
    bool counts = counted[row];
    real f = counts ? factor[row * step] : real(0);
    int target = counts ? int(targets[row]) : 0;
    for (int j = threadIdx.x; j < columns; j += blockDim.x) {
        real value = softmax[row * columns + j] * f;
        if (everywhere != 0) value -= f * everywhere;  // smoothing / V
        if (j == target) value -= f * sharp;
        grad[row * columns + j] = value;
    }
}

// All rows in one: total = the sum of the losses, or their mean over the rows that are counted (of
// none of them, over one), and their number. One block; sums in double, in an order that depends on
// the number of rows alone.
extern "C" __global__ void __launch_bounds__(256) reduce_losses(
    const real* loss, const bool* counted, real* total, real* count, long long rows, int mean) {
    SHARED_MEMORY(double, sums);  // two numbers per warp
    double sum = 0, number = 0;
    for (long long row = threadIdx.x; row < rows; row += 256) {
        sum += loss[row];
        number += counted[row];
    }
    for (int apart = 16; apart; apart /= 2) {
        sum += __shfl_xor_sync(0xffffffffu, sum, apart);
        number += __shfl_xor_sync(0xffffffffu, number, apart);
    }
    if (threadIdx.x % 32 == 0) {
        sums[threadIdx.x / 32] = sum;
        sums[8 + threadIdx.x / 32] = number;
    }
    __syncthreads();
    if (threadIdx.x != 0) return;
    sum = number = 0;
    for (int w = 0; w < 8; ++w) sum += sums[w], number += sums[8 + w];
    number = number > 1 ? number : 1;
    *count = real(number);
    *total = real(mean ? sum / number : sum);
}
