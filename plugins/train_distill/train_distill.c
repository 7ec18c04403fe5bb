/*
 * train_distill: trains a model on text, with or without a teacher whose distributions it follows.
 * Without one it is plain pre-training. It works through the host's train table; it reads no files
 * but the teacher's model, and keeps no data of its own but what save gives out.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "distill.h"

static const char *const learn_choices[] = {"all", "heads", NULL};
static const char *const compute_choices[] = {"auto", "f32", "bf16", NULL};
static const char *const optimizer_choices[] = {"muon", "adamw", NULL};

#define FIELD(name) .offset = offsetof(distill_options, name)
#define NUMBER(text, key, value, low, high, what)                                                  \
    {                                                                                              \
        .name = text, .type = PICO_OPT_FLOAT, FIELD(key), .def = value, .min = low, .max = high,   \
        .help = what                                                                               \
    }
#define COUNT(text, key, value, low, high, of, what)                                               \
    {                                                                                              \
        .name = text, .type = PICO_OPT_INT, FIELD(key), .def = value, .min = low, .max = high,     \
        .unit = of, .help = what                                                                   \
    }

static const pico_option options[] = {
    {.name = "teacher",
     .type = PICO_OPT_PATH,
     FIELD(teacher),
     .help = "model to learn from, with the same tokens; none: learn from the text alone"},
    COUNT("teacher_top_k", teacher_top_k, "0", 0, 16777216, "tokens",
          "cut the teacher's distributions to their best tokens; 0: all"),
    COUNT("steps", steps, "1000", 1, 1e9, "steps", "steps of the whole schedule"),
    COUNT("batch", batch, "8", 1, 65536, "sequences", "sequences of a micro-batch"),
    COUNT("length", length, "256", 2, 16777216, "tokens", "tokens of a sequence"),
    COUNT("accumulate", accumulate, "1", 1, 65536, "micro-batches",
          "micro-batches whose gradients make a step"),
    COUNT("logit_rows", logit_rows, "1024", 1, 16777216, "rows",
          "rows of logits that are in memory at once"),
    {.name = "train",
     .type = PICO_OPT_ENUM,
     FIELD(learn),
     .def = "all",
     .choices = learn_choices,
     .help = "all parameters, or only multi-token and draft heads on a frozen trunk"},
    {.name = "recompute",
     .type = PICO_OPT_BOOL,
     FIELD(recompute),
     .def = "off",
     .help = "keep only the input of each layer and compute the rest again: less memory, a third "
             "more time"},
    {.name = "compute",
     .type = PICO_OPT_ENUM,
     FIELD(compute),
     .def = "auto",
     .choices = compute_choices,
     .help = "how factors of products are rounded; values, sums and optimisers are F32. auto: bf16 "
             "where the backend multiplies it faster"},
    NUMBER("kl", kl, "0.7", 0, 1000, "weight of the divergence from the teacher"),
    NUMBER("ce", ce, "0.3", 0, 1000,
           "weight of the cross-entropy with the text; without a teacher kl is added to it"),
    NUMBER("mtp", mtp, "0.2", 0, 1000, "weight of the multi-token heads"),
    NUMBER("draft", draft, "0.1", 0, 1000, "weight of the draft head"),
    NUMBER("temperature", temperature, "4", 0.01, 1000, "temperature of both distributions"),
    {.name = "optimizer",
     .type = PICO_OPT_ENUM,
     FIELD(optimizer),
     .def = "muon",
     .choices = optimizer_choices,
     .help = "muon: for the matrices of layers, AdamW for the rest, each with its own rate; adamw: "
             "for all, with the rate lr"},
    NUMBER("lr", lr, "0.001", 0, 100, "optimizer = adamw: learning rate"),
    NUMBER("matrix_lr", matrix_lr, "0.02", 0, 100, "learning rate of Muon"),
    NUMBER("embedding_lr", embedding_lr, "0.3", 0, 100, "learning rate of embeddings"),
    NUMBER("head_lr", head_lr, "0.004", 0, 100, "learning rate of output matrices"),
    NUMBER("scalar_lr", scalar_lr, "0.5", 0, 100, "learning rate of lambdas"),
    NUMBER("vector_lr", vector_lr, "0.005", 0, 100, "learning rate of norm weights and biases"),
    NUMBER("beta1", beta1, "0.8", 0, 0.99999, "AdamW: decay of the first moment"),
    NUMBER("beta2", beta2, "0.95", 0, 0.99999, "AdamW: decay of the second moment"),
    NUMBER("eps", eps, "1e-10", 1e-30, 1, "AdamW: added to the root of the second moment"),
    NUMBER("weight_decay", weight_decay, "0.2", 0, 100,
           "of matrices; with Muon times (12 / layers)^2, falling to 0"),
    NUMBER("warmup", warmup, "0.1", 0, 1, "share of the steps in which rates rise from 0"),
    NUMBER("warmdown", warmdown, "0.4", 0, 1, "share of the steps in which rates fall"),
    NUMBER("final_lr", final_lr, "0", 0, 1, "share of the rate at the end"),
};

static pico_status distill_create(const pico_host *host, const void *bound, void **self,
                                  pico_error *err) {
    const distill_options *opt = bound;
    if (opt->warmup + opt->warmdown > 1) {
        return pico_fail(err, PICO_E_INVALID,
                         "trainer distill: warmup (%g) and warmdown (%g) are shares of the steps; "
                         "together they are more than 1",
                         opt->warmup, opt->warmdown);
    }
    distill *d = calloc(1, sizeof *d);
    if (d == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "trainer distill: out of memory");
    }
    d->host = host;
    d->opt = *opt;
    if (opt->teacher != NULL) {
        d->teacher_path = strdup(opt->teacher);
        if (d->teacher_path == NULL) {
            free(d);
            return pico_fail(err, PICO_E_NOMEM, "trainer distill: out of memory");
        }
    }
    d->opt.teacher = d->teacher_path;
    *self = d;
    return PICO_OK;
}

/* ---- begin and end ---- */

