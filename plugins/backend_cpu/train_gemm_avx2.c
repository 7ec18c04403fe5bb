/* Matrix products with AVX2: tiles of 6 x 16, which fit into sixteen registers. Nothing here runs
 * before the CPU was asked. */
#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define CPU_LANES 8
#define GEMM_ROWS 6
#define GEMM_TABLE cpu_gemm_avx2
#include "train_gemm_impl.h"
#else
#include "train.h"
const cpu_gemm_kernels cpu_gemm_avx2 = {0};
#endif
