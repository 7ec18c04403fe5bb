/*
 * What the slots of templates stand for. Forms of
 *   a being   {a} name, {a.s} {a.o} name or pronoun as subject or object where it is clear who is
 *             meant, {a.he} {a.him} {a.his} {a.self}, {a.the} "the fox", {a.new} "a shy bear named Tom",
 *             {a.a} "a shy bear", {a.k} "bear", {a.t} "shy", {a.why} {a.food} {a.home} {a.moved}
 *             {a.hobby} "juggling" {a.play} "juggle"
 *   a thing   {i} "lantern", {i.a} "a red lantern", {i.the} "the red lantern", {i.look}, {i.use}
 *   a place   {p} "mill", {p.the}, {p.at} "at the mill", {p.to} "to the mill", {p.see}
 *   a number  {x} "three", {x.m} "three apples", {x.th} "third"
 *   a noun    {m} "apple", {m.s} "apples"
 * An unknown slot or form is a bug of a template and ends the program.
 */
#include "corpus/engine.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

static const char *const he[] = {"he", "she", "it"};
static const char *const him[] = {"him", "her", "it"};
static const char *const his[] = {"his", "her", "its"};
static const char *const self[] = {"himself", "herself", "itself"};

const char *tale_number_word(int value, char out[32]) {
    static const char *const small[] = {"zero",    "one",     "two",       "three",    "four",
                                        "five",    "six",     "seven",     "eight",    "nine",
                                        "ten",     "eleven",  "twelve",    "thirteen", "fourteen",
                                        "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"};
    static const char *const tens[] = {"twenty", "thirty",  "forty",  "fifty",
                                       "sixty",  "seventy", "eighty", "ninety"};
    assert(value >= 0 && value <= 100);
    if (value == 100) {
        return "one hundred";
    }
    if (value < 20) {
        return small[value];
    }
    (void)snprintf(out, 32, value % 10 == 0 ? "%s" : "%s-%s", tens[value / 10 - 2],
                   small[value % 10]);
    return out;
}

static const char *ordinal(int value) {
    static const char *const word[] = {"zeroth", "first",   "second", "third", "fourth", "fifth",
                                       "sixth",  "seventh", "eighth", "ninth", "tenth"};
    assert(value >= 1 && value <= 10);
    return word[value];
}

static int is(const char *form, size_t n, const char *wanted) {
    return strlen(wanted) == n && memcmp(form, wanted, n) == 0;
}

static void put_name(tale *t, uint32_t b) {
    tale_put_word(t, t->being[b].name);
    t->recent[t->being[b].gender] = (int)b;
}

/* "the fox" is clear only where nobody else is one. */
static void put_the(tale *t, uint32_t b) {
    for (uint32_t i = 0; i < TALE_N_SLOT; i++) {
        if (i != b && t->being[i].kind == t->being[b].kind) {
            put_name(t, b);
            return;
        }
    }
    tale_put_word(t, "the ");
    tale_put_word(t, t->being[b].kind->noun);
    t->recent[t->being[b].gender] = (int)b;
}

static void put_auto(tale *t, uint32_t b, const char *const *pronoun) {
    const tale_being *being = &t->being[b];
    const uint32_t often = being->gender == TALE_IT ? 25 : 65;
    if (t->recent[being->gender] == (int)b && tale_chance(t, often)) {
        tale_put_word(t, pronoun[being->gender]);
    } else if (t->recent[being->gender] == (int)b && tale_chance(t, 25)) {
        put_the(t, b);
    } else {
        put_name(t, b);
    }
}

static void put_a(tale *t, const tale_being *being) {
    tale_put_word(t, "a ");
    tale_put_word(t, being->trait->word);
    tale_put_word(t, " ");
    tale_put_word(t, being->kind->noun);
}

static void put_new(tale *t, uint32_t b) {
    put_a(t, &t->being[b]);
    tale_put_word(t, tale_chance(t, 50) ? " named " : " called ");
    put_name(t, b);
}

