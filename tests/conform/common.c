/*
 * Tests for every kind of plugin: the query function, the option table, instances.
 */
#include <dirent.h>
#include <dlfcn.h>
#include <malloc.h>
#include <math.h>
#include <stdio.h>

#include "conform/kit.h"

/* ---- the query ---- */

static uint32_t count_entries(const char *folder) {
    DIR *dir = opendir(folder);
    uint32_t n = 0;
    while (dir != NULL && readdir(dir) != NULL) {
        n++;
    }
    if (dir != NULL) {
        (void)closedir(dir);
    }
    return n;
}

static void query_is_pure(conform *c) {
    enum { MOST = 64 };
    const pico_plugin *seen[MOST] = {0};
    pico_plugin bytes[MOST];
    void *library = dlopen(c->path, RTLD_NOW | RTLD_LOCAL);
    CHECK(c, library != NULL, "%s", dlerror());
    union { /* ISO C has no cast from void * to a function */
        void *object;
        const pico_plugin *(*query)(uint32_t);
    } symbol = {.object = dlsym(library, "pico_plugin_query")};
    CHECK(c, symbol.object != NULL, "there is no symbol pico_plugin_query");
    uint32_t threads = count_entries("/proc/self/task"), n = 0;
    size_t heap = mallinfo2().uordblks;
    while (n < MOST && (seen[n] = symbol.query(n)) != NULL) {
        bytes[n] = *seen[n];
        n++;
    }
    CHECK(c, n > 0 && n < MOST, "the query gives %u plugins and does not end", n);
    for (uint32_t turn = 0; turn < 3; turn++) {
        for (uint32_t i = n; i-- > 0;) {
            const pico_plugin *again = symbol.query(i);
            CHECK(c, again == seen[i], "plugin %u is elsewhere when it is asked for again", i);
            CHECK(c, memcmp(again, &bytes[i], sizeof bytes[i]) == 0, "plugin %u has changed", i);
        }
        CHECK(c, symbol.query(n) == NULL && symbol.query(UINT32_MAX) == NULL,
              "the query must give NULL after the last plugin");
    }
    CHECK(c, mallinfo2().uordblks <= heap, "the query allocates memory");
    CHECK(c, count_entries("/proc/self/task") == threads, "the query starts threads");
}

/* ---- options and instances without a rig ---- */

typedef struct maker {
    rig r;
    const pico_loaded *loaded;
    void *bound;
    char section[128];
} maker;

static void maker_open(conform *c, maker *m) {
    memset(m, 0, sizeof *m);
    CHECK_OK(c, rig_open_host(&m->r, 2, error), "the host");
    CHECK_OK(c, pico_registry_open(NULL, &m->r.registry, error), "the registry");
    CHECK_OK(c, pico_registry_load(m->r.registry, c->kind, c->path, &m->loaded, error), "loading");
    (void)snprintf(m->section, sizeof m->section, "%s.%s", pico_kind_name(c->kind), c->name);
    m->bound = conform_alloc(c, 1, m->loaded->plugin.options_bytes);
}

/* Binds the settings of the command line and, if key is not NULL, key=value on top. */
static pico_status bind(conform *c, maker *m, const char *key, const char *value, pico_error *err) {
    const pico_plugin *p = &m->loaded->plugin;
    pico_config *config = NULL;
    pico_status status = pico_config_open(&config, err);
    for (uint32_t i = 0; status == PICO_OK && i < c->n_set; i++) {
        status = pico_config_set(config, c->set[i], "--set", err);
    }
    if (status == PICO_OK && key != NULL) {
        status = pico_config_set_value(config, m->section, key, value, "conform", err);
    }
    if (status == PICO_OK) {
        memset(m->bound, 0, p->options_bytes);
        status = pico_config_bind(config, m->section, p->options, p->n_options, p->option_size,
                                  m->bound, p->options_bytes, err);
    }
    /* the config stays open: strings in the bound struct point into it */
    return status;
}

/* Creates an instance from what is bound. */
static pico_status make(maker *m, void **self, pico_error *err) {
    const pico_plugin *p = &m->loaded->plugin;
    *self = NULL;
    return p->create(&m->r.host, p->options_bytes == 0 ? NULL : m->bound, self, err);
}

/* Skips the test if the plugin needs settings that were not given. */
static void *make_default(conform *c, maker *m) {
    pico_error err = {0};
    void *self = NULL;
    if (bind(c, m, NULL, NULL, &err) != PICO_OK) {
        conform_skip(c, "the options need values: %s", err.message);
    }
    pico_status status = make(m, &self, &err);
    if (status == PICO_E_UNSUPPORTED || status == PICO_E_DEVICE) {
        CHECK(c, err.message[0] != '\0', "create fails with %d and says nothing", (int)status);
        conform_skip(c, "%s", err.message);
    }
    CHECK(c, status == PICO_OK, "create fails with %d: %s", (int)status, err.message);
    CHECK(c, self != NULL, "create gives no instance");
    return self;
}

static void describes_itself(conform *c) {
    maker m;
    maker_open(c, &m);
    const pico_plugin *p = &m.loaded->plugin;
    CHECK(c, p->version != NULL && p->version[0] != '\0', "there is no version");
    CHECK(c, p->summary != NULL && p->summary[0] != '\0', "there is no summary");
    CHECK(c, strchr(p->summary, '\n') == NULL, "the summary has several lines");
    for (uint32_t i = 0; i < p->n_options; i++) {
        const pico_option *o =
            (const void *)((const char *)p->options + (size_t)i * p->option_size);
        CHECK(c, o->help != NULL && o->help[0] != '\0', "option %s has no help", o->name);
    }
}

