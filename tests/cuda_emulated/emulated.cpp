/* The scheduler of fibers, the queue of a stream and graphs; see emulated.h. */
#include "emulated.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <algorithm>
#include <vector>

#include "device.h"

#ifdef EMULATED_ASAN
#include <sanitizer/common_interface_defs.h>
#endif

/* Saves the callee's registers on this stack, leaves its top in *from, and goes on with the other.
 * x86-64 as in the System V ABI. */
extern "C" void emulated_switch(void **from, void *to);
__asm__(".text\n"
        ".p2align 4\n"
        ".globl emulated_switch\n"
        ".hidden emulated_switch\n"
        ".type emulated_switch,@function\n"
        "emulated_switch:\n"
        "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
        "  movq %rsp, (%rdi)\n"
        "  movq %rsi, %rsp\n"
        "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n"
        "  ret\n"
        ".size emulated_switch,.-emulated_switch\n"
        ".section .note.GNU-stack,\"\",@progbits\n"
        ".text\n");

emulated_place emulated_here;

namespace {

constexpr size_t stack_bytes = 256 << 10;

struct fiber {
    char *stack;
    void *top; /* of the saved registers */
};

struct warp {
    uint64_t value[2][EMULATED_WORDS][32]; /* of this exchange and of the one before */
    unsigned turn, arrived, lanes;
};

struct copy {
    void *to;
    const void *from;
    size_t bytes;
};

struct thread {
    fiber *on;
    dim3 index;
    const unsigned *waits_for; /* goes on when *waits_for != seen */
    unsigned seen;
    bool done;
    std::vector<copy> copies;   /* begun and not waited for */
    std::vector<size_t> groups; /* where groups of them end */
};

struct block_state {
    const std::function<void()> *body;
    std::vector<thread> threads;
    std::vector<warp> warps;
    unsigned turn, arrived;
    unsigned named_turn[16], named_arrived[16];
    thread *running;
    char *shared;
};

block_state at;
/* Fibers for the next threads; they go with the plugin. */
struct fibers : std::vector<fiber *> {
    ~fibers() {
        for (fiber *f : *this) {
            munmap(f->stack, stack_bytes);
            delete f;
        }
    }
};
fibers idle;
size_t n_fiber;
void *scheduler;
#ifdef EMULATED_ASAN
void *scheduler_fake; /* AddressSanitizer's view of the scheduler's stack */
const void *scheduler_bottom;
size_t scheduler_size;
#endif

[[noreturn]] void die(const char *what) {
    fprintf(stderr, "emulated CUDA: block (%u, %u, %u), thread %u: %s\n", emulated_here.block.x,
            emulated_here.block.y, emulated_here.block.z, emulated_here.thread.x, what);
    abort();
}

void enter(fiber *f) {
#ifdef EMULATED_ASAN
    __sanitizer_start_switch_fiber(&scheduler_fake, f->stack, stack_bytes);
#endif
    emulated_switch(&scheduler, f->top);
#ifdef EMULATED_ASAN
    __sanitizer_finish_switch_fiber(scheduler_fake, nullptr, nullptr);
#endif
}

void leave(fiber *f) {
#ifdef EMULATED_ASAN
    void *fake;
    __sanitizer_start_switch_fiber(&fake, scheduler_bottom, scheduler_size);
#endif
    emulated_switch(&f->top, scheduler);
#ifdef EMULATED_ASAN
    __sanitizer_finish_switch_fiber(fake, &scheduler_bottom, &scheduler_size);
#endif
}

/* A fiber runs one thread after the other, as long as they do not wait. */
[[noreturn]] void fiber_main() {
#ifdef EMULATED_ASAN
    __sanitizer_finish_switch_fiber(nullptr, &scheduler_bottom, &scheduler_size);
#endif
    for (;;) {
        thread *t = at.running;
        (*at.body)();
        t->done = true;
        t->copies.clear();
        t->groups.clear();
        leave(t->on);
    }
}

fiber *take_fiber() {
    if (!idle.empty()) {
        fiber *f = idle.back();
        idle.pop_back();
        return f;
    }
    fiber *f = new fiber;
    void *memory = mmap(nullptr, stack_bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        die("no memory for a stack");
    }
    f->stack = static_cast<char *>(memory);
    /* Stacks begin at different lines of the caches. */
    size_t stagger = n_fiber++ % 64 * 448;
    void **top = reinterpret_cast<void **>(f->stack + stack_bytes - stagger) - 2;
    *--top = nullptr; /* keeps the entry aligned as after a call */
    *--top = reinterpret_cast<void *>(fiber_main);
    for (int i = 0; i < 6; i++) {
        *--top = nullptr;
    }
    f->top = top;
    return f;
}

void run_thread(thread *t) {
    at.running = t;
    emulated_here.thread = t->index;
    t->waits_for = nullptr;
    enter(t->on);
    if (t->done) {
        idle.push_back(t->on);
        t->on = nullptr;
    }
}

void wait_until_changed(const unsigned *turn, unsigned seen) {
    thread *t = at.running;
    t->waits_for = turn;
    t->seen = seen;
    leave(t->on);
}

void run_block(bool reverse) {
    size_t n = at.threads.size(), left = n;
    for (warp &w : at.warps) {
        w.turn = w.arrived = 0;
    }
    at.turn = at.arrived = 0;
    std::fill_n(at.named_turn, 16, 0u);
    std::fill_n(at.named_arrived, 16, 0u);
    for (size_t i = 0; i < n; i++) {
        thread *t = &at.threads[reverse ? n - 1 - i : i];
        t->done = false;
        t->on = take_fiber();
        run_thread(t);
        left -= t->done;
    }
    while (left != 0) {
        bool moved = false;
        for (size_t i = 0; i < n; i++) {
            thread *t = &at.threads[reverse ? n - 1 - i : i];
            if (!t->done && *t->waits_for != t->seen) {
                moved = true;
                run_thread(t);
                left -= t->done;
            }
        }
        if (!moved) {
            die("some threads wait for others that have ended or wait elsewhere");
        }
    }
}

/* Whether the next block, or grid, runs in descending order. */
bool is_reversed() {
    static unsigned turn;
    if (!emulated_settings().mixed) {
        return emulated_settings().reverse;
    }
    return (++turn * 2654435761u >> 16 & 1) != 0;
}

void run_grid(dim3 grid, dim3 block, size_t shared, const std::function<void()> &body) {
    bool reverse = is_reversed();
    unsigned n = block.x * block.y * block.z, n_block = grid.x * grid.y * grid.z;
    if (block.y != 1 || block.z != 1 || n == 0 || n > 1024 || n_block == 0 || grid.y > 65535 ||
        grid.z > 65535 || shared > emulated_shared_bytes()) {
        die("a launch of this shape is not possible");
    }
    at.body = &body;
    at.threads.assign(n, thread());
    at.warps.assign((n + 31) / 32, warp());
    for (unsigned i = 0; i < n; i++) {
        at.threads[i].index = dim3(i, 0, 0);
        at.warps[i / 32].lanes++;
    }
    emulated_here.block_size = block;
    emulated_here.grid = grid;
    at.shared = static_cast<char *>(aligned_alloc(64, (shared + 63) / 64 * 64 + 64));
    for (unsigned b = 0; b < n_block; b++) {
        unsigned i = reverse ? n_block - 1 - b : b;
        emulated_here.block = dim3(i % grid.x, i / grid.x % grid.y, i / grid.x / grid.y);
        memset(at.shared, 0xff, shared); /* NaN */
        run_block(is_reversed());
    }
    free(at.shared);
}

} // namespace

