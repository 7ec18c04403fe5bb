/*
 * Trainers: begin, step, save, load and end on small models, with data that the kit makes. Steps count
 * and say when the schedule is over; a saved state goes on to the same bits; whatever fails changes
 * nothing; an end leaves nothing behind. Where the defaults make long steps, give the plugin short
 * ones with --set.
 */
#include <malloc.h>
#include <math.h>

#include "conform/kit.h"
#include "train/train.h"

enum { MOST_STEPS = 40, GUARD = 64 };

typedef struct trained {
    rig r;
    pico_instance instance;
    const pico_trainer_ops *ops;
    pico_model *model;
    int n_vocab;
    /* the data: token i is a function of i */
    uint64_t served, drawn; /* tokens so far; tokens to learn from of the step at hand */
    int fails;              /* 1: there is none */
} trained;

static const char *const families[] = {"llama", "nanochat-g2", "gpt2"};
enum { N_FAMILY = 3 };

static pico_status next_batch(void *arg, uint32_t n_seq, uint32_t length, int32_t *tokens,
                              pico_error *err) {
    trained *t = arg;
    if (t->fails) {
        return pico_fail(err, PICO_E_IO, "the kit's data fails");
    }
    for (uint64_t i = 0; i < (uint64_t)n_seq * (length + 1); i++) {
        uint64_t random = t->served++;
        tokens[i] = (int32_t)rig_below(&random, (uint32_t)t->n_vocab);
    }
    t->drawn += (uint64_t)n_seq * length;
    return PICO_OK;
}

/* The backend itself, with its extension, in place of the rig's, which can fail. */
static const pico_backend_ops *own_backend(void *ctx, void **self) {
    rig *r = ctx;
    *self = r->backend.self;
    return &r->backend.loaded->ops.backend;
}

/* A plugin with a model in front of it; trains: whether the host offers its table. */
static void trained_open(conform *c, trained *t, const char *family, int trains) {
    const tiny_model tiny = {.family = family,
                             .n_layer = 2,
                             .n_head = 2,
                             .n_kv_head = 2,
                             .head_dim = 8,
                             .n_ff = 24,
                             .n_vocab = 40,
                             .n_ctx = 1024,
                             .seed = 5};
    char section[160];
    const char *set[CONFORM_SETTINGS + 1] = {0};
    memcpy(set, c->set, sizeof set);
    const rig_setup setup = {.set = set, .n_threads = 2};
    memset(t, 0, sizeof *t);
    t->n_vocab = (int)tiny.n_vocab;
    CHECK_OK(c, rig_open(&t->r, &setup, error), "the rig");
    CHECK_OK(
        c,
        pico_device_init(&t->r.device, &t->r.backend.loaded->ops.backend, t->r.backend.self, error),
        "the device");
    if (trains) {
        t->r.host.train = &pico_train_table;
        t->r.host.backend = own_backend;
    }
    CHECK_OK(c, tiny_model_open(&t->r, &tiny, PICO_DTYPE_F32, &t->model, error), "a model");
    (void)snprintf(section, sizeof section, "%s.%s", pico_kind_name(c->kind), c->name);
    CHECK_OK(c,
             pico_registry_create(t->r.registry, t->r.config, c->kind, c->path, section, &t->r.host,
                                  &t->instance, error),
             "create");
    t->ops = &t->instance.loaded->ops.trainer;
}

/* Begins, and gives the training state its data; skips a plugin that does not train such a model. */
static void trained_begin(conform *c, trained *t) {
    pico_error err = {0};
    const pico_status status = t->ops->begin(t->instance.self, t->model, &err);
    CHECK(c, status == PICO_OK || err.message[0] != '\0', "begin fails with %d and says nothing",
          (int)status);
    if (status == PICO_E_UNSUPPORTED) {
        conform_skip(c, "%s", err.message);
    }
    CHECK(c, status == PICO_OK, "begin: %s", err.message);
    CHECK(c, pico_train_of(t->model) != NULL, "begin leaves the model without a training state");
    pico_train_set_source(pico_train_of(t->model), next_batch, t);
}

static void trained_close(trained *t) {
    t->ops->end(t->instance.self);
    pico_model_close(t->model);
    rig_close(&t->r);
}

static pico_train_metrics take_step(conform *c, trained *t) {
    pico_train_metrics m = {.struct_size = sizeof m};
    t->drawn = 0;
    CHECK_OK(c, t->ops->step(t->instance.self, &m, error), "step");
    return m;
}

