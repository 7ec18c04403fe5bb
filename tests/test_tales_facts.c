/* layers: tales */
/*
 * What a story says agrees with itself. The checks read only the text: pronouns against the names,
 * sums, who holds what by playing the moves again, the order of a comparison.
 */
#include "tales_kit.h"

enum { N_CHECKED = 6000 };

/* A number in words, or -1. */
static int number_of(const char *word) {
    static const char *const small[] = {"zero",    "one",     "two",       "three",    "four",
                                        "five",    "six",     "seven",     "eight",    "nine",
                                        "ten",     "eleven",  "twelve",    "thirteen", "fourteen",
                                        "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"};
    static const char *const tens[] = {"twenty", "thirty",  "forty",  "fifty",
                                       "sixty",  "seventy", "eighty", "ninety"};
    for (int i = 0; i < 20; i++) {
        if (strcmp(word, small[i]) == 0) {
            return i;
        }
    }
    for (int i = 0; i < 8; i++) {
        const size_t n = strlen(tens[i]);
        if (strncmp(word, tens[i], n) == 0 && (word[n] == '\0' || word[n] == '-')) {
            return 20 + 10 * i + (word[n] == '-' ? number_of(word + n + 1) : 0);
        }
    }
    return -1;
}

/* ---- agreement ---- */

/* Where all names of a document have one gender, the pronouns of the other do not occur. */
static void pronouns_agree_with_names(void **state) {
    (void)state;
    static const char *const male[] = {"he", "him", "his", "himself"};
    static const char *const female[] = {"she", "her", "herself"};
    char text[TALE_BYTES], word[MAX_WORD], folded[MAX_WORD];
    uint32_t n_only[2] = {0, 0}, n_pronoun[2] = {0, 0};
    for (uint64_t i = 0; i < N_CHECKED; i++) {
        uint32_t names[2] = {0, 0}, pronouns[2] = {0, 0};
        const char *at = text;
        (void)tale_write(4, i, text);
        while (next_word(&at, word, 0)) {
            names[0] += (uint32_t)is_among(word, tale_names_he, tale_n_names_he);
            names[1] += (uint32_t)is_among(word, tale_names_she, tale_n_names_she);
            (void)strcpy(folded, word);
            folded[0] = (char)tolower((unsigned char)folded[0]);
            pronouns[0] += (uint32_t)is_among(folded, male, 4);
            pronouns[1] += (uint32_t)is_among(folded, female, 3);
        }
        for (int g = 0; g < 2; g++) {
            if (names[g] > 0 && names[1 - g] == 0) {
                n_only[g]++;
                n_pronoun[g] += pronouns[g];
                if (pronouns[1 - g] != 0) {
                    fail_msg("a pronoun of somebody who is not there: %s", text);
                }
            }
        }
    }
    print_message("%u documents about he only with %u pronouns, %u about she only with %u\n",
                  n_only[0], n_pronoun[0], n_only[1], n_pronoun[1]);
    assert_true(n_only[0] > 500 && n_only[1] > 500);
    assert_true(n_pronoun[0] > 500 && n_pronoun[1] > 500);
}

/* "three and four make seven", "nine minus two is seven", times, divided by. */
static void sums_are_right(void **state) {
    (void)state;
    char text[TALE_BYTES], word[6][MAX_WORD];
    uint32_t n_sum[4] = {0};
    for (uint64_t i = 0; i < N_CHECKED; i++) {
        const char *at = text;
        (void)tale_write(5, i, text);
        memset(word, 0, sizeof word);
        while (next_word(&at, word[5], 1)) {
            const int by = strcmp(word[2], "by") == 0; /* "divided by" is two words */
            const int x = number_of(word[by ? 0 : 1]), y = number_of(word[3]),
                      z = number_of(word[5]);
            const char *verb = word[4], *op = word[by ? 1 : 2];
            if (x >= 0 && y >= 0 && z >= 0 &&
                (strcmp(verb, "is") == 0 || strcmp(verb, "make") == 0)) {
                const int kind = strcmp(op, "and") == 0     ? 0
                                 : strcmp(op, "minus") == 0 ? 1
                                 : strcmp(op, "times") == 0 ? 2
                                                            : 3;
                assert_true(kind < 3 || strcmp(op, "divided") == 0);
                const int right = kind == 0 ? x + y : kind == 1 ? x - y : kind == 2 ? x * y : x / y;
                if (z != right || (kind == 3 && x % y != 0)) {
                    fail_msg("%d %s %d is not %d: %s", x, op, y, z, text);
                }
                n_sum[kind]++;
            }
            memmove(word[0], word[1], 5 * sizeof word[0]);
        }
    }
    print_message("%u sums, %u differences, %u products, %u quotients\n", n_sum[0], n_sum[1],
                  n_sum[2], n_sum[3]);
    for (int i = 0; i < 4; i++) {
        assert_true(n_sum[i] > 100);
    }
}

