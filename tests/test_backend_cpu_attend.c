/* layers: util */
/* backend_cpu: KV pages and attention against the oracle, and batch invariance: a row alone, in a
 * batch, in a chain, in a tree, always the same bits. */
#include "backend_cpu_fixture.h"

#define PAGE 64
#define MAX_CELLS (12 * PAGE)

typedef struct kase {
    uint32_t dtype;
    int64_t n_head, n_kv_head, head_dim;
    int32_t window;
    uint32_t n_sink;
} kase;

static const kase kases[] = {
    {PICO_DTYPE_F32, 4, 4, 16, -1, 0},   {PICO_DTYPE_F32, 12, 1, 64, -1, 0},
    {PICO_DTYPE_F16, 8, 2, 8, -1, 0},    {PICO_DTYPE_BF16, 6, 3, 33, -1, 0},
    {PICO_DTYPE_F32, 4, 2, 20, 70, 0},   {PICO_DTYPE_F16, 2, 2, 65, 10, 5},
    {PICO_DTYPE_BF16, 20, 1, 31, 64, 1}, {PICO_DTYPE_F32, 2, 1, 128, 0, 70},
    {PICO_DTYPE_Q8_0, 4, 4, 64, -1, 0},  {PICO_DTYPE_Q8_0, 12, 1, 32, -1, 0},
    {PICO_DTYPE_Q8_0, 6, 2, 96, 70, 5},  {PICO_DTYPE_Q8_0, 2, 1, 128, 10, 0},
    {PICO_DTYPE_F16, 4, 2, 64, -1, 0},   {PICO_DTYPE_BF16, 8, 8, 32, 40, 3},
    {PICO_DTYPE_F32, 2, 2, 256, -1, 0},
};
#define N_KASE (sizeof kases / sizeof *kases)

/* Two sequences with scattered pages, and what their cells hold. */
typedef struct world {
    fix *f;
    kase k;
    pico_kv_desc kv;
    pico_buffer *pages;
    int32_t table[2][6];
    pico_tensor table_t;
    float *raw_k, *raw_v; /* (cells, n_kv_head, head_dim), as stored in F32 */
    double *k_cell, *v_cell;
} world;

static int64_t kv_width(const world *w) {
    return w->k.n_kv_head * w->k.head_dim;
}

static void store_cells(world *w, const int32_t *cell, int64_t n) {
    const int64_t width = kv_width(w);
    float *k = malloc(sizeof *k * (size_t)(n * width)),
          *v = malloc(sizeof *v * (size_t)(n * width));
    for (int64_t i = 0; i < n; i++) {
        const int64_t from = cell[i] < 0 ? 0 : cell[i];
        memcpy(k + i * width, w->raw_k + from * width, sizeof *k * (size_t)width);
        memcpy(v + i * width, w->raw_v + from * width, sizeof *v * (size_t)width);
    }
    pico_kv_store_args args = {.kv = w->kv,
                               .pages = w->pages,
                               .k = fix_heads(fix_f32(w->f, k, n, width), w->k.n_kv_head),
                               .v = fix_heads(fix_f32(w->f, v, n, width), w->k.n_kv_head),
                               .cell = fix_vector(w->f, PICO_DTYPE_I32, cell, n)};
    assert_int_equal(w->f->ops->kv_store(w->f->self, &args), PICO_OK);
    free(k);
    free(v);
}

