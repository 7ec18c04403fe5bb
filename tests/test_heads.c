/* layers: decode */
/*
 * Heads beyond the main one: multi-token and draft heads give what double precision gives from the
 * same text; a row's result does not depend on how many rows share the call, beyond the work space
 * too; the table names them, and a model without them has the main head alone.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ref_model.h"
#include "session_kit.h"

enum { WITH_HEADS = 4, WITHOUT = 0, ROWS = 150, IDS_BYTES = 640 };

/* Logits of `n` device rows of `hidden`, from row `begin` on, through device memory that was made before
 * the first op, with the ids of the next tokens behind it; out (n, width). */
static void apply(kit *k, pico_buffer *buffer, uint32_t head, const pico_tensor *hidden,
                  uint32_t begin, uint32_t n, uint32_t width, float *out) {
    const pico_device *device = k->model->device;
    pico_tensor logits = pico_view(buffer, IDS_BYTES, PICO_DTYPE_F32, n, width);
    pico_tensor rows = pico_view_rows(hidden, begin, n);
    pico_tensor token = pico_view_vector(buffer, begin * sizeof(int32_t), PICO_DTYPE_I32, n);
    const int reads = head > k->model->desc.n_mtp_head &&
                      (k->model->desc.draft_flags & PICO_DRAFT_READS_TOKEN) != 0;
    int32_t next[ROWS];
    for (uint32_t i = 0; i < ROWS; i++) {
        next[i] = k->token[i + 1 < ROWS ? i + 1 : i];
    }
    assert_int_equal(device->ops->buffer_write(device->self, buffer, 0, next, sizeof next),
                     PICO_OK);
    assert_int_equal(pico_heads_table.apply_after(k->model, head, &rows, &token, &logits), PICO_OK);
    if (!reads && begin == 0) { /* without tokens it is the same */
        assert_int_equal(pico_heads_table.apply(k->model, head, &rows, &logits), PICO_OK);
    } else if (reads) {
        assert_int_equal(pico_heads_table.apply(k->model, head, &rows, &logits), PICO_E_INVALID);
    }
    assert_int_equal(rig_read(&k->rig, &logits, out, (size_t)n * width), PICO_OK);
}

/* Logits of ROWS rows, into got: those of the slow reference, and each row the same on its own. */
static void check_rows(kit *k, pico_buffer *buffer, uint32_t head, const pico_tensor *hidden,
                       uint32_t width, const double *want, float *got, float *alone) {
    apply(k, buffer, head, hidden, 0, ROWS, width, got);
    for (size_t i = 0; i < (size_t)ROWS * width; i++) {
        if (!(fabs((double)got[i] - want[i]) < 2e-4)) {
            fail_msg("%s, head %u: value %zu is %g, expected %g", k->what, head, i, (double)got[i],
                     want[i]);
        }
    }
    for (uint32_t row = 0; row < ROWS; row += 29) {
        apply(k, buffer, head, hidden, row, 1, width, alone);
        kit_same(got + (size_t)row * width, alone, width);
    }
}

static void heads_are_listed(void **state) {
    kit k;
    pico_head_info info;
    kit_open(&k, *state, WITH_HEADS, &(kit_options){.n_slots = 1, .max_rows = 8});
    assert_int_equal(pico_heads_table.count(k.model), 5);
    static const char *const names[] = {"lm", "mtp.2", "mtp.3", "mtp.4", "draft"};
    for (uint32_t i = 0; i < 5; i++) {
        assert_int_equal(pico_heads_table.info(k.model, i, &info), PICO_OK);
        assert_string_equal(info.name, names[i]);
        assert_int_equal(info.offset, i < 4 ? i + 1 : 1);
        assert_int_equal(info.n_slot, i < 4 ? 1 : 4);
        assert_int_equal(info.n_vocab, k.n_vocab);
        assert_true(info.softcap == (i < 4 ? 15.0f : 0.0f));
    }
    assert_int_equal(pico_heads_table.info(k.model, 5, &info), PICO_E_NOT_FOUND);
    kit_close(&k);
    kit_open(&k, *state, WITHOUT, &(kit_options){.n_slots = 1, .max_rows = 8});
    assert_int_equal(pico_heads_table.count(k.model), 1);
    assert_int_equal(pico_heads_table.info(k.model, 1, &info), PICO_E_NOT_FOUND);
    assert_int_equal(pico_heads_table.apply(k.model, 1, NULL, NULL), PICO_E_NOT_FOUND);
    kit_close(&k);
}

