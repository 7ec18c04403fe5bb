/* The row kernels of training for AVX2. Nothing here runs before the CPU was asked. */
#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define CPU_LANES 8
#define TRAIN_TABLE cpu_train_avx2
#include "train_rows_impl.h"
#else
#include "train.h"
const cpu_train_kernels cpu_train_avx2 = {0};
#endif