static void distill_end(void *self) {
    distill *d = self;
    pico_buffer *const buffers[] = {d->ids, d->losses, d->teacher_logits};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers && d->backend != NULL; i++) {
        d->backend->buffer_free(d->backend_self, buffers[i]);
    }
    if (d->train != NULL) {
        d->host->train->close(d->train);
    }
    if (d->teacher_train != NULL) {
        d->host->train->close(d->teacher_train);
    }
    if (d->teacher != NULL) {
        d->host->model_close(d->teacher);
    }
    free(d->tokens);
    free(d->slot_index);
    free(d->inputs);
    free(d->updated);
    free(d->update);
    free(d->host_ids);
    free(d->host_losses);
    const distill empty = {.host = d->host, .opt = d->opt, .teacher_path = d->teacher_path};
    *d = empty;
}

static void distill_destroy(void *self) {
    distill *d = self;
    if (d != NULL) {
        distill_end(d);
        free(d->teacher_path);
        free(d);
    }
}

/* Whether token ids mean the same to both models; where one has no vocabulary, only their number. */
static pico_status compare_tokens(const distill *d, pico_error *err) {
    const pico_model_desc *teacher = d->host->model_desc(d->teacher);
    const pico_text_api *text = d->host->text;
    if (teacher->n_vocab != d->desc->n_vocab) {
        return pico_fail(err, PICO_E_INVALID,
                         "trainer distill: the teacher has %u tokens, the student %u; they must "
                         "share a tokenizer",
                         teacher->n_vocab, d->desc->n_vocab);
    }
    for (uint32_t i = 0; text != NULL && i < teacher->n_vocab; i++) {
        const char *a = NULL, *b = NULL;
        uint32_t n_a = 0, n_b = 0, type;
        if (text->piece(d->teacher, (int32_t)i, &a, &n_a, &type) != PICO_OK ||
            text->piece(d->student, (int32_t)i, &b, &n_b, &type) != PICO_OK) {
            return PICO_OK;
        }
        if (n_a != n_b || memcmp(a, b, n_a) != 0) {
            return pico_fail(err, PICO_E_INVALID,
                             "trainer distill: token %u is \"%.*s\" to the teacher and \"%.*s\" to "
                             "the student; they must share a tokenizer",
                             i, (int)n_a, a, (int)n_b, b);
        }
    }
    return PICO_OK;
}

/* PICO_TRAIN_HAS_x of the backend; an older one has no slot that says so. */
static uint32_t backend_features(const distill *d) {
    const pico_train_ops *ops = d->backend->extension == NULL
                                    ? NULL
                                    : d->backend->extension(d->backend_self, PICO_TRAIN_EXTENSION);
    const size_t end = offsetof(pico_train_ops, features) + sizeof ops->features;
    return ops == NULL || ops->struct_size < end || ops->features == NULL
               ? 0
               : ops->features(d->backend_self);
}

static pico_status check_top_k(const distill *d, pico_error *err) {
    return d->opt.teacher_top_k == 0 || (backend_features(d) & PICO_TRAIN_HAS_TOP_K)
               ? PICO_OK
               : pico_fail(err, PICO_E_UNSUPPORTED,
                           "trainer distill: this backend cannot cut the teacher's distributions; "
                           "leave teacher_top_k out");
}

static uint32_t compute_flag(const distill *d) {
    const int bf16 = d->opt.compute == COMPUTE_AUTO
                         ? (backend_features(d) & PICO_TRAIN_HAS_BF16) != 0
                         : d->opt.compute == COMPUTE_BF16;
    return bf16 ? PICO_TRAIN_BF16 : 0;
}

