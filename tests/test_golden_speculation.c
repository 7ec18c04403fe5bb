/* labels: golden */
/*
 * Trained models: with accept = match, every decoder that draws drafts gives the tokens of plain
 * decoding, which are the reference's at temperature 0; heads of the model, another model with the
 * same tokenizer, the model itself with weights rounded to int8. The draft head proposes what the
 * reference's does. The last lines say how many drafts were right.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "conform/rig.h"
#include "golden_kit.h"

static golden_tally tally;

typedef struct pair {
    const char *folder, *model, *ref; /* of the target; ref NULL: in PICO_SHARED_DIR/data */
    const char *decoder;
    const char *set; /* one setting of the decoder; of a draft model: below the golden folder */
    int is_path;
} pair;

static const pair pairs[] = {
    {"nanochat/g2_mqa", "model_006000.pt", "ref.json", "spec_draft", "heads=mtp", 0},
    {"nanochat/g2_mqa", "model_006000.pt", "ref.json", "spec_draft", "heads=draft", 0},
    {"nanochat/g2_mqa", "model_006000.pt", "ref.json", "spec_lookup", "ngram_min=2", 0},
    {"nanochat/g2_mqa", "model_006000.pt", "ref.json", "spec_model",
     "nanochat/g2_mha/model_002000.pt", 1},
    {"nanochat/g2_mha", "model_002000.pt", "ref.json", "spec_model",
     "nanochat/g2_mqa/model_006000.pt", 1},
    {"nanochat/g2_mha", "model_002000.pt", "ref.json", "spec_model",
     "nanochat/g2_mha/g2_mha_step2000_int8.pt", 1},
    {"llama2", "tied_v0.bin", "ref.json:tied", "spec_model", "llama2/tied_q80.bin", 1},
    {"llama2", "untied_v0.bin", "ref.json:untied", "spec_model", "llama2/untied_q80.bin", 1},
    {"gpt2", "model.safetensors", "ref.json", "spec_lookup", "ngram_min=1", 0},
    {"models/stories260K", "stories260K.bin", NULL, "spec_lookup", "ngram_min=2", 0},
    {"models/stories260K", "stories260K.bin", NULL, "spec_model", "stories260K_v1.bin", 1},
    {"models/babyllama105", "babyllama105.bin", NULL, "spec_lookup", "ngram_min=4", 0},
};

static const char *const ways[][3] = {
    {"sampler.standard.temperature=0", NULL, NULL},
    {"sampler.standard.temperature=0.7", "sampler.standard.top_k=0", "sampler.standard.top_p=0.9"},
    {"sampler.standard.temperature=1", "sampler.standard.top_k=0", "sampler.standard.top_p=1"},
    {"sampler.standard.temperature=1.5", "sampler.standard.top_k=40",
     "sampler.standard.top_p=0.95"},
};

enum { N_WAY = 4, N_NEW = 48, MAX_ANSWER = GOLDEN_TOKENS };

/* ---- the first drafts ---- */

/* Passes everything on, and keeps the first proposals. */
typedef struct spy {
    const pico_decoder_ops *inner;
    void *inner_self;
    int32_t first[PICO_DECODE_ROWS_MAX];
    uint32_t n_first;
} spy;

static pico_status spy_begin(void *self, const pico_model *target, uint32_t n_slots,
                             pico_decoder_need *out, pico_error *err) {
    spy *s = self;
    return s->inner->begin(s->inner_self, target, n_slots, out, err);
}

static pico_status spy_propose(void *self, pico_sequence *sequences, uint32_t n, pico_error *err) {
    spy *s = self;
    pico_status status = s->inner->propose(s->inner_self, sequences, n, err);
    for (uint32_t i = 0; n != 0 && s->n_first == 0 && i < sequences[0].n_proposal; i++) {
        s->first[i] = sequences[0].proposal[i].token;
    }
    s->n_first = s->n_first == 0 && n != 0 ? sequences[0].n_proposal : s->n_first;
    return status;
}

static pico_status spy_observe(void *self, const pico_outcome *outcomes, uint32_t n,
                               const pico_tensor *hidden, pico_error *err) {
    spy *s = self;
    return s->inner->observe(s->inner_self, outcomes, n, hidden, err);
}

static void spy_end(void *self) {
    spy *s = self;
    s->inner->end(s->inner_self);
}

