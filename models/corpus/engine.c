/* The grammar engine: random choices, templates, text; see engine.h. */
#include "corpus/engine.h"

#include <assert.h>
#include <ctype.h>
#include <string.h>

#include "host/host.h"

/* ---- choices ---- */

uint32_t tale_pick(tale *t, uint32_t n) {
    assert(n > 0);
    if (t->n_left == 0) {
        const uint32_t counter[4] = {t->block++, 0, (uint32_t)t->number,
                                     (uint32_t)(t->number >> 32)};
        const uint32_t key[2] = {(uint32_t)t->seed, (uint32_t)(t->seed >> 32)};
        pico_philox4x32(counter, key, t->word);
        t->n_left = 4;
    }
    return (uint32_t)((uint64_t)t->word[--t->n_left] * n >> 32);
}

int tale_between(tale *t, int low, int high) {
    return low + (int)tale_pick(t, (uint32_t)(high - low + 1));
}

int tale_chance(tale *t, uint32_t percent) {
    return tale_pick(t, 100) < percent;
}

/* ---- templates ---- */

/* The end of the alternative that starts at s: its '|' or ']'. */
static const char *alternative_end(const char *s, const char *end) {
    for (int depth = 0; s < end; s++) {
        if (*s == '[') {
            depth++;
        } else if (depth == 0 && (*s == '|' || *s == ']')) {
            return s;
        } else if (*s == ']') {
            depth--;
        }
    }
    assert(s < end); /* else a bracket is not closed */
    return end;
}

static void expand(tale *t, const char *s, const char *end);

/* s is behind the '['. Returns what is behind the ']'. */
static const char *expand_choice(tale *t, const char *s, const char *end) {
    uint32_t n = 1;
    const char *at = s, *close;
    for (close = alternative_end(s, end); *close == '|'; close = alternative_end(close + 1, end)) {
        n++;
    }
    for (uint32_t wanted = tale_pick(t, n); wanted > 0; wanted--) {
        at = alternative_end(at, end) + 1;
    }
    expand(t, at, alternative_end(at, end));
    return close + 1;
}

static void expand(tale *t, const char *s, const char *end) {
    while (s < end) {
        if (*s == '[') {
            s = expand_choice(t, s + 1, end);
        } else if (*s == '{') {
            const char *close = memchr(s, '}', (size_t)(end - s));
            assert(close != NULL);
            tale_slot(t, s + 1, (size_t)(close - s - 1));
            s = close + 1;
        } else {
            size_t n = 1;
            while (s + n < end && s[n] != '[' && s[n] != '{') {
                n++;
            }
            tale_put(t, s, n);
            s += n;
        }
    }
}

void tale_expand(tale *t, const char *template_) {
    expand(t, template_, template_ + strlen(template_));
}

void tale_say(tale *t, const char *template_) {
    tale_expand(t, template_);
    tale_put(t, " ", 1);
}

void tale_line(tale *t) {
    while (t->n > 0 && t->text[t->n - 1] == ' ') {
        t->n--;
    }
    if (t->n > 0 && t->text[t->n - 1] != '\n') {
        tale_put(t, "\n", 1);
    }
    t->capital = 1;
    t->in_quote = 0;
    t->recent[0] = t->recent[1] = t->recent[2] = -1;
}

/* ---- text ---- */

static void put(tale *t, char c) {
    assert(t->n + 2 < TALE_BYTES / 2); /* tidying adds at most a letter a word */
    t->text[t->n++] = c;
}

/* Only "..., said somebody, " goes on with a small letter. */
static void put_quote(tale *t) {
    const char before = t->n > 0 ? t->text[t->n - 1] : '\n';
    t->in_quote = !t->in_quote;
    if (t->in_quote) {
        t->capital = !(t->speaking && before == ' ' && t->text[t->n - 2] == ',');
    } else {
        t->ended &= before == '.'; /* not after "What?" asked ... */
        t->speaking = before == ',';
    }
}