/* The number behind the first `before` at or after *at, which moves behind it. */
static int number_behind(const char **at, const char *before) {
    char word[MAX_WORD];
    const char *found = strstr(*at, before);
    if (found == NULL) {
        fail_msg("\"%s\" is missing: %s", before, *at);
        return -1;
    }
    *at = found + strlen(before);
    assert_true(next_word(at, word, 1));
    return number_of(word);
}

/* What is given away in a story is missing in the end. */
static void counts_are_kept(void **state) {
    (void)state;
    char text[TALE_BYTES];
    uint32_t n = 0;
    for (uint64_t i = 0; i < N_DOCUMENT; i++) {
        if (strcmp(tale_schema(6, i), "share") != 0) {
            continue;
        }
        const char *at = text;
        (void)tale_write(6, i, text);
        const int all = number_behind(&at, "bundle. \"I have "),
                  given = number_behind(&at, " gave ");
        const int more = number_behind(&at, "\"Then have ");
        const int left = number_behind(&at, "counted. \"");
        if (all < 3 || given < 1 || more < 1 || all - given - more != left) {
            fail_msg("%d - %d - %d is not %d: %s", all, given, more, left, text);
        }
        n++;
    }
    assert_true(n > 300);
}

/* ---- who holds what ---- */

typedef struct name {
    char text[48];
} name;

typedef struct world {
    name being[4], being_at[4], thing[4], thing_at[4], owner[4]; /* owner "": nobody */
    uint32_t n_being, n_thing;
} world;

/* The text between a and b in one sentence, or 0. */
static int between(const char *sentence, const char *a, const char *b, name *out) {
    const char *from = strstr(sentence, a);
    from = from == NULL ? NULL : from + strlen(a);
    const char *to = from == NULL ? NULL : *b == '\0' ? from + strlen(from) : strstr(from, b);
    if (to == NULL || to == from) {
        return 0;
    }
    (void)snprintf(out->text, sizeof out->text, "%.*s", (int)(to - from), from);
    return 1;
}

static uint32_t find(name *list, uint32_t *n, const char *text) {
    uint32_t i = 0;
    while (i < *n && strcmp(list[i].text, text) != 0) {
        i++;
    }
    if (i == *n) {
        assert_true(*n < 4);
        (void)snprintf(list[(*n)++].text, sizeof list[i].text, "%s", text);
    }
    return i;
}

/* The last word or words after the look of a thing: "a red watering can" -> "watering can". */
static const char *without_look(const char *thing) {
    const char *blank = strchr(thing, ' '); /* behind the article */
    blank = blank == NULL ? NULL : strchr(blank + 1, ' ');
    assert_non_null(blank);
    return blank + 1;
}

/* "to the mill" and "at the mill" are one place. */
static name place_of(const char *text) {
    name place = {""};
    const char *the = strstr(text, "the ");
    assert_non_null(the);
    (void)snprintf(place.text, sizeof place.text, "%s", the + 4);
    return place;
}

static void first_line(world *w, const char *s) {
    name who, what;
    if (between(s, "", " had ", &who) && between(s, " had ", "", &what)) {
        const uint32_t i = find(w->thing, &w->n_thing, without_look(what.text));
        w->owner[i] = who;
    } else if (between(s, "", " was ", &who) && between(s, " was ", "", &what)) {
        if (strchr(who.text, ' ') != NULL) { /* "A red ball was ..." */
            w->thing_at[find(w->thing, &w->n_thing, without_look(who.text))] = place_of(what.text);
        } else {
            w->being_at[find(w->being, &w->n_being, who.text)] = place_of(what.text);
        }
    } else {
        fail_msg("not understood: %s", s);
    }
}

static void move(world *w, const char *sentence) {
    char s[160];
    name who, what, to;
    (void)snprintf(s, sizeof s, "%s", sentence);
    char *there = strstr(s, " there");
    if (there != NULL) {
        *there = '\0';
    }
    assert_true(between(s, "", " ", &who));
    const uint32_t b = find(w->being, &w->n_being, who.text);
    if (strstr(s, " to the ") != NULL) {
        w->being_at[b] = place_of(s);
        return;
    }
    const int gives = strstr(s, " to ") != NULL;
    assert_true(between(s, " the ", gives ? " to " : "", &what));
    const uint32_t i = find(w->thing, &w->n_thing, what.text);
    if (gives) {
        assert_true(between(s, " to ", "", &to));
        const uint32_t c = find(w->being, &w->n_being, to.text);
        assert_string_equal(w->owner[i].text, who.text);
        assert_string_equal(w->being_at[b].text, w->being_at[c].text);
        w->owner[i] = to;
    } else if (strstr(s, " picked up ") != NULL || strstr(s, " took ") != NULL ||
               strstr(s, " got ") != NULL) {
        assert_string_equal(w->owner[i].text, "");
        assert_string_equal(w->being_at[b].text, w->thing_at[i].text);
        w->owner[i] = who;
    } else {
        assert_string_equal(w->owner[i].text, who.text);
        w->owner[i] = (name){""};
        w->thing_at[i] = w->being_at[b];
    }
}

