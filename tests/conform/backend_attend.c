/*
 * Backends: KV pages and attention against the oracle, with scattered and dropped pages, windows,
 * sinks and grouped heads; a tree of rows equals the chains in it, bit for bit.
 */
#include "conform/device.h"

enum { PAGE = PICO_PAGE_POSITIONS, N_PAGE = 12, N_SLOT = 2, MAX_PAGES = 5, N_CELL = N_PAGE * PAGE };
enum { MOST_ROWS = 200 };

typedef struct heads {
    uint32_t dtype, n_head, n_kv_head, head_dim;
    int32_t window;
    uint32_t n_sink;
} heads;

static const heads all_heads[] = {
    {PICO_DTYPE_F32, 4, 4, 16, -1, 0},  {PICO_DTYPE_F32, 8, 1, 32, -1, 0},
    {PICO_DTYPE_F16, 6, 2, 9, -1, 0},   {PICO_DTYPE_BF16, 4, 2, 33, -1, 0},
    {PICO_DTYPE_F32, 2, 1, 64, 40, 0},  {PICO_DTYPE_F32, 3, 3, 20, 100, 5},
    {PICO_DTYPE_F16, 4, 1, 128, 0, 0},  {PICO_DTYPE_BF16, 2, 2, 16, 65, 70},
    {PICO_DTYPE_Q8_0, 4, 4, 32, -1, 0}, {PICO_DTYPE_Q8_0, 8, 1, 64, -1, 0},
    {PICO_DTYPE_Q8_0, 6, 2, 96, 40, 0}, {PICO_DTYPE_Q8_0, 2, 1, 128, 65, 70},
};
enum { N_HEADS = sizeof all_heads / sizeof *all_heads };

/* Two timelines in scattered pages; the last two pages are for rows of a tree. */
static const int32_t table[N_SLOT][MAX_PAGES] = {{3, 0, 7, 5, 9}, {1, 8, 2, 4, 6}};

typedef struct world {
    dev *d;
    heads h;
    pico_kv_desc kv;
    pico_buffer *pages;
    float *k, *v;          /* (cells, n_kv_head * head_dim) */
    double *k_ref, *v_ref; /* the same as stored */
    int32_t table[N_SLOT][MAX_PAGES];
} world;

static int64_t kv_width(const world *w) {
    return (int64_t)w->h.n_kv_head * w->h.head_dim;
}

/* Stores the K and V of these cells; negative ones must not be stored. */
static void store(world *w, const int32_t *cell, int64_t n) {
    dev *d = w->d;
    int64_t width = kv_width(w);
    float *k = conform_alloc(d->c, (size_t)(n * width), 4),
          *v = conform_alloc(d->c, (size_t)(n * width), 4);
    for (int64_t i = 0; i < n; i++) {
        int64_t from = cell[i] < 0 ? 0 : cell[i];
        memcpy(k + i * width, w->k + from * width, (size_t)width * 4);
        memcpy(v + i * width, w->v + from * width, (size_t)width * 4);
    }
    pico_tensor tk = dev_tensor(d, PICO_DTYPE_F32, k, n, width, 3);
    pico_tensor tv = dev_tensor(d, PICO_DTYPE_F32, v, n, width, 0);
    pico_kv_store_args args = {.kv = w->kv,
                               .pages = w->pages,
                               .k = dev_heads(&tk, w->h.n_kv_head),
                               .v = dev_heads(&tv, w->h.n_kv_head),
                               .cell = dev_vector(d, PICO_DTYPE_I32, cell, n)};
    dev_ok(d, d->ops->kv_store(d->self, &args), "kv_store");
    free(k), free(v);
}

