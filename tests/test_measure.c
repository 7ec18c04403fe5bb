/* layers: measure */
/* labels: golden */
/* Measuring: statistics, probes, what eval reads and computes, the rows of bench. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "llama_kit.h"
#include "measure/bench_internal.h"
#include "measure/eval.h"
#include "measure/probe.h"
#include "measure/stats.h"
#include "test_run.h"

/* ---- a small model to measure ---- */

static int never(void *ctx) {
    (void)ctx;
    return 0;
}

static int always(void *ctx) {
    (void)ctx;
    return 1;
}

static void no_progress(void *ctx, const char *what, uint64_t done, uint64_t total) {
    (void)ctx;
    (void)what;
    assert_true(done <= total);
}

static void open_tiny(test_run *run, int learned_positions) {
    pico_layer_desc layer[2];
    pico_model_desc desc = small_llama(layer, 2);
    pico_model_file *file = NULL;
    pico_error err = {0};
    desc.n_vocab = desc.n_vocab_rows = 97;
    desc.n_ctx_train = 24;
    desc.flags |= PICO_TIED_HEAD;
    if (learned_positions) {
        desc.pos = PICO_POS_LEARNED;
    }
    test_run_open_plugins(run, "[sampler.standard]\ntemperature = 0\n");
    run->host.progress = no_progress;
    run->host.should_stop = never;
    test_check(pico_model_synthetic_from(&desc, PICO_DTYPE_F32, 5, &file, &err), &err);
    test_run_open_model(run, file);
}

/* ---- statistics ---- */

static void statistics_are_right(void **state) {
    (void)state;
    double values[] = {4.0, 1.0, 3.0, 2.0}, single[] = {7.0};
    pico_stats stats = pico_stats_of(values, 4);
    assert_true(stats.mean == 2.5 && stats.median == 2.5 && stats.min == 1.0 && stats.max == 4.0);
    assert_true(fabs(stats.sd - sqrt(5.0 / 3.0)) < 1e-12);
    stats = pico_stats_of(single, 1);
    assert_true(stats.mean == 7.0 && stats.median == 7.0 && stats.sd == 0.0);
    pico_running running = {0};
    assert_true(pico_running_se(&running) == 0.0);
    for (int i = 0; i < 4; i++) {
        pico_running_add(&running, 1e6 + i); /* a sum of squares would lose this */
    }
    assert_true(fabs(pico_running_se(&running) - sqrt(5.0 / 3.0 / 4.0)) < 1e-9);
    assert_true(running.sum == 4e6 + 6.0);
}

/* Probabilities sum to 1 also where exp() of a logit would overflow. */
static void likelihood_is_a_distribution(void **state) {
    (void)state;
    float logits[] = {10000.0f, 9999.0f, 9990.0f, -10000.0f};
    double sum = 0.0;
    for (int32_t i = 0; i < 4; i++) {
        sum += exp(-pico_nll(logits, 4, i));
    }
    assert_true(fabs(sum - 1.0) < 1e-12);
    assert_true(fabs(pico_nll(logits, 4, 1) - pico_nll(logits, 4, 0) - 1.0) < 1e-12);
    assert_true(fabs(pico_nll(logits, 4, 3) - 20000.0) < 1.0);
}

/* ---- the probe ---- */

static void probes_give_sensible_rates(void **state) {
    (void)state;
    pico_pool *pool = NULL;
    pico_probe *probe = NULL;
    pico_error err = {0};
    test_check(pico_pool_open(2, &pool, &err), &err);
    test_check(pico_probe_open(pool, 3 << 20, &probe, &err), &err);
    double small[PICO_PROBE_WAYS], odd[PICO_PROBE_WAYS];
    pico_probe_read(probe, 1, 1, small);
    pico_probe_read(probe, (3 << 20) - 17, 2, odd);
    for (int way = 0; way < PICO_PROBE_WAYS; way++) {
        assert_true(small[way] > 0.0 && isfinite(small[way]));
        assert_true(odd[way] > 1e7 && odd[way] < 1e13);
    }
    double flops = pico_probe_flops(probe);
    assert_true(flops > 1e7 && flops < 1e15);
    pico_probe_close(probe);
    /* More than the machine has is refused before it is touched. */
    assert_int_equal(pico_probe_open(pool, (uint64_t)1 << 50, &probe, &err), PICO_E_NOMEM);
    assert_null(probe);
    pico_pool_close(pool);
}

