/* layers: transform */
/*
 * Heads for a model that has none: description and tensors of every combination are those that the
 * format demands, what was there stays where it lies, and a model that has such heads, or numbers out
 * of the limits, are refused with the file as it was.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "formats/expect.h"
#include "llama_kit.h"
#include "model/model.h"
#include "transform/heads.h"

enum { N_LAYER = 2 };

static pico_model_file *make_file(void) {
    pico_layer_desc layer[N_LAYER];
    pico_model_desc desc = small_llama(layer, N_LAYER);
    pico_model_file *file = NULL;
    pico_error err = {0};
    if (pico_model_synthetic_from(&desc, PICO_DTYPE_I8, 7, &file, &err) != PICO_OK) {
        fail_msg("%s", err.message);
    }
    return file;
}

static void all_zero(const pico_model_file *file, const char *name) {
    const pico_file_tensor *tensor = pico_model_file_find(file, name);
    assert_non_null(tensor);
    assert_int_equal(tensor->data.dtype, PICO_DTYPE_F32);
    const float *value = tensor->data.codes;
    for (int64_t i = 0; i < tensor->data.rows * tensor->data.cols; i++) {
        assert_true(value[i] == 0.0f);
    }
}

static void what_was_there_stays(void **state) {
    (void)state;
    const pico_heads_shape shapes[] = {
        {.n_mtp_head = 2},
        {.n_draft = 3},
        {.n_draft = 3, .draft_hidden = 24, .draft_flags = PICO_DRAFT_SHARED_OUTPUT},
        {.n_draft = 2, .draft_flags = PICO_DRAFT_READS_TOKEN},
        {.n_mtp_head = 1, .n_draft = 1},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        pico_model_file *file = make_file();
        pico_error err = {0};
        const uint32_t n_before = file->n_tensor;
        const void *codes = pico_model_file_find(file, "blk.1.attn_q.weight")->data.codes;
        assert_int_equal(pico_heads_add(file, &shapes[i], &err), PICO_OK);
        const uint32_t reads_token = (shapes[i].draft_flags & PICO_DRAFT_READS_TOKEN) != 0;
        assert_int_equal(file->n_tensor, n_before + shapes[i].n_mtp_head +
                                             (shapes[i].n_draft != 0 ? 2 : 0) + reads_token);
        assert_ptr_equal(pico_model_file_find(file, "blk.1.attn_q.weight")->data.codes, codes);
        assert_int_equal(pico_expect_match(file, &err), PICO_OK);
        assert_int_equal(file->desc.n_mtp_head, shapes[i].n_mtp_head);
        assert_int_equal(file->desc.n_draft, shapes[i].n_draft);
        if (shapes[i].n_mtp_head != 0) {
            all_zero(file, "mtp.0.weight");
        }
        if (shapes[i].n_draft != 0) {
            all_zero(file, "draft_fc1.weight");
            all_zero(file, "draft_fc2.weight");
            assert_int_equal(file->desc.draft_hidden, shapes[i].draft_hidden != 0
                                                          ? shapes[i].draft_hidden
                                                          : file->desc.n_embd / 2);
            assert_int_equal(file->desc.draft_flags, shapes[i].draft_flags);
        }
        if (reads_token) {
            all_zero(file, "draft_token.weight");
        }
        pico_model_file_close(file);
    }
}

static void nothing_changes_when_it_is_refused(void **state) {
    (void)state;
    const struct {
        pico_heads_shape shape;
        const char *said;
    } cases[] = {
        {{.n_draft = 1}, "has a draft head already, of 2 slots"},
        {{.n_mtp_head = 1}, "has multi-token heads already, 1 of them"},
    };
    pico_model_file *file = make_file();
    pico_error err = {0};
    const pico_heads_shape huge = {.n_draft = PICO_MAX_EXTRA_HEAD + 1};
    const pico_model_desc plain = file->desc;
    assert_int_equal(pico_heads_add(file, &huge, &err), PICO_E_INVALID);
    assert_non_null(strstr(err.message, "draft slots"));
    assert_memory_equal(&file->desc, &plain, sizeof plain);
    const pico_heads_shape some = {.n_mtp_head = 1, .n_draft = 2};
    assert_int_equal(pico_heads_add(file, &some, &err), PICO_OK);
    const pico_model_desc before = file->desc;
    const uint32_t n_before = file->n_tensor;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(pico_heads_add(file, &cases[i].shape, &err), PICO_E_INVALID);
        assert_non_null(strstr(err.message, cases[i].said));
        assert_memory_equal(&file->desc, &before, sizeof before);
        assert_int_equal(file->n_tensor, n_before);
    }
    pico_model_file_close(file);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_there_stays),
        cmocka_unit_test(nothing_changes_when_it_is_refused),
    };
    return cmocka_run_group_tests_name("add_heads", tests, NULL, NULL);
}
