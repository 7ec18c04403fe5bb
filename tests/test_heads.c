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

enum { WITH_HEADS = 4, WITHOUT = 0, ROWS = 150 };

/* The table's apply on `n` device rows of `hidden`, from row `begin` on, through device memory that
 * was made before the first op; out (n, width). */
static void apply(kit *k, pico_buffer *buffer, uint32_t head, const pico_tensor *hidden,
                  uint32_t begin, uint32_t n, uint32_t width, float *out) {
    pico_tensor logits = pico_view(buffer, 0, PICO_DTYPE_F32, n, width);
    pico_tensor rows = pico_view_rows(hidden, begin, n);
    assert_int_equal(pico_heads_table.apply(k->model, head, &rows, &logits), PICO_OK);
    assert_int_equal(rig_read(&k->rig, &logits, out, (size_t)n * width), PICO_OK);
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

static void heads_match_double_precision(void **state) {
    kit k;
    pico_row rows[ROWS];
    pico_forward_out out;
    pico_buffer *buffer = NULL;
    kit_open(&k, *state, WITH_HEADS, &(kit_options){.n_slots = 1, .max_rows = ROWS});
    const pico_device *device = k.model->device;
    uint64_t bytes = (uint64_t)ROWS * 4 * k.n_vocab * sizeof(float);
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
        apply(&k, buffer, head, &out.hidden, 0, ROWS, width, got);
        for (size_t i = 0; i < (size_t)ROWS * width; i++) {
            if (!(fabs((double)got[i] - want[i]) < 2e-4)) {
                fail_msg("%s, head %u: value %zu is %g, expected %g", k.what, head, i,
                         (double)got[i], want[i]);
            }
        }
        for (uint32_t row = 0; row < ROWS; row += 29) {
            apply(&k, buffer, head, &out.hidden, row, 1, width, alone);
            kit_same(got + (size_t)row * width, alone, width);
        }
        free(got), free(alone), free(want);
    }
    device->ops->buffer_free(device->self, buffer);
    kit_close(&k);
}

int main(void) {
    struct CMUnitTest tests[] = {
        cmocka_unit_test(heads_are_listed),
        cmocka_unit_test(heads_match_double_precision),
    };
    return KIT_RUN("heads", tests);
}
