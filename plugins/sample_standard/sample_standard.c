/*
 * The standard sampler: temperature -> top-k (ties at the k-th place stay) -> top-p (the token that
 * crosses the threshold stays) -> min-p; each filter sees the renormalised result of the one
 * before. Temperature 0 is the argmax. Penalties and logit bias are the host's and come before.
 */
#include <assert.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>

#include "plugin.h"

/* Candidates asked for when top-p decides how many count: enough for peaked distributions; when it
 * is not, the whole row is asked for. */
enum { TOP_P_CANDIDATES = 128, TIE_CANDIDATES = 8, TOP_K_LIMIT = 4096 };

typedef struct standard {
    double temperature, top_p, min_p;
    int64_t top_k;
} standard;

static const pico_option options[] = {
    {.name = "temperature",
     .type = PICO_OPT_FLOAT,
     .offset = offsetof(standard, temperature),
     .def = "0.8",
     .min = 0,
     .max = 100,
     .help = "divides the logits; 0 = always the most probable token"},
    {.name = "top_k",
     .type = PICO_OPT_INT,
     .offset = offsetof(standard, top_k),
     .def = "40",
     .min = 0,
     .max = 1 << 24,
     .unit = "tokens",
     .help = "keep the k most probable tokens and those tied with the k-th; 0 = all"},
    {.name = "top_p",
     .type = PICO_OPT_FLOAT,
     .offset = offsetof(standard, top_p),
     .def = "0.95",
     .min = 0,
     .max = 1,
     .help = "keep the most probable tokens until their sum passes p, that one included; 1 = all"},
    {.name = "min_p",
     .type = PICO_OPT_FLOAT,
     .offset = offsetof(standard, min_p),
     .def = "0",
     .min = 0,
     .max = 1,
     .help = "drop tokens less probable than min_p times the most probable one; 0 = none"},
};

static pico_status create(const pico_host *host, const void *opts, void **self, pico_error *err) {
    (void)host;
    standard *plugin = malloc(sizeof *plugin);
    if (plugin == NULL) {
        return pico_fail(err, PICO_E_NOMEM, "out of memory");
    }
    *plugin = *(const standard *)opts;
    *self = plugin;
    return PICO_OK;
}

static pico_status need(void *self, pico_sampler_need *out) {
    const standard *plugin = self;
    out->inv_temperature = 1.0f;
    if (plugin->temperature <= 0) {
        out->kind = PICO_NEED_ARGMAX;
        return PICO_OK;
    }
    out->inv_temperature = (float)(1.0 / plugin->temperature);
    if (plugin->top_k > 0 && plugin->top_k <= TOP_K_LIMIT) {
        out->kind = PICO_NEED_TOP_K;
        out->k = (uint32_t)plugin->top_k + TIE_CANDIDATES;
    } else if (plugin->top_p < 1 || plugin->min_p > 0) {
        out->kind = PICO_NEED_TOP_K;
        out->k = TOP_P_CANDIDATES;
    } else {
        out->kind = PICO_NEED_FULL;
    }
    return PICO_OK;
}

/* ---- selection on a whole row ---- */

static int comes_before(const pico_dist *d, uint32_t a, uint32_t b) {
    return d->p[a] > d->p[b] || (d->p[a] == d->p[b] && d->token[a] < d->token[b]);
}

static void swap(pico_dist *d, uint32_t a, uint32_t b) {
    int32_t token = d->token[a];
    double p = d->p[a];
    d->token[a] = d->token[b];
    d->p[a] = d->p[b];
    d->token[b] = token;
    d->p[b] = p;
}

/* Heap order with the best at the root; sift element i of the heap base[0..n) down. */
static void sift(pico_dist *d, uint32_t i, uint32_t n) {
    for (;;) {
        uint32_t child = 2 * i + 1;
        if (child >= n) {
            return;
        }
        if (child + 1 < n && comes_before(d, child + 1, child)) {
            child++;
        }
        if (!comes_before(d, child, i)) {
            return;
        }
        swap(d, i, child);
        i = child;
    }
}

