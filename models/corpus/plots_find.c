/* Plots in which something is looked for: lost thing, journey, map, noise in the night. */
#include "corpus/engine.h"

static const char *const place_at[] = {"{p.at}", "{q.at}", "{r.at}"};
static const char *const place_see[] = {"{p.see}", "{q.see}", "{r.see}"};

static void look_around(tale *t, uint32_t place, int found) {
    t->phrase[0] = place_at[place];
    t->phrase[1] = place_see[place];
    if (!found) {
        tale_say(t,
                 "[{U}, {V}, but the {i} was not there.|They looked {U}, where {V}. There was no "
                 "{i}.|First they asked everybody {U}, but nobody had seen {i.a}.|{U} they found "
                 "nothing but [an old boot|a blue feather|three empty bottles|a sleeping cat|a "
                 "torn newspaper].]");
        return;
    }
    tale_say(t,
             "[Then|At last|Finally] they [searched|looked|turned over every stone] {U}. {V}. And "
             "there, [under a bench|behind a barrel|beside a big stone|between two boxes|in the "
             "shade of a bush|on a low wall], lay the {i}!");
}

void tale_plot_lost(tale *t) {
    const uint32_t where = tale_pick(t, 3);
    const int backwards = tale_chance(t, 40);
    tale_line(t);
    tale_say(t,
             "{a} [had|owned|kept] {i.a}. [{a.s} used it to {i.use}.|With it, {a} could {i.use}.|"
             "It was good to have when {a} wanted to {i.use}.]");
    if (tale_chance(t, 40)) {
        tale_say(t, "It was a present from {c}, {c.a}.");
        tale_remember(t, 10, "Who had given {a} the {i}?", "{c} had given it to {a}.");
    }
    tale_say(t, "[One morning|One day|On Tuesday|But one afternoon], the {i} was gone. {a} looked "
                "[under the bed, behind the door and in every drawer|everywhere at home|in every "
                "corner], but it was [nowhere|not there|not to be found].");
    tale_line(t);
    tale_say(t,
             "[Just then|Soon], {b.new} came by. \"[Why are you so sad|What is wrong|What are you "
             "looking for]?\" asked {b}. \"I have lost my {i},\" said {a}. \"[Where were you "
             "yesterday|Where did you go with it]?\" \"First I was {p.at}, then {q.at}, and last "
             "{r.at}.\"");
    tale_say(t, backwards ? "\"Then we will go back the way you came and begin {r.at},\" said {b}."
                          : "\"Then we will go the same way again and begin {p.at},\" said {b}.");
    tale_line(t);
    for (uint32_t i = 0; i < 3; i++) {
        const uint32_t place = backwards ? 2 - i : i;
        look_around(t, place, place == where);
        if (place == where) {
            break;
        }
    }
    tale_say(t,
             "\"Now I remember!\" cried {a}. \"I put it down [to tie my shoe|because my hands were "
             "full|to look at a butterfly|when I stopped to talk to {d}].\"");
    tale_say(t, "[{a.s} thanked {b} and gave {b.him} some {a.food}.|\"Thank you, {b},\" said {a}. "
                "\"Without you I would still be [searching|sitting at home].\"|\"You are a true "
                "friend, {b},\" said {a}.]");
    t->phrase[0] = place_at[where];
    tale_remember(t, 11, "Where was the {i}?", "It was {U}.");
    tale_remember(t, 12, "Who helped {a} to look for the {i}?", "{b} did.");
    tale_remember(t, 13, "[What had {a} lost|What was {a} looking for]?", "{a} had lost {i.a}.");
    tale_remember(t, 14, "Where did they look first?",
                  backwards ? "They looked first {r.at}." : "They looked first {p.at}.");
}