void tale_put(tale *t, const char *text, size_t n) {
    for (size_t i = 0; i < n; i++) {
        char c = text[i];
        if (c == '^' || c == '_') {
            t->capital = c == '^';
            continue;
        }
        if (c == '"') {
            put_quote(t);
        } else if (c == '.' || c == '!' || c == '?') {
            t->ended = 1;
            t->speaking = 0;
        } else if (c == ' ' || c == '\n') {
            t->capital |= t->ended || c == '\n';
            t->ended = 0;
        } else {
            if (t->capital && c >= 'a' && c <= 'z') {
                c = (char)(c - 'a' + 'A');
            }
            t->capital = 0;
        }
        put(t, c);
    }
}

void tale_put_word(tale *t, const char *text) {
    tale_put(t, text, strlen(text));
}

/* Whether "a" before this word is "an": by sound, as far as the words of the tables need it. */
static int takes_an(const char *word) {
    static const char *const sounds_like_you[] = {"uni", "use", "one", "once", "euro"};
    for (size_t i = 0; i < sizeof sounds_like_you / sizeof *sounds_like_you; i++) {
        if (strncmp(word, sounds_like_you[i], strlen(sounds_like_you[i])) == 0) {
            return 0;
        }
    }
    return memchr("aeiouAEIOU", word[0], 10) != NULL || strncmp(word, "hour", 4) == 0 ||
           strncmp(word, "honest", 6) == 0;
}

static int is_letter(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

void tale_tidy(tale *t) {
    char out[TALE_BYTES];
    size_t n = 0;
    t->text[t->n] = '\0';
    for (size_t i = 0; i < t->n; i++) {
        const char c = t->text[i];
        const char next = t->text[i + 1];
        const int blank = c == ' ';
        if (blank && (n == 0 || out[n - 1] == ' ' || out[n - 1] == '\n' ||
                      memchr(" \n.,!?;:", next, 9) != NULL || next == '\0')) {
            continue;
        }
        out[n++] = c;
        if ((c == 'a' || c == 'A') && next == ' ' && (i == 0 || !is_letter(t->text[i - 1]))) {
            size_t word = i + 1;
            while (t->text[word] == ' ') {
                word++;
            }
            if (t->text[i - (i > 0)] != '\'' && takes_an(&t->text[word])) {
                out[n++] = 'n';
            }
        }
    }
    memcpy(t->text, out, n);
    t->n = n;
}

uint32_t tale_words(const tale *t) {
    uint32_t n = 0;
    for (size_t i = 0; i < t->n; i++) {
        n += t->text[i] != ' ' && t->text[i] != '\n' &&
             (i == 0 || t->text[i - 1] == ' ' || t->text[i - 1] == '\n');
    }
    return n;
}

/* ---- facts ---- */

void tale_into(tale *t, const char *template_, char *out) {
    const size_t at = t->n;
    const int capital = t->capital, ended = t->ended, in_quote = t->in_quote;
    int recent[TALE_N_GENDER];
    memcpy(recent, t->recent, sizeof recent);
    t->capital = 1;
    t->ended = t->in_quote = 0;
    tale_expand(t, template_);
    const size_t n = t->n - at;
    assert(n < TALE_FACT_BYTES);
    memcpy(out, t->text + at, n);
    out[n] = '\0';
    t->n = at;
    t->capital = capital;
    t->ended = ended;
    t->in_quote = in_quote;
    memcpy(t->recent, recent, sizeof recent);
}

void tale_remember(tale *t, uint32_t key, const char *ask, const char *answer) {
    uint32_t i = 0;
    while (i < t->n_fact && t->fact[i].key != key) {
        i++;
    }
    assert(i < TALE_N_FACT);
    t->n_fact += i == t->n_fact;
    t->fact[i].key = key;
    tale_into(t, ask, t->fact[i].ask);
    tale_into(t, answer, t->fact[i].answer);
}