/* Sorts best first until stop() holds for the sorted part, which ends up at the front; entries
 * after it are dropped. A heap gives the best ones one by one, so a short answer is cheap. */
static void keep_best(pico_dist *d, double top_p_sum, int64_t top_k) {
    uint32_t n = d->n, kept = 0;
    double sum = 0;
    for (uint32_t i = n / 2; i > 0; i--) {
        sift(d, i - 1, n);
    }
    /* The best of the heap [0, left) goes to its end; the sorted part grows downwards from n. */
    uint32_t left = n;
    while (left > 0) {
        int tied = top_k > 0 && kept > 0 && d->p[0] == d->p[n - kept];
        if ((top_k > 0 && kept >= (uint64_t)top_k && !tied) || (kept > 0 && sum > top_p_sum)) {
            break;
        }
        sum += d->p[0];
        swap(d, 0, left - 1);
        left--;
        kept++;
        sift(d, 0, left);
    }
    for (uint32_t i = 0; i < kept; i++) { /* move to the front, best first */
        if (i < n - 1 - i) {
            swap(d, i, n - 1 - i);
        }
    }
    d->n = kept;
}

static void normalise(pico_dist *d) {
    double sum = 0;
    for (uint32_t i = 0; i < d->n; i++) {
        sum += d->p[i];
    }
    for (uint32_t i = 0; i < d->n; i++) {
        d->p[i] /= sum;
    }
}

/* ---- filters on a distribution that is sorted best first ---- */

static void filter_top_p(pico_dist *d, double top_p) {
    double before = 0;
    uint32_t n = 0;
    while (n < d->n && (n == 0 || before <= top_p)) {
        before += d->p[n++];
    }
    d->n = n;
    normalise(d);
}

static void filter_min_p(pico_dist *d, double min_p) {
    double best = 0;
    uint32_t n = 0;
    for (uint32_t i = 0; i < d->n; i++) {
        best = d->p[i] > best ? d->p[i] : best;
    }
    for (uint32_t i = 0; i < d->n; i++) {
        if (d->p[i] >= min_p * best) {
            d->token[n] = d->token[i];
            d->p[n++] = d->p[i];
        }
    }
    d->n = n;
    normalise(d);
}

/* exp((z - best) / T) of each candidate; returns PICO_E_INVALID if none is finite. */
static pico_status weigh(const standard *plugin, const pico_candidates *row, uint32_t n,
                         pico_dist *out) {
    double best = -INFINITY;
    for (uint32_t i = 0; i < n; i++) {
        best = (double)row->logit[i] > best ? (double)row->logit[i] : best;
    }
    if (!isfinite(best)) {
        return PICO_E_INVALID;
    }
    out->n = n;
    for (uint32_t i = 0; i < n; i++) {
        double z = (double)row->logit[i];
        out->token[i] = row->token == NULL ? (int32_t)i : row->token[i];
        out->p[i] = isnan(z) ? 0 : exp((z - best) / plugin->temperature);
    }
    return PICO_OK;
}

/* How many of the sorted candidates top-k keeps: k and the ties; PICO_E_LIMIT if the list is too
 * short to tell. */
static pico_status count_top_k(const standard *plugin, const pico_candidates *row, uint32_t *n) {
    uint64_t k = (uint64_t)plugin->top_k;
    *n = row->n;
    if (k == 0 || k >= row->n_vocab) {
        return k == 0 ? PICO_OK : row->n == row->n_vocab ? PICO_OK : PICO_E_LIMIT;
    }
    if (k > row->n) {
        return PICO_E_LIMIT;
    }
    uint32_t kept = (uint32_t)k;
    while (kept < row->n && row->logit[kept] == row->logit[k - 1]) {
        kept++;
    }
    if (kept == row->n && row->n < row->n_vocab) {
        return PICO_E_LIMIT;
    }
    *n = kept;
    return PICO_OK;
}

