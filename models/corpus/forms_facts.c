/*
 * Documents that are questions and answers about a small world: who holds what, sums, an order, a
 * dialogue, the meaning of words. Every answer follows from what stands before it.
 */
#include "corpus/engine.h"

static const char *const who[] = {"{a}", "{b}", "{c}", "{d}"};
static const char *const thing[] = {"{i}", "{j}", "{k}", "{l}"};
static const char *const place_to[] = {"{p.to}", "{q.to}", "{r.to}", "{s.to}"};
static const char *const place_at[] = {"{p.at}", "{q.at}", "{r.at}", "{s.at}"};

/* ---- who holds what, and where everybody is ---- */

enum { N_BEING = 3, N_THING = 2, NOBODY = 9 };

typedef struct world {
    uint32_t at[N_BEING];    /* place */
    uint32_t owner[N_THING]; /* being, or NOBODY */
    uint32_t lies[N_THING];  /* place, when nobody has it */
} world;

static void go(tale *t, world *w, uint32_t b) {
    uint32_t to = tale_pick(t, TALE_N_SLOT);
    to = to == w->at[b] ? (to + 1) % TALE_N_SLOT : to;
    w->at[b] = to;
    t->phrase[0] = who[b];
    t->phrase[1] = place_to[to];
    tale_say(t, "{U} [went|walked|ran|moved] {V}.");
}

/* One thing happens to thing i: it is put down, picked up or handed over. */
static void handle(tale *t, world *w, uint32_t i) {
    const uint32_t owner = w->owner[i];
    t->phrase[1] = thing[i];
    if (owner == NOBODY) {
        const uint32_t b = tale_pick(t, N_BEING);
        t->phrase[0] = who[b];
        t->phrase[2] = place_to[w->lies[i]];
        if (w->at[b] != w->lies[i]) {
            tale_say(t, "{U} [went|walked|ran] {W}.");
            w->at[b] = w->lies[i];
        }
        tale_say(t, "{U} [picked up|took|got] the {V} [there|].");
        w->owner[i] = b;
        return;
    }
    t->phrase[0] = who[owner];
    for (uint32_t b = 0; b < N_BEING; b++) {
        if (b != owner && w->at[b] == w->at[owner]) {
            t->phrase[2] = who[b];
            tale_say(t, "{U} [gave|handed|passed] the {V} to {W}.");
            w->owner[i] = b;
            return;
        }
    }
    tale_say(t, "{U} [put down|dropped|left] the {V} [there|].");
    w->owner[i] = NOBODY;
    w->lies[i] = w->at[owner];
}

static void ask_thing(tale *t, const world *w, uint32_t i) {
    const uint32_t owner = w->owner[i];
    t->phrase[0] = thing[i];
    if (owner == NOBODY) {
        t->phrase[1] = place_at[w->lies[i]];
        tale_say(t, "[Where is the {U}|Where is the {U} now]? It is {V}. Does anybody have the "
                    "{U}? No, nobody has it.");
    } else {
        t->phrase[1] = who[owner];
        t->phrase[2] = place_at[w->at[owner]];
        tale_say(t, "Who has the {U} [now|]? {V} has it. Where is the {U}? It is {W}, because {V} "
                    "is there.");
    }
}

static void ask_being(tale *t, const world *w, uint32_t b) {
    t->phrase[0] = who[b];
    t->phrase[1] = place_at[w->at[b]];
    tale_say(t, "Where is {U} [now|]? {U} is {V}.");
}

void tale_form_hands(tale *t) {
    world w = {.owner = {tale_pick(t, N_BEING), NOBODY}, .lies = {0, tale_pick(t, TALE_N_SLOT)}};
    const uint32_t n_event = 6 + tale_pick(t, 5);
    for (uint32_t b = 0; b < N_BEING; b++) {
        w.at[b] = tale_pick(t, TALE_N_SLOT);
        t->phrase[0] = who[b];
        t->phrase[1] = place_at[w.at[b]];
        tale_say(t, "{U} was {V}.");
    }
    t->phrase[0] = who[w.owner[0]];
    t->phrase[1] = place_at[w.lies[1]];
    tale_say(t, "{U} had {i.a}. {j.a} was {V}.");
    tale_line(t);
    for (uint32_t i = 0; i < n_event; i++) {
        if (tale_chance(t, 45)) {
            go(t, &w, tale_pick(t, N_BEING));
        } else {
            handle(t, &w, tale_pick(t, N_THING));
        }
    }
    tale_line(t);
    ask_thing(t, &w, 0);
    tale_line(t);
    ask_being(t, &w, tale_pick(t, N_BEING));
    tale_line(t);
    ask_thing(t, &w, 1);
    tale_line(t);
}

