// Rows picked by number, and what belongs to rows of equal number added up again: the two halves of
// an embedding. Adding with atomics would give other last digits in every run; here each sum has
// one owner and one order, whatever the GPU does first.
//
// `sort_rows` puts the N numbers in order, equal ones as they came. What belongs to one row is then
// a *run* of neighbours, and a run belongs to one block (`add_rows`) or one warp (`sum_columns`).

__device__ __forceinline__ int row_of(long long number, int size) {  // -1 is the last row
    return int(number < 0 ? number + size : number);
}

// A number's place is how many come before it: the smaller ones, and equal ones further left. N^2
// comparisons in one launch, which for the N <= 16384 it is meant for is less than a radix sort's
// many launches cost. One thread per number; tiles of 256 numbers pass through shared memory.
extern "C" __global__ void __launch_bounds__(256) sort_rows(
    const long long* numbers, int* sorted, int* order, int count, int size) {
    SHARED_MEMORY(int, tile);
    int me = blockIdx.x * 256 + threadIdx.x, place = 0;
    int mine = me < count ? row_of(numbers[me], size) : 0;
    for (int start = 0; start < count; start += 256) {
        int length = min(256, count - start);
        __syncthreads();
        if (threadIdx.x < length) tile[threadIdx.x] = row_of(numbers[start + threadIdx.x], size);
        __syncthreads();
        int left = min(max(me - start, 0), length);  // how many of the tile are left of me
        for (int k = 0; k < left; ++k) place += tile[k] <= mine;
        for (int k = left; k < length; ++k) place += tile[k] < mine;
    }
    if (me >= count) return;
    sorted[place] = mine;
    order[place] = me;
}

// The first place in `sorted` whose number is at least `row`.
__device__ __forceinline__ int first_of(const int* sorted, int count, int row) {
    int below = 0, above = count;
    while (below < above) {
        int middle = below + (above - below) / 2;
        if (sorted[middle] < row) below = middle + 1;
        else above = middle;
    }
    return below;
}

struct Run { int row, begin, end; };  // begin = end: there is none

// Run number k. With fewer rows than numbers k is the row, else the place where the run begins:
// in a table of 100,000 rows nobody asks for each whether one of 3,200 numbers is its own.
__device__ __forceinline__ Run run_of(const int* sorted, int count, int size, int k) {
    if (size <= count) return {k, first_of(sorted, count, k), first_of(sorted, count, k + 1)};
    int row = sorted[k];
    if (k > 0 && sorted[k - 1] == row) return {row, k, k};
    return {row, k, first_of(sorted, count, row + 1)};
}

// target[number] += values: (size, width) and (count, width). Block (32, 8), grid (min(size,
// count), ceil(width / 32)): a block owns 32 columns of a row. Its eight warps take every eighth value of
// the run, and their sums are added in order.
extern "C" __global__ void __launch_bounds__(256) add_rows(
    real* target, const int* sorted, const int* order, const real* values, int count, int size,
    int width) {
    SHARED_MEMORY(real, sums);  // (8, 32)
    Run run = run_of(sorted, count, size, blockIdx.x);
    if (run.begin == run.end) return;  // the whole block
    for (int block = blockIdx.y; block * 32 < width; block += gridDim.y) {
        int column = block * 32 + threadIdx.x;
        real sum = 0;
        if (column < width)
            for (int k = run.begin + threadIdx.y; k < run.end; k += 8)
                sum += values[(long long)order[k] * width + column];
        __syncthreads();
        sums[threadIdx.y * 32 + threadIdx.x] = sum;
        __syncthreads();
        if (threadIdx.y != 0 || column >= width) continue;
        int warps = min(8, run.end - run.begin);
        for (int w = 1; w < warps; ++w) sum += sums[w * 32 + threadIdx.x];
        target[(long long)run.row * width + column] += sum;
    }
}

// total[:, row] = the sum of matrix[:, k] over the k whose number is `row`: (height, count) to
// (height, size), which the caller has filled with 0. A block has one row of the matrix, which the
// L1 cache holds while its warps take one run after the other: lane by lane, then by halves.
extern "C" __global__ void __launch_bounds__(256) sum_columns(
    const real* matrix, const int* sorted, const int* order, real* total, int count, int size) {
    const real* row = matrix + (long long)blockIdx.x * count;
    int lane = threadIdx.x % 32, runs = min(size, count);
    for (int k = threadIdx.x / 32; k < runs; k += blockDim.x / 32) {
        Run run = run_of(sorted, count, size, k);
        if (run.begin == run.end) continue;  // the whole warp
        real sum = 0;
        for (int i = run.begin + lane; i < run.end; i += 32) sum += row[order[i]];
        for (int apart = 16; apart; apart /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, apart);
        if (lane == 0) total[(long long)blockIdx.x * size + run.row] = sum;
    }
}

// out[t, g, b] = matrix[g, numbers[t, b]]: (height, size) and (steps, count) to (steps, height,
// count), all steps of a window in one launch.
extern "C" __global__ void __launch_bounds__(256) take_columns(
    const real* matrix, const long long* numbers, real* out, int steps, int height, int count,
    int size) {
    long long all = (long long)steps * height * count, stride = gridDim.x * 256LL;
    for (long long i = blockIdx.x * 256LL + threadIdx.x; i < all; i += stride) {
        long long step = i / count / height, b = i % count;
        out[i] = matrix[i / count % height * size + numbers[step * count + b]];
    }
}
