/* The attention kernels for AVX2 with FMA and F16C. Compiled with those instruction sets; nothing here
 * runs before the CPU was asked, and nothing here is initialised by code. */
#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define CPU_LANES 8
#define ATTN_TABLE cpu_attn_avx2
#include "attn_impl.h"
#else
#include "cpu.h"
const cpu_attn_kernels cpu_attn_avx2 = {0};
#endif