static void compare_all(const kit_variant *variant, uint32_t draft) {
    kit k;
    pico_row rows[ROWS];
    pico_forward_out out;
    pico_buffer *buffer = NULL;
    kit_open(&k, variant, WITH_HEADS,
             &(kit_options){.n_slots = 1, .max_rows = ROWS, .draft = draft});
    const pico_device *device = k.model->device;
    uint64_t bytes = IDS_BYTES + (uint64_t)ROWS * 4 * k.n_vocab * sizeof(float);
    assert_int_equal(device->ops->buffer_alloc(device->self, bytes, &buffer, NULL), PICO_OK);
    kit_tokens(&k, ROWS);
    kit_chain(&k, rows, 0, 0, 0, ROWS);
    assert_int_equal(pico_session_forward(k.session, rows, ROWS, &out, NULL), PICO_OK);
    for (uint32_t head = 1; head < 5; head++) {
        uint32_t width = head == 4 ? 4 * k.n_vocab : k.n_vocab;
        float *got = kit_floats((size_t)ROWS * width), *alone = kit_floats(width);
        double *want = calloc((size_t)ROWS * width, sizeof *want);
        assert_non_null(want);
        assert_true(head == 4 ? ref_model_draft(k.model->file, k.token, ROWS, want)
                              : ref_model_mtp(k.model->file, k.token, ROWS, head - 1, want));
        check_rows(&k, buffer, head, &out.hidden, width, want, got, alone);
        free(got), free(alone), free(want);
    }
    device->ops->buffer_free(device->self, buffer);
    kit_close(&k);
}

static void heads_match_double_precision(void **state) {
    compare_all(*state, TINY_DRAFT_OWN);
    compare_all(*state, TINY_DRAFT_OWN | TINY_DRAFT_READS);
}

/* ---- a draft head that shares the output matrix ---- */

static const uint32_t families[] = {0, 2,
                                    4}; /* a matrix of its own, a tied one, padded and capped */

static void shared_outputs_match_double_precision(void **state) {
    for (uint32_t i = 0; i < 12; i++) {
        kit k;
        pico_row rows[ROWS];
        pico_forward_out out;
        pico_buffer *buffer = NULL;
        pico_head_info info;
        const uint32_t form = i % 2 == 0 ? TINY_DRAFT_SHARED : TINY_DRAFT_REDUCED;
        const uint32_t draft = form | (i < 6 ? 0u : (uint32_t)TINY_DRAFT_READS);
        kit_open(&k, *state, families[i / 2 % 3],
                 &(kit_options){.n_slots = 1, .max_rows = ROWS, .draft = draft});
        const pico_device *device = k.model->device;
        const uint32_t head = pico_heads_table.count(k.model) - 1;
        assert_int_equal(pico_heads_table.info(k.model, head, &info), PICO_OK);
        assert_string_equal(info.name, "draft");
        assert_int_equal(info.n_slot, 3);
        assert_true(info.softcap == k.model->desc.logit_softcap);
        assert_int_equal(info.offset, i < 6 ? 1 : 2);
        assert_int_equal(info.vocab_map != NULL, form == TINY_DRAFT_REDUCED);
        assert_int_equal(info.n_vocab,
                         info.vocab_map == NULL ? k.n_vocab : k.n_vocab - (k.n_vocab + 1) / 3);
        const uint32_t width = 3 * info.n_vocab;
        assert_int_equal(device->ops->buffer_alloc(device->self,
                                                   IDS_BYTES + (uint64_t)ROWS * (width + 5) * 4,
                                                   &buffer, NULL),
                         PICO_OK);
        kit_tokens(&k, ROWS);
        kit_chain(&k, rows, 0, 0, 0, ROWS);
        assert_int_equal(pico_session_forward(k.session, rows, ROWS, &out, NULL), PICO_OK);
        float *got = kit_floats((size_t)ROWS * width), *alone = kit_floats(width);
        double *want = calloc((size_t)ROWS * width, sizeof *want);
        assert_non_null(want);
        assert_true(ref_model_draft(k.model->file, k.token, ROWS, want));
        check_rows(&k, buffer, head, &out.hidden, width, want, got, alone);
        /* rows with something between them */
        pico_tensor apart = pico_view(buffer, IDS_BYTES, PICO_DTYPE_F32, 3, width);
        const pico_tensor three = pico_view_rows(&out.hidden, 0, 3);
        const pico_tensor next = pico_view_vector(buffer, 0, PICO_DTYPE_I32, 3);
        apart.stride[0] = width + 5;
        assert_int_equal(pico_heads_table.apply_after(k.model, head, &three, &next, &apart),
                         PICO_OK);
        for (uint32_t row = 0; row < 3; row++) {
            pico_tensor one = pico_view_rows(&apart, row, 1);
            assert_int_equal(rig_read(&k.rig, &one, alone, width), PICO_OK);
            kit_same(got + (size_t)row * width, alone, width);
        }
        free(got), free(alone), free(want);
        device->ops->buffer_free(device->self, buffer);
        kit_close(&k);
    }
}