/* One line of questions with their answers. */
static void check_answers(world *w, const char *line) {
    name asked, who, where;
    if (between(line, "Who has the ", "?", &asked)) {
        char *now = strstr(asked.text, " now");
        if (now != NULL) {
            *now = '\0';
        }
        const uint32_t i = find(w->thing, &w->n_thing, asked.text);
        assert_true(between(line, "? ", " has it", &who));
        assert_string_equal(who.text, w->owner[i].text);
        assert_true(between(line, "It is ", ", because", &where));
        assert_string_equal(place_of(where.text).text,
                            w->being_at[find(w->being, &w->n_being, who.text)].text);
        return;
    }
    assert_true(between(line, "Where is ", "?", &asked));
    char *now = strstr(asked.text, " now");
    if (now != NULL) {
        *now = '\0';
    }
    if (strncmp(asked.text, "the ", 4) == 0) {
        const uint32_t i = find(w->thing, &w->n_thing, asked.text + 4);
        assert_true(between(line, "It is ", ".", &where));
        assert_string_equal(w->owner[i].text, "");
        assert_string_equal(place_of(where.text).text, w->thing_at[i].text);
    } else {
        const uint32_t b = find(w->being, &w->n_being, asked.text);
        assert_true(between(line, " is the", "", &where) || between(line, "? ", ".", &where));
        assert_string_equal(place_of(where.text).text, w->being_at[b].text);
    }
}

static void moves_give_the_answers(void **state) {
    (void)state;
    char text[TALE_BYTES];
    uint32_t n = 0;
    for (uint64_t i = 0; i < N_DOCUMENT; i++) {
        if (strcmp(tale_schema(7, i), "hands") != 0) {
            continue;
        }
        world w = {0};
        (void)tale_write(7, i, text);
        char *line_end = NULL, *sentence_end = NULL;
        uint32_t n_line = 0;
        for (char *line = strtok_r(text, "\n", &line_end); line != NULL;
             line = strtok_r(NULL, "\n", &line_end), n_line++) {
            if (n_line >= 2) {
                check_answers(&w, line);
                continue;
            }
            for (char *s = strtok_r(line, ".", &sentence_end); s != NULL;
                 s = strtok_r(NULL, ".", &sentence_end)) {
                s += *s == ' ';
                if (n_line == 0) {
                    first_line(&w, s);
                } else {
                    move(&w, s);
                }
            }
        }
        assert_int_equal(n_line, 5);
        n++;
    }
    print_message("%u worlds\n", n);
    assert_true(n > 300);
}

/* "A was older than B" three times; the answers follow. */
static void an_order_gives_the_answers(void **state) {
    (void)state;
    char text[TALE_BYTES];
    uint32_t n = 0;
    for (uint64_t i = 0; i < N_DOCUMENT; i++) {
        if (strcmp(tale_schema(8, i), "order") != 0) {
            continue;
        }
        (void)tale_write(8, i, text);
        char *line_end = NULL;
        (void)strtok_r(text, "\n", &line_end);
        const char *facts = strtok_r(NULL, "\n", &line_end), *ask = strtok_r(NULL, "\n", &line_end);
        name over[3], under[3], most, least;
        for (int k = 0; k < 3; k++) {
            assert_true(between(facts, "", " was ", &over[k]));
            assert_true(between(facts, " than ", ".", &under[k]));
            facts = strchr(facts, '.') + 1;
            facts += *facts == ' ';
        }
        assert_true(between(ask, "It was ", ".", &most));
        assert_true(between(strstr(ask, "It was ") + 1, "It was ", ".", &least));
        int n_over = 0, n_under = 0;
        for (int k = 0; k < 3; k++) { /* the first is over one and under none */
            n_over += strcmp(most.text, over[k].text) == 0;
            n_under += strcmp(least.text, under[k].text) == 0;
            assert_string_not_equal(most.text, under[k].text);
            assert_string_not_equal(least.text, over[k].text);
        }
        assert_true(n_over == 1 && n_under == 1);
        n++;
    }
    assert_true(n > 300);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pronouns_agree_with_names),
        cmocka_unit_test(sums_are_right),
        cmocka_unit_test(counts_are_kept),
        cmocka_unit_test(moves_give_the_answers),
        cmocka_unit_test(an_order_gives_the_answers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
