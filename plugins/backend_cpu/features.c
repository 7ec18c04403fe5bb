/*
 * Which instruction set to use: what the CPU and the operating system offer, against what was asked
 * for. Reads cpuid and xgetbv only; opens no file. Refuses an instruction set that is not there.
 */
#include <string.h>

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "train.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 }; /* of arch_prctl; not in every libc */

static const cpu_kernels portable = {.name = "portable",
                                     .dot = &cpu_dot_portable,
                                     .row = &cpu_row_portable,
                                     .attn = &cpu_attn_portable,
                                     .packed = &cpu_packed_portable,
                                     .gemm = &cpu_gemm_portable,
                                     .train = &cpu_train_portable};

#if defined(__x86_64__)
static const cpu_kernels avx2 = {.name = "avx2",
                                 .dot = &cpu_dot_avx2,
                                 .row = &cpu_row_avx2,
                                 .attn = &cpu_attn_avx2,
                                 .packed = &cpu_packed_avx2,
                                 .gemm = &cpu_gemm_avx2,
                                 .train = &cpu_train_avx2};
/* The instruction set avx512 is F, BW, VL, DQ; what more there is of it is used too. */
static const cpu_kernels avx512 = {.name = "avx512",
                                   .dot = &cpu_dot_avx512,
                                   .row = &cpu_row_avx512,
                                   .attn = &cpu_attn_avx512,
                                   .packed = &cpu_packed_avx2,
                                   .gemm = &cpu_gemm_avx512,
                                   .train = &cpu_train_avx512};
static const cpu_kernels avx512_vnni = {.name = "avx512 vnni",
                                        .dot = &cpu_dot_avx512,
                                        .row = &cpu_row_avx512,
                                        .attn = &cpu_attn_avx512,
                                        .packed = &cpu_packed_vnni,
                                        .gemm = &cpu_gemm_avx512,
                                        .train = &cpu_train_avx512};
static const cpu_kernels amx = {.name = "amx",
                                .dot = &cpu_dot_avx512,
                                .row = &cpu_row_avx512,
                                .attn = &cpu_attn_avx512,
                                .packed = &cpu_packed_vnni,
                                .tile = &cpu_tile_amx,
                                .attn_tile = &cpu_attn_amx,
                                .gemm = &cpu_gemm_avx512,
                                .train = &cpu_train_avx512};

static uint64_t read_xcr0(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return ((uint64_t)high << 32) | low;
}

/* NULL if AVX2 with FMA and F16C can run; otherwise what is missing. */
static const char *avx2_missing(void) {
    uint32_t a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & (1u << 28)) || !(c & (1u << 12)) ||
        !(c & (1u << 29))) {
        return "one of AVX, FMA, F16C";
    }
    if (!(c & (1u << 27)) || (read_xcr0() & 0x6u) != 0x6u) {
        return "an operating system that saves the AVX registers";
    }
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & (1u << 5)) ? NULL : "AVX2";
}

/* NULL if AVX-512 F, BW, VL, DQ with FMA and F16C can run; otherwise what is missing: first of the
 * processor, since a system saves no registers that it does not have. */
static const char *avx512_missing(void) {
    uint32_t a, b, c, d;
    const uint32_t need = (1u << 17) | (1u << 30) | (1u << 31); /* DQ BW VL */
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & (1u << 16))) {
        return "AVX-512F";
    }
    if ((b & need) != need) {
        return "one of AVX-512 DQ, BW, VL";
    }
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & (1u << 12)) || !(c & (1u << 29))) {
        return "one of FMA, F16C";
    }
    return (c & (1u << 27)) && (read_xcr0() & 0xe6u) == 0xe6u
               ? NULL
               : "an operating system that saves the AVX-512 registers";
}

static int has_vnni(void) {
    uint32_t a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (c & (1u << 11)) != 0;
}

/* NULL if tiles of BF16 and int8 can be used beside AVX-512 VNNI and BF16; else what is missing.
 * Linux gives a process its tile registers when it asks. */
