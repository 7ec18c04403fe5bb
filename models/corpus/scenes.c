/* What stories share: how they open and close, the weather, small pauses, questions at the end. */
#include "corpus/engine.h"

enum { KEY_SEASON = 1, KEY_WHO, KEY_HOME, KEY_FOOD, KEY_HOBBY };

void tale_opening(tale *t) {
    static const char *const first[] = {
        "[Once upon a time|Long ago|Once|In days gone by|Many years ago|A long, long time ago], "
        "[there lived {a.new}|there was {a.new}]. {a.s} lived in {a.home}.",
        "In {a.home} lived {a.new}.",
        "{a.new} lived in {a.home}.",
        "Far away, [behind the last hill|beyond the river|at the edge of the map|on the other side "
        "of the woods], in {a.home}, there lived {a.new}.",
        "This is the story of {a.new}, who lived in {a.home}.",
        "{a} was {a.a}. {a.s} lived in {a.home}.",
        "[Everybody|Everyone in the land] knew {a}, {a.a} who lived in {a.home}.",
        "Do you know {a}? {a.s} was {a.a} and lived in {a.home}.",
        "[Let me tell you|Listen, and I will tell you] about {a}, {a.a} from {a.home}.",
        "There was once {a.new}, and {a.home} was {a.his} home.",
        "One [fine|ordinary|bright|quiet] day in {t}, {a.new} [woke up early|sat down to think] in "
        "{a.home}."};
    static const char *const then[] = {
        "{a.s} {a.why}.",
        "{a.s} was so {a.t} that {a.he} {a.why}.",
        "[People said|The neighbors said|Everybody said] that {a} {a.why}.",
        "[Most of all|More than anything], {a} loved {a.hobby}. {a.s} also {a.why}.",
        "Because {a} was {a.t}, {a.he} {a.why}.",
        "{a.s} {a.why}, and {a.he} was good at {a.hobby}."};
    if (tale_chance(t, 12)) {
        tale_say(t, "[{a} the {a.k}|A story about {a}|{a} and {b}|The tale of {a} the {a.k}]");
        tale_line(t);
    }
    tale_say(t, first[tale_pick(t, sizeof first / sizeof *first)]);
    tale_say(t, then[tale_pick(t, sizeof then / sizeof *then)]);
    tale_remember(t, KEY_WHO, "[Who was {a}|What do we know about {a}]?", "{a} was {a.a}.");
    tale_remember(t, KEY_HOME, "Where did {a} live?", "{a} lived in {a.home}.");
}

void tale_weather(tale *t) {
    t->phrase[0] = t->season->sign[tale_pick(t, 6)];
    tale_say(t, "[It was {t}. {U}, and {t.sky}.|It was {t}, and {U}.|It was a day in {t}, and "
                "{t.sky}.|{t} had come. {U}.|That day {t.sky}, for it was {t}.|In {t}, when {U}, "
                "the story begins. {t.sky}.|{t.sky}. {U}, as happens in {t}.]");
    tale_remember(t, KEY_SEASON,
                  "[What season was it|When did this happen|In which season did the "
                  "story begin]?",
                  "It was {t}.");
}

void tale_pause(tale *t) {
    switch (tale_pick(t, 7)) {
    case 0:
        tale_say(t, "{a} and {b} [stopped for a while|sat down on the grass|took a rest] and ate "
                    "something. "
                    "{a} had {a.food}, because {a.he} liked them best, and {b} had {b.food}.");
        tale_remember(t, KEY_FOOD, "What did {a} like best to eat?", "{a} liked {a.food} best.");
        break;
    case 1:
        tale_say(t,
                 "\"What do you do on Sundays?\" asked {b}. \"I [practice|enjoy|spend the day] "
                 "{a.hobby},\" said {a}. \"And you?\" \"{b.hobby},\" said {b}, \"but I am not very "
                 "good at it yet.\"");
        tale_remember(t, KEY_HOBBY, "What did {a} do on Sundays?",
                      "On Sundays, {a} spent the time {a.hobby}.");
        break;
    case 2:
        tale_say(t,
                 "\"Where do you live?\" {b} wanted to know. \"In {a.home},\" answered {a}. \"Come "
                 "and visit me!\"");
        break;
    case 3:
        t->phrase[0] = t->season->sign[tale_pick(t, 6)];
        tale_say(
            t,
            "{a} and {b} looked around. {t.sky}. \"[Look|See|Have you noticed], {U},\" said {b}. "
            "\"[Yes, that is {t}|I love {t}|That happens every {t}],\" said {a}.");
        break;
    case 4:
        tale_say(t,
                 "\"You are really {a.t},\" said {b}. \"[Maybe|Perhaps|That is what they say],\" "
                 "said {a}, \"and you are the most {b.t} {b.k} I know.\" They both laughed.");
        break;
    case 5:
        tale_say(t, "{b} [hummed a tune|told a joke|counted the clouds|skipped a stone], and {a} "
                    "[joined in|listened|smiled|thought about {a.food}].");
        break;
    default:
        tale_say(t, "{a} and {b} rested until {a} had [caught {a.his} breath|eaten some of {a.his} "
                    "{a.food}|finished a cup of tea].");
        break;
    }
}