/* ---- what eval reads ---- */

static pico_status parse(const char *text, int32_t **ids, size_t *n, pico_error *err) {
    return pico_eval_parse_tokens("ids.txt", text, strlen(text), 100, ids, n, err);
}

static void token_files_are_read_or_refused_by_line(void **state) {
    (void)state;
    int32_t *ids = NULL;
    size_t n = 0;
    pico_error err = {0};
    assert_int_equal(parse("0 99\n\t7\r\n42", &ids, &n, &err), PICO_OK);
    assert_int_equal(n, 4);
    assert_true(ids[0] == 0 && ids[1] == 99 && ids[2] == 7 && ids[3] == 42);
    free(ids);
    const struct {
        const char *text, *where;
    } bad[] = {{"1 2\n3 x4\n", "ids.txt:2: \"x4\""},
               {"1\n\n100", "ids.txt:3: \"100\""},
               {"-1", "ids.txt:1: \"-1\""},
               {"1,2", "\"1,2\""},
               {"99999999999999999999999", "ids.txt:1:"},
               {" \n ", "no token ids"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        ids = NULL;
        assert_int_equal(parse(bad[i].text, &ids, &n, &err), PICO_E_INVALID);
        assert_non_null(strstr(err.message, bad[i].where));
        assert_null(ids);
    }
}

static void expect_documents(const char *text, const char *separator, const char *const *expected,
                             size_t n_expected) {
    pico_document *documents = NULL;
    size_t n = 0;
    pico_error err = {0};
    test_check(pico_eval_split(text, strlen(text), separator, &documents, &n, &err), &err);
    assert_int_equal(n, n_expected);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(documents[i].n, strlen(expected[i]));
        assert_memory_equal(documents[i].text, expected[i], documents[i].n);
    }
    free(documents);
}

static void documents_are_split_and_stripped(void **state) {
    (void)state;
    const char *const two[] = {"one\n\nstill one", "two"};
    const char *const three[] = {"a\nb", "c", "d"};
    const char *const whole[] = {"a b"};
    const char marked[] = "\n one\n\nstill one <|endoftext|>\n<|endoftext|>two\n<|endoftext|>";
    assert_string_equal(pico_eval_separator(marked, strlen(marked)), "<|endoftext|>");
    assert_null(pico_eval_separator("a\n\nb", 4));
    expect_documents(marked, "<|endoftext|>", two, 2);
    expect_documents("a\nb\n \t\n\n c\n\r\nd\n", NULL, three, 3);
    expect_documents("a b", NULL, whole, 1);
    expect_documents("a b##", "##", whole, 1);
    expect_documents("\n \n\n", NULL, NULL, 0);
    expect_documents("", NULL, NULL, 0);
    pico_document *documents = NULL;
    size_t n = 0;
    assert_int_equal(pico_eval_split("a", 1, "", &documents, &n, NULL), PICO_E_INVALID);
}

/* ---- logits ---- */

enum { N_IDS = 30, N_VOCAB = 97 };

static void eval_to_file(test_run *run, uint32_t ubatch, float out[N_IDS * N_VOCAB]) {
    int32_t ids[N_IDS];
    char path[64];
    pico_error err = {0};
    pico_eval_params params = {.host = &run->host, .ubatch = ubatch};
    for (int i = 0; i < N_IDS; i++) {
        ids[i] = (i * 31 + 5) % N_VOCAB;
    }
    (void)snprintf(path, sizeof path, "/tmp/pico-measure-%ld.logits", (long)getpid());
    test_check(pico_eval_logits(run->model, &params, ids, N_IDS, path, &err), &err);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    assert_int_equal(fread(out, sizeof *out, N_IDS * N_VOCAB, file), N_IDS * N_VOCAB);
    assert_int_equal(fgetc(file), EOF);
    (void)fclose(file);
    (void)unlink(path);
}

/* The file has a row for every token, whatever the chunks; 30 tokens are more than the 24 of the
 * training, which rope allows. */