static void world_open(world *w, dev *d, const heads *h) {
    *w = (world){.d = d, .h = *h, .kv = {h->dtype, h->n_kv_head, h->head_dim}};
    memcpy(w->table, table, sizeof table);
    uint64_t bytes = d->ops->kv_page_bytes(d->self, &w->kv) * N_PAGE;
    CHECK(d->c, bytes != 0, "kv_page_bytes is 0 for %s, which is supported", dev_dtype(h->dtype));
    dev_before_allocation(d);
    CHECK_OK(d->c, d->ops->buffer_alloc(d->self, bytes, &w->pages, error), "buffer_alloc");
    uint8_t *noise = conform_alloc(d->c, bytes, 1);
    memset(noise, 0xff, bytes); /* NaN wherever nothing was stored */
    dev_ok(d, d->ops->buffer_write(d->self, w->pages, 0, noise, bytes), "buffer_write");
    free(noise);
    int64_t n = N_CELL * kv_width(w);
    w->k = dev_random(d, n, 2);
    w->v = dev_random(d, n, 1);
    w->k_ref = conform_alloc(d->c, (size_t)n, sizeof(double));
    w->v_ref = conform_alloc(d->c, (size_t)n, sizeof(double));
    for (int64_t i = 0; i < n; i++) { /* blocks of several sizes, so that no scale fits another */
        w->v[i] *= 1.0f / (float)(1 << i / 32 % 5);
    }
    for (int64_t i = 0; i < n; i += h->head_dim) {
        ref_kv_round(h->dtype, w->k + i, h->head_dim, w->k_ref + i);
        ref_kv_round(h->dtype, w->v + i, h->head_dim, w->v_ref + i);
    }
}

/* How far from the oracle a result may be, as a mean square relative to the expected one. How
 * integers are chosen within the step is the backend's affair: its value and the oracle's may each
 * be off by half a step, max / 127, so that their difference has a variance of step^2 / 6. For
 * uniform values of variance max^2 / 3 this is 1 / (2 * 127^2) of the result, through the values;
 * through the keys, it changes the scores by a variance of scale^2 * head_dim * (1/3) * step^2 / 6,
 * and the weights by the same relative to themselves. Both may be four times that, by chance. */
static double limit_of(const heads *h) {
    if (h->dtype != PICO_DTYPE_Q8_0) {
        return 1e-9;
    }
    double key_step = 2.0 / 127;
    return 4 * (0.5 / (127 * 127) + 0.3 * 0.3 * h->head_dim / 3 * key_step * key_step / 6);
}

static void world_close(world *w) {
    w->d->ops->buffer_free(w->d->self, w->pages);
    dev_reset(w->d);
    free(w->k), free(w->v), free(w->k_ref), free(w->v_ref);
}

/* Positions [begin, end) of a slot are stored. */
static void fill(world *w, int32_t slot, int32_t begin, int32_t end) {
    int32_t cell[MAX_PAGES * PAGE + 1];
    int64_t n = 0;
    for (int32_t p = begin; p < end; p++) {
        cell[n++] = w->table[slot][p / PAGE] * PAGE + p % PAGE;
    }
    cell[n++] = -1;
    store(w, cell, n);
}

typedef struct rows {
    uint32_t n, n_decode;
    int32_t pos[MOST_ROWS], slot[MOST_ROWS], base[MOST_ROWS];
    int32_t anc_begin[MOST_ROWS + 1], anc[80 * 32];
} rows;

