/* layers: session */
/*
 * Page bookkeeping as a property: random sequences of extend, truncate, share, drop and empty keep
 * the reference counts equal to what the tables say, never run out of pages, keep every page that
 * a query may still see, and hand a partly filled page to one writer only.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "session/pages.h"

enum { PAGE = PICO_PAGE_POSITIONS, MAX_SLOTS = 5, MAX_POSITIONS = 900 };

static uint64_t next_random(uint64_t *state) {
    uint64_t x = *state += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    return x ^ (x >> 31);
}

static uint32_t below(uint64_t *state, uint32_t n) {
    return (uint32_t)(next_random(state) >> 33) % n;
}

/* A model of the bytes: what was written to each cell, so that sharing and copying can be checked.
 */
typedef struct world {
    pico_pages pages;
    uint32_t length[MAX_SLOTS], top[MAX_SLOTS]; /* top: the longest it was since it was empty */
    uint32_t token[MAX_SLOTS][MAX_POSITIONS];   /* what each timeline holds */
    uint32_t *cell;                             /* (n_page * PAGE) what the device holds */
    uint32_t stamp;
} world;

/* The table, the counts and the free list agree. */
static void check_counts(const world *w) {
    const pico_pages *p = &w->pages;
    uint32_t *refs = calloc(p->n_page, sizeof *refs);
    uint32_t used = 0;
    assert_non_null(refs);
    for (uint32_t i = 0; i < p->n_slot * p->max_pages; i++) {
        if (p->table[i] >= 0) {
            assert_true((uint32_t)p->table[i] < p->n_page);
            refs[p->table[i]]++;
        }
    }
    for (uint32_t s = 0; s < p->n_slot; s++) {
        assert_int_equal(refs[p->scratch[s]], 0); /* never part of a timeline */
        used++;
    }
    for (uint32_t i = 0; i < p->n_page; i++) {
        used += refs[i] > 0;
        int is_scratch = 0;
        for (uint32_t s = 0; s < p->n_slot; s++) {
            is_scratch |= p->scratch[s] == (int32_t)i;
        }
        if (!is_scratch) {
            assert_int_equal(p->refs[i], refs[i]);
        }
    }
    assert_int_equal(p->n_free + used, p->n_page);
    for (uint32_t i = 0; i < p->n_free; i++) {
        assert_int_equal(refs[p->free[i]], 0);
    }
    free(refs);
}

/* Every position that the next query of a slot may see holds what the timeline says. */
static void check_contents(const world *w, uint32_t slot) {
    const pico_pages *p = &w->pages;
    for (uint32_t j = 0; j < w->length[slot]; j++) {
        int sink = p->window >= 0 && j < p->n_sink;
        int seen = p->window < 0 || (int64_t)j >= (int64_t)w->length[slot] - p->window;
        if (sink || seen) {
            int32_t cell = pico_pages_cell(p, slot, j);
            assert_true(cell >= 0);
            assert_int_equal(w->cell[cell], w->token[slot][j]);
        }
    }
}

static void do_copy(world *w, const pico_pages_copy *copy) {
    if (copy->from >= 0) {
        memcpy(w->cell + (size_t)copy->to * PAGE, w->cell + (size_t)copy->from * PAGE,
               copy->n * sizeof *w->cell);
    }
}

static void extend(world *w, uint32_t slot, uint32_t n) {
    pico_pages_copy copy;
    pico_pages_extend(&w->pages, slot, w->length[slot], w->length[slot] + n, &copy);
    do_copy(w, &copy);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t at = w->length[slot]++;
        w->token[slot][at] = ++w->stamp;
        w->cell[pico_pages_cell(&w->pages, slot, at)] = w->stamp;
    }
    pico_pages_drop(&w->pages, slot, w->length[slot]);
    uint32_t shortest = pico_pages_shortest(&w->pages, slot, w->length[slot]);
    w->top[slot] = w->length[slot] > w->top[slot] ? w->length[slot] : w->top[slot];
    assert_true(shortest == 0 || shortest + PICO_DECODE_ROWS_MAX <= w->top[slot]);
}

static void share(world *w, uint32_t from, uint32_t to) {
    pico_pages_copy copy;
    pico_pages_truncate(&w->pages, to, 0);
    pico_pages_share(&w->pages, from, to, w->length[from], &copy);
    do_copy(w, &copy);
    w->length[to] = w->length[from];
    w->top[to] = w->top[from];
    memcpy(w->token[to], w->token[from], sizeof w->token[to]);
}

