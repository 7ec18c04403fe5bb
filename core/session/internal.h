/* What the files of the session layer share. Not for other layers. */
#ifndef PICO_SESSION_INTERNAL_H
#define PICO_SESSION_INTERNAL_H

#include "session/pages.h"
#include "session/session.h"

/* A row of the call being prepared, in the caller's numbering. */
typedef struct pico_session_row {
    uint32_t slot;
    int32_t parent;
    int32_t base;       /* see pico_batch */
    int32_t tree_index; /* place in its slot's scratch page, -1: in the pages, as rows of a chain */
    uint32_t depth;     /* rows from the root of the tree to it */
    uint32_t out;       /* output row, if it wants one */
} pico_session_row;

typedef struct pico_session_slot {
    uint32_t length; /* positions in the KV pages */
    uint32_t n_tree; /* rows of the last forward that wait in the scratch page */
    /* of the call being prepared */
    uint32_t n_row;
    uint32_t
        n_stem; /* rows of the stem: the first row, its first child, the first child of that ... */
    uint32_t tip; /* the last row of the stem so far */
} pico_session_slot;

enum { PICO_STEPS = 32, PICO_STEP_RUNS = 4 };

/* What makes two steps the same list of ops. */
typedef struct pico_step_key {
    uint32_t n_rows, n_decode, n_pages, has_tree, n_run;
    pico_output_run run[PICO_STEP_RUNS];
} pico_step_key;

typedef struct pico_step {
    pico_step_key key;
    uint32_t used;
    uint64_t last; /* call that used it last */
    pico_recording *recording;
} pico_step;

/* Recorded steps, where the backend offers pico.capture/1. */
typedef struct pico_steps {
    pico_capture_ops ops; /* begin NULL: not offered */
    uint64_t n_call;
    pico_step step[PICO_STEPS];
} pico_steps;

struct pico_session {
    pico_model *model;
    pico_session_params params;
    uint32_t n_group;
    pico_pages *group;       /* (n_layer) at most; n_group are in use */
    uint32_t *group_of;      /* (n_layer) */
    uint64_t *table_offset;  /* (n_group) bytes into device_words */
    pico_layer_kv *kv;       /* (n_layer) */
    pico_session_slot *slot; /* (n_slots) */
    uint32_t *order;         /* (max_rows) device row -> caller's row */
    pico_session_row *row;   /* (max_rows) of the last forward */
    uint32_t n_row;          /* rows of the last forward; 0 after one that failed */
    pico_output_run *run;    /* (max_rows) */
    pico_buffer *device_words;
    uint64_t call_offset; /* bytes into device_words where a call's data begin */
    uint64_t call_words;
    int32_t *host_words; /* (call_words) staging */
    pico_buffer *rope;
    pico_tensor rope_cos, rope_sin;
    pico_activations work;
    uint64_t kv_bytes;
    pico_steps steps;
    pico_arena arena;
};

/* I32 words that one call needs at most. */
uint64_t pico_call_words(const pico_session *session);
/* Copies the leading cells of a page in every layer of a group. */
pico_status pico_call_copy_page(pico_session *session, uint32_t group, const pico_pages_copy *copy);

/* ---- steps.c ---- */

void pico_steps_open(pico_session *session);
void pico_steps_close(pico_session *session);
/* Runs the model: a recording of the step where there is one. */
pico_status pico_steps_run(pico_session *session, pico_forward_args *args, pico_error *err);

#endif
