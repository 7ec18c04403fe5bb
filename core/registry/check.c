/* Opening a file and checking the descriptors in it; see check.h. Options: options.c. */
#include "registry/check.h"

#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#if __SIZEOF_POINTER__ == 8
enum { ELF_CLASS_HERE = ELFCLASS64 };
#else
enum { ELF_CLASS_HERE = ELFCLASS32 };
#endif

/* A look before dlopen, whose own words for a wrong file are hard to understand. */
static pico_status check_elf(const char *path, pico_error *err) {
    unsigned char head[EI_NIDENT];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        int reason = errno;
        return pico_fail(err, reason == ENOENT ? PICO_E_NOT_FOUND : PICO_E_IO,
                         "%s: cannot open this plugin: %s", path, strerror(reason));
    }
    ssize_t got = read(fd, head, sizeof head);
    int reason = errno;
    (void)close(fd);
    if (got < 0) {
        return pico_fail(err, PICO_E_IO, "%s: cannot read this plugin: %s", path, strerror(reason));
    }
    if (got < (ssize_t)sizeof head || memcmp(head, ELFMAG, SELFMAG) != 0) {
        return pico_fail(err, PICO_E_ABI,
                         "%s: expected a shared object (ELF), found another kind of file; build "
                         "the plugin again",
                         path);
    }
    if (head[EI_CLASS] != ELF_CLASS_HERE) {
        return pico_fail(err, PICO_E_ABI,
                         "%s: expected a %d-bit shared object, found a %d-bit one; build the "
                         "plugin for this machine",
                         path, ELF_CLASS_HERE == ELFCLASS64 ? 64 : 32,
                         head[EI_CLASS] == ELFCLASS64 ? 64 : 32);
    }
    return PICO_OK;
}

pico_status pico_check_open(const char *path, pico_plugin_query_fn *query, pico_error *err) {
    pico_status status = check_elf(path, err);
    if (status != PICO_OK) {
        return status;
    }
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (handle == NULL) {
        const char *why = dlerror();
        size_t n = strlen(path);
        why = why == NULL ? "no reason given" : why;
        if (strncmp(why, path, n) == 0 && why[n] == ':') { /* the path is said already */
            why += n + 1 + (why[n + 1] == ' ');
        }
        return pico_fail(err, PICO_E_ABI,
                         "%s: the dynamic linker refuses it: %s; a plugin needs nothing but libc "
                         "and the libraries that it links itself",
                         path, why);
    }
    void *symbol = dlsym(handle, "pico_plugin_query");
    if (symbol == NULL) {
        return pico_fail(err, PICO_E_ABI,
                         "%s: expected the symbol pico_plugin_query, found none; this is not a "
                         "picochat plugin, or the function lacks PICO_EXPORT",
                         path);
    }
    memcpy(query, &symbol, sizeof *query); /* C has no cast from object to function pointer */
    return PICO_OK;
}

static int is_name(const char *name) {
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyz0123456789_-";
    size_t n = name == NULL ? 0 : strnlen(name, 65);
    return n != 0 && n <= 64 && strspn(name, allowed) == n;
}