/* Appends to slot, or shortens, copies or empties it, at random. */
static void step(world *w, uint32_t max_positions, uint32_t max_rows, uint64_t *random) {
    uint32_t slot = below(random, w->pages.n_slot), other = below(random, w->pages.n_slot);
    uint32_t room = max_positions - w->length[slot], what = below(random, 10);
    if (what < 5 && room > 0) {
        uint32_t n = 1 + below(random, max_rows);
        extend(w, slot, n < room ? n : room);
    } else if (what < 7) {
        uint32_t length = w->length[slot];
        uint32_t shortest = pico_pages_shortest(&w->pages, slot, length);
        assert_true(shortest <= length);
        uint32_t to = shortest + below(random, length - shortest + 1);
        to = what == 5 && length >= shortest + 3 ? length - below(random, 3) : to;
        pico_pages_truncate(&w->pages, slot, to);
        w->length[slot] = to;
        w->top[slot] = to == 0 ? 0 : w->top[slot];
    } else if (what < 9 && slot != other) {
        share(w, slot, other);
    } else if (below(random, 4) == 0) {
        pico_pages_truncate(&w->pages, slot, 0);
        w->length[slot] = w->top[slot] = 0;
    }
}

static void random_walk(int32_t window, uint32_t n_sink, uint32_t n_slot, uint32_t max_positions,
                        uint32_t max_rows, uint64_t seed) {
    world *w = calloc(1, sizeof *w);
    uint64_t random = seed;
    assert_non_null(w);
    assert_int_equal(
        pico_pages_open(&w->pages, window, n_sink, n_slot, max_positions, max_rows, NULL), PICO_OK);
    w->cell = calloc((size_t)w->pages.n_page * PAGE, sizeof *w->cell);
    assert_non_null(w->cell);
    for (uint32_t i = 0; i < 600; i++) {
        step(w, max_positions, max_rows, &random);
        check_counts(w);
        for (uint32_t s = 0; s < n_slot; s++) {
            check_contents(w, s);
        }
    }
    for (uint32_t s = 0; s < n_slot; s++) {
        pico_pages_truncate(&w->pages, s, 0);
        w->length[s] = 0;
    }
    assert_int_equal(w->pages.n_free + n_slot, w->pages.n_page); /* nothing leaks */
    free(w->cell);
    pico_pages_close(&w->pages);
    free(w);
}

static void full_attention_keeps_everything(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 6; seed++) {
        random_walk(-1, 0, 1 + (uint32_t)(seed % MAX_SLOTS), 700, 33, seed);
        random_walk(-1, 0, 3, 130, 130, seed);
    }
}

static void windows_drop_and_never_run_out(void **state) {
    (void)state;
    const int32_t windows[] = {0, 1, 63, 64, 65, 200};
    const uint32_t rows[] = {1, 32, 64, 100, 512};
    for (size_t i = 0; i < sizeof windows / sizeof *windows; i++) {
        for (size_t j = 0; j < sizeof rows / sizeof *rows; j++) {
            random_walk(windows[i], i % 2 == 0 ? 0 : 5, 1 + (uint32_t)(j % 4), 900, rows[j],
                        100 * i + j);
        }
    }
    random_walk(32, 70, 2, 900, 20, 9); /* sinks over more than one page */
}

/* A windowed pool is smaller than a full one, and its size does not grow with the length. */
static void a_window_bounds_the_pool(void **state) {
    (void)state;
    pico_pages a, b;
    assert_int_equal(pico_pages_open(&a, 128, 0, 2, 10000, 64, NULL), PICO_OK);
    assert_int_equal(pico_pages_open(&b, 128, 0, 2, 1000000, 64, NULL), PICO_OK);
    assert_int_equal(a.n_page, b.n_page);
    assert_true(a.n_page < 2 * 10000 / PAGE / 4);
    pico_pages_close(&a);
    pico_pages_close(&b);
}

static void too_many_cells_are_refused(void **state) {
    (void)state;
    pico_pages pages;
    pico_error err = {0};
    assert_int_equal(pico_pages_open(&pages, -1, 0, 1024, 1u << 24, 1, &err), PICO_E_LIMIT);
    assert_non_null(strstr(err.message, "1024"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(full_attention_keeps_everything),
        cmocka_unit_test(windows_drop_and_never_run_out),
        cmocka_unit_test(a_window_bounds_the_pool),
        cmocka_unit_test(too_many_cells_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