/* n0 and n1 positions of the two sequences are in their pages; pages are full of NaN elsewhere. */
static world make_world(fix *f, const kase *k, int32_t n0, int32_t n1) {
    static const int32_t table[2][6] = {{3, 0, 7, 5, 9, 10}, {1, 8, 2, 4, 6, -1}};
    world w = {.f = f, .k = *k};
    w.kv = (pico_kv_desc){k->dtype, (uint32_t)k->n_kv_head, (uint32_t)k->head_dim};
    memcpy(w.table, table, sizeof table);
    const uint64_t page = f->ops->kv_page_bytes(f->self, &w.kv);
    const uint64_t values = (uint64_t)kv_width(&w) * 2 * PAGE;
    assert_true(page >= (k->dtype == PICO_DTYPE_F32    ? values * 4
                         : k->dtype == PICO_DTYPE_Q8_0 ? values + values / 16
                                                       : values * 2));
    w.pages = fix_buffer(f, page * 12);
    memset(f->ops->buffer_host(f->self, w.pages), 0xff, page * 12);
    w.table_t = fix_tensor(f, PICO_DTYPE_I32, table, 2, 6, 6);
    const int64_t n = MAX_CELLS * kv_width(&w);
    w.raw_k = fix_floats(f, n, 2);
    w.raw_v = fix_floats(f, n, 1);
    w.k_cell = malloc(sizeof(double) * (size_t)n);
    w.v_cell = malloc(sizeof(double) * (size_t)n);
    for (int64_t i = 0; i < n; i++) { /* blocks of several sizes, so that no scale fits another */
        w.raw_k[i] *= 0.5f + (float)(i / 32 % 3) * 0.25f;
        w.raw_v[i] *= 0.1f + (float)(i / 32 % 5) * 0.5f;
    }
    for (int64_t i = 0; i < n; i += k->head_dim) {
        ref_kv_round(k->dtype, w.raw_k + i, k->head_dim, w.k_cell + i);
        ref_kv_round(k->dtype, w.raw_v + i, k->head_dim, w.v_cell + i);
    }
    int32_t cell[MAX_CELLS], count = 0;
    for (int32_t p = 0; p < n0; p++) {
        cell[count++] = table[0][p / PAGE] * PAGE + p % PAGE;
    }
    for (int32_t p = 0; p < n1; p++) {
        cell[count++] = table[1][p / PAGE] * PAGE + p % PAGE;
    }
    cell[count++] = -1; /* a row that is not stored */
    store_cells(&w, cell, count);
    return w;
}

static void free_world(world *w) {
    free(w->raw_k);
    free(w->raw_v);
    free(w->k_cell);
    free(w->v_cell);
    fix_reset(w->f);
}

/* Rows of a call. With anc NULL: chains. */
typedef struct rows {
    uint32_t n;
    int32_t pos[48], slot[48], base[48], anc_begin[49], anc_cell[256];
    uint32_t has_tree;
    uint32_t n_prompt; /* the last rows, of the prefill class */
    const float *q;
} rows;

static float *attend(const world *w, const rows *r, double *want) {
    const int64_t n = r->n, width = w->k.n_head * w->k.head_dim;
    pico_batch batch = {.n_rows = r->n,
                        .n_decode = r->n - r->n_prompt,
                        .n_pages = 6,
                        .has_tree = r->has_tree,
                        .pos = fix_vector(w->f, PICO_DTYPE_I32, r->pos, n),
                        .slot = fix_vector(w->f, PICO_DTYPE_I32, r->slot, n),
                        .base = fix_vector(w->f, PICO_DTYPE_I32, r->base, n),
                        .anc_begin = fix_vector(w->f, PICO_DTYPE_I32, r->anc_begin, n + 1),
                        .anc_cell = fix_vector(w->f, PICO_DTYPE_I32, r->anc_cell,
                                               r->has_tree ? r->anc_begin[n] : 0)};
    const float scale = 0.3f;
    pico_attend_args args = {.kv = w->kv,
                             .pages = w->pages,
                             .page_table = w->table_t,
                             .batch = &batch,
                             .n_head = (uint32_t)w->k.n_head,
                             .scale = scale,
                             .window = w->k.window,
                             .n_sink = w->k.n_sink,
                             .q = fix_heads(fix_f32(w->f, r->q, n, width), w->k.n_head),
                             .out = fix_heads(fix_f32(w->f, NULL, n, width), w->k.n_head)};
    assert_int_equal(w->f->ops->attend(w->f->self, &args), PICO_OK);
    if (want != NULL) {
        const ref_attention ref = {.n_rows = n,
                                   .n_head = w->k.n_head,
                                   .n_kv_head = w->k.n_kv_head,
                                   .head_dim = w->k.head_dim,
                                   .scale = (double)scale,
                                   .window = w->k.window,
                                   .n_sink = w->k.n_sink,
                                   .q = r->q,
                                   .k = w->k_cell,
                                   .v = w->v_cell,
                                   .page_table = w->table[0],
                                   .max_pages = 6,
                                   .pos = r->pos,
                                   .slot = r->slot,
                                   .base = r->base,
                                   .anc_begin = r->anc_begin,
                                   .anc_cell = r->anc_cell};
        ref_attend(&ref, want);
    }
    return fix_get(w->f, &args.out);
}

