/* layers: util */
/*
 * Attention over whole sequences and losses of pico.train/1 on the CPU backend: values against double
 * precision, gradients against central differences, bits against another thread count.
 */
#include "train_op_kit.h"

/* ---- attention ---- */

typedef struct attend_problem {
    ref_train_attention a;
    train_array q, k, v, dout;
    double *out;
} attend_problem;

static double attend_loss(void *arg) {
    attend_problem *p = arg;
    double total = 0;
    ref_train_attend(&p->a, p->out, NULL);
    for (int64_t i = 0; i < p->q.n; i++) {
        total += p->out[i] * p->dout.value[i];
    }
    return total;
}

typedef struct attend_case {
    uint32_t n_seq, length, n_head, n_kv_head, head_dim;
    int32_t window;
    uint32_t n_sink;
    uint32_t compute;
} attend_case;

static const attend_case attend_cases[] = {
    {1, 1, 1, 1, 8, -1, 0, 0},   {3, 11, 2, 2, 12, -1, 0, 0},  {2, 70, 4, 2, 16, -1, 0, 0},
    {1, 130, 3, 1, 20, 5, 0, 0}, {1, 150, 2, 2, 8, 70, 0, 0},  {2, 90, 4, 1, 10, 20, 3, 0},
    {1, 72, 2, 1, 33, 0, 0, 0},  {1, 140, 1, 1, 16, 30, 50, 0}};

/* The gradients, each (rows * heads * head_dim), and the output. */
typedef struct attend_result {
    float *out, *dq, *dk, *dv;
} attend_result;

static void open_attend(fix *f, const attend_case *c, attend_problem *p) {
    const int64_t rows = (int64_t)c->n_seq * c->length, wide = (int64_t)c->n_head * c->head_dim,
                  narrow = (int64_t)c->n_kv_head * c->head_dim;
    *p = (attend_problem){.q = train_random(f, rows, wide, 2),
                          .k = train_random(f, rows, narrow, 2),
                          .v = train_random(f, rows, narrow, 1),
                          .dout = train_random(f, rows, wide, 1),
                          .out = malloc((size_t)(rows * wide) * sizeof(double))};
}

static attend_result run_attend(fix *f, const attend_case *c, attend_problem *p, double *lse) {
    const pico_train_ops *ops = train_ops(f);
    const int64_t rows = (int64_t)c->n_seq * c->length, wide = (int64_t)c->n_head * c->head_dim,
                  narrow = (int64_t)c->n_kv_head * c->head_dim;
    p->a = (ref_train_attention){.n_seq = c->n_seq,
                                 .length = c->length,
                                 .n_head = c->n_head,
                                 .n_kv_head = c->n_kv_head,
                                 .head_dim = c->head_dim,
                                 .scale = (double)0.4f,
                                 .window = c->window,
                                 .n_sink = c->n_sink,
                                 .q = p->q.value,
                                 .k = p->k.value,
                                 .v = p->v.value};
    const int64_t gap = wide % 16 == 0 && narrow % 16 == 0 ? 4 : 3;
    pico_tensor out = fix_tensor(f, PICO_DTYPE_F32, NULL, rows, wide, wide + gap),
                dq = fix_tensor(f, PICO_DTYPE_F32, NULL, rows, wide, wide + gap),
                dk = fix_tensor(f, PICO_DTYPE_F32, NULL, rows, narrow, narrow + gap),
                dv = fix_tensor(f, PICO_DTYPE_F32, NULL, rows, narrow, narrow + gap),
                sums = fix_tensor(f, PICO_DTYPE_F32, NULL, rows, c->n_head, c->n_head),
                work = fix_tensor(f, PICO_DTYPE_F32, NULL, 2 * rows, wide, wide);
    const pico_train_attend_args forward = {.n_seq = c->n_seq,
                                            .length = c->length,
                                            .scale = 0.4f,
                                            .window = c->window,
                                            .n_sink = c->n_sink,
                                            .compute = c->compute,
                                            .q = fix_heads(p->q.tensor, c->n_head),
                                            .k = fix_heads(p->k.tensor, c->n_kv_head),
                                            .v = fix_heads(p->v.tensor, c->n_kv_head),
                                            .out = fix_heads(out, c->n_head),
                                            .lse = sums};
    pico_attend_backward_args backward = {.forward = forward,
                                          .dout = fix_heads(p->dout.tensor, c->n_head),
                                          .dq = fix_heads(dq, c->n_head),
                                          .dk = fix_heads(dk, c->n_kv_head),
                                          .dv = fix_heads(dv, c->n_kv_head)};
    if (c->n_head != c->n_kv_head) {
        backward.work = work;
    }
    assert_int_equal(ops->attend(f->self, &forward), PICO_OK);
    assert_int_equal(ops->attend_backward(f->self, &backward), PICO_OK);
    if (lse != NULL) {
        float *got = fix_get(f, &sums);
        ref_train_attend(&p->a, p->out, lse);
        train_check_values("log of the sum", got, lse, rows * c->n_head, 2e-6);
        free(got);
    }
    return (attend_result){fix_get(f, &out), fix_get(f, &dq), fix_get(f, &dk), fix_get(f, &dv)};
}

