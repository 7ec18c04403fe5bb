/* Plots between friends: secret, broken thing, new friend, riddle, wish. */
#include "corpus/engine.h"

void tale_plot_secret(tale *t) {
    tale_line(t);
    tale_say(t, "{a} had a secret. [On Saturday|Tomorrow|In three days] was the birthday of {b}, "
                "{b.a}, and "
                "{a} [planned|was preparing] a party {p.at}. Only {c}, {c.a}, knew about it.");
    tale_say(t,
             "\"Do not say a word to {b},\" [whispered {a}|said {a}]. \"My lips are sealed,\" said "
             "{c}. \"I "
             "will bring {i.a}. And you?\" \"I will bring {j.a}, because {b} likes to {j.use}.\"");
    tale_line(t);
    tale_say(t, "But {b} [noticed something|was not blind|had sharp ears]. \"Why do you whisper?\" "
                "asked {b}. \"[We "
                "were talking about the weather|It is nothing],\" said {a}. \"Where are you "
                "going?\" \"[For a "
                "walk|Nowhere special],\" said {c}.");
    tale_say(t, "{b} [felt left out|went home alone|was sad]. \"They do not like me any more,\" "
                "{b.he} thought. "
                "\"They have forgotten my birthday.\" [{t.sky}.|Even {b.food} did not taste good "
                "that day.] {b.s} "
                "spent the morning {b.hobby}, but it was no fun.");
    tale_line(t);
    tale_say(t, "Then {d} came. \"{b}, come quickly to the {p}! {a} needs you.\" {b} {b.moved} "
                "there as fast as "
                "{b.he} could. {p.see}. And then: \"Surprise!\" There were [lights in all the "
                "trees|garlands and "
                "a cake|paper stars everywhere], and {a} and {c} [sang|danced|cheered].");
    tale_say(t, "{c} gave {b} {i.a}, and {a} gave {b.him} {j.a}. \"So that was your secret!\" said "
                "{b}. \"[I thought "
                "you had forgotten me|And I was angry with you].\" \"[Never|We could not tell "
                "you],\" said {a}. "
                "\"[A surprise is a secret with a good end|We wanted to see your face].\"");
    tale_remember(t, 10, "Whose birthday was it?", "It was {b}'s birthday.");
    tale_remember(t, 11, "Where was the party?", "The party was {p.at}.");
    tale_remember(t, 12, "What did {c} give to {b}?", "{c} gave {b} {i.a}.");
    tale_remember(t, 13, "What did {a} give to {b}?", "{a} gave {b} {j.a}.");
    tale_remember(t, 14, "Who brought {b} to the party?", "{d} did.");
    tale_remember(t, 15, "Who knew about the secret?", "{a} and {c} knew about it.");
}

void tale_plot_broken(tale *t) {
    t->phrase[0] =
        (const char *const[]){"ran through the room", "tried to catch a fly", "danced on the table",
                              "turned around too quickly", "threw a ball"}[tale_pick(t, 5)];
    tale_line(t);
    tale_say(t, "{a} was visiting {b}, {b.a}. On the shelf stood {i.a}. \"Be careful with that,\" "
                "said {b}. \"It "
                "belonged to my [grandmother|grandfather|great-aunt], who used it to {i.use}.\" "
                "Then {b} went [to "
                "fetch some {b.food}|out to the well|to feed the hens].");
    tale_say(t, "{a} {U}, and bang! The {i} fell down and broke into {w} pieces. {a}'s heart "
                "[stood still|sank]. "
                "[Quickly|Without thinking], {a} [hid the pieces in a flowerpot|pushed the pieces "
                "under the rug|put "
                "the pieces behind the stove].");
    tale_line(t);
    tale_say(t, "When {b} came back, {b.he} asked: \"Where is the {i}?\" \"[I do not know|I have "
                "not seen it|Maybe "
                "the cat took it],\" said {a} and turned red. {b} [looked everywhere|said "
                "nothing|was puzzled].");
    tale_say(
        t,
        "That night, {a} could not sleep. [The lie lay in {a.his} belly like a stone.|{a} turned "
        "from side "
        "to side.] In the morning {a.he} {a.moved} to {c}, {c.a}. \"What shall I do?\" asked {a}. "
        "\"What do "
        "you want to do?\" asked {c}. \"I want to tell the truth,\" said {a}. \"[Then you know it "
        "already|Then go],\" said {c}.");
    tale_line(t);
    tale_say(t, "\"{b}, I broke your {i},\" said {a}. \"I {U}, and it fell down. And then I lied. "
                "I am sorry.\" {b} "
                "was silent for a while. \"[I am sad about the {i}|It was old and dear to me],\" "
                "{b.he} said, \"but "
                "I am glad that you told me.\"");
    tale_say(t,
             "They [looked for|gathered] the {w} pieces and put them together with glue. [You "
             "could see the "
             "cracks, but it held.|It was not as before, but it could be used.] \"Now it tells two "
             "stories,\" "
             "said {b}. \"[One of my family, and one of you and me|An old one and a new one].\"");
    tale_remember(t, 10, "What did {a} break?", "{a} broke {b}'s {i}.");
    tale_remember(t, 11, "Into how many pieces did it break?", "It broke into {w} pieces.");
    tale_remember(t, 12, "Whom did {a} ask for advice?", "{a} asked {c}.");
    tale_remember(t, 13, "How did it break?", "{a} {U}, and it fell down.");
    tale_remember(t, 14, "Whose {i} was it?", "It was {b}'s.");
}

