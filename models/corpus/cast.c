/* Who and what a story is about: distinct beings, things, places and a season. */
#include "corpus/engine.h"

#include <assert.h>
#include <string.h>

static int same_start(const tale *t, uint32_t b, const char *name) {
    for (uint32_t i = 0; i < b; i++) {
        if (t->being[i].name[0] == name[0]) {
            return 1;
        }
    }
    return 0;
}

/* Names of one story begin with different letters, so that nobody mixes them up. */
static const char *pick_name(tale *t, uint32_t b, uint32_t gender) {
    const char *const *table = gender == TALE_HE    ? tale_names_he
                               : gender == TALE_SHE ? tale_names_she
                                                    : tale_names_it;
    const uint32_t n = gender == TALE_HE    ? tale_n_names_he
                       : gender == TALE_SHE ? tale_n_names_she
                                            : tale_n_names_it;
    const char *name = table[tale_pick(t, n)];
    while (same_start(t, b, name)) {
        name = table[tale_pick(t, n)];
    }
    return name;
}

static int kind_taken(const tale *t, uint32_t b, const tale_kind *kind) {
    for (uint32_t i = 0; i < TALE_N_SLOT; i++) {
        if (i != b && t->being[i].kind == kind) {
            return 1;
        }
    }
    return 0;
}

static const tale_kind *pick_kind(tale *t, uint32_t b, const tale_kind *table, uint32_t n) {
    const tale_kind *kind = &table[tale_pick(t, n)];
    while (kind_taken(t, b, kind)) {
        kind = &table[tale_pick(t, n)];
    }
    return kind;
}

static void pick_rest(tale *t, uint32_t b, const tale_kind *kind, uint32_t gender) {
    tale_being *being = &t->being[b];
    int again;
    *being = (tale_being){.kind = kind, .gender = gender};
    being->name = pick_name(t, b, gender);
    do {
        being->trait = &tale_traits[tale_pick(t, tale_n_traits)];
        being->hobby = &tale_skills[tale_pick(t, tale_n_skills)];
        being->food = &tale_foods[tale_pick(t, tale_n_foods)];
        being->home = kind->home != NULL ? kind->home : tale_homes[tale_pick(t, tale_n_homes)];
        again = 0;
        for (uint32_t i = 0; i < b; i++) {
            again |= t->being[i].home == being->home || t->being[i].trait == being->trait ||
                     t->being[i].hobby == being->hobby || t->being[i].food == being->food;
        }
    } while (again);
}

static void pick_being(tale *t, uint32_t b, uint32_t percent_child) {
    const uint32_t gender = tale_pick(t, 2) != 0 ? TALE_SHE : TALE_HE;
    const uint32_t roll = tale_pick(t, 100);
    if (roll < percent_child) {
        pick_rest(t, b, &tale_children[gender], gender);
    } else if (roll < 88) {
        pick_rest(t, b, pick_kind(t, b, tale_animals, tale_n_animals), gender);
    } else if (roll < 94) {
        pick_rest(t, b, pick_kind(t, b, tale_wonders, tale_n_wonders), gender);
    } else {
        pick_rest(t, b, pick_kind(t, b, tale_machines, tale_n_machines), TALE_IT);
    }
}

void tale_be_grown(tale *t, uint32_t b) {
    const uint32_t gender = tale_pick(t, 2) != 0 ? TALE_SHE : TALE_HE;
    for (uint32_t i = b + 1; i < TALE_N_SLOT; i++) { /* names are compared with earlier ones */
        assert(t->being[i].kind != NULL);
    }
    const tale_kind *kind = pick_kind(t, b, tale_grown, tale_n_grown);
    tale_being old = t->being[b];
    t->being[b].kind = kind;
    t->being[b].home = kind->home;
    t->being[b].gender = gender;
    if (old.gender != gender) {
        const char *name;
        int taken;
        do {
            name = pick_name(t, 0, gender);
            taken = 0;
            for (uint32_t i = 0; i < TALE_N_SLOT; i++) {
                taken |= i != b && t->being[i].name[0] == name[0];
            }
        } while (taken);
        t->being[b].name = name;
    }
}

static void pick_things(tale *t) {
    for (uint32_t i = 0; i < TALE_N_SLOT; i++) {
        int again;
        do {
            t->thing[i].item = &tale_items[tale_pick(t, tale_n_items)];
            t->thing[i].look = tale_looks[tale_pick(t, tale_n_looks)];
            t->place[i] = &tale_places[tale_pick(t, tale_n_places)];
            again = 0;
            for (uint32_t k = 0; k < i; k++) {
                again |= t->thing[k].item == t->thing[i].item || t->place[k] == t->place[i] ||
                         t->thing[k].look == t->thing[i].look;
            }
        } while (again);
    }
}

void tale_cast(tale *t) {
    static const uint32_t child[] = {0, 45, 95};
    const uint32_t percent = child[tale_pick(t, 3)];
    for (uint32_t b = 0; b < TALE_N_SLOT; b++) {
        pick_being(t, b, percent);
    }
    pick_things(t);
    for (uint32_t i = 0; i < TALE_N_SLOT; i++) {
        t->value[i] = tale_between(t, 2, 9);
    }
    t->count[0] = &tale_foods[tale_pick(t, tale_n_foods)];
    t->count[1] = &tale_finds[tale_pick(t, tale_n_finds)];
    t->season = &tale_seasons[tale_pick(t, tale_n_seasons)];
    t->sky = t->season->sky[tale_pick(t, 6)];
    t->recent[0] = t->recent[1] = t->recent[2] = -1;
    t->capital = 1;
}
