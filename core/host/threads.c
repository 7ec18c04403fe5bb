/*
 * How many threads make sense here: min(affinity mask, cgroup CPU quota, physical cores). Reads
 * /proc and /sys and believes nothing that it cannot parse; what is missing does not limit.
 */
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host/host.h"

enum { TEXT_MAX = 8192, PATH_BYTES = 4096 };

/* Reads the start of a small file into text, with a NUL; 0 if it cannot be read. */
static int read_text(const char *path, char *text, size_t size) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t used = 0;
    if (fd < 0) {
        return 0;
    }
    for (;;) {
        ssize_t got = read(fd, text + used, size - 1 - used);
        if (got <= 0) {
            break;
        }
        used += (size_t)got;
    }
    (void)close(fd);
    text[used] = '\0';
    return used != 0;
}

/* Digits at text as a number; 0 when there are none or too many. */
static int parse_count(const char *text, uint64_t *out) {
    uint64_t value = 0;
    size_t n = 0;
    for (; text[n] >= '0' && text[n] <= '9'; n++) {
        if (n == 18) {
            return 0;
        }
        value = value * 10 + (uint64_t)(text[n] - '0');
    }
    *out = value;
    return n != 0;
}

static void lower_quota(double *quota, uint64_t share, uint64_t period) {
    if (share != 0 && period != 0) {
        double cpus = (double)share / (double)period;
        if (*quota <= 0.0 || cpus < *quota) {
            *quota = cpus;
        }
    }
}

/* One folder of cgroup v2: "max 100000" or "150000 100000" in cpu.max. */
static void read_quota_v2(const char *folder, double *quota) {
    char path[PATH_BYTES + 32], text[128];
    uint64_t share, period;
    (void)snprintf(path, sizeof path, "%s/cpu.max", folder);
    if (read_text(path, text, sizeof text) && parse_count(text, &share)) {
        const char *space = strchr(text, ' ');
        if (space != NULL && parse_count(space + 1, &period)) {
            lower_quota(quota, share, period);
        }
    }
}

/* One folder of cgroup v1: -1 or microseconds per period. */
static void read_quota_v1(const char *folder, double *quota) {
    char path[PATH_BYTES + 32], text[128];
    uint64_t share, period;
    (void)snprintf(path, sizeof path, "%s/cpu.cfs_quota_us", folder);
    if (!read_text(path, text, sizeof text) || !parse_count(text, &share)) {
        return;
    }
    (void)snprintf(path, sizeof path, "%s/cpu.cfs_period_us", folder);
    if (read_text(path, text, sizeof text) && parse_count(text, &period)) {
        lower_quota(quota, share, period);
    }
}

/* Every folder from mount/group up to mount may limit; the tightest counts. In a container the
 * group of the host may not be visible below the mount: then the mount itself still is. */
static void walk_up(const char *mount, const char *group, double *quota,
                    void (*read_quota)(const char *folder, double *quota)) {
    char path[PATH_BYTES];
    size_t stem = strlen(mount);
    int n = snprintf(path, sizeof path, "%s%s", mount, strstr(group, "..") == NULL ? group : "");
    if (n < 0 || (size_t)n >= sizeof path) {
        return;
    }
    for (;;) {
        read_quota(path, quota);
        char *slash = strrchr(path + stem, '/');
        if (slash == NULL) {
            return;
        }
        *slash = '\0';
    }
}

/* Whether the comma-separated list has the word. */
static int list_has(const char *list, const char *word) {
    size_t n = strlen(word);
    for (const char *at = list; at != NULL; at = strchr(at, ',')) {
        at += *at == ',';
        if (strncmp(at, word, n) == 0 && (at[n] == '\0' || at[n] == ',')) {
            return 1;
        }
    }
    return 0;
}

