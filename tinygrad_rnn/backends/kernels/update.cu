// An optimizer's step over all parameters of a network at once: their squares, the clipping that
// follows from them, and Adam. A network has a dozen arrays, most of them small; a launch for each
// would cost more than the arithmetic.
//
// The arrays of a launch come as a struct of their addresses and sizes. It is an argument, passed
// by value: nothing has to be copied to the device first. `backends/cupy_update.py` fills it in.
//
// Each array is cut into chunks of 4096 numbers, and a block has one chunk. Which block has which,
// and the order of all sums, depends on the sizes alone: the same numbers give the same bits.

struct Arrays {
    real* at[4][48];     // of each array up to four that belong together, as x, g, m and v of Adam
    long long size[48];  // numbers in each of them
    int first[49];       // the block that has the first chunk of each; behind the last: all blocks
    int place[48];       // where the sum of squares of each is to be written
    int count;           // arrays, at most 48
};

struct Chunk { int array; long long begin, end; };

__device__ __forceinline__ Chunk chunk_of(const Arrays& arrays) {
    int block = blockIdx.x, a = 0;
    while (a < arrays.count && arrays.first[a + 1] <= block) ++a;
    if (a == arrays.count) return {0, 0, 0};  // every array is empty
    long long begin = (block - arrays.first[a]) * 4096LL, size = arrays.size[a];
    return {a, begin, begin + 4096 < size ? begin + 4096 : size};
}

// x^2 in double, where no float's square overflows or is lost. Conversions flush floats below 1e-38
// to 0 (-ftz), so these are made from their bits: they are a whole number times 2^-149.
__device__ __forceinline__ double square_of(double x) { return x * x; }
__device__ __forceinline__ double square_of(float x) {
    unsigned bits = __float_as_uint(x) & 0x7fffffffu;
    double wide = bits < 0x00800000u ? double(bits) * 0x1p-149 : double(x);
    return wide * wide;
}

__device__ __forceinline__ double sum_of_warp(double x) {
    for (int apart = 16; apart; apart /= 2) x += __shfl_xor_sync(0xffffffffu, x, apart);
    return x;
}

// All threads get the sum; `room` is for one number per warp.
__device__ __forceinline__ double sum_of_block(double x, double* room) {
    x = sum_of_warp(x);
    __syncthreads();  // `room` may still be read from the time before
    if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = x;
    __syncthreads();
    x = room[0];
    for (int w = 1; w < 8; ++w) x += room[w];
    return x;
}

// squares[place] = the sum of squares of each array. A block adds up its chunk; the block that is
// done last adds the chunks, in their order whichever block it is, and leaves `finished` at 0.
//
// From all `places` squares, of this launch and of those before it, it then goes on to
//     norm = sqrt(sum squares)     factor = 1 if norm <= max_norm else max_norm / (norm + 1e-6)
// and writes them into `limit`; with places = 0 it does not.
extern "C" __global__ void __launch_bounds__(256) sum_squares(
    const Arrays arrays, double* chunks, unsigned* finished, double* squares, double* limit,
    int places, double max_norm, int unlimited) {  // unlimited: max_norm is infinite
    SHARED_MEMORY(double, room);  // 9
    Chunk chunk = chunk_of(arrays);
    const real* x = arrays.at[0][chunk.array];
    double sum = 0;
    for (long long i = chunk.begin + threadIdx.x; i < chunk.end; i += 256) sum += square_of(x[i]);
    sum = sum_of_block(sum, room);
    if (threadIdx.x == 0) {
        chunks[blockIdx.x] = sum;
        __threadfence();  // whoever sees the counter sees the sum
        room[8] = atomicAdd(finished, 1u) == gridDim.x - 1;
    }
    __syncthreads();
    if (room[8] == 0) return;
    __threadfence();
    int lane = threadIdx.x % 32;
    for (int a = threadIdx.x / 32; a < arrays.count; a += 8) {
        sum = 0;
        for (int k = arrays.first[a] + lane; k < arrays.first[a + 1]; k += 32)
            sum += load_shared_by_blocks(chunks + k);
        sum = sum_of_warp(sum);
        if (lane == 0) squares[arrays.place[a]] = sum;
    }
    if (threadIdx.x == 0) *finished = 0;
    if (places == 0) return;
    __syncthreads();
    sum = 0;
    for (int k = threadIdx.x; k < places; k += 256) sum += squares[k];
    sum = sum_of_block(sum, room);
    if (threadIdx.x != 0) return;
    double norm = sqrt(sum);
    limit[0] = norm;
    limit[1] = unlimited || norm <= max_norm ? 1 : max_norm / (norm + 1e-6);
}

// x *= factor for every array. The factor is read on the device, so that nobody waits for it; where
// it is 1, nothing was to be clipped and nothing is written.
extern "C" __global__ void __launch_bounds__(256) scale(const Arrays arrays, const double* factor) {
    double f = *factor;  // not narrowed: a float below 1e-38 would be flushed to 0
    if (f == 1) return;
    Chunk chunk = chunk_of(arrays);
    real* x = arrays.at[0][chunk.array];
    for (long long i = chunk.begin + threadIdx.x; i < chunk.end; i += 256) x[i] = real(x[i] * f);
}

__device__ __forceinline__ float root_of(float x) { return sqrtf(x); }
__device__ __forceinline__ double root_of(double x) { return sqrt(x); }

// The formula of `Backend.adam_step`, in its order of operations, for x, g, m and v.
extern "C" __global__ void __launch_bounds__(256) adam(
    const Arrays arrays, real beta1, real new1, real beta2, real new2,  // new1 = 1 - beta1
    real step_size, real eps, real decay, real shrink) {
    Chunk chunk = chunk_of(arrays);
    real* x = arrays.at[0][chunk.array];
    const real* g = arrays.at[1][chunk.array];
    real* m = arrays.at[2][chunk.array];
    real* v = arrays.at[3][chunk.array];
    for (long long i = chunk.begin + threadIdx.x; i < chunk.end; i += 256) {
        real weight = x[i] * shrink, gradient = g[i];
        if (decay != 0) gradient += decay * weight;
        real mean = m[i], apart = gradient - mean;
        mean = beta1 > real(0.5) ? mean + apart * new1 : gradient - apart * beta1;
        real square = v[i] * beta2 + gradient * new2 * gradient;
        m[i] = mean;
        v[i] = square;
        x[i] = weight - mean / (root_of(square) + eps) * step_size;
    }
}