pico_status pico_check_descriptor(const char *path, uint32_t index, const pico_plugin *raw,
                                  pico_plugin *out, pico_error *err) {
    /* Field by field: until magic and size are known to be right, nothing behind them is. */
    if (raw->magic != PICO_PLUGIN_MAGIC) {
        return pico_fail(err, PICO_E_ABI,
                         "%s: plugin %u: expected magic 0x%08x, found 0x%08x; set .magic = "
                         "PICO_PLUGIN_MAGIC",
                         path, index, PICO_PLUGIN_MAGIC, raw->magic);
    }
    if (raw->abi_major != PICO_ABI_MAJOR) {
        return pico_fail(err, PICO_E_ABI,
                         "%s: plugin %u: expected ABI version %u.x, found %u.%u; build it with "
                         "this version's plugin.h",
                         path, index, PICO_ABI_MAJOR, raw->abi_major, raw->abi_minor);
    }
    const uint32_t oldest = raw->kind == PICO_KIND_COMPRESSOR ? PICO_ABI_MINOR_OLDEST_COMPRESSOR
                            : raw->kind == PICO_KIND_TRAINER  ? PICO_ABI_MINOR_OLDEST_TRAINER
                                                              : PICO_ABI_MINOR_OLDEST;
    if (oldest > raw->abi_minor) {
        return pico_fail(err, PICO_E_ABI,
                         "%s: plugin %u: made for ABI version %u.%u, this picochat serves %u.%u to "
                         "%u.%u; build it with this version's plugin.h",
                         path, index, raw->abi_major, raw->abi_minor, PICO_ABI_MAJOR, oldest,
                         PICO_ABI_MAJOR, PICO_ABI_MINOR);
    }
    if (raw->abi_minor > PICO_ABI_MINOR) {
        return pico_fail(err, PICO_E_ABI,
                         "%s: plugin %u: needs ABI version %u.%u, this picochat offers %u.%u; use "
                         "a newer picochat or build the plugin for the older version",
                         path, index, raw->abi_major, raw->abi_minor, PICO_ABI_MAJOR,
                         PICO_ABI_MINOR);
    }
    size_t least = offsetof(pico_plugin, ops) + sizeof raw->ops;
    if (raw->struct_size < least) {
        return pico_fail(err, PICO_E_ABI,
                         "%s: plugin %u: expected a descriptor of at least %zu bytes, found "
                         "struct_size %u; set .struct_size = sizeof(pico_plugin)",
                         path, index, least, raw->struct_size);
    }
    memset(out, 0, sizeof *out);
    memcpy(out, raw, raw->struct_size < sizeof *out ? raw->struct_size : sizeof *out);
    if (pico_kind_name(out->kind) == NULL) {
        return pico_fail(err, PICO_E_ABI,
                         "%s: plugin %u: expected a kind from %d to %d, found %u; set .kind to one "
                         "of PICO_KIND_x",
                         path, index, PICO_KIND_BACKEND, PICO_KIND_TRAINER, out->kind);
    }
    if (!is_name(out->name)) {
        return pico_fail(err, PICO_E_ABI,
                         "%s: plugin %u: expected a name of at most 64 lower-case letters, digits, "
                         "'_' and '-', found '%.64s'; correct .name",
                         path, index, out->name == NULL ? "" : out->name);
    }
    return PICO_OK;
}

static pico_status check_slots(const char *path, const pico_plugin *plugin, const void *ops,
                               pico_error *err) {
    size_t n;
    const pico_ops_slot *slots = pico_kind_slots(plugin->kind, &n);
    uint32_t size;
    memcpy(&size, plugin->ops, sizeof size);
    for (size_t i = 0; i < n; i++) {
        void (*slot)(void);
        memcpy(&slot, (const char *)ops + slots[i].offset, sizeof slot);
        if (slot != NULL) {
            continue;
        }
        if (size < slots[i].offset + sizeof slot) {
            return pico_fail(err, PICO_E_ABI,
                             "%s: %s '%s': the required slot %s lies beyond the table's "
                             "struct_size %u; set it to sizeof the table",
                             path, pico_kind_name(plugin->kind), plugin->name, slots[i].name, size);
        }
        return pico_fail(err, PICO_E_ABI,
                         "%s: %s '%s': the required slot %s is NULL; a plugin of this kind has to "
                         "implement it",
                         path, pico_kind_name(plugin->kind), plugin->name, slots[i].name);
    }
    return PICO_OK;
}

pico_status pico_check_plugin(const char *path, const pico_plugin *plugin, pico_loaded *out,
                              pico_error *err) {
    const char *kind = pico_kind_name(plugin->kind);
    uint32_t size;
    if (plugin->create == NULL) {
        return pico_fail(err, PICO_E_ABI, "%s: %s '%s': create is NULL; every plugin needs one",
                         path, kind, plugin->name);
    }
    if (plugin->ops == NULL) {
        return pico_fail(err, PICO_E_ABI,
                         "%s: %s '%s': ops is NULL; set it to the table of functions", path, kind,
                         plugin->name);
    }
    memcpy(&size, plugin->ops, sizeof size);
    if (size < 2 * sizeof size) {
        return pico_fail(err, PICO_E_ABI,
                         "%s: %s '%s': the table of functions has struct_size %u; set it to sizeof "
                         "the table",
                         path, kind, plugin->name, size);
    }
    size_t host_size = pico_kind_ops_bytes(plugin->kind);
    memset(&out->ops, 0, sizeof out->ops);
    memcpy(&out->ops, plugin->ops, size < host_size ? size : host_size);
    pico_status status = check_slots(path, plugin, &out->ops, err);
    if (status == PICO_OK) {
        status = pico_check_options(path, plugin, err);
    }
    out->plugin = *plugin;
    out->path = path;
    return status;
}