static void add_row(rows *r, int32_t slot, int32_t pos) {
    r->pos[r->n] = pos;
    r->slot[r->n] = slot;
    r->base[r->n] = pos + 1;
    r->n++;
}

/* A batch of both sequences, of either class and of both: near the oracle; each row alone, of the class
 * that it has, gives the same bits; so do two runs. */
static void batch_of(world *w, rows *r, uint32_t n_prompt) {
    const int64_t width = w->k.n_head * w->k.head_dim;
    double *want = malloc(sizeof(double) * (size_t)(r->n * width));
    r->n_prompt = n_prompt;
    float *got = attend(w, r, want), *again = attend(w, r, NULL);
    fix_close_to(got, want, r->n * width, 1e-10);
    fix_same_bits(got, again, r->n * width);
    for (uint32_t i = 0; i < r->n; i++) {
        rows one = {.q = r->q + i * width, .n_prompt = i >= r->n - n_prompt};
        add_row(&one, r->slot[i], r->pos[i]);
        float *alone = attend(w, &one, NULL);
        fix_same_bits(alone, got + i * width, width);
        free(alone);
    }
    free(got);
    free(again);
    free(want);
}

static void batches(fix *f) {
    for (size_t c = 0; c < N_KASE; c++) {
        world w = make_world(f, &kases[c], 300, 150);
        float *q = fix_floats(f, 48 * w.k.n_head * w.k.head_dim, 1);
        rows r = {.q = q};
        for (int32_t i = 0; i < 21; i++) { /* a piece of a prompt across a page border */
            add_row(&r, 0, 180 + i);
        }
        for (int32_t i = 0; i < 9; i++) {
            add_row(&r, 1, 60 + i);
        }
        add_row(&r, 0, 0);
        add_row(&r, 1, 0);
        add_row(&r, 0, 299);
        add_row(&r, 1, 149);
        add_row(&r, 0, 63);
        add_row(&r, 0, 64);
        batch_of(&w, &r, 0);
        batch_of(&w, &r, r.n);
        batch_of(&w, &r, 17);
        free(q);
        free_world(&w);
    }
}

static void attention_matches_the_oracle_and_does_not_depend_on_the_batch(void **state) {
    (void)state;
    fix_each(batches);
}

/* The same rows as a chain in the pages and as a branch of a tree beside it: equal bits, near the
 * oracle. The tree's cells lie in scattered order in spare pages. */