void tale_plot_friend(tale *t) {
    t->being[1].hobby = t->being[0].hobby;
    tale_line(t);
    tale_say(t, "One day {b.new} moved in [next door|across the road|near the {p}]. {b.s} [did not "
                "say hello|looked "
                "at the ground|closed the door at once]. \"[How rude|What an odd neighbor],\" said "
                "{c}, {c.a}. \"Maybe "
                "{b} is only {b.t},\" said {a}.");
    tale_say(t, "On Monday, {a} [waved|called good morning], but {b} [ran away|did not answer]. On "
                "Tuesday, {a} left "
                "{i.a} at the door with a note: \"You can use it to {i.use}. From {a}.\" On "
                "Wednesday, the {i} was "
                "gone, and there lay a bag of {b.food}.");
    tale_line(t);
    tale_say(t, "On Thursday, {a} heard something [through the hedge|behind the fence|from the "
                "open window]. {b} was "
                "{b.hobby}! \"[You too|Do you like that]?\" called {a}. \"I have loved {a.hobby} "
                "[for years|since I "
                "was small|all my life]!\"");
    tale_say(t, "{b} looked up. \"Really? At home, I always did it alone. I came from far away, "
                "and I do not know "
                "anybody here.\" \"Now you know me,\" said {a}. \"And {c}, who [talks too "
                "much|grumbles] but means "
                "well.\"");
    tale_line(t);
    tale_say(t, "On Friday, the two went to the {q}. {q.see}. They spent the whole day {a.hobby}, "
                "and [they talked and "
                "talked|the time flew|neither wanted to go home]. \"Why did you not say hello to "
                "me at first?\" asked "
                "{a}. \"I was afraid you would not like me,\" said {b}. \"And I thought you did "
                "not like us,\" said {a}.");
    tale_say(t, "On Saturday, {c} came along, too. \"[I was wrong about you|I am sorry that I "
                "called you names],\" said "
                "{c} to {b}. \"[That is all right|Forget it],\" said {b}, \"have {x.m}.\" ");
    tale_remember(t, 10, "Who was the new neighbor?", "It was {b}, {b.a}.");
    tale_remember(t, 11, "What did {a} leave at the door?", "{a} left {i.a}.");
    tale_remember(t, 12, "What did both {a} and {b} love?", "Both loved {a.hobby}.");
    tale_remember(t, 13, "On which day did they go to the {q}?", "They went on Friday.");
    tale_remember(t, 14, "What did {b} put at the door on Wednesday?",
                  "{b} put a bag of {b.food} there.");
}