void tale_plot_journey(tale *t) {
    const tale_trouble *first = &tale_troubles[tale_pick(t, tale_n_troubles)], *second;
    do {
        second = &tale_troubles[tale_pick(t, tale_n_troubles)];
    } while (second == first);
    tale_line(t);
    tale_say(t,
             "One day, [a letter came|a pigeon brought a note|there was news] from {b}, "
             "{b.a} who [lived|stayed] {s.at}. \"Dear {a}, I need {i.a} to {i.use}. [Can you bring "
             "me yours|Please bring me one|Will you help me]?\"");
    tale_say(t, "{a} [packed|wrapped up|took] the {i}, [some {a.food} and a blanket|a bag of "
                "{a.food}|a coat and some {a.food}], and set out.");
    tale_line(t);
    t->phrase[0] = first->is;
    t->phrase[1] = first->fix;
    t->phrase[2] = first->short_;
    tale_say(t,
             "On the first day, {a} {a.moved} [past the {p}|as far as the {p}], where {p.see}. "
             "[Behind it|A little later] {a} came to {U}. [What now|How could {a.he} go on]? {a} "
             "[thought for a while|sat down and thought|did not turn back]. Then {a.he} {V}, and "
             "{W} [was behind {a.him}|could not stop {a.him}].");
    tale_remember(t, 10, "What stood in the way on the first day?", "It was {U}.");
    tale_remember(t, 11, "How did {a} get past {W}?", "{a} {V}.");
    t->phrase[0] = second->is;
    t->phrase[1] = second->fix;
    tale_say(
        t,
        "On the second day, {a.s} came [to the {q}|through the {q}]. {q.see}. There {a} met "
        "{c.new}. \"[Where are you going|What do you carry]?\" asked {c}. \"I am taking {i.a} to "
        "{b} {s.at},\" said {a}. \"Be careful! Ahead of you is {U},\" said {c}. {a} thanked "
        "{c.him}, {V} and went on.");
    tale_remember(t, 12, "Who warned {a} on the second day?", "{c} did. {c} was {c.a}.");
    tale_line(t);
    tale_say(t,
             "On the third day, {a} [saw|reached] the {s}. {s.see}. {b} [was waiting|came running|"
             "stood there and waved]. \"You came all this way for me!\" {a} gave {b} the {i}, and "
             "{b} could {i.use} at last.");
    tale_remember(t, 13, "Who has the {i} now?", "{b} has it.");
    tale_remember(t, 14, "How many days did the journey take?", "It took three days.");
}

void tale_plot_map(tale *t) {
    t->value[0] = tale_between(t, 4, 30);
    t->value[1] = tale_between(t, 3, 30);
    t->value[2] = t->value[0] + t->value[1];
    t->value[3] = tale_between(t, 2, 12);
    const char *first = (const char *const[]){"north", "south"}[tale_pick(t, 2)];
    const char *then = (const char *const[]){"east", "west"}[tale_pick(t, 2)];
    t->phrase[0] = first;
    t->phrase[1] = then;
    tale_line(t);
    tale_say(
        t, "[In an old book|In a bottle|Behind a loose brick|In a dusty drawer], {a} found a map. "
           "[It was yellow and torn at the edges.|Somebody had drawn it with green ink.|There was "
           "a red cross on it.] {a.s} showed it to {b}, {b.a}.");
    tale_say(
        t, "On the map was written: \"Start {p.at}. Go {w} steps to the {U}. Then go {x} steps to "
           "the {V}. Dig there.\"");
    tale_line(t);
    tale_say(
        t, "They went to the {p} and [took a spade along|borrowed a spade from {c}]. {p.see}. \"I "
           "will count,\" said {b}. {w} steps to the {U}, {x} steps to the {V}.");
    tale_say(t,
             "\"[How many steps is that in all|How far have we walked]?\" asked {a}. \"{w} and {x} "
             "make {y},\" said {b}. \"{y} steps!\"");
    tale_say(
        t, "They dug [until the sun went down|for an hour|and dug]. [Clonk|Thump|Bang]! The spade "
           "had hit [a box|an iron chest|a wooden crate|a clay jar].");
    tale_line(t);
    tale_say(
        t,
        "[Inside were|In it they found|What was in it? There were] {z.n} and a note. \"[Whoever "
        "finds "
        "this|Dear finder], the best treasure is [a friend who digs with you|a friend who counts "
        "your steps],\" [said the note|it said].");
    tale_say(
        t, "[{a} looked at {b}, and {b} looked at {a}.|They read it twice.] \"[That is "
           "true|Whoever wrote this was wise|I think so too],\" they said, and they kept the {n.s} "
           "as a memory.");
    tale_remember(t, 10, "Where did they start?", "They started {p.at}.");
    tale_remember(t, 11, "How many steps did they go in all?", "They went {y} steps.");
    tale_remember(t, 12, "How many {n.s} were in it?", "There were {z.n} in it.");
    tale_remember(t, 13, "Who counted the steps?", "{b} did.");
    tale_remember(t, 14, "In which direction did they go first?", "They went to the {U} first.");
}

