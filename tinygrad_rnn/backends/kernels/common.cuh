// What every kernel of this project shares. Stands in front of each .cu file (kernels/__init__.py).
//
// Three compilers read these files: NVRTC (at run time), nvcc (where there is one), and a plain C++
// compiler, for which tests/cuda_on_cpu has defined the words of CUDA and the functions below that
// are written in PTX here. A kernel that uses only these words can be run on a CPU, and is.

#ifdef __CUDACC__

// Dynamic shared memory, as an array of `type` called `name`. (Static __shared__ arrays are not
// used: their size would have to be known to the compiler, and ours depend on the network's.)
#define SHARED_MEMORY(type, name) extern __shared__ __align__(16) type name[]

// Read what another block has written during this launch: from the L2 cache, which all share. The
// compiler may neither keep an older value nor read before it has waited, hence "volatile".
__device__ __forceinline__ float load_shared_by_blocks(const float* address) {
    float x;
    asm volatile("ld.global.cg.f32 %0, [%1];" : "=f"(x) : "l"(address) : "memory");
    return x;
}
__device__ __forceinline__ double load_shared_by_blocks(const double* address) {
    double x;
    asm volatile("ld.global.cg.f64 %0, [%1];" : "=d"(x) : "l"(address) : "memory");
    return x;
}
__device__ __forceinline__ float4 load_shared_by_blocks(const float4* address) {
    float4 x;
    asm volatile("ld.global.cg.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w)
                 : "l"(address)
                 : "memory");
    return x;
}

// A counter in global memory on which blocks wait for each other. Whatever a thread wrote before
// it (or a thread it met in __syncthreads) has arrived is seen by whoever has waited.
__device__ __forceinline__ void arrive(unsigned* counter) {
    asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(counter) : "memory");
}
__device__ __forceinline__ void wait_until(const unsigned* counter, unsigned target) {
    unsigned seen;
    do {
        asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(counter) : "memory");
    } while (seen < target);
}

// One tensor core product: c (16, 8) += a (16, 8) b (8, 8), numbers rounded to TF32. A warp's lane
// `l` holds, with group = l / 4 and place = l % 4,
//     a[0..3] = A[group][place], A[group + 8][place], A[group][place + 4], A[group + 8][place + 4]
//     b[0..1] = B[place][group], B[place + 4][group]
//     c[0..3] = C[group][2 place], C[group][2 place + 1], C[group + 8][2 place], C[group + 8][...]
__device__ __forceinline__ void multiply_add_tf32(float* c, const unsigned* a, const unsigned* b) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
        "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// A float rounded to the 10 bits of mantissa that TF32 has, as the bits of a float.
__device__ __forceinline__ unsigned to_tf32(float x) {
    unsigned bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
    return bits;
}

#endif  // elsewhere, tests/cuda_on_cpu/cuda_words.hpp has defined all of this

// The type of the numbers: float or double.
#ifndef REAL
#define REAL float
#endif
typedef REAL real;

__device__ __forceinline__ float tanh_of(float x) { return tanhf(x); }
__device__ __forceinline__ double tanh_of(double x) { return tanh(x); }
__device__ __forceinline__ float exp_of(float x) { return expf(x); }
__device__ __forceinline__ double exp_of(double x) { return exp(x); }
__device__ __forceinline__ float log_of(float x) { return logf(x); }
__device__ __forceinline__ double log_of(double x) { return log(x); }
// sigmoid(x) = tanh(x / 2) / 2 + 1/2: no exponential that could overflow.
__device__ __forceinline__ real sigmoid_of(real x) {
    return real(0.5) * tanh_of(real(0.5) * x) + real(0.5);
}