/* Runs attend; returns (rows, n_head * head_dim). With want not NULL the oracle's result too. */
static float *attend(world *w, const rows *r, const float *q, double *want) {
    dev *d = w->d;
    int64_t width = (int64_t)w->h.n_head * w->h.head_dim, n = r->n;
    int32_t longest = 0;
    for (int64_t i = 0; i < n; i++) {
        longest = r->pos[i] + 1 > longest ? r->pos[i] + 1 : longest;
    }
    pico_batch batch = {.n_rows = r->n,
                        .n_decode = r->n_decode,
                        .n_pages = (uint32_t)((longest + PAGE - 1) / PAGE),
                        .has_tree = r->anc_begin[n] > 0,
                        .token = dev_vector(d, PICO_DTYPE_I32, r->pos, n),
                        .prev = dev_vector(d, PICO_DTYPE_I32, r->pos, n),
                        .pos = dev_vector(d, PICO_DTYPE_I32, r->pos, n),
                        .slot = dev_vector(d, PICO_DTYPE_I32, r->slot, n),
                        .base = dev_vector(d, PICO_DTYPE_I32, r->base, n),
                        .anc_begin = dev_vector(d, PICO_DTYPE_I32, r->anc_begin, n + 1),
                        .anc_cell = dev_vector(d, PICO_DTYPE_I32, r->anc, r->anc_begin[n])};
    pico_tensor tq = dev_tensor(d, PICO_DTYPE_F32, q, n, width, 3);
    pico_tensor out = dev_tensor(d, PICO_DTYPE_F32, NULL, n, width, 0);
    pico_attend_args args = {.kv = w->kv,
                             .pages = w->pages,
                             .page_table =
                                 dev_tensor(d, PICO_DTYPE_I32, w->table, N_SLOT, MAX_PAGES, 0),
                             .batch = &batch,
                             .n_head = w->h.n_head,
                             .scale = 0.3f,
                             .window = w->h.window,
                             .n_sink = w->h.n_sink,
                             .q = dev_heads(&tq, w->h.n_head),
                             .out = dev_heads(&out, w->h.n_head)};
    dev_ok(d, d->ops->attend(d->self, &args), "attend");
    memset(&batch, 0, sizeof batch); /* the args are borrowed for the call only */
    float *got = dev_get(d, &out);
    if (want != NULL) {
        ref_attention a = {.n_rows = n,
                           .n_head = w->h.n_head,
                           .n_kv_head = w->h.n_kv_head,
                           .head_dim = w->h.head_dim,
                           .scale = (double)0.3f,
                           .window = w->h.window,
                           .n_sink = w->h.n_sink,
                           .q = q,
                           .k = w->k_ref,
                           .v = w->v_ref,
                           .page_table = &w->table[0][0],
                           .max_pages = MAX_PAGES,
                           .pos = r->pos,
                           .slot = r->slot,
                           .base = r->base,
                           .anc_begin = r->anc_begin,
                           .anc_cell = r->anc};
        ref_attend(&a, want);
        dev_near(d, dev_dtype(w->h.dtype), got, want, n * width, limit_of(&w->h));
    }
    dev_check_guards(d, "kv_store or attend");
    return got;
}

/* Drops the pages of a slot that nothing at or after position `from` can see. */
static void drop(world *w, int32_t slot, int32_t from) {
    for (int32_t p = 0; w->h.window >= 0 && p < MAX_PAGES; p++) {
        if ((p + 1) * PAGE <= from - w->h.window && p * PAGE >= (int32_t)w->h.n_sink) {
            w->table[slot][p] = -1;
        }
    }
}

static void attend_follows_the_oracle(conform *c) {
    char skipped[96] = "";
    dev d;
    dev_open(c, &d);
    dev_reserve(&d, 1024);
    for (uint32_t i = 0; i < N_HEADS; i++) {
        const heads *h = &all_heads[i];
        if (d.ops->supports(d.self, PICO_OP_KV, h->dtype) != PICO_OK) {
            (void)snprintf(skipped + strlen(skipped), sizeof skipped - strlen(skipped), " %s",
                           dev_dtype(h->dtype));
            continue;
        }
        world w;
        world_open(&w, &d, h);
        fill(&w, 0, 0, 300);
        fill(&w, 1, 0, 300);
        for (uint32_t turn = 0; turn < 12; turn++) {
            static const int32_t edges[] = {0, 30, 31, 32, 62, 63, 64, 65, 127, 128, 299};
            rows r = {.n = turn == 0 ? 0 : turn < 6 ? turn : 32 + turn};
            int32_t least = INT32_MAX;
            for (uint32_t j = 0; j < r.n; j++) {
                r.slot[j] = (int32_t)rig_below(&c->random, N_SLOT);
                r.pos[j] = turn % 2 == 0 ? edges[rig_below(&c->random, 11)]
                                         : 150 + (int32_t)rig_below(&c->random, 150);
                r.base[j] = r.pos[j] + 1;
                least = r.pos[j] < least ? r.pos[j] : least;
            }
            r.n_decode = turn % 3 == 0 ? r.n / 2 : r.n < 32 ? r.n : 0;
            memcpy(w.table, table, sizeof table);
            drop(&w, 0, least);
            drop(&w, 1, least);
            int64_t width = (int64_t)h->n_head * h->head_dim;
            float *q = dev_random(&d, r.n * width, 1);
            double *want = conform_alloc(c, (size_t)(r.n * width), sizeof *want);
            float *first = attend(&w, &r, q, want);
            dev_same(&d, "attend twice", attend(&w, &r, q, NULL), first, r.n * width);
            if (d.caps & PICO_CAP_BATCH_INVARIANT) {
                for (uint32_t j = 0; j < r.n; j++) {
                    rows one = {.n = 1, .n_decode = j < r.n_decode};
                    one.pos[0] = r.pos[j];
                    one.slot[0] = r.slot[j];
                    one.base[0] = r.base[j];
                    float *alone = attend(&w, &one, q + j * width, NULL);
                    dev_same(&d, "attend of a row alone", alone, first + j * width, width);
                    free(alone);
                    if (j % 8 == 7) {
                        dev_reset(&d);
                    }
                }
            }
            free(q), free(want), free(first);
            dev_reset(&d);
        }
        world_close(&w);
    }
    if (skipped[0] != '\0') {
        conform_skip(c, "the others pass; pages not supported:%s", skipped);
    }
}