/* The state as bytes, with a guard behind them. */
static char *saved(conform *c, trained *t, uint64_t *bytes) {
    *bytes = 0;
    CHECK_OK(c, t->ops->save(t->instance.self, NULL, bytes, error), "save, asked for the size");
    char *data = conform_alloc(c, *bytes + GUARD, 1);
    memset(data, 0x5a, *bytes + GUARD);
    const uint64_t room = *bytes;
    CHECK_OK(c, t->ops->save(t->instance.self, data, bytes, error), "save");
    CHECK(c, *bytes == room, "save asks for %llu bytes and writes %llu", (unsigned long long)room,
          (unsigned long long)*bytes);
    for (uint32_t i = 0; i < GUARD; i++) {
        CHECK(c, data[*bytes + i] == 0x5a, "save writes beyond the bytes that it asked for");
    }
    return data;
}

/* The state must be these bytes. */
static void same_state(conform *c, trained *t, const char *want, uint64_t n, const char *what) {
    uint64_t n_now;
    char *now = saved(c, t, &n_now);
    CHECK(c, n_now == n && memcmp(now, want, n) == 0, "%s", what);
    free(now);
}

/* ---- tests ---- */

/* A host that offers no train table is refused, and can be asked again. */
static void begin_needs_the_hosts_table(conform *c) {
    trained t;
    trained_open(c, &t, "llama", 0);
    for (uint32_t turn = 0; turn < 2; turn++) {
        pico_error err = {0};
        const pico_status status = t.ops->begin(t.instance.self, t.model, &err);
        CHECK(c, status == PICO_E_UNSUPPORTED, "begin gives %d where the host cannot train",
              (int)status);
        CHECK(c, err.message[0] != '\0', "begin refuses without a message");
    }
}

static void check_terms(conform *c, const pico_train_metrics *m, const pico_train_metrics *first) {
    CHECK(c, m->n_term <= PICO_TRAIN_TERMS, "%u terms", m->n_term);
    CHECK(c, m->n_term == first->n_term, "steps have %u terms, then %u", first->n_term, m->n_term);
    for (uint32_t i = 0; i < m->n_term; i++) {
        CHECK(c, m->term_name[i] != NULL && m->term_name[i][0] != '\0', "term %u has no name", i);
        CHECK(c, strcmp(m->term_name[i], first->term_name[i]) == 0, "term %u is %s, then %s", i,
              first->term_name[i], m->term_name[i]);
        CHECK(c, strpbrk(m->term_name[i], ",\"\n") == NULL, "%s is no name for a column",
              m->term_name[i]);
        CHECK(c, isfinite(m->term[i]), "%s is %g", m->term_name[i], m->term[i]);
        for (uint32_t j = 0; j < i; j++) {
            CHECK(c, strcmp(m->term_name[i], m->term_name[j]) != 0, "two terms are called %s",
                  m->term_name[i]);
        }
    }
}

/* Steps count from 1, are finite, name their terms, count the tokens that they drew, change the
 * model, and finish when the schedule says so. */
static void steps_say_what_they_were(conform *c) {
    for (uint32_t f = 0; f < N_FAMILY; f++) {
        trained t;
        pico_train_metrics first = {0};
        uint64_t n_before, rises = 0;
        trained_open(c, &t, families[f], 1);
        trained_begin(c, &t);
        char *before = saved(c, &t, &n_before);
        for (uint64_t step = 1; step <= MOST_STEPS; step++) {
            const pico_train_metrics m = take_step(c, &t);
            first = step == 1 ? m : first;
            rises += m.learning_rate > 0;
            CHECK(c, m.step == step, "step %llu says that it is %llu", (unsigned long long)step,
                  (unsigned long long)m.step);
            CHECK(c, isfinite(m.loss), "the loss of step %llu is %g", (unsigned long long)step,
                  m.loss);
            CHECK(c, isfinite(m.learning_rate) && m.learning_rate >= 0, "a learning rate of %g",
                  m.learning_rate);
            CHECK(c, m.n_tokens == t.drawn, "a step drew %llu tokens and says %llu",
                  (unsigned long long)t.drawn, (unsigned long long)m.n_tokens);
            CHECK(c, m.n_steps == first.n_steps, "the schedule has %llu steps, then %llu",
                  (unsigned long long)first.n_steps, (unsigned long long)m.n_steps);
            check_terms(c, &m, &first);
            CHECK(c, m.n_steps == 0 || (m.finished != 0) == (step == m.n_steps),
                  "step %llu of %llu says that finished is %u", (unsigned long long)step,
                  (unsigned long long)m.n_steps, m.finished);
            if (m.finished) {
                break;
            }
        }
        uint64_t n_after;
        char *after = saved(c, &t, &n_after);
        CHECK(c, n_after == n_before, "the state had %llu bytes and has %llu",
              (unsigned long long)n_before, (unsigned long long)n_after);
        CHECK(c, rises == 0 || memcmp(before, after, n_after) != 0,
              "steps with a learning rate have changed nothing");
        float value = 0;
        pico_param p;
        CHECK(c, pico_train_table.param(pico_train_of(t.model), 0, &p) == PICO_OK, "a parameter");
        CHECK_OK(c,
                 t.r.device.ops->buffer_read(t.r.device.self, p.value.buffer, p.value.offset,
                                             &value, sizeof value, error),
                 "a value");
        CHECK(c, isfinite(value), "a value of the model is %g", (double)value);
        free(before);
        free(after);
        trained_close(&t);
    }
}

