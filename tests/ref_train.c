/* The functions of pico.train/1 in double precision; see ref_train.h. */
#include "ref_train.h"

#include <math.h>
#include <stdlib.h>

double ref_derivative(ref_scalar_fn fn, void *arg, double *x) {
    const double at = *x, h = 1e-5 * (1 + fabs(at));
    *x = at + h;
    const double above = fn(arg);
    *x = at - h;
    const double below = fn(arg);
    *x = at;
    return (above - below) / (2 * h);
}

void ref_train_norm(uint32_t kind, double eps, double scale, const double *x, const double *weight,
                    const double *bias, double *y, int64_t n) {
    double mean = 0, square = 0;
    for (int64_t i = 0; i < n && kind == PICO_NORM_LAYER; i++) {
        mean += x[i] / (double)n;
    }
    for (int64_t i = 0; i < n; i++) {
        square += (x[i] - mean) * (x[i] - mean) / (double)n;
    }
    for (int64_t i = 0; i < n; i++) {
        const double normal = (x[i] - mean) / sqrt(square + eps);
        y[i] = scale * (normal * (weight == NULL ? 1 : weight[i]) + (bias == NULL ? 0 : bias[i]));
    }
}

static int sees(const ref_train_attention *a, int64_t i, int64_t j) {
    return j <= i && (a->window < 0 || j >= i - a->window || j < (int64_t)a->n_sink);
}

void ref_train_attend(const ref_train_attention *a, double *out, double *lse) {
    const int64_t d = a->head_dim, group = a->n_head / a->n_kv_head;
    double *p = malloc((size_t)a->length * sizeof *p);
    for (int64_t r = 0; r < a->n_seq * a->length; r++) {
        const int64_t first = r / a->length * a->length, i = r - first;
        for (int64_t h = 0; h < a->n_head; h++) {
            const double *q = a->q + (r * a->n_head + h) * d;
            double sum = 0, most = -INFINITY;
            for (int64_t j = 0; j <= i; j++) {
                const double *k = a->k + ((first + j) * a->n_kv_head + h / group) * d;
                p[j] = 0;
                for (int64_t c = 0; c < d; c++) {
                    p[j] += a->scale * q[c] * k[c];
                }
                most = sees(a, i, j) && p[j] > most ? p[j] : most;
            }
            for (int64_t j = 0; j <= i; j++) {
                p[j] = sees(a, i, j) ? exp(p[j] - most) : 0;
                sum += p[j];
            }
            for (int64_t c = 0; c < d; c++) {
                double y = 0;
                for (int64_t j = 0; j <= i; j++) {
                    y += p[j] / sum * a->v[((first + j) * a->n_kv_head + h / group) * d + c];
                }
                out[(r * a->n_head + h) * d + c] = y;
            }
            if (lse != NULL) {
                lse[r * a->n_head + h] = most + log(sum);
            }
        }
    }
    free(p);
}

static double log_sum(const double *z, const int32_t *mask, int64_t n, double temperature) {
    double most = -INFINITY, sum = 0;
    for (int64_t i = 0; i < n; i++) {
        most = (mask == NULL || mask[i]) && z[i] / temperature > most ? z[i] / temperature : most;
    }
    for (int64_t i = 0; i < n; i++) {
        sum += mask == NULL || mask[i] ? exp(z[i] / temperature - most) : 0;
    }
    return most + log(sum);
}

double ref_cross_entropy(const double *z, const int32_t *mask, int64_t n, int64_t target) {
    return log_sum(z, mask, n, 1) - z[target];
}

/* Whether fewer than top_k of the teacher's visible logits are larger than the i-th. */
static int is_kept(const double *teacher, const int32_t *mask, int64_t n, int64_t i,
                   int64_t top_k) {
    int64_t larger = 0;
    for (int64_t j = 0; j < n; j++) {
        larger += (mask == NULL || mask[j]) && teacher[j] > teacher[i];
    }
    return (mask == NULL || mask[i]) && (top_k == 0 || larger < top_k);
}

double ref_divergence(const double *teacher, const double *z, const int32_t *mask, int64_t n,
                      double temperature, int64_t top_k) {
    int32_t *kept = calloc((size_t)n, sizeof *kept);
    double total = 0;
    if (kept == NULL) {
        return NAN;
    }
    for (int64_t i = 0; i < n; i++) {
        kept[i] = is_kept(teacher, mask, n, i, top_k);
    }
    const double of_p = log_sum(teacher, kept, n, temperature);
    const double of_q = log_sum(z, mask, n, temperature);
    for (int64_t i = 0; i < n; i++) {
        if (kept[i]) {
            const double ln_p = teacher[i] / temperature - of_p, ln_q = z[i] / temperature - of_q;
            total += exp(ln_p) * (ln_p - ln_q);
        }
    }
    free(kept);
    return total;
}

void ref_adamw(const pico_adamw_args *o, double *p, const double *grad, double *m, double *v,
               int64_t n) {
    const double b1 = (double)o->beta1, b2 = (double)o->beta2, lr = (double)o->lr;
    for (int64_t i = 0; i < n; i++) {
        const double g = (double)o->grad_scale * grad[i];
        p[i] *= 1 - lr * (double)o->weight_decay;
        m[i] = b1 * m[i] + (1 - b1) * g;
        v[i] = b2 * v[i] + (1 - b2) * g * g;
        p[i] -= lr * (m[i] / (1 - pow(b1, (double)o->step))) /
                (sqrt(v[i] / (1 - pow(b2, (double)o->step))) + (double)o->eps);
    }
}

void ref_muon(const pico_muon_args *o, double *x, double *p, double *second, int64_t rows,
              int64_t cols) {
    const int by_row = rows >= cols;
    const int64_t n = by_row ? rows : cols;
    double *v = calloc((size_t)n, sizeof *v), sum = 0, scaled = 0;
    for (int64_t i = 0; i < rows * cols; i++) {
        v[by_row ? i / cols : i % cols] += x[i] * x[i] / (double)(by_row ? cols : rows);
    }
    for (int64_t i = 0; i < n; i++) {
        second[i] = (double)o->beta2 * second[i] + (1 - (double)o->beta2) * v[i];
        sum += v[i];
        scaled += v[i] / fmax(second[i], 1e-10);
    }
    for (int64_t i = 0; i < rows * cols; i++) {
        x[i] *= sqrt(sum / scaled) / sqrt(fmax(second[by_row ? i / cols : i % cols], 1e-10));
        const double decay = x[i] * p[i] >= 0 ? (double)o->weight_decay * p[i] : 0;
        p[i] -= (double)o->lr * (x[i] + decay);
    }
    free(v);
}
