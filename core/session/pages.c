/* Page tables, sharing and dropping; see pages.h. */
#include "session/pages.h"

#include <assert.h>
#include <stdlib.h>

enum { PAGE = PICO_PAGE_POSITIONS };

static uint32_t pages_for(uint64_t positions) {
    return (uint32_t)((positions + PAGE - 1) / PAGE);
}

pico_status pico_pages_open(pico_pages *pages, int32_t window, uint32_t n_sink, uint32_t n_slot,
                            uint32_t max_positions, uint32_t max_rows, pico_error *err) {
    uint32_t per_slot = pages_for(max_positions);
    *pages = (pico_pages){.window = window, .n_sink = n_sink, .n_slot = n_slot};
    pages->max_pages = per_slot;
    if (window >= 0) {
        /* window + slack + one call, which may touch a partial page at either end, + sinks */
        uint64_t live = (uint64_t)window + PICO_DECODE_ROWS_MAX + max_rows + 2 * PAGE;
        uint32_t windowed = pages_for(live) + pages_for(n_sink);
        per_slot = windowed < per_slot ? windowed : per_slot;
    }
    uint64_t n_page = (uint64_t)n_slot * (per_slot + 1u); /* + 1: scratch for trees */
    if (n_page * PAGE > INT32_MAX) {
        return pico_fail(err, PICO_E_LIMIT,
                         "%u timelines of %u positions need more KV cells than the 2^31 there can "
                         "be",
                         n_slot, max_positions);
    }
    pages->n_page = (uint32_t)n_page;
    size_t cells = (size_t)n_slot * pages->max_pages;
    pages->table = malloc((cells + 1) * sizeof *pages->table);
    pages->refs = calloc(n_page + 1, sizeof *pages->refs);
    pages->free = malloc((n_page + 1) * sizeof *pages->free);
    pages->end = calloc(n_slot + 1u, sizeof *pages->end);
    pages->scratch = malloc((n_slot + 1u) * sizeof *pages->scratch);
    if (pages->table == NULL || pages->refs == NULL || pages->free == NULL || pages->end == NULL ||
        pages->scratch == NULL) {
        pico_pages_close(pages);
        return pico_fail(err, PICO_E_NOMEM, "out of memory for %llu page entries",
                         (unsigned long long)cells);
    }
    for (size_t i = 0; i < cells; i++) {
        pages->table[i] = -1;
    }
    for (uint32_t i = 0; i < pages->n_page; i++) {
        pages->free[i] = (int32_t)(pages->n_page - 1 - i); /* page 0 is handed out first */
    }
    pages->n_free = pages->n_page;
    for (uint32_t i = 0; i < n_slot; i++) {
        pages->scratch[i] = pages->free[--pages->n_free];
    }
    pages->dirty = 1;
    return PICO_OK;
}

void pico_pages_close(pico_pages *pages) {
    free(pages->table);
    free(pages->refs);
    free(pages->free);
    free(pages->end);
    free(pages->scratch);
    *pages = (pico_pages){0};
}

static int32_t take(pico_pages *pages) {
    assert(pages->n_free > 0); /* open() sized the pool for the worst case */
    int32_t page = pages->free[--pages->n_free];
    pages->refs[page] = 1;
    pages->dirty = 1;
    return page;
}

static void give_back(pico_pages *pages, int32_t *entry) {
    if (*entry >= 0) {
        assert(pages->refs[*entry] > 0);
        if (--pages->refs[*entry] == 0) {
            pages->free[pages->n_free++] = *entry;
        }
        *entry = -1;
        pages->dirty = 1;
    }
}

void pico_pages_extend(pico_pages *pages, uint32_t slot, uint32_t from, uint32_t to,
                       pico_pages_copy *copy) {
    int32_t *row = pages->table + (size_t)slot * pages->max_pages;
    *copy = (pico_pages_copy){.from = -1};
    if (to <= from) {
        return;
    }
    assert(to <= pages->max_pages * PAGE);
    uint32_t first = from / PAGE;
    if (from % PAGE != 0 && row[first] >= 0 && pages->refs[row[first]] > 1) {
        copy->from = row[first];
        copy->n = from % PAGE;
        pages->refs[row[first]]--;
        row[first] = take(pages);
        copy->to = row[first];
    }
    for (uint32_t p = first; p < pages_for(to); p++) {
        if (row[p] < 0) {
            row[p] = take(pages);
        }
    }
    pages->end[slot] = pages_for(to) > pages->end[slot] ? pages_for(to) : pages->end[slot];
}

void pico_pages_undo(pico_pages *pages, uint32_t slot, uint32_t from, const pico_pages_copy *copy) {
    int32_t *entry = &pages->table[(size_t)slot * pages->max_pages + from / PAGE];
    if (copy->from >= 0) {
        assert(*entry == copy->to);
        give_back(pages, entry);
        *entry = copy->from;
        pages->refs[copy->from]++;
    }
}

void pico_pages_truncate(pico_pages *pages, uint32_t slot, uint32_t length) {
    int32_t *row = pages->table + (size_t)slot * pages->max_pages;
    for (uint32_t p = pages_for(length); p < pages->end[slot]; p++) {
        give_back(pages, &row[p]);
    }
    if (pages_for(length) < pages->end[slot]) {
        pages->end[slot] = pages_for(length);
    }
}

/* First position that a query at a position >= length - slack may need. */
static uint32_t first_needed(const pico_pages *pages, uint32_t length) {
    uint64_t reach = (uint64_t)(uint32_t)pages->window + PICO_DECODE_ROWS_MAX;
    return pages->window < 0 || length <= reach ? 0 : (uint32_t)(length - reach);
}

void pico_pages_drop(pico_pages *pages, uint32_t slot, uint32_t length) {
    int32_t *row = pages->table + (size_t)slot * pages->max_pages;
    uint32_t end = first_needed(pages, length) / PAGE;
    for (uint32_t p = end; p > pages_for(pages->n_sink) && row[p - 1] >= 0; p--) {
        give_back(pages, &row[p - 1]);
    }
}

uint32_t pico_pages_shortest(const pico_pages *pages, uint32_t slot, uint32_t length) {
    const int32_t *row = pages->table + (size_t)slot * pages->max_pages;
    if (pages->window < 0) {
        return 0;
    }
    uint32_t first_kept = 0; /* first position of the unbroken run of pages up to length */
    for (uint32_t p = pages_for(length); p > 0; p--) {
        if (row[p - 1] < 0) {
            first_kept = p * PAGE;
            break;
        }
    }
    return first_kept == 0 ? 0 : first_kept + (uint32_t)pages->window;
}

void pico_pages_share(pico_pages *pages, uint32_t from, uint32_t to, uint32_t length,
                      pico_pages_copy *copy) {
    int32_t *source = pages->table + (size_t)from * pages->max_pages;
    int32_t *target = pages->table + (size_t)to * pages->max_pages;
    *copy = (pico_pages_copy){.from = -1};
    for (uint32_t p = 0; p < length / PAGE; p++) {
        target[p] = source[p];
        if (source[p] >= 0) {
            pages->refs[source[p]]++;
        }
    }
    if (length % PAGE != 0) {
        copy->from = source[length / PAGE];
        copy->n = length % PAGE;
        copy->to = target[length / PAGE] = take(pages);
    }
    pages->end[to] = pages_for(length);
    pages->dirty = 1;
}
