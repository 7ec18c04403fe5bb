/* Plots in which things change hands or are counted: bargain, sharing, market, contest. */
#include "corpus/engine.h"

/* Everybody has what the next one wants. */
void tale_plot_bargain(tale *t) {
    tale_line(t);
    tale_say(t,
             "{a} [wanted to|wished to] {l.use}. For that {a.he} needed {l.a}. But {a.he} had only "
             "{i.a}.");
    tale_say(
        t,
        "[{d}, {d.a}, had {l.a}.|There was one {l} in the village, and it belonged to {d}, "
        "{d.a}.] \"[Will you trade|Can we make a bargain]?\" asked {a}. \"[Gladly|Yes], but what I "
        "need is {k.a}, because I want to {k.use},\" said {d}.");
    tale_line(t);
    tale_say(
        t, "So {a} went to {c}, {c.a}, who had {k.a}. \"I do not need {i.a},\" said {c}. \"I would "
           "like to {j.use}. Bring me {j.a}, and you shall have the {k}.\"");
    tale_say(
        t,
        "{a} [sighed|scratched {a.his} head|did not give up] and {a.moved} to {b}, {b.a}. \"{b}, "
        "you have {j.a}. What do you want for it?\" \"I have always wanted to {i.use},\" said {b}. "
        "\"Is that {i.a} that you have there? I will take it.\"");
    tale_line(t);
    tale_say(
        t,
        "{a} gave {b} the {i} and got the {j}. Then {a.he} [went back|hurried|ran] to {c}, gave "
        "{c.him} the {j} and got the {k}. [At last|Then|In the evening] {a.he} gave the {k} to {d} "
        "and got the {l}.");
    tale_say(t,
             "[Everybody was pleased.|Nobody had lost, and everybody had won.|Four were happy that "
             "day.] Now {a} could {l.use}, {b} could {i.use}, {c} could {j.use}, and {d} could "
             "{k.use}.");
    tale_remember(t, 10, "Who has the {i} now?", "{b} has the {i}.");
    tale_remember(t, 11, "Who has the {j} now?", "{c} has the {j}.");
    tale_remember(t, 12, "Who has the {k} now?", "{d} has the {k}.");
    tale_remember(t, 13, "Who has the {l} now?", "{a} has the {l}.");
    tale_remember(t, 14, "Why did {a} need {l.a}?", "{a} wanted to {l.use}.");
}

void tale_plot_share(tale *t) {
    int *const v = t->value;
    v[1] = tale_between(t, 1, 6);
    v[2] = tale_between(t, 1, 6);
    v[3] = tale_between(t, 1, 6);
    v[0] = v[1] + v[2] + v[3];
    tale_line(t);
    tale_say(
        t, "[One morning|One afternoon|On Saturday], {a} [picked|gathered|got] {w.m} [from the old "
           "tree|at home|in the garden|from {a.his} aunt] and tied them up in a cloth. "
           "{a} wanted to take them to [the {p}|a picnic {p.at}].");
    tale_say(t,
             "On the way {a.he} met {b.new}. \"I am so hungry,\" said {b}. \"I have eaten nothing "
             "since yesterday.\" {a} looked into {a.his} bundle.");
    tale_say(t, "\"I have {w.m},\" said {a}. \"Take {x}!\" So {a} gave {x.m} to {b}.");
    v[0] -= v[1];
    tale_say(t, "[Now there were {w} left.|That left {w.m}.|Now {a} had {w.m}.]");
    tale_remember(t, 10, "How many {m.s} did {b} get?", "{b} got {x.m}.");
    tale_line(t);
    tale_say(
        t,
        "[A little later|Near the {q}|Soon after that], {a} saw {c}, {c.a}, who sat [on a "
        "stone|by the road] and [cried|sighed|looked sad]. \"What happened?\" asked {a}. \"[A goat "
        "ate my lunch|The wind blew my lunch into the river|I forgot my lunch].\" \"Then "
        "have {y.m},\" said {a} and untied the cloth again.");
    v[0] -= v[2];
    tale_say(t,
             "\"But how many are left for you?\" asked {c}. {a} counted. \"{w.m},\" {a.he} said. "
             "\"That is enough for me.\"");
    tale_remember(t, 11, "How many {m.s} did {c} get?", "{c} got {y.m}.");
    tale_remember(t, 12, "How many {m.s} did {a} have in the end?", "{a} had {z.m}.");
    v[0] = v[1] + v[2] + v[3];
    tale_remember(t, 13, "How many {m.s} did {a} have in the beginning?", "{a} had {w.m}.");
    tale_line(t);
    tale_say(
        t,
        "{p.at}, {p.see}. {b} and {c} came, too, and each of them brought something: {b} had "
        "[a jug of milk|a pot of honey|a loaf of bread], and {c} had [a song|a blanket|a bunch of "
        "flowers]. [It was the best picnic of the year|Never had anything tasted so good|They "
        "ate and laughed until it was dark].");
}

