/*
 * Attention of prompts at the edges of what 16-bit parts hold: large and small q against small and
 * large K, scores far apart, negative scales; and values that are not finite, which concern the rows
 * that see them and leave the others as they are, bit for bit.
 */
#include "backend_cpu_fixture.h"

enum { PAGE = 64, N_PAGE = 6, N_CELL = N_PAGE * PAGE, MOST_ROWS = 192 };

typedef struct layer {
    uint32_t dtype, n_head, n_kv_head, head_dim;
    int32_t window;
    uint32_t n_sink;
} layer;

static const layer layers[] = {
    {PICO_DTYPE_F32, 2, 2, 128, -1, 0},  {PICO_DTYPE_F32, 7, 1, 24, 70, 3},
    {PICO_DTYPE_F16, 2, 2, 128, 50, 0},  {PICO_DTYPE_F16, 6, 2, 64, -1, 0},
    {PICO_DTYPE_BF16, 2, 1, 128, -1, 0}, {PICO_DTYPE_BF16, 9, 1, 33, 30, 65},
    {PICO_DTYPE_Q8_0, 3, 1, 96, -1, 0},  {PICO_DTYPE_F32, 4, 4, 16, 0, 0},
};
enum { N_LAYER = sizeof layers / sizeof *layers };

static const int32_t table[N_PAGE] = {3, 0, 5, 1, 4, 2};

/* One sequence of which rows [first, first + n) are a prompt. */
typedef struct prompt {
    fix *f;
    layer l;
    pico_kv_desc kv;
    pico_buffer *pages;
    int32_t first, n;
    float scale;
    float *q, *k, *v; /* k, v: (cells, n_kv_head * head_dim) */
} prompt;

static int64_t kv_width(const prompt *p) {
    return (int64_t)p->l.n_kv_head * p->l.head_dim;
}

static int64_t width_of(const prompt *p) {
    return (int64_t)p->l.n_head * p->l.head_dim;
}

static int32_t cell_of(int32_t position) {
    return table[position / PAGE] * PAGE + position % PAGE;
}

static void store(prompt *p, int32_t first, int32_t n) {
    int32_t cell[N_CELL];
    const int64_t width = kv_width(p);
    float *k = malloc((size_t)(n * width) * sizeof *k),
          *v = malloc((size_t)(n * width) * sizeof *v);
    for (int32_t i = 0; i < n; i++) {
        cell[i] = cell_of(first + i);
        memcpy(k + i * width, p->k + cell[i] * width, (size_t)width * sizeof *k);
        memcpy(v + i * width, p->v + cell[i] * width, (size_t)width * sizeof *v);
    }
    const pico_kv_store_args args = {.kv = p->kv,
                                     .pages = p->pages,
                                     .k = fix_heads(fix_f32(p->f, k, n, width), p->l.n_kv_head),
                                     .v = fix_heads(fix_f32(p->f, v, n, width), p->l.n_kv_head),
                                     .cell = fix_vector(p->f, PICO_DTYPE_I32, cell, n)};
    assert_int_equal(p->f->ops->kv_store(p->f->self, &args), PICO_OK);
    free(k), free(v);
}

/* q and k: sizes of their values */
static prompt make_prompt(fix *f, const layer *l, int32_t first, int32_t n, float q, float k) {
    prompt p = {.f = f, .l = *l, .first = first, .n = n, .scale = 0.1f};
    p.kv = (pico_kv_desc){l->dtype, l->n_kv_head, l->head_dim};
    const uint64_t bytes = f->ops->kv_page_bytes(f->self, &p.kv) * N_PAGE;
    p.pages = fix_buffer(f, bytes);
    char *noise = malloc(bytes);
    memset(noise, 0xff, (size_t)bytes);
    assert_int_equal(f->ops->buffer_write(f->self, p.pages, 0, noise, bytes), PICO_OK);
    free(noise);
    p.q = fix_floats(f, n * width_of(&p), q);
    p.k = fix_floats(f, N_CELL * kv_width(&p), k);
    p.v = fix_floats(f, N_CELL * kv_width(&p), 1);
    store(&p, 0, first + n);
    return p;
}

static void free_prompt(prompt *p) {
    free(p->q), free(p->k), free(p->v);
    fix_reset(p->f);
}

static float *attend(prompt *p) {
    const int64_t n = p->n;
    int32_t pos[MOST_ROWS], slot[MOST_ROWS] = {0}, base[MOST_ROWS], begin[MOST_ROWS + 1] = {0};
    for (int32_t i = 0; i < p->n; i++) {
        pos[i] = p->first + i;
        base[i] = pos[i] + 1;
    }
    const pico_batch batch = {.n_rows = (uint32_t)n,
                              .n_pages = (uint32_t)((p->first + n + PAGE - 1) / PAGE),
                              .token = fix_vector(p->f, PICO_DTYPE_I32, pos, n),
                              .prev = fix_vector(p->f, PICO_DTYPE_I32, pos, n),
                              .pos = fix_vector(p->f, PICO_DTYPE_I32, pos, n),
                              .slot = fix_vector(p->f, PICO_DTYPE_I32, slot, n),
                              .base = fix_vector(p->f, PICO_DTYPE_I32, base, n),
                              .anc_begin = fix_vector(p->f, PICO_DTYPE_I32, begin, n + 1),
                              .anc_cell = fix_vector(p->f, PICO_DTYPE_I32, NULL, 0)};
    const pico_attend_args args = {
        .kv = p->kv,
        .pages = p->pages,
        .page_table = fix_tensor(p->f, PICO_DTYPE_I32, table, 1, N_PAGE, N_PAGE),
        .batch = &batch,
        .n_head = p->l.n_head,
        .scale = p->scale,
        .window = p->l.window,
        .n_sink = p->l.n_sink,
        .q = fix_heads(fix_f32(p->f, p->q, n, width_of(p)), p->l.n_head),
        .out = fix_heads(fix_f32(p->f, NULL, n, width_of(p)), p->l.n_head)};
    assert_int_equal(p->f->ops->attend(p->f->self, &args), PICO_OK);
    return fix_get(p->f, &args.out);
}