void tale_plot_riddle(tale *t) {
    const tale_riddle *first = &tale_riddles[tale_pick(t, tale_n_riddles)], *second;
    do {
        second = &tale_riddles[tale_pick(t, tale_n_riddles)];
    } while (second == first || second->answer == first->answer);
    tale_line(t);
    tale_say(t, "{a} wanted to go to the {p}, [to visit {b}|to bring {i.a} to {b}|because {b} had "
                "invited {a.him}]. But "
                "at the bridge stood {c}, {c.a}. \"Nobody crosses my bridge without answering two "
                "riddles,\" said {c}. "
                "\"[Ask me|I like riddles|Go on],\" said {a}.");
    t->phrase[0] = first->ask;
    t->phrase[1] = first->answer;
    t->phrase[2] = first->wrong;
    tale_line(t);
    tale_say(t, "\"Here is the first one: {U}?\" {a} [thought|closed {a.his} eyes|walked up and "
                "down]. \"Is it {W}?\" "
                "\"No,\" [laughed|said] {c}. \"[Try again|You have one more try].\" {a} [looked at "
                "the water|counted to "
                "ten]. \"Then it is {V}!\" \"Right,\" said {c}.");
    tale_remember(t, 10, "What was the answer to the first riddle?", "The answer was {V}.");
    t->phrase[2] = first->why;
    tale_say(t, "\"[Why|How do you know]?\" \"Because {W},\" said {a}.");
    tale_line(t);
    t->phrase[0] = second->ask;
    t->phrase[1] = second->answer;
    t->phrase[2] = second->why;
    tale_say(t, "\"The second one is harder: {U}?\" [This time {a} knew it at once.|{a} smiled, "
                "because {b} had told "
                "{a.him} that one long ago.|{a} thought until the sun stood high.] \"It is {V},\" "
                "said {a}, \"because "
                "{W}.\" \"[Nobody has ever known that one|You are clever|I am beaten],\" said {c} "
                "and stepped aside.");
    tale_remember(t, 11, "What was the answer to the second riddle?", "The answer was {V}.");
    tale_say(t, "\"Now I have one for you,\" said {a}. \"What can you give away and still keep?\" "
                "{c} thought and "
                "thought. \"I do not know.\" \"A smile,\" said {a}, and {c} smiled for the first "
                "time [in years|that "
                "day].");
    tale_line(t);
    tale_say(t, "{p.at}, {p.see}. {b}, {b.a}, was waiting. \"[Why are you late|What kept you so "
                "long]?\" asked {b}. \"I "
                "had to answer two riddles for {c},\" said {a}. \"Can you guess this: {U}?\" "
                "\"[Let me think|That is "
                "hard],\" said {b}. \"Could it be {V}?\" \"It is!\" said {a}.");
    tale_remember(t, 12, "Who asked the riddles?", "{c} did.");
    tale_remember(t, 13, "Where did {a} want to go?", "{a} wanted to go to the {p}.");
    tale_remember(t, 14, "How many riddles did {c} ask?", "{c} asked two riddles.");
}

void tale_plot_wish(tale *t) {
    t->phrase[0] = (const char *const[]){"golden fish", "old woman with a silver cane", "tiny star",
                                         "talking stone", "blue feather"}[tale_pick(t, 5)];
    t->value[0] = tale_between(t, 20, 100);
    tale_line(t);
    tale_say(t, "[One morning|One afternoon|On a walk] {p.at}, where {p.see}, {a} [met|found|came "
                "upon] a {U}. \"You "
                "have a good heart, "
                "{a},\" said a soft voice. \"You have three wishes. [Think well|Choose wisely]!\"");
    tale_say(t, "{a} did not think long. \"I wish for {w.m}!\" [Puff|Whoosh|Plop]! There they "
                "were, {w} of them. {a} "
                "ate {x}, and {x} more, and then {a.his} belly hurt. \"[What shall I do with the "
                "rest|Who can eat all "
                "that]?\" {a.he} groaned. So {a.he} called {b}, {b.a}, and all the neighbors, and "
                "they ate the rest.");
    tale_remember(t, 10, "What was the first wish?", "{a} wished for {w.m}.");
    tale_line(t);
    tale_say(t, "\"I will be smarter this time,\" said {a}. \"I wish for {i.a} [of pure gold|as "
                "big as a house|that never "
                "breaks].\" [Puff|Whoosh|Plop]! But {a.he} could not {i.use} with it, [for it was "
                "much too heavy|for it "
                "would not move at all]. \"[An ordinary one would have been better|What a waste of "
                "a wish],\" said {b}.");
    tale_remember(t, 11, "What was the second wish?", "{a} wished for {i.a}.");
    tale_say(t, "One wish was left. {a} [sat down|slept over it|asked everybody]. \"[Wish for a "
                "castle|Wish for a crown],\" "
                "said {c}, {c.a}. But {b} was quiet. \"What would you wish for, {b}?\" asked {a}. "
                "\"That my [little "
                "brother|mother|old uncle] were well again,\" said {b}.");
    tale_line(t);
    tale_say(t, "Then {a} knew it. \"I wish that {b}'s family may be healthy,\" {a.he} said. There "
                "was no puff and no "
                "whoosh. But when {b} came home, there was [singing in the house|laughter at the "
                "table|a cake in the "
                "oven], and nobody was ill.");
    tale_say(
        t, "The {U} was gone. \"Are you sorry for the other two wishes?\" asked {c}. \"No,\" said "
           "{a}. \"[I needed them to "
           "find the third|They taught me to think].\"");
    tale_remember(t, 12, "For whom was the third wish?", "It was for {b}'s family.");
    tale_remember(t, 13, "Where did {a} get the wishes?", "It happened {p.at}.");
    tale_remember(t, 14, "How many wishes did {a} have?", "{a} had three wishes.");
}