static void trees(fix *f) {
    for (size_t c = 0; c < N_KASE; c++) {
        const int32_t length = 125, depth = 8;
        world w = make_world(f, &kases[c], length + depth, 90);
        const int64_t width = w.k.n_head * w.k.head_dim, kv = kv_width(&w);
        float *q = fix_floats(f, 48 * width, 1);
        double *want = malloc(sizeof(double) * (size_t)(48 * width));
        rows chain = {.q = q}, tree = {.q = q, .has_tree = 1};
        int32_t cells[8];
        for (int32_t i = 0; i < depth; i++) {
            const int32_t at = length + i, spare = 11 * PAGE + (i * 5) % 8 * 3;
            const int32_t linear = w.table[0][at / PAGE] * PAGE + at % PAGE;
            cells[i] = spare;
            memcpy(w.raw_k + spare * kv, w.raw_k + linear * kv, sizeof(float) * (size_t)kv);
            memcpy(w.raw_v + spare * kv, w.raw_v + linear * kv, sizeof(float) * (size_t)kv);
            memcpy(w.k_cell + spare * kv, w.k_cell + linear * kv, sizeof(double) * (size_t)kv);
            memcpy(w.v_cell + spare * kv, w.v_cell + linear * kv, sizeof(double) * (size_t)kv);
            add_row(&chain, 0, at);
            add_row(&tree, 0, at);
            tree.base[i] = length;
            memcpy(tree.anc_cell + tree.anc_begin[i], cells, sizeof(int32_t) * (size_t)(i + 1));
            tree.anc_begin[i + 1] = tree.anc_begin[i] + i + 1;
        }
        store_cells(&w, cells, depth);
        add_row(&tree, 1, 77); /* another sequence, in the same call, without a tree */
        tree.anc_begin[depth + 1] = tree.anc_begin[depth];
        float *a = attend(&w, &chain, want);
        fix_close_to(a, want, depth * width, 1e-10);
        float *b = attend(&w, &tree, want);
        fix_close_to(b, want, (depth + 1) * width, 1e-10);
        fix_same_bits(a, b, depth * width);
        free(a);
        free(b);
        free(q);
        free(want);
        free_world(&w);
    }
}

static void a_branch_of_a_tree_has_the_bits_of_a_chain(void **state) {
    (void)state;
    fix_each(trees);
}

/* Pages before the window are dropped, their memory is NaN: nothing changes. */
static void drops(fix *f) {
    for (size_t c = 4; c < N_KASE; c++) {
        if (kases[c].window < 0) {
            continue;
        }
        world w = make_world(f, &kases[c], 300, 10);
        const int64_t width = w.k.n_head * w.k.head_dim;
        float *q = fix_floats(f, 4 * width, 1);
        rows r = {.q = q};
        for (int32_t i = 0; i < 4; i++) {
            add_row(&r, 0, 296 + i);
        }
        r.n_prompt = 2;
        float *before = attend(&w, &r, NULL);
        const int32_t gone = -1;
        for (uint64_t p = (w.k.n_sink + PAGE - 1) / PAGE; p < 3; p++) {
            assert_int_equal(
                f->ops->buffer_write(f->self, w.table_t.buffer, w.table_t.offset + p * 4, &gone, 4),
                PICO_OK);
        }
        float *after = attend(&w, &r, NULL);
        fix_same_bits(before, after, 4 * width);
        free(before);
        free(after);
        free(q);
        free_world(&w);
    }
}

static void dropped_pages_are_invisible(void **state) {
    (void)state;
    fix_each(drops);
}

/* kv_copy moves K and V of cells, also between pages and within one. */
static void copies(fix *f) {
    for (size_t c = 0; c < N_KASE; c++) {
        world w = make_world(f, &kases[c], 70, 70);
        const int64_t width = w.k.n_head * w.k.head_dim;
        float *q = fix_floats(f, width, 1);
        int32_t from[70], to[70];
        for (int32_t p = 0; p < 70; p++) { /* sequence 0 over sequence 1 */
            from[p] = w.table[0][p / PAGE] * PAGE + p % PAGE;
            to[p] = w.table[1][p / PAGE] * PAGE + p % PAGE;
        }
        rows r0 = {.q = q}, r1 = {.q = q};
        add_row(&r0, 0, 69);
        add_row(&r1, 1, 69);
        pico_kv_copy_args args = {.kv = w.kv,
                                  .pages = w.pages,
                                  .from = fix_vector(f, PICO_DTYPE_I32, from, 70),
                                  .to = fix_vector(f, PICO_DTYPE_I32, to, 70)};
        float *a = attend(&w, &r0, NULL), *b = attend(&w, &r1, NULL);
        assert_memory_not_equal(a, b, (size_t)width * 4); /* different keys and values */
        assert_int_equal(f->ops->kv_copy(f->self, &args), PICO_OK);
        free(b);
        b = attend(&w, &r1, NULL);
        fix_same_bits(a, b, width);
        free(a);
        free(b);
        free(q);
        free_world(&w);
    }
}