/* Two steps, a save, two more; elsewhere a step on other data, a load, the same two: the same bits
 * and the same losses. Saving changes nothing; a place that is too small is refused. */
static void a_saved_state_goes_on(conform *c) {
    for (uint32_t f = 0; f < N_FAMILY; f++) {
        trained a, b;
        uint64_t n_half, n_end, small;
        double loss[2];
        pico_error err = {0};
        trained_open(c, &a, families[f], 1);
        trained_begin(c, &a);
        (void)take_step(c, &a);
        (void)take_step(c, &a);
        char *half = saved(c, &a, &n_half);
        const uint64_t at = a.served;
        same_state(c, &a, half, n_half, "saved twice, two states");
        small = n_half - 1;
        char *room = conform_alloc(c, n_half, 1);
        CHECK(c, a.ops->save(a.instance.self, room, &small, &err) != PICO_OK && err.message[0],
              "save takes a byte less than it needs, or refuses without a message");
        free(room);
        loss[0] = take_step(c, &a).loss;
        loss[1] = take_step(c, &a).loss;
        char *end = saved(c, &a, &n_end);
        trained_close(&a);

        trained_open(c, &b, families[f], 1);
        trained_begin(c, &b);
        b.served = 1000003;
        (void)take_step(c, &b);
        CHECK_OK(c, b.ops->load(b.instance.self, half, n_half, error), "load");
        same_state(c, &b, half, n_half, "what was loaded is not what is saved");
        b.served = at;
        for (uint32_t i = 0; i < 2; i++) {
            const pico_train_metrics m = take_step(c, &b);
            CHECK(c, m.step == 3 + i, "after a load of step 2 comes step %llu",
                  (unsigned long long)m.step);
            CHECK(c, m.loss == loss[i], "a loss of %.17g went on as %.17g", loss[i], m.loss);
        }
        same_state(c, &b, end, n_end, "a state that was loaded goes on to other bits");
        free(half);
        free(end);
        trained_close(&b);
    }
}

/* Bytes that are cut, longer or damaged where the host's or the plugin's headers are, are refused
 * with a message and change nothing. */
static void wrong_bytes_change_nothing(conform *c) {
    trained t;
    uint64_t n;
    trained_open(c, &t, "llama", 1);
    trained_begin(c, &t);
    (void)take_step(c, &t);
    char *state = saved(c, &t, &n);
    const uint64_t lengths[] = {0, 1, n / 2, n - 1, n + 1};
    for (uint32_t i = 0; i < 6; i++) {
        pico_error err = {0};
        char *bytes = conform_alloc(c, n + GUARD, 1);
        memcpy(bytes, state, n);
        if (i == 5) {
            memset(bytes, 0xff, n < 64 ? n : 64);
        }
        const uint64_t length = i == 5 ? n : lengths[i];
        const pico_status status = t.ops->load(t.instance.self, bytes, length, &err);
        CHECK(c, status != PICO_OK && err.message[0] != '\0',
              "load takes %llu bytes of a state of %llu%s, or refuses without a message",
              (unsigned long long)length, (unsigned long long)n, i == 5 ? " that are damaged" : "");
        same_state(c, &t, state, n, "a load that failed has changed the state");
        free(bytes);
    }
    free(state);
    trained_close(&t);
}

