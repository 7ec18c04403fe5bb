/* Plots about making and learning: building, garden, practice, rescue, storm. */
#include "corpus/engine.h"

#include <assert.h>
#include <string.h>

/* Puts a thing into slot i that the plot needs by name; no other slot holds it. */
static void hold(tale *t, const char *noun) {
    uint32_t at = 0;
    while (strcmp(tale_items[at].noun, noun) != 0) {
        at++;
        assert(at < tale_n_items);
    }
    for (uint32_t i = 1; i < TALE_N_SLOT; i++) {
        if (t->thing[i].item == &tale_items[at]) {
            t->thing[i].item = t->thing[0].item;
        }
    }
    t->thing[0].item = &tale_items[at];
}

void tale_plot_build(tale *t) {
    static const struct {
        const char *what, *why, *flaw, *cure;
    } works[] = {
        {"tree house", "look over the whole valley", "the floor sagged in the middle",
         "put a strong beam under it"},
        {"raft", "sail down the river", "the knots came loose", "tied every knot twice"},
        {"bridge", "cross the stream with dry feet", "it bent like a bow",
         "set a post in the middle"},
        {"bench", "sit in the evening sun", "one leg was too short",
         "put a flat stone under the leg"},
        {"fence", "keep the goats out of the lettuce", "the wind blew it over",
         "dug the posts deeper into the ground"},
        {"henhouse", "have fresh eggs each morning", "rain came through the roof",
         "covered the roof with bark"},
        {"swing", "fly up to the clouds", "it hung crooked", "made the left rope shorter"},
        {"windmill", "grind flour", "the sails did not turn", "rubbed the axle with butter"},
        {"sailing cart", "race along the beach", "it only went backwards",
         "turned the sail around"},
        {"puppet theater", "put on a play", "the curtain stuck", "hung the curtain on rings"},
        {"hut", "have a place for rainy days", "the door did not close",
         "planed the edge of the door"},
        {"stage", "hold a concert", "it creaked with every step", "drove in a dozen more nails"}};
    const uint32_t w = tale_pick(t, sizeof works / sizeof *works);
    int *const v = t->value;
    v[0] = tale_between(t, 3, 20);
    v[1] = tale_between(t, 3, 20);
    v[2] = v[0] + v[1];
    static const tale_noun boards = {"board", "boards"};
    t->count[1] = &boards;
    hold(t, (const char *const[]){"hammer", "saw", "ladder", "rope", "pulley"}[tale_pick(t, 5)]);
    t->phrase[0] = works[w].what;
    t->phrase[1] = works[w].why;
    tale_line(t);
    tale_say(t,
             "\"Let us build a {U},\" said {a} to {b}, {b.a}. \"Then we can {V}.\" \"[What do we "
             "need|How do we begin]?\" asked {b}. \"Boards, nails and {i.a}.\"");
    tale_say(
        t, "{a} [brought|found|collected] {w.n} and {b} [brought|found|collected] {x.n}. \"{w} and "
           "{x} make {y},\" said {b}. \"{y} boards should be enough.\"");
    tale_say(
        t,
        "{c}, {c.a}, lent them {i.a}. \"[Bring it back|I need it again] [on Sunday|by Friday|when "
        "you are done],\" said {c}.");
    tale_remember(t, 10, "What did {a} and {b} build?", "They built a {U}.");
    tale_remember(t, 11, "How many boards did they have?", "They had {y} boards.");
    tale_remember(t, 12, "Who lent them the {i}?", "{c} did.");
    tale_line(t);
    tale_say(
        t,
        "They [measured|planned] and [hammered|worked] {p.at} all day. [{p.see}, but they did not "
        "look up.|{b} held the boards, and {a} drove in the nails.]");
    t->phrase[1] = works[w].flaw;
    t->phrase[2] = works[w].cure;
    tale_say(
        t,
        "In the evening the {U} stood, but {V}. \"[What a pity|Oh dear|All that work]!\" said {a}. "
        "[{b} walked around it three times.|{b} did not give up so easily.] \"I know why,\" said "
        "{b}. The next day they {W}. [This time it was right|Now it was perfect|It worked].");
    tale_remember(t, 13, "What was wrong at first?", "At first {V}.");
    tale_remember(t, 14, "What did they do about it?", "They {W}.");
    tale_line(t);
    tale_say(
        t,
        "They brought the {i} back to {c}, [with a bag of {c.food} as thanks|and {c} came to see "
        "the {U}]. \"[Who had the idea|Whose idea was it]?\" asked {c}. \"It was {a}'s,\" said "
        "{b}. "
        "\"And {b} knew what was wrong,\" said {a}.");
    tale_remember(t, 15, "Whose idea was it?", "It was {a}'s idea.");
}

