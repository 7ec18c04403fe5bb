/*
 * Stories for training small models, made by rule. A document is a pure function of a seed and a
 * number; the same bytes come out on every platform. A story keeps its facts: who has what, where it
 * happened, how many are left; what is said later agrees with what was said before.
 */
#ifndef TALES_H
#define TALES_H

#include <stddef.h>
#include <stdint.h>

enum { TALE_BYTES = 16384 }; /* room that a document and its NUL never exceed */

/* Writes document `number` of `seed` with a NUL at the end, returns its bytes. It ends with a newline
 * and holds only ASCII, 80 to 400 words. */
size_t tale_write(uint64_t seed, uint64_t number, char out[TALE_BYTES]);

/* The name of the schema that the document follows: "lost", "journey", "letter", ... */
const char *tale_schema(uint64_t seed, uint64_t number);

#endif
