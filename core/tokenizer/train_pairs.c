/*
 * Pairs of neighbours: a hash table with counts and places, and a heap of candidates. Counts change
 * much more often than the best pair is asked for, so a count that falls leaves its candidate as it
 * is; it is put right when it comes to the top.
 */
#include <stdlib.h>
#include <string.h>

#include "tokenizer/train_internal.h"

enum { FIRST_PAIRS = 1 << 16 };

static pico_status no_memory(pico_error *err) {
    return pico_fail(err, PICO_E_NOMEM, "no memory for the pairs of a vocabulary");
}

/* ---- the table ---- */

static uint64_t place_of(uint64_t key, uint64_t mask) {
    uint64_t h = key * 0x9e3779b97f4a7c15u;
    h = (h ^ (h >> 32)) * 0xd6e8feb86659fd93u;
    return (h ^ (h >> 32)) & mask;
}

static pico_status new_slots(uint64_t size, bpe_pair **out, pico_error *err) {
    *out = malloc((size_t)size * sizeof **out);
    if (*out == NULL) {
        return no_memory(err);
    }
    for (uint64_t i = 0; i < size; i++) {
        (*out)[i] = (bpe_pair){.key = BPE_NO_PAIR};
    }
    return PICO_OK;
}

pico_status pico_bpe_pairs_open(bpe_pairs *pairs, pico_error *err) {
    *pairs = (bpe_pairs){.mask = FIRST_PAIRS - 1};
    return new_slots(FIRST_PAIRS, &pairs->slot, err);
}

void pico_bpe_pairs_close(bpe_pairs *pairs) {
    for (uint64_t i = 0; pairs->slot != NULL && i <= pairs->mask; i++) {
        free(pairs->slot[i].word);
    }
    free(pairs->slot);
    free(pairs->heap);
    free(pairs->touched);
    *pairs = (bpe_pairs){0};
}

static bpe_pair *slot_of(bpe_pair *slots, uint64_t mask, uint64_t key) {
    uint64_t at = place_of(key, mask);
    while (slots[at].key != key && slots[at].key != BPE_NO_PAIR) {
        at = (at + 1) & mask;
    }
    return &slots[at];
}

bpe_pair *pico_bpe_pair_find(const bpe_pairs *pairs, uint64_t key) {
    bpe_pair *pair = slot_of(pairs->slot, pairs->mask, key);
    return pair->key == key ? pair : NULL;
}

static int is_kept(const bpe_pair *pair) {
    return pair->key != BPE_NO_PAIR && (pair->count > 0 || pair->is_touched);
}

/* Pairs that no longer occur are left out; the table doubles only if that does not make room. */
static pico_status rebuild(bpe_pairs *pairs, pico_error *err) {
    uint64_t n_live = 0, size = pairs->mask + 1;
    bpe_pair *slots;
    for (uint64_t i = 0; i <= pairs->mask; i++) {
        n_live += (uint64_t)is_kept(&pairs->slot[i]);
    }
    size = 4 * n_live > size ? 2 * size : size;
    pico_status status = new_slots(size, &slots, err);
    if (status != PICO_OK) {
        return status;
    }
    for (uint64_t i = 0; i <= pairs->mask; i++) {
        bpe_pair *pair = &pairs->slot[i];
        if (is_kept(pair)) {
            *slot_of(slots, size - 1, pair->key) = *pair;
        } else {
            free(pair->word);
        }
    }
    free(pairs->slot);
    pairs->slot = slots;
    pairs->mask = size - 1;
    pairs->n_used = n_live;
    return PICO_OK;
}

static pico_status note_place(bpe_pair *pair, uint32_t word, pico_error *err) {
    if (pair->n > 0 && pair->word[pair->n - 1] == word) {
        return PICO_OK;
    }
    if (pair->n == pair->capacity) {
        const uint32_t capacity = pair->capacity + pair->capacity / 2 + 4;
        uint32_t *bigger = realloc(pair->word, (size_t)capacity * sizeof *bigger);
        if (bigger == NULL) {
            return no_memory(err);
        }
        pair->word = bigger;
        pair->capacity = capacity;
    }
    pair->word[pair->n++] = word;
    return PICO_OK;
}

