// The words of CUDA that this project's kernels use, for a plain C++ compiler.
//
// A .cu file with this header in front of it is C++17 and runs on a CPU: every CUDA thread is a
// *fiber*, a function with a stack of its own that gives way where CUDA threads wait for each
// other. Those places are declared here and live in fibers.cpp: barriers, meetings of a warp
// (shuffles, tensor core products) and counters on which blocks wait.
//
// What runs is the kernel's text with its indices, barriers and sums, in orders drawn from a
// seed. What this can NOT show: time; register and occupancy limits; that a kernel compiles for
// a GPU; the memory model (here every write is seen at once, by everybody: a missing fence, or a
// plain load where `load_shared_by_blocks` belongs, goes unnoticed); switches between two memory
// accesses (a fiber runs on until it waits, so `x += 1` by two threads is never torn);
// contraction to fused multiply-adds, flushed denormals, and the last digits of exp, log and
// tanh.
#pragma once

#include <cmath>
#include <cstring>
#include <math.h>  // the same functions without std::, as CUDA has them
#include <type_traits>
#include <utility>

// ---- qualifiers -----------------------------------------------------------------------------

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

// ---- vectors and indices --------------------------------------------------------------------

#define ON_CPU_VECTORS(type, name, bytes)                                                      \
    struct alignas(2 * bytes) name##2 { type x, y; };                                          \
    struct name##3 { type x, y, z; };                                                          \
    struct alignas(bytes == 8 ? 16 : 4 * bytes) name##4 { type x, y, z, w; };                  \
    inline name##2 make_##name##2(type x, type y) { return {x, y}; }                           \
    inline name##3 make_##name##3(type x, type y, type z) { return {x, y, z}; }                \
    inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
ON_CPU_VECTORS(float, float, 4)
ON_CPU_VECTORS(double, double, 8)
ON_CPU_VECTORS(int, int, 4)
ON_CPU_VECTORS(unsigned, uint, 4)
using dim3 = uint3;

namespace on_cpu {
// Set by fibers.cpp each time a fiber is resumed.
struct Place {
    uint3 thread, block;
    unsigned char* shared_memory;  // of the block
};
extern Place place;
extern dim3 grid_size, block_size;

// What a lane hands to the others of its warp, at most: a tensor core product's a[4] and b[2].
struct Slot { unsigned words[6]; };
struct Meeting {
    const Slot* slots;      // of the 32 lanes; may be read until this lane's next meeting
    unsigned participants;  // the lanes that came, as bits
};

// Each gives way to other fibers until what it waits for is there. `line` is that of the caller.
void meet_block(int line);
Meeting meet_warp(unsigned mask, const char* word, const Slot& mine, int line);
unsigned lane();
}  // namespace on_cpu

#define threadIdx on_cpu::place.thread
#define blockIdx on_cpu::place.block
#define blockDim on_cpu::block_size
#define gridDim on_cpu::grid_size
constexpr int warpSize = 32;

// ---- waiting --------------------------------------------------------------------------------
// `__builtin_LINE()` as a default argument is the line of the call: errors can name it.

inline void __syncthreads(int line = __builtin_LINE()) { on_cpu::meet_block(line); }
inline void __syncwarp(unsigned mask = 0xffffffffu, int line = __builtin_LINE()) {
    on_cpu::meet_warp(mask, "__syncwarp", {}, line);
}
inline void __threadfence() {}
inline void __threadfence_block() {}

// ---- what common.cuh says in PTX ------------------------------------------------------------

// Only in a function; filled with 0xff (as a float: not a number) before the block starts.
#define SHARED_MEMORY(type, name) \
    type* const name = reinterpret_cast<type*>(on_cpu::place.shared_memory)

template <class T> T load_shared_by_blocks(const T* address) { return *address; }
void arrive(unsigned* counter);
void wait_until(const unsigned* counter, unsigned target, int line = __builtin_LINE());

namespace on_cpu {
template <class To, class From> To as_bits(From x) {
    static_assert(sizeof(To) == sizeof(From), "sizes differ");
    To bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}
// A tensor core does not look at the 13 lowest bits of a TF32 number.
inline double from_tf32(unsigned bits) { return as_bits<float>(bits & 0xffffe000u); }
}  // namespace on_cpu