/* A model with a value that is no number: the step fails as the contract says, nothing changes. */
static void no_number_updates_nothing(conform *c) {
    trained t;
    uint64_t n;
    const float bad = NAN;
    pico_param p;
    pico_error err = {0};
    pico_train_metrics m = {.struct_size = sizeof m};
    trained_open(c, &t, "llama", 1);
    trained_begin(c, &t);
    (void)take_step(c, &t);
    for (uint32_t i = 0; pico_train_table.param(pico_train_of(t.model), i, &p) == PICO_OK; i++) {
        if (strcmp(p.name, "blk.0.attn_output.weight") == 0) {
            CHECK(c,
                  t.r.device.ops->buffer_write(t.r.device.self, p.value.buffer, p.value.offset,
                                               &bad, sizeof bad) == PICO_OK,
                  "a value cannot be written");
        }
    }
    char *state = saved(c, &t, &n);
    const pico_status status = t.ops->step(t.instance.self, &m, &err);
    CHECK(c, status == PICO_E_INVALID, "a loss that is no number gives %d", (int)status);
    CHECK(c, err.message[0] != '\0', "a loss that is no number gives no message");
    same_state(c, &t, state, n, "a step whose loss is no number has changed the state");
    free(state);
    trained_close(&t);
}

/* A step that gets no data fails, changes nothing, and is taken later as if nothing had been. */
static void failing_data_changes_nothing(conform *c) {
    trained t;
    uint64_t n, n_end;
    trained_open(c, &t, "llama", 1);
    trained_begin(c, &t);
    (void)take_step(c, &t);
    char *state = saved(c, &t, &n);
    const uint64_t at = t.served;
    (void)take_step(c, &t);
    char *end = saved(c, &t, &n_end);
    CHECK_OK(c, t.ops->load(t.instance.self, state, n, error), "load");
    t.served = at;
    t.fails = 1;
    for (uint32_t turn = 0; turn < 2; turn++) {
        pico_train_metrics m = {.struct_size = sizeof m};
        pico_error err = {0};
        CHECK(c, t.ops->step(t.instance.self, &m, &err) != PICO_OK && err.message[0] != '\0',
              "a step without data succeeds, or fails without a message");
        same_state(c, &t, state, n, "a step that failed has changed the state");
    }
    t.fails = 0;
    CHECK(c, take_step(c, &t).step == 2, "failed steps are counted");
    same_state(c, &t, end, n_end, "a step after one that failed gives other bits");
    free(state);
    free(end);
    trained_close(&t);
}

/* A life on an instance that has lived gives the same bits, leaves no memory behind and no training
 * state at the model; a model that is being trained is not begun twice. */
static void lives_end_as_they_began(conform *c) {
    trained t;
    uint64_t n = 0;
    char *state = NULL;
    size_t heap = 0, least = SIZE_MAX; /* that ten lives have left behind */
    trained_open(c, &t, "llama", 1);
    for (uint32_t life = 0; life < 41; life++) {
        if (life % 10 == 0) {
            const size_t now = mallinfo2().uordblks, more = now > heap ? now - heap : 0;
            least = life > 0 && more < least ? more : least;
            heap = now;
        }
        trained_begin(c, &t);
        t.served = 0;
        (void)take_step(c, &t);
        if (life == 0) {
            pico_instance other;
            pico_error err = {0};
            char section[160];
            (void)snprintf(section, sizeof section, "%s.%s", pico_kind_name(c->kind), c->name);
            CHECK_OK(c,
                     pico_registry_create(t.r.registry, t.r.config, c->kind, c->path, section,
                                          &t.r.host, &other, error),
                     "another instance");
            CHECK(c, t.ops->begin(other.self, t.model, &err) != PICO_OK && err.message[0] != '\0',
                  "a model that is being trained is begun again, or refused without a message");
            state = saved(c, &t, &n);
        } else {
            same_state(c, &t, state, n, "an instance that begins again goes to other bits");
        }
        t.ops->end(t.instance.self);
        CHECK(c, pico_train_of(t.model) == NULL, "end leaves the model its training state");
    }
    /* what is kept once is no leak, nor are malloc's own stores while they fill */
    CHECK(c, least < 300, "10 lives leave %zu bytes of memory behind", least);
    t.ops->end(t.instance.self); /* once more: nothing is begun */
    free(state);
    pico_model_close(t.model);
    rig_close(&t.r);
}

const conform_test conform_trainer[] = {
    {"trainer/begin_needs_the_hosts_table", begin_needs_the_hosts_table},
    {"trainer/steps_say_what_they_were", steps_say_what_they_were},
    {"trainer/a_saved_state_goes_on", a_saved_state_goes_on},
    {"trainer/wrong_bytes_change_nothing", wrong_bytes_change_nothing},
    {"trainer/no_number_updates_nothing", no_number_updates_nothing},
    {"trainer/failing_data_changes_nothing", failing_data_changes_nothing},
    {"trainer/lives_end_as_they_began", lives_end_as_they_began},
    {NULL, NULL}};