static void check_values(prompt *p, double limit) {
    const int64_t n = p->n * width_of(p), all = N_CELL * kv_width(p);
    int32_t pos[MOST_ROWS], slot[MOST_ROWS] = {0}, base[MOST_ROWS], begin[MOST_ROWS + 1] = {0};
    double *k = malloc((size_t)all * sizeof *k), *v = malloc((size_t)all * sizeof *v);
    double *want = malloc((size_t)n * sizeof *want);
    for (int64_t i = 0; i < all; i += p->l.head_dim) {
        ref_kv_round(p->l.dtype, p->k + i, p->l.head_dim, k + i);
        ref_kv_round(p->l.dtype, p->v + i, p->l.head_dim, v + i);
    }
    for (int32_t i = 0; i < p->n; i++) {
        pos[i] = p->first + i;
        base[i] = pos[i] + 1;
    }
    const ref_attention a = {.n_rows = p->n,
                             .n_head = p->l.n_head,
                             .n_kv_head = p->l.n_kv_head,
                             .head_dim = p->l.head_dim,
                             .scale = (double)p->scale,
                             .window = p->l.window,
                             .n_sink = p->l.n_sink,
                             .q = p->q,
                             .k = k,
                             .v = v,
                             .page_table = table,
                             .max_pages = N_PAGE,
                             .pos = pos,
                             .slot = slot,
                             .base = base,
                             .anc_begin = begin,
                             .anc_cell = begin};
    ref_attend(&a, want);
    float *got = attend(p);
    fix_close_to(got, want, n, limit);
    free(k), free(v), free(want), free(got);
}

/* Scores of the same spread from q and K of very different sizes, which F16 alone would not hold;
 * then scores so far apart that few positions count. */
static void sizes(void **state) {
    (void)state;
    static const float size[][2] = {{1, 1}, {3e6f, 3e-7f}, {2e-6f, 4e5f}, {30, 10}};
    fix f;
    if (!fix_open(&f, FIX_PORTABLE, 1)) {
        return;
    }
    for (uint32_t i = 0; i < (uint32_t)N_LAYER * 4; i++) {
        const layer *l = &layers[i / 4];
        float q = size[i % 4][0], k = size[i % 4][1];
        if (l->dtype == PICO_DTYPE_F16 && i % 4 != 0 && i % 4 != 3) { /* what its pages hold */
            q = i % 4 == 1 ? 3e3f : 2e-4f;
            k = i % 4 == 1 ? 3e-4f : 4e3f;
        }
        prompt p = make_prompt(&f, l, (int32_t)(i * 7 % 60), 130, q, k);
        p.scale = i % 3 == 0 ? -0.1f : 0.1f;
        const double integers = l->dtype == PICO_DTYPE_Q8_0 ? 1e-3 : 1e-9;
        check_values(&p, i % 4 == 3 ? 1e-8 + integers * 100 : integers);
        free_prompt(&p);
    }
    fix_close(&f);
}

/* Spoils K or V of one position, and looks at the rows before it and at those that see it. */
static void spoil(prompt *p, int32_t position, int of_v) {
    static const float values[] = {INFINITY, -INFINITY, NAN};
    const int64_t kv = kv_width(p), width = width_of(p), dim = p->l.head_dim;
    float *clean = attend(p), *row = (of_v ? p->v : p->k) + cell_of(position) * kv;
    for (int64_t i = 0; i < kv; i += 5) {
        row[i] = values[i / 5 % 3];
    }
    store(p, position, 1);
    float *got = attend(p);
    fix_same_bits(got, clean, (position - p->first) * width);
    for (int64_t i = (position - p->first) * width; i < p->n * width; i++) {
        const int64_t at = p->first + i / width;
        const int64_t group = p->l.n_head / p->l.n_kv_head;
        const int64_t of = i % width / dim / group * dim + i % dim;
        const int seen =
            p->l.window < 0 || position >= at - p->l.window || position < (int32_t)p->l.n_sink;
        if (seen && of_v && of % 5 == 0) {
            assert_true(!isfinite(got[i]));
        } else if (of_v || !seen) {
            assert_memory_equal(&got[i], &clean[i], sizeof *got);
        }
    }
    free(clean), free(got);
}

static void not_finite(void **state) {
    (void)state;
    fix f;
    if (!fix_open(&f, FIX_PORTABLE, 1)) {
        return;
    }
    for (uint32_t i = 0; i < (uint32_t)N_LAYER * 2; i++) {
        const layer *l = &layers[i / 2];
        if (l->dtype == PICO_DTYPE_Q8_0) { /* whose scale would not be finite: no value is left */
            continue;
        }
        prompt p = make_prompt(&f, l, 20, 140, 1, 1);
        spoil(&p, i % 4 < 2 ? 97 : 140, (int)(i % 2));
        free_prompt(&p);
    }
    fix_close(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(sizes), cmocka_unit_test(not_finite)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