void tale_plot_market(tale *t) {
    int *const v = t->value;
    v[1] = tale_between(t, 2, 9);
    v[2] = tale_between(t, 2, 9);
    v[3] = tale_between(t, 1, 10);
    v[0] = v[1] + v[2] + v[3];
    tale_be_grown(t, 2);
    tale_line(t);
    tale_say(
        t,
        "{a} had saved {w} coins [in a jar|in a sock|in a tin box]. With them {a.he} went to the "
        "market to buy {i.a} for {b}, {b.a}, who wanted to {i.use}. [It was {b}'s birthday|{b} had "
        "been ill for a week|{b} had helped {a} so often].");
    tale_say(
        t, "The stall belonged to {c}, {c.a}. \"Good morning,\" said {a}. \"How much is the {i}?\" "
           "\"{x} coins,\" said {c}. \"[And|Then] how much is the {j}?\" \"{y} coins.\"");
    tale_line(t);
    v[0] = v[1] + v[2];
    tale_say(
        t, "{a} [thought|counted on {a.his} fingers|did the sum]. {x} and {y} make {w}. \"[I will "
           "take both|Both, please],\" said {a} and paid {w} coins.");
    v[0] = v[1] + v[2] + v[3];
    tale_say(
        t,
        "\"[How many coins do you have left|Is there anything left]?\" asked {c}. {a} looked. \"I "
        "had {w}, and now I have {z}.\"");
    tale_remember(t, 10, "How many coins did {a} have at first?", "{a} had {w} coins.");
    tale_remember(t, 11, "How many coins were left?", "There were {z} left.");
    tale_remember(t, 12, "What did the {i} cost?", "It cost {x} coins.");
    tale_remember(t, 13, "What did the {j} cost?", "It cost {y} coins.");
    tale_remember(t, 14, "Who sold the {i}?", "{c} did.");
    tale_line(t);
    tale_say(t, "On the way home, {a} passed the {p}. {p.see}. [{a.s} wrapped the {i} in red "
                "paper.|{a.s} tied a ribbon around the {i}.]");
    tale_say(
        t, "\"For me?\" cried {b}. \"How did you know that I wanted {i.a}?\" \"You said so [last "
           "week|in the spring|when we were {q.at}],\" said {a}. {a} kept the {j} and [used it to "
           "{j.use}|was glad to have it].");
    tale_remember(t, 15, "What did {b} get?", "{b} got {i.a}.");
    tale_remember(t, 16, "Who kept the {j}?", "{a} kept it.");
}

/* Names of a contest's places by the numbers that were found. */
void tale_plot_contest(tale *t) {
    static const char *const name[] = {"{a}", "{b}", "{c}"};
    static const char *const count[] = {"{x.n}", "{y.n}", "{z.n}"};
    int *const v = t->value;
    uint32_t best = 0, worst = 0;
    do {
        v[1] = tale_between(t, 3, 30);
        v[2] = tale_between(t, 3, 30);
        v[3] = tale_between(t, 3, 30);
    } while (v[1] == v[2] || v[2] == v[3] || v[1] == v[3]);
    for (uint32_t i = 1; i < 3; i++) {
        best = v[i + 1] > v[best + 1] ? i : best;
        worst = v[i + 1] < v[worst + 1] ? i : worst;
    }
    const uint32_t middle = 3 - best - worst;
    tale_be_grown(t, 3);
    tale_line(t);
    tale_say(
        t, "[Every year|Each {t}|Once a year], there was a contest {p.at}. Whoever found the most "
           "{n.s} before [noon|sunset|the bell rang] won {i.a}. {d}, {d.a}, was the judge.");
    tale_say(
        t, "{a} wanted to win, because with the {i} {a.he} could {i.use}. But {b}, {b.a}, and {c}, "
           "{c.a}, wanted to win, too.");
    tale_line(t);
    tale_say(
        t,
        "\"Ready, set, go!\" called {d}. {a} looked {q.at}, where {q.see}. {b} looked {r.at}, and "
        "{c} {c.moved} to the {s}.");
    tale_say(
        t,
        "[It was harder than it looked.|They crawled, dug and climbed.|Nobody took a break.] Then "
        "[the bell rang|a trumpet sounded|{d} blew a whistle], and the judge counted. {a} had "
        "found "
        "{x.n}. {b} had found {y.n}. {c} had found {z.n}.");
    tale_line(t);
    t->phrase[0] = name[best];
    t->phrase[1] = count[best];
    v[0] = v[best + 1] - v[middle + 1];
    tale_say(t, "\"With {V}, the winner is {U}!\" said {d}.");
    t->phrase[1] = name[middle];
    t->phrase[2] = name[worst];
    tale_say(t, "{V} came second with only {w} fewer, and {W} came third.");
    if (best == 0) {
        tale_say(t, "{a} [jumped for joy|could not believe it|beamed]. Now {a.he} could {i.use}. "
                    "\"[You may "
                    "borrow it whenever you like|It belongs to all three of us],\" {a.he} told the "
                    "others.");
    } else {
        tale_say(t,
                 "{a} [swallowed hard|was sad for a moment], but then {a.he} shook {U}'s hand. "
                 "\"[Well done|You earned it],\" said {a}. \"[Thank you|That is kind],\" said {U}. "
                 "\"You may use the {i} whenever you want to {i.use}.\"");
    }
    tale_remember(t, 10, "Who won the contest?", "{U} won.");
    tale_remember(t, 11, "Who came third?", "{W} came third.");
    tale_remember(t, 12, "Who found more {n.s}, {a} or {b}?",
                  v[1] > v[2] ? "{a} did." : "{b} did.");
    tale_remember(t, 13, "How many {n.s} did {c} find?", "{c} found {z.n}.");
    tale_remember(t, 14, "Who was the judge?", "{d} was the judge.");
    tale_remember(t, 15, "What was the prize?", "The prize was {i.a}.");
    tale_remember(t, 16, "Where did {b} look?", "{b} looked {r.at}.");
}