static void logits_do_not_depend_on_ubatch(void **state) {
    (void)state;
    static float one[N_IDS * N_VOCAB], seven[N_IDS * N_VOCAB], all[N_IDS * N_VOCAB];
    test_run run;
    open_tiny(&run, 0);
    eval_to_file(&run, 1, one);
    eval_to_file(&run, 7, seven);
    eval_to_file(&run, 512, all);
    assert_memory_equal(one, seven, sizeof one); /* at most 32 rows: one class, the same bits */
    assert_memory_equal(one, all, sizeof one);
    double squares = 0.0;
    for (size_t i = 0; i < N_IDS * N_VOCAB; i++) {
        assert_true(isfinite(one[i]));
        squares += (double)one[i] * (double)one[i];
    }
    double deviation = sqrt(squares / (N_IDS * N_VOCAB));
    assert_true(deviation > 0.1 && deviation < 10.0); /* random weights give logits of use */
    test_run_close(&run);
}

static void failed_eval_leaves_no_file(void **state) {
    (void)state;
    test_run run;
    pico_error err = {0};
    int32_t ids[N_IDS] = {0};
    struct stat info;
    char path[64];
    (void)snprintf(path, sizeof path, "/tmp/pico-measure-%ld.none", (long)getpid());
    open_tiny(&run, 1);
    pico_eval_params params = {.host = &run.host, .ubatch = 8};
    /* Learned positions end where training ended. */
    assert_int_equal(pico_eval_logits(run.model, &params, ids, N_IDS, path, &err), PICO_E_INVALID);
    assert_non_null(strstr(err.message, "24"));
    assert_int_equal(pico_eval_logits(run.model, &params, ids, 24, "/no/such/folder/x", &err),
                     PICO_E_NOT_FOUND);
    run.host.should_stop = always;
    assert_int_equal(pico_eval_logits(run.model, &params, ids, 24, path, &err), PICO_E_CANCELLED);
    assert_int_not_equal(stat(path, &info), 0);
    test_run_close(&run);
}

/* ---- likelihood of text ---- */

static char *read_shared(const char *name, size_t *n) {
    char path[512];
    uint64_t size = 0;
    char *text = NULL;
    (void)snprintf(path, sizeof path, "%s/data/%s", PICO_SHARED_DIR, name);
    if (access(path, R_OK) != 0) {
        return NULL;
    }
    assert_int_equal(pico_file_read(path, 1 << 30, &text, &size, NULL), PICO_OK);
    *n = (size_t)size;
    return text;
}

static pico_eval_result eval_text(const char *model, const char *vocabulary, const char *text,
                                  size_t n, int split, const pico_eval_params *like) {
    char path[512], tokenizer_path[512];
    test_run run;
    pico_error err = {0};
    pico_model_file *file = NULL;
    pico_tokenizer *tokenizer = NULL;
    pico_document whole = {text, n}, *documents = NULL;
    pico_eval_result result;
    size_t n_documents = 1;
    (void)snprintf(path, sizeof path, "%s/data/models/%s", PICO_SHARED_DIR, model);
    (void)snprintf(tokenizer_path, sizeof tokenizer_path, "%s/data/models/%s", PICO_SHARED_DIR,
                   vocabulary);
    test_run_open_plugins(&run, "");
    run.host.progress = no_progress;
    run.host.should_stop = never;
    pico_eval_params params = *like;
    params.host = &run.host;
    test_check(pico_model_file_open(path, tokenizer_path, &file, &err), &err);
    test_check(pico_tokenizer_open(&file->vocab, &tokenizer, &err), &err);
    test_run_open_model(&run, file);
    if (split) {
        test_check(
            pico_eval_split(text, n, pico_eval_separator(text, n), &documents, &n_documents, &err),
            &err);
    }
    test_check(pico_eval_documents(run.model, tokenizer, &params, split ? documents : &whole,
                                   n_documents, &result, &err),
               &err);
    free(documents);
    pico_tokenizer_close(tokenizer);
    test_run_close(&run);
    return result;
}

static const char fox[] = "One day, a clever fox found a shiny key under the old oak tree.";

