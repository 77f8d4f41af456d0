// What fibers.cpp (who runs next, who waits for whom) and launch.cpp (a grid, from start to end)
// share: the threads of the launch that is running, and what each of them waits for.
#pragma once

#include "cuda_words.hpp"

#include <cstdint>
#include <setjmp.h>
#include <string>
#include <ucontext.h>
#include <vector>

namespace on_cpu {

// Bytes of a fiber's stack: twice the longest frame that the harness accepts from the compiler.
// The odd lines behind keep the stacks from all falling into the same few places of the caches.
constexpr size_t STACK = 64 * 1024, STRIDE = STACK + 65 * 64;

enum State { READY, AT_BARRIER, IN_WARP, AT_COUNTER, ENDED };

struct Block;
struct Warp;
struct Fiber {
    jmp_buf resume_here;
    Block* block;
    Warp* warp;
    uint3 thread;
    unsigned number;  // in its block
    State state = READY;
    bool started = false;
    const char* word = "";              // what it waits in,
    int line = 0;                       // where,
    const unsigned* counter = nullptr;  // and for what
    unsigned target = 0;
};

// Lanes with one mask that meet again and again. Slots are in two sets, used in turn: a lane that
// is ahead fills the other set while a slower one still reads; it cannot be two meetings ahead.
struct Gathering {
    unsigned mask, arrived = 0, turn = 0, participants[2] = {0, 0};
    int line = 0;
    Slot slots[2][32];
};
struct Warp {
    unsigned live = 0;  // lanes that have not ended, as bits
    std::vector<Gathering> gatherings;
    std::vector<Fiber*> ready;  // fibers that can go on
    bool listed = false;        // in its block's `ready`
};
struct Block {
    uint3 index;
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    std::vector<Warp*> ready;   // warps that may have a fiber that can go on
    std::vector<uint4> memory;  // shared memory and its guard; uint4: aligned as on a GPU
    unsigned live, at_barrier = 0;
    int line = 0;         // of the barrier
    bool listed = false;  // in `ready_blocks`

    unsigned char* bytes() { return reinterpret_cast<unsigned char*>(memory.data()); }
};

extern std::vector<Block> blocks;
extern std::vector<Block*> ready_blocks;  // that may have a warp that can go on
extern std::vector<Fiber*> at_counters;   // fibers in wait_until
extern Fiber* now;                        // the one that runs; null outside a launch
extern unsigned char* stacks;
extern ucontext_t start;
extern sigjmp_buf home;      // where the launch goes on when no fiber can, or after a failure
extern std::string problem;  // empty: none
extern void (*kernel)(void**);
extern void** kernel_arguments;
extern uint64_t dice;
extern unsigned usual_odds;  // once in how many switches another warp comes next

unsigned draw(size_t n);  // from 0 to n - 1
void make_ready(Fiber& fiber);
[[noreturn]] void go_on_with(Fiber* next);  // null: go home
Fiber* choose(unsigned odds = usual_odds);
[[noreturn]] void fail(const std::string& what); 
std::string text(const char* format, ...) __attribute__((format(printf, 1, 2)));
std::string text(const uint3& index);
std::string name(const Fiber& fiber);

}  // namespace on_cpu