static const char *amx_missing(void) {
    uint32_t a, b, c, d;
    const uint32_t tiles = (1u << 22) | (1u << 24) | (1u << 25); /* BF16, TILE, INT8 */
    if (cpu_tile_amx.strip == NULL) {
        return "kernels for it, which this build's compiler could not make";
    }
    if (avx512_missing() != NULL || !has_vnni()) {
        return "AVX-512 with VNNI";
    }
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & tiles) != tiles) {
        return "AMX BF16 and INT8";
    }
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a & (1u << 5))) {
        return "AVX-512 BF16";
    }
    if ((read_xcr0() & 0x60000u) != 0x60000u) {
        return "an operating system that saves the tile registers";
    }
#if defined(__linux__) && defined(SYS_arch_prctl)
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0
               ? NULL
               : "the system's permission to use the tile registers";
#else
    return "a system that is asked for the tile registers as Linux is";
#endif
}

void cpu_model_name(char out[64]) {
    char name[49] = {0};
    uint32_t r[4] = {0};
    if (!__get_cpuid(0x80000000u, &r[0], &r[1], &r[2], &r[3]) || r[0] < 0x80000004u) {
        memcpy(out, "x86-64", 7);
        return;
    }
    for (uint32_t i = 0; i < 3; i++) {
        (void)__get_cpuid(0x80000002u + i, &r[0], &r[1], &r[2], &r[3]);
        memcpy(name + 16 * i, r, 16);
    }
    size_t n = 0;
    for (const char *p = name; *p != '\0'; p++) { /* runs of blanks become one; none at the ends */
        if (*p != ' ' || (n > 0 && out[n - 1] != ' ')) {
            out[n++] = *p;
        }
    }
    while (n > 0 && out[n - 1] == ' ') {
        n--;
    }
    out[n] = '\0';
}

#else

void cpu_model_name(char out[64]) {
    memcpy(out, "CPU", 4);
}

#endif

#if defined(__x86_64__)
/* The best that can run, or the one that was asked for. */
static pico_status choose_x86(uint32_t isa, const cpu_kernels **out, pico_error *err) {
    const char *missing = isa == CPU_ISA_AUTO || isa == CPU_ISA_AMX ? amx_missing() : "";
    if (missing == NULL) {
        *out = &amx;
        return PICO_OK;
    }
    if (isa == CPU_ISA_AMX) {
        return pico_fail(err, PICO_E_DEVICE,
                         "backend cpu: isa = amx needs AMX BF16 and INT8; this machine lacks %s. "
                         "Use isa = auto, avx512, avx2 or portable",
                         missing);
    }
    missing = isa == CPU_ISA_AVX2 ? "" : avx512_missing();
    if (missing == NULL) {
        *out = has_vnni() ? &avx512_vnni : &avx512;
        return PICO_OK;
    }
    if (isa == CPU_ISA_AVX512) {
        return pico_fail(
            err, PICO_E_DEVICE,
            "backend cpu: isa = avx512 needs AVX-512 F, BW, VL, DQ; this machine lacks "
            "%s. Use isa = auto, avx2 or portable",
            missing);
    }
    missing = avx2_missing();
    if (missing == NULL) {
        *out = &avx2;
    } else if (isa == CPU_ISA_AVX2) {
        return pico_fail(err, PICO_E_DEVICE,
                         "backend cpu: isa = avx2 needs AVX2, FMA and F16C; this machine lacks %s. "
                         "Use isa = auto or isa = portable",
                         missing);
    }
    return PICO_OK;
}
#endif

pico_status cpu_choose_kernels(uint32_t isa, const cpu_kernels **out, pico_error *err) {
    *out = &portable;
    if (isa == CPU_ISA_PORTABLE) {
        return PICO_OK;
    }
#if defined(__x86_64__)
    return choose_x86(isa, out, err);
#else
    return isa == CPU_ISA_AUTO ? PICO_OK
                               : pico_fail(err, PICO_E_DEVICE,
                                           "backend cpu: this isa needs an x86-64 processor. Use "
                                           "isa = auto or isa = portable");
#endif
}
