/*
 * Drawing a token from a distribution as a pure function of a key: argmax over tokens of
 * ln p + Gumbel(hash(key, token)). Two distributions that are nearly equal then mostly give the
 * same token for the same key, whatever else they contain; that is what makes accept = match work.
 */
#ifndef PICO_DECODE_DRAW_H
#define PICO_DECODE_DRAW_H

#include "plugin.h"

/* The token drawn; -1 if no probability is positive. Order of the entries does not matter. */
int32_t pico_draw(const pico_dist *dist, const pico_random_key *key);

/* The probability of token; 0 if it is not listed. */
double pico_dist_p(const pico_dist *dist, int32_t token);

/* Turns p into the normalised positive part of p - q (the residual of rejection sampling). q is a
 * list of n tokens, none twice; returns 0 and leaves p as it was if nothing would remain. */
int pico_dist_residual(pico_dist *p, const int32_t *q_token, const double *q_p, uint32_t n);

#endif
