/* New heads for a model; see transform/heads.h. */
#include "transform/heads.h"

#include <string.h>

#include "formats/expect.h"

static pico_status check(const pico_model_file *file, const pico_heads_shape *shape,
                         pico_error *err) {
    const pico_model_desc *desc = &file->desc;
    if (shape->n_mtp_head != 0 && desc->n_mtp_head != 0) {
        return pico_fail(err, PICO_E_INVALID, "%s has multi-token heads already, %u of them",
                         file->path, desc->n_mtp_head);
    }
    if (shape->n_draft != 0 && desc->n_draft != 0) {
        return pico_fail(err, PICO_E_INVALID, "%s has a draft head already, of %u slots",
                         file->path, desc->n_draft);
    }
    return PICO_OK;
}

static void describe(const pico_heads_shape *shape, pico_model_desc *desc) {
    if (shape->n_mtp_head != 0) {
        desc->n_mtp_head = shape->n_mtp_head;
    }
    if (shape->n_draft != 0) {
        desc->n_draft = shape->n_draft;
        desc->draft_hidden = shape->draft_hidden != 0 ? shape->draft_hidden : desc->n_embd / 2;
        desc->draft_flags = shape->draft_flags;
    }
}

typedef struct adding {
    pico_model_file *file;
    pico_file_tensor *tensor; /* (n) those of the new description; NULL while they are counted */
    uint32_t n;
    pico_error *err;
} adding;

static pico_status count(void *arg, const pico_expected *expected) {
    adding *to = arg;
    (void)expected;
    to->n++;
    return PICO_OK;
}

/* The tensor that is there, or zeros. */
static pico_status add(void *arg, const pico_expected *e) {
    adding *to = arg;
    pico_arena *arena = &to->file->arena;
    pico_file_tensor *tensor = &to->tensor[to->n++];
    const pico_file_tensor *found = pico_model_file_find(to->file, e->name);
    if (found != NULL) {
        *tensor = *found;
        return PICO_OK;
    }
    const int64_t rows = e->rank == 1 ? 1 : e->shape[0], cols = e->shape[e->rank == 1 ? 0 : 1];
    const uint64_t bytes = pico_weight_codes_bytes(PICO_DTYPE_F32, rows, cols);
    void *values = pico_arena_alloc(arena, bytes, 1);
    *tensor = (pico_file_tensor){.name = pico_arena_strdup(arena, e->name),
                                 .rank = e->rank,
                                 .data = {.codes = values,
                                          .codes_bytes = bytes,
                                          .dtype = PICO_DTYPE_F32,
                                          .rows = rows,
                                          .cols = cols},
                                 .bytes = bytes};
    if (bytes == 0 || values == NULL || tensor->name == NULL) {
        return pico_fail(to->err, PICO_E_NOMEM, "tensor %s: out of memory", e->name);
    }
    memcpy(tensor->shape, e->shape, sizeof tensor->shape);
    return PICO_OK;
}

pico_status pico_heads_add(pico_model_file *file, const pico_heads_shape *shape, pico_error *err) {
    adding to = {.file = file, .err = err};
    pico_model_desc desc = file->desc;
    pico_status status = check(file, shape, err);
    if (status != PICO_OK) {
        return status;
    }
    describe(shape, &desc);
    status = pico_desc_check(&desc, err);
    if (status != PICO_OK) { /* what was asked for, not the file, is wrong */
        err->code = status == PICO_E_CORRUPT ? PICO_E_INVALID : status;
        return status == PICO_E_CORRUPT ? PICO_E_INVALID : status;
    }
    (void)pico_expect_each(&desc, count, &to);
    to.tensor = pico_arena_alloc(&file->arena, to.n, sizeof *to.tensor);
    if (to.tensor == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory");
    }
    to.n = 0;
    status = pico_expect_each(&desc, add, &to);
    if (status == PICO_OK) {
        file->desc = desc;
        file->tensor = to.tensor;
        file->n_tensor = to.n;
    }
    return status;
}