static pico_status open_states(distill *d, pico_error *err) {
    const pico_train_api *api = d->host->train;
    pico_train_params params = {.struct_size = sizeof params,
                                .max_rows = d->rows,
                                .max_length = (uint32_t)d->opt.length,
                                .max_logit_rows = d->block};
    const uint32_t compute = compute_flag(d);
    pico_status status = PICO_OK;
    if (d->teacher_path != NULL) {
        status = d->host->model_open(d->host->ctx, d->teacher_path, &d->teacher, err);
        if (status == PICO_OK) {
            status = compare_tokens(d, err);
        }
        params.flags = PICO_TRAIN_FROZEN | compute;
        if (status == PICO_OK) {
            status = api->open(d->teacher, &params, &d->teacher_train, err);
        }
    }
    params.flags = (d->opt.learn == LEARN_HEADS ? PICO_TRAIN_HEADS : 0u) |
                   (d->opt.recompute ? PICO_TRAIN_RECOMPUTE : 0u) | compute;
    if (status == PICO_OK) {
        status = api->open(d->student, &params, &d->train, err);
    }
    return status == PICO_OK ? distill_choose_optimizers(d, err) : status;
}

/* What a slot of the draft head knows. */
static pico_status open_slots(distill *d, pico_error *err) {
    const pico_model_desc *desc = d->desc;
    d->slot_vocab = desc->n_draft_vocab != 0 ? desc->n_draft_vocab : desc->n_vocab;
    if (desc->n_draft_vocab == 0) {
        return PICO_OK;
    }
    d->slot_index = malloc(desc->n_vocab * sizeof *d->slot_index);
    if (d->slot_index == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "trainer distill: out of memory for %u tokens",
                         desc->n_vocab);
    }
    memset(d->slot_index, 0xff, desc->n_vocab * sizeof *d->slot_index);
    for (uint32_t i = 0; i < desc->n_draft_vocab; i++) {
        d->slot_index[desc->draft_vocab[i]] = (int32_t)i;
    }
    return PICO_OK;
}

static pico_status open_memory(distill *d, pico_error *err) {
    const uint64_t block = d->block, rows = d->rows, teacher = d->teacher != NULL ? rows : 0;
    const struct {
        pico_buffer **out;
        uint64_t bytes;
    } buffers[] = {{&d->ids, 2 * block * sizeof(int32_t)},
                   {&d->losses, 2 * block * sizeof(float)},
                   {&d->teacher_logits, teacher * d->desc->n_vocab * sizeof(float)}};
    const uint64_t n_params = d->host->train->n_params(d->train) + (uint64_t)1;
    d->tokens =
        calloc((rows + (uint64_t)d->opt.batch) * (uint64_t)d->opt.accumulate, sizeof *d->tokens);
    d->inputs = calloc(rows, sizeof *d->inputs);
    d->host_ids = calloc(2 * block, sizeof *d->host_ids);
    d->host_losses = calloc(2 * block, sizeof *d->host_losses);
    d->updated = calloc(n_params, sizeof *d->updated);
    d->update = calloc(n_params, sizeof *d->update);
    if (d->tokens == NULL || d->inputs == NULL || d->host_ids == NULL || d->host_losses == NULL ||
        d->updated == NULL || d->update == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "trainer distill: out of memory for %u tokens",
                         d->rows);
    }
    pico_status status = open_slots(d, err);
    for (size_t i = 0; status == PICO_OK && i < sizeof buffers / sizeof *buffers; i++) {
        status = d->backend->buffer_alloc(d->backend_self, buffers[i].bytes, buffers[i].out, err);
    }
    return status;
}

static pico_status distill_begin(void *self, pico_model *student, pico_error *err) {
    distill *d = self;
    if (d->host->train == NULL || d->host->backend == NULL) {
        return pico_fail(err, PICO_E_UNSUPPORTED,
                         "trainer distill: this host does not train (it offers no train table)");
    }
    if (d->opt.batch > UINT32_MAX / d->opt.length) {
        return pico_fail(err, PICO_E_LIMIT,
                         "trainer distill: %lld sequences of %lld tokens are too many at once",
                         (long long)d->opt.batch, (long long)d->opt.length);
    }
    d->student = student;
    d->desc = d->host->model_desc(student);
    d->backend = d->host->backend(d->host->ctx, &d->backend_self);
    d->rows = (uint32_t)(d->opt.batch * d->opt.length);
    d->block = (uint64_t)d->opt.logit_rows < d->rows ? (uint32_t)d->opt.logit_rows : d->rows;
    if (d->desc->n_draft > MOST_SLOTS || d->desc->n_mtp_head + 1 > MOST_HEADS) {
        return pico_fail(err, PICO_E_UNSUPPORTED, "trainer distill: the model has too many heads");
    }
    pico_status status = check_top_k(d, err);
    if (status == PICO_OK) {
        status = open_states(d, err);
    }
    if (status == PICO_OK) {
        status = open_memory(d, err);
    }
    if (status != PICO_OK) {
        distill_end(d);
    }
    return status;
}