static pico_status spy_begin_sequence(void *self, const pico_sequence *sequence, pico_error *err) {
    spy *s = self;
    return s->inner->begin_sequence == NULL
               ? PICO_OK
               : s->inner->begin_sequence(s->inner_self, sequence, err);
}

static const pico_decoder_ops spy_ops = {.struct_size = sizeof spy_ops,
                                         .begin = spy_begin,
                                         .propose = spy_propose,
                                         .observe = spy_observe,
                                         .end = spy_end,
                                         .begin_sequence = spy_begin_sequence};

/* ---- answers ---- */

/* A file beside the target's, or, of the golden folder, below that. */
static const char *path_of(char out[4096], const pair *p, const char *name, int is_draft) {
    if (p->ref != NULL) {
        return golden_path(out, is_draft ? NULL : p->folder, name);
    }
    int n = snprintf(out, 4096, "%s/data/%s/%s", PICO_SHARED_DIR, p->folder, name);
    assert_in_range(n, 1, 4095);
    return out;
}

typedef struct answer {
    int32_t token[MAX_ANSWER];
    uint32_t n;
    uint64_t n_drafted, n_accepted;
    spy spy;
} answer;

/* k 0: plain decoding. */
static void run_pair(const pair *p, uint32_t way, uint32_t k, const int32_t *prompt,
                     size_t n_prompt, answer *out) {
    char path[4096], draft[4096], set_draft[4352];
    pico_error err = {0};
    pico_model_file *file = NULL;
    pico_model *model = NULL;
    pico_decode *decode = NULL;
    rig r;
    if (p->is_path) {
        (void)snprintf(set_draft, sizeof set_draft, "decoder.%s.draft_model=%s", p->decoder,
                       path_of(draft, p, p->set, 1));
    } else {
        (void)snprintf(set_draft, sizeof set_draft, "decoder.%s.%s", p->decoder, p->set);
    }
    const char *const set[] = {ways[way][0], ways[way][1] == NULL ? set_draft : ways[way][1],
                               ways[way][1] == NULL ? NULL : ways[way][2],
                               ways[way][1] == NULL ? NULL : set_draft, NULL};
    rig_setup setup = {.search = PICO_BUILD_DIR "/plugins",
                       .sampler = "standard",
                       .decoder = k == 0 ? "greedy" : p->decoder,
                       .set = set,
                       .n_threads = 1 + k % 2};
    test_check(rig_open(&r, &setup, &err), &err);
    test_check(pico_model_file_open(path_of(path, p, p->model, 0), NULL, &file, &err), &err);
    test_check(rig_model_open(&r, file, PICO_DTYPE_F32, &model, &err), &err);
    memset(&out->spy, 0, sizeof out->spy);
    out->spy.inner = &r.decoder.loaded->ops.decoder;
    out->spy.inner_self = r.decoder.self;
    pico_decode_params params = {.sampler = &r.sampler.loaded->ops.sampler,
                                 .sampler_self = r.sampler.self,
                                 .decoder = &spy_ops,
                                 .decoder_self = &out->spy,
                                 .n_slots = 1,
                                 .ubatch = 512,
                                 .draft_n = k,
                                 .repetition = way == 3 ? 1.1f : 1.0f};
    params.max_positions =
        pico_model_describe(model)->pos == PICO_POS_LEARNED ? 0 : (uint32_t)n_prompt + N_NEW;
    test_check(pico_decode_open(model, &params, &decode, &err), &err);
    pico_request request = {
        .prompt = prompt, .n_prompt = n_prompt, .max_tokens = N_NEW, .seed = 7 + way};
    test_check(pico_decode_start(decode, 0, &request, &err), &err);
    test_check(pico_decode_run(decode, NULL, NULL, &err), &err);
    pico_slot_state slot = pico_decode_slot(decode, 0);
    memcpy(out->token, slot.token, slot.n_token * sizeof *slot.token);
    out->n = slot.n_token;
    out->n_drafted = pico_decode_statistics(decode)->n_drafted;
    out->n_accepted = pico_decode_statistics(decode)->n_accepted;
    pico_decode_close(decode);
    pico_model_close(model);
    rig_close(&r);
}

