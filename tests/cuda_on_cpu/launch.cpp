// A launch, from start to end: blocks with their shared memory, stacks for their threads, and after
// it a look at what went wrong. A kernel's mistake must not take the whole test run down: what
// would be a crash or an endless loop comes back as a message, too.
#include "fibers.hpp"

#include <map>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/time.h>

namespace on_cpu {
namespace {

// ---- blocks ---------------------------------------------------------------------------------

// Behind a block's shared memory: numbers that nobody may change. As floats they are signalling
// NaN, so that a kernel that reads one, adds to it and writes it back has changed it, too.
constexpr size_t GUARD = 16 * 1024;  // bytes: a stride that is a little off is many rows off
unsigned char guard_byte(size_t i) {
    unsigned word = 0xffa50000u | (unsigned(i / 4) * 40503u & 0xffffu);
    return (unsigned char)(word >> 8 * (i % 4));
}

void make_block(Block& block, uint3 index, size_t shared) {
    unsigned threads = block_size.x * block_size.y * block_size.z;
    block = Block();
    block.index = index;
    block.live = threads;
    block.fibers.resize(threads);
    block.warps.resize((threads + 31) / 32);
    for (unsigned i = 0; i < threads; ++i) {
        Fiber& f = block.fibers[i];
        f.block = &block;
        f.warp = &block.warps[i / 32];
        f.number = i;
        f.thread = {i % block_size.x, i / block_size.x % block_size.y,
                    i / block_size.x / block_size.y};
        f.warp->live |= 1u << i % 32;
        make_ready(f);
    }
    block.memory.resize((shared + GUARD + 15) / 16);
    memset(block.bytes(), 0xff, shared);
    for (size_t i = 0; i < GUARD; ++i) block.bytes()[shared + i] = guard_byte(i);
}

void check_guard(Block& block, size_t shared) {
    for (size_t i = 0; i < GUARD && problem.empty(); ++i)
        if (block.bytes()[shared + i] != guard_byte(i))
            problem = "overrun: block " + text(block.index) +
                      text(" wrote byte %zu of its %zu bytes of shared memory", shared + i, shared);
}

// Who waits where, grouped by what they wait for; of many groups the first few.
void report_deadlock(bool cooperative) {
    std::map<std::string, std::pair<unsigned, std::string>> groups;
    for (Block& block : blocks)
        for (Fiber& f : block.fibers) {
            if (f.state == ENDED) continue;
            std::string where = f.word + text(" on line %d", f.line);
            if (f.state == AT_COUNTER)
                where += text(" for a counter to be %u (it is %u)", f.target, *f.counter);
            auto& group = groups[where];
            if (group.first++ == 0) group.second = name(f);
        }
    if (groups.empty()) return;
    problem = "deadlock: no thread can go on";
    int shown = 0;
    for (auto& [where, group] : groups)
        if (++shown <= 8)
            problem += text("\n  waiting: %u in ", group.first) + where + ", as " + group.second;
    if (!cooperative)
        problem += "\n  (blocks ran one after another: to wait for each other, they need a "
                   "cooperative launch)";
}

// ---- running them ---------------------------------------------------------------------------

void run_blocks(size_t shared, bool cooperative) {
    if (sigsetjmp(home, 1) == 0) {
        now = &blocks[0].fibers[0];  // `choose` asks whose block runs: none does yet
        go_on_with(choose());
    }
    now = nullptr;
    if (problem.empty()) report_deadlock(cooperative);
    for (Block& block : blocks) check_guard(block, shared);
}

std::vector<uint3> shuffled_blocks() {
    std::vector<uint3> order;
    for (unsigned z = 0; z < grid_size.z; ++z)
        for (unsigned y = 0; y < grid_size.y; ++y)
            for (unsigned x = 0; x < grid_size.x; ++x) order.push_back({x, y, z});
    for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[draw(i)]);
    return order;
}

void run(size_t shared, bool cooperative) {
    std::vector<uint3> order = shuffled_blocks();
    size_t together = cooperative ? order.size() : 1;
    size_t bytes = together * block_size.x * block_size.y * block_size.z * STRIDE;
    void* map = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) {
        problem = text("memory: none for stacks of %zu bytes", bytes);
        return;
    }
    madvise(map, bytes, MADV_NOHUGEPAGE);  // else a stack that needs 4 KB may be given 2 MB
    stacks = static_cast<unsigned char*>(map);
    getcontext(&start);
    for (size_t first = 0; first < order.size() && problem.empty(); first += together) {
        ready_blocks.clear();
        at_counters.clear();
        blocks.resize(together);
        for (size_t i = 0; i < together; ++i) make_block(blocks[i], order[first + i], shared);
        run_blocks(shared, cooperative);
    }
    blocks.clear();
    munmap(map, bytes);
}

// ---- signals --------------------------------------------------------------------------------

pthread_t thread_of_launch;

void on_signal(int signal, siginfo_t* info, void*) {
    if (!pthread_equal(pthread_self(), thread_of_launch)) {  // a timer's may come to any thread
        pthread_kill(thread_of_launch, signal);
        return;
    }
    if (!now) abort();
    if (signal == SIGVTALRM) fail("time: " + name(*now) + " is still at it: an endless loop?");
    if (signal == SIGFPE) fail("division: " + name(*now) + " divided an integer by zero");
    fail("address: " + name(*now) + text(" touched %p, which is nobody's", info->si_addr));
}

constexpr int CAUGHT[] = {SIGSEGV, SIGBUS, SIGFPE, SIGVTALRM};

// While one of these exists, the signals above end the launch instead of the process.
struct Catcher {
    // For the handler: the fiber's own stack may be what is full.
    std::vector<unsigned char> stack = std::vector<unsigned char>(64 * 1024);
    stack_t stack_before;
    struct sigaction before[4];

    explicit Catcher(long seconds) {
        thread_of_launch = pthread_self();
        stack_t ours = {};
        ours.ss_sp = stack.data(), ours.ss_size = stack.size();
        sigaltstack(&ours, &stack_before);
        struct sigaction action = {};
        action.sa_sigaction = on_signal;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK;
        for (int i = 0; i < 4; ++i) sigaction(CAUGHT[i], &action, &before[i]);
        set_timer(seconds);
    }
    ~Catcher() {
        set_timer(0);
        for (int i = 0; i < 4; ++i) sigaction(CAUGHT[i], &before[i], nullptr);
        sigaltstack(&stack_before, nullptr);
    }
    static void set_timer(long seconds) {  // of this process's own work; 0: none
        itimerval timer = {{0, 0}, {seconds, 0}};
        setitimer(ITIMER_VIRTUAL, &timer, nullptr);
    }
};

}  // namespace
}  // namespace on_cpu

// Null, or what went wrong, until the next launch. `sizes` are x y z of the grid and of a block.
ON_CPU_EXPORT const char* launch_on_cpu(void (*call)(void**), void** arguments,
                                        const unsigned* sizes, size_t shared, int cooperative,
                                        uint64_t seed, long seconds) {
    using namespace on_cpu;
    kernel = call, kernel_arguments = arguments;
    grid_size = {sizes[0], sizes[1], sizes[2]};
    block_size = {sizes[3], sizes[4], sizes[5]};
    dice = (seed + 1) * 0x9e3779b97f4a7c15ull;
    problem.clear();
    usual_odds = 64u << 2 * draw(3);  // some launches change warps and blocks a lot, some less
    Catcher catcher(seconds);
    run(shared, cooperative);
    return problem.empty() ? nullptr : problem.c_str();
}
