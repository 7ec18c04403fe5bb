/* A whole document: which schema it follows, and how the parts of a story are put together. */
#include "corpus/engine.h"

#include <assert.h>
#include <string.h>

enum { SPRING, STORIES_PERCENT = 76, SHORT_WORDS = 170, LONG_WORDS = 320 };

typedef struct schema {
    const char *name;
    tale_plot *write;
} schema;

static const schema plots[] = {
    {"lost", tale_plot_lost},     {"contest", tale_plot_contest}, {"journey", tale_plot_journey},
    {"secret", tale_plot_secret}, {"bargain", tale_plot_bargain}, {"storm", tale_plot_storm},
    {"riddle", tale_plot_riddle}, {"build", tale_plot_build},     {"share", tale_plot_share},
    {"rescue", tale_plot_rescue}, {"broken", tale_plot_broken},   {"friend", tale_plot_friend},
    {"garden", tale_plot_garden}, {"noise", tale_plot_noise},     {"map", tale_plot_map},
    {"market", tale_plot_market}, {"learn", tale_plot_learn},     {"wish", tale_plot_wish}};

static const schema forms[] = {{"letter", tale_form_letter}, {"poem", tale_form_poem},
                               {"recipe", tale_form_recipe}, {"steps", tale_form_steps},
                               {"hands", tale_form_hands},   {"sums", tale_form_sums},
                               {"order", tale_form_order},   {"diary", tale_form_diary},
                               {"play", tale_form_play},     {"meaning", tale_form_meaning}};

static const schema *begin(tale *t, uint64_t seed, uint64_t number, int *is_story) {
    memset(t, 0, sizeof *t);
    t->seed = seed;
    t->number = number;
    *is_story = tale_chance(t, STORIES_PERCENT);
    return *is_story ? &plots[tale_pick(t, sizeof plots / sizeof *plots)]
                     : &forms[tale_pick(t, sizeof forms / sizeof *forms)];
}

static void write_story(tale *t, const schema *plot) {
    if (plot->write == tale_plot_garden) {
        t->season = &tale_seasons[SPRING];
        t->sky = t->season->sky[tale_pick(t, 6)];
    }
    tale_opening(t);
    if (tale_chance(t, 60)) {
        tale_weather(t);
    }
    plot->write(t);
    if (tale_words(t) < SHORT_WORDS || (tale_words(t) < LONG_WORDS && tale_chance(t, 30))) {
        tale_line(t);
        tale_pause(t);
    }
    tale_ending(t);
    if (tale_words(t) < LONG_WORDS && tale_chance(t, 40)) {
        tale_questions(t);
    }
}

const char *tale_schema(uint64_t seed, uint64_t number) {
    tale t;
    int is_story;
    return begin(&t, seed, number, &is_story)->name;
}

size_t tale_write(uint64_t seed, uint64_t number, char out[TALE_BYTES]) {
    tale t;
    int is_story;
    const schema *chosen = begin(&t, seed, number, &is_story);
    tale_cast(&t);
    if (is_story) {
        write_story(&t, chosen);
    } else {
        chosen->write(&t);
    }
    tale_line(&t);
    tale_tidy(&t);
    memcpy(out, t.text, t.n);
    out[t.n] = '\0';
    return t.n;
}
