/* The row kernels for AVX-512. Compiled with that instruction set; nothing here runs before the CPU
 * was asked, and nothing here is initialised by code. */
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#define CPU_LANES 16
#define ROW_TABLE cpu_row_avx512
#include "rows_impl.h"
#else
#include "cpu.h"
const cpu_row_kernels cpu_row_avx512 = {0};
#endif
