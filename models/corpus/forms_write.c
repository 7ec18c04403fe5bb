/* Documents that are no stories and are written by somebody: letter, poem, recipe, steps, diary. */
#include "corpus/engine.h"

void tale_form_letter(tale *t) {
    tale_say(t, "[Dear|My dear|Hello] {b},");
    tale_line(t);
    tale_say(
        t,
        "[how are you|how is life {p.at}|I hope you are well]? I am writing to you [from "
        "the {q}, where "
        "{q.see}|by the light of a candle|because I miss you]. It is {t} here. Yesterday {t.sky}.");
    tale_say(t,
             "[Last week|On Sunday|The other day] I visited {c}, {c.a}. You know that {c} {c.why}. "
             "[We ate {w.m} and "
             "talked about you.|We spent the day {c.hobby}, and I was not as bad as I had "
             "feared.|{c} told me that "
             "you have a new hobby: {b.hobby}!]");
    tale_line(t);
    tale_say(t, "[Thank you for|I am so glad about] the {i} that you sent me. [Now I can "
                "{i.use}.|I use it every day to "
                "{i.use}.] In return I am sending you {j.a}. With it you can {j.use}. [{d} will "
                "bring it to you on "
                "Friday.|It is in the parcel, under the {n.s}. There are {x.n}, one for each day "
                "until I see you.]");
    tale_say(t, "[Do you remember the day {r.at}?|I often think of the day {r.at}.] {r.see}, and "
                "you said, \"[We must come "
                "back|This is the best day of the year].\" [Let us go there again in the "
                "holidays.|I have not been there "
                "since.]");
    tale_line(t);
    tale_say(t, "[Write soon|Please answer soon|Come and see me]. [Bring some {m.s} if you "
                "can.|Tell me everything.|I "
                "will bake something with {b.food}, because you like them.]");
    tale_line(t);
    tale_say(t, "[Your friend|With love|Many greetings|Yours],");
    tale_line(t);
    tale_say(t, "{a}");
    tale_line(t);
    tale_say(t, "P.S. [If you meet {d}, say hello from me.|I have counted: it is {y} weeks until "
                "we meet.|The {i} is on "
                "the shelf beside my bed.|Do not forget the {j}!]");
}

void tale_form_poem(tale *t) {
    static const char *const couplet[] = {
        "{a} went out to see the sea,\nand counted birds, [one, two and three|and waves, and me].",
        "The moon came up, the sun went down,\nand lights were lit [all over|in the little] town.",
        "{b} had {i.a} upon the shelf,\nand kept it [mostly|only] for {b.self}.",
        "\"Who goes there?\" called the [sleepy|hungry|gray old] cat.\n\"It is only {a} with a "
        "hat.\"",
        "The [wind|rain|snow] was [singing|knocking] at the door,\nas it had never done before.",
        "A [mouse|frog|crow] sat down upon a stone\nand said, \"I do not like to be alone.\"",
        "The {p} was quiet, the {q} was still,\nand [fog|mist|night] came creeping down the hill.",
        "They shared a cup, they shared a bed,\nthey shared a loaf of [warm brown|fresh white] "
        "bread.",
        "Oh, give me {m.s}, give me more,\nI ate the ones I had before.",
        "The {t} is here, the {t} is [bright|long],\nand every [bird|brook] has its own song.",
        "And when you think that all is lost,\nremember [spring|the flowers] after frost.",
        "{c} {c.moved} home [at half past|until it was] ten,\nand never came so late again.",
        "So close your eyes and count to five,\nand dream of [bees|the bees] inside a hive.",
        "\"I cannot sleep,\" said {a}, \"can you?\"\n\"No,\" said {b}, \"but I can count to two.\"",
        "The stars are far, the stars are small,\nand yet they shine [upon us all|above the wall].",
        "One step, two steps, three steps, four,\nand {c} was standing at the door.",
        "The road is long, the road is wide,\nbut I have {b} here by my side.",
        "A friend is [someone|somebody] who will stay\nwhen all the others go away."};
    enum { N = sizeof couplet / sizeof *couplet };
    const uint32_t first = tale_pick(t, N), wanted = 6 + tale_pick(t, 4);
    static const uint32_t stride[] = {1, 5, 7, 11, 13, 17}; /* with no factor of N: no repeats */
    const uint32_t step = stride[tale_pick(t, 6)];
    tale_say(t,
             "[A poem for {b}|Song of the {p}|{t} song|A rhyme about {a} and {b}|What {a} sang]");
    tale_line(t);
    for (uint32_t i = 0; i < wanted; i++) {
        tale_say(t, couplet[(first + i * step) % N]);
        tale_line(t);
        if (i == 3) {
            tale_say(
                t, "[La la la, sang {c}, la la lee.|Tra la la, tra la la, come and sing with me.]");
            tale_line(t);
        }
    }
}