/* ---- sums ---- */

static void sum(tale *t) {
    int *const v = t->value;
    t->phrase[0] = who[tale_pick(t, 4)];
    v[0] = tale_between(t, 2, 20);
    v[1] = tale_between(t, 2, 20);
    t->count[1] = tale_chance(t, 50) ? &tale_finds[tale_pick(t, tale_n_finds)]
                                     : &tale_foods[tale_pick(t, tale_n_foods)];
    switch (tale_pick(t, 5)) {
    case 0:
        v[2] = v[0] + v[1];
        tale_say(t, "{U} had {w.n} and [found|got|bought] {x} more. How many {n.s} did {U} have "
                    "then? {w} and {x} make {y}. {U} had {y.n}.");
        break;
    case 1:
        v[2] = v[0] + v[1];
        tale_say(t, "{U} had {y.n} and [lost|gave away|sold] {x}. How many were left? {y} minus "
                    "{x} is {w}. There were {w.n} left.");
        break;
    case 2:
        v[0] = tale_between(t, 2, 9);
        v[1] = tale_between(t, 2, 9);
        v[2] = v[0] * v[1];
        tale_say(t, "There were {w} [boxes|bags|baskets], and in each of them lay {x.n}. How many "
                    "{n.s} were there? {w} times {x} is {y}. There were {y.n}.");
        break;
    case 3:
        v[0] = tale_between(t, 2, 9);
        v[1] = tale_between(t, 2, 9);
        v[2] = v[0] * v[1];
        tale_say(t, "{w} friends shared {y.n}, and everybody got the same. How many did each get? "
                    "{y} divided by {w} is {x}. Each got {x.n}.");
        break;
    default:
        v[1] += v[1] == v[0];
        v[2] = v[0] > v[1] ? v[0] - v[1] : v[1] - v[0];
        t->phrase[1] = v[0] > v[1] ? "{a}" : "{b}";
        tale_say(t, "{a} had {w.n}, and {b} had {x}. Who had more? {V} had more, by {y}.");
        break;
    }
    tale_line(t);
}

void tale_form_sums(tale *t) {
    const uint32_t n = 5 + tale_pick(t, 4);
    tale_say(
        t, "[{a} and {b} learn to count|Sums for {a}|In the school {p.at}|Questions with numbers]");
    tale_line(t);
    for (uint32_t i = 0; i < n || tale_words(t) < 85; i++) {
        sum(t);
    }
}

/* ---- an order ---- */

void tale_form_order(tale *t) {
    static const char *const more[] = {"taller",   "faster", "older",
                                       "stronger", "louder", "heavier"};
    static const char *const most[] = {"tallest",   "fastest", "oldest",
                                       "strongest", "loudest", "heaviest"};
    static const char *const least[] = {"shortest", "slowest",  "youngest",
                                        "weakest",  "quietest", "lightest"};
    const uint32_t what = tale_pick(t, 6);
    const char *rank[4] = {who[0], who[1], who[2], who[3]}; /* from most to least */
    for (uint32_t i = 3; i > 0; i--) {
        const uint32_t k = tale_pick(t, i + 1);
        const char *kept = rank[i];
        rank[i] = rank[k];
        rank[k] = kept;
    }
    tale_say(t, "{a}, {b}, {c} and {d} met {p.at}. {p.see}. \"Which of us is the");
    tale_put_word(t, most[what]);
    tale_say(t,
             "?\" asked {a}. [Nobody knew it.|They began to argue.|\"We shall see,\" said {b}.]");
    tale_line(t);
    const uint32_t start = tale_pick(t, 3);
    t->phrase[2] = more[what];
    for (uint32_t i = 0; i < 3; i++) {
        const uint32_t k = (start + i) % 3;
        t->phrase[0] = rank[k];
        t->phrase[1] = rank[k + 1];
        tale_say(t, "{U} was {W} than {V}.");
    }
    tale_line(t);
    t->phrase[0] = rank[0];
    t->phrase[1] = most[what];
    tale_say(t, "Who was the {V}? It was {U}.");
    t->phrase[0] = rank[3];
    t->phrase[1] = least[what];
    tale_say(t, "Who was the {V}? It was {U}.");
    tale_line(t);
    t->phrase[0] = rank[0];
    t->phrase[1] = rank[2];
    tale_say(t, "Was {U} {W} than {V}? Yes.");
    t->phrase[0] = rank[3];
    t->phrase[1] = rank[1];
    tale_say(t, "Was {U} {W} than {V}? No, {V} was {W}.");
    tale_line(t);
    tale_say(t, "\"[It does not matter|That is not important],\" said {d}. \"[We are all "
                "friends|Everybody is good at something]. I, for "
                "example, am best at {d.hobby}.\" \"And I at {c.hobby},\" said {c}. \"[Let us "
                "eat|Then let us eat the|Let us share these] {m.s},\" "
                "said {b}, who {b.why}.");
    tale_say(t, "And so they did. There were {w.m}, and everybody got some.");
}