/* Rows [first, first + n) of these, as a call of its own. */
static rows part_of(const rows *all, uint32_t first, uint32_t n) {
    rows out = {.n = n};
    memcpy(out.pos, all->pos + first, n * sizeof *out.pos);
    memcpy(out.slot, all->slot + first, n * sizeof *out.slot);
    memcpy(out.base, all->base + first, n * sizeof *out.base);
    return out;
}

/* The next n positions of a slot, from `first` on. */
static void add_chain(rows *r, int32_t slot, int32_t first, int32_t n) {
    for (int32_t i = 0; i < n; i++, r->n++) {
        r->slot[r->n] = slot;
        r->pos[r->n] = first + i;
        r->base[r->n] = first + i + 1;
    }
}

/* Prompts: neighbouring rows of two slots, over several pages, also in pieces. */
static void prompts_follow_the_oracle(conform *c) {
    dev d;
    dev_open(c, &d);
    dev_reserve(&d, 1024);
    for (uint32_t i = 0; i < N_HEADS; i++) {
        const heads *h = &all_heads[i];
        if (d.ops->supports(d.self, PICO_OP_KV, h->dtype) != PICO_OK) {
            continue;
        }
        world w;
        world_open(&w, &d, h);
        const int32_t first = (int32_t)rig_below(&c->random, 40), next = 170 + first;
        rows r = {.n = 0};
        add_chain(&r, 1, next, 40 + (int32_t)rig_below(&c->random, 20));
        add_chain(&r, 0, first, 130 + (int32_t)rig_below(&c->random, 10));
        fill(&w, 0, 0, r.pos[r.n - 1] + 1);
        fill(&w, 1, 0, 300);
        drop(&w, 1, next);
        const int64_t width = (int64_t)h->n_head * h->head_dim;
        float *q = dev_random(&d, r.n * width, 1);
        double *want = conform_alloc(c, (size_t)(r.n * width), sizeof *want);
        float *got = attend(&w, &r, q, want);
        for (uint32_t at = 0, n = 1; (d.caps & PICO_CAP_BATCH_INVARIANT) && at < r.n; n += 37) {
            const rows piece = part_of(&r, at, n < r.n - at ? n : r.n - at);
            float *alone = attend(&w, &piece, q + at * width, NULL);
            dev_same(&d, "attend of a piece", alone, got + at * width, piece.n * width);
            free(alone);
            at += piece.n;
        }
        free(q), free(want), free(got);
        world_close(&w);
    }
}

/* A tree below position base: rows in scratch cells, each with its list of ancestors. The same
 * values stored as a chain in the pages give the same bits if the backend is batch invariant, and
 * the oracle's values in any case. */