void tale_form_recipe(tale *t) {
    int *const v = t->value;
    v[0] = tale_between(t, 2, 12);
    v[1] = 2 * v[0];
    v[2] = tale_between(t, 2, 6);
    v[3] = 2 * v[2];
    t->phrase[0] = (const char *const[]){"soup", "cake", "pudding", "salad",
                                         "stew", "jam",  "tart",    "porridge"}[tale_pick(t, 8)];
    t->phrase[1] = (const char *const[]){"honey", "butter", "cream",    "flour",
                                         "sugar", "oats",   "cinnamon", "salt"}[tale_pick(t, 8)];
    t->phrase[2] = (const char *const[]){"milk", "water", "apple juice", "broth",
                                         "buttermilk"}[tale_pick(t, 5)];
    tale_say(t, "[{a}'s {m} {U}|How {a} makes {m} {U}|{m} {U}, as {a} makes it]");
    tale_line(t);
    tale_say(t, "For {z} guests you need {w.m}, {y} spoons of {V} and {y} cups of {W}. ");
    tale_line(t);
    tale_say(t, "1. Wash the {m.s} and [cut them into small pieces|peel them|chop them].");
    tale_line(t);
    tale_say(t, "2. [Put them into|Throw them into] a [big|deep] bowl and add the {V}. Stir [with "
                "a wooden spoon|until your "
                "arm is tired].");
    tale_line(t);
    tale_say(t, "3. Pour in the {W} [slowly|little by little]. [Do not spill it|Keep stirring]!");
    tale_line(t);
    tale_say(t, "4. Let it [cook|rest|simmer|bake] for an hour. [Meanwhile, set the "
                "table.|Meanwhile, read a "
                "book.|Meanwhile, wash the bowl.]");
    tale_line(t);
    tale_say(t, "5. [Taste it|Try it]. If it is too [sour|thick], add more [{V}|{W}].");
    tale_line(t);
    tale_say(t, "[If|When] twice as many guests come, take twice as much of everything: {x.m} "
                "instead of {w}, because two "
                "times {w} is {x}. \"[The secret|The trick] is [the {V}|to wash the {m.s} "
                "twice|never to hurry],\" says {a}, "
                "who {a.why}. {b} always eats [two plates|three plates|more than anybody].");
}

void tale_form_steps(tale *t) {
    int *const v = t->value;
    v[0] = tale_between(t, 2, 90);
    v[1] = tale_between(t, 2, 5);
    tale_say(t, "[How to get from the {p} to the {q}|The way to the {q}|How to find {a}]");
    tale_line(t);
    t->phrase[0] = (const char *const[]){"left", "right"}[tale_pick(t, 2)];
    t->phrase[1] =
        (const char *const[]){"a red gate",    "a hollow tree", "a stone lion",
                              "a broken cart", "an iron post",  "a blue house"}[tale_pick(t, 6)];
    t->phrase[2] =
        (const char *const[]){"Monday", "Tuesday", "Thursday", "Friday", "Sunday"}[tale_pick(t, 5)];
    tale_say(t, "[First|To begin with], stand {p.at}, where {p.see}. [Turn your back to it|Look "
                "toward the sun] and walk {w} "
                "steps.");
    tale_say(t, "[Then|Next], turn {U} at {V}. [You cannot miss it.|If you do not see it, you have "
                "gone too far.]");
    tale_say(t, "[After that|Then], cross {x} little bridges. [Count them!|Do not stop before the "
                "last one.] Behind bridge "
                "number {x} you will come to the {r}. {r.see}.");
    tale_line(t);
    tale_say(t, "[There|At this place] lives {b}, {b.a}. [Say hello|Knock on the door] and ask for "
                "{i.a}, for you will need it "
                "to {i.use}. [But do not come on {W}|Only on {W} it is no use]: on {W}, {b} is "
                "never at home.");
    tale_say(t, "At last, [go straight on|follow the path] until you see the {q}, where {q.see}. "
                "{a} is waiting for you there. "
                "[Bring {x.m}|Do not forget the {i}]!");
    tale_line(t);
    tale_say(t, "[In short|Once more]: {w} steps, then {U} at {V}, {x} bridges, and {b} with the "
                "{i}. And not on {W}.");
}

void tale_form_diary(tale *t) {
    static const char *const event[] = {
        "I [met|saw] {b} {p.at}. {p.see}.",
        "I found {w.n} and gave {b} half a dozen of them to count.",
        "{t.sky}, so I stayed in bed and thought about {m.s}.",
        "{c} came to visit me and [laughed|talked] for hours.",
        "I tried {a.hobby}, and it went [well|badly|better than last week].",
        "I could not find my {i}. [Where can it be?|I looked everywhere.]",
        "I baked something with {x.m}. Nothing was left in the evening.",
        "we went to the {q}. {q.see}.",
        "I helped {d}, {d.a}. My back hurts."};
    static const char *const day[] = {"Monday", "Tuesday", "Wednesday", "Thursday", "Friday"};
    enum { N = sizeof event / sizeof *event };
    static const uint32_t stride[] = {1, 2, 4, 5, 7, 8};
    const uint32_t step = stride[tale_pick(t, 6)], first = tale_pick(t, N);
    t->value[0] = tale_between(t, 7, 30);
    tale_say(t, "[From the diary of {a}|{a}'s diary|The diary of {a}, {a.a}]");
    tale_line(t);
    uint32_t lost = 9;
    for (uint32_t i = 0; i < 5; i++) {
        const uint32_t e = (first + i * step) % N;
        lost = e == 5 ? i : lost;
        tale_put_word(t, day[i]);
        tale_say(t, ": [Today |This morning |After breakfast |]_");
        t->capital = t->text[t->n - 2] == ':';
        tale_say(t, event[e]);
        tale_say(t, "[It was a good day.|I am tired.|Good night, dear diary.|I wonder what "
                    "tomorrow will bring.||]");
        tale_line(t);
    }
    tale_say(
        t,
        lost < 9
            ? "Saturday: The {i} is back! {b} had borrowed it to {i.use} and forgotten to tell me."
            : "Saturday: {b} borrowed my {i} to {i.use}. I said yes, of course.");
    tale_line(t);
    tale_say(t, "Sunday: [Nothing happened today|A quiet day], and [that is nice, too|I liked it]. "
                "I read what I wrote this "
                "week. [So many things|What a week]! On Monday I would not have believed it. "
                "[Tomorrow I will give {b} a piece "
                "of cake.|Next week I want to learn how to {c.play}, as {c} does.] {t} is "
                "[beautiful|too short|almost over].");
}