void tale_plot_garden(tale *t) {
    static const tale_noun seeds = {"seed", "seeds"};
    int *const v = t->value;
    v[0] = tale_between(t, 6, 20);
    v[1] = tale_between(t, 1, v[0] - 3);
    v[2] = v[0] - v[1];
    v[3] = tale_between(t, 2, 5);
    t->count[1] = &seeds;
    t->phrase[0] = (const char *const[]){"sparrows", "snails", "mice", "hens"}[tale_pick(t, 4)];
    t->phrase[1] = (const char *const[]){"pumpkins", "sunflowers", "beans",
                                         "melons",   "tomatoes",   "cabbages"}[tale_pick(t, 6)];
    tale_line(t);
    tale_say(
        t,
        "In spring, {b}, {b.a}, gave {a} {w.n}. \"[Put them in the earth|Plant them], water them "
        "and wait,\" said {b}. \"[How long|How many days]?\" \"As long as it takes.\"");
    tale_say(
        t,
        "{a} dug {w} little holes behind {a.his} home, put a seed into each, and watered them "
        "[every "
        "morning|every evening] with a little can. [Nothing happened for a week.|The first days, "
        "there "
        "was only brown earth.] \"Are they asleep?\" {a} asked {b}. \"Yes,\" said {b}, \"and they "
        "dream of the sun.\"");
    tale_line(t);
    tale_say(t, "But one night the {U} came and ate {x} of the seeds. {a} counted. \"There were "
                "{w}, and {x} "
                "are gone. Now I have only {y},\" {a.he} said [sadly|and wiped away a tear]. "
                "\"Then take good "
                "care of the {y},\" said {b}. They built a little fence against the {U}.");
    tale_say(
        t,
        "In summer, {y} green plants stood in a row. [They grew as high as {a}'s knees.|They drank "
        "the rain and stretched.|Bees visited them.] {a} pulled out the weeds and [sang to "
        "them|told them stories].");
    tale_line(t);
    tale_say(
        t, "In autumn, they had turned into {V}, [the biggest in the village|as fine as any at the "
           "market|bright and heavy]. {a} gave {z} of them to {b}, because the seeds had come from "
           "{b}. \"[What was the secret|How did you do it]?\" asked {c}, {c.a}. \"[Water, sun and "
           "waiting|Patience],\" said {a}.");
    tale_say(
        t,
        "In winter, {a} [ate soup|sat by the stove] and kept a bag of new seeds on the shelf, for "
        "spring comes back every year.");
    tale_remember(t, 10, "Who gave {a} the seeds?", "{b} did.");
    tale_remember(t, 11, "How many seeds were eaten?", "The {U} ate {x} of them.");
    tale_remember(t, 12, "How many plants grew?", "There were {y} plants.");
    tale_remember(t, 13, "What grew from the seeds?", "They turned into {V}.");
    tale_remember(t, 14, "Who ate some of the seeds?", "The {U} did.");
}

