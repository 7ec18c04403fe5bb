/*
 * The merge engine of both BPE kinds: always merges the adjacent pair whose result comes first
 * (best score or lowest rank; leftmost on ties). A few symbols are looked through for the best pair
 * again and again; more have a heap of candidates over a linked list: O(n log n), whatever the text.
 * It knows nothing about where symbols come from.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "tokenizer/tokenizer_internal.h"

enum { FEW = 16 }; /* symbols that a word has at most, nearly always */

pico_status pico_work_reserve(pico_work *work, size_t n, pico_error *err) {
    work->n_symbol = 0;
    work->n_heap = 0;
    if (n <= work->capacity) {
        return PICO_OK;
    }
    if (n > INT32_MAX / 2) {
        return pico_fail(err, PICO_E_LIMIT, "%zu symbols are too many to merge at once", n);
    }
    size_t capacity = n < 64 ? 64 : n + n / 2;
    free(work->symbol);
    free(work->heap);
    work->capacity = 0;
    /* n - 1 candidates at the start; each merge takes one out and puts at most two in. */
    work->symbol = malloc(capacity * sizeof *work->symbol);
    work->heap = malloc(2 * capacity * sizeof *work->heap);
    if (work->symbol == NULL || work->heap == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "no memory to encode %zu bytes", n);
    }
    work->capacity = capacity;
    return PICO_OK;
}

void pico_work_symbol(pico_work *work, size_t start, size_t n, int32_t id) {
    uint32_t i = work->n_symbol++;
    assert(i < work->capacity);
    if (i > 0) {
        work->symbol[i - 1].next = (int32_t)i;
    }
    work->symbol[i] = (pico_symbol){
        .start = (uint32_t)start, .n = (uint32_t)n, .prev = (int32_t)i - 1, .next = -1, .id = id};
}

pico_status pico_work_grow(pico_work *work, size_t n, pico_error *err) {
    if (work->capacity_ids - work->n_ids >= n) {
        return PICO_OK;
    }
    size_t capacity = work->capacity_ids == 0 ? 64 : work->capacity_ids * 2;
    capacity = capacity > work->n_ids + n ? capacity : work->n_ids + n;
    int32_t *ids = realloc(work->ids, capacity * sizeof *ids);
    if (ids == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "no memory for %zu tokens", capacity);
    }
    work->ids = ids;
    work->capacity_ids = capacity;
    return PICO_OK;
}

pico_status pico_work_emit(pico_work *work, int32_t id, pico_error *err) {
    pico_status status = pico_work_grow(work, 1, err);
    if (status == PICO_OK) {
        work->ids[work->n_ids++] = id;
    }
    return status;
}

void pico_work_free(pico_work *work) {
    free(work->symbol);
    free(work->heap);
    free(work->ids);
    *work = (pico_work){0};
}