/* Figures that another implementation gave. */
static void likelihood_of_one_sentence(void **state) {
    (void)state;
    size_t n = 0;
    char *text = read_shared("models/stories260K/tok512.bin", &n);
    if (text == NULL) {
        skip();
    }
    free(text);
    for (uint32_t ubatch = 1; ubatch <= 64; ubatch += 63) {
        pico_eval_params params = {.ubatch = ubatch};
        pico_eval_result r = eval_text("stories260K/stories260K.bin", "stories260K/tok512.bin", fox,
                                       sizeof fox - 1, 0, &params);
        assert_int_equal(r.predictions, 34);
        assert_int_equal(r.tokens, 35);
        assert_int_equal(r.bytes, sizeof fox - 1);
        assert_true(fabs(r.nll_sum - 54.4041) < 1e-3 && fabs(r.nll_mean - 1.60012) < 1e-5);
        assert_true(fabs(r.bpb - r.nll_sum / log(2.0) / 63.0) < 1e-12);
        assert_true(fabs(r.ppl - exp(r.nll_mean)) < 1e-12);
    }
    /* Cut at 10 tokens: 9 predictions, and what was cut is said. */
    pico_eval_params params = {.ubatch = 4, .context = 10};
    pico_eval_result r = eval_text("stories260K/stories260K.bin", "stories260K/tok512.bin", fox,
                                   sizeof fox - 1, 0, &params);
    assert_int_equal(r.predictions, 9);
    assert_int_equal(r.n_cut, 1);
    assert_int_equal(r.tokens_cut, 25);
    assert_true(r.bytes > 0 && r.bytes < sizeof fox - 1);
}

static void likelihood_of_many_documents(void **state) {
    (void)state;
    size_t n = 0;
    char *text = read_shared("text/tinystories.txt", &n);
    if (text == NULL) {
        skip();
    }
    pico_eval_params params = {.ubatch = 512};
    pico_eval_result r =
        eval_text("stories260K/stories260K.bin", "stories260K/tok512.bin", text, n, 1, &params);
    assert_int_equal(r.documents, 317);
    assert_int_equal(r.predictions, 127847);
    assert_true(fabs(r.nll_mean - 1.50563) < 1e-4);
    assert_true(r.nll_se > 0.004 && r.nll_se < 0.007);
    free(text);
}

/* ---- bench ---- */

static pico_decode_params decode_params(const test_run *run) {
    return (pico_decode_params){.sampler = &run->sampler.loaded->ops.sampler,
                                .sampler_self = run->sampler.self,
                                .decoder = &run->decoder.loaded->ops.decoder,
                                .decoder_self = run->decoder.self,
                                .n_slots = 1,
                                .ubatch = 16,
                                .repetition = 1.0f};
}

static pico_bench_params bench_params(const test_run *run, const pico_decode_params *decode) {
    return (pico_bench_params){.host = &run->host,
                               .pool = run->pool,
                               .decode = decode,
                               .prompt = {{40, 0}, 2},
                               .generate = {{6}, 1},
                               .rows = {{1, 3}, 2},
                               .depth = {{0, 20}, 2},
                               .parallel = {{1, 3}, 2},
                               .repeats = 2,
                               .no_kv = 1};
}

static void bench_measures_every_row(void **state) {
    (void)state;
    static const char *const tests[] = {
        "pp40",     "tg6",     "tg6@nokv",     "tg6x1",     "tg6x3",     "v1",     "v3",
        "pp40@d20", "tg6@d20", "tg6@nokv@d20", "tg6x1@d20", "tg6x3@d20", "v1@d20", "v3@d20"};
    test_run run;
    pico_error err = {0};
    open_tiny(&run, 0);
    pico_decode_params decode = decode_params(&run);
    pico_bench_params params = bench_params(&run, &decode);
    pico_bench_result *r = malloc(sizeof *r);
    assert_non_null(r);
    test_check(pico_bench_run(run.model, &params, r, &err), &err);
    assert_int_equal(r->n_row, 14);
    for (size_t i = 0; i < r->n_row; i++) {
        const pico_bench_row *row = &r->row[i];
        assert_string_equal(row->test, tests[i]);
        assert_true(row->tokens_per_s.mean > 0.0 && isfinite(row->tokens_per_s.mean));
        assert_int_equal(row->tokens_per_s.n, 2);
        assert_int_equal(row->ratio.n != 0, row->kind == PICO_BENCH_ROWS_OF_ONE);
        assert_int_equal(isnan(row->share), row->kind == PICO_BENCH_NO_KV);
        assert_int_equal(row->probe_fault,
                         row->kind != PICO_BENCH_PREFILL && row->share > PICO_BENCH_MAX_SHARE);
    }
    /* The limit is that of all bytes of a step: weights, and K and V half-way through the row. */
    assert_int_equal(r->row[1].bytes, r->step_bytes + 4 * r->kv_bytes_per_token);
    assert_int_equal(r->row[8].bytes, r->step_bytes + 24 * r->kv_bytes_per_token);
    assert_int_equal(r->row[11].bytes, r->step_bytes + 3 * 24 * r->kv_bytes_per_token);
    assert_true(r->row[6].ratio.mean > 0.1 && r->read_rate > 0.0 && r->flop_rate > 0.0);
    assert_true(r->kv_bytes >= 60 * r->kv_bytes_per_token && r->peak_rss > 1 << 20);
    free(r);
    test_run_close(&run);
}