/* ---- a dialogue ---- */

void tale_form_play(tale *t) {
    static const char *const exchange[] = {
        "{b}: Where have you been?\n{a}: I was {p.at}. {p.see}.",
        "{b}: What is that in your hand?\n{a}: It is {i.a}. I use it to {i.use}.",
        "{b}: Did you meet anybody?\n{a}: Yes, I met {c}, {c.a}.",
        "{b}: And what did {c} say?\n{a}: [Nothing. {c} was in a hurry.|Only that {t} is the best "
        "time of the year.|Good "
        "morning, as always.]",
        "{b}: How many {m.s} did you bring?\n{a}: I brought {w}. [I had more, but I was "
        "hungry.|They were all I could carry.]",
        "{b}: Are you tired?\n{a}: [A little|Not at all|Very]. [I walked a long way.|I slept until "
        "noon.]",
        "{b}: What do you want to do tomorrow?\n{a}: I want to go to the {q}. [Will you come "
        "along?|They say that {q.see}.]",
        "{b}: Do you like {b.food}?\n{a}: [Yes, but I like {a.food} more.|I prefer {a.food}.]"};
    static const char *const check[] = {"{b}: So you were {p.at}?\n{a}: Yes, I was.",
                                        "{b}: So you have {i.a}?\n{a}: Yes, I do.",
                                        "{b}: So you were {r.at}?\n{a}: No, I was {p.at}.",
                                        "{b}: So you have {j.a}?\n{a}: No, it is {i.a}."};
    tale_say(t, "[{a} and {b} talk|A conversation|{b} asks, and {a} answers|A little play for "
                "two]. {a} is {a.a}, and {b} is "
                "{b.a}.");
    tale_line(t);
    for (uint32_t i = 0; i < 8; i++) {
        if (i >= 4 && tale_chance(t, 25)) {
            continue;
        }
        tale_say(t, exchange[i]);
        tale_line(t);
    }
    tale_say(t, check[tale_pick(t, 2)]);
    tale_line(t);
    tale_say(t, check[2 + tale_pick(t, 2)]);
    tale_line(t);
    tale_say(
        t,
        "{b}: [Goodbye|Good night|See you soon], {a}.\n{a}: [Goodbye|Sleep well|Take care], {b}.");
}

/* ---- words ---- */

void tale_form_meaning(tale *t) {
    t->value[1] = t->value[0] + 1;
    tale_say(t, "[What are these things for|Words and things|{a} explains the world|Things that "
                "{a} knows]");
    tale_line(t);
    tale_say(t, "What is {i.a} for? You can use it to {i.use}.");
    tale_line(t);
    tale_say(t, "What is {j.a} for? [It helps you to {j.use}.|You can use it to {j.use}.]");
    tale_line(t);
    tale_say(t, "[Who lives in {b.home}? {b} does. {b} is a {b.k}.|Where does {b}, the {b.k}, "
                "live? In {b.home}.]");
    tale_line(t);
    tale_say(t, "What do you need if you want to {k.use}? You need a {k}. And if you want to "
                "{l.use}? Then you need a {l}.");
    tale_line(t);
    t->phrase[0] = t->season->sign[tale_pick(t, 6)];
    tale_say(t, "[What happens in {t}? {U}.|When do people say that {U}? In {t}.]");
    tale_line(t);
    tale_say(t, "What is one {m} and one {m}? Two {m.s}. What is one {n} and {w} more? [They "
                "are|That is] {x.n}.");
    tale_line(t);
    tale_say(t, "[Can you use a {i} to {j.use}? No, for that you need a {j}.|Can you use a {k} to "
                "{l.use}? No, for that you "
                "need a {l}.] What do we call somebody who {c.why}? We say that such a one is "
                "{c.t}. And somebody who "
                "{d.why}? Such a one is {d.t}.");
}