void emulated_syncthreads() {
    unsigned seen = at.turn;
    if (++at.arrived == at.threads.size()) {
        at.arrived = 0;
        at.turn++;
    } else {
        wait_until_changed(&at.turn, seen);
    }
}

void emulated_barrier(int name, unsigned threads) {
    if (name < 1 || name > 15 || threads % 32 != 0) {
        die("a barrier that there is not");
    }
    unsigned *turn = &at.named_turn[name], *arrived = &at.named_arrived[name];
    if (++*arrived == threads) {
        *arrived = 0;
        ++*turn;
    } else {
        wait_until_changed(turn, *turn);
    }
}

const uint64_t *emulated_exchange(uint64_t value) {
    return emulated_exchange(&value, 1);
}

const uint64_t *emulated_exchange(const uint64_t *value, int n) {
    warp *w = &at.warps[emulated_here.thread.x / 32];
    unsigned seen = w->turn;
    for (int i = 0; i < n; i++) {
        w->value[seen % 2][i][emulated_here.thread.x % 32] = value[i];
    }
    if (w->lanes != 32) {
        die("an exchange in a warp that is not whole");
    }
    if (++w->arrived == w->lanes) {
        w->arrived = 0;
        w->turn++;
    } else {
        wait_until_changed(&w->turn, seen);
    }
    return w->value[seen % 2][0];
}

void emulated_copy_later(void *to, const void *from, size_t bytes) {
    memset(to, 0xff, bytes); /* NaN until it is there */
    at.running->copies.push_back({to, from, bytes});
}

void emulated_copies_group() {
    at.running->groups.push_back(at.running->copies.size());
}

void emulated_copies_end(unsigned groups) {
    std::vector<copy> &copies = at.running->copies;
    std::vector<size_t> &ends = at.running->groups; /* of the groups among them */
    size_t n = copies.size();
    if (groups != 0) {
        n = ends.size() > groups ? ends[ends.size() - groups - 1] : 0;
    }
    for (size_t i = 0; i < n; i++) {
        const copy &c = copies[i];
        if (c.from != nullptr) {
            memcpy(c.to, c.from, c.bytes);
        } else {
            memset(c.to, 0, c.bytes);
        }
    }
    copies.erase(copies.begin(), copies.begin() + static_cast<std::ptrdiff_t>(n));
    for (size_t &end : ends) {
        end -= end < n ? end : n;
    }
    while (ends.size() > groups) {
        ends.erase(ends.begin());
    }
}

void *emulated_dynamic_shared() {
    return at.shared;
}

void emulated_launch(cudaStream_t stream, dim3 grid, dim3 block, size_t shared,
                     std::function<void()> body) {
    static long n_launch;
    if (n_launch++ == emulated_settings().fail) {
        emulated_set_error(cudaErrorLaunchFailure);
        return;
    }
    emulated_call(stream, [=]() { run_grid(grid, block, shared, body); });
}

/* ---- 16-bit floats, rounded to nearest even ---- */

uint16_t emulated_to_half(float x) {
    unsigned bits = __float_as_uint(x), sign = bits >> 16 & 0x8000u;
    bits &= 0x7fffffffu;
    if (bits > 0x7f800000u) {
        return static_cast<uint16_t>(sign | 0x7e00u);
    }
    if (bits >= 0x477ff000u) { /* 65520 and more */
        return static_cast<uint16_t>(sign | 0x7c00u);
    }
    if (bits < 0x38800000u) { /* below the smallest normal number: whole steps of 2^-24 */
        return static_cast<uint16_t>(
            sign | static_cast<unsigned>(rintf(ldexpf(__uint_as_float(bits), 24))));
    }
    bits += 0xfffu + (bits >> 13 & 1);
    return static_cast<uint16_t>(sign | (bits - 0x38000000u) >> 13);
}