static void free_attend(attend_problem *p, attend_result *r) {
    train_free((train_array[]){p->q, p->k, p->v, p->dout}, 4);
    free(p->out);
    free(r->out);
    free(r->dq);
    free(r->dk);
    free(r->dv);
}

static void attention(fix *f) {
    for (size_t i = 0; i < sizeof attend_cases / sizeof *attend_cases; i++) {
        const attend_case *c = &attend_cases[i];
        attend_problem p;
        double *lse = malloc((size_t)c->n_seq * c->length * c->n_head * sizeof *lse);
        open_attend(f, c, &p);
        attend_result got = run_attend(f, c, &p, lse);
        train_check_values("attention", got.out, p.out, p.q.n, 3e-6);
        train_check_gradient(f, "dq", attend_loss, &p, p.q.value, p.q.n, NULL, got.dq);
        train_check_gradient(f, "dk", attend_loss, &p, p.k.value, p.k.n, NULL, got.dk);
        train_check_gradient(f, "dv", attend_loss, &p, p.v.value, p.v.n, NULL, got.dv);
        free_attend(&p, &got);
        free(lse);
        fix_reset(f);
    }
}

static void test_attention(void **state) {
    (void)state;
    fix_each(attention);
}

/* ---- attention in BF16: rounded probabilities, and gradients of scores ---- */

static const attend_case rounded_cases[] = {
    {1, 1, 1, 1, 32, -1, 0, PICO_COMPUTE_BF16},    {2, 70, 2, 2, 64, -1, 0, PICO_COMPUTE_BF16},
    {1, 150, 2, 1, 128, -1, 0, PICO_COMPUTE_BF16}, {3, 64, 4, 2, 32, -1, 0, PICO_COMPUTE_BF16},
    {1, 200, 1, 1, 64, 40, 0, PICO_COMPUTE_BF16},  {1, 256, 2, 2, 32, 17, 70, PICO_COMPUTE_BF16},
    {2, 129, 3, 1, 32, 64, 3, PICO_COMPUTE_BF16},  {1, 191, 1, 1, 128, 0, 0, PICO_COMPUTE_BF16}};

/* Values that BF16 holds, so that the products of what is given are exact. */
static void make_narrow(fix *f, train_array *a, int64_t cols) {
    float *x = malloc((size_t)a->n * sizeof *x);
    for (int64_t i = 0; i < a->n; i++) {
        x[i] = (float)(int)(a->value[i] * 64) / 64;
    }
    free(a->value);
    *a = train_values(f, x, a->n / cols, cols);
    free(x);
}

static void check_close(const char *what, const float *got, const float *want, int64_t n,
                        double share) {
    double *exact = malloc((size_t)n * sizeof *exact);
    for (int64_t i = 0; i < n; i++) {
        exact[i] = (double)want[i];
    }
    train_check_values(what, got, exact, n, share);
    free(exact);
}