/* /proc/self/cgroup has lines "number:controllers:/group"; no controllers means version 2. */
static double read_quota(const char *root) {
    char path[PATH_BYTES], text[TEXT_MAX];
    double quota = 0.0;
    (void)snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    if (!read_text(path, text, sizeof text)) {
        return 0.0;
    }
    char *save = NULL;
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        char *controllers = strchr(line, ':');
        char *group = controllers == NULL ? NULL : strchr(controllers + 1, ':');
        if (group == NULL) {
            continue;
        }
        *group++ = '\0';
        controllers++;
        if (controllers[0] == '\0') {
            (void)snprintf(path, sizeof path, "%s/sys/fs/cgroup", root);
            walk_up(path, group, &quota, read_quota_v2);
            (void)snprintf(path, sizeof path, "%s/sys/fs/cgroup/unified", root);
            walk_up(path, group, &quota, read_quota_v2);
        } else if (list_has(controllers, "cpu")) {
            (void)snprintf(path, sizeof path, "%s/sys/fs/cgroup/cpu", root);
            walk_up(path, group, &quota, read_quota_v1);
            (void)snprintf(path, sizeof path, "%s/sys/fs/cgroup/%s", root, controllers);
            walk_up(path, group, &quota, read_quota_v1);
        }
    }
    return quota;
}

/* Physical cores among the CPUs: CPUs whose lists of siblings begin alike share a core. */
static uint32_t count_cores(const char *root, const uint32_t *cpus, uint32_t n) {
    uint64_t *first = calloc(n == 0 ? 1 : n, sizeof *first);
    uint32_t cores = 0;
    if (first == NULL) {
        return 0;
    }
    for (uint32_t i = 0; i < n; i++) {
        char path[PATH_BYTES], text[1024];
        uint64_t sibling;
        (void)snprintf(path, sizeof path,
                       "%s/sys/devices/system/cpu/cpu%u/topology/thread_siblings_list", root,
                       cpus[i]);
        if (!read_text(path, text, sizeof text) || !parse_count(text, &sibling)) {
            cores = 0; /* a partial answer would be a wrong one */
            break;
        }
        uint32_t j = 0;
        while (j < cores && first[j] != sibling) {
            j++;
        }
        if (j == cores) {
            first[cores++] = sibling;
        }
    }
    free(first);
    return cores;
}

void pico_threads_read(const char *root, const uint32_t *cpus, uint32_t n,
                       pico_threads_limits *out) {
    out->affinity = n;
    out->cores = count_cores(root, cpus, n);
    out->quota = read_quota(root);
}

uint32_t pico_threads_choose(const pico_threads_limits *limits, char *why, size_t why_size) {
    uint32_t n = limits->affinity == 0 ? 1 : limits->affinity;
    if (limits->cores != 0 && limits->cores < n) {
        n = limits->cores;
    }
    if (limits->quota > 0.0 && limits->quota < (double)n) {
        n = limits->quota < 1.0 ? 1 : (uint32_t)limits->quota;
    }
    if (why != NULL && why_size != 0) {
        char quota[32] = "none", cores[16] = "unknown";
        if (limits->quota > 0.0) {
            (void)snprintf(quota, sizeof quota, "%.2f", limits->quota);
        }
        if (limits->cores != 0) {
            (void)snprintf(cores, sizeof cores, "%u", limits->cores);
        }
        (void)snprintf(why, why_size, "%u: affinity %u, quota %s, cores %s", n, limits->affinity,
                       quota, cores);
    }
    return n;
}

/* The CPUs of the affinity mask as numbers, malloc-ed; NULL when the mask cannot be read. */
static uint32_t *affinity_cpus(uint32_t *n) {
    uint32_t *cpus = NULL;
    *n = 0;
    for (size_t capacity = 1024; capacity <= 65536; capacity *= 4) {
        size_t bytes = CPU_ALLOC_SIZE(capacity);
        cpu_set_t *set = CPU_ALLOC(capacity);
        if (set == NULL) {
            return NULL;
        }
        if (sched_getaffinity(0, bytes, set) == 0) {
            cpus = calloc(capacity, sizeof *cpus);
            for (size_t cpu = 0; cpus != NULL && cpu < capacity; cpu++) {
                if (CPU_ISSET_S(cpu, bytes, set)) {
                    cpus[(*n)++] = (uint32_t)cpu;
                }
            }
            CPU_FREE(set);
            return cpus;
        }
        CPU_FREE(set); /* the kernel's mask is wider: try again */
    }
    return NULL;
}

uint32_t pico_threads_default(char *why, size_t why_size) {
    pico_threads_limits limits = {0};
    uint32_t n;
    uint32_t *cpus = affinity_cpus(&n);
    if (cpus != NULL) {
        pico_threads_read("", cpus, n, &limits);
        free(cpus);
    }
    return pico_threads_choose(&limits, why, why_size);
}