static void put_being(tale *t, uint32_t b, const char *form, size_t n) {
    const tale_being *being = &t->being[b];
    const struct {
        const char *form, *text;
    } plain[] = {
        {"he", he[being->gender]},     {"him", him[being->gender]},    {"his", his[being->gender]},
        {"self", self[being->gender]}, {"k", being->kind->noun},       {"t", being->trait->word},
        {"why", being->trait->why},    {"food", being->food->many},    {"home", being->home},
        {"moved", being->kind->moved}, {"hobby", being->hobby->doing}, {"play", being->hobby->verb},
    };
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++) {
        if (is(form, n, plain[i].form)) {
            tale_put_word(t, plain[i].text);
            return;
        }
    }
    if (n == 0) {
        put_name(t, b);
    } else if (is(form, n, "s")) {
        put_auto(t, b, he);
    } else if (is(form, n, "o")) {
        put_auto(t, b, him);
    } else if (is(form, n, "the")) {
        put_the(t, b);
    } else if (is(form, n, "new")) {
        put_new(t, b);
    } else {
        assert(is(form, n, "a"));
        put_a(t, being);
    }
}

static void put_thing(tale *t, const tale_thing *thing, const char *form, size_t n) {
    if (is(form, n, "use")) {
        tale_put_word(t, thing->item->use);
    } else if (is(form, n, "look")) {
        tale_put_word(t, thing->look);
    } else {
        const int full = is(form, n, "a") || (is(form, n, "the") && tale_chance(t, 30));
        assert(n == 0 || is(form, n, "a") || is(form, n, "the"));
        tale_put_word(t, n == 0 ? "" : is(form, n, "a") ? "a " : "the ");
        tale_put_word(t, full ? thing->look : "");
        tale_put_word(t, full ? " " : "");
        tale_put_word(t, thing->item->noun);
    }
}

static void put_place(tale *t, const tale_place *place, const char *form, size_t n) {
    if (is(form, n, "see")) {
        tale_put_word(t, place->detail);
        return;
    }
    assert(n == 0 || is(form, n, "the") || is(form, n, "at") || is(form, n, "to"));
    tale_put_word(t, is(form, n, "at") ? place->at : is(form, n, "to") ? "to" : "");
    tale_put_word(t, n == 0 ? "" : is(form, n, "the") ? "the " : " the ");
    tale_put_word(t, place->noun);
}

static void put_number(tale *t, int value, const char *form, size_t n) {
    char room[32];
    if (is(form, n, "th")) {
        tale_put_word(t, ordinal(value));
        return;
    }
    tale_put_word(t, tale_number_word(value, room));
    if (n != 0) {
        assert(n == 1 && (form[0] == 'm' || form[0] == 'n'));
        const tale_noun *noun = t->count[form[0] - 'm'];
        tale_put_word(t, " ");
        tale_put_word(t, value == 1 ? noun->one : noun->many);
    }
}

void tale_slot(tale *t, const char *name, size_t n) {
    const char *form = n > 1 ? name + 2 : name + 1;
    const size_t n_form = n > 1 ? n - 2 : 0;
    assert(n == 1 || name[1] == '.');
    if (name[0] >= 'a' && name[0] <= 'd') {
        put_being(t, (uint32_t)(name[0] - 'a'), form, n_form);
    } else if (name[0] >= 'i' && name[0] <= 'l') {
        put_thing(t, &t->thing[name[0] - 'i'], form, n_form);
    } else if (name[0] >= 'p' && name[0] <= 's') {
        put_place(t, t->place[name[0] - 'p'], form, n_form);
    } else if (name[0] >= 'w' && name[0] <= 'z') {
        put_number(t, t->value[name[0] - 'w'], form, n_form);
    } else if (name[0] == 'm' || name[0] == 'n') {
        const tale_noun *noun = t->count[name[0] - 'm'];
        tale_put_word(t, n_form == 0 ? noun->one : noun->many);
    } else if (name[0] == 't') {
        tale_put_word(t, is(form, n_form, "sky") ? t->sky : t->season->name);
    } else {
        assert(name[0] >= 'U' && name[0] <= 'W');
        const char *phrase = t->phrase[name[0] - 'U'];
        tale_expand(t, phrase);
    }
}