static void attention_rounded(fix *f) {
    for (size_t i = 0; i < sizeof rounded_cases / sizeof *rounded_cases; i++) {
        const attend_case *c = &rounded_cases[i];
        attend_case exact = *c;
        attend_problem p;
        double *lse = malloc((size_t)c->n_seq * c->length * c->n_head * sizeof *lse);
        open_attend(f, c, &p);
        const int64_t wide = (int64_t)c->n_head * c->head_dim,
                      narrow = (int64_t)c->n_kv_head * c->head_dim;
        make_narrow(f, &p.q, wide);
        make_narrow(f, &p.k, narrow);
        make_narrow(f, &p.v, narrow);
        make_narrow(f, &p.dout, wide);
        exact.compute = PICO_COMPUTE_F32;
        attend_result want = run_attend(f, &exact, &p, NULL), got = run_attend(f, c, &p, lse);
        train_check_values("attention", got.out, p.out, p.q.n, 4e-3);
        check_close("dq", got.dq, want.dq, p.q.n, 6e-3);
        check_close("dk", got.dk, want.dk, p.k.n, 6e-3);
        check_close("dv", got.dv, want.dv, p.v.n, 6e-3);
        attend_problem none = {0};
        free_attend(&none, &want);
        free_attend(&p, &got);
        free(lse);
        fix_reset(f);
    }
}

static void test_attention_rounded(void **state) {
    (void)state;
    fix_each(attention_rounded);
}

static void threads_change_no_bit(void **state) {
    (void)state;
    if (fix_other() != NULL) {
        return; /* another backend has its own threads */
    }
    const attend_case *c = &attend_cases[2];
    const int64_t n = (int64_t)c->n_seq * c->length * c->head_dim;
    for (uint32_t isa = FIX_PORTABLE; isa <= FIX_AVX512; isa++) {
        attend_problem p[2];
        attend_result r[2];
        for (uint32_t threads = 1; threads <= 2; threads++) {
            fix f;
            if (!fix_open(&f, isa, threads)) {
                return;
            }
            open_attend(&f, c, &p[threads - 1]);
            r[threads - 1] = run_attend(&f, c, &p[threads - 1], NULL);
            fix_close(&f);
        }
        fix_same_bits(r[0].dq, r[1].dq, n * c->n_head);
        fix_same_bits(r[0].dk, r[1].dk, n * c->n_kv_head);
        fix_same_bits(r[0].dv, r[1].dv, n * c->n_kv_head);
        free_attend(&p[0], &r[0]);
        free_attend(&p[1], &r[1]);
    }
}

/* ---- losses ---- */

enum { ROWS = 9, TEACHERS = 6, VOCAB = 61 };

typedef struct loss_problem {
    double hard, soft, temperature;
    int64_t top_k;
    train_array z, teacher;
    const int32_t *target, *teacher_row, *mask; /* NULL: absent */
    double ce[ROWS], kl[ROWS];
} loss_problem;

static double loss_value(void *arg) {
    loss_problem *p = arg;
    double total = 0;
    for (int r = 0; r < ROWS; r++) {
        const double *z = p->z.value + r * VOCAB;
        const int32_t from = p->teacher_row == NULL ? r : p->teacher_row[r];
        p->ce[r] = p->target == NULL || p->target[r] < 0
                       ? 0
                       : ref_cross_entropy(z, p->mask, VOCAB, p->target[r]);
        p->kl[r] = p->teacher.value == NULL || from < 0
                       ? 0
                       : ref_divergence(p->teacher.value + from * VOCAB, z, p->mask, VOCAB,
                                        p->temperature, p->top_k);
        total += p->hard * p->ce[r] + p->soft * p->kl[r];
    }
    return total;
}

/* A teacher of few different logits, so that many equal the k-th largest. */
static void tie(fix *f, train_array *teacher) {
    float *x = fix_floats(f, teacher->n, 1);
    for (int64_t i = 0; i < teacher->n; i++) {
        x[i] = (float)(int)(x[i] * 6);
    }
    const int64_t rows = teacher->n / VOCAB;
    free(teacher->value);
    *teacher = train_values(f, x, rows, VOCAB);
    free(x);
}

/* bit 0: targets, 1: a teacher, 2: by rows, 3: a mask, 4: added to d, 5: d over the logits, 6: a
 * teacher with ties; top_k of the teacher, 0: all */