void tale_plot_noise(tale *t) {
    static const struct {
        const char *sound, *cause, *fix;
    } noises[] = {
        {"knock, knock, knock", "a loose shutter that the wind moved",
         "tied it with a piece of string"},
        {"drip, drop, drip", "a leak in the roof",
         "put a bowl under it and mended it in the morning"},
        {"scratch, scratch", "a branch that rubbed against the window", "bent it gently aside"},
        {"hoo, hoo, hoo", "an owl that had a cold", "gave it a spoonful of honey"},
        {"tick, tack, tock", "an old clock under the floor", "wound it up and set it right"},
        {"rattle, rattle", "a chain on the gate", "wrapped a cloth around it"},
        {"whoo-oo, whoo-oo", "an empty bottle in which the wind blew", "put a cork into it"},
        {"tap, tap, tap", "a woodpecker that could not sleep", "sang it a lullaby"},
        {"squeak, squeak", "a door with a rusty hinge", "put a drop of oil on it"},
        {"rumble, rumble", "a barrel that rolled to and fro", "pushed a stone under it"},
        {"hiss, hiss", "a kettle that nobody had taken off the stove",
         "lifted it off and made tea"},
        {"crunch, crunch", "a hungry hedgehog with a nut", "gave it a whole bowl of nuts"}};
    const uint32_t i = tale_pick(t, sizeof noises / sizeof *noises);
    t->phrase[0] = noises[i].sound;
    t->phrase[1] = noises[i].cause;
    t->phrase[2] = noises[i].fix;
    tale_line(t);
    tale_say(
        t, "One night, {a} [could not sleep|woke up|lay awake]. There was a noise. \"{U}!\" it "
           "went. [{a} pulled the blanket over {a.his} ears|{a}'s heart beat fast|{a} held {a.his} "
           "breath]. \"{U}!\" There it was again.");
    tale_say(t,
             "[\"Is it a monster?\" {a.s} whispered.|\"It must be a ghost,\" thought {a}.|\"Who is "
             "there?\" {a.s} called, but nobody answered.]");
    tale_line(t);
    tale_say(
        t,
        "{a} ran to {b}, {b.a} who lived next door. \"I hear a noise,\" said {a}. \"What does it "
        "sound like?\" asked {b}. \"Like this: {U}!\" \"[I will come with you|Let us look "
        "together|Two are braver than one],\" said {b} and took {i.a} along.");
    tale_say(
        t,
        "They [tiptoed|crept|sneaked] through the dark. [First they looked in the cupboard, but "
        "there were only coats.|First they looked under the stairs, but there was only dust.|First "
        "they looked behind the stove, but there was only wood.] The noise grew louder.");
    tale_line(t);
    tale_say(t,
             "Then they saw it. It was only {V}! [How they laughed|{a} laughed until {a.his} belly "
             "hurt|They both began to giggle]. {a} {W}, and it was quiet.");
    tale_say(t,
             "\"[Things are only scary until you know them|The dark makes small things big],\" "
             "said {b}. "
             "\"[Next time|If it comes back], I will look first and be afraid later,\" said {a}.");
    tale_remember(t, 10, "What made the noise?", "It was {V}.");
    tale_remember(t, 11, "What did {a} do about it?", "{a} {W}.");
    tale_remember(t, 12, "Whom did {a} ask for help?", "{a} asked {b}.");
    tale_remember(t, 13, "What did {b} take along?", "{b} took {i.a} along.");
}