static void copied_cells_hold_the_same(void **state) {
    (void)state;
    fix_each(copies);
}

/* Thread counts give the same bits. */
static void thread_count_does_not_matter(void **state) {
    (void)state;
    for (uint32_t isa = FIX_PORTABLE; isa < FIX_ISA_END; isa++) {
        float *result[2] = {NULL, NULL};
        int64_t n = 0;
        for (uint32_t threads = 1; threads <= 2; threads++) {
            fix f;
            if (!fix_open(&f, isa, threads)) {
                break;
            }
            world w = make_world(&f, &kases[1], 300, 150);
            n = 40 * w.k.n_head * w.k.head_dim;
            float *q = fix_floats(&f, n, 1);
            rows r = {.q = q, .n_prompt = 33};
            for (int32_t i = 0; i < 40; i++) {
                add_row(&r, i / 30, 100 + i);
            }
            result[threads - 1] = attend(&w, &r, NULL);
            free(q);
            free_world(&w);
            fix_close(&f);
        }
        if (result[0] != NULL) {
            fix_same_bits(result[0], result[1], n);
        }
        free(result[0]);
        free(result[1]);
    }
}

/* Shapes that do not fit and pages of a kind that is not there are refused. */
static void refusals(fix *f) {
    world w = make_world(f, &kases[0], 10, 10);
    const pico_kv_desc bad[] = {{PICO_DTYPE_I8, 1, 8},    {PICO_DTYPE_F32, 0, 8},
                                {PICO_DTYPE_F32, 1, 513}, {PICO_DTYPE_F32, 1, 0},
                                {PICO_DTYPE_Q8_0, 1, 48}, {PICO_DTYPE_Q8_0, 1, 8}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_true(f->ops->kv_page_bytes(f->self, &bad[i]) == 0);
    }
    const int32_t pos = 3, slot = 0, base = 4, begin[2] = {0, 0};
    pico_batch batch = {.n_rows = 1,
                        .n_decode = 1,
                        .pos = fix_vector(f, PICO_DTYPE_I32, &pos, 1),
                        .slot = fix_vector(f, PICO_DTYPE_I32, &slot, 1),
                        .base = fix_vector(f, PICO_DTYPE_I32, &base, 1),
                        .anc_begin = fix_vector(f, PICO_DTYPE_I32, begin, 2),
                        .anc_cell = fix_vector(f, PICO_DTYPE_I32, NULL, 0)};
    const pico_attend_args good = {.kv = w.kv,
                                   .pages = w.pages,
                                   .page_table = w.table_t,
                                   .batch = &batch,
                                   .n_head = 4,
                                   .scale = 1,
                                   .window = -1,
                                   .q = fix_heads(fix_f32(f, NULL, 1, 64), 4),
                                   .out = fix_heads(fix_f32(f, NULL, 1, 64), 4)};
    pico_attend_args a = good;
    a.n_head = 5;
    assert_int_equal(f->ops->attend(f->self, &a), PICO_E_INVALID);
    a = good;
    a.q.shape[2] = 15;
    assert_int_equal(f->ops->attend(f->self, &a), PICO_E_INVALID);
    a = good;
    a.kv.dtype = PICO_DTYPE_Q8_0;
    assert_int_equal(f->ops->attend(f->self, &a), PICO_E_INVALID);
    a = good;
    a.pages = NULL;
    assert_int_equal(f->ops->attend(f->self, &a), PICO_E_INVALID);
    batch.n_rows = 2;
    assert_int_equal(f->ops->attend(f->self, &good), PICO_E_INVALID);
    free_world(&w);
}

static void bad_arguments_are_refused(void **state) {
    (void)state;
    fix_each(refusals);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attention_matches_the_oracle_and_does_not_depend_on_the_batch),
        cmocka_unit_test(a_branch_of_a_tree_has_the_bits_of_a_chain),
        cmocka_unit_test(dropped_pages_are_invisible),
        cmocka_unit_test(copied_cells_hold_the_same),
        cmocka_unit_test(thread_count_does_not_matter),
        cmocka_unit_test(bad_arguments_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