void tale_plot_learn(tale *t) {
    const tale_skill *skill = t->being[2].hobby;
    tale_be_grown(t, 2);
    t->phrase[0] = skill->doing;
    t->phrase[1] = skill->verb;
    t->phrase[2] = skill->fails;
    t->value[0] = tale_between(t, 5, 40);
    tale_line(t);
    tale_say(
        t,
        "One day {p.at}, {a} saw {c}, {c.a}. {c} was {U}, [and a crowd had gathered|and everybody "
        "clapped|better than anyone]. \"[I want to do that, too!|Can you teach me?|Please teach "
        "me!]\" said {a}. "
        "\"[It "
        "takes time|It is not easy],\" said {c}. \"But if you practice every day, you will learn "
        "to {V}.\"");
    tale_line(t);
    tale_say(t, "On the first day, {W}. {b}, {b.a}, watched and [laughed|giggled|shook with "
                "laughter]. On the "
                "second day, it [was hardly better|went wrong again]. On the third day, {a} "
                "[wanted to give "
                "up|sat down and cried|threw everything into a corner].");
    tale_say(t, "\"Do you know how often I failed?\" asked {c}. \"How often?\" \"[A hundred "
                "times|More than "
                "I can count|Every day for a year]. [Each mistake is a step|You only lose when you "
                "stop].\" So "
                "{a} tried again, and again, and after {w} days {a.he} could {V}.");
    tale_remember(t, 10, "What did {a} learn?", "{a} learned to {V}.");
    tale_remember(t, 11, "Who was the teacher?", "It was {c}, {c.a}.");
    tale_remember(t, 12, "How many days did it take?", "It took {w} days.");
    tale_remember(t, 13, "Where did {a} first see {c}?", "{a} saw {c} {p.at}.");
    tale_line(t);
    tale_say(
        t,
        "There was a [feast|festival|party] {q.at} in {t}. {q.see}. {a} stepped forward. {a.his} "
        "knees [shook|trembled], but {a.he} began. [Nobody made a sound.|One by one, all heads "
        "turned.] When it was over, they clapped and clapped, and {b} clapped loudest of all.");
    tale_say(t, "\"[Will you teach me, please|Can you show me how it is done]?\" asked {b}. \"[Of "
                "course|Yes],\" said "
                "{a}. \"It takes {w} days, and you must not mind falling down.\"");
}

void tale_plot_rescue(tale *t) {
    static const struct {
        const char *where, *tool, *how;
    } traps[] = {{"had fallen into a deep hole", "ladder", "climbed up, step by step"},
                 {"was stuck in the mud up to the belly", "rope", "came out with a loud plop"},
                 {"sat on a rock in the middle of the flood", "boat", "jumped in and was safe"},
                 {"was caught in a thorn bush", "saw", "crawled out between the branches"},
                 {"hung from a branch over the river", "net", "dropped right into it"},
                 {"was trapped behind a heap of stones", "spade", "squeezed through the gap"},
                 {"had sunk into the deep snow", "sled", "was pulled home on it"},
                 {"was locked in the old tower", "key", "ran down the stairs"},
                 {"had been shut in a big crate", "hammer", "hopped out of it"}};
    const uint32_t trap = tale_pick(t, sizeof traps / sizeof *traps);
    hold(t, traps[trap].tool);
    t->phrase[0] = traps[trap].where;
    t->phrase[1] = traps[trap].how;
    tale_line(t);
    tale_say(
        t,
        "{a} {a.moved} [along the road|through the fields] near the {p} when {a.he} heard somebody "
        "shout: \"Help! Help!\" [It came from behind the hill.|The voice was thin and scared.] It "
        "was "
        "{c}, {c.a}, who {U}.");
    tale_say(
        t,
        "\"[How did that happen|How did you get there]?\" asked {a}. \"I [ran after my hat|looked "
        "at "
        "the clouds|wanted to take a short cut] and did not look where I was going,\" said {c}.");
    tale_line(t);
    tale_say(
        t,
        "{a} [pulled and pushed|tried with bare hands|did what could be done], but it was no use. "
        "\"I "
        "need {i.a},\" said {a}. \"Who has one?\" \"{b} has one,\" said {c}. \"{b} lives {q.at}.\" "
        "\"Do not be afraid. I will be back [before you can count to a hundred|soon].\"");
    tale_say(t,
             "{a} ran to the {q}, where {q.see}. \"{b}! {b}! May I borrow your {i}? {c} needs "
             "help!\" {b}, "
             "{b.a}, did not ask [long|twice]. \"[Take it, I will come along|Here it is, let us go "
             "together],\" said {b}.");
    tale_line(t);
    tale_say(
        t,
        "With the {i}, it was [quickly done|not hard]: {c} {V}. \"[You saved me|I thought nobody "
        "would "
        "come],\" said {c}. \"[What can I give you|How can I thank you]?\" \"[Nothing|Just look "
        "where "
        "you are going],\" said {a}. But {c} [baked a cake for both of them|gave each of them some "
        "{c.food}].");
    tale_remember(t, 10, "Who needed help?", "{c} needed help.");
    tale_remember(t, 11, "What had happened to {c}?", "{c} {U}.");
    tale_remember(t, 12, "What did {a} need for the rescue?", "{a} needed {i.a}.");
    tale_remember(t, 13, "Whose {i} was it?", "It was {b}'s.");
    tale_remember(t, 14, "Where did {b} live?", "{b} lived {q.at}.");
}

