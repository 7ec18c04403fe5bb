/*
 * What a model description demands: values that make sense, and the tensors, by canonical name and
 * shape, that it needs. One table for every format, for readers, for the writer and for whoever
 * makes models. It knows nothing of files.
 *
 * Beyond the names in model_file.h (all optional parts of the description):
 *   token_embd_norm.weight|bias (n_embd)     EMBED_NORM together with NORM_WEIGHT | NORM_BIAS
 *   resid_lambdas.weight (n_layer)           r_i of RESID_LAMBDAS
 *   x0_lambdas.weight (n_layer)              s_i of RESID_LAMBDAS
 *   smear_gate.weight (smear_width), smear_lambda.weight (1)
 *   backout_lambda.weight (1)
 *   blk.N.value_embd.weight (n_vocab_rows, n_kv_head * head_dim)
 *   blk.N.value_gate.weight (n_kv_head, ve_width)
 *   mtp.K.weight (n_vocab_rows, n_embd)      K = 0 .. n_mtp_head - 1 predicts token t + 2 + K
 *   draft_fc1.weight (draft_hidden, n_embd), draft_fc2.weight (n_draft * n_vocab, draft_hidden), or
 *                                            (n_draft * n_embd, draft_hidden) with a shared output
 *   draft_token.weight (draft_hidden, n_embd)  of a draft head that reads a token
 */
#ifndef PICO_FORMATS_EXPECT_H
#define PICO_FORMATS_EXPECT_H

#include "formats/model_file.h"

enum { PICO_MAX_EXTRA_HEAD = 64 }; /* multi-token heads, slots of the draft head */

/* Whether the numbers of a description make sense together and are within the limits of
 * model_file.h; PICO_E_CORRUPT names the value. n_layer must not be 0. */
pico_status pico_desc_check(const pico_model_desc *desc, pico_error *err);

/* Rows of draft_fc2.weight that belong to one slot of the draft head. */
int64_t pico_draft_slot_rows(const pico_model_desc *desc);
/* Logits of one slot of the draft head. */
uint32_t pico_draft_n_vocab(const pico_model_desc *desc);

typedef struct pico_expected {
    char name[64];
    uint32_t rank;    /* 1 or 2 */
    int64_t shape[4]; /* outermost first; unused ones are 1 */
} pico_expected;

/* Calls visit for every tensor of a checked description, in canonical order, until it fails. */
typedef pico_status (*pico_expect_fn)(void *arg, const pico_expected *expected);
pico_status pico_expect_each(const pico_model_desc *desc, pico_expect_fn visit, void *arg);

/* Compares the tensors of a file with its description and puts them into canonical order. Missing,
 * left-over and wrongly shaped tensors are PICO_E_CORRUPT with name, expected and found shape. */
pico_status pico_expect_match(pico_model_file *file, pico_error *err);

/* "(512, 64)" into text; returns text. */
typedef struct pico_shape_text {
    char text[96];
} pico_shape_text;
const char *pico_shape_format(pico_shape_text *out, uint32_t rank, const int64_t *shape);

#endif