/* A value that the table allows binds, and create takes it or says why not. */
static void try_value(conform *c, maker *m, const char *key, const char *value) {
    pico_error err = {0};
    void *self = NULL;
    CHECK(c, bind(c, m, key, value, &err) == PICO_OK, "%s = %s is allowed but refused: %s", key,
          value, err.message);
    pico_status status = make(m, &self, &err);
    CHECK(c, status == PICO_OK || err.message[0] != '\0',
          "%s = %s: create fails with %d and says nothing", key, value, (int)status);
    if (status == PICO_OK) {
        m->loaded->plugin.destroy(self);
    }
}

static void must_be_refused(conform *c, maker *m, const char *key, const char *value) {
    pico_error err = {0};
    CHECK(c, bind(c, m, key, value, &err) != PICO_OK, "%s = %s must be refused", key, value);
    CHECK(c, strstr(err.message, key) != NULL, "%s = %s: the message does not name the key: %s",
          key, value, err.message);
}

static void try_numbers(conform *c, maker *m, const pico_option *o) {
    char text[64];
    int is_int = o->type == PICO_OPT_INT, limited = o->min != o->max;
    const char *format = is_int ? "%.0f" : "%.17g";
    for (uint32_t i = 0; limited && i < 2; i++) {
        double bound = i == 0 ? o->min : o->max, step = is_int ? 1 : fabs(bound) * 1e-6 + 1e-6;
        (void)snprintf(text, sizeof text, format, bound);
        try_value(c, m, o->name, text);
        if (fabs(bound) > 1e15) {
            continue; /* one more is the same number */
        }
        (void)snprintf(text, sizeof text, format, i == 0 ? bound - step : bound + step);
        must_be_refused(c, m, o->name, text);
    }
    must_be_refused(c, m, o->name, "nan");
    must_be_refused(c, m, o->name, "inf");
    must_be_refused(c, m, o->name, "many");
    must_be_refused(c, m, o->name, "");
    if (is_int) {
        must_be_refused(c, m, o->name, "1.5");
        must_be_refused(c, m, o->name, "99999999999999999999");
    }
    if (o->flags & PICO_OPTF_AUTO) {
        try_value(c, m, o->name, "auto");
    } else {
        must_be_refused(c, m, o->name, "auto");
    }
}

static void options_hold_their_limits(conform *c) {
    maker m;
    maker_open(c, &m);
    const pico_plugin *p = &m.loaded->plugin;
    void *self = make_default(c, &m);
    p->destroy(self);
    must_be_refused(c, &m, "no_such_option", "1");
    for (uint32_t i = 0; i < p->n_options; i++) {
        const pico_option *o =
            (const void *)((const char *)p->options + (size_t)i * p->option_size);
        if (o->def != NULL) {
            try_value(c, &m, o->name, o->def);
        }
        if (o->type == PICO_OPT_INT || o->type == PICO_OPT_FLOAT) {
            try_numbers(c, &m, o);
        } else if (o->type == PICO_OPT_BOOL) {
            try_value(c, &m, o->name, "on");
            try_value(c, &m, o->name, "off");
            must_be_refused(c, &m, o->name, "2");
        } else if (o->type == PICO_OPT_ENUM) {
            for (uint32_t j = 0; o->choices[j] != NULL; j++) {
                try_value(c, &m, o->name, o->choices[j]);
            }
            must_be_refused(c, &m, o->name, "no-such-choice");
        }
    }
}

/* Instances that live at the same time, ended in any order. */
static void instances_live_side_by_side(conform *c) {
    maker m;
    maker_open(c, &m);
    const pico_plugin *p = &m.loaded->plugin;
    void *a = make_default(c, &m), *b = make_default(c, &m);
    CHECK(c, a != b, "two instances are one");
    p->destroy(a);
    void *third = make_default(c, &m);
    CHECK(c, third != b, "a new instance is one that still lives");
    p->destroy(b);
    p->destroy(third);
}

static void destroy_takes_null(conform *c) {
    maker m;
    maker_open(c, &m);
    m.loaded->plugin.destroy(NULL);
}

/* A hundred lives leave no threads, no files and little memory behind. */
static void lives_leave_nothing_behind(conform *c) {
    maker m;
    maker_open(c, &m);
    const pico_plugin *p = &m.loaded->plugin;
    for (uint32_t i = 0; i < 10; i++) { /* what is kept once, by libc too, is no leak */
        p->destroy(make_default(c, &m));
    }
    uint32_t threads = count_entries("/proc/self/task"), files = count_entries("/proc/self/fd");
    size_t heap = mallinfo2().uordblks;
    for (uint32_t i = 0; i < 100; i++) {
        void *self = NULL;
        CHECK_OK(c, make(&m, &self, error), "create");
        p->destroy(self);
    }
    CHECK(c, count_entries("/proc/self/task") <= threads, "instances leave threads behind");
    CHECK(c, count_entries("/proc/self/fd") <= files, "instances leave open files behind");
    size_t grown = mallinfo2().uordblks - heap;
    CHECK(c, mallinfo2().uordblks <= heap || grown < 1600,
          "100 instances leave %zu bytes of memory behind", grown);
}

const conform_test conform_common[] = {
    {"common/query_is_pure", query_is_pure},
    {"common/describes_itself", describes_itself},
    {"common/options_hold_their_limits", options_hold_their_limits},
    {"common/instances_live_side_by_side", instances_live_side_by_side},
    {"common/destroy_takes_null", destroy_takes_null},
    {"common/lives_leave_nothing_behind", lives_leave_nothing_behind},
    {NULL, NULL}};