/* Candidates best first: exact as soon as they cover what the filters keep. */
static pico_status dist_sorted(const standard *plugin, const pico_candidates *row, pico_dist *out) {
    uint32_t n;
    pico_status status = count_top_k(plugin, row, &n);
    if (status == PICO_OK) {
        status = weigh(plugin, row, n, out);
    }
    if (status != PICO_OK) {
        return status;
    }
    if (plugin->top_k > 0 || row->n == row->n_vocab) {
        normalise(out);
    } else { /* without top-k the sum runs over the whole vocabulary */
        double inv_temperature = (double)(float)(1.0 / plugin->temperature), covered = 0;
        for (uint32_t i = 0; i < n; i++) {
            out->p[i] = exp((double)row->logit[i] * inv_temperature - row->log_sum);
            covered += out->p[i];
        }
        double last = n == 0 ? 0 : out->p[n - 1];
        int enough = covered > plugin->top_p ||
                     (plugin->top_p >= 1 && plugin->min_p > 0 && last < plugin->min_p * out->p[0]);
        if (!enough) {
            return PICO_E_LIMIT;
        }
    }
    if (plugin->top_p < 1) {
        filter_top_p(out, plugin->top_p);
    }
    if (plugin->min_p > 0) {
        filter_min_p(out, plugin->min_p);
    }
    return PICO_OK;
}

/* A whole row in the order of the ids. */
static pico_status dist_full(const standard *plugin, const pico_candidates *row, pico_dist *out) {
    pico_status status = weigh(plugin, row, row->n, out);
    if (status != PICO_OK) {
        return status;
    }
    if (plugin->top_k > 0 && (uint64_t)plugin->top_k < row->n) {
        keep_best(out, INFINITY, plugin->top_k);
        normalise(out);
        if (plugin->top_p < 1) {
            filter_top_p(out, plugin->top_p);
        }
    } else {
        normalise(out);
        if (plugin->top_p < 1) {
            keep_best(out, plugin->top_p, 0);
            normalise(out);
        }
    }
    if (plugin->min_p > 0) {
        filter_min_p(out, plugin->min_p);
    }
    return PICO_OK;
}

static pico_status dist(void *self, const pico_candidates *row, const void *state, pico_dist *out) {
    const standard *plugin = self;
    (void)state;
    assert(out->capacity >= row->n);
    if (plugin->temperature <= 0) { /* argmax; the lowest id wins ties */
        uint32_t best = 0;
        for (uint32_t i = 1; i < row->n; i++) {
            best = row->logit[i] > row->logit[best] || isnan(row->logit[best]) ? i : best;
        }
        out->n = 1;
        out->token[0] = row->token == NULL ? (int32_t)best : row->token[best];
        out->p[0] = 1;
        return PICO_OK;
    }
    return row->token == NULL ? dist_full(plugin, row, out) : dist_sorted(plugin, row, out);
}

static const pico_sampler_ops ops = {
    .struct_size = sizeof(pico_sampler_ops), .need = need, .dist = dist};

static const pico_plugin plugin = {.magic = PICO_PLUGIN_MAGIC,
                                   .abi_major = PICO_ABI_MAJOR,
                                   .abi_minor = 1,
                                   .struct_size = sizeof(pico_plugin),
                                   .kind = PICO_KIND_SAMPLER,
                                   .name = "standard",
                                   .version = "0.1.0",
                                   .summary = "temperature, top-k, top-p, min-p",
                                   .options = options,
                                   .n_options = sizeof options / sizeof *options,
                                   .option_size = sizeof(pico_option),
                                   .options_bytes = sizeof(standard),
                                   .create = create,
                                   .destroy = free,
                                   .ops = &ops};

const pico_plugin *pico_plugin_query(uint32_t index) {
    return index == 0 ? &plugin : NULL;
}