// Half of the last bit that stays is added to the magnitude: to the nearest, ties away from zero.
inline unsigned to_tf32(float x) {
    unsigned bits = on_cpu::as_bits<unsigned>(x);
    return x != x ? 0x7fffffffu : (bits + 0x1000u) & 0xffffe000u;
}

// c (16, 8) += a (16, 8) b (8, 8); who holds what is written in common.cuh. Products of TF32
// numbers are exact in double; a GPU adds them in an order and a width of its own, so that only
// sums that are exact in float32 agree to the last bit.
inline void multiply_add_tf32(float* c, const unsigned* a, const unsigned* b,
                              int line = __builtin_LINE()) {
    on_cpu::Slot mine = {{a[0], a[1], a[2], a[3], b[0], b[1]}};
    on_cpu::Meeting met = on_cpu::meet_warp(0xffffffffu, "multiply_add_tf32", mine, line);
    int group = on_cpu::lane() / 4, place = on_cpu::lane() % 4;
    for (int i = 0; i < 4; ++i) {
        int below = i / 2, column = 2 * place + i % 2;  // row: group + 8 below
        double sum = c[i];
        for (int k = 0; k < 8; ++k) {
            unsigned left = met.slots[4 * group + k % 4].words[below + 2 * (k / 4)];
            unsigned right = met.slots[4 * column + k % 4].words[4 + k / 4];
            sum += on_cpu::from_tf32(left) * on_cpu::from_tf32(right);
        }
        c[i] = float(sum);
    }
}

// ---- shuffles -------------------------------------------------------------------------------

namespace on_cpu {
// The value of lane `from`; 0xff in every byte if it did not take part (undefined in CUDA).
template <class T> T shuffle(unsigned mask, const char* word, T value, unsigned from, int line) {
    static_assert(std::is_arithmetic<T>::value && sizeof(T) >= 4, "shuffles move numbers");
    Slot mine;
    memcpy(&mine, &value, sizeof value);
    Meeting met = meet_warp(mask, word, mine, line);
    T result;
    memset(&result, 0xff, sizeof result);
    if (met.participants >> from & 1) memcpy(&result, &met.slots[from], sizeof result);
    return result;
}
// A warp may shuffle in segments of `width` lanes, a power of two: the last lane of ours.
inline unsigned last(int width) { return lane() | unsigned(width - 1); }
}  // namespace on_cpu

template <class T>
T __shfl_sync(unsigned mask, T value, int from, int width = 32, int line = __builtin_LINE()) {
    unsigned first = on_cpu::lane() & ~unsigned(width - 1);
    return on_cpu::shuffle(mask, "__shfl_sync", value, first | (from & (width - 1)), line);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int flip, int width = 32, int line = __builtin_LINE()) {
    unsigned from = on_cpu::lane() ^ flip;
    if (from > on_cpu::last(width)) from = on_cpu::lane();
    return on_cpu::shuffle(mask, "__shfl_xor_sync", value, from, line);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32,
                   int line = __builtin_LINE()) {
    unsigned from = on_cpu::lane() + by;
    if (from > on_cpu::last(width)) from = on_cpu::lane();
    return on_cpu::shuffle(mask, "__shfl_down_sync", value, from, line);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32, int line = __builtin_LINE()) {
    int from = int(on_cpu::lane()) - int(by);
    if (from < int(on_cpu::lane() & ~unsigned(width - 1))) from = int(on_cpu::lane());
    return on_cpu::shuffle(mask, "__shfl_up_sync", value, unsigned(from), line);
}
inline unsigned __ballot_sync(unsigned mask, int yes, int line = __builtin_LINE()) {
    on_cpu::Meeting met = on_cpu::meet_warp(mask, "__ballot_sync", {{unsigned(yes != 0)}}, line);
    unsigned bits = 0;
    for (unsigned i = 0; i < 32; ++i)
        if (met.participants >> i & 1) bits |= met.slots[i].words[0] << i;
    return bits;
}
inline int __any_sync(unsigned mask, int yes, int line = __builtin_LINE()) {
    return __ballot_sync(mask, yes, line) != 0;
}
inline int __all_sync(unsigned mask, int yes, int line = __builtin_LINE()) {
    return __ballot_sync(mask, !yes, line) == 0;
}