static void trees_equal_chains(conform *c) {
    static const int32_t bases[] = {1, 40, 63, 64, 120, 190};
    dev d;
    dev_open(c, &d);
    dev_reserve(&d, 1024);
    for (uint32_t i = 0; i < N_HEADS * 6; i++) {
        const heads *h = &all_heads[i / 6];
        int32_t base = bases[i % 6], parent[20], depth[20];
        if (d.ops->supports(d.self, PICO_OP_KV, h->dtype) != PICO_OK) {
            continue;
        }
        world w;
        world_open(&w, &d, h);
        fill(&w, 1, 0, base);
        rows r = {.n = 20, .n_decode = 20};
        int32_t cell[20];
        for (int32_t j = 0; j < 20; j++) {
            parent[j] = j == 0 ? -1 : (int32_t)rig_below(&c->random, (uint32_t)j + 1) - 1;
            depth[j] = parent[j] < 0 ? 0 : depth[parent[j]] + 1;
            r.slot[j] = 1;
            r.pos[j] = base + depth[j];
            r.base[j] = base;
            cell[j] = 10 * PAGE + j;
            int32_t count = r.anc_begin[j] + depth[j] + 1;
            r.anc_begin[j + 1] = count;
            for (int32_t at = j, end = count; at >= 0; at = parent[at]) {
                r.anc[--end] = 10 * PAGE + at;
            }
        }
        store(&w, cell, 20);
        int64_t width = (int64_t)h->n_head * h->head_dim;
        float *q = dev_random(&d, 20 * width, 1);
        double *want = conform_alloc(c, (size_t)(20 * width), sizeof *want);
        float *tree = attend(&w, &r, q, want);
        for (int32_t j = 0; (d.caps & PICO_CAP_BATCH_INVARIANT) && j < 20; j += 3) {
            for (int32_t at = j; at >= 0; at = parent[at]) { /* the path as a chain in the pages */
                int32_t p = base + depth[at];
                int32_t to = w.table[1][p / PAGE] * PAGE + p % PAGE, from = 10 * PAGE + at;
                pico_kv_copy_args copy = {.kv = w.kv,
                                          .pages = w.pages,
                                          .from = dev_vector(&d, PICO_DTYPE_I32, &from, 1),
                                          .to = dev_vector(&d, PICO_DTYPE_I32, &to, 1)};
                dev_ok(&d, d.ops->kv_copy(d.self, &copy), "kv_copy");
            }
            rows chain = {.n = 1, .n_decode = 1};
            chain.pos[0] = r.pos[j];
            chain.base[0] = r.pos[j] + 1;
            chain.slot[0] = 1;
            float *got = attend(&w, &chain, q + j * width, NULL);
            dev_same(&d, "a row of a tree as a chain", got, tree + j * width, width);
            free(got);
        }
        free(q), free(want), free(tree);
        world_close(&w);
    }
}

/* One KV head for all query heads equals as many copies of it. */
static void shared_heads_equal_repeated_heads(conform *c) {
    dev d;
    dev_open(c, &d);
    dev_reserve(&d, 1024);
    const heads one = {PICO_DTYPE_F32, 6, 1, 24, -1, 0}, many = {PICO_DTYPE_F32, 6, 6, 24, -1, 0};
    world a, b;
    world_open(&a, &d, &one);
    world_open(&b, &d, &many);
    for (int64_t i = 0; i < N_CELL * 6 * 24; i++) {
        int64_t from = i / (6 * 24) * 24 + i % 24;
        b.k[i] = a.k[from];
        b.v[i] = a.v[from];
        b.k_ref[i] = a.k_ref[from];
        b.v_ref[i] = a.v_ref[from];
    }
    fill(&a, 0, 0, 200);
    fill(&b, 0, 0, 200);
    rows r = {.n = 5, .n_decode = 5, .pos = {0, 63, 64, 100, 199}, .base = {1, 64, 65, 101, 200}};
    float *q = dev_random(&d, 5 * 6 * 24, 1);
    double *want = conform_alloc(c, 5 * 6 * 24, sizeof *want);
    float *x = attend(&a, &r, q, want), *y = attend(&b, &r, q, want);
    for (int64_t i = 0; i < 5 * 6 * 24; i++) {
        want[i] = (double)y[i];
    }
    dev_near(&d, "shared KV heads", x, want, 5 * 6 * 24, 1e-10);
}

const conform_test conform_backend_attend[] = {
    {"backend/attend", attend_follows_the_oracle},
    {"backend/attend_prompts", prompts_follow_the_oracle},
    {"backend/trees_equal_chains", trees_equal_chains},
    {"backend/shared_heads", shared_heads_equal_repeated_heads},
    {NULL, NULL}};