static void heap_push(pico_work *work, pico_candidate candidate) {
    pico_candidate *heap = work->heap;
    uint32_t i = work->n_heap++;
    assert(i < 2 * work->capacity);
    while (i > 0 && candidate.key < heap[(i - 1) / 2].key) {
        heap[i] = heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    heap[i] = candidate;
}

static pico_candidate heap_pop(pico_work *work) {
    pico_candidate *heap = work->heap, top = heap[0];
    pico_candidate last = heap[--work->n_heap];
    uint32_t n = work->n_heap, i = 0;
    for (uint32_t child = 1; child < n; child = 2 * i + 1) {
        if (child + 1 < n && heap[child + 1].key < heap[child].key) {
            child++;
        }
        if (last.key <= heap[child].key) {
            break;
        }
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = last;
    return top;
}

/* The token that two neighbours make, or -1, and its order. */
static int32_t find_result(const pico_tokenizer *tokenizer, const char *text, const pico_symbol *a,
                           const pico_symbol *b, uint32_t *order) {
    if (tokenizer->pair_slot != NULL) {
        const pico_pair_slot *slot = pico_pair_find(tokenizer, a->id, b->id);
        *order = slot != NULL ? slot->rank : UINT32_MAX;
        return slot != NULL ? slot->id : -1;
    }
    /* In llama2.c a character that is no token is bytes from the start and stays so. */
    if (a->n + b->n > tokenizer->max_merged || (tokenizer->llama2c && (a->id < 0 || b->id < 0))) {
        return -1;
    }
    int32_t id = pico_piece_find(tokenizer, text + a->start, a->n + b->n);
    *order = id >= 0 ? tokenizer->token[id].order : UINT32_MAX;
    return id;
}

/* At most FEW symbols. pair[i] is what symbol i makes with the next one. */
static void merge_few(const pico_tokenizer *tokenizer, pico_work *work, const char *text) {
    struct {
        uint32_t order;
        int32_t id;
    } pair[FEW];
    pico_symbol *symbol = work->symbol;
    uint32_t n = work->n_symbol;
    for (uint32_t i = 0; i + 1 < n; i++) {
        pair[i].id = find_result(tokenizer, text, &symbol[i], &symbol[i + 1], &pair[i].order);
    }
    while (n > 1) {
        uint32_t best = n;
        for (uint32_t i = 0; i + 1 < n; i++) {
            if (pair[i].id >= 0 && (best == n || pair[i].order < pair[best].order)) {
                best = i;
            }
        }
        if (best == n) {
            break;
        }
        symbol[best].n += symbol[best + 1].n;
        symbol[best].id = pair[best].id;
        n--;
        memmove(&symbol[best + 1], &symbol[best + 2], (n - best - 1) * sizeof *symbol);
        memmove(&pair[best], &pair[best + 1], (n - best - 1) * sizeof *pair);
        if (best > 0) {
            pair[best - 1].id = find_result(tokenizer, text, &symbol[best - 1], &symbol[best],
                                            &pair[best - 1].order);
        }
        if (best + 1 < n) {
            pair[best].id =
                find_result(tokenizer, text, &symbol[best], &symbol[best + 1], &pair[best].order);
        }
    }
    work->n_symbol = n;
}

/* Puts the pair (left, right) on the heap if it makes a token. */
static void consider(const pico_tokenizer *tokenizer, pico_work *work, const char *text,
                     int32_t left, int32_t right) {
    if (left < 0 || right < 0) {
        return;
    }
    uint32_t order;
    int32_t id = find_result(tokenizer, text, &work->symbol[left], &work->symbol[right], &order);
    if (id >= 0) {
        heap_push(work, (pico_candidate){.key = ((uint64_t)order << 32) | (uint32_t)left,
                                         .right = (uint32_t)right,
                                         .id = id});
    }
}

static void merge_many(const pico_tokenizer *tokenizer, pico_work *work, const char *text) {
    pico_symbol *symbol = work->symbol;
    uint32_t n_left = 0;
    for (int32_t i = 0; i + 1 < (int32_t)work->n_symbol; i++) {
        consider(tokenizer, work, text, i, i + 1);
    }
    while (work->n_heap > 0) {
        pico_candidate best = heap_pop(work);
        pico_symbol *left = &symbol[(uint32_t)best.key], *right = &symbol[best.right];
        /* Either side may have been merged since: then it is gone, or longer than it was. */
        if (left->n == 0 || left->next != (int32_t)best.right ||
            left->n + right->n != tokenizer->token[best.id].n) {
            continue;
        }
        left->n += right->n;
        left->id = best.id;
        left->next = right->next;
        right->n = 0;
        if (left->next >= 0) {
            symbol[left->next].prev = (int32_t)(left - symbol);
        }
        consider(tokenizer, work, text, left->prev, (int32_t)(left - symbol));
        consider(tokenizer, work, text, (int32_t)(left - symbol), left->next);
    }
    for (uint32_t i = 0; i < work->n_symbol; i++) {
        if (symbol[i].n > 0) {
            symbol[n_left++] = symbol[i];
        }
    }
    work->n_symbol = n_left;
}

void pico_work_merge(const pico_tokenizer *tokenizer, pico_work *work, const char *text) {
    if (work->n_symbol <= FEW) {
        merge_few(tokenizer, work, text);
    } else {
        merge_many(tokenizer, work, text);
    }
}