void tale_plot_storm(tale *t) {
    t->value[0] = tale_between(t, 2, 9);
    t->value[1] = tale_between(t, 2, 9);
    t->phrase[0] = (const char *const[]){
        "a flash of lightning hit the tree beside it", "the wind carried off the roof",
        "the water came in under the door", "a branch crashed through the window"}[tale_pick(t, 4)];
    tale_line(t);
    tale_say(t, "[One evening|Toward night], {b.new} looked at the sky. \"[Those clouds are "
                "black|My left ear "
                "itches|The swallows fly low]. There will be a storm,\" said {b}. \"[Nonsense|I do "
                "not believe "
                "it],\" said {c}, {c.a}. But {a} [carried wood inside|closed the shutters|tied "
                "down what was "
                "loose].");
    tale_say(t, "[Then|An hour later] it came. [Thunder rolled|The wind roared|Hail drummed on the "
                "roofs], and "
                "the trees bent. It lasted {w} hours.");
    tale_line(t);
    tale_say(
        t,
        "In the middle of it, somebody [knocked|pounded] at {a}'s door. It was {c}, wet to the "
        "bone. \"My "
        "home!\" {c} cried. \"{U}!\" \"Come in,\" said {a} and gave {c.him} {i.a} and a cup of hot "
        "[tea|soup|milk]. [\"You and {b} were right,\" said {c}. \"I should have listened.\"|{c} "
        "shivered "
        "and sat down by the fire.]");
    tale_say(t, "[They could not sleep and told each other stories|They played cards until the "
                "thunder was far "
                "away|They counted the seconds between flash and thunder].");
    tale_line(t);
    tale_say(t, "In the morning, the sky was clear. {a}, {b} and {c} went to look. [What a "
                "mess|Everything was "
                "upside down]! \"We will repair it together,\" said {a}. {a} [swept|cleared away "
                "the branches], "
                "{b} [sawed boards|mixed mortar], and {c} [hammered|painted]. After {x} days, the "
                "home was as "
                "good as new.");
    tale_say(t, "[From then on|After that], whenever {b} [looked at the sky|spoke of clouds], {c} "
                "[listened "
                "carefully|closed the shutters at once].");
    tale_remember(t, 10, "Who knew that a storm was coming?", "{b} knew it.");
    tale_remember(t, 11, "Who did not believe it?", "{c} did not believe it.");
    tale_remember(t, 12, "How long did the storm last?", "It lasted {w} hours.");
    tale_remember(t, 13, "Where did {c} find shelter?", "{c} found shelter with {a}.");
    tale_remember(t, 14, "What did {a} give to {c}?", "{a} gave {c.him} {i.a}.");
}
