/* The row kernels of training for AVX-512. Nothing here runs before the CPU was asked. */
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#define CPU_LANES 16
#define TRAIN_TABLE cpu_train_avx512
#include "train_rows_impl.h"
#else
#include "train.h"
const cpu_train_kernels cpu_train_avx512 = {0};
#endif