/* Without a KV cache the same text comes out, only slower. */
static void no_kv_generates_the_same_tokens(void **state) {
    (void)state;
    test_run run;
    pico_error err = {0};
    double one = 1.0, seconds = 0.0;
    open_tiny(&run, 0);
    pico_decode_params decode = decode_params(&run);
    pico_bench_params params = bench_params(&run, &decode);
    pico_bench_result *result = calloc(1, sizeof *result);
    pico_bench b = {.model = run.model, .params = &params, .err = &err, .result = result};
    pico_bench_row with = {.kind = PICO_BENCH_GENERATE, .n = 20, .n_seq = 1, .depth = 3};
    pico_bench_row without = {.kind = PICO_BENCH_NO_KV, .n = 20, .n_seq = 1, .depth = 3};
    int32_t answer[24];
    test_check(pico_bench_open_row(&b, &with), &err);
    test_check(pico_bench_time(&b, &with, &one, &seconds), &err);
    assert_true(seconds > 0.0);
    pico_slot_state slot = pico_decode_slot(b.decode, 0);
    assert_int_equal(slot.n_token, 4 + 21); /* the prompt's round gives one token more */
    memcpy(answer, slot.token, sizeof answer);
    pico_bench_close_row(&b);
    test_check(pico_bench_open_row(&b, &without), &err);
    test_check(pico_bench_time(&b, &without, &one, &seconds), &err);
    assert_memory_equal(b.tokens, answer, sizeof answer);
    int differ = 0;
    for (int i = 5; i < 24; i++) {
        differ |= answer[i] != answer[4];
    }
    assert_true(differ); /* or the comparison would say little */
    pico_bench_close_row(&b);
    free(result);
    test_run_close(&run);
}

static void bench_refuses_and_stops(void **state) {
    (void)state;
    test_run run;
    pico_error err = {0};
    pico_bench_result *r = malloc(sizeof *r);
    assert_non_null(r);
    open_tiny(&run, 1);
    pico_decode_params decode = decode_params(&run);
    pico_bench_params params = bench_params(&run, &decode);
    assert_int_equal(pico_bench_run(run.model, &params, r, &err), PICO_E_INVALID);
    assert_non_null(strstr(err.message, "pp40: ")); /* 24 learned positions */
    /* All 24 positions can be used. */
    params.prompt = (pico_bench_list){{24}, 1};
    params.generate = (pico_bench_list){{23}, 1};
    params.rows = (pico_bench_list){{24}, 1};
    params.depth = params.parallel = (pico_bench_list){{0}, 0};
    params.no_kv = 0;
    test_check(pico_bench_run(run.model, &params, r, &err), &err);
    params.generate = (pico_bench_list){{24}, 1};
    assert_int_equal(pico_bench_run(run.model, &params, r, &err), PICO_E_INVALID);
    assert_non_null(strstr(err.message, "tg24: "));
    run.host.should_stop = always;
    params.generate.n = 0;
    assert_int_equal(pico_bench_run(run.model, &params, r, &err), PICO_E_CANCELLED);
    run.host.should_stop = never;
    params.repeats = 0;
    assert_int_equal(pico_bench_run(run.model, &params, r, &err), PICO_E_INVALID);
    params.repeats = 1;
    params.prompt.n = params.generate.n = params.rows.n = 0;
    assert_int_equal(pico_bench_run(run.model, &params, r, &err), PICO_E_INVALID);
    assert_non_null(strstr(err.message, "nothing to measure"));
    free(r);
    test_run_close(&run);
}

