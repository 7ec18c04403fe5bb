/*
 * KV pages of one group of layers: which page holds which 64 positions of which timeline. Layers
 * with the same window share a group, so that a windowed group can drop pages that a full one still
 * needs. Pure bookkeeping on the host: it never touches the pages' bytes.
 */
#ifndef PICO_SESSION_PAGES_H
#define PICO_SESSION_PAGES_H

#include "plugin.h"

typedef struct pico_pages {
    int32_t window; /* -1: none */
    uint32_t n_sink;
    uint32_t n_slot, max_pages; /* shape of the table */
    uint32_t n_page;
    int32_t *table; /* (n_slot, max_pages), -1: no page */
    uint32_t *refs; /* (n_page) timelines that use it */
    int32_t *free;  /* (n_page) a stack */
    uint32_t n_free;
    uint32_t *end;    /* (n_slot) one past the last page in use */
    int32_t *scratch; /* (n_slot) page for rows of a tree */
    uint32_t dirty;   /* 1: the device's copy of the table is old */
} pico_pages;

/* Sizes the pool so that no sequence of valid calls runs out of pages. max_rows: the most rows that
 * one timeline gains before drop() is called. */
pico_status pico_pages_open(pico_pages *pages, int32_t window, uint32_t n_sink, uint32_t n_slot,
                            uint32_t max_positions, uint32_t max_rows, pico_error *err);
void pico_pages_close(pico_pages *pages);

/* What extend found out: the page that must be copied before it is written to. */
typedef struct pico_pages_copy {
    int32_t from, to; /* pages; from < 0: nothing to copy */
    uint32_t n;       /* leading positions of the page that count */
} pico_pages_copy;

/* Gives slot pages for positions [from, to). A page that is shared and partly filled is replaced by
 * a new one, which the caller must fill from the old. */
void pico_pages_extend(pico_pages *pages, uint32_t slot, uint32_t from, uint32_t to,
                       pico_pages_copy *copy);
/* Takes such a replacement back, before the new page has been used. */
void pico_pages_undo(pico_pages *pages, uint32_t slot, uint32_t from, const pico_pages_copy *copy);
/* Gives back the pages that hold only positions >= length. */
void pico_pages_truncate(pico_pages *pages, uint32_t slot, uint32_t length);
/* Gives back the pages that no query at a position >= length - PICO_DECODE_ROWS_MAX can see. */
void pico_pages_drop(pico_pages *pages, uint32_t slot, uint32_t length);
/* The shortest length that a timeline of this length can be truncated to and still be continued
 * (0 is always possible). */
uint32_t pico_pages_shortest(const pico_pages *pages, uint32_t slot, uint32_t length);
/* Makes `to` (empty) share the pages of `from`; the last, partly filled one is a new page. */
void pico_pages_share(pico_pages *pages, uint32_t from, uint32_t to, uint32_t length,
                      pico_pages_copy *copy);

/* The cell of a position: page * PICO_PAGE_POSITIONS + offset. */
static inline int32_t pico_pages_cell(const pico_pages *pages, uint32_t slot, uint32_t position) {
    int32_t page = pages->table[(size_t)slot * pages->max_pages + position / PICO_PAGE_POSITIONS];
    return page * (int32_t)PICO_PAGE_POSITIONS + (int32_t)(position % PICO_PAGE_POSITIONS);
}

#endif
