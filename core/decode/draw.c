/* The exponential race form of the Gumbel argmax; see draw.h. */
#include "decode/draw.h"

#include <math.h>

#include "host/host.h"

/* The finaliser of SplitMix64 (Steele, Lea, Flood 2014): a bijection that mixes well. */
static uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* ln p + Gumbel is largest where -ln(u) / p is smallest. Since -ln(u) >= 1 - u, most tokens are out
 * without a logarithm. */
int32_t pico_draw(const pico_dist *dist, const pico_random_key *key) {
    uint64_t stream = pico_random_u64(key, 0);
    double best = INFINITY;
    int32_t token = -1;
    for (uint32_t i = 0; i < dist->n; i++) {
        double p = dist->p[i];
        if (!(p > 0)) {
            continue;
        }
        uint64_t id = (uint64_t)(uint32_t)dist->token[i] + 1;
        uint64_t bits = mix(stream + id * 0x9e3779b97f4a7c15u);
        double u = pico_uniform_of_bits(bits);
        if (1 - u >= best * p) {
            continue;
        }
        double time = -log(u) / p;
        if (time < best || (time == best && dist->token[i] < token)) {
            best = time;
            token = dist->token[i];
        }
    }
    return token;
}

double pico_dist_p(const pico_dist *dist, int32_t token) {
    for (uint32_t i = 0; i < dist->n; i++) {
        if (dist->token[i] == token) {
            return dist->p[i];
        }
    }
    return 0;
}

/* Where token is in the list, n if nowhere. Whole rows list every id in its own place. */
static uint32_t find(const pico_dist *p, int32_t token) {
    if ((uint32_t)token < p->n && p->token[token] == token) {
        return (uint32_t)token;
    }
    uint32_t i = 0;
    while (i < p->n && p->token[i] != token) {
        i++;
    }
    return i;
}

int pico_dist_residual(pico_dist *p, const int32_t *q_token, const double *q_p, uint32_t n) {
    double sum = 0;
    for (uint32_t j = 0; j < n; j++) {
        uint32_t i = find(p, q_token[j]);
        if (i < p->n) {
            p->p[i] -= q_p[j];
        }
    }
    for (uint32_t i = 0; i < p->n; i++) {
        sum += p->p[i] > 0 ? p->p[i] : 0;
    }
    for (uint32_t i = 0; sum > 0 && i < p->n; i++) {
        p->p[i] = p->p[i] > 0 ? p->p[i] / sum : 0;
    }
    for (uint32_t j = 0; !(sum > 0) && j < n; j++) {
        uint32_t i = find(p, q_token[j]);
        if (i < p->n) {
            p->p[i] += q_p[j];
        }
    }
    return sum > 0;
}
