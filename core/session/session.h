/*
 * A session: the timelines (slots) of one model, their KV pages and the work space of a forward
 * pass. Everything is sized when it is opened; afterwards nothing is allocated. Its contract
 * towards plugins is pico_session_api in plugin.h; this header adds what only the host needs.
 */
#ifndef PICO_SESSION_SESSION_H
#define PICO_SESSION_SESSION_H

#include "model/forward.h"
#include "model/model.h"
#include "plugin.h"

typedef struct pico_session_params {
    uint32_t n_slots;        /* timelines; at least 1 */
    uint32_t max_positions;  /* longest timeline; 0: the trained length */
    uint32_t window_limit;   /* 0: none; else no query sees further back than this many positions,
                                itself included (the sliding context) */
    uint32_t max_rows;       /* rows of one forward */
    uint32_t max_logit_rows; /* rows of one forward that may ask for logits or hidden rows */
    uint32_t max_top_k;      /* largest k of a top_k op on its logits */
    uint32_t max_edits;      /* most logit edits of one step */
} pico_session_params;

pico_status pico_session_open(pico_model *model, const pico_session_params *params,
                              pico_session **out, pico_error *err);
void pico_session_close(pico_session *session); /* NULL is allowed */

uint32_t pico_session_max_positions(const pico_session *session);
uint32_t pico_session_length(const pico_session *session, uint32_t slot);
pico_status pico_session_truncate(pico_session *session, uint32_t slot, uint32_t length,
                                  pico_error *err);
pico_status pico_session_copy(pico_session *session, uint32_t from, uint32_t to, pico_error *err);
pico_status pico_session_forward(pico_session *session, const pico_row *rows, uint32_t n,
                                 pico_forward_out *out, pico_error *err);
pico_status pico_session_commit(pico_session *session, uint32_t slot, const uint32_t *path,
                                uint32_t n, pico_error *err);
/* Bytes of all KV pages, used or not. */
uint64_t pico_session_kv_bytes(const pico_session *session);

extern const pico_session_api pico_session_table;
/* feed.c; see pico_session_api.feed. */
pico_status pico_session_feed(const pico_host *host, pico_model *model, const pico_feed *feed,
                              pico_error *err);

#endif