/* With fc2 = 0 every slot has the bits of the main head, whatever the output matrix is stored as. */
static void a_head_begins_as_the_main_one(void **state) {
    static const uint32_t types[] = {PICO_DTYPE_F32,  PICO_DTYPE_F16,  PICO_DTYPE_BF16,
                                     PICO_DTYPE_Q8_0, PICO_DTYPE_Q4_0, PICO_DTYPE_I8};
    enum { N = 5, WIDTH = 64, VOCAB = 150, KNOWN = 40 };
    int32_t known[KNOWN];
    for (int32_t i = 0; i < KNOWN; i++) {
        known[i] = 3 * i + i / 7;
    }
    for (uint32_t i = 0; i < 2 * sizeof types / sizeof *types; i++) {
        kit k;
        pico_error err = {0};
        pico_model_file *file = NULL;
        pico_model *model = NULL;
        pico_session *session = NULL;
        pico_buffer *buffer = NULL;
        pico_head_info info;
        float hidden[N * WIDTH], main_logits[N * VOCAB], draft_logits[N * 2 * VOCAB];
        kit_open(&k, *state, WITHOUT, &(kit_options){.n_slots = 1, .max_rows = 8});
        pico_layer_desc layer = {
            .n_head = 4, .n_kv_head = 4, .head_dim = WIDTH / 4, .n_ff = 64, .window = -1};
        pico_model_desc desc = k.model->desc;
        desc.n_layer = 1;
        desc.layer = &layer;
        desc.n_embd = WIDTH;
        desc.rope_dim = WIDTH / 4;
        desc.n_vocab = desc.n_vocab_rows = VOCAB;
        desc.n_draft = 2;
        desc.draft_hidden = 32;
        desc.draft_flags = PICO_DRAFT_SHARED_OUTPUT;
        desc.n_draft_vocab = i % 2 == 0 ? 0 : KNOWN;
        desc.draft_vocab = i % 2 == 0 ? NULL : known;
        assert_int_equal(pico_model_synthetic_from(&desc, types[i / 2], 3, &file, &err), PICO_OK);
        pico_file_tensor *fc2 =
            (pico_file_tensor *)(uintptr_t)pico_model_file_find(file, "draft_fc2.weight");
        fc2->data.codes = pico_arena_alloc(&file->arena, (size_t)fc2->data.codes_bytes, 1);
        const pico_session_params params = {
            .n_slots = 1, .max_rows = 8, .max_logit_rows = 8, .max_top_k = 1};
        if (rig_model_open(&k.rig, file, PICO_DTYPE_F32, &model, &err) != PICO_OK ||
            pico_session_open(model, &params, &session, &err) != PICO_OK) {
            fail_msg("%s: %s", pico_dtype_name(types[i / 2]), err.message);
        }
        const pico_device *device = model->device;
        assert_int_equal(pico_heads_table.info(model, 1, &info), PICO_OK);
        assert_int_equal(device->ops->buffer_alloc(
                             device->self, sizeof hidden + sizeof draft_logits, &buffer, NULL),
                         PICO_OK);
        for (uint32_t j = 0; j < N * WIDTH; j++) {
            hidden[j] = (float)(2 * rig_uniform(&k.random) - 1);
        }
        assert_int_equal(device->ops->buffer_write(device->self, buffer, 0, hidden, sizeof hidden),
                         PICO_OK);
        const pico_tensor from = pico_view(buffer, 0, PICO_DTYPE_F32, N, WIDTH);
        const pico_tensor lm = pico_view(buffer, sizeof hidden, PICO_DTYPE_F32, N, VOCAB);
        const pico_tensor draft =
            pico_view(buffer, sizeof hidden, PICO_DTYPE_F32, N, 2 * (int64_t)info.n_vocab);
        assert_int_equal(pico_heads_table.apply(model, 0, &from, &lm), PICO_OK);
        assert_int_equal(rig_read(&k.rig, &lm, main_logits, N * VOCAB), PICO_OK);
        assert_int_equal(pico_heads_table.apply(model, 1, &from, &draft), PICO_OK);
        assert_int_equal(rig_read(&k.rig, &draft, draft_logits, (size_t)N * 2 * info.n_vocab),
                         PICO_OK);
        for (uint32_t j = 0; j < N * 2 * info.n_vocab; j++) {
            const uint32_t token = j % info.n_vocab, row = j / (2 * info.n_vocab);
            const uint32_t id = info.vocab_map == NULL ? token : (uint32_t)info.vocab_map[token];
            if (draft_logits[j] != main_logits[row * VOCAB + id]) {
                fail_msg("%s: row %u, token %u: %g, the main head says %g",
                         pico_dtype_name(types[i / 2]), row, id, (double)draft_logits[j],
                         (double)main_logits[row * VOCAB + id]);
            }
        }
        device->ops->buffer_free(device->self, buffer);
        pico_session_close(session);
        pico_model_close(model);
        kit_close(&k);
    }
}

int main(void) {
    struct CMUnitTest tests[] = {
        cmocka_unit_test(heads_are_listed),
        cmocka_unit_test(heads_match_double_precision),
        cmocka_unit_test(shared_outputs_match_double_precision),
        cmocka_unit_test(a_head_begins_as_the_main_one),
    };
    return KIT_RUN("heads", tests);
}