void tale_ending(tale *t) {
    static const char *const last[] = {
        "[That evening|That night], {a} went home to {a.home} and [slept soundly|fell asleep at "
        "once|dreamed about it all|told the whole story to the moon].",
        "And from that day on, {a} and {b} were the best of friends.",
        "[And that was that|And so it was|That is how it was]. {a} was {a.t}, as ever, and {a.he} "
        "was happy.",
        "\"[What a day|What an adventure|That was fun],\" said {a}. \"[Shall we do it again "
        "tomorrow|What shall we do next|I will never forget it]?\"",
        "{a} [smiled|laughed|sighed happily]. It is good to have a friend like {b}.",
        "They [lived happily|stayed friends] for many years, and if you pass {a.home}, you may "
        "still "
        "[see|meet|hear] them.",
        "[Since then|Ever since], {b} visits {a} every [Sunday|Monday|Friday|week], and they eat "
        "{a.food} together.",
        "The end.",
        "When the stars came out, {a} and {b} [sat side by side|sang a song|waved to each other] "
        "and "
        "[thought of all that had happened|said good night|were tired and glad].",
        "And what did {a} learn? [A friend is worth more than gold|Small steps take you far|It "
        "pays to "
        "ask|Those who help are helped|Patience opens every door|Nobody is too small to matter|The "
        "truth "
        "is lighter to carry than a lie|Two heads are better than one]."};
    tale_line(t);
    tale_say(t, last[tale_pick(t, sizeof last / sizeof *last)]);
    if (tale_chance(t, 15)) {
        tale_say(t, "[The end|And here the story ends|That is the whole story|So it was].");
    }
}

static void ask(tale *t, const tale_fact *fact, uint32_t form) {
    const char *who = (const char *const[]){"Grandmother", "Grandfather", "the teacher",
                                            "the storyteller"}[t->number % 4];
    if (form == 0) {
        tale_put_word(t, "Question: ");
        tale_put_word(t, fact->ask);
        tale_line(t);
        tale_put_word(t, "Answer: ");
        tale_put_word(t, fact->answer);
    } else if (form == 1) {
        tale_put_word(t, "Q: ");
        tale_put_word(t, fact->ask);
        tale_put_word(t, " A: ");
        tale_put_word(t, fact->answer);
    } else if (form == 2) {
        tale_put_word(t, "- ");
        tale_put_word(t, fact->ask);
        tale_put_word(t, " ");
        tale_put_word(t, fact->answer);
    } else {
        tale_put_word(t, "\"");
        tale_put_word(t, fact->ask);
        tale_put_word(t, "\" asked ");
        tale_put_word(t, who);
        tale_expand(t, ". [One of the children|A small voice|Somebody|The youngest] "
                       "[answered|said]: \"");
        tale_put_word(t, fact->answer);
        tale_put_word(t, "\"");
    }
    tale_line(t);
}

void tale_questions(tale *t) {
    const uint32_t form = tale_pick(t, 4);
    uint32_t wanted = 1 + tale_pick(t, 4);
    int used[TALE_N_FACT] = {0};
    tale_line(t);
    if (form == 2) {
        tale_say(t, "Do you remember?");
        tale_line(t);
    }
    wanted = wanted < t->n_fact ? wanted : t->n_fact;
    while (wanted > 0) {
        const uint32_t i = tale_pick(t, t->n_fact);
        if (!used[i]) {
            used[i] = 1;
            ask(t, &t->fact[i], form);
            wanted--;
        }
    }
}
