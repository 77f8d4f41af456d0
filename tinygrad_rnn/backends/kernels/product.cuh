// A matrix product whose left factor stays in the registers of a warp:
//
//     out[b][m] = sum_i weight(m, i) in[b][i]         OUT m's, IN i's, AT_ONCE rows b at a time
//
// `load` fetches the weights, once. `run` multiplies them by rows of shared memory, `stride`
// numbers apart, and hands each result to `store(b, m, sum)`. In plain float32, or, with TF32, on
// tensor cores, for which the numbers in shared memory have to be rounded before: `as_operand`.

#ifndef TF32
#define TF32 0
#endif

#if TF32

__device__ __forceinline__ real as_operand(real x) { return __uint_as_float(to_tf32(x)); }

// 8 rows at once: a warp does one tensor core product of (16, 8) times (8, 8) after the other.
template <int OUT, int IN>
struct Product {
    static constexpr int AT_ONCE = 8;
    unsigned w[OUT / 16][IN / 8][4];

    template <class Weight>
    __device__ __forceinline__ void load(Weight weight) {
        int lane = threadIdx.x % 32, group = lane / 4, place = lane % 4;
#pragma unroll
        for (int m = 0; m < OUT / 16; m++)
#pragma unroll
            for (int i = 0; i < IN / 8; i++)
#pragma unroll
                for (int k = 0; k < 4; k++)
                    w[m][i][k] = to_tf32(
                        weight(16 * m + group + 8 * (k % 2), 8 * i + place + 4 * (k / 2)));
    }

    template <class Store>
    __device__ __forceinline__ void run(const real* in, int stride, Store store) const {
        int lane = threadIdx.x % 32, group = lane / 4, place = lane % 4;
        float sum[OUT / 16][4] = {};
#pragma unroll
        for (int i = 0; i < IN / 8; i++) {
            unsigned v[2];
            v[0] = __float_as_uint(in[group * stride + 8 * i + place]);
            v[1] = __float_as_uint(in[group * stride + 8 * i + place + 4]);
#pragma unroll
            for (int m = 0; m < OUT / 16; m++) multiply_add_tf32(sum[m], w[m][i], v);
        }
#pragma unroll
        for (int m = 0; m < OUT / 16; m++)
#pragma unroll
            for (int k = 0; k < 4; k++)
                store(2 * place + k % 2, 16 * m + group + 8 * (k / 2), sum[m][k]);
    }
};

#else

__device__ __forceinline__ real as_operand(real x) { return x; }

// 4 rows at once. Lanes form 8 groups, which split the outputs,
// times 4 places, which split the inputs: so each number read from shared memory meets OUT / 8
// weights, and in the end lane and lane exchange halves until each place has the sums of one row.
template <int OUT, int IN>
struct Product {
    static constexpr int AT_ONCE = 4;
    static constexpr int MINE = OUT / 8;
    real w[MINE][IN / 4];

    template <class Weight>
    __device__ __forceinline__ void load(Weight weight) {
        int group = threadIdx.x % 8, place = threadIdx.x % 32 / 8;
#pragma unroll
        for (int m = 0; m < MINE; m++)
#pragma unroll
            for (int i = 0; i < IN / 4; i++)
                w[m][i] = weight(8 * m + group, 16 * (i / 4) + 4 * place + i % 4);
    }

    template <class Store>
    __device__ __forceinline__ void run(const real* in, int stride, Store store) const {
        int group = threadIdx.x % 8, place = threadIdx.x % 32 / 8;
        real sum[4][MINE] = {};
#pragma unroll
        for (int i = 0; i < IN / 16; i++) {
#pragma unroll
            for (int b = 0; b < 4; b++) {
                float4 v = *reinterpret_cast<const float4*>(in + b * stride + 16 * i + 4 * place);
#pragma unroll
                for (int m = 0; m < MINE; m++) {
                    sum[b][m] += w[m][4 * i] * v.x;
                    sum[b][m] += w[m][4 * i + 1] * v.y;
                    sum[b][m] += w[m][4 * i + 2] * v.z;
                    sum[b][m] += w[m][4 * i + 3] * v.w;
                }
            }
        }
        bool upper = place & 2, odd = place & 1;
#pragma unroll
        for (int m = 0; m < MINE; m++) {
            real pair[2];
#pragma unroll
            for (int k = 0; k < 2; k++) {
                real other = __shfl_xor_sync(~0u, upper ? sum[k][m] : sum[k + 2][m], 16);
                pair[k] = (upper ? sum[k + 2][m] : sum[k][m]) + other;
            }
            real other = __shfl_xor_sync(~0u, odd ? pair[0] : pair[1], 8);
            store(place, 8 * m + group, (odd ? pair[1] : pair[0]) + other);
        }
    }
};

#endif

