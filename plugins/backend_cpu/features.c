/*
 * Which instruction set to use: what the CPU and the operating system offer, against what was asked
 * for. Reads cpuid and xgetbv only; opens no file. Refuses an instruction set that is not there.
 */
#include <string.h>

#include "cpu.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

static const cpu_kernels portable = {"portable", &cpu_dot_portable, &cpu_row_portable,
                                     &cpu_attn_portable};

#if defined(__x86_64__)
static const cpu_kernels avx512 = {"avx512", &cpu_dot_avx512, &cpu_row_avx512, &cpu_attn_avx512};

static uint64_t read_xcr0(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return ((uint64_t)high << 32) | low;
}

/* NULL if AVX-512 F, BW, VL, DQ with FMA and F16C can run; otherwise what is missing. */
static const char *avx512_missing(void) {
    uint32_t a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & (1u << 27))) {
        return "an operating system that saves vector registers (OSXSAVE)";
    }
    if ((read_xcr0() & 0xe6u) != 0xe6u) {
        return "an operating system that saves the AVX-512 registers";
    }
    if (!(c & (1u << 12)) || !(c & (1u << 29))) {
        return "FMA and F16C";
    }
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
        return "AVX-512F";
    }
    const uint32_t need = (1u << 16) | (1u << 17) | (1u << 30) | (1u << 31); /* F DQ BW VL */
    if (!(b & (1u << 16))) {
        return "AVX-512F";
    }
    return (b & need) == need ? NULL : "one of AVX-512 DQ, BW, VL";
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

pico_status cpu_choose_kernels(uint32_t isa, const cpu_kernels **out, pico_error *err) {
    *out = &portable;
    if (isa == CPU_ISA_PORTABLE) {
        return PICO_OK;
    }
#if defined(__x86_64__)
    const char *missing = avx512_missing();
    if (missing == NULL) {
        *out = &avx512;
        return PICO_OK;
    }
#else
    const char *missing = "an x86-64 processor";
#endif
    if (isa == CPU_ISA_AVX512) {
        return pico_fail(
            err, PICO_E_DEVICE,
            "backend cpu: isa = avx512 needs AVX-512 F, BW, VL, DQ; this machine lacks "
            "%s. Use isa = auto or isa = portable",
            missing);
    }
    return PICO_OK;
}