/* The object of the target in its reference file: "ref.json", or "ref.json:NAME OF THE MODEL". */
static json_t *reference_of(const pair *p, const json_t **object) {
    char name[64];
    (void)snprintf(name, sizeof name, "%.*s", (int)strcspn(p->ref, ":"), p->ref);
    json_t *root = golden_json(p->folder, name);
    const char *key = strchr(p->ref, ':');
    json_t *model;
    size_t i;
    *object = key == NULL ? root : NULL;
    json_array_foreach(json_object_get(root, "models"), i, model) {
        const char *of = json_string_value(json_object_get(model, "name"));
        if (key != NULL && of != NULL && strcmp(of, key + 1) == 0) {
            *object = model;
        }
    }
    assert_non_null(*object);
    return root;
}

/* Slot 0 of the reference's draft head is the place of the newest token. */
static void check_first_drafts(const json_t *ref, const answer *got) {
    const json_t *rounds = json_object_get(
        json_object_get(json_object_get(ref, "speculative_greedy"), "no_bonus"), "per_round");
    int32_t want[8];
    size_t n = golden_ids(json_object_get(json_array_get(rounds, 0), "draft"), want, 8);
    assert_int_equal(got->spy.n_first, n - 1);
    for (size_t i = 1; i < n; i++) {
        assert_int_equal(got->spy.first[i - 1], want[i]);
    }
}

static void trained_models_draft_without_changing_the_text(void **state) {
    static answer plain, got;
    const char *all = getenv("PICOCHAT_TEST_ALL");
    (void)state;
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        const pair *p = &pairs[i];
        const json_t *ref = NULL;
        json_t *root = NULL;
        char path[4096];
        int32_t prompt[GOLDEN_TOKENS] = {1, 17, 33, 20, 64, 17, 33}, greedy[GOLDEN_TOKENS];
        size_t n_prompt = 7, n_greedy = 0;
        if (p->ref == NULL && access(path_of(path, p, p->model, 0), R_OK) != 0) {
            print_message("skipped: %s is not there\n", path);
            continue;
        }
        if (p->ref != NULL) {
            root = reference_of(p, &ref);
            n_prompt = golden_ids(json_object_get(ref, "prompt_ids"), prompt, GOLDEN_TOKENS);
            json_t *list = json_object_get(ref, "greedy");
            list = json_is_object(list) ? json_object_get(list, "tokens") : list;
            n_greedy = golden_ids(list, greedy, GOLDEN_TOKENS);
        }
        uint64_t drafted[N_WAY] = {0}, accepted[N_WAY] = {0};
        for (uint32_t way = 0; way < N_WAY; way++) {
            run_pair(p, way, 0, prompt, n_prompt, &plain);
            for (size_t t = 0; way == 0 && t < n_greedy && n_prompt + t < plain.n; t++) {
                if (plain.token[n_prompt + t] != greedy[t] && strcmp(p->folder, "gpt2") != 0) {
                    fail_msg("%s/%s: greedy token %zu is %d, expected %d", p->folder, p->model, t,
                             plain.token[n_prompt + t], greedy[t]);
                }
                tally.n_greedy++;
            }
            for (uint32_t k = 1; k <= 8; k++) {
                if ((all == NULL || all[0] != '1') && (k + way + i) % 3 != 0 && k != 4) {
                    continue;
                }
                run_pair(p, way, k, prompt, n_prompt, &got);
                if (got.n != plain.n || memcmp(got.token, plain.token, got.n * 4) != 0) {
                    fail_msg("%s/%s, %s %s, %s, k %u: another text", p->folder, p->model,
                             p->decoder, p->set, ways[way][0], k);
                }
                drafted[way] += got.n_drafted;
                accepted[way] += got.n_accepted;
                if (way == 0 && k == 4 && strcmp(p->set, "heads=draft") == 0) {
                    check_first_drafts(ref, &got);
                }
            }
        }
        tally.n_checkpoint++;
        print_message("%s/%s, %s %s:", p->folder, p->model, p->decoder, p->set);
        for (uint32_t way = 0; way < N_WAY; way++) {
            double share = drafted[way] == 0 ? 0 : (double)accepted[way] / (double)drafted[way];
            print_message(" %.0f %%", 100 * share);
        }
        print_message(" of the drafts right at temperatures 0, 0.7, 1, 1.5\n");
        if (strcmp(p->decoder, "spec_lookup") != 0) {
            assert_true(accepted[0] > 0);
        }
        json_decref(root);
    }
}

int main(void) {
    const struct CMUnitTest test[] = {
        cmocka_unit_test(trained_models_draft_without_changing_the_text)};
    return golden_main(test, &tally);
}