static void one_loss(fix *f, const pico_train_ops *ops, uint32_t bits, uint32_t top_k) {
    int32_t target[ROWS], teacher_row[ROWS], mask[VOCAB];
    const int by_row = (bits & 4) != 0;
    for (int i = 0; i < VOCAB; i++) {
        mask[i] = i % 5 != 3;
    }
    for (int i = 0; i < ROWS; i++) {
        target[i] = i % 4 == 1 ? -1 : i * 5;
        teacher_row[i] = i % 3 == 2 ? -1 : i % TEACHERS;
    }
    loss_problem p = {.hard = 0.3f,
                      .soft = 0.7f,
                      .temperature = 4,
                      .z = train_random(f, ROWS, VOCAB, 8),
                      .teacher = train_random(f, by_row ? TEACHERS : ROWS, VOCAB, 8)};
    train_array d = train_random(f, ROWS, VOCAB, 0.5f), ce = train_vector(f, ROWS, 1),
                kl = train_vector(f, ROWS, 1);
    if (bits & 64) {
        tie(f, &p.teacher);
    }
    double *teacher_values = p.teacher.value;
    p.top_k = top_k;
    pico_loss_args args = {.hard = 0.3f,
                           .soft = 0.7f,
                           .temperature = 4,
                           .accumulate = (bits & 16) != 0,
                           .logits = p.z.tensor,
                           .d = bits & 32 ? p.z.tensor : d.tensor,
                           .ce = ce.tensor,
                           .kl = kl.tensor,
                           .teacher_top_k = top_k};
    p.target = bits & 1 ? target : NULL;
    p.teacher_row = by_row ? teacher_row : NULL;
    p.mask = bits & 8 ? mask : NULL;
    if (bits & 1) {
        args.target = fix_vector(f, PICO_DTYPE_I32, target, ROWS);
    }
    if (bits & 2) {
        args.teacher = p.teacher.tensor;
    } else {
        p.teacher.value = NULL;
    }
    if (by_row) {
        args.teacher_row = fix_vector(f, PICO_DTYPE_I32, teacher_row, ROWS);
    }
    if (bits & 8) {
        args.mask = fix_vector(f, PICO_DTYPE_I32, mask, VOCAB);
    }
    assert_int_equal(ops->loss(f->self, &args), PICO_OK);
    (void)loss_value(&p);
    float *got = fix_get(f, &ce.tensor);
    train_check_values("cross-entropy", got, p.ce, ROWS, 2e-6);
    free(got);
    got = fix_get(f, &kl.tensor);
    train_check_values("divergence", got, p.kl, ROWS, 1e-5);
    free(got);
    got = fix_get(f, &args.d);
    train_check_gradient(f, "gradient of the losses", loss_value, &p, p.z.value, p.z.n,
                         args.accumulate ? d.value : NULL, got);
    for (int i = 0; i < ROWS * VOCAB && (bits & 8) && !args.accumulate; i++) {
        assert_true(mask[i % VOCAB] || got[i] == 0);
    }
    free(got);
    free(teacher_values);
    train_free((train_array[]){p.z, d, ce, kl}, 4);
    fix_reset(f);
}

static void losses(fix *f) {
    const pico_train_ops *ops = train_ops(f);
    static const uint32_t cases[] = {1, 2, 3, 6, 7, 9, 10, 15, 16 | 3, 16 | 15, 32 | 3, 32 | 15};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        one_loss(f, ops, cases[i], 0);
    }
    assert_true(ops->features(f->self) & PICO_TRAIN_HAS_TOP_K);
    static const uint32_t ks[] = {1, 2, 7, VOCAB / 2, VOCAB - 13, VOCAB - 1, VOCAB, 1000000};
    for (size_t i = 0; i < sizeof ks / sizeof *ks; i++) {
        one_loss(f, ops, 3, ks[i]);
        one_loss(f, ops, 32 | 15, ks[i]);
        one_loss(f, ops, 64 | 2, ks[i]);
        one_loss(f, ops, 64 | 16 | 10, ks[i]);
    }
}

static void test_losses(void **state) {
    (void)state;
    fix_each(losses);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_attention), cmocka_unit_test(test_attention_rounded),
        cmocka_unit_test(threads_change_no_bit), cmocka_unit_test(test_losses)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