// ---- memory and arithmetic ------------------------------------------------------------------

// A fiber is never interrupted, so that plain statements are atomic here.
namespace on_cpu {
template <class T> using Same = std::common_type_t<T>;  // an argument that follows another's type
template <class T, class F> T exchange(T* address, F change) {
    T before = *address;
    *address = change(before);
    return before;
}
}  // namespace on_cpu
template <class T> T atomicAdd(T* address, on_cpu::Same<T> x) {
    return on_cpu::exchange(address, [=](T seen) { return T(seen + x); });
}
template <class T> T atomicMax(T* address, on_cpu::Same<T> x) {
    return on_cpu::exchange(address, [=](T seen) { return seen < x ? x : seen; });
}
template <class T> T atomicMin(T* address, on_cpu::Same<T> x) {
    return on_cpu::exchange(address, [=](T seen) { return x < seen ? x : seen; });
}
template <class T> T atomicExch(T* address, on_cpu::Same<T> x) {
    return on_cpu::exchange(address, [=](T) { return x; });
}
template <class T> T atomicCAS(T* address, on_cpu::Same<T> old, on_cpu::Same<T> x) {
    return on_cpu::exchange(address, [=](T seen) { return seen == old ? x : seen; });
}

template <class T> T __ldg(const T* address) { return *address; }
template <class T> T __ldcg(const T* address) { return *address; }
template <class T> void __stcg(T* address, T value) { *address = value; }

inline float __uint_as_float(unsigned x) { return on_cpu::as_bits<float>(x); }
inline unsigned __float_as_uint(float x) { return on_cpu::as_bits<unsigned>(x); }
inline float __int_as_float(int x) { return on_cpu::as_bits<float>(x); }
inline int __float_as_int(float x) { return on_cpu::as_bits<int>(x); }

template <class A, class B> std::common_type_t<A, B> min(A a, B b) { return b < a ? b : a; }
template <class A, class B> std::common_type_t<A, B> max(A a, B b) { return a < b ? b : a; }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __fdividef(float a, float b) { return a / b; }

// ---- what harness.py asks of a compiled kernel ------------------------------------------------

namespace on_cpu {
// An argument as NumPy would say it: kind f, i, u, b or V (a struct) and bytes of an element.
struct Argument { int pointer, constant, kind, bytes; };

template <class T> constexpr int kind() {
    return std::is_same<T, bool>::value           ? 'b'
           : std::is_floating_point<T>::value     ? 'f'
           : !std::is_integral<T>::value          ? 'V'
           : std::is_signed<T>::value             ? 'i'
                                                  : 'u';
}
// Arrays of float2, float4 and so on are arrays of the number in NumPy.
template <class T> struct Element { typedef T type; };
template <> struct Element<float2> { typedef float type; };
template <> struct Element<float4> { typedef float type; };
template <> struct Element<double2> { typedef double type; };

template <class T> struct Describe {
    static constexpr Argument value = {0, 1, kind<T>(), sizeof(T)};
};
template <class T> struct Describe<T*> {
    typedef typename Element<std::remove_cv_t<T>>::type E;
    static constexpr Argument value = {1, std::is_const<T>::value, kind<E>(), sizeof(E)};
};

template <class... A, size_t... I>
void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_cv_t<A>*>(arguments[I])...);
}
template <class... A> void call(void (*kernel)(A...), void** arguments) {
    call(kernel, arguments, std::index_sequence_for<A...>());
}
template <class... A> const Argument* describe(void (*)(A...)) {  // ends with a kind of 0
    static const Argument all[] = {Describe<std::remove_cv_t<A>>::value..., {0, 0, 0, 0}};
    return all;
}
}  // namespace on_cpu

#define ON_CPU_EXPORT extern "C" __attribute__((visibility("default")))
#define ON_CPU_KERNEL(name)                                                                     \
    ON_CPU_EXPORT void name##_call(void** arguments) { on_cpu::call(name, arguments); }         \
    ON_CPU_EXPORT const on_cpu::Argument* name##_arguments() { return on_cpu::describe(name); }