static size_t count(const char *text, char c) {
    size_t n = 0;
    for (; *text != '\0'; text++) {
        n += *text == c;
    }
    return n;
}

/* Tables: as many cells in every row, a dash or nothing where a number is unknown, a mark and an
 * explanation where the probe was disturbed. */
static void tables_are_well_formed(void **state) {
    (void)state;
    pico_bench_result *r = calloc(1, sizeof *r);
    pico_bench_about about = {.model = "m F32",
                              .dtype = "F32",
                              .model_bytes = 438119424,
                              .n_params = 109529856,
                              .device = "a machine",
                              .backend = "cpu",
                              .decoder = "spec",
                              .threads = 2};
    assert_non_null(r);
    r->n_row = 4;
    r->instructions = "portable";
    r->row[0] = (pico_bench_row){.kind = PICO_BENCH_GENERATE,
                                 .test = "tg8",
                                 .tokens_per_s = {.mean = 71.5},
                                 .limit = 70.0,
                                 .share = 1.05,
                                 .n_drafted = 8,
                                 .n_accepted = 6,
                                 .probe_fault = 1};
    r->row[1] = (pico_bench_row){.kind = PICO_BENCH_NO_KV, .test = "tg8@nokv"};
    r->row[1].share = r->row[1].limit = (double)NAN;
    r->row[2] = (pico_bench_row){
        .kind = PICO_BENCH_ROWS_OF_ONE, .test = "v4", .ratio = {.mean = 1.25}, .share = 0.9};
    r->row[3] = (pico_bench_row){.kind = PICO_BENCH_PREFILL, .test = "pp9", .share = 2.5};
    char *text = NULL;
    size_t size = 0;
    FILE *to = open_memstream(&text, &size);
    pico_bench_print_md(&about, r, to);
    (void)fclose(to);
    assert_int_equal(count(text, '|'), 6 * 9);
    assert_non_null(strstr(text, "| 250.0 % of FMA |"));
    assert_non_null(strstr(text, "| m F32 | 417.82 MiB | 109.53 M | cpu | 2 | tg8 | 71.50"));
    assert_non_null(strstr(text, "105.0 % (!) |"));
    assert_non_null(strstr(text, "| v4 | 1.250 x"));
    assert_non_null(strstr(text, "| - |"));
    assert_non_null(strstr(text, "device: a machine\n"));
    assert_non_null(strstr(text, "probe fault"));
    assert_non_null(strstr(text, "decoder spec;"));
    assert_non_null(strstr(text, "tg8: 75.0 % of 8 drafts accepted\n"));
    free(text);
    about.dtype = "Q8_0"; /* more than the F32 units can do is no percentage of them */
    to = open_memstream(&text, &size);
    pico_bench_print_md(&about, r, to);
    (void)fclose(to);
    assert_non_null(strstr(text, "| 2.50 x F32 FMA |"));
    free(text);
    to = open_memstream(&text, &size);
    pico_bench_print_csv(&about, r, to);
    (void)fclose(to);
    assert_int_equal(count(text, '\n'), 5);
    assert_int_equal(count(text, ','), 5 * 18);
    assert_non_null(strstr(text, ",1,spec,8,6,Q8_0,0\n"));
    assert_null(strstr(text, "nan"));
    free(text);
    free(r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(statistics_are_right),
        cmocka_unit_test(likelihood_is_a_distribution),
        cmocka_unit_test(probes_give_sensible_rates),
        cmocka_unit_test(token_files_are_read_or_refused_by_line),
        cmocka_unit_test(documents_are_split_and_stripped),
        cmocka_unit_test(logits_do_not_depend_on_ubatch),
        cmocka_unit_test(failed_eval_leaves_no_file),
        cmocka_unit_test(likelihood_of_one_sentence),
        cmocka_unit_test(likelihood_of_many_documents),
        cmocka_unit_test(bench_measures_every_row),
        cmocka_unit_test(no_kv_generates_the_same_tokens),
        cmocka_unit_test(bench_refuses_and_stops),
        cmocka_unit_test(tables_are_well_formed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