static pico_status note_touched(bpe_pairs *pairs, bpe_pair *pair, pico_error *err) {
    if (pairs->n_touched == pairs->capacity_touched) {
        const size_t capacity = 2 * pairs->capacity_touched + 1024;
        uint64_t *bigger = realloc(pairs->touched, capacity * sizeof *bigger);
        if (bigger == NULL) {
            return no_memory(err);
        }
        pairs->touched = bigger;
        pairs->capacity_touched = capacity;
    }
    pair->is_touched = 1;
    pairs->touched[pairs->n_touched++] = pair->key;
    return PICO_OK;
}

pico_status pico_bpe_pair_change(bpe_pairs *pairs, uint64_t key, int64_t change, uint32_t word,
                                 pico_error *err) {
    pico_status status = PICO_OK;
    bpe_pair *pair = slot_of(pairs->slot, pairs->mask, key);
    if (pair->key == BPE_NO_PAIR) {
        if (2 * pairs->n_used > pairs->mask) {
            status = rebuild(pairs, err);
            if (status != PICO_OK) {
                return status;
            }
            pair = slot_of(pairs->slot, pairs->mask, key);
        }
        pair->key = key;
        pairs->n_used++;
    }
    pair->count += change;
    if (change > 0) {
        status = note_place(pair, word, err);
        if (status == PICO_OK && !pair->is_touched) {
            status = note_touched(pairs, pair, err);
        }
    }
    return status;
}

/* ---- candidates ---- */

static int is_better(const bpe_candidate *a, const bpe_candidate *b) {
    return a->count != b->count ? a->count > b->count : a->key < b->key;
}

static void sift_down(bpe_pairs *pairs) {
    bpe_candidate *heap = pairs->heap, moved = heap[0];
    size_t at = 0;
    for (size_t child = 1; child < pairs->n_heap; child = 2 * at + 1) {
        child += child + 1 < pairs->n_heap && is_better(&heap[child + 1], &heap[child]);
        if (!is_better(&heap[child], &moved)) {
            break;
        }
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = moved;
}

static pico_status push(bpe_pairs *pairs, bpe_candidate candidate, pico_error *err) {
    if (pairs->n_heap == pairs->capacity_heap) {
        const size_t capacity = 2 * pairs->capacity_heap + 1024;
        bpe_candidate *bigger = realloc(pairs->heap, capacity * sizeof *bigger);
        if (bigger == NULL) {
            return no_memory(err);
        }
        pairs->heap = bigger;
        pairs->capacity_heap = capacity;
    }
    size_t at = pairs->n_heap++;
    for (; at > 0 && is_better(&candidate, &pairs->heap[(at - 1) / 2]); at = (at - 1) / 2) {
        pairs->heap[at] = pairs->heap[(at - 1) / 2];
    }
    pairs->heap[at] = candidate;
    return PICO_OK;
}

pico_status pico_bpe_pairs_settle(bpe_pairs *pairs, pico_error *err) {
    pico_status status = PICO_OK;
    for (size_t i = 0; status == PICO_OK && i < pairs->n_touched; i++) {
        bpe_pair *pair = pico_bpe_pair_find(pairs, pairs->touched[i]);
        pair->is_touched = 0;
        if (pair->count > 0) {
            status = push(pairs, (bpe_candidate){pair->count, pair->key}, err);
        }
    }
    pairs->n_touched = 0;
    return status;
}

int pico_bpe_pairs_take(bpe_pairs *pairs, uint64_t *key) {
    while (pairs->n_heap > 0) {
        const bpe_candidate best = pairs->heap[0];
        const bpe_pair *pair = pico_bpe_pair_find(pairs, best.key);
        const int64_t count = pair == NULL ? 0 : pair->count;
        if (count > 0 && count < best.count) { /* it has fallen: where does it stand now? */
            pairs->heap[0].count = count;
            sift_down(pairs);
            continue;
        }
        pairs->heap[0] = pairs->heap[--pairs->n_heap];
        if (pairs->n_heap > 0) {
            sift_down(pairs);
        }
        if (count == best.count) { /* one that has grown since has a newer candidate */
            *key = best.key;
            return 1;
        }
    }
    return 0;
}
