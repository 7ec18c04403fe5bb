/*
 * The tables of words that stories draw from. Pure data; nothing outside this folder reads it but
 * tests, which check pronouns against the names.
 */
#ifndef TALES_WORDS_H
#define TALES_WORDS_H

#include <stdint.h>

enum { TALE_HE, TALE_SHE, TALE_IT, TALE_N_GENDER };

/* What somebody is. */
typedef struct tale_kind {
    const char *noun;
    const char *home;  /* "a den under the old oak"; NULL: one of tale_homes */
    const char *moved; /* "trotted" */
} tale_kind;

typedef struct tale_trait {
    const char *word; /* "brave" */
    const char *why;  /* "was not afraid of the dark" */
} tale_trait;

typedef struct tale_item {
    const char *noun; /* "lantern" */
    const char *use;  /* "light the way at night" */
} tale_item;

typedef struct tale_place {
    const char *noun;   /* "mill" */
    const char *at;     /* "at" */
    const char *detail; /* "the wheel turned slowly" */
} tale_place;

typedef struct tale_noun { /* what can be counted */
    const char *one, *many;
} tale_noun;

typedef struct tale_skill {
    const char *doing; /* "juggling" */
    const char *verb;  /* "juggle" */
    const char *fails; /* "the balls fell on {a.his} nose" */
} tale_skill;

typedef struct tale_season {
    const char *name;
    const char *sky[6];  /* "the sun was warm" */
    const char *sign[6]; /* "the first flowers opened" */
} tale_season;

typedef struct tale_riddle {
    const char *ask, *answer, *wrong, *why;
} tale_riddle;

typedef struct tale_trouble {
    const char *is;     /* what stands in the way: "a deep river" */
    const char *fix;    /* what was done about it */
    const char *short_; /* "the river" */
} tale_trouble;

#define TALE_TABLE(type, name)                                                                     \
    extern const type tale_##name[];                                                               \
    extern const uint32_t tale_n_##name

TALE_TABLE(char *const, names_he);
TALE_TABLE(char *const, names_she);
TALE_TABLE(char *const, names_it);
TALE_TABLE(char *const, homes); /* of children */
TALE_TABLE(char *const, looks); /* of things: "red", "tiny" */
TALE_TABLE(tale_kind, animals);
TALE_TABLE(tale_kind, children); /* boy, girl, in the order of TALE_HE, TALE_SHE */
TALE_TABLE(tale_kind, grown);
TALE_TABLE(tale_kind, machines);
TALE_TABLE(tale_kind, wonders);
TALE_TABLE(tale_trait, traits);
TALE_TABLE(tale_item, items);
TALE_TABLE(tale_place, places);
TALE_TABLE(tale_noun, foods);
TALE_TABLE(tale_noun, finds);
TALE_TABLE(tale_skill, skills);
TALE_TABLE(tale_season, seasons);
TALE_TABLE(tale_riddle, riddles);
TALE_TABLE(tale_trouble, troubles);

#endif
