/* layers: config */
/*
 * INI text: reading, checking, reading host keys, binding options, dumping. Any text is either
 * refused with a message or gives values inside their declared ranges.
 */
#include <stdlib.h>
#include <string.h>

#include "config/config.h"

typedef struct bound {
    double f;
    int64_t i;
    uint32_t b, e;
    const char *s, *p;
} bound;

static const char *const words[] = {"one", "two", NULL};
static const pico_option options[] = {
    {.name = "f",
     .type = PICO_OPT_FLOAT,
     .offset = offsetof(bound, f),
     .def = "0.5",
     .min = 0,
     .max = 1},
    {.name = "i",
     .type = PICO_OPT_INT,
     .flags = PICO_OPTF_AUTO,
     .offset = offsetof(bound, i),
     .min = 1,
     .max = 9},
    {.name = "b", .type = PICO_OPT_BOOL, .offset = offsetof(bound, b)},
    {.name = "e", .type = PICO_OPT_ENUM, .offset = offsetof(bound, e), .choices = words},
    {.name = "s", .type = PICO_OPT_STRING, .offset = offsetof(bound, s)},
    {.name = "p", .type = PICO_OPT_PATH, .offset = offsetof(bound, p)},
};
enum { N_OPTIONS = sizeof options / sizeof options[0] };

static void require(int truth) {
    if (!truth) {
        abort();
    }
}

/* A failure comes with its code and a message that ends inside the buffer. */
static void require_message(pico_status status, const pico_error *err) {
    require(status < 0 && err->code == status);
    size_t n = strnlen(err->message, sizeof err->message);
    require(n != 0 && n < sizeof err->message && memchr(err->message, '\n', n) == NULL);
}

static pico_status bind_section(void *arg, const char *section, pico_error *err) {
    bound out;
    pico_error why = {0};
    (void)err;
    pico_status status = pico_config_bind(arg, section, options, N_OPTIONS, sizeof options[0], &out,
                                          sizeof out, &why);
    if (status != PICO_OK) {
        require_message(status, &why);
        return PICO_OK;
    }
    require(out.f >= 0 && out.f <= 1);
    require(out.i == 0 || out.i == -1 || (out.i >= 1 && out.i <= 9));
    require(out.b <= 1 && out.e <= 1);
    require(out.p == NULL || out.p[0] == '/');
    return PICO_OK;
}

static void count_value(void *arg, const char *section, const pico_option *option,
                        const char *value, const char *origin) {
    size_t *n = arg;
    *n += strlen(section) + strlen(option->name) + strlen(origin) +
          (value == NULL ? 0 : strlen(value));
}

static void use_values(pico_config *config) {
    pico_error err;
    uint32_t stages[8];
    size_t n = 0;
    int64_t threads = pico_config_int(config, "host", "threads");
    require(threads == -1 || (threads >= 1 && threads <= 1024));
    double penalty = pico_config_float(config, "sampler", "repetition_penalty");
    require(penalty >= 0.01 && penalty <= 100);
    const char *model = pico_config_path(config, "model", "path");
    require(model == NULL || model[0] == '/');
    require(pico_config_bool(config, "generate", "echo") <= 1);
    (void)pico_config_stages(config, stages, 8);
    pico_config_each_value(config, count_value, &n);
    require(n != 0);
    require(pico_config_each_plugin_section(config, bind_section, config, &err) == PICO_OK);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    pico_config *config = NULL;
    pico_error err = {0};
    if (pico_config_open(&config, &err) != PICO_OK) {
        return 0;
    }
    pico_status status = pico_config_read_text(config, "fuzz.ini", (const char *)data, size, &err);
    if (status == PICO_OK) {
        status = pico_config_check(config, &err);
    }
    if (status == PICO_OK) {
        use_values(config);
    } else {
        require_message(status, &err);
    }
    pico_config_close(config);
    return 0;
}
