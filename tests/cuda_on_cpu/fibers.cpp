// Who runs next, and who waits for whom: the threads of a launch as fibers of one CPU thread.
//
// A fiber runs until it has to wait (or has ended); then another one is drawn from those that can
// go on. One seed, one order: a result that depends on the order, as it does where a barrier is
// missing, is found by a few seeds and can be repeated. When no fiber can go on and not all have
// ended, that is a deadlock, which launch.cpp reports.
//
// A fiber is started by makecontext, which gives it its stack; from then on _setjmp and _longjmp
// switch, because swapcontext makes a system call per switch, to set the mask of signals. (Compile
// with -U_FORTIFY_SOURCE: the C library's check of longjmp takes another stack for a mistake.)
#include "fibers.hpp"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>

namespace on_cpu {

Place place;
dim3 grid_size, block_size;
std::vector<Block> blocks;
std::vector<Block*> ready_blocks;
std::vector<Fiber*> at_counters;
Fiber* now = nullptr;
unsigned char* stacks = nullptr;
ucontext_t start;
sigjmp_buf home;
std::string problem;
void (*kernel)(void**);
void** kernel_arguments;
uint64_t dice;
unsigned usual_odds;

unsigned draw(size_t n) {  // xorshift64*
    dice ^= dice >> 12, dice ^= dice << 25, dice ^= dice >> 27;
    return unsigned((dice * 0x2545f4914f6cdd1dull >> 32) * n >> 32);
}

std::string text(const char* format, ...) {
    char line[400];
    va_list values;
    va_start(values, format);
    vsnprintf(line, sizeof line, format, values);
    va_end(values);
    return line;
}
std::string text(const uint3& i) { return text("(%u, %u, %u)", i.x, i.y, i.z); }
std::string name(const Fiber& f) {
    return "thread " + text(f.thread) + " of block " + text(f.block->index);
}
void fail(const std::string& what) {
    problem = what;
    siglongjmp(home, 1);
}

// ---- switching ------------------------------------------------------------------------------

namespace {
template <class T> T take(std::vector<T>& from, size_t i) {
    T taken = from[i];
    from[i] = from.back();
    from.pop_back();
    return taken;
}
void look_at_counters() {  // who has waited long enough?
    for (size_t i = at_counters.size(); i-- > 0;)
        if (*at_counters[i]->counter >= at_counters[i]->target) make_ready(*take(at_counters, i));
}
}  // namespace

void make_ready(Fiber& f) {
    f.state = READY;
    f.warp->ready.push_back(&f);
    if (!f.warp->listed) f.block->ready.push_back(f.warp);
    f.warp->listed = true;
    if (!f.block->listed) ready_blocks.push_back(f.block);
    f.block->listed = true;
}

// The next fiber, or null: of the warp that runs; once in about `odds` times of another warp;
// and in one of `odds` of those, of another block. (To draw from the whole grid would be ten
// times slower: a warp's stacks fit into the fastest cache.) Lists are allowed to name what has
// nothing to run.
Fiber* choose(unsigned odds) {
    Block* block = now->block;
    Warp* warp = now->warp;
    while (warp->ready.empty() || draw(odds) == 0) {
        if (block->ready.empty() || draw(odds) == 0) {
            if (ready_blocks.empty()) look_at_counters();  // an atomic may have moved one
            if (ready_blocks.empty()) return nullptr;
            size_t i = draw(ready_blocks.size());
            block = ready_blocks[i];
            if (block->ready.empty()) {
                take(ready_blocks, i)->listed = false;
                continue;
            }
        }
        size_t i = draw(block->ready.size());
        warp = block->ready[i];
        if (!warp->ready.empty()) break;
        take(block->ready, i)->listed = false;
    }
    return take(warp->ready, draw(warp->ready.size()));
}

namespace {
// A thread that has ended is not waited for: it may have been the last that others waited for.
void close_gathering(Gathering& g);
void open_barrier(Block& block);
[[noreturn]] void end_of_thread() {
    Block& block = *now->block;
    Warp& warp = *now->warp;
    now->state = ENDED;
    block.live -= 1;
    warp.live &= ~(1u << now->number % 32);
    if (block.live && block.at_barrier == block.live) open_barrier(block);
    for (Gathering& g : warp.gatherings)
        if (g.arrived && g.arrived == (g.mask & warp.live))
            close_gathering(g);
    go_on_with(choose());
}
void begin() {
    kernel(kernel_arguments);
    end_of_thread();
}
}  // namespace

unsigned lane() { return now->number % 32; }

void go_on_with(Fiber* next) {
    if (!next) siglongjmp(home, 1);
    now = next;
    place = {next->thread, next->block->index, next->block->bytes()};
    if (next->started) _longjmp(next->resume_here, 1);
    next->started = true;
    size_t before = size_t(next->block - blocks.data()) * next->block->fibers.size();
    start.uc_stack.ss_sp = stacks + (before + next->number) * STRIDE;
    start.uc_stack.ss_size = STACK;
    start.uc_link = nullptr;
    makecontext(&start, begin, 0);
    setcontext(&start);
    abort();
}

namespace {
__attribute__((noinline)) void give_way(unsigned odds = usual_odds) {
    Fiber* next = choose(odds);
    if (next != now && _setjmp(now->resume_here) == 0) go_on_with(next);
}
void wait(State state, const char* word, int line) {
    now->state = state, now->word = word, now->line = line;
    give_way();
}
}  // namespace

// ---- a block's barrier ----------------------------------------------------------------------

namespace {
void open_barrier(Block& block) {  // all live threads are there
    for (Fiber& f : block.fibers)
        if (f.state == AT_BARRIER) make_ready(f);
    block.at_barrier = 0;
}
}  // namespace

[[gnu::noinline]] void wrong_barrier(int line) {
    fail("barrier: " + name(*now) + text(" is in __syncthreads on line %d, others of its block in "
                                         "the one on line %d", line, now->block->line));
}

void meet_block(int line) {
    Block& block = *now->block;
    if (block.at_barrier && block.line != line) wrong_barrier(line);
    block.line = line;
    if (++block.at_barrier == block.live)
        open_barrier(block);
    else
        wait(AT_BARRIER, "__syncthreads", line);
}

// ---- meetings of a warp ---------------------------------------------------------------------

namespace {
void close_gathering(Gathering& g) {  // all live lanes of the warp that runs are there
    Fiber* first = now - lane();
    for (unsigned i = 0; i < 32; ++i)
        if (g.arrived >> i & 1 && first[i].state == IN_WARP) make_ready(first[i]);
    g.participants[g.turn] = g.arrived;
    g.arrived = 0;
    g.turn ^= 1;
}
}  // namespace

[[gnu::noinline]] void wrong_mask(const char* word, int line) {
    fail("warp: " + name(*now) + text(" is not in its own mask in %s on line %d", word, line));
}
[[gnu::noinline]] void wrong_word(const char* word, int line, int others) {
    fail("warp: " + name(*now) + text(" is in %s on line %d, other lanes on line %d", word, line,
                                      others));
}
[[gnu::noinline]] Gathering& new_gathering(Warp& warp, unsigned mask) {
    warp.gatherings.emplace_back();
    warp.gatherings.back().mask = mask;
    return warp.gatherings.back();
}

Meeting meet_warp(unsigned mask, const char* word, const Slot& mine, int line) {
    Warp& warp = *now->warp;
    unsigned bit = 1u << lane();
    if (!(mask & bit)) wrong_mask(word, line);
    size_t i = 0;
    while (i < warp.gatherings.size() && warp.gatherings[i].mask != mask) ++i;
    Gathering& g = i < warp.gatherings.size() ? warp.gatherings[i] : new_gathering(warp, mask);
    if (g.arrived && g.line != line) wrong_word(word, line, g.line);
    unsigned turn = g.turn;
    g.line = line;
    g.slots[turn][lane()] = mine;
    g.arrived |= bit;
    if (g.arrived == (mask & warp.live))
        close_gathering(g);
    else
        wait(IN_WARP, word, line);
    Gathering& after = warp.gatherings[i];  // meanwhile the list may have grown, and moved
    return {after.slots[turn], after.participants[turn]};
}

}  // namespace on_cpu

// ---- counters -------------------------------------------------------------------------------

// A moment at which order matters: another block may run at once, before the rest of this one has
// done what should have been done before arriving.
void arrive(unsigned* counter) {
    *counter += 1;
    on_cpu::look_at_counters();
    on_cpu::make_ready(*on_cpu::now);
    on_cpu::give_way(2);
}

void wait_until(const unsigned* counter, unsigned target, int line) {
    using namespace on_cpu;
    if (*counter >= target) return;
    now->counter = counter, now->target = target;
    at_counters.push_back(now);
    wait(AT_COUNTER, "wait_until", line);
}
