/*
 * The grammar engine: templates, what their slots stand for, and the facts of one story.
 *
 * A template is text with
 *   [one|two|]   one of the alternatives, which may nest
 *   {a}          a slot: letters a-d beings, i-l things, p-s places, w-z numbers, m n what is counted,
 *                U V W templates; {a.his} and the like are forms, see slots.c
 *   ^            the next letter is a capital;  _ : it is not
 * Sentences begin with a capital by themselves, "a" becomes "an" where it must, blanks are tidied.
 */
#ifndef TALES_ENGINE_H
#define TALES_ENGINE_H

#include <stddef.h>
#include <stdint.h>

#include "corpus/tales.h"
#include "corpus/words.h"

enum { TALE_N_SLOT = 4, TALE_N_COUNT = 2, TALE_N_FACT = 12, TALE_FACT_BYTES = 160 };

typedef struct tale_being {
    const char *name;
    const tale_kind *kind;
    const tale_trait *trait;
    const tale_skill *hobby;
    const tale_noun *food;
    const char *home;
    uint32_t gender;
} tale_being;

typedef struct tale_thing {
    const tale_item *item;
    const char *look;
} tale_thing;

/* A question about the story that can be answered from it. */
typedef struct tale_fact {
    uint32_t key; /* a newer fact with the same key replaces it */
    char ask[TALE_FACT_BYTES], answer[TALE_FACT_BYTES];
} tale_fact;

typedef struct tale {
    uint64_t seed, number;
    uint32_t block, n_left, word[4]; /* random numbers */
    char text[TALE_BYTES];
    size_t n;
    int capital;  /* 1: the next letter begins a sentence */
    int ended;    /* 1: a full stop was written */
    int in_quote; /* 1: between quotation marks */
    int speaking; /* 1: a sentence in quotation marks is interrupted: "Yes," said he, "but ..." */
    tale_being being[TALE_N_SLOT];
    tale_thing thing[TALE_N_SLOT];
    const tale_place *place[TALE_N_SLOT];
    int value[TALE_N_SLOT];
    const tale_noun *count[TALE_N_COUNT];
    const char *phrase[3];
    int recent[TALE_N_GENDER]; /* who "he", "she", "it" would be; -1: nobody */
    const tale_season *season;
    const char *sky;
    tale_fact fact[TALE_N_FACT];
    uint32_t n_fact;
} tale;

/* engine.c */
uint32_t tale_pick(tale *t, uint32_t n);      /* uniform in [0, n), n > 0 */
int tale_between(tale *t, int low, int high); /* both included */
int tale_chance(tale *t, uint32_t percent);
void tale_expand(tale *t, const char *template_);
void tale_say(tale *t, const char *template_); /* and a blank behind it */
void tale_line(tale *t); /* a new paragraph, unless the text is at the start of one */
/* Replaces what the text of t needs: articles, blanks. */
void tale_tidy(tale *t);
uint32_t tale_words(const tale *t);
/* A template into its own room, with the slots as they are now; out holds TALE_FACT_BYTES. */
void tale_into(tale *t, const char *template_, char *out);
void tale_remember(tale *t, uint32_t key, const char *ask, const char *answer);

/* slots.c */
void tale_slot(tale *t, const char *name, size_t n);
void tale_put(tale *t, const char *text, size_t n);
void tale_put_word(tale *t, const char *text);
const char *tale_number_word(int value, char out[32]);

/* cast.c: fills slots, never with what another slot holds. */
void tale_cast(tale *t);                 /* beings a-d, things, places, season */
void tale_be_grown(tale *t, uint32_t b); /* somebody with a trade takes slot b */

/* scenes.c */
void tale_opening(tale *t);
void tale_weather(tale *t);
void tale_pause(tale *t); /* a small scene that changes nothing */
void tale_ending(tale *t);
void tale_questions(tale *t);

/* plots_*.c and forms_*.c */
typedef void tale_plot(tale *t);
tale_plot tale_plot_lost, tale_plot_contest, tale_plot_journey, tale_plot_secret, tale_plot_bargain,
    tale_plot_storm, tale_plot_riddle, tale_plot_build, tale_plot_share, tale_plot_rescue,
    tale_plot_broken, tale_plot_friend, tale_plot_garden, tale_plot_noise, tale_plot_map,
    tale_plot_market, tale_plot_learn, tale_plot_wish;
tale_plot tale_form_letter, tale_form_poem, tale_form_recipe, tale_form_steps, tale_form_hands,
    tale_form_sums, tale_form_order, tale_form_diary, tale_form_play, tale_form_meaning;

#endif