/* ---- a step ---- */

static pico_status distill_step(void *self, pico_train_metrics *out, pico_error *err) {
    distill *d = self;
    const uint64_t step = d->step + 1;
    memset(d->sum, 0, sizeof d->sum);
    pico_status status = distill_read_step(d, err);
    if (status == PICO_OK) {
        status = d->host->train->zero_grad(d->train);
    }
    for (uint32_t i = 0; status == PICO_OK && i < (uint32_t)d->opt.accumulate; i++) {
        status = distill_micro_batch(d, i, err);
    }
    if (status != PICO_OK) {
        return status;
    }
    distill_report(d, out);
    if (!isfinite(out->loss)) {
        return pico_fail(err, PICO_E_INVALID,
                         "trainer distill: the loss of step %llu is no number (%g); lower the "
                         "learning rates and go on from the last checkpoint",
                         (unsigned long long)step, out->loss);
    }
    status = distill_update(d, step, err);
    d->step = status == PICO_OK ? step : d->step;
    out->step = step;
    out->n_steps = (uint64_t)d->opt.steps;
    out->n_tokens = (uint64_t)d->rows * (uint64_t)d->opt.accumulate;
    out->learning_rate = distill_rate(&d->opt, step) *
                         (d->opt.optimizer == OPTIMIZER_MUON ? d->opt.matrix_lr : d->opt.lr);
    out->finished = step >= (uint64_t)d->opt.steps;
    return status;
}

/* ---- state ---- */

/* In front of what the host saves. */
typedef struct state_header {
    char magic[8];
    uint64_t step, bytes;
} state_header;

static const char magic[8] = {'d', 'i', 's', 't', 'i', 'l', 'l', '1'};

static pico_status distill_save(void *self, void *data, uint64_t *bytes, pico_error *err) {
    distill *d = self;
    state_header header = {.step = d->step};
    pico_status status = d->host->train->save(d->train, NULL, &header.bytes, err);
    const uint64_t need = sizeof header + header.bytes, room = *bytes;
    *bytes = need;
    if (status != PICO_OK || data == NULL) {
        return status;
    }
    if (room < need) {
        return pico_fail(err, PICO_E_LIMIT, "trainer distill: the state takes %llu bytes",
                         (unsigned long long)need);
    }
    memcpy(header.magic, magic, sizeof magic);
    memcpy(data, &header, sizeof header);
    return d->host->train->save(d->train, (char *)data + sizeof header, &header.bytes, err);
}

static pico_status distill_load(void *self, const void *data, uint64_t bytes, pico_error *err) {
    distill *d = self;
    state_header header;
    if (bytes < sizeof header) {
        return pico_fail(err, PICO_E_CORRUPT, "trainer distill: a state of %llu bytes is too short",
                         (unsigned long long)bytes);
    }
    memcpy(&header, data, sizeof header);
    if (memcmp(header.magic, magic, sizeof magic) != 0 || header.bytes != bytes - sizeof header) {
        return pico_fail(err, PICO_E_CORRUPT,
                         "trainer distill: these bytes are no state of this trainer");
    }
    const pico_status status =
        d->host->train->load(d->train, (const char *)data + sizeof header, header.bytes, err);
    d->step = status == PICO_OK ? header.step : d->step;
    return status;
}

static const pico_trainer_ops ops = {.struct_size = sizeof ops,
                                     .begin = distill_begin,
                                     .step = distill_step,
                                     .save = distill_save,
                                     .load = distill_load,
                                     .end = distill_end};

static const pico_plugin plugin = {.magic = PICO_PLUGIN_MAGIC,
                                   .abi_major = PICO_ABI_MAJOR,
                                   .abi_minor = PICO_ABI_MINOR,
                                   .struct_size = sizeof plugin,
                                   .kind = PICO_KIND_TRAINER,
                                   .name = "distill",
                                   .version = "0.1.0",
                                   .summary = "learns from text and, if there is one, a teacher",
                                   .options = options,
                                   .n_options = sizeof options / sizeof *options,
                                   .option_size = sizeof(pico_option),
                                   .options_bytes = sizeof(distill_options),
                                   .create = distill_create,
                                   .destroy = distill_destroy,
                                   .ops = &ops};

const pico_plugin *pico_plugin_query(uint32_t index) {
    return index == 0 ? &plugin : NULL;
}
