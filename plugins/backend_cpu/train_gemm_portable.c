/* Matrix products on any CPU: tiles of 6 x 8, which fit into sixteen registers. */
#define CPU_LANES 4
#define GEMM_ROWS 6
#define GEMM_TABLE cpu_gemm_portable
#include "train_gemm_impl.h"
